"""How the slices of a series lie in the patient, and on which lattice their voxels.

Source: DICOM PS3.3 C.7.6.2.1.1 (image position and orientation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.foreign.instance import ImageFrame, Instance
from marspipe.dicom.foreign.resample import world_axes

COSINE_TOLERANCE = 1e-3
# Of a pixel, by which a stack may lean over its whole height without being called tilted.
_LEANING_PIXELS = 0.1
# By which a corner of the stack may miss its place on a grid along the patient's axes, in voxels.
_ALIGNED_VOXELS = 0.25


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame of one object."""

    instance: Instance
    frame: ImageFrame

    @property
    def is_placed(self) -> bool:
        """Whether position, orientation and pixel spacing are known."""
        return None not in (self.frame.position_mm, self.frame.orientation, self.frame.pixel_spacing_mm)

    def pixels(self) -> NDArray[np.float32]:
        """Return its pixels; see :meth:`~marspipe.dicom.foreign.instance.Instance.pixels`."""
        return self.instance.pixels(self.frame.number)


@dataclass(frozen=True)
class SeriesGeometry:
    """How the slices of a series lie, ordered along their normal.

    Attributes
    ----------
    shape : (int, int, int)
        Slices, rows, columns.
    spacing_mm : (float, float, float)
        From slice to slice along the normal (the median), between rows, between columns. The first is 0 for a single
        slice of unknown thickness.
    origin_mm : (float, float, float)
        Patient (x, y, z) of the first pixel of the first slice.
    orientation : tuple of three (float, float, float)
        Unit vectors, patient (x, y, z), along which slices, rows and columns follow; the first is the normal.
    distances_mm : tuple of float
        Of every slice from the first, along the normal.
    drift : (float, float, float)
        How far slices are shifted sideways per mm along the normal, patient (x, y, z).
    astray_mm : float
        How far a slice lies at most beside the line on which they follow.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    orientation: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    distances_mm: tuple[float, ...]
    drift: tuple[float, float, float]
    astray_mm: float

    @property
    def leaning_tolerance_mm(self) -> float:
        """How far slices may be shifted sideways without being called so."""
        return _LEANING_PIXELS * min(self.spacing_mm[1:])

    @property
    def tilt_deg(self) -> float:
        """Angle between the normal and the line on which the slices follow; 0 if they stand upright."""
        lean = math.hypot(*self.drift)
        upright = lean * self.distances_mm[-1] <= self.leaning_tolerance_mm
        return 0.0 if upright else math.degrees(math.atan(lean))

    @property
    def plane(self) -> str:
        """``"axial"``, ``"coronal"``, ``"sagittal"``, or oblique with the nearest of them."""
        name = ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(self.orientation[0])))]
        upright = all(max(map(abs, axis)) > 1 - COSINE_TOLERANCE for axis in self.orientation)
        return name if upright else f"oblique, nearest to {name}"

    @property
    def is_aligned(self) -> bool:
        """Whether voxels lie on a grid along the patient's axes, as near as makes no difference."""
        _, steps = self.lattice()
        if self.tilt_deg or self.spacing_mm[0] <= 0:
            return not self.tilt_deg
        axes = world_axes(steps)
        astray = np.abs(steps * (np.array(self.shape)[:, None] - 1))
        for world, axis in enumerate(axes):
            astray[axis, world] = 0.0
        voxel = np.array([abs(steps[axis, world]) for world, axis in enumerate(axes)])
        return bool((astray.sum(axis=0) <= _ALIGNED_VOXELS * voxel).all())

    def lattice(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where voxels lie, with slices evenly between the first and the last.

        Returns
        -------
        origin_mm : ndarray, float64, shape (3,)
            World (z, y, x) of voxel [0, 0, 0].
        steps_mm : ndarray, float64, shape (3, 3)
            Step from slice to slice, row to row, column to column: rows of the array; components z, y, x.
        """
        normal, down, along = (np.array(axis) for axis in self.orientation)
        gaps = self.shape[0] - 1
        apart = self.distances_mm[-1] / gaps if gaps else self.spacing_mm[0]
        drift = np.array(self.drift) if self.tilt_deg else 0.0
        steps = np.stack([(normal + drift) * apart, down * self.spacing_mm[1], along * self.spacing_mm[2]])
        return np.array(self.origin_mm)[::-1].copy(), steps[:, ::-1].copy()


def normal_of(planes: Sequence[Plane]) -> NDArray[np.float64] | None:
    """Return the unit normal of the first plane whose orientation is known, None without one."""
    orientation = next((p.frame.orientation for p in planes if p.frame.orientation is not None), None)
    if orientation is None:
        return None
    normal: NDArray[np.float64] = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    return normal / length if length > 0 else None


def geometry_of(planes: Sequence[Plane]) -> SeriesGeometry | None:
    """Return the geometry of planes of one orientation in the order of their places; None if those are not known."""
    normal = normal_of(planes)
    if normal is None or not all(plane.is_placed for plane in planes):
        return None
    first = planes[0].frame
    assert first.orientation is not None and first.pixel_spacing_mm is not None
    along, down = (np.array(axis) for axis in (first.orientation[:3], first.orientation[3:]))
    positions = np.array([plane.frame.position_mm for plane in planes], dtype=np.float64)
    distances = (positions - positions[0]) @ normal
    sideways = positions - positions[0] - np.outer(distances, normal)
    square = float(distances @ distances)
    drift = distances @ sideways / square if square > 0 else np.zeros(3)
    alone_mm = first.thickness_mm or first.spacing_between_slices_mm or 0.0
    slice_mm = float(np.median(np.diff(distances))) if len(planes) > 1 else abs(alone_mm)
    return SeriesGeometry(
        shape=(len(planes), *planes[0].instance.shape),
        spacing_mm=(slice_mm, *first.pixel_spacing_mm),
        origin_mm=_three(positions[0]),
        orientation=(_three(normal), _three(down), _three(along)),
        distances_mm=tuple(distances.tolist()),
        drift=_three(drift),
        astray_mm=float(np.abs(sideways - np.outer(distances, drift)).max()),
    )


def _three(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) + 0.0 for v in vector)
    return x, y, z
