"""``marspipe bench``: the measurements behind every figure that marspipe claims."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from marspipe.cli.options import master_option

if TYPE_CHECKING:
    from marspipe.bench.measure import Result

PARTS = ("kernel", "filter", "fdk", "pipeline", "readers", "ingest", "peers", "dicom", "retrieval", "scaling")
# Only when asked for by name: they take many minutes.
LONG_PARTS = ("large", "receive")
CUDA_PARTS = ("kernel", "fdk", "peers")
# voxels along each axis, views, detector rows and columns
SIZES = {
    "small": [(128, 180, 192)],
    "medium": [(256, 360, 384)],
    "large": [(256, 360, 384), (512, 360, 640)],
}
CUDA_SIZES = {
    "small": [(256, 360, 384)],
    "medium": [(512, 720, 1024), (1024, 720, 1024)],
    "large": [(512, 720, 1024), (1024, 720, 1024), (2048, 720, 1024)],
}
# raw scan that is ingested, MB
INGEST_MB = {"small": 200, "medium": 2000, "large": 2000}
# voxels along each axis, views, detector rows and columns of the job that is repeated with more task slots
SCALING = {"small": (128, 180, 192), "medium": (256, 360, 384), "large": (256, 720, 512)}
# slices of 512 x 512 in the volume that single slices are read from
RETRIEVAL_SLICES = {"small": 64, "medium": 512, "large": 512}
# Larger volumes go through the device in slabs of slices, and are not reconstructed whole.
CUDA_WHOLE_VOXELS = 1024

FIGURES = {
    "gb_per_s": "GB/s",
    "mb_per_second": "MB/s",
    "mb_per_second_per_core": "MB/s per core",
    "mpixel_per_s": "Mpixel/s",
    "times_one_thread": "x one thread",
    "times_bare": "x bare",
    "times_marspipe": "x marspipe's time",
    "times_marspipe_cpu": "x its CPU time",
    "times_one_process": "x one process",
    "growth_mib": "MiB more at its peak",
    "volume_mib": "MiB volume",
    "line_integrals_mib": "MiB line integrals",
    "max_memory_mib": "MiB allowed",
    "median_ms": "ms median",
    "p95_ms": "ms 95th percentile",
    "slices_per_s": "slices/s",
    "slices_per_s_per_core": "slices/s per core",
    "times_uncompressed": "x uncompressed size",
    "kib_read": "KiB read per slice",
    "ranged_reads": "ranged reads per slice",
    "speed_up": "x 1 slot",
    "times_planned_shuffle": "x planned shuffle",
    "executor_peak_gib": "GiB peak of an executor",
    "jvm_peak_mib": "MiB peak of its JVM",
    "python_peak_mib": "MiB peak of its Python workers",
    "planned_task_mib": "MiB planned per task",
    "spilled_mib": "MiB spilled",
}


@click.command()
@click.argument("what", nargs=-1, type=click.Choice((*PARTS, *LONG_PARTS)))
@click.option(
    "--size",
    type=click.Choice(list(SIZES)),
    default="medium",
    help="CPU: 128^3; 256^3; 256^3 and 512^3. CUDA: 256^3; 512^3 and 1024^3; 2048^3 too.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where to reconstruct; auto takes the CPU, and the CUDA device too if there is one.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Number of threads; by default 1, 2 and all cores, one by one."
)
@click.option(
    "--hdfs",
    metavar="URI",
    help="Folder for retrieval's volume, hdfs:// for instance; removed at the end. By default a local one.",
)
@click.option(
    "--pacs",
    metavar="URL",
    help="PACS with DICOMweb that retrieval's series is sent to, and read from by WADO-RS; it stays there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@master_option
def bench(
    what: tuple[str, ...],
    size: str,
    backend: str,
    threads: int | None,
    hdfs: str | None,
    pacs: str | None,
    as_json: bool,
    master: str | None,
) -> None:
    """Measure this machine: kernels, filter, fdk(), Spark pipeline, readers, ingest, peers, DICOM, retrieval, scaling.

    By default all of them. Retrieval is one slice, and all slices, of a stored volume; scaling the same job with 1 and
    2 task slots and on a cluster of 2 workers that it starts and stops. Two must be asked for by name: "large", 1024^3
    voxels by executors of less than 2 GiB; "receive", 20 000 DICOM instances from 4 senders (needs DCMTK).

    Peers are ITK-RTK and ASTRA where they are installed (extra "bench"): same scan, same line integrals, side by side.
    """
    from marspipe.bench import measure
    from marspipe.bench.device import cuda_device

    alien = sorted(set(what) - set(CUDA_PARTS))
    if backend == "cuda" and alien:
        raise click.UsageError(f"--backend cuda measures {', '.join(CUDA_PARTS)}, not {', '.join(alien)}")
    device = None if backend == "cpu" else cuda_device(required=backend == "cuda")
    machine = measure.machine()
    results: list[Result] = []
    notes: list[str] = []
    if backend != "cuda":
        _on_cpu(what or PARTS, size, threads, master, results, notes)
        _on_stores_and_clusters(what or PARTS, size, hdfs, pacs, results)
    if device is not None:
        machine["cuda"] = device
        _on_cuda([part for part in CUDA_PARTS if part in (what or PARTS)], size, results, notes)
    if as_json:
        click.echo(json.dumps(measure.as_json(results, notes, machine), indent=2))
    else:
        _print(results, notes, machine)


def _on_cpu(
    what: tuple[str, ...],
    size: str,
    threads: int | None,
    master: str | None,
    results: list[Result],
    notes: list[str],
) -> None:
    from marspipe.bench import filtering, kernel, measure, peers, reconstruction

    cores = measure.cores()
    numbers = sorted({1, min(2, cores), cores}) if threads is None else [threads]
    for voxels, views, detector in SIZES[size]:
        if "kernel" in what:
            results += kernel.bench_kernel(voxels, numbers)
        if "filter" in what:
            results += filtering.bench_filter(detector)
        if "fdk" in what:
            results += reconstruction.bench_fdk(voxels, views, detector, numbers)
            results += reconstruction.bench_memory(voxels, views, detector, numbers[-1])
        if "pipeline" in what:
            from marspipe.pipeline.benchmarks.pipeline import bench_pipeline
            from marspipe.pipeline.spark.session import command_session

            with command_session("marspipe bench", master) as spark, tempfile.TemporaryDirectory() as folder:
                results += bench_pipeline(spark, Path(folder), voxels, views, detector)
    if "readers" in what:
        from marspipe.bench.decoding import bench_merlin

        results += bench_merlin()
    if "ingest" in what:
        from marspipe.pipeline.benchmarks.ingest import bench_ingest
        from marspipe.pipeline.spark.session import command_session

        with command_session("marspipe bench", master) as spark, tempfile.TemporaryDirectory() as folder:
            results += bench_ingest(spark, Path(folder), INGEST_MB[size])
    if "dicom" in what:
        from marspipe.pipeline.benchmarks.dicom_export import bench_dicom_export
        from marspipe.pipeline.benchmarks.dicom_objects import bench_dicom_objects
        from marspipe.pipeline.spark.session import command_session

        results += bench_dicom_objects()
        with command_session("marspipe bench", master) as spark, tempfile.TemporaryDirectory() as folder:
            results += bench_dicom_export(spark, Path(folder), slices=RETRIEVAL_SLICES[size])
    if "peers" in what:  # at one size: the slower one takes a minute already
        voxels, views, detector = SIZES[size][0]
        for compared in (
            peers.compare_rtk(voxels, views, detector, numbers[-1]),
            peers.compare_astra_slice(voxels, views),
        ):
            results += compared.results
            notes += compared.notes


def _on_stores_and_clusters(
    what: tuple[str, ...], size: str, hdfs: str | None, pacs: str | None, results: list[Result]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if "retrieval" in what:
            from marspipe.pipeline.benchmarks.retrieval import bench_retrieval

            results += bench_retrieval(hdfs or folder, slices=RETRIEVAL_SLICES[size], pacs_url=pacs)
        if "scaling" in what:
            from marspipe.pipeline.benchmarks.cluster import bench_scaling

            results += bench_scaling(Path(folder, "scaling"), *SCALING[size])
        if "large" in what:
            from marspipe.pipeline.benchmarks.cluster import bench_large

            results += bench_large(Path(folder, "large"))
    if "receive" in what:
        from marspipe.pipeline.benchmarks.receive import bench_receive

        results += bench_receive()


def _on_cuda(what: list[str], size: str, results: list[Result], notes: list[str]) -> None:
    from marspipe.bench import cuda, peers

    for voxels, views, detector in CUDA_SIZES[size]:
        whole = voxels <= CUDA_WHOLE_VOXELS
        if "kernel" in what:
            slab_slices = None if whole else CUDA_WHOLE_VOXELS // 2
            results.append(cuda.bench_kernel(voxels, views, detector, slab_slices))
            results.append(cuda.bench_stream(voxels, views, detector, slab_slices))
        if "fdk" in what and whole:
            results.append(cuda.bench_fdk(voxels, views, detector))
        if "peers" in what and whole:
            compared = peers.compare_astra_cuda(voxels, views, detector)
            results += compared.results
            notes += compared.notes


def _print(results: list[Result], notes: list[str], machine: dict[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("what", "size"):
        table.add_column(heading, overflow="fold")
    for heading in ("wall s", "CPU s", "GUPS", "per core"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("figures (and targets)", overflow="fold")
    for result in results:
        table.add_row(
            result.name,
            result.size,
            _number(result.seconds),
            _number(result.cpu_seconds) if result.cpu_seconds else "",
            _with_bar(result, "gups"),
            _with_bar(result, "gups_per_core"),
            "\n".join(_labelled(result, name) for name in result.figures if not name.startswith("gups")),
        )
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)


def _with_bar(result: Result, name: str) -> str:
    if name not in result.figures:
        return ""
    bar = f" ({result.bars[name]})" if name in result.bars else ""
    return _number(result.figures[name]) + bar


def _labelled(result: Result, name: str) -> str:
    if name in FIGURES:
        value, _, bar = _with_bar(result, name).partition(" ")
        return f"{value} {FIGURES[name]} {bar}".rstrip()
    return f"{name.replace('_', ' ').replace(' mib', ' MiB').replace(' gib', ' GiB')} {_with_bar(result, name)}"


def _number(value: float) -> str:
    """Return three digits, and all digits before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
