"""Work of several threads on one list: each takes what is next until nothing is left."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from marspipe.dicom.pacs.client import PeerRefusedError, PeerUnavailableError

Item = TypeVar("Item")


def work_in_lanes(items: Sequence[Item], lanes: int, work: Callable[[Iterator[Item]], None]) -> None:
    """Let threads work on items.

    Parameters
    ----------
    items : sequence
        What there is to do.
    lanes : int
        Threads at a time.
    work : callable
        Called in each thread with what yields that thread's items, one when the one before is done.

    Raises
    ------
    PeerUnavailableError, PeerRefusedError
        The first of a thread's, if an item has not been worked on to its end. One thread that is turned away does not
        stop the others.
    Exception
        Anything else a thread fails with; the others end after their item.
    """
    waiting = deque(items)
    stop = threading.Event()
    done = [0]
    lock = threading.Lock()
    turned_away: list[PeerUnavailableError | PeerRefusedError] = []

    def taken() -> Iterator[Item]:
        while not stop.is_set():
            try:
                item = waiting.popleft()
            except IndexError:
                return
            yield item
            with lock:
                done[0] += 1

    def lane() -> None:
        try:
            work(taken())
        except (PeerUnavailableError, PeerRefusedError) as error:
            turned_away.append(error)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max(1, min(lanes, len(items))), "pacs") as pool:
        try:
            running = [pool.submit(lane) for _ in range(max(1, min(lanes, len(items))))]
            for one in running:
                one.result()
        except BaseException:
            stop.set()
            raise
    if done[0] < len(items) and turned_away:
        raise turned_away[0]
