"""Executors, Python workers and tasks that die: the volume is the same, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.faults import Driver, FailTwice, Fault, Gate, WaitAtGate, command_line, kill, make_volume
from tests.cluster.same_volume import assert_same_volume

pytest_plugins = ["tests.cluster.fault_fixtures"]


@pytest.mark.parametrize("stage", ["filter", "backproject"])
def test_an_executor_is_killed(
    driver: Driver, undisturbed: tuple[str, str], tmp_path: Path, gate: Gate, stage: str
) -> None:
    driver.start(make_volume, undisturbed[0], str(tmp_path / "out"), Fault(stage, WaitAtGate(gate)))
    executor = gate.wait()["jvm"]
    assert "CoarseGrainedExecutorBackend" in command_line(executor)
    kill(executor)
    counted = driver.result()
    assert counted["executors lost"] == 1
    assert counted["failed"] >= 1
    if stage == "backproject":  # what the dead executor had filtered was lost with it
        assert counted["stages repeated"] >= 1
    assert_same_volume(str(tmp_path / "out" / "volume"), undisturbed[1])


@pytest.mark.parametrize("stage", ["filter", "backproject"])
def test_a_python_worker_is_killed(
    driver: Driver, undisturbed: tuple[str, str], tmp_path: Path, gate: Gate, stage: str
) -> None:
    driver.start(make_volume, undisturbed[0], str(tmp_path / "out"), Fault(stage, WaitAtGate(gate)))
    worker = gate.wait()["pid"]
    assert "pyspark" in command_line(worker)
    kill(worker)
    counted = driver.result()
    assert (counted["executors lost"], counted["failed"]) == (0, 1)
    assert_same_volume(str(tmp_path / "out" / "volume"), undisturbed[1])


@pytest.mark.parametrize("stage", ["filter", "backproject"])
def test_a_task_fails_twice(driver: Driver, undisturbed: tuple[str, str], tmp_path: Path, stage: str) -> None:
    counted = driver.run(make_volume, undisturbed[0], str(tmp_path / "out"), Fault(stage, FailTwice()))
    assert (counted["executors lost"], counted["failed"]) == (0, 2)
    assert_same_volume(str(tmp_path / "out" / "volume"), undisturbed[1])
