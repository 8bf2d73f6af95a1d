"""What stored values mean in the real world (PS3.3 C.7.6.16.2.11): units, quantity and, for maps, the material."""

from __future__ import annotations

from pydicom.sr.coding import Code

from marspipe.dicom.codes import (
    ATTENUATION_COEFFICIENT,
    MATERIAL_SPECIFIC_IMAGE,
    MEASUREMENT_METHOD,
    QUANTITY,
    SUBSTANCE,
    UNITS,
    Elements,
    code_item,
    material_code,
)
from marspipe.dicom.scale import STORED_MAX, STORED_MIN, ValueScale
from marspipe.dicom.spectral_map import SpectralMap


def real_world_value_mapping(scale: ValueScale, of: SpectralMap | None) -> Elements:
    """Return the item of Real World Value Mapping Sequence for stored int16 values."""
    return {
        "RealWorldValueFirstValueMapped": STORED_MIN,
        "RealWorldValueLastValueMapped": STORED_MAX,
        "RealWorldValueIntercept": scale.intercept,
        "RealWorldValueSlope": scale.slope,
        **_meaning(scale, of),
    }


def float_value_mapping(low: float, high: float, scale: ValueScale, of: SpectralMap | None) -> Elements:
    """Return the item of Real World Value Mapping Sequence for values that are stored as they are, low to high."""
    return {
        "DoubleFloatRealWorldValueFirstValueMapped": low,
        "DoubleFloatRealWorldValueLastValueMapped": high,
        "RealWorldValueIntercept": 0.0,
        "RealWorldValueSlope": 1.0,
        **_meaning(scale, of),
    }


def _meaning(scale: ValueScale, of: SpectralMap | None) -> Elements:
    # PS3.17 KKKK.1: a map's label is value 4 of its Image Type, and its quantity names the substance and the method.
    quantity = [_coded(QUANTITY, ATTENUATION_COEFFICIENT)]
    if of is not None and of.material is not None:
        quantity = [
            _coded(SUBSTANCE, material_code(of.material)),
            _coded(MEASUREMENT_METHOD, MATERIAL_SPECIFIC_IMAGE),
        ]
    return {
        "LUTLabel": scale.units if of is None else of.image_type,
        "LUTExplanation": scale.quantity if of is None else f"{of.label}, {scale.quantity}"[:64],
        "MeasurementUnitsCodeSequence": [code_item(UNITS[scale.units])],
        "QuantityDefinitionSequence": quantity,
    }


def _coded(name: Code, value: Code) -> Elements:
    return {
        "ValueType": "CODE",
        "ConceptNameCodeSequence": [code_item(name)],
        "ConceptCodeSequence": [code_item(value)],
    }
