"""Instances to a PACS: what it lacks is sent, broken connections are gone on with, and it is asked what has arrived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

from marspipe.dicom.pacs.client import Commitment, Outgoing, PacsClient, PeerUnavailableError, Result
from marspipe.dicom.pacs.commitment import check_port
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.peer import Peer
from marspipe.pipeline.pacs.folder import instances_in
from marspipe.pipeline.pacs.patience import Patience
from marspipe.show.progress import Progress

CommitMode = Literal["offered", "required", "no"]

_NOT_FOUND = "taken, but not found afterwards"
_NOT_COMMITTED = "no storage commitment"


@dataclass(frozen=True)
class Published:
    """What a publication came to.

    Attributes
    ----------
    destination : str
        The peer's URL.
    n_series, n_instances : int
        What was to be published.
    sent, kept : int
        Instances that the peer has taken now, and that it had before.
    found : int or None
        How many the peer has listed afterwards; None if it could not be asked, or was not.
    commitment : Commitment or None
        What came of asking for storage commitment; None if it was not asked for.
    failures : dict
        Number of instances by reason.
    error : str or None
        One sentence if something is missing.
    """

    destination: str
    n_series: int
    n_instances: int
    sent: int
    kept: int
    found: int | None
    commitment: Commitment | None
    failures: dict[str, int]
    error: str | None

    @property
    def state(self) -> str:
        """``done``, ``kept`` if nothing was to be sent, or ``failed``: what the catalog calls it."""
        return "failed" if self.error else "done" if self.sent else "kept"

    def details(self) -> dict[str, Any]:
        """Return the counts for the catalog."""
        commitment = self.commitment
        return {
            "instances": self.n_instances,
            "series": self.n_series,
            "sent": self.sent,
            "kept": self.kept,
            "found": self.found,
            "commitment": None if commitment is None else commitment.state,
            "committed": None if commitment is None else len(commitment.sop_uids),
            "failures": self.failures,
        }


def publish(
    dicom_uri: str,
    peer: Peer,
    *,
    progress: Progress,
    associations: int = 4,
    patience: Patience | None = None,
    verify: bool = True,
    commit: CommitMode = "offered",
    commit_wait_s: float = 30.0,
    commit_port: int | None = None,
    decompress: bool = False,
) -> Published:
    """Send the DICOM files of a folder to a peer, without those that it has.

    A break of the connection is waited for and gone on from; so is a publication that ended half-way, when it is begun
    again: before every try the peer is asked what it has, so that nothing is sent that has arrived.

    Parameters
    ----------
    dicom_uri : str
        Folder of ``*.dcm``, also in folders below, on disk or HDFS.
    peer : Peer
        Where to.
    progress : Progress
        Where to report.
    associations : int
        Associations, or HTTP connections, at a time.
    patience : Patience, optional
        Retries in a row that bring nothing new.
    verify : bool
        Whether the peer is asked afterwards, by C-FIND or QIDO-RS, if every instance has arrived.
    commit : {"offered", "required", "no"}
        Whether storage commitment is asked for, and a peer that does not answer is a failure.
    commit_wait_s : float
        Longest wait for the answer, s.
    commit_port : int, optional
        Port on which the peer may answer by an association of its own.
    decompress : bool
        Whether instances are decompressed for a DIMSE peer that does not take their transfer syntax.

    Returns
    -------
    Published
        Also if instances are missing at the end; then with ``error``.

    Raises
    ------
    InputError
        If the folder cannot be published, or the peer could not answer on the port.
    PeerRefusedError
        If the peer does not want us.
    """
    if commit != "no" and commit_port is not None and peer.protocol == "dimse":
        check_port(peer, commit_port)
    instances = instances_in(dicom_uri, progress)
    patience = patience or Patience()
    with connect(peer, decompress=decompress, listen=commit_port) as client:
        work = _Publication(client, instances, patience, progress)
        failed = work.send_all(associations)
        found = work.look_for_all() if verify and not failed else None
        commitment = None
        if commit != "no" and not failed and not work.failures:
            if peer.protocol == "dimse":
                progress.note(f"asking for storage commitment, for at most {commit_wait_s:g} s")
            commitment = work.commit(commit_wait_s, required=commit == "required")
    failures = dict(Counter(work.failures.values()).most_common())
    return Published(
        peer.url,
        len({instance.facts.series_uid for instance in instances}),
        len(instances),
        len(work.taken),
        len(work.kept),
        found,
        commitment,
        failures,
        _sentence(peer, len(instances), work, failed, failures),
    )


@dataclass
class _Publication:
    """The state of a publication: every instance is pending, kept (it was there), taken, or has failed."""

    client: PacsClient
    instances: Sequence[Outgoing]
    patience: Patience
    progress: Progress
    pending: dict[str, Outgoing] = field(init=False)
    kept: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pending = {instance.facts.sop_uid: instance for instance in self.instances}
        self._lock = Lock()

    def send_all(self, lanes: int) -> PeerUnavailableError | None:
        """Send what is pending, with retries; return why some of it still is."""
        asked = False
        last: PeerUnavailableError | None = None
        with self.progress.stage("publish", total=len(self.instances), unit="instances") as stage:

            def report(instance: Outgoing, result: Result) -> None:
                uid = instance.facts.sop_uid
                with self._lock:
                    if result.fate == "busy":
                        self.busy[uid] = result.reason
                        return
                    del self.pending[uid]
                    if result.fate == "stored":
                        self.taken.add(uid)
                    else:
                        self.failures[uid] = result.reason
                    done = len(self.instances) - len(self.pending)
                stage.update(done)

            while self.pending:
                before = len(self.pending)
                try:
                    there = self._held(self.pending.values())
                    for uid in (there or set()) & self.pending.keys():
                        del self.pending[uid]
                        # What is found later than at first has come from us, though its answer was lost.
                        (self.taken if asked else self.kept).add(uid)
                    asked = True
                    stage.update(len(self.instances) - len(self.pending))
                    if self.pending:
                        self.client.send(list(self.pending.values()), report, lanes=lanes)
                    last = None
                except PeerUnavailableError as error:
                    last = error
                if len(self.pending) < before:
                    self.patience.reset()
                if self.pending and not self._wait(last or "the PACS is busy"):
                    break
        if self.pending and last is None:
            self.failures |= {uid: self.busy.get(uid, "not sent") for uid in self.pending}
        return last if self.pending else None

    def look_for_all(self) -> int | None:
        """Return how many of the instances the peer lists; the others of those it has taken become failures."""
        wanted = self.kept | self.taken
        of_interest = [instance for instance in self.instances if instance.facts.sop_uid in wanted]
        self.patience.reset()
        found: set[str] = set()
        with self.progress.stage("verify", total=len(wanted), unit="instances") as stage:
            while True:
                missing: Any = "some instances are not listed yet"
                try:
                    there = self._held(one for one in of_interest if one.facts.sop_uid not in found)
                    if there is None:
                        return None
                    found |= there & wanted
                    stage.update(len(found))
                except PeerUnavailableError as error:
                    missing = error
                if found >= wanted or not self._wait(missing):
                    break
        self.failures |= dict.fromkeys(wanted - found, _NOT_FOUND)
        return len(found)

    def commit(self, wait_s: float, *, required: bool) -> Commitment:
        """Ask for storage commitment; what the peer does not commit itself to becomes a failure."""
        try:
            commitment = self.client.commit(self.instances, wait_s=wait_s)
        except PeerUnavailableError:
            commitment = Commitment("no answer")
        if commitment.state == "answered":
            for instance in self.instances:
                uid = instance.facts.sop_uid
                if uid not in commitment.sop_uids:
                    said = commitment.failures.get(uid)
                    self.failures[uid] = f"{_NOT_COMMITTED} ({said})" if said else _NOT_COMMITTED
        elif required:
            reason = f"{_NOT_COMMITTED} ({commitment.state})"
            self.failures |= {instance.facts.sop_uid: reason for instance in self.instances}
        return commitment

    def _held(self, instances: Iterable[Outgoing]) -> set[str] | None:
        """Return which instances of the series of these the peer has; None if it cannot be asked."""
        held: set[str] = set()
        for study_uid, series_uid in dict.fromkeys((one.facts.study_uid, one.facts.series_uid) for one in instances):
            listed = self.client.stored_instances(study_uid, series_uid)
            if listed is None:
                return None
            held.update(listed)
        return held

    def _wait(self, why: object) -> bool:
        return self.patience.wait(lambda s: self.progress.note(f"{why}; next try in {s:.1f} s"))


def _sentence(
    peer: Peer, total: int, work: _Publication, failed: PeerUnavailableError | None, failures: dict[str, int]
) -> str | None:
    """Return what is wrong with a publication; None if it is complete."""
    there = total - len(work.pending.keys() | work.failures.keys())
    if failed is not None:
        return f"{failed}; {there} of {total} instances are there, publish again to go on"
    if failures:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in list(failures.items())[:3])
        more = "" if len(failures) <= 3 else f" and {len(failures) - 3} other reasons"
        return f"{peer.url}: {sum(failures.values())} of {total} instances failed: {reasons}{more}"
    return None
