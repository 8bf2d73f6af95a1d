"""Polynomials without a constant term, evaluated per pixel and continued as straight lines outside of their range."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def evaluate(
    values: NDArray[np.float32], coefficients: NDArray[np.float32], largest: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return ``sum_i a_i x**i``, i = 1 to the order, on 0 <= x <= largest, and its tangents outside.

    A fitted polynomial knows nothing beyond the data: a cubic runs away there, its tangent does not. Below zero, where
    only noise is, the tangent keeps the noise of air symmetric.

    Parameters
    ----------
    values : ndarray, shape (n, pixels), float32
        x.
    coefficients : ndarray, shape (order, pixels) or (order, 1), float32
        a_1 to a_order, per pixel or for all.
    largest : ndarray, shape (pixels,) or (1,), float32
        End of the range.

    Returns
    -------
    ndarray, shape (n, pixels), float32
    """
    result = np.empty_like(values)
    _evaluate(values, np.ascontiguousarray(coefficients), np.ascontiguousarray(largest), result)
    return result


@numba.njit(cache=True, nogil=True)
def _evaluate(values, coefficients, largest, result):  # type: ignore[no-untyped-def]
    order, one = coefficients.shape[0], coefficients.shape[1] == 1
    for k in range(values.shape[0]):
        for i in range(values.shape[1]):
            pixel = 0 if one else i
            x = values[k, i]
            if x <= 0.0:
                result[k, i] = x * coefficients[0, pixel]
                continue
            inside = min(x, largest[pixel])
            value, slope = np.float32(0.0), np.float32(0.0)
            for j in range(order - 1, -1, -1):
                value = value * inside + coefficients[j, pixel]
                slope = slope * inside + np.float32(j + 1) * coefficients[j, pixel]
            result[k, i] = value * inside + slope * (x - inside)
