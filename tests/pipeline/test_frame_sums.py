"""Sums over open beams and darks: exact, whatever the cut, and what each frame must agree on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from marspipe.errors import ScanError
from marspipe.pipeline.corrections.frame_sums import FrameSums, SumKey, Summing, merged

ROW: dict[str, Any] = {
    "tile": 0,
    "counter": 0,
    "frame_type": "open_beam",
    "absorber_mm": 0.0,
    "group": 0,
    "acquired_at": "2025-01-01T00:00:01.000000001Z",
    "exposure_s": 0.3,
    "monitor": 1000.25,
}


def sums_of(frames: list[NDArray[Any]], rows: list[dict[str, Any]], cuts: list[int]) -> list[FrameSums]:
    """Return the sums of frames that were cut into tasks behind the given frames."""
    parts: list[FrameSums] = []
    for first, stop in pairwise([0, *cuts, len(frames)]):
        task = Summing()
        for frame, row in zip(frames[first:stop], rows[first:stop], strict=True):
            task.add(frame, row)
        parts += task.sums.values()
    parts.sort(key=lambda part: part.key)
    return list(merged([part.partial() for part in parts]))


def table_row(sums: FrameSums) -> dict[str, Any]:
    row: dict[str, Any] = sums.record().to_pylist()[0]
    return row


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_no_cut_changes_a_bit(dtype: type) -> None:
    rng = np.random.default_rng(3)
    frames = [rng.normal(3000, 60, (4, 5)).astype(dtype) for _ in range(9)]
    rows = [{**ROW, "exposure_s": 0.1 + 0.01 * k, "monitor": 10.0 / (k + 1)} for k in range(9)]
    whole = table_row(sums_of(frames, rows, [])[0])
    for cuts in ([1], [4, 5], [2, 3, 8]):
        assert table_row(sums_of(frames, rows, cuts)[0]) == whole
    stack = np.array(frames, dtype=np.float64)
    tolerance = 0 if dtype is not np.float32 else 1e-8
    total, squares = (np.frombuffer(whole[name]).reshape(4, 5) for name in ("total", "squares"))
    np.testing.assert_allclose(total, stack.sum(axis=0), rtol=tolerance)
    np.testing.assert_allclose(squares, (stack**2).sum(axis=0), rtol=tolerance)
    assert whole["exposure_s"] == pytest.approx(0.14, abs=1e-9)
    assert whole["time_s"] == pytest.approx(1735689601.0, abs=1e-6)
    assert whole["n_frames"] == 9


def test_frames_of_different_kinds_stay_apart_and_darks_together() -> None:
    kinds = [
        {**ROW, "group": 0},
        {**ROW, "group": 1},
        {**ROW, "frame_type": "absorber", "absorber_mm": 2.0},
        {**ROW, "frame_type": "dark", "group": 0},
        {**ROW, "frame_type": "dark", "group": 1},
        {**ROW, "tile": 1},
    ]
    frames = [np.full((1, 1), 2**k, dtype=np.uint16) for k in range(len(kinds))]
    found = {s.key: int(s.total[0, 0]) for s in sums_of(frames, kinds, [2, 4])}
    assert found == {
        SumKey(0, 0, "open_beam", 0.0, 0): 1,
        SumKey(0, 0, "open_beam", 0.0, 1): 2,
        SumKey(0, 0, "absorber", 2.0, 0): 4,
        SumKey(0, 0, "dark", 0.0, 0): 8 + 16,
        SumKey(1, 0, "open_beam", 0.0, 0): 32,
    }


@pytest.mark.parametrize("name", ["acquired_at", "exposure_s", "monitor"])
def test_one_frame_without_a_value_leaves_none(name: str) -> None:
    frames = [np.ones((2, 2), dtype=np.uint16)] * 3
    row = table_row(sums_of(frames, [ROW, {**ROW, name: None}, ROW], [1])[0])
    column = {"acquired_at": "time_s"}.get(name, name)
    assert row[column] is None
    assert all(row[c] is not None for c in {"time_s", "exposure_s", "monitor"} - {column})


def test_frames_that_do_not_belong_together_are_named() -> None:
    one, other = np.ones((2, 2), dtype=np.uint16), np.ones((2, 3), dtype=np.uint16)
    with pytest.raises(ScanError, match=r"open_beam frames of tile 0, counter 0 differ in shape: \(2, 2\), \(2, 3\)"):
        sums_of([one, other], [ROW, ROW], [1])
    with pytest.raises(ScanError, match="differ in type"):
        sums_of([one, one.astype(np.float32)], [ROW, ROW], [])
    with pytest.raises(ScanError, match="finite"):
        sums_of([np.full((2, 2), np.nan, dtype=np.float32)], [ROW], [])
    with pytest.raises(ScanError, match="ISO 8601"):
        sums_of([one], [{**ROW, "acquired_at": "yesterday"}], [])


def test_sums_are_handed_on_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from marspipe.pipeline.corrections import frame_sums

    schema = {name: pa.array([ROW.get(name)] * 4) for name in ROW}
    schema["tile"] = pa.array([0, 1, 0, 1], pa.int32())
    columns = {
        **schema,
        "rows": pa.array([8] * 4, pa.int32()),
        "cols": pa.array([8] * 4, pa.int32()),
        "dtype": pa.array(["uint8"] * 4),
        "pixels": pa.array([bytes(range(64))] * 4),
    }
    batch = pa.record_batch([columns[name] for name in frame_sums.FRAME_COLUMNS], names=list(frame_sums.FRAME_COLUMNS))
    whole = list(frame_sums.partial_sums([batch]))
    monkeypatch.setattr(frame_sums, "HELD_BYTES", 1024)
    parts = list(frame_sums.partial_sums([batch]))
    assert (len(whole), len(parts)) == (2, 4)
    in_order = sorted(parts, key=lambda part: part.column("tile")[0].as_py())
    for one, other in zip(merged(whole), merged(in_order), strict=True):
        assert table_row(one) == table_row(other)
