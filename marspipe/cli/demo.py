"""``marspipe demo``: the whole way once, from a virtual scanner to a volume held against the truth."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from marspipe.cli.options import master_option


@click.command()
@click.option(
    "--out",
    default="marspipe-demo",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of everything the demo makes; an earlier demo in it is replaced.",
)
@click.option("--seed", default=0, help="Seed of the simulated noise.")
@click.option("--views", default=180, help="Views over 360 degrees.")
@master_option
def demo(out: Path, seed: int, views: int, master: str | None) -> None:
    """Simulate a 4-bin scan into raw files, ingest it, reconstruct it, and compare it with the truth."""
    from marspipe.pipeline.spark.session import command_session, require_machine

    require_machine()
    from marspipe.cli.options import load_recipe
    from marspipe.pipeline import run as job
    from marspipe.pipeline.source import open_source
    from marspipe.show.progress import Progress
    from marspipe.simulate import SimulationSettings, simulate_scan
    from marspipe.simulate.compare import insert_means
    from marspipe.store.volume import open_volume

    started = time.monotonic()
    progress = Progress()
    raw = out / "raw"
    settings = SimulationSettings(seed=seed, views=views)
    with progress.stage("simulate", unit="frames") as stage:
        simulate_scan(raw, settings=settings, overwrite=True, progress=stage.update)
    with command_session("marspipe demo", master) as spark:
        results = job.run(
            spark, open_source(str(raw)), str(out), load_recipe(None, ()), progress=progress, overwrite=True
        )
    volume = open_volume(results.volume_uri)
    truth = json.loads((raw / "truth" / "truth.json").read_text(encoding="utf-8"))
    table = Table(title="Mean attenuation of the inserts, 1/mm", title_justify="left")
    for heading in ("insert", "bin"):
        table.add_column(heading)
    for heading in ("measured", "true", "error", "standard error"):
        table.add_column(heading, justify="right")
    rows = insert_means(volume, truth)
    for row in rows:
        last = row is rows[-1] or row.bin == volume.bins[-1].label
        table.add_row(
            row.insert,
            row.bin,
            f"{row.mean_per_mm:.5f}",
            f"{row.true_per_mm:.5f}",
            f"{row.error_percent:+.2f} %",
            f"{row.standard_error_percent:.2f} %",
            end_section=last,
        )
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    click.echo(f"raw frames {raw}")
    click.echo(f"frames     {out / 'frames'}")
    click.echo(
        f"volume     {results.volume_uri}    (Parquet, {volume.shape} voxels (z, y, x), {len(volume.bins)} bins)"
    )
    click.echo(f"dicom      {results.dicom_uri}")
    click.echo(f"preview    {results.preview_uri}")
    click.echo(
        f"\nDone in {time.monotonic() - started:.0f} s. Look at the preview in any picture viewer, at the series"
    )
    click.echo("in any DICOM viewer, and at the numbers in Python:")
    click.echo(f'    from marspipe import open_volume; vol = open_volume("{results.volume_uri}"); vol[0][64]')
