"""A PostgreSQL server of the tests' own: a new cluster in a temporary folder, reached by a Unix socket only."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from tests.lacking import lacking

USER, PASSWORD = "marspipe", "s3cret-w0rd"


def programs() -> Path:
    """Return the folder of initdb and pg_ctl, where Debian puts them or on the path."""
    found = sorted(
        (int(match[1]), folder)
        for folder in Path("/usr/lib/postgresql").glob("*/bin")
        if (match := re.fullmatch(r"(\d+)", folder.parent.name)) and (folder / "initdb").exists()
    )
    if found:
        return found[-1][1]
    initdb = shutil.which("initdb")
    if initdb is None:
        lacking("POSTGRES", "PostgreSQL's server is not installed (Debian: postgresql)")
    return Path(initdb).resolve().parent


class Postgres:
    """A running server; ``fresh()`` makes a database."""

    def __init__(self, folder: Path, bin_: Path, user: str | None) -> None:
        self.folder, self._bin, self._user = folder, bin_, user

    def call(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs, by a user that it accepts: never root."""
        environment = {**os.environ, "LC_ALL": "C", "PGPASSWORD": PASSWORD}
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            cwd=self.folder,
            env=environment,
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}"

    def fresh(self) -> str:
        """Return the URL of a new, empty database, with its password."""
        name = f"db{uuid4().hex}"
        self.call("createdb", "-h", str(self.folder), "-U", USER, name)
        return f"postgresql+psycopg://{USER}:{PASSWORD}@/{name}?host={quote(str(self.folder), safe='')}"


@contextmanager
def running() -> Iterator[Postgres]:
    """Make a cluster and run its server; both are gone at the end."""
    bin_ = programs()
    user = None
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            lacking("POSTGRES", "the tests run as root and there is no user for a PostgreSQL server")
    # Not in pytest's own folder: the server's user may not enter it, and a socket's path has 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="marspipe-pg-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)
        server, data = Postgres(folder, bin_, user), str(folder / "data")
        password = ["-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
        server.call("initdb", "-D", data, "-U", USER, "-E", "UTF8", "--no-sync", *password)
        options = f"-c listen_addresses='' -k {folder} -c fsync=off -c max_connections=100 -c shared_buffers=16MB"
        server.call("pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield server
        finally:
            server.call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
