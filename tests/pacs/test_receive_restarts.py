"""``marspipe receive`` under systemd: what may become better by itself is tried again."""

from __future__ import annotations

import configparser
import socket
from pathlib import Path

import pytest

from marspipe.cli import cli, run_command

UNIT = "marspipe-receive.service"


def test_a_port_that_is_taken_may_be_free_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run_command(cli, ["receive", str(tmp_path / "zone"), "--port", str(port)], "marspipe") == 75
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use: " in capsys.readouterr().err
    # systemd starts it every few seconds: nothing is left of each start.
    assert [path.name for path in (tmp_path / "zone" / ".incoming").iterdir()] == ["lock"]


def test_an_address_that_is_not_there_may_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(cli, ["receive", str(tmp_path), "--bind", "192.0.2.1", "--port", "0"], "marspipe") == 3
    assert "cannot listen on 192.0.2.1, port 0: Cannot assign requested address: " in capsys.readouterr().err


def test_what_is_no_address_stays_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(cli, ["receive", str(tmp_path), "--bind", "no address", "--port", "0"], "marspipe") == 2
    assert "cannot listen on no address, port 0: " in capsys.readouterr().err


def test_the_unit_tries_again_as_long_as_it_takes(project: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(project / "conf" / "systemd" / UNIT)
    assert unit["Unit"]["StartLimitIntervalSec"] == "0" and "StartLimitBurst" not in unit["Unit"]
    assert unit["Service"]["Restart"] == "on-failure"
    # Only the disk of the landing zone, not the folder that it is mounted on.
    assert unit["Unit"]["RequiresMountsFor"] == unit["Service"]["ReadWritePaths"]
