"""What to do with a scan: a typed, validated, hashed recipe.

A recipe is YAML. Unknown keys are errors that name the nearest valid one. What shapes the voxels is hashed; what only
shapes the run (slab thickness, batches, which files are written beside the volume) is not.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from marspipe.errors import RecipeError
from marspipe.recipe.preprocess import Preprocess, Stripes
from marspipe.strict import StrictModel, load_yaml, validate

__all__ = [
    "Bins",
    "Filter",
    "Geometry",
    "Grid",
    "Output",
    "Preprocess",
    "Recipe",
    "Run",
    "Stripes",
    "content_hash",
    "parse_recipe",
    "recipe_json_schema",
]

WindowName = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]


class Bins(StrictModel):
    """How counters become energy bins."""

    kind: Literal["differential", "cumulative"] = Field(
        "differential", description="Differences of neighboring counters, or each counter by itself."
    )


class Geometry(StrictModel):
    """Corrections to the geometry of the scan's manifest."""

    principal_point_px: tuple[float, float] | None = Field(
        None, description="Detector position (row, column) of the ray through the isocenter, px."
    )
    center_of_rotation_px: float | None = Field(
        None, description="Detector column of the rotation axis, px; replaces the principal point's column."
    )
    detector_in_plane_rad: float = Field(
        0.0,
        gt=-1.5,
        lt=1.5,
        description="Turn of the detector in its plane, from the column axis to the row axis, rad.",
    )
    detector_about_u_rad: float = Field(
        0.0, gt=-1.5, lt=1.5, description="Tilt about the column axis: the last row moves towards the source, rad."
    )
    detector_about_v_rad: float = Field(
        0.0, gt=-1.5, lt=1.5, description="Tilt about the row axis: the last column moves away from the source, rad."
    )


class Grid(StrictModel):
    """The volume; what is left out follows from the detector's field of view."""

    shape: tuple[int, int, int] | None = Field(None, description="Voxels (z, y, x).")
    voxel_mm: tuple[float, float, float] | None = Field(None, description="Voxel size (z, y, x), mm.")
    center_mm: tuple[float, float, float] | None = Field(None, description="Middle of the volume (z, y, x), mm.")

    @field_validator("shape")
    @classmethod
    def _positive_shape(cls, value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError("must be at least 1 voxel along each axis")
        return value

    @field_validator("voxel_mm")
    @classmethod
    def _positive_voxel(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("must be positive (mm)")
        return value


class Filter(StrictModel):
    """The ramp filter."""

    window: WindowName = Field("ram-lak", description="Window on the ramp.")
    cutoff: float = Field(1.0, gt=0, le=1, description="Cut-off as a fraction of the Nyquist frequency.")
    redundancy: Literal["auto", "full", "parallel-180", "parker", "wang"] = Field(
        "auto", description="Redundancy weights; auto chooses from the angles and the detector offset."
    )
    truncation: Literal["none", "extrapolate"] = Field(
        "none",
        description="extrapolate continues rows that the detector's edge cuts off: objects larger than the view.",
    )


class Run(StrictModel):
    """How the work is cut; the volume does not depend on it."""

    backend: Literal["auto", "cpu", "cuda", "reference"] = Field(
        "auto", description="Backprojection kernel; auto is cuda where Spark gives the task a GPU, else cpu."
    )
    slab_slices: int | None = Field(None, ge=1, description="Slices of a backprojection task.")
    views_per_batch: int | None = Field(None, ge=1, description="Views of one kernel call.")
    memory_per_task_mib: int = Field(1024, ge=64, description="Python memory of one task, MiB.")
    open_beams: Literal["auto", "in-every-task", "joined"] = Field(
        "auto",
        description="Corrections of all camera positions in every task, or frames sent to the task that has those of "
        "their position; auto joins where they would take more than a quarter of a task's memory.",
    )
    restart_point: Literal["none", "filtered"] = Field(
        "none",
        description="filtered keeps the filtered rows beside the volume until it is finished: an interrupted run does "
        "not filter again, at the price of writing and reading them.",
    )


class Output(StrictModel):
    """What is written beside the Parquet volume."""

    tile_mib: float = Field(4.0, gt=0, le=64, description="Largest tile of a slice in the volume table, MiB.")
    dicom: bool = Field(True, description="Write one DICOM series per energy bin.")
    preview: bool = Field(True, description="Write a PNG with three mid slices per energy bin.")


class Recipe(StrictModel):
    """A whole recipe."""

    marspipe_recipe: Literal[1] = Field(1, description="Version of the recipe format.")
    name: str = Field("default", pattern=r"^[A-Za-z0-9._-]+$", description="A name for people.")
    bins: Bins = Bins()
    geometry: Geometry = Geometry()
    grid: Grid = Grid()
    preprocess: Preprocess = Preprocess()
    filter: Filter = Filter()
    run: Run = Run()
    output: Output = Output()

    def content_hash(self) -> str:
        """Return the hash of everything that shapes the voxels, 16 hexadecimal digits."""
        content = self.model_dump(mode="json", exclude={"name", "run", "output"})
        return content_hash(content)

    def to_yaml(self) -> str:
        """Return the recipe as YAML, every key written out."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def content_hash(content: Any) -> str:
    """Return a short hash of a JSON-ready value, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recipe_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, as shipped in ``schemas/recipe.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def parse_recipe(text: str, origin: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe written in YAML.

    Parameters
    ----------
    text : str
        The YAML text.
    origin : str
        Where it came from, for messages.
    overrides : tuple of str
        ``key.path=value`` assignments that replace values of the text, such as ``filter.window=hann``.

    Raises
    ------
    RecipeError
        Naming the origin, the key and the value; an unknown key with the nearest valid name.
    """
    content = load_yaml(text or "{}", origin, RecipeError, "recipe")
    for override in overrides:
        _assign(content, override)
    return validate(content, origin, Recipe, RecipeError)


def _assign(content: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise RecipeError(f"--set takes key.path=value, got {override!r}")
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise RecipeError(f"--set {override}: {key} is not a section")
    content[keys[-1]] = yaml.safe_load(text)
