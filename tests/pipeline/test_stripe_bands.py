"""Both stripe corrections on Spark against one process, bit for bit; a lost or doubled view is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from marspipe.errors import RecipeError, ScanError
from marspipe.pipeline.corrections.stripe_bands import RowBands, band_bytes, plan_row_bands, without_stripes
from marspipe.pipeline.corrections.stripe_sums import (
    AngularStage,
    read_stripe_offsets,
    without_offsets,
    write_stripe_offsets,
)
from marspipe.pipeline.corrections.views import Views
from marspipe.pipeline.spark.failures import spark_failures
from marspipe.pipeline.spark.session import configure
from marspipe.preprocess.sinogram_stripes import Sorting
from marspipe.preprocess.stripes import AngularStripes, AngularSums, stripe_offsets

VIEWS, BINS, ROWS, COLS = 24, 2, 7, 31
METHOD, ANGULAR = Sorting(5), AngularStripes(5, 3)
OUT = T.StructType([T.StructField("view", T.IntegerType(), False), T.StructField("pixels", T.BinaryType(), False)])


@pytest.fixture(scope="module")
def stack() -> NDArray[np.float32]:
    """Return line integrals [view, bin, v, u] with errors of the pixels."""
    rng = np.random.default_rng(5)
    waves = np.sin(np.arange(VIEWS)[:, None, None, None] / 5 + np.arange(COLS) / 9)
    stack = waves + rng.normal(0, 0.1, (VIEWS, BINS, ROWS, COLS)) + rng.normal(0, 0.2, (BINS, ROWS, COLS))
    return stack.astype(np.float32)


def source(spark: SparkSession, tasks: int, stack: NDArray[np.float32], views: list[int]) -> Views:
    """Return as many rows as views, in a number of tasks, and what turns them into line integrals."""

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for batch in batches:
            for number in batch.column("id").to_pylist():
                yield views[number], stack[views[number]].copy()

    return Views(spark.range(0, len(views), 1, tasks), read)


def collected(views: Views, shape: tuple[int, ...]) -> dict[int, NDArray[np.float32]]:
    """Return the line integrals of all views."""
    schema = pa.schema([pa.field("view", pa.int32(), False), pa.field("pixels", pa.binary(), False)])
    read = views.read

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for view, integrals in read(batches):
            yield pa.RecordBatch.from_arrays([pa.array([view], pa.int32()), pa.array([integrals.tobytes()])], schema)

    rows = views.data.mapInArrow(run, OUT).collect()
    assert len(rows) == len({row["view"] for row in rows})
    return {row["view"]: np.frombuffer(row["pixels"], "<f4").reshape(shape) for row in rows}


def corrected_on_spark(
    spark: SparkSession, tasks: int, stack: NDArray[np.float32], bands: RowBands, views: list[int]
) -> dict[int, NDArray[np.float32]]:
    configure(spark)
    with spark_failures("the stripe correction"):
        return collected(without_stripes(source(spark, tasks, stack, views), bands, METHOD), stack.shape[1:])


@pytest.mark.parametrize(
    ("tasks", "band_rows", "group_views"), [(1, ROWS, VIEWS), (1, 1, 1), (5, 3, 7), (VIEWS, 2, 24)]
)
def test_sinograms_equal_one_process_bit_for_bit(
    spark: SparkSession, stack: NDArray[np.float32], tasks: int, band_rows: int, group_views: int
) -> None:
    bands = RowBands(VIEWS, BINS, (ROWS, COLS), band_rows, group_views)
    views = np.random.default_rng(tasks).permutation(VIEWS).tolist()
    found = corrected_on_spark(spark, tasks, stack, bands, views)
    assert sorted(found) == list(range(VIEWS))
    expected = np.empty_like(stack)
    for bin_ in range(BINS):
        for row in range(ROWS):
            expected[:, bin_, row] = METHOD(np.ascontiguousarray(stack[:, bin_, row]))
    assert not np.array_equal(expected, stack)
    np.testing.assert_array_equal(np.stack([found[view] for view in range(VIEWS)]), expected)


@pytest.mark.parametrize(("tasks", "block_bytes"), [(1, 16 * 2**20), (5, 8 * COLS * 2)])
def test_by_angle_equals_one_process_bit_for_bit(
    spark: SparkSession,
    stack: NDArray[np.float32],
    tmp_path: Path,
    tasks: int,
    block_bytes: int,
) -> None:
    configure(spark)
    stage = AngularStage(VIEWS, BINS, (ROWS, COLS), ANGULAR, block_bytes)
    views = np.random.default_rng(tasks).permutation(VIEWS).tolist()
    line_integrals = source(spark, tasks, stack, views)
    uri = str(tmp_path / "offsets ü")
    write_stripe_offsets(line_integrals, stage, uri)
    sums = AngularSums(stack.shape[1:])
    for view in reversed(range(VIEWS)):
        sums.add(view, stack[view])
    expected = np.stack([stripe_offsets(mean, ANGULAR) for mean in sums.mean(VIEWS)])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_array_equal(read_stripe_offsets(uri, BINS, (ROWS, COLS)), expected)
    corrected = collected(without_offsets(line_integrals, stage, uri), stack.shape[1:])
    for view in range(VIEWS):
        np.testing.assert_array_equal(corrected[view], stack[view] - expected)
    with pytest.raises(ScanError, match=r"stripe offsets of bins \[0, 1\], expected 3 bins"):
        read_stripe_offsets(uri, BINS + 1, (ROWS, COLS))
    with pytest.raises(ScanError, match=r"the stripe offsets of bin \d do not fit"):
        read_stripe_offsets(uri, BINS, (ROWS, COLS + 1))


DAMAGED = [
    ([v for v in range(VIEWS) if v != 17], "view 17 is missing"),
    (list(range(VIEWS - 1)), f"view {VIEWS - 1} is missing: only {VIEWS - 1} of {VIEWS} views"),
    ([*range(VIEWS), 3], "view 3 is doubled"),
]


@pytest.mark.parametrize(("views", "message"), DAMAGED)
def test_a_lost_or_doubled_view_gives_no_sinogram(
    spark: SparkSession, stack: NDArray[np.float32], views: list[int], message: str
) -> None:
    with pytest.raises(ScanError, match=message):
        corrected_on_spark(spark, 3, stack, RowBands(VIEWS, BINS, (ROWS, COLS), 4, 5), views)


@pytest.mark.parametrize(("views", "message"), DAMAGED)
def test_a_lost_or_doubled_view_gives_no_offsets(
    spark: SparkSession, stack: NDArray[np.float32], tmp_path: Path, views: list[int], message: str
) -> None:
    configure(spark)
    stage = AngularStage(VIEWS, BINS, (ROWS, COLS), ANGULAR)
    with pytest.raises(ScanError, match=message), spark_failures("the stripe correction"):
        write_stripe_offsets(source(spark, 3, stack, views), stage, str(tmp_path / "offsets"))


# --- the stages by themselves ----------------------------------------------------------------------------------------

BANDS = RowBands(VIEWS, BINS, (ROWS, COLS), 3, 10)


def test_bands_and_runs_cover_everything_once() -> None:
    assert (BANDS.n_bands, BANDS.n_tasks, BANDS.n_groups) == (3, 6, 3)
    assert [BANDS.rows_of(task) for task in range(6)] == [
        (0, 0, 3), (0, 3, 6), (0, 6, 7), (1, 0, 3), (1, 3, 6), (1, 6, 7),
    ]  # fmt: skip
    assert [v for group in range(3) for v in BANDS.views_of(group)] == list(range(VIEWS))


def pieces_of_run(stack: NDArray[np.float32]) -> list[pa.RecordBatch]:
    """Return the pieces of the last run of views, one record per batch, in their order."""
    whole = pa.Table.from_batches(BANDS.cut((v, stack[v]) for v in range(20, VIEWS)))
    return [whole.slice(n, 1).combine_chunks().to_batches()[0] for n in range(whole.num_rows)]


def test_pieces_come_together_again(stack: NDArray[np.float32]) -> None:
    found = list(BANDS.assemble(2, pieces_of_run(stack)))
    assert [view for view, _ in found] == [20, 21, 22, 23]
    np.testing.assert_array_equal(np.stack([integrals for _, integrals in found]), stack[20:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pieces: pieces[:8] + pieces[9:], "view 21 is missing: rows of task 2"),
        (lambda pieces: pieces[:-1], "view 23 is missing: rows of task 5"),
        (lambda pieces: pieces[:-6], "view 23 is missing: rows of task 0"),
        (lambda pieces: pieces[6:], "view 20 is missing: rows of task 0"),
        (lambda pieces: pieces[:9] + pieces[8:], "view 21 is doubled: rows of task 2"),
        (lambda pieces: [*pieces, pieces[-1]], "view 23 is doubled: rows of task 5"),
        (lambda pieces: [], "view 20 is missing"),
    ],
)
def test_a_lost_or_doubled_piece_gives_no_view(stack: NDArray[np.float32], change: Any, message: str) -> None:
    with pytest.raises(ScanError, match=message):
        list(BANDS.assemble(2, change(pieces_of_run(stack))))


def test_lost_blocks_of_sums_give_no_offsets(stack: NDArray[np.float32]) -> None:
    stage = AngularStage(VIEWS, BINS, (ROWS, COLS), ANGULAR, 8 * COLS * 2)
    halves = [range(10), range(10, VIEWS)]
    sums = [batch for half in halves for batch in stage.partial((v, stack[v]) for v in half)]
    ours = [batch for batch in sums if batch.column("bin")[0].as_py() == 0]
    assert len(ours) == 8
    assert stage.offsets(0, ours).num_rows == 1
    with pytest.raises(ScanError, match="view 0 is missing: only 14 of 24 views came"):
        stage.offsets(0, ours[:2] + ours[3:])
    with pytest.raises(ScanError, match="no sums of some detector rows of bin 0 came"):
        stage.offsets(0, [*ours[:3], *ours[4:7]])
    with pytest.raises(ScanError, match="stripe task of bin 0 got sums of bin 1"):
        stage.offsets(0, sums)


def test_views_that_do_not_fit_are_named(stack: NDArray[np.float32]) -> None:
    with pytest.raises(ScanError, match="view 24 is not one of the 24 views"):
        list(BANDS.cut([(24, stack[0])]))
    with pytest.raises(ScanError, match=r"view 3 has line integrals of \(2, 7, 30\), expected \(2, 7, 31\)"):
        list(BANDS.cut([(3, stack[3, :, :, 1:])]))


def test_a_value_that_is_not_finite_is_named(stack: NDArray[np.float32]) -> None:
    holed = stack.copy()
    holed[11, 1, 4, 9] = np.nan
    whole = pa.Table.from_batches(BANDS.cut(enumerate(holed)))
    pieces = whole.filter(pc.equal(whole["task"], 4)).to_batches()
    with pytest.raises(ScanError, match=r"bin 1, detector row 4: view 11, column 9 of the sinogram is nan"):
        list(BANDS.correct(4, pieces, METHOD))
    with pytest.raises(ScanError, match="stripe task 3 got rows of task 4"):
        list(BANDS.correct(3, pieces, METHOD))


@pytest.mark.parametrize("slots", [1, 8, 500])
@pytest.mark.parametrize("mib", [700, 4000])
def test_a_band_fits_the_memory(slots: int, mib: int) -> None:
    plan = plan_row_bands(720, 4, (1000, 900), slots=slots, memory_bytes=mib * 2**20)
    assert band_bytes(720, 900, plan.band_rows) <= mib * 2**20
    assert plan.n_tasks >= min(slots, 4000)
    assert plan.rows_of(plan.n_tasks - 1)[2] == 1000


def test_too_little_memory_for_one_row_is_said() -> None:
    with pytest.raises(
        RecipeError, match=r"memory_per_task_mib = 400 is too little: .* one row in 720 views of 900 px"
    ):
        plan_row_bands(720, 4, (1000, 900), slots=2, memory_bytes=400 * 2**20)
