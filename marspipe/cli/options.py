"""Options and small pieces that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from marspipe.errors import RecipeError
from marspipe.recipe import Recipe, parse_recipe
from marspipe.resources import resource_path
from marspipe.store import storage

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
