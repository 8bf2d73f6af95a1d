"""Tasks that die and are tried again: what they left behind becomes no part of the table, and is counted nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from marspipe.pipeline.frames.scan_frames import FramesTable
from tests.pipeline.tiny_scans import COUNTERS, POSITIONS, VIEWS, require_true, row_groups, write_scan

SCRIPT = """
import os, sys
from pathlib import Path
from pyspark import TaskContext
from marspipe.pipeline import ingest as job
from marspipe.pipeline.frames import scan_parts
from marspipe.pipeline.frames.frame_files import WriteFrames
from marspipe.pipeline.spark.session import local_session
from marspipe.show.progress import Progress

raw, out, tried = sys.argv[1:]

class DiesAtFirst(WriteFrames):
    def __call__(self, parts):
        task = TaskContext.get()
        attempt, place = task.attemptNumber(), task.partitionId()
        Path(tried, f"{place} {attempt}").touch()
        done = super().__call__(parts)
        if place == 0 and attempt < 2:
            raise OSError("the machine is gone")  # after the file is written and counted
        if place == 1 and attempt == 0:
            os._exit(1)  # as a worker that is killed
        return done

job.WriteFrames = DiesAtFirst
scan_parts.SMALLEST_PART_BYTES = 2000
spark = local_session("local[2,3]", spark__driver__memory="1g", spark__ui__enabled="false")
scan = job.open_scan(raw, spark, tolerant=True)
done = job.ingest_into(spark, scan, out, progress=Progress())
print(done.added, done.missing_views, len(done.damages))
again = job.ingest_into(spark, scan, out, progress=Progress())
print(again.added)
spark.stop()
"""


def test_tasks_that_are_tried_again(tmp_path: Path) -> None:
    raw, out, tried = write_scan(tmp_path / "raw", "long", POSITIONS), tmp_path / "out", tmp_path / "tried"
    tried.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(raw), str(out), str(tried)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    total = len(POSITIONS) * (VIEWS + 9) * COUNTERS
    assert done.stdout.split("\n")[:2] == [f"{total} [] 0", "0"]
    assert {"0 2", "1 1"} <= {path.name for path in tried.iterdir()}
    assert f"frames done: {total} frames in" in done.stderr
    require_true(str(out), tiles=len(POSITIONS))
    assert sum(len(rows) for rows in row_groups(str(out))) == total
    assert sum(group["frames"] for group in FramesTable.open(str(out)).metadata["groups"]) == total
    assert not list(out.glob("_staging-*"))
