"""The modality side: a storage SCP whose instances go to a landing zone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from marspipe.dicom.pacs.allow_list import AllowList
from marspipe.dicom.pacs.arriving import RefusedInstanceError, StoreStatus
from marspipe.dicom.pacs.receiver import AssociationSummary, Receiver, Refusal
from marspipe.dicom.pacs.receiver_settings import DEFAULT_AE_TITLE, DEFAULT_PORT, ReceiverSettings, ReceiverTls
from marspipe.errors import InputError
from marspipe.log import log_event
from marspipe.store.landing import Arrival, FullError, LandingZone, OtherInstanceError

_PATIENCE_S = 5.0
_LOOK_S = 0.2


@dataclass
class Received:
    """What a receiver has done, over all associations.

    Attributes
    ----------
    associations, stored, kept, refused : int
        Associations that were accepted; new instances, those that were there already, those that were not stored.
    data_bytes : int
        Of all data sets that came.
    """

    associations: int = 0
    stored: int = 0
    kept: int = 0
    refused: int = 0
    data_bytes: int = 0


def receiver_settings(
    *,
    bind: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    ae_title: str = DEFAULT_AE_TITLE,
    allow: tuple[str, ...] = (),
    certificate: str | None = None,
    key: str | None = None,
    ca: str | None = None,
    max_associations: int = 8,
    timeout_s: float = 60.0,
) -> ReceiverSettings:
    """Return how a receiver listens, from what a user writes.

    Parameters
    ----------
    bind, port, ae_title, max_associations, timeout_s
        As :class:`ReceiverSettings` has them.
    allow : tuple of str
        Entries of :class:`AllowList`.
    certificate, key, ca : str, optional
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


def receive(
    zone: LandingZone,
    settings: ReceiverSettings,
    stop: threading.Event,
    *,
    say: Callable[[str], None],
    patience_s: float = _PATIENCE_S,
) -> Received:
    """Receive instances until told to stop.

    Parameters
    ----------
    zone : LandingZone
        Where they go.
    settings : ReceiverSettings
        How to listen.
    stop : threading.Event
        Set to stop: open associations then have ``patience_s`` to end, and are aborted.
    say : callable
        Given one line when it listens, one for every refusal and one for every association; called from any thread.
    patience_s : float
        See ``stop``.

    Raises
    ------
    InputError
        If a setting is wrong, or the port cannot be used.
    """
    account = _Account(say)
    receiver = Receiver(
        settings,
        lambda: _ZoneArrival(zone),
        on_refused=account.refusal,
        on_finished=account.association,
    )
    receiver.start()
    try:
        who = "this machine only (see --allow)" if settings.allow_list.only_loopback else "the peers allowed"
        secured = " with TLS" if settings.tls is not None else ""
        say(
            f"{settings.ae_title} listens on {settings.bind}, port {receiver.port}{secured}, for {who}; instances go "
            f"to {zone.root_uri}"
        )
        log_event("receiver_started", bind=settings.bind, port=receiver.port, ae_title=settings.ae_title)
        # With a limit: a signal that another thread was given does not end a wait of the main thread.
        while not stop.wait(_LOOK_S):
            pass
    finally:
        receiver.stop(patience_s)
        total = account.total
        log_event("receiver_stopped", associations=total.associations, stored=total.stored, refused=total.refused)
    return account.total


@dataclass
class _Account:
    """Says and logs what happens; peers are named by address and AE title, instances are only counted."""

    say: Callable[[str], None]
    total: Received = field(default_factory=Received)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refusal(self, refusal: Refusal) -> None:
        title = None if refusal.ae_title is None else _printable(refusal.ae_title)
        peer = refusal.address if title is None else f"{title} at {refusal.address}"
        self.say(f"refused {peer}: {refusal.reason}")
        log_event(
            "association_refused",
            level=logging.WARNING,
            address=refusal.address,
            ae_title=title,
            reason=refusal.reason,
        )

    def association(self, summary: AssociationSummary) -> None:
        title, refused = _printable(summary.ae_title), sum(summary.refused.values())
        with self.lock:
            self.total.associations += 1
            self.total.stored += summary.stored
            self.total.kept += summary.kept
            self.total.refused += refused
            self.total.data_bytes += summary.data_bytes
        parts = [f"{summary.stored} stored"]
        if summary.kept:
            parts.append(f"{summary.kept} there already")
        parts += [
            f"{count} refused with 0x{status:04X} ({reason})" for (status, reason), count in summary.refused.items()
        ]
        self.say(
            f"{title} at {summary.address}: {', '.join(parts)}; {summary.data_bytes / 1e6:.1f} MB in "
            f"{summary.seconds:.1f} s, {summary.end}"
        )
        log_event(
            "association_finished",
            level=logging.WARNING if refused or summary.end != "released" else logging.INFO,
            address=summary.address,
            ae_title=title,
            stored=summary.stored,
            kept=summary.kept,
            refused=[
                {"status": f"0x{status:04X}", "reason": reason, "count": count}
                for (status, reason), count in summary.refused.items()
            ],
            data_bytes=summary.data_bytes,
            seconds=round(summary.seconds, 3),
            end=summary.end,
        )


class _ZoneArrival:
    """An arrival of the landing zone, whose errors are answers to the sender."""

    def __init__(self, zone: LandingZone) -> None:
        with _as_status():
            self._arrival: Arrival = zone.arrive()

    @property
    def path(self) -> Path:
        return self._arrival.path

    def write(self, data: bytes) -> None:
        with _as_status():
            self._arrival.write(data)

    def flush(self) -> None:
        with _as_status():
            self._arrival.flush()

    def place(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        with _as_status():
            return self._arrival.place(study_uid, series_uid, sop_uid)

    def discard(self) -> None:
        self._arrival.discard()


@contextmanager
def _as_status() -> Iterator[None]:
    """Let errors be answers to C-STORE, in words without paths or UIDs."""
    try:
        yield
    except FullError as error:
        raise RefusedInstanceError(StoreStatus.OUT_OF_RESOURCES, "the landing zone is full") from error
    except OtherInstanceError as error:
        # Not 0x0111, duplicate SOP instance: senders take that for a success, and would delete what is not stored.
        reason = "another data set has this SOP instance UID"
        raise RefusedInstanceError(StoreStatus.MISMATCH, reason) from error
    except InputError as error:
        raise RefusedInstanceError(StoreStatus.INVALID_INSTANCE, "a UID is not valid") from error
    except OSError as error:
        raise RefusedInstanceError(StoreStatus.FAILED, "the landing zone cannot be written") from error


def _printable(title: str) -> str:
    """Return an AE title from the network as it may be printed."""
    return "".join(c if 32 <= ord(c) < 127 else "?" for c in title[:16])


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
