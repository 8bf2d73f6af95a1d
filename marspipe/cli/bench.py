"""``marspipe bench``: the measurements behind every figure that marspipe claims."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from marspipe.cli.options import master_option

SIZES = {"small": [(128, 180, 192)], "medium": [(256, 360, 384)], "large": [(256, 360, 384), (512, 360, 640)]}


@click.command()
@click.argument("what", nargs=-1, type=click.Choice(["kernel", "filter", "fdk", "pipeline"]))
@click.option("--size", type=click.Choice(list(SIZES)), default="medium", help="128^3; 256^3; 256^3 and 512^3.")
@click.option("--backend", type=click.Choice(["auto", "cpu"]), default="auto", help="Backprojection kernel.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@master_option
def bench(what: tuple[str, ...], size: str, backend: str, as_json: bool, master: str | None) -> None:
    """Measure kernel, filter, fdk() and the Spark pipeline on this machine (all of them by default)."""
    import os

    from marspipe import bench as measure
    from marspipe.pipeline.benchmark import bench_pipeline
    from marspipe.pipeline.session import command_session

    chosen = what or ("kernel", "filter", "fdk", "pipeline")
    cores = len(os.sched_getaffinity(0))
    threads = sorted({1, min(2, cores), cores})
    results: list[measure.Result] = []
    for voxels, views, detector in SIZES[size]:
        if "kernel" in chosen:
            results += [measure.bench_kernel(voxels, n, backend) for n in threads]
        if "filter" in chosen:
            results += measure.bench_filter(detector)
        if "fdk" in chosen:
            results += [measure.bench_fdk(voxels, views, detector, n) for n in threads]
        if "pipeline" in chosen:
            with command_session("marspipe bench", master) as spark, tempfile.TemporaryDirectory() as folder:
                results += bench_pipeline(spark, Path(folder), voxels, views, detector)
    if as_json:
        click.echo(json.dumps(measure.as_json(results), indent=2))
        return
    table = Table()
    for heading in ("what", "size"):
        table.add_column(heading)
    for heading in ("wall s", "CPU s", "figures"):
        table.add_column(heading, justify="right")
    for result in results:
        figures = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in result.figures.items())
        cpu = f"{result.cpu_seconds:.2f}" if result.cpu_seconds else ""
        table.add_row(result.name, result.size, f"{result.seconds:.2f}", cpu, figures)
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in measure.machine().items()))
