"""From HDFS to a PACS and back, without Spark."""

from __future__ import annotations

from pathlib import Path

import pydicom

from marspipe.dicom.pacs.peer import parse_peer
from marspipe.pipeline.pacs.fetch import Query, fetch
from marspipe.pipeline.pacs.patience import Patience
from marspipe.pipeline.pacs.publish import publish
from marspipe.show.progress import Progress
from marspipe.store import storage
from tests.cluster.servers import instances
from tests.pacs.conftest import BINS, N_INSTANCES, write_series
from tests.pacs.servers import orthanc


def test_published_from_hdfs_and_fetched_to_hdfs(hdfs_folder: str, tmp_path: Path) -> None:
    source = write_series(tmp_path / "dicom")
    own = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, source.rglob("*.dcm"))}
    for path in source.rglob("*.dcm"):
        storage.write_bytes(storage.join(hdfs_folder, "dicom", *path.relative_to(source).parts), path.read_bytes())
    with orthanc(tmp_path / "orthanc") as server:
        for url, zone in ((server.dicom_url, "by-dimse"), (server.web_url, "by-web")):
            peer, patience = parse_peer(url), Patience(retries=0)
            done = publish(storage.join(hdfs_folder, "dicom"), peer, progress=Progress(), patience=patience)
            assert (done.error, done.sent, done.found) == (None, N_INSTANCES, N_INSTANCES)
            query, zone_uri = Query(patient_id="stone-7"), storage.join(hdfs_folder, zone)
            fetched = fetch(peer, query, zone_uri, progress=Progress(), patience=patience)
            assert len(fetched) == len(BINS)
            assert instances(zone_uri) == own
            server.clear()
