"""How far a run has come: bars on a terminal, plain lines elsewhere.

>>> import io
>>> progress = Progress(Console(file=io.StringIO()))
>>> with progress.stage("backproject", total=3, unit="slabs") as stage:
...     for slab in range(3):
...         stage.update(slab + 1)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.filesize import decimal as byte_size
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text


class Stage(Protocol):
    """A stage in progress."""

    def update(self, done: float, total: float | None = None) -> None:
        """Say how much is done so far, in the stage's unit; ``total`` where it becomes known or changes.

        Any thread may call it, as often as it likes.
        """


class Progress:
    """Show the stages of a run.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write; by default standard error. On a terminal every stage is a bar with percent, rate and remaining
        time; anywhere else it is plain lines of text.
    interval_s : float
        Shortest time between two plain lines of a stage, besides its first and its last.
    clock : callable
        Returns seconds; for tests.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        interval_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console(stderr=True)
        self.interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._bars: RichProgress | None = None
        self._open_stages = 0

    def note(self, text: str) -> None:
        """Say something in a line of its own."""
        self.console.print(text, highlight=False)

    @contextmanager
    def stage(self, name: str, *, total: float | None = None, unit: str = "steps") -> Iterator[Stage]:
        """Open a stage; it ends with the block, as done or, on an exception, as failed.

        Parameters
        ----------
        name : str
            What is being done, such as ``"backproject"``.
        total : float, optional
            How much there is to do; without it only what is done is shown.
        unit : str
            What is counted, in the plural, such as ``"slabs"``; ``"bytes"`` are written as MB, GB.
        """
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            with self._bar_stage(name, total, unit) as bar:
                yield bar
        else:
            lines = _LineStage(self.console, name, total, unit, self.interval_s, self._clock)
            try:
                yield lines
            except BaseException:
                lines.end(failed=True)
                raise
            lines.end(failed=False)

    @contextmanager
    def _bar_stage(self, name: str, total: float | None, unit: str) -> Iterator[Stage]:
        with self._lock:
            if self._bars is None:
                self._bars = _bars(self.console, self._clock)
                self._bars.start()
            bars = self._bars
            self._open_stages += 1
        bar = _BarStage(bars, name, total, unit)
        try:
            yield bar
        except BaseException:
            bar.end(failed=True)
            raise
        else:
            bar.end(failed=False)
        finally:
            # The bars of a finished group of stages stay on the screen; the next stage opens a new group.
            with self._lock:
                self._open_stages -= 1
                if self._open_stages == 0:
                    bars.stop()
                    self._bars = None


def _amount(value: float, unit: str) -> str:
    return byte_size(int(value)) if unit == "bytes" else f"{value:g}"


def _rate(per_second: float, unit: str) -> str:
    if unit == "bytes":
        return f"{byte_size(int(per_second))}/s"
    return f"{per_second:.3g} {unit}/s" if per_second < 1000 else f"{per_second:.0f} {unit}/s"


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _LineStage:
    """A stage as lines of text."""

    def __init__(
        self,
        console: Console,
        name: str,
        total: float | None,
        unit: str,
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._console = console
        self._name = name
        self._total = total
        self._unit = unit
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._done = 0.0
        self._started = self._last_line = clock()
        self._write(f"{name}: {self._counted(total)}" if total is not None else f"{name}: started")

    def update(self, done: float, total: float | None = None) -> None:
        with self._lock:
            self._done = done
            if total is not None:
                self._total = total
            now = self._clock()
            if now - self._last_line < self._interval_s:
                return
            self._last_line = now
            rate = done / (now - self._started)
            if self._total:
                left = f", {_duration((self._total - done) / rate)} left" if rate > 0 else ""
                share = int(100 * min(max(done / self._total, 0.0), 1.0))
                self._write(f"{self._name} {share} % ({self._of_total()}, {_rate(rate, self._unit)}{left})")
            else:
                self._write(f"{self._name}: {self._counted(done)} ({_rate(rate, self._unit)})")

    def end(self, *, failed: bool) -> None:
        with self._lock:
            elapsed = self._clock() - self._started
            if failed:
                self._write(f"{self._name} failed after {_duration(elapsed)} ({self._of_total()})")
                return
            # A stage that was over when it was first seen has no rate.
            rate = f", {_rate(self._done / elapsed, self._unit)}" if elapsed >= 0.1 and self._done > 0 else ""
            self._write(f"{self._name} done: {self._counted(self._done)} in {_duration(elapsed)}{rate}")

    def _counted(self, value: float | None) -> str:
        text = _amount(value or 0.0, self._unit)
        return text if self._unit == "bytes" else f"{text} {self._unit}"

    def _of_total(self) -> str:
        if self._total is None:
            return self._counted(self._done)
        return f"{_amount(self._done, self._unit)}/{self._counted(self._total)}"

    def _write(self, line: str) -> None:
        if not self._console.quiet:
            self._console.file.write(line + "\n")
            self._console.file.flush()


class _BarStage:
    """A stage as a bar."""

    def __init__(self, bars: RichProgress, name: str, total: float | None, unit: str) -> None:
        self._bars = bars
        self._name = name
        self._task = bars.add_task(name, total=total, unit=unit)

    def update(self, done: float, total: float | None = None) -> None:
        self._bars.update(self._task, completed=done, total=total)

    def end(self, *, failed: bool) -> None:
        if failed:
            self._bars.update(self._task, description=f"[red]{self._name} failed")
        else:
            # A stage without a known total has done what it has done.
            completed = self._bars.tasks[self._task].completed
            if self._bars.tasks[self._task].total is None:
                self._bars.update(self._task, total=completed)
        self._bars.stop_task(self._task)


class _AmountColumn(MofNCompleteColumn):
    """Done and total with their unit: ``48/120 slabs``."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        done = _amount(task.completed, unit)
        whole = "?" if task.total is None else _amount(task.total, unit)
        return Text(f"{done}/{whole}" + ("" if unit == "bytes" else f" {unit}"), style="progress.download")


class _RateColumn(ProgressColumn):
    """The rate with its unit, ``12.3 slabs/s``; of the whole stage once it has ended."""

    def render(self, task: Task) -> Text:
        speed = task.completed / task.finished_time if task.finished_time else task.speed
        return Text("" if speed is None else _rate(speed, task.fields["unit"]), style="progress.data.speed")


class _TimeColumn(ProgressColumn):
    """The remaining time, ``6.0 s left``; the elapsed time once the stage has ended or while its total is unknown."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        remaining = None if task.stop_time is not None else task.time_remaining
        text = f"in {_duration(task.elapsed or 0.0)}" if remaining is None else f"{_duration(remaining)} left"
        return Text(text, style="progress.remaining")


def _bars(console: Console, clock: Callable[[], float]) -> RichProgress:
    def column() -> Column:
        return Column(no_wrap=True)

    return RichProgress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("[progress.description]{task.description}", table_column=column()),
        BarColumn(bar_width=20),
        TaskProgressColumn(table_column=column()),
        _AmountColumn(table_column=column()),
        _RateColumn(table_column=column()),
        _TimeColumn(table_column=column()),
        console=console,
        get_time=clock,
    )
