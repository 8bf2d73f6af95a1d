from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marspipe.errors import EnvironmentMissingError, InputError
from marspipe.recon.backprojection import device as device_module
from marspipe.recon.backprojection.cpu import backproject_cpu
from marspipe.recon.backprojection.device import cuda_available, missing_for_cuda, require_cuda
from marspipe.recon.fdk import fdk
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from tests.lacking import lacking, require_package
from tests.recon.scans import circle, columns_of, cone, random_stack, without_orbit


@pytest.fixture
def numba_cuda() -> None:
    """Numba's CUDA target, for its simulator and its compiler."""
    require_package("numba_cuda", "cuda")


# --- everywhere: numba's simulator, and the compiler ------------------------------------------------------------------


@pytest.mark.usefixtures("numba_cuda")
def test_kernels_in_the_simulator(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.recon.cuda_cases"],
        cwd=project,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line for line in done.stdout.splitlines() if not line.endswith(": right")]
    assert done.returncode == 0 and not wrong, "\n".join([*wrong, done.stderr])
    assert len(done.stdout.splitlines()) > 30


def test_nothing_is_raised_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_available() is (missing_for_cuda() is None)
    missing_for_cuda.cache_clear()
    monkeypatch.setattr(device_module.importlib.util, "find_spec", lambda name: None)
    try:
        assert not cuda_available()
        with pytest.raises(EnvironmentMissingError, match=r"numba-cuda is missing \(pip install 'marspipe\[cuda\]'\)"):
            require_cuda()
    finally:
        missing_for_cuda.cache_clear()


def test_a_missing_device_is_an_error_in_one_sentence() -> None:
    if cuda_available():
        require_cuda()
        return
    with pytest.raises(EnvironmentMissingError, match=r"^backend 'cuda' is not possible here: [^\n]+$"):
        require_cuda()


# The instructions in which a loop runs: PTX between two labels.
def ptx_blocks(ptx: str) -> list[str]:
    return re.split(r"^\$[\w$]+:", ptx, flags=re.MULTILINE)


def kernels_to_compile() -> dict[str, tuple[Callable[[], Any], list[Any], int]]:
    """Return maker, argument types and voxels per lane of the kernels."""
    types: Any = import_module("numba.types")
    kernels, filters = (
        import_module("marspipe.recon.backprojection.cuda"),
        import_module("marspipe.recon.device_filter"),
    )

    def array(kind: Any, dimensions: int) -> Any:
        return types.Array(kind, dimensions, "C")

    f, d, i = types.float32, types.float64, types.int32
    add = [array(f, 1), array(f, 1), array(f, 2), array(types.uint8, 2), array(d, 1), array(d, 1), array(d, 2)]
    add += [d] * 5 + [i] * 8
    return {
        "circular": (lambda: kernels.circular_kernel(8, True, False, kernels.PATCH), add, 8),
        "circular, weighted": (lambda: kernels.circular_kernel(4, True, True, kernels.PATCH), add, 4),
        "circular, many rows per voxel": (lambda: kernels.circular_kernel(4, False, False, kernels.PATCH), add, 4),
        "general": (lambda: kernels.general_kernel(4, True, kernels.PATCH), add, 8),  # columns and rows
        "turning": (lambda: kernels.turning_kernel(True), [array(f, 1), array(f, 1), i, i, i, i, i], 0),
        "turning back": (lambda: kernels.turning_kernel(False), [array(f, 1), array(f, 1), i, i, i, i, i], 0),
        "weighing": (filters.weighing_kernel, [array(f, 1), array(f, 2), array(f, 2), array(f, 2), *[i] * 5], 0),
        "columns": (filters.column_kernel, [array(f, 2), array(f, 1), i, i, i, i], 0),
    }


@pytest.fixture(scope="module")
def compiler() -> Any:
    """Return numba.cuda and the lowest compute capability its compiler knows, if that is installed."""
    require_package("numba_cuda", "cuda")
    cuda: Any = import_module("numba.cuda")
    try:
        import_module("numba.cuda.cudadrv.nvvm").NVVM()
        return cuda, import_module("numba.cuda.cudadrv.nvrtc").get_lowest_supported_cc()
    except Exception as error:
        lacking("EXTRAS", f"numba-cuda has no NVVM or NVRTC: {' '.join(str(error).split())[:100]}")


@pytest.mark.usefixtures("numba_cuda")
@pytest.mark.parametrize("capability", [(7, 0), (8, 0), (9, 0)], ids="{0[0]}.{0[1]}".format)
def test_kernels_compile_to_lean_ptx(compiler: Any, capability: tuple[int, int]) -> None:
    cuda, lowest = compiler
    if capability < lowest:
        pytest.skip(f"this CUDA toolkit compiles for {lowest} and later")
    for name, (make, arguments, unrolled) in kernels_to_compile().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # some toolkits are about to drop 7.0
            ptx, _ = cuda.compile(
                make().py_func, tuple(arguments), cc=capability, device=False, abi="numba", launch_bounds=(512, 2)
            )
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        assert not re.search(r"^\s*\.local", ptx, flags=re.MULTILINE), (
            f"{name}: arrays of a thread are not in registers"
        )
        # float64 is for the parameters of a view alone: nowhere where pixels are read, columns staged or voxels summed.
        work = [block for block in ptx_blocks(ptx) if re.search(r"ld\.global\.f32|st\.shared\.f32|add\.rm", block)]
        parameters = [block for block in work if "st.shared.f32" in block and ".f64" in block]
        assert len(parameters) <= 1, name
        assert not [block for block in work if ".f64" in block and block not in parameters], name
        assert not [block for block in parameters if re.search(r"ld\.global\.f32|add\.rm", block)], name
        assert len(re.findall(r"add\.rm", ptx)) >= unrolled, (
            f"{name}: the loop over the voxels of a lane is not unrolled"
        )


@pytest.mark.usefixtures("numba_cuda")
def test_registers_suffice(compiler: Any, tmp_path: Path) -> None:
    """No kernel spills with the registers that two blocks on a multiprocessor leave it."""
    spec = find_spec("nvidia")
    found = [
        p
        for folder in (spec.submodule_search_locations if spec else None) or ()
        for p in Path(folder).glob("*/bin/ptxas")
    ]
    if not found:
        lacking("EXTRAS", "there is no ptxas beside numba-cuda")
    for name, (make, arguments, _) in kernels_to_compile().items():
        ptx, _ = compiler[0].compile(
            make().py_func, tuple(arguments), cc=(9, 0), device=False, abi="numba", launch_bounds=(512, 2)
        )
        (tmp_path / "kernel.ptx").write_text(ptx)
        command = [str(found[0]), "-v", "-arch=sm_90", "kernel.ptx", "-o", "kernel.cubin"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr, f"{name}: {done.stderr}"


# --- with a device ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu() -> Iterator[Any]:
    """Return the modules that work with a device; skip without one, fail with MARSPIPE_REQUIRE_GPU=1."""
    missing = missing_for_cuda()
    if missing is not None:
        lacking("GPU", missing)
    yield import_module("marspipe.recon.backprojection.device_volume")


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


SCAN = cone(
    detector_shape=(100, 90), pixel_pitch_mm=(0.25, 0.27), angles_rad=circle(90), principal_point_px=(47.3, 43.1)
)
GRID = VolumeGrid((96, 90, 85), (0.125, 0.13, 0.14), (0.3, -0.2, 0.1))
HELIX = cone(
    detector_shape=(100, 90),
    pixel_pitch_mm=(0.25, 0.27),
    angles_rad=circle(90, 4 * np.pi),
    source_z_mm=np.linspace(-3, 3, 90),
)
CASES = {
    "circle": (SCAN, GRID, False),
    "long columns": (SCAN, VolumeGrid((600, 20, 17), (0.02, 0.5, 0.5)), False),
    "one slice": (SCAN, VolumeGrid((1, 90, 85), (0.125, 0.13, 0.14)), False),
    "one row": (cone(detector_shape=(1, 43)), VolumeGrid((3, 33, 31), (0.2, 0.4, 0.4)), False),
    "one column": (cone(detector_shape=(37, 1)), VolumeGrid((20, 5, 6), (0.4, 0.2, 0.2)), False),
    "half-covered cells at all edges": (
        cone(detector_shape=(14, 15)),
        VolumeGrid((40, 18, 35), (0.41, 0.43, 0.39)),
        False,
    ),
    "many rows per voxel": (SCAN, VolumeGrid((20, 40, 40), (0.9, 0.3, 0.3)), False),
    "parallel": (
        ScanGeometry.parallel(detector_shape=(60, 81), pixel_pitch_mm=(0.2, 0.2), angles_rad=circle(50)),
        GRID,
        False,
    ),
    "helix": (HELIX, GRID, True),
    "turned detector": (without_orbit(SCAN, 0.2), GRID, False),
    "turned detector, weighted": (without_orbit(HELIX, 0.2), GRID, True),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_device_equals_the_cpu_kernel(gpu: Any, case: str) -> None:
    geometry, grid, weighted = CASES[case]
    filtered = columns_of(random_stack(geometry))
    weights = None
    if weighted:
        weights = np.random.default_rng(2).random((len(geometry), grid.shape[0]), dtype=np.float32)
        weights[::4, : grid.shape[0] // 2] = 0
    expected = np.full(grid.shape, 0.5, np.float32)
    found = expected.copy()
    backproject_cpu(filtered, geometry, grid, expected, slice_weights=weights)
    gpu.backproject_cuda(filtered, geometry, grid, found, slice_weights=weights)
    close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("geometry", [SCAN, without_orbit(SCAN, 0.2)], ids=["circular", "general"])
def test_device_bits_do_not_depend_on_slabs_windows_and_batches(gpu: Any, geometry: ScanGeometry) -> None:
    filtered = columns_of(random_stack(geometry))

    def run(window: VolumeGrid, batch: int, band: bool) -> np.ndarray:
        first, stop = geometry.rows_for(window) if band else (0, 100)
        volume = gpu.CudaBackprojection(window)
        for start in range(0, 90, batch):
            views = slice(start, start + batch)
            part = filtered[views, :, first:stop].copy()
            volume.add(part, geometry[views], row_first=first)
            part[:] = np.nan  # the caller may reuse it at once
        return volume.volume()

    whole = run(GRID, 90, False)
    assert np.array_equal(run(GRID, 7, True), whole)
    for thickness in (5, 40):
        slabs = [run(slab.grid, 90, True) for slab in GRID.slabs(thickness)]
        assert np.array_equal(np.concatenate(slabs), whole)
    cut = (slice(20, 60), slice(1, 50), slice(30, 85))
    assert np.array_equal(run(GRID.window(*cut), 45, True), whole[cut])


@pytest.mark.gpu
def test_streams_and_device_arrays_give_the_same_bits(gpu: Any) -> None:
    filtered = columns_of(random_stack(SCAN))
    expected = gpu.CudaBackprojection(GRID)
    expected.add(filtered, SCAN)
    pieces = gpu.CudaBackprojection(GRID)
    pieces.batch_bytes = 5 * filtered[0].nbytes  # many uploads beside the kernels, many downloads
    pieces.add(filtered, SCAN)
    assert np.array_equal(pieces.volume(), expected.volume())
    pieces.restart(GRID)
    for start in range(0, 90, 9):  # device arrays that Python forgets at once
        views = slice(start, start + 9)
        pieces.add(gpu.cuda.to_device(filtered[views]), SCAN[views])
    assert np.array_equal(pieces.volume(), expected.volume())
    with pytest.raises(InputError, match="filtered must be float32 of shape"):
        pieces.add(gpu.cuda.to_device(filtered[:3]), SCAN)
    with pytest.raises(InputError, match=r"takes .* GiB, but the CUDA device has .* GiB free"):
        gpu.CudaBackprojection(VolumeGrid((20000, 20000, 20000), (1e-3,) * 3))


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize("slabs", [False, True], ids=["whole", "slabs"])
def test_fdk_on_the_device_equals_fdk_on_the_cpu(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, where: str, slabs: bool
) -> None:
    fdk_cuda = import_module("marspipe.recon.fdk_cuda")
    if where == "host":
        monkeypatch.setattr(fdk_cuda, "find_transforms", lambda device: None)
    elif fdk_cuda.find_transforms(0) is None:
        pytest.skip("neither CuPy nor torch transforms on this device")
    monkeypatch.setattr(fdk_cuda, "_STAGING_BYTES", 1 << 20)
    geometry = cone(detector_shape=(100, 90), pixel_pitch_mm=(0.25, 0.27), angles_rad=circle(90))
    grid = VolumeGrid((96, 60, 55), (0.125, 0.13, 0.14))
    stack = np.abs(random_stack(geometry))
    expected = fdk(stack, geometry, grid, backend="cpu")
    memory = None
    if slabs:  # the buffers, and a third of the volume
        memory = 2 * (1 << 20) + grid.nbytes // 3
        if where == "device":
            memory += 64 * 4 * 90 * 128 + 16 * fdk_cuda.bytes_per_view(ViewFilter(geometry), 100) + 4 * 190 * 90
    done: list[tuple[int, int]] = []
    found = fdk_cuda.fdk_on_device(
        stack, ViewFilter(geometry), grid, max_device_bytes=memory, progress=lambda *views: done.append(views)
    )
    close(found, expected)
    assert done[-1] == ((270, 270) if slabs else (90, 90))
    close(fdk(stack, geometry, grid, backend="cuda"), expected)
    stack[60, 5, 7] = np.inf
    with pytest.raises(InputError, match="view 60 has 1 pixels that are not, the first at row 5, column 7"):
        fdk_cuda.fdk_on_device(stack, ViewFilter(geometry), grid)


@pytest.mark.gpu
def test_kernel_is_timed_by_the_device(gpu: Any) -> None:
    seconds = gpu.time_kernel(SCAN, GRID, repeat=2)
    assert len(seconds) == 2 and min(seconds) > 0
