"""A receiver in a process of its own, instances to send to it, and senders."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RawDataStorage
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode

from marspipe.dicom.pacs.checkpoint import Checkpoint
from marspipe.dicom.pacs.quiet import silence
from tests.pacs.servers import tool, wait_until
from tests.store.landing_content import content, parts

PROJECT = Path(__file__).resolve().parents[2]
OUR_AE, SENDER_AE = "MARSPIPE", "SCANNER"
STUDY, SERIES = "1.2.826.1", "1.2.826.1.1"
# What must never be in a log or a message.
PRIVATE = ("Doe^Secret", "ID-4711", "19610203", "ACC-0815")


def instance(
    number: int | str, *, sender: int = 0, rows: int = 1, columns: int = 2048, sop_class: str = RawDataStorage
) -> Dataset:
    """A small instance of a patient; its pixels depend on its number."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = UID(f"{SERIES}.{sender}.{number}")
    dataset.StudyDate, dataset.AccessionNumber = PRIVATE[2:]
    dataset.PatientName, dataset.PatientID = PRIVATE[:2]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = UID(STUDY), UID(f"{SERIES}.{sender}")
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = rows, columns, 16
    chance = np.random.default_rng([sender, *str(number).encode()])
    dataset.add_new("PixelData", "OW", chance.integers(0, 4096, rows * columns, dtype=np.uint16).tobytes())
    return dataset


def write(path: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write an instance as a file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def encoded(dataset: Dataset) -> bytes:
    """The data set as it travels: explicit VR, little endian."""
    return encode(dataset, False, True)  # type: ignore[return-value]


def data_set_of(content: bytes) -> bytes:
    """What follows the file meta information."""
    assert content[128:140] == b"DICM\x02\0\0\0UL\x04\0"
    return content[144 + int.from_bytes(content[140:144], "little") :]


@dataclass
class ReceiverProcess:
    """``marspipe receive`` as a process."""

    folder: Path
    process: subprocess.Popen[str]
    port: int

    @property
    def zone(self) -> Path:
        return self.folder / "zone"

    @property
    def said(self) -> str:
        return (self.folder / "out.txt").read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]

    def instances(self) -> dict[str, bytes]:
        return content(self.zone)

    def parts(self) -> list[Path]:
        return parts(self.zone)

    def memory_bytes(self, name: str = "VmRSS") -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])  # type: ignore[index]

    def peak_begins(self) -> int:
        """Let VmHWM, the peak of its memory, count from now; return what it is now, B."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory_bytes("VmHWM")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30.0)

    def is_clean(self) -> None:
        """Assert that nothing private was said or logged, and nothing was printed as an error."""
        told = self.said + (self.folder / "log.jsonl").read_text() + (self.folder / "err.txt").read_text()
        assert not [word for word in (*PRIVATE, STUDY) if word in told]
        assert (self.folder / "err.txt").read_text() == ""


@contextmanager
def receiving(folder: Path, *options: str | Path) -> Iterator[ReceiverProcess]:
    """Run a receiver on a free port, on a disk that may be nearly full."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "marspipe",
        "receive",
        folder / "zone",
        "--port",
        "0",
        "--log",
        folder / "log.jsonl",
    ]
    with (folder / "out.txt").open("w") as out, (folder / "err.txt").open("w") as err:
        process = subprocess.Popen(
            [*map(str, command), "--port", "0", "--min-free-gib", "0", *map(str, options)],
            stdout=out,
            stderr=err,
            text=True,
        )
    running = ReceiverProcess(folder, process, 0)
    try:
        wait_until(lambda: "listens on" in running.said or process.poll() is not None, "the receiver listens")
        assert process.poll() is None, (folder / "err.txt").read_text()
        running.port = int(re.search(r"port (\d+)", running.said)[1])  # type: ignore[index]
        yield running
    finally:
        process.kill()
        process.wait(30.0)


def associated(port: int, *, calling: str = SENDER_AE, called: str = OUR_AE, classes: Sequence[str] = (RawDataStorage,),
               syntaxes: Sequence[str] = (ExplicitVRLittleEndian,), tls_args: Any = None, host: str = "127.0.0.1",
               handlers: Sequence[Any] = ()) -> Any:  # fmt: skip
    """Return an association of pynetdicom, established or not."""
    silence()
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 20.0
    for uid in classes:
        entity.add_requested_context(uid, list(syntaxes))
    own = (evt.EVT_CONN_OPEN, lambda event: setattr(event.assoc, "_reactor_checkpoint", Checkpoint(event.assoc)))
    return entity.associate(host, port, ae_title=called, tls_args=tls_args, evt_handlers=[own, *handlers])


def send(port: int, datasets: Sequence[Dataset], **how: Any) -> list[int]:
    """Send instances over one association, and return the statuses."""
    association = associated(port, classes=sorted({str(one.SOPClassUID) for one in datasets}), **how)
    assert association.is_established
    try:
        return [association.send_c_store(with_meta(one)).Status for one in datasets]
    finally:
        association.release()


def with_meta(dataset: Dataset) -> Dataset:
    """Return a data set that says how it is encoded."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def storescu(port: int, folder: Path, *options: str | Path) -> subprocess.Popen[str]:
    """Start DCMTK's storescu with the files of a folder."""
    where = ["-aet", SENDER_AE, "-aec", OUR_AE, "127.0.0.1", port, folder]
    return _started([tool("storescu"), "+sd", *options, *where])


def pynetdicom_sender(port: int, folder: Path) -> subprocess.Popen[str]:
    """Start a process that sends the files of a folder by pynetdicom."""
    return _started([sys.executable, "-m", "tests.pacs.send_folder", port, folder])


def _started(command: Sequence[str | Path | int]) -> subprocess.Popen[str]:
    words = [*map(str, command)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT)


def conversation(port: int, dataset: Dataset) -> list[bytes]:
    """Send an instance, and return the PDUs that the sender wrote: request, data .., release."""
    sent: list[bytes] = []
    association = associated(port, handlers=[(evt.EVT_DATA_SENT, lambda event: sent.append(bytes(event.data)))])
    assert association.is_established
    assert association.send_c_store(with_meta(dataset)).Status == 0
    association.release()
    return sent


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20.0)


def read_pdu(connection: socket.socket) -> bytes:
    """Return the next PDU of the receiver; nothing if it has closed the connection."""
    head = _read(connection, 6)
    return head + _read(connection, int.from_bytes(head[2:6], "big")) if len(head) == 6 else b""


def reset(connection: socket.socket) -> None:
    """End a connection as a crashed machine does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _read(connection: socket.socket, length: int) -> bytes:
    content = b""
    with suppress(ConnectionError):
        while len(content) < length:
            piece = connection.recv(length - len(content))
            if not piece:
                break
            content += piece
    return content


def read(content: bytes) -> Dataset:
    return dcmread(io.BytesIO(content))
