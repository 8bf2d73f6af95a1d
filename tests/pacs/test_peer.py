"""Addresses and credentials: what is taken, what is refused, and that secrets show nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from marspipe.dicom.pacs.credentials import Credentials, credentials_of_environment, load_credentials
from marspipe.dicom.pacs.peer import Tls, parse_peer
from marspipe.errors import InputError
from marspipe.pipeline.pacs.peers import named_peer

SECRET = "7Fz!open-sesame"


@pytest.mark.parametrize(
    ("url", "shown", "port", "secure"),
    [
        ("dicom://PACS@pacs.example:11112", "dicom://PACS@pacs.example:11112", 11112, False),
        ("DICOM://PACS@pacs.example", "dicom://PACS@pacs.example:104", 104, False),
        ("dicoms://PACS@pacs.example/", "dicoms://PACS@pacs.example:2762", 2762, True),
        ("dicom://MY%20PACS@[::1]:104", "dicom://MY%20PACS@[::1]:104", 104, False),
        ("https://pacs.example/dicom-web/", "https://pacs.example/dicom-web", 443, True),
        ("http://localhost:8042/dicom-web", "http://localhost:8042/dicom-web", 8042, False),
    ],
)
def test_addresses(url: str, shown: str, port: int, secure: bool) -> None:
    peer = parse_peer(url)
    assert (peer.url, peer.port, peer.secure) == (shown, port, secure)
    assert peer.protocol == ("dimse" if shown.startswith("dicom") else "web")
    assert peer.called_ae_title == {"d": "MY PACS" if "MY" in url else "PACS", "h": ""}[shown[0]]
    assert peer.calling_ae_title == "MARSPIPE"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("pacs.example:104", "must be dicom://AE@host:port"),
        ("ftp://pacs.example", "got ftp scheme"),
        ("dicom://pacs.example:104", "AE title is missing"),
        ("dicom://SEVENTEENLETTERS_@pacs.example", "1 to 16 ASCII characters"),
        ("dicom://PACS@pacs.example/path", "has no path"),
        ("dicom://PACS@pacs.example:0", "port 0"),
        ("dicom://PACS@pacs.example:99999", "is no URL"),
        (f"dicom://PACS:{SECRET}@pacs.example", "must not hold a password"),
        (f"https://user:{SECRET}@pacs.example/dicom-web", "must not hold a password"),
        (f"https://{SECRET}@pacs.example/dicom-web", "must not hold a user"),
        (f"https://pacs.example/dicom-web?token={SECRET}", "must not hold a password, query or fragment"),
        (f"https://pacs.example/dicom-web#{SECRET}", "must not hold a password, query or fragment"),
    ],
)
def test_wrong_addresses_are_one_sentence_without_secrets(url: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_peer(url)
    assert sentence in str(caught.value)
    assert SECRET not in str(caught.value)


def test_our_ae_title_is_checked() -> None:
    assert parse_peer("dicom://PACS@h", ae_title="NODE 7").calling_ae_title == "NODE 7"
    with pytest.raises(InputError, match="our AE title is no AE title: it must have 1 to 16"):
        parse_peer("dicom://PACS@h", ae_title="")


def test_credentials_do_not_travel_in_the_clear() -> None:
    credentials = credentials_of_environment({"MARSPIPE_PACS_TOKEN": SECRET})
    for url in ("https://pacs.example/dicom-web", "http://127.0.0.1:8042/dicom-web", "http://localhost/dicom-web"):
        assert parse_peer(url, credentials=credentials).credentials == credentials
    with pytest.raises(InputError, match="over plain HTTP") as caught:
        parse_peer("http://pacs.example/dicom-web", credentials=credentials)
    assert SECRET not in str(caught.value)
    allowed = parse_peer("http://pacs.example/dicom-web", credentials=credentials, plain_credentials=True)
    assert allowed.credentials == credentials


def test_secrets_show_nowhere() -> None:
    credentials = Credentials.model_validate({"user": "mars", "password": SECRET})
    peer = parse_peer("https://pacs.example/dicom-web", credentials=credentials)
    for text in (repr(peer), str(peer), repr(credentials), str(credentials), peer.url):
        assert SECRET not in text
    assert "mars" not in repr(peer)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"MARSPIPE_PACS_USER": "mars"}, "user and password go together"),
        ({"MARSPIPE_PACS_PASSWORD": SECRET}, "user and password go together"),
        (
            {"MARSPIPE_PACS_USER": "mars", "MARSPIPE_PACS_PASSWORD": SECRET, "MARSPIPE_PACS_TOKEN": SECRET},
            "not both",
        ),
        ({"MARSPIPE_PACS_USER": "ma:rs", "MARSPIPE_PACS_PASSWORD": SECRET}, "no colon"),
    ],
)
def test_credentials_that_do_not_go_together(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        credentials_of_environment(environment)
    assert sentence in str(caught.value)
    assert SECRET not in str(caught.value)


def test_credentials_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "pacs.yaml"
    path.write_text("user: mars\npassword: 007\n")
    path.chmod(0o640)
    with pytest.raises(InputError, match=f"{path}: others may read these credentials"):
        load_credentials(path)
    path.chmod(0o600)
    credentials = load_credentials(path)
    assert credentials.password is not None
    assert (credentials.user, credentials.password.get_secret_value()) == ("mars", "007")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"user: [{SECRET}", "not valid YAML"),
        (SECRET, "a mapping of user and password"),
        (f"passwort: {SECRET}", "Extra inputs"),
        (f"user: mars\npassword: [{SECRET}]", "password"),
    ],
)
def test_damaged_credentials_file_does_not_tell_them(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "pacs.yaml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InputError) as caught:
        load_credentials(path)
    assert str(path) in str(caught.value)
    assert sentence in str(caught.value)
    assert SECRET not in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no-such\.yaml: the credentials cannot be read"):
        load_credentials(tmp_path / "no-such.yaml")
    (tmp_path / "ca.pem").write_text("nothing of that kind")
    with pytest.raises(InputError, match=r"ca\.pem: no PEM file of CA certificates"):
        Tls(ca_path=tmp_path / "ca.pem").context()
    with pytest.raises(InputError, match=r"mine\.pem with .*key\.pem: no certificate"):
        Tls(certificate_path=tmp_path / "mine.pem", key_path=tmp_path / "key.pem").context()


def test_options_come_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARSPIPE_PACS_USER", "environment")
    monkeypatch.setenv("MARSPIPE_PACS_PASSWORD", SECRET)
    monkeypatch.setenv("MARSPIPE_PACS_CA", "environment.pem")
    path = tmp_path / "pacs.yaml"
    path.write_text("token: abc\n")
    path.chmod(0o600)
    url = "https://pacs.example/dicom-web"
    assert named_peer(url).credentials.user == "environment"
    assert named_peer(url).tls.ca_path == Path("environment.pem")
    peer = named_peer(url, credentials_path=str(path), ca_path="option.pem")
    assert (peer.credentials.user, peer.tls.ca_path) == (None, Path("option.pem"))
