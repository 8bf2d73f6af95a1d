"""What a written volume holds, from the footers of its files: nothing missing, nothing doubled, and the statistics."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marspipe.errors import RunError
from marspipe.pipeline.planning.plan import ReconstructionPlan
from marspipe.store import storage

_PART = re.compile(r"part-.*\.parquet")


@dataclass(frozen=True)
class SlabFile:
    """The file of a backprojection task.

    Attributes
    ----------
    path : str
        Name of the file.
    task : int
        Number of the task.
    bin, z_first, z_last : int
        What it holds, slices counted from the first one of the volume.
    low, high : float
        Smallest and largest voxel, 1/mm.
    totals : tuple of float
        The sum of every tile's voxels, 1/mm.
    """

    path: str
    task: int
    bin: int
    z_first: int
    z_last: int
    low: float
    high: float
    totals: tuple[float, ...]


def slab_files(uri: str, plan: ReconstructionPlan) -> dict[str, SlabFile | None]:
    """Return the slabs in a folder by the name of their file; None for a file that is not one slab of the plan.

    Only footers are read: one small read per file.
    """
    filesystem, root = storage.arrow_filesystem(uri)
    found: dict[str, SlabFile | None] = {}
    for name in filter(_PART.fullmatch, storage.list_dir(uri)):
        try:
            footer = pq.read_metadata(f"{root}/{name}", filesystem=filesystem)
        except (pa.ArrowInvalid, OSError):
            found[name] = None
            continue
        found[name] = _slab_of(name, [_tile(footer.row_group(n)) for n in range(footer.num_row_groups)], plan)
    return found


def _slab_of(name: str, tiles: list[dict[str, Any]], plan: ReconstructionPlan) -> SlabFile | None:
    """Return which slab of the plan these tiles are, if they are just that."""
    firsts = {task.slab.z_first - plan.grid.start[0]: number for number, task in enumerate(plan.slabs)}
    if not tiles or tiles[0]["z"] not in firsts or not 0 <= tiles[0]["bin"] < len(plan.bins):
        return None
    bin_, z_first = tiles[0]["bin"], tiles[0]["z"]
    index = firsts[z_first]
    z_stop = z_first + plan.slabs[index].slab.n_slices
    wanted = [(bin_, z, tile) for z in range(z_first, z_stop) for tile in range(plan.tiles_per_slice)]
    whole = [(t["bin"], t["z"], t["tile"]) for t in tiles] == wanted
    if not whole or any(t["rows"] != plan.tile_rows for t in tiles if t["tile"] < plan.tiles_per_slice - 1):
        return None
    return SlabFile(
        name,
        bin_ * len(plan.slabs) + index,
        bin_,
        z_first,
        z_stop - 1,
        min(t["min"] for t in tiles),
        max(t["max"] for t in tiles),
        tuple(t["mean"] * t["rows"] * t["cols"] for t in tiles),
    )


def take_stock(uri: str, plan: ReconstructionPlan) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Return which file holds which slices of which bin, and the statistics of every bin.

    A file is what one task wrote, one tile a row group.

    Parameters
    ----------
    uri : str
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
        If a slab is missing or doubled, or a file is not one slab of the plan.
    """
    slabs: dict[int, SlabFile] = {}
    for name, slab in slab_files(uri, plan).items():
        if slab is None:
            raise RunError(f"{uri}/{name}: tiles are missing or doubled, this is not one slab of the plan")
        if slab.task in slabs:
            raise RunError(f"{uri}: {slabs[slab.task].path} and {name} hold the same slab")
        slabs[slab.task] = slab
    for number in range(plan.n_tasks):
        if number not in slabs:
            bin_, index = divmod(number, len(plan.slabs))
            raise RunError(f"{uri}: no file of backprojection task {number} (bin {bin_}, slab {index})")
    in_order = [slabs[number] for number in sorted(slabs)]
    files = [{"path": s.path, "bin": s.bin, "z_first": s.z_first, "z_last": s.z_last} for s in in_order]
    statistics = []
    for bin_ in range(len(plan.bins)):
        of_bin = [s for s in in_order if s.bin == bin_]
        # fsum rounds once, so that the mean does not depend on how the volume was cut.
        mean = math.fsum(total for s in of_bin for total in s.totals) / plan.grid.n_voxels
        statistics.append({"min": min(s.low for s in of_bin), "max": max(s.high for s in of_bin), "mean": mean})
    return files, statistics


def _tile(row_group: pq.RowGroupMetaData) -> dict[str, Any]:
    """Return the values of a row group's only row, which are its statistics."""
    if row_group.num_rows != 1:
        raise RunError(f"a row group of a volume must hold one tile, found {row_group.num_rows}")
    columns = (row_group.column(i) for i in range(row_group.num_columns))
    return {c.path_in_schema: c.statistics.min for c in columns if c.statistics is not None}
