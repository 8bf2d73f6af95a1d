"""Names with a running number: very many raw files of one exposure each as one entry of a scan manifest.

A path such as ``frames/view_{number:05d}_tile_{tile}.mib`` with ``numbered: {count: 91000}`` stands for as many files.
The names are made one by one where the files are opened, never as a list.
"""

from __future__ import annotations

import re

from pydantic import Field

from marspipe.strict import StrictModel

# A brace that is part of the name is doubled.
_PART = re.compile(r"\{\{|\}\}|\{(number|tile)(?::0([1-9]|1[0-9])d)?\}|[{}]")


class Numbered(StrictModel):
    """The numbers in the names of the files, of one exposure each."""

    first: int = Field(0, ge=0, description="Number of the first file.")
    step: int = Field(1, ge=1, description="From one file to the next.")
    count: int = Field(ge=1, le=10_000_000, description="Number of files.")


def require_pattern(path: str) -> None:
    """Raise ValueError if a path is no pattern of numbered files."""
    fields = []
    for match in _PART.finditer(path):
        if match[0] in ("{", "}"):
            raise ValueError(
                f"path {path!r} of numbered files has a stray {match[0]!r} at character {match.start() + 1}; a pattern "
                "has {number} or {tile}, padded as {number:05d}; a brace of the name itself is doubled"
            )
        fields.append(match[1])
    if "number" not in fields:
        raise ValueError(f"path {path!r} of numbered files has no {{number}}, such as {{number:05d}}")


def name_of(pattern: str, number: int, tile: int) -> str:
    """Return the name of one file.

    Examples
    --------
    >>> name_of("a {{b}}/view_{number:05d}_{tile}.mib", 42, 3)
    'a {b}/view_00042_3.mib'
    """

    def part(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return str(number if match[1] == "number" else tile).zfill(int(match[2] or 0))

    return _PART.sub(part, pattern)
