"""Records that are missing, doubled or misnumbered in a Merlin file never move the exposures behind them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from marspipe.errors import InputError
from marspipe.pipeline.ingest import Decode, cut, ingest, open_scan
from marspipe.readers.merlin_gaps import Run, gapless_step, runs_of
from tests.pipeline.scans import quiet
from tests.pipeline.tiny_scans import COUNTERS, RECORD, put_in, require_true, row_groups, write_scan
from tests.readers.merlin_files import mib


def records_of(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    return [raw[i : i + RECORD] for i in range(0, len(raw), RECORD)]


def test_a_lost_exposure_and_a_lost_record(spark: SparkSession, tmp_path: Path, out: str) -> None:
    folder = write_scan(tmp_path / "raw")
    path = folder / "long_0.mib"
    sound = records_of(path)
    # View 2 as a whole, and counter 1 of view 5.
    path.write_bytes(b"".join(r for i, r in enumerate(sound) if i not in (4, 5, 11)))
    with pytest.raises(InputError, match=r"long_0\.mib"):
        ingest(spark, open_scan(str(folder)), out, progress=quiet())
    done = put_in(spark, folder, out)
    assert done.missing_views == [2, 5]
    assert [(d.offset, d.first_view, d.exposures) for d in sorted(done.damages, key=lambda d: d.first_view or 0)] == [
        (4 * RECORD, 2, 1),
        (9 * RECORD, 5, 1),
    ]
    assert all("sequence numbers jump" in damage.reason for damage in done.damages)
    require_true(out, missing=(2, 5))
    (row,) = [
        r for g in row_groups(out) for r in g if (r["frame_type"], r["view"], r["counter"]) == ("projection", 7, 1)
    ]
    raw = path.read_bytes()[row["source_offset"] : row["source_offset"] + row["source_length"]]
    assert b"".join(raw[i : i + 2][::-1] for i in range(0, len(raw), 2)) == row["pixels"]

    path.write_bytes(b"".join(sound))
    mended = put_in(spark, folder, out)
    assert (mended.added, mended.missing_views, mended.damages) == (2 * COUNTERS, [], [])
    require_true(out)


def test_a_gap_is_refused_by_name_where_damage_is(tmp_path: Path) -> None:
    folder = write_scan(tmp_path / "raw")
    path = folder / "after 0.mib"
    sound = records_of(path)
    path.write_bytes(b"".join(sound[:2] + sound[4:]))
    scan = open_scan(str(folder))
    with pytest.raises(InputError, match=r"after 0\.mib: record 2 has sequence number 5 after 2: 2 missing"):
        for part in cut(scan, 1):
            list(Decode.of(scan).exposures(part))
    # Of open beams, too, the others keep their numbers.
    tolerant = open_scan(str(folder), tolerant=True)
    beams = [f for f in tolerant.files if f.entry.path == "after 0.mib"]
    assert [(f.first_view, f.n_exposures, f.start) for f in beams] == [(2, 1, 0), (4, 1, 2 * RECORD)]
    assert [(d.frame_type, d.first_view, d.exposures) for d in tolerant.damages] == [("open_beam", 3, 1)]


def test_numbers_that_go_back_and_forth_put_nothing_in_a_wrong_place(
    spark: SparkSession, tmp_path: Path, out: str
) -> None:
    folder = write_scan(tmp_path / "raw")
    path = folder / "long_0.mib"
    sound = records_of(path)
    # View 3 doubled and view 4 lost: as many records as expected, and the last one in its place.
    path.write_bytes(b"".join(sound[:8] + sound[6:8] + sound[10:]))
    done = put_in(spark, folder, out)
    assert done.missing_views == [4]
    require_true(out, missing=(4,))


@pytest.mark.parametrize("counters", [1, 2, 4])
def test_a_whole_file_has_no_gap(counters: int) -> None:
    file = io.BytesIO(mib(exposures=5, counters=counters))
    assert gapless_step(file, counters) == counters
    assert runs_of(file, "x", counters) == ([Run(0, 0, 5)], counters)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_lost_or_damaged_the_rest_stands_where_it_was(data: st.DataObject) -> None:
    counters = data.draw(st.sampled_from([1, 2]), label="counters")
    whole = mib(exposures=12, counters=counters)
    size = len(whole) // (12 * counters)
    records = [whole[i : i + size] for i in range(0, len(whole), size)]
    numbers = list(range(1, len(records)))
    lost = set(data.draw(st.lists(st.sampled_from(numbers), max_size=5), label="lost"))
    # Damage is told from loss where the records beside it are there.
    damaged = {
        n
        for n in data.draw(st.lists(st.sampled_from(numbers[1:-1]), max_size=3), label="damaged")
        if not {n - 1, n, n + 1} & lost
    }
    kept = [n for n in range(len(records)) if n not in lost]
    file = io.BytesIO(b"".join(b"XXX" + records[n][3:] if n in damaged else records[n] for n in kept))
    runs, step = runs_of(file, "x", counters)
    assert step == counters
    found = {
        run.exposure + i: [kept[run.record + i * counters + c] for c in range(counters)]
        for run in runs
        for i in range(run.count)
    }
    expected = {
        exposure: members
        for exposure in range(12)
        if not lost & set(members := [exposure * counters + c for c in range(counters)])
    }
    sure = {e: m for e, m in expected.items() if not damaged & set(m)}
    assert {e: m for e, m in found.items() if not damaged & set(m)} == sure


@pytest.mark.parametrize("record", [0, 1, 5, 11])
@pytest.mark.parametrize("wrong", ["000002", "999999"])
def test_a_wrong_number_costs_one_exposure(record: int, wrong: str) -> None:
    raw = bytearray(mib(exposures=12))
    start = record * (len(raw) // 12)
    assert raw[start : start + 4] == b"MQ1,"
    raw[start + 4 : start + 10] = wrong.encode()
    file = io.BytesIO(raw)
    found = {run.exposure + i: run.record + i for run in runs_of(file, "x", 1)[0] for i in range(run.count)}
    assert set(found.items()) >= {(n, n) for n in range(12) if n not in {record, int(wrong) - 1}}
    assert all(exposure == place for exposure, place in found.items() if place != record)
