"""Samples for the virtual scanner: a cylinder with rods of known materials."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marspipe.errors import InputError
from marspipe.scan.phantoms import Cylinder
from marspipe.scan.spectra import Material, Solution, material_label


@dataclass(frozen=True)
class Insert:
    """A rod of one material, along z, that replaces the body's material.

    Attributes
    ----------
    material : str or Solution
        What it is filled with.
    center_mm : (float, float, float)
        Center (x, y, z), mm.
    radius_mm, height_mm : float
        Radius, and extent along z, mm.
    """

    material: Material
    center_mm: tuple[float, float, float]
    radius_mm: float
    height_mm: float

    @property
    def label(self) -> str:
        """Name of the material."""
        return material_label(self.material)

    @property
    def shape(self) -> Cylinder:
        """The rod as a shape of value 1."""
        return Cylinder(self.center_mm, self.radius_mm, self.height_mm)


@dataclass(frozen=True)
class InsertPhantom:
    """A cylinder around the rotation axis with rods inside; rods must not overlap or leave the body.

    Attributes
    ----------
    body_material : str or Solution
        What the cylinder is made of.
    body_radius_mm, body_height_mm : float
        Its radius, and extent along z around the isocenter, mm.
    inserts : tuple of Insert
        The rods.
    """

    body_material: Material
    body_radius_mm: float
    body_height_mm: float
    inserts: tuple[Insert, ...]

    def __post_init__(self) -> None:
        half = 0.5 * self.body_height_mm
        for k, insert in enumerate(self.inserts):
            x, y, z = insert.center_mm
            rod = insert.shape  # raises on numbers that are no rod
            reach = math.hypot(x, y) + rod.radius_mm
            if reach > self.body_radius_mm or abs(z) + 0.5 * rod.height_mm > half * (1 + 1e-12):
                raise InputError(
                    f"insert {k} ({insert.label}) leaves the body: it reaches {reach:g} mm from the axis and "
                    f"{abs(z) + 0.5 * rod.height_mm:g} mm from the middle, the body {self.body_radius_mm:g} mm and "
                    f"{half:g} mm"
                )
            for other, neighbor in enumerate(self.inserts[:k]):
                distance = math.hypot(x - neighbor.center_mm[0], y - neighbor.center_mm[1])
                apart = abs(z - neighbor.center_mm[2]) >= 0.5 * (insert.height_mm + neighbor.height_mm)
                if distance < insert.radius_mm + neighbor.radius_mm and not apart:
                    raise InputError(f"inserts {other} ({neighbor.label}) and {k} ({insert.label}) overlap")

    @property
    def body(self) -> Cylinder:
        """The whole cylinder as a shape of value 1."""
        return Cylinder((0.0, 0.0, 0.0), self.body_radius_mm, self.body_height_mm)

    def material_shapes(self) -> dict[Material, list[Cylinder]]:
        """Return the shapes whose values add up to 1 inside each material and 0 elsewhere."""
        groups: dict[Material, list[Cylinder]] = {self.body_material: [self.body]}
        for insert in self.inserts:
            if insert.material != self.body_material:
                hole = Cylinder(insert.center_mm, insert.radius_mm, insert.height_mm, value=-1.0)
                groups[self.body_material].append(hole)
                groups.setdefault(insert.material, []).append(insert.shape)
        return groups


def mars_phantom(scale: float = 1.0) -> InsertPhantom:
    """Return the default sample: a PMMA cylinder of 10 mm diameter with six rods of 2 mm around its axis.

    The rods end at different distances from the body's faces, and differ all round: an image of the phantom shows
    which way each axis points. Concentrations are low enough that a bin's attenuation is the same along every ray
    to better than 1 %.

    Parameters
    ----------
    scale : float
        Multiplies every length, for a larger or smaller detector.
    """
    if not 0 < scale < math.inf:
        raise InputError(f"the phantom's scale must be positive, got {scale}")
    fillings: tuple[Material, ...] = (
        "water",
        "lipid",
        Solution("hydroxyapatite", 150.0),
        Solution("iodine", 10.0),
        Solution("gadolinium", 10.0),
        Solution("gold", 10.0),
    )
    inserts = []
    for k, material in enumerate(fillings):
        angle = 2 * math.pi * k / len(fillings)
        center = (scale * 3.0 * math.cos(angle), scale * 3.0 * math.sin(angle), scale * -0.5)
        inserts.append(Insert(material, center, radius_mm=scale, height_mm=7.0 * scale))
    return InsertPhantom("PMMA", body_radius_mm=5.0 * scale, body_height_mm=9.0 * scale, inserts=tuple(inserts))
