"""Write Merlin ``.mib`` and ``.hdr`` files as a Medipix3RX read-out does.

Field by field the header is that of files written by Merlin 0.77: 8 thresholds, one block of 27 DACs per chip, the
``MQ1A`` tail with nanoseconds; 384 bytes for one chip, 768 for four. Nothing depends on the clock or the machine: same
frames, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError, RawFormatError
from marspipe.readers.merlin_assembly import Assembly, chips_of, split_image, split_raw
from marspipe.readers.merlin_old_header import N_DACS, OLD_HEADER_BYTES
from marspipe.simulate.merlin_stream import encode_raw

HEADER_BYTES = 384  # of one chip
HEADER_FILE_BYTES = 2048
N_THRESHOLDS = 8

# Counter depth in bits: pixel type and its big-endian NumPy type.
_PIXELS = {1: ("U08", ">u1"), 6: ("U08", ">u1"), 12: ("U16", ">u2"), 24: ("U32", ">u4")}
_CHIP_BYTES = 112  # that another chip adds to the header: "3RX," and 27 DACs
_HEADER_STEP_BYTES = 128  # headers of several chips are padded to a multiple
_MAX_SIDE_PX = 9999  # four digits in the header
# The 19 DACs behind the 8 threshold DACs: bias currents and voltages of the chip, at mid range.
_BIAS_DACS = (128,) * 19
# Threshold DAC steps per keV: about right for a silicon sensor in super low gain; only the keV values are ever read.
_DAC_PER_KEV = 3.0

HeaderStyle = Literal["full", "bare", "old"]


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
    layout: str = "1x1",
    raw: bool = False,
    header: HeaderStyle = "full",
    first_sequence: int = 1,
) -> int:
    """Write counter images as records of a ``.mib`` file.

    Parameters
    ----------
    file : writable binary file
        Where to write; nothing is sought.
    frames : iterable of ndarray, shape (rows, cols), unsigned integers
        One counter image per item, exposure by exposure, the counter fastest; ``[row v, column u]`` with row 0 at the
        bottom, which is Merlin's own order. All of one shape; of several chips, with their gaps if ``layout`` has a G.
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
    layout : str
        ``1x1``, ``2x2`` or ``Nx1`` with a number for N; with a trailing ``G`` the frames include gap pixels.
    raw : bool
        Whether pixels are written as the read-out stream (R64); one chip or 2x2, 256 columns each, no gaps.
    header : {"full", "bare", "old"}
        ``bare`` leaves out thresholds and DACs, as software 0.67 does in raw files; ``old`` is the 256-byte header
        before ``MQ1``, for whole single chips of 12 or 24 bit.
    first_sequence : int
        Sequence number of the first record; the later files of a set do not begin with 1.

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
    _check(counter_depth_bits, counters_per_exposure, color_mode, thresholds_kev, exposure_s)
    camera = _Camera(
        counter_depth_bits,
        color_mode,
        tuple(thresholds_kev),
        exposure_s,
        start_time,
        layout,
        raw,
        header,
        first_sequence,
    )
    camera.check()
    assembly: Assembly | None = None
    written = 0
    for frame in frames:
        image = np.asarray(frame)
        exposure, counter = divmod(written, counters_per_exposure)
        where = f"exposure {exposure}, counter {counter}"
        if image.ndim != 2 or image.dtype.kind != "u" or not 0 < image.size or max(image.shape) > _MAX_SIDE_PX:
            raise InputError(
                f"{where}: a frame must be two-dimensional, of unsigned integers, 1 to {_MAX_SIDE_PX} pixels a side; "
                f"got shape {image.shape} of {image.dtype}"
            )
        if assembly is None:
            assembly = camera.assembly(image.shape[0], image.shape[1], where)
        if image.shape != (assembly.rows, assembly.cols):
            shape = (assembly.rows, assembly.cols)
            raise InputError(f"{where}: a frame has shape {image.shape}, expected {shape} as the first")
        if int(image.max()) >= 2**counter_depth_bits:
            raise InputError(
                f"{where}: a {counter_depth_bits}-bit counter holds at most {2**counter_depth_bits - 1}, "
                f"but a pixel has {image.max()}"
            )
        file.write(camera.record_header(assembly, first_sequence + written, exposure, counter))
        if raw:
            file.write(encode_raw(image, assembly, counter_depth_bits))
        else:
            file.write(image.astype(_PIXELS[counter_depth_bits][1]).tobytes())
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
    layout: str = "1x1",
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
    counter_depth_bits, counters_per_exposure, color_mode, thresholds_kev, exposure_s, start_time, layout
        As in :func:`write_merlin`.

    Raises
    ------
    InputError
        If a setting is impossible.
    """
    _check(counter_depth_bits, counters_per_exposure, color_mode, thresholds_kev, exposure_s)
    _chips(layout)
    mode = {(False, False): "SPM", (False, True): "CSM", (True, False): "CM", (True, True): "CSCM"}
    both = counters_per_exposure > (4 if color_mode else 1)
    lines = {
        "Time and Date Stamp (day, mnth, yr, hr, min, s)": start_time.strftime("%d/%m/%Y %H:%M:%S"),
        "Chip ID": f"{chip_id}, - , - , - ",
        "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)": "Medipix 3RX",
        "Assembly Size (NX1, 2X2)": f"   {layout.removesuffix('G')}",
        "Chip Mode  (SPM, CSM, CM, CSCM)": mode[color_mode, charge_summing],
        "Counter Depth (number)": str(counter_depth_bits),
        "Gain": "SLGM",
        "Active Counters": "Both Counters" if both else "Counter 0",
        "Thresholds (keV)": _thresholds(thresholds_kev),
        "DACs": f"{_dacs(thresholds_kev)}; ; ; ",
        "Gap Fill Mode": "Zero" if layout.endswith("G") else "None",
        "Flat Field File": "None",
        "Acquisition Type (Normal, Th_scan, Config)": "Normal",
        "Frames in Acquisition (Number)": str(frames),
        "Frames per Trigger (Number)": "1",
        "Software Version": "0.77",
    }
    text = "HDR,\t\r\n" + "".join(f"{key}:\t{value}\r\n" for key, value in lines.items()) + "End\t"
    file.write(text.encode("ascii", "replace").ljust(HEADER_FILE_BYTES))


def assembly_of(
    shape: Sequence[int], layout: str, *, counter_depth_bits: int, color_mode: bool = False, raw: bool = False
) -> Assembly:
    """Return the chips of the images that :func:`write_merlin` would write; InputError if it would not."""
    camera = _Camera(counter_depth_bits, color_mode, (), 1.0, datetime(2000, 1, 1, tzinfo=UTC), layout, raw, "full", 1)
    camera.check()
    return camera.assembly(shape[0], shape[1], f"Merlin layout {layout}")


@dataclass(frozen=True)
class _Camera:
    """What all records of a file have in common."""

    depth: int
    color_mode: bool
    thresholds_kev: tuple[float, ...]
    exposure_s: float
    start_time: datetime
    layout: str
    raw: bool
    header: HeaderStyle
    first_sequence: int

    def check(self) -> None:
        _chips(self.layout)
        if self.header not in ("full", "bare", "old"):
            raise InputError(f"header must be 'full', 'bare' or 'old', got {self.header!r}")
        if self.raw and self.color_mode:
            raise InputError("raw images are not written in color mode")
        if self.header == "old" and (self.raw or self.color_mode or self.layout != "1x1" or self.depth not in (12, 24)):
            raise InputError("an old header is for unpacked images of one chip, 12 or 24 bit, without color mode")
        if not 0 <= self.first_sequence <= 999999:
            raise InputError(f"first_sequence must be 0 to 999999, got {self.first_sequence}")

    def assembly(self, rows: int, cols: int, where: str) -> Assembly:
        """Return the chips of an image; InputError if it does not fit the layout."""
        chips_u, chips_v = _chips(self.layout)
        chips = chips_u * chips_v
        try:
            if not self.raw:
                found = split_image(self.layout, chips, rows, cols, self.color_mode, where)
            else:
                width = chips * cols // chips_u * (2 if self.depth == 24 else 1)
                found = split_raw(self.layout, chips, rows // chips_v, width, self.depth, where)
        except RawFormatError as error:
            raise InputError(str(error)) from error
        if self.header == "old" and (rows, cols) != (256, 256):
            raise InputError(f"{where}: an old header is for images of 256 x 256 pixels, got {rows} x {cols}")
        return found

    def record_header(self, assembly: Assembly, sequence: int, exposure: int, counter: int) -> bytes:
        exposure_ns = round(self.exposure_s * 1e9)
        start = self.start_time if self.start_time.tzinfo is not None else self.start_time.replace(tzinfo=UTC)
        # datetime holds microseconds; the nanoseconds below them are carried beside it.
        microseconds, below = divmod(exposure * exposure_ns, 1000)
        local = start + timedelta(microseconds=microseconds)
        utc = local.astimezone(UTC)
        if self.header == "old":
            return self._old_header(sequence, counter, local)
        rows, cols = assembly.rows, assembly.cols
        if self.raw:
            rows = assembly.chip_rows
            cols = assembly.chips * assembly.chip_cols * (2 if self.depth == 24 else 1)
        longer = HEADER_BYTES + (assembly.chips - 1) * _CHIP_BYTES
        length = -(-longer // _HEADER_STEP_BYTES) * _HEADER_STEP_BYTES
        chip_fields = ["3RX", _dacs(self.thresholds_kev)] * assembly.chips
        fields = [
            "MQ1",
            f"{sequence:06d}",
            f"{length:05d}",
            f"{assembly.chips:02d}",
            f"{cols:04d}",
            f"{rows:04d}",
            "R64" if self.raw else _PIXELS[self.depth][0],
            self.layout.rjust(6) if not self.layout.endswith("G") else self.layout.rjust(7),
            f"{2**assembly.chips - 1:02X}",
            local.strftime("%Y-%m-%d %H:%M:%S.%f"),
            f"{exposure_ns / 1e9:.6f}",
            str(counter),
            str(int(self.color_mode)),
            "0",
            *(["", "MQ1A"] if self.header == "bare" else [_thresholds(self.thresholds_kev), *chip_fields, "MQ1A"]),
            f"{utc:%Y-%m-%dT%H:%M:%S.%f}{below:03d}Z",
            f"{exposure_ns}ns",
            str(self.depth),
            "",
        ]
        text = ",".join(fields)
        if len(text) > length:
            raise InputError(
                f"the header needs {len(text)} bytes, but has {length}: the exposure or the times are too long"
            )
        return text.encode("ascii").ljust(length, b"\0")

    def _old_header(self, sequence: int, counter: int, local: datetime) -> bytes:
        thresholds = (*self.thresholds_kev, 0.0, 0.0)[:2]
        fields = [
            f"{self.depth}B",
            f"{sequence:06d}",
            str(counter),
            local.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
            _scientific(1000.0 * self.exposure_s),
            *map(_scientific, thresholds),
            _dacs(thresholds),
        ]
        return ",".join(fields).encode("ascii").ljust(OLD_HEADER_BYTES, b"\0")


def _chips(layout: str) -> tuple[int, int]:
    """Return the chips of a layout along a row and a column; InputError if it is not written."""
    first, _, second = layout.removesuffix("G").partition("x")
    try:
        return chips_of(layout, int(first) * int(second), "layout")
    except (ValueError, RawFormatError) as error:
        raise InputError(
            f"layout must be 1x1, 2x2 or Nx1 with a number N, with or without G, got {layout!r}"
        ) from error


def _check(depth: int, counters: int, color_mode: bool, thresholds_kev: Sequence[float], exposure_s: float) -> None:
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


def _thresholds(thresholds_kev: Sequence[float]) -> str:
    padded = [*thresholds_kev, *([0.0] * (N_THRESHOLDS - len(thresholds_kev)))]
    return ",".join(map(_scientific, padded))


def _scientific(value: float) -> str:
    """Return a number as Merlin writes it: ``2.000000E+1``, the exponent without leading zeros."""
    mantissa, _, exponent = f"{value:.6E}".partition("E")
    return f"{mantissa}E{int(exponent):+d}"


def _dacs(thresholds_kev: Sequence[float]) -> str:
    steps = [min(511, round(_DAC_PER_KEV * t)) for t in thresholds_kev]
    steps += [0] * (N_DACS - len(_BIAS_DACS) - len(steps))
    return ",".join(f"{dac:03d}" for dac in (*steps, *_BIAS_DACS))
