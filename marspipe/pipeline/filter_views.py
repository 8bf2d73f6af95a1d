"""Filter stage: the frames of a view -> line integrals -> weighted, ramp-filtered rows, cut into the slabs' bands."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.calibrate import read_calibration
from marspipe.pipeline.plan import ReconstructionPlan, make_view_filter
from marspipe.preprocess.chain import Preprocessor
from marspipe.recipe import Recipe
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.energy import CounterBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.schema import table_schema

FRAME_COLUMNS = ("view", "counter", "rows", "cols", "dtype", "pixels")


@dataclass(frozen=True)
class FilterStage:
    """Everything a filter task needs to know; travels to the executors.

    Attributes
    ----------
    plan : ReconstructionPlan
        Geometry, bins and slabs.
    recipe : Recipe
        Settings of preprocessing and filter.
    calibration_uri : str
        Calibration table, read by every worker for itself.
    run_id : str
        Differs between runs, so that a reused worker never takes another run's calibration.
    n_counters : int
        Counter images per view.
    """

    plan: ReconstructionPlan
    recipe: Recipe
    calibration_uri: str
    run_id: str
    n_counters: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn frames (whole views in a row) into rows of the bands table."""
        preprocess = _preprocessor(self.calibration_uri, self.run_id, self.n_counters, self.plan.bins, self.recipe)
        ramp = _view_filter(self.plan.geometry, self.recipe)
        for view, counters in self._views(batches):
            yield self._bands(view, preprocess(counters), ramp)

    def _views(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Collect the counter images of one view after the other."""
        shape = self.plan.geometry.detector_shape
        view, seen = -1, set[int]()
        counters = np.empty((self.n_counters, *shape), dtype=np.float32)
        for batch in batches:
            column = {name: batch.column(name) for name in FRAME_COLUMNS}
            for row in range(batch.num_rows):
                number, counter = column["view"][row].as_py(), column["counter"][row].as_py()
                if number != view:
                    self._require_whole(view, seen)
                    view, seen = number, set()
                    dtype = np.dtype(column["dtype"][row].as_py())
                    if counters.dtype != dtype:
                        counters = np.empty((self.n_counters, *shape), dtype=dtype)
                found = (column["rows"][row].as_py(), column["cols"][row].as_py())
                if found != shape:
                    raise ScanError(f"view {view}, counter {counter}: frame of {found} px, expected {shape}")
                if counter in seen or not 0 <= counter < self.n_counters:
                    raise ScanError(
                        f"view {view}: counter {counter} is doubled or unknown, expected each of "
                        f"0..{self.n_counters - 1} once"
                    )
                counters[counter] = pixels_of(column["pixels"], row, column["dtype"][row].as_py(), shape)
                seen.add(counter)
                if len(seen) == self.n_counters:
                    yield view, counters
        self._require_whole(view, seen)

    def _require_whole(self, view: int, seen: set[int]) -> None:
        if view >= 0 and len(seen) != self.n_counters:
            missing = sorted(set(range(self.n_counters)) - seen)
            raise ScanError(f"view {view} has no frame of counter {', '.join(map(str, missing))}")

    def _bands(self, view: int, integrals: NDArray[np.float32], ramp: ViewFilter) -> pa.RecordBatch:
        """Filter the line integrals of a view, one frame per bin, and cut them into one band per slab."""
        if not 0 <= view < len(self.plan.geometry):
            raise ScanError(f"view {view} is not one of the {len(self.plan.geometry)} views of the scan")
        slabs, cols = self.plan.slabs, self.plan.filtered_geometry.detector_shape[1]
        lengths = [slab.n_rows * cols for slab in slabs] * len(integrals)
        bands = np.empty(sum(lengths), dtype=np.float32)
        position = 0
        for frame in integrals:
            filtered = ramp.filter_to_columns(frame, view)
            for slab in slabs:
                size = slab.n_rows * cols
                band = bands[position : position + size].reshape(cols, slab.n_rows)
                np.copyto(band, filtered[:, slab.row_first : slab.row_stop])
                position += size
        tasks = np.arange(len(lengths), dtype=np.int32)
        arrays = [
            pa.array(tasks),
            pa.array(np.full(len(tasks), view, dtype=np.int32)),
            binary_column(bands, [4 * n for n in lengths]),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=table_schema("bands").arrow())


@lru_cache(maxsize=2)
def _preprocessor(
    calibration_uri: str, run_id: str, n_counters: int, bins: tuple[CounterBin, ...], recipe: Recipe
) -> Preprocessor:
    return make_preprocessor(calibration_uri, n_counters, bins, recipe)


def make_preprocessor(
    calibration_uri: str, n_counters: int, bins: tuple[CounterBin, ...], recipe: Recipe
) -> Preprocessor:
    """Return the preprocessing that a recipe asks for, with the calibration of a scan."""
    settings = recipe.preprocess
    return Preprocessor(
        read_calibration(calibration_uri, n_counters),
        bins,
        dead_fraction=settings.bad_pixels.dead_fraction,
        hot_fraction=settings.bad_pixels.hot_fraction,
        noisy_dark_fraction=settings.bad_pixels.noisy_dark_fraction,
        inpaint_radius_px=settings.inpaint_radius_px,
    )


@lru_cache(maxsize=2)
def _view_filter(geometry: ScanGeometry, recipe: Recipe) -> ViewFilter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has said it
        return make_view_filter(geometry, recipe)
