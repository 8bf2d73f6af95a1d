"""Single corrections on single frames, before and after: what ``marspipe inspect --step`` draws. No Spark."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.pipeline.corrections.hardening import hardening_of
from marspipe.pipeline.corrections.line_integrals import Corrections
from marspipe.pipeline.corrections.settings import angular_stripes, chain_settings, sinogram_stripes
from marspipe.pipeline.inspection.look import Look
from marspipe.preprocess.bad_pixels import PixelFlag
from marspipe.preprocess.chain import STEPS, Preprocessor
from marspipe.preprocess.stripes import AngularSums, stripe_offsets
from marspipe.recipe import Recipe
from marspipe.scan.energy import CounterBin, counter_bins
from marspipe.show.step_picture import StepChange

FloatArray = NDArray[np.float32]

FLAG_REASONS = {int(flag): flag.reasons[0] for flag in PixelFlag if flag}
# What every step does, in the order of the chain, and what is no step of one frame's chain.
DESCRIPTIONS = {
    "bad-pixels": "pixels that are not believed, and why",
    "dead-time": "counts that pile-up took, given back",
    "zingers": "counts of this frame alone that stand out, replaced",
    "dark": "the mean dark frame, subtracted",
    "bins": "counters, subtracted to energy bins",
    "scatter": "a constant number of scattered photons, subtracted",
    "log": "counts, against the open beam, to line integrals",
    "flux": "line integrals, brought to the exposure or flux of the open beam",
    "thickness": "line integrals, calibrated by plates of known thickness",
    "beam-hardening": "line integrals, straightened by a polynomial",
    "inpaint": "bad pixels, filled from their neighbors",
    "stitch": "camera positions, put together to one wide frame",
    "stripes": "stripes of the sinogram of one detector row, which would be rings",
}
_OF_COUNTERS = ("dead-time", "zingers", "dark")
_COUNTS, _INTEGRALS = "counts", "line integral"
# Stripes need all views of a scan: not of a larger one. A wide frame is drawn up to this size.
MOST_BYTES = 2**30
_MOST_WIDE_PX = 2**26


@dataclass(frozen=True, eq=False)
class Stitched:
    """The line integrals of a view and bin.

    Attributes
    ----------
    tiles : list of ndarray, shape (v, u), float32
        Of every camera position; NaN where a pixel is bad.
    origins_px : ndarray, shape (tiles, 2)
        Where they lie on the wide frame, px.
    wide : ndarray, shape (V, U), float32
        Put together.
    """

    tiles: list[FloatArray]
    origins_px: NDArray[np.float64]
    wide: FloatArray


@dataclass(frozen=True, eq=False)
class StepLook:
    """The corrections of a recipe on the frames of a scan.

    Raises
    ------
    InputError
        If the recipe does not fit the scan.
    """

    look: Look
    recipe: Recipe

    @cached_property
    def bins(self) -> tuple[CounterBin, ...]:
        """Energy bins of the recipe."""
        return tuple(counter_bins(self.look.measured.counters, self.recipe.bins.kind))

    @cached_property
    def corrections(self) -> Corrections:
        """The corrections, those of all camera positions as they are asked for."""
        look, bins = self.look, self.bins
        hardening = hardening_of(self.recipe, look.tube, look.measured)
        settings = chain_settings(self.recipe.preprocess, len(bins), hardening)
        # In place of a broadcast: calibrations of this process.
        held = SimpleNamespace(value=_Calibrations(look))
        return Corrections(look.measured.camera, bins, settings, look.calibrations(), str(uuid4()), held)

    def _preprocessor(self, tile: int) -> Preprocessor:
        n_tiles = self.look.measured.camera.n_tiles
        if not 0 <= tile < n_tiles:
            raise InputError(f"--tile must be 0..{n_tiles - 1}, got {tile}")
        return self.corrections.preprocessor(tile)

    def active(self) -> list[str]:
        """Return the steps that the recipe makes active for this scan, in order; open beams are read for that."""
        chain = self._preprocessor(0).steps
        more = {"bad-pixels": True, "stitch": self.look.measured.camera.moves, "stripes": self._strips}
        return [name for name in DESCRIPTIONS if name in chain or more.get(name, False)]

    @property
    def _strips(self) -> bool:
        return self.recipe.preprocess.stripes.mode != "none"

    def _require_active(self, name: str, steps: tuple[str, ...]) -> None:
        if name not in steps:
            raise InputError(
                f"--step {name} changes nothing here: recipe {self.recipe.name} makes active {', '.join(steps)}"
            )

    def require_bin(self, bin_: int) -> CounterBin:
        """Return an energy bin; raise InputError if there is none."""
        if not 0 <= bin_ < len(self.bins):
            labels = ", ".join(b.energy.label for b in self.bins)
            raise InputError(f"--bin must be 0..{len(self.bins) - 1} ({labels}), got {bin_}")
        return self.bins[bin_]

    def change(self, name: str, view: int, tile: int, counter: int, bin_: int) -> StepChange:
        """Return what a step of the chain does to one frame.

        Raises
        ------
        InputError
            If the step is not active, or there is no such frame.
        """
        look = self.look
        exposure = look.exposure("projection", view, tile)
        require_counter(look, counter)
        energy_bin = self.require_bin(bin_)
        corrections = self.corrections
        preprocessor = self._preprocessor(tile)
        self._require_active(name, preprocessor.steps)
        time = corrections.calibrations.clock.of_frame(view, exposure.acquired_at)
        seen = {"exposure_s": exposure.exposure_s, "monitor": exposure.monitor}
        step = preprocessor.trace(exposure.counters, time=time, **seen)[name]
        of_counter = f"counter {counter}"
        if name in _OF_COUNTERS:
            before, after, what = step.before[counter], step.after[counter], of_counter
        elif name == "bins":
            before, after = step.before[energy_bin.plus], step.after[bin_]
            what = f"counter {energy_bin.plus} to bin {energy_bin.energy.label}"
        else:
            before, after, what = step.before[bin_], step.after[bin_], f"bin {energy_bin.energy.label}"
        later = STEPS.index(name) - STEPS.index("log")
        labels = (_COUNTS if later <= 0 else _INTEGRALS, _COUNTS if later < 0 else _INTEGRALS)
        subtitle = f"{DESCRIPTIONS[name]}: {frame_name(look, view, tile)}, {what}"
        return StepChange(f"{look.scan_id}: {name}", subtitle, before, after, *labels)

    def flags(self, tile: int, bin_: int) -> NDArray[np.uint8]:
        """Return the flags of a camera position's pixels in a bin, shape (v, u)."""
        self.require_bin(bin_)
        flags: NDArray[np.uint8] = self._preprocessor(tile).flags[bin_]
        return flags

    def stitched(self, view: int, bin_: int) -> Stitched:
        """Return a view before and after its camera positions are put together."""
        look, camera = self.look, self.look.measured.camera
        self.require_bin(bin_)
        if not camera.moves:
            raise InputError("--step stitch: the camera of this scan stands at one position, its frames are the views")
        pixels = camera.layout.shape[0] * camera.layout.shape[1]
        if pixels > _MOST_WIDE_PX:
            raise InputError(f"--step stitch: the wide frame has {pixels} px, at most {_MOST_WIDE_PX} px are drawn")
        corrections = self.corrections.of_bin(bin_)
        tiles = []
        for tile in range(camera.n_tiles):
            exposure, preprocessor = look.exposure("projection", view, tile), corrections.preprocessor(tile)
            integrals, bad = corrections.correct(exposure, preprocessor)
            integrals[preprocessor.flags != 0 if bad is None else bad] = np.nan
            tiles.append(integrals[0])
        _, wide = next(corrections.views(look.frames(["projection"], view)))
        return Stitched(tiles, camera.layout.origins_px, wide[0])

    def stripes(self, bin_: int, row: int | None) -> StepChange:
        """Return the sinogram of a detector row, by default the middle one, before and after stripes are removed.

        Raises
        ------
        InputError
            If the recipe removes none, or the scan is too large to read it as a whole.
        """
        look, stripes = self.look, self.recipe.preprocess.stripes
        energy_bin = self.require_bin(bin_)
        rows, columns = look.measured.geometry.detector_shape
        row = rows // 2 if row is None else row
        if not 0 <= row < rows:
            raise InputError(f"--row must be 0..{rows - 1}, got {row}")
        if not self._strips:
            raise InputError(
                f"--step stripes: recipe {self.recipe.name} has preprocess.stripes.mode: none; "
                "--set preprocess.stripes.mode=by-angle or =sinogram"
            )
        if look.pixel_bytes > MOST_BYTES:
            raise InputError(
                f"--step stripes reads all views of a scan, here {look.pixel_bytes / 2**20:.0f} MiB of at most "
                f"{MOST_BYTES // 2**20} MiB; marspipe reconstruct removes the stripes of larger ones"
            )
        angular, method = angular_stripes(stripes), sinogram_stripes(stripes)
        n_views = len(look.geometry)
        before, sums = np.full((n_views, columns), np.nan, np.float32), AngularSums((1, rows, columns))
        for view, integrals in self.corrections.of_bin(bin_).views(look.frames(["projection"])):
            before[view] = integrals[0, row]
            sums.add(view, integrals)
        mean = sums.mean(n_views)[0]  # which also sees that no view is missing
        if angular is not None:
            after, how = before - stripe_offsets(mean, angular)[row], "by angle"
        else:
            assert method is not None
            after, how = method(before), f"by the method {stripes.method}"
        subtitle = (
            f"{how}: row {row} of {rows}, bin {energy_bin.energy.label}; all {n_views} views were read, "
            f"{look.pixel_bytes / 2**20:.1f} MiB"
        )
        labels = ("view", "column u [px]")
        return StepChange(f"{look.scan_id}: stripes", subtitle, before, after, _INTEGRALS, _INTEGRALS, labels)


class _Calibrations:
    """Calibrations by camera position, read when they are asked for; one is kept."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._kept: tuple[int, object] | None = None

    def __getitem__(self, tile: int) -> object:
        if self._kept is None or self._kept[0] != tile:
            self._kept = tile, self._look.calibration(tile)
        return self._kept[1]


def require_counter(look: Look, counter: int) -> None:
    """Raise InputError if there is no such counter."""
    if not 0 <= counter < len(look.measured.counters):
        raise InputError(f"--counter must be 0..{len(look.measured.counters) - 1}, got {counter}")


def frame_name(look: Look, view: int, tile: int, frame_type: str = "projection") -> str:
    """Return a frame's name for headings."""
    name = f"{frame_type} {view}"
    if frame_type == "projection":
        name = f"view {view} of {len(look.geometry)} ({np.rad2deg(look.geometry.angles_rad[view]):.6g} deg)"
    return name if look.measured.camera.n_tiles == 1 else f"{name}, camera position {tile}"


def require_step(name: str) -> None:
    """Raise InputError if there is no step of a name, naming all there are."""
    if name not in DESCRIPTIONS:
        near = difflib.get_close_matches(name, DESCRIPTIONS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"--step: there is no step {name!r}; {hint}steps are {', '.join(DESCRIPTIONS)}")
