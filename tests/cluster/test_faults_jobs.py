"""Jobs whose driver dies, and jobs that meet on the same output, by the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marspipe.store.commit import committed
from marspipe.store.volume import open_volume
from tests.cluster.faults import GIVE_UP_S, GRID, Gate
from tests.cluster.same_volume import assert_same_volume
from tests.cluster.servers import PROJECT, SPARK_HOME, clean_environment, until

pytest_plugins = ["tests.cluster.fault_fixtures"]

MARSPIPE = (sys.executable, "-m", "marspipe")


@dataclass
class Jobs:
    """Reconstructions of one scan into one folder, each in a process of its own."""

    frames: str
    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def out(self) -> str:
        """The folder of the results."""
        return str(self.folder / "out")

    def start(self, *options: str, program: Sequence[str] = MARSPIPE) -> subprocess.Popen[str]:
        """Start a job; its tasks run one after the other."""
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(f"{GRID}\nrun: {{slab_slices: 8}}\noutput: {{dicom: false, preview: false}}\n")
        command = [*program, "reconstruct", "--raw", self.frames, "--out", self.out, "--recipe", str(recipe)]
        if program[-1].endswith(".py"):  # an entry point of spark-submit is one command
            command.remove("reconstruct")
        else:
            command += ["--master", "local[1]"]
        process = subprocess.Popen(
            [*command, *options],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**clean_environment(), "PYTHONPATH": str(PROJECT), "PYSPARK_PYTHON": sys.executable},
        )
        self.processes.append(process)
        return process

    def gated(self, gate: Gate, *options: str) -> subprocess.Popen[str]:
        """Start a job and wait until five slabs are finished and the sixth waits at the gate."""
        process = self.start(*options, program=(sys.executable, "-m", "tests.cluster.gated_marspipe", gate.folder))
        until(lambda: Path(gate.folder, "facts").exists() or process.poll() is not None, "the gate", GIVE_UP_S)
        assert process.poll() is None, process.communicate()
        return process

    def run(self, *options: str, program: Sequence[str] = MARSPIPE) -> tuple[int, str, str]:
        """Run a job to its end; return exit code, standard output and standard error."""
        process = self.start(*options, program=program)
        output, errors = process.communicate()
        return process.returncode, output, errors


@pytest.fixture
def jobs(undisturbed: tuple[str, str], tmp_path: Path) -> Iterator[Jobs]:
    """A folder for jobs; none of them outlives the test."""
    jobs = Jobs(undisturbed[0], tmp_path)
    yield jobs
    for process in jobs.processes:
        if process.poll() is None:
            kill_job(process)
        process.communicate()


def kill_job(process: subprocess.Popen[str]) -> None:
    """End a driver, its Python process and its JVM, at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kept(output: str) -> tuple[int, int, str]:
    """Return what a job says it has kept: slabs, of how many, and stages."""
    found = re.search(r"(?m)^kept +(\d+) of (\d+) slabs(.*): they were there already$", output)
    assert found, output
    return int(found[1]), int(found[2]), found[3]


@pytest.mark.parametrize("restart_point", ["none", "filtered"])
def test_a_killed_job_that_is_submitted_again_goes_on(
    jobs: Jobs, undisturbed: tuple[str, str], gate: Gate, restart_point: str
) -> None:
    option = f"--set=run.restart_point={restart_point}"
    first = jobs.gated(gate, option)
    kill_job(first)
    assert Path(jobs.out, "_marspipe_lock.json").exists()
    assert committed(f"{jobs.out}/volume") is None
    (work,) = Path(jobs.out, "volume").glob("_work-*")
    finished = {path.name: path.stat().st_mtime_ns for path in work.glob("part-*.parquet")}
    assert len(finished) == 5
    assert Path(work, "_filtered", "_marspipe.json").exists() == (restart_point == "filtered")
    code, output, errors = jobs.run(option)
    assert code == 0, errors
    assert kept(output) == (5, 12, ", bad pixels" + (", filter" if restart_point == "filtered" else ""))
    assert ("filter" in errors) == (restart_point == "none")
    data = Path(open_volume(f"{jobs.out}/volume").data_uri)
    assert {name: (data / name).stat().st_mtime_ns for name in finished} == finished
    assert not Path(jobs.out, "_marspipe_lock.json").exists()
    assert_same_volume(f"{jobs.out}/volume", undisturbed[1])


def test_a_killed_job_goes_on_by_spark_submit(jobs: Jobs, undisturbed: tuple[str, str], gate: Gate) -> None:
    kill_job(jobs.gated(gate))
    submit = (
        str(SPARK_HOME / "bin" / "spark-submit"),
        "--master",
        "local[1]",
        str(PROJECT / "jobs" / "reconstruct.py"),
    )
    code, output, errors = jobs.run(program=submit)
    assert code == 0, errors
    assert kept(output) == (5, 12, ", bad pixels")
    assert_same_volume(f"{jobs.out}/volume", undisturbed[1])


def test_of_two_jobs_one_wins_and_when_it_dies_the_other_may(
    jobs: Jobs, undisturbed: tuple[str, str], gate: Gate
) -> None:
    winner = jobs.gated(gate)
    for options in ((), ("--set=filter.window=hann", "--overwrite")):
        code, output, errors = jobs.run(*options)
        assert (code, output) == (75, ""), errors
        (said,) = [line for line in errors.splitlines() if line.startswith("marspipe:")]
        assert f"marspipe: {jobs.out} is in use by marspipe reconstruct (process {winner.pid} on " in said
        assert "wait until that job has ended" in said
        assert "Traceback" not in errors
    kill_job(winner)
    code, output, errors = jobs.run()
    assert code == 0, errors
    assert kept(output)[:2] == (5, 12)
    assert_same_volume(f"{jobs.out}/volume", undisturbed[1])


def test_the_winner_is_not_disturbed(jobs: Jobs, undisturbed: tuple[str, str], gate: Gate) -> None:
    winner = jobs.gated(gate)
    assert jobs.run("--set=filter.window=hann")[0] == 75
    gate.open()
    _, errors = winner.communicate()
    assert winner.returncode == 0, errors
    assert_same_volume(f"{jobs.out}/volume", undisturbed[1])
