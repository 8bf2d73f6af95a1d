"""Small instances for measurements of the network side: as many as wanted, the same ones every time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RawDataStorage
from pynetdicom.dsutils import encode

from marspipe.dicom.pacs.arriving import file_meta
from marspipe.dicom.uid import derived_uid

_SIDE_PX = 64


@dataclass(frozen=True)
class Sample:
    """An instance of Raw Data Storage: a frame of 64 x 64 pixels of 16 bit, which look random.

    Attributes
    ----------
    study_uid, series_uid, sop_uid : str
        Which instance it is.
    data_set : bytes
        Encoded as explicit VR, little endian.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    data_set: bytes

    def as_file(self) -> bytes:
        """Return it as the content of a DICOM file."""
        return file_meta(RawDataStorage, self.sop_uid, ExplicitVRLittleEndian) + self.data_set


def sample(series: int, number: int) -> Sample:
    """Return an instance of a series."""
    study_uid, series_uid = derived_uid("sample study"), derived_uid("sample series", series)
    sop_uid = derived_uid("sample", series, number)
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(RawDataStorage), UID(sop_uid)
    dataset.Modality = "CT"
    dataset.PatientName, dataset.PatientID = "Anonymous^", "sample"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = UID(study_uid), UID(series_uid)
    dataset.InstanceNumber = number + 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = _SIDE_PX
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    pixels = hashlib.shake_128(sop_uid.encode()).digest(2 * _SIDE_PX**2)
    dataset.add_new("PixelData", "OW", pixels)
    return Sample(study_uid, series_uid, sop_uid, bytes(encode(dataset, False, True) or b""))
