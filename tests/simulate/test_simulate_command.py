from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from marspipe.cli import cli, run_command
from marspipe.errors import InputError
from marspipe.simulate import Defects

SMALL = ("--views", "2", "--detector", "6", "20", "--photons", "1e4")


def call(*arguments: str | Path) -> int:
    return run_command(cli, ["simulate", *map(str, arguments)], "marspipe")


def manifest(folder: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((folder / "scan.yaml").read_text("utf-8"))
    return content


def test_positions_heights_and_modes(tmp_path: Path) -> None:
    places = ("--camera-positions", "-0.1,-0.5;0,0.5", "--heights=-1,0,1")
    counters = ("--thresholds", "20,30,20,50", "--modes", "spm,SPM,CSM, csm")
    assert call(tmp_path, *SMALL, *places, *counters, "--format", "nxtomo") == 0
    found = manifest(tmp_path)
    assert found["camera_positions_mm"] == [[-0.1, -0.5], [0.0, 0.5]]
    assert found["counters"] == [
        {"counter": k, "mode": mode, "threshold_kev": kev}
        for k, (mode, kev) in enumerate([("SPM", 20.0), ("SPM", 30.0), ("CSM", 20.0), ("CSM", 50.0)])
    ]
    assert sorted(path.name for path in tmp_path.glob("*.nxs")) == ["tile_0_scan.nxs", "tile_1_scan.nxs"]


def test_a_helix_with_defects(tmp_path: Path) -> None:
    defects = (
        "--defect",
        "absorbers_mm=1,2",
        "--defect",
        "absorber_frames=1",
        "--defect",
        "absorber_material=aluminum",
    )
    assert call(tmp_path, *SMALL, "--turns", "3", "--helix-pitch-mm", "0.5", *defects) == 0
    files = manifest(tmp_path)["files"]
    assert isinstance(files, list)
    (projections,) = [file for file in files if file["frame_type"] == "projection"]
    assert projections["sample_z_mm"] == {"start": -0.375, "step": 0.75}
    assert [file["absorber_mm"] for file in files if file["frame_type"] == "absorber"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--camera-positions", "1,2,3"), "camera_positions_mm must be pairs (v, u)"),
        (("--camera-positions", "0,x"), "--camera-positions must be numbers in mm separated by commas, got '0,x'"),
        (("--heights", ""), "--heights must be numbers in mm"),
        (("--modes", "SPM"), "modes must be SPM or CSM for each of the 4 thresholds_kev"),
        (("--defect", "gain_drift=0.1"), "did you mean gain_drift_spread=...?"),
        (("--defect", "flux_spread"), "--defect must be NAME=VALUE, got 'flux_spread'"),
        (("--defect", "flux_spread=much"), "--defect flux_spread must be a number such as 1.0, got 'much'"),
        (("--defect", "dead_time_s=1us"), "--defect dead_time_s must be numbers in s"),
        (("--defect", "absorber_material=Al"), "unknown material 'Al'; known are"),
        (("--read-out-stream",), "raw images are not written in color mode"),
    ],
)
def test_wrong_options_are_explained(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tmp_path, *SMALL, *options) == InputError.exit_code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_defects_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--defect", "help") == 0
    listed = capsys.readouterr().out
    assert all(f"{name}=" in listed for name in vars(Defects()))
    assert "Standard deviation over the pixels of the relative change of their gain" in listed
    assert not list(tmp_path.iterdir())
