"""From the options of a command and the environment to a peer."""

from __future__ import annotations

import os
from pathlib import Path

from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.credentials import credentials_of_environment, load_credentials
from marspipe.dicom.pacs.peer import AE_TITLE, Peer, Tls, parse_peer

__all__ = ["AE_TITLE", "Peer", "echo", "named_peer"]


def named_peer(
    url: str,
    *,
    ae_title: str = AE_TITLE,
    credentials_path: str | None = None,
    plain_credentials: bool = False,
    ca_path: str | None = None,
    certificate_path: str | None = None,
    key_path: str | None = None,
    timeout_s: float = 120.0,
) -> Peer:
    """Return the peer that a user names; what is not given is taken from the environment.

    Parameters
    ----------
    url : str
        As for :func:`~marspipe.dicom.pacs.peer.parse_peer`.
    ae_title : str
        Ours.
    credentials_path : str, optional
        YAML file with ``user`` and ``password``, or ``token``; else MARSPIPE_PACS_USER, MARSPIPE_PACS_PASSWORD,
        MARSPIPE_PACS_TOKEN.
    plain_credentials : bool
        Whether they may go over plain HTTP to another machine.
    ca_path, certificate_path, key_path : str, optional
        PEM files; else MARSPIPE_PACS_CA, MARSPIPE_PACS_CERTIFICATE, MARSPIPE_PACS_KEY.
    timeout_s : float
        Longest wait for an answer, s.

    Raises
    ------
    InputError
        If one of them cannot be used.
    """
    if credentials_path is not None:
        credentials = load_credentials(Path(credentials_path))
    else:
        credentials = credentials_of_environment(os.environ)
    tls = Tls(
        _path(ca_path, "MARSPIPE_PACS_CA"),
        _path(certificate_path, "MARSPIPE_PACS_CERTIFICATE"),
        _path(key_path, "MARSPIPE_PACS_KEY"),
    )
    return parse_peer(
        url,
        ae_title=ae_title,
        tls=tls,
        credentials=credentials,
        plain_credentials=plain_credentials,
        timeout_s=timeout_s,
    )


def echo(peer: Peer) -> None:
    """Ask whether a peer is there and lets us in: C-ECHO, or the shortest query of DICOMweb.

    Raises
    ------
    PeerUnavailableError, PeerRefusedError
        If it is not, or does not.
    """
    with connect(peer) as client:
        client.echo()


def _path(given: str | None, variable: str) -> Path | None:
    value = given or os.environ.get(variable)
    return Path(value) if value else None
