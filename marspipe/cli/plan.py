"""``marspipe plan``: what a reconstruction will need on a cluster, before anything runs."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import click

from marspipe.cli.options import load_recipe, master_option, recipe_options


@click.command()
@click.argument("scan", required=False)
@recipe_options
@click.option("--preset", metavar="NAME", help="Instead of a scan: stone, artery, limb, thorax, body, or a YAML file.")
@click.option(
    "--cluster",
    "cluster_uri",
    default="this-machine",
    metavar="YAML",
    help="Cluster description, or the name of one in conf/clusters.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--compare", is_flag=True, help="Run the job into a temporary folder and show what it really took.")
@click.option("--measure", metavar="FILE", help="Measure the rates of this machine and write its description.")
@master_option
def plan(
    scan: str | None,
    recipe_uri: str | None,
    overrides: tuple[str, ...],
    preset: str | None,
    cluster_uri: str,
    as_json: bool,
    compare: bool,
    measure: str | None,
    master: str | None,
) -> None:
    """Say what reconstructing SCAN needs on a cluster: slabs, tasks, memory, bytes, time, and what bounds it.

    SCAN is a scan manifest, a folder with scan.yaml, or a frames table; no pixels are read.
    """
    if (scan is not None) + (preset is not None) + (measure is not None) != 1:
        raise click.UsageError("give one of SCAN, --preset and --measure")
    if compare and scan is None:
        raise click.UsageError("--compare needs a SCAN")
    if measure is not None:
        _measure(measure, master)
        return
    from marspipe.pipeline.forecast.inputs import load_cluster, load_subject
    from marspipe.pipeline.forecast.report import forecast
    from marspipe.pipeline.forecast.workload import Workload
    from marspipe.pipeline.source import open_source

    cluster = load_cluster(cluster_uri)
    if preset is not None:
        subject = load_subject(preset)
        recipe = load_recipe(recipe_uri, (*subject.overrides(), *overrides))
        found = forecast(subject.workload(), recipe, cluster)
    else:
        assert scan is not None
        recipe = load_recipe(recipe_uri, overrides)
        source = open_source(scan)
        found = forecast(Workload.of(source), recipe, cluster)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else found.describe())
    if compare:
        from marspipe.pipeline.forecast.compare import compared, measured_run
        from marspipe.pipeline.spark.session import command_session

        begin = time.perf_counter()
        load = os.getloadavg()[0]
        with command_session("marspipe plan", master) as spark, tempfile.TemporaryDirectory() as folder:
            took = measured_run(spark, source, str(Path(folder) / "out"), recipe, begin)
        click.echo("\n" + compared(found, took))
        click.echo(f"load of the machine before: {load:.2f}")


def _measure(file: str, master: str | None) -> None:
    from marspipe.pipeline.forecast.measure import machine_memory_mib, measure_cluster
    from marspipe.pipeline.spark.session import command_session
    from marspipe.store import storage

    begin = time.perf_counter()
    with command_session("marspipe plan", master) as spark, tempfile.TemporaryDirectory() as folder:
        found = measure_cluster(spark, Path(folder), time.perf_counter() - begin, machine_memory_mib())
    storage.write_bytes(file, found.to_yaml().encode(), overwrite=True)
    click.echo(found.to_yaml() + f"\nwritten to {file}")
