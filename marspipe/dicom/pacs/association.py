"""Associations with a DIMSE peer: opened, with a reason if that fails, and closed."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.presentation import build_context, build_role

from marspipe import __version__
from marspipe.dicom.pacs.bounded_connection import BoundedConnection
from marspipe.dicom.pacs.client import NotOfferedError, PeerRefusedError, PeerUnavailableError
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.quiet import silence
from marspipe.dicom.uid import IMPLEMENTATION_CLASS_UID

MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers 1 to 255

# PS3.8 9.3.4, source and reason of a permanent rejection, in words that say what to do.
_REJECTIONS = {
    (1, 3): "does not know our AE title {calling!r}: give --ae-title, or let it be registered there",
    (1, 7): "does not know the AE title {called!r}: correct the address",
}

# Peers that take few associations still count those that have just ended; random, so that ours do not all come at once.
_AFTER_REJECTION_S = (0.1, 0.3, 1.0)

Context = tuple[str, Sequence[str]]


class _TransientlyRejectedError(PeerUnavailableError):
    """PS3.8 9.3.4: result 2, rejected-transient."""


class _Entity(AE):
    """Keeps its sockets: pynetdicom forgets one that finds nobody without closing it."""

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title=ae_title)
        self.sockets: list[socket.socket] = []

    def _create_socket(self, *arguments: Any) -> Any:
        created = super()._create_socket(*arguments)
        if created.socket is not None:
            self.sockets.append(created.socket)
        return created


def application_entity(peer: Peer) -> Any:
    """Return our application entity for a peer."""
    silence()
    entity = _Entity(ae_title=peer.calling_ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = f"MARSPIPE {__version__}"[:16]
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = peer.timeout_s
    entity.connection_timeout = peer.connect_timeout_s
    return entity


class Associations:
    """Opens associations with one peer.

    Parameters
    ----------
    peer : Peer
        Whom.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._tls = peer.tls.context() if peer.secure else None
        self._reachable = False

    @contextmanager
    def open(
        self, contexts: Sequence[Context], *, handlers: Sequence[Any] = (), scp_roles: Sequence[str] = ()
    ) -> Iterator[Any]:
        """Open an association; it is released at the end of the block, or aborted if that fails.

        Parameters
        ----------
        contexts : sequence of (str, sequence of str)
            Presentation contexts: abstract syntax, and transfer syntaxes of which the peer takes one.
        handlers : sequence
            Of pynetdicom's events.
        scp_roles : sequence of str
            Abstract syntaxes in which we are the provider, as C-GET needs.

        Raises
        ------
        PeerUnavailableError
            If there is no connection.
        PeerRefusedError
            If the peer rejects the association, all contexts, or our trust.
        """
        association = self.opened(contexts, handlers=handlers, scp_roles=scp_roles)
        try:
            yield association
        except BaseException:
            close(association, abort=True)
            raise
        close(association)

    def opened(
        self, contexts: Sequence[Context], *, handlers: Sequence[Any] = (), scp_roles: Sequence[str] = ()
    ) -> Any:
        """Return an open association that the caller closes with :func:`close`; see :meth:`open`."""
        for delay_s in _AFTER_REJECTION_S:
            try:
                return self._opened(contexts, handlers, scp_roles)
            except _TransientlyRejectedError:
                time.sleep(random.uniform(0.5, 1.5) * delay_s)
        return self._opened(contexts, handlers, scp_roles)

    def broken(self) -> PeerUnavailableError:
        """Return the error of an association that broke."""
        self._reachable = False
        return PeerUnavailableError(f"{self.peer.url}: the association broke off")

    def _opened(self, contexts: Sequence[Context], handlers: Sequence[Any], scp_roles: Sequence[str]) -> Any:
        peer = self.peer
        if not self._reachable:
            self._resolve()
            if self._tls is not None:
                self._connect_once()
        connection = BoundedConnection(peer.timeout_s)
        entity = application_entity(peer)
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=[build_context(abstract, list(syntaxes)) for abstract, syntaxes in contexts],
            ae_title=peer.called_ae_title,
            ext_neg=[build_role(abstract, scp_role=True) for abstract in scp_roles],
            evt_handlers=[*connection.handlers, *handlers],
            tls_args=None if self._tls is None else (self._tls, peer.host),
        )
        self._reachable = association.is_established or association.is_rejected
        if association.is_established:
            return association
        close(association)
        connection.close()
        for one in entity.sockets:
            one.close()
        if not self._reachable and not association.rejected_contexts:
            self._connect_once()
        raise _refusal(peer, association)

    def _resolve(self) -> None:
        try:
            socket.getaddrinfo(self.peer.host, self.peer.port, type=socket.SOCK_STREAM)
        except OSError as error:
            if error.errno == socket.EAI_AGAIN:
                raise PeerUnavailableError(
                    f"{self.peer.url}: the name {self.peer.host!r} cannot be looked up now"
                ) from error
            raise PeerRefusedError(f"{self.peer.url}: there is no host {self.peer.host!r}") from error

    def _connect_once(self) -> None:
        """See whether anybody is there: pynetdicom does not say why a connection failed.

        Without TLS not before it has: some peers count this as an association, for half a minute.
        """
        peer = self.peer
        try:
            with socket.create_connection((peer.host, peer.port), timeout=peer.connect_timeout_s) as plain:
                if self._tls is not None:
                    with self._tls.wrap_socket(plain, server_hostname=peer.host) as secured:
                        secured.version()
        except ssl.SSLCertVerificationError as error:
            raise PeerRefusedError(
                f"{peer.url}: its certificate is not trusted ({error.verify_message}): give the right CA with --tls-ca"
            ) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise PeerUnavailableError(f"{peer.url}: the TLS connection broke off") from error
        except ssl.SSLError as error:
            raise PeerRefusedError(
                f"{peer.url}: no TLS connection ({error.reason or 'handshake failed'}): is this a port with TLS, and "
                "does it ask for --tls-certificate?"
            ) from error
        except OSError as error:
            said = "no answer" if isinstance(error, TimeoutError) else error.strerror or "connection broken"
            raise PeerUnavailableError(f"{peer.url}: {said}: does the PACS listen on port {peer.port}?") from error


def close(association: Any, *, abort: bool = False) -> None:
    """Release an association, or abort it, and wait for its thread."""
    with suppress(Exception):  # of a connection that is breaking at this moment
        if association.is_established and not abort:
            association.release()
    with suppress(Exception):
        if association.is_established:
            association.abort()
    association.kill()
    if association.ident is not None and association is not threading.current_thread():
        association.join(timeout=10.0)


def _refusal(peer: Peer, association: Any) -> PeerUnavailableError | PeerRefusedError:
    if association.is_rejected:
        answer = association.acceptor.primitive
        if answer.result == 2:  # transient
            return _TransientlyRejectedError(f"{peer.url}: the PACS takes no further association at this moment")
        said = _REJECTIONS.get((answer.result_source, answer.diagnostic), "rejects the association")
        return PeerRefusedError(
            f"{peer.url}: the PACS {said.format(calling=peer.calling_ae_title, called=peer.called_ae_title)}"
        )
    if association.rejected_contexts:
        names = sorted({UID(context.abstract_syntax).name for context in association.rejected_contexts})
        more = "" if len(names) <= 3 else f" and {len(names) - 3} more"
        return NotOfferedError(f"{peer.url}: the PACS does not offer {', '.join(names[:3])}{more}")
    hint = ": does it ask for --tls-certificate?" if peer.secure and peer.tls.certificate_path is None else ""
    return PeerUnavailableError(f"{peer.url}: the PACS ended the connection without an answer{hint}")
