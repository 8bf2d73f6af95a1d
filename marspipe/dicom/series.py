"""What all slices of a DICOM series share, worked out once from a volume."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marspipe import __version__
from marspipe.dicom.acquisition import acquisition_elements, acquisition_time, required_text
from marspipe.dicom.decimals import decimal_string
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.placement import SlicePlacement, slice_placement
from marspipe.dicom.scale import ValueScale, attenuation_scale, hounsfield_scale
from marspipe.dicom.uid import derived_uid
from marspipe.errors import InputError
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid

MAX_SIDE_PX = 65535  # Rows and Columns are 16-bit


class Slices(Protocol):
    """The slices of one energy bin."""

    def __getitem__(self, z: int, /) -> NDArray[np.float32]: ...


class SourceVolume(Protocol):
    """What an export reads of a volume; :func:`marspipe.open_volume` gives one."""

    @property
    def bins(self) -> Sequence[EnergyBin]: ...  # noqa: D102
    @property
    def grid(self) -> VolumeGrid: ...  # noqa: D102
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def statistics(self) -> Sequence[Mapping[str, float]]: ...  # noqa: D102
    def __getitem__(self, bin: int, /) -> Slices: ...


@dataclass(frozen=True)
class SeriesHeader:
    """All that the slices of one series have in common.

    Attributes
    ----------
    bin : int
        Index of the energy bin.
    shape : (int, int, int)
        Slices, rows, columns.
    study_uid, series_uid, frame_of_reference_uid : str
        The study and the frame of reference are those of the scan; the series is this reconstruction of this bin.
    scale : ValueScale
        How values are stored.
    placement : SlicePlacement
        Where slices lie.
    elements : dict
        The other attributes, by keyword.
    """

    bin: int
    shape: tuple[int, int, int]
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    scale: ValueScale
    placement: SlicePlacement
    elements: dict[str, Any]

    def instance_uid(self, z_index: int) -> str:
        """Return the SOP Instance UID of a slice."""
        return derived_uid("instance", self.series_uid, z_index)

    def slice_path(self, z_index: int) -> str:
        """Return the relative path of a slice's file, such as ``bin-00/slice-0012.dcm``; names sort by slice."""
        digits = max(4, len(str(self.shape[0] - 1)))
        return f"bin-{self.bin:02d}/slice-{z_index:0{digits}d}.dcm"


def series_header(
    volume: SourceVolume,
    bin: int,
    identity: SeriesIdentity | None = None,
    *,
    water_attenuation_per_mm: float | None = None,
    window: tuple[float, float] | None = None,
) -> SeriesHeader:
    """Return what all slices of an energy bin's series share.

    Parameters
    ----------
    volume : SourceVolume
        The metadata must hold ``scan_id`` and ``recipe_hash``; ``version``, ``description``, ``acquired_at``, ``tube``,
        ``geometry`` and ``filter`` are used where present.
    bin : int
        Index of the energy bin.
    identity : SeriesIdentity, optional
        Patient and study; by default nobody's, with the scan id as patient ID.
    water_attenuation_per_mm : float, optional
        Attenuation of water in this bin, 1/mm: the series is then written in Hounsfield units.
    window : (float, float), optional
        Lowest and highest value that a viewer shows at first, in output units. By default the 1st and 99.5th
        percentile of the middle slice, which is read for it.

    Raises
    ------
    InputError
        If the bin does not exist, the metadata lacks an id, or the volume does not fit into CT images.
    """
    if not 0 <= bin < len(volume.bins):
        raise InputError(f"the volume has energy bins 0 to {len(volume.bins) - 1}, asked for bin {bin}")
    nz, ny, nx = volume.grid.shape
    if max(ny, nx) > MAX_SIDE_PX or 2 * ny * nx >= 2**32 - 2:
        raise InputError(f"a slice of {ny} x {nx} pixels is too large for a CT image (at most {MAX_SIDE_PX} a side)")
    identity = identity or SeriesIdentity()
    metadata = volume.metadata
    scan_id = required_text(metadata, "scan_id")
    minimum, maximum = (float(volume.statistics[bin][name]) for name in ("min", "max"))
    if water_attenuation_per_mm is None:
        scale = attenuation_scale(minimum, maximum)
    else:
        scale = hounsfield_scale(water_attenuation_per_mm)
    study_uid = identity.study_instance_uid or derived_uid("study", scan_id)
    geometry = json.dumps(metadata.get("geometry") or {}, sort_keys=True)
    reconstruction = (
        required_text(metadata, "recipe_hash"),
        str(metadata.get("version", "")),
        json.dumps(volume.grid.to_dict(), sort_keys=True),
        geometry,
        repr((minimum, maximum)),
    )
    series_uid = derived_uid(
        *("series", study_uid, scan_id, *reconstruction),
        *(bin, volume.bins[bin].label, repr(scale.water_attenuation_per_mm)),
    )
    elements = {
        **_patient_and_study(identity, metadata, scan_id),
        **_series_and_equipment(identity, metadata, volume.bins[bin], bin, scale),
        **acquisition_elements(metadata),
        **_window(window or _default_window(volume, bin, scale), scale),
        "ReconstructionDiameter": decimal_string(max(ny * volume.grid.voxel_mm[1], nx * volume.grid.voxel_mm[2])),
    }
    return SeriesHeader(
        bin=bin,
        shape=(nz, ny, nx),
        study_uid=study_uid,
        series_uid=series_uid,
        # A scan whose geometry was calibrated anew lies elsewhere in the world.
        frame_of_reference_uid=derived_uid("frame of reference", study_uid, scan_id, geometry),
        scale=scale,
        placement=slice_placement(volume.grid),
        elements=elements,
    )


def _patient_and_study(identity: SeriesIdentity, metadata: Mapping[str, Any], scan_id: str) -> dict[str, Any]:
    if identity.patient_id is None and len(scan_id) > 64:
        raise InputError(f"the scan id has {len(scan_id)} characters, a DICOM patient ID at most 64: give patient_id")
    date, time, offset = acquisition_time(metadata)
    elements: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": identity.patient_name,
        "PatientID": identity.patient_id or scan_id,
        "PatientBirthDate": identity.patient_birth_date or "",
        "PatientSex": identity.patient_sex or "",
        "StudyDate": identity.study_date or date,
        "StudyTime": identity.study_time or ("" if identity.study_date else time),
        "StudyID": identity.study_id or scan_id[:16],
        "StudyDescription": identity.study_description or _line(metadata.get("description"), 64) or None,
        "AccessionNumber": identity.accession_number or "",
        "ReferringPhysicianName": identity.referring_physician_name or "",
        "AcquisitionDate": date or None,
        "AcquisitionTime": time or None,
        "ContentDate": date,
        "ContentTime": time,
        "TimezoneOffsetFromUTC": offset or None,
        "InstitutionName": identity.institution_name,
        "StationName": identity.station_name,
        "BodyPartExamined": identity.body_part_examined,
        # Without a body part nobody can say whether it is a paired one: PS3.3 C.7.3.1 has the empty value for that.
        "Laterality": identity.laterality or (None if identity.body_part_examined else ""),
    }
    return {keyword: value for keyword, value in elements.items() if value is not None}


def _series_and_equipment(
    identity: SeriesIdentity, metadata: Mapping[str, Any], energy: EnergyBin, bin: int, scale: ValueScale
) -> dict[str, Any]:
    version = str(metadata.get("version") or __version__)
    comment = [f"{scale.quantity}, energy bin {energy.label}."]
    elements: dict[str, Any] = {
        "Modality": "CT",
        "Manufacturer": identity.manufacturer,
        "ManufacturerModelName": identity.manufacturer_model_name or "marspipe",
        "SoftwareVersions": f"marspipe {version}",
        "SeriesNumber": bin + 1,
        "SeriesDescription": f"{energy.label}, {scale.quantity}"[:64],
        "PatientPosition": "HFS",
        "PositionReferenceIndicator": "",
        "AcquisitionNumber": 1,
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
    }
    if scale.units == "HU":
        elements["ImageType"] = ["ORIGINAL", "PRIMARY", "AXIAL"]
        comment.append(f"Water {scale.water_attenuation_per_mm:g} 1/mm is 0 HU.")
    else:
        elements["ImageType"] = ["DERIVED", "PRIMARY", "AXIAL"]
        elements["DerivationDescription"] = "Linear attenuation coefficient in 1/mm, not scaled to Hounsfield units"
        comment.append("Not Hounsfield units.")
    current = (metadata.get("tube") or {}).get("current_ua")
    if current is not None:
        comment.append(f"Tube current {current:g} uA.")  # the CT image has whole mA only
    comment.append(f"Recipe {metadata['recipe_hash']}.")
    elements["ImageComments"] = " ".join(comment)
    return elements


def _line(text: object, limit: int) -> str:
    """Return free text as one line without backslashes, which DICOM takes as separators, cut to a length."""
    return " ".join(str(text or "").replace("\\", "/").split())[:limit].strip()


def _default_window(volume: SourceVolume, bin: int, scale: ValueScale) -> tuple[float, float]:
    low, high = np.percentile(volume[bin][volume.grid.shape[0] // 2], [1.0, 99.5])
    return scale.output(float(low)), scale.output(float(high))


def _window(window: tuple[float, float], scale: ValueScale) -> dict[str, Any]:
    low, high = window
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise InputError(f"a display window needs two finite values in order, got {window}")
    elements: dict[str, Any] = {}
    if scale.units == "HU":
        width = max(high - low, 1.0)
    else:
        # PS3.3 C.11.2.1: the plain linear function needs a width of at least 1, many times the range of 1/mm.
        elements["VOILUTFunction"] = "LINEAR_EXACT"
        width = max(high - low, scale.slope)
    elements["WindowCenter"] = decimal_string(0.5 * (low + high), digits=6)
    elements["WindowWidth"] = decimal_string(width, digits=6)
    return elements
