"""The body of an answer to WADO-RS: one instance, given on as it comes. RFC 2046 5.1, RFC 2387, PS3.18 8.6.1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message
from email.parser import BytesHeaderParser

from marspipe.dicom.pacs.client import PeerUnavailableError
from marspipe.errors import RunError

# What may come before the part, with its header, and after it.
_MAX_AROUND_BYTES = 1 << 16


def only_part(content_type: str, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the content of the only part of a ``multipart/related`` message, in pieces.

    A message that is ``application/dicom`` itself, as some servers answer who is asked for one instance, is given on.

    Parameters
    ----------
    content_type : str
        Header of the message, with the boundary.
    chunks : iterable of bytes
        The message; read to its end, so that the connection can be used again.
    name : str
        Of the peer, for messages.

    Raises
    ------
    RunError
        If it is no such message, or not one part of type ``application/dicom``.
    PeerUnavailableError
        If it ends too early.
    """
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_type() == "application/dicom":
        yield from chunks
        return
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/related" or not boundary:
        raise RunError(f"{name}: the answer to WADO-RS is not multipart/related")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    coming = iter(chunks)
    # The line break before the first delimiter may be left out.
    _, rest = _split(delimiter, b"\r\n", coming, name)
    head, rest = _split(b"\r\n\r\n", rest, coming, name)
    # The rest of the delimiter's line comes first.
    if BytesHeaderParser().parsebytes(head.partition(b"\r\n")[2]).get_content_type() != "application/dicom":
        raise RunError(f"{name}: the answer to WADO-RS is no part of type application/dicom")
    while True:
        place = rest.find(delimiter)
        if place >= 0:
            yield rest[:place]
            break
        # The delimiter may have begun.
        sure = max(0, len(rest) - len(delimiter) + 1)
        if sure:
            yield rest[:sure]
        rest = rest[sure:] + _next(coming, name)
    rest = rest[place + len(delimiter) :]
    while len(rest) < 2:
        rest += _next(coming, name)
    if not rest.startswith(b"--"):
        raise RunError(f"{name}: the answer to WADO-RS has more than one part")
    size_bytes = len(rest)
    for chunk in coming:
        size_bytes += len(chunk)
        if size_bytes > _MAX_AROUND_BYTES:
            raise RunError(f"{name}: the answer to WADO-RS goes on after its end")


def _split(mark: bytes, rest: bytes, coming: Iterator[bytes], name: str) -> tuple[bytes, bytes]:
    """Return what comes before a mark, and what has come after it."""
    while mark not in rest:
        if len(rest) > _MAX_AROUND_BYTES:
            raise RunError(f"{name}: the answer to WADO-RS does not begin with a part")
        rest += _next(coming, name)
    before, _, after = rest.partition(mark)
    return before, after


def _next(coming: Iterator[bytes], name: str) -> bytes:
    for chunk in coming:
        return chunk
    raise PeerUnavailableError(f"{name}: the answer broke off")
