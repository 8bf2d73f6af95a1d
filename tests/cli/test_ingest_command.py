"""``marspipe ingest``: exit codes and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from marspipe.cli import cli, run_command
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan

VIEWS, COUNTERS = 24, 2
RECORD = 384 + 32 * 32 * 4


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    folder = tmp_path / "scan"
    settings = SimulationSettings(
        views=VIEWS, detector_shape=(32, 32), phantom=mars_phantom(0.25), thresholds_kev=(20, 50)
    )
    simulate_scan(folder, settings=settings)
    return folder


def call(*arguments: str | Path) -> int:
    return run_command(cli, ["ingest", *(str(a) for a in arguments)], "marspipe")


def test_again_then_damaged_then_replaced(
    spark: SparkSession, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "frames"
    assert call("--raw", scan, "--out", out) == 0
    assert f"projection counter 1: {VIEWS} frames, {VIEWS} views\n" in capsys.readouterr().out
    assert call("--raw", scan, "--out", out) == 0
    assert "nothing: the table holds all of it already" in capsys.readouterr().out

    path = scan / "projections.mib"
    raw = bytearray(path.read_bytes())
    raw[4 * RECORD + 400] ^= 1
    path.write_bytes(raw)
    assert call("--raw", scan, "--out", out) == 2
    assert "projection view 2, counter 0 differs" in capsys.readouterr().err
    assert call("--raw", scan, "--out", out, "--replace") == 0
    assert f"added      {COUNTERS} frames" in capsys.readouterr().out


def test_missing_views_are_exit_code_3(
    spark: SparkSession, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "frames", tmp_path / "whole"
    shutil.copytree(scan, whole)
    path = scan / "projections.mib"
    path.write_bytes(path.read_bytes()[:-1])
    assert call("--raw", scan, "--out", out) == 3
    said = capsys.readouterr()
    assert f"is incomplete: it lacks view {VIEWS - 1}\n" in said.err
    assert "projections.mib, byte" in said.err
    assert run_command(cli, ["reconstruct", "--raw", str(out), "--out", str(tmp_path / "out")], "marspipe") == 2
    assert f"lacks view {VIEWS - 1} of {VIEWS} views" in capsys.readouterr().err


def test_a_lost_open_beam_is_a_warning(
    spark: SparkSession, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = scan.glob("open_beam_before.mib")
    path.write_bytes(path.read_bytes()[:-1])
    assert call("--raw", scan, "--out", tmp_path / "frames") == 0
    said = capsys.readouterr().err
    assert "marspipe: warning: 1 parts of the raw files could not be read" in said
    assert "_quarantine.txt" in said
