"""Measure what a cluster description needs on the machine, or the cluster, that a session runs on.

Short runs of the real code. All task slots work at once, since cores share memory and caches, so that the rates are
those of one core among busy ones. Numerics are measured by processor time; what goes through Spark by wall time, on a
machine that should be quiet. What a fresh process loses (imports, compiled kernels, a cold JVM) is the first run
of a tiny job less the second one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from rich.console import Console

from marspipe.bench.measure import machine
from marspipe.bench.scans import cone_scan, noise
from marspipe.pipeline.export.dicom import export_dicom
from marspipe.pipeline.forecast.cluster import Cluster, CoreRates, StartUp
from marspipe.pipeline.forecast.compare import StageTimes
from marspipe.pipeline.forecast.report import forecast
from marspipe.pipeline.forecast.stages import MB
from marspipe.pipeline.forecast.workload import Workload
from marspipe.pipeline.frames.raw_scan import RawScan
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.planning.slabs import MIB
from marspipe.pipeline.reconstruct import corrections_of, prepare
from marspipe.pipeline.run import run
from marspipe.pipeline.spark.session import configure, task_slots
from marspipe.pipeline.spark.stages import as_function
from marspipe.preprocess.chain_settings import ChainSettings
from marspipe.preprocess.stitching import Stitcher
from marspipe.preprocess.tiles import wide_detector
from marspipe.recipe import Recipe, parse_recipe
from marspipe.recon.backprojection import backproject, empty_batch, whole_row_groups
from marspipe.recon.filtering import ViewFilter
from marspipe.show.progress import Progress
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.store.blobs import binary_column
from marspipe.store.schema import table_schema
from marspipe.store.tables import read_table, spark_schema, write_table

# What every slot moves through Spark for a rate, and the rows it comes in.
MOVED_BYTES = 128 * MIB
ROW_BYTES = 256 * 1024
VOXELS, DETECTOR = 192, 320


def measure_cluster(spark: SparkSession, folder: Path, session_s: float, memory_mib: int) -> Cluster:
    """Measure the rates of a session and return them as a cluster of one executor.

    Parameters
    ----------
    spark : SparkSession
        A session that has not run anything yet.
    folder : Path
        An empty folder that the session's tasks see too.
    session_s : float
        How long it took to start.
    memory_mib : int
        Memory that the machine may use, MiB.
    """
    configure(spark)
    slots = task_slots(spark)
    quiet = Progress(Console(quiet=True))
    tiny = _scan(folder / "tiny", views=16, detector=32)
    recipe = parse_recipe("", "default")
    cold = _seconds(lambda: run(spark, open_scan(tiny), str(folder / "tiny1"), recipe, progress=quiet))
    job_s = _seconds(lambda: run(spark, open_scan(tiny), str(folder / "tiny2"), recipe, progress=quiet))
    raw = _scan(folder / "raw", views=96, detector=DETECTOR)
    scan = open_scan(raw)
    frames = str(folder / "frames")
    ingest_s = min(_ingest_s(spark, scan, frames) for _ in range(3))
    nothing_s, many_s = _tasks_s(spark, slots), _tasks_s(spark, 20 * slots)
    job = prepare(frames, recipe, slots)
    pixels = job.frames.pixel_bytes
    volume = run(spark, open_scan(raw), str(folder / "out"), recipe, progress=quiet, overwrite=True).volume_uri
    voxels = job.plan.volume_bytes
    tiny_work = Workload.of(open_scan(tiny))
    n_jobs = _jobs_of(tiny_work, recipe, slots)
    one_job_s = job_s / n_jobs

    def per_slot(n_bytes: float, seconds: float, less: float = 0.0) -> float:
        return n_bytes / MB / max(seconds - less, 0.1 * seconds) / slots

    core = CoreRates(
        kernel_gups=_kernel(slots, circular=True),
        general_kernel_gups=_kernel(slots, circular=False),
        filter_mpixel_s=_filter(slots),
        correct_mpixel_s=_correct(corrections_of(job).preprocessor(0), len(job.frames.counters)),
        stitch_mpixel_s=_stitch(),
        ingest_mb_s=per_slot(scan.pixel_bytes, ingest_s),
        read_mb_s=per_slot(pixels, _best(lambda: _read(spark, frames)), nothing_s),
        shuffle_mb_s=per_slot(slots * MOVED_BYTES, _best(lambda: _shuffle(spark, slots)), 2 * nothing_s),
        write_mb_s=per_slot(slots * MOVED_BYTES, _best(lambda: _write(spark, str(folder / "w"), slots)), nothing_s),
        dicom_mb_s=per_slot(
            voxels, _best(lambda: export_dicom(spark, volume, str(folder / "d"), progress=quiet)), nothing_s
        ),
    )
    found = machine()
    return Cluster(
        name="measured",
        description=f"{found['cpu']}, {slots} slots, load {found['load']} on {found['date']}; marspipe plan --measure",
        executors=1,
        cores_per_executor=slots,
        memory_per_executor_mib=memory_mib,
        core=CoreRates(**{name: float(f"{value:.3g}") for name, value in core.model_dump().items()}),
        start_up=StartUp(
            session_s=round(session_s, 2),
            worker_s=round(max(0.0, cold - job_s), 2),
            job_s=round(one_job_s, 3),
            task_s=round(max(0.0, (many_s - nothing_s) / 19), 4),
        ),
    )


def machine_memory_mib() -> int:
    """Return the memory of this machine less a tenth for everything else, MiB."""
    return int(0.9 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB)


def _scan(folder: Path, *, views: int, detector: int) -> str:
    pitch = 0.055
    simulate_scan(
        folder,
        settings=SimulationSettings(
            scan_id="measure",
            views=views,
            detector_shape=(detector, detector),
            pixel_pitch_mm=(pitch, pitch),
            phantom=mars_phantom(detector * pitch / (128 * 0.11)),
            thresholds_kev=(20.0, 40.0),
            open_beam_photons=3000.0,
            counter_depth_bits=12,
        ),
        overwrite=True,
    )
    return str(folder)


def _jobs_of(work: Workload, recipe: Recipe, slots: int) -> float:
    """Return how many starts the model counts for a scan: its time where nothing but a start takes any."""
    unit = Cluster(
        name="unit",
        executors=1,
        cores_per_executor=slots,
        memory_per_executor_mib=2**20,
        core=CoreRates(**dict.fromkeys(CoreRates.model_fields, 1e12)),
        start_up=StartUp(session_s=0, worker_s=0, job_s=1, task_s=0),
    )
    return sum(stage.seconds for stage in forecast(work, recipe, unit).stages)


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _ingest_s(spark: SparkSession, scan: RawScan, uri: str) -> float:
    """Return how long the tasks of an ingest take, without the look at what they have written."""
    times = StageTimes()
    ingest(spark, scan, uri, progress=times, overwrite=True)
    return times.seconds["ingest"]


def _best(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(3))


def _processor_s(work: Callable[[], object]) -> float:
    """Return the processor time of ``work``, all threads: other programs do not count. The first time is not taken."""
    work()
    times = []
    for _ in range(3):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def _kernel(slots: int, *, circular: bool) -> float:
    views = 64 if circular else 4
    geometry, grid = cone_scan(views, VOXELS * 5 // 4, VOXELS)
    if not circular:
        geometry = geometry.with_tilted_detector(in_plane_rad=0.01)
    rows, cols = geometry.detector_shape
    first, stop = whole_row_groups(*geometry.rows_for(grid), rows)
    filtered = empty_batch(views, cols, stop - first)
    filtered[...] = noise(filtered.shape)
    out = np.zeros(grid.shape, np.float32)
    seconds = _processor_s(
        lambda: backproject(filtered, geometry, grid, out, row_first=first, backend="cpu", threads=slots)
    )
    return grid.n_voxels * views / 1e9 / seconds


def _filter(slots: int) -> float:
    geometry, _ = cone_scan(16, 512, 512)
    ramp, frame = ViewFilter(geometry), noise((512, 512))

    def all_slots() -> None:
        with ThreadPoolExecutor(slots) as pool:
            list(pool.map(lambda v: ramp.filter_to_columns(frame, v % 16), range(16 * slots)))

    return 16 * slots * frame.size / MB / _processor_s(all_slots)


def _correct(preprocessor: Callable[..., object], n_counters: int) -> float:
    counts = (3000 * noise((n_counters, DETECTOR, DETECTOR))).astype(np.uint16) + np.uint16(100)
    return 16 * counts.size / MB / _processor_s(lambda: [preprocessor(counts, time=0.5) for _ in range(16)])


def _stitch() -> float:
    side, tiles = 256, 4
    layout = wide_detector((side, side), [(0.0, 5.0 * k) for k in range(tiles)], (0.055, 0.055))
    stitcher = Stitcher(layout, [np.zeros((1, side, side), np.uint8)] * tiles, ChainSettings())
    parts = [noise((1, side, side))] * tiles
    return 8 * tiles * side * side / MB / _processor_s(lambda: [stitcher(parts) for _ in range(8)])


def _tasks_s(spark: SparkSession, n: int) -> float:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches

    data = spark.range(0, n, 1, n).mapInArrow(run, "id long")
    return _best(lambda: data.write.format("noop").mode("overwrite").save())


def _read(spark: SparkSession, frames: str) -> None:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            del batch
        yield from ()

    read_table(spark, frames, "frames", "pixels").mapInArrow(run, "id long").write.format("noop").mode(
        "overwrite"
    ).save()


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    values = noise((ROW_BYTES // 4,))
    for batch in batches:
        for number in batch.column("id").to_pylist():
            for view in range(MOVED_BYTES // ROW_BYTES):
                arrays = [pa.array([number], pa.int32()), pa.array([view], pa.int32())]
                pixels = binary_column(values, [values.nbytes])
                yield pa.RecordBatch.from_arrays([*arrays, pixels], schema=table_schema("bands").arrow())


def _drained(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        del batch
    yield from ()


def _shuffle(spark: SparkSession, slots: int) -> None:
    rows = spark.range(0, slots, 1, slots).mapInArrow(as_function(_rows), spark_schema("bands"))
    placed = rows.repartitionById(slots, "task").sortWithinPartitions("view")
    placed.mapInArrow(as_function(_drained), "id long").write.format("noop").mode("overwrite").save()


def _write(spark: SparkSession, uri: str, slots: int) -> None:
    rows = spark.range(0, slots, 1, slots).mapInArrow(as_function(_rows), spark_schema("bands"))
    write_table(rows, uri, row_group_bytes=2**27, row_group_rows=1)
