"""A port of ours, for the time of one operation: the peer answers, or moves instances, on associations of its own.

Only hosts of the peer are let in, and only if they call us by our name; by TLS where we talk to the peer by TLS.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pynetdicom import evt

from marspipe.dicom.pacs.allow_list import Address, address_of
from marspipe.dicom.pacs.arriving import Arrival, RefusedInstanceError, StoreStatus
from marspipe.dicom.pacs.association import Context, application_entity
from marspipe.dicom.pacs.client import PeerUnavailableError
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.receiver_server import ReceiverServer
from marspipe.dicom.pacs.receiver_settings import ReceiverSettings, ReceiverTls
from marspipe.errors import InputError

_MAX_CONNECTIONS = 32
# Refusals that are told of.
_MAX_TOLD = 5
# How long a peer has to release its associations when the operation is over.
_RELEASE_S = 3.0


def _nothing_is_stored() -> NoReturn:
    raise RefusedInstanceError(StoreStatus.NO_SUCH_CLASS, "no instances are taken here")


@contextmanager
def listening(
    peer: Peer,
    port: int,
    ae_title: str,
    contexts: Sequence[Context],
    handlers: Sequence[Any],
    *,
    begin: Callable[[], Arrival] = _nothing_is_stored,
    instead: str,
) -> Iterator[Sequence[str]]:
    """Accept associations of a peer on a port of all interfaces until the block ends.

    Associations that are open then may be released by the peer; an error aborts them.

    Parameters
    ----------
    peer : Peer
        Whose operation it is; it is not told, and must know our AE title with this host and port. It may connect from
        its host and ``other_hosts``.
    port : int
        TCP port.
    ae_title : str
        By which it must call us.
    contexts : sequence of (str, sequence of str)
        Abstract syntaxes and their transfer syntaxes.
    handlers : sequence
        Of pynetdicom's events.
    begin : callable
        Gives a file for the next instance.
    instead : str
        What else the user could do, for the message that there is no certificate.

    Yields
    ------
    sequence of str
        Who has been refused, and why; it grows.

    Raises
    ------
    InputError
        If the port cannot be had, there is no host of a given name, or the peer is talked to by TLS and we have no
        certificate to show to it.
    PeerUnavailableError
        If a host cannot be looked up now.
    """
    entity = application_entity(peer)
    entity.require_called_aet = True
    for abstract, syntaxes in contexts:
        # A peer that reports on commitment takes the role of the provider on an association that it requests.
        entity.add_supported_context(abstract, list(syntaxes), scu_role=True, scp_role=True)
    ours = _Port(
        ReceiverSettings(bind="", port=port, ae_title=ae_title, timeout_s=peer.timeout_s),
        _tls_context(peer, port, instead),
        begin,
        _addresses(peer),
    )
    try:
        server: Any = entity.make_server(
            (ours.settings.bind, port),
            ae_title=ae_title,
            evt_handlers=[(evt.EVT_CONN_CLOSE, _wake), *handlers],
            server_class=ReceiverServer,
            door=ours,
        )
    except OSError as error:
        raise InputError(f"port {port} cannot be listened on: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="marspipe-listener")
    thread.start()
    patience_s = 0.0
    try:
        yield ours.refusals
        patience_s = _RELEASE_S
    finally:
        server.shutdown()
        thread.join()
        server.wait(patience_s)
        server.abort_all()


@dataclass
class _Port:
    """The door of such a port."""

    settings: ReceiverSettings
    tls_context: ssl.SSLContext | None
    begin: Callable[[], Arrival]
    addresses: frozenset[Address]
    refusals: list[str] = field(default_factory=list)

    def connection_refusal(self, address: str, connections: int) -> str | None:
        """Return why no byte of a new connection is read, or None."""
        if address_of(address) not in self.addresses:
            return "not an address of the PACS"
        return "too many connections" if connections >= _MAX_CONNECTIONS else None

    def refused(self, address: str, ae_title: str | None, reason: str) -> None:
        """Take note of a refusal."""
        del ae_title
        said = f"{address} ({reason})"
        if said not in self.refusals and len(self.refusals) < _MAX_TOLD:
            self.refusals.append(said)

    def closed(self, association: Any) -> None:
        """Take note that an association's threads have ended."""


def _addresses(peer: Peer) -> frozenset[Address]:
    found = set()
    for host in (peer.host, *peer.other_hosts):
        try:
            found |= {address_of(str(one[4][0])) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno == socket.EAI_AGAIN:
                raise PeerUnavailableError(f"{peer.url}: the name {host!r} cannot be looked up now") from error
            raise InputError(f"{peer.url}: there is no host {host!r} that it could connect from") from error
    return frozenset(found)


def _tls_context(peer: Peer, port: int, instead: str) -> ssl.SSLContext | None:
    if not peer.secure:
        return None
    if peer.tls.certificate_path is None:
        raise InputError(
            f"{peer.url}: what it sends to port {port} would come in the clear: give --tls-certificate, or {instead}"
        )
    return ReceiverTls(peer.tls.certificate_path, peer.tls.key_path, peer.tls.ca_path).context()


def _wake(event: Any) -> None:
    """Let an association end whose peer has gone before it asked for anything; pynetdicom would wait for that."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)
