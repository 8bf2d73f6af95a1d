"""Why the slices of a series may not be stacked as they are, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from marspipe.dicom.foreign.geometry import COSINE_TOLERANCE, Plane, SeriesGeometry
from marspipe.dicom.foreign.instance import ImageFrame, Instance

# Scanners write positions with two decimals, rarely fewer; that is a large part of a small voxel only by mistake.
_ROUNDING_MM = 0.01
_EVEN_FRACTION = 0.02  # of the spacing, by which a gap may differ
_MOST_ROUNDING_FRACTION = 0.05
_MOST_ASTRAY_FRACTION = 0.1  # of the spacing, of a slice from its even place
_SAME_PLACE_FRACTION = 0.05
_MOST_NAMED = 3

Kind = Literal["contradiction", "doubled", "uneven", "tilt", "oblique"]


@dataclass(frozen=True)
class Problem:
    """One reason; that of some kinds can be resampled away."""

    kind: Kind
    text: str

    @property
    def is_resampled(self) -> bool:
        """Whether resampling is the answer."""
        return self.kind in ("uneven", "tilt", "oblique")


def even_tolerance_mm(spacing_mm: float) -> float:
    """Return by how much gaps between slices may differ from the usual one: 2 %, or what rounding makes of them."""
    return max(_EVEN_FRACTION * spacing_mm, min(_ROUNDING_MM, _MOST_ROUNDING_FRACTION * spacing_mm))


def unreadable(instances: Sequence[Instance], planes: Sequence[Plane]) -> list[Problem]:
    """Return why pixels or places of single objects are not known."""
    texts = []
    if not planes:
        return [Problem("contradiction", "it holds no image")]
    count = len({instance.series_uid for instance in instances})
    if count > 1:
        texts.append(f"the objects belong to {count} series")
    for instance in instances:
        if instance.layout is not None and instance.layout.refusal:
            texts.append(f"{instance.origin}: {instance.layout.refusal}")
            break
    unplaced = list(dict.fromkeys(plane.instance.origin for plane in planes if not plane.is_placed))
    if unplaced:
        others = f" and {len(unplaced) - 1} others" if len(unplaced) > 1 else ""
        what = "ImagePositionPatient, ImageOrientationPatient or PixelSpacing"
        texts.append(f"{what} is missing in {unplaced[0]}{others}")
    for plane in planes:
        if plane.is_placed and not _is_orthonormal(plane.frame):
            what = "ImageOrientationPatient (0020,0037)"
            texts.append(f"{what} of {plane.instance.origin} is not two perpendicular unit vectors")
            break
    return [Problem("contradiction", text) for text in texts]


def _is_orthonormal(frame: ImageFrame) -> bool:
    assert frame.orientation is not None
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    longest = max(abs(float(np.linalg.norm(axis)) - 1) for axis in (row, column))
    return longest <= COSINE_TOLERANCE and abs(float(row @ column)) <= COSINE_TOLERANCE


def differing(planes: Sequence[Plane]) -> list[Problem]:
    """Return what slices of one volume must have in common, but do not."""
    if not planes:
        return []
    texts, first = [], planes[0].frame
    shapes = dict.fromkeys(plane.instance.shape for plane in planes)
    if len(shapes) > 1:
        texts.append(f"slices differ in size: {', '.join(f'{r} x {c} pixels' for r, c in shapes)}")
    orientations = [plane.frame.orientation for plane in planes]
    if not all(_near(found, first.orientation, COSINE_TOLERANCE, 0.0) for found in orientations):
        count = len({tuple(round(v, 2) + 0.0 for v in found or ()) for found in orientations})
        texts.append(f"slices differ in orientation: {count} different ones in one series")
    spacings = dict.fromkeys(plane.frame.pixel_spacing_mm for plane in planes)
    if not all(_near(found, first.pixel_spacing_mm, 0.0, 1e-3) for found in spacings):
        named = [f"{found[0]:g} x {found[1]:g} mm" for found in spacings if found is not None]
        texts.append(f"slices differ in pixel spacing: {', '.join(named[:_MOST_NAMED])}")
    if len({plane.instance.frame_of_reference_uid for plane in planes}) > 1:
        texts.append("slices differ in FrameOfReferenceUID (0020,0052)")
    units = dict.fromkeys(plane.frame.line.units for plane in planes)
    if len(units) > 1:
        texts.append(f"slices differ in unit: {', '.join(units)}")
    return [Problem("contradiction", text) for text in texts]


def _near(one: Sequence[float] | None, other: Sequence[float] | None, absolute: float, relative: float) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=relative, atol=absolute))


def misplaced(planes: Sequence[Plane], geometry: SeriesGeometry) -> list[Problem]:
    """Return what is wrong with the places of slices that belong together."""
    gaps = np.diff(geometry.distances_mm)
    if not gaps.size and geometry.spacing_mm[0] <= 0:
        return [Problem("contradiction", "it has one slice, and nothing says how thick it is")]
    if not gaps.size and not geometry.is_aligned:
        return [Problem("contradiction", f"it has one slice, {geometry.plane}, off the patient's axes")]
    if gaps.size:
        doubled = np.flatnonzero(gaps <= _SAME_PLACE_FRACTION * _usual_gap(gaps))
        if doubled.size:
            return [Problem("doubled", _doubled(planes, doubled))]
    found = []
    if uneven := _uneven(gaps):
        found.append(Problem("uneven", uneven))
    if geometry.astray_mm > 2 * geometry.leaning_tolerance_mm:
        text = f"slices are shifted sideways against each other, by up to {geometry.astray_mm:.4g} mm"
        found.append(Problem("contradiction", text))
    elif geometry.tilt_deg:
        text = (
            f"gantry tilt: the slices follow each other at {geometry.tilt_deg:.4g} degrees to their normal, "
            f"{math.hypot(*geometry.drift) * geometry.spacing_mm[0]:.4g} mm sideways per slice"
        )
        found.append(Problem("tilt", text))
    elif not geometry.is_aligned:
        found.append(Problem("oblique", f"the slices are {geometry.plane}, off the patient's axes"))
    return found


def _usual_gap(gaps: NDArray[np.float64]) -> float:
    """Return the usual gap between places; of slices at one place there may be more than of others."""
    apart = gaps[gaps > _SAME_PLACE_FRACTION * float(gaps.max())]
    return float(np.median(apart)) if apart.size else 0.0


def _uneven(gaps: NDArray[np.float64]) -> str:
    if not gaps.size:
        return ""
    usual = float(np.median(gaps))
    odd = np.flatnonzero(np.abs(gaps - usual) > even_tolerance_mm(usual))
    if not odd.size:
        even = np.arange(1, gaps.size + 1) * float(gaps.mean())
        astray = float(np.abs(np.cumsum(gaps) - even).max())
        if astray <= _MOST_ASTRAY_FRACTION * usual:
            return ""
        return f"uneven slice spacing: slices lie up to {astray:.4g} mm beside even steps of {usual:.4g} mm"
    if odd.size > gaps.size // 2:
        return f"uneven slice spacing: {gaps.min():.4g} to {gaps.max():.4g} mm, the median {usual:.4g} mm"
    named = [f"between slices {k} and {k + 1}: {gaps[k]:.4g} mm" for k in odd[:_MOST_NAMED].tolist()]
    if odd.size > _MOST_NAMED:
        named.append(f"{odd.size - _MOST_NAMED} others")
    steps = gaps[odd] / usual
    lost = round(float(steps.sum())) - odd.size
    whole = bool((np.abs(steps - np.rint(steps)) < 2 * _EVEN_FRACTION).all())
    missing = f" ({lost} slice{'s' if lost > 1 else ''} missing)" if whole and lost > 0 else ""
    return f"uneven slice spacing: {', '.join(named)}, elsewhere {usual:.4g} mm{missing}"


def _doubled(planes: Sequence[Plane], doubled: NDArray[np.intp]) -> str:
    k = int(doubled[0])
    one, other = planes[k], planes[k + 1]
    names = f"{one.instance.origin} and {other.instance.origin}"
    apart = sorted(set(one.frame.volume) ^ set(other.frame.volume))
    if one.instance.sop_instance_uid == other.instance.sop_instance_uid and one.frame.number == other.frame.number:
        why = f"{names} are the same object"
    elif apart:
        why = f"they differ in {', '.join(apart)}: several volumes in one series"
    else:
        why = names
    count = f"{doubled.size} slices are" if doubled.size > 1 else "a slice is"
    return f"{count} at the place of another, first slices {k} and {k + 1} ({why})"
