"""One slice out of the bytes of a DICOM file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread


def read_slice(content: bytes) -> NDArray[np.float64]:
    """Return the values of a single-frame DICOM image, shape (rows, columns), in its rescaled units; padding is NaN."""
    dataset = dcmread(io.BytesIO(content))
    stored = dataset.pixel_array
    values: NDArray[np.float64] = stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    if "PixelPaddingValue" in dataset:
        values[stored == dataset.PixelPaddingValue] = np.nan
    return values
