"""A port of ours, for the time of one operation: the peer answers, or moves instances, on associations of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from marspipe.dicom.pacs.association import Context, application_entity
from marspipe.dicom.pacs.peer import Peer
from marspipe.errors import InputError


@contextmanager
def listening(peer: Peer, port: int, contexts: Sequence[Context], handlers: Sequence[Any]) -> Iterator[None]:
    """Accept associations on a port of all interfaces until the block ends.

    Parameters
    ----------
    peer : Peer
        Whose operation it is; it is not told, and must know our AE title with this host and port.
    port : int
        TCP port.
    contexts : sequence of (str, sequence of str)
        Abstract syntaxes and their transfer syntaxes.
    handlers : sequence
        Of pynetdicom's events.

    Raises
    ------
    InputError
        If the port cannot be had.
    """
    entity = application_entity(peer)
    for abstract, syntaxes in contexts:
        # A peer that reports on commitment takes the role of the provider on an association that it requests.
        entity.add_supported_context(abstract, list(syntaxes), scu_role=True, scp_role=True)
    try:
        server = entity.start_server(("", port), block=False, evt_handlers=list(handlers))
    except OSError as error:
        raise InputError(f"port {port} cannot be listened on: {error.strerror}") from error
    try:
        yield
    finally:
        server.shutdown()
        entity.shutdown()
