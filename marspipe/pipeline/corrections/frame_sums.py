"""Sums over the open beams, absorbers and darks of a scan, that merge in any order without rounding.

They are integers: counts are, and pixels that are not become so in steps far below their noise. So neither the cut
into tasks nor the order of the frames changes a bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.clock import nanoseconds_of
from marspipe.store.blobs import binary_column, pixels_of
from marspipe.store.schema import table_schema
from marspipe.store.tables import as_spark

FRAME_COLUMNS = (
    "tile",
    "counter",
    "frame_type",
    "absorber_mm",
    "group",
    "rows",
    "cols",
    "dtype",
    "exposure_s",
    "acquired_at",
    "monitor",
    "pixels",
)
# Sums that a task holds before it hands them on.
HELD_BYTES = 256 * 2**20

# Steps of pixels that are no integers: 2**-16 of a count, and 2**-8 of its square, leave room for 2**47 counts in all.
_FRACTION_BITS = 16
_SQUARE_FRACTION_BITS = 8
_LARGEST = 2.0**24
# Steps of exposure times (1 ns) and monitor counts.
_PER_S = 10**9
_PER_COUNT = 2**20

_KEY = ("tile", "counter", "frame_type", "absorber_mm", "group")
_ARROW = pa.schema(
    [
        pa.field("tile", pa.int32(), False),
        pa.field("counter", pa.int32(), False),
        pa.field("frame_type", pa.string(), False),
        pa.field("absorber_mm", pa.float64(), False),
        pa.field("group", pa.int32(), False),
        pa.field("n", pa.int64(), False),
        pa.field("fraction", pa.bool_(), False),
        # Integers beyond 64 bit, as text; null if a frame lacks the value.
        pa.field("time_ns", pa.string(), True),
        pa.field("exposure_ns", pa.string(), True),
        pa.field("monitor", pa.string(), True),
        pa.field("rows", pa.int32(), False),
        pa.field("cols", pa.int32(), False),
        pa.field("total", pa.binary(), False),
        pa.field("squares", pa.binary(), False),
    ]
)
SUMS = as_spark(_ARROW)


class SumKey(NamedTuple):
    """Which frames belong together."""

    tile: int
    counter: int
    frame_type: str
    absorber_mm: float
    group: int

    def __str__(self) -> str:
        plate = f" behind {self.absorber_mm:g} mm" if self.absorber_mm else ""
        return f"{self.frame_type} frames{plate} of tile {self.tile}, counter {self.counter}"


@dataclass
class FrameSums:
    """Sums over the frames of one key; ``None`` for what a frame lacks."""

    key: SumKey
    fraction: bool
    total: NDArray[np.int64]
    squares: NDArray[np.int64]
    n: int = 0
    time_ns: int | None = 0
    exposure_ns: int | None = 0
    monitor: int | None = 0

    def add(self, frame: NDArray[Any], row: dict[str, Any]) -> None:
        """Add a frame and what its row of the frames table says of it."""
        self._require(frame.shape, frame.dtype.kind == "f")
        if self.fraction:
            if not float(np.abs(frame).max(initial=0)) < _LARGEST:
                raise ScanError(f"{self.key}: pixels must be finite and below {_LARGEST:g}")
            counts = frame.astype(np.float64)
            self.total += np.rint(counts * 2.0**_FRACTION_BITS).astype(np.int64)
            self.squares += np.rint(counts * counts * 2.0**_SQUARE_FRACTION_BITS).astype(np.int64)
        else:
            whole = frame.astype(np.int64)
            self.total += whole
            whole *= whole
            self.squares += whole
        self.n += 1
        acquired, exposure, monitor = row["acquired_at"], row["exposure_s"], row["monitor"]
        self.time_ns = _sum(self.time_ns, None if acquired is None else nanoseconds_of(acquired))
        self.exposure_ns = _sum(self.exposure_ns, None if exposure is None else round(exposure * _PER_S))
        self.monitor = _sum(self.monitor, None if monitor is None else round(monitor * _PER_COUNT))

    def merge(self, other: FrameSums) -> None:
        """Add the sums over other frames of the same key."""
        self._require(other.total.shape, other.fraction)
        self.n += other.n
        self.total += other.total
        self.squares += other.squares
        self.time_ns = _sum(self.time_ns, other.time_ns)
        self.exposure_ns = _sum(self.exposure_ns, other.exposure_ns)
        self.monitor = _sum(self.monitor, other.monitor)

    def _require(self, shape: tuple[int, ...], fraction: bool) -> None:
        if shape != self.total.shape:
            raise ScanError(f"{self.key} differ in shape: {self.total.shape}, {shape}")
        if fraction != self.fraction:
            raise ScanError(f"{self.key} differ in type: integers and floating-point numbers")

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return self.total.nbytes + self.squares.nbytes

    def partial(self) -> pa.RecordBatch:
        """Return the sums as a record that :func:`merged` understands."""
        large = [None if v is None else str(v) for v in (self.time_ns, self.exposure_ns, self.monitor)]
        values = [*self.key, self.n, self.fraction, *large, *self.total.shape]
        arrays = [pa.array([v], f.type) for v, f in zip(values, _ARROW, strict=False)]
        blobs = [binary_column(a, [a.nbytes]) for a in (self.total, self.squares)]
        return pa.RecordBatch.from_arrays([*arrays, *blobs], schema=_ARROW)

    def record(self) -> pa.RecordBatch:
        """Return the row of the calibration table."""
        schema = table_schema("calibration").arrow()
        means = [
            None if total is None else total / (self.n * unit)
            for total, unit in ((self.time_ns, _PER_S), (self.exposure_ns, _PER_S), (self.monitor, _PER_COUNT))
        ]
        values = [*self.key, self.n, *means, *self.total.shape]
        arrays = [pa.array([v], f.type) for v, f in zip(values, schema, strict=False)]
        total, squares = (a.astype(np.float64) for a in (self.total, self.squares))
        if self.fraction:
            total *= 2.0**-_FRACTION_BITS
            squares *= 2.0**-_SQUARE_FRACTION_BITS
        blobs = [binary_column(a, [a.nbytes]) for a in (total, squares)]
        return pa.RecordBatch.from_arrays([*arrays, *blobs], schema=schema)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


@dataclass
class Summing:
    """Adds frames to the sums of their keys."""

    sums: dict[SumKey, FrameSums] = field(default_factory=dict)
    nbytes: int = 0

    def add(self, frame: NDArray[Any], row: dict[str, Any]) -> None:
        """Add a frame; all darks of a camera position count as one group."""
        group = 0 if row["frame_type"] == "dark" else row["group"]
        key = SumKey(row["tile"], row["counter"], row["frame_type"], row["absorber_mm"], group)
        if key not in self.sums:
            total, squares = np.zeros(frame.shape, np.int64), np.zeros(frame.shape, np.int64)
            self.sums[key] = FrameSums(key, frame.dtype.kind == "f", total, squares)
            self.nbytes += self.sums[key].nbytes
        self.sums[key].add(frame, row)


def partial_sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn frames that are no projections into partial sums; columns as in :data:`FRAME_COLUMNS`."""
    held = Summing()
    for batch in batches:
        for number, row in enumerate(batch.drop_columns(["pixels"]).to_pylist()):
            held.add(pixels_of(batch.column("pixels"), number, row["dtype"], (row["rows"], row["cols"])), row)
            if held.nbytes > HELD_BYTES:
                yield from (sums.partial() for sums in held.sums.values())
                held = Summing()
    yield from (sums.partial() for sums in held.sums.values())


def merged(batches: Iterable[pa.RecordBatch]) -> Iterator[FrameSums]:
    """Merge partial sums; those of a key come one after the other."""
    held: FrameSums | None = None
    for batch in batches:
        for number, row in enumerate(batch.drop_columns(["total", "squares"]).to_pylist()):
            shape = (row["rows"], row["cols"])
            total, squares = (pixels_of(batch.column(c), number, "<i8", shape) for c in ("total", "squares"))
            large = [None if row[c] is None else int(row[c]) for c in ("time_ns", "exposure_ns", "monitor")]
            key = SumKey(*(row[c] for c in _KEY))
            found = FrameSums(key, row["fraction"], total.copy(), squares.copy(), row["n"], *large)
            if held is not None and held.key == key:
                held.merge(found)
                continue
            if held is not None:
                yield held
            held = found
    if held is not None:
        yield held
