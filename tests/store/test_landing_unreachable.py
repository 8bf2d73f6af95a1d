"""A zone that cannot be opened: what does not become better by itself, and what may."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from marspipe.cli import cli, run_command
from marspipe.errors import OutputExistsError, RunError
from marspipe.store.landing import LandingZone


def test_a_file_is_no_zone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputExistsError, match="no landing zone can be made there"):
        LandingZone(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EACCES, OutputExistsError, 2),
        (errno.EROFS, OutputExistsError, 2),
        (errno.ENOTDIR, OutputExistsError, 2),
        (errno.EIO, RunError, 3),
        (errno.ENOSPC, RunError, 3),
        (errno.ESTALE, RunError, 3),
        (errno.EHOSTDOWN, RunError, 3),
    ],
)
def test_a_disk_that_is_away_may_come_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    kind: type[Exception],
    code: int,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(kind, match="no landing zone can be made there"):
        LandingZone(str(tmp_path / "zone"))
    assert run_command(cli, ["receive", str(tmp_path / "zone"), "--port", "0"], "marspipe") == code
    assert f"no landing zone can be made there: [Errno {number}]" in capsys.readouterr().err
