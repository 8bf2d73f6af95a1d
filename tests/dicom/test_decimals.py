from __future__ import annotations

import math
from decimal import ROUND_CEILING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.dicom.decimals import decimal_string
from marspipe.errors import InputError

numbers = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-90)


@settings(deadline=None)
@given(numbers)
def test_a_decimal_string_fits_and_is_close(value: float) -> None:
    text = decimal_string(value)
    assert len(text) <= 16
    # The worst case "-1.23456789E-12" leaves ten digits.
    assert math.isclose(float(text), value, rel_tol=1e-9)
    assert text == decimal_string(float(text))


@settings(deadline=None)
@given(numbers)
def test_rounding_up_never_falls_below(value: float) -> None:
    assert float(decimal_string(value, rounding=ROUND_CEILING)) >= value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, "0.3"), (-0.0, "0"), (250.0, "250"), (1e-5 / 3, "3.33333333333E-6"), (-1 / 3, "-0.3333333333333")],
)
def test_known_numbers(value: float, text: str) -> None:
    assert decimal_string(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="finite"):
        decimal_string(value)
