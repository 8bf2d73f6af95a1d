"""The catalog on SQLite and PostgreSQL: what is put in comes out, newest first, and nothing that it must not say."""

from __future__ import annotations

import subprocess
import sys
import traceback
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

import marspipe
from marspipe.errors import EnvironmentMissingError, InputError, ScanError
from marspipe.store.catalog import Catalog, open_catalog
from marspipe.store.catalog.address import default_url, parse_url, shown
from tests.store.catalog_content import frames_metadata, volume_metadata
from tests.store.postgres import PASSWORD, Postgres


def test_scan_keeps_what_is_not_given(catalog: Catalog) -> None:
    catalog.put_scan("stone", raw_uri="/raw/./stone/scan.yaml", priority=3, description="a stone")
    catalog.put_scan("stone", out_uri="hdfs://nn:9000//out/stone/", acquired_at="2026-01-02T03:04:05+02:00")
    scan = catalog.scan("stone")
    assert scan is not None
    assert (scan.raw_uri, scan.priority, scan.description) == ("/raw/stone/scan.yaml", 3, "a stone")
    assert scan.out_uri == "hdfs://nn:9000/out/stone"
    assert scan.acquired_at == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert scan.acquired_at.tzinfo is UTC
    assert scan.frames_uri is scan.recipe_uri is None
    assert catalog.scan("ston") is None


def test_local_uris_become_absolute(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalog.put_volume("out/volume/v1", volume_metadata("stone"))
    assert catalog.volume((tmp_path / "out" / "volume" / "v1").as_uri()) == catalog.volumes("stone")[0]
    assert catalog.volumes()[0].out_uri == str(tmp_path / "out")


def test_frames_bring_scan_and_calibrations(catalog: Catalog) -> None:
    catalog.put_frames("/out/frames", frames_metadata("stone", missing_views=[3, 4]))
    frames = catalog.frames("stone")[0]
    assert (frames.n_views, frames.n_missing_views, frames.rows, frames.cols) == (12, 2, 32, 40)
    assert (frames.n_frames, frames.n_positions, len(frames.counters)) == (42, 1, 2)
    scan = catalog.scan("stone")
    assert scan is not None
    assert (scan.frames_uri, scan.raw_uri) == ("/out/frames", "/raw/stone/scan.yaml")
    assert scan.acquired_at == datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
    found = [(c.frame_type, c.counter, c.n_frames, c.frames_hash) for c in catalog.calibrations("/out/frames")]
    assert found == [(k, c, n, "f" * 16) for k, n in (("dark", 4), ("open_beam", 5)) for c in (0, 1)]
    # Ingested anew, without the second counter's calibrations.
    anew = frames_metadata("stone", content="e" * 16)
    anew["groups"] = [g for g in anew["groups"] if g["counter"] == 0 or g["frame_type"] == "projection"]
    catalog.put_frames("file:///out/frames", anew)
    assert [(c.counter, c.frames_hash) for c in catalog.calibrations()] == [(0, "e" * 16)] * 2
    catalog.drop_frames("/out/frames")
    assert catalog.frames() == catalog.calibrations() == []
    assert catalog.scan("stone") is not None


def test_newest_volume_of_a_folder_is_current(catalog: Catalog) -> None:
    for day, name in ((3, "v3"), (1, "v1"), (2, "v2")):
        catalog.put_volume(f"/out/volume/{name}", volume_metadata("stone", created_at=f"2026-01-0{day}T00:00:00+00:00"))
    catalog.put_volume("/other/volume", volume_metadata("stone", created_at="2025-01-01T00:00:00+00:00"))
    found = [(volume.uri, volume.current) for volume in catalog.volumes("stone")]
    assert found == [
        ("/out/volume/v3", True),
        ("/out/volume/v2", False),
        ("/out/volume/v1", False),
        ("/other/volume", True),
    ]
    catalog.drop_volume("/out/volume/v3/")
    assert next((v.uri, v.current) for v in catalog.volumes(out_uri="/out")) == ("/out/volume/v2", True)
    volume = catalog.volume("/out/volume/v2")
    assert volume is not None
    assert (volume.shape, volume.voxel_mm, volume.bins[0]["label"]) == ([8, 16, 16], [0.1, 0.2, 0.2], "20-30 keV")
    assert catalog.recipes()[0].content == {"name": "stones", "filter": {"window": "hann"}}
    scan = catalog.scan("stone")
    assert scan is not None and scan.out_uri == "/out"


def test_runs(catalog: Catalog) -> None:
    first, second, third = (uuid4().hex for _ in range(3))
    before = datetime.now(UTC)
    catalog.start_run("reconstruct", "stone", run_id=first, out_uri="/out", recipe_hash="r", application_id="app-1")
    catalog.start_run("ingest", "stone", run_id=second, out_uri="/out")
    catalog.start_run("reconstruct", "artery", run_id=third, out_uri="/out2")
    details = {"slabs": np.int64(3), "rmse": float("nan"), "s": (1.5, None), "at": before}
    catalog.end_run(first, "done", content_hash="c", details=details)
    catalog.end_run(second, "failed", error="broken \0 name \udcff" + "x" * 9000)
    run = catalog.run(first[:12])
    assert run is not None
    assert (run.state, run.recipe_hash, run.content_hash, run.application_id) == ("done", "r", "c", "app-1")
    assert run.details == {"slabs": 3, "rmse": None, "s": [1.5, None], "at": before.isoformat()}
    assert run.ended_at is not None and before <= run.started_at <= run.ended_at
    assert (run.version, run.results_version) == (marspipe.__version__, marspipe.RESULTS_VERSION)
    failed = catalog.runs(state="failed")[0]
    assert failed.error is not None and failed.error.startswith(r"broken \x00 name \udcff")
    assert len(failed.error) < 4100
    assert [r.run_id for r in catalog.runs()] == [third, second, first]
    assert [r.run_id for r in catalog.runs(limit=1)] == [third]
    assert [r.run_id for r in catalog.runs("stone", kind="ingest")] == [second]
    assert [r.run_id for r in catalog.runs(state="running")] == [third]
    overview = {one.scan.scan_id: one.last_run.run_id for one in catalog.overview() if one.last_run}
    assert overview == {"stone": second, "artery": third}
    with pytest.raises(InputError, match="already has a run"):
        catalog.start_run("ingest", "stone", run_id=first, out_uri="/out")
    with pytest.raises(InputError, match="has no run nothing"):
        catalog.end_run("nothing", "done")
    with pytest.raises(InputError, match="one of ingest"):
        catalog.start_run("cook", "stone", run_id="x", out_uri="/out")
    with pytest.raises(InputError, match="a run ends done"):
        catalog.end_run(first, "well")
    with pytest.raises(InputError, match="several runs begin with"):
        catalog.run("")


def test_run_whose_process_is_gone_has_died(catalog: Catalog, url: str) -> None:
    run_id = uuid4().hex
    code = (
        "import os, signal, sys; from marspipe.store.catalog import open_catalog\n"
        f"open_catalog(sys.argv[1]).start_run('reconstruct', 'stone', run_id='{run_id}', out_uri='/out')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, url], check=False).returncode == -9
    assert [run.state for run in catalog.runs()] == ["died"]
    assert [run.run_id for run in catalog.runs(state="died")] == [run_id]
    assert catalog.runs(state="running") == []
    assert [match.field for match in catalog.search("died")] == ["state"]


def test_publications(catalog: Catalog) -> None:
    catalog.put_volume("/out/volume/v1", volume_metadata("stone"))
    catalog.put_publication("/out/volume/v1", "dicom://pacs:104/STORE", "done", 8, {"seconds": 2.5})
    catalog.put_publication("/gone/volume/v1", "dicom://pacs:104/STORE", "failed", 0)
    assert [p.state for p in catalog.publications()] == ["failed", "done"]
    sent = catalog.publications(scan_id="stone")
    assert [(p.n_instances, p.details) for p in sent] == [(8, {"seconds": 2.5})]
    assert catalog.publications("/out/volume/v1") == sent


def test_search(catalog: Catalog) -> None:
    catalog.put_frames("/out/frames", frames_metadata("stone", description="Kidney 100%_a"))
    catalog.put_volume("/out/volume/v1", volume_metadata("stone"))  # which says less of the scan than its frames
    catalog.put_scan("artery")
    catalog.start_run("ingest", "artery", run_id="abc123", out_uri="/out2")
    catalog.end_run("abc123", "failed", error="File truncated")

    def found(text: str) -> list[tuple[str, str, str]]:
        return [(match.kind, match.id, match.field) for match in catalog.search(text)]

    assert found("kidney") == [("scan", "stone", "description")]
    assert found("0%_") == [("scan", "stone", "description")]
    assert found("k%y") == []
    assert found("STONES") == [("recipe", "b" * 16, "name")]
    assert found("TRUNCATED") == [("run", "abc123", "error")]
    assert found("failed") == [("run", "abc123", "state")]
    assert found("ABC1") == [("run", "abc123", "run_id")]
    assert len(catalog.search("sto", limit=1)) == 1


def test_metadata_that_lack_something_are_named(catalog: Catalog) -> None:
    lacking_hash = volume_metadata("stone")
    del lacking_hash["frames_hash"]
    with pytest.raises(ScanError, match=r"/out/volume/v1/_marspipe\.json: key 'frames_hash' is missing"):
        catalog.put_volume("/out/volume/v1", lacking_hash)
    with pytest.raises(ScanError, match="kind must be 'frames', got \"volume\""):
        catalog.put_frames("/out/volume/v1", volume_metadata("stone"))
    with pytest.raises(ScanError, match="damaged"):
        catalog.put_frames("/out/frames", frames_metadata("stone", geometry={"detector_shape": 3, "angles_rad": []}))
    assert catalog.scans() == catalog.volumes() == []


def test_times_need_no_common_zone(catalog: Catalog) -> None:
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=9)))
    west = datetime(2025, 12, 31, 23, tzinfo=timezone(timedelta(hours=-8)))
    catalog.put_scan("east", acquired_at=east)
    catalog.put_scan("west", acquired_at=west)
    catalog.put_scan("unknown", acquired_at="yesterday")
    assert [scan.scan_id for scan in catalog.scans()] == ["unknown", "west", "east"]
    assert {scan.acquired_at for scan in catalog.scans()} == {east, west, None}
    assert [scan.scan_id for scan in catalog.scans(limit=2)] == ["unknown", "west"]


def test_password_is_never_shown(postgres: Postgres) -> None:
    url = postgres.fresh()
    host = url.partition("?host=")[2]
    faults = [
        url,  # not migrated
        url.replace(PASSWORD, "wr0ng-s3cret"),
        f"postgresql://marspipe:{PASSWORD}@/nothing?host={host}&sslpassword={PASSWORD}",
        f"postgresql://marspipe:{PASSWORD}@127.0.0.1:1/nothing",
        f"postgresql://marspipe:{PASSWORD}@127.0.0.1:port/nothing",
        f"postgresql://marspipe:{PASSWORD}@127.0.0.1/nothing?no_such={PASSWORD}",
        f"postgresql://marspipe:{PASSWORD}@127.0.0.1",
        f"mysql://marspipe:{PASSWORD}@127.0.0.1/nothing",
    ]
    for fault in faults:
        with pytest.raises(InputError) as caught:
            open_catalog(fault)
        said = "".join(traceback.format_exception(caught.value))
        for secret in (PASSWORD, "wr0ng-s3cret"):
            assert secret not in said, fault
    assert PASSWORD not in repr(Catalog(parse_url(url))) + shown(parse_url(url))


def test_which_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARSPIPE_CATALOG", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    open_catalog().put_scan("stone")
    file = tmp_path / "data" / "marspipe" / "catalog.sqlite"
    assert file.is_file()
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_url() == f"sqlite:///{tmp_path / 'home' / '.local' / 'share' / 'marspipe' / 'catalog.sqlite'}"
    monkeypatch.setenv("MARSPIPE_CATALOG", f"sqlite:///{file}")
    assert [scan.scan_id for scan in open_catalog().scans()] == ["stone"]
    assert [scan.scan_id for scan in open_catalog(str(file)).scans()] == ["stone"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "hdfs://nn/catalog", "postgresql://host"])
def test_urls_that_are_no_catalog(url: str) -> None:
    with pytest.raises(InputError, match=r"expected sqlite:///FILE or postgresql://"):
        open_catalog(url)


def test_files_that_are_no_catalog(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but longer than a header " * 10)
    with pytest.raises(InputError, match="is not a catalog"):
        open_catalog(str(tmp_path / "text"))
    assert (tmp_path / "text").read_text().startswith("no database")
    with pytest.raises(EnvironmentMissingError, match="there is a folder"):
        open_catalog(str(tmp_path))
    with pytest.raises(EnvironmentMissingError, match="cannot be made"):
        open_catalog(str(tmp_path / "text" / "catalog.sqlite"))
