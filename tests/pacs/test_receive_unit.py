"""The systemd unit of ``marspipe receive``."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

from marspipe.cli.receive import receive
from tests.systemd import require_sound_units

UNIT = "marspipe-receive.service"


def test_its_command_is_understood(project: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read(project / "conf" / "systemd" / UNIT)
    command = shlex.split(unit["Service"]["ExecStart"])
    assert command[:2] == ["/opt/marspipe/bin/marspipe", "receive"]
    context = receive.make_context("receive", command[2:])
    assert not context.args
    # What it writes is what it may write.
    assert context.params["folder"] in unit["Service"]["ReadWritePaths"].split()
    assert context.params["log_file"].startswith(f"/var/log/{unit['Service']['LogsDirectory']}/")
    # Bad options do not become better by starting again.
    assert unit["Service"]["RestartPreventExitStatus"] == "2"
    assert context.params["allow"] and context.params["max_gib"]


def test_systemd_takes_it(project: Path, tmp_path: Path) -> None:
    require_sound_units(project / "conf" / "systemd", tmp_path, UNIT)
