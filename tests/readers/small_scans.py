"""A small simulated scan for the readers' tests, and files that tell what is read of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from marspipe.readers import READERS, FrameEntry
from marspipe.readers.manifest_files import FileEntry, resolve_angles
from marspipe.simulate.acquisition import Acquisition, Stream
from marspipe.simulate.settings import SimulationSettings, mars_phantom

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
STREAMS = {
    "projection": [Stream.PROJECTION],
    "open_beam": [Stream.OPEN_BEAM_BEFORE, Stream.OPEN_BEAM_AFTER],
    "dark": [Stream.DARK],
}


def small_scan(**changes: Any) -> Acquisition:
    """Five views of 6 x 20 pixels, three counters."""
    settings: dict[str, Any] = {
        "views": 5,
        "detector_shape": (6, 20),
        "phantom": mars_phantom(0.15),
        "thresholds_kev": (20.0, 33.0, 50.0),
        "open_beams": 2,
        "darks": 2,
        "dead_pixels": 2,
        "noisy_pixels": 2,
        **changes,
    }
    return Acquisition(SimulationSettings(**settings))


def truth(acquisition: Acquisition, streams: list[Stream]) -> NDArray[Any]:
    """All frames of some kinds, counter by counter within each exposure."""
    settings = acquisition.settings
    counts = {Stream.PROJECTION: settings.views, Stream.DARK: settings.darks}
    return np.concatenate(
        [frame for stream in streams for frame in acquisition.frames(stream, counts.get(stream, settings.open_beams))]
    )


def require_same_scan(folder: Path, files: list[dict[str, Any]], acquisition: Acquisition) -> list[FrameEntry]:
    """Require that the files of a manifest hold the scan, pixel by pixel; return the entries of the projections."""
    found: dict[str, list[NDArray[Any]]] = {kind: [] for kind in STREAMS}
    n_counters = len(acquisition.settings.counters)
    projections: list[FrameEntry] = []
    for content in files:
        entry = FileEntry.model_validate(content)
        reader, uri = READERS[entry.reader], str(folder / entry.path)
        with open(uri, "rb") as file:
            index = reader.index(file, uri, dataset=entry.dataset, frame_type=entry.frame_type)
            assert reader.count(file, uri, dataset=entry.dataset, frame_type=entry.frame_type) == len(index)
            assert [(e.exposure_index, e.counter) for e in index] == [divmod(k, n_counters) for k in range(len(index))]
            part = reader.index(file, uri, 2, 3, dataset=entry.dataset, frame_type=entry.frame_type)
            assert part == index[2:5]
            found[entry.frame_type] += list(reader.read_many(file, index))
            assert np.array_equal(reader.read(file, index[-1]), found[entry.frame_type][-1])
            if entry.frame_type == "projection":
                projections = index
                angles = resolve_angles(entry, cast(BinaryIO, file), uri)
                np.testing.assert_allclose(angles, acquisition.geometry.angles_rad, rtol=0, atol=1e-11)
    for kind, streams in STREAMS.items():
        assert np.array_equal(np.stack(found[kind]), truth(acquisition, streams))
    assert all(e.thresholds_kev == acquisition.settings.thresholds_kev for e in projections)
    assert all(abs((e.exposure_s or 0.0) - acquisition.exposure_s) < 1e-12 for e in projections)
    return projections


def require_same_bytes(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    """Require that a writer writes equal bytes twice."""
    contents = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        write(folder)
        contents.append({p.name: p.read_bytes() for p in sorted(folder.iterdir())})
    assert contents[0] == contents[1]


class RangedFile(io.RawIOBase):
    """A local file behind the interface of a ranged reader; counts what is read."""

    def __init__(self, path: str, root: str = "far://host") -> None:
        self.file, self.root, self.name = open(path.removeprefix(root), "rb"), root, path
        self.bytes_read = 0

    def open_other(self, uri: str) -> BinaryIO:
        assert uri.startswith(self.root)
        return cast(BinaryIO, io.BufferedReader(RangedFile(uri, self.root)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        length = self.file.readinto(buffer)
        self.bytes_read += length
        return length

    def close(self) -> None:
        self.file.close()
        super().close()
