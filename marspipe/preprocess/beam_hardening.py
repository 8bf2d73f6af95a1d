"""Beam hardening of one material: a polynomial that makes line integrals proportional to length again.

Through the length L of a material a bin with the photons ``w(E)`` measures ``p(L) = -ln(sum w exp(-mu L) / sum w)``,
which bends below its tangent ``mu_0 L``. The polynomial ``p' = sum_i a_i p**i`` is fitted so that ``p' = mu_0 L``, with
``mu_0`` the attenuation averaged over the photons of the bin. Herman, Phys. Med. Biol. 24 (1979) 81,
doi:10.1088/0031-9155/24/1/008.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marspipe.errors import InputError
from marspipe.preprocess.arrays import finite_float32, finite_float64, image_shape, positive
from marspipe.preprocess.polynomial import evaluate
from marspipe.scan.spectra import Material, effective_attenuation, linear_attenuation

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BeamHardening:
    """Polynomials per energy bin.

    Attributes
    ----------
    coefficients : ndarray, shape (bins, order), float64
        a_1 to a_order of every bin.
    largest : ndarray, shape (bins,), float64
        Line integral behind the longest length of the fit; beyond it the polynomial continues as its tangent.
    residual : ndarray, shape (bins,), float64
        Largest deviation of the fit from ``mu_0 L``.
    """

    coefficients: FloatArray
    largest: FloatArray
    residual: FloatArray


def fit_beam_hardening(
    weights: ArrayLike, energies_kev: ArrayLike, material: Material, max_length_mm: float, order: int = 4
) -> BeamHardening:
    """Compute the polynomials from a spectrum.

    Parameters
    ----------
    weights : array_like, shape (bins, energies)
        Photons that each bin counts per energy, as from :func:`marspipe.scan.spectra.bin_weights`.
    energies_kev : array_like, shape (energies,), keV
        Their energies.
    material : str or Solution
        What the sample is mostly made of.
    max_length_mm : float
        Longest way through the sample, mm.
    order : int
        Degree, 1 to 8.

    Returns
    -------
    BeamHardening

    Raises
    ------
    InputError
        If a bin has no photons, the material is unknown, or a number is out of range.
    """
    if not 1 <= order <= 8:
        raise InputError(f"order of the beam-hardening polynomial must be 1 to 8, got {order!r}")
    longest = positive("max_length_mm", max_length_mm, "mm")
    photons = finite_float64("weights", weights)
    energies = finite_float64("energies_kev", energies_kev)
    if photons.ndim != 2 or photons.shape[1:] != energies.shape:
        raise InputError(f"weights must have shape (bins, {energies.size}), got {photons.shape}")
    if photons.min() < 0 or not photons.sum(axis=1).all():
        raise InputError(f"weights must not be negative and not all 0 in a bin, got sums {photons.sum(axis=1)}")
    mu = linear_attenuation(material, energies)
    mu_0 = effective_attenuation(photons, energies, material)
    lengths = np.linspace(0, longest, 257)[1:]
    # Relative to the least attenuated energy, so that no exponential vanishes however long the way.
    least = np.array([mu[row > 0].min() for row in photons])
    share = photons / photons.sum(axis=1, keepdims=True)
    decay = np.exp(-lengths[None, :, None] * np.maximum(mu[None, None, :] - least[:, None, None], 0))
    measured = least[:, None] * lengths - np.log(np.einsum("be,ble->bl", share, decay))
    coefficients = np.empty((len(photons), order))
    residual = np.empty(len(photons))
    for b, p in enumerate(measured):
        powers = (p / p[-1])[:, None] ** np.arange(1, order + 1)
        truth = mu_0[b] * lengths
        # Weighted by 1/L: the slope at zero, which scales thin parts, counts as much as the far end.
        a = np.linalg.lstsq(powers / lengths[:, None], truth / lengths, rcond=None)[0]
        residual[b] = np.abs(powers @ a - truth).max()
        coefficients[b] = a / p[-1] ** np.arange(1, order + 1)
    return BeamHardening(coefficients, measured[:, -1].copy(), residual)


def correct_beam_hardening(integrals: NDArray[Any], hardening: BeamHardening) -> NDArray[np.float32]:
    """Return line integrals that are proportional to the length of the material.

    Parameters
    ----------
    integrals : ndarray, shape (..., bins, v, u)
        Line integrals.
    hardening : BeamHardening
        See :func:`fit_beam_hardening`.

    Returns
    -------
    ndarray, shape (..., bins, v, u), float32, dimensionless
    """
    found = finite_float32("integrals", integrals)
    shape = image_shape("integrals", found, least_ndim=3)
    bins = len(hardening.coefficients)
    if found.shape[-3] != bins:
        raise InputError(f"integrals have {found.shape[-3]} energy bins, the beam-hardening correction has {bins}")
    stack = found.reshape(-1, bins, shape[0] * shape[1])
    result = np.empty_like(stack)
    for b in range(bins):
        coefficients = hardening.coefficients[b].astype(np.float32)[:, None]
        values = np.ascontiguousarray(stack[:, b])
        result[:, b] = evaluate(values, coefficients, hardening.largest[b : b + 1].astype(np.float32))
    return result.reshape(found.shape)
