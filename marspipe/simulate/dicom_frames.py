"""A simulated scan as multi-frame DICOM files whose attributes ``conf/scanners/example.yaml`` maps.

Written byte by byte (explicit VR, little endian), as Multi-frame Grayscale Word Secondary Capture: no standard object
holds raw counts of energy bins.

Source: DICOM PS3.5 7.1, A.2, G (run lengths), PS3.10 7.1, https://www.dicomstandard.org/current
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.simulate.acquisition import Acquisition
from marspipe.simulate.manifest_entries import manifest_heights
from marspipe.simulate.parts import Part, Stream

MAPPING = "example"
CREATOR = "MARSPIPE EXAMPLE"

_STORAGE = "1.2.840.10008.5.1.4.1.1.7.3"
_EXPLICIT, _RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
_LONG = {"OB", "OW", "SQ", "UN", "UT"}
_UNDEFINED = 0xFFFFFFFF


def write_dicom(
    directory: Path, acquisition: Acquisition, report: Callable[[], None], *, run_lengths: bool = False
) -> list[dict[str, Any]]:
    """Write what is taken at one camera position, frame by frame; equal settings give equal bytes.

    The counters of an exposure follow each other.

    Parameters
    ----------
    directory : Path
        Where; must exist. Receives one file for each kind of frames.
    acquisition : Acquisition
        The scan.
    report : callable
        Called after every exposure.
    run_lengths : bool
        Compress the pixels (RLE Lossless).

    Returns
    -------
    list of dict
        The ``files`` of a scan manifest.

    Raises
    ------
    InputError
        If uncompressed pixels exceed the 4 GiB that DICOM can say.
    """
    settings = acquisition.settings
    rows, cols = settings.detector_shape
    n_counters = len(settings.counters)
    bits = 16 if settings.counter_depth_bits <= 16 else 32
    entries = []
    for part in acquisition.parts:
        name = f"{acquisition.prefix}{part.name}"
        nbytes = part.count * n_counters * rows * cols * bits // 8
        if nbytes >= _UNDEFINED - 1 and not run_lengths:
            raise InputError(f"{name}.dcm: {nbytes} bytes of pixels are more than the 4 GiB that DICOM can say")
        with (directory / f"{name}.dcm").open("wb") as file:
            file.write(_header(acquisition, name, part, bits, _RLE if run_lengths else _EXPLICIT))
            file.write(_element(0x7FE0, 0x0010, "OW", b"", _UNDEFINED if run_lengths else nbytes + nbytes % 2))
            if run_lengths:
                file.write(_item(b""))
            for counters in acquisition.frames_of(part):
                for frame in counters:
                    stored = frame.astype(f"<u{bits // 8}")
                    file.write(_item(_rle(stored)) if run_lengths else stored.tobytes())
                report()
            if run_lengths:
                file.write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
        entry = {"path": f"{name}.dcm", "reader": "dicom", "dataset": MAPPING, **part.keys}
        if part.stream is Stream.PROJECTION:
            entry |= {"angles_rad": {"dataset": "angle", "unit": "deg"}, **manifest_heights(settings)}
        entries.append(entry)
    return entries


def _header(acquisition: Acquisition, name: str, part: Part, bits: int, syntax: str) -> bytes:
    """Return all before the pixels."""
    settings = acquisition.settings
    uid = _uid(settings.scan_id, str(settings.seed), name, syntax)
    meta = b"".join(
        (
            _element(0x0002, 0x0001, "OB", b"\0\1"),
            _element(0x0002, 0x0002, "UI", _uid_text(_STORAGE)),
            _element(0x0002, 0x0003, "UI", _uid_text(uid)),
            _element(0x0002, 0x0010, "UI", _uid_text(syntax)),
            _element(0x0002, 0x0012, "UI", _uid_text(_uid("marspipe"))),
        )
    )
    n_counters = len(settings.counters)
    angles, heights = np.zeros(part.count), np.zeros(part.count)
    if part.stream is Stream.PROJECTION:
        angles, heights = np.rad2deg(acquisition.geometry.angles_rad), settings.heights_mm()
    groups = b"".join(
        _item(_frame_group(float(angles[exposure]), float(heights[exposure]), part.start_of(exposure), counter))
        for exposure in range(part.count)
        for counter in range(n_counters)
    )
    thresholds = struct.pack(f"<{n_counters}d", *(counter.threshold_kev for counter in settings.counters))
    rows, cols = settings.detector_shape
    position_v, position_u = settings.camera_positions_mm[acquisition.tile]
    dataset = (
        _element(0x0008, 0x0016, "UI", _uid_text(_STORAGE)),
        _element(0x0008, 0x0018, "UI", _uid_text(uid)),
        _element(0x0008, 0x0060, "CS", b"OT"),
        _element(0x0010, 0x0020, "LO", _text(settings.scan_id[:64])),
        _element(0x0018, 0x9328, "FD", struct.pack("<d", 1e3 * part.exposure_s)),
        _element(0x0019, 0x0010, "LO", _text(CREATOR)),
        _element(0x0019, 0x1001, "FD", struct.pack("<d", 1e3 * position_u)),  # um
        _element(0x0019, 0x1002, "FD", struct.pack("<d", 1e3 * position_v)),
        _element(0x0019, 0x1003, "FD", thresholds),
        _element(0x0020, 0x000D, "UI", _uid_text(_uid(settings.scan_id, "study"))),
        _element(0x0020, 0x000E, "UI", _uid_text(_uid(settings.scan_id, "series"))),
        _element(0x0028, 0x0002, "US", struct.pack("<H", 1)),
        _element(0x0028, 0x0004, "CS", _text("MONOCHROME2")),
        _element(0x0028, 0x0008, "IS", _text(str(part.count * n_counters))),
        _element(0x0028, 0x0010, "US", struct.pack("<H", rows)),
        _element(0x0028, 0x0011, "US", struct.pack("<H", cols)),
        _element(0x0028, 0x0100, "US", struct.pack("<H", bits)),
        _element(0x0028, 0x0101, "US", struct.pack("<H", settings.counter_depth_bits)),
        _element(0x0028, 0x0102, "US", struct.pack("<H", settings.counter_depth_bits - 1)),
        _element(0x0028, 0x0103, "US", struct.pack("<H", 0)),
        _element(0x5200, 0x9230, "SQ", groups),
    )
    length = _element(0x0002, 0x0000, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + b"".join(dataset)


def _frame_group(angle_deg: float, height_mm: float, start: datetime, counter: int) -> bytes:
    started = _element(0x0018, 0x9074, "DT", _text(start.strftime("%Y%m%d%H%M%S.%f%z")))  # FrameAcquisitionDateTime
    return b"".join(
        (
            _element(0x0018, 0x1130, "DS", _text(f"{height_mm:.10g}")),
            _element(0x0018, 0x1510, "DS", _text(f"{angle_deg:.10g}")),
            _element(0x0019, 0x0010, "LO", _text(CREATOR)),
            _element(0x0019, 0x1004, "US", struct.pack("<H", counter)),
            _element(0x0020, 0x9111, "SQ", _item(started)),  # FrameContentSequence
        )
    )


def _rle(frame: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Return a frame as run lengths: one segment per byte of the pixel, the highest byte first."""
    planes = frame.view(np.uint8).reshape(*frame.shape, frame.itemsize)
    segments = [_padded(_pack(planes[:, :, k])) for k in reversed(range(frame.itemsize))]
    offsets = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    head = struct.pack("<16I", len(segments), *offsets, *(0,) * (15 - len(segments)))
    return head + b"".join(segments)


def _pack(plane: NDArray[np.uint8]) -> bytes:
    packed = bytearray()
    for row in plane:  # a run does not cross a row
        literal = bytearray()
        for value, run in groupby(row.tolist()):
            length = len(list(run))
            while length >= 3:
                _flush(packed, literal)
                part = min(length, 128)
                packed += bytes((257 - part, value))
                length -= part
            literal += bytes((value,)) * length
        _flush(packed, literal)
    return bytes(packed)


def _flush(packed: bytearray, literal: bytearray) -> None:
    for start in range(0, len(literal), 128):
        part = literal[start : start + 128]
        packed += bytes((len(part) - 1,)) + part
    literal.clear()


def _element(group: int, element: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    form = "<HH2s2xI" if vr in _LONG else "<HH2sH"
    return struct.pack(form, group, element, vr.encode(), size) + value


def _item(value: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def _padded(value: bytes, by: bytes = b"\0") -> bytes:
    return value + by * (len(value) % 2)


def _text(value: str) -> bytes:
    return _padded(value.encode("ascii"), b" ")


def _uid_text(value: str) -> bytes:
    return _padded(value.encode("ascii"))


def _uid(*parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
