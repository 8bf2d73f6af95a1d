"""A DICOMweb service that answers as it is told: what no sound server does, but some server, or a proxy before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JSON = "application/dicom+json"


@dataclass(frozen=True)
class Answer:
    """Status, content and headers."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class WebPeer:
    """The service.

    Attributes
    ----------
    url : str
        Of the service.
    asked : list
        Method and path of every request.
    headers : list
        Headers of every request.
    open : set
        Client ports of the connections that are open.
    asks_for : str or None
        The header Authorization that it wants; None for no one's.
    """

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    asks_for: str | None = None


@contextmanager
def web_peer(answer: Callable[[str, str, bytes], Answer]) -> Iterator[WebPeer]:
    """Serve on the loopback; ``answer`` is given method, path and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            peer.open.add(self.client_address[1])

        def finish(self) -> None:
            super().finish()
            peer.open.discard(self.client_address[1])

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            peer.asked.append((self.command, self.path))
            peer.headers.append(dict(self.headers.items()))
            known = peer.asks_for in (None, self.headers.get("Authorization"))
            given = answer(self.command, self.path, body) if known else Answer(401)
            self.send_response(given.status)
            self.send_header("Content-Length", str(len(given.content)))
            for name, value in {"Content-Type": JSON, **given.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given.content)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        peer = WebPeer(f"http://127.0.0.1:{server.server_address[1]}/dicom-web")
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield peer
        finally:
            server.shutdown()
            serving.join()
