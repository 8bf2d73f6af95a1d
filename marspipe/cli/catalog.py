"""``marspipe catalog``: which scans there are, what was made of them, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.filesize import decimal as byte_size
from rich.table import Table
from rich.text import Text

from marspipe.errors import InputError

if TYPE_CHECKING:
    from marspipe.store.catalog import Catalog, Frames, Overview, Run, Scan, VolumeRecord

EXIT_FAILED = 3
WIDTH = 100
# Kept in step with marspipe.store.catalog, which this module loads only when a command runs.
KINDS = ("ingest", "reconstruct", "reprocess", "export", "publish")
STATES = ("running", "died", "done", "kept", "failed", "stopped")

_SHORT_ID = 8
_ERROR_CHARACTERS = 60


def _catalog_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--catalog",
        "url",
        metavar="URL",
        help="sqlite:///FILE or postgresql://USER@HOST/DATABASE; by default $MARSPIPE_CATALOG, else a file in the "
        "user's data folder.",
    )(command)


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def _limit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--limit", default=50, type=click.IntRange(min=0), help="At most so many; 0 lists all.")(
        command
    )


@click.group()
def catalog() -> None:
    """List and search scans, runs and volumes; a database beside the stores, and rebuilt from them if need be."""


@catalog.command()
@_limit_option
@_json_option
@_catalog_option
def scans(limit: int, as_json: bool, url: str | None) -> None:
    """List the scans, the newest first."""
    opened = _open(url)
    listed = opened.overview(limit + 1 if limit else None)
    found = listed[:limit] if limit else listed
    if as_json:
        _print_json(found)
        return
    if not found:
        click.echo(f"no scans yet in {opened.url}: marspipe catalog rebuild FOLDER finds those in a store")
        return
    table = _table("scan", "acquired", "views", "counters", "volumes", "last run", "description")
    for one in found:
        scan, frames = one.scan, one.frames
        _add(
            table,
            scan.scan_id,
            _when(scan.acquired_at),
            _views(frames),
            str(len(frames.counters)) if frames else "-",
            str(one.n_volumes),
            _last_run(one),
            scan.description or "",
        )
    _print(table)
    _say_more(len(listed) > len(found), limit)


@catalog.command()
@click.option("--scan", "scan_id", metavar="ID", help="Of one scan.")
@click.option("--state", type=click.Choice(STATES), help="Only those; died: begun here, and the process is gone.")
@click.option("--kind", type=click.Choice(KINDS), help="Only those.")
@_limit_option
@_json_option
@_catalog_option
def runs(scan_id: str | None, state: str | None, kind: str | None, limit: int, as_json: bool, url: str | None) -> None:
    """List the runs, the newest first."""
    opened = _open(url)
    if scan_id is not None and opened.scan(scan_id) is None:
        raise InputError(f"{opened.url} has no scan {scan_id}; marspipe catalog scans lists them")
    listed = opened.runs(scan_id, state, kind, limit + 1 if limit else None)
    found = listed[:limit] if limit else listed
    if as_json:
        _print_json(found)
        return
    if not found:
        asked = scan_id is not None or state is not None or kind is not None
        click.echo(f"no such runs in {opened.url}" if asked else f"no runs yet in {opened.url}")
        return
    table = _table("run", "kind", "scan", "state", "started (UTC)", "took", "error")
    for run in found:
        _add(
            table,
            run.run_id[:_SHORT_ID],
            run.kind,
            run.scan_id,
            run.state,
            _when(run.started_at),
            _took(run),
            _first_line(run.error),
        )
    _print(table)
    _say_more(len(listed) > len(found), limit)


@catalog.command()
@click.argument("id_", metavar="ID")
@_json_option
@_catalog_option
def show(id_: str, as_json: bool, url: str | None) -> None:
    """Print all that is known of a scan, a run (the first digits of its id will do), or a volume (its URI)."""
    opened = _open(url)
    scan = opened.scan(id_)
    volumes = [] if scan is not None else _volumes_at(opened, id_)
    run = None if scan is not None or volumes else opened.run(id_)
    if scan is not None:
        _show_scan(opened, scan, as_json)
    elif volumes:
        _show_volumes(opened, volumes, as_json)
    elif run is not None:
        if as_json:
            _print_json(run)
        else:
            _say(_run_lines(run))
    else:
        raise InputError(f"{opened.url} has no scan, run or volume {id_}; marspipe catalog search TEXT looks for it")


@catalog.command()
@click.argument("text")
@_limit_option
@_json_option
@_catalog_option
def search(text: str, limit: int, as_json: bool, url: str | None) -> None:
    """Look for TEXT in ids, descriptions, recipe names, states and errors."""
    opened = _open(url)
    listed = opened.search(text, limit + 1 if limit else None)
    found = listed[:limit] if limit else listed
    if as_json:
        _print_json(found)
        return
    if not found:
        click.echo(f"nothing in {opened.url} has {text!r}")
        return
    table = _table("what", "id", "scan", "found in", "text")
    for match in found:
        short = match.id[:_SHORT_ID] if match.kind == "run" else match.id
        said = "" if match.text == match.id else _first_line(match.text)
        _add(table, match.kind, short, match.scan_id or "-", match.field, said)
    _print(table)
    _say_more(len(listed) > len(found), limit)


@catalog.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option("--depth", default=8, type=click.IntRange(min=0), help="How many folders deep to look.")
@_json_option
@_catalog_option
def rebuild(uris: tuple[str, ...], depth: int, as_json: bool, url: str | None) -> int:
    """Bring the catalog in line with the frames tables and volumes below the given folders.

    What is no longer there is dropped; runs are kept. Exit code 3 if something could not be read; all else is done.
    """
    from marspipe.store.catalog import rebuild as rebuild_from

    opened = _open(url)
    result = rebuild_from(opened, uris, depth=depth)
    if as_json:
        _print_json(result)
    else:
        frames, volumes = _counted(result.frames, "frames table"), _counted(result.volumes, "volume")
        click.echo(f"{opened.url}: {frames} and {volumes} found, {len(result.dropped)} gone")
        for uri in result.dropped:
            click.echo(f"dropped    {uri}")
    for fault in result.faults:
        click.echo(f"marspipe: warning: {fault}", err=True)
    return EXIT_FAILED if result.faults else 0


@catalog.command()
@_catalog_option
def migrate(url: str | None) -> None:
    """Make the catalog's tables, or bring those of an older marspipe up to date."""
    from marspipe.store.catalog.catalog import unmigrated

    opened = unmigrated(url)
    done = opened.migrate()
    if done.before == done.after:
        click.echo(f"{opened.url} is up to date (revision {done.after})")
    else:
        click.echo(f"{opened.url}: from {done.before or 'nothing'} to revision {done.after}")


def _open(url: str | None) -> Catalog:
    from marspipe.store.catalog import open_catalog

    return open_catalog(url)


def _volumes_at(opened: Catalog, uri: str) -> list[VolumeRecord]:
    """Return the version at a URI, or all versions in a volume's folder or in a folder of results."""
    from marspipe.store.catalog.summaries import out_uri_of

    try:
        one = opened.volume(uri)
        return [one] if one else opened.volumes(out_uri=uri) or opened.volumes(out_uri=out_uri_of(uri))
    except InputError:  # no URI at all
        return []


def _show_scan(opened: Catalog, scan: Scan, as_json: bool) -> None:
    frames = opened.frames(scan.scan_id)
    calibrations = [row for table in frames for row in opened.calibrations(table.uri)]
    volumes, runs = opened.volumes(scan.scan_id), opened.runs(scan.scan_id)
    publications = opened.publications(scan_id=scan.scan_id)
    if as_json:
        content = {"frames": frames, "calibrations": calibrations, "volumes": volumes, "runs": runs}
        _print_json({"scan": scan, **content, "publications": publications})
        return
    _say([("scan", scan.scan_id), ("", scan.description), ("acquired", _when(scan.acquired_at))])
    _say([("raw", scan.raw_uri), ("results", scan.out_uri), ("recipe", scan.recipe_uri)])
    _say([("priority", str(scan.priority))])
    for table in frames:
        _say([("frames", table.uri)])
        size = f"{table.n_positions} x {table.rows} x {table.cols} px, {byte_size(table.pixel_bytes)}"
        _say([("", f"{_views(table)} views, {len(table.counters)} counters, {size}, {table.content_hash}")])
    for row in calibrations:
        _say([(row.frame_type, f"counter {row.counter}: {row.n_frames} frames, {row.n_untimed} without a time")])
    for volume in volumes:
        mark = " (current)" if volume.current else ""
        _say([("volume", f"{volume.uri}{mark}"), ("", _volume_line(opened, volume))])
    for run in runs:
        took = f", {_took(run)}" if run.ended_at else ""
        error = f": {_first_line(run.error)}" if run.error else ""
        what = f"{run.run_id[:_SHORT_ID]} {run.kind} {run.state} {_when(run.started_at)}{took}{error}"
        _say([("run", what)])
    for sent in publications:
        _say([("sent", f"{_when(sent.published_at)} {sent.n_instances} to {sent.destination}: {sent.state}")])


def _show_volumes(opened: Catalog, volumes: list[VolumeRecord], as_json: bool) -> None:
    recipes = {volume.recipe_hash: opened.recipe(volume.recipe_hash) for volume in volumes}
    sent = {volume.uri: opened.publications(volume.uri) for volume in volumes}
    if as_json:
        _print_json([{"volume": v, "recipe": recipes[v.recipe_hash], "publications": sent[v.uri]} for v in volumes])
        return
    for volume in volumes:
        recipe = recipes[volume.recipe_hash]
        dz, dy, dx = volume.voxel_mm
        _say([("volume", f"{volume.uri}{' (current)' if volume.current else ''}"), ("scan", volume.scan_id)])
        _say([("made", f"{_when(volume.created_at)} by marspipe {volume.version}, run {volume.run_id or 'unknown'}")])
        _say([("bins", ", ".join(str(b.get("label")) for b in volume.bins))])
        _say([("grid", f"{tuple(volume.shape)} voxels (z, y, x) of {dz:.6g} x {dy:.6g} x {dx:.6g} mm")])
        _say([("size", byte_size(volume.n_bytes) if volume.n_bytes else None)])
        _say([("recipe", f"{recipe.name if recipe else 'unknown'} ({volume.recipe_hash})")])
        _say([("frames", volume.frames_hash), ("content", volume.content_hash)])
        for row in sent[volume.uri]:
            _say([("sent", f"{_when(row.published_at)} {row.n_instances} to {row.destination}: {row.state}")])


def _run_lines(run: Run) -> list[tuple[str, str | None]]:
    lines: list[tuple[str, str | None]] = [
        ("run", run.run_id),
        ("kind", run.kind),
        ("scan", run.scan_id),
        ("state", run.state),
        ("started", f"{_when(run.started_at)} UTC"),
        ("ended", f"{_when(run.ended_at)} UTC, after {_took(run)}" if run.ended_at else None),
        ("results", run.out_uri),
        ("recipe", run.recipe_hash),
        ("content", run.content_hash),
        ("marspipe", f"{run.version}, results version {run.results_version}"),
        ("process", f"{run.pid} on {run.host}"),
        ("spark", run.application_id),
        ("error", run.error),
    ]
    return lines + [
        ("detail" if n == 0 else "", f"{k}: {json.dumps(v)}") for n, (k, v) in enumerate(run.details.items())
    ]


def _volume_line(opened: Catalog, volume: VolumeRecord) -> str:
    recipe = opened.recipe(volume.recipe_hash)
    shape = " x ".join(map(str, volume.shape))
    name = recipe.name if recipe else "unknown"
    return (
        f"{len(volume.bins)} bins of {shape} voxels, recipe {name} ({volume.recipe_hash}), {_when(volume.created_at)}"
    )


def _last_run(one: Overview) -> str:
    return f"{one.last_run.kind} {one.last_run.state}" if one.last_run else "-"


def _views(frames: Frames | None) -> str:
    if frames is None:
        return "-"
    whole = frames.n_views - frames.n_missing_views
    return str(whole) if not frames.n_missing_views else f"{whole} of {frames.n_views}"


def _took(run: Run) -> str:
    end = run.ended_at or (datetime.now(UTC) if run.state == "running" else None)
    if end is None:
        return "-"
    minutes, seconds = divmod(max(0, round((end - run.started_at).total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _when(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _first_line(text: str | None) -> str:
    line = (text or "").strip().partition("\n")[0]
    return line if len(line) <= _ERROR_CHARACTERS else line[: _ERROR_CHARACTERS - 1] + "…"


def _counted(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _say(lines: Sequence[tuple[str, str | None]]) -> None:
    for name, text in lines:
        if text:
            click.echo(f"{name:<10} {text}")


def _say_more(more: bool, limit: int) -> None:
    if more:
        click.echo(f"the newest {limit} are shown; --limit 0 lists all")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        # Names and free text give way to the other columns.
        wraps = column in ("scan", "id", "description", "error", "text")
        table.add_column(column, overflow="fold", no_wrap=not wraps)
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # square brackets are no markup here


def _print(table: Table) -> None:
    console = Console(highlight=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    console.print(table)


def _print_json(content: Any) -> None:
    click.echo(json.dumps(_plain(content), indent=2))


def _plain(content: Any) -> Any:
    if is_dataclass(content) and not isinstance(content, type):
        return _plain(asdict(content))
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    return content.isoformat() if isinstance(content, datetime) else content
