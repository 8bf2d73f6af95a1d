"""Write Merlin ``.mib`` and ``.hdr`` files as a single-chip Medipix3RX read-out does.

Field by field the header is that of files written by Merlin 0.77: 384 bytes, 8 thresholds, one block of 27 DACs, the
``MQ1A`` tail with nanoseconds. Nothing depends on the clock or the machine: same frames, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError

HEADER_BYTES = 384
HEADER_FILE_BYTES = 2048
N_THRESHOLDS = 8

# Counter depth in bits: pixel type and its big-endian NumPy type.
_PIXELS = {1: ("U08", ">u1"), 6: ("U08", ">u1"), 12: ("U16", ">u2"), 24: ("U32", ">u4")}
_MAX_SIDE_PX = 9999  # four digits in the header
# The 19 DACs behind the 8 threshold DACs: bias currents and voltages of the chip, at mid range.
_BIAS_DACS = (128,) * 19
# Threshold DAC steps per keV: about right for a silicon sensor in super low gain; only the keV values are ever read.
_DAC_PER_KEV = 3.0


def write_merlin(
    file: BinaryIO,
    frames: Iterable[NDArray[Any]],
    *,
    counter_depth_bits: int,
    counters_per_exposure: int = 1,
    color_mode: bool = False,
    thresholds_kev: Sequence[float],
    exposure_s: float,
    start_time: datetime,
    chips: int = 1,
) -> int:
    """Write counter images as records of a ``.mib`` file.

    Parameters
    ----------
    file : writable binary file
        Where to write; nothing is sought.
    frames : iterable of ndarray, shape (rows, cols), unsigned integers
        One counter image per item, exposure by exposure, the counter fastest; ``[row v, column u]`` with row 0 at the
        bottom, which is Merlin's own order. All of one shape.
    counter_depth_bits : {1, 6, 12, 24}
        Counter depth; a pixel may hold ``0 .. 2**depth - 1``.
    counters_per_exposure : int
        1 or 2, up to 8 in color mode.
    color_mode : bool
        Whether 2 x 2 pixels share their counters.
    thresholds_kev : sequence of float
        Threshold of each counter, keV; at most 8.
    exposure_s : float
        Shutter time, s; the next exposure starts when it ends.
    start_time : datetime
        Start of the first exposure; UTC if it has no time zone.
    chips : int
        Number of chips; 1.

    Returns
    -------
    int
        Counter images written.

    Raises
    ------
    InputError
        If a setting is impossible, a frame has another shape or a value the counter cannot hold, or the last exposure
        lacks counters.
    """
    pixel_type, stored = _check(
        counter_depth_bits, counters_per_exposure, color_mode, thresholds_kev, exposure_s, chips
    )
    largest = 2**counter_depth_bits - 1
    exposure_ns = round(exposure_s * 1e9)
    shape: tuple[int, ...] | None = None
    written = 0
    for frame in frames:
        image = np.asarray(frame)
        exposure, counter = divmod(written, counters_per_exposure)
        where = f"exposure {exposure}, counter {counter}"
        shape = image.shape if shape is None else shape
        if image.ndim != 2 or image.dtype.kind != "u" or not 0 < image.size or max(image.shape) > _MAX_SIDE_PX:
            raise InputError(
                f"{where}: a frame must be two-dimensional, of unsigned integers, 1 to {_MAX_SIDE_PX} pixels a side; "
                f"got shape {image.shape} of {image.dtype}"
            )
        if image.shape != shape:
            raise InputError(f"{where}: a frame has shape {image.shape}, expected {shape} as the first")
        if int(image.max()) > largest:
            raise InputError(
                f"{where}: a {counter_depth_bits}-bit counter holds at most {largest}, but a pixel has {image.max()}"
            )
        header = _header(
            written + 1,
            image.shape,
            pixel_type,
            start_time,
            exposure * exposure_ns,
            exposure_ns,
            counter,
            color_mode,
            thresholds_kev,
            counter_depth_bits,
        )
        file.write(header)
        file.write(image.astype(stored).tobytes())
        written += 1
    if written % counters_per_exposure:
        raise InputError(
            f"{written} frames do not divide into exposures of {counters_per_exposure} counters: the last is incomplete"
        )
    return written


def write_merlin_header_file(
    file: BinaryIO,
    *,
    frames: int,
    counter_depth_bits: int,
    counters_per_exposure: int = 1,
    color_mode: bool = False,
    charge_summing: bool = False,
    thresholds_kev: Sequence[float],
    exposure_s: float,
    start_time: datetime,
    chip_id: str = "SIMULATED",
) -> None:
    """Write the ``.hdr`` text that goes with a ``.mib`` file.

    Parameters
    ----------
    file : writable binary file
        Where to write.
    frames : int
        Exposures in the acquisition.
    charge_summing : bool
        Whether the chip mode is CSM (CSCM in color mode) instead of SPM (CM).
    chip_id : str
        Name of the chip.
    counter_depth_bits, counters_per_exposure, color_mode, thresholds_kev, exposure_s, start_time
        As in :func:`write_merlin`.

    Raises
    ------
    InputError
        If a setting is impossible.
    """
    _check(counter_depth_bits, counters_per_exposure, color_mode, thresholds_kev, exposure_s, 1)
    mode = {(False, False): "SPM", (False, True): "CSM", (True, False): "CM", (True, True): "CSCM"}
    both = counters_per_exposure > (4 if color_mode else 1)
    lines = {
        "Time and Date Stamp (day, mnth, yr, hr, min, s)": start_time.strftime("%d/%m/%Y %H:%M:%S"),
        "Chip ID": f"{chip_id}, - , - , - ",
        "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)": "Medipix 3RX",
        "Assembly Size (NX1, 2X2)": "   1x1",
        "Chip Mode  (SPM, CSM, CM, CSCM)": mode[color_mode, charge_summing],
        "Counter Depth (number)": str(counter_depth_bits),
        "Gain": "SLGM",
        "Active Counters": "Both Counters" if both else "Counter 0",
        "Thresholds (keV)": _thresholds(thresholds_kev),
        "DACs": f"{_dacs(thresholds_kev)}; ; ; ",
        "Gap Fill Mode": "None",
        "Flat Field File": "None",
        "Acquisition Type (Normal, Th_scan, Config)": "Normal",
        "Frames in Acquisition (Number)": str(frames),
        "Frames per Trigger (Number)": "1",
        "Software Version": "0.77",
    }
    text = "HDR,\t\r\n" + "".join(f"{key}:\t{value}\r\n" for key, value in lines.items()) + "End\t"
    file.write(text.encode("ascii", "replace").ljust(HEADER_FILE_BYTES))


def _check(
    depth: int, counters: int, color_mode: bool, thresholds_kev: Sequence[float], exposure_s: float, chips: int
) -> tuple[str, str]:
    if chips != 1:
        raise InputError(f"only single-chip files are written, got chips={chips}")
    if depth not in _PIXELS:
        raise InputError(f"counter_depth_bits must be 1, 6, 12 or 24, got {depth}")
    most = N_THRESHOLDS if color_mode else 2
    if not 1 <= counters <= most:
        mode = "in color mode" if color_mode else "without color mode"
        raise InputError(f"counters_per_exposure must be 1 to {most} {mode}, got {counters}")
    if len(thresholds_kev) > N_THRESHOLDS or not all(math.isfinite(t) and t >= 0 for t in thresholds_kev):
        raise InputError(
            f"thresholds_kev must be at most {N_THRESHOLDS} finite energies in keV, got {list(thresholds_kev)}"
        )
    if not (math.isfinite(exposure_s) and exposure_s >= 1e-9):
        raise InputError(f"exposure_s must be positive and at least 1 ns, got {exposure_s} s")
    return _PIXELS[depth]


def _header(
    sequence: int,
    shape: tuple[int, ...],
    pixel_type: str,
    start_time: datetime,
    since_start_ns: int,
    exposure_ns: int,
    counter: int,
    color_mode: bool,
    thresholds_kev: Sequence[float],
    depth: int,
) -> bytes:
    if start_time.tzinfo is None:
        start_time = start_time.replace(tzinfo=UTC)
    # datetime holds microseconds; the nanoseconds below them are carried beside it.
    microseconds, below = divmod(since_start_ns, 1000)
    local = start_time + timedelta(microseconds=microseconds)
    utc = local.astimezone(UTC)
    fields = [
        "MQ1",
        f"{sequence:06d}",
        f"{HEADER_BYTES:05d}",
        "01",
        f"{shape[1]:04d}",
        f"{shape[0]:04d}",
        pixel_type,
        "   1x1",
        "01",
        local.strftime("%Y-%m-%d %H:%M:%S.%f"),
        f"{exposure_ns / 1e9:.6f}",
        str(counter),
        str(int(color_mode)),
        "0",
        _thresholds(thresholds_kev),
        "3RX",
        _dacs(thresholds_kev),
        "MQ1A",
        f"{utc:%Y-%m-%dT%H:%M:%S.%f}{below:03d}Z",
        f"{exposure_ns}ns",
        str(depth),
        "",
    ]
    return ",".join(fields).encode("ascii").ljust(HEADER_BYTES, b"\0")


def _thresholds(thresholds_kev: Sequence[float]) -> str:
    padded = [*thresholds_kev, *([0.0] * (N_THRESHOLDS - len(thresholds_kev)))]
    return ",".join(map(_scientific, padded))


def _scientific(value: float) -> str:
    """Return a number as Merlin writes it: ``2.000000E+1``, the exponent without leading zeros."""
    mantissa, _, exponent = f"{value:.6E}".partition("E")
    return f"{mantissa}E{int(exponent):+d}"


def _dacs(thresholds_kev: Sequence[float]) -> str:
    steps = [min(511, round(_DAC_PER_KEV * t)) for t in thresholds_kev]
    steps += [0] * (N_THRESHOLDS - len(steps))
    return ",".join(f"{dac:03d}" for dac in (*steps, *_BIAS_DACS))
