"""The weights of a source that moves along the axis: a helix, or several circles (step and shoot)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.recon.redundancy.blending import TURN_AND_BLEND, CirclesBlend, HelixBlend
from marspipe.recon.redundancy.circle import CircleScan
from marspipe.recon.redundancy.rays import line_shares_rad
from marspipe.recon.redundancy.values import Redundancy, warn_incomplete
from marspipe.scan.geometry import ScanGeometry

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """What the detector sees along the axis."""

    heights_mm: FloatArray  # of the source, per view
    half_height_mm: float  # at the axis, from the source's level to the nearer edge of the detector
    radius_mm: float  # of the source

    @classmethod
    def of(cls, geometry: ScanGeometry, radius_mm: float) -> Rows:
        """Return the rows of a scan whose source stands ``radius_mm`` from the axis."""
        heights = geometry.source_mm[:, 2]
        level = np.column_stack([np.zeros((len(geometry), 2)), heights])
        matrices = geometry.projection_matrices()
        v, w = (np.einsum("ij,ij->i", matrices[:, i, :3], level) + matrices[:, i, 3] for i in (1, 2))
        row = v / w
        per_mm = matrices[:, 1, 2] / w - row * matrices[:, 2, 2] / w
        edge = np.minimum(row + 0.5, geometry.detector_shape[0] - 0.5 - row)
        return cls(heights, float((edge / np.abs(per_mm)).min()), radius_mm)

    @property
    def source_moves(self) -> bool:
        """Whether the source moves along; less than this is a wobble, which the backprojection simply follows."""
        return float(np.ptp(self.heights_mm)) > 0.05 * max(self.half_height_mm, 0.0)

    def reach_mm(self, field_of_view_mm: float) -> float:
        """Return how far from the source's level a slice may lie with every row of its nearest voxel measured."""
        return self.half_height_mm * (1 - min(field_of_view_mm / self.radius_mm, 0.999))

    def radius_within_mm(self, distance_mm: float) -> float:
        """Return the radius about the axis that the rows cover in a slice at some distance from the source's level."""
        return max(self.radius_mm * (1 - distance_mm / self.half_height_mm), 0.0)


def circle_numbers(heights_mm: FloatArray) -> NDArray[np.int64] | None:
    """Return the number of the circle of every view, counted from the lowest; None if the source goes on climbing."""
    tolerance = 1e-6 * float(np.ptp(heights_mm))
    order = np.argsort(heights_mm, kind="stable")
    number = np.cumsum(np.diff(heights_mm[order], prepend=heights_mm[order[0]]) > tolerance)
    if 4 * (number[-1] + 1) > number.size:
        return None
    circles = np.empty(number.size, np.int64)
    circles[order] = number
    return circles


def helix_weights(scan: CircleScan, rows: Rows, redundancy: str) -> Redundancy:
    """Return the weights of a helix: those of a closed circle, and the turn or turns that make each slice.

    Raises
    ------
    GeometryError
        If the source turns back, or the helix is shorter than a turn and its blend.
    """
    climb = np.diff(rows.heights_mm) * np.sign(np.diff(scan.angles))
    if not ((climb >= 0).all() or (climb <= 0).all()):
        view = int(np.flatnonzero(np.sign(climb) != np.sign(np.median(climb)))[0])
        raise GeometryError(
            f"the source neither climbs a helix nor stays on circles: from view {view} to {view + 1} it goes from "
            f"{rows.heights_mm[view]:.6g} to {rows.heights_mm[view + 1]:.6g} mm, against the others"
        )
    covered = float(np.ptp(scan.angles))
    if covered < 2 * math.pi * TURN_AND_BLEND:
        raise GeometryError(
            f"a helix must go on for {360 * TURN_AND_BLEND:.4g} degrees or more, got {math.degrees(covered):.4g}; "
            "angles must go on counting from turn to turn"
        )
    base = scan.choose(redundancy, names=("auto", "full", "wang"))
    shares = line_shares_rad(scan.angles)
    pitch = float(np.ptp(rows.heights_mm)) / covered * 2 * math.pi
    reach = rows.reach_mm(base.field_of_view_mm) / pitch * 2 * math.pi
    if reach < math.pi * TURN_AND_BLEND:
        within = rows.radius_within_mm(0.5 * pitch * TURN_AND_BLEND)
        warn_incomplete(
            f"the helix climbs {pitch:.4g} mm a turn, but at the edge of the field of view the rows cover "
            f"{2 * rows.reach_mm(base.field_of_view_mm) / TURN_AND_BLEND:.4g} mm; only lines within {within:.4g} mm of "
            "the axis are all measured"
        )
    text = (
        f"Helix of {pitch:.4g} mm a turn, {covered / (2 * math.pi):.4g} turns: a slice is made of the "
        f"{max(reach / math.pi, TURN_AND_BLEND):.3g} turns around it, views a turn apart share. "
    )
    return replace(
        base,
        name=f"helix {base.name}",
        description=text + base.description,
        view_weights_rad=shares / 2 if base.name == "full" else shares,
        blend=HelixBlend(scan.angles, rows.heights_mm, reach),
    )


def circles_weights(parts: list[Redundancy], circles: NDArray[np.int64], rows: Rows) -> Redundancy:
    """Return the weights of several circles from those of each, and how slices between them blend."""
    heights = np.array([rows.heights_mm[circles == number].mean() for number in range(len(parts))])
    field_of_view = min(part.field_of_view_mm for part in parts)
    reach = rows.reach_mm(field_of_view)
    widest = float(np.diff(heights).max())
    if widest > 2 * reach:
        warn_incomplete(
            f"circles {widest:.4g} mm apart leave gaps: at the edge of the field of view a circle covers "
            f"{2 * reach:.4g} mm; half way between only voxels within {rows.radius_within_mm(0.5 * widest):.4g} mm of "
            "the axis are seen in every view"
        )
    names = sorted({part.name for part in parts})
    views = np.empty(circles.size)
    columns = np.empty((circles.size, parts[0].column_weights.shape[1]))
    for number, part in enumerate(parts):
        views[circles == number] = part.view_weights_rad
        columns[circles == number] = part.column_weights
    return Redundancy(
        f"circles {', '.join(names)}",
        f"{len(parts)} circles up to {widest:.4g} mm apart, slices between them blended. {parts[0].description}",
        views,
        columns,
        (max(part.pad_columns[0] for part in parts), max(part.pad_columns[1] for part in parts)),
        field_of_view,
        CirclesBlend(circles, heights, reach),
    )
