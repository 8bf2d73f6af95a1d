"""What a PACS client does, whatever the protocol; the values it takes and gives, and how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol, Self

from marspipe.errors import InputError, RunError

if TYPE_CHECKING:
    from marspipe.dicom.pacs.arriving import Arrival

# How an instance fared. A peer that is "busy" may take it later; one that has "refused" it will do so again.
Fate = Literal["stored", "busy", "refused"]


class PeerUnavailableError(RunError):
    """The peer does not answer, or the connection broke: it may be worth another try."""


class PeerRefusedError(InputError):
    """The peer answers, and does not want us: trying again changes nothing."""


class NotOfferedError(PeerRefusedError):
    """The peer does not offer the service that is asked for."""


class QueryRefusedError(PeerRefusedError):
    """The peer offers queries, and refuses ours."""


@dataclass(frozen=True)
class InstanceFacts:
    """What of a DICOM file matters for sending it.

    Attributes
    ----------
    sop_class_uid, sop_uid, study_uid, series_uid, syntax_uid : str
        SOP class and instance, study, series, transfer syntax.
    """

    sop_class_uid: str
    sop_uid: str
    study_uid: str
    series_uid: str
    syntax_uid: str


@dataclass(frozen=True)
class Outgoing:
    """An instance to send: a file that is opened when its turn comes.

    Attributes
    ----------
    facts : InstanceFacts
        Of its header.
    name : str
        Its URI, for messages.
    n_bytes : int
        Size of the file.
    open : callable
        Opens the file, binary.
    path : Path or None
        Where it lies on the local disk, if it does.
    """

    facts: InstanceFacts
    name: str
    n_bytes: int
    open: Callable[[], BinaryIO] = field(compare=False, repr=False)
    path: Path | None = None


@dataclass(frozen=True)
class Result:
    """What the peer said to an instance; ``reason`` is a short phrase that holds nothing of the data set."""

    fate: Fate
    reason: str = ""


@dataclass(frozen=True)
class Query:
    """Which series to look for. Given values must all match; those of a patient never appear in a repr.

    Attributes
    ----------
    study_uid, series_uid, modality : str or None
        Study Instance UID, Series Instance UID, Modality.
    patient_id, accession_number : str or None
        Private.
    """

    study_uid: str | None = None
    series_uid: str | None = None
    modality: str | None = None
    patient_id: str | None = field(default=None, repr=False)
    accession_number: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RemoteSeries:
    """A series at the peer.

    Attributes
    ----------
    study_uid, series_uid : str
        Its UIDs.
    modality : str
        ``CT``; empty if the peer does not say.
    """

    study_uid: str
    series_uid: str
    modality: str = ""


@dataclass(frozen=True)
class Received:
    """An instance that came, and is in place."""

    study_uid: str
    series_uid: str
    sop_uid: str


@dataclass(frozen=True)
class Commitment:
    """What came of asking for storage commitment (PS3.4 J).

    Attributes
    ----------
    state : {"answered", "no answer", "refused", "not offered"}
        The other fields hold something for the first; ``refused`` means the request as a whole.
    sop_uids : frozenset of str
        Instances that the peer has committed itself to.
    failures : mapping
        Reason by SOP instance.
    """

    state: Literal["answered", "no answer", "refused", "not offered"]
    sop_uids: frozenset[str] = frozenset()
    failures: Mapping[str, str] = field(default_factory=dict)


class PacsClient(Protocol):
    """A connection to a peer; :func:`~marspipe.dicom.pacs.connect.connect` makes one.

    Every method raises :class:`PeerUnavailableError` or :class:`PeerRefusedError` with one sentence naming the peer.
    """

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

    def echo(self) -> None:
        """Ask whether the peer is there and lets us in."""

    def stored_instances(self, study_uid: str, series_uid: str) -> dict[str, str] | None:
        """Return what the peer holds of a series: SOP class by SOP instance; None if it cannot be asked."""

    def send(self, instances: Sequence[Outgoing], report: Callable[[Outgoing, Result], None], *, lanes: int) -> None:
        """Send instances, ``lanes`` at a time; ``report`` is called for each that the peer has answered, by any thread.

        An instance that was not reported may or may not have arrived.
        """

    def commit(self, instances: Sequence[Outgoing], *, wait_s: float) -> Commitment:
        """Ask the peer to take responsibility for instances, and wait for its answer."""

    def find_series(self, query: Query) -> list[RemoteSeries]:
        """Return the series that match."""

    def retrieve(
        self,
        series: RemoteSeries,
        sop_classes: Mapping[str, str],
        begin: Callable[[], Arrival],
        receive: Callable[[Received], None],
        *,
        lanes: int,
    ) -> None:
        """Fetch instances of a series, given as SOP class by SOP instance.

        ``begin`` gives a file for the next one, which it is written to as it comes, and placed when it is whole and of
        that series; ``receive`` is told then. Both are called by any thread; what they, or a file, raise ends it.
        :class:`~marspipe.errors.RunError` is raised for what is no instance of the series.
        """
