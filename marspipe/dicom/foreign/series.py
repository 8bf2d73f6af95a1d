"""Which objects make a series, in which order, and whether their slices may be stacked.

Slices are ordered by their position along the normal of their planes; Instance Number says nothing about the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

from marspipe.dicom.foreign.geometry import Plane, SeriesGeometry, geometry_of, normal_of
from marspipe.dicom.foreign.instance import Instance
from marspipe.dicom.foreign.problems import Problem, differing, misplaced, unreadable
from marspipe.errors import InputError

RESAMPLE_HINT = "--resample makes it a regular volume"


class Series:
    """The objects of one series.

    Parameters
    ----------
    instances : sequence of Instance
    """

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.instances = tuple(instances)

    def __repr__(self) -> str:
        return f"Series({len(self.instances)} objects, {len(self.planes)} slices)"

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """All frames; in the order of their places where these are known."""
        planes = [Plane(instance, frame) for instance in self.instances for frame in instance.frames]
        normal = normal_of(planes)
        if normal is None:
            return tuple(planes)
        x, y, z = (float(v) for v in normal)

        def height(plane: Plane) -> float:
            at = plane.frame.position_mm or (0.0, 0.0, 0.0)
            return at[0] * x + at[1] * y + at[2] * z

        return tuple(sorted(planes, key=height))

    @cached_property
    def geometry(self) -> SeriesGeometry | None:
        """How the slices lie; None if they do not belong together or their places are not known."""
        return None if not self.planes or differing(self.planes) else geometry_of(self.planes)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that forbids to stack the slices as they are."""
        found = [*unreadable(self.instances, self.planes), *differing(self.planes)]
        if self.geometry is not None:
            found += misplaced(self.planes, self.geometry)
        return tuple(found)


def sort_series(instances: Iterable[Instance]) -> list[Series]:
    """Return the series that objects belong to, by Series Instance UID, in the order of their numbers.

    Parameters
    ----------
    instances : iterable of Instance
        In any order, of any number of studies.
    """
    held: dict[tuple[str, str], list[Instance]] = {}
    for instance in instances:
        held.setdefault((instance.study_uid, instance.series_uid), []).append(instance)

    def place(item: tuple[tuple[str, str], list[Instance]]) -> tuple[str, float, str]:
        (study, series), found = item
        number = found[0].series_number
        return study, math.inf if number is None else number, series

    return [Series(found) for _, found in sorted(held.items(), key=place)]


def check_series(instances: Sequence[Instance]) -> list[str]:
    """Return in words what forbids to stack the slices of one series; nothing if they can be stacked.

    Parameters
    ----------
    instances : sequence of Instance
        Of one series, in any order.
    """
    return [problem.text for problem in Series(instances).problems]


def series_geometry(instances: Sequence[Instance], *, resample: bool = False) -> SeriesGeometry:
    """Return how the slices of one series lie.

    Parameters
    ----------
    instances : sequence of Instance
        Of one series, in any order.
    resample : bool
        Whether uneven spacing, tilt and oblique slices are accepted, to be resampled.

    Raises
    ------
    InputError
        If the slices may not be stacked; the sentence says why, and whether resampling helps.
    """
    return require_stack(Series(instances), resample=resample)


def require_stack(series: Series, *, resample: bool = False) -> SeriesGeometry:
    """Return the geometry of a series; parameters and errors as :func:`series_geometry`."""
    problems = [p for p in series.problems if not (resample and p.is_resampled)]
    geometry = series.geometry
    if problems or geometry is None:
        reasons = "; ".join(problem.text for problem in problems) or "the places of its slices are not known"
        hint = f"; {RESAMPLE_HINT}" if problems and all(p.is_resampled for p in problems) else ""
        raise InputError(f"{_name(series)} cannot be stacked: {reasons}{hint}")
    return geometry


def _name(series: Series) -> str:
    if not series.instances:
        return "a series without objects"
    others = f" and {len(series.instances) - 1} others" if len(series.instances) > 1 else ""
    return f"the series of {series.instances[0].origin}{others}"
