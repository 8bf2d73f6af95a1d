"""Raw files and records that could not be read: listed beside the table, so that the rest of a scan can be used."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from marspipe.store import storage

# Names that begin with an underscore are no part of the table for Spark.
LIST_FILE = "_quarantine.parquet"
SUMMARY_FILE = "_quarantine.txt"

_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), False),
        pa.field("offset", pa.int64()),
        pa.field("frame_type", pa.string(), False),
        pa.field("first_view", pa.int32()),
        pa.field("exposures", pa.int32()),
        pa.field("reason", pa.string(), False),
    ]
)


@dataclass(frozen=True)
class Damage:
    """Something in a raw file that cannot be read.

    Attributes
    ----------
    uri : str
        The raw file.
    offset : int or None
        Byte where the damaged part begins; None where the format has no fixed places.
    frame_type : str
        What the file holds.
    first_view : int or None
        First view (exposure of an open beam or dark frame) that is lost; None if unknown.
    exposures : int or None
        How many exposures from there are lost; None if unknown.
    reason : str
        What is wrong, as the reader says it.
    """

    uri: str
    offset: int | None
    frame_type: str
    first_view: int | None
    exposures: int | None
    reason: str

    def sentence(self) -> str:
        """Return one line for people."""
        where = "" if self.offset is None else f", byte {self.offset}"
        lost = ""
        if self.first_view is not None and self.exposures:
            last = self.first_view + self.exposures - 1
            lost = f", {self.frame_type} " + (
                f"{self.first_view}" if self.exposures == 1 else f"{self.first_view} to {last}"
            )
        return f"{self.uri}{where}{lost}: {self.reason}"


def write_quarantine(uri: str, damages: Sequence[Damage]) -> None:
    """Write the list beside a frames table, as Parquet and as text; without damage, remove an earlier one.

    Parameters
    ----------
    uri : str
        Folder of the frames table.
    damages : sequence of Damage
        Of the last ingest.
    """
    files = [storage.join(uri, name) for name in (LIST_FILE, SUMMARY_FILE)]
    if not damages:
        for file in files:
            with suppress(FileNotFoundError):
                storage.remove(file)
        return
    ordered = sorted(damages, key=lambda d: (d.uri, d.offset or 0, d.first_view or 0))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(d) for d in ordered], schema=_SCHEMA), buffer)
    storage.write_bytes(files[0], buffer.getvalue(), overwrite=True)
    text = "".join(d.sentence() + "\n" for d in ordered)
    storage.write_bytes(files[1], text.encode(), overwrite=True)
