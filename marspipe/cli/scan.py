"""``marspipe simulate`` and ``marspipe ingest``: from a scanner, real or not, to the frames table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from marspipe.cli.options import master_option

# Damaged parts that are printed; all of them are in the list beside the table.
SHOWN = 10
EXIT_FAILED = 3


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--scan-id", default="demo", help="Name of the scan.")
@click.option("--seed", default=0, help="Same seed, same bytes.")
@click.option("--views", default=180, help="Views over 360 degrees.")
@click.option("--detector", nargs=2, type=int, default=(128, 128), metavar="ROWS COLS", help="Detector pixels.")
@click.option("--pixel-pitch-mm", default=0.11, help="Pixel pitch, mm.")
@click.option(
    "--thresholds", default="20,33,50,80", metavar="KEV,...", help="Counter thresholds, keV, ascending, at most 8."
)
@click.option("--photons", default=100_000.0, help="Open-beam counts of the lowest counter per pixel and frame.")
@click.option("--counter-depth", type=click.Choice(["12", "24"]), default="24", help="Bits of a counter.")
@click.option("--format", "format_", type=click.Choice(["merlin", "data_exchange"]), default="merlin")
@click.option("--noise/--no-noise", default=True, help="Poisson noise.")
@click.option("--overwrite", is_flag=True, help="Replace a scan that is already there.")
def simulate(
    directory: Path,
    scan_id: str,
    seed: int,
    views: int,
    detector: tuple[int, int],
    pixel_pitch_mm: float,
    thresholds: str,
    photons: float,
    counter_depth: str,
    format_: Literal["merlin", "data_exchange"],
    noise: bool,
    overwrite: bool,
) -> None:
    """Write a virtual MARS scan into DIRECTORY: raw frames, scan.yaml, and the truth beside them."""
    from marspipe.errors import InputError
    from marspipe.show.progress import Progress
    from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan

    try:
        ladder = tuple(float(value) for value in thresholds.split(","))
    except ValueError as error:
        raise InputError(f"--thresholds must be numbers in keV separated by commas, got {thresholds!r}") from error
    default = SimulationSettings()
    # The sample keeps its place in the field of view, whatever the detector.
    width = detector[1] * pixel_pitch_mm / (default.detector_shape[1] * default.pixel_pitch_mm[1])
    settings = replace(
        default,
        scan_id=scan_id,
        seed=seed,
        format=format_,
        views=views,
        detector_shape=detector,
        pixel_pitch_mm=(pixel_pitch_mm, pixel_pitch_mm),
        phantom=mars_phantom(width),
        thresholds_kev=ladder,
        open_beam_photons=photons,
        counter_depth_bits=int(counter_depth),
        noise=noise,
    )
    progress = Progress()
    with progress.stage("simulate", unit="frames") as stage:
        manifest = simulate_scan(directory, settings=settings, overwrite=overwrite, progress=stage.update)
    click.echo(f"scan       {manifest}")
    click.echo(f"truth      {directory / 'truth' / 'truth.json'}")


@click.command()
@click.option("--raw", required=True, metavar="URI", help="Scan manifest, or the folder with scan.yaml.")
@click.option("--out", required=True, metavar="URI", help="Folder of the frames table.")
@click.option("--replace", is_flag=True, help="Replace stored frames that differ from the raw files.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the table holds.")
@master_option
def ingest(raw: str, out: str, replace: bool, overwrite: bool, master: str | None) -> None:
    """Read the raw files of a scan into the frames table, or add what is new to it.

    What cannot be read is listed in OUT/_quarantine.txt and .parquet. Exit code 0 if no view is missing, otherwise 3:
    the table then is incomplete, and can be completed by ingesting again.
    """
    from marspipe.pipeline.ingest import ingest_into, open_scan
    from marspipe.pipeline.quarantine import SUMMARY_FILE
    from marspipe.pipeline.raw_scan import read_manifest
    from marspipe.pipeline.scan_frames import some
    from marspipe.pipeline.session import command_session
    from marspipe.show.progress import Progress
    from marspipe.store import storage

    progress = Progress()
    read_manifest(raw)  # its faults come before Spark
    with command_session("marspipe ingest", master) as spark:
        scan = open_scan(raw, spark, tolerant=True)
        done = ingest_into(spark, scan, out, progress=progress, replace=replace, overwrite=overwrite)
    for group in done.groups:
        click.echo(f"{group.frame_type:<10} counter {group.counter}: {group.frames} frames, {group.views} views")
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
