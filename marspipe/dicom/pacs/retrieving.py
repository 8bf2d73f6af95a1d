"""C-GET and C-MOVE of the study root: instances in whatever transfer syntax the peer holds them. PS3.4 C.4.2, C.4.3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    ParametricMapStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from marspipe.dicom.pacs.arriving import Arrival, ArrivingMessages, StoreStatus
from marspipe.dicom.pacs.association import MAX_CONTEXTS, Associations, Context
from marspipe.dicom.pacs.bounded_connection import keep_answers
from marspipe.dicom.pacs.client import NotOfferedError, PeerRefusedError, PeerUnavailableError, Received, RemoteSeries
from marspipe.dicom.pacs.header import is_uid, read_facts
from marspipe.dicom.pacs.lanes import work_in_lanes
from marspipe.dicom.pacs.listener import listening
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.sending import NATIVE
from marspipe.dicom.pacs.statuses import PENDING, reason
from marspipe.errors import InputError, RunError

SYNTAXES = tuple(
    str(uid)
    for uid in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEGLSLossless,
        JPEG2000Lossless,
        RLELossless,
        HTJ2KLossless,
        JPEGLosslessSV1,
        JPEGLossless,
        DeflatedExplicitVRLittleEndian,
        JPEGLSNearLossless,
        JPEG2000,
        HTJ2K,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
    )
)
# Asked for where the peer does not say of which class its instances are.
_CLASSES = tuple(
    str(uid)
    for uid in (
        CTImageStorage,
        EnhancedCTImageStorage,
        LegacyConvertedEnhancedCTImageStorage,
        ParametricMapStorage,
        RawDataStorage,
        SecondaryCaptureImageStorage,
    )
)
_GET = str(StudyRootQueryRetrieveInformationModelGet)
_MOVE = str(StudyRootQueryRetrieveInformationModelMove)
# 100 UIDs of 64 characters stay far below the 64 KiB of an element.
_INSTANCES_PER_REQUEST = 100


class OtherSeriesError(RunError):
    """The peer has sent an instance of another series than the one asked for."""


def received(arrival: Arrival, series: RemoteSeries, peer: Peer) -> Received:
    """Put what has arrived in place, if it is an instance of a series.

    Raises
    ------
    OtherSeriesError
        If it is of another series.
    RunError
        If it is no DICOM file, or a damaged one.
    Exception
        What the file raises.
    """
    arrival.flush()
    try:
        with arrival.path.open("rb") as file:
            facts = read_facts(file, f"{peer.url}: an instance of series {series.series_uid}")
    except InputError as error:  # which is for what the user gave
        raise RunError(str(error)) from error
    if (facts.study_uid, facts.series_uid) != (series.study_uid, series.series_uid):
        raise OtherSeriesError(
            f"{peer.url}: asked for series {series.series_uid}, the PACS sent an instance of another one"
        )
    arrival.place(facts.study_uid, facts.series_uid, facts.sop_uid)
    return Received(facts.study_uid, facts.series_uid, facts.sop_uid)


class _Inbox:
    """Puts in place what C-STORE requests bring; after a failure it takes nothing more.

    Parameters
    ----------
    series, peer
        What is asked for, and of whom.
    receive : callable
        Told of every instance that is in place.
    open_port : bool
        Whether others may send here too: what is of another series is then refused, and is no failure.
    """

    def __init__(
        self, series: RemoteSeries, peer: Peer, receive: Callable[[Received], None], *, open_port: bool = False
    ) -> None:
        self._series, self._peer, self._receive, self._open_port = series, peer, receive, open_port
        self.n_taken = 0
        self.error: Exception | None = None

    def take(self, event: Any) -> int:
        """Handle a C-STORE request."""
        data_set = event.request.DataSet
        try:
            if self.error is not None:
                return int(StoreStatus.OUT_OF_RESOURCES)
            if data_set.refusal is not None:
                raise data_set.refusal.__cause__ or RunError(f"{self._peer.url}: {data_set.refusal.reason}")
            if data_set.arrival is None:
                raise RunError(f"{self._peer.url}: the PACS sent an instance without a data set")
            self._receive(received(data_set.arrival, self._series, self._peer))
            self.n_taken += 1
        except Exception as error:
            if self._open_port and isinstance(error, OtherSeriesError):
                return int(StoreStatus.MISMATCH)
            self.error = error  # raised to the caller when the operation has ended
            return int(StoreStatus.OUT_OF_RESOURCES)
        finally:
            event.assoc.dimse.finished(data_set)
        return int(StoreStatus.SUCCESS)


def get_instances(
    associations: Associations,
    series: RemoteSeries,
    sop_classes: Mapping[str, str],
    begin: Callable[[], Arrival],
    receive: Callable[[Received], None],
    *,
    lanes: int,
) -> None:
    """Fetch instances by C-GET, over ``lanes`` associations.

    Raises
    ------
    PeerUnavailableError, PeerRefusedError
        If the peer cannot be reached, offers no C-GET, or fails.
    RunError
        If it sends what is no instance of the series.
    Exception
        What ``begin``, its file or ``receive`` failed with.
    """
    inbox = _Inbox(series, associations.peer, receive)
    classes = _classes(sop_classes)
    contexts: list[Context] = [(_GET, NATIVE)]
    # A context for each syntax lets the peer send an instance as it holds it, as long as there are enough of them.
    if len(classes) * len(SYNTAXES) < MAX_CONTEXTS:
        contexts += [(one, (syntax,)) for one in classes for syntax in SYNTAXES]
    else:
        contexts += [(one, SYNTAXES) for one in classes[: MAX_CONTEXTS - 1]]

    def lane(batches: Iterator[list[str]]) -> None:
        arriving: list[ArrivingMessages] = []

        def opened(event: Any) -> None:
            messages = event.assoc.dimse = ArrivingMessages(event.assoc, begin)
            keep_answers(messages)
            arriving.append(messages)

        handlers = [(evt.EVT_CONN_OPEN, opened), (evt.EVT_C_STORE, inbox.take)]
        try:
            with associations.open(contexts, handlers=handlers, scp_roles=classes) as association:
                _require(association, _GET, "C-GET", associations.peer)
                for batch in batches:
                    _follow(associations, partial(association.send_c_get, _identifier(series, batch), _GET), inbox)
        finally:
            for messages in arriving:
                messages.drop_all()

    work_in_lanes(_batches(list(sop_classes)), lanes, lane)


def move_instances(
    associations: Associations,
    series: RemoteSeries,
    sop_classes: Mapping[str, str],
    begin: Callable[[], Arrival],
    receive: Callable[[Received], None],
    *,
    destination: str,
    port: int,
) -> None:
    """Fetch instances by C-MOVE to our own port, which the peer knows as ``destination``.

    Raises
    ------
    InputError
        If the port cannot be listened on, or not safely.
    PeerUnavailableError, PeerRefusedError
        If the peer cannot be reached, offers no C-MOVE, or fails, as when it does not know the destination.
    RunError
        If it sends what is no instance.
    Exception
        What ``begin``, its file or ``receive`` failed with.
    """
    peer = associations.peer
    inbox = _Inbox(series, peer, receive, open_port=True)
    handlers = [(evt.EVT_C_STORE, inbox.take)]
    storage: list[Context] = [(one, SYNTAXES) for one in _classes(sop_classes)]
    with (
        listening(peer, port, destination, storage, handlers, begin=begin, instead="use C-GET") as refused,
        associations.open([(_MOVE, NATIVE)]) as association,
    ):

        def hint() -> str:
            if refused:
                return f"; port {port} has refused {', '.join(refused)}: see --move-from and --move-to"
            return f"; does it know {destination!r} of --move-to, with this machine and port {port}?"

        for batch in _batches(list(sop_classes)):
            wanted = _identifier(series, batch)
            _follow(associations, partial(association.send_c_move, wanted, destination, _MOVE), inbox, hint)
        if inbox.n_taken < len(sop_classes) and refused:
            raise PeerUnavailableError(f"{peer.url}: the PACS has not sent all instances{hint()}")


def _classes(sop_classes: Mapping[str, str]) -> list[str]:
    known = sorted(set(filter(is_uid, sop_classes.values())))
    return known if len(known) and all(map(is_uid, sop_classes.values())) else [*dict.fromkeys((*known, *_CLASSES))]


def _batches(sop_uids: Sequence[str]) -> list[list[str]]:
    return [list(sop_uids[i : i + _INSTANCES_PER_REQUEST]) for i in range(0, len(sop_uids), _INSTANCES_PER_REQUEST)]


def _identifier(series: RemoteSeries, sop_uids: list[str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = series.study_uid
    identifier.SeriesInstanceUID = series.series_uid
    identifier.SOPInstanceUID = sop_uids
    return identifier


def _require(association: Any, abstract: str, service: str, peer: Peer) -> None:
    if all(context.abstract_syntax != abstract for context in association.accepted_contexts):
        raise NotOfferedError(f"{peer.url}: the PACS offers no {service} of the study root")


def _follow(
    associations: Associations, begin: Callable[[], Any], inbox: _Inbox, hint: Callable[[], str] = lambda: ""
) -> None:
    """Follow an operation to its end. What is missing then is seen by whoever asked for it."""
    try:
        for status, _ in begin():
            if inbox.error is not None:
                raise inbox.error
            if "Status" not in status:
                raise associations.broken()
            if status.Status not in (0x0000, *PENDING) and status.Status & 0xF000 != 0xB000:
                raise PeerUnavailableError(
                    f"{associations.peer.url}: the PACS does not send: {reason(status.Status)}{hint()}"
                )
    except (PeerUnavailableError, PeerRefusedError):
        raise
    except RuntimeError as error:
        if error is inbox.error:
            raise
        raise associations.broken() from error
    if inbox.error is not None:
        raise inbox.error
