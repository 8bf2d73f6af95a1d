"""The attributes of a data set by keyword, as texts and numbers.

Source: DICOM PS3.5 6.2 (value representations), 6.4 (several values in a text).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydicom.datadict import tag_for_keyword

from marspipe.dicom.foreign.elements import Element, StructureError, Window, elements, items_of, known_vr, tag_name
from marspipe.errors import RawFormatError

_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8", "UV": "u8", "SV": "i8"}
_MOST_VALUE_BYTES = 1 << 16  # of a value that is read at once; sequences are walked


@dataclass(frozen=True)
class Attributes:
    """The attributes of a data set or of an item, by keyword; values are read when they are asked for.

    Attributes
    ----------
    window : Window
    held : dict
        Element by tag.
    origin : str
        Name of the file, for messages.
    """

    window: Window
    held: dict[int, Element]
    origin: str

    def element(self, keyword: str) -> Element | None:
        """Return an element, None if it is missing."""
        return self.held.get(_tag(keyword))

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of a value, empty if it is missing; RawFormatError if it is too long to be one."""
        element = self.element(keyword)
        if element is None:
            return b""
        if element.length > _MOST_VALUE_BYTES:
            raise RawFormatError(f"{self.named(keyword)} has {element.length} bytes, too many for its kind")
        return self.window.read(element.offset, element.length)

    def has(self, keyword: str) -> bool:
        """Return whether a value is there that is more than blanks."""
        element = self.element(keyword)
        return element is not None and element.length > 0 and bool(self.raw(keyword).strip(b" \0"))

    def texts(self, keyword: str) -> list[str]:
        """Return the values of a text, without blanks around them; empty if it is missing."""
        text = self.raw(keyword).decode("ascii", "replace").strip(" \0")
        return [part.strip(" \0") for part in text.split("\\")] if text else []

    def text(self, keyword: str) -> str:
        """Return a text, or the first of several; ``""`` if it is missing."""
        return next(iter(self.texts(keyword)), "")

    def numbers(self, keyword: str, count: int | None = None) -> list[float] | None:
        """Return the values of a number; None if it is missing or empty.

        Raises
        ------
        RawFormatError
            If one is not a finite number, or there are not ``count``.
        """
        if not self.has(keyword) and known_vr(_tag(keyword)) in ("DS", "IS"):
            return None
        element = self.element(keyword)
        if element is None or element.length == 0:
            return None
        vr = element.vr if element.vr not in ("", "UN") else known_vr(element.tag)
        try:
            if vr in ("DS", "IS"):
                values = [float(text) for text in self.texts(keyword)]
            else:
                kind = _BINARY[vr.partition(" ")[0]]  # "US or SS" where the file does not tell
                values = [float(v) for v in np.frombuffer(self.raw(keyword), element.encoding.order + kind)]
        except (KeyError, ValueError) as error:
            raise RawFormatError(f"{self.named(keyword)} does not hold numbers") from error
        if not all(math.isfinite(v) for v in values) or (count is not None and len(values) != count):
            wanted = "finite numbers" if count is None else f"{count} finite numbers"
            raise RawFormatError(f"{self.named(keyword)} must hold {wanted}, got {values}")
        return values

    def number(self, keyword: str) -> float | None:
        """Return a number, or the first of several; None if it is missing. Errors as :meth:`numbers`."""
        values = self.numbers(keyword)
        return values[0] if values else None

    def whole(self, keyword: str) -> int | None:
        """Return a whole number; None if it is missing. Errors as :meth:`numbers`."""
        value = self.number(keyword)
        if value is not None and value != int(value):
            raise RawFormatError(f"{self.named(keyword)} must be a whole number, got {value:g}")
        return None if value is None else int(value)

    def items(self, keyword: str) -> list[Attributes]:
        """Return the items of a sequence; none if it is missing or cannot be followed."""
        element = self.element(keyword)
        if element is None or not element.is_sequence:
            return []
        try:
            spans = list(items_of(self.window, element))
            held = [{e.tag: e for e in elements(self.window, *span, element.encoding)} for span in spans]
        except StructureError:
            return []
        return [Attributes(self.window, found, self.origin) for found in held]

    def item(self, keyword: str) -> Attributes:
        """Return the first item of a sequence, or one without attributes."""
        return next(iter(self.items(keyword)), Attributes(self.window, {}, self.origin))

    def named(self, keyword: str) -> str:
        """Return file, keyword and tag, for messages."""
        return f"{self.origin}: {keyword} {tag_name(_tag(keyword))}"


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(f"DICOM has no attribute {keyword!r}")
    return int(tag)
