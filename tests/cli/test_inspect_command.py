"""``marspipe inspect`` as a user meets it: raw scans, frames tables and volumes, without Spark."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from matplotlib.image import imread
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.cli import cli
from marspipe.pipeline.frames.scan_frames import FramesTable
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.inspection.raw import RawLook
from marspipe.pipeline.inspection.steps import StepLook
from marspipe.pipeline.inspection.table import TableLook
from marspipe.recipe import parse_recipe
from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.simulate.merlin_writer import write_merlin
from tests.cli.inspecting import inspect, refusal
from tests.pipeline.scans import quiet, read_counters

VIEWS, ROWS, COLUMNS = 24, 32, 40
STEP_PX = 28  # from one camera position to the next
PITCH_MM = 0.11


def line(text: str, name: str) -> str:
    """Return the first line of a name."""
    return next(row[10:].strip() for row in text.splitlines() if row.startswith(name))


def picture(path: Path) -> NDArray[np.floating[Any]]:
    """Return a picture, RGB."""
    image: NDArray[np.floating[Any]] = imread(path)[..., :3]
    assert image.std() > 0.01
    return image


def settings(**changes: Any) -> SimulationSettings:
    usual = {
        "scan_id": "stone",
        "views": VIEWS,
        "detector_shape": (ROWS, COLUMNS),
        "phantom": mars_phantom(0.25),
        "thresholds_kev": (20.0, 50.0),
        "open_beam_photons": 3000.0,
        "open_beams": 9,
        "darks": 8,
        "dead_pixels": 5,
        "noisy_pixels": 3,
        "counter_depth_bits": 12,
    }
    return SimulationSettings(**{**usual, **changes})


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect ü") / "raw"
    simulate_scan(folder, settings=settings())
    return folder


@pytest.fixture(scope="module")
def frames(spark: SparkSession, raw: Path) -> Path:
    uri = raw.parent / "frames"
    ingest(spark, open_scan(str(raw)), str(uri), progress=quiet())
    return uri


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of two camera positions, cut out of one of a wide camera, with exposure times that differ."""
    folder = tmp_path_factory.mktemp("tiled")
    wide = COLUMNS + STEP_PX
    simulate_scan(folder / "wide", settings=settings(detector_shape=(ROWS, wide), dead_pixels=0, noisy_pixels=0))
    source = open_scan(str(folder / "wide"))
    manifest = yaml.safe_load((folder / "wide" / "scan.yaml").read_text())
    angles = next(f["angles_rad"] for f in manifest["files"] if f["frame_type"] == "projection")
    files = []
    for kind in ("dark", "open_beam", "projection"):
        stack = read_counters(source, kind).astype(np.uint16)
        for tile in range(2):
            name = f"{kind}_{tile}.mib"
            cut = stack[..., tile * STEP_PX : tile * STEP_PX + COLUMNS]
            with (folder / name).open("wb") as file:
                write_merlin(
                    file,
                    iter(cut.reshape(-1, ROWS, COLUMNS)),
                    counter_depth_bits=12,
                    counters_per_exposure=2,
                    color_mode=False,
                    thresholds_kev=[20.0, 50.0],
                    exposure_s=0.01,
                    start_time=settings().start_time,
                )
            entry = {"path": name, "reader": "merlin", "frame_type": kind, "tile": tile, "exposure_s": 0.01}
            if kind == "projection":
                entry |= {"angles_rad": angles, "exposure_s": 0.02}
            files.append(entry)
    manifest["files"] = files
    manifest["camera_positions_mm"] = [[0.0, 0.0], [0.0, STEP_PX * PITCH_MM]]
    manifest["geometry"]["detector_shape"] = [ROWS, COLUMNS]
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest))
    return folder


# --- what a scan holds -----------------------------------------------------------------------------------------------


def test_raw_scan_and_frames_table_say_the_same(raw: Path, frames: Path) -> None:
    ours, theirs = ([row for row in inspect(uri).splitlines()[1:] if ".mib" not in row] for uri in (raw, frames))
    assert ours[-1].startswith("pixels")
    assert theirs[-1].startswith("pixels")
    assert ours[:-1] == theirs[:-1]


def test_counts_thresholds_times(raw: Path) -> None:
    text = inspect(raw)
    assert "projection counter 1: 24 frames, 24 views" in text
    assert "open_beam  counter 0: 18 frames, 18 exposures" in text
    assert "group 0: 18 frames, group 1: 18 frames" in text
    assert "dark       counter 1: 8 frames, 8 exposures" in text
    assert line(text, "counters") == "0: CSM above 20 keV, 1: CSM above 50 keV; 12 bits deep"
    assert line(text, "tube") == "120 kVp, 350 uA, 3.8 mm Al"
    assert line(text, "views").startswith("24, 0 to 345 deg, steps 15 to 15 deg, source goes counterclockwise")
    assert line(text, "heights") == "the sample stays at 0 mm"
    assert line(text, "acquired").startswith("2025-01-01T12:00:00Z to 2025-01-01T12:00:3")
    assert "differ" not in line(text, "exposure")
    assert "from 4 of 24 projection, 4 of 18 open_beam, 4 of 8 dark exposures, evenly spread" in text


def test_counts_are_those_of_the_sampled_frames(raw: Path) -> None:
    text = inspect(raw)
    sampled = read_counters(open_scan(str(raw)), "projection")[[0, 8, 15, 23]]
    for counter in range(2):
        row = next(r for r in text.splitlines() if r.startswith(f"projection counter {counter} "))
        numbers = [float(n) for n in row.partition("counter")[2].split("%")[0].split()[1:6]]
        frames = sampled[:, counter]
        expected = np.percentile(frames, [0, 1, 50, 99, 100], method="nearest")
        assert numbers == expected.tolist()
        assert "█" in row
    empty = [float(n) for n in re.findall(r"keV (\S+) %", line(text, "no counts"))]
    bins = sampled[:, 0].astype(int) - sampled[:, 1], sampled[:, 1]
    assert empty == pytest.approx([100 * float((b <= 0).mean()) for b in bins], rel=5e-3)


def test_saturated_pixels_are_counted(tmp_path: Path) -> None:
    frame = np.full((ROWS, COLUMNS), 100, dtype=np.uint16)
    frame[:8] = 4095
    with (tmp_path / "p.mib").open("wb") as file:
        write_merlin(
            file,
            iter([frame, frame]),
            counter_depth_bits=12,
            counters_per_exposure=1,
            color_mode=False,
            thresholds_kev=[20.0],
            exposure_s=0.01,
            start_time=settings().start_time,
        )
    manifest = {
        "marspipe_scan": 1,
        "scan_id": "full",
        "geometry": {"kind": "parallel", "detector_shape": [ROWS, COLUMNS], "pixel_pitch_mm": [0.1, 0.1]},
        "files": [
            {"path": "p.mib", "reader": "merlin", "frame_type": "projection", "angles_rad": [0.0, 1.0], "exposure_s": 1}
        ],
    }
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump(manifest))
    text = inspect(tmp_path)
    row = next(r for r in text.splitlines() if r.startswith("projection counter 0 "))
    assert "4095       25 %" in row


def test_gaps_and_repeats_of_the_angles(raw: Path, tmp_path: Path) -> None:
    manifest = yaml.safe_load((raw / "scan.yaml").read_text())
    angles = np.deg2rad(np.r_[np.arange(0, 150, 15), np.arange(180, 375, 15), 375])  # 150, 165 lacking; 0, 15 twice
    for file in manifest["files"]:
        file["path"] = str(raw / file["path"])
        if file["frame_type"] == "projection":
            file["angles_rad"] = angles.tolist()
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump(manifest))
    text = inspect(tmp_path)
    assert (
        "1 of 23 steps differ from 15 deg by more than 1 %; the largest, 45 deg, from view 9 (135 deg) to view 10"
        in text
    )
    assert line(text, "repeats").startswith("2 within 0.0057 deg: views 0 and 22 (0 deg), views 1 and 23 (15 deg)")


def test_camera_positions(tiled: Path, spark: SparkSession) -> None:
    text = inspect(tiled)
    assert line(text, "camera") == (
        "2 camera positions (v, u), mm: 0 at (0, 0), 1 at (0, 3.08); they make a detector of 32 x 68 px"
    )
    assert "projection counter 0: 48 frames, 24 views" in text
    assert "camera position 0: 48 frames, camera position 1: 48 frames" in text
    exposure = line(text, "exposure")
    assert exposure.startswith("projection 0.02 s, open_beam 0.01 s, dark 0.01 s; projections and open beams differ")
    table = tiled / "frames"
    ingest(spark, open_scan(str(tiled)), str(table), progress=quiet())
    again = inspect(table)
    for name in ("camera", "exposure", "acquired", "heights"):
        assert line(again, name) == line(text, name)
    assert "camera position 0: 48 frames, camera position 1: 48 frames" in again


def test_damaged_files_do_not_hide_the_rest(raw: Path, tmp_path: Path) -> None:
    for path in raw.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    stream = (tmp_path / "projections.mib").read_bytes()
    (tmp_path / "projections.mib").write_bytes(stream[: len(stream) * 2 // 3])
    text = inspect(tmp_path)
    assert "projection counter 0: 16 frames, 16 views" in text
    assert "projections.mib" in line(text, "damaged")


def test_numbered_files_of_one_exposure(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = open_scan(str(raw))
    manifest = yaml.safe_load((raw / "scan.yaml").read_text())
    for entry, kind in zip(manifest["files"], ("dark", "open_beam", "projection", "open_beam"), strict=True):
        name, n = entry["path"].removesuffix(".mib"), next(f for f in scan.files if f.entry.path == entry["path"])
        stream = (raw / entry["path"]).read_bytes()
        size = len(stream) // n.n_exposures
        for number in range(n.n_exposures):
            (tmp_path / f"{name}_{number:03d}.mib").write_bytes(stream[number * size : (number + 1) * size])
        entry |= {"path": name + "_{number:03d}.mib", "numbered": {"count": n.n_exposures}}
        assert entry["frame_type"] == kind
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump(manifest))
    wanted = [row for row in inspect(raw).splitlines()[1:] if ".mib" not in row]
    assert [row for row in inspect(tmp_path).splitlines()[1:] if ".mib" not in row] == wanted
    # Of a scan of very many exposures not every header is read: the first and the last one are.
    monkeypatch.setattr("marspipe.pipeline.inspection.raw.MOST_HEADERS", 10)
    for uri in (raw, tmp_path):
        rows = [row for row in inspect(uri).splitlines()[1:] if ".mib" not in row]
        assert rows[:-1] == wanted
        assert rows[-1] == "headers    of every 5. exposure only were read: the scan is large"
    monkeypatch.setattr("marspipe.pipeline.inspection.steps.MOST_BYTES", 1000)
    command = ["inspect", str(tmp_path), "--step", "stripes", "--set", "preprocess.stripes.mode=by-angle"]
    assert "of at most 0 MiB" in str(CliRunner().invoke(cli, command).exception)


def test_neither_java_nor_spark_is_needed(raw: Path, frames: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path), "JAVA_HOME": ""}
    for uri in (raw, frames):
        target = tmp_path / "p.png"
        command = [sys.executable, "-m", "marspipe", "inspect", str(uri), "--step", "log", "--picture", str(target)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert target.exists()


# --- pictures of frames ----------------------------------------------------------------------------------------------


def test_the_picture_of_a_frame_is_the_same_from_raw_files_and_table(raw: Path, frames: Path, tmp_path: Path) -> None:
    bytes_of = []
    for number, uri in enumerate((raw, frames)):
        target = tmp_path / f"{number}.png"
        text = inspect(uri, "--picture", target, "--view", "3", "--counter", "1")
        assert line(text, "picture") == str(target)
        bytes_of.append(target.read_bytes())
    assert bytes_of[0] == bytes_of[1]
    inspect(frames, "--picture", tmp_path / "other.png", "--view", "9", "--counter", "1")
    assert (tmp_path / "other.png").read_bytes() != bytes_of[0]
    inspect(frames, "--picture", tmp_path / "open.png", "--type", "open_beam", "--view", "3")
    picture(tmp_path / "open.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--picture", "x.png", "--view", "24"), "--view must be 0..23, got 24"),
        (("--picture", "x.png", "--counter", "2"), "--counter must be 0..1, got 2"),
        (("--picture", "x.png", "--tile", "1"), "--tile must be 0..0, got 1"),
        (("--picture", "x.png", "--type", "dark", "--view", "8"), "there is no dark frame of view 8"),
        (("--picture", "x.png", "--type", "absorber"), "there is no absorber frame of view 0"),
        (("--step", "log", "--bin", "2"), "--bin must be 0..1 (20-50 keV, 50+ keV), got 2"),
        (("--step", "dark", "--counter", "-1"), "--counter must be 0..1, got -1"),
        (("--step", "log", "--view", "-1"), "--view must be 0..23, got -1"),
        (("--step", "bad-pixels", "--tile", "3"), "--tile must be 0..0, got 3"),
        (("--step", "drak"), "there is no step 'drak'; did you mean 'dark'?"),
        (("--step", "scatter"), "--step scatter changes nothing here: recipe default makes active dark, bins, log"),
        (("--step", "stitch"), "stands at one position"),
        (("--step", "stripes"), "--set preprocess.stripes.mode=by-angle"),
        (("--step", "stripes", "--row", "32"), "--row must be 0..31, got 32"),
        (("--step", "log", "--row", "3"), "--row is the detector row for --step stripes"),
        (("--step", "log", "--set", "preprocess.nonsense=1"), "preprocess: unknown key 'nonsense'"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    raw: Path, frames: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    for uri in (raw, frames):
        assert message in refusal(capsys, uri, *arguments)
    assert not Path("x.png").exists()


# --- corrections, before and after -----------------------------------------------------------------------------------


def test_steps_are_listed(raw: Path) -> None:
    rows = inspect(raw, "--step").splitlines()
    state = {row.split()[1]: row.split()[0] for row in rows[1:]}
    on = ["bad-pixels", "dark", "bins", "log", "flux", "inpaint"]
    assert [name for name, is_on in state.items() if is_on == "on"] == on
    assert set(state) - set(on) == {
        "dead-time",
        "zingers",
        "scatter",
        "thickness",
        "beam-hardening",
        "stitch",
        "stripes",
    }
    text = inspect(raw, "--set", "preprocess.scatter.counts_per_pixel=5", "--step")
    assert "on         scatter" in text


def look_of(uri: Path, recipe: str = "") -> StepLook:
    table = uri.name == "frames"
    look = TableLook.of(FramesTable.open(str(uri))) if table else RawLook.of(open_scan(str(uri)), str(uri))
    return StepLook(look, parse_recipe(recipe, "test"))


def test_raw_files_and_table_give_the_same_calibration_and_steps(raw: Path, frames: Path) -> None:
    ours, theirs = look_of(raw), look_of(frames)
    one, other = (steps.look.calibration(0) for steps in (ours, theirs))
    assert [g.time for g in one.open_beams] == [g.time for g in other.open_beams]
    assert one.counter_bits == other.counter_bits == 12
    for a, b in zip((*one.darks, *one.open_beams[1].sums), (*other.darks, *other.open_beams[1].sums), strict=True):
        assert np.array_equal(a.total, b.total)
        assert np.array_equal(a.squares, b.squares)
    for name in ("dark", "bins", "log", "flux", "inpaint"):
        a, b = (steps.change(name, 5, 0, 1, 1) for steps in (ours, theirs))
        assert np.array_equal(a.before, b.before)
        assert np.array_equal(a.after, b.after)


def test_steps_do_what_they_say(raw: Path) -> None:
    scan = open_scan(str(raw))
    counters = read_counters(scan, "projection")[5].astype(np.float64)
    dark, open_beam = (read_counters(scan, kind).mean(axis=0) for kind in ("dark", "open_beam"))
    steps = look_of(raw)
    change = steps.change("dark", 5, 0, 0, 0)
    np.testing.assert_allclose(change.after - change.before, -dark[0], atol=1e-3)
    assert change.comparable
    change = steps.change("bins", 5, 0, 0, 0)
    np.testing.assert_allclose(change.difference, -(counters - dark)[1], atol=1e-3)
    change = steps.change("log", 5, 0, 0, 1)
    assert not change.comparable
    good = steps.flags(0, 1) == 0
    ratio = (open_beam - dark)[1][good] / (counters - dark)[1][good]
    # Open beams are interpolated in time, and half counts added: both far below the noise.
    np.testing.assert_allclose(change.after[good], np.log(ratio), atol=0.02)
    change = steps.change("inpaint", 5, 0, 0, 1)
    changed = change.difference != 0
    assert changed.any()
    assert not changed[good].any()


def test_the_picture_of_a_step_shows_the_defect(raw: Path, tmp_path: Path) -> None:
    text = inspect(raw, "--step", "inpaint", "--picture", tmp_path / "s.png", "--bin", "1", "--view", "2")
    assert "view 2 of 24 (30 deg), bin 50+ keV" in line(text, "inpaint")
    assert re.search(r"changed \d+ of 1280 values", text)
    picture(tmp_path / "s.png")


def test_bad_pixels_are_named_and_drawn(raw: Path, frames: Path, tmp_path: Path) -> None:
    truth = json.loads((raw / "truth" / "truth.json").read_text())
    assert truth  # the settings' five dead and three noisy pixels
    said = [
        line(inspect(uri, "--step", "bad-pixels", "--picture", tmp_path / "b.png"), "bad pixels")
        for uri in (raw, frames)
    ]
    assert said[0] == said[1]
    counts = {name: int(n) for name, n in re.findall(r"(dead|noisy) (\d+)", said[0])}
    assert counts == {"dead": 5, "noisy": 3}
    image = picture(tmp_path / "b.png")
    dead = np.abs(image - np.array([0x0B, 0x4F, 0x9E]) / 255).max(axis=-1) < 0.02
    assert dead.mean() > 5 / 1280 / 4


def test_stitch(tiled: Path, tmp_path: Path) -> None:
    text = inspect(tiled, "--step", "stitch", "--view", "4", "--picture", tmp_path / "w.png")
    assert "2 camera positions with 0 bad pixels make 32 x 68 px" in text
    picture(tmp_path / "w.png")
    found = look_of(tiled).stitched(4, 0)
    left, right = found.tiles
    assert found.wide.shape == (ROWS, COLUMNS + STEP_PX)
    np.testing.assert_array_equal(found.wide[:, :STEP_PX], left[:, :STEP_PX])
    np.testing.assert_allclose(found.wide[:, COLUMNS:], right[:, COLUMNS - STEP_PX :], rtol=1e-6)
    text = inspect(tiled, "--step", "log", "--tile", "1", "--view", "4")
    assert "view 4 of 24 (60 deg), camera position 1" in text


@pytest.mark.parametrize("mode", ["by-angle", "sinogram"])
def test_stripes(raw: Path, frames: Path, tmp_path: Path, mode: str) -> None:
    options = ["--set", f"preprocess.stripes.mode={mode}", "--step", "stripes", "--row", "10", "--bin", "1"]
    texts = [inspect(uri, *options, "--picture", tmp_path / f"{k}.png") for k, uri in enumerate((raw, frames))]
    assert "row 10 of 32, bin 50+ keV; all 24 views were read, 0." in texts[0]
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    change = look_of(raw, f"preprocess: {{stripes: {{mode: {mode}}}}}").stripes(1, 10)
    assert change.before.shape == (VIEWS, COLUMNS)
    if mode == "by-angle":
        assert np.abs(change.difference - change.difference[0]).max() < 1e-6
    assert change.difference.any()


# --- volumes ---------------------------------------------------------------------------------------------------------


def test_volume_shows_its_flags_and_corrections(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = inspect(demo / "volume")
    assert line(text, "corrected").startswith("as usual")
    flags = [row for row in text.splitlines() if row.startswith("bad pixels")]
    assert len(flags) == 4
    assert flags[0].startswith("bad pixels 20-33 keV: ")
    said = inspect(demo / "volume", "--step", "bad-pixels", "--bin", "3", "--picture", tmp_path / "b.png")
    number = int(re.findall(r": (\d+) of", said)[0])
    assert number == int(re.findall(r": (\d+) of", flags[3])[0]) > 0
    picture(tmp_path / "b.png")
    again = inspect(demo / "raw", "--step", "bad-pixels", "--bin", "3")
    assert int(re.findall(r": (\d+) of", again)[0]) == number
    assert "it keeps --step bad-pixels only" in refusal(capsys, demo / "volume", "--step", "log")
    assert "--bin must be 0..3, got 4" in refusal(capsys, demo / "volume", "--step", "bad-pixels", "--bin", "4")
    assert "--tile must be 0..0, got 1" in refusal(capsys, demo / "volume", "--step", "bad-pixels", "--tile", "1")
