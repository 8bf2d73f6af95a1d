"""What lies in a local landing zone."""

from __future__ import annotations

from pathlib import Path

from marspipe.store.landing import INCOMING


def content(folder: Path) -> dict[str, bytes]:
    """What readers of a zone see: everything that is not hidden, by name."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(name): (folder / name).read_bytes() for name in names if not name.parts[0].startswith(".")}


def parts(folder: Path) -> list[Path]:
    """What has not arrived whole."""
    return list((folder / INCOMING).rglob("*.part"))
