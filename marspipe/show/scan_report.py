"""What a scan holds, in lines of text: a name of up to ten letters, and what is to say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from marspipe.scan.energy import Counter
from marspipe.show.histogram import Spread, histogram_line

Line = tuple[str, str]

TYPES = ("projection", "open_beam", "absorber", "dark")
# More camera positions or groups than these are summed up.
_MOST_LISTED = 6
# Exposure times that differ by less are one: clocks round.
_SAME_EXPOSURE = 1e-3


@dataclass(frozen=True)
class FrameTally:
    """Frames of one type, counter, camera position, group and plate, counted.

    Attributes
    ----------
    frame_type : str
        One of :data:`TYPES`.
    counter, tile, group : int
        Which frames.
    absorber_mm : float
        Thickness of the plate, mm; 0 for none.
    frames : int
        How many.
    exposure_s : (float, float) or None
        Shortest and longest exposure time, s, as far as they are known.
    acquired : (str, str) or None
        First and last time of acquisition, ISO 8601 in UTC, as far as they are known.
    """

    frame_type: str
    counter: int
    tile: int
    group: int
    absorber_mm: float
    frames: int
    exposure_s: tuple[float, float] | None = None
    acquired: tuple[str, str] | None = None


@dataclass(frozen=True, eq=False)
class CountSurvey:
    """How the counts of some frames of a type and counter are spread.

    Attributes
    ----------
    frame_type, counter
        Which frames.
    frames : int
        How many were looked at.
    spread : Spread
        Of their pixels.
    saturated : float or None
        Part of the pixels at the end of the counter; None if its depth is not known.
    """

    frame_type: str
    counter: int
    frames: int
    spread: Spread
    saturated: float | None


def tally_lines(tallies: Sequence[FrameTally]) -> list[Line]:
    """Return how many frames there are, per type and counter, and per camera position, group and plate of several."""
    lines = []
    for kind in _kinds(tallies):
        of_kind = [t for t in tallies if t.frame_type == kind]
        noun = "views" if kind == "projection" else "exposures"
        for counter in sorted({t.counter for t in of_kind}):
            of_counter = [t for t in of_kind if t.counter == counter]
            frames = sum(t.frames for t in of_counter)
            # Every view has one frame of a counter at each position.
            views = max(_sums(of_counter, lambda t: t.tile).values()) if kind == "projection" else frames
            lines.append((kind, f"counter {counter}: {frames} frames, {views} {noun}"))
        for name, unit, key in (
            ("camera position", "", lambda t: t.tile),
            ("group", "", lambda t: t.group),
            ("plate of", " mm", lambda t: t.absorber_mm),
        ):
            sums = _sums(of_kind, key)
            if len(sums) > 1 or (name == "plate of" and kind == "absorber"):
                lines.append(("", _listed(name, unit, sums)))
    return lines


def _kinds(tallies: Iterable[FrameTally]) -> list[str]:
    present = {t.frame_type for t in tallies}
    return [kind for kind in TYPES if kind in present]


def _sums(tallies: Iterable[FrameTally], key: Callable[[FrameTally], float]) -> dict[float, int]:
    sums: dict[float, int] = defaultdict(int)
    for tally in tallies:
        sums[key(tally)] += tally.frames
    return dict(sorted(sums.items()))


def _listed(name: str, unit: str, sums: dict[float, int]) -> str:
    if len(sums) <= _MOST_LISTED:
        return ", ".join(f"{name} {key:g}{unit}: {n} frames" for key, n in sums.items())
    keys, counts = list(sums), list(sums.values())
    fewest = min(counts)
    number = f"{fewest} frames each" if fewest == max(counts) else f"{fewest} to {max(counts)} frames each"
    odd = "" if fewest == max(counts) else f", fewest at {keys[counts.index(fewest)]:g}{unit}"
    return f"{len(sums)} {name}s, {keys[0]:g} to {keys[-1]:g}{unit}: {number}{odd}"


def exposure_line(tallies: Sequence[FrameTally]) -> Line:
    """Return the exposure times of every frame type; where they are not those of the open beams, it is said."""
    ranges = {kind: _range([t.exposure_s for t in tallies if t.frame_type == kind]) for kind in _kinds(tallies)}
    known = {kind: found for kind, found in ranges.items() if found is not None}
    if not known:
        return "exposure", "unknown: neither the manifest nor a header has exposure times"
    parts = [f"{kind} {_span(*found)} s" for kind, found in known.items()]
    parts += [f"{kind} unknown" for kind in ranges if kind not in known]
    text = ", ".join(parts)
    one, other = known.get("projection"), known.get("open_beam")
    if one is not None and other is not None and not all(_same(a, b) for a, b in zip(one, other, strict=True)):
        text += "; projections and open beams differ, which flux by: exposure corrects"
    return "exposure", text


def _range(spans: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    known = [span for span in spans if span is not None]
    return (min(s[0] for s in known), max(s[1] for s in known)) if known else None


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_SAME_EXPOSURE)


def _span(low: float, high: float) -> str:
    return f"{low:.6g}" if _same(low, high) else f"{low:.6g} to {high:.6g}"


def acquired_line(tallies: Sequence[FrameTally]) -> Line:
    """Return when the frames were taken, and how long that took."""
    spans = [t.acquired for t in tallies if t.acquired is not None]
    if not spans:
        return "acquired", "unknown: no frame has an acquisition time in UTC"
    first, last = min(s[0] for s in spans), max(s[1] for s in spans)
    untimed = [k for k in _kinds(tallies) if any(t.acquired is None for t in tallies if t.frame_type == k)]
    text = f"{_to_seconds(first)} to {_to_seconds(last)}{_duration(first, last)}"
    return "acquired", text + (f"; unknown for {', '.join(untimed)}" if untimed else "")


def _to_seconds(time: str) -> str:
    """Return an ISO time without fractions of a second."""
    return time.partition(".")[0].removesuffix("Z") + "Z"


def _duration(first: str, last: str) -> str:
    try:
        seconds = (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    except (ValueError, TypeError):
        return ""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{hours:.0f} h"] * (hours > 0) + [f"{minutes:.0f} min"] * (seconds >= 60) + [f"{rest:.3g} s"]
    return f" ({' '.join(parts)})"


def position_lines(positions_mm: Sequence[tuple[float, float]], wide_shape: tuple[int, int]) -> list[Line]:
    """Return where the camera stood; nothing if it stood still at (0, 0)."""
    if list(positions_mm) == [(0.0, 0.0)]:
        return []
    if len(positions_mm) <= _MOST_LISTED:
        listed = ", ".join(f"{k} at ({v:g}, {u:g})" for k, (v, u) in enumerate(positions_mm))
    else:
        v, u = zip(*positions_mm, strict=True)
        listed = f"v from {min(v):g} to {max(v):g}, u from {min(u):g} to {max(u):g}"
    number = f"{len(positions_mm)} camera position" + "s" * (len(positions_mm) > 1)
    wide = f"they make a detector of {wide_shape[0]} x {wide_shape[1]} px"
    return [("camera", f"{number} (v, u), mm: {listed}; {wide}")]


def height_line(heights_mm: NDArray[np.float64]) -> Line:
    """Return at which heights of the sample the views were taken."""
    levels = np.unique(np.round(heights_mm, 4)) + 0.0
    if levels.size == 1:
        return "heights", f"the sample stays at {levels[0]:.6g} mm"
    text = f"{levels.size} heights of the sample, {levels[0]:.6g} to {levels[-1]:.6g} mm"
    if levels.size <= _MOST_LISTED:
        text += ": " + ", ".join(f"{z:.6g}" for z in levels)
    return "heights", text


def counter_line(counters: Sequence[Counter], depth_bits: int | None) -> Line:
    """Return thresholds and modes of the counters, and their depth."""
    ladder = ", ".join(f"{c.index}: {c.mode} above {c.threshold_kev:g} keV" for c in counters)
    return "counters", ladder + (f"; {depth_bits} bits deep" if depth_bits is not None else "; depth unknown")


def count_lines(surveys: Sequence[CountSurvey], frames: dict[str, int]) -> list[Line]:
    """Return how counts are spread; ``frames`` is how many exposures of a type there are."""
    if not surveys:
        return []
    looked = [f"{s.frames} of {frames[s.frame_type]} {s.frame_type}" for s in _one_per_type(surveys)]
    lines = [("counts", f"from {', '.join(looked)} exposures, evenly spread")]
    rows: list[tuple[str, ...]] = [("", "min", "1 %", "median", "99 %", "max", "saturated", "")]
    for s in surveys:
        spread = s.spread
        numbers = (spread.smallest, spread.low, spread.median, spread.high, spread.largest)
        full = "unknown" if s.saturated is None else _percent(s.saturated)
        rows.append((str(s.counter), *(f"{n:.6g}" for n in numbers), full, f"|{histogram_line(spread.counts)}|"))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    kinds = ["", *(s.frame_type for s in surveys)]
    for kind, row in zip(kinds, rows, strict=True):
        cells = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        name = f"counter {row[0]}" if row[0] else ""
        lines.append((kind, f"{name:<10}" + "  ".join([*cells, row[-1]]).rstrip()))
    return lines


def _one_per_type(surveys: Sequence[CountSurvey]) -> list[CountSurvey]:
    return list({s.frame_type: s for s in reversed(surveys)}.values())[::-1]


def _percent(fraction: float) -> str:
    """Return a fraction in percent; what is there at all never reads as nothing."""
    text = f"{100 * fraction:.3g}"
    return ("0" if fraction == 0 else "<0.001" if fraction < 1e-5 else text) + " %"


def empty_lines(labels: Sequence[str], fractions: NDArray[np.float64], frames: int) -> list[Line]:
    """Return which part of the pixels of every energy bin has no counts, from some projections."""
    if not frames:
        return []
    listed = ", ".join(f"{label} {_percent(float(f))}" for label, f in zip(labels, fractions, strict=True))
    return [("no counts", f"zero or negative pixels per energy bin, mean of {frames} projections: {listed}")]


def flag_lines(labels: Sequence[str], bad_pixels: Sequence[dict[str, int]] | None) -> list[Line]:
    """Return the bad pixels of every energy bin of a volume: ``pixels``, ``bad``, and a number per reason."""
    lines = []
    for label, counts in zip(labels, bad_pixels or (), strict=False):
        reasons = [f"{name.replace('_', ' ')} {n}" for name, n in counts.items() if n and name not in ("pixels", "bad")]
        why = f" ({', '.join(reasons)})" if reasons else ""
        lines.append(("bad pixels", f"{label}: {counts['bad']} of {counts['pixels']}{why}"))
    return lines
