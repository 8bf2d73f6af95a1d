"""The connection under an association: bounded in memory and in time, without needless waits, closed at its end."""

from __future__ import annotations

import queue
import socket
import sys
from contextlib import suppress
from typing import Any

from pynetdicom import evt

from marspipe.dicom.pacs.checkpoint import Checkpoint

# What may wait in memory to be sent, in PDUs of usually 16 KiB.
_WAITING_PDUS = 256


class BoundedConnection:
    """Handlers of pynetdicom's events for one association.

    pynetdicom puts all of an instance on a queue at once, 1 GiB of an Enhanced CT as well, and waits without end for a
    peer that no longer reads.

    Parameters
    ----------
    timeout_s : float
        Longest wait for the peer to take or give anything, s.

    Attributes
    ----------
    handlers : list
        For ``AE.associate``.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None
        self.handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_DATA_SENT, self._sent),
            *((end, self._ended) for end in (evt.EVT_CONN_CLOSE, evt.EVT_ABORTED, evt.EVT_RELEASED)),
        ]

    def close(self) -> None:
        """Close the connection; pynetdicom leaves one open that the peer has reset."""
        if self._connection is not None:
            self._connection.close()

    def _opened(self, event: Any) -> None:
        event.assoc._reactor_checkpoint = Checkpoint(event.assoc)
        dul = event.assoc.dul
        self._connection = dul.socket.socket
        self._connection.settimeout(self._timeout_s)
        # A request, and often its answer, is several small packets: each would wait 40 ms for the delayed
        # acknowledgement of the one before, on our side and on a peer's that leaves Nagle's algorithm on.
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with dul.to_provider_queue.mutex:
            dul.to_provider_queue.maxsize = _WAITING_PDUS
        keep_answers(event.assoc.dimse)

    def _sent(self, event: Any) -> None:
        del event
        if self._connection is not None and hasattr(socket, "TCP_QUICKACK"):
            with suppress(OSError):  # closed meanwhile
                # Lasts until the kernel thinks otherwise.
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _ended(self, event: Any) -> None:
        waiting: queue.Queue[Any] = event.assoc.dul.to_provider_queue
        with waiting.mutex:  # whoever waits for room would do so forever: nobody takes from the queue any more
            waiting.maxsize = sys.maxsize
            waiting.not_full.notify_all()
        # So would who waits for an answer.
        event.assoc.dimse.msg_queue.put((None, None))
        self.close()


def keep_answers(dimse: Any) -> None:
    """Let only those who wait for an answer take messages from a DIMSE provider.

    pynetdicom's reactor, meant to be paused meanwhile, can pass its checkpoint at the moment a request is sent, take a
    fast answer from the queue, and drop it as unexpected. There is nothing else for it to take on an association that
    we have requested: sub-operations of C-GET are served by who waits, reports on commitment by a thread of their own.
    """
    wait_for_message = dimse.get_msg
    dimse.get_msg = lambda block=False: wait_for_message(block) if block else (None, None)
