"""Who may send: AE titles, and the addresses that they may come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from marspipe.dicom.pacs.ae_title import check_ae_title
from marspipe.errors import InputError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = "*"
_LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


@dataclass(frozen=True)
class Allowed:
    """An AE title, or any if it is None, that may come from a network, or from anywhere if that is None."""

    ae_title: str | None
    network: Network | None

    def takes_address(self, address: Address) -> bool:
        """Return whether a peer at the address may be this one."""
        return self.network is None or address in self.network


class AllowList:
    """The peers that may send.

    Parameters
    ----------
    entries : sequence of str
        ``AE``, ``AE@address``, ``AE@network/bits`` or ``*@...`` for any AE title. Without entries every AE title of
        this machine may send, and nobody else.

    Raises
    ------
    InputError
        If an entry is of no such form.
    """

    def __init__(self, entries: Sequence[str] = ()) -> None:
        self.only_loopback = not entries
        self._allowed = [_parsed(entry) for entry in entries] or [Allowed(None, network) for network in _LOOPBACK]

    def takes_address(self, address: str) -> bool:
        """Return whether anybody at the address may send, whatever the AE title."""
        place = address_of(address)
        return any(one.takes_address(place) for one in self._allowed)

    def takes(self, ae_title: str, address: str) -> bool:
        """Return whether an AE title at the address may send."""
        place = address_of(address)
        return any(one.ae_title in (None, ae_title.strip()) and one.takes_address(place) for one in self._allowed)


def address_of(text: str) -> Address:
    """Return a peer's address; an IPv4 one that came through an IPv6 socket as what it is."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _parsed(entry: str) -> Allowed:
    title, at, place = entry.rpartition("@")
    if not at:
        title, place = entry, ""
    ae_title = None if title == ANY else check_ae_title(title, f"--allow {entry}: {title!r}")
    if ae_title is None and not at:
        raise InputError("--allow *: say from where, such as *@10.0.0.0/8; anybody from anywhere is *@0.0.0.0/0")
    if not at:
        return Allowed(ae_title, None)
    try:
        return Allowed(ae_title, ipaddress.ip_network(place))
    except ValueError:
        raise InputError(
            f"--allow {entry}: {place!r} is no address or network: expected such as SCANNER@10.0.0.7 or "
            "SCANNER@10.0.0.0/24"
        ) from None
