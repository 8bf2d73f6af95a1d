"""Work shared among threads, with results that do not depend on their number."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba

from marspipe.errors import InputError

numba_config: Any = numba.config


def thread_count(threads: int | None) -> int:
    """Return the number of threads to use; None is numba's: all cores, unless it was told otherwise.

    Raises
    ------
    InputError
        If the number is not a positive integer.
    """
    if threads is None:
        return int(numba_config.NUMBA_NUM_THREADS)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads must be a positive integer or None, got {threads!r}")
    return threads


def run_in_threads(work: Callable[[int, int], None], count: int, threads: int | None) -> None:
    """Call ``work(first, stop)`` over ``range(count)``, in this thread or in several.

    ``work`` must release the interpreter lock and write only what belongs to its items; then the result does not
    depend on the number of threads. Plain threads rather than numba's: those cannot be entered from two threads at
    once under every threading layer, nor survive a fork.
    """
    workers = min(thread_count(threads), count)
    if workers <= 1:
        work(0, count)
        return
    size = max(1, count // (8 * workers))  # small enough that all threads end together
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, first, min(first + size, count)) for first in range(0, count, size)]:
            done.result()
