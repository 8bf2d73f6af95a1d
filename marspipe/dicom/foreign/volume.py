"""A series of any scanner as a volume in marspipe's axes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.foreign import ForeignDicomWarning
from marspipe.dicom.foreign.instance import Instance
from marspipe.dicom.foreign.problems import even_tolerance_mm
from marspipe.dicom.foreign.resample import even_slices, onto_grid, world_axes, world_grid
from marspipe.dicom.foreign.series import Series, require_stack
from marspipe.scan.grid import VolumeGrid


class SeriesVolume(NamedTuple):
    """A volume that was read from a series.

    Attributes
    ----------
    values : ndarray, float32, shape (nz, ny, nx)
        ``[z, y, x]`` of the patient, which is marspipe's world (see :mod:`marspipe.dicom`); every index grows with its
        coordinate. NaN where there is no measured value: padding, and what resampling could not reach.
    grid : VolumeGrid
    units : str
        ``"HU"``, ``"1/mm"`` ..; ``"unspecified"`` if the files do not tell.
    """

    values: NDArray[np.float32]
    grid: VolumeGrid
    units: str


def read_series(instances: Sequence[Instance], *, resample: bool = False) -> SeriesVolume:
    """Read one series as a volume.

    Coronal, sagittal and flipped slices are turned by exchanging and reversing axes, without interpolation.

    Parameters
    ----------
    instances : sequence of Instance
        All objects of one series, in any order.
    resample : bool
        Whether uneven spacing, gantry tilt and oblique slices are resampled by linear interpolation; otherwise they are
        refused. What was done is told as a :class:`~marspipe.dicom.foreign.ForeignDicomWarning`.

    Raises
    ------
    InputError
        If the slices may not be stacked; the sentence says why, and whether resampling helps.
    RawFormatError
        If pixels are damaged.
    """
    series = Series(instances)
    geometry = require_stack(series, resample=resample)
    kinds = {problem.kind for problem in series.problems}
    origin, steps = geometry.lattice()
    stack = np.empty(geometry.shape, dtype=np.float32)
    for number, plane in enumerate(series.planes):
        stack[number] = plane.pixels()
    if "uneven" in kinds:
        distances = np.array(geometry.distances_mm)
        stack, spacing = even_slices(stack, distances, even_tolerance_mm(geometry.spacing_mm[0]))
        steps[0] *= spacing * (len(distances) - 1) / distances[-1]
        _tell(instances, f"{len(distances)} unevenly spaced slices became {len(stack)}, {spacing:.5g} mm apart")
    units = series.planes[0].frame.line.units
    if not kinds & {"tilt", "oblique"}:
        return SeriesVolume(*_turned(stack, origin, steps), units)
    grid = world_grid(stack.shape, origin, steps)
    values = onto_grid(stack, origin, steps, grid)
    empty = float(np.isnan(values).mean())
    what = f"a tilt of {geometry.tilt_deg:.4g} degrees" if "tilt" in kinds else f"{geometry.plane} slices"
    _tell(instances, f"{what} resampled onto the patient's axes; {100 * empty:.3g} % of the box hold no value (NaN)")
    return SeriesVolume(values, grid, units)


def _tell(instances: Sequence[Instance], what: str) -> None:
    warnings.warn(f"the series of {instances[0].origin}: {what}", ForeignDicomWarning, stacklevel=3)


def _turned(
    stack: NDArray[np.float32], origin: NDArray[np.float64], steps: NDArray[np.float64]
) -> tuple[NDArray[np.float32], VolumeGrid]:
    """Return an aligned stack in world order, every index growing with its coordinate, and its grid."""
    axes = world_axes(steps)
    volume = stack.transpose(axes)
    voxel, center = [], []
    for world, axis in enumerate(axes):
        step, count = float(steps[axis, world]), stack.shape[axis]
        if step < 0:
            volume = np.flip(volume, world)
        voxel.append(abs(step))
        center.append(float(origin[world]) + 0.5 * (count - 1) * step)
    nz, ny, nx = volume.shape
    grid = VolumeGrid((nz, ny, nx), (voxel[0], voxel[1], voxel[2]), (center[0], center[1], center[2]))
    return np.ascontiguousarray(volume), grid
