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
            yield self._bands(view, integrals, ramp)

    def _bands(self, view: int, integrals: NDArray[np.float32], ramp: ViewFilter) -> pa.RecordBatch:
        """Filter the line integrals of a view, one frame per bin, and cut them into one band per task."""
        if not 0 <= view < len(self.plan.geometry):
            raise ScanError(f"view {view} is not one of the {len(self.plan.geometry)} views of the scan")
        cols, n_slabs = self.plan.filtered_geometry.detector_shape[1], len(self.plan.slabs)
        seeing = [n for n, task in enumerate(self.plan.slabs) if task.view_first <= view < task.view_stop]
        wanted = [
            [n for n in seeing if bin_ * n_slabs + n in self.tasks] for bin_ in range(len(integrals))
        ]  # slabs of each bin
        lengths = [self.plan.slabs[n].n_rows * cols for of_bin in wanted for n in of_bin]
        bands = np.empty(sum(lengths), dtype=np.float32)
        position = 0
        for frame, of_bin in zip(integrals, wanted, strict=True):
            filtered = ramp.filter_to_columns(frame, view) if of_bin else frame
            for slab in (self.plan.slabs[n] for n in of_bin):
                size = slab.n_rows * cols
                band = bands[position : position + size].reshape(cols, slab.n_rows)
                np.copyto(band, filtered[:, slab.row_first : slab.row_stop])
                position += size
        tasks = [bin_ * n_slabs + n for bin_, of_bin in enumerate(wanted) for n in of_bin]
        arrays = [
            pa.array(tasks, pa.int32()),
            pa.array(np.full(len(tasks), view, dtype=np.int32)),
            binary_column(bands, [4 * n for n in lengths]),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=table_schema("bands").arrow())


@lru_cache(maxsize=2)
def _view_filter(geometry: ScanGeometry, settings: Filter) -> ViewFilter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has said it
        return make_view_filter(geometry, settings)
