from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from marspipe.errors import BusyError, OutputExistsError
from marspipe.store import lock
from marspipe.store.lock import LOCK_FILE, held

HOLD = """
import sys, time
from marspipe.store.lock import held
with held(sys.argv[1], "the first job"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and patience a hundred times shorter."""
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "ABANDONED_S", 0.6)
    monkeypatch.setattr(lock, "_POLL_S", 0.02)


def from_elsewhere(folder: Path) -> None:
    """Make a lock look as if a process of another machine had written it."""
    path = folder / LOCK_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another one"}))


def test_one_at_a_time(tmp_path: Path) -> None:
    with held(str(tmp_path / "out"), "the first job"):
        assert (tmp_path / "out" / LOCK_FILE).exists()
        with pytest.raises(BusyError, match=rf"in use by the first job \(process {os.getpid()} on .*since 20"):
            with held(str(tmp_path / "out"), "the second job"):
                pytest.fail("two jobs hold one lock")
    assert not list((tmp_path / "out").iterdir())
    with held(str(tmp_path / "out"), "the second job"):
        pass


def test_it_is_given_back_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), held(str(tmp_path), "a job"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_of_many_processes_one_wins(tmp_path: Path) -> None:
    code = HOLD.replace("time.sleep(600)", "sys.stdin.readline()")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    losers = []
    while len(losers) < 5:
        time.sleep(0.05)
        losers = [p for p in processes if p.poll() is not None]
    (winner,) = [p for p in processes if p not in losers]
    said, _ = winner.communicate("\n")
    assert (said, winner.returncode) == ("held\n", 0)
    for loser in losers:
        said, error = loser.communicate()
        assert said == ""
        assert f"BusyError: {tmp_path} is in use by the first job (process {winner.pid}" in error


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with pytest.raises(BusyError), held(str(tmp_path), "the second job"):
        pass
    kill(process)
    with held(str(tmp_path), "the second job"):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["doing"] == "the second job"
    assert not list(tmp_path.iterdir())


def test_a_living_holder_elsewhere_is_seen_by_its_beat(tmp_path: Path, quick: None) -> None:
    with held(str(tmp_path), "the first job") as first:
        first._content["machine"] = "another one"
        from_elsewhere(tmp_path)
        with pytest.raises(BusyError, match="the first job"), held(str(tmp_path), "the second job"):
            pass
        first.check()


def test_a_dead_holder_elsewhere_is_taken_over(tmp_path: Path, quick: None) -> None:
    process = holder(tmp_path)
    kill(process)
    from_elsewhere(tmp_path)
    taken = []

    def take() -> None:
        try:
            with held(str(tmp_path), "a later job"):
                taken.append(threading.get_ident())
                done.wait()
        except BusyError:
            pass

    done = threading.Event()
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 1 or not taken:
        time.sleep(0.02)
    done.set()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert not list(tmp_path.iterdir())


def test_who_was_taken_over_finds_out_and_leaves_the_lock_alone(tmp_path: Path, quick: None) -> None:
    with held(str(tmp_path), "the first job") as first:
        (tmp_path / LOCK_FILE).unlink()
        with held(str(tmp_path), "the second job") as second:
            with pytest.raises(BusyError, match="taken over by the second job"):
                first.check()
            first.release()
            second.check()
            time.sleep(0.2)  # some beats
            second.check()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExistsError, match="cannot be written"), held(str(tmp_path / "file" / "out"), "a job"):
        pass
