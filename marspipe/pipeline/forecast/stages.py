"""The stages of a job on a cluster: tasks, waves, memory, bytes and time, from the plan and the cluster's rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from marspipe.dicom.value_range import CELLS
from marspipe.pipeline.corrections.stripe_bands import band_bytes, plan_row_bands
from marspipe.pipeline.corrections.views import LARGEST_SHARE
from marspipe.pipeline.export.slices import SLICES_PER_TASK
from marspipe.pipeline.forecast.cluster import Cluster
from marspipe.pipeline.forecast.workload import Workload
from marspipe.pipeline.frames.decode_frames import BLOCK_BYTES
from marspipe.pipeline.frames.scan_parts import FILE_BYTES, SMALLEST_PART_BYTES
from marspipe.pipeline.ingest import LARGEST_ROW_GROUP_BYTES, SMALLEST_ROW_GROUP_BYTES
from marspipe.pipeline.planning.plan import ReconstructionPlan
from marspipe.pipeline.planning.slabs import INTERPRETER_BYTES, MIB
from marspipe.pipeline.reconstruct import LARGEST_SPLIT_BYTES, SPLITS_PER_SLOT
from marspipe.pipeline.spark.session import ARROW_BATCH_BYTES
from marspipe.recipe import Recipe

MB = 1e6
INGEST = "ingest"
# What DICOM and the preview load beside the kernels, in workers that have backprojected; what DICOM has loaded stays.
DICOM_BYTES = 60 * MIB
PREVIEW_BYTES = 130 * MIB
HISTOGRAM_BYTES = 8 * CELLS
# A worker that only reads and writes tables: no kernels, no SciPy.
TABLE_WORKER_BYTES = 250 * MIB
# Copies of a row group while it becomes Parquet.
ROW_GROUP_COPIES = 3
# A position's corrections are worked out from its open beams once, at the price of so many of its frames.
CALIBRATION_FRAMES = 20
# Open beams of a position and counter in the calibration table: sums and sums of squares, float64, before and after.
CALIBRATION_BYTES_PER_PIXEL = 32
# What Spark stores with each row: keys, lengths, number of the partition.
ROW_OVERHEAD_BYTES = 48
# From here on, waves that are not full count as what bounds a stage.
IDLE_WAVES = 1.5


@dataclass(frozen=True)
class Stage:
    """One stage of a job.

    Attributes
    ----------
    name : str
        As the progress shows it.
    tasks, waves : int
        Tasks, and how often all slots are filled.
    task_bytes : int
        Python memory of its largest task.
    read_bytes, shuffle_bytes, write_bytes : int
        Read from storage, sent on to the next stage, written to storage.
    seconds : float
        How long it takes.
    bound : str
        What bounds it.
    times_s : dict
        How long each resource alone would take.
    """

    name: str
    tasks: int
    waves: int
    task_bytes: int
    read_bytes: int
    shuffle_bytes: int
    write_bytes: int
    seconds: float
    bound: str
    times_s: dict[str, float] = field(default_factory=dict)


@dataclass
class StageModel:
    """Collects the stages of a job on a cluster."""

    cluster: Cluster
    stages: list[Stage] = field(default_factory=list)

    def add(
        self,
        name: str,
        tasks: int,
        core_s: float,
        *,
        task_bytes: int,
        read: float = 0,
        shuffle_in: float = 0,
        shuffle_out: float = 0,
        write: float = 0,
        device_s: float = 0,
        jobs: float = 1,
    ) -> None:
        """Add a stage of ``core_s`` seconds of one core, and ``device_s`` seconds of one device, in all."""
        cluster = self.cluster
        slots = cluster.gpu_slots if device_s else cluster.slots
        waves = math.ceil(tasks / slots)
        uneven = waves * min(slots, tasks) / tasks if tasks > slots else 1.0
        at_once = min(slots, tasks)
        limits, n = cluster.limits, cluster.executors
        times = {
            "CPU": uneven * (core_s + tasks * cluster.start_up.task_s) / at_once,
            "disk read": 0.0 if limits.read_mb_s is None else read / (n * limits.read_mb_s * MB),
            "network": 0.0
            if limits.network_mb_s is None
            else max(shuffle_in, shuffle_out) * (1 - 1 / n) / (n * limits.network_mb_s * MB),
            "disk write": 0.0 if limits.write_mb_s is None else (write + shuffle_out) / (n * limits.write_mb_s * MB),
        }
        if device_s:
            devices = n * min(cluster.gpus_per_executor, cluster.cores_per_executor)
            times["GPU"] = uneven * device_s / min(devices, tasks)
        start = jobs * cluster.start_up.job_s
        seconds = max(times.values())
        bound = max(times, key=lambda key: times[key])
        full = times[bound] * tasks / (waves * slots)
        if start > seconds:
            bound = "start-up"
        elif bound in ("CPU", "GPU") and waves == 1 and tasks < slots and seconds > IDLE_WAVES * full:
            bound = f"one slow wave: {tasks} tasks for {slots} slots"
        shuffled = round(shuffle_out)
        self.stages.append(
            Stage(
                name,
                tasks,
                waves,
                task_bytes,
                round(read),
                shuffled,
                round(write),
                start + seconds,
                bound,
                {key: value for key, value in times.items() if value} | {"start-up": start},
            )
        )


def stages_of(work: Workload, plan: ReconstructionPlan, recipe: Recipe, cluster: Cluster) -> list[Stage]:
    """Return the stages of a job, in the order in which they run.

    Parameters
    ----------
    work : Workload
        The scan.
    plan : ReconstructionPlan
        How its reconstruction is cut for the slots of the cluster.
    recipe : Recipe
        What is done.
    cluster : Cluster
        Where.
    """
    model, core = StageModel(cluster), cluster.core
    slots, n_tiles, n_bins = cluster.slots, work.camera.n_tiles, len(plan.bins)
    if work.raw:
        _add_ingest(model, work)
    tile_px = math.prod(work.camera.shape) * len(work.counters)
    calibration = CALIBRATION_BYTES_PER_PIXEL * tile_px
    per_tile_s = calibration / (core.read_mb_s * MB) + CALIBRATION_FRAMES * tile_px / (core.correct_mpixel_s * MB)
    model.add(
        "bad pixels",
        min(n_tiles, 4 * slots),
        n_tiles * per_tile_s,
        task_bytes=INTERPRETER_BYTES + 5 * calibration,
        read=n_tiles * calibration,
        write=n_tiles * n_bins * math.prod(work.camera.shape),
    )
    joined = _joins(n_tiles * calibration, n_tiles, recipe)
    sample = work.projections * work.frame_bytes
    split = max(2**20, min(LARGEST_SPLIT_BYTES, work.pixel_bytes // (SPLITS_PER_SLOT * slots)))
    splits = max(1, math.ceil(work.pixel_bytes / split))
    n_views = len(plan.geometry)
    rows, cols = plan.geometry.detector_shape
    tiles_bytes = 4.0 * n_bins * n_views * n_tiles * math.prod(work.camera.shape)
    integrals = 4.0 * n_bins * n_views * rows * cols
    read_s = sample / (core.read_mb_s * MB)
    correct_s = work.projections * math.prod(work.camera.shape) / (core.correct_mpixel_s * MB)
    stitch_s = tiles_bytes / 4 / (core.stitch_mpixel_s * MB) if work.camera.moves else 0.0
    half_shuffle = core.shuffle_mb_s * MB * 2  # s per byte and side: half of the way
    view_tasks, first_s, first_read, first_in = splits, read_s + correct_s, float(sample), 0.0
    first_bytes = plan.filter_bytes + (0 if n_tiles == 1 else n_tiles * calibration)
    if joined:
        frames_out = sample + ROW_OVERHEAD_BYTES * work.projections
        model.add(
            "frames",
            splits,
            read_s + frames_out / half_shuffle,
            task_bytes=0,
            read=sample,
            shuffle_out=frames_out,
        )
        model.add(
            "correct",
            min(n_tiles, 4 * slots),
            frames_out / half_shuffle + correct_s + n_tiles * per_tile_s + tiles_bytes / half_shuffle,
            task_bytes=INTERPRETER_BYTES + 5 * calibration + 2 * ARROW_BATCH_BYTES,
            shuffle_in=frames_out,
            shuffle_out=tiles_bytes,
            jobs=0,
        )
        view_bytes = 4 * n_bins * rows * cols
        view_tasks = math.ceil(n_views / max(1, min(math.ceil(n_views / slots), 128 * MIB // view_bytes)))
        first_s, first_read, first_in = tiles_bytes / half_shuffle, 0.0, tiles_bytes
        first_bytes = plan.filter_bytes
    elif n_tiles > 1 or work.camera.n_tiles == 1:
        first_s += min(slots, splits) * n_tiles * per_tile_s
    first_s += stitch_s
    if recipe.preprocess.stripes.mode == "by-angle":
        model.add("stripes", view_tasks, first_s, task_bytes=first_bytes, read=first_read, shuffle_in=first_in)
    elif recipe.preprocess.stripes.mode == "sinogram":
        bands = plan_row_bands(
            n_views, n_bins, (rows, cols), slots=slots, memory_bytes=recipe.run.memory_per_task_mib * MIB
        )
        model.add(
            "correct",
            view_tasks,
            first_s + integrals / half_shuffle,
            task_bytes=first_bytes,
            read=first_read,
            shuffle_in=first_in,
            shuffle_out=integrals,
        )
        model.add(
            "stripes",
            bands.n_tasks,
            2 * integrals / half_shuffle + integrals / 4 / (core.filter_mpixel_s * MB),
            task_bytes=band_bytes(n_views, cols, bands.band_rows),
            shuffle_in=integrals,
            shuffle_out=integrals,
            jobs=0,
        )
        view_tasks, first_s, first_read, first_in = bands.n_groups, integrals / half_shuffle, 0.0, integrals
    out = plan.shuffle_bytes + ROW_OVERHEAD_BYTES * n_views * plan.n_tasks
    filter_s = first_s + integrals / 4 / (core.filter_mpixel_s * MB)
    kept = recipe.run.restart_point == "filtered"  # the bands are a table on the way
    model.add(
        "filter",
        view_tasks,
        filter_s + (out / (core.write_mb_s * MB) if kept else out / half_shuffle),
        task_bytes=first_bytes,
        read=first_read,
        shuffle_in=first_in,
        shuffle_out=0 if kept else out,
        write=out if kept else 0,
    )
    if kept:
        model.add(
            "bands",
            max(1, math.ceil(out / split)),
            out / (core.read_mb_s * MB) + out / half_shuffle,
            task_bytes=0,
            read=out,
            shuffle_out=out,
        )
    _add_backprojection(model, plan, recipe, out, half_shuffle)
    _add_exports(model, plan, recipe, half_shuffle)
    return model.stages


def _joins(calibration_bytes: int, n_tiles: int, recipe: Recipe) -> bool:
    if n_tiles == 1 or recipe.run.open_beams != "auto":
        return recipe.run.open_beams == "joined"
    return calibration_bytes > LARGEST_SHARE * recipe.run.memory_per_task_mib * MIB


def _add_ingest(model: StageModel, work: Workload) -> None:
    cluster, size = model.cluster, work.pixel_bytes
    tasks = max(1, math.ceil(size / min(FILE_BYTES, max(SMALLEST_PART_BYTES, math.ceil(size / cluster.slots)))))
    row_group = min(LARGEST_ROW_GROUP_BYTES, max(SMALLEST_ROW_GROUP_BYTES, size // 64))
    block = BLOCK_BYTES if work.camera.n_tiles > 1 else 0
    model.add(
        INGEST,
        tasks,
        size / (cluster.core.ingest_mb_s * MB),
        task_bytes=TABLE_WORKER_BYTES + ROW_GROUP_COPIES * row_group + block,
        read=size,
        write=size,
        jobs=2,  # and a look at what was written
    )
    if not work.others:
        return
    others = work.others * work.frame_bytes
    sums = work.camera.n_tiles * math.prod(work.camera.shape) * len(work.counters) * 16
    shares = max(1, min(cluster.slots, math.ceil(others / LARGEST_SPLIT_BYTES)))
    shuffled = work.groups * sums * (1 if work.camera.n_tiles > 1 else shares)
    seconds = others / (cluster.core.read_mb_s * MB) + shuffled / (cluster.core.shuffle_mb_s * MB)
    model.add(
        "open beams",
        shares,
        seconds,
        task_bytes=TABLE_WORKER_BYTES + min(256 * MIB, 2 * sums) + 2 * ARROW_BATCH_BYTES,
        read=others,
        shuffle_out=shuffled,
        write=2 * sums,
        jobs=1,
    )


def _add_backprojection(
    model: StageModel, plan: ReconstructionPlan, recipe: Recipe, shuffled: float, half_shuffle: float
) -> None:
    cluster = model.cluster
    updates = sum(task.n_views * task.slab.grid.n_voxels for task in plan.slabs) * len(plan.bins)
    move_s = shuffled / half_shuffle + plan.volume_bytes / (cluster.core.write_mb_s * MB)
    on_device = uses_device(recipe, cluster)
    gups = cluster.core.kernel_gups if plan.filtered_geometry.orbit is not None else cluster.core.general_kernel_gups
    device_s = 0.0
    if on_device:
        assert cluster.gpu.kernel_gups is not None
        device_s, kernel_s = updates / (cluster.gpu.kernel_gups * 1e9), 0.0
    else:
        kernel_s = updates / (gups * 1e9)
    model.add(
        "backproject",
        plan.n_tasks,
        move_s + kernel_s,
        task_bytes=plan.task_bytes,
        shuffle_in=shuffled,
        write=plan.volume_bytes,
        device_s=device_s,
        jobs=0,
    )


def uses_device(recipe: Recipe, cluster: Cluster) -> bool:
    """Return whether the backprojection is planned for devices: there are some, and their rate is known."""
    wanted = recipe.run.backend in ("auto", "cuda")
    return wanted and cluster.gpu_slots > 0 and cluster.gpu.kernel_gups is not None


def _add_exports(model: StageModel, plan: ReconstructionPlan, recipe: Recipe, half_shuffle: float) -> None:
    cluster, nz, n_bins = model.cluster, plan.grid.shape[0], len(plan.bins)
    slice_bytes = plan.grid.nbytes // nz
    step = max(1, min(SLICES_PER_TASK, -(-nz * n_bins // cluster.slots)))
    tasks = n_bins * math.ceil(nz / step)
    if recipe.output.dicom:
        model.add(
            "dicom",
            tasks,
            plan.volume_bytes / (cluster.core.dicom_mb_s * MB),
            # A slice, its tiles as read, its numbers as float64 and as stored, its file twice.
            task_bytes=INTERPRETER_BYTES + plan.left_bytes + DICOM_BYTES + 7 * slice_bytes,
            # Histograms first, which tell the range of the stored values.
            read=2 * plan.volume_bytes,
            shuffle_out=tasks * HISTOGRAM_BYTES,
            write=plan.volume_bytes // 2,
            jobs=2,
        )
    if recipe.output.preview:
        across, ny, nx = (4 * math.prod(plan.grid.shape) // n for n in plan.grid.shape)
        cuts = n_bins * (across + ny + nx)
        loaded = DICOM_BYTES if recipe.output.dicom else 0
        reading, piece = INTERPRETER_BYTES + plan.left_bytes + loaded, max(across, 4 * step * max(plan.grid.shape[1:]))
        model.add(
            "cuts",
            tasks,
            plan.volume_bytes / (cluster.core.read_mb_s * MB),  # a cut along the axis reads every slice
            task_bytes=reading + 2 * ARROW_BATCH_BYTES + 2 * slice_bytes + 2 * piece,
            read=plan.volume_bytes,
            shuffle_out=cuts,
        )
        model.add(
            "preview",
            1,
            cuts / half_shuffle,
            task_bytes=reading + PREVIEW_BYTES + 2 * (across + ny + nx),
            shuffle_in=cuts,
            jobs=0,
        )
