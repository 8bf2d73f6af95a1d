"""How a receiver listens, from what a user writes; light, for the command line takes its defaults from here."""

from __future__ import annotations

from pathlib import Path

from marspipe.dicom.pacs.allow_list import AllowList
from marspipe.dicom.pacs.receiver_settings import ReceiverSettings, ReceiverTls
from marspipe.errors import InputError

__all__ = ["ReceiverSettings", "receiver_settings"]


def receiver_settings(
    *,
    bind: str,
    port: int,
    ae_title: str,
    allow: tuple[str, ...],
    certificate: str | None,
    key: str | None,
    ca: str | None,
    max_associations: int,
    timeout_s: float,
) -> ReceiverSettings:
    """Return how a receiver listens.

    Parameters
    ----------
    bind, port, ae_title, max_associations, timeout_s
        As :class:`ReceiverSettings` has them.
    allow : tuple of str
        Entries of :class:`AllowList`.
    certificate, key, ca : str or None
        Files of :class:`ReceiverTls`.

    Raises
    ------
    InputError
        If an entry is wrong, or a key or CA is given without a certificate.
    """
    if certificate is None and (key or ca):
        raise InputError("TLS needs our own certificate: give --tls-cert too")
    tls = None if certificate is None else ReceiverTls(Path(certificate), _path(key), _path(ca))
    return ReceiverSettings(bind, port, ae_title, AllowList(allow), tls, max_associations, timeout_s)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
