"""What the corrections ask of their arguments, and how they refuse what does not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError


def finite_float32(name: str, values: ArrayLike, ignore: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Return values as a C-contiguous float32 array; the caller's array itself if it is one.

    Parameters
    ----------
    name : str
        Name for messages.
    values : array_like
        Real numbers.
    ignore : ndarray, bool, optional
        Broadcasts against ``values``; where True anything goes.

    Raises
    ------
    InputError
        If a value that counts is not finite, naming the first one, or the values are not real numbers.
    """
    found = real_array(name, values)
    result = np.ascontiguousarray(found, dtype=np.float32)
    refuse_not_finite(name, result, ignore)
    return result


def finite_float64(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return values as a float64 array; refuse what is not finite as :func:`finite_float32` does."""
    result = real_array(name, values).astype(np.float64)
    refuse_not_finite(name, result)
    return result


def real_array(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return an array of integers, floats or truth values; refuse anything else by name."""
    found = np.asarray(values)
    if found.dtype.kind not in "iufb":
        raise InputError(f"{name} must be real numbers, got an array of type {found.dtype}")
    return found


def refuse_not_finite(name: str, values: NDArray[Any], ignore: NDArray[np.bool_] | None = None) -> None:
    """Raise InputError naming the first value that is not finite and not ignored."""
    # A sum is as good as a test of every value: one NaN or infinity makes it so.
    with np.errstate(invalid="ignore", over="ignore"):
        if math.isfinite(float(values.sum(dtype=np.float64))):
            return
    bad = ~np.isfinite(values)
    if ignore is not None:
        bad &= ~ignore
    if bad.any():
        first = np.unravel_index(int(np.argmax(bad)), bad.shape)
        place = f"element {tuple(map(int, first))} is {values[first]}"
        raise InputError(f"{name} must be finite, but {place} ({int(bad.sum())} such elements)")


def positive(name: str, value: float, unit: str, *, zero: bool = False) -> float:
    """Return a finite number above zero, or from zero on; refuse others by name."""
    number = float(value)
    if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
        raise InputError(f"{name} must be {'at least 0' if zero else 'positive'} ({unit}), got {value!r}")
    return number


def mask_of(name: str, mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask of a given shape; refuse numbers and other shapes by name."""
    found = np.asarray(mask)
    if found.dtype != np.bool_ or found.shape != shape:
        raise InputError(f"{name} must be bool of shape {shape}, got {found.dtype} of shape {found.shape}")
    return found


def image_shape(name: str, array: NDArray[Any], least_ndim: int = 2) -> tuple[int, int]:
    """Return (rows, columns) of an array whose last two axes are an image with pixels."""
    if array.ndim < least_ndim or 0 in array.shape:
        raise InputError(f"{name} must have at least {least_ndim} axes, none of them empty, got shape {array.shape}")
    return int(array.shape[-2]), int(array.shape[-1])
