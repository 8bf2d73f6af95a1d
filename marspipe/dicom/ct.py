r"""CT Image Storage: one file per slice, one series per energy bin or map.

:func:`~marspipe.dicom.series.series_header` works out once what all slices of a series share; a header is small and
pickles, so that any task can write any slice. Same volume, bin and identity: same bytes, on every run.

Values
------
Attenuation in 1/mm is not Hounsfield units. Without a water attenuation for the bin the output units stay 1/mm:
Rescale Type ``US`` (unspecified, the only standard term that is true), the unit as a UCUM code in the Real World
Value Mapping and in words in Series Description and Image Comments. PS3.3 C.8.2.1 wants Hounsfield units of every
ORIGINAL axial CT image, so such images are ``DERIVED\PRIMARY\AXIAL``; with water given they are
``ORIGINAL\PRIMARY\AXIAL`` in HU. An energy bin is written as plain CT: PS3.17 JJJJ.3 has no multi-energy type for it.
Maps are ``DERIVED\PRIMARY\AXIAL\VMI`` or ``...\MAT_SPECIFIC`` with the multi-energy attributes of Supplement 188.

Pixels that the scan did not see are Pixel Padding Value -32768, outside the range of the Real World Value Mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage

from marspipe.dicom.codes import Elements
from marspipe.dicom.compression import compressed
from marspipe.dicom.derivation import derivation_elements
from marspipe.dicom.instance import file_bytes, new_instance
from marspipe.dicom.pixels import pixel_elements, source_images, stored_pixels
from marspipe.dicom.placement import IMAGE_ORIENTATION
from marspipe.dicom.real_world import real_world_value_mapping
from marspipe.dicom.series import SeriesHeader, SourceVolume, series_header

__all__ = ["SliceFile", "series_files", "series_header", "slice_dataset", "write_slice"]


class SliceFile(NamedTuple):
    """One slice as a file: relative path, content, and voxels clipped to the stored range."""

    path: str
    content: bytes
    clipped_voxels: int


def slice_dataset(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> FileDataset:
    """Return one slice as a CT Image Storage data set.

    Parameters
    ----------
    header : SeriesHeader
        From :func:`series_header`.
    z_index : int
        Index of the slice in the volume.
    pixels : ndarray, float, shape (rows, columns)
        The slice, ``[y, x]``, 1/mm or mg/mL.

    Raises
    ------
    InputError
        If the slice does not belong to the series: index, shape, or NaN.
    RunError
        If a value lies outside the statistics that the series' scale was made from.
    """
    return _dataset(header, z_index, pixels)[0]


def write_slice(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> bytes:
    """Return one slice as the bytes of a DICOM file; see :func:`slice_dataset`."""
    return _encoded(header, z_index, pixels).content


def series_files(
    volume: SourceVolume, header: SeriesHeader, slices: Iterable[int] | None = None
) -> Iterator[SliceFile]:
    """Yield the files of a series, or of some of its slices, one at a time.

    Parameters
    ----------
    volume : SourceVolume
        The volume that the header was made from.
    header : SeriesHeader
        From :func:`series_header`.
    slices : iterable of int, optional
        Slice indices; by default all.
    """
    source = volume[header.bin]
    for z_index in range(header.shape[0]) if slices is None else slices:
        header.check_slice(z_index)
        yield _encoded(header, z_index, source[z_index])


def _encoded(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> SliceFile:
    dataset, clipped = _dataset(header, z_index, pixels)
    return SliceFile(header.slice_path(z_index), file_bytes(dataset), clipped)


def _dataset(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> tuple[FileDataset, int]:
    header.check_kind("ct-image")
    stored, clipped = stored_pixels(header, z_index, pixels)
    image: Elements = {
        "InstanceNumber": z_index + 1,
        "ImagePositionPatient": header.placement.position(z_index),
        "ImageOrientationPatient": list(IMAGE_ORIENTATION),
        "PixelSpacing": header.placement.pixel_spacing(),
        "SliceThickness": header.placement.slice_thickness(),
        **header.acquisition,
        **header.window,
        **derivation_elements(header),
        **header.multi_energy,
        **pixel_elements(header),
        "RescaleIntercept": header.scale.intercept_text,
        "RescaleSlope": header.scale.slope_text,
        "RescaleType": header.scale.rescale_type,
        "RealWorldValueMappingSequence": [real_world_value_mapping(header.scale, header.map)],
    }
    if header.source_series:
        image["SourceImageSequence"] = source_images(header, z_index)
    dataset = new_instance(header, CTImageStorage, header.instance_uid(z_index), image)
    if header.transfer_syntax == "uncompressed":
        dataset.add_new("PixelData", "OW", stored.astype("<i2", copy=False).tobytes())
    else:
        dataset.add_new("PixelData", "OB", encapsulate([compressed(stored, header.transfer_syntax)]))
        dataset["PixelData"].is_undefined_length = True
    return dataset, clipped
