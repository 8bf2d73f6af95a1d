"""What a multi-energy CT object says of its energies and materials.

Source: DICOM PS3.3 C.8.2.2 (multi-energy CT image) and C.8.15.3.13 ff. (the same as functional groups), Supplement 188.
"""

from __future__ import annotations

from collections.abc import Sequence

from marspipe.dicom.foreign.attributes import Attributes

# SNOMED CT, as PS3.17 KKKK.1 names the material of a map.
_SUBSTANCE = "105590001"
_KINDS = {
    "VMI": "virtual monoenergetic image",
    "MAT_SPECIFIC": "material image",
    "MAT_REMOVED": "material removed",
    "MAT_FRACTIONAL": "material fraction",
    "EFF_ATOMIC_NUM": "effective atomic number",
    "ELECTRON_DENSITY": "electron density",
    "MAT_MODIFIED": "material modified",
    "MAT_VALUE_BASED": "value-based material image",
}


def image_kind(image_type: Sequence[str]) -> str:
    """Return the multi-energy kind that Image Type, value 4, names, in words; ``""`` for others."""
    return _KINDS.get(image_type[3], "") if len(image_type) > 3 else ""


def monoenergetic_kev(groups: Sequence[Attributes]) -> float | None:
    """Return the energy of a virtual monoenergetic image, keV; None for others."""
    for group in groups:
        for item in group.items("MultienergyCTCharacteristicsSequence"):
            energy = item.number("MonoenergeticEnergyEquivalent")
            if energy is not None:
                return energy
    return None


def materials(groups: Sequence[Attributes]) -> tuple[str, ...]:
    """Return the names of the materials that an image was decomposed into, by their codes."""
    found = []
    for group in groups:
        for processing in group.items("MultienergyCTProcessingSequence"):
            for material in processing.items("DecompositionMaterialSequence"):
                found.append(material.item("MaterialCodeSequence").text("CodeMeaning"))
        for mapping in group.items("RealWorldValueMappingSequence"):
            for quantity in mapping.items("QuantityDefinitionSequence"):
                # Its other items name the quantity itself, and how it was measured.
                if quantity.item("ConceptNameCodeSequence").text("CodeValue") == _SUBSTANCE:
                    found.append(quantity.item("ConceptCodeSequence").text("CodeMeaning"))
    return tuple(dict.fromkeys(name for name in found if name))


def detector_bins_kev(groups: Sequence[Attributes]) -> tuple[tuple[float, float], ...]:
    """Return the nominal energies, low and high, keV, of the detectors or bins that an image was measured with."""
    bins = []
    for group in groups:
        for acquisition in group.items("MultienergyCTAcquisitionSequence"):
            for detector in acquisition.items("MultienergyCTXRayDetectorSequence"):
                low, high = detector.number("NominalMinEnergy"), detector.number("NominalMaxEnergy")
                if low is not None and high is not None:
                    bins.append((low, high))
    return tuple(dict.fromkeys(bins))
