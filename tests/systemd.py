"""What systemd itself says of the units in conf/systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.lacking import lacking


def require_sound_units(folder: Path, scratch: Path, pattern: str) -> None:
    """Fail if `systemd-analyze verify` has anything to say of the units in a folder that a pattern names."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        lacking("SYSTEMD", "systemd-analyze is not installed")
    for path in folder.iterdir():
        # The command must exist, and here it is not where an administrator will put it.
        text = path.read_text(encoding="utf-8").replace("/opt/marspipe/bin/marspipe", sys.executable)
        (scratch / path.name).write_text(text, encoding="utf-8")
    units = sorted(map(str, scratch.glob(pattern)))
    assert units
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    if "Failed to initialize manager" in done.stderr:
        lacking("SYSTEMD", "systemd-analyze cannot work here")
    assert (done.returncode, done.stderr) == (0, "")
