"""Small cases for the CUDA kernels in numba's simulator: a process of its own, because numba reads the switch once.

Run as ``NUMBA_ENABLE_CUDASIM=1 python -m tests.recon.cuda_cases``: prints a line per case, exits with 1 if one fails.
The simulator runs the kernels' own text, thread by thread. It lacks a barrier of warps (one of the block stands for
it), libdevice and wrap-around integers, and two threads that ask for shared memory at once may get two arrays; those
four are put right here.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numba import config as numba_config
from numba import cuda
from numba.cuda.simulator.kernelapi import FakeCUDAModule, FakeCUDAShared

from marspipe.errors import InputError
from marspipe.recon import device_filter, fdk_cuda
from marspipe.recon.backprojection import cuda as kernels
from marspipe.recon.backprojection import device_volume
from marspipe.recon.backprojection.circular import circular_views
from marspipe.recon.backprojection.device_volume import CudaBackprojection, backproject_cuda
from marspipe.recon.backprojection.reference import backproject_reference
from marspipe.recon.fdk import fdk
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.recon.scans import circle, columns_of, cone, random_stack, without_orbit


class Libdevice:
    """The two functions of CUDA's libdevice that the kernels call."""

    @staticmethod
    def fadd_rd(a: Any, b: Any) -> Any:
        exact = float(a) + float(b)
        rounded = np.float32(exact)
        return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > exact else rounded

    @staticmethod
    def float_as_int(a: Any) -> int:
        return int(np.float32(a).view(np.int32))


_ALLOCATING = threading.Lock()


def shared_array(self: Any, shape: Any, dtype: Any) -> Any:
    """Return the block's array for this line of the kernel; numbers are NaN until somebody writes them."""
    caller = sys._getframe(1)
    place = caller.f_code.co_filename, caller.f_lineno
    with _ALLOCATING:
        if place not in self._allocations:
            kind = np.dtype(str(dtype))
            self._allocations[place] = np.full(shape, np.nan if kind.kind == "f" else 0, kind)
        return self._allocations[place]


def prepare(patch: int = 1, lanes: int = 4) -> None:
    """Fit the kernels to the simulator: narrow warps, blocks of few warps in small squares keep it quick."""
    FakeCUDAModule.syncwarp = FakeCUDAModule.syncthreads
    FakeCUDAShared.array = shared_array
    sizes = {
        "LANES": lanes,
        "VIEWS_AT_ONCE": lanes,
        "ROWS": 12 * lanes,
        "ROWS_TO_SPARE": lanes + 4,
        "PATCH": patch,
        "SUPER": 2,
        "SQUARE": 4,
        "TURN_LINES": 2,
        "THREADS": 16,
        "libdevice": Libdevice,
        "_u32": lambda value: int(value) & 0xFFFFFFFF,
        "_u64": int,
        "jit_kernel": lambda threads, blocks: cuda.jit,
    }
    for module in (kernels, device_volume, device_filter, fdk_cuda):
        for name in sizes.keys() & vars(module).keys():
            setattr(module, name, sizes[name])
    factories = (kernels.circular_kernel, kernels.general_kernel, kernels.turning_kernel)
    for factory in (*factories, device_filter.weighing_kernel, device_filter.column_kernel):
        factory.cache_clear()


@dataclass(frozen=True)
class Case:
    geometry: ScanGeometry
    grid: VolumeGrid
    per_lane: tuple[int, ...] = (8, 4, 2, 1)
    patch: int = 1
    weighted: bool = False
    lanes: int = 4


def weights_of(case: Case) -> np.ndarray | None:
    if not case.weighted:
        return None
    weights = np.random.default_rng(3).random((len(case.geometry), case.grid.shape[0]), dtype=np.float32)
    weights[1::3, : case.grid.shape[0] // 2] = 0
    weights[2::5] = 0
    return weights


GRID = VolumeGrid((13, 2, 3), (0.7, 5.0, 5.0))
SMALL = cone(angles_rad=circle(5))
HELIX = ScanGeometry.circular(
    source_to_isocenter_mm=40.0,
    source_to_detector_mm=60.0,
    detector_shape=(37, 43),
    pixel_pitch_mm=(0.6, 0.6),
    angles_rad=circle(7, 4 * np.pi),
    source_z_mm=np.linspace(-3, 3, 7),
)


def cases() -> dict[str, Case]:
    return {
        "centered": Case(SMALL, GRID),
        "warps of 32": Case(SMALL, VolumeGrid((70, 1, 2), (0.12, 4.0, 4.0)), lanes=32),
        "warps of 32, general": Case(without_orbit(SMALL, 0.3), VolumeGrid((70, 1, 2), (0.12, 4.0, 4.0)), lanes=32),
        "blocks of several warps": Case(SMALL, VolumeGrid((5, 2, 3), (0.8, 5.0, 5.0)), patch=2),
        "principal point": Case(cone(angles_rad=circle(5), principal_point_px=(12.3, 25.9)), GRID),
        "detector smaller than the shadow": Case(cone(angles_rad=circle(5), detector_shape=(11, 13)), GRID),
        "off-center grid": Case(SMALL, VolumeGrid((13, 2, 3), (0.7, 3.0, 3.0), (2.0, -3.0, 4.5))),
        "one slice": Case(SMALL, VolumeGrid((1, 4, 3), (0.4, 3.0, 3.0))),
        "one row": Case(cone(angles_rad=circle(5), detector_shape=(1, 43)), VolumeGrid((3, 4, 3), (0.2, 3.0, 3.0))),
        "one column": Case(cone(angles_rad=circle(5), detector_shape=(37, 1)), VolumeGrid((9, 3, 3), (0.4, 0.2, 0.2))),
        "one view": Case(cone(angles_rad=[0.3]), GRID),
        "more views than lanes": Case(cone(angles_rad=circle(9)), VolumeGrid((5, 1, 2), (0.8, 3.0, 3.0))),
        "several runs of slices": Case(SMALL, VolumeGrid((14, 2, 2), (0.6, 4.0, 4.0)), per_lane=(1,)),
        "four slices a lane": Case(SMALL, VolumeGrid((23, 1, 2), (0.3, 4.0, 4.0)), per_lane=(4,)),
        "runs below and above the band": Case(SMALL, VolumeGrid((44, 1, 2), (0.8, 4.0, 4.0)), per_lane=(1,)),
        "many rows per voxel": Case(
            cone(angles_rad=circle(5), detector_shape=(300, 43), pixel_pitch_mm=(0.08, 0.6)),
            VolumeGrid((9, 2, 3), (2.0, 3.0, 3.0)),
        ),
        "many rows per voxel, half beside the detector": Case(
            cone(angles_rad=circle(5), detector_shape=(60, 23), pixel_pitch_mm=(0.08, 0.6)),
            VolumeGrid((3, 1, 1), (1.6, 1.0, 1.0)),  # rows -0.5, 29.5 and 59.5
        ),
        "last slice of a run half beside the detector": Case(
            SMALL, VolumeGrid((4, 1, 1), (0.7, 1.0, 1.0), (-8.45, 0, 0)), per_lane=(1,)
        ),
        "parallel": Case(
            ScanGeometry.parallel(detector_shape=(30, 41), pixel_pitch_mm=(0.5, 0.4), angles_rad=circle(5)), GRID
        ),
        "heights per view": Case(HELIX, GRID),
        "slice weights": Case(HELIX, GRID, weighted=True),
        "slice weights over several runs": Case(HELIX, VolumeGrid((17, 1, 2), (0.5, 4.0, 4.0)), (1,), weighted=True),
        "slice weights, many rows per voxel": Case(
            cone(angles_rad=circle(5), detector_shape=(300, 43), pixel_pitch_mm=(0.08, 0.6)),
            VolumeGrid((9, 2, 2), (2.0, 3.0, 3.0)),
            weighted=True,
        ),
        "general": Case(without_orbit(SMALL), GRID),
        "turned detector": Case(without_orbit(SMALL, turn_rad=0.3), GRID, patch=2),
        "turned detector, smaller than the shadow": Case(
            without_orbit(cone(angles_rad=circle(5), detector_shape=(11, 13)), turn_rad=0.3), GRID
        ),
        "tilted detector, slice weights": Case(
            tilted(HELIX), VolumeGrid((17, 1, 2), (0.5, 4.0, 4.0)), (1,), weighted=True
        ),
    }


def tilted(geometry: ScanGeometry) -> ScanGeometry:
    """Return the geometry with the detector's rows tilted out of its plane by 0.2 rad."""
    normal = np.cross(geometry.u_mm, geometry.v_mm)
    normal *= np.linalg.norm(geometry.v_mm[0]) / np.linalg.norm(normal, axis=1)[:, None]
    return ScanGeometry(
        detector_shape=geometry.detector_shape,
        source_mm=geometry.source_mm,
        detector_center_mm=geometry.detector_center_mm,
        u_mm=geometry.u_mm,
        v_mm=math.cos(0.2) * geometry.v_mm + math.sin(0.2) * normal,
        angles_rad=geometry.angles_rad,
    )


def equal_to_reference(case: Case) -> str:
    """Return what is wrong with a case, or nothing."""
    prepare(case.patch, case.lanes)
    device_volume._PER_LANE = case.per_lane
    filtered = columns_of(random_stack(case.geometry))
    weights = weights_of(case)
    expected = np.full(case.grid.shape, 0.25, np.float32)
    found = expected.copy()
    backproject_reference(filtered, case.geometry, case.grid, expected, slice_weights=weights)
    backproject_cuda(filtered, case.geometry, case.grid, found, slice_weights=weights)
    if not np.abs(expected - 0.25).max() > 0:
        return "the case is empty"
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    # Positions in float32 are right to some 1e-7 of the rows, and white noise shows them at their worst.
    tolerance = max(1e-5, 1e-7 * case.geometry.detector_shape[0])
    return "" if error < tolerance else f"differs from the reference by {error:.3g} of its maximum"


def slabs_and_batches(geometry: ScanGeometry) -> str:
    """Windows, bands, batches and the number of slices a lane takes must not change a bit."""
    prepare()
    grid = VolumeGrid((19, 2, 3), (0.4, 4.0, 4.0), (0.3, -0.2, 0.1))
    filtered = columns_of(random_stack(geometry))
    n_rows = geometry.detector_shape[0]

    def run(window: VolumeGrid, batch: int, band: bool, per_lane: int) -> np.ndarray:
        device_volume._PER_LANE = (per_lane,)
        first, stop = geometry.rows_for(window) if band else (0, n_rows)
        volume = CudaBackprojection(window)
        for start in range(0, len(geometry), batch):
            views = slice(start, start + batch)
            part = filtered[views, :, first:stop].copy()
            volume.add(part, geometry[views], row_first=first)
            part[:] = np.nan  # the caller may reuse it at once
        return volume.volume()

    whole = run(grid, 5, False, 2)
    if not np.array_equal(run(grid, 3, True, 1), whole):
        return "batches, bands or slices per lane change bits"
    slabs = [run(slab.grid, 5, True, 1) for slab in grid.slabs(11)]
    if not np.array_equal(np.concatenate(slabs), whole):
        return "slabs change bits"
    cut = (slice(3, 9), slice(1, 2), slice(0, 2))
    return "" if np.array_equal(run(grid.window(*cut), 5, True, 1), whole[cut]) else "a window changes bits"


def staging_does_not_matter() -> str:
    """Columns that go through shared memory and columns that do not must give the same bits."""
    case = Case(SMALL, VolumeGrid((13, 2, 3), (0.6, 3.0, 3.0)))
    filtered = columns_of(random_stack(case.geometry))
    results = []
    for rows in (48, 0):
        prepare()
        device_volume._PER_LANE, device_volume.ROWS = (2, 1), rows
        out = np.zeros(case.grid.shape, np.float32)
        backproject_cuda(filtered, case.geometry, case.grid, out)
        results.append(out)
    return "" if np.array_equal(*results) else "staged and direct columns differ"


def transfers_in_pieces() -> str:
    """Batches and volumes larger than the buffers go through them piece by piece."""
    prepare()
    device_volume._PER_LANE = (1,)
    geometry, grid = cone(angles_rad=circle(5)), VolumeGrid((13, 2, 3), (0.4, 4.0, 4.0))
    filtered = columns_of(random_stack(geometry))
    expected = CudaBackprojection(grid)
    expected.add(filtered, geometry)
    volume = CudaBackprojection(grid)
    volume.batch_bytes = 4 * 2 * 43 * 40  # two views of 37 rows, and their padding
    volume.add(filtered, geometry)
    found = volume.volume()
    if not np.array_equal(found, expected.volume()):
        return "a batch in pieces differs"
    volume.restart(grid)
    if volume.volume().any():
        return "a volume begun again is not empty"
    volume.load(found)
    return "" if np.array_equal(volume.volume(), found) else "a volume does not come back from the device"


class HostTransforms:
    """SciPy's transforms in the place of a device library's."""

    name = "SciPy"

    def __init__(self) -> None:
        self.stream = cuda.stream()

    def filter_rows(self, rows: Any, response: Any) -> Any:
        spectrum = scipy.fft.rfft(rows.copy_to_host(), axis=1) * response.copy_to_host()
        return cuda.to_device(scipy.fft.irfft(spectrum, n=rows.shape[1], axis=1))

    def close(self) -> None:
        pass


def whole_fdk(geometry: ScanGeometry, transforms: HostTransforms | None, **options: Any) -> str:
    """Return how FDK on the device differs from FDK on the host."""
    prepare()
    device_volume._PER_LANE = (2, 1)
    fdk_cuda._LAUNCH_VIEWS, fdk_cuda._TRANSFER_VIEWS = 5, 2
    fdk_cuda.find_transforms = lambda device: transforms  # type: ignore[assignment]
    grid = VolumeGrid((6, 2, 2), (0.7, 1.0, 1.2), (0.1, -0.2, 0.3))
    stack = np.abs(random_stack(geometry))
    seen: list[tuple[int, int]] = []
    view_filter = ViewFilter(geometry)
    expected = fdk(stack, geometry, grid, backend="cpu")
    found = fdk_cuda.fdk_on_device(stack, view_filter, grid, progress=lambda *done: seen.append(done), **options)
    slabs = 3 if options else 1
    if not seen or seen[-1] != (slabs * len(geometry), slabs * len(geometry)):
        return f"progress ended with {seen[-1:]}"
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not error < 1e-5:
        return f"differs from the host by {error:.3g} of its maximum"
    stack[3, 1, 2] = np.nan
    try:
        fdk_cuda.fdk_on_device(stack, view_filter, grid, **options)
    except InputError as refusal:
        return "" if "view 3 has 1 pixels that are not, the first at row 1, column 2" in str(refusal) else str(refusal)
    return "a pixel that is not finite was not refused"


def memory_of_slabs(geometry: ScanGeometry, transforms: bool) -> int:
    """Return device memory for two of six slices, and the buffers."""
    view_filter = ViewFilter(geometry)
    rows, columns = geometry.detector_shape[0], view_filter.filtered_geometry.detector_shape[1]
    view = 4 * columns * (-(-rows // 4) * 4)
    fdk_cuda._STAGING_BYTES = 5 * view
    buffers = 10 * view
    if transforms:
        buffers += 5 * view + 2 * device_filter.bytes_per_view(view_filter, rows) + 4 * (rows + len(geometry)) * columns
    return buffers + 2 * 16 + 8  # slices of 2 x 2 voxels


def fdk_cases() -> dict[str, str]:
    """Return what is wrong with each of the cases of the whole FDK."""
    small = {"detector_shape": (10, 11), "pixel_pitch_mm": (1.2, 1.2)}
    offset = cone(**small, angles_rad=circle(8), principal_point_px=(4.5, 3.0))
    helix = cone(**small, angles_rad=circle(12, 4 * np.pi), source_z_mm=np.linspace(-3, 3, 12))
    full = cone(**small, angles_rad=circle(8))
    prepare()
    return {
        "fdk, filter on the device": whole_fdk(full, HostTransforms()),
        "fdk, offset detector": whole_fdk(offset, HostTransforms()),
        "fdk, slabs, filter on the host": whole_fdk(full, None, max_device_bytes=memory_of_slabs(full, False)),
        "fdk, slabs": whole_fdk(helix, HostTransforms(), max_device_bytes=memory_of_slabs(helix, True)),
        "fdk, turned detector": whole_fdk(without_orbit(full, 0.1), HostTransforms()),
    }


def refusals() -> str:
    """Return which wrong input is not refused by name."""
    prepare()
    filtered = columns_of(random_stack(SMALL))
    view_filter = ViewFilter(SMALL)
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("device must be 0..0", lambda: CudaBackprojection(GRID, device=1)),
        ("slice_weights must", lambda: CudaBackprojection(GRID).add(filtered, SMALL, slice_weights=filtered[0])),
        ("needs detector rows", lambda: CudaBackprojection(GRID).add(filtered[:, :, :3].copy(), SMALL)),
        ("too little memory", lambda: fdk_cuda._plan(view_filter, GRID, None, None, 1000)),
        ("max_memory = 1000 bytes is too little", lambda: fdk_cuda._plan(view_filter, GRID, None, 1000, None)),
        ("reaches the source", lambda: circular_views(SMALL, VolumeGrid((1, 100, 100), (1, 1, 1)))),
    ]
    for message, attempt in attempts:
        try:
            attempt()
        except InputError as refusal:
            if message in str(refusal):
                continue
        return f"{message}: not refused"
    return ""


def main() -> int:
    """Run all cases; return the process's exit code."""
    if not numba_config.ENABLE_CUDASIM:
        print("set NUMBA_ENABLE_CUDASIM=1")
        return 2
    sys.setswitchinterval(1e-5)  # the simulator waits for its threads in a busy loop
    results = {name: equal_to_reference(case) for name, case in cases().items()}
    results["bits of a circular orbit"] = slabs_and_batches(SMALL)
    results["bits of a general geometry"] = slabs_and_batches(without_orbit(SMALL, 0.2))
    results["staging"] = staging_does_not_matter()
    results["transfers"] = transfers_in_pieces()
    results["refusals"] = refusals()
    results |= fdk_cases()
    for name, wrong in results.items():
        print(f"{name}: {wrong or 'right'}")
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main())
