"""How much beam each frame got: exposure time, beam monitor, or a strip of air in the frame itself.

All three end in one number per frame, the flux relative to the open beam. It belongs to the line integral,
``p = ln F - ln(N + 1/2) + ln(flux)``, and not to the counts where these are few: the half count stands for Poisson
counts, not for scaled ones. What a beam that varies from frame to frame does otherwise: Van Nieuwenhove et al., Opt.
Express 23 (2015) 27975, doi:10.1364/OE.23.027975.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, finite_float64, image_shape, mask_of, positive

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """A rectangle of detector pixels: rows ``[first_row, stop_row)``, columns ``[first_col, stop_col)``."""

    first_row: int
    stop_row: int
    first_col: int
    stop_col: int

    def of(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the slices (rows, columns); refuse a region that is empty or not on a detector of this shape."""
        if not (0 <= self.first_row < self.stop_row <= shape[0] and 0 <= self.first_col < self.stop_col <= shape[1]):
            raise InputError(f"{self} is empty or not on a detector of {shape[0]} x {shape[1]} pixels")
        return slice(self.first_row, self.stop_row), slice(self.first_col, self.stop_col)


def flux_from_exposure(exposure_s: ArrayLike, open_beam_exposure_s: float) -> FloatArray:
    """Return the exposure times of frames relative to that of the open beam, float64, the shape of ``exposure_s``."""
    return _ratio("exposure_s", exposure_s, positive("open_beam_exposure_s", open_beam_exposure_s, "s"))


def flux_from_monitor(monitor: ArrayLike, open_beam_monitor: float) -> FloatArray:
    """Return the monitor readings of frames relative to that of the open beam, float64, the shape of ``monitor``."""
    return _ratio("monitor", monitor, positive("open_beam_monitor", open_beam_monitor, "counts"))


def _ratio(name: str, values: ArrayLike, reference: float) -> FloatArray:
    found = finite_float64(name, values)
    if found.size and found.min() <= 0:
        frame = int(np.argmax(found.ravel() <= 0))
        raise InputError(f"{name} must be positive, but frame {frame} has {found.ravel()[frame]:g}")
    return np.asarray(found / reference)


def flux_from_air(
    frames: NDArray[Any], open_beam: NDArray[Any], region: Region, mask: NDArray[np.bool_] | None = None
) -> FloatArray:
    """Return the counts of every frame in a strip of air, relative to those of the open beam there.

    Parameters
    ----------
    frames : ndarray, shape (..., v, u)
        Counts, dark-subtracted.
    open_beam : ndarray, shape (v, u)
        Mean open-beam counts, dark-subtracted.
    region : Region
        Where no frame sees the sample.
    mask : ndarray, shape (v, u), bool, optional
        True where a pixel is bad.

    Returns
    -------
    ndarray, the leading shape of ``frames``, float64
        Ratio of the sums over the good pixels. The sum, unlike a mean of ratios, has no bias at few counts; its
        relative noise is one over the root of the counts in the strip.

    Raises
    ------
    InputError
        If no pixel of the region is good, or open beam or a frame have no counts there.
    """
    stack = finite_float32("frames", frames, mask)
    shape = image_shape("frames", stack)
    flat = finite_float32("open_beam", open_beam, mask)
    if flat.shape != shape:
        raise InputError(f"open_beam must have the shape of a frame, {shape}, got {flat.shape}")
    rows, cols = region.of(shape)
    good = np.ones(shape, dtype=np.bool_) if mask is None else ~mask_of("mask", mask, shape)
    here = good[rows, cols]
    if not here.any():
        raise InputError(f"{region}: no good pixel in the strip of air")
    light = float(flat[rows, cols][here].sum(dtype=np.float64))
    if light <= 0:
        raise InputError(f"{region}: the open beam has no counts in the strip of air")
    seen = np.asarray(stack[..., rows, cols][..., here].sum(axis=-1, dtype=np.float64))
    return _ratio("counts in the strip of air", seen, light)


def scale_counts(frames: NDArray[Any], flux: ArrayLike) -> NDArray[np.float32]:
    """Return counts as they would be with the flux of the open beam, ``N / flux``; for counts that are many.

    Parameters
    ----------
    frames : ndarray, shape (..., v, u)
        Counts.
    flux : float or array_like, the leading shape of ``frames``
        Relative flux of every frame.

    Returns
    -------
    ndarray, shape (..., v, u), float32
    """
    stack = finite_float32("frames", frames)
    image_shape("frames", stack)
    return np.asarray(stack / _per_frame(flux, stack), dtype=np.float32)


def correct_line_integrals(integrals: NDArray[Any], flux: ArrayLike) -> NDArray[np.float32]:
    """Return line integrals of frames with their own flux, ``p + ln(flux)``.

    Parameters
    ----------
    integrals : ndarray, shape (..., v, u)
        Line integrals against the open beam.
    flux : float or array_like, the leading shape of ``integrals``
        Relative flux of every frame.

    Returns
    -------
    ndarray, shape (..., v, u), float32, dimensionless
    """
    stack = finite_float32("integrals", integrals)
    image_shape("integrals", stack)
    return np.asarray(stack + np.log(_per_frame(flux, stack)), dtype=np.float32)


def _per_frame(flux: ArrayLike, stack: NDArray[np.float32]) -> NDArray[np.float32]:
    factors = _ratio("flux", flux, 1.0)
    if factors.shape not in ((), stack.shape[:-2]):
        raise InputError(f"flux must be one number or one per frame {stack.shape[:-2]}, got shape {factors.shape}")
    return factors[..., None, None].astype(np.float32)
