"""A sample that climbs through the beam: a helical scan in raw files, through Spark, against one process."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pyspark.sql import SparkSession

from marspipe.errors import ScanError
from marspipe.pipeline.ingest import ingest, open_scan
from marspipe.pipeline.reconstruct import prepare, reconstruct
from marspipe.preprocess.calibration import Calibration, OpenBeams
from marspipe.preprocess.chain import Preprocessor
from marspipe.preprocess.pixel_statistics import PixelSums
from marspipe.recipe import parse_recipe
from marspipe.recon.fdk import fdk
from marspipe.scan.energy import counter_bins
from marspipe.scan.geometry import ScanGeometry
from marspipe.scan.phantoms import Ellipsoid, line_integrals
from marspipe.store import storage
from marspipe.store.tables import read_table
from marspipe.store.volume import open_volume
from tests.pipeline.scans import quiet

VIEWS, PER_TURN, PITCH_MM = 240, 60, 4.0
BALLS = [Ellipsoid((0.8, -0.5, z), (1.0, 1.0, 1.0), 0.3) for z in (-3.0, 0.0, 3.0)]
MANIFEST = """
marspipe_scan: 1
scan_id: spiral
geometry:
  kind: circular
  source_to_isocenter_mm: 60.0
  source_to_detector_mm: 90.0
  detector_shape: [40, 56]
  pixel_pitch_mm: [0.4, 0.4]
files:
- {path: spiral.h5, reader: data_exchange, frame_type: projection, angles_rad: {start: 0.0, step: STEP, count: 240},
   sample_z_mm: {start: 8.0, step: -0.06666666666666667}}
- {path: spiral.h5, reader: data_exchange, frame_type: open_beam}
- {path: spiral.h5, reader: data_exchange, frame_type: dark}
""".replace("STEP", repr(2 * np.pi / PER_TURN))


@pytest.fixture(scope="module")
def spiral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spiral")
    geometry = ScanGeometry.circular(
        source_to_isocenter_mm=60.0,
        source_to_detector_mm=90.0,
        detector_shape=(40, 56),
        pixel_pitch_mm=(0.4, 0.4),
        angles_rad=np.arange(VIEWS) * 2 * np.pi / PER_TURN,
        source_z_mm=-8.0 + np.arange(VIEWS) * PITCH_MM / PER_TURN,
    )
    counts = np.round(60000 * np.exp(-line_integrals(BALLS, geometry))).astype(np.uint16)
    with h5py.File(folder / "spiral.h5", "w") as file:
        file["exchange/data"] = counts
        file["exchange/data_white"] = np.full((4, 40, 56), 60000, np.uint16)
        file["exchange/data_dark"] = np.zeros((2, 40, 56), np.uint16)
    (folder / "scan.yaml").write_text(MANIFEST)
    return folder


def test_a_helix_through_spark_equals_one_process(spark: SparkSession, spiral: Path, tmp_path: Path) -> None:
    scan = open_scan(str(spiral))
    frames = str(tmp_path / "frames")
    ingest(spark, scan, frames, progress=quiet())
    heights = read_table(spark, frames, "frames", "view", "sample_z_mm", "frame_type").where("view = 90").collect()
    assert [row["sample_z_mm"] for row in heights if row["frame_type"] == "projection"] == [pytest.approx(2.0)]

    job = prepare(frames, parse_recipe("run: {slab_slices: 7, views_per_batch: 11}", "test"), 2)
    plan = job.plan
    assert plan.redundancy.name == "helix full"
    assert plan.grid.center_mm[0] == pytest.approx(-0.0333, abs=1e-3)  # between the first and the last view
    assert plan.grid.shape[0] * plan.grid.voxel_mm[0] == pytest.approx(
        16 + 40 * 0.4 / 1.5 - 2 * 1.05 * PITCH_MM, abs=0.4
    )
    assert all(task.n_views < 0.75 * VIEWS for task in plan.slabs)  # a slab takes the turns around it alone
    assert plan.shuffle_bytes < 0.6 * 4 * VIEWS * 56 * sum(task.n_rows for task in plan.slabs)
    volume = open_volume(reconstruct(spark, job, str(tmp_path / "out"), progress=quiet()).volume_uri)

    with h5py.File(spiral / "spiral.h5") as file:
        flats, darks, counts = (file[f"exchange/{name}"][:] for name in ("data_white", "data_dark", "data"))
    calibration = Calibration((OpenBeams((PixelSums.of(flats),)),), (PixelSums.of(darks),))
    preprocess = Preprocessor(calibration, counter_bins(scan.manifest.camera_counters()))
    integrals = np.concatenate([preprocess(frame[None]) for frame in counts])
    expected = fdk(integrals, scan.geometry, plan.grid)
    np.testing.assert_array_equal(np.asarray(volume[0]), expected)
    for shape in BALLS:
        x, y, z = shape.center_mm
        voxel = tuple(
            int(np.abs(plan.grid.axis_mm(axis) - at).argmin()) for axis, at in zip("zyx", (z, y, x), strict=True)
        )
        assert expected[voxel] == pytest.approx(0.3, rel=0.02)
    assert storage.exists(str(tmp_path / "out" / "volume" / "_marspipe.json"))


def test_heights_must_fit_the_exposures(spiral: Path, tmp_path: Path) -> None:
    def refuses(sample_z: str, message: str) -> None:
        for name in ("spiral.h5",):
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).symlink_to(spiral / name)
        (tmp_path / "scan.yaml").write_text(
            MANIFEST.replace("sample_z_mm: {start: 8.0, step: -0.06666666666666667}", f"sample_z_mm: {sample_z}")
        )
        with pytest.raises(ScanError, match=message):
            open_scan(str(tmp_path))

    refuses("[0.0, 1.0]", r"spiral\.h5: sample_z_mm lists 2 heights for 240 exposures")
    refuses("{start: .inf, step: 1}", "sample_z_mm")
    refuses("high", "sample_z_mm")
    text = MANIFEST.replace("frame_type: dark}", "frame_type: dark, sample_z_mm: 1.0}")
    (tmp_path / "scan.yaml").write_text(text)
    with pytest.raises(ScanError, match="angles_rad, first_view and sample_z_mm are for projections"):
        open_scan(str(tmp_path))
