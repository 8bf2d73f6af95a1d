"""A peer by DICOMweb: STOW-RS, QIDO-RS and WADO-RS; PS3.18 10.4, 10.5, 10.6.

Queries and retrieval are dicomweb-client's. Its STOW-RS encodes data sets anew, holds a request in memory several times
and does not say which instances were refused; here files go through as they are.
"""

from __future__ import annotations

import os
import ssl
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, cast

import requests
from dicomweb_client.session_utils import create_session
from dicomweb_client.web import DICOMwebClient

from marspipe.dicom.pacs.arriving import Arrival
from marspipe.dicom.pacs.client import (
    Commitment,
    Outgoing,
    PeerRefusedError,
    PeerUnavailableError,
    Query,
    Received,
    RemoteSeries,
    Result,
)
from marspipe.dicom.pacs.lanes import work_in_lanes
from marspipe.dicom.pacs.multipart import InstancesBody
from marspipe.dicom.pacs.only_part import only_part
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.quiet import silence
from marspipe.dicom.pacs.retrieving import received
from marspipe.dicom.pacs.statuses import result_of
from marspipe.errors import MarspipeError

# Small enough for the limits that servers and the proxies before them have; one larger instance goes alone.
_BATCH_BYTES = 16 << 20
_BATCH_INSTANCES = 50
_PAGE = 500
_JSON = {"Accept": "application/dicom+json"}
# What is compressed on the way may be of any size when it is not.
_AS_STORED = {
    "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
    "Accept-Encoding": "identity",
}
_CHUNK_BYTES = 1 << 18


class WebClient:
    """A :class:`~marspipe.dicom.pacs.client.PacsClient` by DICOMweb.

    Parameters
    ----------
    peer : Peer
        Whom.
    """

    def __init__(self, peer: Peer) -> None:
        silence()
        self.peer = peer
        if peer.secure:
            peer.tls.context()  # its faults come before any work
        self._own = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def echo(self) -> None:
        """Ask for one study, which every service can answer."""
        with self._named():
            self._client.search_for_studies(limit=1)

    def stored_instances(self, study_uid: str, series_uid: str) -> dict[str, str] | None:
        """Ask by QIDO-RS."""

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_instances(study_uid, series_uid, limit=_PAGE, offset=offset)

        return {sop_uid: sop_class for sop_uid, sop_class in self._pages(page, "00080018", "00080016")}

    def send(self, instances: Sequence[Outgoing], report: Callable[[Outgoing, Result], None], *, lanes: int) -> None:
        """Send by STOW-RS, several instances in a request."""

        def lane(batches: Iterator[list[Outgoing]]) -> None:
            with self._own_session():
                for batch in batches:
                    for instance, result in self._store(batch):
                        report(instance, result)

        work_in_lanes(_batches(instances), lanes, lane)

    def commit(self, instances: Sequence[Outgoing], *, wait_s: float) -> Commitment:
        """Return that DICOMweb services are not asked."""
        del instances, wait_s
        return Commitment("not offered")

    def find_series(self, query: Query) -> list[RemoteSeries]:
        """Ask by QIDO-RS."""
        keys = {
            "StudyInstanceUID": query.study_uid,
            "SeriesInstanceUID": query.series_uid,
            "Modality": query.modality,
            "PatientID": query.patient_id,
            "AccessionNumber": query.accession_number,
        }
        filters = {key: value for key, value in keys.items() if value is not None}

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_series(search_filters=filters, limit=_PAGE, offset=offset)

        found = self._pages(page, "0020000E", "0020000D", "00080060")
        return [RemoteSeries(study_uid, series_uid, modality) for series_uid, study_uid, modality in found]

    def retrieve(
        self,
        series: RemoteSeries,
        sop_classes: Mapping[str, str],
        begin: Callable[[], Arrival],
        receive: Callable[[Received], None],
        *,
        lanes: int,
    ) -> None:
        """Fetch by WADO-RS, an instance in a request, byte for byte as it is held."""
        url = f"{self.peer.url}/studies/{series.study_uid}/series/{series.series_uid}/instances"

        def fetch(sop_uid: str, arrival: Arrival) -> None:
            _ = self._client
            with (
                self._named(),
                self._own.session.get(
                    f"{url}/{sop_uid}",
                    headers=_AS_STORED,
                    stream=True,
                    timeout=(self.peer.connect_timeout_s, self.peer.timeout_s),
                ) as answer,
            ):
                answer.raise_for_status()
                chunks = answer.iter_content(_CHUNK_BYTES)
                for piece in only_part(answer.headers.get("Content-Type", ""), chunks, self.peer.url):
                    arrival.write(piece)

        def lane(sop_uids: Iterator[str]) -> None:
            with self._own_session():
                for sop_uid in sop_uids:
                    arrival = begin()
                    try:
                        fetch(sop_uid, arrival)
                        receive(received(arrival, series, self.peer))
                    finally:
                        arrival.discard()

        work_in_lanes(list(sop_classes), lanes, lane)

    @contextmanager
    def _own_session(self) -> Iterator[None]:
        """Close at the end what a thread has opened: threads come and go with every series."""
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        if hasattr(self._own, "session"):
            self._own.session.close()
            del self._own.session, self._own.client

    @property
    def _client(self) -> DICOMwebClient:
        """A client of this thread: sessions are not made to be shared."""
        if not hasattr(self._own, "client"):
            session = create_session()
            _secure(session, self.peer)
            session.hooks["response"].append(partial(_stay, self.peer))
            timeouts = (self.peer.connect_timeout_s, self.peer.timeout_s)
            client = DICOMwebClient(self.peer.url, session=session, timeout=timeouts)
            client.set_http_retry_params(retry=False)  # whoever calls tries again, with back-off
            self._own.session, self._own.client = session, client
        return cast(DICOMwebClient, self._own.client)

    def _store(self, batch: list[Outgoing]) -> list[tuple[Outgoing, Result]]:
        """Send one request and return what its answer says of each instance."""
        _ = self._client
        body = InstancesBody(batch)
        with self._named(), body:
            answer = self._own.session.post(
                f"{self.peer.url}/studies",
                data=body,
                headers={**_JSON, "Content-Type": body.content_type},
                timeout=(self.peer.connect_timeout_s, self.peer.timeout_s),
            )
        if answer.status_code in (400, 413, 415):
            if len(batch) > 1:  # for the sake of one of them, or of all together
                return [pair for one in batch for pair in self._store([one])]
            said = "too large for the PACS" if answer.status_code == 413 else f"HTTP status {answer.status_code}"
            return [(batch[0], Result("refused", said))]
        with self._named():
            # 409: none was stored, for the reasons in the answer.
            if answer.status_code != 409:
                answer.raise_for_status()
            stored, failed = _outcome(answer)
        if answer.status_code == 200 and not answer.content:
            return [(one, Result("stored")) for one in batch]  # an answer without details: all of it
        results = []
        for one in batch:
            if one.facts.sop_uid in stored:
                results.append((one, Result("stored")))
            elif one.facts.sop_uid in failed:
                results.append((one, result_of(failed[one.facts.sop_uid])))
            else:
                results.append((one, Result("refused", f"HTTP status {answer.status_code}, without a reason")))
        return results

    def _pages(self, page: Callable[[int], list[dict[str, Any]]], *tags: str) -> Iterator[tuple[str, ...]]:
        """Yield the values of some attributes, of which the first is a UID, of all that a search finds.

        It comes page by page; some servers give the same page whatever the offset.
        """
        seen: set[str] = set()
        while True:
            with self._named():
                found = (tuple(_value(one, tag) for tag in tags) for one in page(len(seen)))
                fresh = [values for values in found if values[0] not in seen]
            seen.update(values[0] for values in fresh)
            yield from fresh
            if not fresh:
                return

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let every failure be one sentence that names the peer, and none of what was asked."""
        url = self.peer.url
        try:
            yield
        except MarspipeError:
            raise
        except requests.exceptions.SSLError as error:
            if _broke_off(error):
                raise PeerUnavailableError(f"{url}: the TLS connection broke off") from None
            raise PeerRefusedError(
                f"{url}: no trusted TLS connection: give the right CA with --tls-ca, and --tls-certificate if the PACS "
                "asks for one"
            ) from None
        except requests.exceptions.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            if status in (401, 403):
                given = "does not accept these credentials" if self.peer.credentials else "asks for credentials"
                raise PeerRefusedError(
                    f"{url}: the PACS {given} (HTTP status {status}): give MARSPIPE_PACS_USER and "
                    "MARSPIPE_PACS_PASSWORD, MARSPIPE_PACS_TOKEN or --credentials"
                ) from None
            if status == 404:
                raise PeerRefusedError(
                    f"{url}: there is no DICOMweb service under this path (HTTP status 404), or not what is asked for"
                ) from None
            if status in (408, 429) or status >= 500:
                raise PeerUnavailableError(f"{url}: the PACS answers with HTTP status {status}") from None
            raise PeerRefusedError(f"{url}: the PACS refuses with HTTP status {status}") from None
        except requests.exceptions.Timeout:
            raise PeerUnavailableError(f"{url}: no answer in time") from None
        except requests.exceptions.ConnectionError:
            raise PeerUnavailableError(
                f"{url}: no connection: does the PACS listen on port {self.peer.port}?"
            ) from None
        except requests.exceptions.InvalidJSONError:
            raise PeerRefusedError(f"{url}: the answer is not that of a DICOMweb service") from None
        except requests.exceptions.RequestException:
            raise PeerUnavailableError(f"{url}: the answer broke off or is no HTTP") from None
        # What is expected of an answer, by us and by the libraries, and not there.
        except (ValueError, LookupError, TypeError, AttributeError, EOFError, struct.error):
            raise PeerRefusedError(f"{url}: the answer is not that of a DICOMweb service") from None


class _Authorization(requests.auth.AuthBase):
    """The header itself: the library's own would encode a user as Latin-1, RFC 7617 has UTF-8."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def _secure(session: requests.Session, peer: Peer) -> None:
    credentials, tls = peer.credentials, peer.tls
    if credentials.token is not None:
        session.auth = _Authorization(f"Bearer {credentials.token.get_secret_value()}")
    elif credentials.user is not None and credentials.password is not None:
        pair = f"{credentials.user}:{credentials.password.get_secret_value()}"
        session.auth = _Authorization(f"Basic {b64encode(pair.encode()).decode('ascii')}")
    # Without the environment: credentials of a .netrc would go where ours may not, and REQUESTS_CA_BUNDLE would take
    # the place of a CA that is given. Proxies are taken from it all the same.
    session.trust_env = False
    session.proxies.update(requests.utils.get_environ_proxies(peer.url))
    session.verify = str(tls.ca_path) if tls.ca_path is not None else os.environ.get("REQUESTS_CA_BUNDLE") or True
    if tls.certificate_path is not None:
        session.cert = (str(tls.certificate_path), str(tls.key_path or tls.certificate_path))


def _stay(peer: Peer, answer: requests.Response, *_: object, **__: object) -> None:
    """Refuse to be sent elsewhere: a POST would become a GET there, and what is private might go in the clear."""
    if answer.is_redirect:
        answer.close()
        raise PeerRefusedError(
            f"{peer.url}: the PACS sends us on to another address (HTTP status {answer.status_code}): give that one"
        )


def _broke_off(error: BaseException) -> bool:
    """Return whether what is behind an error is the end of a connection, as of a PACS that starts anew."""
    causes: list[object] = [error]
    for cause in causes:
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return True
        if isinstance(cause, BaseException) and len(causes) < 16:
            causes += [*cause.args, getattr(cause, "reason", None), cause.__context__]
    return False


def _batches(instances: Sequence[Outgoing]) -> list[list[Outgoing]]:
    batches: list[list[Outgoing]] = []
    size = 0
    for instance in instances:
        if not batches or size + instance.n_bytes > _BATCH_BYTES or len(batches[-1]) >= _BATCH_INSTANCES:
            batches.append([])
            size = 0
        batches[-1].append(instance)
        size += instance.n_bytes
    return batches


def _outcome(answer: requests.Response) -> tuple[set[str], dict[str, int]]:
    """Return the instances that an answer lists as stored, and the failure reasons of the others: PS3.18 I.2."""
    if not answer.content or "json" not in answer.headers.get("Content-Type", ""):
        return set(), {}
    content = answer.json()
    response = content[0] if isinstance(content, list) and len(content) == 1 else content
    stored = {_value(one, "00081155") for one in _items(response, "00081199")}
    failed = {_value(one, "00081155"): int(_value(one, "00081197") or 0x0110) for one in _items(response, "00081198")}
    return stored, failed


def _items(dataset: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    return dataset.get(tag, {}).get("Value") or []


def _value(dataset: Mapping[str, Any], tag: str) -> str:
    values = dataset.get(tag, {}).get("Value") or [""]
    return str(values[0])
