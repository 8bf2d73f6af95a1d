"""Numbers as DICOM decimal strings (DS): at most 16 characters, and exactly the number that is meant."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

from marspipe.errors import InputError

DS_LENGTH = 16
# A float64 is good for 15 significant digits; the 14th is free of its binary rounding noise (0.1 + 0.2 -> "0.3").
_DIGITS = 14


def plain(value: Decimal) -> str:
    """Return a decimal without exponent and trailing zeros, ``"0"`` for zero of either sign."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def decimal_string(value: float, *, digits: int = _DIGITS, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return a number as a DS of at most 16 characters with as many significant digits as fit.

    Parameters
    ----------
    value : float
        A finite number.
    digits : int
        Most significant digits to write.
    rounding : str
        A rounding mode of :mod:`decimal`, such as ``ROUND_CEILING``.

    Raises
    ------
    InputError
        If the number is not finite.

    Examples
    --------
    >>> decimal_string(0.1 + 0.2), decimal_string(-1.23456789012345e-7), decimal_string(2.0)
    ('0.3', '-1.234567890E-7', '2')
    """
    if not math.isfinite(value):
        raise InputError(f"a DICOM decimal string needs a finite number, got {value!r}")
    exact = Decimal(value)
    for count in range(digits, 0, -1):
        rounded = Context(prec=count, rounding=rounding).plus(exact)
        for text in (plain(rounded), f"{rounded:E}"):
            if len(text) <= DS_LENGTH:
                return text
    raise InputError(f"{value!r} does not fit into the {DS_LENGTH} characters of a DICOM decimal string")
