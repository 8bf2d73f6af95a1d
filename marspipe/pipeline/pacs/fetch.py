"""Series from a PACS into a landing zone, for ``ingest``, or as a reference to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

import yaml

from marspipe.dicom.foreign.instance import read_instance
from marspipe.dicom.foreign.series import check_series
from marspipe.dicom.pacs.client import PacsClient, PeerUnavailableError, Query, Received, RemoteSeries
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.header import is_uid, read_order
from marspipe.dicom.pacs.peer import Peer
from marspipe.errors import InputError, RunError
from marspipe.pipeline.pacs.patience import Patience
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.landing import DEFAULT_MIN_FREE_BYTES, LandingZone

__all__ = ["FetchedSeries", "Query", "fetch"]

SERIES_FILE = "series.yaml"
_HEAD = """\
# A series as it was fetched from a PACS, in the order of its instance numbers. A scan manifest takes it as
#   - {{path: {place}, reader: dicom, frame_type: projection, dataset: <scanner mapping>, angles_rad: ...}}
"""


@dataclass(frozen=True)
class FetchedSeries:
    """A series that has been fetched.

    Attributes
    ----------
    series : RemoteSeries
        Which.
    uri : str
        Its folder.
    n_instances, n_fetched : int
        What it has, and what was not there before.
    series_file_uri : str or None
        What a scan manifest names; None if its instances differ in their number of frames.
    problems : tuple of str or None
        Why its images cannot be stacked as a volume, as far as headers tell; empty if they can, None if the series is
        no CT.
    """

    series: RemoteSeries
    uri: str
    n_instances: int
    n_fetched: int
    series_file_uri: str | None
    problems: tuple[str, ...] | None


def fetch(
    peer: Peer,
    query: Query,
    out_uri: str,
    *,
    progress: Progress,
    associations: int = 4,
    patience: Patience | None = None,
    move_to: tuple[str, int] | None = None,
    max_bytes: int | None = None,
    min_free_bytes: int = DEFAULT_MIN_FREE_BYTES,
) -> list[FetchedSeries]:
    """Fetch the series that match, by C-GET, C-MOVE or WADO-RS; what lies in the landing zone is not fetched again.

    An instance goes to the zone's disk as it comes, so that its size does not matter.

    Parameters
    ----------
    peer : Peer
        From where.
    query : Query
        What; at least one of its UIDs or the patient's values.
    out_uri : str
        Landing zone: a folder on disk or HDFS.
    progress : Progress
        Where to report.
    associations : int
        Associations, or HTTP connections, at a time.
    patience : Patience, optional
        Retries in a row that bring nothing new.
    move_to : (str, int), optional
        Our AE title and port as the peer knows them as a destination of C-MOVE, which is then used; by default C-GET.
    max_bytes : int, optional
        Bound of the landing zone, B.
    min_free_bytes : int
        What must stay free on its disk, B.

    Returns
    -------
    list of FetchedSeries
        Every one is complete.

    Raises
    ------
    InputError
        If nothing is asked for, nothing matches, or the port of ``move_to`` cannot be listened on, or not safely.
    RunError
        If a series stays incomplete, the PACS sends what is no instance of it, or the landing zone is full. What has
        come stays, to be gone on from.
    """
    if not any((query.study_uid, query.series_uid, query.patient_id, query.accession_number)):
        raise InputError("name what to fetch: a study or series UID, a patient ID or an accession number")
    for uid, what in ((query.study_uid, "study"), (query.series_uid, "series")):
        if uid is not None and not is_uid(uid):
            raise InputError(f"what is given as the {what} to fetch is no UID, such as 2.25.12345")
    patience = patience or Patience()
    name, port = move_to or (None, None)
    with (
        LandingZone(out_uri, max_bytes=max_bytes, min_free_bytes=min_free_bytes) as zone,
        connect(peer, move_to=name, listen=port) as client,
    ):
        found = _find(client, peer, query, patience, progress)
        return [_fetch_series(client, peer, one, zone, associations, patience, progress) for one in found]


def _find(client: PacsClient, peer: Peer, query: Query, patience: Patience, progress: Progress) -> list[RemoteSeries]:
    while True:
        try:
            found = client.find_series(query)
            break
        except PeerUnavailableError as error:
            if not _wait(patience, progress, error):
                raise
    patience.reset()
    if not found:
        raise InputError(f"{peer.url}: no series matches what was asked for")
    if not all(is_uid(one.study_uid) and is_uid(one.series_uid) for one in found):
        raise RunError(f"{peer.url}: the PACS lists a series with a UID that is none")
    # By UID, so that a second call takes up the same series first.
    return sorted(set(found), key=dataclasses.astuple)


def _fetch_series(
    client: PacsClient,
    peer: Peer,
    series: RemoteSeries,
    zone: LandingZone,
    lanes: int,
    patience: Patience,
    progress: Progress,
) -> FetchedSeries:
    place = series.study_uid, series.series_uid
    lock, listed, missing, awaited, came = Lock(), dict[str, str](), dict[str, str](), set[str](), set[str]()
    with progress.stage("fetch", unit="instances") as stage:

        def receive(one: Received) -> None:
            with lock:
                came.add(one.sop_uid)
                awaited.discard(one.sop_uid)
                done = len(listed) - len(awaited)
            stage.update(done, len(listed))

        while True:
            why: object = "the PACS has not sent all instances"
            before = len(came)
            try:
                listed = _listed(client, peer, series)
                missing = {uid: name for uid, name in listed.items() if not zone.holds(*place, uid)}
                awaited = set(missing)
                stage.update(len(listed) - len(missing), len(listed))
                if missing:
                    client.retrieve(series, missing, zone.arrive, receive, lanes=lanes)
                    missing = {uid: name for uid, name in missing.items() if not zone.holds(*place, uid)}
                if not missing:
                    break
            except PeerUnavailableError as error:
                why = error
            if len(came) > before:
                patience.reset()
            if not _wait(patience, progress, why):
                here = len(listed) - len(missing)
                raise RunError(
                    f"{peer.url}: {here} of {len(listed)} instances of series {series.series_uid} are here, fetch "
                    f"again to go on: {why}"
                )
    folder = storage.join(zone.root_uri, *place)
    series_file = _write_series_file(zone, series, sorted(listed))
    problems = _problems(zone, series, sorted(listed)) if series.modality == "CT" else None
    return FetchedSeries(series, folder, len(listed), len(came), series_file, problems)


def _problems(zone: LandingZone, series: RemoteSeries, sop_uids: Sequence[str]) -> tuple[str, ...]:
    """Return why a series is no stack of slices, from its headers."""
    instances = []
    for uid in sop_uids:
        uri = zone.uri(series.study_uid, series.series_uid, uid)
        try:
            instances.append(read_instance(partial(storage.open_input, uri), uri, warn=False))
        except InputError as error:
            return (str(error),)
    return tuple(check_series(instances))


def _listed(client: PacsClient, peer: Peer, series: RemoteSeries) -> dict[str, str]:
    """Return the instances of a series, as SOP class by SOP instance."""
    listed = client.stored_instances(series.study_uid, series.series_uid)
    if not listed:
        raise RunError(f"{peer.url}: the PACS lists no instances of series {series.series_uid}")
    if not all(map(is_uid, listed)):
        raise RunError(f"{peer.url}: the PACS lists an instance of series {series.series_uid} with a UID that is none")
    return listed


def _write_series_file(zone: LandingZone, series: RemoteSeries, sop_uids: Sequence[str]) -> str | None:
    """List the instances in their order, as :mod:`marspipe.readers.series` takes them."""
    order = {}
    for uid in sop_uids:
        uri = zone.uri(series.study_uid, series.series_uid, uid)
        with storage.open_input(uri) as file:
            order[uid] = read_order(file, uri)
    frames = {n for _, n in order.values()}
    if len(frames) != 1:
        return None
    content = {
        "marspipe_series": 1,
        "files": [f"{uid}.dcm" for uid in sorted(sop_uids, key=lambda uid: (order[uid][0], uid))],
        "frames_per_file": frames.pop(),
    }
    place = "/".join((series.study_uid, series.series_uid, SERIES_FILE))
    uri = storage.join(zone.root_uri, place)
    text = _HEAD.format(place=place) + yaml.safe_dump(content, sort_keys=False)
    storage.write_bytes(uri, text.encode(), overwrite=True)
    return uri


def _wait(patience: Patience, progress: Progress, why: object) -> bool:
    return patience.wait(lambda s: progress.note(f"{why}; next try in {s:.1f} s"))
