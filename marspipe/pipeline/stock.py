"""What a written volume holds, from the footers of its files: nothing missing, nothing doubled, and the statistics."""

from __future__ import annotations

import re
from typing import Any

import pyarrow.parquet as pq

from marspipe.errors import RunError
from marspipe.pipeline.plan import ReconstructionPlan
from marspipe.store import storage

_PART = re.compile(r"part-(\d+)-.*\.parquet")


def take_stock(volume_uri: str, plan: ReconstructionPlan) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Return which file holds which slices of which bin, and the statistics of every bin.

    A file is what one task wrote, one tile a row group. Only footers are read: one small read per file.

    Parameters
    ----------
    volume_uri : str
        Folder with the files of a volume that is not yet committed.
    plan : ReconstructionPlan
        What was to be written.

    Returns
    -------
    files : list of dict
        ``path``, ``bin``, ``z_first``, ``z_last``, in order.
    statistics : list of dict
        Per bin ``min``, ``max``, ``mean``, 1/mm.

    Raises
    ------
    RunError
        If a tile is missing or doubled.
    """
    filesystem, root = storage.arrow_filesystem(volume_uri)
    paths = {int(match[1]): name for name in storage.list_dir(volume_uri) if (match := _PART.fullmatch(name))}
    files: list[dict[str, Any]] = []
    statistics: list[dict[str, float]] = []
    for bin_ in range(len(plan.bins)):
        lows, highs, total, expected = [], [], 0.0, 0
        for index, task in enumerate(plan.slabs):
            number = bin_ * len(plan.slabs) + index
            if number not in paths:
                raise RunError(f"{volume_uri}: no file of backprojection task {number} (bin {bin_}, slab {index})")
            footer = pq.read_metadata(f"{root}/{paths[number]}", filesystem=filesystem)
            tiles = [_tile(footer.row_group(group)) for group in range(footer.num_row_groups)]
            wanted = [
                (bin_, z, tile)
                for z in range(expected, expected + task.slab.n_slices)
                for tile in range(plan.tiles_per_slice)
            ]
            if [(t["bin"], t["z"], t["tile"]) for t in tiles] != wanted:
                raise RunError(
                    f"{volume_uri}/{paths[number]}: tiles of bin {bin_}, slab {index} are missing or doubled"
                )
            files.append(
                {
                    "path": paths[number],
                    "bin": bin_,
                    "z_first": expected,
                    "z_last": expected + task.slab.n_slices - 1,
                }
            )
            expected += task.slab.n_slices
            lows += [t["min"] for t in tiles]
            highs += [t["max"] for t in tiles]
            total += sum(t["mean"] * t["rows"] * t["cols"] for t in tiles)
        statistics.append({"min": min(lows), "max": max(highs), "mean": total / plan.grid.n_voxels})
    return files, statistics


def _tile(row_group: pq.RowGroupMetaData) -> dict[str, Any]:
    """Return the values of a row group's only row, which are its statistics."""
    if row_group.num_rows != 1:
        raise RunError(f"a row group of a volume must hold one tile, found {row_group.num_rows}")
    columns = (row_group.column(i) for i in range(row_group.num_columns))
    return {c.path_in_schema: c.statistics.min for c in columns if c.statistics is not None}
