"""The window of values that a viewer shows at first."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.codes import Elements
from marspipe.dicom.decimals import decimal_string
from marspipe.dicom.scale import ValueScale
from marspipe.errors import InputError


def default_window(
    pixels: NDArray[np.floating], outside: NDArray[np.bool_] | None, scale: ValueScale
) -> tuple[float, float]:
    """Return the 1st and the 99.5th percentile of a slice's seen pixels, in output units."""
    seen = pixels if outside is None or outside.all() else pixels[~outside]
    low, high = np.percentile(seen, [1.0, 99.5])
    return scale.output(float(low)), scale.output(float(high))


def window_elements(window: tuple[float, float], scale: ValueScale) -> Elements:
    """Return a window as attributes.

    Raises
    ------
    InputError
        If it is not two finite values in order.
    """
    low, high = window
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(f"a display window needs two finite values in order, got {window}")
    elements: Elements = {}
    if scale.units == "HU":
        width = max(high - low, 1.0)
    else:
        # PS3.3 C.11.2.1: the plain linear function needs a width of at least 1, many times the range of 1/mm.
        elements["VOILUTFunction"] = "LINEAR_EXACT"
        width = high - low if high > low else scale.slope
    elements["WindowCenter"] = decimal_string(0.5 * (low + high), digits=6)
    elements["WindowWidth"] = decimal_string(width, digits=6)
    return elements
