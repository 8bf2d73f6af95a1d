"""Measured scans from their own files to a volume: a tooth, and a sample of a synchrotron beamline."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from marspipe.pipeline.align import align, prepare_alignment
from marspipe.pipeline.run import run
from marspipe.pipeline.source import open_source
from marspipe.recipe import parse_recipe
from marspipe.store.volume import Volume, open_volume
from tests.conftest import CASES
from tests.pipeline.scans import quiet

TOOTH = Path(__file__).parents[1] / "data" / "tooth"
SAVU = CASES / "savu_image_test_parallel3d"
PLAIN = ("output.dicom=false", "output.preview=false", "filter.window=hann")


def reconstructed(spark: SparkSession, scan: Path, out: Path, *overrides: str) -> Volume:
    recipe = parse_recipe("{}", "test", (*PLAIN, *overrides))
    return open_volume(run(spark, open_source(str(scan)), str(out), recipe, progress=quiet()).volume_uri)


def found_column(spark: SparkSession, scan: Path) -> float:
    """Return the column of the axis that ``marspipe align`` finds."""
    job = prepare_alignment(open_source(str(scan)), parse_recipe("{}", "test"), bin=0, steps=1, step_px=1.0)
    found = align(spark, job, progress=quiet())
    assert found.trusted
    return found.estimate.column_px


def darkest(image: NDArray[np.float32]) -> float:
    """Return the darkest thousandth inside of the field of view, in units of the brightest."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    inside = image[np.hypot(y - y.mean(), x - x.mean()) < 60]
    return float(np.quantile(inside, 0.001) / np.quantile(inside, 0.999))


@pytest.fixture(scope="module")
def tooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tooth, from whose manifest the place of the axis is taken out."""
    folder = tmp_path_factory.mktemp("tooth")
    manifest = yaml.safe_load((TOOTH / "scan.yaml").read_text())
    del manifest["geometry"]["principal_point_px"]
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "tooth.h5").symlink_to(TOOTH / "tooth.h5")
    return folder


def test_the_tooth_with_its_center_and_without(spark: SparkSession, tooth: Path, tmp_path: Path) -> None:
    grid = ("grid.shape=[1, 576, 576]", "grid.voxel_mm=[0.01, 0.01, 0.01]", "grid.center_mm=[0, 0, 0]")
    given = reconstructed(spark, TOOTH, tmp_path / "given", *grid)
    column = found_column(spark, tooth)
    assert column == pytest.approx(295.86, abs=0.15)
    found = reconstructed(spark, tooth, tmp_path / "found", *grid, f"geometry.center_of_rotation_px={column}")
    middle = reconstructed(spark, tooth, tmp_path / "middle", *grid)
    slices = {name: volume[0][0] for name, volume in (("given", given), ("found", found), ("middle", middle))}
    assert np.isfinite(slices["given"]).all()
    assert np.corrcoef(slices["given"].ravel(), slices["found"].ravel())[0, 1] > 0.99
    assert np.corrcoef(slices["given"].ravel(), slices["middle"].ravel())[0, 1] < 0.9
    # Air outside, and teeth attenuate; enamel more than dentine.
    y, x = np.mgrid[-288:288, -288:288]
    rim, inside = np.hypot(y, x) > 280, np.hypot(y, x) < 60
    assert abs(np.median(slices["given"][rim])) < 0.05 * np.median(slices["given"][inside])
    assert given.metadata["bad_pixels"][0]["pixels"] == 2 * 640


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """91 TIFF files, an averaged flat and dark, and a list of angles that holds those of flats and darks as well."""
    folder = tmp_path_factory.mktemp("beamline")
    for path in (*SAVU.glob("tiffs/raw_*.tiff"), SAVU / "flat_00001.tiff", SAVU / "dark_00001.tiff"):
        shutil.copyfile(path, folder / path.name)
    angles = np.loadtxt(SAVU / "angles.txt")[10:101].tolist()
    (folder / "projections.yaml").write_text(
        yaml.safe_dump(
            {
                "marspipe_series": 1,
                "files": {"pattern": "raw_#####.tiff", "first": 0, "count": 91},
                "angles": {"unit": "deg", "values": angles},
            }
        )
    )
    (folder / "scan.yaml").write_text("""
marspipe_scan: 1
scan_id: beamline
geometry: {kind: parallel, detector_shape: [135, 160], pixel_pitch_mm: [0.01, 0.01]}
files:
  - {path: projections.yaml, reader: tiff, frame_type: projection, angles_rad: {dataset: angles, unit: deg}}
  - {path: flat_00001.tiff, reader: tiff, frame_type: open_beam}
  - {path: dark_00001.tiff, reader: tiff, frame_type: dark}
""")
    return folder


@pytest.mark.skipif(not SAVU.is_dir(), reason=f"no {SAVU.parts[-3:]} beside the checkout")
def test_a_scan_of_a_beamline(spark: SparkSession, beamline: Path, tmp_path: Path) -> None:
    """Offset axis, a last view that mirrors the first one, and a pixel that is zero in every frame."""
    column = found_column(spark, beamline)
    assert column == pytest.approx(85.86, abs=0.25)
    grid = ("grid.shape=[135, 144, 144]", "grid.voxel_mm=[0.01, 0.01, 0.01]")
    volume = reconstructed(spark, beamline, tmp_path / "out", *grid, f"geometry.center_of_rotation_px={column}")
    stack = np.asarray(volume[0])
    assert np.isfinite(stack).all()
    flags = volume.pixel_flags()
    assert flags[0, 0] != 0
    assert volume.metadata["bad_pixels"][0]["dead"] == 1
    assert np.count_nonzero(flags) < 0.02 * flags.size
    # One compact blob: most of what attenuates in the middle slice hangs together, away from the rim.
    middle = stack[67]
    solid = middle > 0.5 * np.quantile(middle, 0.995)
    y, x = np.nonzero(solid)
    assert 200 < solid.sum() < 0.25 * solid.size
    assert np.hypot(y - y.mean(), x - x.mean()).max() < 50
    wrong = reconstructed(spark, beamline, tmp_path / "wrong", *grid)
    # Nothing attenuates less than air; half-moons of a wrong axis would.
    assert darkest(middle) > -0.1
    assert darkest(wrong[0][67]) < -0.3
