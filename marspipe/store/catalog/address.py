"""Where the catalog is: its URL, as given, as used, and as shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from marspipe.errors import InputError

VARIABLE = "MARSPIPE_CATALOG"

EXPECTED = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
# What of a URL's query may be shown: nothing that could be a password.
_HARMLESS = ("host", "port")


def default_url() -> str:
    """Return the catalog of this user: ``$MARSPIPE_CATALOG``, else a SQLite file in the user's data folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return given
    # The XDG base directory specification wants relative paths ignored.
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return f"sqlite:///{folder / 'marspipe' / 'catalog.sqlite'}"


def parse_url(text: str) -> URL:
    """Return the URL of a catalog; a text without a scheme is the path of a SQLite file.

    Raises
    ------
    InputError
        If it is of no database that marspipe keeps a catalog in; the message never repeats a password.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
        return URL.create("sqlite", database=os.path.abspath(text))
    scheme = text.partition(":")[0].lower()
    if scheme == "sqlite":
        # Not by make_url, which would take a part of a file name that follows a question mark as options.
        path = text.partition(":")[2].removeprefix("///")
        if not text.lower().startswith("sqlite:///") or path in ("", ":memory:"):
            raise InputError(f"{text}: the catalog must be a file, {EXPECTED}")
        return URL.create("sqlite", database=os.path.abspath(path))
    if scheme not in _POSTGRESQL:
        raise InputError(f"a catalog cannot be kept at {scheme}:, {EXPECTED}")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InputError(f"the URL of the catalog cannot be understood, {EXPECTED}") from None
    if not url.database:
        raise InputError(f"{shown(url)}: the name of the database is missing, {EXPECTED}")
    return url.set(drivername="postgresql+psycopg")


def shown(url: URL) -> str:
    """Return a URL for messages: without its password, and without options that could hold one."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    harmless = {key: value for key, value in url.query.items() if key in _HARMLESS}
    return url.set(query=harmless, drivername=url.get_backend_name()).render_as_string(hide_password=True)
