"""From stored values to values with a unit, and what stands for no value.

Source: DICOM PS3.3 C.11.1 (rescale), C.7.6.16.2.9 (pixel value transformation), C.7.6.16.2.11 (real world values),
C.7.5.1.1.2 (padding), C.8.2.1.1.5 (rescale type of CT: Hounsfield units unless said otherwise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.foreign.attributes import Attributes
from marspipe.errors import RawFormatError

UNSPECIFIED = "unspecified"
_RESCALE_TYPES = {
    "HU": "HU",
    "HU_MOD": "HU (modified)",
    "MGML": "mg/mL",
    "Z_EFF": "effective atomic number",
    "ED": "1e23 electrons/mL",
    "EDW": "electron density relative to water",
    "PCT": "%",
    "US": UNSPECIFIED,
}
_UCUM = {"[hnsf'U]": "HU", "/mm": "1/mm", "/cm": "1/cm", "1": "1"}


@dataclass(frozen=True)
class ValueLine:
    """``value = stored * slope + intercept``, in a unit.

    Attributes
    ----------
    slope, intercept : float
    units : str
        ``"HU"``, ``"1/mm"``, ``"mg/mL"`` ..; ``"unspecified"`` if the file does not tell.
    """

    slope: float = 1.0
    intercept: float = 0.0
    units: str = UNSPECIFIED

    def values(self, stored: NDArray[Any], padding: Padding | None) -> NDArray[np.float32]:
        """Return values, float32, NaN where pixels are padding."""
        result = (stored.astype(np.float64) * self.slope + self.intercept).astype(np.float32)
        if padding is not None:
            result[padding.mask(stored)] = np.nan
        return result


@dataclass(frozen=True)
class Padding:
    """Stored values that stand for no value, from ``low`` to ``high``."""

    low: float
    high: float

    def mask(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where pixels are padding."""
        found: NDArray[np.bool_] = (stored >= self.low) & (stored <= self.high)
        return found


def value_line(groups: Sequence[Attributes], *, is_ct: bool, is_float: bool) -> tuple[ValueLine, tuple[str, ...]]:
    """Return the line of a frame's values, and what is missing of it.

    Parameters
    ----------
    groups : sequence of Attributes
        Where to look, the particular before the general: the frame's functional groups, those shared, the data set.
    is_ct : bool
        Whether the object is a CT image, whose values are Hounsfield units where nothing else is said.
    is_float : bool
        Whether pixels are floating-point numbers, which need no rescale.

    Raises
    ------
    RawFormatError
        If the slope is zero, or no number.
    """
    rescale = next((g for g in places(groups, "PixelValueTransformationSequence") if g.has("RescaleSlope")), None)
    mapped = _real_world(groups)
    if rescale is None:
        if mapped is not None:
            return mapped, ()
        missing = "" if is_float else "RescaleSlope and RescaleIntercept are missing: values are as stored"
        return ValueLine(), (missing,) if missing else ()
    slope, intercept = rescale.number("RescaleSlope"), rescale.number("RescaleIntercept")
    if not slope:
        raise RawFormatError(f"{rescale.named('RescaleSlope')} is 0")
    kind = rescale.text("RescaleType") or ("HU" if is_ct else "US")
    units = _RESCALE_TYPES.get(kind, kind[:16])
    line = ValueLine(slope, intercept or 0.0, units)
    if units == UNSPECIFIED and mapped is not None and _same_line(line, mapped):
        line = mapped
    return line, () if intercept is not None else ("RescaleIntercept is missing: taken as 0",)


def places(groups: Sequence[Attributes], macro: str) -> list[Attributes]:
    """Return where attributes of a macro may stand: in its functional groups, then in the data set itself."""
    return [item for group in groups for item in (group.items(macro)[:1] or [group])]


def _real_world(groups: Sequence[Attributes]) -> ValueLine | None:
    for group in groups:
        for item in group.items("RealWorldValueMappingSequence"):
            slope, intercept = item.number("RealWorldValueSlope"), item.number("RealWorldValueIntercept")
            if slope and intercept is not None:
                code = item.item("MeasurementUnitsCodeSequence").text("CodeValue")
                return ValueLine(slope, intercept, _UCUM.get(code, code[:16] or UNSPECIFIED))
    return None


def _same_line(one: ValueLine, other: ValueLine) -> bool:
    return math.isclose(one.slope, other.slope, rel_tol=1e-6) and math.isclose(
        one.intercept, other.intercept, rel_tol=1e-6, abs_tol=1e-6 * abs(one.slope)
    )


def padding(attributes: Attributes, *, bits_allocated: int, signed: bool, is_float: bool) -> Padding | None:
    """Return which stored values are padding, None if none is named.

    A value that is written with the other sign than the pixels is taken for the same bits.
    """
    name = "PixelPadding"
    if is_float:
        name = "FloatPixelPadding" if bits_allocated == 32 else "DoubleFloatPixelPadding"
    first = attributes.number(f"{name}Value")
    if first is None:
        return None
    limit = attributes.number(f"{name}RangeLimit")
    ends = [first, first if limit is None else limit]
    if not is_float:
        least, steps = (-(1 << bits_allocated - 1) if signed else 0), 1 << bits_allocated
        ends = [(v - least) % steps + least for v in ends]
    return Padding(min(ends), max(ends))
