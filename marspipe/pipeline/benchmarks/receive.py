"""``marspipe receive`` measured: very many small instances from several senders at once, nothing lost, memory flat."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from marspipe.bench.measure import Result
from marspipe.dicom.pacs.samples import sample
from marspipe.errors import EnvironmentMissingError, RunError

MIB = 1 << 20
MEMORY_AFTER = 5000
GROWTH_BAR_MIB = 16

_LOOK_S = 0.2
_START_S = 60.0


def bench_receive(instances: int = 20_000, senders: int = 4) -> list[Result]:
    """Send small instances to a receiver in a process of its own, from DCMTK's storescu in several.

    Everything is on the local disk, in the folder for temporary files: what is sent, and the landing zone, which is
    synced for every instance. Afterwards every instance is looked up and its hash compared with what was sent.

    Parameters
    ----------
    instances : int
        In all.
    senders : int
        Processes that send at once, a series each.

    Raises
    ------
    EnvironmentMissingError
        If there is no storescu.
    RunError
        If the receiver does not start or does not end as it should, or a sender fails.
    """
    storescu = shutil.which("storescu")
    if storescu is None:
        raise EnvironmentMissingError("storescu is not installed, which sends the instances: apt install dcmtk")
    counts = [instances * (n + 1) // senders - instances * n // senders for n in range(senders)]
    with tempfile.TemporaryDirectory(prefix="marspipe-bench-") as name:
        folder = Path(name)
        for sender, count in enumerate(counts):
            _write(folder / f"sender-{sender}", sender, count)
        receiver = _Receiver(folder)
        try:
            start_mib = receiver.memory_mib()
            begun = time.perf_counter()
            memory = receiver.take(storescu, [folder / f"sender-{sender}" for sender in range(senders)])
            seconds = time.perf_counter() - begun
            end_mib, peak_mib, cpu_seconds = receiver.memory_mib(), receiver.memory_mib("VmHWM"), receiver.cpu_seconds()
        finally:
            receiver.stop()
        right, data_bytes = _stored(folder / "zone", counts)
        stored = sum(1 for _ in (folder / "zone").rglob("*.dcm"))
    after_mib = next((mib for count, mib in memory if count >= min(MEMORY_AFTER, instances // 2)), end_mib)
    figures = {
        "instances_per_s": instances / seconds,
        "mb_per_second": data_bytes / 1e6 / seconds,
        "lost": float(instances - right),
        "beyond_those_sent": float(stored - right),
        "start_mib": start_mib,
        "after_5000_mib": after_mib,
        "peak_mib": peak_mib,
        "end_mib": end_mib,
        "growth_after_5000_mib": peak_mib - after_mib,
    }
    bars = {"lost": "0", "beyond_those_sent": "0", "growth_after_5000_mib": f"< {GROWTH_BAR_MIB}"}
    size = f"{instances} instances of {data_bytes / instances / 1024:.1f} KiB, {senders} senders, synced to local disk"
    return [Result("receive: C-STORE -> landing zone", size, seconds, cpu_seconds, figures, bars)]


class _Receiver:
    """``marspipe receive`` as a process."""

    def __init__(self, folder: Path) -> None:
        self._zone, self._said = folder / "zone", folder / "said.txt"
        command = [sys.executable, "-m", "marspipe", "receive", str(self._zone), "--port", "0", "--min-free-gib", "0"]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        give_up = time.monotonic() + _START_S
        while (match := re.search(r", port (\d+)", self._said.read_text())) is None:
            if self._process.poll() is not None or time.monotonic() > give_up:
                self._process.kill()
                raise RunError(f"the receiver does not start: {self._last_line()}")
            time.sleep(_LOOK_S)
        self._port = match[1]

    def take(self, storescu: str, folders: Sequence[Path]) -> list[tuple[int, float]]:
        """Let senders send, and return how many instances were there with how much memory, MiB, from time to time."""

        def send(folder: Path) -> None:
            command = [storescu, "-aec", "MARSPIPE", "+sd", "127.0.0.1", self._port, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
                raise RunError(f"a sender ended with code {done.returncode}: {said}")

        seen = []
        with ThreadPoolExecutor(len(folders)) as pool:
            sending = [pool.submit(send, folder) for folder in folders]
            while not all(one.done() for one in sending):
                seen.append((sum(len(os.listdir(series)) for series in self._zone.glob("[0-9]*/*")), self.memory_mib()))
                time.sleep(_LOOK_S)
            for one in sending:
                one.result()
        return seen

    def memory_mib(self, name: str = "VmRSS") -> float:
        """Return a figure of the kernel's, MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * 1024 / MIB if found else 0.0

    def cpu_seconds(self) -> float:
        """Return the processor time of all its threads, s."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it as systemd does."""
        self._process.terminate()
        try:
            code = self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RunError("the receiver does not stop") from None
        if code:
            raise RunError(f"the receiver ended with code {code}: {self._last_line()}")

    def _last_line(self) -> str:
        return (self._said.read_text().strip().splitlines() or ["nothing said"])[-1]


def _write(folder: Path, series: int, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06d}.dcm").write_bytes(sample(series, number).as_file())


def _stored(zone: Path, counts: Sequence[int]) -> tuple[int, int]:
    """Return how many instances lie in the zone as they were sent, and the bytes of their data sets."""
    right = data_bytes = 0
    for series, count in enumerate(counts):
        for number in range(count):
            sent = sample(series, number)
            path = zone / sent.study_uid / sent.series_uid / f"{sent.sop_uid}.dcm"
            data_bytes += len(sent.data_set)
            if path.exists():
                found = path.read_bytes()[-len(sent.data_set) :]
                right += hashlib.sha256(found).digest() == hashlib.sha256(sent.data_set).digest()
    return right, data_bytes
