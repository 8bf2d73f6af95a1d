from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.worker_memory import CASES

MIB = 2**20


@pytest.fixture(scope="module")
def measured(project: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[int]]]:
    folder = tmp_path_factory.mktemp("memory")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.worker_memory", str(folder)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for case, found in zip((*CASES, "a whole job"), results, strict=True):
        print(case, {name: [round(n / MIB, 1) for n in pair] for name, pair in found.items()})
    return results


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda k: "-".join(map(str, CASES[k])))
@pytest.mark.parametrize("what", ["filter", "backproject", "executor"])
def test_memory_is_never_more_and_at_most_30_percent_less_than_planned(
    measured: list[dict[str, list[int]]], case: int, what: str
) -> None:
    planned, peak = measured[case][what]
    assert peak <= planned <= 1.3 * peak


@pytest.mark.parametrize("case", range(len(CASES)))
def test_shuffled_bytes_are_what_spark_counts(measured: list[dict[str, list[int]]], case: int) -> None:
    planned, counted = measured[case]["shuffled"]
    assert planned == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("what", ["largest", "together"])
def test_memory_of_a_whole_job(measured: list[dict[str, list[int]]], what: str) -> None:
    planned, peak = measured[-1][what]
    assert peak <= planned <= 1.3 * peak
