"""Which frames a table holds already, and what an ingest has to do with a view of which some are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.pipeline.frames.decode_frames import Exposure

_TYPES = ("projection", "open_beam", "dark", "absorber")
_VIEW_SHIFT, _TILE_SHIFT, _TYPE_SHIFT = 24, 8, 60
KEY_COLUMNS = ("frame_type", "view", "tile", "counter")


def frame_keys(frame_type: Any, view: Any, tile: Any, counter: Any) -> NDArray[np.int64]:
    """Return one number per frame that says which frame it is, in the order of type, view, tile, counter.

    Parameters
    ----------
    frame_type : sequence of str
        Types.
    view, tile, counter : array_like of int
        Views below 2**31, camera positions below 2**16 and counters below 2**8.
    """
    kind = np.array([_TYPES.index(name) for name in frame_type], dtype=np.int64)
    place = np.asarray(view, np.int64) << _VIEW_SHIFT | np.asarray(tile, np.int64) << _TILE_SHIFT
    return kind << _TYPE_SHIFT | place | np.asarray(counter, np.int64)


def keys_of(rows: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
    """Return the :func:`frame_keys` of rows of the frames table."""
    return frame_keys(*([row[name] for row in rows] for name in KEY_COLUMNS))


@dataclass
class ToDo:
    """What is to be done with the frames of a view.

    Attributes
    ----------
    write : list of Exposure
        What goes into the table.
    added : int
        How many of these frames belong to exposures that are new or replace others.
    differing : list of dict
        Rows of frames that differ from what is stored.
    superseded : list of int
        Keys of stored frames that give way to those written.
    """

    write: list[Exposure] = field(default_factory=list)
    added: int = 0
    differing: list[dict[str, Any]] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class StoredFrames:
    """Which frames a table holds already, with their checksums; keys ascend."""

    keys: NDArray[np.int64]
    checksums: NDArray[np.int64]

    def to_do(self, view: Sequence[Exposure], replace: bool) -> ToDo:
        """Return what is to be done with all exposures of a view that could be read.

        A view stays together: if a frame of it is new or replaced, all of them are written anew. Where a stored one
        cannot be read any more, the view stays as it is.

        Parameters
        ----------
        view : sequence of Exposure
            Of one frame type and view.
        replace : bool
            Whether stored frames that differ are replaced.
        """
        rows = [row for exposure in view for row in exposure.rows]
        keys = keys_of(rows)
        places = np.searchsorted(self.keys, keys)
        known = places < self.keys.size
        known[known] = self.keys[places[known]] == keys[known]
        same = known.copy()
        same[known] = self.checksums[places[known]] == [r["checksum"] for r, k in zip(rows, known, strict=True) if k]
        differing = [row for row, k, s in zip(rows, known, same, strict=True) if k and not s]
        if same.all() or (differing and not replace):
            return ToDo(differing=differing)
        first = np.int64(keys[0] >> _VIEW_SHIFT << _VIEW_SHIFT)
        low, high = np.searchsorted(self.keys, (first, first + (1 << _VIEW_SHIFT)))
        stored = self.keys[low:high]
        if not np.isin(stored, keys).all():
            return ToDo()
        parts = np.split(same, np.cumsum([len(exposure.rows) for exposure in view])[:-1])
        added = sum(part.size for part in parts if not part.all())
        return ToDo(list(view), added, differing, stored.tolist())
