"""A slow line between us and a PACS, which may be cut."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler

from tests.pacs.port_in_front import copy, port_in_front

_PIECE_BYTES = 1 << 14


@contextmanager
def slow_link(port: int, *, bytes_per_s: float = 1e9, cut_after: int | None = None) -> Iterator[int]:
    """Give a port that leads to another one of this machine.

    What comes from there comes so fast, and after so many bytes of all connections together no more.
    """
    given = [0]

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as there:
                back = threading.Thread(target=copy, args=(self.request, there))
                back.start()
                start, begin = time.monotonic(), given[0]
                with suppress(OSError):
                    while data := there.recv(_PIECE_BYTES):
                        given[0] += len(data)
                        if cut_after is not None and given[0] > cut_after:
                            break
                        self.request.sendall(data)
                        time.sleep(max(0.0, start + (given[0] - begin) / bytes_per_s - time.monotonic()))
                for end in (self.request, there):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                back.join()

    with port_in_front(Handler) as front:
        yield front
