"""Angles and heights in a scan manifest: listed, equidistant, or stored in the raw file itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag

from marspipe.strict import StrictModel

# What files write for a unit.
ANGLE_UNITS: dict[str, tuple[str, ...]] = {"deg": ("deg", "degree", "degrees"), "rad": ("rad", "radian", "radians")}
LENGTH_UNITS: dict[str, tuple[str, ...]] = {
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "um": ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"),
    "cm": ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    "m": ("m", "meter", "meters", "metre", "metres"),
}
MM_PER_UNIT = {"mm": 1.0, "um": 1e-3, "cm": 10.0, "m": 1e3}


class Steps(StrictModel):
    """Equidistant values: start, start + step, ...; held and begun again where the scan does so."""

    hold: int = Field(1, ge=1, description="Exposures at each value before the next one.")
    begin_again_after: int | None = Field(None, ge=1, description="Number of values after which `start` comes again.")

    def values(self, start: float, step: float, count: int) -> NDArray[np.float64]:
        """Return the values of ``count`` exposures."""
        place = np.arange(count, dtype=np.int64) // self.hold
        if self.begin_again_after is not None:
            place %= self.begin_again_after
        return start + step * place.astype(np.float64)


class AngleRange(Steps):
    """Equidistant angles: start, start + step, ..."""

    start: float = Field(0.0, description="Angle of the first exposure, rad.")
    step: float = Field(description="From one angle to the next, rad.")
    count: int = Field(ge=1, le=10_000_000, description="Number of exposures.")


class AngleDataset(StrictModel):
    """Angles stored in the file itself."""

    dataset: str = Field(
        description="HDF5 path, such as /exchange/theta; `angle` of a scanner mapping; `angles` of a series file."
    )
    unit: Literal["deg", "rad"] = Field(description="Unit of the stored angles.")


class HeightRange(Steps):
    """Equidistant heights: start, start + step, ..."""

    start: float = Field(0.0, description="At the first exposure, mm.")
    step: float = Field(description="From one height to the next, mm.")


class HeightDataset(StrictModel):
    """Heights stored in the file itself."""

    dataset: str = Field(
        description="HDF5 path, such as /entry/sample/z_translation, with a value per exposure (nxtomo: or per frame "
        "of the stack); `sample_z` of a scanner mapping; `heights` of a series file."
    )
    unit: Literal["mm", "um", "cm", "m"] = Field(description="Unit of the stored heights.")
    downwards: bool = Field(False, description="Whether the stored values grow as the sample moves towards -z.")


def _kind_of_angles(value: Any) -> str:
    if isinstance(value, AngleDataset) or (isinstance(value, dict) and "dataset" in value):
        return "<dataset>"
    return "<range>" if isinstance(value, (AngleRange, dict)) else "<list>"


def _kind_of_heights(value: Any) -> str:
    if isinstance(value, HeightDataset) or (isinstance(value, dict) and "dataset" in value):
        return "<dataset>"
    if isinstance(value, (HeightRange, dict)):
        return "<range>"
    return "<list>" if isinstance(value, (list, tuple)) else "<number>"


Angles = Annotated[
    Annotated[AngleRange, Tag("<range>")]
    | Annotated[tuple[float, ...], Field(min_length=1), Tag("<list>")]
    | Annotated[AngleDataset, Tag("<dataset>")],
    Discriminator(_kind_of_angles),
]
Heights = Annotated[
    Annotated[float, Tag("<number>")]
    | Annotated[HeightRange, Tag("<range>")]
    | Annotated[tuple[float, ...], Field(min_length=1), Tag("<list>")]
    | Annotated[HeightDataset, Tag("<dataset>")],
    Discriminator(_kind_of_heights),
]
