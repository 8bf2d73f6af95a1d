"""The line integrals of a scan, view by view: how its frames reach the tasks that correct them.

Where the corrections of all camera positions fit into a task, frames are corrected where they lie, whole views at a
time. Where they do not, as the open beams of a wide scan can be as large as its projections, frames and open beams are
joined by camera position: the frames of a position go to one task, which has the open beams of one position at a time;
its line integrals go on to the task that has their view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from marspipe.pipeline.corrections.calibrate import CALIBRATION_FOLDER
from marspipe.pipeline.corrections.line_integrals import Corrections, FloatArray, stitched
from marspipe.pipeline.frames.exposures import exposures
from marspipe.preprocess.chain import Preprocessor
from marspipe.preprocess.stitching import Stitcher
from marspipe.recipe import Run
from marspipe.store import storage
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.pixel_flags import read_pixel_flags
from marspipe.store.tables import as_spark

MIB = 2**20
# A task may spend this part of its memory on corrections.
LARGEST_SHARE = 0.25
# Tasks of a position's frames, per slot.
_TASKS_PER_SLOT = 4
# A run of views that comes back to one task.
_GROUP_BYTES = 128 * MIB

_PIECES_ARROW = pa.schema(
    [
        pa.field("view", pa.int32(), False),
        pa.field("tile", pa.int32(), False),
        pa.field("group", pa.int32(), False),
        pa.field("pixels", pa.binary(), False),
    ]
)
_PIECES = as_spark(_PIECES_ARROW)


@dataclass(frozen=True)
class Views:
    """Line integrals of a scan.

    Attributes
    ----------
    data : DataFrame
        Rows, those of a view in one task.
    read : callable
        Turns the rows of a task into (view, line integrals of shape (n_bins, v, u)); travels to the executors.
    """

    data: DataFrame
    read: Callable[[Iterator[pa.RecordBatch]], Iterator[tuple[int, FloatArray]]]


def joins_open_beams(frames_uri: str, n_tiles: int, run: Run) -> bool:
    """Return whether frames go to the task that has the open beams of their camera position."""
    if n_tiles == 1 or run.open_beams != "auto":
        return run.open_beams == "joined"
    folder = storage.join(frames_uri, CALIBRATION_FOLDER)
    size = sum(storage.size(storage.join(folder, name)) for name in storage.list_dir(folder))
    return size > LARGEST_SHARE * run.memory_per_task_mib * MIB


def corrected_in_place(projections: DataFrame, corrections: Corrections) -> Views:
    """Correct frames where they lie; every task has the corrections of all camera positions."""
    return Views(projections, corrections.views)


def corrected_by_position(
    projections: DataFrame, corrections: Corrections, flags_uri: str, *, n_views: int, slots: int
) -> Views:
    """Send every frame to the task that has the open beams of its camera position, and its result to that of its view.

    Parameters
    ----------
    projections : DataFrame
        Frames.
    corrections : Corrections
        What to correct.
    flags_uri : str
        Table of the pixel flags.
    n_views : int
        Views of the scan.
    slots : int
        Tasks that run at once.
    """
    camera, n_bins = corrections.camera, len(corrections.bins)
    n_tasks = min(camera.n_tiles, _TASKS_PER_SLOT * slots)
    rows, cols = camera.layout.shape
    group_views = max(1, min(math.ceil(n_views / slots), _GROUP_BYTES // (4 * n_bins * rows * cols)))
    by_position = projections.repartitionById(n_tasks, F.pmod("tile", F.lit(n_tasks)).cast("int"))
    ordered = by_position.sortWithinPartitions("tile", "view", "counter")

    def correct(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from _corrected(batches, corrections, group_views)

    pieces = ordered.mapInArrow(correct, _PIECES)
    by_view = pieces.repartitionById(math.ceil(n_views / group_views), "group").sortWithinPartitions("view", "tile")

    def join(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, FloatArray]]:
        flags = [read_pixel_flags(flags_uri, tile, n_bins) for tile in range(camera.n_tiles)]
        yield from stitched(_pieces(batches, corrections), camera, Stitcher(camera.layout, flags, corrections.settings))

    return Views(by_view, join)


def _corrected(
    batches: Iterator[pa.RecordBatch], corrections: Corrections, group_views: int
) -> Iterator[pa.RecordBatch]:
    """Correct frames in the order of their camera positions."""
    held: tuple[int, Preprocessor] | None = None
    for exposure in exposures(batches, corrections.camera):
        if held is None or held[0] != exposure.tile:
            held = exposure.tile, corrections.preprocessor(exposure.tile)
        integrals, bad = corrections.correct(exposure, held[1])
        if bad is not None:
            integrals[bad] = np.nan  # a hole of this exposure alone
        place = [[exposure.view], [exposure.tile], [exposure.view // group_views]]
        arrays = [pa.array(value, pa.int32()) for value in place]
        pixels = binary_column(np.ascontiguousarray(integrals), [integrals.nbytes])
        yield pa.RecordBatch.from_arrays([*arrays, pixels], schema=_PIECES_ARROW)


def _pieces(
    batches: Iterable[pa.RecordBatch], corrections: Corrections
) -> Iterator[tuple[int, int, FloatArray, NDArray[np.bool_] | None]]:
    shape = (len(corrections.bins), *corrections.camera.shape)
    for batch in batches:
        for number in range(batch.num_rows):
            view, tile = (batch.column(name)[number].as_py() for name in ("view", "tile"))
            integrals = pixels_of(batch.column("pixels"), number, "<f4", shape)
            bad = np.isnan(integrals)
            yield view, tile, integrals, bad if bad.any() else None
