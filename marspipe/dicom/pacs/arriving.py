"""What a peer stores with us, on its way to a file: data sets of any size in the memory of one PDU.

pynetdicom keeps a message's data set in memory; here it goes to an :class:`Arrival` as it comes, and is dropped as it
comes where there is no room. So the disk is bounded while an instance arrives, not when it has. What a peer may make
us keep besides is bounded too: the size of a PDU and of a command, and the messages that wait.
"""

from __future__ import annotations

import io
import queue
import socket
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.transport import AssociationSocket

from marspipe import __version__
from marspipe.dicom.uid import IMPLEMENTATION_CLASS_UID

# The largest PDU that is read: a request with all 128 presentation contexts fits.
MAX_PDU_BYTES = 1 << 20
_MAX_COMMAND_BYTES = 1 << 16
# Data sets that are no instances: reports on commitment, and lists of what could not be sent.
_MAX_OTHER_BYTES = 1 << 20
# A peer waits for the answer to one message before it sends the next: PS3.7 D.3.3.3, without negotiation of more.
_MAX_WAITING_MESSAGES = 16

_INVALID = "Evt19"  # PS3.8 9.2.3: an invalid PDU; the association is aborted


class StoreStatus(IntEnum):
    """Answers to C-STORE: PS3.4 B.2.3, PS3.7 9.1.1.1.9 and C."""

    SUCCESS = 0x0000
    FAILED = 0x0110
    INVALID_INSTANCE = 0x0117
    NO_SUCH_CLASS = 0x0122
    OUT_OF_RESOURCES = 0xA700
    MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class RefusedInstanceError(Exception):
    """An instance that is not stored: with what status, and why, without a value of it."""

    def __init__(self, status: StoreStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Arrival(Protocol):
    """A file for an instance that arrives in pieces.

    What a method raises refuses the instance; of a :class:`RefusedInstanceError` the sender is told the status.
    """

    @property
    def path(self) -> Path:
        """The local file."""

    def write(self, data: bytes) -> None:
        """Add to it."""

    def flush(self) -> None:
        """Let what has arrived be read by its path."""

    def place(self, study_uid: str, series_uid: str, sop_uid: str) -> bool:
        """Store it for good; return whether it is new."""

    def discard(self) -> None:
        """Drop it, if it is not stored."""


class ArrivingDataSet(io.BytesIO):
    """The data set of a message, as the DIMSE provider fills it.

    Parameters
    ----------
    begin : callable
        Gives the file.
    file_meta : callable
        Gives what it begins with; None if the message stores nothing, whose data set is then kept in memory.

    Attributes
    ----------
    arrival : Arrival or None
        The file, from the first byte on.
    start : int
        Where the data set begins in it.
    refusal : RefusedInstanceError or None
        Why it is not kept; what then comes is dropped. Its cause is what the file raised, if that was another error.
    data_bytes : int
        What has come, kept or not.
    """

    def __init__(self, begin: Callable[[], Arrival], file_meta: Callable[[], bytes | None]) -> None:
        super().__init__()
        self.arrival: Arrival | None = None
        self.refusal: RefusedInstanceError | None = None
        self.start = self.data_bytes = 0
        self._begin, self._file_meta = begin, file_meta

    def write(self, data: Any) -> int:
        """Pass the next piece on to the file.

        Raises
        ------
        ValueError
            If what is no instance is too much for the memory.
        """
        self.data_bytes += len(data)
        if self.refusal is not None:
            return len(data)
        preamble = self._file_meta() if self.arrival is None else b""
        if preamble is None:
            if self.data_bytes > _MAX_OTHER_BYTES:
                raise ValueError("no data set of that size is kept in memory")
            return super().write(data)
        try:
            if self.arrival is None:
                self.arrival, self.start = self._begin(), len(preamble)
                self.arrival.write(preamble)
            self.arrival.write(data)
        except Exception as error:
            self.refusal = _refusal(error)
            self.drop()
        return len(data)

    def drop(self) -> None:
        """Remove the file, if it is not stored."""
        if self.arrival is not None:
            self.arrival.discard()
            self.arrival = None


class ArrivingMessages(DIMSEServiceProvider):
    """pynetdicom's DIMSE provider, with instances that go to files as they come.

    Parameters
    ----------
    association : pynetdicom.association.Association
        Whose messages.
    begin : callable
        Gives a file for the next instance.
    """

    def __init__(self, association: Association, begin: Callable[[], Arrival]) -> None:
        super().__init__(association)
        self._begin = begin
        self._arriving: list[ArrivingDataSet] = []
        self._n_pieces = 0

    def get_msg(self, block: bool = False) -> Any:
        """Take the next message; one that is on its way is waited for until no more of it comes for the timeout."""
        while block:
            n_pieces = self._n_pieces
            try:
                return self.msg_queue.get(timeout=self.dimse_timeout)
            except queue.Empty:
                if n_pieces == self._n_pieces:
                    return None, None
        return super().get_msg()

    def receive_primitive(self, primitive: Any) -> None:
        """Take a P-DATA primitive; what is no message ends the association."""
        self._n_pieces += 1
        try:
            if self.message is None:
                self.message = DIMSEMessage()
                self.message.data_set = self._new_data_set(self.message)
            message = self.message
            super().receive_primitive(primitive)
            too_much = (
                message.encoded_command_set.tell() > _MAX_COMMAND_BYTES
                or self.msg_queue.qsize() > _MAX_WAITING_MESSAGES
            )
        except Exception:  # what decoding raises on damaged bytes is of any kind
            too_much = True
        if too_much:
            self.dul.event_queue.put(_INVALID)

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message; the time that we took to answer is not counted as the peer's silence."""
        self.dul._idle_timer.restart()
        super().send_msg(primitive, context_id)

    def finished(self, data_set: ArrivingDataSet) -> None:
        """Drop what is left of a data set that has been answered."""
        data_set.drop()
        self._arriving = [other for other in self._arriving if other is not data_set]

    def drop_all(self) -> None:
        """Drop what has not arrived whole, or has not been answered."""
        for data_set in self._arriving:
            data_set.drop()
        self._arriving = []

    def _new_data_set(self, message: DIMSEMessage) -> ArrivingDataSet:
        def head() -> bytes | None:
            if not isinstance(message, C_STORE_RQ):  # known when its command has been decoded
                return None
            contexts = {context.context_id: context for context in self.assoc.accepted_contexts}
            syntax = contexts[message.context_id].transfer_syntax[0]
            command = message.command_set
            return file_meta(command.AffectedSOPClassUID, command.AffectedSOPInstanceUID, syntax)

        def begin() -> Arrival:
            self._arriving = [*self._arriving, data_set]
            return self._begin()

        data_set = ArrivingDataSet(begin, head)
        return data_set


class BoundedSocket(AssociationSocket):
    """pynetdicom's socket, which reads no PDU beyond :data:`MAX_PDU_BYTES`, nor one that comes drop by drop."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes; fewer if the peer closes the connection.

        Raises
        ------
        OSError
            If it would be too much, or takes longer than the socket's timeout in all.
        """
        if self.socket is None or nr_bytes > MAX_PDU_BYTES:
            raise OSError("no PDU of that size is read")
        # A sender that waits for the acknowledgment of its command before it sends the data set (Nagle) would otherwise
        # wait 40 ms for every instance. Linux forgets the option as it goes on.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        content, got = bytearray(nr_bytes), 0
        patience_s = self.socket.gettimeout()
        deadline = None if patience_s is None else time.monotonic() + patience_s
        with memoryview(content) as view:
            while got < nr_bytes:
                if got and deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError("the peer is too slow")
                count = self.socket.recv_into(view[got:])
                if not count:
                    break
                got += count
        del content[got:]
        return content


def _refusal(error: Exception) -> RefusedInstanceError:
    if isinstance(error, RefusedInstanceError):
        return error
    refusal = RefusedInstanceError(StoreStatus.FAILED, "the instance cannot be kept")
    refusal.__cause__ = error
    return refusal


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> bytes:
    """Return preamble and file meta information: PS3.10 7.1; nothing of it depends on the sender."""
    meta = FileMetaDataset()
    # UIDs are compared with the data set's and checked before they become a name; here they are only carried.
    for tag, vr, value in (
        (0x00020002, "UI", sop_class_uid),
        (0x00020003, "UI", sop_instance_uid),
        (0x00020010, "UI", transfer_syntax),
        (0x00020012, "UI", IMPLEMENTATION_CLASS_UID),
        (0x00020013, "SH", f"MARSPIPE {__version__}"[:16]),
    ):
        meta.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    return b"\0" * 128 + b"DICM" + bytes(encode_file_meta(meta))
