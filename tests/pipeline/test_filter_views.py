"""The bands of a view, however they are packed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from marspipe.errors import ScanError
from marspipe.pipeline.filter_views import FilterStage
from marspipe.pipeline.planning import plan as planning
from marspipe.recipe import parse_recipe
from marspipe.scan.energy import Counter, counter_bins
from marspipe.scan.geometry import ScanGeometry


@pytest.fixture
def stage() -> FilterStage:
    """A circle, two bins and four slabs, of which six bands are wanted."""
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(32, 24),
        pixel_pitch_mm=(0.11, 0.11),
        angles_rad=np.linspace(0, 2 * np.pi, 5, endpoint=False),
    )
    recipe = parse_recipe("run: {slab_slices: 8}", "test")
    bins = tuple(counter_bins([Counter(i, "CSM", 20.0 + i) for i in range(2)]))
    plan = planning.plan_reconstruction(geometry, bins, recipe, 2)
    assert plan.n_tasks == 8
    return FilterStage(plan, recipe.filter, frozenset({0, 1, 3, 4, 6, 7}))


def bands(stage: FilterStage, rng: np.random.Generator, views: list[int]) -> list[pa.RecordBatch]:
    integrals = rng.random((5, 2, 32, 24), dtype=np.float32)
    return list(stage((view, integrals[view]) for view in views))


@pytest.mark.parametrize(("bands_a_batch", "batches"), [(0, 12), (2, 6), (100, 2)])
def test_batches_of_any_size_hold_the_same_bands(
    stage: FilterStage, monkeypatch: pytest.MonkeyPatch, bands_a_batch: int, batches: int
) -> None:
    expected = pa.Table.from_batches(bands(stage, np.random.default_rng(1), [3, 1]))
    assert expected.column("task").to_pylist() == 2 * [0, 1, 3, 4, 6, 7]
    monkeypatch.setattr(planning, "BAND_BATCH_BYTES", bands_a_batch * stage.plan.band_bytes)
    found = bands(stage, np.random.default_rng(1), [3, 1])
    assert len(found) == batches
    assert pa.Table.from_batches(found).equals(expected)


def test_a_view_that_is_not_of_the_scan(stage: FilterStage, rng: np.random.Generator) -> None:
    with pytest.raises(ScanError, match="view 5 is not one of the 5 views of the scan"):
        list(stage([(5, rng.random((2, 32, 24), dtype=np.float32))]))
