"""Benchmarks: every speed that marspipe claims is measured here, and beside its peers where they are installed.

GUPS = 1e9 voxel updates per second = nx * ny * nz * views / s / 1e9.
"""
