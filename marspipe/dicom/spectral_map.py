"""What a map volume holds: virtual monoenergetic images, or concentrations of materials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marspipe.errors import InputError


@dataclass(frozen=True)
class SpectralMap:
    """One map of a volume that was made from energy bins.

    Attributes
    ----------
    kind : {"monoenergetic", "material"}
        Attenuation at one photon energy in 1/mm, or the concentration of a material in mg/mL.
    energy_kev : float or None
        Photon energy of a monoenergetic image.
    material : str or None
        Name of the material.
    """

    kind: str
    energy_kev: float | None = None
    material: str | None = None

    @property
    def label(self) -> str:
        """Short name, such as ``70 keV monoenergetic`` or ``iodine``."""
        return f"{self.energy_kev:g} keV monoenergetic" if self.kind == "monoenergetic" else str(self.material)

    @property
    def image_type(self) -> str:
        """Value 4 of Image Type, PS3.3 C.8.2.1.1.1."""
        return "VMI" if self.kind == "monoenergetic" else "MAT_SPECIFIC"


def spectral_map(metadata: Mapping[str, Any], bin: int) -> SpectralMap | None:
    """Return what a bin of a volume maps, None for an energy bin.

    Parameters
    ----------
    metadata : mapping
        Of a volume; ``bins[bin]["map"]`` is ``{"kind": "monoenergetic", "energy_kev": 70.0}`` or ``{"kind": "material",
        "material": "iodine", "unit": "mg/mL"}``.
    bin : int
        Which.

    Raises
    ------
    InputError
        If the description is not one of these.
    """
    bins = metadata.get("bins") or ()
    described = bins[bin].get("map") if bin < len(bins) else None
    if not described:
        return None
    kind = described.get("kind")
    if kind == "monoenergetic":
        energy = described.get("energy_kev")
        if not isinstance(energy, int | float) or not (math.isfinite(energy) and energy > 0):
            raise InputError(f"bins[{bin}].map: energy_kev must be positive, got {energy!r}")
        return SpectralMap(kind, energy_kev=float(energy))
    if kind == "material":
        material, unit = described.get("material"), described.get("unit", "mg/mL")
        if not isinstance(material, str) or not material.strip():
            raise InputError(f"bins[{bin}].map: material must be a name, got {material!r}")
        if unit != "mg/mL":
            raise InputError(f"bins[{bin}].map: the unit of a material must be 'mg/mL', got {unit!r}")
        return SpectralMap(kind, material=material.strip())
    raise InputError(f"bins[{bin}].map: kind must be 'monoenergetic' or 'material', got {kind!r}")
