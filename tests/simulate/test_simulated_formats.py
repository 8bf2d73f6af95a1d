"""Every raw format, written by the simulator, comes back frame by frame through its manifest and its reader."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from marspipe.errors import InputError
from marspipe.preprocess.tiles import wide_detector
from marspipe.readers import READERS
from marspipe.readers.manifest import ScanManifest, load_manifest, resolve_angles, resolve_heights, scan_geometry
from marspipe.scan.phantoms import Cylinder, chord_lengths
from marspipe.simulate import Defects, SimulationSettings, mars_phantom, simulate_scan
from marspipe.simulate.acquisition import Acquisition, Stream

SMALL = SimulationSettings(
    scan_id="tiles",
    views=3,
    detector_shape=(6, 20),
    phantom=mars_phantom(0.15),
    thresholds_kev=(20.0, 33.0, 50.0),
    open_beams=2,
    darks=2,
    dead_pixels=2,
    noisy_pixels=2,
)
LADDERS = (20.0, 33.0, 50.0, 80.0, 15.0, 30.0, 45.0, 60.0)
# Two camera positions that are no whole pixels apart, two heights, eight counters, plates, drifting gains.
ALL = replace(
    SMALL,
    camera_positions_mm=((0.0, -0.3), (0.05, 0.4)),
    sample_z_mm=(-0.2, 0.3),
    thresholds_kev=LADDERS,
    modes=("SPM",) * 4 + ("CSM",) * 4,
    defects=Defects(
        gain_drift_spread=0.03, absorbers_mm=(1.0, 2.5), absorber_frames=2, flux_spread=0.02, monitor_counts=1e4
    ),
)
FORMATS = ("merlin", "data_exchange", "nxtomo", "tiff", "dicom")


def load(path: Path) -> ScanManifest:
    return load_manifest(path.read_text("utf-8"), str(path))


def parts_in(acquisition: Acquisition, file: Any) -> list[Any]:
    """What a file of the manifest should hold."""
    wanted = {
        "projection": ["projections"],
        "dark": ["dark"],
        "open_beam": {
            "before": ["open_beam_before"],
            "after": ["open_beam_after"],
            None: ["open_beam_before", "open_beam_after"],
        }[file.time],
        "absorber": [f"absorber_{k}" for k, d in enumerate((1.0, 2.5)) if d == file.absorber_mm],
    }[file.frame_type]
    if file.frame_type == "open_beam" and file.time is None and acquisition.settings.defects.gain_drift_spread:
        wanted = ["open_beam_before"]
    return [part for part in acquisition.parts if part.name in wanted]


def require_scan(manifest_path: Path, settings: SimulationSettings) -> None:
    """Require that a scan holds every frame of its settings once, at its place, bit for bit."""
    manifest, acquisition = load(manifest_path), Acquisition(settings)
    assert manifest.camera_counters() == settings.counters
    assert manifest.camera_positions_mm == settings.camera_positions_mm
    held: list[tuple[int, str]] = []
    angles, heights = [], []
    for file in manifest.files:
        here, reader = acquisition.at(file.tile), READERS[file.reader]
        uri = str(manifest_path.parent / file.path)
        with open(uri, "rb") as opened:
            entries = reader.index(opened, uri, dataset=file.dataset, frame_type=file.frame_type)
            images = list(reader.read_many(opened, entries))
            if file.frame_type == "projection":
                angles.append(resolve_angles(file, opened, uri))
                heights.append(resolve_heights(file, angles[-1].size, opened, uri))
        parts = parts_in(here, file)
        held += [(file.tile, part.name) for part in parts]
        expected = [frame for part in parts for counters in here.frames_of(part) for frame in counters]
        assert len(images) == len(expected)
        for number, (entry, image, truth) in enumerate(zip(entries, images, expected, strict=True)):
            assert (entry.exposure_index, entry.counter) == divmod(number, len(settings.counters))
            assert np.array_equal(image, truth), (file.path, number)
            exposure_s = entry.exposure_s if entry.exposure_s is not None else file.exposure_s
            assert exposure_s == pytest.approx(parts[0].exposure_s, rel=1e-9, abs=1e-6)
    tiles = range(len(settings.camera_positions_mm))
    assert sorted(held) == sorted((tile, part.name) for tile in tiles for part in acquisition.parts)
    found = scan_geometry(manifest, manifest.projection_angles(angles), manifest.sample_heights_mm(heights))
    expected_geometry = settings.geometry()
    assert len(found) == settings.n_views and found.detector_shape == expected_geometry.detector_shape
    np.testing.assert_allclose(found.angles_rad, expected_geometry.angles_rad, atol=1e-11)
    np.testing.assert_allclose(found.source_mm, expected_geometry.source_mm, atol=1e-8)


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_several_positions_heights_and_counters_come_back(format_: Any, tmp_path: Path) -> None:
    settings = replace(ALL, format=format_)
    calls: list[tuple[int, int]] = []
    path = simulate_scan(tmp_path, settings=settings, progress=lambda done, total: calls.append((done, total)))
    require_scan(path, settings)
    exposures = 2 * (2 + 2 * 2 + 2 * 2 + 2 * 3)
    assert calls == [(n, exposures) for n in range(1, exposures + 1)]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_helix_without_defects_comes_back(format_: Any, tmp_path: Path) -> None:
    settings = replace(SMALL, format=format_, views=7, angle_range_rad=4.4 * math.pi, helix_pitch_mm=-0.4)
    require_scan(simulate_scan(tmp_path, settings=settings), settings)
    heights = settings.heights_mm()
    assert heights[0] == -heights[-1] > 0
    np.testing.assert_allclose(np.diff(heights), -0.4 * 2.2 / 7)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((4, 256), {"merlin_raw": True, "counter_depth_bits": 12, "open_beam_photons": 2000.0}),
        ((4, 256), {"merlin_raw": True}),
        ((8, 512), {"merlin_raw": True, "merlin_layout": "2x2"}),
        ((4, 512), {"merlin_layout": "2x1"}),
        ((3, 264), {"merlin_layout": "2x1G", "thresholds_kev": LADDERS, "modes": ("SPM",) * 4 + ("CSM",) * 4}),
    ],
)
def test_chips_and_read_out_streams_of_merlin_come_back(
    shape: tuple[int, int], changes: dict[str, Any], tmp_path: Path
) -> None:
    settings = replace(
        SMALL,
        views=2,
        detector_shape=shape,
        pixel_pitch_mm=(0.1, 3.0 / shape[1]),
        **{"thresholds_kev": (20.0, 50.0), **changes},
    )
    require_scan(simulate_scan(tmp_path, settings=settings), settings)


def test_the_pixels_of_a_filled_gap_count_nothing() -> None:
    settings = replace(SMALL, detector_shape=(3, 264), pixel_pitch_mm=(0.1, 3.0 / 264), merlin_layout="2x1G")
    frame = Acquisition(settings).frame(Stream.OPEN_BEAM_BEFORE, 0)
    assert not frame[:, :, 128:136].any()
    assert np.count_nonzero(frame[0] == 0) <= 3 * 8 + settings.dead_pixels


@pytest.mark.parametrize("format_", FORMATS)
def test_equal_settings_give_equal_bytes(format_: Any, tmp_path: Path) -> None:
    settings = replace(ALL, format=format_, defects=replace(ALL.defects, zingers_per_frame=3.0))
    digests = []
    for name in ("one", "two"):
        folder = simulate_scan(tmp_path / name, settings=settings).parent
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests.append({str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files})
    assert digests[0] == digests[1]
    assert {"truth/exposures.csv", "truth/zingers.csv", "truth/gain_drift.npy"} <= set(digests[0])


def test_every_frame_has_its_time_where_the_format_has_a_place(tmp_path: Path) -> None:
    acquisition = Acquisition(ALL)
    path = simulate_scan(tmp_path / "merlin", settings=ALL)
    ends = ALL.start_time
    for file in load(path).files:
        uri = str(path.parent / file.path)
        with open(uri, "rb") as opened:
            entries = READERS["merlin"].index(opened, uri)
        (part,) = parts_in(acquisition.at(file.tile), file)
        assert part.start >= ends  # one part after the other, over all positions
        ends = part.start_of(part.count)
        for entry in entries:
            assert entry.acquired_at is not None
            started_at = datetime.fromisoformat(entry.acquired_at[:26]).replace(tzinfo=UTC)
            assert abs((started_at - part.start_of(entry.exposure_index)).total_seconds()) < 3e-6
    path = simulate_scan(tmp_path / "dicom", settings=replace(ALL, format="dicom"))
    dataset = pydicom.dcmread(path.parent / "tile_1_projections.dcm")
    part = next(p for p in acquisition.at(1).parts if p.stream is Stream.PROJECTION)
    group = dataset.PerFrameFunctionalGroupsSequence[2 * 8 + 1]
    started = group.FrameContentSequence[0].FrameAcquisitionDateTime
    assert started == part.start_of(2).strftime("%Y%m%d%H%M%S.%f%z")
    assert float(dataset.PerFrameFunctionalGroupsSequence[5 * 8].TableHeight) == 0.3
    assert dataset.private_block(0x19, "MARSPIPE EXAMPLE")[1].value == 400.0  # u, um


# --- places ----------------------------------------------------------------------------------------------------------


def test_positions_see_their_part_of_the_wide_shadow() -> None:
    """Whole-pixel offsets: every position is a window of one wide detector."""
    pitch = 0.11
    positions = ((-2 * pitch, -4 * pitch), (3 * pitch, 5 * pitch))
    settings = replace(SMALL, camera_positions_mm=positions)
    layout = wide_detector((6, 20), positions, (pitch, pitch))
    wide = replace(SMALL, detector_shape=layout.shape, principal_point_px=layout.principal_point_px)
    expected = Acquisition(wide).expected_bins(1)
    camera = Acquisition(settings)
    for tile, (row, col) in enumerate(layout.origins_px.astype(int)):
        seen = camera.at(tile).expected_bins(1)
        np.testing.assert_allclose(seen, expected[:, row : row + 6, col : col + 20], rtol=1e-6)
    assert not np.allclose(camera.at(0).expected_bins(1), camera.at(1).expected_bins(1))


def test_half_pixel_offsets_lie_between_the_pixels() -> None:
    half = replace(SMALL, camera_positions_mm=((0.0, 0.0), (0.0, 0.055)))
    fine = replace(SMALL, detector_shape=(6, 40), pixel_pitch_mm=(0.11, 0.055))
    # Pixel (20 - 1) / 2 = 9.5 of the camera and (40 - 1) / 2 = 19.5 of the fine detector are in the middle.
    camera = Acquisition(replace(half, principal_point_px=(2.5, 9.5)))
    shadow = -np.log(Acquisition(replace(fine, principal_point_px=(2.5, 19.0))).expected_bins(0)[0])
    shadow -= shadow.min()
    for tile, first in ((0, 0), (1, 1)):
        seen = -np.log(camera.at(tile).expected_bins(0)[0])
        np.testing.assert_allclose(seen - seen.min(), shadow[:, first::2], atol=1e-6)


def test_positions_have_the_same_chip_but_noise_of_their_own() -> None:
    acquisition = Acquisition(ALL)
    other = acquisition.at(1)
    assert np.array_equal(acquisition.gain, other.gain) and np.array_equal(acquisition.dead, other.dead)
    assert np.array_equal(acquisition.gain_drift, other.gain_drift)
    for stream in (Stream.DARK, Stream.OPEN_BEAM_BEFORE):
        assert not np.array_equal(acquisition.frame(stream, 0), other.frame(stream, 0))
    assert np.array_equal(other.frame(Stream.DARK, 0), Acquisition(ALL, tile=1).frame(Stream.DARK, 0))


def test_a_sample_moved_upwards_casts_its_shadow_higher() -> None:
    moved = replace(SMALL, sample_z_mm=(0.25,))
    body = SMALL.phantom.body
    raised = Cylinder((0.0, 0.0, 0.25), body.radius_mm, body.height_mm)
    np.testing.assert_allclose(
        chord_lengths(body, moved.geometry(), 1), chord_lengths(raised, SMALL.geometry(), 1), atol=1e-9
    )
    two = replace(SMALL, sample_z_mm=(0.0, 0.25))
    assert two.n_views == 6
    np.testing.assert_allclose(Acquisition(two).expected_bins(4), Acquisition(moved).expected_bins(1), rtol=1e-9)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_positions_mm": ()}, "camera_positions_mm must be finite"),
        ({"camera_positions_mm": ((0.0,), (1.0, 1.0))}, r"must be pairs \(v, u\)"),
        ({"camera_positions_mm": ((0.0, 0.0), (0.0, 0.0))}, "differ from each other"),
        ({"camera_positions_mm": ((0.0, -3.0), (0.0, 3.0))}, "columns from -27.3, 27.3 on"),
        ({"camera_positions_mm": ((0.0, 1.0),)}, "shadow covers columns"),
        ({"sample_z_mm": (math.nan,)}, r"sample_z_mm must be finite \(mm\)"),
        ({"sample_z_mm": (1.0, 2.0), "helix_pitch_mm": 3.0}, "got both"),
        ({"helix_pitch_mm": 0.0}, "helix_pitch_mm must be finite and not 0"),
        ({"modes": ("CSM",)}, "SPM or CSM for each of the 3 thresholds_kev"),
        ({"modes": ("CSM", "CM", "CSM")}, "SPM or CSM"),
        ({"thresholds_kev": (20.0, 33.0, 20.0), "modes": ("CSM", "SPM", "CSM")}, "ascend inside mode CSM"),
        ({"shared_charge_fraction": 1.5}, "shared_charge_fraction"),
        ({"merlin_layout": "2x2"}, "chips of 128 px is 256 px wide"),
        ({"merlin_layout": "3y2"}, "layout must be"),
        ({"merlin_raw": True}, "color mode"),
        ({"merlin_raw": True, "thresholds_kev": (20.0,)}, "512 px wide in its header, got 40"),
        ({"format": "tiff", "merlin_raw": True}, "are for the format merlin, got tiff"),
    ],
)
def test_impossible_scans_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)
