"""Find the files shipped beside the code: schemas, recipes, Spark settings, job scripts.

In a checkout they are top-level folders; in an installed wheel they lie inside the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (_PACKAGE / "_resources", _PACKAGE.parent)


def resource_path(relative: str) -> Path:
    """Return the path of a shipped file.

    Parameters
    ----------
    relative : str
        Path below the project's top level, such as ``"schemas/frames.json"``.

    Raises
    ------
    FileNotFoundError
        If neither the installed package nor the checkout has it.
    """
    for root in _ROOTS:
        candidate = root / relative
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"marspipe ships no {relative!r}; looked in {', '.join(map(str, _ROOTS))}")
