from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marspipe.errors import RecipeError
from marspipe.recipe import Recipe, content_hash, parse_recipe, recipe_json_schema


def test_shipped_recipes_are_valid(project: Path) -> None:
    recipes = sorted((project / "conf" / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert parse_recipe(path.read_text(), str(path)).name == path.stem


def test_schema_file_is_what_the_code_says(project: Path) -> None:
    stored = json.loads((project / "schemas" / "recipe.schema.json").read_text())
    assert stored == json.loads(json.dumps(recipe_json_schema()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filtr: {window: hann}", r"r.yaml: unknown key 'filtr'; did you mean 'filter'\?"),
        ("filter: {windw: hann}", r"r.yaml: filter: unknown key 'windw'; did you mean 'window'\?"),
        (
            "preprocess: {bad_pixels: {zzz: 1}}",
            r"bad_pixels: unknown key 'zzz'; valid keys are dead_fraction, hot_fraction",
        ),
        ("filter: {window: hanning}", r"filter.window: .*'hann'.* got 'hanning'"),
        ("preprocess: {dead_time: {tau_s: -1}}", r"preprocess.dead_time.tau_s: .*greater than or equal to 0, got -1"),
        ("preprocess: {dead_time: {tau_s: [1e-7, -1]}}", r"preprocess.dead_time.tau_s.1: .*equal to 0, got -1"),
        ("preprocess: {dead_time: {tau_s: []}}", r"preprocess.dead_time.tau_s: .*at least 1"),
        ("preprocess: {zingers: {size_px: 4}}", r"preprocess.zingers.size_px: must be an odd number of pixels, got 4"),
        ("preprocess: {flux: {by: air}}", r"preprocess.flux: by: air needs air_region_px"),
        ("preprocess: {flux: {air_region_px: [0, 2, 0, 2]}}", r"preprocess.flux: air_region_px is for by: air"),
        (
            "preprocess: {flux: {by: air, air_region_px: [3, 2, 0, 2]}}",
            r"air_region_px: must be \[first row, .*\(3, 2,",
        ),
        (
            "preprocess: {scatter: {counts_per_pixel: 3, shadow_region_px: [0, 2, 0, 2]}}",
            r"preprocess.scatter: either counts_per_pixel or shadow_region_px, got both",
        ),
        ("preprocess: {thickness: {order: 4}}", r"preprocess.thickness.order: .*less than or equal to 3, got 4"),
        ("preprocess: {beam_hardening: {material: water}}", r"preprocess.beam_hardening: material and max_length_mm"),
        (
            "preprocess: {beam_hardening: {coefficients: [[1], [1, 0.1]]}}",
            r"preprocess.beam_hardening: coefficients must be 1 to 8 numbers, as many for every bin, got \[1, 2\]",
        ),
        (
            "preprocess: {thickness: {order: 2}, beam_hardening: {coefficients: [[1]]}}",
            r"preprocess: thickness undoes beam hardening itself",
        ),
        ("preprocess: {tiles: {equalize: scale}}", r"preprocess.tiles.equalize: .*'none' or 'offset', got 'scale'"),
        ("preprocess: {stripes: {rows_px: 4}}", r"preprocess.stripes.rows_px: must be an odd number of pixels, got 4"),
        (
            "preprocess: {stripes: {settings: {snr: [3]}}}",
            r"preprocess.stripes.settings: snr must be a number, .*\[3\]",
        ),
        ("grid: {voxel_mm: [0.1, 0, 0.1]}", r"grid.voxel_mm: must be positive \(mm\)"),
        ("grid: {shape: [1, 2]}", r"grid.shape"),
        ("grid: {voxel_mm: [.nan, 1, 1]}", r"grid.voxel_mm"),
        ("filter: {cutoff: 0}", r"filter.cutoff: .*greater than 0, got 0"),
        ("- a\n- b", r"r.yaml: a recipe must be a mapping of keys, got \['a', 'b'\]"),
        ("a: [", r"r.yaml: not valid YAML"),
        ("name: a\nname: b", r"r.yaml: not valid YAML: key 'name' is there twice"),
    ],
)
def test_wrong_recipes_name_key_and_value(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, "r.yaml")


def test_overrides() -> None:
    recipe = parse_recipe("filter: {window: hann}", "r", ("filter.window=cosine", "grid.shape=[4, 5, 6]"))
    assert recipe.filter.window == "cosine"
    assert recipe.grid.shape == (4, 5, 6)
    for wrong in ("filter.window", "=x", "filter.window.deep=1"):
        with pytest.raises(RecipeError, match="--set"):
            parse_recipe("filter: {window: hann}", "r", (wrong,))


def test_hash_follows_the_voxels_only() -> None:
    base = Recipe()
    same = parse_recipe("name: other\nrun: {slab_slices: 3}\noutput: {dicom: false}", "r")
    other = parse_recipe("filter: {cutoff: 0.9}", "r")
    assert same.content_hash() == base.content_hash()
    assert other.content_hash() != base.content_hash()


def test_yaml_round_trip() -> None:
    recipe = parse_recipe("grid: {shape: [4, 5, 6], voxel_mm: [0.1, 0.2, 0.3]}\nbins: {kind: cumulative}", "r")
    assert parse_recipe(recipe.to_yaml(), "r") == recipe
    corrections = """
preprocess:
  dead_time: {tau_s: [1.0e-7, 2.0e-7], model: non-paralyzable}
  scatter: {shadow_region_px: [0, 4, 0, 8]}
  flux: {by: air, air_region_px: [0, 9, 2, 3]}
  beam_hardening: {coefficients: [[1.0, 0.1], [1.0, 0.2]]}
  stripes: {mode: sinogram, method: all, settings: {snr: 3.0, large_px: 61}}
"""
    recipe = parse_recipe(corrections, "r")
    assert parse_recipe(recipe.to_yaml(), "r") == recipe
    assert recipe.content_hash() != Recipe().content_hash()


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_content_hash_ignores_order(content: dict[str, float]) -> None:
    backwards = dict(reversed(content.items()))
    assert content_hash(content) == content_hash(backwards)
