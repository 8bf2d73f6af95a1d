"""The jobs as a scheduler starts them: by spark-submit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyspark
import pytest

from marspipe.simulate import SimulationSettings, mars_phantom, simulate_scan
from marspipe.store.volume import open_volume


def spark_submit(job: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    command = [str(submit), "--master", "local[2]", "--conf", "spark.ui.enabled=false", str(job), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs") / "scan"
    settings = SimulationSettings(
        views=40, detector_shape=(32, 32), phantom=mars_phantom(0.25), thresholds_kev=(20.0, 50.0)
    )
    simulate_scan(folder, settings=settings)
    return folder


def test_ingest_then_reconstruct(project: Path, scan: Path, tmp_path: Path) -> None:
    frames, out = str(tmp_path / "frames"), str(tmp_path / "out")
    done = spark_submit(project / "jobs" / "ingest.py", "--raw", str(scan), "--out", frames)
    assert done.returncode == 0, done.stderr
    assert "projection counter 1: 40 frames, 40 views" in done.stdout
    recipe = str(project / "conf" / "recipes" / "default.yaml")
    arguments = ["--raw", frames, "--out", out, "--recipe", recipe]
    done = spark_submit(project / "jobs" / "reconstruct.py", *arguments)
    assert done.returncode == 0, done.stderr
    volume = open_volume(f"{out}/volume")
    assert volume.shape == (32, 32, 32)
    assert np.isfinite(volume[0][16]).all()
    again = spark_submit(project / "jobs" / "reconstruct.py", *arguments)
    assert again.returncode == 2
    assert "already holds a committed volume" in again.stdout  # spark-submit joins the two streams


def test_bad_input_is_exit_code_2(project: Path, tmp_path: Path) -> None:
    done = spark_submit(project / "jobs" / "ingest.py", "--raw", str(tmp_path), "--out", str(tmp_path / "frames"))
    assert done.returncode == 2
    assert "there is no scan manifest" in done.stdout
