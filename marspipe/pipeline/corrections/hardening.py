"""Beam hardening of a scan's own spectrum: from its tube, filters and thresholds to polynomials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marspipe.errors import InputError, RecipeError
from marspipe.pipeline.source import Measured
from marspipe.preprocess.beam_hardening import BeamHardening, fit_beam_hardening
from marspipe.recipe import Recipe
from marspipe.scan.spectra import CounterResponse, bin_weights, tube_spectrum

_STEP_KEV = 1.0


def hardening_of(recipe: Recipe, tube: Mapping[str, Any] | None, measured: Measured) -> BeamHardening | None:
    """Return the polynomials of all energy bins, or None if the recipe names no material.

    The spectrum is that of the tube in the manifest, seen by a GaAs sensor of 0.5 mm with 4 keV resolution
    (:class:`marspipe.scan.spectra.CounterResponse`).

    Parameters
    ----------
    recipe : Recipe
        Names the material and the longest way through it.
    tube : mapping or None
        ``voltage_kvp`` and ``filters`` of the scan.
    measured : Measured
        Its counters and geometry.

    Raises
    ------
    RecipeError
        If the scan does not say what its tube was, or the material is unknown.
    """
    wanted = recipe.preprocess.beam_hardening
    if wanted.material is None or wanted.max_length_mm is None:
        return None
    key = f"preprocess.beam_hardening.material: {wanted.material}"
    if tube is None:
        raise RecipeError(f"{key} needs the spectrum, but the scan's manifest has no tube; give coefficients instead")
    orbit = measured.geometry.orbit
    distance_mm = 1000.0 if orbit is None else min(orbit.source_to_detector_mm, 1000.0)
    try:
        spectrum = tube_spectrum(tube["voltage_kvp"], tube["filters"], distance_mm=distance_mm, step_kev=_STEP_KEV)
        weights = bin_weights(spectrum, measured.counters, CounterResponse(), recipe.bins.kind)
        return fit_beam_hardening(
            weights, spectrum.energies_kev, wanted.material, wanted.max_length_mm, order=wanted.order
        )
    except InputError as error:
        raise RecipeError(f"{key}: {error}") from error
