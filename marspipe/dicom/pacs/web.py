"""A peer by DICOMweb: STOW-RS, QIDO-RS and WADO-RS; PS3.18 10.4, 10.5, 10.6.

Queries and retrieval are dicomweb-client's. Its STOW-RS encodes data sets anew, holds a request in memory several times
and does not say which instances were refused; here files go through as they are.
"""

from __future__ import annotations

import io
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import pydicom
import requests
from dicomweb_client.session_utils import create_session
from dicomweb_client.web import DICOMwebClient

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
from marspipe.dicom.pacs.peer import Peer
from marspipe.dicom.pacs.quiet import silence
from marspipe.dicom.pacs.retrieving import received
from marspipe.dicom.pacs.statuses import result_of

# Small enough for the limits that servers and the proxies before them have; one larger instance goes alone.
_BATCH_BYTES = 16 << 20
_BATCH_INSTANCES = 50
_PAGE = 500
_JSON = {"Accept": "application/dicom+json"}
_AS_STORED = (("application/dicom", "*"),)


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
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for session in self._sessions:
            session.close()
        self._sessions.clear()
        self._own = threading.local()

    def echo(self) -> None:
        """Ask for one study, which every service can answer."""
        with self._named():
            self._client.search_for_studies(limit=1)

    def stored_instances(self, study_uid: str, series_uid: str) -> dict[str, str] | None:
        """Ask by QIDO-RS."""
        found: dict[str, str] = {}

        def page(offset: int) -> list[dict[str, Any]]:
            return self._client.search_for_instances(study_uid, series_uid, limit=_PAGE, offset=offset)

        for one in self._pages(page):
            found[_value(one, "00080018")] = _value(one, "00080016")
        return found

    def send(self, instances: Sequence[Outgoing], report: Callable[[Outgoing, Result], None], *, lanes: int) -> None:
        """Send by STOW-RS, several instances in a request."""

        def lane(batches: Iterator[list[Outgoing]]) -> None:
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

        tags = ("0020000D", "0020000E", "00080060")
        return [RemoteSeries(*(_value(one, tag) for tag in tags)) for one in self._pages(page, "0020000E")]

    def retrieve(
        self, series: RemoteSeries, sop_classes: Mapping[str, str], receive: Callable[[Received], None], *, lanes: int
    ) -> None:
        """Fetch by WADO-RS, an instance in a request, in the transfer syntax it is held in."""

        def lane(sop_uids: Iterator[str]) -> None:
            for sop_uid in sop_uids:
                with self._named():
                    dataset = self._client.retrieve_instance(
                        series.study_uid, series.series_uid, sop_uid, media_types=_AS_STORED
                    )
                    content = io.BytesIO()
                    dataset.save_as(content, enforce_file_format=True)
                receive(received(content.getvalue(), series, self.peer))

        work_in_lanes(list(sop_classes), lanes, lane)

    @property
    def _client(self) -> DICOMwebClient:
        """A client of this thread: sessions are not made to be shared."""
        if not hasattr(self._own, "client"):
            session = create_session()
            self._sessions.append(session)
            _secure(session, self.peer)
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
            if answer.status_code == 413 and len(batch) > 1:
                return [pair for one in batch for pair in self._store([one])]
            if answer.status_code in (400, 413, 415):
                said = "too large for the PACS" if answer.status_code == 413 else f"HTTP status {answer.status_code}"
                return [(one, Result("refused", said)) for one in batch]
            # 409: none was stored, for the reasons in the answer.
            if answer.status_code != 409:
                answer.raise_for_status()
            stored, failed = _outcome(answer)
        if answer.status_code == 200 and not stored and not failed:
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

    def _pages(self, page: Callable[[int], list[dict[str, Any]]], tag: str = "00080018") -> Iterator[dict[str, Any]]:
        """Yield all that a search finds, page by page; some servers give the same page whatever the offset."""
        seen: set[str] = set()
        while True:
            with self._named():
                found = page(len(seen))
            fresh = [one for one in found if _value(one, tag) not in seen]
            seen.update(_value(one, tag) for one in fresh)
            yield from fresh
            if not fresh:
                return

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Let every failure be one sentence that names the peer, and none of what was asked."""
        url = self.peer.url
        try:
            yield
        except requests.exceptions.SSLError:
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
        except requests.exceptions.RequestException:
            raise PeerUnavailableError(f"{url}: the answer broke off or is no HTTP") from None
        except (ValueError, KeyError, pydicom.errors.InvalidDicomError):
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
    if tls.ca_path is not None:
        session.trust_env = False  # REQUESTS_CA_BUNDLE would take its place
        session.verify = str(tls.ca_path)
    if tls.certificate_path is not None:
        session.cert = (str(tls.certificate_path), str(tls.key_path or tls.certificate_path))


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
    response = (content[0] if content else {}) if isinstance(content, list) else content
    stored = {_value(one, "00081155") for one in _items(response, "00081199")}
    failed = {_value(one, "00081155"): int(_value(one, "00081197") or 0x0110) for one in _items(response, "00081198")}
    return stored, failed


def _items(dataset: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    return dataset.get(tag, {}).get("Value") or []


def _value(dataset: Mapping[str, Any], tag: str) -> str:
    values = dataset.get(tag, {}).get("Value") or [""]
    return str(values[0])
