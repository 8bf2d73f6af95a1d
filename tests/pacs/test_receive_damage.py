"""Senders that are broken, hostile or gone: ``marspipe receive`` drops them, keeps nothing of them, and goes on."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from tests.pacs.receive_senders import (
    ReceiverProcess,
    connect,
    conversation,
    data_set_of,
    encoded,
    instance,
    read_pdu,
    receiving,
    reset,
    send,
)
from tests.pacs.servers import wait_until

TIMEOUT_S = 2
ACCEPTED, DATA = 2, 4
_LAST, _COMMAND = 2, 1


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    with receiving(tmp_path_factory.mktemp("receiver"), "--timeout-s", str(TIMEOUT_S)) as running:
        yield running
        assert running.stop() == 0
        running.is_clean()


@pytest.fixture(scope="module")
def pdus(receiver: ReceiverProcess) -> list[bytes]:
    """What a good sender writes: request, command, a data set in several PDUs, release."""
    written = conversation(receiver.port, instance(1, rows=400, columns=1000))
    assert [pdu[0] for pdu in written] == [1, *[DATA] * (len(written) - 2), 5] and len(written) > 8
    next(iter(receiver.zone.rglob("*.dcm"))).unlink()
    return written


@pytest.fixture(autouse=True)
def good_after_bad(receiver: ReceiverProcess, pdus: list[bytes], request: pytest.FixtureRequest) -> Iterator[None]:
    """Afterwards nothing is left, and a good sender works."""
    yield
    wait_until(lambda: not receiver.parts(), "no part is left")
    assert not receiver.instances()
    dataset = instance(9)
    assert send(receiver.port, [dataset]) == [0]
    ((name, content),) = receiver.instances().items()
    assert data_set_of(content) == encoded(dataset)
    (receiver.zone / name).unlink()
    wait_until(lambda: receiver.threads() <= 3, "the threads of all connections have ended")


def accepted(port: int, request: bytes) -> socket.socket:
    """Return a connection with an association."""
    connection = connect(port)
    connection.sendall(request)
    assert read_pdu(connection)[:1] == bytes([ACCEPTED])
    return connection


def write(connection: socket.socket, content: bytes) -> None:
    """Write to a receiver that may have closed the connection."""
    with suppress(ConnectionError):
        connection.sendall(content)


def is_dropped(connection: socket.socket) -> None:
    """Assert that the receiver ends the connection, with an abort or without; nothing is acknowledged."""
    while pdu := read_pdu(connection):
        assert pdu[0] in (3, 7), "a rejection or an abort"
    connection.close()


def data_pdu(content: bytes, flags: int, context: int = 1) -> bytes:
    """A P-DATA-TF PDU with one fragment: PS3.8 9.3.5."""
    fragment = struct.pack(">LBB", len(content) + 2, context, flags) + content
    return struct.pack(">BxL", DATA, len(fragment)) + fragment


def test_bytes_that_are_no_dicom(receiver: ReceiverProcess, rng: np.random.Generator) -> None:
    for content in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        *(rng.bytes(4096) for _ in range(3)),
    ):
        with connect(receiver.port) as connection:
            write(connection, content)
            connection.shutdown(socket.SHUT_WR)
            is_dropped(connection)


def test_a_request_that_is_cut(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    for length in (0, 1, 5, 6, 7, 74, len(pdus[0]) // 2, len(pdus[0]) - 1):
        for end in (socket.socket.close, reset):
            connection = connect(receiver.port)
            write(connection, pdus[0][:length])
            end(connection)


def test_a_request_with_damaged_bytes(receiver: ReceiverProcess, pdus: list[bytes], rng: np.random.Generator) -> None:
    for _ in range(30):
        damaged = bytearray(pdus[0])
        for place in rng.integers(6, len(damaged), rng.integers(1, 8)):
            damaged[place] = rng.integers(256)
        with connect(receiver.port) as connection:
            write(connection, bytes(damaged))
            connection.shutdown(socket.SHUT_WR)
            while pdu := read_pdu(connection):
                assert pdu[0] in (2, 3, 7)


def test_a_command_with_damaged_bytes(receiver: ReceiverProcess, pdus: list[bytes], rng: np.random.Generator) -> None:
    for _ in range(30):
        damaged = bytearray(pdus[1])
        for place in rng.integers(10, len(damaged), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        with accepted(receiver.port, pdus[0]) as connection:
            write(connection, bytes(damaged) + pdus[2])
            connection.shutdown(socket.SHUT_WR)
            while read_pdu(connection):
                pass


def test_a_data_set_that_is_cut(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    whole = b"".join(pdus[1:-1])
    for length in (1, len(pdus[1]), len(pdus[1]) + 100, len(whole) // 2, len(whole) - 1):
        for end in (socket.socket.close, reset):
            connection = accepted(receiver.port, pdus[0])
            write(connection, whole[:length])
            end(connection)
    # Released or asked for another association in the middle of a message.
    for following in (pdus[-1], pdus[0]):
        with accepted(receiver.port, pdus[0]) as connection:
            write(connection, b"".join(pdus[1:4]) + following)
            connection.shutdown(socket.SHUT_WR)
            while pdu := read_pdu(connection):
                assert pdu[0] in (6, 7)


def test_a_pdu_of_any_length_is_not_collected(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    before = receiver.peak_begins()
    for kind in (1, DATA):
        with connect(receiver.port) if kind == 1 else accepted(receiver.port, pdus[0]) as connection:
            write(connection, struct.pack(">BxL", kind, 0xFFFFFFFF))
            for _ in range(64):
                write(connection, bytes(1 << 20))
            is_dropped(connection)
    assert receiver.memory_bytes("VmHWM") - before < 8 << 20


def test_a_command_without_end_is_not_collected(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    before = receiver.peak_begins()
    with accepted(receiver.port, pdus[0]) as connection:
        for _ in range(500):
            write(connection, data_pdu(bytes(100_000), _COMMAND))
        is_dropped(connection)
    assert receiver.memory_bytes("VmHWM") - before < 8 << 20


def test_messages_that_wait_for_no_answer_are_not_collected(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    """A data set that ends before it is whole, again and again, faster than it is refused."""
    before = receiver.peak_begins()
    with accepted(receiver.port, pdus[0]) as connection:
        for _ in range(2000):
            write(connection, pdus[1] + data_pdu(b"\x08\0", _LAST))
        write(connection, pdus[-1])
        connection.shutdown(socket.SHUT_WR)
        while read_pdu(connection):
            pass
    assert receiver.memory_bytes("VmHWM") - before < 8 << 20


def test_fragments_out_of_order(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    no_request = data_pdu(b"\0" * 100, _COMMAND | _LAST)
    for content in (pdus[2], pdus[-2], no_request, data_pdu(b"", _COMMAND | _LAST), data_pdu(b"", _LAST)):
        with accepted(receiver.port, pdus[0]) as connection:
            write(connection, content + pdus[1])
            connection.shutdown(socket.SHUT_WR)
            is_dropped(connection)
    with connect(receiver.port) as connection:  # data before there is an association
        write(connection, pdus[1])
        is_dropped(connection)


def test_a_context_that_was_not_negotiated(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    with accepted(receiver.port, pdus[0]) as connection:
        command = pdus[1][12:]
        write(connection, data_pdu(command, _COMMAND | _LAST, context=77) + data_pdu(b"x", _LAST, context=77))
        is_dropped(connection)


@pytest.mark.parametrize("silent_after", ["nothing", "half a request", "a request", "half a PDU", "half a data set"])
def test_a_sender_that_falls_silent_is_dropped(receiver: ReceiverProcess, pdus: list[bytes], silent_after: str) -> None:
    said = {
        "nothing": b"",
        "half a request": pdus[0][:40],
        "a request": pdus[0],
        "half a PDU": pdus[0] + pdus[1] + pdus[2][:1000],
        "half a data set": pdus[0] + b"".join(pdus[1:4]),
    }[silent_after]
    with connect(receiver.port) as connection:
        write(connection, said)
        while read_pdu(connection):
            pass


def test_a_sender_that_goes_on_drop_by_drop_is_dropped(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    with connect(receiver.port) as connection:
        connection.settimeout(0.25)
        for byte in pdus[0][:80]:
            try:
                connection.sendall(bytes([byte]))
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("80 bytes in 20 s were let through")


def test_many_connections_at_once(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    connections = [connect(receiver.port) for _ in range(60)]
    for connection in connections:
        write(connection, pdus[0][:10])
    for connection in connections:
        reset(connection)


def test_what_is_told_of_all_this(receiver: ReceiverProcess, pdus: list[bytes]) -> None:
    with accepted(receiver.port, pdus[0]) as connection:
        write(connection, pdus[1])
    wait_until(lambda: receiver.events("association_finished")[-1]["end"] == "aborted", "the end is logged")
    ends = {event["end"] for event in receiver.events("association_finished")}
    assert ends == {"released", "aborted"}
    receiver.is_clean()
