"""Reconstruction by the ASTRA toolbox: a second opinion that shares neither kernels nor conventions with ours.

ASTRA (GPL-3) is an optional extra, imported only when it is asked for. Its FDK runs on CUDA devices alone and ends the
interpreter where there is none, so that nothing of it is called before ASTRA has said that it sees a device. On the CPU
ASTRA works in two dimensions: that serves scans of a single detector row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import EnvironmentMissingError, GeometryError, InputError, RunError
from marspipe.recon.field_of_view import check_field_of_view
from marspipe.recon.filtering import ViewFilter
from marspipe.recon.redundancy import fan_angles_rad
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.grid import VolumeGrid

logger = logging.getLogger(__name__)

# Below this fan angle (rad) rays count as parallel, as for the redundancy weights.
_PARALLEL_FAN = 1e-6
# A slice counts as seen edge-on by the detector's only row if it projects this near to it (px).
_IN_PLANE = 1e-3
# The pixels that ASTRA backprojects to are at most this part of a detector column at the isocenter, and this many rays
# fall on each: see reconstruct_with_astra.
_PIXEL_PER_COLUMN = 1 / 3
_RAYS_PER_PIXEL = 4


def reconstruct_with_astra(
    line_integrals: NDArray[np.float32],
    geometry: ScanGeometry,
    grid: VolumeGrid,
    *,
    window: str = "ram-lak",
    cutoff: float = 1.0,
    redundancy: str = "auto",
    truncation: str = "none",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Reconstruct the attenuation on a grid with ASTRA.

    Parameters
    ----------
    line_integrals : ndarray, float32, shape (views, rows, columns)
        ``-log`` of the transmission, ``[view, v, u]``.
    geometry : ScanGeometry
        The scan. A single detector row that sees the grid's only slice edge-on is reconstructed on the CPU: fan or
        parallel, any redundancy weights. Everything else goes to FDK_CUDA as far as that is exact: a circular orbit
        with the axis on the detector's middle column, evenly spaced views all around or over a short scan.
    grid : VolumeGrid
        Where to reconstruct: square voxels; for FDK_CUDA cubes, centered on the rotation axis (any slices).
    window, cutoff, redundancy, truncation
        As for :func:`marspipe.recon.fdk.fdk`.
    progress : callable, optional
        Called with (views done, views).

    Returns
    -------
    ndarray, float32, shape ``grid.shape``
        Attenuation ``[z, y, x]``, 1/mm.

    Raises
    ------
    EnvironmentMissingError
        If ASTRA is not installed, or the scan needs FDK_CUDA and ASTRA sees no CUDA device.
    InputError
        If an array or option is wrong, a pixel is not finite, or FDK_CUDA does not know the option.
    GeometryError
        If the scan cannot be reconstructed, or not by ASTRA, or the grid lies outside of what the detector saw.
    RunError
        If ASTRA gives up.

    Notes
    -----
    *On the CPU* weights and ramp filter are ours (:class:`~marspipe.recon.filtering.ViewFilter`); ASTRA backprojects.
    Its backprojection is the transpose of a projector: a pixel gets the sum over rays of value times length of the ray
    inside the pixel. Divided by the same sum of ones this is a mean of the values around the place where the pixel
    projects to, which FDK's distance weight then multiplies; so every view is backprojected by itself, twice.

    That mean is taken over the pixel's whole shadow, of the few rays that happen to fall into it. With voxels as pixels
    and columns as rays it differs from the value at the voxel's center, which other kernels take, by 1.6 % of a sharp
    object's attenuation (RMS of a slice; voxels as large as columns at the axis); with four rays in every pixel by
    1 %, and by 3 % with voxels of two columns. So ASTRA gets pixels of at most a third of a column, of which the one
    in the middle of each voxel is kept, and columns cut into rays, four per pixel, with values in between interpolated
    linearly, as all kernels do: that leaves 0.05 to 0.3 %. The *line* projectors serve because they alone take per-view
    vectors of a fan; *strip*, whose rays are as wide as columns, takes them of parallel rays only.

    *FDK_CUDA* weighs and filters by itself, every view alike. It derives the magnification from the first view with
    the detector's middle and the volume's middle on the axis, hence the limits above. Palenstijn, Batenburg and
    Sijbers, J. Struct. Biol. 176 (2011) 250, doi:10.1016/j.jsb.2011.07.017; van Aarle et al., Opt. Express 24 (2016)
    25129, doi:10.1364/OE.24.025129.
    """
    astra = _import_astra()
    geometry.rows_for(grid)  # refuses a grid that reaches the source or lies beside the detector
    planar = _in_one_plane(geometry, grid)
    if not planar and not astra.use_cuda():
        raise EnvironmentMissingError(
            "backend 'astra' finds no CUDA device, and without one ASTRA reconstructs only a slice in the plane of a "
            f"single detector row, not {grid.shape[0]} x {geometry.detector_shape[0]} (slices x rows) in space; "
            "use a machine with a CUDA device, or backend 'cpu'"
        )
    view_filter = ViewFilter(geometry, window=window, cutoff=cutoff, redundancy=redundancy, truncation=truncation)
    logger.info("redundancy weights: %s. %s", view_filter.redundancy.name, view_filter.redundancy.description)
    check_field_of_view(geometry, grid, view_filter.redundancy)
    try:
        if planar:
            return _reconstruct_slice(astra, line_integrals, view_filter, grid, progress)
        return _reconstruct_on_gpu(astra, line_integrals, view_filter, grid, progress)
    except astra.log.AstraError as error:
        raise RunError(
            f"ASTRA could not reconstruct {len(geometry)} views to a grid of {grid.shape}: {error}"
        ) from error


def _import_astra() -> Any:
    try:
        import astra
    except ImportError as error:
        raise EnvironmentMissingError(
            "backend 'astra' needs the ASTRA toolbox, which is not installed: pip install marspipe[astra]"
        ) from error
    return astra


def _in_one_plane(geometry: ScanGeometry, grid: VolumeGrid) -> bool:
    """Return whether the detector has one row, the grid one slice, and the row sees the slice edge-on in all views."""
    if geometry.detector_shape[0] != 1 or grid.shape[0] != 1:
        return False
    on_axis = np.array([[0.0, 0.0, grid.axis_mm("z")[0]]])
    row, _, _ = geometry.project(np.concatenate([grid.corners_mm(), on_axis]))
    return bool(np.abs(row).max() <= _IN_PLANE)


def _reconstruct_slice(
    astra: Any,
    line_integrals: NDArray[np.float32],
    view_filter: ViewFilter,
    grid: VolumeGrid,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    """Reconstruct one slice from one detector row on the CPU; see :func:`reconstruct_with_astra`."""
    geometry = view_filter.filtered_geometry
    _, height, side = grid.voxel_mm
    if not math.isclose(height, side, rel_tol=1e-6):
        raise GeometryError(f"ASTRA needs square voxels, got {height:.6g} x {side:.6g} mm (y, x); use backend 'cpu'")
    column = _column_at_axis_mm(geometry)
    # An odd number of pixels per voxel and direction: one of them lies in the voxel's middle.
    parts = 2 * math.ceil((side / (_PIXEL_PER_COLUMN * column) - 1) / 2 - 0.01) + 1
    rays = math.ceil(_RAYS_PER_PIXEL * column * parts / side - 0.01)

    z, y, x = (grid.axis_mm(axis) for axis in ("z", "y", "x"))
    (x_low, x_high), (y_low, y_high) = _edges(x, side), _edges(y, side)
    volume = astra.create_vol_geom(len(y) * parts, len(x) * parts, x_low, x_high, y_low, y_high)
    middles = slice(parts // 2, None, parts)
    # A column of zeros at both ends: the values fall to zero beside the detector, as for every kernel.
    columns = np.arange(-1, geometry.detector_shape[1] + 1)
    places = columns[0] - 0.5 + (np.arange(len(columns) * rays) + 0.5) / rays
    parallel = bool(np.abs(fan_angles_rad(geometry)).max() < _PARALLEL_FAN)
    vectors = geometry.to_astra()["Vectors"].reshape(-1, 4, 3)[..., :2]
    depths = geometry.projection_matrices()[:, 2]

    total = np.zeros((len(y), len(x)))
    for view in range(len(geometry)):
        filtered = view_filter.filter(line_integrals[view], view)[0]
        values = np.interp(places, columns, np.pad(filtered, 1)).astype(np.float32)
        mean = _mean_over_rays(astra, values, _flat_view(astra, vectors[view], len(columns), rays, parallel), volume)
        by_x, by_y, by_z, constant = depths[view]
        depth = by_x * x + (by_y * y)[:, None] + (by_z * z[0] + constant)
        # ASTRA's two-dimensional images begin at the largest y.
        total += mean[::-1][middles, middles] / depth**2
        if progress is not None:
            progress(view + 1, len(geometry))
    return total.astype(np.float32)[None]


def _column_at_axis_mm(geometry: ScanGeometry) -> float:
    """Return the width of a detector column scaled to the rotation axis, mm; it only says how finely to sample."""
    source, center = geometry.source_mm[0, :2], geometry.detector_center_mm[0, :2]
    return geometry.pixel_pitch_mm[1] * float(np.linalg.norm(source) / np.linalg.norm(center - source))


def _edges(centers_mm: NDArray[np.float64], size_mm: float) -> tuple[float, float]:
    return float(centers_mm[0]) - size_mm / 2, float(centers_mm[-1]) + size_mm / 2


def _flat_view(astra: Any, vectors: NDArray[np.float64], n_columns: int, rays: int, parallel: bool) -> Any:
    """Return ASTRA's projection geometry of one view, seen along z, with every column cut to rays.

    ``vectors`` are source, detector center, u and v of :meth:`ScanGeometry.to_astra` without their third component.
    """
    source, center, u, _ = vectors
    if parallel:
        row = np.concatenate([-source / np.linalg.norm(source), center, u / rays])
        return astra.create_proj_geom("parallel_vec", n_columns * rays, row[None])
    return astra.create_proj_geom("fanflat_vec", n_columns * rays, np.concatenate([source, center, u / rays])[None])


def _mean_over_rays(astra: Any, values: NDArray[np.float32], projection: Any, volume: Any) -> NDArray[np.float64]:
    """Return, for every pixel, the mean of the values of the rays through it, weighted by their length inside.

    Parameters
    ----------
    values : ndarray, float32, shape (rays,)
        One view.
    projection, volume : dict
        ASTRA's geometries.

    Returns
    -------
    ndarray, float64, shape (rows, columns) of ``volume``
        Rows begin at the largest y; 0 where no ray passes.
    """
    sums = []
    with ExitStack() as stack:  # deletes ASTRA's objects, whatever happens, the last one first
        kernel = "line_fanflat" if projection["type"].startswith("fanflat") else "line"
        projector = _kept(stack, astra.projector, astra.create_projector(kernel, projection, volume))
        view = _kept(stack, astra.data2d, astra.data2d.create("-sino", projection))
        image = _kept(stack, astra.data2d, astra.data2d.create("-vol", volume))
        settings = {"ProjectorId": projector, "ProjectionDataId": view, "ReconstructionDataId": image}
        algorithm = _kept(stack, astra.algorithm, astra.algorithm.create({**astra.astra_dict("BP"), **settings}))
        for line in (values, np.ones_like(values)):
            astra.data2d.store(view, line[None])
            astra.algorithm.run(algorithm)
            sums.append(astra.data2d.get(image).astype(np.float64))
    weighted, length = sums
    mean: NDArray[np.float64] = np.divide(weighted, length, out=np.zeros_like(length), where=length > 0)
    return mean


def _kept(stack: ExitStack, room: Any, number: int) -> int:
    """Return the number of an ASTRA object that the stack will delete."""
    stack.callback(room.delete, number)
    return number


def _reconstruct_on_gpu(
    astra: Any,
    line_integrals: NDArray[np.float32],
    view_filter: ViewFilter,
    grid: VolumeGrid,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    """Reconstruct a volume by FDK_CUDA; see :func:`reconstruct_with_astra`."""
    check_fdk_cuda(view_filter, grid)
    for view, values in enumerate(line_integrals):
        if not np.isfinite(values).all():
            raise InputError(f"line_integrals must be finite, but view {view} is not")
    geometry = view_filter.geometry
    z, y, x = (_edges(grid.axis_mm(axis), size) for axis, size in zip("zyx", grid.voxel_mm, strict=True))
    nz, ny, nx = grid.shape
    volume = astra.create_vol_geom(ny, nx, nz, *x, *y, *z)
    projection = geometry.to_astra()
    # ASTRA's arrays are [row, view, column] and [z, y, x], the latter ascending.
    rows = np.ascontiguousarray(line_integrals.transpose(1, 0, 2))
    option = {
        "FilterType": view_filter.window,
        "FilterD": view_filter.cutoff,
        "ShortScan": view_filter.redundancy.name == "parker",
    }
    with ExitStack() as stack:
        views = _kept(stack, astra.data3d, astra.data3d.create("-sino", projection, rows))
        image = _kept(stack, astra.data3d, astra.data3d.create("-vol", volume))
        settings = {"ProjectionDataId": views, "ReconstructionDataId": image, "option": option}
        algorithm = _kept(stack, astra.algorithm, astra.algorithm.create({**astra.astra_dict("FDK_CUDA"), **settings}))
        astra.algorithm.run(algorithm)
        result: NDArray[np.float32] = astra.data3d.get(image)
    if progress is not None:
        progress(len(geometry), len(geometry))
    return result


def check_fdk_cuda(view_filter: ViewFilter, grid: VolumeGrid) -> None:
    """Refuse what FDK_CUDA does not do exactly; it would not say so, but return a wrong volume.

    Raises
    ------
    InputError
        If the rows are to be extrapolated.
    GeometryError
        If scan or grid are beyond it.
    """
    if view_filter.truncation != "none":
        raise InputError(
            f"FDK_CUDA does not extrapolate rows: truncation must be 'none', got {view_filter.truncation!r}"
        )
    for hindrance in _hindrances(view_filter, grid):
        raise GeometryError(f"FDK_CUDA cannot reconstruct this exactly: {hindrance}; use backend 'cuda' or 'cpu'")


def _hindrances(view_filter: ViewFilter, grid: VolumeGrid) -> Iterator[str]:
    """Yield what keeps FDK_CUDA from reconstructing a scan, in words."""
    geometry, redundancy = view_filter.geometry, view_filter.redundancy
    if geometry.orbit is None:
        yield "source and detector are not on a circular orbit with the detector's columns parallel to the axis"
        return
    if np.ptp(geometry.source_mm[:, 2]) > 0:
        yield f"the source moves {np.ptp(geometry.source_mm[:, 2]):.6g} mm along the axis"
    if np.abs(fan_angles_rad(geometry)).max() < _PARALLEL_FAN:
        yield "it knows no parallel rays"
    if redundancy.name not in ("full", "parker"):
        yield f"it has no weights for {redundancy.name!r}, only for a full circle or a short scan"
    column, middle = geometry.orbit.principal_point_px[1], (geometry.detector_shape[1] - 1) / 2
    if abs(column - middle) > _IN_PLANE:
        yield f"the axis must fall on the detector's middle, column {middle:.6g}, but falls on {column:.6g}"
    # It counts every view alike: 1/n of the circle, or one step of the arc.
    n_views, shares = len(geometry), redundancy.view_weights_rad
    steps = np.diff(geometry.angles_rad)
    even = np.full(n_views, math.pi / n_views) if redundancy.name == "full" else np.full(n_views, abs(steps.mean()))
    if not np.allclose(shares, even, rtol=1e-4) or (redundancy.name == "parker" and np.ptp(steps) > 1e-4 * even[0]):
        yield "the views must be evenly spaced, all around or, one after the other, over a short scan"
    if not np.allclose(grid.voxel_mm, grid.voxel_mm[2], rtol=1e-5):
        yield f"voxels must be cubes, but are {grid.voxel_mm} mm (z, y, x)"
    middle_mm = {axis: float(grid.axis_mm(axis)[[0, -1]].mean()) for axis in "yx"}
    if max(map(abs, middle_mm.values())) > _IN_PLANE * grid.voxel_mm[2]:
        where = ", ".join(f"{axis} = {value:.6g} mm" for axis, value in middle_mm.items())
        yield f"the middle of the grid must lie on the axis, but lies at {where}"
