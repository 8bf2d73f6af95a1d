"""``marspipe reprocess``: what a nightly cron job calls."""

from __future__ import annotations

import sys
from functools import cache

import click

from marspipe.cli.options import load_recipe, master_option


@click.command()
@click.option(
    "--catalog",
    "catalog_url",
    metavar="URL",
    help="Catalog of the scans, sqlite:///FILE or postgresql://...; by default $MARSPIPE_CATALOG, or the user's own.",
)
@click.option("--scan", "scan_ids", multiple=True, metavar="ID", help="Look at this scan only; may be repeated.")
@click.option("--recipe", "recipe_uri", metavar="YAML", help="Recipe for all scans; by default each scan's own.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and why; run nothing.")
@click.option("--max-hours", type=click.FloatRange(min=0), metavar="H", help="Begin no scan after so many hours.")
@click.option("--max-scans", type=click.IntRange(min=0), metavar="N", help="Begin no more than so many scans.")
@click.option("--keep", type=click.IntRange(min=1), default=2, metavar="N", help="Versions of a volume that stay.")
@click.option("--json", "json_uri", metavar="FILE", help="Write the summary as JSON; - is standard output.")
@click.option("--log", "log_file", metavar="FILE", help="Add the log to this file, one JSON object a line.")
@click.option("--lock-dir", "lock_uri", metavar="URI", help="Folder of the lock against a second instance.")
@master_option
def reprocess(
    catalog_url: str | None,
    scan_ids: tuple[str, ...],
    recipe_uri: str | None,
    dry_run: bool,
    max_hours: float | None,
    max_scans: int | None,
    keep: int,
    json_uri: str | None,
    log_file: str | None,
    lock_uri: str | None,
    master: str | None,
) -> int:
    """Reconstruct anew what another recipe, calibration or code has made stale, and what was never finished.

    Exit codes: 0 all done, or nothing to do; 1 some scans failed; 2 bad input; 75 another instance is running.
    """
    from marspipe.errors import OutputExistsError
    from marspipe.log import configure_json_log, remove_json_log
    from marspipe.pipeline.reprocessing import reprocess as night
    from marspipe.pipeline.reprocessing.queue import recipe_named
    from marspipe.recipe import Recipe
    from marspipe.show.progress import Progress
    from marspipe.store import storage
    from marspipe.store.catalog import open_catalog

    # A recipe for all scans that is wrong is bad input, not a failure of every scan.
    for_all = None if recipe_uri is None else load_recipe(recipe_uri, ())
    catalog = open_catalog(catalog_url)

    @cache
    def recipe_of(uri: str | None) -> Recipe:
        return for_all or recipe_named(catalog, uri, lambda path: load_recipe(path, ()))

    try:
        handler = None if log_file is None else configure_json_log(log_file)
    except OSError as error:
        raise OutputExistsError(f"--log {log_file} cannot be written: {error}") from error
    try:
        summary = night.reprocess(
            catalog,
            recipe_of,
            lock_uri=lock_uri or night.lock_folder(catalog_url),
            progress=Progress(),
            scan_ids=scan_ids,
            limits=night.Limits(max_hours, max_scans, keep),
            dry_run=dry_run,
            master=master,
        )
    finally:
        if handler is not None:
            remove_json_log(handler)
    to_stdout = json_uri == "-"
    click.echo(summary.to_text(), err=to_stdout)
    if to_stdout:
        sys.stdout.write(summary.to_json())
    elif json_uri is not None:
        try:
            storage.write_bytes(json_uri, summary.to_json().encode(), overwrite=True)
        except OSError as error:
            raise OutputExistsError(f"--json {json_uri} cannot be written: {error}") from error
    return summary.exit_code
