"""A look into a raw scan without Spark: headers by index, single exposures by range, open beams summed as they pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from marspipe.pipeline.corrections.calibrate import CalibrationReader
from marspipe.pipeline.corrections.clock import Clock
from marspipe.pipeline.corrections.frame_sums import Summing
from marspipe.pipeline.frames.decode_frames import Decode
from marspipe.pipeline.frames.raw_file import RawFile
from marspipe.pipeline.frames.raw_scan import RawScan, camera_facts
from marspipe.pipeline.frames.scan_parts import Chunk, Part
from marspipe.pipeline.inspection.look import Look, merged_tallies
from marspipe.pipeline.source import Measured
from marspipe.preprocess.calibration import Calibration
from marspipe.readers import READERS, FrameEntry
from marspipe.show.scan_report import FrameTally
from marspipe.store.blobs import pixels_of

# Exposures whose headers are read; of a larger scan as many, evenly spread.
MOST_HEADERS = 4000
_MOST_FILES_LISTED = 8
_MOST_DAMAGES_LISTED = 5


@dataclass(frozen=True, eq=False)
class RawLook(Look):
    """A scan in its raw files."""

    scan: RawScan

    @classmethod
    def of(cls, scan: RawScan, uri: str) -> RawLook:
        """Return a look into a raw scan."""
        manifest = scan.manifest
        return cls(
            uri,
            manifest.scan_id,
            manifest.description,
            Measured.by(scan),
            scan.geometry,
            manifest.tube.model_dump(mode="json") if manifest.tube else None,
            camera_facts(scan).counter_depth_bits,
            scan.pixel_bytes,
            scan,
        )

    @property
    def header_step(self) -> int:
        """Every how many exposures a header is read."""
        return max(1, math.ceil(sum(f.n_exposures for f in self.scan.files) / MOST_HEADERS))

    def tallies(self) -> list[FrameTally]:
        """Count the frames; exposure and acquisition times are those of the headers that are read."""
        found, before = [], 0
        for file in self.scan.files:
            headers = self._headers(file, before)
            before += file.n_exposures
            entry = file.entry
            given = entry.exposure_s
            times = [t for h in headers if (t := given if given is not None else h.exposure_s) is not None]
            spans = [h.acquired_at for h in headers if h.acquired_at is not None]
            for counter in range(len(self.measured.counters)):
                found.append(
                    FrameTally(
                        entry.frame_type,
                        counter,
                        entry.tile,
                        entry.group_number,
                        entry.absorber_mm or 0.0,
                        file.n_exposures,
                        (min(times), max(times)) if times else None,
                        (min(spans), max(spans)) if spans else None,
                    )
                )
        return merged_tallies(found)

    def _headers(self, file: RawFile, before: int) -> list[FrameEntry]:
        """Return the first header of exposures of a file: of all of them, or of some and of the last one."""
        entry, n, step = file.entry, len(self.measured.counters), self.header_step
        reader, kind = READERS[entry.reader], entry.frame_type
        if step == 1 and not file.is_numbered:
            with file.open() as raw:
                count = file.n_exposures * n
                return reader.index(raw, file.uri, 0, count, dataset=entry.dataset, frame_type=kind)[::n]
        numbers = set(range(-before % step, file.n_exposures, step))
        if len(self.scan.files) <= MOST_HEADERS:
            numbers.add(file.n_exposures - 1)
        headers: list[FrameEntry] = []
        for number in sorted(numbers):
            with file.open(number) as raw:
                first = 0 if file.is_numbered else number * n
                headers += reader.index(raw, file.uri_of(number), first, 1, dataset=entry.dataset, frame_type=kind)
        return headers

    def frames(
        self, frame_types: Iterable[str], view: int | None = None, tile: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield frames as rows of the frames table."""
        decode = Decode.of(self.scan)
        for frame_type in frame_types:
            whole = [
                Chunk(file, 0, file.n_exposures)
                for file in self.scan.files
                if file.entry.frame_type == frame_type and tile in (None, file.tile)
            ]
            chunks = whole if view is None else [c for w in whole if (c := w.of_views(view, view + 1)) is not None]
            if not chunks:
                continue
            first = min(chunk.first_view for chunk in chunks)
            end = max(chunk.first_view + chunk.count for chunk in chunks)
            yield from decode.frames(Part(frame_type, first, end - first, tuple(chunks)))

    def spread(self, frame_type: str, count: int) -> list[tuple[int, int]]:
        """Return (view, tile) of a few exposures."""
        files = [file for file in self.scan.files if file.entry.frame_type == frame_type]
        ends = np.cumsum([file.n_exposures for file in files])
        if not files:
            return []
        numbers = np.unique(np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).round().astype(int))
        places = np.searchsorted(ends, numbers, side="right")
        return [
            (int(files[k].first_view + number - ends[k] + files[k].n_exposures), files[k].tile)
            for k, number in zip(places.tolist(), numbers.tolist(), strict=True)
        ]

    def calibrations(self) -> CalibrationReader:
        """Return what turns sums into calibrations, as that of the frames table of this scan would."""
        camera = camera_facts(self.scan)
        edges = {"rows": list(camera.edge_rows), "columns": list(camera.edge_columns)}
        n_counters = len(self.measured.counters)
        return CalibrationReader(self.uri, n_counters, self._clock, edges, camera.counter_depth_bits)

    @cached_property
    def _clock(self) -> Clock:
        timed = all(t.acquired is not None for t in self.tallies() if t.frame_type != "dark")
        return Clock(timed, len(self.geometry))

    def calibration(self, tile: int) -> Calibration:
        """Return the calibration of a camera position; its frames pass one by one, only their sums are held."""
        held = Summing()
        for batch in self.frames(["open_beam", "absorber", "dark"], tile=tile):
            for number, row in enumerate(batch.drop_columns(["pixels"]).to_pylist()):
                shape = (row["rows"], row["cols"])
                held.add(pixels_of(batch.column("pixels"), number, row["dtype"], shape), row)
        return self.calibrations().of_rows(tile, [sums.record() for sums in held.sums.values()])

    def notes(self) -> list[tuple[str, str]]:
        """Return where the frames lie, and what is damaged."""
        files = self.scan.files
        lines = [("pixels", f"{self.pixel_bytes / 2**20:.1f} MiB in {len(files)} files")]
        for file in files[:_MOST_FILES_LISTED]:
            entry, size = file.entry, file.pixel_bytes / 2**20
            text = f"{entry.frame_type}: {file.n_exposures} exposures, {size:.1f} MiB, {entry.reader}    {file.uri}"
            lines.append(("", text))
        if len(files) > _MOST_FILES_LISTED:
            lines.append(("", f"and {len(files) - _MOST_FILES_LISTED} others"))
        if self.header_step > 1:
            lines.append(("headers", f"of every {self.header_step}. exposure only were read: the scan is large"))
        damages = self.scan.damages
        for damage in damages[:_MOST_DAMAGES_LISTED]:
            lines.append(("damaged", f"{damage.uri}: {damage.reason}"))
        if len(damages) > _MOST_DAMAGES_LISTED:
            lines.append(("", f"and {len(damages) - _MOST_DAMAGES_LISTED} others"))
        return lines
