from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from marspipe.errors import GeometryError, InputError
from marspipe.recon.backprojection import backproject, empty_batch, start_backprojection
from marspipe.recon.backprojection.cpu import avx512_available, backproject_circular
from marspipe.recon.backprojection.general import backproject_general
from marspipe.recon.backprojection.reference import backproject_reference
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.recon.scans import circle, columns_of, cone, random_stack, without_orbit

HOST_KERNELS = ("cpu", "reference")
GRID = VolumeGrid((21, 18, 35), (0.41, 0.43, 0.39))

# Geometry and grid of each case; together they touch every branch of the kernels.
CASES = {
    "centered": (cone(), GRID),
    "principal point": (cone(principal_point_px=(12.3, 25.9)), GRID),
    "half-covered cells at all edges": (cone(detector_shape=(14, 15)), GRID),
    "off-center grid": (cone(), VolumeGrid((21, 18, 35), (0.41, 0.43, 0.39), (2.0, -3.0, 4.5))),
    "flat voxels": (cone(), VolumeGrid((40, 17, 16), (0.2, 0.5, 0.5))),
    "two rows per voxel": (cone(), VolumeGrid((20, 17, 16), (0.69, 0.5, 0.5))),
    "many rows per voxel": (
        cone(detector_shape=(64, 43), pixel_pitch_mm=(0.3, 0.6)),
        VolumeGrid((9, 20, 20), (2, 1, 1)),
    ),
    "one slice": (cone(), VolumeGrid((1, 33, 31), (0.4, 0.4, 0.4))),
    "one voxel": (cone(), VolumeGrid((1, 1, 1), (0.4, 0.4, 0.4))),
    "one row": (cone(detector_shape=(1, 43)), VolumeGrid((3, 33, 31), (0.2, 0.4, 0.4))),
    "one column": (cone(detector_shape=(37, 1)), VolumeGrid((20, 5, 6), (0.4, 0.2, 0.2))),
    "one view": (cone(angles_rad=[0.3]), GRID),
    "long columns": (cone(detector_shape=(600, 9), pixel_pitch_mm=(0.03, 0.6)), VolumeGrid((600, 3, 17), (0.02,) * 3)),
    "helix": (cone(angles_rad=circle(24, 4 * np.pi), source_z_mm=np.linspace(-7, 9, 24)), GRID),
    "parallel": (ScanGeometry.parallel(detector_shape=(30, 41), pixel_pitch_mm=(0.5, 0.4), angles_rad=circle(9)), GRID),
}


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("simd", ["auto", "portable"])
def test_fast_kernel_equals_the_reference(case: str, simd: str) -> None:
    geometry, grid = CASES[case]
    filtered = columns_of(random_stack(geometry))
    expected, found = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    backproject_reference(filtered, geometry, grid, expected)
    backproject_circular(filtered, geometry, grid, found, simd=simd)
    assert np.abs(expected).max() > 0
    # Positions in float32 are right to some 1e-7 of the rows, and white noise shows them at their worst.
    close(found, expected, max(1e-5, 1e-7 * geometry.detector_shape[0]))


@pytest.mark.parametrize("case", CASES)
def test_general_kernel_equals_the_reference(case: str) -> None:
    geometry, grid = CASES[case]
    filtered = columns_of(random_stack(geometry))
    expected, found = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    backproject_reference(filtered, geometry, grid, expected)
    backproject_general(filtered, geometry, grid, found)
    close(found, expected, 1e-6)


@pytest.mark.skipif(not avx512_available(), reason="no AVX-512")
@pytest.mark.parametrize("case", [name for name in CASES if name != "many rows per voxel"])
def test_avx512_and_portable_give_the_same_bits(case: str) -> None:
    geometry, grid = CASES[case]
    filtered = columns_of(random_stack(geometry))
    a, b = (np.full(grid.shape, 0.125, np.float32) for _ in range(2))
    backproject_circular(filtered, geometry, grid, a, simd="avx512")
    backproject_circular(filtered, geometry, grid, b, simd="portable")
    assert np.array_equal(a, b)


def test_turned_detector_equals_the_reference() -> None:
    geometry = without_orbit(cone(), turn_rad=0.2)
    filtered = columns_of(random_stack(geometry))
    expected, found = np.zeros(GRID.shape, np.float32), np.zeros(GRID.shape, np.float32)
    backproject(filtered, geometry, GRID, expected, backend="reference")
    backproject(filtered, geometry, GRID, found)
    close(found, expected, 1e-6)
    straight = np.zeros(GRID.shape, np.float32)
    backproject(filtered, cone(), GRID, straight)
    assert np.abs(straight - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("kernel", ["circular", "portable", "general", "reference"])
def test_bits_do_not_depend_on_slabs_windows_batches_and_threads(kernel: str) -> None:
    n = 24 if kernel == "reference" else 96
    geometry = cone(
        detector_shape=(100, 90), pixel_pitch_mm=(0.25, 0.27), angles_rad=circle(90), principal_point_px=(47.3, 43.1)
    )
    if kernel in ("general", "reference"):
        geometry = without_orbit(geometry)
    grid = VolumeGrid((n, n, n), (12 / n,) * 3, (0.3, -0.2, 0.1))
    filtered = columns_of(random_stack(geometry))

    def run(window: VolumeGrid, batch: int, threads: int, band: bool) -> np.ndarray:
        out = np.zeros(window.shape, np.float32)
        first, stop = geometry.rows_for(window) if band else (0, 100)
        for start in range(0, 90, batch):
            views = slice(start, min(start + batch, 90))
            part = np.ascontiguousarray(filtered[views, :, first:stop])
            if kernel == "portable":
                backproject_circular(
                    part, geometry[views], window, out, row_first=first, threads=threads, simd="portable"
                )
            else:
                backend = "reference" if kernel == "reference" else "auto"
                backproject(part, geometry[views], window, out, row_first=first, backend=backend, threads=threads)
        return out

    whole = run(grid, 90, 1, False)
    assert np.array_equal(run(grid, 32, 2, False), whole)
    assert np.array_equal(run(grid, 7, 1, True), whole)
    for thickness in (4, 17):
        slabs = [run(slab.grid, 90, 1, True) for slab in grid.slabs(thickness)]
        assert np.array_equal(np.concatenate(slabs), whole)
    cut = (slice(n // 3, n // 3 + 5), slice(1, n // 2 + 2), slice(n // 4, n))
    assert np.array_equal(run(grid.window(*cut), 45, 2, True), whole[cut])


def test_bits_do_not_depend_on_the_blocks_of_long_columns() -> None:
    geometry, grid = CASES["long columns"]
    filtered = columns_of(random_stack(geometry))
    whole = np.zeros(grid.shape, np.float32)
    backproject(filtered, geometry, grid, whole)
    for slab in grid.slabs(83):
        out = np.zeros(slab.grid.shape, np.float32)
        backproject(filtered, geometry, slab.grid, out)
        assert np.array_equal(out, whole[slab.z_first : slab.z_first + slab.n_slices])


@pytest.mark.parametrize("weighted", [False, True])
def test_every_host_kernel_fulfils_the_contract(weighted: bool, rng: np.random.Generator) -> None:
    geometry, grid = CASES["principal point"]
    filtered = columns_of(random_stack(geometry))
    weights = rng.random((len(geometry), grid.shape[0]), dtype=np.float32) if weighted else None
    first, stop = geometry.rows_for(grid)
    results = {}
    for name in HOST_KERNELS:
        out = np.ones(grid.shape, np.float32)
        backproject(filtered, geometry, grid, out, backend=name, slice_weights=weights)
        again = start_backprojection(grid, backend=name, threads=1)
        band = np.ascontiguousarray(filtered[:, :, first:stop])
        for views in (slice(0, 9), slice(9, len(geometry))):
            part = None if weights is None else weights[views]
            again.add(band[views], geometry[views], row_first=first, slice_weights=part)
        close(out, 1 + again.volume())
        results[name] = out
    for a, b in pairwise(results.values()):
        close(a, b)


@pytest.mark.parametrize("simd", ["auto", "portable"])
def test_slice_weights_do_not_depend_on_slabs(simd: str, rng: np.random.Generator) -> None:
    geometry, grid = CASES["helix"]
    filtered = columns_of(random_stack(geometry))
    weights = rng.random((len(geometry), grid.shape[0]), dtype=np.float32)
    weights[:, 3] = 0
    whole, expected = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    backproject_circular(filtered, geometry, grid, whole, simd=simd, slice_weights=weights)
    backproject_reference(filtered, geometry, grid, expected, slice_weights=weights)
    close(whole, expected)
    assert not whole[3].any()
    for slab in grid.slabs(5):
        slices = slice(slab.z_first, slab.z_first + slab.n_slices)
        part = np.zeros(slab.grid.shape, np.float32)
        backproject_circular(filtered, geometry, slab.grid, part, simd=simd, slice_weights=weights[:, slices])
        assert np.array_equal(part, whole[slices])
    ones = np.zeros(grid.shape, np.float32)
    plain = np.zeros(grid.shape, np.float32)
    backproject_circular(filtered, geometry, grid, ones, simd=simd, slice_weights=np.ones_like(weights))
    backproject_circular(filtered, geometry, grid, plain, simd=simd)
    close(ones, plain)


def test_weights_and_positions_by_hand() -> None:
    """One view, one bright pixel: the voxel on its ray gets the pixel's value over the squared relative distance."""
    geometry = cone(detector_shape=(37, 43), angles_rad=[np.pi / 2])  # source at (+40, 0, 0), columns along +y
    filtered = np.zeros((1, 43, 37), np.float32)
    filtered[0, 30, 20] = 1.0
    x = 10.0  # 30 mm from the source, so w = 30/40 and the magnification is 2
    y, z = (30 - 21) * 0.6 / 2, (20 - 18) * 0.6 / 2
    out = np.zeros((1, 1, 1), np.float32)
    backproject(filtered, geometry, VolumeGrid((1, 1, 1), (0.1,) * 3, (z, y, x)), out)
    assert out.item() == pytest.approx((4 / 3) ** 2, rel=1e-5)
    # Half a column further the neighbor, which is zero, has half the weight.
    out[:] = 0
    backproject(filtered, geometry, VolumeGrid((1, 1, 1), (0.1,) * 3, (z, y + 0.15, x)), out)
    assert out.item() == pytest.approx((4 / 3) ** 2 / 2, rel=1e-5)


def test_empty_batch_is_aligned() -> None:
    batch = empty_batch(3, 5, 16)
    assert batch.shape == (3, 5, 16)
    assert batch.flags.c_contiguous and batch.ctypes.data % 64 == 0


def test_wrong_arrays_are_refused() -> None:
    geometry = cone()
    good = columns_of(random_stack(geometry))
    out = np.zeros(GRID.shape, np.float32)

    def refuses(message: str, *arguments: object, error: type[Exception] = InputError, **options: object) -> None:
        with pytest.raises(error, match=message):
            backproject(*arguments, **options)  # type: ignore[arg-type]

    refuses("filtered must be a float32 array", good.astype(np.float64), geometry, GRID, out)
    refuses("filtered must be a float32 array of 3", good[0], geometry, GRID, out)
    refuses("filtered must be C-contiguous", good.transpose(0, 2, 1), geometry, GRID, out)
    refuses(r"shape \(24, 43, rows", good[:5], geometry, GRID, out)
    refuses(r"grid's shape \(21, 18, 35\)", good, geometry, GRID, out[1:])
    refuses("leaves the detector of 37 rows", good, geometry, GRID, out, row_first=1)
    refuses("backend must be one of auto, cpu, cuda, reference", good, geometry, GRID, out, backend="gpu")
    refuses(
        r"slice_weights must have shape \(24, 21\)", good, geometry, GRID, out, slice_weights=np.ones((24, 20), "f4")
    )
    refuses("slice_weights must be a float32", good, geometry, GRID, out, slice_weights=np.ones((24, 21)))
    refuses("threads must be a positive integer", good, geometry, GRID, out, threads=0)
    band = np.ascontiguousarray(good[:, :, 15:20])
    refuses(r"needs detector rows \d+..\d+", band, geometry, GRID, out, row_first=15, error=GeometryError)
    big = VolumeGrid((1, 100, 100), (1.0, 1.0, 1.0))
    refuses("reaches the source", good, geometry, big, np.zeros(big.shape, np.float32), error=GeometryError)
    for bad in (np.nan, np.inf):
        broken = good.copy()
        broken[7, 3, 2] = bad
        refuses("finite, but view 7", broken, geometry, GRID, out)
    assert not out.any()


def test_simd_is_chosen_by_name() -> None:
    geometry, grid = CASES["many rows per voxel"]
    filtered = columns_of(random_stack(geometry))
    with pytest.raises(InputError, match="simd must be one of"):
        backproject_circular(filtered, geometry, grid, np.zeros(grid.shape, np.float32), simd="neon")
    if avx512_available():
        with pytest.raises(InputError, match="less than 2 detector rows per voxel"):
            backproject_circular(filtered, geometry, grid, np.zeros(grid.shape, np.float32), simd="avx512")
    with pytest.raises(GeometryError, match="needs a circular orbit"):
        backproject_circular(filtered, without_orbit(geometry), grid, np.zeros(grid.shape, np.float32))
