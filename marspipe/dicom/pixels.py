"""The pixels of a slice as they are stored, and what describes them, in objects of one frame and of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage

from marspipe.dicom.codes import SOURCE_IMAGE, Elements, code_item
from marspipe.dicom.scale import STORED_PADDING
from marspipe.dicom.series import SeriesHeader, slice_uid
from marspipe.errors import InputError, RunError


def stored_pixels(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> tuple[NDArray[np.int16], int]:
    """Return a slice as stored values, and how many voxels were clipped.

    Parameters
    ----------
    header : SeriesHeader
        Of the series.
    z_index : int
        Index of the slice in the volume.
    pixels : ndarray, float, shape (rows, columns)
        The slice, 1/mm or mg/mL.

    Returns
    -------
    stored : ndarray, int16, shape (rows, columns)
    clipped : int

    Raises
    ------
    InputError, RunError
        As :func:`marspipe.dicom.ct.slice_dataset`.
    """
    header.check_pixels(z_index, pixels)
    try:
        stored, clipped = header.scale.store(pixels, header.outside())
    except InputError as error:
        raise InputError(f"slice {z_index} of bin {header.bin}: {error}") from error
    if clipped and not header.scale.clips:
        raise RunError(
            f"slice {z_index} of bin {header.bin} spans {pixels.min():.6g} to {pixels.max():.6g} {header.scale.units}, "
            f"outside the volume's statistics: the volume has changed since they were taken"
        )
    return stored, clipped


def pixel_elements(header: SeriesHeader) -> Elements:
    """Return the attributes of signed 16-bit pixels, and of padding if the series has any."""
    elements: Elements = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": header.shape[1],
        "Columns": header.shape[2],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }
    if header.padded_beyond_mm is not None:
        elements["PixelPaddingValue"] = STORED_PADDING
    return elements


def source_images(header: SeriesHeader, z_index: int) -> list[Elements]:
    """Return references to the slices that a map's slice was made from."""
    one = range(z_index, z_index + 1)
    return [
        {**reference, "PurposeOfReferenceCodeSequence": [code_item(SOURCE_IMAGE)]}
        for series_uid in header.source_series
        for reference in _references(series_uid, one)
    ]


def source_evidence(header: SeriesHeader, slices: range) -> list[Elements]:
    """Return study, series and instances that some slices of a map were made from, as one tree (PS3.3 C.17.2.1)."""
    series = [
        {"SeriesInstanceUID": series_uid, "ReferencedSOPSequence": _references(series_uid, slices)}
        for series_uid in header.source_series
    ]
    return [{"StudyInstanceUID": header.study_uid, "ReferencedSeriesSequence": series}]


def referenced_series(header: SeriesHeader, slices: range) -> list[Elements]:
    """Return series and instances that some slices of a map were made from (PS3.3 C.12.2)."""
    return [
        {"SeriesInstanceUID": series_uid, "ReferencedInstanceSequence": _references(series_uid, slices)}
        for series_uid in header.source_series
    ]


def _references(series_uid: str, slices: range) -> list[Elements]:
    return [
        {"ReferencedSOPClassUID": CTImageStorage, "ReferencedSOPInstanceUID": slice_uid(series_uid, z)} for z in slices
    ]
