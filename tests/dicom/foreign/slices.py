"""CT files for the tests: small, with exactly the attributes and the fault that a test is about."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from marspipe.dicom.foreign.instance import Instance, read_instance

DATA = Path(__file__).resolve().parents[2] / "data" / "dicom_ct"
PRIVATE = {"PatientName": "Doe^Jane", "PatientID": "ID-77123", "AccessionNumber": "ACC-9911", "StudyDate": "19991231"}

SERIES_UID = "2.25.1001"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STORED = (np.arange(48 * 64).reshape(48, 64) * 7 - 300).astype(np.int16)


def ct_dataset(
    stored: NDArray[Any],
    position: Sequence[float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (1.0, 1.0),
    **changes: Any,
) -> FileDataset:
    """A CT slice of stored int16 or uint16 values in HU, intercept -1024; a change to None leaves an attribute out."""
    dataset = Dataset()
    elements: dict[str, Any] = {
        **PRIVATE,
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(prefix="2.25."),
        "StudyInstanceUID": "2.25.1000",
        "SeriesInstanceUID": SERIES_UID,
        "FrameOfReferenceUID": "2.25.1002",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [f"{v:.10g}" for v in position],
        "ImageOrientationPatient": [f"{v:.10g}" for v in orientation],
        "PixelSpacing": [f"{v:.10g}" for v in spacing],
        "SliceThickness": "1",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 8 * stored.dtype.itemsize,
        "BitsStored": 8 * stored.dtype.itemsize,
        "HighBit": 8 * stored.dtype.itemsize - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
        **changes,
    }
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return FileDataset("", dataset, preamble=b"\0" * 128, file_meta=meta)


def as_bytes(dataset: FileDataset) -> bytes:
    """A data set as a file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def bare(dataset: Dataset, *, implicit: bool, little: bool = True) -> bytes:
    """A data set without preamble and file meta."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    plain = Dataset()
    for element in dataset:
        plain.add(element)
    if not little:
        stored = np.frombuffer(dataset.PixelData, "<u2").byteswap()
        plain["PixelData"].value = stored.tobytes()
    pydicom.filewriter.write_dataset(buffer, plain)
    return bytes(buffer.getvalue())


def meta_bytes(syntax: str) -> bytes:
    """Preamble and file meta that state a transfer syntax."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "2.25.5"
    meta.TransferSyntaxUID = syntax
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    pydicom.filewriter.write_file_meta_info(buffer, meta, enforce_standard=False)
    return bytes(buffer.getvalue())


def after_meta(content: bytes) -> bytes:
    """What follows the file meta."""
    length = struct.unpack("<I", content[140:144])[0]
    return content[144 + length :]


def quiet(content: bytes, origin: str = "a.dcm") -> Instance:
    return read_instance(content, origin, warn=False)


def ct(stored: NDArray[Any], *arguments: Any, origin: str = "slice.dcm", **changes: Any) -> Instance:
    """A slice that was written and read."""
    return read_instance(as_bytes(ct_dataset(stored, *arguments, **changes)), origin)


def stack(
    values: Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    shape: tuple[int, int, int],
    origin: Sequence[float],
    steps: Sequence[Sequence[float]],
    **changes: Any,
) -> list[Instance]:
    """Slices of a function of patient x, y, z on a lattice, by the steps between slices, rows and columns."""
    slice_step, row_step, column_step = (np.array(step, dtype=np.float64) for step in steps)
    spacing = float(np.linalg.norm(row_step)), float(np.linalg.norm(column_step))
    orientation = [*(column_step / spacing[1]), *(row_step / spacing[0])]
    rows, columns = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    instances = []
    for number in range(shape[0]):
        corner = np.array(origin) + number * slice_step
        places = corner + rows[..., None] * row_step + columns[..., None] * column_step
        stored = np.rint(values(*np.moveaxis(places, -1, 0)) + 1024).astype(np.int16)
        instances.append(ct(stored, corner, orientation, spacing, origin=f"slice-{number}.dcm", **changes))
    return instances
