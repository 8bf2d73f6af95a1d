from __future__ import annotations

import hashlib
import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest

from marspipe.errors import GeometryError, InputError, OutputExistsError
from marspipe.readers import READERS
from marspipe.readers.manifest import load_manifest, resolve_angles
from marspipe.scan.phantoms import chord_lengths
from marspipe.scan.spectra import (
    CounterResponse,
    Solution,
    bin_weights,
    effective_attenuation,
    linear_attenuation,
    tube_spectrum,
)
from marspipe.simulate import Insert, InsertPhantom, SimulationSettings, mars_phantom, simulate_scan
from marspipe.simulate.acquisition import Acquisition, Stream

# The whole sample on few pixels.
SMALL = SimulationSettings(
    scan_id="small",
    views=5,
    detector_shape=(14, 34),
    pixel_pitch_mm=(1.0, 0.42),
    open_beams=3,
    darks=2,
    dead_pixels=2,
    noisy_pixels=3,
)
QUIET = replace(SMALL, noise=False, dead_pixels=0, noisy_pixels=0, gain_spread=0.0, open_beam_photons=1e6)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_all(manifest_path: Path) -> dict[str, np.ndarray]:
    """Frames of every file of a scan [exposure, counter, v, u], read by the reader that the manifest names."""
    manifest = load_manifest(manifest_path.read_text("utf-8"), str(manifest_path))
    frames = {}
    for file in manifest.files:
        reader = READERS[file.reader]
        with (manifest_path.parent / file.path).open("rb") as opened:
            entries = reader.index(opened, file.path, dataset=file.dataset, frame_type=file.frame_type)
            images = np.stack(list(reader.read_many(opened, entries)))
        exposures = 1 + max(entry.exposure_index for entry in entries)
        name = file.path if file.reader == "merlin" else file.frame_type
        frames[name] = images.reshape(exposures, -1, *images.shape[1:])
    return frames


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return simulate_scan(tmp_path_factory.mktemp("scan"), settings=SMALL)


@pytest.fixture(scope="module")
def small():
    return Acquisition(SMALL)


@pytest.fixture(scope="module")
def quiet():
    return Acquisition(QUIET)


# --- files -----------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes(scan, tmp_path):
    again = simulate_scan(tmp_path / "again", settings=SMALL)
    assert contents(again.parent) == contents(scan.parent)
    other = contents(simulate_scan(tmp_path / "other", settings=replace(SMALL, seed=1)).parent)
    same = {name for name, digest in contents(scan.parent).items() if other[name] == digest}
    assert same == {"dark.hdr", "open_beam_before.hdr", "projections.hdr", "open_beam_after.hdr", "scan.yaml"}


def test_the_manifest_describes_the_scan(scan):
    manifest = load_manifest(scan.read_text("utf-8"), str(scan))
    assert manifest.scan_id == "small"
    np.testing.assert_allclose(manifest.projection_angles(), QUIET.geometry().angles_rad, rtol=1e-15)
    assert manifest.camera_counters() == SMALL.counters
    assert [(f.path, f.frame_type, f.time) for f in manifest.files] == [
        ("dark.mib", "dark", "before"),
        ("open_beam_before.mib", "open_beam", "before"),
        ("projections.mib", "projection", None),
        ("open_beam_after.mib", "open_beam", "after"),
    ]
    assert manifest.tube is not None and manifest.tube.filters == {"Al": 3.8}


def test_readers_return_the_very_counts(scan, small):
    frames = read_all(scan)
    for name, stream, count in (
        ("projections.mib", Stream.PROJECTION, 5),
        ("open_beam_before.mib", Stream.OPEN_BEAM_BEFORE, 3),
        ("open_beam_after.mib", Stream.OPEN_BEAM_AFTER, 3),
        ("dark.mib", Stream.DARK, 2),
    ):
        assert np.array_equal(frames[name], np.stack(list(small.frames(stream, count)))), name
        assert frames[name].dtype == np.uint32
    assert not np.array_equal(frames["open_beam_before.mib"], frames["open_beam_after.mib"])


def test_headers_carry_thresholds_exposure_and_running_time(scan, small):
    entries = {}
    for name in ("dark.mib", "projections.mib"):
        with (scan.parent / name).open("rb") as file:
            entries[name] = READERS["merlin"].index(file, name)
    first, last = entries["projections.mib"][0], entries["projections.mib"][-1]
    assert first.thresholds_kev[:4] == (20.0, 33.0, 50.0, 80.0)
    assert first.counter_depth_bits == 24
    assert first.exposure_s == pytest.approx(small.exposure_s, abs=1e-6)
    assert [entry.counter for entry in entries["projections.mib"][:5]] == [0, 1, 2, 3, 0]
    assert entries["dark.mib"][0].acquired_at.startswith("2025-01-01T12:00:00")
    assert entries["dark.mib"][-1].acquired_at < first.acquired_at < last.acquired_at


def test_twelve_bits(tmp_path):
    settings = replace(SMALL, counter_depth_bits=12, open_beam_photons=3000.0)
    frames = read_all(simulate_scan(tmp_path, settings=settings))
    assert frames["projections.mib"].dtype == np.uint16
    assert 2500 < np.median(frames["open_beam_before.mib"][:, 0]) < 3500
    with pytest.raises(InputError, match=r"open_beam_photons = 100000 saturates a 12-bit counter.*against 4095"):
        replace(SMALL, counter_depth_bits=12)


@pytest.mark.parametrize("thresholds", [(30.0,), (25.0, 50.0), (15.0, 20.0, 27.0, 33.0, 45.0, 50.0, 65.0, 80.0)])
def test_one_to_eight_counters(tmp_path, thresholds):
    settings = replace(SMALL, thresholds_kev=thresholds, views=2)
    manifest_path = simulate_scan(tmp_path, settings=settings)
    frames = read_all(manifest_path)["projections.mib"]
    assert frames.shape == (2, len(thresholds), 14, 34)
    assert np.all(frames[:, :-1] >= frames[:, 1:])
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text("utf-8"))
    assert [b["low_kev"] for b in truth["bins"]] == list(thresholds)
    assert {len(insert["attenuation_per_mm"]) for insert in truth["inserts"]} == {len(thresholds)}


def test_data_exchange(scan, tmp_path):
    settings = replace(SMALL, format="data_exchange")
    manifest_path = simulate_scan(tmp_path / "one", settings=settings)
    frames = read_all(manifest_path)
    assert {name: stack.shape for name, stack in frames.items()} == {
        "projection": (5, 1, 14, 34),
        "open_beam": (6, 1, 14, 34),
        "dark": (2, 1, 14, 34),
    }
    acquisition = Acquisition(settings)
    assert np.array_equal(frames["projection"], np.stack(list(acquisition.frames(Stream.PROJECTION, 5))))
    assert acquisition.weights.sum() == pytest.approx(SMALL.open_beam_photons)
    manifest = load_manifest(manifest_path.read_text("utf-8"), str(manifest_path))
    assert [(c.mode, c.threshold_kev) for c in manifest.camera_counters()] == [("CSM", 20.0)]
    with (manifest_path.parent / "scan.h5").open("rb") as file:
        angles = resolve_angles(manifest.projection_files[0], file)
    np.testing.assert_allclose(angles, settings.geometry().angles_rad, rtol=1e-12)
    truth = json.loads((manifest_path.parent / "truth" / "truth.json").read_text("utf-8"))
    assert [b["label"] for b in truth["bins"]] == ["20+ keV"]
    assert len(truth["dead_pixels"]) == 2 and len(truth["noisy_pixels"]) == 3
    again = simulate_scan(tmp_path / "two", settings=settings)
    assert contents(again.parent) == contents(manifest_path.parent)


def test_a_scan_is_not_overwritten_unasked(tmp_path):
    settings = replace(SMALL, views=1, open_beams=1, darks=1)
    first = contents(simulate_scan(tmp_path, settings=settings).parent)
    with pytest.raises(OutputExistsError, match=r"scan\.yaml is already there"):
        simulate_scan(tmp_path, settings=replace(settings, seed=7))
    assert contents(tmp_path) == first
    simulate_scan(tmp_path, settings=replace(settings, seed=7), overwrite=True)
    assert contents(tmp_path) != first


def test_an_unwritable_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot write the simulated scan to .*file"):
        simulate_scan(tmp_path / "file" / "scan", settings=SMALL)


def test_a_run_that_fails_leaves_no_manifest(tmp_path):
    settings = replace(SMALL, views=2, open_beams=1, darks=1)
    simulate_scan(tmp_path, settings=settings)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_scan(tmp_path, settings=settings, overwrite=True, progress=stop)
    assert not (tmp_path / "scan.yaml").exists()


def test_memory_does_not_grow_with_the_scan(tmp_path):
    def peak_bytes(views: int) -> int:
        settings = replace(SMALL, detector_shape=(64, 64), pixel_pitch_mm=(0.22, 0.22), views=views)
        tracemalloc.start()
        try:
            simulate_scan(tmp_path, settings=settings, overwrite=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(2)  # compiles
    assert peak_bytes(40) - peak_bytes(2) < 10 * (4 * 64 * 64 * 4)  # less than 10 of 38 more exposures


def test_progress_counts_every_exposure(tmp_path):
    calls = []
    simulate_scan(tmp_path, settings=SMALL, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 13) for n in range(1, 14)]


# --- physics ---------------------------------------------------------------------------------------------------------


def test_expected_counts_are_beer_lambert_summed_over_energies(quiet):
    geometry, phantom = QUIET.geometry(), QUIET.phantom
    spectrum = tube_spectrum(120.0, {"Al": 3.8}, distance_mm=250.0)
    energies = spectrum.energies_kev
    weights = bin_weights(spectrum, QUIET.counters, CounterResponse())
    weights *= 1e6 / weights.sum()
    body = chord_lengths(phantom.body, geometry, 3)[0]
    integral = body[..., None] * linear_attenuation("PMMA", energies)
    for insert in phantom.inserts:
        contrast = linear_attenuation(insert.material, energies) - linear_attenuation("PMMA", energies)
        integral += chord_lengths(insert.shape, geometry, 3)[0][..., None] * contrast
    expected = np.einsum("vue,be->bvu", np.exp(-integral), weights)
    np.testing.assert_allclose(quiet.expected_bins(3), expected, rtol=1e-6)
    assert expected[0].min() < 0.7 * expected[0].max()


def test_without_noise_counts_are_the_rounded_expectation(quiet):
    bins = quiet.expected_bins(2)
    counters = np.cumsum(bins[::-1], axis=0)[::-1]
    assert np.abs(quiet.frame(Stream.PROJECTION, 2) - counters).max() <= 0.5
    assert not quiet.frame(Stream.DARK, 0).any()
    assert quiet.frame(Stream.OPEN_BEAM_BEFORE, 0)[0].tolist() == [[1_000_000] * 34] * 14


def test_an_insert_appears_where_it_is():
    rod = Insert(Solution("gold", 20.0), center_mm=(2.5, 0.0, 2.0), radius_mm=1.0, height_mm=4.0)
    settings = replace(QUIET, phantom=InsertPhantom("PMMA", 5.0, 9.0, (rod,)))
    plain = replace(QUIET, phantom=InsertPhantom("PMMA", 5.0, 9.0, ()))
    shadow = Acquisition(plain).expected_bins(0)[0] - Acquisition(settings).expected_bins(0)[0]
    rows, cols = np.nonzero(shadow > 0.1 * shadow.max())
    assert rows.mean() == pytest.approx(6.5 + 2.0 * 1.25 / 1.0, abs=0.6)  # high z: high row
    assert cols.mean() == pytest.approx(16.5 + 2.5 * 1.25 / 0.42, abs=0.6)  # at angle 0, high x: high column


def test_frames_do_not_depend_on_each_other(small):
    late = small.frame(Stream.PROJECTION, 4)
    fresh = Acquisition(SMALL)
    assert np.array_equal(fresh.frame(Stream.PROJECTION, 4), late)
    assert not np.array_equal(fresh.frame(Stream.PROJECTION, 3), late)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert np.array_equal(fresh.frame(Stream.PROJECTION, 4), late)
    finally:
        numba.set_num_threads(threads)


def test_counter_differences_are_poisson_numbers():
    settings = replace(SMALL, dead_pixels=0, noisy_pixels=0, open_beam_photons=2000.0)
    acquisition = Acquisition(settings)
    frames = np.stack(list(acquisition.frames(Stream.OPEN_BEAM_BEFORE, 200))).astype(np.int64)
    bins = frames.copy()
    bins[:, :-1] -= frames[:, 1:]
    assert bins.min() >= 0
    mean, variance = bins.mean(axis=0), bins.var(axis=0, ddof=1)
    # Variance of a sample variance: 2 / (n - 1), over 476 pixels.
    spread = math.sqrt(2 / 199 / (14 * 34))
    for k in range(4):
        assert (variance[k] / mean[k]).mean() == pytest.approx(1.0, abs=5 * spread), k
    apart = bins - mean
    for k in range(3):  # bins are independent; counters share their photons
        correlation = (apart[:, k] * apart[:, k + 1]).mean(axis=0) / np.sqrt(variance[k] * variance[k + 1])
        assert abs(correlation.mean()) < 5 / math.sqrt(200 * 14 * 34)
    above = frames - frames.mean(axis=0)
    shared = (above[:, 0] * above[:, 1]).mean(axis=0) / frames[:, 1].mean(axis=0)
    assert shared.mean() == pytest.approx(1.0, abs=0.03)


def test_gain_varies_by_the_spread():
    settings = replace(SMALL, noise=False, dead_pixels=0, noisy_pixels=0, gain_spread=0.05, open_beam_photons=1e6)
    frame = Acquisition(settings).frame(Stream.OPEN_BEAM_AFTER, 0)
    assert frame[0].std() / frame[0].mean() == pytest.approx(0.05, rel=0.15)
    np.testing.assert_allclose(frame[3] / frame[0], (frame[3] / frame[0]).mean(), rtol=1e-3)  # no color cast


def test_dead_pixels_count_nothing_and_noisy_ones_in_the_dark(scan, small):
    frames = read_all(scan)
    truth = json.loads((scan.parent / "truth" / "truth.json").read_text("utf-8"))
    dead, noisy = np.array(truth["dead_pixels"]), np.array(truth["noisy_pixels"])
    assert sorted(map(tuple, dead)) == sorted(map(tuple, small.dead))
    for stack in frames.values():
        assert not stack[..., dead[:, 0], dead[:, 1]].any()
    dark = frames["dark.mib"]
    lit = np.zeros((14, 34), dtype=bool)
    lit[noisy[:, 0], noisy[:, 1]] = True
    # Above a hundredth of the open beam of the lowest bin, and only there.
    own = (dark[:, 0].astype(np.int64) - dark[:, 1]).min(axis=0)
    assert np.array_equal(own > 0.01 * truth["bins"][0]["open_beam_counts"], lit)
    assert not dark[..., ~lit].any()


def test_the_exposure_follows_from_the_tube(small):
    spectrum = tube_spectrum(120.0, {"Al": 3.8}, distance_mm=250.0)
    per_mas = 0.42 * spectrum.fluence @ CounterResponse().counted(spectrum.energies_kev, 20.0)
    assert small.exposure_s * 350.0 / 1000 * per_mas == pytest.approx(SMALL.open_beam_photons, rel=1e-4)
    slow = Acquisition(replace(SMALL, current_ua=175.0))
    assert slow.exposure_s == pytest.approx(2 * small.exposure_s, rel=1e-4)


# --- truth -----------------------------------------------------------------------------------------------------------


def test_truth_is_the_attenuation_behind_the_mean_chord(scan):
    truth = json.loads((scan.parent / "truth" / "truth.json").read_text("utf-8"))
    assert [b["label"] for b in truth["bins"]] == ["20-33 keV", "33-50 keV", "50-80 keV", "80+ keV"]
    spectrum = tube_spectrum(120.0, {"Al": 3.8}).behind({"PMMA": math.pi / 4 * 10.0})
    weights = bin_weights(spectrum, SMALL.counters, CounterResponse())
    expected = {
        insert.label: effective_attenuation(weights, spectrum.energies_kev, insert.material)
        for insert in mars_phantom().inserts
    }
    assert {insert["name"] for insert in truth["inserts"]} == set(expected)
    for insert in truth["inserts"]:
        np.testing.assert_allclose(insert["attenuation_per_mm"], expected[insert["name"]], rtol=1e-6)
    by_material = {insert["material"]: insert for insert in truth["inserts"]}
    assert by_material["iodine"]["concentration_mg_per_ml"] == 10.0
    assert by_material["water"]["concentration_mg_per_ml"] is None
    assert "7.854 mm of PMMA" in truth["definition"]


def test_truth_predicts_the_contrast_of_every_insert():
    """Through an insert, a line integral differs from pure PMMA by what the truth says: hardening stays small."""
    plain = replace(QUIET, phantom=InsertPhantom("PMMA", 5.0, 20.0, ()), detector_shape=(1, 128), views=1)
    plain = replace(plain, pixel_pitch_mm=(0.11, 0.11))
    reference = Acquisition(plain).expected_bins(0)
    for insert in mars_phantom().inserts:
        rod = Insert(insert.material, center_mm=(0.0, 0.0, 0.0), radius_mm=1.0, height_mm=20.0)
        acquisition = Acquisition(replace(plain, phantom=InsertPhantom("PMMA", 5.0, 20.0, (rod,))))
        length = chord_lengths(rod.shape, plain.geometry())[0, 0].max()
        contrast = -np.log(acquisition.expected_bins(0) / reference)[:, 0, 63:65].mean(axis=1) / length
        weights = acquisition.weights * np.exp(
            -math.pi / 4 * 10.0 * linear_attenuation("PMMA", acquisition.energies_kev)
        )
        inside = effective_attenuation(weights, acquisition.energies_kev, insert.material)
        around = effective_attenuation(weights, acquisition.energies_kev, "PMMA")
        assert np.abs(contrast + around - inside).max() < 0.015 * inside.max(), insert.label
        assert np.all(np.abs(contrast + around - inside) < 0.015 * inside), insert.label


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_default_phantom_has_every_material():
    phantom = mars_phantom()
    assert [insert.label for insert in phantom.inserts] == [
        "water",
        "lipid",
        "hydroxyapatite 150 mg/ml",
        "iodine 10 mg/ml",
        "gadolinium 10 mg/ml",
        "gold 10 mg/ml",
    ]
    double = mars_phantom(2.0)
    assert double.body_radius_mm == 10.0
    assert double.inserts[1].center_mm == tuple(2 * c for c in phantom.inserts[1].center_mm)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"scan_id": "a/b"}, "scan_id"),
        ({"seed": -1}, "seed"),
        ({"format": "mib"}, "merlin, data_exchange, nxtomo, tiff, dicom, got 'mib'"),
        ({"views": 0}, "views"),
        ({"open_beams": 0}, "open_beams"),
        ({"counter_depth_bits": 6}, "counter_depth_bits"),
        ({"gain_spread": 0.5}, "gain_spread"),
        ({"dead_pixels": 300}, "dead_pixels"),
        ({"open_beam_photons": math.nan}, "open_beam_photons"),
        ({"thresholds_kev": ()}, "thresholds_kev"),
        ({"thresholds_kev": tuple(range(20, 29))}, "1 to 8"),
        ({"thresholds_kev": (20.0, 20.0)}, "ascend"),
        ({"thresholds_kev": (20.0, 120.0)}, "120 keV end point"),
        ({"detector_shape": (14, 20)}, "shadow covers columns"),
        ({"phantom": mars_phantom(1.3)}, "shadow covers columns"),
        ({"phantom": mars_phantom(100.0)}, "reaches the source"),
        ({"start_time": SMALL.start_time.replace(tzinfo=None)}, "time zone"),
    ],
)
def test_impossible_settings_are_refused(change, names):
    with pytest.raises(InputError, match=names):
        replace(SMALL, **change)


def test_an_impossible_geometry_is_refused():
    with pytest.raises(GeometryError, match="pixel_pitch_mm"):
        replace(SMALL, pixel_pitch_mm=(0.0, 0.1))
    with pytest.raises(GeometryError, match="degrees"):
        replace(SMALL, views=360, angle_range_rad=360.0)


def test_rods_may_not_overlap_or_leave_the_body():
    water = Insert("water", (1.0, 0.0, 0.0), 1.0, 4.0)
    with pytest.raises(InputError, match=r"inserts 0 \(water\) and 1 \(lipid\) overlap"):
        InsertPhantom("PMMA", 5.0, 9.0, (water, Insert("lipid", (2.5, 0.0, 0.0), 1.0, 4.0)))
    InsertPhantom("PMMA", 5.0, 9.0, (water, Insert("lipid", (2.5, 0.0, 2.5), 1.0, 1.0)))  # one above the other
    with pytest.raises(InputError, match=r"insert 0 \(water\) leaves the body"):
        InsertPhantom("PMMA", 1.5, 9.0, (water,))
    with pytest.raises(InputError, match="leaves the body"):
        InsertPhantom("PMMA", 5.0, 3.0, (water,))
