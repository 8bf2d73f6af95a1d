"""What the numbers of DIMSE and STOW-RS mean: PS3.7 C, PS3.4 B.2.3, PS3.18 I.2.2."""

from __future__ import annotations

from marspipe.dicom.pacs.client import Result

# Of C-FIND, C-GET and C-MOVE: there is more to come.
PENDING = (0xFF00, 0xFF01)

_WORDS = {
    0x0106: "invalid attribute value",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0117: "invalid SOP instance",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
    0x0131: "duplicate transaction",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
}


def reason(status: int) -> str:
    """Return a status in words, such as ``0xA700, out of resources``."""
    words = _WORDS.get(status)
    if words is None and status & 0xFF00 == 0xA700:
        words = "out of resources, such as disk space"
    elif words is None and status & 0xFF00 == 0xA900:
        words = "data set does not match its SOP class"
    elif words is None and status & 0xF000 == 0xC000:
        words = "cannot be processed"
    return f"0x{status:04X}, {words}" if words else f"0x{status:04X}"


def result_of(status: int) -> Result:
    """Return how an instance with a C-STORE status or a STOW-RS failure reason fared."""
    if status == 0x0000 or status & 0xF000 == 0xB000 or status == 0x0001:
        return Result("stored")  # B000, B006, B007: stored with a warning
    if status == 0x0111:
        return Result("stored")  # it is there already
    busy = status & 0xFF00 == 0xA700 or status in (0x0110, 0x0213)
    return Result("busy" if busy else "refused", reason(status))
