"""``marspipe ingest``: from the raw files of a scan to the frames table."""

from __future__ import annotations

from typing import Any

import click

from marspipe.cli.options import catalog_option, catalog_to_record_in, master_option

# Damaged parts that are printed; all of them are in the list beside the table.
SHOWN = 10
EXIT_FAILED = 3


@click.command()
@click.option("--raw", required=True, metavar="URI", help="Scan manifest, or the folder with scan.yaml.")
@click.option("--out", required=True, metavar="URI", help="Folder of the frames table.")
@click.option("--replace", is_flag=True, help="Replace stored frames that differ from the raw files.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the table holds.")
@catalog_option
@master_option
def ingest(raw: str, out: str, replace: bool, overwrite: bool, catalog_url: str | None, master: str | None) -> None:
    """Read the raw files of a scan into the frames table, or add what is new to it.

    What cannot be read is listed in OUT/_quarantine.txt and .parquet. Exit code 0 if no view is missing, otherwise 3:
    the table then is incomplete, and can be completed by ingesting again.
    """
    from marspipe.pipeline.frames.quarantine import SUMMARY_FILE
    from marspipe.pipeline.frames.raw_scan import read_manifest
    from marspipe.pipeline.frames.scan_frames import some
    from marspipe.pipeline.ingest import ingest_into, open_scan
    from marspipe.pipeline.recording import record_frames, recorded
    from marspipe.pipeline.spark.session import command_session
    from marspipe.show.progress import Progress
    from marspipe.store import storage
    from marspipe.store.commit import COMMIT_FILE
    from marspipe.store.lock import held

    progress = Progress()
    manifest, _ = read_manifest(raw)  # its faults come before Spark
    catalog = catalog_to_record_in(catalog_url)
    known: dict[str, Any] = {"raw_uri": raw, "frames_uri": out}
    with (
        command_session("marspipe ingest", master) as spark,
        recorded(catalog, "ingest", manifest.scan_id, out, **known) as record,
        held(out, "marspipe ingest"),
    ):
        scan = open_scan(raw, spark, tolerant=True)
        done = ingest_into(spark, scan, out, progress=progress, replace=replace, overwrite=overwrite)
        record.details |= {"frames_added": done.added, "damages": len(done.damages)}
        if catalog is not None and storage.exists(storage.join(out, COMMIT_FILE)):
            record_frames(catalog, out)
    for group in done.groups:
        tiles = f", {group.tiles} camera positions" if group.tiles > 1 else ""
        click.echo(f"{group.frame_type:<10} counter {group.counter}: {group.frames} frames, {group.views} views{tiles}")
    click.echo(
        f"added      {done.added} frames" if done.added else "added      nothing: the table holds all of it already"
    )
    click.echo(f"frames     {out}")
    if done.damages:
        click.echo(f"marspipe: warning: {len(done.damages)} parts of the raw files could not be read:", err=True)
        for damage in done.damages[:SHOWN]:
            click.echo(f"  {damage.sentence()}", err=True)
        if len(done.damages) > SHOWN:
            click.echo(f"  and {len(done.damages) - SHOWN} more", err=True)
        click.echo(f"  listed in {storage.join(out, SUMMARY_FILE)}", err=True)
    if done.missing_views:
        click.echo(f"marspipe: {out} is incomplete: it lacks {some(done.missing_views)}", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)
