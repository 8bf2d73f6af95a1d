r"""CT Image Storage: one file per slice, one series per energy bin.

:func:`~marspipe.dicom.series.series_header` works out once what all slices of a series share; a header is small and
pickles, so that any task can write any slice. Same volume, bin and identity: same bytes, on every run.

Values
------
Attenuation in 1/mm is not Hounsfield units. Without a water attenuation for the bin the output units stay 1/mm:
Rescale Type ``US`` (unspecified, the only standard term that is true), the unit as a UCUM code in the Real World
Value Mapping and in words in Series Description and Image Comments. PS3.3 C.8.2.1 wants Hounsfield units of every
ORIGINAL axial CT image, so such images are ``DERIVED\PRIMARY\AXIAL``; with water given they are
``ORIGINAL\PRIMARY\AXIAL`` in HU. An energy bin is written as plain CT: PS3.17 JJJJ.3 has no multi-energy type for it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from marspipe import __version__
from marspipe.dicom.placement import IMAGE_ORIENTATION
from marspipe.dicom.scale import STORED_MAX, STORED_MIN, ValueScale
from marspipe.dicom.series import SeriesHeader, SourceVolume, series_header
from marspipe.dicom.uid import IMPLEMENTATION_CLASS_UID
from marspipe.errors import InputError, RunError

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
    pixels : ndarray, float, shape (rows, columns), 1/mm
        The slice, ``[y, x]``.

    Raises
    ------
    InputError
        If the slice does not belong to the series: index, shape, or NaN.
    RunError
        If an attenuation lies outside the statistics that the series' scale was made from.
    """
    return _dataset(header, z_index, pixels)[0]


def write_slice(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> bytes:
    """Return one slice as the bytes of a DICOM file, Explicit VR Little Endian; see :func:`slice_dataset`."""
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
        yield _encoded(header, z_index, source[z_index])


def _encoded(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> SliceFile:
    dataset, clipped = _dataset(header, z_index, pixels)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return SliceFile(header.slice_path(z_index), buffer.getvalue(), clipped)


def _dataset(header: SeriesHeader, z_index: int, pixels: NDArray[np.floating]) -> tuple[FileDataset, int]:
    nz, ny, nx = header.shape
    if not 0 <= z_index < nz:
        raise InputError(f"the series has slices 0 to {nz - 1}, got slice {z_index}")
    if pixels.shape != (ny, nx):
        raise InputError(f"slice {z_index} of bin {header.bin} has shape {pixels.shape}, expected {(ny, nx)}")
    try:
        stored, clipped = header.scale.store(pixels)
    except InputError as error:
        raise InputError(f"slice {z_index} of bin {header.bin}: {error}") from error
    if clipped and header.scale.rescale_type != "HU":
        raise RunError(
            f"slice {z_index} of bin {header.bin} spans {pixels.min():.6g} to {pixels.max():.6g} 1/mm, outside the "
            f"volume's statistics: the volume has changed since they were taken"
        )
    dataset = Dataset()
    for keyword, value in header.elements.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = header.instance_uid(z_index)
    dataset.StudyInstanceUID = header.study_uid
    dataset.SeriesInstanceUID = header.series_uid
    dataset.FrameOfReferenceUID = header.frame_of_reference_uid
    dataset.InstanceNumber = z_index + 1
    dataset.ImagePositionPatient = header.placement.position(z_index)
    dataset.ImageOrientationPatient = list(IMAGE_ORIENTATION)
    dataset.PixelSpacing = header.placement.pixel_spacing()
    dataset.SliceThickness = header.placement.slice_thickness()
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = ny, nx
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    _set_scale(dataset, header.scale)
    dataset.add_new("PixelData", "OW", stored.astype("<i2", copy=False).tobytes())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(header.instance_uid(z_index))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = f"MARSPIPE {__version__}"[:16]
    return FileDataset("", dataset, preamble=b"\0" * 128, file_meta=meta), clipped


def _set_scale(dataset: Dataset, scale: ValueScale) -> None:
    dataset.RescaleIntercept = scale.intercept_text
    dataset.RescaleSlope = scale.slope_text
    dataset.RescaleType = scale.rescale_type
    unit = Dataset()
    unit.CodeValue = "[hnsf'U]" if scale.units == "HU" else "/mm"
    unit.CodingSchemeDesignator = "UCUM"
    unit.CodeMeaning = "Hounsfield unit" if scale.units == "HU" else "per millimeter"
    mapping = Dataset()
    mapping.add_new("RealWorldValueFirstValueMapped", "SS", STORED_MIN)
    mapping.add_new("RealWorldValueLastValueMapped", "SS", STORED_MAX)
    mapping.RealWorldValueIntercept = scale.intercept
    mapping.RealWorldValueSlope = scale.slope
    mapping.LUTLabel = scale.units
    mapping.LUTExplanation = scale.quantity
    mapping.MeasurementUnitsCodeSequence = [unit]
    dataset.RealWorldValueMappingSequence = [mapping]
