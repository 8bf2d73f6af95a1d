"""Every defect does what its truth says: exactly without noise, within the sampling error with it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from marspipe.errors import InputError
from marspipe.readers import READERS
from marspipe.readers.manifest import load_manifest
from marspipe.scan.spectra import CounterResponse
from marspipe.simulate import Defects, SimulationSettings, mars_phantom, simulate_scan
from marspipe.simulate.acquisition import Acquisition, Stream
from marspipe.simulate.response import SharedChargeResponse

NOISY = SimulationSettings(
    views=4,
    detector_shape=(6, 20),
    phantom=mars_phantom(0.15),
    thresholds_kev=(20.0, 50.0),
    open_beams=3,
    darks=2,
    dead_pixels=0,
    noisy_pixels=0,
)
QUIET = replace(NOISY, noise=False, gain_spread=0.0, open_beam_photons=4e6)
BEFORE, AFTER, PROJECTION = Stream.OPEN_BEAM_BEFORE, Stream.OPEN_BEAM_AFTER, Stream.PROJECTION


def camera(settings: SimulationSettings, **defects: Any) -> Acquisition:
    return Acquisition(replace(settings, defects=Defects(**defects)))


def stack(acquisition: Acquisition, stream: Stream, count: int) -> np.ndarray:
    return np.stack(list(acquisition.frames(stream, count))).astype(np.float64)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- one by one ------------------------------------------------------------------------------------------------------


def test_gains_drift_linearly_in_time_from_flats_to_flats() -> None:
    drifting = camera(QUIET, gain_drift_spread=0.05)
    before, after = (stack(drifting, stream, 3).mean(axis=0) for stream in (BEFORE, AFTER))
    open_beam = Acquisition(QUIET).expected_bins(None).sum(axis=0)
    np.testing.assert_allclose(before[0], open_beam, rtol=2e-6)  # the middle one lies at the middle of the group
    np.testing.assert_allclose(after[0] / before[0] - 1, drifting.gain_drift, atol=2e-6)
    assert drifting.gain_drift.std() == pytest.approx(0.05, rel=5 / math.sqrt(2 * 120))
    shots = [drifting.shot(PROJECTION, view) for view in range(4)]
    starts, shares = np.array([s.time_s for s in shots]), np.array([s.drift for s in shots])
    t0, t1 = drifting.shot(BEFORE, 1).time_s, drifting.shot(AFTER, 1).time_s
    np.testing.assert_allclose(shares, (starts - t0) / (t1 - t0), atol=1e-9)
    assert np.all(np.diff(shares) > 0) and 0 < shares[0] < shares[-1] < 1
    for view in (0, 3):
        expected = drifting.expected_bins(view)[::-1].cumsum(axis=0)[::-1] * (1 + shares[view] * drifting.gain_drift)
        assert np.abs(drifting.frame(PROJECTION, view) - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("model", "measured"),
    [("paralyzable", lambda n, tau: n * np.exp(-n * tau)), ("non-paralyzable", lambda n, tau: n / (1 + n * tau))],
)
def test_dead_time_loses_counts_of_each_counter(model: Any, measured: Any) -> None:
    rate = QUIET.open_beam_photons / Acquisition(QUIET).exposure_s
    taus = (0.2 / rate, 0.4 / rate)
    acquisition = camera(QUIET, dead_time_s=taus, dead_time_model=model)
    for stream, view in ((BEFORE, None), (PROJECTION, 2)):
        true = acquisition.expected_bins(view)[::-1].cumsum(axis=0)[::-1]
        per_s = true / acquisition.exposure_s
        for counter in range(2):
            expected = measured(per_s[counter], taus[counter]) * acquisition.exposure_s
            found = acquisition.frame(stream, 2)[counter]
            assert np.abs(found - expected).max() <= 0.5 + 1e-6
            assert found.max() < 0.97 * true[counter].max()


def test_dead_time_that_would_paralyze_is_refused() -> None:
    rate = NOISY.open_beam_photons / Acquisition(NOISY).exposure_s
    with pytest.raises(InputError, match=r"dead_time_s = .* paralyzes the counters: up to 1\.\d\d photons"):
        camera(NOISY, dead_time_s=(1.0 / rate,))
    camera(NOISY, dead_time_s=(1.0 / rate,), dead_time_model="non-paralyzable")
    with pytest.raises(InputError, match="must not fall with the threshold"):
        replace(NOISY, defects=Defects(dead_time_s=(2e-6, 1e-6)))
    with pytest.raises(InputError, match="1 or 2 values, one per counter"):
        replace(NOISY, defects=Defects(dead_time_s=(1e-6, 1e-6, 1e-6)))


def test_the_tube_fluctuates_from_frame_to_frame() -> None:
    n = 400
    settings = replace(NOISY, open_beams=n, defects=Defects(flux_spread=0.05))
    acquisition = Acquisition(settings)
    flux = np.array([acquisition.shot(BEFORE, k).flux for k in range(n)])
    assert flux.mean() == pytest.approx(1.0, abs=5 * 0.05 / math.sqrt(n))
    # A normal distribution that is cut at 3 sigma is 1.3 % narrower.
    assert flux.std() == pytest.approx(0.05 * 0.987, rel=5 / math.sqrt(2 * n))
    means = np.array([acquisition.frame(BEFORE, k)[0].mean() for k in range(40)])
    mean = settings.open_beam_photons * acquisition.gain.mean()
    assert np.abs(means / (mean * flux[:40]) - 1).max() < 5 / math.sqrt(mean * 120)
    assert acquisition.shot(Stream.DARK, 0).flux == 0


def test_projections_may_be_exposed_longer() -> None:
    acquisition = camera(QUIET, projection_exposure_ratio=2.5)
    expected = 2.5 * acquisition.expected_bins(1)[::-1].cumsum(axis=0)[::-1]
    assert np.abs(acquisition.frame(PROJECTION, 1) - expected).max() <= 0.5 + 1e-6
    assert acquisition.shot(PROJECTION, 1).exposure_s == pytest.approx(2.5 * acquisition.exposure_s)
    assert acquisition.shot(BEFORE, 1).exposure_s == acquisition.exposure_s
    starts = [acquisition.shot(PROJECTION, view).time_s for view in range(4)]
    np.testing.assert_allclose(np.diff(starts), 2.5 * acquisition.exposure_s, rtol=1e-9)


def test_scatter_is_the_same_everywhere(tmp_path: Path) -> None:
    settings = replace(QUIET, defects=Defects(scatter_fraction=0.04))
    truth = json.loads((simulate_scan(tmp_path, settings=settings).parent / "truth/truth.json").read_text("utf-8"))
    acquisition, clean = Acquisition(settings), Acquisition(QUIET)
    more = acquisition.frame(PROJECTION, 0).astype(np.int64) - clean.frame(PROJECTION, 0)
    counts = truth["defects"]["scatter_counts"]
    assert np.abs((more[0] - more[1]) - counts[0]).max() <= 2 and np.abs(more[1] - counts[1]).max() <= 1
    np.testing.assert_allclose(counts, 0.04 * acquisition.weights.sum(axis=1))
    assert np.array_equal(acquisition.frame(BEFORE, 0), clean.frame(BEFORE, 0))


def test_zingers_add_the_listed_counts_and_change_nothing_else(tmp_path: Path) -> None:
    settings = replace(NOISY, dead_pixels=10, views=30, defects=Defects(zingers_per_frame=4.0))
    simulate_scan(tmp_path, settings=settings)
    rows = rows_of(tmp_path / "truth/zingers.csv")
    hit, clean = Acquisition(settings), Acquisition(replace(settings, defects=Defects()))
    for name, stream, number in (
        ("projections", PROJECTION, 7),
        ("dark", Stream.DARK, 1),
        ("open_beam_after", AFTER, 0),
    ):
        expected = clean.frame(stream, number).astype(np.int64)
        for row in rows:
            if (row["part"], int(row["exposure"])) == (name, number):
                expected[:, int(row["row"]), int(row["col"])] += int(row["counts"])
        assert np.array_equal(hit.frame(stream, number), expected)
    frames = 30 + 2 * 3 + 2
    mean = 4.0 * (1 - 10 / 120) * frames
    assert len(rows) == pytest.approx(mean, abs=5 * math.sqrt(mean))
    counts = np.array([int(row["counts"]) for row in rows])
    assert counts.min() >= 0.5 * settings.open_beam_photons and counts.max() <= 2 * settings.open_beam_photons


def test_rings_come_from_pixels_whose_gain_differs_in_projections() -> None:
    wide = replace(QUIET, detector_shape=(40, 40), pixel_pitch_mm=(0.055, 0.055))
    acquisition, clean = camera(wide, ring_fraction=0.1, ring_spread=0.03), Acquisition(wide)
    ratio = acquisition.frame(PROJECTION, 2) / clean.frame(PROJECTION, 2)
    np.testing.assert_allclose(ratio[0], acquisition.ring_gain, atol=2e-6)
    assert np.array_equal(acquisition.frame(BEFORE, 0), clean.frame(BEFORE, 0))
    changed = acquisition.ring_gain != 1
    assert np.count_nonzero(changed) == 160
    assert acquisition.ring_gain[changed].std() == pytest.approx(0.03, rel=5 / math.sqrt(2 * 160))


def test_open_beams_through_plates(tmp_path: Path) -> None:
    defects = Defects(absorbers_mm=(1.0, 4.0), absorber_frames=2)
    settings = replace(QUIET, defects=defects)
    manifest_path = simulate_scan(tmp_path, settings=settings)
    manifest = load_manifest(manifest_path.read_text("utf-8"), "scan.yaml")
    plates = [file for file in manifest.files if file.frame_type == "absorber"]
    assert [(file.path, file.absorber_mm) for file in plates] == [("absorber_0.mib", 1.0), ("absorber_1.mib", 4.0)]
    truth = json.loads((tmp_path / "truth/truth.json").read_text("utf-8"))["defects"]["absorbers"]
    body = json.loads((tmp_path / "truth/truth.json").read_text("utf-8"))["body"]
    open_beam = Acquisition(settings).weights.sum(axis=1)
    for file, plate in zip(plates, truth, strict=True):
        with (tmp_path / file.path).open("rb") as opened:
            entries = READERS["merlin"].index(opened, file.path)
            assert len(entries) == 2 * 2
            counters = [READERS["merlin"].read(opened, entry) for entry in entries[:2]]
        bins = np.array(plate["open_beam_counts"])
        for counter, expected in zip(counters, (bins.sum(), bins[1]), strict=True):
            assert np.abs(counter - expected).max() <= 0.5
        # The body is of the plates' material: its attenuation behind 1.2 mm is close to theirs.
        np.testing.assert_allclose(
            -np.log(bins / open_beam) / plate["thickness_mm"], body["attenuation_per_mm"], rtol=0.03
        )


def test_the_monitor_follows_the_tube(tmp_path: Path) -> None:
    defects = Defects(monitor_counts=1e6, flux_spread=0.05, projection_exposure_ratio=2.0)
    settings = replace(NOISY, format="nxtomo", views=50, defects=defects)
    simulate_scan(tmp_path, settings=settings)
    with (tmp_path / "scan.nxs").open("rb") as file:
        entries = READERS["nxtomo"].index(file, "scan.nxs")
    rows = [row for row in rows_of(tmp_path / "truth/exposures.csv") if row["part"] == "projections"]
    assert [entry.monitor for entry in entries[::2]] == [float(row["monitor"]) for row in rows]
    flux = np.array([float(row["flux"]) for row in rows])
    monitor = np.array([float(row["monitor"]) for row in rows])
    deviation = (monitor - 2e6 * flux) / np.sqrt(2e6 * flux)
    assert abs(deviation.mean()) < 5 / math.sqrt(50) and deviation.std() == pytest.approx(1, abs=5 / math.sqrt(100))
    assert entries[0].exposure_s == pytest.approx(2 * Acquisition(settings).exposure_s)


# --- together --------------------------------------------------------------------------------------------------------


def test_counts_scatter_as_poissons_around_the_expectation_of_all_defects() -> None:
    n = 300
    defects = Defects(
        gain_drift_spread=0.03, dead_time_s=(2e-8,), scatter_fraction=0.03, ring_fraction=0.5, ring_spread=0.02
    )
    settings = replace(NOISY, open_beam_photons=2000.0, views=n, angle_range_rad=1e-9, defects=defects)
    acquisition = Acquisition(settings)
    expected = np.stack([acquisition.expected_counters(PROJECTION, view) for view in range(n)])
    deviation = (stack(acquisition, PROJECTION, n) - expected) / np.sqrt(expected)
    pixels = 6 * 20
    assert abs(deviation.mean()) < 5 / math.sqrt(n * pixels)
    assert deviation[:, 0].var() == pytest.approx(1, abs=5 * math.sqrt(2 / (n * pixels)))
    assert np.abs(deviation.mean(axis=0)).max() < 5 / math.sqrt(n)


def test_without_defects_there_is_no_further_truth(tmp_path: Path) -> None:
    settings = replace(NOISY, defects=Defects(zingers_per_frame=1.0, gain_drift_spread=0.01))
    simulate_scan(tmp_path, settings=settings)
    names = {path.name for path in (tmp_path / "truth").iterdir()}
    assert names == {"truth.json", "exposures.csv", "zingers.csv", "gain_drift.npy"}
    np.testing.assert_array_equal(np.load(tmp_path / "truth/gain_drift.npy"), Acquisition(settings).gain_drift)
    rows = rows_of(tmp_path / "truth/exposures.csv")
    assert [row["part"] for row in rows] == ["dark"] * 2 + ["open_beam_before"] * 3 + ["projections"] * 4 + [
        "open_beam_after"
    ] * 3
    simulate_scan(tmp_path, settings=NOISY, overwrite=True)
    assert [path.name for path in (tmp_path / "truth").iterdir()] == ["truth.json"]
    assert "defects" not in json.loads((tmp_path / "truth/truth.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain_drift_spread": -0.1}, "gain_drift_spread must be within 0 to 0.2"),
        ({"flux_spread": math.nan}, "flux_spread"),
        ({"ring_fraction": 0.1}, "both ring_fraction and ring_spread"),
        ({"projection_exposure_ratio": 0.0}, "projection_exposure_ratio"),
        ({"dead_time_model": "nonparalyzable"}, "'paralyzable' or 'non-paralyzable'"),
        ({"dead_time_s": (0.0,)}, r"dead_time_s must be positive and finite \(s\)"),
        ({"absorbers_mm": (-1.0,)}, r"absorbers_mm must be positive and finite \(mm\)"),
        ({"absorber_frames": 0}, "absorber_frames"),
        ({"scatter_fraction": 2.0}, "scatter_fraction"),
    ],
)
def test_impossible_defects_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Defects(**change)


def test_a_longer_exposure_may_saturate() -> None:
    with pytest.raises(InputError, match="saturates a 12-bit counter"):
        replace(NOISY, open_beam_photons=2000.0, counter_depth_bits=12, defects=Defects(projection_exposure_ratio=2.0))


# --- modes -----------------------------------------------------------------------------------------------------------


def test_single_pixels_share_charge() -> None:
    sharp = SharedChargeResponse(fwhm_kev=0.0, shared_fraction=0.4)
    # Of a photon of 60 keV that is shared, each pixel is above 20 keV with probability 2/3.
    assert sharp.above(60.0, 20.0) == pytest.approx(0.6 + 0.4 * 2 * 2 / 3, abs=0.4 * 2 / 32)
    blurred = SharedChargeResponse(shared_fraction=0.4)
    whole = CounterResponse()
    for energy, threshold in ((60.0, 20.0), (80.0, 50.0), (30.0, 33.0)):
        shared, _ = quad(lambda x, e=energy, t=threshold: float(whole.above(x * e, t)), 0, 1)
        expected = 0.6 * whole.above(energy, threshold) + 0.8 * shared
        assert blurred.above(energy, threshold) == pytest.approx(float(expected), abs=2e-3)
    assert SharedChargeResponse().above(50.0, 30.0) == whole.above(50.0, 30.0)


def test_eight_counters_of_two_modes() -> None:
    ladder = (20.0, 33.0, 50.0, 80.0)
    settings = replace(
        NOISY, thresholds_kev=ladder * 2, modes=("SPM",) * 4 + ("CSM",) * 4, open_beams=200, gain_spread=0.0
    )
    acquisition = Acquisition(settings)
    assert [(c.index, c.mode, c.threshold_kev) for c in settings.counters][3:5] == [(3, "SPM", 80.0), (4, "CSM", 20.0)]
    frames = stack(acquisition, BEFORE, 200)
    for members in (slice(0, 4), slice(4, 8)):
        assert np.all(np.diff(frames[:, members], axis=1) <= 0)
    mean = frames.mean(axis=(0, 2, 3))
    brightest = max(mean[0], mean[4])
    assert brightest == pytest.approx(settings.open_beam_photons, abs=5 * math.sqrt(1e5 / (200 * 120)))
    # Shared charge moves counts from high to low energies.
    assert mean[3] / mean[0] < 0.9 * mean[7] / mean[4]
    # The two ladders draw apart.
    apart = (frames - mean[None, :, None, None]) / np.sqrt(mean[None, :, None, None])
    assert abs((apart[:, 0] * apart[:, 4]).mean()) < 5 / math.sqrt(200 * 120)
    assert (apart[:, 4] * apart[:, 5]).mean() == pytest.approx(math.sqrt(mean[5] / mean[4]), abs=0.05)


def test_modes_change_nothing_if_all_are_charge_summing() -> None:
    same = Acquisition(replace(NOISY, modes=("CSM", "CSM"), shared_charge_fraction=0.9))
    assert np.array_equal(same.frame(PROJECTION, 1), Acquisition(NOISY).frame(PROJECTION, 1))
