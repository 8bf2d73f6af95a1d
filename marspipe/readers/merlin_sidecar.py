"""The ``.hdr`` text beside Merlin files: settings of the acquisition that the records themselves do not hold.

Lines ``key:<tab>value`` between ``HDR,`` and ``End``, padded with spaces. The words in parentheses behind a key
(choices, units) differ between versions, so keys are compared without them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from marspipe.errors import RawFormatError

MAX_BYTES = 1 << 16  # real ones have 2048
CHIP_MODES = ("SPM", "CSM", "CM", "CSCM")

_DEPTH = re.compile(r"([0-9]{1,2})B?")
_COUNT = re.compile(r"[0-9]{1,12}")
_LEADING_NUMBER = re.compile(r"\D*?([+-]?[0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class MerlinSidecar:
    """The settings that are of use, and all others as text.

    Attributes
    ----------
    chip_mode : str or None
        ``SPM``, ``CSM``, ``CM`` or ``CSCM``.
    counter_depth_bits : int or None
        1, 6, 12 or 24.
    active_counters : str or None
        Such as ``Counter 0``, ``Both Counters``, ``Alternating``.
    layout : str or None
        Arrangement of the chips without spaces, such as ``2x2``.
    gap_fill : str or None
        How Merlin filled the gaps between chips: ``None`` (the word), ``Zero``, ``Distribute``, ``Interpolate``.
    thresholds_kev : tuple of float
        Thresholds, keV.
    frames, frames_per_trigger : int or None
        Exposures in the acquisition and per trigger.
    acquisition_type : str or None
        ``Normal``, ``Th_scan`` or ``Config``.
    sensor_bias_v : float or None
        Voltage of the sensor, V.
    clock_mhz : float or None
        Clock of the chip, MHz.
    software : str or None
        Version of Merlin.
    fields : mapping of str to str
        All keys, lower case and without parentheses, with their text.
    """

    chip_mode: str | None
    counter_depth_bits: int | None
    active_counters: str | None
    layout: str | None
    gap_fill: str | None
    thresholds_kev: tuple[float, ...]
    frames: int | None
    frames_per_trigger: int | None
    acquisition_type: str | None
    sensor_bias_v: float | None
    clock_mhz: float | None
    software: str | None
    fields: Mapping[str, str]


def parse_sidecar(raw: bytes, uri: str) -> MerlinSidecar:
    """Return the settings of a ``.hdr`` file.

    Parameters
    ----------
    raw : bytes
        The file.
    uri : str
        Its name, for messages.

    Raises
    ------
    RawFormatError
        If it is not such a file, breaks off, doubles a key, or a number, mode or depth cannot be.
    """
    if not raw.startswith(b"HDR,"):
        raise RawFormatError(f"{uri}: not a Merlin .hdr file: it starts with {raw[:8]!r}, expected b'HDR,'")
    if len(raw) > MAX_BYTES:
        raise RawFormatError(f"{uri}: a Merlin .hdr file of {len(raw)} bytes is not credible")
    fields: dict[str, str] = {}
    # Folder names in it may hold any character; latin-1 has one for every byte.
    for line in raw.decode("latin-1").splitlines()[1:]:
        if line.rstrip("\t \0") == "End":
            break
        key, separator, value = line.partition(":\t")
        if not separator:
            if line.strip("\t \0"):
                raise RawFormatError(f"{uri}: a line must be 'key:<tab>value', got {line[:60]!r}")
            continue
        name = key.split("(", 1)[0].strip().lower()
        if name in fields:
            raise RawFormatError(f"{uri}: the key {name!r} is there twice")
        fields[name] = value.strip("\t \0")
    else:
        raise RawFormatError(f"{uri}: the file breaks off, expected a last line 'End'")
    mode = fields.get("chip mode")
    if mode is not None and mode not in CHIP_MODES:
        raise RawFormatError(f"{uri}: the chip mode must be one of {', '.join(CHIP_MODES)}, got {mode!r}")
    layout = fields.get("assembly size")
    return MerlinSidecar(
        chip_mode=mode,
        counter_depth_bits=_depth(fields.get("counter depth"), uri),
        active_counters=fields.get("active counters"),
        layout=None if layout is None else re.sub(r"\s", "", layout).replace("X", "x"),
        gap_fill=fields.get("gap fill mode"),
        thresholds_kev=_thresholds(fields.get("thresholds", ""), uri),
        frames=_count(fields.get("frames in acquisition"), "frames in acquisition", uri),
        frames_per_trigger=_count(fields.get("frames per trigger"), "frames per trigger", uri),
        acquisition_type=fields.get("acquisition type"),
        sensor_bias_v=_leading_number(fields.get("sensor bias")),
        clock_mhz=_leading_number(fields.get("medipix clock")),
        software=fields.get("software version"),
        fields=MappingProxyType(fields),
    )


def _depth(text: str | None, uri: str) -> int | None:
    if text is None:
        return None
    match = _DEPTH.fullmatch(text)
    if match is None or int(match[1]) not in (1, 6, 12, 24):
        raise RawFormatError(f"{uri}: the counter depth must be 1, 6, 12 or 24 bit, got {text!r}")
    return int(match[1])


def _count(text: str | None, name: str, uri: str) -> int | None:
    if text is None:
        return None
    if _COUNT.fullmatch(text) is None:
        raise RawFormatError(f"{uri}: {name} must be a number, got {text!r}")
    return int(text)


def _thresholds(text: str, uri: str) -> tuple[float, ...]:
    found = []
    for part in re.split(r"[,\s]+", text):
        if not part:
            continue
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RawFormatError(f"{uri}: a threshold must be a finite energy in keV, got {part!r}")
        found.append(value)
    return tuple(found)


def _leading_number(text: str | None) -> float | None:
    match = None if text is None else _LEADING_NUMBER.match(text)
    return None if match is None else float(match[1])
