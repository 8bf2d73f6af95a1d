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
from marspipe.pipeline.plan import ReconstructionPlan, make_view_filter
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
    """

    plan: ReconstructionPlan
    settings: Filter

    def __call__(self, views: Iterable[tuple[int, NDArray[np.float32]]]) -> Iterator[pa.RecordBatch]:
        """Turn (view, line integrals of shape (n_bins, v, u)) into rows of the bands table."""
        ramp = _view_filter(self.plan.geometry, self.settings)
        for view, integrals in views:
            yield self._bands(view, integrals, ramp)

    def _bands(self, view: int, integrals: NDArray[np.float32], ramp: ViewFilter) -> pa.RecordBatch:
        """Filter the line integrals of a view, one frame per bin, and cut them into one band per slab."""
        if not 0 <= view < len(self.plan.geometry):
            raise ScanError(f"view {view} is not one of the {len(self.plan.geometry)} views of the scan")
        cols = self.plan.filtered_geometry.detector_shape[1]
        wanted = [n for n, task in enumerate(self.plan.slabs) if task.view_first <= view < task.view_stop]
        slabs = [self.plan.slabs[n] for n in wanted]
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
        first = len(self.plan.slabs) * np.arange(len(integrals), dtype=np.int32)
        tasks = (first[:, None] + np.array(wanted, dtype=np.int32)).reshape(-1)
        arrays = [
            pa.array(tasks),
            pa.array(np.full(len(tasks), view, dtype=np.int32)),
            binary_column(bands, [4 * n for n in lengths]),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=table_schema("bands").arrow())


@lru_cache(maxsize=2)
def _view_filter(geometry: ScanGeometry, settings: Filter) -> ViewFilter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has said it
        return make_view_filter(geometry, settings)
