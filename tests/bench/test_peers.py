"""marspipe beside its peers: that all do the same work, and that a missing or dying peer is a remark."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from marspipe.bench.peers import Comparison, Peer, compare_astra_slice, compare_rtk, side_by_side
from marspipe.bench.process import in_fresh_process
from marspipe.bench.scans import cone_scan
from marspipe.errors import EnvironmentMissingError, RunError
from tests.lacking import lacking

JOB = {"work": "fdk", "threads": 1, "repeat": 1, "backend": "cpu"}


def need(distribution: str) -> None:
    try:
        version(distribution)
    except PackageNotFoundError:
        lacking("EXTRAS", f"{distribution} is not installed (extra 'bench')")


def check_both(compared: Comparison) -> dict[str, float]:
    ours, theirs = compared.results
    assert ours.size == theirs.size
    assert min(ours.seconds, theirs.seconds) > 0
    assert theirs.figures["times_marspipe"] == theirs.seconds / ours.seconds
    return theirs.figures


def test_itk_rtk_reconstructs_the_same_volume() -> None:
    need("itk-rtk")
    compared = compare_rtk(voxels=48, views=60, detector=72, threads=2, repeat=1)
    figures = check_both(compared)
    assert figures["relative_difference"] < 2e-6
    assert not compared.notes


def test_astra_backprojects_the_same_slice() -> None:
    need("astra-toolbox")
    compared = compare_astra_slice(voxels=96, views=90, repeat=1)
    figures = check_both(compared)
    # Both add up the same rays; values in between come from other interpolations.
    assert figures["relative_difference"] < 1e-2


def test_a_peer_that_is_not_installed_is_a_remark() -> None:
    geometry, grid = cone_scan(4, 12, 8)
    peer = Peer("Nobody", "marspipe-has-no-such-peer", "nobody", "nothing")
    compared = side_by_side(peer, geometry, grid, JOB, "marspipe")
    assert compared.results == []
    assert compared.notes == ["Nobody is not installed, so nothing is compared with it: pip install 'marspipe[bench]'"]


def test_a_peer_that_dies_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying_peer.py").write_text(
        "import os, signal, sys\n"
        "print('division by nothing', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGFPE)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    geometry, grid = cone_scan(8, 12, 8)
    compared = side_by_side(Peer("Mortal", "numpy", "dying_peer", "FDK"), geometry, grid, JOB, "marspipe")
    assert [result.name for result in compared.results] == ["marspipe"]
    assert compared.notes == [
        f"Mortal {version('numpy')} FDK: dying_peer was ended by SIGFPE: division by nothing",
    ]


def test_astra_without_a_device_says_so_and_lives(tmp_path: Path) -> None:
    need("astra-toolbox")
    import astra
    import numpy as np

    if astra.use_cuda():
        pytest.skip("there is a CUDA device")
    geometry, grid = cone_scan(4, 12, 8)
    np.save(tmp_path / "line_integrals.npy", np.zeros((4, 12, 12), np.float32))
    job = {**JOB, "folder": str(tmp_path), "geometry": geometry.to_dict(), "grid": grid.to_dict(), "out": "volume.npy"}
    with pytest.raises(EnvironmentMissingError, match="ASTRA's FDK needs a CUDA device"):
        in_fresh_process("marspipe.bench.astra", job)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RunError, match=r"marspipe\.bench\.own failed: KeyError: 'geometry'"):
        in_fresh_process("marspipe.bench.own", {})
