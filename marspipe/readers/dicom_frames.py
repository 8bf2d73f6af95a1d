"""Raw frames in DICOM files: one or many frames in a file, or a series of files listed by a series file.

16 and 32-bit unsigned monochrome pixels, uncompressed or RLE. What the attributes mean is not assumed: ``dataset`` in
the manifest names a scanner mapping (see ``dicom_mapping``), and ``angles_rad: {dataset: angle, unit: ...}`` takes the
angles from it. Without a mapping, only the pixels are read.

Orientation: rows and columns are taken as they are stored; see ``orientation`` in the manifest.

Source: DICOM PS3.3 C.7.6.3 (pixels), PS3.5 A.4 and G (encapsulation, RLE), https://www.dicomstandard.org/current
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from marspipe.errors import RawFormatError, panics_are_errors
from marspipe.readers.dicom_mapping import FrameValues, ScannerMapping, frame_values, load_mapping
from marspipe.readers.files import Clamped, guard, place_of, require_credible
from marspipe.readers.frames import Frame, FrameEntry, FrameType, clip_range, file_size, native, read_range
from marspipe.readers.series import index_series, is_series, read_series, read_series_frames, series_angles

SUFFIXES = (".dcm", ".dicom", ".ima")

_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless)
_PIXEL_DATA = 0x7FE00010
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# TransferSyntaxUID (0002,0010) of deflated files, which pydicom unpacks whole before it tells the syntax.
_DEFLATED = b"\x02\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99"
_META_BYTES = 4096
_ANGLE = "angle"


@dataclass(frozen=True)
class _Header:
    """A file's attributes, and where the pixels of each frame lie: (offset, length) in bytes."""

    dataset: Dataset
    syntax: UID
    n_frames: int
    rows: int
    cols: int
    bits_allocated: int
    bits_stored: int
    places: list[tuple[int, int]]


def index(
    file: BinaryIO,
    uri: str,
    first: int = 0,
    count: int | None = None,
    *,
    dataset: str | None = None,
    frame_type: FrameType = "projection",
) -> list[FrameEntry]:
    """List the frames of a file or of a series; pixels are not read.

    Parameters
    ----------
    file : seekable binary file
        The DICOM file or the series file.
    uri : str
        Its name, for the entries and messages.
    first, count : int
        Range of frames; by default all.
    dataset : str, optional
        Scanner mapping: a shipped one, or a YAML file beside the frames.
    frame_type : {"projection", "open_beam", "dark"}
        What the frames are; the file does not tell.

    Raises
    ------
    RawFormatError
        If a file is not DICOM, truncated, of a kind that is not read, or an attribute of the mapping is missing or
        wrong. The message names file and tag.
    """
    mapping = _mapping(file, uri, dataset)
    if is_series(uri):
        return index_series(
            file,
            uri,
            read_series(file, uri),
            first,
            count,
            partial(_index_frames, mapping=mapping),
            counters_told=mapping.counter is not None,
        )
    entries = _index_frames(file, uri, 0 if mapping.counter else first, None if mapping.counter else count, mapping)
    if mapping.counter is None:
        return entries
    n_counters = 1 + max(entry.counter for entry in entries)
    for number, entry in enumerate(entries):
        if entry.counter != number % n_counters or len(entries) % n_counters:
            raise RawFormatError(
                f"{uri}: frame {number} is of counter {entry.counter} by {mapping.counter.label}, expected counter "
                f"{number % n_counters} ({len(entries)} frames, in exposures of {n_counters} counters)"
            )
    wanted = clip_range(first, count, len(entries))
    return [replace(entries[number], exposure_index=number // n_counters) for number in wanted]


def count(file: BinaryIO, uri: str, *, dataset: str | None = None, frame_type: FrameType = "projection") -> int:
    """Return the number of frames of a file or a series; parameters and errors as :func:`index`."""
    if is_series(uri):
        return read_series(file, uri).n_frames
    return _header(file, uri).n_frames


def read(file: BinaryIO, entry: FrameEntry) -> Frame:
    """Return one frame ``[row v, column u]``, native byte order; RawFormatError if it cannot be read."""
    (frame,) = read_many(file, (entry,))
    return frame


def read_many(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    """Yield the frames of many entries of one file or series, in their order.

    Raises
    ------
    RawFormatError
        If the pixels are truncated or cannot be decoded.
    """
    entries = list(entries)
    if entries and entries[0].dataset:
        yield from read_series_frames(file, entries[0].uri.removesuffix(entries[0].dataset) + "series", entries, _read)
    else:
        yield from _read(file, entries)


def read_values(file: BinaryIO, uri: str, dataset: str) -> list[FrameValues]:
    """Return what the attributes say of every frame of a file or series, in the order of the frames.

    Parameters and errors as :func:`index`.
    """
    mapping = _mapping(file, uri, dataset)
    if not is_series(uri):
        return _file_values(file, uri, mapping)
    series, place = read_series(file, uri), place_of(file, uri)
    values = []
    for number in range(series.n_files):
        member, found = place.open(series.name(number), f"{uri}: the series lists")
        with member:
            values += _file_values(member, found.uri, mapping)
    if len(values) != series.n_frames:
        raise RawFormatError(f"{uri}: the files hold {len(values)} frames, expected {series.n_frames}")
    return values


def read_angles(
    file: BinaryIO, uri: str, angles: str, dataset: str | None = None
) -> tuple[NDArray[np.float64], str | None]:
    """Return the angle of every exposure, and its unit.

    Parameters
    ----------
    file : seekable binary file
        The DICOM file or the series file.
    uri : str
        Its name, for messages.
    angles : str
        ``"angle"``: by the scanner mapping; ``"angles"``: as a series file lists them.
    dataset : str, optional
        Scanner mapping, as in :func:`index`.

    Raises
    ------
    RawFormatError
        If an attribute is missing or wrong, or the counters of an exposure differ in their angle.
    """
    if angles != _ANGLE:
        if not is_series(uri):
            raise RawFormatError(f"{uri}: there is no {angles!r}; a DICOM file gives {_ANGLE!r} by a scanner mapping")
        return series_angles(read_series(file, uri), uri, angles)
    source = _mapping(file, uri, dataset).angle
    if dataset is None or source is None:
        raise RawFormatError(f"{uri}: no scanner mapping says where the angle is; name one as dataset")
    values = read_values(file, uri, dataset)
    n_counters = read_series(file, uri).counters if is_series(uri) else 1 + max(v.counter or 0 for v in values)
    table = np.array([value.angle_rad for value in values], dtype=np.float64)
    if table.size % n_counters:
        raise RawFormatError(f"{uri}: {table.size} frames do not divide into exposures of {n_counters} counters")
    table = table.reshape(-1, n_counters)
    differing = np.flatnonzero(np.ptp(table, axis=1))
    if differing.size:
        raise RawFormatError(
            f"{uri}: the counters of exposure {differing[0]} differ in {source.label} (angle): "
            f"{table[differing[0]].min():g} to {table[differing[0]].max():g} rad"
        )
    return (np.rad2deg(table[:, 0]), "deg") if source.unit == "deg" else (table[:, 0], "rad")


def _mapping(file: BinaryIO, uri: str, name: str | None) -> ScannerMapping:
    return ScannerMapping(name="none") if name is None else load_mapping(name, place_of(file, uri))


def _file_values(file: BinaryIO, uri: str, mapping: ScannerMapping) -> list[FrameValues]:
    header = _header(file, uri)
    with guard(uri):
        return [frame_values(header.dataset, mapping, k, header.n_frames, uri) for k in range(header.n_frames)]


def _index_frames(file: BinaryIO, uri: str, first: int, count: int | None, mapping: ScannerMapping) -> list[FrameEntry]:
    header = _header(file, uri)
    entries = []
    for number in clip_range(first, count, header.n_frames):
        with guard(f"{uri}: frame {number}"):
            values = frame_values(header.dataset, mapping, number, header.n_frames, uri)
        offset, length = header.places[number]
        entries.append(
            FrameEntry(
                uri=uri,
                dataset="",
                offset=offset,
                length=length,
                sequence=number,
                exposure_index=number,
                counter=values.counter or 0,
                rows=header.rows,
                cols=header.cols,
                dtype=f"uint{header.bits_allocated}",
                counter_depth_bits=header.bits_stored,
                thresholds_kev=values.thresholds_kev,
                exposure_s=values.exposure_s,
            )
        )
    return entries


def _read(file: BinaryIO, entries: Iterable[FrameEntry]) -> Iterator[Frame]:
    entries = list(entries)
    if not entries:
        return
    header = _header(file, entries[0].uri)
    for entry in entries:
        where = f"{entry.uri}: frame {entry.sequence}"
        if (header.rows, header.cols, f"uint{header.bits_allocated}") != (entry.rows, entry.cols, entry.dtype) or (
            entry.sequence >= header.n_frames
        ):
            raise RawFormatError(
                f"{where} of {entry.rows} x {entry.cols} pixels of {entry.dtype} is not in the file, which has "
                f"{header.n_frames} of {header.rows} x {header.cols} pixels of {header.bits_allocated} bit"
            )
        offset, length = header.places[entry.sequence]
        with guard(where):
            frame = _decode(read_range(file, offset, length), header)
            if header.bits_stored < header.bits_allocated:
                frame = frame & frame.dtype.type(2**header.bits_stored - 1)  # the bits above are not the pixel's
        yield frame


def _decode(raw: bytes, header: _Header) -> Frame:
    if header.syntax != RLELossless:
        order = ">" if header.syntax == ExplicitVRBigEndian else "<"
        stored = np.frombuffer(raw, dtype=f"{order}u{header.bits_allocated // 8}")
        return native(stored.reshape(header.rows, header.cols))
    options: dict[str, Any] = {
        "rows": header.rows,
        "columns": header.cols,
        "samples_per_pixel": 1,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    source = encapsulate([raw], has_bot=False)
    with panics_are_errors():
        frame, _ = get_decoder(RLELossless).as_array(source, index=0, raw=True, **options)
    return native(frame.reshape(header.rows, header.cols))


def _header(file: BinaryIO, uri: str) -> _Header:
    if _DEFLATED in read_range(file, 0, _META_BYTES):
        raise RawFormatError(f"{uri}: TransferSyntaxUID (0002,0010) is that of deflated files, which are not read")
    clamped = Clamped(file)
    with guard(uri), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of attributes that are not needed here
        try:
            dataset = pydicom.dcmread(cast(BinaryIO, clamped), stop_before_pixels=True)
        except InvalidDicomError as error:
            raise RawFormatError(f"{uri}: not a DICOM file: {file_size(file)} bytes without its mark") from error
        here = clamped.tell()
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax not in _SYNTAXES:
            raise RawFormatError(
                f"{uri}: TransferSyntaxUID (0002,0010) is {getattr(syntax, 'name', syntax)}, expected one of "
                f"{', '.join(known.name for known in _SYNTAXES)}"
            )
        rows, cols = _number(dataset, "Rows", uri), _number(dataset, "Columns", uri)
        n_frames = _number(dataset, "NumberOfFrames", uri, 1)
        allocated, stored = _number(dataset, "BitsAllocated", uri), _number(dataset, "BitsStored", uri)
        require_credible(rows, cols, n_frames, uri)
        if n_frames < 1:
            raise RawFormatError(f"{uri}: NumberOfFrames (0028,0008) must be at least 1, got {n_frames}")
        _require_counts(dataset, allocated, stored, uri)
        places = _places(file, here, syntax, uri, n_frames, rows * cols * allocated // 8)
    return _Header(dataset, syntax, n_frames, rows, cols, allocated, stored, places)


def _require_counts(dataset: Dataset, allocated: int, stored: int, uri: str) -> None:
    """Refuse pixels that are not plain counts."""
    if allocated not in (16, 32) or not 1 <= stored <= allocated:
        raise RawFormatError(
            f"{uri}: BitsAllocated (0028,0100) = {allocated}, BitsStored (0028,0101) = {stored}; expected 16 or 32 "
            "allocated, no more stored"
        )
    for keyword, default, expected in (
        ("SamplesPerPixel", 1, 1),
        ("PixelRepresentation", 0, 0),
        ("HighBit", stored - 1, stored - 1),
    ):
        if (found := _number(dataset, keyword, uri, default)) != expected:
            raise RawFormatError(f"{uri}: {keyword} is {found}, expected {expected}")
    rescale = (float(dataset.get("RescaleSlope") or 1.0), float(dataset.get("RescaleIntercept") or 0.0))
    if rescale != (1.0, 0.0):
        raise RawFormatError(
            f"{uri}: RescaleSlope (0028,1053) = {rescale[0]:g}, RescaleIntercept (0028,1052) = {rescale[1]:g}; "
            "expected counts as they are, 1 and 0"
        )


def _number(dataset: Dataset, keyword: str, uri: str, default: int | None = None) -> int:
    value: Any = dataset.get(keyword)
    value = default if value is None else value
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise RawFormatError(f"{uri}: {keyword} must be a whole number, got {value!r}") from error


def _places(file: BinaryIO, here: int, syntax: UID, uri: str, n_frames: int, frame_bytes: int) -> list[tuple[int, int]]:
    """Return offset and length of each frame's pixels, from the pixel element that begins at ``here``."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head, size = read_range(file, here, 12), file_size(file)
    if len(head) < 12 or (struct.unpack(f"{order}HH", head[:4]) != (_PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF)):
        raise RawFormatError(f"{uri}: PixelData (7FE0,0010) is missing; the file has {size} bytes")
    implicit = syntax == ImplicitVRLittleEndian
    start = here + (8 if implicit else 12)
    (length,) = struct.unpack(f"{order}I", head[4:8] if implicit else head[8:12])
    if syntax == RLELossless:
        return _fragments(file, start, length, uri, n_frames, size)
    if length != _UNDEFINED and start + length <= size and length >= n_frames * frame_bytes:
        return [(start + k * frame_bytes, frame_bytes) for k in range(n_frames)]
    raise RawFormatError(
        f"{uri}: PixelData (7FE0,0010) has {min(length, size - start)} bytes, expected {n_frames * frame_bytes} for "
        f"{n_frames} frames"
    )


def _fragments(file: BinaryIO, start: int, length: int, uri: str, n_frames: int, size: int) -> list[tuple[int, int]]:
    if length != _UNDEFINED:
        raise RawFormatError(f"{uri}: PixelData (7FE0,0010) has a length of {length}, expected fragments of RLE")
    places: list[tuple[int, int]] = []
    position = start
    while len(places) <= n_frames + 1:
        head = read_range(file, position, 8)
        group, element, length = struct.unpack("<HHI", head) if len(head) == 8 else (0, 0, 0)
        tag = group << 16 | element
        if tag == _END:
            break
        if tag != _ITEM or position + 8 + length > size:
            raise RawFormatError(
                f"{uri}: PixelData (7FE0,0010) is truncated or damaged at offset {position}, after "
                f"{max(0, len(places) - 1)} of {n_frames} frames"
            )
        places.append((position + 8, length))
        position += 8 + length
    if len(places) != n_frames + 1:  # the first item is the table of offsets
        raise RawFormatError(
            f"{uri}: PixelData (7FE0,0010) has {len(places) - 1} fragments, expected {n_frames} frames"
        )
    return places[1:]
