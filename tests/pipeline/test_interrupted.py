"""Reconstructions that stop half way, and what the next one does not do again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark import TaskContext
from pyspark.sql import SparkSession

from marspipe.errors import BusyError, OutputExistsError, RunError
from marspipe.pipeline.backproject_slabs import BackprojectionStage
from marspipe.pipeline.reconstruct import Reconstructed, prepare, reconstruct
from marspipe.pipeline.spark.stages import Stage
from marspipe.recipe import Recipe, parse_recipe
from marspipe.store.commit import committed
from marspipe.store.versions import versions
from marspipe.store.volume import open_volume
from tests.pipeline.scans import SIDE, OneProcess, quiet

PITCH = 0.11 / 1.25
GRID = f"grid: {{shape: [{SIDE}, {SIDE}, {SIDE}], voxel_mm: [{PITCH}, {PITCH}, {PITCH}]}}"
STRIPES = ("preprocess.stripes.mode=by-angle",)


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(GRID, "test", ("run.slab_slices=16", *overrides))


def slab_names(out: str) -> list[str]:
    (work,) = Path(out, "volume").glob("_work-*")
    return sorted(p.name for p in work.glob("part-*.parquet"))


def failing_from(first: int) -> Callable[[BackprojectionStage], Stage]:
    """Let the backprojection of a task fail, and of all after it. Tasks of local[2] run in order, two at a time."""

    def as_function(stage: BackprojectionStage) -> Stage:
        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            assert context is not None
            if stage.tasks[context.partitionId()] >= first:
                raise RunError("the machine burns")
            yield from stage(batches)

        return run

    return as_function


def interrupt(spark: SparkSession, frames_uri: str, out: str, first: int, *overrides: str, **options: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marspipe.pipeline.reconstruct.as_function", failing_from(first))
        with pytest.raises(RunError, match="the machine burns"):
            again(spark, frames_uri, out, *overrides, **options)


def again(spark: SparkSession, frames_uri: str, out: str, *overrides: str, **options: object) -> Reconstructed:
    job = prepare(frames_uri, recipe(*overrides), 2)
    return reconstruct(spark, job, out, progress=quiet(), **options)  # type: ignore[arg-type]


def assert_whole(out: str, expected: OneProcess) -> None:
    volume = open_volume(f"{out}/volume")
    for bin_, whole in enumerate(expected.volumes):
        np.testing.assert_array_equal(np.asarray(volume[bin_]), whole)
    assert not list(Path(out, "volume").glob("_*-*"))
    assert {p.name for p in Path(volume.data_uri).iterdir() if p.name.startswith("_")} == {
        "_marspipe.json",
        "_pixel_flags",
    }


def test_finished_slabs_are_not_made_again(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str
) -> None:
    interrupt(spark, frames_uri, out, 7)
    before = slab_names(out)
    assert 1 <= len(before) <= 7
    assert committed(f"{out}/volume") is None
    done = again(spark, frames_uri, out)
    assert (done.slabs, done.slabs_kept, done.stages_kept) == (12, len(before), ("bad pixels",))
    files = {f["path"] for f in open_volume(f"{out}/volume").metadata["files"]}
    assert set(before) < files
    assert len(files) == 12
    assert_whole(out, one_process)


def test_a_finished_filter_stage_is_kept_where_the_recipe_says_so(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str
) -> None:
    interrupt(spark, frames_uri, out, 3, "run.restart_point=filtered")
    assert list(Path(out, "volume").glob("_work-*/_filtered/part-*.parquet"))
    done = again(spark, frames_uri, out, "run.restart_point=filtered")
    assert done.stages_kept == ("bad pixels", "filter")
    assert 0 < done.slabs_kept <= 3
    assert_whole(out, one_process)


def test_stripe_offsets_are_kept(spark: SparkSession, frames_uri: str, out: str, tmp_path: Path) -> None:
    again(spark, frames_uri, str(tmp_path / "whole"), *STRIPES)
    interrupt(spark, frames_uri, out, 5, *STRIPES)
    done = again(spark, frames_uri, out, *STRIPES)
    assert done.stages_kept == ("bad pixels", "stripes")
    assert done.slabs_kept
    one, other = (open_volume(f"{folder}/volume") for folder in (out, tmp_path / "whole"))
    np.testing.assert_array_equal(np.asarray(one[0]), np.asarray(other[0]))


def test_slabs_cut_otherwise_are_still_used(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str
) -> None:
    interrupt(spark, frames_uri, out, 7)
    kept = len(slab_names(out))
    done = again(spark, frames_uri, out, "run.slab_slices=48")
    assert (done.slabs, done.slabs_kept) == (12, kept)
    assert_whole(out, one_process)


def test_other_tiles_begin_anew(spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str) -> None:
    interrupt(spark, frames_uri, out, 7)
    assert again(spark, frames_uri, out, "output.tile_mib=0.01").slabs_kept == 0
    assert_whole(out, one_process)


def test_files_that_are_no_slabs_of_the_plan_go(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str
) -> None:
    """A file cut short, and one that a task has written twice."""
    interrupt(spark, frames_uri, out, 7)
    first, *rest = slab_names(out)
    (work,) = Path(out, "volume").glob("_work-*")
    (work / "part-99999-copy.parquet").write_bytes((work / first).read_bytes())
    (work / rest[0]).write_bytes((work / rest[0]).read_bytes()[:5000])
    done = again(spark, frames_uri, out)
    assert done.slabs_kept == len(rest)
    assert_whole(out, one_process)


def test_another_recipe_leaves_nothing_of_the_work_before(spark: SparkSession, frames_uri: str, out: str) -> None:
    interrupt(spark, frames_uri, out, 7)
    done = again(spark, frames_uri, out, "filter.window=hann")
    assert done.slabs_kept == 0
    assert not list(Path(out, "volume").glob("_work-*"))


def test_the_old_volume_stays_until_the_new_one_is_whole(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str
) -> None:
    again(spark, frames_uri, out)
    interrupt(spark, frames_uri, out, 7, "filter.window=hann", overwrite=True)
    np.testing.assert_array_equal(np.asarray(open_volume(f"{out}/volume")[0]), one_process.volumes[0])
    with pytest.raises(OutputExistsError, match="already holds a committed volume"):
        again(spark, frames_uri, out, "filter.window=hann")
    done = again(spark, frames_uri, out, "filter.window=hann", overwrite=True, resume=True, keep_versions=2)
    assert done.slabs_kept
    assert open_volume(f"{out}/volume").metadata["recipe"]["filter"]["window"] == "hann"
    newer, older = versions(f"{out}/volume")
    assert (newer.current, older.current) == (True, False)
    np.testing.assert_array_equal(np.asarray(open_volume(older.uri)[0]), one_process.volumes[0])
    again(spark, frames_uri, out, "filter.window=cosine", overwrite=True, keep_versions=2)
    assert [v.metadata["recipe"]["filter"]["window"] for v in versions(f"{out}/volume")] == ["cosine", "hann"]


def test_overwrite_makes_everything_anew(
    spark: SparkSession, frames_uri: str, one_process: OneProcess, out: str
) -> None:
    interrupt(spark, frames_uri, out, 7)
    assert again(spark, frames_uri, out, overwrite=True).slabs_kept == 0
    again(spark, frames_uri, out, overwrite=True)
    assert len(versions(f"{out}/volume")) == 1
    assert_whole(out, one_process)


def test_who_has_lost_the_output_commits_nothing(spark: SparkSession, frames_uri: str, out: str) -> None:
    def lost() -> None:
        raise BusyError("taken over")

    with pytest.raises(BusyError):
        again(spark, frames_uri, out, before_commit=lost)
    assert committed(f"{out}/volume") is None
    assert again(spark, frames_uri, out).slabs_kept == 12


def test_the_metadata_say_which_run(spark: SparkSession, frames_uri: str, out: str) -> None:
    done = again(spark, frames_uri, out, run_id="run-7")
    current, own = (json.loads(Path(uri, "_marspipe.json").read_text()) for uri in (done.volume_uri, done.version_uri))
    assert current.pop("data") == Path(done.version_uri).name
    assert current == own
    assert own["run_id"] == "run-7"
    assert own["created_at"].endswith("+00:00")
