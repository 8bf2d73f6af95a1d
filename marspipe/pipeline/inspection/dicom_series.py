"""A look at DICOM files of any origin: which series there are, what they hold, whether they can be stacked.

Of the patient's data it is said whether there are any, never which.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from marspipe.dicom.foreign.instance import Instance, read_instance
from marspipe.dicom.foreign.series import RESAMPLE_HINT, Series, sort_series
from marspipe.dicom.foreign.volume import SeriesVolume, read_series
from marspipe.errors import InputError
from marspipe.pipeline.inspection.dicom_files import files_below, looks_dicom
from marspipe.store import storage

Line = tuple[str, str]

SAMPLED_SLICES = 16
_MOST_LISTED = 5


class Unread(NamedTuple):
    """A DICOM file that is not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class DicomLook:
    """DICOM files of a folder, or one file.

    Attributes
    ----------
    uri : str
    series : list of Series
    unread : list of Unread
        DICOM files that are damaged or of a kind that is not read, and files that cannot be read at all.
    others : int
        Files that are not DICOM.
    """

    uri: str
    series: list[Series]
    unread: list[Unread]
    others: int

    @classmethod
    def of(cls, uri: str) -> DicomLook:
        """Read the headers of all files below a folder, or of one file.

        Raises
        ------
        InputError
            If there is no DICOM file.
        """
        instances: list[Instance] = []
        unread: list[Unread] = []
        others = 0
        for name, file in files_below(uri):
            try:
                try:
                    instances.append(read_instance(partial(storage.open_input, file), name, warn=False))
                except InputError as error:
                    if looks_dicom(file):
                        unread.append(Unread(name, str(error).removeprefix(f"{name}: ")))
                    else:
                        others += 1
            except OSError as error:  # it has vanished, or may not be read: the others can be looked at
                unread.append(Unread(name, f"cannot be read: {_cause(error)}"))
        if not instances and not unread:
            raise InputError(f"{uri}: there is no DICOM file among {others} files")
        return cls(uri, sort_series(instances), unread, others)

    def choose(self, number: int | None) -> Series:
        """Return a series by its number here, or the only one.

        Raises
        ------
        InputError
            If there is none of this number, or there are several and none is named.
        """
        if number is None and len(self.series) == 1:
            return self.series[0]
        count = len(self.series)
        if number is None or not 0 <= number < count:
            which = f"--series must be 0..{count - 1}" if count else "there is none that can be read"
            raise InputError(f"{self.uri} holds {count} series: {which}")
        return self.series[number]

    def report(self) -> list[Line]:
        """Return all that is to say of the files and their series; pixels of some slices of each are read."""
        n_files = sum(len(series.instances) for series in self.series)
        lines = [("dicom", f"{len(self.series)} series in {n_files} files    {self.uri}")]
        patient = any(instance.has_patient_data for series in self.series for instance in series.instances)
        lines.append(("patient", f"patient data present: {'yes' if patient else 'no'}"))
        if self.others:
            lines.append(("others", f"{self.others} files are not DICOM"))
        lines += [("unread", f"{name}: {reason}") for name, reason in self.unread[:_MOST_LISTED]]
        if len(self.unread) > _MOST_LISTED:
            lines.append(("", f"and {len(self.unread) - _MOST_LISTED} others"))
        for number, series in enumerate(self.series):
            lines += [("", ""), *series_lines(number, series)]
        return lines


def series_lines(number: int, series: Series) -> list[Line]:
    """Return what is to say of one series."""
    first = series.instances[0]
    names = dict.fromkeys(instance.sop_class.name for instance in series.instances)
    title = [first.modality or "no modality", ", ".join(names) or "no SOP class", f"{len(series.instances)} objects"]
    if first.series_number is not None:
        title.append(f"series number {first.series_number}")
    lines = [(f"series {number}", ", ".join([*title, *([first.manufacturer] if first.manufacturer else [])]))]
    if first.own_description:
        lines.append(("", first.own_description))
    kinds = Counter("\\".join(instance.image_type) for instance in series.instances)
    lines.append(("type", ", ".join(kind or "not told" for kind in list(kinds)[:_MOST_LISTED])))
    lines += _energy_lines(first)
    if not series.planes:
        return [*lines, ("image", "none")]
    return [*lines, *_place_lines(series), *_pixel_lines(series), *_judgment(series)]


def _energy_lines(first: Instance) -> list[Line]:
    parts = [first.multi_energy_kind] if first.multi_energy_kind else []
    if first.monoenergetic_kev is not None:
        parts.append(f"{first.monoenergetic_kev:g} keV")
    if first.materials:
        parts.append(f"materials {', '.join(first.materials)}")
    if first.detector_bins_kev:
        bins = ", ".join(f"{low:g}-{high:g} keV" for low, high in first.detector_bins_kev)
        parts.append(f"measured in {bins}")
    return [("energy", "; ".join(parts))] if parts else []


def _place_lines(series: Series) -> list[Line]:
    first, geometry = series.planes[0], series.geometry
    rows, columns = first.instance.shape
    count = f"{len(series.planes)} of {rows} x {columns} px"
    if geometry is None:
        return [("slices", count)]
    apart, down, along = geometry.spacing_mm
    lines = [("slices", f"{count}, {apart:.6g} mm apart, pixels of {down:.6g} x {along:.6g} mm")]
    if first.frame.thickness_mm:
        lines[0] = ("slices", f"{lines[0][1]}, {first.frame.thickness_mm:g} mm thick")
    stated = first.instance.gantry_tilt_deg
    told = "not stated" if stated is None else f"{stated:g} deg as stated"
    tilt = f"tilt {geometry.tilt_deg:.4g} deg by their places, {told}"
    x, y, z = geometry.origin_mm
    lines.append(("planes", f"{geometry.plane}; {tilt}; first pixel at x {x:.6g}, y {y:.6g}, z {z:.6g} mm"))
    return lines


def _pixel_lines(series: Series) -> list[Line]:
    layout = series.planes[0].instance.layout
    assert layout is not None
    syntaxes = Counter(p.instance.layout.syntax.name for p in series.planes if p.instance.layout is not None)
    number = "float" if layout.is_float else "signed" if layout.signed else "unsigned"
    bits = f"{layout.bits_stored} of {layout.bits_allocated} bits, {number}"
    lines = [("pixels", f"{', '.join(syntaxes)}; {bits}")]
    planes = series.planes
    chosen = sorted({round(k) for k in np.linspace(0, len(planes) - 1, min(SAMPLED_SLICES, len(planes)))})
    low, high, total, count, size = np.inf, -np.inf, 0.0, 0, 0
    try:
        for k in chosen:
            values = planes[k].pixels()
            known = values[np.isfinite(values)]
            size += values.size
            if known.size:
                low, high = min(low, float(known.min())), max(high, float(known.max()))
                total, count = total + float(known.sum(dtype=np.float64)), count + known.size
    except (InputError, OSError) as error:
        return [*lines, ("values", f"cannot be read: {_cause(error)}")]
    units = ", ".join(dict.fromkeys(p.frame.line.units for p in planes))
    text = f"{low:.6g} to {high:.6g}, mean {total / count:.6g} {units}" if count else f"none, {units}"
    if count < size:
        text += f"; {100 * (1 - count / size):.3g} % padding"
    if len(chosen) < len(planes):
        text += f"; from {len(chosen)} of {len(planes)} slices, evenly spread"
    return [*lines, ("values", text)]


def _cause(error: Exception) -> str:
    """Return what an error says, without the number and path that an OSError adds."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _judgment(series: Series) -> list[Line]:
    """Return what was repaired, and what is wrong."""
    repairs = Counter(repair for instance in series.instances for repair in instance.repairs)
    lines = [("repaired", f"{repair} ({n} of {len(series.instances)} files)") for repair, n in repairs.items()]
    problems = series.problems
    lines += [("problem", problem.text) for problem in problems]
    if problems and all(problem.is_resampled for problem in problems):
        lines.append(("", f"not stacked as they are; {RESAMPLE_HINT}"))
    return lines


def volume_of(series: Series, *, resample: bool) -> SeriesVolume:
    """Return a series as a volume; see :func:`~marspipe.dicom.foreign.volume.read_series`."""
    return read_series(series.instances, resample=resample)


def series_title(number: int, series: Series) -> str:
    """Return a title without anybody's data."""
    return f"{series.instances[0].modality or 'DICOM'} series {number}"
