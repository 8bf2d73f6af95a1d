"""The flags of bad pixels that lie beside a volume, read without Spark."""

from __future__ import annotations

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from marspipe.errors import RunError
from marspipe.store import storage
from marspipe.store.blobs import checksum
from marspipe.store.schema import table_schema

PIXEL_FLAGS_FOLDER = "_pixel_flags"


def read_pixel_flags(uri: str, tile: int, n_bins: int) -> NDArray[np.uint8]:
    """Read the flags of one camera position, shape (n_bins, v, u), uint8.

    Parameters
    ----------
    uri : str
        The table of flags.
    tile : int
        Camera position.
    n_bins : int
        Energy bins.

    Returns
    -------
    ndarray, shape (n_bins, v, u), uint8
        Bits of :class:`marspipe.preprocess.bad_pixels.PixelFlag`.

    Raises
    ------
    RunError
        If a bin is missing or damaged.
    """
    filesystem, path = storage.arrow_filesystem(uri)
    schema = table_schema("pixel_flags").arrow()
    table = ds.dataset(path, schema=schema, filesystem=filesystem, format="parquet")
    rows = {row["bin"]: row for row in table.to_table(filter=ds.field("tile") == tile).to_pylist()}
    if sorted(rows) != list(range(n_bins)):
        raise RunError(f"{uri}: flags of camera position {tile} for bins {sorted(rows)}, expected {n_bins} bins")
    flags = [np.frombuffer(rows[b]["flags"], np.uint8).reshape(rows[b]["rows"], rows[b]["cols"]) for b in range(n_bins)]
    for bin_, of_bin in enumerate(flags):
        if checksum(of_bin) != rows[bin_]["checksum"]:
            raise RunError(f"{uri}: the flags of camera position {tile}, bin {bin_} do not match their checksum")
    return np.stack(flags)
