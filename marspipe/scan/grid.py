"""The reconstruction grid and its windows, as values."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import GeometryError

AXES = ("z", "y", "x")


def _triple(name: str, value: object, kind: type[int] | type[float]) -> tuple[Any, Any, Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != 3:
        raise GeometryError(f"{name} must be three numbers (z, y, x), got {value!r}")
    try:
        if kind is int:
            return tuple(operator.index(v) for v in value)  # type: ignore[return-value]
        return tuple(float(v) for v in value)  # type: ignore[return-value]
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{name} must be three {kind.__name__} numbers (z, y, x), got {value!r}") from error


@dataclass(frozen=True)
class VolumeGrid:
    """A regular grid of voxels, or a window of one.

    A window (slab, region of interest) keeps the lattice it was cut from: its voxel centers come from the same
    formula with the same numbers, so that reconstructing a window gives the very bits of the whole.

    Parameters
    ----------
    shape : (int, int, int)
        Number of voxels (nz, ny, nx) of this grid or window.
    voxel_mm : (float, float, float)
        Voxel size (dz, dy, dx) in mm.
    center_mm : (float, float, float)
        World position (z, y, x) of the middle of the *whole* lattice, in mm.
    start : (int, int, int)
        Lattice index (z, y, x) of this window's first voxel.
    lattice_shape : (int, int, int), optional
        Shape of the whole lattice; by default this grid is the whole.

    Raises
    ------
    GeometryError
        If a number is not finite, a size is not positive, or the window leaves the lattice.

    Examples
    --------
    >>> grid = VolumeGrid(shape=(4, 8, 8), voxel_mm=(0.5, 0.5, 0.5))
    >>> grid.axis_mm("z").tolist()
    [-0.75, -0.25, 0.25, 0.75]
    >>> grid.window(z=slice(2, 4)).axis_mm("z").tolist()
    [0.25, 0.75]
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    start: tuple[int, int, int] = (0, 0, 0)
    lattice_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "shape", _triple("VolumeGrid.shape", self.shape, int))
        set_(self, "voxel_mm", _triple("VolumeGrid.voxel_mm", self.voxel_mm, float))
        set_(self, "center_mm", _triple("VolumeGrid.center_mm", self.center_mm, float))
        set_(self, "start", _triple("VolumeGrid.start", self.start, int))
        lattice = self.shape if self.lattice_shape is None else self.lattice_shape
        set_(self, "lattice_shape", _triple("VolumeGrid.lattice_shape", lattice, int))
        if min(self.shape) < 1:
            raise GeometryError(f"VolumeGrid.shape must be at least 1 voxel along each axis, got {self.shape}")
        if not all(math.isfinite(v) and v > 0 for v in self.voxel_mm):
            raise GeometryError(f"VolumeGrid.voxel_mm must be positive and finite (mm), got {self.voxel_mm}")
        if not all(math.isfinite(v) for v in self.center_mm):
            raise GeometryError(f"VolumeGrid.center_mm must be finite (mm), got {self.center_mm}")
        for axis, first, count, whole in zip(AXES, self.start, self.shape, self._lattice, strict=True):
            if first < 0 or first + count > whole:
                raise GeometryError(
                    f"VolumeGrid window leaves its lattice along {axis}: voxels {first}..{first + count - 1} of {whole}"
                )

    @property
    def _lattice(self) -> tuple[int, int, int]:
        assert self.lattice_shape is not None
        return self.lattice_shape

    def __repr__(self) -> str:
        parts = [f"shape={self.shape}", f"voxel_mm={self.voxel_mm}", f"center_mm={self.center_mm}"]
        if self.shape != self.lattice_shape:
            parts += [f"start={self.start}", f"lattice_shape={self.lattice_shape}"]
        return f"VolumeGrid({', '.join(parts)})"

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of a float32 volume on this grid, in bytes."""
        return 4 * self.n_voxels

    def origin_mm(self) -> tuple[float, float, float]:
        """Return the (z, y, x) center of lattice voxel (0, 0, 0) in mm; it may lie outside this window."""
        z, y, x = (c - 0.5 * (n - 1) * d for c, n, d in zip(self.center_mm, self._lattice, self.voxel_mm, strict=True))
        return z, y, x

    def axis_mm(self, axis: str) -> NDArray[np.float64]:
        """Return the voxel centers along ``"z"``, ``"y"`` or ``"x"``, shape (n,), float64, mm."""
        a = AXES.index(axis)
        index = np.arange(self.start[a], self.start[a] + self.shape[a], dtype=np.float64)
        return self.origin_mm()[a] + index * self.voxel_mm[a]

    def window(self, z: slice | None = None, y: slice | None = None, x: slice | None = None) -> VolumeGrid:
        """Return the window of this grid given by slices of voxel indices (step 1, counted in this grid)."""
        start, shape = [], []
        for axis, first, count, cut in zip(AXES, self.start, self.shape, (z, y, x), strict=True):
            lo, hi, step = (cut or slice(None)).indices(count)
            if step != 1 or hi <= lo:
                raise GeometryError(f"window along {axis} must be a non-empty slice with step 1, got {cut}")
            start.append(first + lo)
            shape.append(hi - lo)
        return VolumeGrid(
            (shape[0], shape[1], shape[2]),
            self.voxel_mm,
            self.center_mm,
            (start[0], start[1], start[2]),
            self._lattice,
        )

    def corners_mm(self) -> NDArray[np.float64]:
        """Return the centers of the eight corner voxels as (x, y, z), shape (8, 3), mm."""
        z, y, x = (self.axis_mm(a)[[0, -1]] for a in AXES)
        return np.array([(i, j, k) for k in z for j in y for i in x])

    def radius_mm(self) -> float:
        """Return the largest distance of a voxel center from the rotation axis, in mm."""
        corners = self.corners_mm()
        return float(np.hypot(corners[:, 0], corners[:, 1]).max())

    def slabs(self, thickness: int) -> Iterator[Slab]:
        """Cut the grid along z into slabs of at most ``thickness`` slices, in order."""
        if thickness < 1:
            raise GeometryError(f"slab thickness must be at least 1 slice, got {thickness}")
        for index, first in enumerate(range(0, self.shape[0], thickness)):
            yield Slab(index, self.window(z=slice(first, min(first + thickness, self.shape[0]))))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; :meth:`from_dict` restores it exactly."""
        return {
            "shape": list(self.shape),
            "voxel_mm": list(self.voxel_mm),
            "center_mm": list(self.center_mm),
            "start": list(self.start),
            "lattice_shape": list(self._lattice),
        }

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> VolumeGrid:
        """Restore a grid from :meth:`to_dict`."""
        return cls(**description)


@dataclass(frozen=True)
class Slab:
    """A run of consecutive z slices: one task of the backprojection.

    Attributes
    ----------
    index : int
        Position of the slab in the volume, from 0 at the lowest z.
    grid : VolumeGrid
        The window of the volume's grid that the slab covers.
    """

    index: int
    grid: VolumeGrid

    @property
    def z_first(self) -> int:
        """Lattice index of the first slice."""
        return self.grid.start[0]

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.grid.shape[0]
