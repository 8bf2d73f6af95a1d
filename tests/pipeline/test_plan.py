from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import GeometryError, RecipeError
from marspipe.pipeline.planning.plan import BAND_BATCH_BYTES, ReconstructionPlan, plan_reconstruction
from marspipe.pipeline.planning.slabs import MIB, SlabRows, backprojection_bytes
from marspipe.recipe import parse_recipe
from marspipe.recon.field_of_view import rows_of_slab
from marspipe.scan.energy import Counter, counter_bins
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

ANGLES = np.linspace(0, np.pi, 181, endpoint=False)
FINE = ("grid.shape=[512, 512, 512]", "grid.voxel_mm=[0.06, 0.03, 0.03]")
BINS = tuple(counter_bins([Counter(i, "CSM", 20.0 + i) for i in range(3)]))


def scan(rows: int = 128, cols: int = 128, views: int = 180, **changes: object) -> ScanGeometry:
    values: dict[str, object] = {
        "source_to_isocenter_mm": 200.0,
        "source_to_detector_mm": 250.0,
        "detector_shape": (rows, cols),
        "pixel_pitch_mm": (0.11, 0.11),
        "angles_rad": np.linspace(0, 2 * np.pi, views, endpoint=False),
    }
    return ScanGeometry.circular(**{**values, **changes})  # type: ignore[arg-type]


def plan(geometry: ScanGeometry, slots: int = 2, bins: int = 1, *overrides: str) -> ReconstructionPlan:
    return plan_reconstruction(geometry, BINS[:bins], parse_recipe("", "test", overrides), slots)


def test_a_tilted_detector_keeps_the_grid() -> None:
    straight, turned = plan(scan()), plan(scan(), 2, 1, "geometry.detector_in_plane_rad=0.01")
    assert turned.grid == straight.grid
    assert straight.geometry.orbit is not None and turned.geometry.orbit is None
    assert turned.geometry.v_mm[0] @ straight.geometry.u_mm[0] == pytest.approx(-0.01 * 0.11**2, rel=1e-3)


def test_grid_from_the_detector() -> None:
    grid = plan(scan()).grid
    assert grid.shape == (128, 128, 128)
    assert grid.voxel_mm == pytest.approx((0.088, 0.088, 0.088))
    coarse = plan(scan(), 2, 1, "grid.voxel_mm=[0.176, 0.176, 0.176]").grid
    assert coarse.shape == (64, 64, 64)


def test_grid_of_an_off_center_parallel_scan_is_the_circle_every_view_sees() -> None:
    geometry = ScanGeometry.parallel(
        detector_shape=(2, 640), pixel_pitch_mm=(0.01, 0.01), angles_rad=ANGLES, principal_point_px=(0.5, 295.86)
    )
    grid = plan(geometry).grid
    assert grid.shape == (2, 593, 593)
    assert grid.voxel_mm == pytest.approx((0.01, 0.01, 0.01))


@pytest.mark.filterwarnings("ignore::marspipe.recon.fdk.FieldOfViewWarning")  # grids larger than the cone are meant
@settings(max_examples=60, deadline=None)
@given(
    nz=st.integers(1, 300),
    rows=st.integers(1, 200),
    slots=st.integers(1, 9),
    bins=st.integers(1, 3),
    memory=st.integers(430, 1200),
    center=st.floats(-5, 5),
)
def test_slabs_partition_the_grid_and_keep_the_budget(
    nz: int, rows: int, slots: int, bins: int, memory: int, center: float
) -> None:
    overrides = (
        f"grid.shape=[{nz}, 100, 100]",
        "grid.voxel_mm=[0.1, 0.1, 0.1]",
        f"grid.center_mm=[{center}, 0, 0]",
        f"run.memory_per_task_mib={memory}",
    )
    geometry = scan(rows=rows)
    try:
        result = plan(geometry, slots, bins, *overrides)
    except GeometryError:
        return
    firsts = [task.slab.z_first for task in result.slabs]
    assert firsts == list(np.cumsum([0] + [task.slab.n_slices for task in result.slabs])[:-1])
    assert sum(task.slab.n_slices for task in result.slabs) == nz
    assert result.task_bytes <= memory * MIB
    for task in result.slabs:
        assert 0 <= task.row_first < task.row_stop <= rows
    assert 1 <= result.views_per_batch <= len(geometry)


@settings(max_examples=60, deadline=None)
@given(
    nz=st.integers(1, 120),
    rows=st.integers(1, 200),
    thickness=st.integers(1, 50),
    center=st.floats(-9, 9),
    turn=st.sampled_from([0.0, 0.02]),
)
def test_rows_of_slabs_are_those_of_each_slab(nz: int, rows: int, thickness: int, center: float, turn: float) -> None:
    geometry = scan(rows=rows, views=24).with_tilted_detector(in_plane_rad=turn, about_u_rad=2 * turn)
    grid = VolumeGrid((nz, 90, 100), (0.1, 0.1, 0.1), (center, 0.0, 0.0))
    together = SlabRows(geometry, grid)
    for slab in grid.slabs(thickness):
        assert together.of(slab.grid, 0, len(geometry)) == rows_of_slab(geometry, slab.grid)


@pytest.mark.filterwarnings("ignore::marspipe.recon.fdk.FieldOfViewWarning")
@settings(max_examples=40, deadline=None)
@given(
    nz=st.integers(1, 400),
    side=st.integers(20, 600),
    slots=st.integers(1, 70),
    bins=st.integers(1, 3),
    memory=st.integers(400, 3000),
    more=st.integers(0, 3000),
)
def test_more_memory_never_means_more_slabs(nz: int, side: int, slots: int, bins: int, memory: int, more: int) -> None:
    grid = (f"grid.shape=[{nz}, {side}, {side}]", f"grid.voxel_mm=[0.02, {8 / side}, {8 / side}]")
    little = plan(scan(), slots, bins, *grid, f"run.memory_per_task_mib={memory}")
    much = plan(scan(), slots, bins, *grid, f"run.memory_per_task_mib={memory + more}")
    assert len(much.slabs) <= len(little.slabs)
    assert much.shuffle_bytes <= little.shuffle_bytes


def test_tens_of_thousands_of_slices_are_planned_without_arrays_of_that_size() -> None:
    geometry = scan(8000, 600, 720, source_to_isocenter_mm=30000.0, source_to_detector_mm=30100.0)
    shape = ("grid.shape=[8000, 5000, 5000]", "grid.voxel_mm=[0.109, 0.01, 0.01]")
    tracemalloc.start()
    result = plan(geometry, 80, 1, *shape, "run.memory_per_task_mib=1024")
    text = result.describe()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * MIB  # one array of the detector's weights alone has 18 MiB a view
    assert sum(task.slab.n_slices for task in result.slabs) == 8000
    assert "rows read" in text and result.overlap > 1


def test_bands_of_a_view_travel_in_bounded_batches() -> None:
    many = plan(scan(20000, 12000, 360, pixel_pitch_mm=(0.002, 0.002)), 2, 3, *FINE)
    assert many.view_bytes > 2**31
    wanted = many.tasks_of_view(7)
    assert wanted == list(range(many.n_tasks))
    batches = list(many.band_batches(wanted))
    assert [task for batch in batches for task in batch] == wanted
    cols, n_slabs = many.filtered_geometry.detector_shape[1], len(many.slabs)
    sizes = [sum(4 * cols * many.slabs[task % n_slabs].n_rows for task in batch) for batch in batches]
    assert max(sizes) <= max(BAND_BATCH_BYTES, many.band_bytes)
    few = plan(scan(), 2, 2, "run.slab_slices=30")
    assert list(few.band_batches(few.tasks_of_view(0))) == [few.tasks_of_view(0)]
    assert list(few.band_batches([])) == []


def test_a_band_that_passes_two_gigabytes_is_refused() -> None:
    geometry = scan(20000, 32000, 360, pixel_pitch_mm=(0.002, 0.002))
    with pytest.raises(RecipeError, match=r"rows of a view that one slab reads are .* GiB, and 2 GiB are the limit"):
        plan(geometry, 2, 3, *FINE, "run.memory_per_task_mib=400000", "run.slab_slices=512")


def test_bytes_of_a_view_are_those_of_its_bands() -> None:
    result = plan(scan(), 2, 2, "run.slab_slices=30")
    assert result.view_bytes == 4 * 2 * 128 * sum(task.n_rows for task in result.slabs)
    assert result.view_bytes * len(result.geometry) == result.shuffle_bytes
    times = np.zeros(128)
    for task in result.slabs:
        times[task.row_first : task.row_stop] += 1
    assert result.overlap == pytest.approx(times[times > 0].mean())


def test_tasks_fill_the_slots() -> None:
    assert plan(scan(), slots=2, bins=1).n_tasks == 2
    assert plan(scan(), slots=2, bins=2).n_tasks == 2
    assert plan(scan(), slots=2, bins=3).n_tasks == 6
    assert plan(scan(), slots=8, bins=1).n_tasks == 8


def test_less_memory_means_thinner_slabs() -> None:
    big = ("grid.shape=[512, 512, 512]", "grid.voxel_mm=[0.0275, 0.0275, 0.0275]")
    geometry = scan(640, 640, 360, pixel_pitch_mm=(0.0275, 0.0275))
    roomy = plan(geometry, 2, 1, *big, "run.memory_per_task_mib=2000")
    tight = plan(geometry, 2, 1, *big, "run.memory_per_task_mib=512")
    assert len(roomy.slabs) == 2
    assert len(tight.slabs) > len(roomy.slabs)
    assert tight.task_bytes <= 512 * MIB
    assert tight.shuffle_bytes > roomy.shuffle_bytes
    assert roomy.volume_bytes == 4 * 512**3


def test_memory_of_a_task_is_slab_plus_batch() -> None:
    result = plan(scan())
    task = result.slabs[0]
    one, many = (backprojection_bytes(task, 128, n) for n in (1, 33))
    assert many - one == 32 * 4 * 128 * task.n_rows


def test_center_of_rotation_moves_the_principal_point() -> None:
    result = plan(scan(), 2, 1, "geometry.center_of_rotation_px=60.25", "grid.shape=[8, 8, 8]")
    assert result.geometry.orbit is not None
    assert result.geometry.orbit.principal_point_px == (63.5, 60.25)


def test_grid_of_an_offset_detector_is_the_circle_that_every_other_view_sees() -> None:
    grid = plan(scan(principal_point_px=(63.5, 30.0))).grid
    assert grid.shape[1] == pytest.approx(2 * 97, abs=1)
    insisting = plan(scan(principal_point_px=(63.5, 30.0)), 2, 1, "filter.redundancy=full").grid
    assert insisting.shape[1] == pytest.approx(2 * 30, abs=1)


def test_refusals() -> None:
    with pytest.raises(RecipeError, match=r"mib = 64 is too little: one slice of 128 x 128 voxels needs"):
        plan(scan(), 2, 1, "run.memory_per_task_mib=64")
    with pytest.raises(GeometryError, match="cone misses the grid"):
        plan(scan(), 2, 1, "grid.center_mm=[40, 0, 0]")
    with pytest.raises(GeometryError, match="does not see the rotation axis: it falls on column -10"):
        plan(scan(), 2, 1, "geometry.center_of_rotation_px=-10")
    geometry = scan()
    general = ScanGeometry(
        detector_shape=(128, 128),
        source_mm=geometry.source_mm,
        detector_center_mm=geometry.detector_center_mm,
        u_mm=np.add(geometry.u_mm, (0.0, 0.0, 0.001)),
        v_mm=geometry.v_mm,
    )
    with pytest.raises(RecipeError, match=r"grid.shape and grid.voxel_mm must be given"):
        plan(general)
    with pytest.raises(RecipeError, match="apply to circular orbits only"):
        plan(general, 2, 1, "geometry.center_of_rotation_px=60")
