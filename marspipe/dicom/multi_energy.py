"""Multi-energy CT attributes of virtual monoenergetic images and material maps.

How the scan was made (source, detector, one path for each energy bin) and how the maps came of it: DICOM Supplement
188, PS3.3 C.8.2.2, C.8.15.3.12, C.8.15.3.13 and C.8.15.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marspipe.dicom.acquisition import acquisition_time
from marspipe.dicom.codes import Elements
from marspipe.dicom.decimals import decimal_string
from marspipe.dicom.exposure import SOURCE_INDEX, exposure_and_geometry
from marspipe.dicom.spectral_map import SpectralMap
from marspipe.errors import InputError

_METHODS = {"projection_based": "PROJECTION_BASED", "image_based": "IMAGE_BASED", "hybrid": "HYBRID"}


def multi_energy_elements(metadata: Mapping[str, Any], of: SpectralMap) -> Elements:
    """Return all of it as attributes of a single-frame CT image.

    Parameters
    ----------
    metadata : mapping
        Of the volume; ``acquired_at`` must be known, and see :func:`source_detector_and_paths`, :func:`processing`.
    of : SpectralMap
        What the map shows.

    Raises
    ------
    InputError
        If the metadata lacks what the standard requires.
    """
    date, time, _ = acquisition_time(metadata)
    if not date:
        raise InputError("a map needs the time of the scan (acquired_at) in the volume's metadata")
    elements: Elements = {
        "MultienergyCTAcquisition": "YES",
        "MultienergyCTAcquisitionSequence": [acquisition_sequence(metadata, date + time)],
    }
    if of.kind == "monoenergetic":
        elements["MultienergyCTCharacteristicsSequence"] = [characteristics(of)]
    decomposed = processing(metadata)
    if decomposed:
        elements["MultienergyCTProcessingSequence"] = [decomposed]
    return elements


def source_detector_and_paths(metadata: Mapping[str, Any], started: str) -> Elements:
    """Return the sequences of source, detector and paths: one detector item and one path for each energy bin.

    Parameters
    ----------
    metadata : mapping
        Of the volume. ``source_bins``: the scan's energy bins, each with ``low_kev``, ``high_kev`` (None: open) and
        optionally ``label`` and ``effective_kev``; ``tube`` closes an open bin.
    started : str
        When the source was switched on, a DICOM DT. When it was switched off is not recorded; the same is written.

    Raises
    ------
    InputError
        If the scan had fewer than two energy bins, or an open bin has no tube voltage to end at.
    """
    bins = _source_bins(metadata)
    source: Elements = {
        "XRaySourceIndex": SOURCE_INDEX,
        "XRaySourceID": "1",
        "MultienergySourceTechnique": "CONSTANT_SOURCE",
        "SourceStartDateTime": started,
        "SourceEndDateTime": started,
    }
    voltage = (metadata.get("tube") or {}).get("voltage_kvp")
    detectors, paths = [], []
    for index, energy in enumerate(bins, 1):
        high = energy.get("high_kev")
        if high is None:
            high = voltage
        if high is None:
            raise InputError(
                f"source_bins[{index - 1}] is open above and the tube's voltage is unknown: the multi-energy "
                "attributes need its highest energy"
            )
        detector: Elements = {
            "XRayDetectorIndex": index,
            "XRayDetectorID": "1",
            "MultienergyDetectorType": "PHOTON_COUNTING",
            "XRayDetectorLabel": str(energy.get("label") or f"{energy['low_kev']:g}-{high:g} keV"),
            "NominalMaxEnergy": decimal_string(float(high)),
            "NominalMinEnergy": decimal_string(float(energy["low_kev"])),
        }
        if energy.get("effective_kev") is not None:
            detector["EffectiveBinEnergy"] = decimal_string(float(energy["effective_kev"]))
        detectors.append(detector)
        paths.append(
            {
                "MultienergyCTPathIndex": index,
                "ReferencedXRaySourceIndex": SOURCE_INDEX,
                "ReferencedXRayDetectorIndex": index,
            }
        )
    return {
        "MultienergyCTXRaySourceSequence": [source],
        "MultienergyCTXRayDetectorSequence": detectors,
        "MultienergyCTPathSequence": paths,
    }


def acquisition_sequence(metadata: Mapping[str, Any], started: str) -> Elements:
    """Return the item of Multi-energy CT Acquisition Sequence (0018,9362); see :func:`source_detector_and_paths`."""
    return {
        "MultienergyAcquisitionDescription": _description(metadata),
        **source_detector_and_paths(metadata, started),
        **exposure_and_geometry(metadata, len(_source_bins(metadata))),
    }


def characteristics(of: SpectralMap) -> Elements:
    """Return the item of Multi-energy CT Characteristics Sequence (0018,9364) of a monoenergetic image."""
    return {"MonoenergeticEnergyEquivalent": of.energy_kev}


def processing(metadata: Mapping[str, Any]) -> Elements:
    """Return the item of Multi-energy CT Processing Sequence (0018,9363): how bins were decomposed into materials.

    Parameters
    ----------
    metadata : mapping
        Of the volume. ``decomposition``: ``method`` (image_based, projection_based or hybrid) and ``description``; the
        materials are those of the volume's maps.

    Raises
    ------
    InputError
        If the method is unknown.
    """
    decomposition = metadata.get("decomposition") or {}
    method = decomposition.get("method")
    if method is None:
        return {}
    if method not in _METHODS:
        raise InputError(f"decomposition.method must be one of {', '.join(_METHODS)}, got {method!r}")
    maps = [(entry.get("map") or {}) for entry in metadata.get("bins") or ()]
    materials = [str(described["material"]) for described in maps if described.get("kind") == "material"]
    # The materials in words: validators of the day refuse more than one item of Decomposition Material Sequence,
    # which is optional, while PS3.3 C.8.15.3.13 asks for two or more.
    words = [str(decomposition.get("description") or ""), f"Materials: {', '.join(materials)}" if materials else ""]
    elements: Elements = {"DecompositionMethod": _METHODS[method]}
    if any(words):
        elements["DecompositionDescription"] = ". ".join(word for word in words if word)
    return elements


def _source_bins(metadata: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    bins: Sequence[Mapping[str, Any]] = metadata.get("source_bins") or ()
    if len(bins) < 2:
        raise InputError(
            f"a map needs the scan's energy bins, at least two, in the volume's metadata (source_bins), got {len(bins)}"
        )
    return bins


def _description(metadata: Mapping[str, Any]) -> str:
    return f"One source, one photon-counting detector with {len(_source_bins(metadata))} energy bins"
