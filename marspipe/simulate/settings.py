"""What a simulated scan is made of: the sample, the scanner, and how many photons."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal

import numpy as np

from marspipe.errors import InputError
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.phantoms import Cylinder
from marspipe.scan.spectra import CounterResponse, Material, Solution, material_label

Format = Literal["merlin", "data_exchange"]

MAX_COUNTERS = 8  # Medipix3 in color mode


@dataclass(frozen=True)
class Insert:
    """A rod of one material, along z, that replaces the body's material.

    Attributes
    ----------
    material : str or Solution
        What it is filled with.
    center_mm : (float, float, float)
        Center (x, y, z), mm.
    radius_mm, height_mm : float
        Radius, and extent along z, mm.
    """

    material: Material
    center_mm: tuple[float, float, float]
    radius_mm: float
    height_mm: float

    @property
    def label(self) -> str:
        """Name of the material."""
        return material_label(self.material)

    @property
    def shape(self) -> Cylinder:
        """The rod as a shape of value 1."""
        return Cylinder(self.center_mm, self.radius_mm, self.height_mm)


@dataclass(frozen=True)
class InsertPhantom:
    """A cylinder around the rotation axis with rods inside; rods must not overlap or leave the body.

    Attributes
    ----------
    body_material : str or Solution
        What the cylinder is made of.
    body_radius_mm, body_height_mm : float
        Its radius, and extent along z around the isocenter, mm.
    inserts : tuple of Insert
        The rods.
    """

    body_material: Material
    body_radius_mm: float
    body_height_mm: float
    inserts: tuple[Insert, ...]

    def __post_init__(self) -> None:
        half = 0.5 * self.body_height_mm
        for k, insert in enumerate(self.inserts):
            x, y, z = insert.center_mm
            rod = insert.shape  # raises on numbers that are no rod
            reach = math.hypot(x, y) + rod.radius_mm
            if reach > self.body_radius_mm or abs(z) + 0.5 * rod.height_mm > half * (1 + 1e-12):
                raise InputError(
                    f"insert {k} ({insert.label}) leaves the body: it reaches {reach:g} mm from the axis and "
                    f"{abs(z) + 0.5 * rod.height_mm:g} mm from the middle, the body {self.body_radius_mm:g} mm and "
                    f"{half:g} mm"
                )
            for other, neighbor in enumerate(self.inserts[:k]):
                distance = math.hypot(x - neighbor.center_mm[0], y - neighbor.center_mm[1])
                apart = abs(z - neighbor.center_mm[2]) >= 0.5 * (insert.height_mm + neighbor.height_mm)
                if distance < insert.radius_mm + neighbor.radius_mm and not apart:
                    raise InputError(f"inserts {other} ({neighbor.label}) and {k} ({insert.label}) overlap")

    @property
    def body(self) -> Cylinder:
        """The whole cylinder as a shape of value 1."""
        return Cylinder((0.0, 0.0, 0.0), self.body_radius_mm, self.body_height_mm)

    def material_shapes(self) -> dict[Material, list[Cylinder]]:
        """Return the shapes whose values add up to 1 inside each material and 0 elsewhere."""
        groups: dict[Material, list[Cylinder]] = {self.body_material: [self.body]}
        for insert in self.inserts:
            if insert.material != self.body_material:
                hole = Cylinder(insert.center_mm, insert.radius_mm, insert.height_mm, value=-1.0)
                groups[self.body_material].append(hole)
                groups.setdefault(insert.material, []).append(insert.shape)
        return groups


def mars_phantom(scale: float = 1.0) -> InsertPhantom:
    """Return the default sample: a PMMA cylinder of 10 mm diameter with six rods of 2 mm around its axis.

    The rods end at different distances from the body's faces, and differ all round: an image of the phantom shows
    which way each axis points. Concentrations are low enough that a bin's attenuation is the same along every ray
    to better than 1 %.

    Parameters
    ----------
    scale : float
        Multiplies every length, for a larger or smaller detector.
    """
    if not 0 < scale < math.inf:
        raise InputError(f"the phantom's scale must be positive, got {scale}")
    fillings: tuple[Material, ...] = (
        "water",
        "lipid",
        Solution("hydroxyapatite", 150.0),
        Solution("iodine", 10.0),
        Solution("gadolinium", 10.0),
        Solution("gold", 10.0),
    )
    inserts = []
    for k, material in enumerate(fillings):
        angle = 2 * math.pi * k / len(fillings)
        center = (scale * 3.0 * math.cos(angle), scale * 3.0 * math.sin(angle), scale * -0.5)
        inserts.append(Insert(material, center, radius_mm=scale, height_mm=7.0 * scale))
    return InsertPhantom("PMMA", body_radius_mm=5.0 * scale, body_height_mm=9.0 * scale, inserts=tuple(inserts))


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that determines a simulated scan: equal settings give equal bytes.

    Parameters
    ----------
    scan_id : str
        Name of the scan; letters, digits, dot, underscore, hyphen.
    seed : int
        Seed of every random number, not negative.
    format : {"merlin", "data_exchange"}
        Raw format. Data Exchange holds one counter only: the photons above the lowest threshold.
    phantom : InsertPhantom
        The sample.
    views : int
        Number of views, evenly spaced over ``angle_range_rad`` from 0, end not included.
    angle_range_rad : float
        Range of rotation, rad.
    detector_shape : (int, int)
        Pixels (rows, cols).
    pixel_pitch_mm : (float, float)
        Pixel pitch (v, u), mm; 0.11 is Medipix3 in color mode, 0.055 fine pitch.
    source_to_isocenter_mm, source_to_detector_mm : float
        SOD and SDD, mm.
    principal_point_px : (float, float), optional
        Detector position (row, col) of the ray through the isocenter; by default the middle.
    voltage_kvp, current_ua : float
        Tube voltage in kV and current in uA.
    filters_mm : mapping of str to float
        Tube filters, element -> thickness in mm.
    response : CounterResponse
        Sensor and energy resolution.
    thresholds_kev : tuple of float
        Thresholds of the charge-summing counters, keV, ascending; at most 8.
    open_beam_photons : float
        Mean counts of the lowest counter in a pixel of one open-beam frame. Sets the exposure time.
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
    start_time : datetime
        Start of the first exposure, with a time zone.

    Raises
    ------
    InputError
        If a value is wrong, the sample does not fit the detector's width, or the open beam saturates the counters.
    """

    scan_id: str = "demo"
    seed: int = 0
    format: Format = "merlin"
    phantom: InsertPhantom = field(default_factory=mars_phantom)
    views: int = 180
    angle_range_rad: float = 2 * math.pi
    detector_shape: tuple[int, int] = (128, 128)
    pixel_pitch_mm: tuple[float, float] = (0.11, 0.11)
    source_to_isocenter_mm: float = 200.0
    source_to_detector_mm: float = 250.0
    principal_point_px: tuple[float, float] | None = None
    voltage_kvp: float = 120.0
    current_ua: float = 350.0
    filters_mm: Mapping[str, float] = field(default_factory=lambda: {"Al": 3.8})
    response: CounterResponse = field(default_factory=CounterResponse)
    thresholds_kev: tuple[float, ...] = (20.0, 33.0, 50.0, 80.0)
    open_beam_photons: float = 100_000.0
    counter_depth_bits: int = 24
    open_beams: int = 16
    darks: int = 16
    noise: bool = True
    gain_spread: float = 0.03
    dead_pixels: int = 20
    noisy_pixels: int = 20
    start_time: datetime = datetime(2025, 1, 1, 12, 0, 0, tzinfo=UTC)

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_thresholds()
        self._check_saturation()
        self._check_field_of_view()

    def _check_numbers(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", self.scan_id):
            raise InputError(f"scan_id must be 1 to 128 letters, digits, '.', '_' or '-', got {self.scan_id!r}")
        if self.format not in ("merlin", "data_exchange"):
            raise InputError(f"format must be 'merlin' or 'data_exchange', got {self.format!r}")
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
        if any(not low < high for low, high in pairwise(values)):
            raise InputError(f"thresholds_kev must ascend, got {values}")
        if not (values[0] > 0 and values[-1] < self.voltage_kvp):
            raise InputError(
                f"thresholds_kev must lie between 0 and the tube's {self.voltage_kvp:g} keV end point, got {values}"
            )

    def _check_saturation(self) -> None:
        # Sensitivities are cut at three standard deviations, noise is negligible beyond six.
        brightest = self.open_beam_photons * (1 + 3 * self.gain_spread)
        brightest += 6 * math.sqrt(brightest)
        if brightest > self.counter_limit:
            raise InputError(
                f"open_beam_photons = {self.open_beam_photons:g} saturates a {self.counter_depth_bits}-bit counter: up "
                f"to {brightest:.0f} counts against {self.counter_limit}; lower it, or use counter_depth_bits = 24"
            )

    def _check_field_of_view(self) -> None:
        self.geometry()  # raises on numbers that are no geometry
        cols = self.detector_shape[1]
        radius = self.phantom.body_radius_mm
        if radius >= self.source_to_isocenter_mm:
            raise InputError(f"the sample's radius of {radius:g} mm reaches the source")
        shadow = radius / math.sqrt(self.source_to_isocenter_mm**2 - radius**2) * self.source_to_detector_mm
        middle = (cols - 1) / 2 if self.principal_point_px is None else self.principal_point_px[1]
        half_px = shadow / self.pixel_pitch_mm[1]
        if middle - half_px < -0.5 or middle + half_px > cols - 0.5:
            raise InputError(
                f"the sample's shadow covers columns {middle - half_px:.1f} to {middle + half_px:.1f}, but the "
                f"detector has {cols}: widen detector_shape or pixel_pitch_mm, or scale the phantom down"
            )

    @property
    def counter_limit(self) -> int:
        """The largest count a counter holds."""
        return int(2**self.counter_depth_bits - 1)

    @property
    def counters(self) -> list[Counter]:
        """The counters that are written."""
        thresholds = self.thresholds_kev[:1] if self.format == "data_exchange" else self.thresholds_kev
        return [Counter(index, "CSM", threshold) for index, threshold in enumerate(thresholds)]

    @property
    def angle_step_rad(self) -> float:
        """Angle from one view to the next, rad."""
        return self.angle_range_rad / self.views

    def geometry(self) -> ScanGeometry:
        """Return where source and detector stand in every view."""
        return ScanGeometry.circular(
            source_to_isocenter_mm=self.source_to_isocenter_mm,
            source_to_detector_mm=self.source_to_detector_mm,
            detector_shape=self.detector_shape,
            pixel_pitch_mm=self.pixel_pitch_mm,
            angles_rad=self.angle_step_rad * np.arange(self.views),
            principal_point_px=self.principal_point_px,
        )
