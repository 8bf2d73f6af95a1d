"""Many processes write to one catalog, and some are killed: nothing is lost, nothing doubled, nothing half done."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from marspipe.store.catalog import Catalog, open_catalog
from marspipe.store.catalog.catalog import unmigrated
from tests.store.catalog_content import frames_metadata

PROCESSES, RUNS = 5, 40

# Half of the runs are of a scan that all processes share, and all of them put the same frames and recipe.
WRITER = f"""
import sys
from tests.store.catalog_content import frames_metadata, volume_metadata
from marspipe.store.catalog import open_catalog
url, who = sys.argv[1:]
catalog = open_catalog(url)
for n in range({RUNS}):
    scan = "shared" if n % 2 else f"scan-{{who}}"
    run = f"{{who}}-{{n}}"
    catalog.start_run("reconstruct", scan, run_id=run, out_uri=f"/out/{{scan}}")
    if n % 10 == 0:
        catalog.put_frames(f"/out/{{scan}}/frames", frames_metadata(scan))
    if n % 10 == 5:
        catalog.put_volume(f"/out/{{scan}}/volume/{{who}}-{{n}}", volume_metadata(scan, run_id=run))
        assert any(r.run_id == run for r in catalog.runs(scan))
    catalog.end_run(run, "done", details={{"n": n}})
"""

# Tells of every run that it has begun, so that the parent knows what must be there.
UNTIL_KILLED = """
import sys
from tests.store.catalog_content import frames_metadata
from marspipe.store.catalog import open_catalog
catalog = open_catalog(sys.argv[1])
n = 0
while True:
    catalog.put_frames("/out/frames", frames_metadata("stone", content=f"{n:016}"))
    catalog.start_run("ingest", "stone", run_id=f"run-{n}", out_uri="/out")
    print(n, flush=True)
    n += 1
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_hundreds_of_runs_at_once(empty_url: str) -> None:
    if not empty_url.startswith("sqlite"):  # which the first to come migrates
        unmigrated(empty_url).migrate()
    finish([start(WRITER, empty_url, str(who)) for who in range(PROCESSES)])
    catalog = open_catalog(empty_url)
    runs = catalog.runs()
    assert sorted(run.run_id for run in runs) == sorted(f"{w}-{n}" for w in range(PROCESSES) for n in range(RUNS))
    assert all(run.state == "done" and run.details == {"n": int(run.run_id.split("-")[1])} for run in runs)
    assert {scan.scan_id for scan in catalog.scans()} == {"shared", *(f"scan-{who}" for who in range(PROCESSES))}
    assert len(catalog.frames()) == PROCESSES
    assert len(catalog.calibrations()) == 4 * PROCESSES
    volumes = catalog.volumes()
    assert len(volumes) == PROCESSES * RUNS // 10
    assert [volume.out_uri for volume in volumes if volume.current] == ["/out/shared"]
    assert len(catalog.recipes()) == 1


def test_killed_process_leaves_whole_transactions(catalog: Catalog, url: str) -> None:
    for _ in range(3):
        writer = start(UNTIL_KILLED, url)
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(5)]
        time.sleep(0.013)  # somewhere within the next transactions
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.stdout if line.strip().isdigit()]
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        states = {run.run_id: run.state for run in catalog.runs()}
        assert {f"run-{n}" for n in told} <= set(states)
        assert set(states.values()) == {"died"}
        frames, calibrations = catalog.frames()[0], catalog.calibrations()
        assert int(frames.content_hash) in (told[-1], told[-1] + 1, told[-1] + 2)
        assert [c.frames_hash for c in calibrations] == [frames.content_hash] * 4
        for run_id in states:
            forget(catalog, run_id)
        # And others can go on.
        catalog.put_frames("/out/frames", frames_metadata("stone"))


def test_many_make_a_new_catalog_at_once(empty_url: str) -> None:
    code = (
        "import sys; from marspipe.store.catalog.catalog import open_catalog, unmigrated\n"
        "unmigrated(sys.argv[1]).migrate(); open_catalog(sys.argv[1]).put_scan(sys.argv[2])"
    )
    finish([start(code, empty_url, f"scan-{who}") for who in range(PROCESSES)])
    assert {scan.scan_id for scan in open_catalog(empty_url).scans()} == {f"scan-{who}" for who in range(PROCESSES)}


def finish(writers: list[subprocess.Popen[str]]) -> None:
    for writer in writers:
        said, _ = writer.communicate()
        assert writer.returncode == 0, said


def forget(catalog: Catalog, run_id: str) -> None:
    from sqlalchemy import delete

    from marspipe.store.catalog.engine import transact
    from marspipe.store.catalog.models import RunRow

    transact(catalog._engine, lambda c: c.execute(delete(RunRow).where(RunRow.run_id == run_id)), writes=True)
