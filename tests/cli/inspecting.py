"""``marspipe inspect`` as a test calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from marspipe.cli import cli, run_command


def inspect(*arguments: str | Path) -> str:
    """Return what the command prints; it must succeed."""
    done = CliRunner().invoke(cli, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return the one sentence of a refused command."""
    assert run_command(cli, ["inspect", *map(str, arguments)], "marspipe") == 2
    said = capsys.readouterr()
    assert said.err.startswith("marspipe: ")
    assert said.err.count("\n") == 1
    return said.err
