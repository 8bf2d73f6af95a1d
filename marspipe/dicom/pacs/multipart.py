"""The body of a STOW-RS request: files read when their turn comes, so that any number and size fits into memory."""

from __future__ import annotations

import io
import uuid
from collections.abc import Generator, Sequence

from marspipe.dicom.pacs.client import Outgoing
from marspipe.errors import RunError


class InstancesBody(io.RawIOBase):
    """A ``multipart/related`` body (RFC 2387, PS3.18 8.6.1) of DICOM files, of a length that is known beforehand.

    Parameters
    ----------
    instances : sequence of Outgoing
        Its parts.

    Attributes
    ----------
    content_type : str
        Of the request.
    len : int
        Bytes of the body: what ``requests`` takes as Content-Length.
    """

    def __init__(self, instances: Sequence[Outgoing]) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        self._instances = list(instances)
        self._head = f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end = f"\r\n--{boundary}--\r\n".encode()
        self.len = sum(len(self._head) + one.n_bytes for one in self._instances) + len(self._end)
        self._pieces = self._read_pieces()
        self._rest = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how much has been read: without it ``requests`` takes the length as unknown, and sends in chunks."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as the present piece goes."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                return 0
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        self._position += n
        return n

    def close(self) -> None:
        """Close the file that is open."""
        self._pieces.close()
        super().close()

    def _read_pieces(self) -> Generator[bytes, None, None]:
        for instance in self._instances:
            yield self._head
            left = instance.n_bytes
            try:
                with instance.open() as file:
                    while left and (piece := file.read(min(left, 1 << 20))):
                        left -= len(piece)
                        yield piece
            except OSError as error:
                raise RunError(f"{instance.name}: cannot be read: {error.strerror or error}") from error
            if left:
                raise RunError(f"{instance.name}: the file has become shorter while it was sent")
        yield self._end
