"""How the scan was made, for objects that want all of it: multi-energy images and Enhanced CT.

The standard requires these attributes of ORIGINAL images only, but validators want each sequence complete. What a
volume does not know is written as 0, and :func:`unrecorded` says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from marspipe.dicom.acquisition import acquisition_elements
from marspipe.dicom.codes import Elements
from marspipe.dicom.decimals import decimal_string
from marspipe.scan.geometry import ScanGeometry

SOURCE_INDEX = 1
# Defined terms of Filter Material (0018,7050).
_FILTER_TERMS = {
    "Ag": "SILVER",
    "Al": "ALUMINUM",
    "Cu": "COPPER",
    "Mo": "MOLYBDENUM",
    "Nb": "NIOBIUM",
    "Pb": "LEAD",
    "Rh": "RHODIUM",
    "Sn": "TIN",
}


def exposure_and_geometry(metadata: Mapping[str, Any], n_paths: int = 0) -> Elements:
    """Return exposure, X-ray details, acquisition details and geometry of a scan (PS3.3 C.8.15.3.3, .6, .8, .9).

    Parameters
    ----------
    metadata : mapping
        Of the volume; ``tube`` (voltage_kvp, current_ua, filters, focal_spot_mm), ``exposure_s`` (of all views
        together) and ``geometry`` are read.
    n_paths : int
        Energy bins, for a multi-energy image: its acquisition details and geometry are told for each.
    """
    tube, known = metadata.get("tube") or {}, acquisition_elements(metadata)
    milliseconds = 1e3 * float(metadata.get("exposure_s") or 0.0)
    milliamperes = 1e-3 * float(tube.get("current_ua") or 0.0)
    exposure: Elements = {
        "ExposureTimeInms": milliseconds,
        "XRayTubeCurrentInmA": milliamperes,
        "ExposureInmAs": 1e-3 * milliseconds * milliamperes,
        "ExposureModulationType": "NONE",
    }
    details: Elements = {
        "KVP": known["KVP"] or "0",
        "FocalSpots": decimal_string(float(tube.get("focal_spot_mm") or 0.0)),
        "FilterType": known.get("FilterType", "NONE"),
        "FilterMaterial": _filter_materials(tube.get("filters") or {}),
    }
    if n_paths:
        exposure["ReferencedXRaySourceIndex"] = SOURCE_INDEX
    paths: list[Elements] = [{"ReferencedPathIndex": path} for path in range(1, 1 + n_paths)] or [{}]
    acquisition, distances = _collimation(metadata), _distances(known)
    return {
        "CTExposureSequence": [exposure],
        "CTXRayDetailsSequence": [details],
        "CTAcquisitionDetailsSequence": [{**path, **acquisition} for path in paths],
        "CTGeometrySequence": [{**path, **distances} for path in paths],
    }


def recorded_groups(metadata: Mapping[str, Any], n_paths: int = 0) -> Elements:
    """Return those of the sequences whose main values are known; the frames of Enhanced CT may lack the others."""
    tube, groups = metadata.get("tube") or {}, exposure_and_geometry(metadata, n_paths)
    if metadata.get("exposure_s") is None or tube.get("current_ua") is None:
        del groups["CTExposureSequence"]
    if tube.get("voltage_kvp") is None:
        del groups["CTXRayDetailsSequence"]
    if "DistanceSourceToDetector" not in acquisition_elements(metadata):
        del groups["CTGeometrySequence"]
    return groups


def unrecorded(metadata: Mapping[str, Any]) -> str:
    """Return one sentence that says which facts of the exposure nobody recorded, or ``""``."""
    tube = metadata.get("tube") or {}
    names = {
        "voltage": tube.get("voltage_kvp"),
        "tube current": tube.get("current_ua"),
        "focal spot": tube.get("focal_spot_mm"),
        "exposure time": metadata.get("exposure_s"),
        "distances": acquisition_elements(metadata).get("DistanceSourceToDetector"),
    }
    missing = [name for name, value in names.items() if value is None]
    return f"Not recorded (0 or absent): {', '.join(missing)}." if missing else ""


def _filter_materials(filters: Mapping[str, float]) -> list[str] | str:
    return [_FILTER_TERMS.get(name, name.upper()[:16]) for name in filters] or "NONE"


def _distances(known: Elements) -> Elements:
    return {
        "DistanceSourceToDetector": float(known.get("DistanceSourceToDetector", 0.0)),
        "DistanceSourceToDataCollectionCenter": float(known.get("DistanceSourceToPatient", 0.0)),
    }


def _collimation(metadata: Mapping[str, Any]) -> Elements:
    """Return what the detector covers at the axis, mm; 0 for a geometry without one orbit."""
    described = metadata.get("geometry")
    geometry = ScanGeometry.from_dict(dict(described)) if described else None
    row_mm = total_mm = diameter_mm = 0.0
    if geometry is not None and geometry.orbit is not None:
        orbit, (rows, columns) = geometry.orbit, geometry.detector_shape
        shrink = orbit.source_to_isocenter_mm / orbit.source_to_detector_mm
        row_mm = orbit.pixel_pitch_mm[0] * shrink
        total_mm = rows * row_mm
        half_fan_rad = math.atan2(0.5 * columns * orbit.pixel_pitch_mm[1], orbit.source_to_detector_mm)
        diameter_mm = 2.0 * orbit.source_to_isocenter_mm * math.sin(half_fan_rad)
    return {
        "SingleCollimationWidth": row_mm,
        "TotalCollimationWidth": total_mm,
        "TableHeight": 0.0,  # the sample rests on the axis; there is no patient table
        "GantryDetectorTilt": 0.0,
        "DataCollectionDiameter": decimal_string(diameter_mm),
    }
