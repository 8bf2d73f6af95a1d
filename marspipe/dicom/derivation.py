r"""Where pixels come from: Image Type, and how a derived image was derived.

A volume in 1/mm is ``DERIVED`` since PS3.3 C.8.2.1 wants Hounsfield units of every ORIGINAL axial CT image.
Multi-frame objects are ``DERIVED`` even in Hounsfield units: an ORIGINAL frame must tell exposure, collimation and
table (PS3.3 C.8.15.3), which a scan does not record, and these would have to be invented.
"""

from __future__ import annotations

from pydicom.sr.coding import Code

from marspipe.dicom.codes import Elements, code_item, private_code
from marspipe.dicom.series import SeriesHeader

_MONOENERGETIC = private_code("MONOENERGETIC", "Virtual monoenergetic image from energy bins")
_DECOMPOSITION = private_code("DECOMPOSITION", "Material decomposition of energy bins")
_RECONSTRUCTION = private_code("RECONSTRUCTION", "Reconstruction from projections")


def image_type(header: SeriesHeader) -> list[str]:
    """Return Image Type: three values for a CT image of an energy bin, four else."""
    if header.kind == "parametric-map":
        return ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    if header.kind == "enhanced-ct":
        return ["DERIVED", "PRIMARY", "VOLUME", "NONE" if header.map is None else header.map.image_type]
    if header.map is not None:
        return ["DERIVED", "PRIMARY", "AXIAL", header.map.image_type]
    return ["ORIGINAL" if header.scale.units == "HU" else "DERIVED", "PRIMARY", "AXIAL"]


def derivation_code(header: SeriesHeader) -> Code:
    """Return what was done, as a code."""
    if header.map is None:
        return _RECONSTRUCTION
    return _MONOENERGETIC if header.map.kind == "monoenergetic" else _DECOMPOSITION


def derivation_elements(header: SeriesHeader) -> Elements:
    """Return Image Type and derivation of a single-frame CT image."""
    elements: Elements = {"ImageType": image_type(header)}
    if header.map is not None:
        elements["DerivationDescription"] = f"{derivation_code(header).meaning}: {header.map.label}"
        elements["DerivationCodeSequence"] = [code_item(derivation_code(header))]
    elif header.scale.units != "HU":
        elements["DerivationDescription"] = "Linear attenuation coefficient in 1/mm, not scaled to Hounsfield units"
    return elements
