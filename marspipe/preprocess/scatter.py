"""Scattered photons as a constant: the same number of counts all over a frame, per counter or energy bin.

With tens of millimeters of air between sample and camera the scatter that arrives is smooth and weak; what a beam stop
or the shadow of a collimator shows is a fair estimate for the whole frame. Joseph and Spital, Med. Phys. 9 (1982) 464,
doi:10.1118/1.595111. It is subtracted from projections; open beams have no scattering sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, finite_float64, image_shape, mask_of
from marspipe.preprocess.flux import Region


def scatter_in_shadow(
    frames: NDArray[Any], region: Region, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the mean counts behind a beam stop.

    Parameters
    ----------
    frames : ndarray, shape (..., v, u)
        Counts, dark-subtracted.
    region : Region
        The shadow.
    mask : ndarray, shape (v, u), bool, optional
        True where a pixel is bad.

    Returns
    -------
    ndarray, the leading shape of ``frames``, float64, counts per pixel
    """
    stack = finite_float32("frames", frames, mask)
    shape = image_shape("frames", stack)
    rows, cols = region.of(shape)
    good = np.ones(shape, dtype=np.bool_) if mask is None else ~mask_of("mask", mask, shape)
    here = good[rows, cols]
    if not here.any():
        raise InputError(f"{region}: no good pixel in the shadow")
    return np.asarray(stack[..., rows, cols][..., here].mean(axis=-1, dtype=np.float64))


def subtract_scatter(counts: NDArray[Any], offsets: ArrayLike) -> NDArray[np.float32]:
    """Return counts without the constant scatter.

    Parameters
    ----------
    counts : ndarray, shape (n, v, u)
        Counts per counter or energy bin of one exposure.
    offsets : float or array_like, shape (n,)
        Scattered counts per pixel, at least 0.

    Returns
    -------
    ndarray, shape (n, v, u), float32
        Counts; negative where noise makes them so, which the logarithm takes as zero.
    """
    stack = finite_float32("counts", counts)
    image_shape("counts", stack, least_ndim=3)
    values = finite_float64("offsets", offsets)
    if values.shape not in ((), stack.shape[:-2]):
        raise InputError(f"offsets must be one number or one per image {stack.shape[:-2]}, got shape {values.shape}")
    if values.min() < 0:
        raise InputError(f"offsets must not be negative (counts), got {values.min():g}")
    return np.asarray(stack - values[..., None, None].astype(np.float32), dtype=np.float32)
