"""The systemd unit of ``marspipe receive``."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from marspipe.cli.receive import receive

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
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    # The command must exist, and here it is not where an administrator will put it.
    text = (project / "conf" / "systemd" / UNIT).read_text().replace("/opt/marspipe/bin/marspipe", sys.executable)
    (tmp_path / UNIT).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / UNIT)], capture_output=True, text=True, check=False
    )
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd-analyze cannot work here")
    assert (done.returncode, done.stderr) == (0, "")
