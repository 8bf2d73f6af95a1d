"""Storage commitment, push model: the peer takes responsibility for instances. PS3.4 J.3."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from marspipe.dicom.pacs.association import Associations
from marspipe.dicom.pacs.client import (
    Commitment,
    NotOfferedError,
    Outgoing,
    PeerRefusedError,
    PeerUnavailableError,
)
from marspipe.dicom.pacs.listener import listening
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.sending import NATIVE
from marspipe.dicom.pacs.statuses import reason

_PUSH = str(StorageCommitmentPushModel)
_PUSH_INSTANCE = str(StorageCommitmentPushModelInstance)
_INSTANCES_PER_REQUEST = 1000
# How much longer than for the answer the association lasts that it is awaited on; and longest time to thank for it.
_SPARE_S = 10.0


class _Answers:
    """What N-EVENT-REPORTs have said so far, by transaction."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[str] = set()
        self._reporting: list[threading.Thread] = []
        self.committed: set[str] = set()
        self.failures: dict[str, str] = {}

    def expect(self, transaction_uid: str) -> None:
        with self._changed:
            self._open.add(transaction_uid)

    def take(self, event: Any) -> tuple[int, None]:
        """Handle an N-EVENT-REPORT."""
        try:
            information = event.event_information
            transaction_uid = str(information.TransactionUID)
            committed = [str(one.ReferencedSOPInstanceUID) for one in information.get("ReferencedSOPSequence") or []]
            failed = {
                str(one.ReferencedSOPInstanceUID): reason(int(one.get("FailureReason") or 0x0110))
                for one in information.get("FailedSOPSequence") or []
            }
        except Exception:
            return 0x0110, None  # processing failure: the report says nothing that can be used
        with self._changed:
            if transaction_uid not in self._open:
                return 0x0115, None  # invalid argument: not ours
            self._reporting.append(threading.current_thread())
            self._open.discard(transaction_uid)
            self.committed.update(committed)
            self.failures.update(failed)
            self._changed.notify_all()
        return 0x0000, None

    def wait(self, wait_s: float) -> bool:
        with self._changed:
            complete = self._changed.wait_for(lambda: not self._open, timeout=wait_s)
        # Each report has a thread of pynetdicom's, which goes on to answer it: first that, then the release.
        for thread in self._reporting:
            thread.join(_SPARE_S)
        return complete


def check_port(peer: Peer, port: int) -> None:
    """See whether a peer could answer on a port of ours, before anything is sent.

    Raises
    ------
    InputError
        If not; see :func:`~marspipe.dicom.pacs.listener.listening`.
    """
    with suppress(PeerUnavailableError), _listening(peer, port, []):
        pass


def request_commitment(
    associations: Associations, instances: Sequence[Outgoing], *, wait_s: float, listen: int | None
) -> Commitment:
    """Ask for commitment and wait for the answers.

    Parameters
    ----------
    associations : Associations
        With the peer.
    instances : sequence of Outgoing
        What the peer has stored.
    wait_s : float
        Longest wait for all answers, s.
    listen : int or None
        Port on which the peer may answer by an association of its own.

    Raises
    ------
    InputError
        If the port cannot be listened on, or not safely.
    PeerUnavailableError
        If the peer cannot be reached.
    """
    answers = _Answers()
    handlers = [(evt.EVT_N_EVENT_REPORT, answers.take)]
    with ExitStack() as stack:
        if listen is not None:
            stack.enter_context(_listening(associations.peer, listen, handlers))
        try:
            association = stack.enter_context(associations.open([(_PUSH, NATIVE)], handlers=handlers))
        except NotOfferedError:
            return Commitment("not offered")
        except PeerRefusedError:  # it has taken the instances all the same
            return Commitment("refused")
        # Nothing passes over it until the answer comes, which pynetdicom takes for the end.
        association.network_timeout = max(associations.peer.timeout_s, wait_s + _SPARE_S)
        for start in range(0, len(instances), _INSTANCES_PER_REQUEST):
            request = _request(instances[start : start + _INSTANCES_PER_REQUEST])
            answers.expect(request.TransactionUID)
            try:
                status, _ = association.send_n_action(request, 1, _PUSH, _PUSH_INSTANCE)
            except RuntimeError:
                status = Dataset()
            # Some peers break off where they do not know us as one to answer to.
            if status.get("Status") != 0x0000:
                return Commitment("refused")
        if not answers.wait(wait_s):
            return Commitment("no answer")
    return Commitment("answered", frozenset(answers.committed), answers.failures)


def _listening(peer: Peer, port: int, handlers: Sequence[Any]) -> AbstractContextManager[object]:
    title, contexts = peer.calling_ae_title, [(_PUSH, NATIVE)]
    return listening(peer, port, title, contexts, handlers, instead="leave out --commit-port")


def _request(instances: Sequence[Outgoing]) -> Dataset:
    request = Dataset()
    request.TransactionUID = str(generate_uid(prefix=None))
    references = []
    for instance in instances:
        reference = Dataset()
        reference.ReferencedSOPClassUID = instance.facts.sop_class_uid
        reference.ReferencedSOPInstanceUID = instance.facts.sop_uid
        references.append(reference)
    request.ReferencedSOPSequence = references
    return request
