"""What a recipe says about corrections, as the settings of those who make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from marspipe.errors import InputError, RecipeError, ScanError
from marspipe.pipeline.corrections.hardening import hardening_of
from marspipe.pipeline.source import Measured
from marspipe.preprocess.bad_pixels import PixelLimits
from marspipe.preprocess.beam_hardening import BeamHardening
from marspipe.preprocess.chain_settings import ChainSettings, DeadTime, Flux, Scatter, Tiles, Zingers
from marspipe.preprocess.flux import Region
from marspipe.preprocess.sinogram_stripes import SinogramMethod, sinogram_method
from marspipe.preprocess.stripes import AngularStripes
from marspipe.recipe import Preprocess, Recipe, Stripes
from marspipe.scan.energy import counter_bins


def settings_for(recipe: Recipe, tube: Mapping[str, Any] | None, measured: Measured) -> ChainSettings:
    """Return the settings of the chain for a scan, and refuse what does not fit it, stripes included.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    tube : mapping or None
        ``voltage_kvp`` and ``filters`` of the scan's tube, if they are known.
    measured : Measured
        Camera, counters and geometry.

    Raises
    ------
    RecipeError, ScanError
        If recipe and scan do not fit each other.
    """
    if recipe.preprocess.thickness.order and "absorber" not in measured.frame_types:
        raise ScanError("preprocess.thickness: the scan has no frames of absorbers to calibrate thickness by")
    n_bins = len(counter_bins(measured.counters, recipe.bins.kind))
    angular_stripes(recipe.preprocess.stripes)
    sinogram_stripes(recipe.preprocess.stripes)
    return chain_settings(recipe.preprocess, n_bins, hardening_of(recipe, tube, measured))


def chain_settings(preprocess: Preprocess, n_bins: int, beam_hardening: BeamHardening | None = None) -> ChainSettings:
    """Return the settings of the chain.

    Parameters
    ----------
    preprocess : Preprocess
        Section of the recipe.
    n_bins : int
        Energy bins.
    beam_hardening : BeamHardening, optional
        Polynomials computed from a spectrum; needed if the recipe names a material, and only then.

    Raises
    ------
    RecipeError
        If what the recipe gives per energy bin is for another number of bins, or polynomials are missing.
    """
    bad, dead, zingers, scatter = preprocess.bad_pixels, preprocess.dead_time, preprocess.zingers, preprocess.scatter
    hardening = preprocess.beam_hardening
    if (hardening.material is not None) != (beam_hardening is not None):
        raise RecipeError(
            f"preprocess.beam_hardening.material is {hardening.material!r}, but polynomials were "
            f"{'computed' if beam_hardening is not None else 'not computed'}"
        )
    if hardening.coefficients is not None:
        coefficients = np.array(hardening.coefficients, dtype=np.float64)
        _require_bins("beam_hardening.coefficients", len(coefficients), n_bins)
        # Polynomials that somebody gives hold everywhere.
        endless = np.full(n_bins, np.inf)
        beam_hardening = BeamHardening(coefficients, endless, np.zeros(n_bins))
    counts = _several(scatter.counts_per_pixel)
    if len(counts) > 1:
        _require_bins("scatter.counts_per_pixel", len(counts), n_bins)
    return ChainSettings(
        limits=PixelLimits(**bad.model_dump(exclude={"chip_edges"})),
        chip_edges=bad.chip_edges,
        dead_time=DeadTime(_several(dead.tau_s), dead.model),
        zingers=Zingers(zingers.mode, zingers.sigmas, zingers.size_px),
        open_beam_time=preprocess.open_beam.time,
        flux=Flux(preprocess.flux.by, _region(preprocess.flux.air_region_px)),
        scatter=Scatter(counts, _region(scatter.shadow_region_px)),
        thickness_order=preprocess.thickness.order,
        beam_hardening=beam_hardening,
        inpaint_radius_px=preprocess.inpaint_radius_px,
        gap_px=preprocess.gap_px,
        tiles=Tiles(preprocess.tiles.interpolation, preprocess.tiles.feather_px, preprocess.tiles.equalize),
    )


def angular_stripes(stripes: Stripes) -> AngularStripes | None:
    """Return the settings of the correction by angle, or None if the recipe does not ask for it."""
    return AngularStripes(stripes.columns_px, stripes.rows_px) if stripes.mode == "by-angle" else None


def sinogram_stripes(stripes: Stripes) -> SinogramMethod | None:
    """Return the method for sinograms, or None if the recipe does not ask for one.

    Raises
    ------
    RecipeError
        If there is no such method or setting, or a value does not fit.
    """
    if stripes.mode != "sinogram":
        return None
    try:
        sinogram_method(stripes.method)
    except InputError as error:
        raise RecipeError(f"preprocess.stripes.method: {error}") from error
    try:
        return sinogram_method(stripes.method, stripes.settings)
    except InputError as error:
        raise RecipeError(f"preprocess.stripes.settings: {error}") from error


def _several(values: float | tuple[float, ...]) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)


def _region(region: tuple[int, int, int, int] | None) -> Region | None:
    return None if region is None else Region(*region)


def _require_bins(key: str, found: int, n_bins: int) -> None:
    if found != n_bins:
        raise RecipeError(f"preprocess.{key}: given for {found} energy bins, but the scan has {n_bins}")
