"""What the catalog is told of a job: that it began, what it made, how it ended.

A job needs its catalog at the beginning, so that a wrong URL is noticed. A catalog that fails later costs a warning,
never the results: these describe themselves, and ``marspipe catalog rebuild`` finds them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from marspipe.errors import BusyError, MarspipeError
from marspipe.pipeline.reconstruct import Reconstructed
from marspipe.recipe import Recipe
from marspipe.store.catalog import PINNED, SHIPPED, Catalog, Scan
from marspipe.store.commit import require_committed
from marspipe.store.storage import absolute
from marspipe.store.versions import versions


class CatalogWarning(UserWarning):
    """The catalog could not be told of something."""


@dataclass
class Recording:
    """A run that is being recorded.

    Attributes
    ----------
    catalog : Catalog or None
        Where; None for nowhere.
    run_id : str
        Name of the run.
    state : str
        What it will have ended as: ``done`` or ``kept``.
    details : dict
        Counts, for the catalog.
    content_hash : str or None
        Of what was made.
    """

    catalog: Catalog | None
    run_id: str = field(default_factory=lambda: uuid4().hex)
    state: str = "done"
    details: dict[str, Any] = field(default_factory=dict)
    content_hash: str | None = None

    def end(self, state: str, error: str | None = None) -> None:
        """Tell the catalog how the run ended."""
        if self.catalog is not None:
            with _warned():
                self.catalog.end_run(
                    self.run_id, state, error=error, content_hash=self.content_hash, details=self.details
                )


def remembered(recipe: Recipe, recipe_uri: str | None, *, changed: bool) -> str:
    """Return what the catalog remembers as a scan's recipe, for its reprocessing.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    recipe_uri : str or None
        The file it was read from; None for the one that is shipped.
    changed : bool
        Whether the command line changed it: then this very recipe is meant, and not what the file may say later.
    """
    if changed:
        return PINNED + recipe.content_hash()
    return recipe_uri or SHIPPED


@contextmanager
def recorded(
    catalog: Catalog | None, kind: str, scan_id: str, out_uri: str, /, *, recipe: Recipe | None = None, **scan: Any
) -> Iterator[Recording]:
    """Record a run; an exception inside ends it as failed.

    Parameters
    ----------
    catalog : Catalog or None
        Where; None for nowhere.
    kind, scan_id, out_uri
        Of the run, as for :meth:`Catalog.start_run`.
    recipe : Recipe, optional
        What it is done by.
    **scan
        What is known of the scan, as for :meth:`Catalog.put_scan`.

    Raises
    ------
    MarspipeError
        If the catalog cannot be written at the beginning.
    """
    run = Recording(catalog)
    if catalog is not None:
        recipe_hash = recipe.content_hash() if recipe else None
        if recipe is not None:
            catalog.put_recipe(recipe.content_hash(), recipe.name, recipe.model_dump(mode="json"))
        known = catalog.scan(scan_id)
        if known is not None:
            scan.pop("recipe_uri", None)  # a recipe replaces the one before when it has made a volume
            _warn_of_another_scan(known, scan)
        catalog.put_scan(scan_id, **scan)
        catalog.start_run(kind, scan_id, run_id=run.run_id, out_uri=out_uri, recipe_hash=recipe_hash)
    try:
        yield run
    except BusyError as error:
        run.details["busy"] = True
        run.end("stopped", str(error))
        raise
    except KeyboardInterrupt:
        run.end("stopped", "interrupted from the keyboard")
        raise
    except BaseException as error:
        run.end("failed", str(error) if isinstance(error, MarspipeError) else f"{type(error).__name__}: {error}")
        raise
    run.end(run.state)


def _warn_of_another_scan(known: Scan, given: Mapping[str, str | None]) -> None:
    """Warn if raw files and results of a scan lie elsewhere than those that the catalog has: ids must be unique."""
    raw_uri = given.get("raw_uri")
    moved = [key for key in ("frames_uri", "out_uri") if _differ(given.get(key), getattr(known, key))]
    if moved and _differ(raw_uri, known.raw_uri):
        warnings.warn(
            f"the catalog knows scan {known.scan_id!r} from {known.raw_uri}, and takes {absolute(str(raw_uri))} for it "
            "from now on: give every scan a scan_id of its own, or the night mixes them up",
            CatalogWarning,
            stacklevel=4,
        )


def _differ(one: str | None, other: str | None) -> bool:
    """Return whether two URIs are known and name different places; a manifest is at the place of its folder."""
    if one is None or other is None:
        return False
    return absolute(one).removesuffix("/scan.yaml") != absolute(other).removesuffix("/scan.yaml")


def record_frames(catalog: Catalog, frames_uri: str) -> None:
    """Tell the catalog of a committed frames table."""
    catalog.put_frames(frames_uri, require_committed(frames_uri, "frames"))


def record_volume(catalog: Catalog, out_uri: str, volume_uri: str) -> int:
    """Tell the catalog which versions a volume has now, and of the frames it was made from.

    Returns
    -------
    int
        Number of versions.
    """
    there = versions(volume_uri)
    for frames_uri in {str(version.metadata["frames_uri"]) for version in there[:1]}:
        with suppress(MarspipeError):  # frames may have gone to an archive since
            record_frames(catalog, frames_uri)
    for version in there:
        catalog.put_volume(version.uri, version.metadata)
    uris = {absolute(version.uri) for version in there}
    for record in catalog.volumes(out_uri=out_uri):
        if record.uri not in uris:
            catalog.drop_volume(record.uri)
    return len(there)


def record_results(run: Recording, out_uri: str, made: Reconstructed, recipe_uri: str | None = None) -> None:
    """Note what a reconstruction made, and tell the catalog of its volume and of the scan's recipe."""
    metadata = require_committed(made.version_uri, "volume")
    run.state = "done" if metadata.get("run_id") == run.run_id else "kept"
    run.content_hash = metadata["content_hash"]
    run.details |= {"slabs": made.slabs, "slabs_kept": made.slabs_kept, "stages_kept": list(made.stages_kept)}
    if run.catalog is not None:
        with _warned():
            run.details["versions"] = record_volume(run.catalog, out_uri, made.volume_uri)
            run.catalog.put_scan(metadata["scan_id"], recipe_uri=recipe_uri, out_uri=out_uri)


@contextmanager
def _warned() -> Iterator[None]:
    try:
        yield
    except MarspipeError as error:
        warnings.warn(f"the catalog was not told: {error}", CatalogWarning, stacklevel=3)
