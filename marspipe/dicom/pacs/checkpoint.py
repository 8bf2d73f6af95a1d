"""The place at which pynetdicom's reactor thread stops while another thread waits for an answer."""

from __future__ import annotations

import threading
from typing import Any


class Checkpoint(threading.Event):
    """An event that the reactor of an association passes only while it is set.

    pynetdicom's own can be passed late: a thread that sends one request right after another clears it, takes the
    reactor, which has been woken but has not run, for asleep, and loses its answer to it. The sender then waits for the
    whole DIMSE timeout. Here the reactor says that it is awake before it looks again.

    Parameters
    ----------
    association : pynetdicom.association.Association
        Whose.
    """

    def __init__(self, association: Any) -> None:
        super().__init__()
        self._association = association
        if association._reactor_checkpoint.is_set():
            self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, and still is when everybody can see that the reactor is awake."""
        while True:
            if not super().wait(timeout):
                return False
            self._association._is_paused = False
            if self.is_set():
                return True
            self._association._is_paused = True
