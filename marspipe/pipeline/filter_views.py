"""Filter stage: the frames of a view -> line integrals -> weighted, ramp-filtered rows, cut into the slabs' bands."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.calibrate import read_calibration
from marspipe.pipeline.plan import ReconstructionPlan, make_view_filter
from marspipe.preprocess.bad_pixels import PixelLimits
from marspipe.preprocess.chain import Calibration, Preprocessor
from marspipe.recipe import Recipe
from marspipe.recon.filtering import ViewFilter
from marspipe.scan.energy import CounterBin
from marspipe.scan.geometry import ScanGeometry
from marspipe.store.blobs import binary_column, checksum, pixels_of
from marspipe.store.schema import table_schema

FRAME_COLUMNS = ("view", "counter", "rows", "cols", "dtype", "pixels", "checksum", "source_uri", "source_offset")


@dataclass(frozen=True)
class FilterStage:
    """Everything a filter task needs to know; travels to the executors.

    Attributes
    ----------
    plan : ReconstructionPlan
        Geometry, bins and slabs.
    recipe : Recipe
        Settings of preprocessing and filter.
    frames_uri : str
        Frames table, whose calibration every worker reads for itself.
    run_id : str
        Differs between runs, so that a reused worker never takes another run's calibration.
    n_counters : int
        Counter images per view.
    """

    plan: ReconstructionPlan
    recipe: Recipe
    frames_uri: str
    run_id: str
    n_counters: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Turn frames (whole views in a row) into rows of the bands table."""
        preprocess = _preprocessor(self.frames_uri, self.run_id, self.n_counters, self.plan.bins, self.recipe)
        ramp = _view_filter(self.plan.geometry, self.recipe)
        for view, counters in self.views(batches):
            yield self._bands(view, preprocess(counters), ramp)

    def views(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Collect the counter images of one view after the other."""
        view, seen, done = -1, set[int](), set[int]()
        counters = np.empty((self.n_counters, *self.plan.geometry.detector_shape), dtype=np.float32)
        for batch in batches:
            for row in (_Row(batch, number) for number in range(batch.num_rows)):
                if row.view != view:
                    self._require_whole(view, seen)
                    view, seen = row.view, set()
                    if counters.dtype != row.dtype:
                        counters = np.empty(counters.shape, dtype=row.dtype)
                if view in done or row.counter in seen:
                    raise ScanError(f"{row.source}: view {view}, counter {row.counter} is doubled")
                if not 0 <= row.counter < self.n_counters:
                    raise ScanError(f"{row.source}: view {view} has a frame of unknown counter {row.counter}")
                counters[row.counter] = row.pixels(self.plan.geometry.detector_shape)
                seen.add(row.counter)
                if len(seen) == self.n_counters:
                    yield view, counters
                    done.add(view)
        self._require_whole(view, seen)

    def _require_whole(self, view: int, seen: set[int]) -> None:
        if view >= 0 and len(seen) != self.n_counters:
            missing = sorted(set(range(self.n_counters)) - seen)
            raise ScanError(f"view {view} has no frame of counter {', '.join(map(str, missing))}")

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


@dataclass(frozen=True)
class _Row:
    """One frame of a batch."""

    batch: pa.RecordBatch
    number: int

    def _value(self, name: str) -> Any:
        return self.batch.column(name)[self.number].as_py()

    @cached_property
    def view(self) -> int:
        return int(self._value("view"))

    @cached_property
    def counter(self) -> int:
        return int(self._value("counter"))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self._value("dtype"))
        return dtype

    @property
    def source(self) -> str:
        return f"{self._value('source_uri')} at {self._value('source_offset')}"

    def pixels(self, shape: tuple[int, int]) -> NDArray[Any]:
        """Return the frame, checked against the detector and its checksum."""
        found = (self._value("rows"), self._value("cols"))
        if found != shape:
            raise ScanError(f"{self.source}: view {self.view} has a frame of {found} px, expected {shape}")
        frame = pixels_of(self.batch.column("pixels"), self.number, self.dtype.str, shape)
        if checksum(frame) != self._value("checksum"):
            raise ScanError(
                f"{self.source}: the stored pixels of view {self.view}, counter {self.counter} do not match their "
                "checksum; ingest the scan again"
            )
        return frame


@lru_cache(maxsize=2)
def _preprocessor(
    frames_uri: str, run_id: str, n_counters: int, bins: tuple[CounterBin, ...], recipe: Recipe
) -> Preprocessor:
    return make_preprocessor(frames_uri, n_counters, bins, recipe)


def make_preprocessor(frames_uri: str, n_counters: int, bins: tuple[CounterBin, ...], recipe: Recipe) -> Preprocessor:
    """Return the preprocessing that a recipe asks for, with the calibration of a frames table."""
    return preprocessor_of(read_calibration(frames_uri, n_counters), bins, recipe)


def preprocessor_of(calibration: Calibration, bins: tuple[CounterBin, ...], recipe: Recipe) -> Preprocessor:
    """Return the preprocessing that a recipe asks for, with a calibration."""
    settings = recipe.preprocess
    return Preprocessor(
        calibration,
        bins,
        limits=PixelLimits(**settings.bad_pixels.model_dump()),
        inpaint_radius_px=settings.inpaint_radius_px,
        gap_px=settings.gap_px,
    )


@lru_cache(maxsize=2)
def _view_filter(geometry: ScanGeometry, recipe: Recipe) -> ViewFilter:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver has said it
        return make_view_filter(geometry, recipe)
