"""The line between the values of a volume and stored int16 values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.decimals import decimal_string
from marspipe.errors import InputError

STORED_MAX = 32767
# -32768 is never a value: it stays free for padding, and the range is symmetric.
STORED_MIN = -32767
STORED_PADDING = -32768

# Rescale Type: units, the quantity in words. PS3.3 C.11.1.1.2.
_TERMS = {
    "HU": ("HU", "CT number, HU"),
    "MGML": ("mg/mL", "concentration mg/mL"),
    "US": ("1/mm", "attenuation 1/mm"),
}


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
        for), ``"HU"`` or ``"MGML"`` (mg/mL).
    water_attenuation_per_mm : float or None
        Attenuation of water that defines HU.
    clips : bool
        Whether values beyond the range may come and are clipped; otherwise nothing lies beyond it.
    """

    slope_text: str
    intercept_text: str
    rescale_type: str
    water_attenuation_per_mm: float | None = None
    clips: bool = False

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
        """``"1/mm"``, ``"HU"`` or ``"mg/mL"``."""
        return _TERMS[self.rescale_type][0]

    @property
    def quantity(self) -> str:
        """The meaning of the values in words."""
        return _TERMS[self.rescale_type][1]

    def output(self, value: float) -> float:
        """Return a value of the volume (1/mm or mg/mL) in the units that a reader of the series sees."""
        water = self.water_attenuation_per_mm
        return value if water is None else 1000.0 * (value - water) / water

    def store(
        self, pixels: NDArray[np.floating], outside: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int16], int]:
        """Quantize values to stored ones, with an error of at most half a step.

        Parameters
        ----------
        pixels : ndarray, float, any shape
            Values of the volume, 1/mm or mg/mL.
        outside : ndarray, bool, same shape, optional
            Pixels that hold no data: they become :data:`STORED_PADDING`, whatever stands there.

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
        steps = np.array(pixels, dtype=np.float64)
        if outside is not None:
            steps[outside] = self.water_attenuation_per_mm or self.intercept
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
        stored = steps.astype(np.int16)
        if outside is not None:
            stored[outside] = STORED_PADDING
        return stored, clipped

    def restore(self, stored: NDArray[np.int16]) -> NDArray[np.float64]:
        """Return the output values of stored ones, as a reader computes them: float64, :attr:`units`."""
        values: NDArray[np.float64] = stored.astype(np.float64) * self.slope + self.intercept
        return values


def linear_scale(low: float, high: float, rescale_type: str = "US", *, clips: bool = False) -> ValueScale:
    """Return the finest scale that stores a range of values.

    The intercept is the middle of the range, rounded to a decimal string; the slope then covers the farther end and
    is rounded *up* to a decimal string, so that both ends are stored.

    Parameters
    ----------
    low, high : float
        Range over the whole series, in 1/mm or, for ``MGML``, mg/mL.
    rescale_type : {"US", "MGML"}
        What the values are.
    clips : bool
        Whether values beyond the range are to be clipped.

    Raises
    ------
    InputError
        If the range is not finite or reversed.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(f"the values of a series need a finite range, got {low!r} to {high!r}")
    intercept_text = decimal_string(0.5 * low + 0.5 * high)
    if low == high:
        return ValueScale("1", intercept_text, rescale_type, clips=clips)
    intercept = float(intercept_text)
    half_range = max(high - intercept, intercept - low)
    slope_text = decimal_string(half_range / STORED_MAX, rounding=ROUND_CEILING)
    return ValueScale(slope_text, intercept_text, rescale_type, clips=clips)


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
    return ValueScale("1", "0", "HU", float(water_attenuation_per_mm), clips=True)
