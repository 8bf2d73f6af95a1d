"""Phantoms of ellipsoids and cylinders: their exact cone-beam line integrals, and their voxels.

A phantom is a sequence of shapes whose values add up where shapes overlap. Line integrals run along the whole
straight line through source and pixel; whoever puts a shape behind the source gets it measured all the same.

Far sources
-----------
A parallel beam is a cone from 1e7 detector diagonals away. Every ray therefore starts from its pixel, which stays
near the object, and moves to the point closest to the shape before any square is taken: no term is then larger than
the object, and nothing cancels in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

_ELLIPSOID, _CYLINDER = 0.0, 1.0


def _check(shape: str, name: str, values: Sequence[float], *, positive: bool = False) -> None:
    if not all(math.isfinite(v) and (v > 0 or not positive) for v in values):
        expected = "positive and finite" if positive else "finite"
        raise InputError(f"{shape}.{name} must be {expected}, got {values}")


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with one axis along z.

    Parameters
    ----------
    center_mm : (float, float, float)
        Center (x, y, z), mm.
    radii_mm : (float, float, float)
        Half axes (x, y, z) before the rotation, mm.
    value : float
        What the shape adds to the volume, 1/mm for an attenuation.
    rotation_rad : float
        Turn about the z axis through the center, from x towards y, rad.

    Raises
    ------
    InputError
        If a number is not finite or a radius not positive.
    """

    center_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    value: float = 1.0
    rotation_rad: float = 0.0

    def __post_init__(self) -> None:
        _check("Ellipsoid", "center_mm", self.center_mm)
        _check("Ellipsoid", "radii_mm", self.radii_mm, positive=True)
        _check("Ellipsoid", "value", (self.value,))
        _check("Ellipsoid", "rotation_rad", (self.rotation_rad,))


@dataclass(frozen=True)
class Cylinder:
    """A finite circular cylinder along z.

    Parameters
    ----------
    center_mm : (float, float, float)
        Center (x, y, z), mm.
    radius_mm, height_mm : float
        Radius, and extent along z, mm.
    value : float
        What the shape adds to the volume, 1/mm for an attenuation.

    Raises
    ------
    InputError
        If a number is not finite, or radius or height not positive.
    """

    center_mm: tuple[float, float, float]
    radius_mm: float
    height_mm: float
    value: float = 1.0

    def __post_init__(self) -> None:
        _check("Cylinder", "center_mm", self.center_mm)
        _check("Cylinder", "radius_mm", (self.radius_mm,), positive=True)
        _check("Cylinder", "height_mm", (self.height_mm,), positive=True)
        _check("Cylinder", "value", (self.value,))


Shape = Ellipsoid | Cylinder


def shepp_logan(radius_mm: float) -> list[Ellipsoid]:
    """Return the three-dimensional Shepp-Logan head with raised contrast.

    Shapes after Kak & Slaney, *Principles of Computerized Tomographic Imaging*, table 3.2,
    doi:10.1137/1.9780898719277; values after Yu, Ye & Wang, Proc. SPIE 5535 (2004) 550: shell 1, brain 0.2, details
    0 to 0.4.

    Parameters
    ----------
    radius_mm : float
        Radius of the sphere that holds the head (half axes 0.69, 0.92, 0.9 of it), mm.

    Returns
    -------
    list of Ellipsoid
        Ten ellipsoids, values without unit; they add up.
    """
    _check("shepp_logan", "radius_mm", (radius_mm,), positive=True)
    #  center x, y, z; half axes x, y, z; rotation in degrees; value
    table = (
        (0.0, 0.0, 0.0, 0.69, 0.92, 0.9, 0.0, 1.0),
        (0.0, 0.0, 0.0, 0.6624, 0.874, 0.88, 0.0, -0.8),
        (-0.22, 0.0, -0.25, 0.41, 0.16, 0.21, 108.0, -0.2),
        (0.22, 0.0, -0.25, 0.31, 0.11, 0.22, 72.0, -0.2),
        (0.0, 0.35, -0.25, 0.21, 0.25, 0.5, 0.0, 0.2),
        (0.0, 0.1, -0.25, 0.046, 0.046, 0.046, 0.0, 0.2),
        (-0.08, -0.65, -0.25, 0.046, 0.023, 0.02, 0.0, 0.1),
        (0.06, -0.65, -0.25, 0.046, 0.023, 0.02, 90.0, 0.1),
        (0.06, -0.105, 0.625, 0.056, 0.04, 0.1, 90.0, 0.2),
        (0.0, 0.1, 0.625, 0.056, 0.056, 0.1, 0.0, -0.2),
    )
    return [
        Ellipsoid(
            center_mm=(radius_mm * x, radius_mm * y, radius_mm * z),
            radii_mm=(radius_mm * a, radius_mm * b, radius_mm * c),
            value=value,
            rotation_rad=math.radians(degrees),
        )
        for x, y, z, a, b, c, degrees, value in table
    ]


def line_integrals(
    shapes: Sequence[Shape], geometry: ScanGeometry, views: int | slice | Sequence[int] = slice(None)
) -> NDArray[np.float32]:
    """Integrate a phantom along every ray of a scan, exactly.

    Parameters
    ----------
    shapes : sequence of Ellipsoid or Cylinder
        The phantom; values add up.
    geometry : ScanGeometry
        The scan, any per-view vectors.
    views : int, slice or sequence of int
        Which views; all by default.

    Returns
    -------
    ndarray, shape (views, rows, cols), float32
        Sum of value times chord, computed in float64; dimensionless for values in 1/mm.
    """
    chosen = geometry[views]
    integrals = np.empty((len(chosen), *chosen.detector_shape), dtype=np.float32)
    _integrate(_table(shapes), _rays(chosen), integrals)
    return integrals


def chord_lengths(
    shape: Shape, geometry: ScanGeometry, views: int | slice | Sequence[int] = slice(None)
) -> NDArray[np.float64]:
    """Return the length of every ray inside one shape, whatever its value.

    Parameters are those of :func:`line_integrals`.

    Returns
    -------
    ndarray, shape (views, rows, cols), float64, mm
    """
    chosen = geometry[views]
    table = _table([shape])
    table[:, -1] = 1.0
    lengths = np.empty((len(chosen), *chosen.detector_shape), dtype=np.float64)
    _integrate(table, _rays(chosen), lengths)
    return lengths


def rasterize(shapes: Sequence[Shape], grid: VolumeGrid, supersample: int = 1) -> NDArray[np.float32]:
    """Draw a phantom on a grid.

    Parameters
    ----------
    shapes : sequence of Ellipsoid or Cylinder
        The phantom; values add up.
    grid : VolumeGrid
        Where; a window gives the very voxels of the whole grid.
    supersample : int
        Sample every voxel at this many regular points along each axis and average; 1 takes its center.

    Returns
    -------
    ndarray, shape (z, y, x), float32
        Values of the shapes, in their unit.

    Raises
    ------
    InputError
        If ``supersample`` is not at least 1.
    """
    if supersample < 1:
        raise InputError(f"supersample must be at least 1, got {supersample}")
    volume = np.empty(grid.shape, dtype=np.float32)
    voxel = np.asarray(grid.voxel_mm, dtype=np.float64)
    _rasterize(_table(shapes), grid.axis_mm("z"), grid.axis_mm("y"), grid.axis_mm("x"), voxel, supersample, volume)
    return volume


def _table(shapes: Sequence[Shape]) -> NDArray[np.float64]:
    """Return one row per shape: kind, center, radii (cylinder: r, r, half height), cos, sin, value."""
    table = np.empty((len(shapes), 10), dtype=np.float64)
    for row, shape in zip(table, shapes, strict=True):
        if isinstance(shape, Ellipsoid):
            turn = (math.cos(shape.rotation_rad), math.sin(shape.rotation_rad))
            row[:] = (_ELLIPSOID, *shape.center_mm, *shape.radii_mm, *turn, shape.value)
        else:
            extent = (shape.radius_mm, shape.radius_mm, 0.5 * shape.height_mm)
            row[:] = (_CYLINDER, *shape.center_mm, *extent, 1.0, 0.0, shape.value)
    return table


def _rays(geometry: ScanGeometry) -> NDArray[np.float64]:
    """Return source, detector center, u and v of every view, shape (views, 4, 3)."""
    return np.stack([geometry.source_mm, geometry.detector_center_mm, geometry.u_mm, geometry.v_mm], axis=1)


@numba.njit(cache=True)
def _chord(shape, px, py, pz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Return the length inside one shape of the line through p with unit direction d."""
    qx, qy, qz = px - shape[1], py - shape[2], pz - shape[3]
    along = qx * dx + qy * dy + qz * dz
    qx, qy, qz = qx - along * dx, qy - along * dy, qz - along * dz
    if shape[0] == _ELLIPSOID:
        # Turn and stretch the ellipsoid to the unit sphere; the stretch moves the closest point, so find it again.
        cos, sin = shape[7], shape[8]
        ox, oy, oz = (qx * cos + qy * sin) / shape[4], (qy * cos - qx * sin) / shape[5], qz / shape[6]
        ex, ey, ez = (dx * cos + dy * sin) / shape[4], (dy * cos - dx * sin) / shape[5], dz / shape[6]
        stretch = ex * ex + ey * ey + ez * ez
        along = (ox * ex + oy * ey + oz * ez) / stretch
        ox, oy, oz = ox - along * ex, oy - along * ey, oz - along * ez
        inside = 1.0 - (ox * ox + oy * oy + oz * oz)
        if inside <= 0.0:
            return 0.0
        return 2.0 * math.sqrt(inside / stretch)
    radius, half_height = shape[4], shape[6]
    across = dx * dx + dy * dy
    if across < 1e-30:  # parallel to the axis
        return 2.0 * half_height if qx * qx + qy * qy < radius * radius else 0.0
    offset = qx * dy - qy * dx
    inside = radius * radius - offset * offset / across
    if inside <= 0.0:
        return 0.0
    middle = -(qx * dx + qy * dy) / across
    half = math.sqrt(inside / across)
    first, last = middle - half, middle + half
    if dz == 0.0:
        if abs(qz) >= half_height:
            return 0.0
    else:
        low, high = (-half_height - qz) / dz, (half_height - qz) / dz
        first, last = max(first, min(low, high)), min(last, max(low, high))
    return max(last - first, 0.0)


@numba.njit(parallel=True, cache=True)
def _integrate(table, rays, integrals):  # type: ignore[no-untyped-def]
    n_views, rows, cols = integrals.shape
    for line in numba.prange(n_views * rows):  # every (view, row) writes its own row
        view, row = line // rows, line % rows
        source, center, u, v = rays[view]
        off_v = row - 0.5 * (rows - 1)
        for col in range(cols):
            off_u = col - 0.5 * (cols - 1)
            px = center[0] + off_u * u[0] + off_v * v[0]
            py = center[1] + off_u * u[1] + off_v * v[1]
            pz = center[2] + off_u * u[2] + off_v * v[2]
            dx, dy, dz = px - source[0], py - source[1], pz - source[2]
            norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx * norm, dy * norm, dz * norm
            total = 0.0
            for k in range(table.shape[0]):
                total += table[k, 9] * _chord(table[k], px, py, pz, dx, dy, dz)
            integrals[view, row, col] = total


@numba.njit(parallel=True, cache=True)
def _rasterize(table, zs, ys, xs, voxel, supersample, volume):  # type: ignore[no-untyped-def]
    share = 1.0 / supersample
    for k in numba.prange(zs.size):
        for j in range(ys.size):
            for i in range(xs.size):
                total = 0.0
                for sample in range(supersample**3):
                    a, b, c = sample // (supersample * supersample), sample // supersample % supersample, sample
                    z = zs[k] + ((a + 0.5) * share - 0.5) * voxel[0]
                    y = ys[j] + ((b + 0.5) * share - 0.5) * voxel[1]
                    x = xs[i] + ((c % supersample + 0.5) * share - 0.5) * voxel[2]
                    for n in range(table.shape[0]):
                        dx, dy, dz = x - table[n, 1], y - table[n, 2], z - table[n, 3]
                        if table[n, 0] == _ELLIPSOID:
                            cos, sin = table[n, 7], table[n, 8]
                            ox, oy = (dx * cos + dy * sin) / table[n, 4], (dy * cos - dx * sin) / table[n, 5]
                            oz = dz / table[n, 6]
                            inside = ox * ox + oy * oy + oz * oz <= 1.0
                        else:
                            inside = dx * dx + dy * dy <= table[n, 4] ** 2 and abs(dz) <= table[n, 6]
                        if inside:
                            total += table[n, 9]
                volume[k, j, i] = total * share**3
