"""Whom to talk to: a peer's URL, and how it is trusted."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit

from marspipe.dicom.pacs.ae_title import check_ae_title
from marspipe.dicom.pacs.credentials import Credentials
from marspipe.errors import InputError

Protocol = Literal["dimse", "web"]

AE_TITLE = "MARSPIPE"
# PS3.8 9.1.1 and PS3.15 B.1; of HTTP as everywhere.
_PORTS = {"dicom": 104, "dicoms": 2762, "http": 80, "https": 443}
_FORMS = "dicom://AE@host:port, dicoms://AE@host:port, https://host/dicom-web or http://host/dicom-web"


@dataclass(frozen=True)
class Tls:
    """Files of transport security, PEM.

    Attributes
    ----------
    ca_path : Path or None
        Certificates that the peer's must be signed by; by default those the system trusts.
    certificate_path, key_path : Path or None
        Our own certificate and its unencrypted key, where the peer asks for one.
    """

    ca_path: Path | None = None
    certificate_path: Path | None = None
    key_path: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the settings of a client's side.

        Raises
        ------
        InputError
            If a file is missing or not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_path)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"{self.ca_path}: no PEM file of CA certificates can be read there") from error
        if self.certificate_path is not None:
            try:
                # Without a password function OpenSSL would ask at the terminal.
                context.load_cert_chain(self.certificate_path, self.key_path, password=lambda: "")
            except (OSError, ssl.SSLError, ValueError) as error:
                names = " with ".join(str(path) for path in (self.certificate_path, self.key_path) if path)
                raise InputError(f"{names}: no certificate with its unencrypted key, PEM, can be read there") from error
        return context


@dataclass(frozen=True)
class Peer:
    """A PACS, and who we are to it.

    Attributes
    ----------
    protocol : {"dimse", "web"}
        DIMSE over TCP or TLS, or DICOMweb.
    url : str
        Without secrets: what messages, the catalog and logs show.
    host, port
        Where.
    called_ae_title, calling_ae_title : str
        The peer's (empty for DICOMweb) and ours.
    secure : bool
        Whether TLS is used.
    tls : Tls
        Its files.
    credentials : Credentials
        For DICOMweb.
    timeout_s : float
        Longest wait for an answer; for a connection it is at most 10 s.
    other_hosts : tuple of str
        Names or addresses, besides ``host``, from which it may connect to a port of ours.
    """

    protocol: Protocol
    url: str
    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    secure: bool
    tls: Tls = field(default_factory=Tls, repr=False)
    credentials: Credentials = field(default_factory=Credentials, repr=False)
    timeout_s: float = 120.0
    other_hosts: tuple[str, ...] = ()

    @property
    def connect_timeout_s(self) -> float:
        """Longest wait for a connection."""
        return min(10.0, self.timeout_s)


def parse_peer(
    url: str,
    *,
    ae_title: str = AE_TITLE,
    tls: Tls | None = None,
    credentials: Credentials | None = None,
    plain_credentials: bool = False,
    timeout_s: float = 120.0,
) -> Peer:
    """Return the peer of a URL.

    Parameters
    ----------
    url : str
        ``dicom://CALLED_AE@host:port`` (port 104 by default), ``dicoms://`` for DICOM over TLS (port 2762), or the root
        of a DICOMweb service, ``https://host/dicom-web``.
    ae_title : str
        Ours, at most 16 characters.
    tls : Tls, optional
        By default what the system trusts.
    credentials : Credentials, optional
        Of DICOMweb.
    plain_credentials : bool
        Whether credentials may go over plain HTTP to another machine.
    timeout_s : float
        Longest wait for an answer, s.

    Raises
    ------
    InputError
        If the URL is of no such form or holds a password, an AE title is not valid, or credentials would travel in
        the clear.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"the address of the PACS is no URL; expected {_FORMS}") from None
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in _PORTS or not host:
        # Not repeated: somebody may have typed a password into it.
        raise InputError(f"the address of the PACS must be {_FORMS}, got {scheme or 'no'} scheme")
    if port == 0:
        raise InputError(f"the address of the PACS on {host} has port 0; expected 1 to 65535")
    shown = f"[{host}]" if ":" in host else host
    if parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"the address {scheme}://{shown} must not hold a password, query or fragment: give credentials as "
            "MARSPIPE_PACS_USER, MARSPIPE_PACS_PASSWORD, MARSPIPE_PACS_TOKEN or in a file"
        )
    calling = check_ae_title(ae_title, "our AE title")
    common = {"tls": tls or Tls(), "timeout_s": timeout_s}
    if scheme in ("dicom", "dicoms"):
        called = _called(parts, shown)
        port = port or _PORTS[scheme]
        shown = f"{scheme}://{quote(called)}@{shown}:{port}"
        return Peer("dimse", shown, host, port, called, calling, scheme == "dicoms", **common)  # type: ignore[arg-type]
    if parts.username is not None:
        raise InputError(
            f"the address {scheme}://{shown} must not hold a user: give MARSPIPE_PACS_USER and MARSPIPE_PACS_PASSWORD"
        )
    credentials = credentials or Credentials()
    if credentials and scheme == "http" and not plain_credentials and not _is_loopback(host):
        raise InputError(
            f"credentials would go to {host} over plain HTTP, for everybody to read: use https://, or allow it with "
            "--plain-credentials"
        )
    shown = f"{scheme}://{shown}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
    port = port or _PORTS[scheme]
    secure = scheme == "https"
    return Peer("web", shown, host, port, "", calling, secure, credentials=credentials, **common)  # type: ignore[arg-type]


def _called(parts: SplitResult, shown: str) -> str:
    if parts.path.strip("/"):
        raise InputError(f"{parts.scheme}://{shown}: a DICOM peer has no path; expected {parts.scheme}://AE@host:port")
    if not parts.username:
        raise InputError(f"{parts.scheme}://{shown}: the AE title is missing; expected {parts.scheme}://AE@host:port")
    return check_ae_title(unquote(parts.username), f"the AE title of the PACS on {shown}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
