"""Options and small pieces that several commands share."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from marspipe.errors import MarspipeError, RecipeError
from marspipe.recipe import Recipe, parse_recipe
from marspipe.resources import resource_path
from marspipe.store import storage

if TYPE_CHECKING:
    from marspipe.store.catalog import Catalog

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_RECIPE = "conf/recipes/default.yaml"


def master_option(command: Command) -> Command:
    """Add ``--master``."""
    return click.option(
        "--master", metavar="URL", help="Spark master; by default local[*], or what spark-submit was given."
    )(command)


def recipe_options(command: Command) -> Command:
    """Add ``--recipe`` and ``--set``."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a recipe value, e.g. filter.window=hann.",
    )(command)
    return click.option("--recipe", "recipe_uri", metavar="YAML", help="Recipe; by default the one shipped.")(command)


def load_recipe(uri: str | None, overrides: tuple[str, ...]) -> Recipe:
    """Return the recipe at a path or URI, or the shipped default."""
    if uri is None:
        uri = str(resource_path(DEFAULT_RECIPE))
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"{uri}: there is no recipe") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{uri}: the recipe cannot be read: {error}") from error
    return parse_recipe(text, uri, overrides)


def local_slots(master: str | None) -> int:
    """Return the task slots of a local master without starting Spark."""
    match = re.fullmatch(r"local(?:\[(\d+|\*)(?:,\d+)?\])?", master or "local[*]")
    if match is None:
        return 1
    count = match.group(1) or "1"
    return os.cpu_count() or 1 if count == "*" else int(count)


def catalog_option(command: Command) -> Command:
    """Add ``--catalog`` to a command that records its run."""
    return click.option(
        "--catalog",
        "catalog_url",
        metavar="URL",
        help="Catalog that the run is recorded in, sqlite:///FILE or postgresql://...; none for nowhere. By default "
        "$MARSPIPE_CATALOG; without it the user's own, or nowhere under spark-submit.",
    )(command)


def catalog_to_record_in(url: str | None) -> Catalog | None:
    """Return the catalog that ``--catalog`` names; the user's own is done without if it cannot be written."""
    from marspipe.pipeline.recording import CatalogWarning
    from marspipe.store.catalog import open_catalog

    if url == "none":
        return None
    if url is not None or os.environ.get("MARSPIPE_CATALOG"):
        return open_catalog(url)
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # the driver may run anywhere, as anybody
        return None
    try:
        return open_catalog()
    except MarspipeError as error:
        warnings.warn(f"this run is not recorded: {error}", CatalogWarning, stacklevel=2)
        return None
