"""``marspipe align`` and ``marspipe inspect --geometry`` as a user meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from marspipe.cli import cli, run_command
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan

TOOTH = Path(__file__).parents[1] / "data" / "tooth"


def call(*arguments: str | Path) -> int:
    return run_command(cli, [str(a) for a in arguments], "marspipe")


def test_align_the_tooth(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "sweep.png"
    assert call("align", TOOTH, "--steps", "1", "--step-px", "2", "--picture", picture) == 0
    text = capsys.readouterr().out
    column = re.search(r"^recipe     geometry: \{center_of_rotation_px: (\d+\.\d\d)\}$", text, re.MULTILINE)
    assert column is not None
    assert float(column[1]) == pytest.approx(295.86, abs=0.15)
    assert f"center     column {column[1]} px" in text
    assert "(given: 295.86)" in text
    assert re.search(r"quality    0\.\d\d of 1, method vo", text)
    assert "(+0 px) of 3 slices" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = tmp_path / "scan"
    settings = SimulationSettings(
        views=48, detector_shape=(32, 64), phantom=mars_phantom(0.25), thresholds_kev=(20, 50)
    )
    simulate_scan(scan, settings=settings)
    capsys.readouterr()
    assert call("align", scan, "--json", "--bin", "1", "--slice", "20", "--steps", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["center_of_rotation_px"] == pytest.approx(31.5, abs=0.1)
    assert found["bin"] == "50+ keV"
    assert found["slice"] == 20
    assert found["method"] == "conjugate"
    assert 0 <= found["quality"] <= 1
    assert [s["column_px"] - found["center_of_rotation_px"] for s in found["sweep"]] == pytest.approx([-1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TOOTH, "--bin", "1"], "--bin must be 0..0 (all energies), got 1"),
        ([TOOTH, "--slice", "2"], "--slice must be 0..1, got 2"),
        ([TOOTH, "--steps", "0"], "--steps must be 1..12 columns on each side, got 0"),
        ([TOOTH, "--step-px", "0"], "--step-px must be positive (px), got 0"),
        ([TOOTH, "--method", "best"], "--method must be one of auto, conjugate, vo, got 'best'"),
        ([TOOTH, "--recipe", "nowhere.yaml"], "nowhere.yaml: there is no recipe"),
        ([TOOTH, "--set", "geometry.centre=3"], "unknown key 'centre'"),
        (["nowhere"], "there is no scan manifest"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_sentence(
    arguments: list[str | Path], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("align", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("marspipe: ")
    assert message in error
    assert error.count("\n") == 1


def test_method_that_cannot_work_is_exit_code_2(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("align", TOOTH, "--method", "conjugate") == 2
    assert "no line is measured twice: the views cover 179 degrees" in capsys.readouterr().err


def test_inspect_draws_scan_frames_and_volume(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = []
    for number, uri in enumerate((TOOTH, demo / "raw", demo / "frames", demo / "volume")):
        pictures.append(tmp_path / f"{number}.png")
        assert call("inspect", uri, "--geometry", pictures[-1]) == 0
        assert f"geometry   {pictures[-1]}" in capsys.readouterr().out
        assert pictures[-1].read_bytes().startswith(b"\x89PNG")
    drawings = [picture.read_bytes() for picture in pictures[1:]]
    assert drawings[0] == drawings[1] == drawings[2]  # the demo's recipe has the default grid
