"""Photon spectra: what the tube sends, what materials take away, what the detector counts.

Tube spectra come from SpekPy, attenuation from XrayDB (Elam, Ravel & Sieber, Radiat. Phys. Chem. 63 (2002) 121,
doi:10.1016/S0969-806X(01)00227-4); both load on first use. The detector model is deliberately small: absorption in
the sensor, Gaussian energy resolution, a sharp threshold; no charge sharing, fluorescence or pile-up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.scan.energy import BinKind, Counter, counter_bins

FloatArray = NDArray[np.float64]

_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True)
class Compound:
    """A pure substance: chemical formula and density in g/ml."""

    formula: str
    density_g_per_ml: float


MATERIALS: Mapping[str, Compound] = MappingProxyType(
    {
        "air": Compound("N0.7809O0.2095Ar0.0093", 1.2041e-3),
        "aluminum": Compound("Al", 2.699),
        "CdTe": Compound("CdTe", 5.85),
        "gadolinium": Compound("Gd", 7.90),
        "GaAs": Compound("GaAs", 5.3176),
        "gold": Compound("Au", 19.32),
        "hydroxyapatite": Compound("Ca10P6O26H2", 3.16),
        "iodine": Compound("I", 4.93),
        "lipid": Compound("C57H104O6", 0.913),  # triolein, the main fat of tissue and of olive oil
        "PMMA": Compound("C5H8O2", 1.18),
        "Si": Compound("Si", 2.329),
        "water": Compound("H2O", 0.9982),  # 20 degrees Celsius
    }
)


@dataclass(frozen=True)
class Solution:
    """An aqueous solution or suspension of one of :data:`MATERIALS`.

    The solute displaces its own volume of water (ideal mixing, the solute at its solid density): one milliliter
    holds ``c`` mg of solute and ``(1 - c / density) * 0.9982`` g of water.

    Raises
    ------
    InputError
        If the solute is unknown, or the concentration is not between 0 and the solid's density.
    """

    solute: str
    concentration_mg_per_ml: float

    def __post_init__(self) -> None:
        limit = 1e3 * _compound(self.solute).density_g_per_ml
        if not 0 <= self.concentration_mg_per_ml <= limit:
            raise InputError(
                f"concentration of {self.solute} must be between 0 and {limit:g} mg/ml (the solid), "
                f"got {self.concentration_mg_per_ml}"
            )

    @property
    def label(self) -> str:
        """Short name, such as ``iodine 10 mg/ml``."""
        return f"{self.solute} {self.concentration_mg_per_ml:g} mg/ml"


Material = str | Solution


def material_label(material: Material) -> str:
    """Return the short name of a material or solution."""
    return material.label if isinstance(material, Solution) else material


def linear_attenuation(material: Material, energies_kev: ArrayLike) -> FloatArray:
    """Return the linear attenuation coefficient of a material, coherent scatter included.

    Parameters
    ----------
    material : str or Solution
        A name of :data:`MATERIALS`, or an aqueous solution.
    energies_kev : array_like, keV
        Photon energies, 1 to 500 keV.

    Returns
    -------
    ndarray, the shape of ``energies_kev``, float64, 1/mm

    Raises
    ------
    InputError
        If the material is unknown or an energy out of range.
    """
    energies = np.asarray(energies_kev, dtype=np.float64)
    if not np.all((energies >= 1) & (energies <= 500)):
        raise InputError(f"photon energies must be within 1 to 500 keV, got {energies.min()} to {energies.max()} keV")
    if isinstance(material, Solution):
        solute = _compound(material.solute)
        grams = 1e-3 * material.concentration_mg_per_ml
        water = MATERIALS["water"]
        left = water.density_g_per_ml * (1.0 - grams / solute.density_g_per_ml)
        per_cm = grams * _mass_attenuation(solute.formula, energies) + left * _mass_attenuation(water.formula, energies)
    else:
        compound = _compound(material)
        per_cm = compound.density_g_per_ml * _mass_attenuation(compound.formula, energies)
    return 0.1 * per_cm


def _compound(name: str) -> Compound:
    try:
        return MATERIALS[name]
    except KeyError:
        raise InputError(f"unknown material {name!r}; known are {', '.join(sorted(MATERIALS))}") from None


def _mass_attenuation(formula: str, energies_kev: FloatArray) -> FloatArray:
    """Return mu / rho in cm^2/g by the mixture rule."""
    import xraydb

    atoms = xraydb.chemparse(formula)
    masses = {symbol: count * xraydb.atomic_mass(symbol) for symbol, count in atoms.items()}
    total = sum(masses.values())
    energies_ev = 1e3 * energies_kev.ravel()
    result = np.zeros(energies_ev.size)
    for symbol, mass in masses.items():
        result += mass / total * xraydb.mu_elam(symbol, energies_ev, kind="total")
    return result.reshape(energies_kev.shape)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Photons in narrow energy steps.

    Attributes
    ----------
    energies_kev : ndarray, shape (energies,), float64, keV
        Middle of every step, ascending.
    fluence : ndarray, shape (energies,), float64
        Photons in every step; of a tube per mm^2 and mAs.
    """

    energies_kev: FloatArray
    fluence: FloatArray

    def __post_init__(self) -> None:
        for name in ("energies_kev", "fluence"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        energies, fluence = self.energies_kev, self.fluence
        if energies.ndim != 1 or energies.size == 0 or energies.shape != fluence.shape:
            raise InputError(
                f"a Spectrum needs equal one-dimensional arrays, got energies {energies.shape}, fluence {fluence.shape}"
            )
        if not (np.all(np.diff(energies) > 0) and np.all(energies > 0)):
            raise InputError("Spectrum.energies_kev must be positive and ascend")
        if not (np.all(np.isfinite(fluence)) and np.all(fluence >= 0)):
            raise InputError("Spectrum.fluence must be finite and not negative")

    @property
    def mean_energy_kev(self) -> float:
        """Mean photon energy, keV."""
        return float(self.energies_kev @ self.fluence / self.fluence.sum())

    def behind(self, lengths_mm: Mapping[Material, float]) -> Spectrum:
        """Return the spectrum that is left behind given lengths of materials, in mm."""
        integral = np.zeros_like(self.energies_kev)
        for material, length in lengths_mm.items():
            integral += length * linear_attenuation(material, self.energies_kev)
        return Spectrum(self.energies_kev, self.fluence * np.exp(-integral))


def tube_spectrum(
    voltage_kvp: float,
    filters_mm: Mapping[str, float],
    *,
    distance_mm: float = 1000.0,
    anode_angle_deg: float = 12.0,
    step_kev: float = 1.0,
) -> Spectrum:
    """Compute the spectrum of a tungsten tube (SpekPy, model "casim"; doi:10.1002/mp.14945).

    Parameters
    ----------
    voltage_kvp : float
        Tube voltage, 20 to 300 kV.
    filters_mm : mapping of str to float
        Filter element or SpekPy material -> thickness in mm.
    distance_mm : float
        Distance from the focal spot, mm; the air on the way does not absorb.
    anode_angle_deg : float
        Angle between anode surface and central ray, degrees.
    step_kev : float
        Width of an energy step, keV.

    Returns
    -------
    Spectrum
        Photons per mm^2 and mAs in every step.

    Raises
    ------
    InputError
        If a number is out of range or a filter is unknown.
    """
    for name, value, low, high in (
        ("voltage_kvp", voltage_kvp, 20.0, 300.0),
        ("anode_angle_deg", anode_angle_deg, 1.0, 90.0),
        ("step_kev", step_kev, 0.05, 5.0),
        ("distance_mm", distance_mm, 1.0, 1e6),
        *((f"filters_mm[{name!r}]", value, 0.0, 1e3) for name, value in filters_mm.items()),
    ):
        if not low <= value <= high:
            raise InputError(f"tube_spectrum: {name} must be within {low:g} to {high:g}, got {value!r}")
    return _tube_spectrum(voltage_kvp, tuple(filters_mm.items()), distance_mm, anode_angle_deg, step_kev)


@lru_cache(maxsize=32)  # a spectrum takes SpekPy a quarter of a second and cannot be changed
def _tube_spectrum(
    voltage_kvp: float,
    filters_mm: tuple[tuple[str, float], ...],
    distance_mm: float,
    anode_angle_deg: float,
    step_kev: float,
) -> Spectrum:
    import spekpy

    tube = spekpy.Spek(kvp=voltage_kvp, th=anode_angle_deg, dk=step_kev, z=0.1 * distance_mm)
    for name, thickness in filters_mm:
        _add_filter(tube, name, thickness)
    energies, per_cm2 = tube.get_spectrum(diff=False)
    return Spectrum(energies, 0.01 * per_cm2)


def _add_filter(tube: Any, name: str, thickness_mm: float) -> None:
    try:
        tube.filter(name, thickness_mm)
    except Exception as error:  # SpekPy raises the bare Exception
        raise InputError(f"unknown tube filter {name!r}; expected an element such as 'Al' or a SpekPy material") from (
            error
        )


@dataclass(frozen=True)
class CounterResponse:
    """How the camera turns photons into counts: sensor absorption and Gaussian energy resolution.

    Parameters
    ----------
    sensor : {"GaAs", "CdTe", "Si"}
        Sensor material.
    sensor_thickness_mm : float
        Sensor thickness, mm.
    fwhm_kev : float
        Full width at half maximum of the measured energy, keV; 0 for a sharp detector.

    Raises
    ------
    InputError
        If the sensor is unknown or a number is out of range.
    """

    sensor: str = "GaAs"
    sensor_thickness_mm: float = 0.5
    fwhm_kev: float = 4.0

    def __post_init__(self) -> None:
        if self.sensor not in ("GaAs", "CdTe", "Si"):
            raise InputError(f"sensor must be GaAs, CdTe or Si, got {self.sensor!r}")
        if not 0 < self.sensor_thickness_mm < math.inf:
            raise InputError(f"sensor_thickness_mm must be positive (mm), got {self.sensor_thickness_mm}")
        if not 0 <= self.fwhm_kev < math.inf:
            raise InputError(f"fwhm_kev must not be negative (keV), got {self.fwhm_kev}")

    def efficiency(self, energies_kev: ArrayLike) -> FloatArray:
        """Return the probability that a photon is absorbed in the sensor, float64."""
        return -np.expm1(-self.sensor_thickness_mm * linear_attenuation(self.sensor, energies_kev))

    def above(self, energies_kev: ArrayLike, threshold_kev: float) -> FloatArray:
        """Return the probability that an absorbed photon measures above a threshold, float64."""
        from scipy.special import erfc

        distance = threshold_kev - np.asarray(energies_kev, dtype=np.float64)
        if self.fwhm_kev == 0:
            return np.where(distance > 0, 0.0, 1.0)
        result: FloatArray = 0.5 * erfc(distance * _FWHM_PER_SIGMA / (math.sqrt(2.0) * self.fwhm_kev))
        return result

    def counted(self, energies_kev: ArrayLike, threshold_kev: float) -> FloatArray:
        """Return the probability that a photon is absorbed and counted above a threshold, float64."""
        return self.efficiency(energies_kev) * self.above(energies_kev, threshold_kev)


def bin_weights(
    spectrum: Spectrum,
    counters: Sequence[Counter],
    response: CounterResponse,
    kind: BinKind = "differential",
) -> FloatArray:
    """Return how many photons of every energy step each bin counts, without an object.

    Parameters
    ----------
    spectrum : Spectrum
        What arrives at the detector.
    counters : sequence of Counter
        The camera's counters.
    response : CounterResponse
        The camera.
    kind : {"differential", "cumulative"}
        As in :func:`marspipe.scan.energy.counter_bins`, whose order the rows follow.

    Returns
    -------
    ndarray, shape (bins, energies), float64
        In the unit of the spectrum's fluence; not negative.
    """
    detected = spectrum.fluence * response.efficiency(spectrum.energies_kev)
    thresholds = {counter.index: counter.threshold_kev for counter in counters}
    weights = []
    for counter_bin in counter_bins(counters, kind):
        share = response.above(spectrum.energies_kev, thresholds[counter_bin.plus])
        if counter_bin.minus is not None:
            share = share - response.above(spectrum.energies_kev, thresholds[counter_bin.minus])
        weights.append(detected * share)
    return np.array(weights)


def effective_attenuation(weights: ArrayLike, energies_kev: ArrayLike, material: Material) -> FloatArray:
    """Return the attenuation of a material averaged over the photons of each bin.

    Parameters
    ----------
    weights : array_like, shape (bins, energies)
        Photons per bin and energy, as from :func:`bin_weights`.
    energies_kev : array_like, shape (energies,), keV
        The energies of the weights.
    material : str or Solution
        The material.

    Returns
    -------
    ndarray, shape (bins,), float64, 1/mm
    """
    per_bin = np.asarray(weights, dtype=np.float64)
    mean: FloatArray = per_bin @ linear_attenuation(material, energies_kev) / per_bin.sum(axis=1)
    return mean
