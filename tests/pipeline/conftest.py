"""A simulated scan in raw files, its frames table, and the same scan worked through in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from marspipe.pipeline.ingest import RawScan, ingest, open_scan
from marspipe.preprocess.chain import Preprocessor
from marspipe.readers.manifest import scan_geometry
from marspipe.recon.fdk import fdk
from marspipe.scan.energy import counter_bins
from marspipe.scan.grid import VolumeGrid
from marspipe.simulate import simulate_scan
from tests.pipeline.calibrations import calibration_of, frames_and_times
from tests.pipeline.scans import SIDE, OneProcess, quiet, settings


@pytest.fixture(scope="session")
def raw_scan(tmp_path_factory: pytest.TempPathFactory) -> RawScan:
    folder = tmp_path_factory.mktemp("raw scan ü")
    simulate_scan(folder / "scan", settings=settings())
    return open_scan(str(folder / "scan"))


@pytest.fixture(scope="session")
def frames_uri(spark: SparkSession, raw_scan: RawScan, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("frames [1] {a,b} *") / "frames")
    ingest(spark, raw_scan, uri, progress=quiet())
    return uri


@pytest.fixture(scope="session")
def one_process(raw_scan: RawScan) -> OneProcess:
    preprocess = Preprocessor(calibration_of(raw_scan), counter_bins(raw_scan.manifest.camera_counters()))
    (projections,) = [file for file in raw_scan.files if file.entry.frame_type == "projection"]
    frames, times = frames_and_times(projections, len(raw_scan.manifest.counters))
    corrected = [preprocess(counters, time=time / 10**9) for counters, time in zip(frames, times, strict=True)]
    integrals = np.stack(corrected, axis=1)
    geometry = scan_geometry(raw_scan.manifest, raw_scan.angles_rad)
    pitch = 0.11 / 1.25
    grid = VolumeGrid((SIDE, SIDE, SIDE), (pitch, pitch, pitch))
    return OneProcess(geometry, grid, integrals, [fdk(p, geometry, grid) for p in integrals])


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")
