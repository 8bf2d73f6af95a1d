"""Reconstruction: line integrals of a scan to a volume of attenuation, on arrays in one process."""
