"""One slice out of the bytes of a DICOM file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread


def read_slice(content: bytes) -> NDArray[np.float64]:
    """Return the values of a single-frame, uncompressed DICOM image, shape (rows, columns), in its rescaled units."""
    dataset = dcmread(io.BytesIO(content))
    stored: NDArray[np.float64] = dataset.pixel_array.astype(np.float64)
    return stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
