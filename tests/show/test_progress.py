from __future__ import annotations

import io
import re
import threading

import pytest
from rich.console import Console

from marspipe.show.progress import Progress


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(clock: Clock, interval_s: float = 5.0) -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    return Progress(Console(file=file), interval_s=interval_s, clock=clock), file


def terminal(clock: Clock, width: int = 120) -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    return Progress(Console(file=file, force_terminal=True, width=width), clock=clock), file


def shown(file: io.StringIO) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_lines_come_at_the_start_at_the_end_and_now_and_then() -> None:
    clock = Clock()
    progress, file = plain(clock)
    with progress.stage("backproject", total=120, unit="slabs") as stage:
        for done in range(1, 121):
            clock.now += 0.125
            stage.update(done)
    assert file.getvalue().splitlines() == [
        "backproject: 120 slabs",
        "backproject 33 % (40/120 slabs, 8 slabs/s, 10 s left)",
        "backproject 66 % (80/120 slabs, 8 slabs/s, 5 s left)",
        "backproject 100 % (120/120 slabs, 8 slabs/s, 0 s left)",
        "backproject done: 120 slabs in 15 s, 8 slabs/s",
    ]


def test_lines_without_a_total() -> None:
    clock = Clock()
    progress, file = plain(clock)
    with progress.stage("index", unit="files") as stage:
        clock.now += 6
        stage.update(9)
        clock.now += 600
        stage.update(1212)
        stage.update(1213)
        clock.now += 1
        stage.update(1214, total=2428)
    assert file.getvalue().splitlines() == [
        "index: started",
        "index: 9 files (1.5 files/s)",
        "index: 1212 files (2 files/s)",
        "index done: 1214 files in 10 min 07 s, 2 files/s",
    ]


def test_bytes_are_written_as_sizes() -> None:
    clock = Clock()
    progress, file = plain(clock)
    with progress.stage("ingest", total=5e9, unit="bytes") as stage:
        clock.now += 10
        stage.update(1.25e9)
        clock.now += 7190
        stage.update(5e9)
    assert file.getvalue().splitlines() == [
        "ingest: 5.0 GB",
        "ingest 25 % (1.2 GB/5.0 GB, 125.0 MB/s, 30 s left)",
        "ingest 100 % (5.0 GB/5.0 GB, 694.4 kB/s, 0 s left)",
        "ingest done: 5.0 GB in 2 h 00 min, 694.4 kB/s",
    ]


def test_a_failed_stage_says_so_and_the_error_goes_on() -> None:
    clock = Clock()
    progress, file = plain(clock)
    with pytest.raises(RuntimeError, match="disk full"), progress.stage("write", total=9, unit="files") as stage:
        stage.update(3)
        clock.now += 2.5
        raise RuntimeError("disk full")
    assert file.getvalue().splitlines() == ["write: 9 files", "write failed after 2.5 s (3/9 files)"]


def test_a_stage_that_does_nothing_is_no_error() -> None:
    clock = Clock()
    progress, file = plain(clock, interval_s=0.0)
    with progress.stage("export", total=0, unit="series") as stage:
        clock.now += 1
        stage.update(0)
    with progress.stage("export", total=4, unit="series") as stage:
        clock.now += 1
        stage.update(0)
    assert file.getvalue().splitlines() == [
        "export: 0 series",
        "export: 0 series (0 series/s)",
        "export done: 0 series in 1 s",
        "export: 4 series",
        "export 0 % (0/4 series, 0 series/s)",
        "export done: 0 series in 1 s",
    ]


def test_threads_may_report() -> None:
    clock = Clock()
    progress, file = plain(clock, interval_s=0.0)
    with progress.stage("filter", total=400, unit="views") as stage:
        clock.now += 1
        threads = [threading.Thread(target=lambda: [stage.update(n) for n in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = file.getvalue().splitlines()
    assert len(lines) == 402
    assert all(line.startswith("filter") for line in lines)


def test_a_terminal_shows_a_bar_with_percent_rate_and_time() -> None:
    clock = Clock()
    progress, file = terminal(clock)
    with progress.stage("backproject", total=120, unit="slabs") as stage:
        for done in range(1, 49):
            clock.now += 0.125
            stage.update(done)
        assert progress._bars is not None
        progress._bars.refresh()
        assert re.search(r"backproject .*━.* 40% 48/120 slabs 8 slabs/s 9 s left", shown(file)[-1])
        clock.now += 9
        stage.update(120)
    assert re.search(r"✓ backproject .*100% 120/120 slabs 8 slabs/s in 15 s", shown(file)[-1])
    assert file.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_a_terminal_shows_failure_and_unknown_totals() -> None:
    clock = Clock()
    progress, file = terminal(clock)
    with progress.stage("index", unit="files") as stage:
        clock.now += 2
        stage.update(7)
    assert re.search(r"✓ index .*100% 7/7 files 3.5 files/s in 2 s", shown(file)[-1])
    with pytest.raises(KeyError), progress.stage("write", total=9, unit="files") as stage:
        stage.update(3)
        clock.now += 1
        raise KeyError
    assert re.search(r"write failed .*33% 3/9 files .*in 1 s", shown(file)[-1])


def test_stages_inside_each_other_share_the_screen() -> None:
    clock = Clock()
    progress, file = terminal(clock)
    with progress.stage("bin 0", total=2, unit="slabs") as outer:
        with progress.stage("read", total=5, unit="views") as inner:
            inner.update(5)
        outer.update(2)
    last = shown(file)[-2:]
    assert "bin 0" in last[0]
    assert "read" in last[1]
    assert all("100%" in line for line in last)


def test_a_narrow_terminal_keeps_one_line_a_stage() -> None:
    clock = Clock()
    progress, file = terminal(clock, width=60)
    with progress.stage("backproject", total=120, unit="slabs") as stage:
        clock.now += 1
        stage.update(120)
    assert re.search(r"✓ backproject ━+ 100% 120/120 slabs 120 slabs/s in 1 s", shown(file)[-1])


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().stage("read", total=1, unit="files") as stage:
        stage.update(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("read: 1 files\nread done")
