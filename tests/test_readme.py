"""What the README says, done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
DEMO, TESTS = (
    "python3 marspipe/machine.py && python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/marspipe demo",
    ".venv/bin/pip install -e '.[test]' && .venv/bin/pytest",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_two_commands_are_what_ci_runs(project: Path) -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == [DEMO, TESTS]
    assert 'block "$number"' in (project / ".ci" / "run").read_text()


def test_shell_blocks_run(demo: Path, project: Path, tmp_path: Path) -> None:
    """Run every other block in a folder that has the checkout's files and the demo's results."""
    for entry in project.iterdir():
        if entry.name != "marspipe-demo":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "marspipe-demo").symlink_to(demo)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "marspipe").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m marspipe "$@"\n')
    (bin_ / "marspipe").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(project)}
    shown = blocks("sh")[2:]
    assert shown
    for block in shown:
        command = block.replace(".venv/bin/", "")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_python_blocks_run(demo: Path) -> None:
    names: dict[str, object] = {}
    before = Path.cwd()
    os.chdir(demo.parent)
    try:
        assert blocks("python")
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)
    finally:
        os.chdir(before)


def test_links_and_pictures_exist(project: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (project / target).exists(), target
