"""What goes wrong with a peer is one sentence that names it, and holds nothing of a patient or a secret."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from marspipe.dicom.pacs.client import PeerRefusedError, PeerUnavailableError, Query
from marspipe.dicom.pacs.connect import connect
from marspipe.dicom.pacs.credentials import Credentials
from marspipe.dicom.pacs.peer import Tls, parse_peer
from marspipe.errors import MarspipeError
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.peers import echo
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from tests.pacs.conftest import N_INSTANCES, SLICES
from tests.pacs.servers import (
    ORTHANC_AE,
    Certificate,
    Orthanc,
    free_ports,
    make_certificate,
    orthanc,
    storescp,
    tls_settings,
)
from tests.pacs.tls_front import tls_front

USER = ("mars", "red-planet-4")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    return {name: make_certificate(folder, name) for name in ("server", "client", "other")}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: dict[str, Certificate]) -> Iterator[Orthanc]:
    """An Orthanc that asks for a password and speaks DICOM over TLS with peers whose certificate it knows."""
    settings = tls_settings(certificates["server"], certificates["client"])
    with orthanc(tmp_path_factory.mktemp("guarded"), user=USER, **settings) as server:
        yield server


def sentence(error: MarspipeError, *, names: str) -> str:
    text = str(error)
    assert names in text
    assert "\n" not in text
    assert all(private not in text for private in (USER[1], "Anonymous", "stone-7"))
    return text


def test_wrong_called_ae_title(pacs: Orthanc) -> None:
    url = f"dicom://ELSEWHERE@127.0.0.1:{pacs.dicom_port}"
    with pytest.raises(PeerRefusedError) as caught:
        echo(parse_peer(url))
    assert "does not know the AE title 'ELSEWHERE'" in sentence(caught.value, names=url)
    assert caught.value.exit_code == 2


def test_nobody_there(dicom_folder: Path, progress: Progress, never: Patience) -> None:
    (port,) = free_ports(1)
    for url in (f"dicom://{ORTHANC_AE}@127.0.0.1:{port}", f"http://127.0.0.1:{port}/dicom-web"):
        with pytest.raises(PeerUnavailableError) as caught:
            echo(parse_peer(url))
        assert f"port {port}?" in sentence(caught.value, names=url)
        done = publish(str(dicom_folder), parse_peer(url), progress=progress, patience=never)
        assert done.error is not None
        assert f"0 of {N_INSTANCES} instances are there" in done.error


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(PeerRefusedError, match=r"there is no host 'nowhere\.invalid'"):
        echo(parse_peer("dicom://PACS@nowhere.invalid:104"))


def test_not_a_dicom_port(pacs: Orthanc) -> None:
    url = f"dicom://{ORTHANC_AE}@127.0.0.1:{pacs.http_port}"
    with pytest.raises(PeerUnavailableError) as caught:
        echo(parse_peer(url, timeout_s=5.0))
    assert "ended the connection without an answer" in sentence(caught.value, names=url)


def test_not_a_dicomweb_path(pacs: Orthanc) -> None:
    url = f"http://127.0.0.1:{pacs.http_port}/no-such-path"
    with pytest.raises(PeerRefusedError, match="no DICOMweb service under this path") as caught:
        echo(parse_peer(url))
    sentence(caught.value, names=url)


@pytest.mark.parametrize("credentials", [None, {"user": USER[0], "password": "wrong"}, {"token": "wrong"}])
def test_wrong_credentials(guarded: Orthanc, credentials: dict[str, str] | None) -> None:
    peer = parse_peer(guarded.web_url, credentials=Credentials.model_validate(credentials or {}))
    with pytest.raises(PeerRefusedError) as caught:
        echo(peer)
    expected = "asks for credentials" if credentials is None else "does not accept these credentials"
    assert expected in sentence(caught.value, names=guarded.web_url)
    assert "wrong" not in str(caught.value)


def test_right_credentials(guarded: Orthanc) -> None:
    echo(
        parse_peer(
            guarded.web_url, credentials=Credentials.model_validate(dict(zip(("user", "password"), USER, strict=True)))
        )
    )


def test_dicom_over_tls(
    guarded: Orthanc,
    certificates: dict[str, Certificate],
    dicom_folder: Path,
    progress: Progress,
    never: Patience,
) -> None:
    server, client = certificates["server"], certificates["client"]
    url = f"dicoms://{ORTHANC_AE}@127.0.0.1:{guarded.dicom_port}"
    tls = Tls(server.certificate, client.certificate, client.key)
    done = publish(str(dicom_folder / "bin-00"), parse_peer(url, tls=tls), progress=progress, patience=never)
    assert done.error is None
    assert done.found == done.sent == guarded.n_instances


def test_tls_without_trust(guarded: Orthanc, certificates: dict[str, Certificate]) -> None:
    server, client, other = (certificates[name] for name in ("server", "client", "other"))
    url = f"dicoms://{ORTHANC_AE}@127.0.0.1:{guarded.dicom_port}"
    with pytest.raises(PeerRefusedError) as caught:
        echo(parse_peer(url, tls=Tls(other.certificate, client.certificate, client.key)))
    assert "certificate is not trusted" in sentence(caught.value, names=url)
    assert "--tls-ca" in str(caught.value)
    with pytest.raises((PeerRefusedError, PeerUnavailableError)) as caught:
        echo(parse_peer(url, tls=Tls(server.certificate)))
    assert "--tls-certificate" in sentence(caught.value, names=url)


def test_tls_where_there_is_none(pacs: Orthanc) -> None:
    url = f"dicoms://{ORTHANC_AE}@127.0.0.1:{pacs.dicom_port}"
    with pytest.raises((PeerRefusedError, PeerUnavailableError)) as caught:
        echo(parse_peer(url, timeout_s=5.0))
    sentence(caught.value, names=url)


def test_https(
    pacs: Orthanc,
    certificates: dict[str, Certificate],
    dicom_folder: Path,
    progress: Progress,
    never: Patience,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, other = certificates["server"], certificates["other"]
    # What the environment says of others must not take the place of what we were given.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.certificate))
    with tls_front(pacs.http_port, server) as port:
        url = f"https://127.0.0.1:{port}/dicom-web"
        peer = parse_peer(url, tls=Tls(server.certificate))
        assert peer.secure
        done = publish(str(dicom_folder), peer, progress=progress, patience=never)
        assert (done.error, done.found, pacs.n_instances) == (None, N_INSTANCES, N_INSTANCES)
        with pytest.raises(PeerRefusedError) as caught:
            echo(parse_peer(url, tls=Tls(other.certificate)))
        assert "no trusted TLS connection" in sentence(caught.value, names=url)


def test_refused_transfer_syntax(rle_folder: Path, tmp_path: Path, progress: Progress, never: Patience) -> None:
    with storescp(tmp_path / "received") as server:
        peer = parse_peer(server.url)
        done = publish(str(rle_folder), peer, progress=progress, patience=never)
        assert done.error is not None
        assert f"{server.url}: {SLICES} of {SLICES} instances failed: {SLICES} x CT Image Storage in RLE" in done.error
        assert "--decompress" in done.error
        assert not server.files
        done = publish(str(rle_folder), peer, progress=progress, patience=never, decompress=True)
        assert (done.error, done.sent) == (None, SLICES)
        sent = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, server.files)}
        for path in rle_folder.iterdir():
            own = pydicom.dcmread(path)
            assert np.array_equal(sent[own.SOPInstanceUID].pixel_array, own.pixel_array)
            assert not sent[own.SOPInstanceUID].file_meta.TransferSyntaxUID.is_compressed


def test_compressed_files_stay_so(rle_folder: Path, tmp_path: Path, progress: Progress, never: Patience) -> None:
    with storescp(tmp_path / "received", "+xa") as server:
        done = publish(str(rle_folder), parse_peer(server.url), progress=progress, patience=never)
        assert (done.error, done.sent, done.found, len(server.files)) == (None, SLICES, None, SLICES)
        for one in map(pydicom.dcmread, server.files):
            own = pydicom.dcmread(next(p for p in rle_folder.iterdir() if pydicom.dcmread(p) == one))
            assert (one.file_meta.TransferSyntaxUID, one.PixelData) == (RLELossless, own.PixelData)


def test_a_peer_of_implicit_vr_only(dicom_folder: Path, tmp_path: Path, progress: Progress, never: Patience) -> None:
    with storescp(tmp_path / "received", "+xi") as server:
        done = publish(str(dicom_folder), parse_peer(server.url), progress=progress, patience=never)
        assert (done.error, done.sent, len(server.files)) == (None, N_INSTANCES, N_INSTANCES)
        own = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, dicom_folder.rglob("*.dcm"))}
        for one in map(pydicom.dcmread, server.files):
            assert one.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
            assert one.PixelData == own[one.SOPInstanceUID].PixelData


def test_full_disk(dicom_folder: Path, tmp_path: Path, progress: Progress, hasty: Patience) -> None:
    """storescp that cannot write answers 0xA700 (out of resources), which is tried again, and then said."""
    with storescp(tmp_path / "received") as server:
        shutil.rmtree(server.folder)
        done = publish(str(dicom_folder), parse_peer(server.url), progress=progress, patience=hasty)
    assert done.state == "failed"
    assert done.error is not None
    assert f"{server.url}: {N_INSTANCES} of {N_INSTANCES} instances failed" in done.error
    assert "0xA700, out of resources" in done.error


def test_a_class_that_is_not_taken(dicom_folder: Path, tmp_path: Path, progress: Progress, never: Patience) -> None:
    """storescp knows all public classes; of a private one it takes nothing."""
    dataset = pydicom.dcmread(next(dicom_folder.rglob("*.dcm")))
    private = "1.2.826.0.1.3680043.8.498.1"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = private
    (tmp_path / "private").mkdir()
    dataset.save_as(tmp_path / "private" / "one.dcm")
    with storescp(tmp_path / "received") as server, pytest.raises(PeerRefusedError) as caught:
        publish(str(tmp_path / "private"), parse_peer(server.url), progress=progress, patience=never)
    assert f"the PACS does not offer {private}" in sentence(caught.value, names=server.url)


def test_nothing_private_is_logged(
    pacs: Orthanc,
    dicom_folder: Path,
    progress: Progress,
    never: Patience,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("pynetdicom", "dicomweb_client", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    for url in (pacs.dicom_url, pacs.web_url):
        peer = parse_peer(url)
        publish(str(dicom_folder), peer, progress=progress, patience=never)
        with connect(peer) as client:
            assert len(client.find_series(Query(patient_id="stone-7"))) == 4
        pacs.clear()
    said = caplog.text + "".join(capfd.readouterr())
    assert "stone-7" not in said
    assert "Anonymous" not in said
    assert not [r for r in caplog.records if r.name.startswith(("pynetdicom", "dicomweb_client", "urllib3"))]
