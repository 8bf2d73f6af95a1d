"""A series of single files as one scan: a small YAML or JSON file beside them lists them and says what they lack.

The manifest names the series file where it would name a raw file::

    marspipe_series: 1
    files: {pattern: "raw_#####.tiff", first: 0, count: 91}    # or a list of names
    frames_per_file: 1
    counters: 1
    angles: {unit: deg, values: [-88.2, -86.2]}
    heights: {unit: mm, values: [0.0, 0.5]}
    exposure_s: 0.3

Frames follow each other exposure by exposure, the counters of an exposure in order. Files lie in the folder of the
series file or below it. Only the files that are asked for are opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Annotated, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from marspipe.errors import RawFormatError
from marspipe.readers.files import MAX_FRAMES, place_of
from marspipe.readers.frames import Frame, FrameEntry, clip_range, file_size, read_range
from marspipe.strict import StrictModel, load_yaml, validate

SUFFIXES = (".yaml", ".yml", ".json")

_LARGEST_BYTES = 64 << 20
_PLACE = re.compile("#+")

IndexOne = Callable[[BinaryIO, str, int, int | None], list[FrameEntry]]
ReadOne = Callable[[BinaryIO, Iterable[FrameEntry]], Iterator[Frame]]


class NumberedFiles(StrictModel):
    """Names with a running number."""

    pattern: str = Field(description="Name with one run of #, the digits of the number.")
    first: int = Field(0, ge=0, description="Number of the first file.")
    step: int = Field(1, ge=1, description="From one file to the next.")
    count: int = Field(ge=1, le=MAX_FRAMES, description="Number of files.")

    @field_validator("pattern")
    @classmethod
    def _one_number(cls, value: str) -> str:
        if len(_PLACE.findall(value)) != 1:
            raise ValueError(f"pattern must have one run of #, such as raw_#####.tiff, got {value!r}")
        return value

    def name(self, number: int) -> str:
        """Return the name of a file of the series, from 0."""
        return _PLACE.sub(lambda run: str(self.first + number * self.step).zfill(len(run[0])), self.pattern)


class SeriesAngles(StrictModel):
    """Angles of the exposures."""

    unit: Literal["deg", "rad"]
    values: tuple[float, ...] = Field(min_length=1)


class SeriesHeights(StrictModel):
    """Heights of the sample in the exposures."""

    unit: Literal["mm", "um", "cm", "m"]
    values: tuple[float, ...] = Field(min_length=1)


class Series(StrictModel):
    """A series file."""

    marspipe_series: Literal[1] = Field(description="Version of the format.")
    files: NumberedFiles | Annotated[tuple[str, ...], Field(min_length=1)]
    frames_per_file: int = Field(1, ge=1, le=MAX_FRAMES)
    counters: int = Field(1, ge=1, le=64, description="Counters of an exposure; its frames follow each other.")
    angles: SeriesAngles | None = None
    heights: SeriesHeights | None = None
    exposure_s: float | None = Field(None, gt=0)
    thresholds_kev: tuple[float, ...] = ()

    @property
    def n_files(self) -> int:
        """Number of files."""
        return self.files.count if isinstance(self.files, NumberedFiles) else len(self.files)

    @property
    def n_frames(self) -> int:
        """Number of frames (counter images)."""
        return self.n_files * self.frames_per_file

    def name(self, number: int) -> str:
        """Return the name of a file, from 0."""
        return self.files.name(number) if isinstance(self.files, NumberedFiles) else self.files[number]


def is_series(uri: str) -> bool:
    """Tell whether a name is that of a series file."""
    return uri.lower().endswith(SUFFIXES)


def read_series(file: BinaryIO, uri: str) -> Series:
    """Return a series file; RawFormatError naming key and value if it is wrong."""
    size = file_size(file)
    if size > _LARGEST_BYTES:
        raise RawFormatError(f"{uri}: a series file of {size} bytes is not credible, expected at most {_LARGEST_BYTES}")
    try:
        content = read_range(file, 0, size).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RawFormatError(f"{uri}: not a text file") from error
    series = validate(load_yaml(content, uri, RawFormatError, "series file"), uri, Series, RawFormatError)
    if series.n_frames > MAX_FRAMES or series.n_frames % series.counters:
        raise RawFormatError(
            f"{uri}: {series.n_files} files of {series.frames_per_file} frames must be at most {MAX_FRAMES} frames and "
            f"divide into exposures of {series.counters} counters"
        )
    return series


def series_angles(series: Series, uri: str, name: str) -> tuple[NDArray[np.float64], str]:
    """Return the angles or heights of a series and their unit; ``name`` is ``angles`` or ``heights``."""
    listed = {"angles": series.angles, "heights": series.heights}.get(name)
    if listed is None:
        raise RawFormatError(
            f"{uri}: there is no {name!r}; a series file gives its angles as angles: {{unit, values}}, its heights as "
            "heights: {unit, values}"
        )
    return np.array(listed.values, dtype=np.float64), listed.unit


def index_series(
    file: BinaryIO,
    uri: str,
    series: Series,
    first: int,
    count: int | None,
    index_one: IndexOne,
    *,
    counters_told: bool = False,
) -> list[FrameEntry]:
    """List frames of a series; only the files that hold them are opened.

    With ``counters_told``, the files say which counter a frame is of, and must agree with the series.

    Raises
    ------
    RawFormatError
        If a file is missing, outside the folder, holds another number of frames than the series says, or frames of
        another shape.
    """
    place, per_file = place_of(file, uri), series.frames_per_file
    entries: list[FrameEntry] = []
    for number, run in groupby(clip_range(first, count, series.n_frames), key=lambda frame: frame // per_file):
        frames = list(run)
        name = series.name(number)
        member, member_place = place.open(name, f"{uri}: the series lists")
        with member:
            # One more than wanted at the file's end, to see that it holds no more.
            start, stop = frames[0] - number * per_file, frames[-1] + 1 - number * per_file
            found = index_one(member, member_place.uri, start, len(frames) + (stop == per_file))
        if len(found) != len(frames):
            raise RawFormatError(f"{member_place.uri}: the file does not hold {per_file} frames, as {uri} says")
        for frame, entry in zip(frames, found, strict=True):
            exposure, counter = divmod(frame, series.counters)
            if counters_told and entry.counter != counter:
                raise RawFormatError(
                    f"{member_place.uri}: frame {entry.sequence} is of counter {entry.counter}, expected counter "
                    f"{counter} of exposure {exposure} of {uri}"
                )
            entries.append(
                replace(
                    entry,
                    dataset=name,
                    exposure_index=exposure,
                    counter=counter,
                    thresholds_kev=entry.thresholds_kev or series.thresholds_kev,
                    exposure_s=entry.exposure_s if series.exposure_s is None else series.exposure_s,
                )
            )
            if _form(entries[-1]) != _form(entries[0]):
                raise RawFormatError(
                    f"{member_place.uri}: frames are {_form(entries[-1])}, expected {_form(entries[0])} as in "
                    f"{entries[0].uri}"
                )
    return entries


def read_series_frames(file: BinaryIO, uri: str, entries: Iterable[FrameEntry], read_one: ReadOne) -> Iterator[Frame]:
    """Yield the frames of a series in the order of their entries; ``uri`` is that of the series file."""
    place = place_of(file, uri)
    for name, run in groupby(entries, key=lambda entry: entry.dataset):
        member, _ = place.open(name, f"{uri}: the series lists")
        with member:
            yield from read_one(member, run)


def _form(entry: FrameEntry) -> str:
    return f"{entry.rows} x {entry.cols} pixels of {entry.dtype}"
