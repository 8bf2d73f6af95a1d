"""What a simulated scan is made of: the sample, the scanner, and how many photons."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from marspipe.errors import InputError
from marspipe.readers.merlin_assembly import edges_of
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.spectra import CounterResponse
from marspipe.simulate.defects import CUT_SIGMAS, Defects
from marspipe.simulate.merlin_writer import assembly_of
from marspipe.simulate.response import ladders
from marspipe.simulate.sample import Insert, InsertPhantom, mars_phantom

__all__ = ["Format", "Insert", "InsertPhantom", "SimulationSettings", "mars_phantom"]

Format = Literal["merlin", "data_exchange", "nxtomo", "tiff", "dicom"]
Mode = Literal["SPM", "CSM"]

MAX_COUNTERS = 8  # Medipix3 in color mode


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that determines a simulated scan: equal settings give equal bytes.

    Parameters
    ----------
    scan_id : str
        Name of the scan; letters, digits, dot, underscore, hyphen.
    seed : int
        Seed of every random number, not negative.
    format : {"merlin", "data_exchange", "nxtomo", "tiff", "dicom"}
        Raw format. Data Exchange holds one counter only, the first.
    merlin_layout : str
        Chips of a Merlin camera: ``1x1``, ``2x2`` or ``Nx1``; with a trailing ``G``, frames include the pixels of the
        gaps between the chips, which count nothing. Without it, the gaps take no place: neighbors are neighbors.
    merlin_raw : bool
        Whether Merlin files hold the read-out stream (R64): at most two counters, one chip or 2x2 of 256 columns.
    phantom : InsertPhantom
        The sample.
    views : int
        Number of views, evenly spaced over ``angle_range_rad`` from 0, end not included; at every height as many.
    angle_range_rad : float
        Range of rotation, rad; of a helix several turns.
    sample_z_mm : tuple of float
        How far the sample is moved towards +z, mm: all views at the first height, all at the next, ...
    helix_pitch_mm : float, optional
        How far the sample moves towards +z in a turn, mm, while the views are taken; it is at 0 in the middle of them.
    detector_shape : (int, int)
        Pixels (rows, cols) of the camera.
    camera_positions_mm : tuple of (float, float)
        How far the camera is moved along v and u in every position, mm. A whole scan is taken at the first, then at
        the next, ..., with the same chip and its own open beams and dark frames.
    pixel_pitch_mm : (float, float)
        Pixel pitch (v, u), mm; 0.11 is Medipix3 in color mode, 0.055 fine pitch.
    source_to_isocenter_mm, source_to_detector_mm : float
        SOD and SDD, mm.
    principal_point_px : (float, float), optional
        Position (row, col) on the camera at (0, 0) of the ray through the isocenter; by default the middle.
    voltage_kvp, current_ua : float
        Tube voltage in kV and current in uA.
    filters_mm : mapping of str to float
        Tube filters, element -> thickness in mm.
    response : CounterResponse
        Sensor and energy resolution.
    thresholds_kev : tuple of float
        Thresholds of the counters, keV; at most 8. Inside a mode they ascend.
    modes : tuple of {"SPM", "CSM"}, optional
        Mode of every counter; by default all are charge-summing. The counters of a mode share their photons; SPM and
        CSM counters, which on a chip see the same photons too, are drawn independently of each other.
    shared_charge_fraction : float
        Share of the photons whose charge two single pixels share, see
        :class:`~marspipe.simulate.response.SharedChargeResponse`; of no effect on CSM counters.
    open_beam_photons : float
        Mean counts of the lowest counter in a pixel of one open-beam frame, before dead time; of two modes, of the one
        that counts more. Sets the exposure time.
    counter_depth_bits : {12, 24}
        Depth of a counter.
    open_beams, darks : int
        Open-beam frames before, and again after, the projections; dark frames.
    noise : bool
        Poisson noise; without it, expected counts rounded to integers.
    gain_spread : float
        Standard deviation of the pixels' sensitivities, relative.
    dead_pixels, noisy_pixels : int
        Pixels that count nothing, and that count by themselves.
    defects : Defects
        What is wrong with the scan; by default nothing beyond dead and noisy pixels.
    start_time : datetime
        Start of the first exposure, with a time zone.

    Raises
    ------
    InputError
        If a value is wrong, the sample does not fit the detector's width, the open beam saturates the counters, or the
        format cannot hold the frames.
    """

    scan_id: str = "demo"
    seed: int = 0
    format: Format = "merlin"
    merlin_layout: str = "1x1"
    merlin_raw: bool = False
    phantom: InsertPhantom = field(default_factory=mars_phantom)
    views: int = 180
    angle_range_rad: float = 2 * math.pi
    sample_z_mm: tuple[float, ...] = (0.0,)
    helix_pitch_mm: float | None = None
    detector_shape: tuple[int, int] = (128, 128)
    camera_positions_mm: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    pixel_pitch_mm: tuple[float, float] = (0.11, 0.11)
    source_to_isocenter_mm: float = 200.0
    source_to_detector_mm: float = 250.0
    principal_point_px: tuple[float, float] | None = None
    voltage_kvp: float = 120.0
    current_ua: float = 350.0
    filters_mm: Mapping[str, float] = field(default_factory=lambda: {"Al": 3.8})
    response: CounterResponse = field(default_factory=CounterResponse)
    thresholds_kev: tuple[float, ...] = (20.0, 33.0, 50.0, 80.0)
    modes: tuple[Mode, ...] | None = None
    shared_charge_fraction: float = 0.3
    open_beam_photons: float = 100_000.0
    counter_depth_bits: int = 24
    open_beams: int = 16
    darks: int = 16
    noise: bool = True
    gain_spread: float = 0.03
    dead_pixels: int = 20
    noisy_pixels: int = 20
    defects: Defects = field(default_factory=Defects)
    start_time: datetime = datetime(2025, 1, 1, 12, 0, 0, tzinfo=UTC)

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_thresholds()
        self._check_dead_times()
        self._check_saturation()
        self._check_places()
        self._check_field_of_view()
        self._check_merlin()

    def _check_numbers(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", self.scan_id):
            raise InputError(f"scan_id must be 1 to 128 letters, digits, '.', '_' or '-', got {self.scan_id!r}")
        if self.format not in get_args(Format):
            raise InputError(f"format must be one of {', '.join(get_args(Format))}, got {self.format!r}")
        if self.counter_depth_bits not in (12, 24):
            raise InputError(f"counter_depth_bits must be 12 or 24, got {self.counter_depth_bits!r}")
        for name, least in (
            ("seed", 0),
            ("views", 1),
            ("open_beams", 1),
            ("darks", 1),
            ("dead_pixels", 0),
            ("noisy_pixels", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
        for name in ("current_ua", "open_beam_photons", "angle_range_rad"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        if not 0 <= self.gain_spread <= 0.2:
            raise InputError(f"gain_spread must be within 0 to 0.2, got {self.gain_spread!r}")
        if not 0 <= self.shared_charge_fraction <= 1:
            raise InputError(f"shared_charge_fraction must be within 0 to 1, got {self.shared_charge_fraction!r}")
        if 2 * (self.dead_pixels + self.noisy_pixels) > math.prod(self.detector_shape):
            raise InputError(
                f"dead_pixels + noisy_pixels = {self.dead_pixels + self.noisy_pixels} is more than half of the "
                f"{self.detector_shape[0]} x {self.detector_shape[1]} pixels"
            )
        if self.start_time.tzinfo is None:
            raise InputError(f"start_time needs a time zone, got {self.start_time!r}")

    def _check_thresholds(self) -> None:
        values = self.thresholds_kev
        if not 1 <= len(values) <= MAX_COUNTERS:
            raise InputError(f"thresholds_kev must be 1 to {MAX_COUNTERS} thresholds, got {len(values)}")
        if self.modes is not None and (len(self.modes) != len(values) or not set(self.modes) <= set(get_args(Mode))):
            raise InputError(
                f"modes must be SPM or CSM for each of the {len(values)} thresholds_kev, got {', '.join(self.modes)}"
            )
        for mode, ladder in self._ladders(values):
            if any(not low < high for low, high in pairwise(ladder)):
                of = "" if self.modes is None else f" inside mode {mode}"
                raise InputError(f"thresholds_kev must ascend{of}, got {tuple(ladder)}")
        if not (min(values) > 0 and max(values) < self.voltage_kvp):
            raise InputError(
                f"thresholds_kev must lie between 0 and the tube's {self.voltage_kvp:g} keV end point, got {values}"
            )

    def _ladders(self, values: tuple[float, ...]) -> list[tuple[str, list[float]]]:
        """Return a value of each counter, mode by mode."""
        modes = self.modes or ("CSM",) * len(values)
        return [(mode, [v for v, m in zip(values, modes, strict=True) if m == mode]) for mode in dict.fromkeys(modes)]

    def _check_dead_times(self) -> None:
        n, taus = len(self.counters), self.dead_times_s
        if len(self.defects.dead_time_s) not in (0, 1, n):
            raise InputError(f"dead_time_s must have 1 or {n} values, one per counter, got {self.defects.dead_time_s}")
        for members in ladders(self.counters):
            # Otherwise a counter could count more than the one below it.
            if any(taus[low] > taus[high] for low, high in pairwise(members)):
                raise InputError(f"dead_time_s must not fall with the threshold inside a mode, got {taus}")

    def _check_saturation(self) -> None:
        # Sensitivities are cut at three standard deviations, noise is negligible beyond six.
        brightest = self.open_beam_photons * (1 + CUT_SIGMAS * self.gain_spread) * self.defects.brightest
        brightest += 6 * math.sqrt(brightest)
        if brightest > self.counter_limit:
            raise InputError(
                f"open_beam_photons = {self.open_beam_photons:g} saturates a {self.counter_depth_bits}-bit counter: up "
                f"to {brightest:.0f} counts against {self.counter_limit}; lower it, or use counter_depth_bits = 24"
            )

    def _check_places(self) -> None:
        if any(len(position) != 2 for position in self.camera_positions_mm):
            raise InputError(f"camera_positions_mm must be pairs (v, u), got {self.camera_positions_mm}")
        for name, values in (
            ("camera_positions_mm", self.camera_positions_mm),
            ("sample_z_mm", self.sample_z_mm),
        ):
            if not values or not np.isfinite(np.array(values, dtype=np.float64)).all():
                raise InputError(f"{name} must be finite (mm), at least one, got {values}")
            if len(set(values)) != len(values):
                raise InputError(f"{name} must differ from each other, got {values}")
        if self.helix_pitch_mm is not None:
            if not (math.isfinite(self.helix_pitch_mm) and self.helix_pitch_mm != 0):
                raise InputError(f"helix_pitch_mm must be finite and not 0 (mm), got {self.helix_pitch_mm!r}")
            if self.sample_z_mm != (0.0,):
                raise InputError("sample_z_mm is for a scan at fixed heights, helix_pitch_mm for a helix; got both")

    def _check_field_of_view(self) -> None:
        self.geometry()  # raises on numbers that are no geometry
        cols = self.detector_shape[1]
        radius = self.phantom.body_radius_mm
        if radius >= self.source_to_isocenter_mm:
            raise InputError(f"the sample's radius of {radius:g} mm reaches the source")
        shadow = radius / math.sqrt(self.source_to_isocenter_mm**2 - radius**2) * self.source_to_detector_mm
        middle = (cols - 1) / 2 if self.principal_point_px is None else self.principal_point_px[1]
        half_px = shadow / self.pixel_pitch_mm[1]
        offsets = sorted(u / self.pixel_pitch_mm[1] for _, u in self.camera_positions_mm)
        covered = all(high - low <= cols for low, high in pairwise(offsets))
        if middle - half_px < offsets[0] - 0.5 or middle + half_px > offsets[-1] + cols - 0.5 or not covered:
            has = f"{cols}" if offsets == [0.0] else f"columns from {', '.join(f'{o:.1f}' for o in offsets)} on"
            raise InputError(
                f"the sample's shadow covers columns {middle - half_px:.1f} to {middle + half_px:.1f}, but the "
                f"detector has {has}: widen detector_shape or pixel_pitch_mm, or scale the phantom down"
            )

    def _check_merlin(self) -> None:
        if self.format != "merlin":
            if self.merlin_layout != "1x1" or self.merlin_raw:
                raise InputError(f"merlin_layout and merlin_raw are for the format merlin, got {self.format}")
        else:
            assembly_of(
                self.detector_shape,
                self.merlin_layout,
                counter_depth_bits=self.counter_depth_bits,
                color_mode=self.color_mode,
                raw=self.merlin_raw,
            )

    @property
    def color_mode(self) -> bool:
        """Whether 2 x 2 pixels of the chip share their counters: a pixel of fine pitch has only two."""
        return len(self.counters) > 2

    @property
    def gap_mask(self) -> NDArray[np.bool_] | None:
        """The pixels that lie on no chip, shape (rows, cols); None if there are none."""
        if self.format != "merlin" or not self.merlin_layout.endswith("G"):
            return None
        assembly = assembly_of(
            self.detector_shape,
            self.merlin_layout,
            counter_depth_bits=self.counter_depth_bits,
            color_mode=self.color_mode,
            raw=self.merlin_raw,
        )
        return edges_of(assembly).gap_mask()

    @property
    def counter_limit(self) -> int:
        """The largest count a counter holds."""
        return int(2**self.counter_depth_bits - 1)

    @property
    def counters(self) -> list[Counter]:
        """The counters that are written."""
        thresholds = self.thresholds_kev[:1] if self.format == "data_exchange" else self.thresholds_kev
        modes = self.modes or ("CSM",) * len(thresholds)
        return [Counter(index, modes[index], threshold) for index, threshold in enumerate(thresholds)]

    @property
    def dead_times_s(self) -> tuple[float, ...]:
        """Dead time of each counter that is written, s."""
        given, n = self.defects.dead_time_s or (0.0,), len(self.counters)
        return given[:n] if len(given) >= n else given * n

    @property
    def n_views(self) -> int:
        """Views at all heights."""
        return self.views * len(self.sample_z_mm)

    @property
    def angle_step_rad(self) -> float:
        """Angle from one view to the next, rad."""
        return self.angle_range_rad / self.views

    def heights_mm(self) -> NDArray[np.float64]:
        """Return how far the sample had moved towards +z in every view, shape (n_views,), float64, mm."""
        if self.helix_pitch_mm is None:
            return np.repeat(np.array(self.sample_z_mm, dtype=np.float64), self.views)
        first, step = self.helix_start_and_step_mm
        return first + step * np.arange(self.views, dtype=np.float64)

    @property
    def helix_start_and_step_mm(self) -> tuple[float, float]:
        """Height of the sample in the first view of a helix, and from one view to the next, mm."""
        step = (self.helix_pitch_mm or 0.0) * self.angle_step_rad / (2 * math.pi)
        return -step * (self.views - 1) / 2, step

    def geometry(self, tile: int | None = None) -> ScanGeometry:
        """Return where source and detector stand in every view, seen from the sample.

        Parameters
        ----------
        tile : int, optional
            Camera position; by default the camera is at offset (0, 0).
        """
        angles = np.tile(self.angle_step_rad * np.arange(self.views), len(self.sample_z_mm))
        heights = self.heights_mm()
        geometry = ScanGeometry.circular(
            source_to_isocenter_mm=self.source_to_isocenter_mm,
            source_to_detector_mm=self.source_to_detector_mm,
            detector_shape=self.detector_shape,
            pixel_pitch_mm=self.pixel_pitch_mm,
            angles_rad=angles,
            principal_point_px=self.principal_point_px,
            source_z_mm=-heights if heights.any() else None,
        )
        offset = (0.0, 0.0) if tile is None else self.camera_positions_mm[tile]
        if geometry.orbit is None or offset == (0.0, 0.0):
            return geometry
        # The camera moves by +v: the ray through the isocenter meets it further down.
        (pp_v, pp_u), (pitch_v, pitch_u) = geometry.orbit.principal_point_px, self.pixel_pitch_mm
        point = (pp_v - offset[0] / pitch_v, pp_u - offset[1] / pitch_u)
        return geometry.with_detector(self.detector_shape, point)
