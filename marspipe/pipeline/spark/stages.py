"""How the objects that do a stage's work become what Spark runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def as_function(stage: Stage) -> Stage:
    """Return a stage as the plain function that Spark wants."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from stage(batches)

    return run
