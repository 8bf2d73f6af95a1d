"""A progress that does something in the middle of a publication or retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from marspipe.show.progress import Progress, Stage


class AtInstance(Progress):
    """Does something once, when a number of instances is done."""

    def __init__(self, number: int, action: Callable[[], None], stage: str = "publish") -> None:
        super().__init__()
        self._number, self._action, self._stage = number, action, stage
        self._done = False

    @contextmanager
    def stage(self, name: str, *, total: float | None = None, unit: str = "steps") -> Iterator[Stage]:
        with super().stage(name, total=total, unit=unit) as stage:
            outer = self

            class Watched:
                def update(self, done: float, total: float | None = None) -> None:
                    stage.update(done, total)
                    if name == outer._stage and done >= outer._number and not outer._done:
                        outer._done = True
                        outer._action()

            yield Watched()
