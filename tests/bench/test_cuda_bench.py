"""The measurements of the CUDA device: their code in numba's simulator, their refusal where there is no device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marspipe.cli import cli, run_command
from marspipe.recon.backprojection.device import cuda_available
from tests.lacking import require_package


@pytest.fixture
def numba_cuda() -> None:
    """Numba's CUDA target, for its simulator."""
    require_package("numba_cuda", "cuda")


TOY = """
import json, sys
from dataclasses import asdict
from marspipe.bench import cuda
from marspipe.bench.device import cuda_device
from tests.lacking import require_package
from tests.recon.cuda_cases import prepare

sys.setswitchinterval(1e-5)  # the simulator waits for its threads in a busy loop
prepare()
size = {"voxels": 6, "views": 3, "detector": 8}
results = [
    cuda.bench_kernel(**size, repeat=1),
    cuda.bench_kernel(**size, slab_slices=3, repeat=1),
    cuda.bench_stream(**size, slab_slices=3, repeat=1),
    cuda.bench_fdk(**size, repeat=1),
]
print(json.dumps([asdict(result) for result in results] + [cuda_device(required=True)]))
"""


@pytest.mark.usefixtures("numba_cuda")
def test_all_measurements_run_in_the_simulator(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOY],
        cwd=project,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *results, device = json.loads(done.stdout.splitlines()[-1])
    assert [result["name"] for result in results] == [
        "CUDA kernel",
        "CUDA kernel, 2 slabs",
        "CUDA kernel fed from the host, 2 slabs",
        "fdk, CUDA",
    ]
    for result in results:
        assert result["size"] == "6^3, 3 views of 8^2"
        assert result["figures"]["gups"] == pytest.approx(6**3 * 3 / 1e9 / result["seconds"])
    assert device


def test_without_a_device_the_command_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    if cuda_available():
        pytest.skip("there is a CUDA device")
    assert run_command(cli, ["bench", "kernel", "--backend", "cuda"], "marspipe") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("marspipe: backend 'cuda' is not possible here: ")
    assert said.err.count("\n") == 1
