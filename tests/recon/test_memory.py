"""What one call of ``fdk()`` holds, by the peak of a fresh process' resident memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.recon.fdk import fdk
from marspipe.scan.grid import VolumeGrid
from tests.recon.scans import cone, random_stack

MIB = 2**20
VIEWS, ROWS, COLS, SIDE = 120, 256, 448, 200
VOLUME, BATCH = 4 * SIDE**3, 4 * 64 * ROWS * COLS  # one batch is 64 views

GROWTH = f"""
import sys
import numpy as np
from marspipe import ScanGeometry, VolumeGrid, fdk

def kib(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

geometry = ScanGeometry.circular(
    source_to_isocenter_mm=200.0, source_to_detector_mm=250.0, detector_shape=({ROWS}, {COLS}),
    pixel_pitch_mm=(0.1, 0.1), angles_rad=np.arange({VIEWS}) * 2 * np.pi / {VIEWS})
grid = VolumeGrid(({SIDE},) * 3, (0.09,) * 3)
integrals = np.ones(({VIEWS}, {ROWS}, {COLS}), np.float32)
fdk(integrals[::40], geometry[::40], grid.window(z=slice(0, 8)), threads=2)  # compiles
before = kib("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
fdk(integrals, geometry, grid, threads=2, max_memory=int(sys.argv[1]) or None)
print(1024 * (kib("VmHWM") - before))
"""


def growth(max_memory: int) -> int:
    command = [sys.executable, "-c", GROWTH, str(max_memory)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_fdk_holds_the_volume_and_one_batch() -> None:
    grown = growth(0)
    assert VOLUME < grown < VOLUME + BATCH + 8 * MIB


def test_max_memory_is_kept() -> None:
    allowed = VOLUME + 16 * MIB + 4 * MIB  # two threads' blocks, and a fifth of a batch
    assert allowed < VOLUME + BATCH
    assert growth(allowed) <= allowed


@pytest.mark.parametrize("spare", [1_000, 50_000, 10_000_000])
def test_max_memory_does_not_change_the_bits(spare: int) -> None:
    geometry, grid = cone(), VolumeGrid((33, 24, 24), (0.4, 0.5, 0.5))
    stack = random_stack(geometry)
    seen: list[tuple[int, int]] = []
    whole = fdk(stack, geometry, grid, threads=1)
    allowed = grid.nbytes + 8 * MIB + 4 * 43 * 37 + spare
    part = fdk(
        stack, geometry, grid, threads=1, max_memory=allowed, progress=lambda done, total: seen.append((done, total))
    )
    assert np.array_equal(part, whole)
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert (seen[-1][1] > len(geometry)) == (spare < 10_000_000)  # several slabs, or one


def test_too_little_memory_is_refused_with_figures() -> None:
    geometry, grid = cone(), VolumeGrid((20, 24, 24), (0.5, 0.5, 0.5))
    with pytest.raises(
        InputError, match=r"max_memory = 1000000 bytes is too little: the volume takes 46080, .* one view"
    ):
        fdk(random_stack(geometry), geometry, grid, threads=1, max_memory=1_000_000)
