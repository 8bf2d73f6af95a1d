"""Names of application entities."""

from __future__ import annotations

from marspipe.errors import InputError


def check_ae_title(text: str, what: str) -> str:
    """Return an AE title without its padding: PS3.5 6.2, VR AE.

    Raises
    ------
    InputError
        If it is none; ``what`` says of whom.
    """
    title = text.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not all(32 <= ord(c) < 127 for c in title):
        raise InputError(f"{what} is no AE title: it must have 1 to 16 ASCII characters without backslashes")
    return title
