from __future__ import annotations

import numpy as np
import pytest

from marspipe.errors import RecipeError
from marspipe.pipeline.corrections.settings import angular_stripes, chain_settings, sinogram_stripes
from marspipe.preprocess.beam_hardening import BeamHardening
from marspipe.preprocess.chain_settings import ChainSettings, DeadTime, Flux, Scatter, Tiles, Zingers
from marspipe.preprocess.flux import Region
from marspipe.preprocess.sinogram_stripes import sinogram_method
from marspipe.preprocess.stripes import AngularStripes
from marspipe.recipe import Preprocess, parse_recipe


def preprocess(text: str) -> Preprocess:
    return parse_recipe(f"preprocess: {text}", "r").preprocess


def test_an_empty_recipe_asks_for_the_chain_as_it_is() -> None:
    assert chain_settings(Preprocess(), 4) == ChainSettings()
    assert angular_stripes(Preprocess().stripes) is None
    assert sinogram_stripes(Preprocess().stripes) is None


def test_every_key_arrives() -> None:
    found = chain_settings(
        preprocess(
            """
  bad_pixels: {dead_fraction: 0.2, hot_fraction: 3, fano_low: 0.4, fano_high: 2.5, drift_sigmas: 6, chip_edges: false}
  dead_time: {tau_s: [1.0e-7, 2.0e-7], model: non-paralyzable}
  zingers: {mode: frame, sigmas: 9, size_px: 7}
  open_beam: {time: mean}
  flux: {by: air, air_region_px: [0, 9, 2, 3]}
  scatter: {counts_per_pixel: [1, 2]}
  thickness: {order: 2}
  inpaint_radius_px: 5
  gap_px: 4
  tiles: {interpolation: cubic, feather_px: 8, equalize: offset}
"""
        ),
        2,
    )
    limits = found.limits
    assert (limits.dead_fraction, limits.hot_fraction, limits.fano_low, limits.fano_high) == (0.2, 3, 0.4, 2.5)
    assert limits.drift_sigmas == 6
    expected = ChainSettings(
        limits=limits,
        chip_edges=False,
        dead_time=DeadTime((1e-7, 2e-7), "non-paralyzable"),
        zingers=Zingers("frame", 9, 7),
        open_beam_time="mean",
        flux=Flux("air", Region(0, 9, 2, 3)),
        scatter=Scatter((1.0, 2.0)),
        thickness_order=2,
        inpaint_radius_px=5,
        gap_px=4,
        tiles=Tiles("cubic", 8, "offset"),
    )
    assert found == expected
    shadow = chain_settings(preprocess("{scatter: {shadow_region_px: [0, 4, 0, 8]}}"), 2).scatter
    assert shadow == Scatter(shadow=Region(0, 4, 0, 8))


def test_beam_hardening_is_given_or_computed() -> None:
    given = chain_settings(preprocess("{beam_hardening: {coefficients: [[1, 0.1], [1, 0.2]]}}"), 2).beam_hardening
    assert given is not None
    np.testing.assert_array_equal(given.coefficients, [[1, 0.1], [1, 0.2]])
    computed = BeamHardening(np.ones((2, 1)), np.ones(2), np.zeros(2))
    by_material = preprocess("{beam_hardening: {material: water, max_length_mm: 30}}")
    assert chain_settings(by_material, 2, computed).beam_hardening is computed
    with pytest.raises(RecipeError, match=r"preprocess.beam_hardening.material is 'water', but .* not computed"):
        chain_settings(by_material, 2)
    with pytest.raises(RecipeError, match=r"beam_hardening.coefficients: given for 2 energy bins, but the scan has 3"):
        chain_settings(preprocess("{beam_hardening: {coefficients: [[1, 0.1], [1, 0.2]]}}"), 3)
    with pytest.raises(RecipeError, match=r"scatter.counts_per_pixel: given for 2 energy bins, but the scan has 3"):
        chain_settings(preprocess("{scatter: {counts_per_pixel: [1, 2]}}"), 3)


def test_stripes() -> None:
    by_angle = preprocess("{stripes: {mode: by-angle, columns_px: 9, rows_px: 31}}").stripes
    assert angular_stripes(by_angle) == AngularStripes(9, 31)
    assert sinogram_stripes(by_angle) is None
    by_row = preprocess("{stripes: {mode: sinogram, method: sorting, settings: {window_px: 31}}}").stripes
    assert sinogram_stripes(by_row) == sinogram_method("sorting", {"window_px": 31})
    assert angular_stripes(by_row) is None
    for text, message in (
        ("method: sortin", r"preprocess.stripes.method: no stripe method is called 'sortin'; did you mean 'sorting'"),
        ("settings: {windw_px: 3}", r"preprocess.stripes.settings: .* no setting 'windw_px'; did you mean 'window_px'"),
        ("settings: {window_px: 1}", r"preprocess.stripes.settings: Sorting.window_px must be an integer from 3 on"),
    ):
        with pytest.raises(RecipeError, match=message):
            sinogram_stripes(preprocess("{stripes: {mode: sinogram, " + text + "}}").stripes)
