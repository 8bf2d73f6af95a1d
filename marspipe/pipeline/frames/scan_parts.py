"""A raw scan cut into parts of whole views: all camera positions of a view, whatever files they lie in."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from marspipe.pipeline.frames.raw_file import RawFile
from marspipe.pipeline.frames.raw_scan import RawScan

MIB = 2**20
LARGEST_PART_BYTES = 128 * MIB
SMALLEST_PART_BYTES = 4 * MIB
# Not below a block of HDFS, where the scan is large enough.
FILE_BYTES = 160 * MIB


@dataclass(frozen=True)
class Chunk:
    """Exposures ``first .. first + count`` of one raw file."""

    file: RawFile
    first: int
    count: int

    @property
    def first_view(self) -> int:
        """View of the first exposure."""
        return self.file.first_view + self.first

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels."""
        return self.count * self.file.exposure_bytes

    def of_views(self, first: int, end: int) -> Chunk | None:
        """Return what lies in the views ``first .. end``; None if nothing does."""
        start, stop = max(self.first_view, first), min(self.first_view + self.count, end)
        return Chunk(self.file, start - self.file.first_view, stop - start) if stop > start else None


@dataclass(frozen=True)
class Part:
    """The views ``first_view .. first_view + n_views`` of one frame type, at all camera positions."""

    frame_type: str
    first_view: int
    n_views: int
    chunks: tuple[Chunk, ...]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels."""
        return sum(chunk.pixel_bytes for chunk in self.chunks)

    def blocks(self, n_bytes: int) -> list[list[Chunk]]:
        """Cut the part into blocks of whole views, of a few bytes if there are several camera positions.

        In a block, chunks stand in the order of their positions. With one position the part is one block, which need
        not be held: it is in the order of the views already.
        """
        ordered = sorted(self.chunks, key=lambda chunk: (chunk.file.tile, chunk.first_view))
        if len({chunk.file.tile for chunk in ordered}) == 1:
            return [ordered]
        step = max(1, n_bytes * self.n_views // max(1, self.pixel_bytes))
        end = self.first_view + self.n_views
        return [
            [found for chunk in ordered if (found := chunk.of_views(first, min(first + step, end))) is not None]
            for first in range(self.first_view, end, step)
        ]


def cut(scan: RawScan, slots: int) -> list[Part]:
    """Cut a scan into parts of whole views, a few for every task slot, none too large or too small.

    The parts of a frame type are equal and as many as fill the slots: what reads the table later is cut along the
    files that they become.
    """
    wanted = min(LARGEST_PART_BYTES, max(SMALLEST_PART_BYTES, scan.pixel_bytes // (4 * slots)))
    of_type: dict[str, list[RawFile]] = defaultdict(list)
    for file in scan.files:
        of_type[file.entry.frame_type].append(file)
    parts = []
    for frame_type, files in sorted(of_type.items()):
        begin = min(file.first_view for file in files)
        end = max(file.first_view + file.n_exposures for file in files)
        count = math.ceil(sum(file.pixel_bytes for file in files) / wanted)
        count = count if count == 1 else math.ceil(count / slots) * slots
        step = math.ceil((end - begin) / count)
        found: dict[int, list[Chunk]] = defaultdict(list)
        for file in files:
            whole = Chunk(file, 0, file.n_exposures)
            last = file.first_view + file.n_exposures - 1
            for place in range((file.first_view - begin) // step, (last - begin) // step + 1):
                chunk = whole.of_views(begin + place * step, begin + (place + 1) * step)
                assert chunk is not None
                found[place].append(chunk)
        for place, chunks in sorted(found.items()):
            first = begin + place * step
            parts.append(Part(frame_type, first, min(step, end - first), tuple(chunks)))
    return parts


def bundle(parts: list[Part], slots: int) -> list[list[Part]]:
    """Put parts together, in the order of their views, into what one task writes into one file."""
    pixel_bytes = sum(part.pixel_bytes for part in parts)
    wanted = min(FILE_BYTES, max(SMALLEST_PART_BYTES, math.ceil(pixel_bytes / slots)))
    tasks: list[list[Part]] = []
    size = wanted
    for part in parts:
        if size >= wanted:
            tasks.append([])
            size = 0
        tasks[-1].append(part)
        size += part.pixel_bytes
    return tasks
