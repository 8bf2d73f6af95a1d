"""``marspipe align`` below the command line: rows, center and sweep of a simulated scan."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from marspipe.errors import GeometryError, InputError, ScanError
from marspipe.pipeline import needed_rows
from marspipe.pipeline.align import AlignmentJob, align, prepare_alignment
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import RawScan
from marspipe.pipeline.needed_rows import NeededRows, collect_rows
from marspipe.recipe import Recipe, parse_recipe
from marspipe.recon.alignment import UncertainCenterWarning, with_axis_column
from marspipe.recon.fdk import fdk
from marspipe.recon.field_of_view import FieldOfViewWarning
from marspipe.scan.geometry import ScanGeometry
from tests.pipeline.scans import SIDE, VIEWS, OneProcess, quiet

TRUE_PX = (SIDE - 1) / 2


def recipe(*overrides: str) -> Recipe:
    return parse_recipe("{}", "test", overrides)


def collected(spark: SparkSession, job: AlignmentJob) -> np.ndarray:
    return collect_rows(spark, job.source, job.plan, job.recipe, job.bin, job.needed, progress=quiet())


@pytest.mark.parametrize("kind", ["frames", "raw"])
def test_needed_rows_are_those_of_the_preprocessed_scan(
    spark: SparkSession, raw_scan: RawScan, frames_uri: str, one_process: OneProcess, kind: str
) -> None:
    source = raw_scan if kind == "raw" else FramesTable.open(frames_uri)
    job = prepare_alignment(source, recipe(), bin=1, slice=20)
    first, stop = job.slice_rows
    assert job.slice_rows == one_process.geometry.rows_for(one_process.grid.window(z=slice(20, 21)))
    middle = range(*job.search_rows)
    assert len(middle) == 3
    assert TRUE_PX in np.arange(*job.search_rows) + 0.5
    assert job.needed.rows.tolist() == sorted({*range(first, stop), *middle})
    assert job.needed.nbytes == 4 * VIEWS * len(job.needed.rows) * SIDE
    rows = collected(spark, job)
    np.testing.assert_array_equal(rows, one_process.line_integrals[1][:, job.needed.rows])


def test_finds_center_and_reconstructs_the_slice_around_it(
    spark: SparkSession, frames_uri: str, one_process: OneProcess
) -> None:
    job = prepare_alignment(
        FramesTable.open(frames_uri), recipe("geometry.center_of_rotation_px=40"), bin=1, slice=30, steps=2, step_px=1.5
    )
    found = align(spark, job, progress=quiet())
    assert found.given_px == 40.0
    assert found.estimate.method == "conjugate"
    assert found.estimate.column_px == pytest.approx(TRUE_PX, abs=0.05)
    assert found.trusted
    columns = [s.column_px for s in found.slices]
    np.testing.assert_allclose(np.diff(columns), 1.5)
    assert len(columns) == 5
    assert columns[found.chosen] == found.estimate.column_px
    assert found.sharpest is found.slices[found.chosen]
    assert found.grid.shape[0] == 1
    assert found.grid.start[0] == 30
    for number in (0, 2):
        geometry = with_axis_column(one_process.geometry, columns[number])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FieldOfViewWarning)  # an axis beside the middle
            expected = fdk(one_process.line_integrals[1], geometry, found.grid)[0]
        # The rows are counted from the band's first one, so that weights round differently.
        np.testing.assert_allclose(found.slices[number].image, expected, rtol=0, atol=1e-7)


def test_raw_files_and_frames_table_tell_the_same(spark: SparkSession, raw_scan: RawScan, frames_uri: str) -> None:
    """Compare without a recipe's grid, in the default slice."""
    found = [
        align(spark, prepare_alignment(source, recipe(), steps=1), progress=quiet())
        for source in (raw_scan, FramesTable.open(frames_uri))
    ]
    assert found[0].estimate.column_px == found[1].estimate.column_px
    assert found[0].grid == found[1].grid
    assert abs(found[0].grid.axis_mm("z")[0]) <= found[0].grid.voxel_mm[0]
    np.testing.assert_array_equal(found[0].slices[0].image, found[1].slices[0].image)


def test_sweep_has_the_tilt_of_the_recipe(spark: SparkSession, raw_scan: RawScan, one_process: OneProcess) -> None:
    job = prepare_alignment(raw_scan, recipe("geometry.detector_in_plane_rad=0.02"), steps=1, slice=70)
    found = align(spark, job, progress=quiet())
    assert found.estimate.column_px == pytest.approx(TRUE_PX, abs=0.05)
    turned = with_axis_column(one_process.geometry, found.estimate.column_px).with_tilted_detector(in_plane_rad=0.02)
    expected = fdk(one_process.line_integrals[0], turned, found.grid)[0]
    np.testing.assert_allclose(found.slices[1].image, expected, rtol=0, atol=1e-7)


def test_sweep_ends_at_the_detector(spark: SparkSession, raw_scan: RawScan) -> None:
    job = prepare_alignment(raw_scan, recipe(), steps=4, step_px=15.0)
    found = align(spark, job, progress=quiet())
    columns = [s.column_px for s in found.slices]
    assert len(columns) == 7
    assert columns[found.chosen] == found.estimate.column_px


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bin": 2}, r"--bin must be 0..1 \(25-50 keV, 50\+ keV\), got 2"),
        ({"bin": -1}, "--bin must be 0..1"),
        ({"slice": SIDE}, f"--slice must be 0..{SIDE - 1}, got {SIDE}"),
        ({"method": "guess"}, "--method must be one of auto, conjugate, vo, got 'guess'"),
        ({"step_px": 0.0}, r"--step-px must be positive \(px\), got 0"),
        ({"steps": 0}, "--steps must be 1..12 columns on each side, got 0"),
    ],
)
def test_wrong_options_are_named_before_spark_starts(raw_scan: RawScan, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_alignment(raw_scan, recipe(), **options)


def test_slice_that_needs_too_much_is_refused(raw_scan: RawScan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marspipe.pipeline.align.MOST_BYTES", 100_000)
    with pytest.raises(InputError, match=r"--slice 10 needs \d+ detector rows of 92 views, .* choose one nearer"):
        prepare_alignment(raw_scan, recipe(), slice=10)


def table(frames_uri: str, **changes: Any) -> FramesTable:
    """Return the frames table as if its scan had another geometry."""
    settings: dict[str, Any] = {
        "source_to_isocenter_mm": 200.0,
        "source_to_detector_mm": 250.0,
        "detector_shape": (SIDE, SIDE),
        "pixel_pitch_mm": (0.11, 0.11),
        "angles_rad": np.linspace(0, 2 * np.pi, VIEWS, endpoint=False),
    }
    return replace(FramesTable.open(frames_uri), geometry=ScanGeometry.circular(**(settings | changes)))


def test_of_several_circles_the_nearest_one_is_taken(frames_uri: str) -> None:
    turn = np.linspace(0, 2 * np.pi, 46, endpoint=False)
    source = table(frames_uri, angles_rad=np.tile(turn, 2), source_z_mm=np.repeat([-3.0, 3.0], 46))
    n_slices = prepare_alignment(source, recipe()).plan.grid.shape[0]
    assert prepare_alignment(source, recipe(), slice=n_slices - 20).needed.views.tolist() == list(range(46, 92))
    assert prepare_alignment(source, recipe(), slice=20).needed.views.tolist() == list(range(46))


def test_helix_and_general_geometry_are_refused(frames_uri: str) -> None:
    helix = table(frames_uri, angles_rad=np.linspace(0, 6 * np.pi, VIEWS), source_z_mm=np.linspace(-6.0, 6.0, VIEWS))
    with pytest.raises(GeometryError, match="the source moves from -6 to 6 mm along the axis"):
        prepare_alignment(helix, recipe())
    plain = table(frames_uri)
    tilted = replace(plain, geometry=plain.geometry.with_tilted_detector(in_plane_rad=0.1))
    with pytest.raises(GeometryError, match="needs a circular orbit"):
        prepare_alignment(tilted, recipe())


def test_mid_plane_beside_the_detector_is_warned_of(frames_uri: str) -> None:
    source = table(frames_uri, principal_point_px=(-30.0, TRUE_PX))
    with pytest.warns(UncertainCenterWarning, match="falls on row -30 of rows 0..95"):
        job = prepare_alignment(source, recipe("grid.center_mm=[7, 0, 0]"))
    assert job.search_rows == (0, 3)


def test_missing_and_doubled_views_are_errors() -> None:
    needed = NeededRows(np.arange(3), np.arange(2), 4)
    pixels = np.zeros((2, 4), "<f4").tobytes()

    def of(*views: int) -> pa.Table:
        schema = needed_rows._ROWS_ARROW
        return pa.table([pa.array(views, pa.int32()), pa.array([pixels] * len(views))], schema=schema)

    assert needed_rows._stacked(of(2, 0, 1), needed).shape == (3, 2, 4)
    with pytest.raises(ScanError, match="view 1 is missing: only 2 of 3 views came"):
        needed_rows._stacked(of(0, 2), needed)
    with pytest.raises(ScanError, match="view 0 is doubled"):
        needed_rows._stacked(of(0, 0, 1, 2), needed)
