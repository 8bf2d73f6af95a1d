"""Coded entries (PS3.3 8.8): units, quantities, materials and body regions as every reader knows them.

The codes are those of PS3.16, as pydicom carries them; what the standard has no code for gets one of the private coding
scheme 99MARSPIPE, which readers may ignore but cannot mistake.
"""

from __future__ import annotations

from typing import Any

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

Elements = dict[str, Any]

PRIVATE_SCHEME = "99MARSPIPE"

# PS3.16 CID 300 (multi-energy relevant materials), where it has the material; Lipid of CID 7180.
MATERIALS: dict[str, Code] = {
    "barium": codes.cid300.Barium,
    "bismuth": codes.cid300.Bismuth,
    "calcium": codes.cid300.Calcium,
    "fat": codes.cid300.Fat,
    "gadolinium": codes.cid300.Gadolinium,
    "gold": codes.cid300.Gold,
    "hafnium": codes.cid300.Hafnium,
    "hydroxyapatite": codes.cid300.CalciumHydroxyapatite,
    "iodine": codes.cid300.Iodine,
    "iron": codes.cid300.Iron,
    "lipid": codes.cid7180.Lipid,
    "platinum": codes.cid300.Platinum,
    "silver": codes.cid300.Silver,
    "tantalum": codes.cid300.Tantalum,
    "titanium": codes.cid300.Titanium,
    "uric acid": codes.cid300.UricAcid,
    "water": codes.cid300.Water,
    "yttrium": codes.cid300.Yttrium,
}

# UCUM, http://unitsofmeasure.org: PS3.16 CID 301 where it has the unit.
UNITS: dict[str, Code] = {
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "mg/mL": Code("mg/ml", "UCUM", "mg/ml"),
    "1/mm": Code("/mm", "UCUM", "per millimeter"),
}

# PS3.16 annex L: defined terms of Body Part Examined that micro-CT meets, and their codes of CID 4031.
_BODY_PARTS: dict[str, Code] = {
    "ABDOMEN": codes.cid4031.Abdomen,
    "ANKLE": codes.cid4031.AnkleJoint,
    "BREAST": codes.cid4031.Breast,
    "CALCANEUS": codes.cid4031.Calcaneus,
    "CHEST": codes.cid4031.Chest,
    "ELBOW": codes.cid4031.ElbowJoint,
    "FEMUR": codes.cid4031.Femur,
    "FINGER": codes.cid4031.Finger,
    "FOOT": codes.cid4031.Foot,
    "HAND": codes.cid4031.Hand,
    "HEAD": codes.cid4031.Head,
    "HEART": codes.cid4031.Heart,
    "HIP": codes.cid4031.HipJoint,
    "JAW": codes.cid4031.JawRegion,
    "KNEE": codes.cid4031.Knee,
    "MANDIBLE": codes.cid4031.Mandible,
    "MAXILLA": codes.cid4031.Maxilla,
    "PELVIS": codes.cid4031.Pelvis,
    "PHANTOM": codes.cid4031.Phantom,
    "SHOULDER": codes.cid4031.Shoulder,
    "SKULL": codes.cid4031.Skull,
    "SPINE": codes.cid4031.Spine,
    "TOE": codes.cid4031.Toe,
    "WHOLEBODY": codes.cid4031.EntireBody,
    "WRIST": codes.cid4031.WristJoint,
}
_ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")

QUANTITY = Code("246205007", "SCT", "Quantity")
SUBSTANCE = Code("105590001", "SCT", "Substance")
MEASUREMENT_METHOD = Code("370129005", "SCT", "Measurement Method")
ATTENUATION_COEFFICIENT = Code("112031", "DCM", "Attenuation Coefficient")
MATERIAL_SPECIFIC_IMAGE = Code("129323", "DCM", "Material Specific Image")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")


def code_item(code: Code) -> Elements:
    """Return a coded entry as attributes."""
    return {
        "CodeValue": code.value,
        "CodingSchemeDesignator": code.scheme_designator,
        "CodeMeaning": code.meaning,
    }


def private_code(value: str, meaning: str) -> Code:
    """Return a code of the private scheme; values have at most 16 characters."""
    return Code(value[:16], PRIVATE_SCHEME, meaning)


def material_code(material: str) -> Code:
    """Return the code of a material by its name, a private one if the standard has none."""
    name = material.strip().lower()
    return MATERIALS.get(name) or private_code("".join(c for c in name.upper() if c.isalnum()), material[:64])


def body_region_code(body_part_examined: str | None) -> Code:
    """Return the code of a Body Part Examined; that of any anatomical structure if it is not known."""
    return _BODY_PARTS.get(body_part_examined or "", _ANATOMICAL_STRUCTURE)


def private_scheme_item() -> Elements:
    """Return the entry of Coding Scheme Identification Sequence (PS3.3 C.12.1) that objects with private codes need."""
    return {"CodingSchemeDesignator": PRIVATE_SCHEME, "CodingSchemeName": "marspipe, private codes"}
