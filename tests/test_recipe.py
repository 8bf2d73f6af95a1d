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


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_content_hash_ignores_order(content: dict[str, float]) -> None:
    backwards = dict(reversed(content.items()))
    assert content_hash(content) == content_hash(backwards)
