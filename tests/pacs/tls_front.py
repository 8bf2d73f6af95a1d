"""TLS before a plain HTTP server, as the web server before a PACS does it; HTTPS of Debian's Orthanc 1.10 crashes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler

from tests.pacs.port_in_front import copy, port_in_front
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
                    back = threading.Thread(target=copy, args=(plain, secured))
                    back.start()
                    copy(secured, plain)
                    back.join()

    with port_in_front(Handler) as front:
        yield front
