from __future__ import annotations

from pathlib import Path

import pytest

from marspipe.errors import ScanError
from marspipe.store.commit import COMMIT_FILE, committed
from marspipe.store.versions import add_version, data_folder, keep_newest, remove_unfinished, versions


def make(volume: Path, n: int) -> str:
    work = volume / f"_work-{n}"
    work.mkdir(parents=True)
    (work / "part.parquet").write_text(str(n))
    return add_version(str(volume), work.name, {"kind": "volume", "content_hash": f"{n:016x}"}).name


def content(volume: Path) -> str:
    metadata = committed(str(volume))
    assert metadata is not None
    return Path(data_folder(str(volume), metadata), "part.parquet").read_text()


def test_the_newest_version_is_current(tmp_path: Path) -> None:
    assert versions(str(tmp_path / "none")) == []
    names = [make(tmp_path, n) for n in (1, 2, 3)]
    assert [v.name for v in versions(str(tmp_path))] == names[::-1]
    assert [v.current for v in versions(str(tmp_path))] == [True, False, False]
    assert content(tmp_path) == "3"
    assert names[0].endswith("Z-0000000000000001")
    assert [v.metadata["content_hash"] for v in versions(str(tmp_path))] == [f"{n:016x}" for n in (3, 2, 1)]


def test_keep_newest(tmp_path: Path) -> None:
    names = [make(tmp_path, n) for n in (1, 2, 3, 4)]
    assert keep_newest(str(tmp_path), 2) == [str(tmp_path / n) for n in names[1::-1]]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == names[2:]
    assert keep_newest(str(tmp_path), 2) == []
    assert content(tmp_path) == "4"


def test_the_current_version_stays_whatever_its_age(tmp_path: Path) -> None:
    names = [make(tmp_path, n) for n in (1, 2, 3)]
    (tmp_path / COMMIT_FILE).write_text((tmp_path / COMMIT_FILE).read_text().replace(names[2], names[0]))
    keep_newest(str(tmp_path), 1)
    assert [v.name for v in versions(str(tmp_path))] == [names[2], names[0]]
    assert content(tmp_path) == "1"


def test_a_crash_before_the_commit_leaves_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 1)

    def crash(*_: object) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patch:
        patch.setattr("marspipe.store.versions.commit", crash)
        with pytest.raises(OSError, match="no more"):
            make(tmp_path, 2)
    assert content(tmp_path) == "1"
    assert len(versions(str(tmp_path))) == 1
    remove_unfinished(str(tmp_path))
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1
    make(tmp_path, 3)
    assert content(tmp_path) == "3"


def test_a_damaged_commit_is_named(tmp_path: Path) -> None:
    make(tmp_path, 1)
    (tmp_path / COMMIT_FILE).write_text('{"kind": ')
    with pytest.raises(ScanError, match=rf"{COMMIT_FILE} is damaged"):
        committed(str(tmp_path))
