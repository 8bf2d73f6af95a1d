"""What a volume's metadata says about the scanner and the scan, as DICOM attributes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marspipe.dicom.decimals import decimal_string
from marspipe.errors import InputError
from marspipe.scan.geometry import PARALLEL_SOURCE_DISTANCE, ScanGeometry

Elements = dict[str, Any]


def required_text(metadata: Mapping[str, Any], key: str) -> str:
    """Return a text that a volume's metadata must have.

    Raises
    ------
    InputError
        If it is missing or empty.
    """
    value = metadata.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"the volume's metadata needs a text {key!r} for DICOM, got {value!r}")
    return value


def acquisition_elements(metadata: Mapping[str, Any]) -> Elements:
    """Return the attributes of tube, geometry and filter that the metadata knows; KVP is empty if it does not.

    Parameters
    ----------
    metadata : mapping
        Of a volume. Read here, all optional: ``tube`` (voltage_kvp, filters), ``geometry`` (from
        :meth:`~marspipe.scan.geometry.ScanGeometry.to_dict`), ``filter`` or else that of ``recipe`` (the window's name,
        or a mapping with ``window`` and ``cutoff``).
    """
    tube = metadata.get("tube") or {}
    voltage = tube.get("voltage_kvp")
    elements: Elements = {"KVP": "" if voltage is None else decimal_string(voltage)}
    # FilterType is an SH of 16 characters: thicknesses only if they fit.
    filters = tube.get("filters") or {}
    for text in (" ".join(f"{m} {t:g}mm" for m, t in filters.items()), " ".join(filters)):
        if 0 < len(text) <= 16:
            elements["FilterType"] = text
            break
    kernel = kernel_name(metadata)
    if kernel:
        elements["ConvolutionKernel"] = kernel
    elements.update(_distances(metadata.get("geometry")))
    return elements


def kernel_name(metadata: Mapping[str, Any]) -> str:
    """Return the reconstruction filter as text of at most 16 characters, such as ``hann 0.8``, or ``""``."""
    described = metadata.get("filter") or (metadata.get("recipe") or {}).get("filter") or ""
    if isinstance(described, Mapping):
        cutoff = float(described.get("cutoff", 1.0))
        described = f"{described.get('window', '')} {cutoff:g}" if cutoff != 1.0 else described.get("window", "")
    return str(described).strip()[:16]


def _distances(description: Mapping[str, Any] | None) -> Elements:
    if not description:
        return {}
    geometry = ScanGeometry.from_dict(dict(description))
    orbit = geometry.orbit
    if orbit is None:
        return {}
    rows, cols = geometry.detector_shape
    diagonal = ((rows * orbit.pixel_pitch_mm[0]) ** 2 + (cols * orbit.pixel_pitch_mm[1]) ** 2) ** 0.5
    if orbit.source_to_isocenter_mm > 1e-3 * PARALLEL_SOURCE_DISTANCE * diagonal:
        return {}  # a parallel beam written as a cone has no distances
    return {
        "DistanceSourceToDetector": decimal_string(orbit.source_to_detector_mm),
        "DistanceSourceToPatient": decimal_string(orbit.source_to_isocenter_mm),
    }


def acquisition_time(metadata: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return date, time and offset from UTC of the acquisition as DICOM texts, empty where unknown.

    Reads ``acquired_at`` of the metadata, ISO 8601; times with a zone are converted to UTC.

    Raises
    ------
    InputError
        If it is not an ISO 8601 time.
    """
    text = metadata.get("acquired_at")
    if not text:
        return "", "", ""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"the volume's acquired_at is not an ISO 8601 time: {text!r}") from error
    offset = ""
    if moment.tzinfo is not None:
        moment, offset = moment.astimezone(UTC), "+0000"
    return f"{moment:%Y%m%d}", f"{moment:%H%M%S.%f}", offset
