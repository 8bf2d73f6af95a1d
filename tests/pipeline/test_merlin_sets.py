"""An acquisition in several Merlin files: one entry of the manifest, ordered by sequence number and not by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from marspipe.errors import InputError, ScanError
from marspipe.pipeline.ingest import ingest, open_scan
from tests.pipeline.scans import quiet
from tests.pipeline.tiny_scans import COUNTERS, RECORD, VIEWS, put_in, require_true, write_scan

# Names sort as 1, 10, 2; the records follow each other as 10, 2, 1.
NAMES = ("cut é 10.mib", "cut é 2.mib", "cut é 1.mib")
BEGINS = (0, 4, 6, VIEWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The projections of a scan, cut into three files."""
    folder = write_scan(tmp_path / "raw")
    whole = (folder / "long_0.mib").read_bytes()
    for name, first, stop in zip(NAMES, BEGINS, BEGINS[1:], strict=False):
        (folder / name).write_bytes(whole[first * COUNTERS * RECORD : stop * COUNTERS * RECORD])
    (folder / "long_0.mib").unlink()
    change(folder, path="cut é *.mib", by_sequence=True)
    return folder


def change(folder: Path, **values: object) -> None:
    """Change the entry of the projections in the manifest."""
    manifest = yaml.safe_load((folder / "scan.yaml").read_text())
    (entry,) = [entry for entry in manifest["files"] if entry["frame_type"] == "projection"]
    entry.update(values)
    (folder / "scan.yaml").write_text(yaml.safe_dump(manifest))


def test_the_sequence_gives_the_order(spark: SparkSession, folder: Path, out: str) -> None:
    scan = open_scan(str(folder))
    projections = [f for f in scan.files if f.entry.frame_type == "projection"]
    assert [(Path(f.uri).name, f.first_view, f.n_exposures) for f in projections] == [
        (NAMES[0], 0, 4),
        (NAMES[1], 4, 2),
        (NAMES[2], 6, 3),
    ]
    ingest(spark, scan, out, progress=quiet())
    require_true(out)


def test_a_missing_file_costs_its_own_views(spark: SparkSession, folder: Path, out: str) -> None:
    middle = (folder / NAMES[1]).read_bytes()
    (folder / NAMES[1]).unlink()
    with pytest.raises(ScanError, match=r"cut é 1\.mib: sequence numbers 9 to 12 are missing before it"):
        open_scan(str(folder))
    done = put_in(spark, folder, out)
    assert done.missing_views == [4, 5]
    require_true(out, missing=(4, 5))
    (folder / NAMES[1]).write_bytes(middle)
    mended = put_in(spark, folder, out)
    assert (mended.added, mended.missing_views) == (2 * COUNTERS, [])
    require_true(out)


def test_what_is_no_acquisition_is_named(folder: Path) -> None:
    (folder / "cut é copy.mib").write_bytes((folder / NAMES[1]).read_bytes())
    for tolerant in (False, True):
        with pytest.raises(ScanError, match=r"sequence numbers 9 to 12 .*same start"):
            open_scan(str(folder), tolerant=tolerant)
    (folder / "cut é copy.mib").unlink()
    change(folder, path="nothing*.mib")
    with pytest.raises(ScanError, match=r"no file matches .*nothing\*\.mib"):
        open_scan(str(folder))
    change(folder, path="cut é *.mib", angles_rad={"start": 0.0, "step": 0.1, "count": VIEWS + 1})
    with pytest.raises(ScanError, match=rf"its 3 files hold {VIEWS} exposures, but .* gives {VIEWS + 1} angles"):
        open_scan(str(folder))
    change(folder, path="no pattern.mib")
    with pytest.raises(InputError, match="by_sequence is for Merlin files"):
        open_scan(str(folder))
