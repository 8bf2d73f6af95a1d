"""A peer by DIMSE: verification, storage, query/retrieve (study root) and storage commitment; PS3.4 A, B, C, J."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification  # type: ignore[attr-defined]

from marspipe.dicom.pacs.arriving import Arrival
from marspipe.dicom.pacs.association import Associations, close
from marspipe.dicom.pacs.client import (
    Commitment,
    NotOfferedError,
    Outgoing,
    PeerRefusedError,
    PeerUnavailableError,
    Query,
    QueryRefusedError,
    Received,
    RemoteSeries,
    Result,
)
from marspipe.dicom.pacs.commitment import request_commitment
from marspipe.dicom.pacs.header import is_uid
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.retrieving import get_instances, move_instances
from marspipe.dicom.pacs.sending import NATIVE, send_instances
from marspipe.dicom.pacs.statuses import PENDING, reason

_FIND = str(StudyRootQueryRetrieveInformationModelFind)
_ECHO = str(Verification)


class DimseClient:
    """A :class:`~marspipe.dicom.pacs.client.PacsClient` by DIMSE.

    Parameters
    ----------
    peer : Peer
        Whom.
    decompress : bool
        Whether instances are decompressed for a peer that does not take their transfer syntax.
    listen : int, optional
        Port for associations that the peer opens.
    move_to : str, optional
        Our AE title as a destination of C-MOVE, used instead of C-GET.
    """

    def __init__(
        self, peer: Peer, *, decompress: bool = False, listen: int | None = None, move_to: str | None = None
    ) -> None:
        self.peer = peer
        self._decompress, self._listen, self._move_to = decompress, listen, move_to
        self._associations = Associations(peer)
        self._finder: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave_finder()

    def echo(self) -> None:
        """Send a C-ECHO."""
        with self._associations.open([(_ECHO, NATIVE)]) as association:
            status = association.send_c_echo() if association.is_established else Dataset()
        if "Status" not in status:
            raise self._associations.broken()
        if status.Status != 0x0000:
            raise PeerRefusedError(f"{self.peer.url}: the PACS answers C-ECHO with {reason(status.Status)}")

    def stored_instances(self, study_uid: str, series_uid: str) -> dict[str, str] | None:
        """Ask by C-FIND at the level of images; None if the peer offers no C-FIND, or refuses ours."""
        wanted = _identifier("IMAGE", StudyInstanceUID=study_uid, SeriesInstanceUID=series_uid)
        wanted.SOPInstanceUID = wanted.SOPClassUID = ""
        try:
            found = self._find(wanted)
        except (NotOfferedError, QueryRefusedError):
            return None
        return {str(one.get("SOPInstanceUID", "")): str(one.get("SOPClassUID", "")) for one in found}

    def send(self, instances: Sequence[Outgoing], report: Callable[[Outgoing, Result], None], *, lanes: int) -> None:
        """Send by C-STORE."""
        self._leave_finder()
        send_instances(self._associations, instances, report, lanes=lanes, decompress=self._decompress)

    def commit(self, instances: Sequence[Outgoing], *, wait_s: float) -> Commitment:
        """Ask by N-ACTION; the answer is an N-EVENT-REPORT on the same association or on our port."""
        self._leave_finder()
        return request_commitment(self._associations, instances, wait_s=wait_s, listen=self._listen)

    def find_series(self, query: Query) -> list[RemoteSeries]:
        """Ask by C-FIND for studies, then for their series.

        Raises
        ------
        PeerRefusedError
            If the peer offers no C-FIND, or cannot find a series without its study.
        """
        keys: dict[str, str | None] = {"PatientID": query.patient_id, "AccessionNumber": query.accession_number}
        if query.study_uid is None and any(keys.values()):
            studies = _uids(self._find(_identifier("STUDY", StudyInstanceUID="", **keys)), "StudyInstanceUID")
        else:
            studies = [query.study_uid or ""]
            keys = dict.fromkeys(keys)
        if query.study_uid is not None and (query.patient_id or query.accession_number):
            keys = {"PatientID": query.patient_id, "AccessionNumber": query.accession_number}
            wanted = _identifier("STUDY", StudyInstanceUID=query.study_uid, **keys)
            studies = _uids(self._find(wanted), "StudyInstanceUID")
        series = []
        for study_uid in studies:
            wanted = _identifier("SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID=query.series_uid or "")
            wanted.Modality = query.modality or ""
            for one in self._find(wanted):
                found = str(one.get("StudyInstanceUID") or study_uid)
                if not is_uid(found):
                    raise PeerRefusedError(f"{self.peer.url}: the PACS finds series of a given study only: add --study")
                series.append(RemoteSeries(found, str(one.get("SeriesInstanceUID", "")), str(one.get("Modality", ""))))
        return series

    def retrieve(
        self,
        series: RemoteSeries,
        sop_classes: Mapping[str, str],
        begin: Callable[[], Arrival],
        receive: Callable[[Received], None],
        *,
        lanes: int,
    ) -> None:
        """Fetch by C-GET, or by C-MOVE to our port."""
        self._leave_finder()
        what = self._associations, series, sop_classes, begin, receive
        if self._move_to is None:
            get_instances(*what, lanes=lanes)
        else:
            move_instances(*what, destination=self._move_to, port=self._listen or 0)

    def _leave_finder(self) -> None:
        """End the association of queries: some peers serve one at a time."""
        if self._finder is not None:
            close(self._finder)
            self._finder = None

    def _find(self, identifier: Dataset) -> list[Dataset]:
        """Return the answers to a C-FIND, on an association that is kept for the next."""
        reused = self._finder is not None and self._finder.is_established
        try:
            return self._find_once(identifier)
        except PeerUnavailableError:
            if not reused:
                raise
        return self._find_once(identifier)  # peers end associations that have been idle

    def _find_once(self, identifier: Dataset) -> list[Dataset]:
        if self._finder is None or not self._finder.is_established:
            self._leave_finder()
            # A peer without C-FIND would otherwise have to reject the whole association.
            self._finder = self._associations.opened([(_FIND, NATIVE), (_ECHO, NATIVE)])
        if all(context.abstract_syntax != _FIND for context in self._finder.accepted_contexts):
            raise NotOfferedError(f"{self.peer.url}: the PACS offers no C-FIND of the study root")
        found = []
        try:
            for status, one in self._finder.send_c_find(identifier, _FIND):
                if "Status" not in status:
                    raise self._associations.broken()
                if status.Status in PENDING:
                    if one is None:  # without it, what is there would look like all there is
                        close(self._finder, abort=True)  # the other answers are on their way
                        raise PeerUnavailableError(f"{self.peer.url}: an answer of the PACS to C-FIND is damaged")
                    found.append(one)
                elif status.Status != 0x0000:
                    raise QueryRefusedError(f"{self.peer.url}: the PACS answers C-FIND with {reason(status.Status)}")
        except RuntimeError as error:
            if isinstance(error, PeerUnavailableError):
                raise
            raise self._associations.broken() from error
        return found


def _identifier(level: str, **keys: str | None) -> Dataset:
    identifier = Dataset()
    if any(value is not None and not value.isascii() for value in keys.values()):
        identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        if value is not None:
            setattr(identifier, keyword, value)
    return identifier


def _uids(found: Iterable[Dataset], keyword: str) -> list[str]:
    return [str(one.get(keyword, "")) for one in found]
