"""Filter stage: line integrals of a view -> weighted, ramp-filtered rows, cut into the slabs' bands."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.planning.grid import make_view_filter
from marspipe.pipeline.planning.plan import ReconstructionPlan
from marspipe.recipe import Filter
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.blobs import binary_column
from marspipe.store.schema import table_schema


@dataclass(frozen=True)
class FilterStage:
    """Everything a filter task needs to know; travels to the executors.

    Attributes
    ----------
    plan : ReconstructionPlan
        Geometry, bins and slabs.
    settings : Filter
        Of the ramp filter.
    tasks : frozenset of int
        The backprojection tasks that want bands.
    """

    plan: ReconstructionPlan
    settings: Filter
    tasks: frozenset[int]

    def __call__(self, views: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[pa.RecordBatch]:
        """Turn (view, line integrals of shape (n_bins, v, u)) into rows of the bands table."""
        ramp = _view_filter(self.plan.geometry, self.settings)
        for view, integrals in views:
            yield from self._bands(view, integrals, ramp)

    def _bands(self, view: int, integrals: NDArray[np.float32], ramp: ViewFilter) -> Iterator[pa.RecordBatch]:
        """Filter the line integrals of a view, one frame per bin, and cut them into one band per task."""
        if not 0 <= view < len(self.plan.geometry):
            raise ScanError(f"view {view} is not one of the {len(self.plan.geometry)} views of the scan")
        wanted = [task for task in self.plan.tasks_of_view(view) if task in self.tasks]
        cols, n_slabs = self.plan.filtered_geometry.detector_shape[1], len(self.plan.slabs)
        of_bin, filtered = -1, integrals[:0]
        for run in self.plan.band_batches(wanted):
            slabs = [self.plan.slabs[task % n_slabs] for task in run]
            lengths = [slab.n_rows * cols for slab in slabs]
            bands = np.empty(sum(lengths), dtype=np.float32)
            ends = np.cumsum(lengths)
            for task, slab, end in zip(run, slabs, ends, strict=True):
                if task // n_slabs != of_bin:
                    of_bin = task // n_slabs
                    filtered = ramp.filter_to_columns(integrals[of_bin], view)
                band = bands[end - slab.n_rows * cols : end].reshape(cols, slab.n_rows)
                np.copyto(band, filtered[:, slab.row_first : slab.row_stop])
            arrays = [
                pa.array(run, pa.int32()),
                pa.array(np.full(len(run), view, dtype=np.int32)),
                binary_column(bands, [4 * n for n in lengths]),
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=table_schema("bands").arrow())


@lru_cache(maxsize=2)
def _view_filter(geometry: ScanGeometry, settings: Filter) -> ViewFilter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has said it
        return make_view_filter(geometry, settings)
