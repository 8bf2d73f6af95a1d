"""The modality side: a storage SCP whose instances go to a landing zone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marspipe.dicom.pacs.arriving import RefusedInstanceError, StoreStatus
from marspipe.dicom.pacs.receiver import AssociationSummary, Receiver, Refusal
from marspipe.dicom.pacs.receiver_settings import ReceiverSettings
from marspipe.errors import InputError, RunError
from marspipe.log import log_event
from marspipe.store.landing import Arrival, FullError, LandingZone, OtherInstanceError

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


def receive(
    zone: LandingZone,
    settings: ReceiverSettings,
    stop: threading.Event,
    *,
    say: Callable[[str], None],
) -> Received:
    """Receive instances until told to stop.

    Parameters
    ----------
    zone : LandingZone
        Where they go.
    settings : ReceiverSettings
        How to listen.
    stop : threading.Event
        Set to stop: open associations then have a while to end, see :meth:`Receiver.stop`, and are aborted.
    say : callable
        Given one line when it listens, one for every refusal and one for every association; called from any thread.

    Raises
    ------
    InputError
        If a setting is wrong, or the port cannot be used.
    BusyError
        If another program listens there.
    RunError
        If the machine does not have the address now, or the receiver has stopped listening by itself.
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
        _log("receiver_started", bind=settings.bind, port=receiver.port, ae_title=settings.ae_title)
        # With a limit: a signal that another thread was given does not end a wait of the main thread.
        while not stop.wait(_LOOK_S):
            if not receiver.listens:
                raise RunError(f"the receiver on {settings.bind}, port {receiver.port} has stopped listening")
    finally:
        receiver.stop()
        total = account.total
        _log("receiver_stopped", associations=total.associations, stored=total.stored, refused=total.refused)
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
        _log(
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
        _log(
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


def _log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event; a log that cannot be written for a while, as when its folder is gone, must not end a thread."""
    with suppress(OSError):
        log_event(event, level=level, **fields)


def _printable(title: str) -> str:
    """Return an AE title from the network as it may be printed."""
    return "".join(c if 32 <= ord(c) < 127 else "?" for c in title[:16])
