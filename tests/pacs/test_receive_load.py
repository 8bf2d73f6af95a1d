"""The load test of ``marspipe bench receive``, small: its figures come from a real receiver and real senders."""

from __future__ import annotations

from pathlib import Path

import pytest

from marspipe.dicom.pacs.samples import sample
from marspipe.pipeline.benchmarks.receive import _stored, bench_receive
from tests.pacs.receive_senders import read
from tests.pacs.servers import tool


def test_nothing_is_lost_and_memory_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("storescu")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (result,) = bench_receive(instances=402, senders=4)
    figures = result.figures
    assert figures["lost"] == figures["beyond_those_sent"] == 0
    assert 0 < figures["start_mib"] <= figures["peak_mib"] and figures["growth_after_5000_mib"] < 16
    assert result.cpu_seconds > 0
    assert set(result.bars) == {"lost", "beyond_those_sent", "growth_after_5000_mib"}
    assert not list(tmp_path.iterdir())


def test_what_is_missing_or_damaged_is_lost(tmp_path: Path) -> None:
    counts, paths = (3, 2), []
    for series, count in enumerate(counts):
        for number in range(count):
            one = sample(series, number)
            paths.append(tmp_path / one.study_uid / one.series_uid / f"{one.sop_uid}.dcm")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_bytes(one.as_file())
    data_bytes = sum(len(sample(series, n).data_set) for series, count in enumerate(counts) for n in range(count))
    assert _stored(tmp_path, counts) == (5, data_bytes)
    paths[1].unlink()
    assert _stored(tmp_path, counts) == (4, data_bytes)
    content = bytearray(paths[3].read_bytes())
    content[-1] ^= 1
    paths[3].write_bytes(content)
    assert _stored(tmp_path, counts) == (3, data_bytes)


def test_samples_are_the_same_every_time_and_no_two_are() -> None:
    assert sample(1, 2) == sample(1, 2)
    assert len({sample(series, number).data_set for series in range(2) for number in range(3)}) == 6
    dataset = read(sample(1, 2).as_file())
    assert (dataset.SOPInstanceUID, dataset.SeriesInstanceUID) == (sample(1, 2).sop_uid, sample(1, 9).series_uid)
    assert len(dataset.PixelData) == 2 * dataset.Rows * dataset.Columns
