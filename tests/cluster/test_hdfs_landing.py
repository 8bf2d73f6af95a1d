"""A landing zone on HDFS: the same as on the local disk, where instances arrive first."""

from __future__ import annotations

from pathlib import Path

import pytest

from marspipe.store import landing, storage
from marspipe.store.landing import FullError, LandingZone, OtherInstanceError

STUDY, SERIES = "1.2.840.1", "1.2.840.1.1"


def test_instances_arrive_on_hdfs(hdfs_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(landing, "_RECOUNT_AFTER_S", 0.0)
    root = storage.join(hdfs_folder, "landing zone")
    with LandingZone(root, max_bytes=1000, min_free_bytes=0) as zone:
        uri = zone.put(STUDY, SERIES, "1.2.3", b"x" * 400)
        assert uri == storage.join(root, STUDY, SERIES, "1.2.3.dcm") and zone.holds(STUDY, SERIES, "1.2.3")
        assert zone.put(STUDY, SERIES, "1.2.3", b"x" * 400) == uri
        with pytest.raises(OtherInstanceError):
            zone.put(STUDY, SERIES, "1.2.3", b"y" * 400)
        zone.put(STUDY, SERIES, "1.2.4", b"z" * 400)
        with pytest.raises(FullError, match=r"hdfs://.* is full"):
            zone.put(STUDY, SERIES, "1.2.5", bytes(400))
        storage.remove(uri)
        zone.put(STUDY, SERIES, "1.2.5", bytes(400))
        assert list(tmp_path.rglob("*.part")) == []
    with LandingZone(root, max_bytes=1000, min_free_bytes=0) as again:
        assert again.used_bytes == 800
    assert storage.list_dir(storage.join(root, STUDY, SERIES)) == ["1.2.4.dcm", "1.2.5.dcm"]
    assert storage.read_bytes(storage.join(root, STUDY, SERIES, "1.2.4.dcm")) == b"z" * 400
    assert storage.list_dir(root) == [STUDY]
