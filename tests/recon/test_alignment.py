"""The center of rotation, against scans whose axis is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from marspipe.errors import GeometryError, InputError
from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.chain import Preprocessor
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.readers import READERS
from marspipe.recon.alignment import LOW_QUALITY, UncertainCenterWarning, find_center, with_axis_column
from marspipe.recon.alignment.conjugate_rays import ConjugateRays
from marspipe.recon.alignment.sharpness import edge_slope
from marspipe.scan.energy import Counter, counter_bins
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.phantoms import Cylinder, line_integrals, shepp_logan
from tests.recon.scans import circle, without_orbit

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
HTC = CASES / "htc2022_fan"
TOOTH = Path(__file__).parents[1] / "data" / "tooth" / "tooth.h5"
with_htc = pytest.mark.skipif(not HTC.is_dir(), reason=f"no {HTC.parts[-3:]} beside the checkout")

COLUMNS, PARTS = 129, 4
FAN, PARALLEL = {"source_to_isocenter_mm": 40.0, "source_to_detector_mm": 60.0}, None
SHORT = np.pi + 0.45  # 180 degrees and this fan of 12 degrees to each side


def scan(
    beam: dict[str, float] | None, angles_rad: NDArray[np.float64], column_px: float, columns: int = COLUMNS
) -> ScanGeometry:
    detector = {
        "detector_shape": (1, columns),
        "pixel_pitch_mm": (0.2, 0.2),
        "angles_rad": angles_rad,
        "principal_point_px": (0.0, column_px),
    }
    if beam is None:
        return ScanGeometry.parallel(**detector)  # type: ignore[arg-type]
    return ScanGeometry.circular(**beam, **detector)  # type: ignore[arg-type]


def subdivided(geometry: ScanGeometry) -> ScanGeometry:
    """Return the scan with every column cut into parts: sampled at points, sharp edges fall between the columns."""
    orbit = geometry.orbit
    assert orbit is not None
    return ScanGeometry.circular(
        source_to_isocenter_mm=orbit.source_to_isocenter_mm,
        source_to_detector_mm=orbit.source_to_detector_mm,
        detector_shape=(1, PARTS * geometry.detector_shape[1]),
        pixel_pitch_mm=(0.2, orbit.pixel_pitch_mm[1] / PARTS),
        angles_rad=geometry.angles_rad,
        principal_point_px=(0.0, PARTS * orbit.principal_point_px[1] + (PARTS - 1) / 2),
    )


def measured(geometry: ScanGeometry, radius_mm: float = 7.0, noise: float = 0.0) -> NDArray[np.float64]:
    """Return the head's line integrals, at most 2, means over the width of a pixel, with noise of a given deviation."""
    integrals = line_integrals(shepp_logan(radius_mm), subdivided(geometry))[:, 0].astype(np.float64)
    integrals = integrals.reshape(len(geometry), -1, PARTS).mean(axis=2)
    integrals *= 2 / integrals.max()
    return integrals + noise * np.random.default_rng(7).standard_normal(integrals.shape)


def unknown(geometry: ScanGeometry) -> ScanGeometry:
    """Return the geometry as one knows it before the axis is known."""
    return with_axis_column(geometry, 0.5 * (geometry.detector_shape[1] - 1))


RNG = np.random.default_rng(3)
EXACT = {
    "parallel, full circle": (PARALLEL, circle(120), 61.37, 11.0),
    "parallel, odd number of views": (PARALLEL, circle(121), 66.5, 11.0),
    "parallel, 200 degrees": (PARALLEL, circle(100, np.deg2rad(200)), 58.8, 10.0),
    "parallel, 0 and 180 degrees": (PARALLEL, np.linspace(0, np.pi, 91), 61.3, 11.0),
    "parallel, axis 45 % off": (PARALLEL, circle(180), 6.75, 9.0),
    "fan, full circle": (FAN, circle(120), 64.0, 7.0),
    "fan, the other way around": (FAN, -circle(120), 63.6, 7.0),
    "fan, views in any order": (FAN, RNG.permutation(circle(120)), 65.37, 7.0),
    "fan, irregular angles": (FAN, circle(180) + RNG.uniform(-0.01, 0.01, 180), 62.2, 7.0),
    "fan, first angle repeated": (FAN, np.linspace(0, 2 * np.pi, 121), 62.2, 7.0),
    "fan, two turns": (FAN, circle(240, 4 * np.pi), 62.2, 7.0),
    "fan, axis 45 % off to the left": (FAN, circle(180), 6.75, 7.0),
    "fan, axis 45 % off to the right": (FAN, circle(180), 121.6, 7.0),
    "fan, sample wider than the detector": (FAN, circle(180), 67.9, 14.0),
    "fan, 30 degrees missing": (FAN, np.delete(circle(120), slice(30, 40)), 63.3, 7.0),
    "short scan": (FAN, circle(140, SHORT), 66.3, 7.0),
    "short scan, the other way around": (FAN, -circle(140, SHORT), 66.3, 7.0),
}


@pytest.mark.parametrize("case", EXACT)
def test_finds_the_axis_of_exact_data(case: str) -> None:
    beam, angles, column, radius = EXACT[case]
    geometry = scan(beam, angles, column)
    found = find_center(measured(geometry, radius), unknown(geometry))
    assert found.method == "conjugate"
    assert found.column_px == pytest.approx(column, abs=0.02)
    assert found.quality > 0.5
    assert found.disagreement < 1e-3


@pytest.mark.parametrize(("views", "turn", "column"), [(120, np.pi, 61.3), (120, -np.pi, 61.3), (91, np.pi, 70.6)])
def test_finds_the_axis_of_a_parallel_beam_without_opposite_views(views: int, turn: float, column: float) -> None:
    geometry = scan(PARALLEL, circle(views, turn), column)
    found = find_center(measured(geometry, 11.0), unknown(geometry))
    assert found.method == "vo"
    assert found.column_px == pytest.approx(column, abs=0.1)
    assert found.quality > 0.5


@pytest.mark.parametrize(
    ("beam", "angles", "column", "noise", "tolerance"),
    [
        (FAN, circle(180), 64.3, 0.1, 0.03),
        (FAN, circle(180), 64.3, 0.5, 0.15),
        (FAN, circle(180), 14.3, 0.1, 0.25),  # few columns are compared
        (FAN, circle(140, SHORT), 66.3, 0.1, 0.1),
        (PARALLEL, circle(120, np.pi), 61.3, 0.05, 0.15),
    ],
)
def test_noise_makes_the_column_uncertain_by_what_is_said(
    beam: dict[str, float] | None, angles: NDArray[np.float64], column: float, noise: float, tolerance: float
) -> None:
    geometry = scan(beam, angles, column)
    found = find_center(measured(geometry, noise=noise), unknown(geometry))
    error = abs(found.column_px - column)
    assert error < tolerance
    assert error < 4 * found.uncertainty_px + 0.02
    assert found.uncertainty_px < 0.5
    assert found.quality > LOW_QUALITY


def test_uncertainty_is_the_scatter_of_repeated_measurements() -> None:
    geometry = scan(FAN, circle(90), 31.2, columns=64)
    clean = measured(geometry, 3.5)
    random = np.random.default_rng(1)
    found = [find_center(clean + 0.3 * random.standard_normal(clean.shape), geometry) for _ in range(12)]
    scatter = np.sqrt(np.mean([(f.column_px - 31.2) ** 2 for f in found]))
    said = np.mean([f.uncertainty_px for f in found])
    assert 0.4 * scatter < said < 2.5 * scatter


@pytest.mark.parametrize(("beam", "angles"), [(FAN, circle(90)), (PARALLEL, circle(90)), (PARALLEL, circle(90, np.pi))])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_empty_air_tells_nothing_and_says_so(
    beam: dict[str, float] | None, angles: NDArray[np.float64], noise: float
) -> None:
    geometry = scan(beam, angles, 64.3)
    air = noise * np.random.default_rng(5).standard_normal((90, COLUMNS))
    with pytest.warns(UncertainCenterWarning, match="hardly tell where the rotation axis is"):
        found = find_center(air, geometry)
    assert found.quality < LOW_QUALITY


def test_a_uniform_sample_wider_than_the_detector_is_uncertain() -> None:
    """A slab of nothing but the same: the rays agree wherever the axis is."""
    geometry = scan(PARALLEL, circle(90), 64.3)
    flat = 1.0 + 0.01 * np.random.default_rng(5).standard_normal((90, COLUMNS))
    with pytest.warns(UncertainCenterWarning):
        assert find_center(flat, geometry).quality < LOW_QUALITY


def test_a_round_sample_on_the_axis_still_shows_it() -> None:
    geometry = scan(FAN, circle(90), 64.3)
    integrals = line_integrals([Cylinder((0.0, 0.0, 0.0), 5.0, 10.0)], geometry)[:, 0]
    found = find_center(integrals, unknown(geometry))
    assert found.column_px == pytest.approx(64.3, abs=0.1)


def test_frames_that_turn_the_other_way_are_noticed() -> None:
    geometry = scan(FAN, circle(120), 64.3)
    wrong = scan(FAN, -circle(120), 64.3)
    with pytest.warns(UncertainCenterWarning) as said:
        find_center(measured(geometry), wrong)
    assert any("if the scan turns the other way" in str(w.message) for w in said)


def test_neighboring_rows_are_averaged() -> None:
    geometry = scan(FAN, circle(120), 64.3)
    clean = measured(geometry)
    rows = np.stack([clean - 0.4, clean, clean + 0.4], axis=1)
    assert find_center(rows, geometry).column_px == pytest.approx(find_center(clean, geometry).column_px, abs=1e-3)


def test_search_stays_where_it_is_told_to() -> None:
    geometry = scan(FAN, circle(120), 70.3)
    found = find_center(measured(geometry), with_axis_column(geometry, 68.0), search_px=4.0)
    assert found.column_px == pytest.approx(70.3, abs=0.05)
    assert found.columns_px.min() >= 64.0
    assert found.columns_px.max() <= 72.0
    with pytest.warns(UncertainCenterWarning, match="the end of what was searched, columns 54 to 62"):
        beside = find_center(measured(geometry), with_axis_column(geometry, 58.0), search_px=4.0)
    assert beside.quality == 0.0


def test_disagreement_of_exact_and_of_unrelated_rays() -> None:
    geometry = scan(PARALLEL, circle(120), 64.0)
    rays = ConjugateRays(measured(geometry, 11.0), geometry.angles_rad, 0.0)
    assert rays(64.0) < 1e-12  # opposite views and mirrored columns are measured themselves
    assert rays(80.0) > 0.3
    noise = np.random.default_rng(2).standard_normal((120, COLUMNS))
    assert ConjugateRays(noise, geometry.angles_rad, 0.0)(60.3) == pytest.approx(1.0, abs=0.1)
    assert np.isnan(rays(1.0))


GOOD = scan(FAN, circle(60), 64.0)
ZEROS = np.zeros((60, COLUMNS))


@pytest.mark.parametrize(
    ("sinogram", "geometry", "options", "error", "message"),
    [
        (ZEROS, GOOD, {"method": "guess"}, InputError, "method must be one of auto, conjugate, vo, got 'guess'"),
        (ZEROS, GOOD, {"method": "vo"}, GeometryError, "method vo needs parallel rays"),
        (ZEROS, GOOD, {"search_px": -1.0}, InputError, "search_px must be positive"),
        (ZEROS[:50], GOOD, {}, InputError, r"geometry's shape \(60, 129\) \(views, columns\), got \(50, 129\)"),
        (np.full((60, COLUMNS), np.nan), GOOD, {}, InputError, "must be finite, but view 0 is not"),
        (ZEROS, without_orbit(GOOD), {}, GeometryError, "needs a circular orbit"),
        (ZEROS[:1], scan(FAN, circle(1), 64.0), {}, GeometryError, "views at two angles or more, got 1"),
        (ZEROS[:2], scan(FAN, np.zeros(2), 64.0), {}, GeometryError, "views at two angles or more, got 1"),
        (ZEROS, scan(FAN, circle(60, np.pi / 2), 64.0), {}, GeometryError, "measured twice: the views cover 88.5 deg"),
        (ZEROS, scan(PARALLEL, circle(60, np.pi / 2), 64.0), {}, GeometryError, "needs views over 180 degrees; 91.5"),
        (ZEROS, scan(PARALLEL, circle(60, np.pi), 64.0), {"method": "conjugate"}, GeometryError, "no line is measured"),
        (ZEROS[:8], scan(PARALLEL, circle(8, np.pi), 64.0), {}, GeometryError, "12 views or more .*, got 8"),
        (ZEROS[:, :9], scan(FAN, circle(60), 4.0, 9), {}, GeometryError, "16 detector columns or more, got 9"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named(
    sinogram: NDArray[np.float64],
    geometry: ScanGeometry,
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        find_center(sinogram, geometry, **options)  # type: ignore[arg-type]


def test_a_helix_is_refused() -> None:
    helix = ScanGeometry.circular(
        **FAN,
        detector_shape=(8, COLUMNS),
        pixel_pitch_mm=(0.2, 0.2),
        angles_rad=circle(60),
        source_z_mm=np.linspace(-1, 1, 60),
    )
    with pytest.raises(GeometryError, match="the views stand at heights -1 to 1 mm"):
        find_center(ZEROS, helix)


def test_edge_slope_tells_sharp_from_blurred_and_doubled() -> None:
    sharp = np.zeros((64, 64), np.float32)
    sharp[20:44, 20:44] = 1.0
    blurred = sum(np.roll(sharp, k, axis=1) for k in range(-2, 3)) / 5
    doubled = 0.5 * (np.roll(sharp, 2, axis=1) + np.roll(sharp, -2, axis=1))
    assert edge_slope(sharp, (1.0, 1.0)) > 1.1 * edge_slope(blurred, (1.0, 1.0))
    assert edge_slope(sharp, (1.0, 1.0)) > 1.1 * edge_slope(doubled, (1.0, 1.0))
    assert edge_slope(sharp, (0.5, 0.5)) == pytest.approx(2 * edge_slope(sharp, (1.0, 1.0)))
    assert edge_slope(np.ones((8, 8)), (1.0, 1.0)) == 0.0


# --- measured scans --------------------------------------------------------------------------------------------------


def test_the_axis_of_the_tooth() -> None:
    """Its first view and the mirrored last one, one step apart, correlate best at column 295.86."""
    stacks = []
    with TOOTH.open("rb") as raw:
        for frame_type in ("projection", "open_beam", "dark"):
            entries = READERS["data_exchange"].index(raw, str(TOOTH), frame_type=frame_type)
            stacks.append(np.stack(list(READERS["data_exchange"].read_many(raw, entries))))
    projections, flats, darks = stacks
    calibration = Calibration((OpenBeams((PixelSums.of(flats),)),), (PixelSums.of(darks),))
    preprocess = Preprocessor(calibration, counter_bins([Counter(0, "SPM", 0.0)]))
    rows = np.stack([preprocess(frame[None])[0] for frame in projections])
    geometry = ScanGeometry.parallel(
        detector_shape=(2, 640), pixel_pitch_mm=(0.01, 0.01), angles_rad=np.pi / 181 * np.arange(181)
    )
    found = find_center(rows, geometry)
    assert found.method == "vo"
    assert found.column_px == pytest.approx(295.86, abs=0.15)
    assert found.quality > LOW_QUALITY


@with_htc
@pytest.mark.parametrize(
    ("name", "views", "tolerance"), [("ta", 721, 0.15), ("01a", 721, 0.15), ("ta", 430, 0.25), ("ta", 181, None)]
)
def test_the_axis_of_a_measured_disc(name: str, views: int, tolerance: float | None) -> None:
    """The authors centered the detector on the axis, column 279.5."""
    data = scipy.io.loadmat(HTC / f"htc2022_{name}_full.mat", squeeze_me=True, struct_as_record=False)["CtDataFull"]
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=410.66,
        source_to_detector_mm=553.74,
        detector_shape=(1, 560),
        pixel_pitch_mm=(0.2, 0.2),
        angles_rad=np.deg2rad(np.asarray(data.parameters.angles[:views], np.float64)),
    )
    if tolerance is None:
        with pytest.raises(GeometryError, match="the views cover 90 degrees"):
            find_center(data.sinogram[:views], geometry)
        return
    found = find_center(data.sinogram[:views], geometry)
    assert found.column_px == pytest.approx(279.5, abs=tolerance)
    assert found.quality > 0.9
    # An offset detector: a third of it covered.
    cut = with_axis_column(geometry, 279.5).with_detector((1, 380), (0.0, 99.5))
    assert find_center(data.sinogram[:views, 180:], cut).column_px == pytest.approx(99.5, abs=0.3)
