"""The line between attenuation and stored int16 values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.decimals import decimal_string
from marspipe.errors import InputError

STORED_MAX = 32767
# -32768 is never stored: it stays free as a padding value, and the range is symmetric.
STORED_MIN = -32767


@dataclass(frozen=True)
class ValueScale:
    """How one series stores its values: ``output = stored * slope + intercept``.

    Slope and intercept are the numbers that their DICOM texts parse to, so that a reader restores exactly the
    values that were meant here.

    Attributes
    ----------
    slope_text, intercept_text : str
        Rescale Slope and Rescale Intercept as written.
    rescale_type : str
        ``"US"`` (unspecified, PS3.3 C.11.1.1.2: the output is attenuation in 1/mm, which the standard has no term
        for) or ``"HU"``.
    water_attenuation_per_mm : float or None
        Attenuation of water that defines HU.
    """

    slope_text: str
    intercept_text: str
    rescale_type: str
    water_attenuation_per_mm: float | None = None

    @property
    def slope(self) -> float:
        """Output units per stored step."""
        return float(self.slope_text)

    @property
    def intercept(self) -> float:
        """Output value of stored 0."""
        return float(self.intercept_text)

    @property
    def units(self) -> str:
        """``"1/mm"`` or ``"HU"``."""
        return "HU" if self.rescale_type == "HU" else "1/mm"

    @property
    def quantity(self) -> str:
        """The meaning of the values in words."""
        return "CT number, HU" if self.rescale_type == "HU" else "attenuation 1/mm"

    def output(self, attenuation_per_mm: float) -> float:
        """Return an attenuation in the units that a reader of the series sees."""
        water = self.water_attenuation_per_mm
        return attenuation_per_mm if water is None else 1000.0 * (attenuation_per_mm - water) / water

    def store(self, pixels_per_mm: NDArray[np.floating]) -> tuple[NDArray[np.int16], int]:
        """Quantize attenuations to stored values, with an error of at most half a step.

        Parameters
        ----------
        pixels_per_mm : ndarray, float, any shape, 1/mm

        Returns
        -------
        stored : ndarray, int16, same shape
        clipped : int
            Voxels beyond the stored range, set to its end.

        Raises
        ------
        InputError
            If a pixel is NaN or infinite.
        """
        steps = np.array(pixels_per_mm, dtype=np.float64)
        if self.water_attenuation_per_mm is not None:
            steps *= 1000.0 / self.water_attenuation_per_mm
            steps -= 1000.0
        steps -= self.intercept
        steps /= self.slope
        np.rint(steps, out=steps)
        low, high = float(steps.min()), float(steps.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            count = int(np.count_nonzero(~np.isfinite(steps)))
            raise InputError(f"{count} of {steps.size} pixels are NaN or infinite; DICOM integers cannot hold them")
        clipped = 0
        if low < STORED_MIN or high > STORED_MAX:
            clipped = int(np.count_nonzero((steps < STORED_MIN) | (steps > STORED_MAX)))
            np.clip(steps, STORED_MIN, STORED_MAX, out=steps)
        return steps.astype(np.int16), clipped

    def restore(self, stored: NDArray[np.int16]) -> NDArray[np.float64]:
        """Return the output values of stored ones, as a reader computes them: float64, :attr:`units`."""
        values: NDArray[np.float64] = stored.astype(np.float64) * self.slope + self.intercept
        return values


def attenuation_scale(minimum_per_mm: float, maximum_per_mm: float) -> ValueScale:
    """Return the finest scale that stores a range of attenuations without clipping.

    The intercept is the middle of the range, rounded to a decimal string; the slope then covers the farther end and
    is rounded *up* to a decimal string, so that both ends are stored.

    Parameters
    ----------
    minimum_per_mm, maximum_per_mm : float
        Range over the whole series, 1/mm.

    Raises
    ------
    InputError
        If the range is not finite or reversed.
    """
    if not (math.isfinite(minimum_per_mm) and math.isfinite(maximum_per_mm) and minimum_per_mm <= maximum_per_mm):
        raise InputError(
            f"the attenuations of a series need a finite range, got {minimum_per_mm!r} to {maximum_per_mm!r} 1/mm"
        )
    intercept_text = decimal_string(0.5 * minimum_per_mm + 0.5 * maximum_per_mm)
    if minimum_per_mm == maximum_per_mm:
        return ValueScale("1", intercept_text, "US")
    intercept = float(intercept_text)
    half_range = max(maximum_per_mm - intercept, intercept - minimum_per_mm)
    return ValueScale(decimal_string(half_range / STORED_MAX, rounding=ROUND_CEILING), intercept_text, "US")


def hounsfield_scale(water_attenuation_per_mm: float) -> ValueScale:
    """Return the scale of Hounsfield units, one per stored step: ``HU = 1000 (mu - mu_water) / mu_water``.

    Parameters
    ----------
    water_attenuation_per_mm : float
        Effective attenuation of water in the energy bin, 1/mm.

    Raises
    ------
    InputError
        If it is not positive and finite.
    """
    if not (math.isfinite(water_attenuation_per_mm) and water_attenuation_per_mm > 0):
        raise InputError(
            f"the attenuation of water must be positive and finite (1/mm), got {water_attenuation_per_mm!r}"
        )
    return ValueScale("1", "0", "HU", float(water_attenuation_per_mm))
