from __future__ import annotations

import json
from pathlib import Path

import pytest

from marspipe.cli import cli, run_command
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan


def plan(*arguments: str) -> int:
    return run_command(cli, ["plan", *arguments], "marspipe")


def test_a_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SimulationSettings(views=12, detector_shape=(24, 24), phantom=mars_phantom(24 / 128))
    simulate_scan(tmp_path / "scan", settings=settings)
    assert plan(str(tmp_path / "scan"), "--set", "run.slab_slices=8") == 0
    text = capsys.readouterr().out
    assert "slabs    3 of at most 8 slices" in text
    for stage in ("ingest", "open beams", "bad pixels", "filter", "backproject", "dicom", "preview"):
        assert f"\n{stage} " in text
    assert "advice   spark.executor.memory 2048m and spark.executor.memoryOverhead" in text


def test_a_preset_on_a_cluster_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--preset", "stone", "--cluster", "ten-nodes", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scan"] == "stone"
    assert found["cluster"]["executors"] == 20
    assert found["seconds"] > 0
    assert {"name", "tasks", "task_bytes", "read_bytes", "shuffle_bytes", "write_bytes"} <= set(found["stages"][0])


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan() == 2
    assert "give one of SCAN, --preset and --measure" in capsys.readouterr().err
    assert plan("--preset", "stone", "--compare") == 2
    assert "--compare needs a SCAN" in capsys.readouterr().err
    assert plan("--preset", "stone", "--cluster", str(tmp_path / "none.yaml")) == 2
    assert "there is no cluster description" in capsys.readouterr().err
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nexecuters: 3\n")
    assert plan("--preset", "stone", "--cluster", str(wrong)) == 2
    assert "wrong.yaml: unknown key 'executers'; did you mean 'executors'?" in capsys.readouterr().err
    assert plan("--preset", "stone", "--set", "filter.windw=hann") == 2
    assert "did you mean 'window'?" in capsys.readouterr().err
