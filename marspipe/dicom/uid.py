"""Unique identifiers: what is one, and those that are made here.

The same key always gives the same UID, so that a repeated task writes the same instances again instead of doubles.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid

IMPLEMENTATION_NAMESPACE = "marspipe"

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_LENGTH = 64


def is_uid(text: str) -> bool:
    """Tell whether a text is 1 to 64 ASCII digits with single points between them.

    Leading zeros, which PS3.5 9.1 forbids, are let through: scanners write them. What comes in and goes on is checked
    by this rule everywhere; the landing zone, which must not know this module, has the same in ``check_uid``.
    """
    return len(text) <= _UID_LENGTH and _UID.fullmatch(text) is not None


def derived_uid(*key: str | int) -> str:
    """Return the UID that belongs to a key.

    The first 128 bits of the key's SHA-256 become a UUID (version 8 of RFC 9562, https://doi.org/10.17487/RFC9562),
    written below the root ``2.25`` as PS3.5 B.2 asks: at most 44 characters.

    Parameters
    ----------
    *key : str or int
        What the UID stands for, from the general to the particular. ``("a", "b")`` and ``("ab",)`` are different keys.
    """
    text = json.dumps([IMPLEMENTATION_NAMESPACE, *key], ensure_ascii=True, separators=(",", ":"))
    return uuid_uid(hashlib.sha256(text.encode("ascii")).digest())


def uuid_uid(digest: bytes) -> str:
    """Return the UID made of the first 128 bits of a digest, see :func:`derived_uid`."""
    number = bytearray(digest[:16])
    number[6] = (number[6] & 0x0F) | 0x80
    number[8] = (number[8] & 0x3F) | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(number)).int}"


IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
