"""Views put together from the line integrals of all camera positions.

The semantics are those of :func:`marspipe.preprocess.tiles.stitch`; weights and windows are found once, for the pixels
that are bad in every view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.preprocess.bad_pixels import PixelFlag
from marspipe.preprocess.chain_settings import ChainSettings
from marspipe.preprocess.inpaint import BinFillers
from marspipe.preprocess.tiles import TileLayout, TilePlacement, level_differences

Masks = NDArray[np.bool_]


class Stitcher:
    """Puts the frames of all camera positions together, bin by bin.

    A pixel that is bad in one position is taken from another one that sees it; what no position has a good pixel for is
    filled afterwards, on the wide frame.

    Parameters
    ----------
    layout : TileLayout
        Where the positions lie.
    flags : sequence of ndarray, shape (n_bins, v, u), uint8
        Flags of every position, in the order of the layout.
    settings : ChainSettings, optional
        Its ``tiles``, ``inpaint_radius_px`` and ``gap_px``.

    Attributes
    ----------
    flags : ndarray, shape (n_bins, V, U), uint8
        Flags of the wide detector: 0 where a position has a good pixel, else the bits of all pixels that lie there;
        "dead" where no position looks.

    Raises
    ------
    ScanError
        If flags do not fit the layout, or a bin has no good pixel.
    """

    def __init__(
        self, layout: TileLayout, flags: Sequence[NDArray[np.uint8]], settings: ChainSettings | None = None
    ) -> None:
        self._settings = settings or ChainSettings()
        self._layout = layout
        n_tiles = len(layout.origins_px)
        if len(flags) != n_tiles:
            raise ScanError(f"flags of {len(flags)} camera positions, expected {n_tiles}")
        for tile, of_tile in enumerate(flags):
            expected = (len(flags[0]), *layout.tile_shape)
            if of_tile.shape != expected:
                raise ScanError(f"camera position {tile}: flags of shape {of_tile.shape}, expected {expected}")
        self._bad = [of_tile != 0 for of_tile in flags]
        self._shape = (len(flags[0]), *layout.tile_shape)
        self._bins = [self._placed(self._bad, b) for b in range(self._shape[0])]
        self.flags = np.zeros((self._shape[0], *layout.shape), dtype=np.uint8)
        for b, wide in enumerate(self.flags):
            for of_tile, placement in zip(flags, self._bins[b][0], strict=True):
                wide[placement.window] |= placement.reached(of_tile[b])
            hole = self._bins[b][2]
            wide[~hole] = 0
            wide[hole & (wide == 0)] = np.uint8(PixelFlag.DEAD)
            if hole.all():
                raise ScanError(f"energy bin {b}: no camera position has a good pixel")
        labels = [str(b) for b in range(self._shape[0])]
        self._fillers = BinFillers(self.flags != 0, labels, self._settings.inpaint_radius_px, self._settings.gap_px)

    def _placed(self, bad: Sequence[Masks], b: int) -> tuple[list[TilePlacement], list[NDArray[np.float32]], Masks]:
        """Return the positions of one bin, their shares in every pixel, which add up to 1, and where there is none."""
        tiles = self._settings.tiles
        placements = [
            TilePlacement(self._layout, k, mask[b], interpolation=tiles.interpolation, feather_px=tiles.feather_px)
            for k, mask in enumerate(bad)
        ]
        total = np.zeros(self._layout.shape, dtype=np.float32)
        for placement in placements:
            total[placement.window] += placement.weights
        hole = total == 0
        total[hole] = 1
        # Divided once for all frames; alone in a pixel, a position has exactly 1 there.
        return placements, [p.weights / total[p.window] for p in placements], hole

    def __call__(
        self, integrals: Sequence[NDArray[np.float32]], bad: Sequence[Masks | None] | None = None
    ) -> NDArray[np.float32]:
        """Return the wide frames of one view.

        Parameters
        ----------
        integrals : sequence of ndarray, shape (n_bins, v, u), float32
            Line integrals of every position, in the order of the layout; anything in bad pixels.
        bad : sequence of ndarray, shape (n_bins, v, u), bool, or None, optional
            What is bad in this view, per position; None where that are the flags.

        Returns
        -------
        ndarray, shape (n_bins, V, U), float32
            New array, holes filled.

        Raises
        ------
        ScanError
            If positions or shapes do not fit, or a bin has no good pixel.
        """
        masks: list[Masks | None] = [None] * len(integrals) if bad is None else list(bad)
        if len(integrals) != len(self._bad) or len(masks) != len(self._bad):
            raise ScanError(f"a view of {len(integrals)} camera positions, expected {len(self._bad)}")
        for tile, part in enumerate(integrals):
            if part.shape != self._shape:
                raise ScanError(f"camera position {tile}: line integrals of shape {part.shape}, expected {self._shape}")
        for tile, mask in enumerate(masks):
            if mask is not None and mask.shape != self._shape:
                raise ScanError(f"camera position {tile}: a mask of shape {mask.shape}, expected {self._shape}")
        more = None
        if any(mask is not None for mask in masks):
            more = [always if mask is None else mask | always for mask, always in zip(masks, self._bad, strict=True)]
        result = np.zeros(self.flags.shape, dtype=np.float32)
        holes = None if more is None else np.empty(result.shape, dtype=np.bool_)
        for b, wide in enumerate(result):
            placements, shares, hole = self._bins[b]
            if more is not None and any((m[b] != a[b]).any() for m, a in zip(more, self._bad, strict=True)):
                placements, shares, hole = self._placed(more, b)
            if holes is not None:
                holes[b] = hole
            self._join([part[b] for part in integrals], placements, shares, wide)
        self._fillers.fill(result, holes)
        return result

    def _join(
        self,
        parts: Sequence[NDArray[np.float32]],
        placements: Sequence[TilePlacement],
        shares: Sequence[NDArray[np.float32]],
        wide: NDArray[np.float32],
    ) -> None:
        placed = [(placement, placement.values(part)) for placement, part in zip(placements, parts, strict=True)]
        equalize = self._settings.tiles.equalize
        levels = None if equalize == "none" else level_differences(placed, (), equalize)
        for k, (placement, values) in enumerate(placed):
            if levels is not None:
                values = values - np.float32(levels[k])
            wide[placement.window] += shares[k] * values
