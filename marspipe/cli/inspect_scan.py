"""What ``marspipe inspect`` says and draws of a raw scan or a frames table."""

from __future__ import annotations

import io
from typing import BinaryIO, Protocol

import click
import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.pipeline.inspection.look import Look, empty_fractions, survey_counts
from marspipe.pipeline.inspection.steps import (
    DESCRIPTIONS,
    FLAG_REASONS,
    StepLook,
    frame_name,
    require_counter,
    require_step,
)
from marspipe.scan.geometry import ScanGeometry
from marspipe.show.flags_picture import write_flags_picture
from marspipe.show.frame_picture import write_frame_picture
from marspipe.show.scan_report import (
    acquired_line,
    count_lines,
    counter_line,
    empty_lines,
    exposure_line,
    height_line,
    position_lines,
    tally_lines,
)
from marspipe.show.step_picture import write_step_picture
from marspipe.show.stitch_picture import write_stitch_picture
from marspipe.show.view_angles import angle_lines, survey_angles
from marspipe.store import storage

Line = tuple[str, str]


def say(lines: list[Line]) -> None:
    """Print lines of a name and a text."""
    for name, text in lines:
        click.echo(f"{name:<10} {text}".rstrip())


class _Writes(Protocol):
    def __call__(self, target: BinaryIO) -> None: ...


def write_picture(uri: str, write: _Writes, name: str = "picture") -> None:
    """Write what a function draws into a file, and say so."""
    page = io.BytesIO()
    write(page)
    storage.write_bytes(uri, page.getvalue(), overwrite=True)
    say([(name, uri)])


def report(look: Look, steps: StepLook) -> list[Line]:
    """Return all that is to say of a scan."""
    measured, tallies = look.measured, look.tallies()
    sample = look.sample()
    exposures: dict[str, int] = {}
    for tally in tallies:
        if tally.counter == 0:
            exposures[tally.frame_type] = exposures.get(tally.frame_type, 0) + tally.frames
    bins = list(steps.bins)
    projections = sample.get("projection", [])
    empty = empty_fractions(projections, bins) if projections else np.zeros(len(bins))
    return [
        *_tube_lines(look),
        *geometry_lines(look.geometry),
        *position_lines(measured.camera.positions_mm, measured.geometry.detector_shape),
        *angle_lines(survey_angles(look.geometry.angles_rad, look.sample_z_mm)),
        height_line(look.sample_z_mm),
        counter_line(measured.counters, look.counter_bits),
        *tally_lines(tallies),
        exposure_line(tallies),
        acquired_line(tallies),
        *count_lines(survey_counts(sample, look.counter_bits), exposures),
        *empty_lines([b.energy.label for b in bins], empty, len(projections)),
        *look.notes(),
    ]


def _tube_lines(look: Look) -> list[Line]:
    tube = look.tube
    if not tube:
        return []
    parts = [f"{tube['voltage_kvp']:g} kVp"]
    if tube.get("current_ua") is not None:
        parts.append(f"{tube['current_ua']:g} uA")
    parts += [f"{mm:g} mm {material}" for material, mm in tube.get("filters", {}).items()]
    return [("tube", ", ".join(parts))]


def geometry_lines(geometry: ScanGeometry) -> list[Line]:
    """Return detector and orbit."""
    rows, cols = geometry.detector_shape
    pitch_v, pitch_u = geometry.pixel_pitch_mm
    lines = [("detector", f"{rows} x {cols} px of {pitch_v:g} x {pitch_u:g} mm")]
    if geometry.orbit is not None:
        orbit = geometry.orbit
        row, column = orbit.principal_point_px
        lines.append(
            (
                "orbit",
                f"source to isocenter {orbit.source_to_isocenter_mm:g} mm, to detector "
                f"{orbit.source_to_detector_mm:g} mm, principal point row {row:g}, column {column:g} px",
            )
        )
    return lines


def frame_picture(look: Look, frame_type: str, view: int, tile: int, counter: int) -> _Writes:
    """Return what draws one frame; it is read at once."""
    require_counter(look, counter)
    exposure = look.exposure(frame_type, view, tile)
    frame, of = exposure.counters[counter], look.measured.counters[counter]
    title = f"{look.scan_id}: {frame_name(look, view, tile, frame_type)}, counter {counter}"
    rows, columns = frame.shape
    subtitle = f"{of.mode} above {of.threshold_kev:g} keV; {rows} rows × {columns} columns, {frame.dtype}"
    if exposure.exposure_s is not None:
        subtitle += f"; {exposure.exposure_s:.4g} s"
    return lambda target: write_frame_picture(frame, target, title, subtitle)


def list_steps(steps: StepLook) -> None:
    """Say which corrections there are, and which of them the recipe makes active."""
    active = steps.active()
    say([("recipe", f"{steps.recipe.name}: active corrections of this scan, in their order")])
    for name, what in DESCRIPTIONS.items():
        say([("on" if name in active else "off", f"{name:<15} {what}")])


def show_step(
    steps: StepLook,
    name: str,
    *,
    view: int,
    tile: int,
    counter: int,
    bin_: int,
    row: int | None,
    picture: str | None,
) -> None:
    """Say what one correction does to one frame, and draw it."""
    require_step(name)
    look = steps.look
    if name == "bad-pixels":
        flags = steps.flags(tile, bin_)
        say_flags(flags, steps.bins[bin_].energy.label, tile)
        if picture:
            draw_flags(look.scan_id, flags, steps.bins[bin_].energy.label, tile, picture)
        return
    if name == "stitch":
        found = steps.stitched(view, bin_)
        angle = np.rad2deg(look.geometry.angles_rad[view])
        label = steps.bins[bin_].energy.label
        title, subtitle = (
            f"{look.scan_id}: stitch",
            f"view {view} of {len(look.geometry)} ({angle:.6g} deg), bin {label}",
        )
        holes = sum(int(np.isnan(tile).sum()) for tile in found.tiles)
        shape = " x ".join(map(str, found.wide.shape))
        say([("stitch", f"{subtitle}: {len(found.tiles)} camera positions with {holes} bad pixels make {shape} px")])
        if picture:
            write_picture(
                picture,
                lambda target: write_stitch_picture(found.tiles, found.origins_px, found.wide, target, title, subtitle),
            )
        return
    if name == "stripes":
        change = steps.stripes(bin_, row)
    else:
        change = steps.change(name, view, tile, counter, bin_)
    say([(name, change.subtitle), ("", change.summary())])
    if picture:
        write_picture(picture, lambda target: write_step_picture(change, target))


def say_flags(flags: NDArray[np.uint8], label: str, tile: int) -> None:
    """Say how many pixels each reason condemns."""
    found = {reason: int(np.count_nonzero(flags & np.uint8(bit))) for bit, reason in FLAG_REASONS.items()}
    reasons = ", ".join(f"{reason} {n}" for reason, n in found.items() if n) or "none"
    bad = int(np.count_nonzero(flags))
    say([("bad pixels", f"bin {label}, camera position {tile}: {bad} of {flags.size} ({reasons})")])


def draw_flags(scan_id: str, flags: NDArray[np.uint8], label: str, tile: int, picture: str) -> None:
    """Draw the flags of a camera position's pixels."""
    title, subtitle = f"{scan_id}: bad pixels", f"bin {label}, camera position {tile}"
    write_picture(picture, lambda target: write_flags_picture(flags, FLAG_REASONS, target, title, subtitle))


def refuse_row_without_stripes(name: str | None, row: int | None) -> None:
    """Raise InputError if a row is given for anything but stripes."""
    if row is not None and name != "stripes":
        raise InputError("--row is the detector row for --step stripes, and only for it")
