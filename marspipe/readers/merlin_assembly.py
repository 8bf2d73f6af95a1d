"""How the chips of a Merlin image lie side by side, and where their borders are.

Layouts are ``1x1``, ``2x2`` and ``Nx1`` (N chips along a row; Merlin writes the number or the letter N). A trailing
``G`` says that the image includes the gaps between the chips: the header's width and height then count the filled gap
pixels, the same number at every seam (514 or 515 pixels for two chips of 256). Without it the chips abut: neighbors in
the image lie on both sides of a gap that takes no pixels, and what lies beyond a seam is shifted by the gap.

A header that counts one chip describes that chip's image whatever its layout says: read-outs for four chips write
``2x2`` with only one chip in use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError

CHIP_SIDE_PX = 256
COLOR_SIDE_PX = 128  # 2 x 2 pixels share their counters
MAX_GAP_PX = 16

_LAYOUT = re.compile(r"([0-9]{1,2}|N)x([12])")

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Assembly:
    """The chips of an image.

    Attributes
    ----------
    chips_u, chips_v : int
        Chips along a row and along a column of the image.
    chip_cols, chip_rows : int
        Pixels of one chip; fewer rows than columns if only a region of rows was read.
    gap_px : int
        Filled pixels between neighboring chips; 0 if the chips abut.
    """

    chips_u: int
    chips_v: int
    chip_cols: int
    chip_rows: int
    gap_px: int = 0

    @property
    def chips(self) -> int:
        """Number of chips."""
        return self.chips_u * self.chips_v

    @property
    def cols(self) -> int:
        """Width of the image in px."""
        return self.chips_u * self.chip_cols + (self.chips_u - 1) * self.gap_px

    @property
    def rows(self) -> int:
        """Height of the image in px."""
        return self.chips_v * self.chip_rows + (self.chips_v - 1) * self.gap_px


@dataclass(frozen=True)
class ChipEdges:
    """Where the chips of an image begin and end, in stored pixels.

    Attributes
    ----------
    row_spans, column_spans : tuple of (first, past the last)
        Rows and columns of the chips, growing; the pixels between two spans are gap.
    """

    row_spans: Spans
    column_spans: Spans

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (rows, columns) of the image."""
        return self.row_spans[-1][1], self.column_spans[-1][1]

    def gap_mask(self) -> NDArray[np.bool_]:
        """Return the pixels that lie on no chip, shape (rows, columns), True in the gaps."""
        rows, cols = self.shape
        on_rows, on_cols = np.zeros(rows, np.bool_), np.zeros(cols, np.bool_)
        for first, end in self.row_spans:
            on_rows[first:end] = True
        for first, end in self.column_spans:
            on_cols[first:end] = True
        return np.logical_not(on_rows[:, None] & on_cols[None, :])

    def edge_mask(self, width_px: int = 1, *, outer: bool = False) -> NDArray[np.bool_]:
        """Return the chip pixels next to a seam.

        Parameters
        ----------
        width_px : int
            Pixels counted from the seam.
        outer : bool
            Whether the rim of the whole image counts as an edge too.

        Returns
        -------
        ndarray of bool, shape (rows, columns)
            True at the edges; False in the gaps.
        """
        rows, cols = self.shape
        near_rows = _near_edges(self.row_spans, rows, width_px, outer)
        near_cols = _near_edges(self.column_spans, cols, width_px, outer)
        return (near_rows[:, None] | near_cols[None, :]) & np.logical_not(self.gap_mask())


def edges_of(assembly: Assembly) -> ChipEdges:
    """Return the borders of the chips of an assembly."""
    return ChipEdges(
        _spans(assembly.chips_v, assembly.chip_rows, assembly.gap_px),
        _spans(assembly.chips_u, assembly.chip_cols, assembly.gap_px),
    )


def split_image(layout: str, chips: int, rows: int, cols: int, color_mode: bool, where: str) -> Assembly:
    """Return the chips of an unpacked image.

    Parameters
    ----------
    layout : str
        As in the header, without padding: ``1x1``, ``2x2``, ``4x1``, ``Nx1``, with or without ``G``.
    chips, rows, cols : int
        Number of chips and size of the image in px, from the header.
    color_mode : bool
        Whether 2 x 2 pixels share their counters; a chip is then 128 pixels wide.
    where : str
        File and record, for messages.

    Raises
    ------
    RawFormatError
        If the layout is unknown, or contradicts the number of chips or the size of the image.
    """
    n_u, n_v = chips_of(layout, chips, where)
    if n_u * n_v == 1:
        return Assembly(1, 1, cols, rows)
    side = COLOR_SIDE_PX if color_mode else CHIP_SIDE_PX
    gap, rest = divmod(cols - n_u * side, n_u - 1)
    highest = MAX_GAP_PX if layout.endswith("G") else 0
    if rest or not 0 <= gap <= highest:
        gaps = f" plus gaps of up to {MAX_GAP_PX} px" if highest else ""
        raise RawFormatError(
            f"{where}: layout {layout} with chips of {side} px is {n_u * side} px wide{gaps}, "
            f"but the header says {cols}"
        )
    chip_rows, rest = divmod(rows - (n_v - 1) * gap, n_v)
    if rest or not 1 <= chip_rows <= side:
        raise RawFormatError(
            f"{where}: layout {layout} with a gap of {gap} px cannot be {rows} px high: "
            f"expected {n_v} x 1 to {side} rows plus {(n_v - 1) * gap}"
        )
    return Assembly(n_u, n_v, side, chip_rows, gap)


def split_raw(layout: str, chips: int, rows: int, cols: int, depth: int, where: str) -> Assembly:
    """Return the chips of the image that a raw (R64) record decodes to.

    Parameters
    ----------
    layout, chips, where
        As in :func:`split_image`; the read-out stream has no gaps, so ``G`` means nothing.
    rows, cols : int
        As the header gives them: all chips side by side in one row, twice as wide for 24 bit.
    depth : {1, 6, 12, 24}
        Counter depth in bits.

    Raises
    ------
    RawFormatError
        As :func:`split_image`; also for ``Nx1``, whose order of chips in the stream is not documented.
    """
    n_u, n_v = chips_of(layout, chips, where)
    if (n_u, n_v) not in ((1, 1), (2, 2)):
        raise RawFormatError(
            f"{where}: raw (R64) images of layout {layout} are not read, only 1x1 and 2x2; "
            "let Merlin write unpacked files (U08, U16, U32)"
        )
    width = n_u * n_v * CHIP_SIDE_PX * (2 if depth == 24 else 1)
    if cols != width:
        raise RawFormatError(
            f"{where}: a raw (R64) image of {n_u * n_v} chip(s) and {depth} bit is {width} px wide in its header, "
            f"got {cols}"
        )
    if rows > CHIP_SIDE_PX:
        raise RawFormatError(f"{where}: a raw (R64) image has at most {CHIP_SIDE_PX} rows in its header, got {rows}")
    return Assembly(n_u, n_v, CHIP_SIDE_PX, rows)


def chips_of(layout: str, chips: int, where: str) -> tuple[int, int]:
    """Return the number of chips (along a row, along a column) of a layout; RawFormatError if it is not known."""
    name = layout.removesuffix("G")
    match = _LAYOUT.fullmatch(name)
    if match is None or (match[2] == "2" and name != "2x2") or match[1] in ("0", "00"):
        raise RawFormatError(f"{where}: chip layout {layout!r} is not read; only 1x1, 2x2 and Nx1 are")
    n_u, n_v = chips if match[1] == "N" else int(match[1]), int(match[2])
    if chips == 1 and (n_u, n_v) == (2, 2):
        return 1, 1
    if chips != n_u * n_v:
        raise RawFormatError(f"{where}: layout {layout} has {n_u * n_v} chip(s), but the header counts {chips}")
    return n_u, n_v


def _spans(chips: int, side: int, gap: int) -> Spans:
    return tuple((n * (side + gap), n * (side + gap) + side) for n in range(chips))


def _near_edges(spans: Spans, length: int, width_px: int, outer: bool) -> NDArray[np.bool_]:
    near = np.zeros(length, np.bool_)
    for first, end in spans:
        width = min(max(width_px, 0), end - first)
        if outer or first > 0:
            near[first : first + width] = True
        if outer or end < length:
            near[end - width : end] = True
    return near
