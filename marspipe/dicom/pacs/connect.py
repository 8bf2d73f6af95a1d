"""From a peer to a client."""

from __future__ import annotations

from marspipe.dicom.pacs.client import PacsClient
from marspipe.dicom.pacs.peer import Peer


def connect(
    peer: Peer, *, decompress: bool = False, listen: int | None = None, move_to: str | None = None
) -> PacsClient:
    """Return a client for a peer; the connection is made when it is first needed.

    Parameters
    ----------
    peer : Peer
        Whom.
    decompress : bool
        Whether instances are decompressed for a DIMSE peer that does not take their transfer syntax.
    listen : int, optional
        Port on which we wait for what the peer sends on associations of its own: answers to storage commitment, and
        instances of C-MOVE.
    move_to : str, optional
        Our AE title as a destination of C-MOVE, which is then used instead of C-GET; needs ``listen``.
    """
    if peer.protocol == "web":
        from marspipe.dicom.pacs.web import WebClient

        return WebClient(peer)
    from marspipe.dicom.pacs.dimse import DimseClient

    return DimseClient(peer, decompress=decompress, listen=listen, move_to=move_to)
