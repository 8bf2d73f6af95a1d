"""The numbers of a drawn scan: where everything stands, and what is said of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import AXES, Slab, VolumeGrid

Point = NDArray[np.float64]

SLABS = 8
# A source this many detector sizes away gives a parallel beam.
FAR = 1e4


@dataclass(frozen=True, eq=False)
class Scene:
    """What is drawn, in numbers.

    Attributes
    ----------
    geometry : ScanGeometry
        The scan.
    grid : VolumeGrid or None
        The volume.
    """

    geometry: ScanGeometry
    grid: VolumeGrid | None

    @cached_property
    def detector_mm(self) -> tuple[float, float]:
        """Height and width of the detector, mm."""
        (rows, cols), (pitch_v, pitch_u) = self.geometry.detector_shape, self.geometry.pixel_pitch_mm
        return rows * pitch_v, cols * pitch_u

    @cached_property
    def parallel(self) -> bool:
        """Whether the source is too far away to draw."""
        return float(np.hypot(*self.geometry.source_mm[0, :2])) > FAR * max(self.detector_mm)

    @cached_property
    def moves(self) -> bool:
        """Whether the source moves along the axis by a detector row or more."""
        return float(np.ptp(self.geometry.source_mm[:, 2])) > self.geometry.pixel_pitch_mm[0]

    @cached_property
    def turns(self) -> int:
        """1 if the source goes counterclockwise seen from +z, -1 if clockwise, 0 if the views have no order."""
        steps = np.sign(np.diff(self.polar_rad))
        return int(np.sign(steps.sum())) if steps.size and abs(steps.mean()) > 0.9 else 0

    @cached_property
    def polar_rad(self) -> Point:
        """Polar angle of the source in every view, going on from turn to turn."""
        source = self.geometry.source_mm
        if self.geometry.orbit is not None:
            return self.geometry.angles_rad - 0.5 * math.pi
        return np.asarray(np.unwrap(np.arctan2(source[:, 1], source[:, 0])))

    @cached_property
    def sod_mm(self) -> float:
        """Distance of the first view's source from the axis, mm."""
        return float(np.hypot(*self.geometry.source_mm[0, :2]))

    @cached_property
    def sdd_mm(self) -> float:
        """Distance of the first view's source from the detector, along the ray through the axis, mm."""
        return self.sod_mm + float(self.geometry.detector_center_mm[0, :2] @ self.inward(0))

    @cached_property
    def fields_mm(self) -> tuple[float, float]:
        """Radii about the axis within which the first view's two edge rays miss nothing, the smaller first, mm."""
        low, high = (self._distance_mm(end) for end in (-0.5, 0.5))
        near, far = sorted((abs(low), abs(high)))
        return (near, far) if low < 0 < high else (0.0, far)

    def _distance_mm(self, end: float) -> float:
        """Return the signed distance from the axis of the ray to an edge of the first view's detector."""
        source = self.geometry.source_mm[0, :2]
        step = self.geometry.u_mm[0, :2]
        edge = self.geometry.detector_center_mm[0, :2] + end * self.geometry.detector_shape[1] * step
        ray = (edge - source) / np.hypot(*(edge - source))
        # Counted from the detector: near the sample even if the source is far.
        return float(edge[0] * -ray[1] + edge[1] * ray[0]) * -1.0

    @cached_property
    def reach_mm(self) -> float:
        """Radius around the axis that holds field of view and grid, mm."""
        grid = 0.0 if self.grid is None else self.grid.radius_mm() + 0.5 * max(self.grid.voxel_mm[1:])
        near, far = self.fields_mm
        wide = far if far < 4 * near else 1.5 * near
        return max(grid, wide, 1e-6 * self.sod_mm if not self.parallel else 0.0) or max(self.detector_mm)

    @cached_property
    def slab(self) -> Slab | None:
        """The slab whose detector rows are drawn: above the middle, if the cone reaches it."""
        if self.grid is None:
            return None
        slabs = list(self.grid.slabs(math.ceil(self.grid.shape[0] / SLABS)))
        for slab in sorted(slabs, key=lambda s: abs(s.index - 0.7 * (len(slabs) - 1))):
            try:
                self._rows_of(slab)
            except GeometryError:
                continue
            return slab
        return None

    @cached_property
    def view(self) -> int:
        """The view drawn from the side: the first, or that nearest to the slab's height if the source moves."""
        if not self.moves or self.slab is None:
            return 0
        return self._nearest_view(self.slab)

    def _nearest_view(self, slab: Slab) -> int:
        return int(np.abs(self.geometry.source_mm[:, 2] - slab.grid.axis_mm("z").mean()).argmin())

    def _rows_of(self, slab: Slab) -> tuple[int, int]:
        geometry = self.geometry[[self._nearest_view(slab)]] if self.moves else self.geometry
        return geometry.rows_for(slab.grid)

    @cached_property
    def rows(self) -> tuple[int, int] | None:
        """Detector rows ``[first, stop)`` that the slab needs."""
        return None if self.slab is None else self._rows_of(self.slab)

    def inward(self, view: int) -> Point:
        """Return the direction from a view's source to the axis, shape (2,)."""
        source = self.geometry.source_mm[view, :2]
        return np.asarray(-source / np.hypot(*source))

    def drawn_source(self, view: int) -> Point:
        """Return where a view's source is drawn, seen along z; of a parallel beam, the direction it comes from."""
        if self.parallel:
            return -2.2 * self.reach_mm * self.inward(view)
        return self.geometry.source_mm[view, :2]

    def drawn_detector(self, view: int) -> Point:
        """Return the ends of a view's detector as drawn, seen along z, shape (2, 2)."""
        center, step = self.geometry.detector_center_mm[view, :2], self.geometry.u_mm[view, :2]
        half = 0.5 * self.geometry.detector_shape[1] * step
        behind = 1.7 * self.reach_mm * self.inward(view) if self.parallel else np.zeros(2)
        return np.array([center - half, center + half]) + behind

    def facts(self) -> list[str]:
        """Return the scan in words and numbers."""
        rows, cols = self.geometry.detector_shape
        pitch_v, pitch_u = self.geometry.pixel_pitch_mm
        degrees = np.rad2deg(self.geometry.angles_rad) + 0.0  # no minus zero
        sense = {1: "counterclockwise seen from +z", -1: "clockwise seen from +z", 0: "in no order"}[self.turns]
        lines = [f"{len(degrees)} views, {degrees[0]:.6g} to {degrees[-1]:.6g} deg, source goes {sense}"]
        if self.parallel:
            lines[0] += "; parallel beam"
        else:
            low, high = (math.degrees(math.asin(self._distance_mm(e) / self.sod_mm)) for e in (-0.5, 0.5))
            lines[0] += f"; SOD {self.sod_mm:.6g} mm, SDD {self.sdd_mm:.6g} mm, fan {low:+.3g} to {high:+.3g} deg"
        near, far = self.fields_mm
        lines.append(f"detector {rows} × {cols} px of {pitch_v:g} × {pitch_u:g} mm")
        if self.geometry.orbit is not None:
            row, column = self.geometry.orbit.principal_point_px
            lines[1] += f"; rotation axis on column {column:.6g}"
            lines[1] += "" if self.parallel else f", plane of the orbit on row {row:.6g}"
        lines.append(f"field of view: radius {near:.4g} mm" + ("" if near else ", the detector does not see the axis"))
        if far > 1.02 * near:
            lines[2] += f" in every view, {far:.4g} mm in some"
        return [line.replace("-", "−") for line in lines]


def edges_mm(grid: VolumeGrid, axis: str) -> tuple[float, float]:
    """Return the outer edges of the first and the last voxel along an axis, mm."""
    centers, size = grid.axis_mm(axis), grid.voxel_mm[AXES.index(axis)]
    return float(centers[0] - 0.5 * size), float(centers[-1] + 0.5 * size)
