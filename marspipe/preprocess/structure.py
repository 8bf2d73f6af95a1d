"""What of an image is structure, and what is chance that every pixel has for itself.

The image is cut into bands of scales along v times scales along u, and of every band only what stands out of chance
is kept. A long edge is weak in each pixel and strong in the band that is coarse along it and fine across: there,
chance has averaged out. Single pixels that are far off are left out first, so that their traces pass for nothing.

Bands: the undecimated transform with the B3 spline of Starck, Fadili and Murtagh, IEEE Trans. Image Process. 16,
297-309, 2007 (doi:10.1109/TIP.2006.887733), whose bands add up to the image, with scales along v and u of their own as
in Neumann and von Sachs, Ann. Statist. 25, 38-76, 1997 (doi:10.1214/aos/1034276621). Thresholds with hysteresis: Canny,
IEEE Trans. Pattern Anal. Mach. Intell. 8, 679-698, 1986 (doi:10.1109/TPAMI.1986.4767851).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]

_SPLINE = np.array([1, 4, 6, 4, 1]) / 16
_SIGMA_PER_MAD = 1.4826  # standard deviation of normal noise per median absolute deviation
# A place of a band is kept if it exceeds this many standard deviations of chance ...
_SURE_SIGMAS = 4.5
# ... and what is connected to it and exceeds these.
_LIKELY_SIGMAS = 2.5
# A pixel further than this from its neighbors is far off.
_FAR_SIGMAS = 3.0
_NEIGHBORS_PX = 5
_ROUNDS = 4


def structure_of(image: Image, levels_v: int, levels_u: int) -> Image:
    """Return the image without what every pixel has for itself.

    Parameters
    ----------
    image : ndarray, shape (v, u), float64
        Structure, plus independent values of mean zero and about the same spread in all pixels, some far off.
    levels_v, levels_u : int
        Scales along v and u, at least 1. Whatever is smooth over ``2**levels`` px along both is structure.

    Returns
    -------
    ndarray, shape (v, u), float64

    Notes
    -----
    The spread is estimated in the band of the finest scales. That band is never structure: a detail must be wider than
    a pixel along v or u, and one of less than about 5 by 5 px may be taken for far-off pixels.
    """
    levels = (levels_v, levels_u)
    cleaned = image.copy()
    far = np.zeros(image.shape, dtype=bool)
    for _ in range(2):  # once more for those that hid each other
        off = _off_neighbors(cleaned)
        found = np.abs(off) > _FAR_SIGMAS * _spread(cleaned)
        cleaned[found] -= off[found]
        far |= found
    for _ in range(_ROUNDS):
        spread = _spread(cleaned)
        structure = _significant(cleaned, levels, spread)
        rest = image - structure
        # Neighbors are compared once more where the structure is gone: next to edges they could not be before.
        far |= np.abs(_off_neighbors(rest)) > _FAR_SIGMAS * spread
        cleaned = np.where(far & (np.abs(rest) > _FAR_SIGMAS * spread), structure, image)
    return structure


def _off_neighbors(image: Image) -> Image:
    """Return how far every pixel is off its neighbors along v and those along u, whichever is less; 0 if they differ.

    An edge along v or u is continued by the neighbors on one line at least, a far-off pixel by none.
    """
    return _lesser(_off_line(image), _off_line(image.T).T)


def _off_line(image: Image) -> Image:
    """Return how far every pixel is off the median of its neighbors along v; at the ends, off their line as well."""
    off: Image = image - ndimage.median_filter(image, size=(_NEIGHBORS_PX, 1), mode="mirror")
    if len(image) > 2:
        for end, next_, third in ((0, 1, 2), (-1, -2, -3)):
            off[end] = _lesser(off[end], image[end] - 2 * image[next_] + image[third])
    return off


def _lesser(a: Image, b: Image) -> Image:
    """Return whichever is nearer to zero; 0 if their signs differ."""
    return np.where(a * b > 0, np.sign(a) * np.minimum(np.abs(a), np.abs(b)), 0.0)


def _spread(image: Image) -> float:
    """Return the standard deviation of chance in a pixel, from the median of the band of the finest scales."""
    fine = image - _smoothed(image, 0, 0)
    fine -= _smoothed(fine, 1, 0)
    return _SIGMA_PER_MAD * float(np.median(np.abs(fine))) / _shares(1)[0] ** 2


def _significant(image: Image, levels: tuple[int, int], spread: float) -> Image:
    """Return the sum of what stands out of chance in the bands, and of all of the coarsest one."""
    structure = np.zeros_like(image)
    shares = [_shares(level) for level in levels]
    for i, rows in enumerate(_bands(image, 0, levels[0])):
        for j, band in enumerate(_bands(rows, 1, levels[1])):
            if (i, j) == levels:
                structure += band
            elif (i, j) != (0, 0):
                chance = spread * shares[0][i] * shares[1][j]
                sure = np.abs(band) > _SURE_SIGMAS * chance
                if sure.any():
                    likely = np.abs(band) > _LIKELY_SIGMAS * chance
                    structure += np.where(
                        ndimage.binary_propagation(sure, np.ones((3, 3), dtype=bool), likely), band, 0.0
                    )
    return structure


def _bands(image: Image, axis: int, levels: int) -> Iterator[Image]:
    """Yield the details of every level, the finest first, and then what is left; they add up to the image."""
    for level in range(levels):
        smooth = _smoothed(image, axis, level)
        yield image - smooth
        image = smooth
    yield image


def _smoothed(image: Image, axis: int, level: int) -> Image:
    kernel = np.zeros(4 * 2**level + 1)
    kernel[:: 2**level] = _SPLINE
    smooth: Image = ndimage.correlate1d(image, kernel, axis=axis, mode="mirror")
    return smooth


def _shares(levels: int) -> list[float]:
    """Return the standard deviation of white noise of unit variance in every band along one axis."""
    size = 8 * 2**levels
    impulse = np.zeros((1, 2 * size + 1))
    impulse[0, size] = 1.0
    return [float(np.linalg.norm(band)) for band in _bands(impulse, 1, levels)]
