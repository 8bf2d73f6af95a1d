"""What DICOMweb services answer that is not what was asked for: nothing of it is taken for success."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from marspipe.dicom.pacs.client import PeerRefusedError, Query, Result
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.credentials import Credentials
from marspipe.dicom.pacs.peer import parse_peer
from marspipe.pipeline.pacs.folder import instances_in
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import Published, publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES
from tests.pacs.servers import wait_until
from tests.pacs.web_peer import JSON, Answer, WebPeer, web_peer


def blind(folder: Path, peer: WebPeer, progress: Progress) -> Published:
    """Publish to a peer, which is not asked what it has."""
    return publish(str(folder), parse_peer(peer.url), progress=progress, patience=Patience(retries=0), verify=False)


def of_queries_nothing(answer: Answer) -> Callable[[str, str, bytes], Answer]:
    """Answer as given to STOW-RS, and to queries with nothing."""
    return lambda method, path, body: answer if method == "POST" else Answer(204)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int, dicom_folder: Path, progress: Progress) -> None:
    """A POST that is redirected becomes a GET, which lists studies, with status 200."""

    def answer(method: str, path: str, body: bytes) -> Answer:
        del body
        if path.startswith("/elsewhere"):
            return Answer(200, b"[]")
        if method == "POST":
            return Answer(status, headers={"Location": "/elsewhere/studies"})
        return Answer(204)

    with web_peer(answer) as peer:
        with pytest.raises(PeerRefusedError, match=rf"sends us on to another address \(HTTP status {status}\): give"):
            blind(dicom_folder, peer, progress)
        assert not [path for _, path in peer.asked if path.startswith("/elsewhere")]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>Please log in</html>", "text/html"),
        (b"[]", JSON),
        (b'[{"00081190": {"vr": "UR"}}, {"00081190": {"vr": "UR"}}]', JSON),
        (b"{}", JSON),
    ],
)
def test_only_what_is_named_as_stored_is_stored(
    content: bytes, kind: str, dicom_folder: Path, progress: Progress
) -> None:
    with web_peer(of_queries_nothing(Answer(200, content, {"Content-Type": kind}))) as peer:
        try:
            done = blind(dicom_folder, peer, progress)
        except PeerRefusedError as error:
            assert "the answer is not that of a DICOMweb service" in str(error)
        else:
            assert (done.sent, done.state) == (0, "failed")
            assert done.failures == {"HTTP status 200, without a reason": N_INSTANCES}


def test_an_empty_answer_means_all_of_it(dicom_folder: Path, progress: Progress) -> None:
    with web_peer(of_queries_nothing(Answer(200))) as peer:
        assert blind(dicom_folder, peer, progress).sent == N_INSTANCES


@pytest.mark.parametrize("status", [400, 413, 415])
def test_one_instance_that_is_refused_does_not_take_the_others_with_it(
    status: int, dicom_folder: Path, progress: Progress
) -> None:
    bad = next(dicom_folder.rglob("*.dcm")).read_bytes()

    def answer(method: str, path: str, body: bytes) -> Answer:
        del path
        if method == "GET":
            return Answer(204)
        return Answer(status) if bad in body else Answer(200)

    with web_peer(answer) as peer:
        done = blind(dicom_folder, peer, progress)
        assert (done.sent, sum(done.failures.values())) == (N_INSTANCES - 1, 1)


def test_credentials_that_are_asked_for_meanwhile_are_said(dicom_folder: Path, progress: Progress) -> None:
    """The 401 comes when the instances of a batch, too large as a whole, are sent one by one."""
    posts = []

    def answer(method: str, path: str, body: bytes) -> Answer:
        del path, body
        if method == "GET":
            return Answer(204)
        posts.append(method)
        return Answer(413 if len(posts) == 1 else 401)

    with web_peer(answer) as peer:
        with pytest.raises(PeerRefusedError, match=r"the PACS asks for credentials \(HTTP status 401\)"):
            blind(dicom_folder, peer, progress)


@pytest.mark.parametrize("content", [b"[1]", b'[{"0020000D": 7}]', b"[[]]", b"7", b"[null]", b"\xff"])
def test_answers_to_queries_that_are_none(content: bytes) -> None:
    with web_peer(lambda *_: Answer(200, content)) as peer, connect(parse_peer(peer.url)) as client:
        with pytest.raises(PeerRefusedError, match="the answer is not that of a DICOMweb service"):
            client.find_series(Query(study_uid="1.2.3"))


def test_connections_do_not_outlive_their_work(dicom_folder: Path, progress: Progress) -> None:
    """A fetch of many series would otherwise run out of sockets."""
    instances = instances_in(str(dicom_folder), progress)
    results: list[Result] = []
    with web_peer(of_queries_nothing(Answer(200))) as peer:
        with connect(parse_peer(peer.url)) as client:
            for _ in range(5):
                client.send(instances, lambda _, result: results.append(result), lanes=2)
            wait_until(lambda: not peer.open, "all connections of the lanes are closed")
        assert len(results) == 5 * N_INSTANCES


def test_a_bearer_token_opens_the_door() -> None:
    with web_peer(lambda *_: Answer(200, b"[]")) as door:
        for token, let_in in ((None, False), ("wrong", False), ("right-Token_1~", True)):
            peer = parse_peer(door.url, credentials=Credentials.model_validate({"token": token} if token else {}))
            door.asks_for = "Bearer right-Token_1~"
            with connect(peer) as client:
                if let_in:
                    client.echo()
                    continue
                said = "does not accept these credentials" if token else "asks for credentials"
                with pytest.raises(PeerRefusedError, match=rf"the PACS {said} \(HTTP status 401\)"):
                    client.echo()


def test_a_netrc_does_not_send_its_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would pass in the clear, which needs --plain-credentials for ours."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with web_peer(lambda *_: Answer(200, b"[]")) as peer, connect(parse_peer(peer.url)) as client:
        client.echo()
        assert peer.headers and not [one for one in peer.headers if "Authorization" in one]


def test_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with web_peer(lambda *_: Answer(200, b"[]")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with connect(parse_peer("http://pacs.invalid:8042/dicom-web")) as client:
            client.echo()
        assert [path.split("?")[0] for _, path in proxy.asked] == ["http://pacs.invalid:8042/dicom-web/studies"]


def test_a_damaged_header_does_not_let_the_query_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 warns of a line that is no header with the URL."""
    caplog.set_level(logging.DEBUG)
    answer = Answer(200, json.dumps([]).encode(), {"X-Damaged\r\n nothing": "1"})
    with web_peer(lambda *_: answer) as peer, connect(parse_peer(peer.url)) as client:
        assert client.find_series(Query(patient_id="stone-7")) == []
        assert any("stone-7" in path for _, path in peer.asked)
    assert "stone-7" not in caplog.text
