"""Volumes written by hand, as the pipeline writes them: one tile a row group, one slab a file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from marspipe.scan.grid import VolumeGrid
from marspipe.store import storage
from marspipe.store.blobs import checksum
from marspipe.store.commit import commit
from marspipe.store.schema import table_schema

SHAPE = (8, 10, 12)


def write_volume(
    uri: str, shape: tuple[int, int, int] = SHAPE, tile_rows: int = 4, slabs: int = 2, bins: int = 2
) -> NDArray[np.float32]:
    """Write a volume of noise; return its voxels, [bin, z, y, x]."""
    nz = shape[0]
    voxels = np.random.default_rng(7).random((bins, *shape), dtype=np.float32)
    files = []
    for bin_ in range(bins):
        for slab in range(slabs):
            z_first, z_stop = slab * nz // slabs, (slab + 1) * nz // slabs
            name = f"part-{bin_}-{slab}.parquet"
            content = write_slab(voxels[bin_], bin_, z_first, z_stop, tile_rows)
            storage.write_bytes(storage.join(uri, name), content)
            files.append({"path": name, "bin": bin_, "z_first": z_first, "z_last": z_stop - 1})
    energy = [{"low_kev": 20.0 + 10 * b, "high_kev": 30.0 + 10 * b} for b in range(bins)]
    statistics = [{name: float(getattr(v, name)()) for name in ("min", "max", "mean")} for v in voxels]
    grid = VolumeGrid(shape, (0.1, 0.1, 0.1)).to_dict()
    commit(
        uri,
        {"kind": "volume", "units": "1/mm", "bins": energy, "grid": grid, "statistics": statistics, "files": files},
    )
    return voxels


def write_slab(voxels: NDArray[np.float32], bin_: int, z_first: int, z_stop: int, tile_rows: int) -> memoryview:
    """Return a slab of a bin's voxels [z, y, x] as a Parquet file."""
    schema = table_schema("volume").arrow()
    statistics = [name for name in schema.names if name != "pixels"]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, schema, compression="none", use_dictionary=False, write_statistics=statistics
    ) as writer:
        for z in range(z_first, z_stop):
            for tile, first in enumerate(range(0, voxels.shape[1], tile_rows)):
                pixels = voxels[z, first : first + tile_rows]
                row = {
                    "bin": bin_,
                    "z": z,
                    "tile": tile,
                    "y_first": first,
                    "rows": pixels.shape[0],
                    "cols": pixels.shape[1],
                    "pixels": pixels.tobytes(),
                    "min": float(pixels.min()),
                    "max": float(pixels.max()),
                    "mean": float(pixels.mean()),
                    "checksum": checksum(pixels),
                }
                writer.write_table(pa.Table.from_pylist([row], schema=schema))
    return memoryview(sink.getvalue())
