"""The command line as a user meets it: exit codes, one-sentence errors, what the commands say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from marspipe.cli import COMMANDS, cli, run_command
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan


def marspipe(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marspipe", *map(str, arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def small_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "scan"
    settings = SimulationSettings(
        views=24, detector_shape=(32, 32), phantom=mars_phantom(0.25), thresholds_kev=(20, 50)
    )
    simulate_scan(folder, settings=settings)
    return folder


def call(*arguments: str | Path) -> int:
    return run_command(cli, [str(a) for a in arguments], "marspipe")


def test_demo_reports_every_insert_and_where_everything_lies(demo: Path) -> None:
    text = (demo.parent / "demo.txt").read_text()
    errors = [float(m) for m in re.findall(r"([+-]\d+\.\d+) %", text)]
    assert len(errors) == 6 * 4
    for line in ("raw frames", "frames", "volume", "dicom", "preview", "open_volume"):
        assert line in text
    assert len(list((demo / "dicom").rglob("*.dcm"))) == 4 * 128


def test_demo_finds_the_true_attenuation(demo: Path) -> None:
    text = (demo.parent / "demo.txt").read_text()
    rows = re.findall(r"([+-]\d+\.\d+) %\s*│\s*(\d+\.\d+) %", text)
    assert len(rows) == 24
    for error, standard_error in rows:
        assert abs(float(error)) < 3.0
        assert float(standard_error) < 1.0  # so that 3 % is no excuse for noise


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    assert "Usage: marspipe" in capsys.readouterr().out


def test_check_and_dry_run_need_no_spark(small_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call("reconstruct", "--raw", small_scan, "--out", out, "--check") == 0
    assert "fits" in capsys.readouterr().out
    assert call("reconstruct", "--raw", small_scan, "--out", out, "--dry-run", "--set", "run.slab_slices=8") == 0
    text = capsys.readouterr().out
    assert "24 views of 32 x 32 px, 2 energy bins: 20-50 keV, 50+ keV" in text
    assert "slabs    4 of at most 8 slices" in text
    assert "8 backprojection tasks" in text
    assert not out.exists()


def test_inspect_raw_scan(small_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "frame.png"
    assert call("inspect", small_scan, "--picture", picture, "--view", "3", "--counter", "1") == 0
    text = capsys.readouterr().out
    assert "views      24, 0 to 345 deg, steps 15 to 15 deg" in text
    assert "0: CSM above 20 keV, 1: CSM above 50 keV" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert call("inspect", small_scan, "--picture", picture, "--view", "24") == 2
    assert "--view must be 0..23, got 24" in capsys.readouterr().err


def test_inspect_and_preview_finished_results(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", demo / "volume") == 0
    assert "bin        20-33 keV" in capsys.readouterr().out
    assert call("inspect", demo / "frames") == 0
    assert "projection counter 3: 180 frames, 180 views" in capsys.readouterr().out
    assert call("preview", demo / "volume", "-o", tmp_path / "p.png") == 0
    assert (tmp_path / "p.png").read_bytes() == (demo / "preview.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "filtr.window=hann"], "unknown key 'filtr'; did you mean 'filter'?"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: there is no recipe"),
        (["--set", "grid.center_mm=[40, 0, 0]"], "the cone misses the grid"),
        (["--set", "grid.center_mm=[0, 99, 0]"], "the cone misses the grid: its nearest voxel is 97.6"),
        (["--set", "run.memory_per_task_mib=100"], "run.memory_per_task_mib = 100 is too little"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_sentence(
    small_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call("reconstruct", "--raw", small_scan, "--out", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("marspipe: ")
    assert message in error
    assert error.count("\n") == 1


def test_wrong_raw_input(small_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("reconstruct", "--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert "there is no scan manifest" in capsys.readouterr().err
    manifest = yaml.safe_load((small_scan / "scan.yaml").read_text())
    manifest["counters"].reverse()
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump(manifest))
    assert call("ingest", "--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert "counters must be numbered" in capsys.readouterr().err


def test_unexpected_failure_is_exit_code_3(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(uri: str) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("marspipe.store.commit.committed", broken)
    assert call("inspect", "somewhere") == 3
    assert "marspipe: failed: ZeroDivisionError: by accident (marspipe --debug shows where)" in capsys.readouterr().err


def test_simulate_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "scan"
    options = ["--views", "3", "--detector", "16", "24", "--thresholds", "20,50", "--seed", "7"]
    assert call("simulate", target, *options) == 0
    assert "truth.json" in capsys.readouterr().out
    assert yaml.safe_load((target / "scan.yaml").read_text())["geometry"]["detector_shape"] == [16, 24]
    assert call("simulate", target, *options) == 2
    assert call("simulate", target, *options, "--overwrite") == 0
    assert call("simulate", tmp_path / "other", "--thresholds", "20;50") == 2
    assert "--thresholds must be numbers in keV" in capsys.readouterr().err


# --- a machine that lacks something ----------------------------------------------------------------------------------


def test_without_java(tmp_path: Path) -> None:
    done = marspipe("demo", cwd=tmp_path, PATH=str(tmp_path), JAVA_HOME="")
    assert done.returncode == 2
    assert done.stderr == (
        "marspipe: no Java found, which Spark runs on: install Java 17 or newer, for example the package "
        "openjdk-17-jre-headless.\n"
    )
    assert not list(tmp_path.iterdir())


def test_with_old_java(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    java.chmod(0o755)
    done = marspipe("demo", cwd=tmp_path, JAVA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "Java 8 found, which is too old for Spark: install Java 17 or newer" in done.stderr


def test_with_too_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marspipe.machine.available_memory_gib", lambda: 1.5)
    assert call("demo", "--out", tmp_path / "demo") == 2
    assert "1.5 GiB of free memory found, at least 3 GiB needed" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_the_first_command_checks_before_it_installs(project: Path, tmp_path: Path) -> None:
    check = [sys.executable, str(project / "marspipe" / "machine.py")]
    assert subprocess.run(check, check=False).returncode == 0
    without = subprocess.run(check, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert without.stderr.startswith("marspipe: no Java found")


def test_too_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from marspipe import machine

    assert machine.python_problem() == ""
    monkeypatch.setattr(machine.sys, "version_info", (3, 9, 18))
    assert machine.python_problem() == "Python 3.9 found, which is too old: install Python 3.11 or newer."


def test_the_check_is_readable_for_every_python_3(project: Path) -> None:
    source = (project / "marspipe" / "machine.py").read_text()
    ast.parse(source, feature_version=(3, 4))
    assert "from __future__" not in source
