"""A catalog made again from the stores has what the one had that was filled while the work was done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from marspipe.errors import InputError
from marspipe.store import storage
from marspipe.store.catalog import Catalog, open_catalog, rebuild
from marspipe.store.commit import COMMIT_FILE, commit
from marspipe.store.versions import Version, add_version
from tests.store.catalog_content import frames_metadata, stored, volume_metadata


def make_version(out: Path, scan_id: str, **changes: Any) -> Version:
    """Make a version of a volume as the pipeline does."""
    metadata = volume_metadata(scan_id, **changes)
    del metadata["created_at"]
    volume = out / "volume"
    (volume / "_work-1").mkdir(parents=True)
    (volume / "_work-1" / "part-0.parquet").write_bytes(b"pixels")
    return add_version(str(volume), "_work-1", metadata)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def worked(store: Path, catalog: Catalog) -> Catalog:
    """A catalog that was filled during the work on two scans, one of them reconstructed three times."""
    for scan_id, recipes in (("stone", ["b" * 16, "d" * 16, "b" * 16]), ("artery", ["b" * 16])):
        out = store / "2026" / scan_id
        catalog.put_scan(scan_id, raw_uri=f"/raw/{scan_id}", out_uri=str(out))
        catalog.start_run("reconstruct", scan_id, run_id=scan_id, out_uri=str(out))
        (out / "frames").mkdir(parents=True)
        frames = frames_metadata(scan_id)
        commit(str(out / "frames"), frames)
        catalog.put_frames(str(out / "frames"), frames)
        for n, recipe in enumerate(recipes):
            name = {"name": f"{scan_id}-{n}"}
            version = make_version(out, scan_id, recipe_hash=recipe, recipe=name, content_hash=f"{n:016}")
            catalog.put_volume(version.uri, version.metadata)
        catalog.end_run(scan_id, "done")
        (out / "dicom").mkdir()
        (out / "dicom" / "1.dcm").write_bytes(b"no marspipe file")
    return catalog


def test_rebuilt_catalog_equals_the_one_filled_at_work(worked: Catalog, store: Path, tmp_path: Path) -> None:
    rebuilt = open_catalog(str(tmp_path / "rebuilt.sqlite"))
    done = rebuild(rebuilt, [str(store)])
    assert (len(done.frames), len(done.volumes), done.dropped, done.faults) == (2, 4, [], [])
    assert stored(rebuilt) == stored(worked)
    assert [volume.current for volume in rebuilt.volumes("stone")] == [True, False, False]
    assert {recipe.name for recipe in rebuilt.recipes()} == {"artery-0", "stone-1"}
    # Again, and over the one that has it all: nothing changes.
    for catalog in (rebuilt, worked):
        before, runs = stored(catalog), catalog.runs()
        assert rebuild(catalog, [store.as_uri(), str(store / "2026")]).faults == []
        assert (stored(catalog), catalog.runs()) == (before, runs)


def test_what_is_gone_is_dropped_and_runs_are_kept(worked: Catalog, store: Path) -> None:
    elsewhere = volume_metadata("far", created_at="2020-01-01T00:00:00+00:00")
    worked.put_volume("/elsewhere/volume/v1", elsewhere)
    gone = worked.volumes("stone")[0].uri
    shutil.rmtree(gone)
    shutil.rmtree(store / "2026" / "artery" / "frames")
    done = rebuild(worked, [str(store)])
    assert done.dropped == sorted([gone, str(store / "2026" / "artery" / "frames")])
    assert worked.volume(gone) is None
    assert [frames.scan_id for frames in worked.frames()] == ["stone"]
    assert {row.frames_uri for row in worked.calibrations()} == {str(store / "2026" / "stone" / "frames")}
    artery = worked.scan("artery")
    assert artery is not None and artery.frames_uri is None
    assert worked.volume("/elsewhere/volume/v1") is not None
    assert {run.run_id for run in worked.runs()} == {"stone", "artery"}


@pytest.mark.parametrize("damage", ["{", "[]", "\0", '{"kind": "volume", "grid": 3}'])
def test_damaged_files_are_named_and_the_rest_is_done(
    worked: Catalog, store: Path, tmp_path: Path, damage: str
) -> None:
    stone = worked.volumes("stone")
    Path(stone[1].uri, COMMIT_FILE).write_text(damage)
    (store / "2026" / "artery" / "frames" / COMMIT_FILE).write_text(damage)
    before = stored(worked)
    done = rebuild(worked, [str(store)])
    for place in (stone[1].uri, str(store / "2026" / "artery" / "frames")):
        assert sum(place in fault for fault in done.faults) == 1
    assert done.dropped == []
    assert stored(worked) == before  # what the catalog knew of them, it still knows
    rebuilt = open_catalog(str(tmp_path / "rebuilt.sqlite"))
    rebuild(rebuilt, [str(store)])
    assert [volume.uri for volume in rebuilt.volumes("stone")] == [stone[0].uri, stone[2].uri]
    assert {scan.scan_id for scan in rebuilt.scans()} == {"stone", "artery"}


def test_a_missing_folder_changes_nothing(worked: Catalog, store: Path) -> None:
    before = stored(worked)
    shutil.rmtree(store / "2026" / "artery")
    with pytest.raises(InputError, match="there is no such folder"):
        rebuild(worked, [str(store), str(store / "2027")])
    with pytest.raises(InputError, match="cannot be read"):
        rebuild(worked, ["hdfs://127.0.0.1:1/scans"])
    assert stored(worked) == before


def test_depth_and_circles(worked: Catalog, store: Path, tmp_path: Path) -> None:
    (store / "2026" / "stone" / "again").symlink_to(store)
    looked: list[str] = []
    rebuilt = open_catalog(str(tmp_path / "rebuilt.sqlite"))
    rebuild(rebuilt, [str(store)], say=looked.append)
    assert len(rebuilt.volumes()) == 4
    assert len(looked) == len({Path(folder).resolve() for folder in looked})
    assert not any("_work" in folder or folder.endswith(".parquet") for folder in looked)
    # What is too deep to be seen is not taken for gone.
    assert rebuild(rebuilt, [str(store)], depth=1).dropped == []
    assert len(rebuilt.volumes()) == 4
    assert storage.exists(storage.join(rebuilt.volumes()[0].uri, COMMIT_FILE))
