"""How the receiver listens: address, names, who may send, TLS, limits."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from marspipe.dicom.pacs.allow_list import AllowList
from marspipe.errors import InputError


@dataclass(frozen=True)
class ReceiverTls:
    """PEM files of the receiver's side of TLS.

    Attributes
    ----------
    certificate_path, key_path : Path
        Our certificate, with those of its issuers, and its unencrypted key; the key may be in the same file.
    ca_path : Path or None
        If given, a sender must show a certificate that one of these has signed.
    """

    certificate_path: Path
    key_path: Path | None = None
    ca_path: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the settings: TLS 1.2 or newer, as PS3.15 B.9 asks.

        Raises
        ------
        InputError
            If a file is missing or not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password function OpenSSL would ask at the terminal.
            context.load_cert_chain(self.certificate_path, self.key_path, password=lambda: "")
        except (OSError, ValueError) as error:
            names = " with ".join(str(path) for path in (self.certificate_path, self.key_path) if path)
            raise InputError(f"{names}: no certificate with its unencrypted key, PEM, can be read there") from error
        if self.ca_path is not None:
            try:
                context.load_verify_locations(self.ca_path)
            except (OSError, ValueError) as error:
                raise InputError(f"{self.ca_path}: no PEM file of CA certificates can be read there") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(frozen=True)
class ReceiverSettings:
    """How a receiver listens; the defaults are those of the command line.

    Attributes
    ----------
    bind : str
        Address of this machine.
    port : int
        0 for any free one.
    ae_title : str
        Ours, by which senders must call us.
    allow_list : AllowList
        Who may send.
    tls : ReceiverTls or None
        By default none.
    max_associations : int
        At once; more are rejected for the time being.
    timeout_s : float
        How long a peer may be silent inside an association, or take for one PDU or the handshake; then it is dropped.
    """

    bind: str = "127.0.0.1"
    port: int = 11112
    ae_title: str = "MARSPIPE"
    allow_list: AllowList = field(default_factory=AllowList)
    tls: ReceiverTls | None = None
    max_associations: int = 8
    timeout_s: float = 60.0
