from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marspipe.dicom.ct import series_files, series_header
from marspipe.dicom.stored_slice import read_slice


@pytest.mark.parametrize("syntax", ["uncompressed", "rle"])
def test_values_come_back_and_padding_is_no_number(volume: Any, syntax: Any) -> None:
    header = series_header(volume, 1, field_of_view_mm=1.4, transfer_syntax=syntax)
    outside = header.outside()
    for z, file in enumerate(series_files(volume, header)):
        values = read_slice(file.content)
        np.testing.assert_array_equal(np.isnan(values), outside)
        assert np.nanmax(np.abs(values - volume[1][z])) <= 0.5 * header.scale.slope * (1 + 1e-6)
