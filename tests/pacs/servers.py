"""Real PACS for tests: Orthanc and DCMTK's storescp as ordinary processes on free ports of the loopback."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import pydicom

from tests.lacking import lacking

ORTHANC_AE, STORESCP_AE, OUR_AE = "ORTHANC", "STORESCP", "MARSPIPE"
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PATIENCE_S = 30.0
_FIRST_PORT, _PORTS = 12000, 1000


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody has, nor is given by the kernel for a connection before they are used."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(_FIRST_PORT, max(given, _FIRST_PORT + _PORTS))
        with socket.socket() as one, suppress(OSError):
            one.bind(("", port))
            found.add(port)
    return list(found)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until something is so; fail naming it if it does not become so."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {_PATIENCE_S:g} s in vain: {what}")
        time.sleep(0.02)


def tool(name: str) -> str:
    """Return the path of a program of the system."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        lacking("PACS", f"{name} is not installed")
    return path


def listens(port: int) -> bool:
    """Tell whether something takes TCP connections on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Certificate:
    """A certificate of 127.0.0.1 and its key, PEM; ``both`` holds the two."""

    certificate: Path
    key: Path
    both: Path


def make_certificate(folder: Path, name: str, ca: Certificate | None = None) -> Certificate:
    """Make a certificate that a CA has signed, or that is its own CA."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = Certificate(*(folder / f"{name}-{part}.pem" for part in ("certificate", "key", "both")))
    request = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", paths.key]
    address, signed = "subjectAltName=IP:127.0.0.1", ["-days", "2", "-out", paths.certificate]
    if ca is None:
        _openssl(*request, "-x509", "-addext", address, *signed)
    else:
        asked, extensions = folder / f"{name}-request.pem", folder / f"{name}-extensions"
        extensions.write_text(address)
        _openssl(*request, "-out", asked)
        by = ["-CA", ca.certificate, "-CAkey", ca.key, "-CAcreateserial"]
        _openssl("x509", "-req", "-in", asked, *by, "-extfile", extensions, *signed)
    paths.both.write_bytes(paths.certificate.read_bytes() + paths.key.read_bytes())
    return paths


def _openssl(*arguments: str | Path) -> None:
    done = run([tool("openssl"), *arguments])
    assert done.returncode == 0, done.stderr


@dataclass
class Orthanc:
    """An Orthanc with DICOMweb; its storage outlives :meth:`kill` and :meth:`start`."""

    folder: Path
    dicom_port: int
    http_port: int
    settings: dict[str, Any] = field(default_factory=dict)
    user: tuple[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def dicom_url(self) -> str:
        return f"dicom://{ORTHANC_AE}@127.0.0.1:{self.dicom_port}"

    @property
    def web_url(self) -> str:
        return f"{self._http}/dicom-web"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [str(DICOMWEB_PLUGIN)],
            "DicomAet": ORTHANC_AE,
            "DicomCheckCalledAet": True,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": self.user is not None,
            "RegisteredUsers": dict([self.user]) if self.user else {},
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "SyncStorageArea": True,
            **self.settings,
        }
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [tool("Orthanc"), str(self.folder / "orthanc.json")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._is_up, f"Orthanc on port {self.http_port}; see {self.folder / 'orthanc.log'}")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "orthanc.log").read_text(errors="replace")
        try:
            self.get("/system")
        except (URLError, ConnectionError):
            return False
        return listens(self.dicom_port)

    def kill(self) -> None:
        """End it at once, as a loss of power would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_PATIENCE_S)
            self.process = None

    def get(self, path: str) -> Any:
        """Return an answer of the REST interface."""
        return json.loads(self._ask(Request(f"{self._http}{path}")))

    def file(self, orthanc_id: str) -> bytes:
        """Return an instance as the bytes of its DICOM file."""
        return self._ask(Request(f"{self._http}/instances/{orthanc_id}/file"))

    def held(self) -> dict[str, pydicom.Dataset]:
        """Return the data sets that it holds, by SOP Instance UID."""
        files = [pydicom.dcmread(io.BytesIO(self.file(one))) for one in self.get("/instances")]
        return {str(one.SOPInstanceUID): one for one in files}

    def delete(self, path: str) -> None:
        self._ask(Request(f"{self._http}{path}", method="DELETE"))

    def put(self, path: str, content: dict[str, Any]) -> None:
        self._ask(Request(f"{self._http}{path}", data=json.dumps(content).encode(), method="PUT"))

    @property
    def n_instances(self) -> int:
        return int(self.get("/statistics")["CountInstances"])

    def clear(self) -> None:
        for patient in self.get("/patients"):
            self.delete(f"/patients/{patient}")

    @property
    def _http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def _ask(self, request: Request) -> bytes:
        if self.user:
            request.add_header("Authorization", f"Basic {b64encode(':'.join(self.user).encode()).decode()}")
        opener = build_opener(ProxyHandler({}))  # whatever proxy the environment names
        try:
            with opener.open(request, timeout=10.0) as answer:
                return answer.read()  # type: ignore[no-any-return]
        except HTTPError as error:
            error.close()
            raise


def tls_settings(own: Certificate, trusted: Certificate) -> dict[str, Any]:
    """Return Orthanc's settings for DICOM over TLS with peers of one certificate."""
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(own.certificate),
        "DicomTlsPrivateKey": str(own.key),
        "DicomTlsTrustedCertificates": str(trusted.certificate),
    }


@contextmanager
def orthanc(folder: Path, *, user: tuple[str, str] | None = None, **settings: Any) -> Iterator[Orthanc]:
    """Run an Orthanc; settings are those of its configuration."""
    tool("Orthanc")
    if not DICOMWEB_PLUGIN.exists():
        lacking("PACS", "the DICOMweb plugin of Orthanc (orthanc-dicomweb) is not installed")
    server = Orthanc(folder, *free_ports(2), settings, user)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # stopping takes seconds, and its folder is a test's own


@dataclass
class Storescp:
    """DCMTK's storescp: takes instances into a folder, and can do nothing else but C-ECHO."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"dicom://{STORESCP_AE}@127.0.0.1:{self.port}"

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())


@contextmanager
def storescp(folder: Path, *arguments: str, fork: bool = True) -> Iterator[Storescp]:
    """Run a storescp; without ``fork`` it serves one association at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    mode = "--fork" if fork else "--single-process"
    command = [tool("storescp"), mode, "--aetitle", STORESCP_AE, "-od", str(folder), *arguments, str(port)]
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: listens(port), f"storescp on port {port}")
        yield Storescp(folder, port, process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_PATIENCE_S)


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a witness, and return what it said."""
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
