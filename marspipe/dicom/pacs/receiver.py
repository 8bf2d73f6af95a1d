"""A storage SCP for the modality: it takes instances from the peers on a list, and stores each whole or refuses it.

Standard storage SOP classes and private ones, as scanners use for raw frames, in every transfer syntax whose data sets
can be walked: not the deflated ones, whose size nobody knows before, nor JPIP, whose pixels are elsewhere. C-ECHO is
answered. An instance is acknowledged when it is stored for good; the UIDs of its request and of its data set must be
the same.

Source: DICOM PS3.4 annexes A and B, PS3.7 9.1.1, PS3.8 9.3, https://www.dicomstandard.org/current
"""

from __future__ import annotations

import errno
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt

from marspipe import __version__
from marspipe.dicom.pacs.ae_title import check_ae_title
from marspipe.dicom.pacs.arriving import Arrival, ArrivingDataSet, RefusedInstanceError, StoreStatus
from marspipe.dicom.pacs.data_set import BrokenDataSetError, read_instance_uids
from marspipe.dicom.pacs.quiet import silence
from marspipe.dicom.pacs.receiver_server import ReceiverServer
from marspipe.dicom.pacs.receiver_settings import ReceiverSettings
from marspipe.dicom.pacs.storage_contexts import private_service_items, supported_contexts
from marspipe.dicom.uid import IMPLEMENTATION_CLASS_UID
from marspipe.errors import BusyError, InputError, MarspipeError, RunError

# PS3.8 table 9-21: result, source, reason.
_CALLING_UNKNOWN = (1, 1, 3)
_CALLED_UNKNOWN = (1, 1, 7)
_LIMIT_EXCEEDED = (2, 3, 2)
# Connections, answered or not, for each association that may be open.
_CONNECTIONS_PER_ASSOCIATION = 4
_PDU_BYTES = 128 << 10
# Why an address cannot be listened on now, though it may be later: another program has it, or its interface is not up.
_NOT_NOW: dict[int | None, type[MarspipeError]] = {errno.EADDRINUSE: BusyError, errno.EADDRNOTAVAIL: RunError}

End: TypeAlias = Literal["released", "aborted", "stopped"]


@dataclass(frozen=True)
class Refusal:
    """A connection or association that was refused.

    Attributes
    ----------
    address : str
        Of the peer.
    ae_title : str or None
        What the peer calls itself, if it got so far.
    reason : str
        Why.
    """

    address: str
    ae_title: str | None
    reason: str


@dataclass
class AssociationSummary:
    """What an association brought.

    Attributes
    ----------
    address, ae_title : str
        The peer.
    stored, kept : int
        New instances, and those that were there already.
    refused : Counter of (int, str)
        Instances that were not stored, by status and reason.
    data_bytes : int
        Of all data sets.
    seconds : float
        How long it was open.
    end : {"released", "aborted", "stopped"}
        By the peer, as it should be; by either side, or because the connection broke; by us when we stopped.
    """

    address: str
    ae_title: str
    stored: int = 0
    kept: int = 0
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    data_bytes: int = 0
    seconds: float = 0.0
    end: End = "aborted"


class Receiver:
    """A storage SCP; use it in a ``with`` statement, or start and stop it.

    Parameters
    ----------
    settings : ReceiverSettings
        How it listens.
    begin : callable
        Gives an :class:`Arrival` for the next instance; called from the threads of all associations.
    on_refused, on_finished : callable
        Told of every refused connection and every association that has ended; called from their threads.

    Raises
    ------
    InputError
        If a setting is wrong.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        begin: Callable[[], Arrival],
        *,
        on_refused: Callable[[Refusal], None],
        on_finished: Callable[[AssociationSummary], None],
    ) -> None:
        silence()
        self.settings = settings
        self._begin, self._on_refused, self._on_finished = begin, on_refused, on_finished
        self._tls = None if settings.tls is None else settings.tls.context()
        self._lock = threading.Lock()
        self._open: dict[Any, AssociationSummary] = {}
        self._started_s: dict[Any, float] = {}
        self._stopping = False
        self._server: ReceiverServer | None = None
        self._thread: threading.Thread | None = None
        self._entity = AE(ae_title=check_ae_title(settings.ae_title, f"--ae-title {settings.ae_title!r}"))
        self._entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        self._entity.implementation_version_name = f"MARSPIPE {__version__}"[:16]
        self._entity.maximum_pdu_size = _PDU_BYTES
        self._entity.acse_timeout = min(30.0, settings.timeout_s)
        self._entity.dimse_timeout = self._entity.network_timeout = settings.timeout_s
        # The limit is ours: pynetdicom's own counts those that have not asked yet, or have just ended.
        self._entity.maximum_associations = settings.max_associations * _CONNECTIONS_PER_ASSOCIATION + 1

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise ValueError("the receiver has not been started")
        return int(self._server.server_address[1])

    @property
    def listens(self) -> bool:
        """Whether it takes connections: from its start until it is stopped, or an error ends its thread."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        BusyError
            If another program listens there.
        RunError
            If the machine does not have the address now.
        InputError
            If the address or port cannot be used at all.
        """
        settings = self.settings
        try:
            server: Any = self._entity.make_server(
                (settings.bind, settings.port),
                contexts=supported_contexts(()),
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._requested),
                    (evt.EVT_SOP_COMMON, private_service_items),
                    (evt.EVT_RELEASED, self._released),
                    (evt.EVT_CONN_CLOSE, _wake),
                    (evt.EVT_C_STORE, self._store),
                ],
                server_class=ReceiverServer,
                door=self,
            )
        except (OSError, ValueError, OverflowError) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else "not an address of this machine"
            kind = _NOT_NOW.get(error.errno, InputError) if isinstance(error, OSError) else InputError
            raise kind(
                f"cannot listen on {settings.bind}, port {settings.port}: {said}: choose others with --bind and --port"
            ) from error
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="marspipe-receiver")
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """Take no more associations, let those that are open end, and abort those that do not.

        Parameters
        ----------
        patience_s : float
            How long they have.
        """
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.wait(patience_s)
        self._stopping = True
        self._server.abort_all()
        self._server = self._thread = None

    # What the server asks and tells.

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """For the server."""
        return self._tls

    @property
    def begin(self) -> Callable[[], Arrival]:
        """For the server."""
        return self._begin

    def connection_refusal(self, address: str, connections: int) -> str | None:
        """Return why no byte of a new connection is read, or None."""
        if not self.settings.allow_list.takes_address(address):
            return "address is not allowed"
        if connections >= self.settings.max_associations * _CONNECTIONS_PER_ASSOCIATION:
            return "too many connections"
        return None

    def refused(self, address: str, ae_title: str | None, reason: str) -> None:
        """Tell of a refusal."""
        self._on_refused(Refusal(address, ae_title, reason))

    def closed(self, association: Any) -> None:
        """Take note that an association's threads have ended."""
        with self._lock:
            summary = self._open.pop(association, None)
            started = self._started_s.pop(association, 0.0)
        if summary is not None:
            summary.seconds = time.monotonic() - started
            if self._stopping and summary.end != "released":
                summary.end = "stopped"
            self._on_finished(summary)

    # Handlers of pynetdicom's events.

    def _requested(self, event: Any) -> None:
        """Decide on an association before it is negotiated."""
        association = event.assoc
        request = association.requestor.primitive
        address, calling = association.requestor.address, request.calling_ae_title.strip()
        with self._lock:
            rejection = self._rejection(calling, request.called_ae_title.strip(), address)
            if rejection is None:
                self._open[association] = AssociationSummary(address, calling)
                self._started_s[association] = time.monotonic()
        if rejection is None:
            contexts = supported_contexts(
                [str(context.abstract_syntax) for context in request.presentation_context_definition_list]
            )
            association.acceptor.supported_contexts = contexts
            return
        numbers, reason = rejection
        association.acse.send_reject(*numbers)
        association.kill()  # returns when the rejection has been sent
        self.refused(address, calling, reason)

    def _rejection(self, calling: str, called: str, address: str) -> tuple[tuple[int, int, int], str] | None:
        settings = self.settings
        if not settings.allow_list.takes(calling, address):
            return _CALLING_UNKNOWN, "AE title is not allowed from this address"
        if called != settings.ae_title.strip():
            return _CALLED_UNKNOWN, "called by another AE title"
        # One that has been released may take a moment to end here, while its peer is back already.
        if sum(summary.end != "released" for summary in self._open.values()) >= settings.max_associations:
            return _LIMIT_EXCEEDED, "too many associations"
        return None

    def _released(self, event: Any) -> None:
        with self._lock:
            self._open[event.assoc].end = "released"

    def _store(self, event: Any) -> Dataset:
        """Answer C-STORE."""
        data_set, answer = event.request.DataSet, Dataset()
        summary = self._open[event.assoc]
        summary.data_bytes += data_set.data_bytes
        try:
            if _stored(event, data_set):
                summary.stored += 1
            else:
                summary.kept += 1
            answer.Status = int(StoreStatus.SUCCESS)
        except RefusedInstanceError as refusal:
            summary.refused[int(refusal.status), refusal.reason] += 1
            answer.Status = int(refusal.status)
            answer.ErrorComment = refusal.reason[:64]
        finally:
            event.assoc.dimse.finished(data_set)
        return answer


def _wake(event: Any) -> None:
    """Let an association end whose peer has gone before it asked for anything; pynetdicom would wait for that."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def _stored(event: Any, data_set: ArrivingDataSet) -> bool:
    """Store an instance that has arrived, and return whether it is new.

    Raises
    ------
    RefusedInstanceError
        If it is not whole, not what the request says, or cannot be stored.
    """
    if data_set.refusal is not None:
        raise data_set.refusal
    arrival, request = data_set.arrival, event.request
    if request.AffectedSOPClassUID != event.context.abstract_syntax:
        raise RefusedInstanceError(StoreStatus.NO_SUCH_CLASS, "SOP class was not negotiated in this context")
    if arrival is None:
        raise RefusedInstanceError(StoreStatus.CANNOT_UNDERSTAND, "there is no data set")
    arrival.flush()
    try:
        uids = read_instance_uids(arrival.path, data_set.start, event.context.transfer_syntax)
    except BrokenDataSetError as error:
        raise RefusedInstanceError(StoreStatus.CANNOT_UNDERSTAND, f"broken data set: {error}") from error
    except OSError as error:
        raise RefusedInstanceError(StoreStatus.FAILED, "the data set cannot be read again") from error
    if (uids.sop_class, uids.sop_instance) != (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID):
        raise RefusedInstanceError(StoreStatus.MISMATCH, "SOP UIDs of request and data set differ")
    if not uids.study or not uids.series:
        raise RefusedInstanceError(StoreStatus.CANNOT_UNDERSTAND, "study or series UID is missing")
    return arrival.place(uids.study, uids.series, uids.sop_instance)
