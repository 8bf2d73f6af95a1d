"""``marspipe receive`` goes on listening whatever happens to its output, or ends: it is never deaf and alive."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from marspipe.cli.receive import _say
from marspipe.dicom.pacs.receiver import Receiver
from marspipe.dicom.pacs.receiver_settings import ReceiverSettings
from marspipe.errors import RunError
from marspipe.pipeline.pacs.receive import receive
from marspipe.store.landing import LandingZone
from tests.pacs.receive_senders import ReceiverProcess, associated, connect
from tests.pacs.servers import free_ports, wait_until

FOREIGN_ONLY = ("--allow", "SCANNER@10.0.0.0/8")


@contextmanager
def saying_to(output: int, folder: Path, log: Path) -> Iterator[ReceiverProcess]:
    """A receiver that refuses this machine, with its standard output somewhere."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "marspipe", "receive", folder / "zone", "--port", port, "--log", log]
    with (folder / "err.txt").open("w") as err:
        process = subprocess.Popen(
            [*map(str, command), "--min-free-gib", "0", *FOREIGN_ONLY], stdout=output, stderr=err, text=True
        )
    os.close(output)
    try:
        wait_until(lambda: log.exists() and "receiver_started" in log.read_text(), "the receiver has started")
        yield ReceiverProcess(folder, process, port)
    finally:
        process.kill()
        process.wait(30.0)


def is_refused(port: int) -> bool:
    with connect(port) as connection:
        return connection.recv(1) == b""


@pytest.mark.parametrize("kind", ["full disk", "closed pipe"])
def test_an_output_that_nobody_takes(tmp_path: Path, kind: str) -> None:
    if kind == "full disk":
        output, reader = os.open("/dev/full", os.O_WRONLY), None
    else:
        reader, output = os.pipe()
    with saying_to(output, tmp_path, tmp_path / "log.jsonl") as receiver:
        if reader is not None:
            os.close(reader)
        assert [is_refused(receiver.port) for _ in range(3)] == [True] * 3
        wait_until(lambda: len(receiver.events("association_refused")) == 3, "every refusal is logged")
        assert receiver.stop() == 0
        assert (tmp_path / "err.txt").read_text() == ""


def test_a_log_whose_folder_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log.jsonl"
    with saying_to(os.open(tmp_path / "out.txt", os.O_WRONLY | os.O_CREAT), tmp_path, log) as receiver:
        shutil.rmtree(log.parent)
        assert [is_refused(receiver.port) for _ in range(3)] == [True] * 3
        wait_until(lambda: receiver.said.count("refused 127.0.0.1: ") == 3, "every refusal is said")
        assert receiver.stop() == 0
        assert (tmp_path / "err.txt").read_text() == ""


def test_an_output_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    _say("nobody hears this")


# The thread that dies says so, and leaves the connection that it has just accepted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_listener_that_dies_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_ports(1)[0]
    settings = ReceiverSettings(port=port, ae_title="LANDING")
    stop, said = threading.Event(), []

    def say(line: str) -> None:
        said.append(line)
        if "listens on" in line:
            connect(port).close()
        else:
            raise ZeroDivisionError("what nobody has thought of")

    # The refusal of a connection is told of by the listening thread itself.
    monkeypatch.setattr(Receiver, "connection_refusal", lambda *_: "address is not allowed")
    give_up = threading.Timer(20.0, stop.set)
    give_up.start()
    try:
        with (
            LandingZone(str(tmp_path), min_free_bytes=0) as zone,
            pytest.raises(RunError, match=rf"the receiver on 127\.0\.0\.1, port {port} has stopped listening"),
        ):
            receive(zone, settings, stop, say=say)
    finally:
        give_up.cancel()
    assert len(said) == 2


def nothing_is_sent() -> NoReturn:
    raise AssertionError("no instance is sent here")


def test_whether_it_listens() -> None:
    receiver = Receiver(ReceiverSettings(port=0), nothing_is_sent, on_refused=print, on_finished=print)
    assert not receiver.listens
    with receiver:
        assert receiver.listens
    assert not receiver.listens


def test_connections_without_a_thread_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four connections may be open for each association; a sender is taken after more than that have failed."""
    refused: list[str] = []
    start, none_left = threading.Thread.start, threading.Event()

    def limited(thread: Any) -> None:
        if none_left.is_set() and getattr(thread._target, "__name__", "") == "process_request_thread":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with Receiver(
        ReceiverSettings(port=0, max_associations=1),
        nothing_is_sent,
        on_refused=lambda refusal: refused.append(refusal.reason),
        on_finished=lambda _: None,
    ) as receiver:
        none_left.set()
        assert [is_refused(receiver.port) for _ in range(6)] == [True] * 6
        none_left.clear()
        association = associated(receiver.port)
        assert association.is_established
        association.release()
    assert refused == ["connection failed"] * 6
