"""TLS before a plain HTTP server, as the web server before a PACS does it; HTTPS of Debian's Orthanc 1.10 crashes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

from tests.pacs.servers import Certificate


@contextmanager
def tls_front(port: int, certificate: Certificate) -> Iterator[int]:
    """Give a port on which TLS is taken and passed on to another port of this machine in the clear."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as secured:
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    back = threading.Thread(target=_copy, args=(plain, secured))
                    back.start()
                    _copy(secured, plain)
                    back.join()

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            serving.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
