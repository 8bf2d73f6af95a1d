"""NeXus NXtomo: projections, open beams and dark frames in one stack, told apart by ``image_key``.

Layout: an ``NXentry`` (or ``NXsubentry``) with ``instrument/<NXdetector>/data`` [frame, v, u] and ``image_key``
(0 projection, 1 open beam, 2 dark, 3 invalid), ``sample/rotation_angle`` and ``sample/{x,y,z}_translation``.

In a manifest the same file is listed once per ``frame_type``, which picks its frames by ``image_key``; invalid frames
are in none of the lists. ``dataset`` names an entry or a detector. Without it, every entry of the file with frames is
a counter, in natural order of the names (counter 10 comes after counter 9): the definition has no energy dimension,
and one entry per energy bin is how it is written. ``angles_rad: {dataset, unit}`` may hold an angle for every frame of
the stack, of which those of the projections are taken, or one for every projection; so may ``sample_z_mm: {dataset,
unit}``, for the translation along the rotation axis. ``control/data`` [frame] is the beam monitor.

Orientation: rows and columns are taken as they are stored; see ``orientation`` in the manifest.

Source: NeXus definitions, NXtomo, https://manual.nexusformat.org/classes/applications/NXtomo.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import RawFormatError
from marspipe.readers import hdf5
from marspipe.readers.files import guard, printable
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, dtype_name
from marspipe.readers.nxtomo_values import (
    IMAGE_KEYS,
    LENGTH_MM,
    TIME_S,
    Stack,
    moment_of,
    monitor_of,
    of_projections,
    per_frame,
    single_value,
    starts_of,
    thresholds_of,
)

SUFFIXES = (".nxs", ".nx", ".nexus", ".h5", ".hdf5")
INVALID = 3
_ENTRY_DEPTH = 4  # a group may hold itself


@dataclass(frozen=True)
class Description:
    """What a manifest needs to know of an NXtomo file; None where the file does not tell.

    Attributes
    ----------
    stacks : tuple of str
        Entry (or detector) of every counter.
    shape : (int, int)
        Rows, columns as stored.
    dtype : str
        NumPy name of the pixel type.
    counts : dict of str to int
        Frames of each type in a stack, and those that are ``invalid``.
    pixel_pitch_mm : (float, float) or None
        Pixel pitch (v, u): ``y_pixel_size`` and ``x_pixel_size``, mm.
    distance_mm : float or None
        Detector to sample, mm.
    exposure_s : float or None
        ``count_time``, s, if it is the same for all frames.
    thresholds_kev : tuple of float
        ``threshold_energy`` of every counter, keV; empty if one is missing.
    angle_dataset, angle_unit : str or None
        Where the angles lie, and the unit they claim.
    angles : ndarray or None, shape (projections,)
        Angles of the projections, in that unit.
    translations_mm : dict of str to ndarray, shape (projections,)
        Where the sample stood along ``x``, ``y``, ``z`` in each projection, mm; those with a unit only.
    """

    stacks: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    counts: dict[str, int]
    pixel_pitch_mm: tuple[float, float] | None
    distance_mm: float | None
    exposure_s: float | None
    thresholds_kev: tuple[float, ...]
    angle_dataset: str | None
    angle_unit: str | None
    angles: NDArray[np.float64] | None
    translations_mm: dict[str, NDArray[np.float64]]


def index(
    file: BinaryIO,
    uri: str,
    first: int = 0,
    count: int | None = None,
    *,
    dataset: str | None = None,
    frame_type: FrameType = "projection",
) -> list[FrameEntry]:
    """List the frames of a type, counter by counter within each exposure; pixels are not read.

    Parameters
    ----------
    file : seekable binary file
        The file.
    uri : str
        Its name, for the entries and messages.
    first, count : int
        Range of frames; by default all.
    dataset : str, optional
        HDF5 path of an entry or a detector; by default all entries with frames.
    frame_type : {"projection", "open_beam", "dark"}
        Which frames.

    Raises
    ------
    RawFormatError
        If the file is not HDF5, has no stack with an image key or several that contradict each other, a link leads
        nowhere or outside the folder, or the frames are not readable. The message names file and dataset.
    """
    with hdf5.opened(file, uri) as container:
        stacks = _stacks(container, dataset)
        frames = stacks[0].frames(frame_type)
        shapes = [_require_stack(container, stack) for stack in stacks]
        thresholds = thresholds_of(container, stacks)
        exposures = [per_frame(container, f"{stack.detector}/count_time", stack, TIME_S) for stack in stacks]
        monitors = [monitor_of(container, stack) for stack in stacks]
        starts = [starts_of(container, stack) for stack in stacks]
    entries = []
    for number in clip_range(first, count, frames.size * len(stacks)):
        exposure, counter = divmod(number, len(stacks))
        place, (rows, cols, dtype) = int(frames[exposure]), shapes[counter]
        seconds, monitor, began = exposures[counter], monitors[counter], starts[counter]
        entries.append(
            FrameEntry(
                uri=uri,
                dataset=stacks[counter].data,
                offset=place,
                length=rows * cols * dtype.itemsize,
                sequence=place,
                exposure_index=exposure,
                counter=counter,
                rows=rows,
                cols=cols,
                dtype=dtype_name(dtype),
                thresholds_kev=thresholds,
                exposure_s=None if seconds is None else float(seconds[place]),
                acquired_at=None if began is None else moment_of(began, place),
                monitor=None if monitor is None else float(monitor[place]),
            )
        )
    return entries


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of frames (counter images) of a type; parameters and errors as :func:`index`."""
    with hdf5.opened(file, uri) as container:
        stacks = _stacks(container, dataset)
        for stack in stacks:
            _require_stack(container, stack)
        return int(stacks[0].frames(frame_type).size) * len(stacks)


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one frame ``[row v, column u]``, native byte order; RawFormatError if it cannot be read."""
    (frame,) = read_many(file, (entry,))
    return frame


read_many = hdf5.read_many


def read_angles(
    file: BinaryIO, uri: str, angles: str, dataset: str | None = None
) -> tuple[NDArray[np.float64], str | None]:
    """Return the angles (or heights) of the projections, and the unit they claim.

    Parameters
    ----------
    file : seekable binary file
        The file.
    uri : str
        Its name, for messages.
    angles : str
        HDF5 path of the values.
    dataset : str, optional
        Entry or detector, as in :func:`index`.

    Returns
    -------
    angles : ndarray, shape (projections,), float64
        In the unit of the file.
    unit : str or None
        The text of its ``units`` attribute.

    Raises
    ------
    RawFormatError
        If the dataset is missing, or has neither an angle per frame nor one per projection.
    """
    with hdf5.opened(file, uri) as container:
        stack = _stacks(container, dataset)[0]
        values, unit = container.numbers(angles)
        return of_projections(values, stack, f"{uri}: {angles}"), unit


def describe(file: BinaryIO, uri: str, dataset: str | None = None) -> Description:
    """Return what a manifest needs to know of a file; parameters and errors as :func:`index`."""
    with hdf5.opened(file, uri) as container:
        stacks = _stacks(container, dataset)
        head = stacks[0]
        rows, cols, dtype = _require_stack(container, head)
        pitch = [single_value(container, f"{head.detector}/{axis}_pixel_size", LENGTH_MM) for axis in "yx"]
        seconds = per_frame(container, f"{head.detector}/count_time", head, TIME_S)
        angle_dataset = _rotation(container, head)
        angles: NDArray[np.float64] | None = None
        unit: str | None = None
        if angle_dataset is not None:
            values, unit = container.numbers(angle_dataset)
            angles = of_projections(values, head, f"{uri}: {angle_dataset}")
        translations = {}
        for axis in "xyz":
            moved = per_frame(container, f"{head.entry}/sample/{axis}_translation", head, LENGTH_MM)
            if moved is not None:
                translations[axis] = moved[head.frames("projection")]
        counts: dict[str, int] = {name: int(head.frames(name).size) for name in IMAGE_KEYS}
        return Description(
            stacks=tuple(stack.entry or stack.detector for stack in stacks),
            shape=(rows, cols),
            dtype=dtype_name(dtype),
            counts={**counts, "invalid": int(np.count_nonzero(head.image_key == INVALID))},
            pixel_pitch_mm=None if pitch[0] is None or pitch[1] is None else (pitch[0], pitch[1]),
            distance_mm=single_value(container, f"{head.detector}/distance", LENGTH_MM),
            exposure_s=float(seconds[0]) if seconds is not None and np.ptp(seconds) == 0 else None,
            thresholds_kev=thresholds_of(container, stacks),
            angle_dataset=angle_dataset,
            angle_unit=unit,
            angles=angles,
            translations_mm=translations,
        )


def _stacks(container: hdf5.Container, dataset: str | None) -> list[Stack]:
    """Return one stack per counter."""
    if dataset is not None:
        path = "/" + dataset.strip("/")
        group = container.group(path)
        with guard(f"{container.uri}: {path}"):
            is_detector = "image_key" in group
        if is_detector:
            return [_stack(container, "/" + path.split("/")[1], path)]
        return [_only_detector(container, path, list(_detectors(container, group, path)))]
    stacks = []
    for path, group in sorted(_entries(container, container.root, ""), key=lambda item: _natural(item[0])):
        detectors = list(_detectors(container, group, path))
        if detectors:
            stacks.append(_only_detector(container, path, detectors))
    if not stacks:
        raise RawFormatError(
            f"{container.uri}: no NXentry has an NXdetector with data and image_key; the file has "
            f"{container.contents()}"
        )
    for stack in stacks[1:]:
        _require_alike(container, stacks[0], stack)
    return stacks


def _only_detector(container: hdf5.Container, entry: str, detectors: list[str]) -> Stack:
    if len(detectors) != 1:
        found = f"{len(detectors)} detectors ({', '.join(detectors)})" if detectors else "no detector"
        raise RawFormatError(
            f"{container.uri}: {entry} has {found} with data and image_key, expected one; name it as dataset"
        )
    return _stack(container, entry, detectors[0])


def _stack(container: hdf5.Container, entry: str, detector: str) -> Stack:
    path = f"{detector}/image_key"
    values, _ = container.numbers(path)
    if not np.isin(values, (*IMAGE_KEYS.values(), INVALID)).all():
        wrong = values[~np.isin(values, (*IMAGE_KEYS.values(), INVALID))][0]
        raise RawFormatError(f"{container.uri}: {path} has the value {wrong:g}, expected 0, 1, 2 or 3")
    return Stack(entry, detector, f"{detector}/data", values.astype(np.int64))


def _require_stack(container: hdf5.Container, stack: Stack) -> tuple[int, int, np.dtype[Any]]:
    data = container.stack(stack.data)
    frames, rows, cols = (int(n) for n in data.shape)
    if frames != stack.image_key.size:
        raise RawFormatError(
            f"{container.uri}: {stack.data} has {frames} frames, but {stack.detector}/image_key has "
            f"{stack.image_key.size} values"
        )
    return rows, cols, data.dtype


def _require_alike(container: hdf5.Container, head: Stack, stack: Stack) -> None:
    what = None
    if not np.array_equal(head.image_key, stack.image_key):
        what = "image_key"
    else:
        paths = [_rotation(container, head), _rotation(container, stack)]
        angles = [None if path is None else container.numbers(path)[0] for path in paths]
        if angles[0] is not None and angles[1] is not None and not np.array_equal(angles[0], angles[1]):
            what = "rotation_angle"
    if what is not None:
        raise RawFormatError(
            f"{container.uri}: {head.entry} and {stack.entry} differ in {what}, so that they are not counters of one "
            "scan; name one as dataset"
        )


def _rotation(container: hdf5.Container, stack: Stack) -> str | None:
    path = f"{stack.entry}/sample/rotation_angle"
    return None if not stack.entry or container.find(path) is None else path


def _entries(container: hdf5.Container, group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a file and the subentries within them."""
    for name, child in _groups(container, group, ("NXentry", "NXsubentry")):
        if path.count("/") >= _ENTRY_DEPTH:
            raise RawFormatError(f"{container.uri}: {path}/{name} lies more than {_ENTRY_DEPTH} entries deep")
        yield f"{path}/{name}", child
        yield from _entries(container, child, f"{path}/{name}")


def _detectors(container: hdf5.Container, entry: Any, path: str) -> Iterator[str]:
    for instrument, group in _groups(container, entry, ("NXinstrument",)):
        for name, detector in _groups(container, group, ("NXdetector",)):
            with guard(f"{container.uri}: {path}/{instrument}/{name}"):
                keys = set(detector)
            if {"data", "image_key"} <= keys:
                yield f"{path}/{instrument}/{name}"


def _groups(container: hdf5.Container, group: Any, classes: tuple[str, ...]) -> list[tuple[str, Any]]:
    """Return the subgroups of a NeXus class; links are aliases and not looked at."""
    found = []
    with guard(f"{container.uri}: groups"):
        for name in group:
            if printable(name) != name:
                raise RawFormatError(f"{container.uri}: the name of a group is not UTF-8: {printable(name)}")
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                child = group[name]
                if isinstance(child, h5py.Group) and hdf5.attribute(child, "NX_class") in classes:
                    found.append((name, child))
    return found


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]
