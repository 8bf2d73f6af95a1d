from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from marspipe.errors import InputError
from marspipe.scan.energy import Counter
from marspipe.scan.spectra import (
    MATERIALS,
    CounterResponse,
    Solution,
    Spectrum,
    bin_weights,
    effective_attenuation,
    linear_attenuation,
    material_label,
    tube_spectrum,
)

TABLES = Path(__file__).parents[2].parent / "shared" / "cases" / "spectra_tables"
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="the folder shared/cases/spectra_tables is not here")
COUNTERS = [Counter(index, "CSM", threshold) for index, threshold in enumerate((20.0, 33.0, 50.0, 80.0))]


@pytest.fixture(scope="module")
def tube():
    return tube_spectrum(120.0, {"Al": 3.8}, distance_mm=250.0)


# NIST XCOM / Hubbell & Seltzer, mass attenuation in cm^2/g at 60 keV, doi:10.18434/T4D01F
@pytest.mark.parametrize(
    ("material", "density", "per_gram"),
    [("water", 0.9982, 0.2059), ("PMMA", 1.18, 0.1924), ("aluminum", 2.699, 0.2778)],
)
def test_attenuation_agrees_with_the_published_tables(material, density, per_gram):
    assert linear_attenuation(material, 60.0).item() == pytest.approx(0.1 * density * per_gram, rel=0.01)


@needs_tables
def test_attenuation_agrees_with_the_reference_tables():
    path = TABLES / "xraydb_4.5.8_mu_over_rho_cm2_g.csv"
    names = path.read_text().splitlines()[0].split(",")
    table = dict(zip(names, np.loadtxt(path, delimiter=",", skiprows=1).T, strict=True))
    for material, column in (
        ("water", "H2O"),
        ("iodine", "I"),
        ("gadolinium", "Gd"),
        ("gold", "Au"),
        ("aluminum", "Al"),
    ):
        expected = 0.1 * MATERIALS[material].density_g_per_ml * table[column]
        np.testing.assert_allclose(linear_attenuation(material, table["keV"]), expected, rtol=2e-3, err_msg=material)


@needs_tables
def test_tube_spectrum_agrees_with_the_reference_table():
    energies, per_cm2_kev = np.loadtxt(
        TABLES / "spekpy_2.5.4_120kVp_12deg_2mmAl.csv", delimiter=",", skiprows=1, unpack=True
    )
    found = tube_spectrum(120.0, {"Al": 2.0}, step_kev=0.5)
    assert found.mean_energy_kev == pytest.approx(energies @ per_cm2_kev / per_cm2_kev.sum(), abs=0.05)
    assert found.fluence.sum() == pytest.approx(0.01 * 0.5 * per_cm2_kev.sum(), rel=2e-3)
    weight = np.interp(energies, found.energies_kev, found.fluence)
    np.testing.assert_allclose(weight, 0.005 * per_cm2_kev, atol=2e-3 * weight.max())


def test_tube_spectrum_of_120_kv(tube):
    assert tube_spectrum(120.0, {"Al": 2.0}).mean_energy_kev == pytest.approx(53.3, abs=0.2)
    assert tube.energies_kev[-1] < 120.0 and tube.fluence[-1] > 0.0
    peaks = tube.fluence[np.abs(tube.energies_kev - 59.5) < 1.1].max()  # tungsten K alpha 1: 59.3 keV
    assert peaks > 1.5 * tube.fluence[np.abs(tube.energies_kev - 63.5) < 0.6].max()


def test_filters_harden_and_distance_dilutes(tube):
    harder = tube_spectrum(120.0, {"Al": 3.8, "Cu": 0.2}, distance_mm=250.0)
    assert harder.mean_energy_kev > tube.mean_energy_kev + 3
    assert np.all(harder.fluence <= tube.fluence)
    farther = tube_spectrum(120.0, {"Al": 3.8}, distance_mm=500.0)
    np.testing.assert_allclose(farther.fluence, tube.fluence / 4, rtol=1e-9)


def test_a_filter_is_an_absorber(tube):
    bare = tube_spectrum(120.0, {}, distance_mm=250.0)
    seen = tube.energies_kev > 20
    expected = bare.behind({"aluminum": 3.8}).fluence[seen]
    np.testing.assert_allclose(tube.fluence[seen], expected, rtol=0.05)  # two attenuation tables
    assert bare.behind({}).fluence.tolist() == bare.fluence.tolist()


@pytest.mark.parametrize(("solute", "edge_kev"), [("iodine", 33.17), ("gadolinium", 50.24), ("gold", 80.72)])
def test_k_edges_are_in_the_solutions(solute, edge_kev):
    below, above = linear_attenuation(Solution(solute, 10.0), [edge_kev - 0.2, edge_kev + 0.2])
    water = linear_attenuation("water", edge_kev)
    assert (above - water) > 3 * (below - water) > 0
    smooth = linear_attenuation("water", [edge_kev - 0.2, edge_kev + 0.2])
    assert smooth[1] < smooth[0]


def test_solutions_displace_water():
    energies = np.array([25.0, 40.0, 70.0])
    np.testing.assert_allclose(
        linear_attenuation(Solution("iodine", 0.0), energies), linear_attenuation("water", energies), rtol=1e-12
    )
    np.testing.assert_allclose(
        linear_attenuation(Solution("gold", 19320.0), energies), linear_attenuation("gold", energies), rtol=1e-12
    )
    half = linear_attenuation(Solution("hydroxyapatite", 1580.0), energies)
    pure = linear_attenuation("hydroxyapatite", energies)
    np.testing.assert_allclose(half, 0.5 * (pure + linear_attenuation("water", energies)), rtol=1e-12)
    assert material_label(Solution("iodine", 10.0)) == "iodine 10 mg/ml"
    assert material_label("PMMA") == "PMMA"


def test_resolution_is_the_full_width_at_half_maximum():
    response = CounterResponse(fwhm_kev=5.0)
    thresholds = np.arange(40.0, 80.0, 0.01)
    counted = np.array([response.above(60.0, t).item() for t in thresholds])
    line = -np.diff(counted)
    wide = thresholds[:-1][line > line.max() / 2]
    assert wide[-1] - wide[0] == pytest.approx(5.0, abs=0.03)
    assert response.above(60.0, 60.0).item() == pytest.approx(0.5)
    assert CounterResponse(fwhm_kev=0.0).above([59.9, 60.0, 60.1], 60.0).tolist() == [0.0, 1.0, 1.0]


def test_sensor_absorption():
    energies = np.array([20.0, 60.0, 100.0])
    thin = CounterResponse(sensor_thickness_mm=1e-6)
    np.testing.assert_allclose(thin.efficiency(energies), 1e-6 * linear_attenuation("GaAs", energies), rtol=1e-4)
    thick = CounterResponse(sensor_thickness_mm=100.0)
    np.testing.assert_allclose(thick.efficiency(energies), 1.0, atol=1e-6)
    counted = CounterResponse().counted(energies, 50.0)
    np.testing.assert_allclose(counted, CounterResponse().efficiency(energies) * CounterResponse().above(energies, 50))
    assert CounterResponse("CdTe").efficiency(80.0) > 2 * CounterResponse("GaAs").efficiency(80.0)


def test_bins_share_the_photons_of_the_counters(tube):
    response = CounterResponse()
    bins = bin_weights(tube, COUNTERS, response)
    counters = bin_weights(tube, COUNTERS, response, kind="cumulative")
    assert bins.shape == (4, tube.energies_kev.size)
    assert bins.min() >= 0
    np.testing.assert_allclose(np.cumsum(bins[::-1], axis=0)[::-1], counters, rtol=1e-12)
    np.testing.assert_allclose(counters[1], tube.fluence * response.counted(tube.energies_kev, 33.0))
    means = bins @ tube.energies_kev / bins.sum(axis=1)
    assert 20 < means[0] < 33 < means[1] < 50 < means[2] < 80 < means[3]


def test_effective_attenuation_is_a_weighted_mean():
    weights, energies = [[1.0, 0.0], [1.0, 3.0]], [30.0, 60.0]
    low, high = linear_attenuation("water", energies)
    np.testing.assert_allclose(effective_attenuation(weights, energies, "water"), [low, (low + 3 * high) / 4])


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: linear_attenuation("unobtainium", 60.0), "unknown material 'unobtainium'; known are .*PMMA"),
        (lambda: linear_attenuation("water", [60.0, 0.0]), "1 to 500 keV"),
        (lambda: linear_attenuation("water", np.nan), "1 to 500 keV"),
        (lambda: Solution("kryptonite", 1.0), "unknown material 'kryptonite'"),
        (lambda: Solution("iodine", -1.0), "iodine .* got -1"),
        (lambda: Solution("iodine", 5000.0), "4930 mg/ml"),
        (lambda: tube_spectrum(10.0, {}), "voltage_kvp"),
        (lambda: tube_spectrum(120.0, {"Al": -1.0}), "filters_mm"),
        (lambda: tube_spectrum(120.0, {"Unobtainium": 1.0}), "unknown tube filter 'Unobtainium'"),
        (lambda: CounterResponse("Ge"), "sensor must be"),
        (lambda: CounterResponse(sensor_thickness_mm=0.0), "sensor_thickness_mm"),
        (lambda: CounterResponse(fwhm_kev=-1.0), "fwhm_kev"),
        (lambda: Spectrum([1.0, 2.0], [1.0]), "equal one-dimensional"),
        (lambda: Spectrum([2.0, 1.0], [1.0, 1.0]), "ascend"),
        (lambda: Spectrum([1.0, 2.0], [1.0, -1.0]), "not negative"),
    ],
)
def test_impossible_requests_are_refused(make, names):
    with pytest.raises(InputError, match=names):
        make()


def test_a_spectrum_cannot_be_changed(tube):
    with pytest.raises(ValueError, match="read-only"):
        tube.fluence[0] = 1.0


def test_the_physics_tables_load_on_first_use():
    code = "import sys, marspipe.scan.spectra; assert not {'spekpy', 'xraydb', 'scipy.special'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
