"""The geometry and the grid that a recipe makes of a scan's own."""

from __future__ import annotations

import math
import warnings

import numpy as np

from marspipe.errors import RecipeError
from marspipe.recipe import Filter, Recipe
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.redundancy import Redundancy, choose_redundancy
from marspipe.recon.redundancy.blending import TURN_AND_BLEND, HelixBlend
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid


def make_view_filter(geometry: ScanGeometry, settings: Filter) -> ViewFilter:
    """Return the weights and the ramp filter that a recipe asks for."""
    return ViewFilter(
        geometry,
        window=settings.window,
        cutoff=settings.cutoff,
        redundancy=settings.redundancy,
        truncation=settings.truncation,
    )


def tilted_geometry(geometry: ScanGeometry, recipe: Recipe) -> ScanGeometry:
    """Return the geometry with the detector turned and tilted as the recipe says; a general one then."""
    turns = recipe.geometry
    if not (turns.detector_in_plane_rad or turns.detector_about_u_rad or turns.detector_about_v_rad):
        return geometry
    return geometry.with_tilted_detector(
        in_plane_rad=turns.detector_in_plane_rad,
        about_u_rad=turns.detector_about_u_rad,
        about_v_rad=turns.detector_about_v_rad,
    )


def centered_geometry(geometry: ScanGeometry, recipe: Recipe) -> ScanGeometry:
    """Return the geometry with the recipe's principal point or center of rotation."""
    point, column = recipe.geometry.principal_point_px, recipe.geometry.center_of_rotation_px
    if point is None and column is None:
        return geometry
    orbit = geometry.orbit
    if orbit is None:
        raise RecipeError(
            "geometry.principal_point_px and geometry.center_of_rotation_px apply to circular orbits only; "
            "this scan has a general geometry"
        )
    row, given = point if point is not None else orbit.principal_point_px
    return geometry.with_detector(geometry.detector_shape, (row, given if column is None else column))


def chosen_grid(geometry: ScanGeometry, recipe: Recipe) -> VolumeGrid:
    """Return the recipe's grid, what it leaves out taken from the detector.

    Voxels are as large as a pixel at the isocenter. The grid covers the field of view: across, the circle that every
    view sees, or every other view if the detector is offset on purpose; along the axis, what the detector sees there.
    """
    orbit = geometry.orbit
    spec = recipe.grid
    heights = geometry.source_mm[:, 2]
    center = spec.center_mm or (float(heights.min() + heights.max()) / 2, 0.0, 0.0)
    if orbit is None:
        if spec.shape is None or spec.voxel_mm is None:
            raise RecipeError("grid.shape and grid.voxel_mm must be given for a scan with a general geometry")
        return VolumeGrid(spec.shape, spec.voxel_mm, center)
    pitch_v, pitch_u = (pitch / orbit.magnification for pitch in orbit.pixel_pitch_mm)
    voxel = spec.voxel_mm or (pitch_v, pitch_u, pitch_u)
    shape = spec.shape
    if shape is None:
        rows, cols = geometry.detector_shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the view filter will say it
            redundancy = choose_redundancy(geometry, recipe.filter.redundancy)
        sides = orbit.principal_point_px[1], cols - 1 - orbit.principal_point_px[1]
        half_px = (max(sides) if any(redundancy.pad_columns) else min(sides)) + 0.5
        fan_rad = math.atan(half_px * orbit.pixel_pitch_mm[1] / orbit.source_to_detector_mm)
        diameter = 2 * orbit.source_to_isocenter_mm * math.sin(fan_rad)
        # A hair of tolerance: the field of view of a parallel beam is a whole number of voxels up to rounding.
        across = [max(1, math.floor(diameter / size * (1 + 1e-3) + 1e-6)) for size in voxel[1:]]
        along = rows * pitch_v
        if redundancy.blend is not None:
            along += float(np.ptp(heights))
        if isinstance(redundancy.blend, HelixBlend):
            along -= 2 * TURN_AND_BLEND * redundancy.blend.pitch_mm  # the turns at the ends measure less
        shape = (max(1, round(along / voxel[0])), across[0], across[1])
    return VolumeGrid(shape, voxel, center)


def filtered_geometry(geometry: ScanGeometry, settings: Filter) -> tuple[ScanGeometry, Redundancy]:
    """Return the geometry of the filtered views and the redundancy weights."""
    orbit = geometry.orbit
    if orbit is None or np.ptp(geometry.source_mm[:, 2]) > 0:
        view_filter = make_view_filter(geometry, settings)
        return view_filter.filtered_geometry, view_filter.redundancy
    # Neither depends on the rows of a circle's detector, and the weights of all its pixels can be gigabytes.
    view_filter = make_view_filter(geometry[:, :1], settings)
    thin = view_filter.filtered_geometry
    assert thin.orbit is not None
    if thin.detector_shape[1] == geometry.detector_shape[1]:
        return geometry, view_filter.redundancy
    shape = geometry.detector_shape[0], thin.detector_shape[1]
    point = orbit.principal_point_px[0], thin.orbit.principal_point_px[1]
    return geometry.with_detector(shape, point), view_filter.redundancy
