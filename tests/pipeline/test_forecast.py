from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from marspipe.errors import GeometryError, InputError
from marspipe.pipeline.forecast.cluster import Cluster, cluster_json_schema, parse_cluster
from marspipe.pipeline.forecast.compare import Measured, compared
from marspipe.pipeline.forecast.inputs import CLUSTERS, SUBJECTS, load_cluster, load_subject, names_in
from marspipe.pipeline.forecast.report import Forecast, forecast
from marspipe.pipeline.forecast.workload import Workload, parse_subject
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import RawScan
from marspipe.recipe import parse_recipe

MIB = 2**20
# Raw bytes, and voxels (z, y, x) of 55 um, that the subjects are said to have.
SAID = {
    "stone": (12e9, (545, 182, 182)),
    "artery": (60e9, (545, 909, 909)),
    "limb": (1.2e12, (5455, 1818, 1818)),
    "thorax": (2.5e12, (5455, 3636, 3636)),
    "body": (150e12, (38182, 14545, 14545)),
}
UNIT = {
    "name": "unit",
    "executors": 1,
    "cores_per_executor": 2,
    "memory_per_executor_mib": 8192,
    "core": {
        "kernel_gups": 2.0,
        "general_kernel_gups": 0.3,
        "filter_mpixel_s": 100,
        "correct_mpixel_s": 100,
        "stitch_mpixel_s": 100,
        "ingest_mb_s": 100,
        "read_mb_s": 200,
        "shuffle_mb_s": 100,
        "write_mb_s": 100,
        "dicom_mb_s": 100,
    },
    "start_up": {"session_s": 5, "worker_s": 3, "job_s": 0.5, "task_s": 0.05},
}


def cluster(**changes: object) -> Cluster:
    return parse_cluster(yaml.safe_dump({**UNIT, **changes}), "test")


def of_subject(name: str, where: Cluster, *overrides: str) -> Forecast:
    subject = load_subject(name)
    return forecast(subject.workload(), parse_recipe("", "test", (*subject.overrides(), *overrides)), where)


@pytest.mark.parametrize("name", SAID)
def test_presets_have_the_raw_bytes_and_voxels_they_are_said_to_have(name: str) -> None:
    subject = load_subject(name)
    work = subject.workload()
    raw, shape = SAID[name]
    assert work.pixel_bytes * work.repeats == pytest.approx(raw, rel=0.03)
    assert subject.raw_bytes == raw
    assert subject.grid_shape == shape


def test_the_camera_of_every_preset_sees_its_subject() -> None:
    for name in SAID:
        found = of_subject(name, cluster(memory_per_executor_mib=200000))
        subject = load_subject(name)
        reach = found.plan.redundancy.field_of_view_mm
        assert reach >= 0.5 * float(sum(size**2 for size in subject.size_mm[1:]) ** 0.5) * 0.999, name
        # All rows that the middle of every slice needs are on the detector.
        assert (
            found.plan.slabs[0].row_first >= 0
            and found.plan.slabs[-1].row_stop <= found.plan.geometry.detector_shape[0]
        )


def test_the_body_is_told_what_to_change() -> None:
    found = of_subject("body", cluster())
    assert found.problems[0].startswith("run.memory_per_task_mib = 1024 is too little: one slice of 14545 x 14545")
    assert "planned here with run.memory_per_task_mib =" in found.problems[0]
    assert "spark.executor.memoryOverhead" in found.problems[1]
    assert "problem  " in found.describe()


def test_a_gpu_without_a_rate_is_not_planned_with() -> None:
    unknown = cluster(gpus_per_executor=1)
    assert any("gpu.kernel_gups" in text for text in of_subject("stone", unknown).advice)
    known = of_subject("artery", cluster(gpus_per_executor=1, gpu={"kernel_gups": 0.5}))
    (stage,) = [s for s in known.stages if s.name == "backproject"]
    assert stage.bound == "GPU"
    faster = of_subject("artery", cluster(gpus_per_executor=1, gpu={"kernel_gups": 50}))
    assert faster.seconds < known.seconds


def test_more_executors_are_not_slower_and_a_slow_network_bounds() -> None:
    few, many = (of_subject("artery", cluster(executors=n)) for n in (2, 8))
    assert many.seconds < few.seconds
    slow = of_subject("artery", cluster(executors=8, limits={"network_mb_s": 1}))
    assert {s.name: s.bound for s in slow.stages}["filter"] == "network"
    assert slow.bound == "network"
    disks = of_subject("artery", cluster(limits={"read_mb_s": 1}))
    assert {s.name: s.bound for s in disks.stages}["ingest"] == "disk read"


def test_too_few_tasks_are_named() -> None:
    found = of_subject("stone", cluster(executors=500, cores_per_executor=2), "run.slab_slices=600")
    (stage,) = [s for s in found.stages if s.name == "backproject"]
    assert stage.bound == "one slow wave: 5 tasks for 1000 slots"


def test_raw_scan_and_its_frames_table_are_the_same_work(raw_scan: RawScan, frames_uri: str) -> None:
    raw, table = Workload.of(raw_scan), Workload.of(FramesTable.open(frames_uri))
    assert raw.raw and not table.raw
    assert (raw.projections, raw.others, raw.pixel_bytes) == (table.projections, table.others, table.pixel_bytes)
    recipe = parse_recipe("", "test")
    stages = [s.name for s in forecast(raw, recipe, cluster()).stages]
    assert stages == ["ingest", "open beams", "bad pixels", "filter", "backproject", "dicom", "cuts", "preview"]
    again = [s.name for s in forecast(table, recipe, cluster()).stages]
    assert again == stages[2:]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("preprocess.stripes.mode=by-angle", ["bad pixels", "stripes", "filter", "backproject"]),
        ("preprocess.stripes.mode=sinogram", ["bad pixels", "correct", "stripes", "filter", "backproject"]),
        ("run.restart_point=filtered", ["bad pixels", "filter", "bands", "backproject"]),
        ("run.open_beams=joined", ["bad pixels", "frames", "correct", "filter", "backproject"]),
    ],
)
def test_stages_follow_the_recipe(frames_uri: str, override: str, stages: list[str]) -> None:
    recipe = parse_recipe("output: {dicom: false, preview: false}", "test", (override,))
    found = forecast(Workload.of(FramesTable.open(frames_uri)), recipe, cluster())
    assert [s.name for s in found.stages] == stages


def test_predicted_and_measured_stand_beside_each_other(frames_uri: str) -> None:
    found = forecast(Workload.of(FramesTable.open(frames_uri)), parse_recipe("", "test"), cluster())
    # The backprojection ended before anybody looked.
    stages = {"filter": found.stages[1].seconds, "backproject": 1e-4}
    took = Measured(2 * found.seconds, stages, 0, found.task_bytes, 3 * found.task_bytes)
    lines = {line[:24].strip(): line.split()[-1] for line in compared(found, took).splitlines()}
    assert lines["filter"] == "1.00"
    assert lines["all"] == "0.50"
    assert lines["largest Python worker"] == "1.00"
    assert "backproject" not in lines


@settings(max_examples=60, deadline=None)
@given(
    subject=st.sampled_from(["stone", "artery"]),
    executors=st.integers(1, 300),
    cores=st.integers(1, 64),
    memory=st.integers(1024, 10**6),
    heap=st.integers(512, 10**6),
    gpus=st.integers(0, 8),
    tasks_per_gpu=st.integers(1, 4),
    gups=st.none() | st.floats(1e-3, 1e4),
    rate=st.floats(1e-6, 1e9),
    limit=st.none() | st.floats(1e-3, 1e9),
)
def test_every_valid_cluster_is_described(
    subject: str,
    executors: int,
    cores: int,
    memory: int,
    heap: int,
    gpus: int,
    tasks_per_gpu: int,
    gups: float | None,
    rate: float,
    limit: float | None,
) -> None:
    where = cluster(
        executors=executors,
        cores_per_executor=cores,
        memory_per_executor_mib=memory,
        heap_mib=heap,
        gpus_per_executor=gpus,
        tasks_per_gpu=tasks_per_gpu,
        gpu={"kernel_gups": gups},
        core={**dict.fromkeys(UNIT["core"], rate)},
        limits={"read_mb_s": limit, "network_mb_s": limit},
    )
    found = of_subject(subject, where)
    text = found.describe()
    assert found.bound in text
    assert "nan" not in text and "inf " not in text
    assert found.seconds >= sum(s.seconds for s in found.stages)
    assert all(s.waves >= 1 and s.seconds >= 0 for s in found.stages)
    json.dumps(found.to_dict(), allow_nan=False)
    # What is said to suffice suffices.
    if found.problems:
        assert found.executor_python_bytes > where.python_mib * MIB
    else:
        assert found.executor_python_bytes <= where.python_mib * MIB


def test_shipped_clusters_and_the_schema(project: Path) -> None:
    assert {"this-machine", "ten-nodes", "gpu-nodes"} <= set(names_in(CLUSTERS))
    for name in names_in(CLUSTERS):
        assert load_cluster(name).name == name
        assert load_cluster(name).python_mib > 0
    stored = json.loads((project / "schemas" / "cluster.schema.json").read_text())
    assert stored == json.loads(json.dumps(cluster_json_schema()))
    assert set(names_in(SUBJECTS)) == set(SAID)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executers": 2}, r"c.yaml: unknown key 'executers'; did you mean 'executors'\?"),
        ({"executors": 0}, r"c.yaml: executors: .*greater than or equal to 1, got 0"),
        ({"core": {**UNIT["core"], "kernel_gups": -1}}, r"core.kernel_gups: .*greater than 0, got -1"),
        ({"limits": {"read_mb": 3}}, r"limits: unknown key 'read_mb'; did you mean 'read_mb_s'\?"),
        ({"start_up": {"session_s": 1}}, r"start_up.worker_s: this key is missing"),
    ],
)
def test_wrong_clusters_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_cluster(yaml.safe_dump({**UNIT, **change}), "c.yaml")


def test_missing_and_wrong_inputs() -> None:
    with pytest.raises(InputError, match="there is no cluster description; shipped ones are gpu-nodes, ten-nodes"):
        load_cluster("no-such.yaml")
    with pytest.raises(InputError, match="there is no such preset; shipped ones are artery, body, limb, stone, thorax"):
        load_subject("elephant")
    text = yaml.safe_dump({**load_subject("body").model_dump(mode="json"), "source_to_isocenter_mm": 500.0})
    with pytest.raises(InputError, match=r"source_to_isocenter_mm must be beyond the subject's 565\.7 mm"):
        parse_subject(text, "s.yaml")


def test_what_no_memory_can_repair_stays_an_error() -> None:
    subject = load_subject("stone")
    recipe = parse_recipe("", "test", (*subject.overrides(), "grid.center_mm=[0, 90, 0]"))
    with pytest.raises(GeometryError, match="cone misses the grid"):
        forecast(subject.workload(), recipe, cluster())
