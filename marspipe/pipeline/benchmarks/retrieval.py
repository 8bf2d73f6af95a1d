"""How long a slice and all slices of a stored volume take to read, beside the same as DICOM files and from a PACS.

No Spark, no JVM.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from marspipe.bench.measure import Result
from marspipe.dicom.ct import series_files
from marspipe.dicom.pacs.client import RemoteSeries
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.series import SeriesHeader, series_header
from marspipe.dicom.stored_slice import read_slice
from marspipe.errors import RunError
from marspipe.pipeline.pacs.peers import Peer, named_peer
from marspipe.pipeline.pacs.publish import publish
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid
from marspipe.show.progress import Progress
from marspipe.store import hdfs, storage
from marspipe.store.blobs import checksum
from marspipe.store.commit import commit
from marspipe.store.schema import table_schema
from marspipe.store.volume import open_volume

MEDIAN_BAR_MS, P95_BAR_MS = 50, 150
_TILE_BYTES = 1 << 20
_SLABS = 2
_COLD = 10
_WHOLE = 3
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def bench_retrieval(
    folder_uri: str, side: int = 512, slices: int = 512, reads: int = 200, pacs_url: str | None = None
) -> list[Result]:
    """Measure single slices and the whole series of a volume below a folder, which is removed at the end.

    Parameters
    ----------
    folder_uri : str
        A path or ``hdfs://``.
    side, slices : int
        Voxels along x and y; along z.
    reads : int
        Slices that are read, at random.
    pacs_url : str, optional
        A PACS with DICOMweb that the same series is sent to, and read from by WADO-RS. It stays there.
    """
    base = storage.join(folder_uri, f"marspipe-bench-{uuid4().hex}")
    volume_uri, dicom_uri = storage.join(base, "volume"), storage.join(base, "dicom")
    chance = random.Random(1)  # which slices; nothing secret
    peer = None if pacs_url is None else named_peer(pacs_url)
    try:
        write_noise_volume(volume_uri, (slices, side, side))
        volume = open_volume(volume_uri)
        header = series_header(volume, 0)
        paths = []
        for file in series_files(volume, header):
            paths.append(storage.join(dicom_uri, file.path))
            storage.write_bytes(paths[-1], file.content)

        def cold() -> None:
            open_volume(volume_uri)[0][chance.randrange(slices)]

        def warm() -> None:
            volume[0][chance.randrange(slices)]

        def dicom() -> None:
            read_slice(storage.read_bytes(chance.choice(paths)))

        def whole() -> None:
            _check(np.asarray(volume[0]), (slices, side, side))

        def all_files() -> None:
            _check(np.stack([read_slice(storage.read_bytes(path)) for path in paths]), (slices, side, side))

        warm()
        place = "HDFS" if storage.split(folder_uri)[0] else "local disk"
        size = f"{side} x {side} of {slices} slices, {place}"
        bars = {"median_ms": f"< {MEDIAN_BAR_MS}", "p95_ms": f"< {P95_BAR_MS}"}
        results = [
            _measured("slice: open the volume and read", size, cold, _COLD, {}),
            _measured("slice: volume is open", size, warm, reads, bars),
            _measured("slice: DICOM file", size, dicom, reads, {}),
            _measured("series: volume", size, whole, _WHOLE, {}),
            _measured("series: DICOM files", size, all_files, _WHOLE, {}),
        ]
        if peer is not None:
            results += _from_pacs(peer, dicom_uri, header, reads, chance)
        return results
    finally:
        storage.remove_tree(base)


def _from_pacs(peer: Peer, dicom_uri: str, header: SeriesHeader, reads: int, chance: random.Random) -> list[Result]:
    """Send a series to a PACS and read it back by WADO-RS, with one connection for a slice and four for the series."""
    sent = publish(dicom_uri, peer, progress=Progress(Console(quiet=True)), commit="no")
    if sent.error is not None:
        raise RunError(sent.error)
    series = RemoteSeries(header.study_uid, header.series_uid)
    slices, rows, columns = header.shape
    uids = [header.instance_uid(z) for z in range(slices)]
    with connect(peer) as client:

        def fetched(wanted: list[str], lanes: int) -> list[NDArray[np.float64]]:
            found: list[NDArray[np.float64]] = []

            def begin() -> _Unkept:
                return _Unkept(lambda content: found.append(read_slice(content)))

            client.retrieve(series, dict.fromkeys(wanted, CT_IMAGE), begin, lambda _: None, lanes=lanes)
            return found

        def one() -> None:
            _check(np.stack(fetched([chance.choice(uids)], 1)), (1, rows, columns))

        def whole() -> None:
            _check(np.stack(fetched(uids, 4)), header.shape)

        size = f"{rows} x {columns} of {slices} slices, {peer.url}"
        return [
            _measured("slice: PACS by WADO-RS", size, one, reads, {}),
            _measured("series: PACS by WADO-RS", size, whole, _WHOLE, {}),
        ]


class _Unkept:
    """A file for an instance that is read when it is whole, and dropped."""

    def __init__(self, read: Callable[[bytes], None]) -> None:
        self._file, self._read = NamedTemporaryFile(suffix=".dcm"), read
        self.path = Path(self._file.name)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def place(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        del study_uid, series_uid, sop_uid
        self._read(self.path.read_bytes())
        return True

    def discard(self) -> None:
        self._file.close()


def _check(stack: NDArray[np.floating], shape: tuple[int, int, int]) -> None:
    if stack.shape != shape:
        raise RunError(f"read {stack.shape} voxels instead of {shape}")


def _measured(name: str, size: str, work: Callable[[], None], times: int, bars: dict[str, str]) -> Result:
    taken = []
    with _counted() as count:
        for _ in range(times):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    median, p95 = np.percentile(taken, [50, 95])
    figures = {"median_ms": 1e3 * float(median), "p95_ms": 1e3 * float(p95)}
    if count["reads"]:
        figures |= {"kib_read": count["bytes"] / times / 1024, "ranged_reads": count["reads"] / times}
    return Result(name, size, float(median), 0.0, figures, bars)


@contextmanager
def _counted() -> Iterator[dict[str, int]]:
    """Count what is asked from HDFS inside; local files are not counted."""
    count, original = {"reads": 0, "bytes": 0}, hdfs.RangedFile.readinto

    def readinto(self: hdfs.RangedFile, buffer: Any) -> int:
        got = original(self, buffer)
        count["reads"] += 1
        count["bytes"] += got
        return got

    hdfs.RangedFile.readinto = readinto  # type: ignore[method-assign]
    try:
        yield count
    finally:
        hdfs.RangedFile.readinto = original  # type: ignore[method-assign]


def write_noise_volume(uri: str, shape: tuple[int, int, int]) -> None:
    """Write a volume of noise as the pipeline does: one tile a row group, one slab a file."""
    nz, ny, nx = shape
    rng, files = np.random.default_rng(1), []
    bounds = [nz * n // _SLABS for n in range(_SLABS + 1)]
    for number, (first, stop) in enumerate(pairwise(bounds)):
        name = f"part-{number}.parquet"
        storage.write_bytes(storage.join(uri, name), _slab(rng, range(first, stop), (ny, nx)))
        files.append({"path": name, "bin": 0, "z_first": first, "z_last": stop - 1})
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(8, 8),
        pixel_pitch_mm=(1.0, 1.0),
        angles_rad=np.linspace(0, 2 * np.pi, 8, endpoint=False),
    )
    metadata = {
        "kind": "volume",
        "scan_id": "bench",
        "description": "",
        "units": "1/mm",
        "bins": [{"low_kev": 20.0, "high_kev": 120.0, "label": "20 to 120 keV", "mode": "charge_summing"}],
        "grid": VolumeGrid(shape, (0.1, 0.1, 0.1)).to_dict(),
        "geometry": geometry.to_dict(),
        "statistics": [{"min": 0.0, "max": 1.0, "mean": 0.5}],
        "content_hash": "0" * 64,
        "recipe_hash": "0" * 16,
        "tube": None,
        "acquired_at": None,
        "version": "0",
        "recipe": {},
        "filter": {"window": "none", "cutoff": 1.0},
        "redundancy": {"name": "full", "description": ""},
        "files": files,
    }
    commit(uri, metadata)


def _slab(rng: np.random.Generator, slices: range, shape: tuple[int, int]) -> memoryview:
    ny, nx = shape
    schema, sink = table_schema("volume").arrow(), pa.BufferOutputStream()
    tile_rows = max(1, min(ny, _TILE_BYTES // (4 * nx)))
    statistics = [name for name in schema.names if name != "pixels"]
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False, write_statistics=statistics) as out:
        for z in slices:
            for tile in range(math.ceil(ny / tile_rows)):
                first = tile * tile_rows
                pixels = rng.random((min(tile_rows, ny - first), nx), dtype=np.float32)
                numbers = [0, z, tile, first, len(pixels), nx]
                values = [float(pixels.min()), float(pixels.max()), float(pixels.mean()), checksum(pixels)]
                row = dict(zip(schema.names, [*numbers, pixels.tobytes(), *values], strict=True))
                out.write_table(pa.Table.from_pylist([row], schema=schema))
    return memoryview(sink.getvalue())
