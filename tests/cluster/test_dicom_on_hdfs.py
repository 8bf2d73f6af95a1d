"""From a volume on HDFS to a PACS, and from the PACS to HDFS: the jobs and commands as an administrator calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from marspipe.dicom.stored_slice import read_slice
from marspipe.pipeline.benchmarks.retrieval import bench_retrieval
from marspipe.store import storage
from marspipe.store.commit import commit, committed
from marspipe.store.volume import open_volume
from tests.cluster.servers import Hdfs, instances, marspipe, put, spark_submit
from tests.dicom.conftest import scan_metadata
from tests.pacs.servers import Orthanc, orthanc
from tests.store.stored_volumes import write_volume

SHAPE = (9, 40, 44)


@pytest.fixture(scope="module")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def pacs(running_orthanc: Orthanc) -> Orthanc:
    """An Orthanc that holds nothing."""
    running_orthanc.clear()
    return running_orthanc


def test_from_a_volume_to_a_pacs_and_back(
    hdfs: Hdfs, hdfs_folder: str, pacs: Orthanc, project: Path, local_volume: Callable[[str], str], tmp_path: Path
) -> None:
    volume, dicom, landing = (storage.join(hdfs_folder, name) for name in ("volume", "dicom", "landing"))
    put(Path(local_volume("merlin")), volume)
    n_bins, n_instances = len(open_volume(volume)), len(open_volume(volume)) * open_volume(volume).shape[0]
    job = [str(project / "jobs" / "export_dicom.py"), volume, "--out", dicom, "--compression", "jpeg-ls"]
    done = spark_submit("--master", "local[2]", *job, environment={"HADOOP_CONF_DIR": str(hdfs.conf_dir)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{n_instances} instances" in done.stdout
    said = marspipe(hdfs, "inspect", dicom)
    assert f"dicom      {n_bins} series in {n_instances} files" in said and "JPEG-LS" in said and "problem" not in said

    catalog = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    said = marspipe(hdfs, "publish", dicom, "--to", pacs.dicom_url, "--catalog", catalog)
    assert f"{n_instances} sent, 0 kept" in said and f"verified   {n_instances} instances are there" in said
    said = marspipe(hdfs, "publish", dicom, "--to", pacs.web_url, "--catalog", catalog)
    assert f"0 sent, {n_instances} kept" in said
    assert pacs.n_instances == n_instances

    said = marspipe(hdfs, "catalog", "show", str(open_volume(volume).metadata["scan_id"]), "--catalog", catalog)
    assert said.count(pacs.dicom_url) == said.count(pacs.web_url) == 1
    (study,) = (one for one in pacs.get("/studies?expand"))
    study_uid = study["MainDicomTags"]["StudyInstanceUID"]
    marspipe(hdfs, "fetch", "--from", pacs.dicom_url, "--study", study_uid, "--out", landing)
    said = marspipe(hdfs, "inspect", landing)
    assert f"dicom      {n_bins} series in {n_instances} files" in said and "problem" not in said
    exported, fetched = instances(dicom), instances(landing)
    assert len(exported) == n_instances and fetched.keys() == exported.keys()
    for uid, own in exported.items():
        assert own.file_meta.TransferSyntaxUID == fetched[uid].file_meta.TransferSyntaxUID == JPEGLSLossless
        np.testing.assert_array_equal(fetched[uid].pixel_array, own.pixel_array)


def test_retrieval_is_measured_beside_a_pacs(hdfs_folder: str, pacs: Orthanc) -> None:
    results = bench_retrieval(hdfs_folder, side=64, slices=6, reads=3, pacs_url=pacs.web_url)
    names = ["slice: open the volume and read", "slice: volume is open", "slice: DICOM file", "series: volume"]
    names += ["series: DICOM files", "slice: PACS by WADO-RS", "series: PACS by WADO-RS"]
    assert [r.name for r in results] == names
    assert all(r.figures["median_ms"] > 0 for r in results)
    assert storage.list_dir(hdfs_folder) == []


def test_an_export_on_hdfs_is_replaced_as_a_whole(hdfs: Hdfs, hdfs_folder: str, project: Path) -> None:
    volume, dicom = (storage.join(hdfs_folder, name) for name in ("volume", "dicom"))
    voxels = write_volume(volume, SHAPE, tile_rows=16)
    commit(volume, {**(committed(volume) or {}), **scan_metadata()})
    for bins in (("--bin", "0", "--bin", "1"), ("--bin", "1", "--overwrite")):
        marspipe(hdfs, "export", volume, "--out", dicom, "--master", "local[2]", *bins)
    assert storage.list_dir(dicom) == ["_marspipe.json", "bin-01"]
    assert sorted(storage.list_dir(hdfs_folder)) == ["dicom", "volume"]
    files = storage.list_dir(storage.join(dicom, "bin-01"))
    assert len(files) == len(instances(dicom)) == SHAPE[0]
    for name, plane in zip(sorted(files), voxels[1], strict=True):
        values = read_slice(storage.read_bytes(storage.join(dicom, "bin-01", name)))
        seen = np.isfinite(values)  # not what lies beyond the field of view
        assert seen.mean() > 0.5
        # Of 2^16 steps between 0 and 1, half a one.
        np.testing.assert_allclose(values[seen], plane[seen], rtol=0, atol=2**-17 + 1e-6)
