"""The server of a receiver, or of a port for one operation: a thread a connection, which no peer can keep busy."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from marspipe.dicom.pacs.arriving import Arrival, ArrivingMessages, BoundedSocket
from marspipe.dicom.pacs.receiver_settings import ReceiverSettings

_ABORT_S = 1.0
_CLOSE_S = 5.0
_POLL_S = 0.02


class Door(Protocol):
    """Whom the server asks about connections, and tells of them; from any thread."""

    @property
    def settings(self) -> ReceiverSettings:
        """How it listens."""

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """For connections by TLS; None for connections in the clear."""

    @property
    def begin(self) -> Callable[[], Arrival]:
        """Gives a file for the next instance."""

    def connection_refusal(self, address: str, connections: int) -> str | None:
        """Return why no byte of a new connection is read, or None."""

    def refused(self, address: str, ae_title: str | None, reason: str) -> None:
        """Take note of a refusal."""

    def closed(self, association: Any) -> None:
        """Take note that an association's threads have ended."""


class Connection(RequestHandler):
    """A connection, from the handshake to its last thread."""

    server: ReceiverServer
    association: Any = None

    def handle(self) -> None:
        """Let the peer do what it has come for, and clean up after it, however it ends."""
        server = self.server
        door, address = server.door, self.client_address[0]
        _bound(self.request, door.settings.timeout_s)
        with server.listed(self):
            if door.tls_context is not None:
                try:
                    # Here and not where connections are accepted: a peer that does not answer holds up only itself.
                    self.request = door.tls_context.wrap_socket(
                        self.request, server_side=True, do_handshake_on_connect=False
                    )
                    self.request.do_handshake()
                except (OSError, ValueError):
                    door.refused(address, None, "TLS handshake failed")
                    server.shutdown_request(self.request)
                    return
            association = self._create_association()
            # The socket that announces the connection to the state machine is ours, not the one made above.
            association.dul.event_queue.get_nowait()
            association.dul.socket = BoundedSocket(association, client_socket=self.request)
            association.dimse = ArrivingMessages(association, door.begin)
            threads: tuple[Any, ...] = (association, association.dul)
            for thread in threads:
                thread.run = partial(_ending_with_the_connection, thread.run)
            self.association = association
            try:
                association.start()
                association.join()
                association.dul.join()
            finally:
                association.dimse.drop_all()
                door.closed(association)
                server.shutdown_request(self.request)

    def abort(self) -> None:
        """Tell the peer that it is over, if there is an association."""
        if self.association is not None and self.association.is_established:
            with suppress(Exception):  # it may be ending by itself at this moment
                self.association.abort(block=False)
        else:
            self.cut()

    def cut(self) -> None:
        """End the connection without a word."""
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)


class ReceiverServer(ThreadedAssociationServer):
    """Accepts connections, and knows those that are open.

    Parameters
    ----------
    entity, address, ae_title, contexts, ssl_context, evt_handlers
        Of pynetdicom's server. Without a TLS context: connections are secured in their own threads.
    door : Door
        Whose server it is.
    """

    request_queue_size = 64
    daemon_threads = True

    def __init__(
        self,
        entity: Any,
        address: Any,
        ae_title: str,
        contexts: list[Any],
        ssl_context: None,
        *,
        evt_handlers: list[Any],
        door: Door,
    ) -> None:
        self.door = door
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._accepted = 0
        super().__init__(entity, address, ae_title, contexts, ssl_context, evt_handlers, Connection)

    @property
    def connections(self) -> int:
        """How many connections there are, whether they have an association or not."""
        with self._lock:
            return self._accepted

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Decide on a connection of which nothing has been read."""
        del request
        refusal = self.door.connection_refusal(client_address[0], self.connections)
        if refusal is not None:
            self.door.refused(client_address[0], None, refusal)
        return refusal is None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection, and start its thread."""
        with self._lock:
            self._accepted += 1
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started, which would have counted it off
            with self._lock:
                self._accepted -= 1
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection, and count it off."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._accepted -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of a connection that broke before there was an association; a stack trace would help nobody."""
        del request
        self.door.refused(client_address[0], None, "connection failed")

    @contextmanager
    def listed(self, connection: Connection) -> Iterator[None]:
        """Know a connection in a ``with`` block."""
        with self._lock:
            self._connections.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(connection)

    def shutdown(self) -> None:
        """Accept no more connections; those that are open go on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()

    def abort_all(self) -> None:
        """End all connections, and wait for their threads."""
        for end, wait_s in ((Connection.abort, _ABORT_S), (Connection.cut, _CLOSE_S)):
            with self._lock:
                open_now = list(self._connections)
            for connection in open_now:
                end(connection)
            self.wait(wait_s)

    def wait(self, wait_s: float) -> None:
        """Wait until no connection is open, at most so long."""
        give_up = time.monotonic() + wait_s
        while self.connections and time.monotonic() < give_up:
            time.sleep(_POLL_S)


def _ending_with_the_connection(run: Callable[[], None]) -> None:
    """Run a thread of pynetdicom, which stumbles where a peer aborts while it is being answered; then it is over."""
    with suppress(Exception):
        run()


def _bound(connection: socket.socket, timeout_s: float) -> None:
    """Bound how long a read or write takes, and let the kernel find out that a peer's machine is gone."""
    connection.settimeout(timeout_s)
    beat_s = max(1, int(timeout_s / 4))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, beat_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, beat_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    # Answers are small and waited for.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
