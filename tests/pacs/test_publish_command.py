"""``marspipe publish`` and ``marspipe fetch`` as a user meets them, and what the catalog remembers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyspark
import pytest

from marspipe.cli import cli, run_command
from marspipe.store import storage
from marspipe.store.catalog import open_catalog
from marspipe.store.commit import commit
from marspipe.store.versions import add_version
from tests.pacs.conftest import BINS, N_INSTANCES, SLICES
from tests.pacs.servers import ORTHANC_AE, Orthanc, free_ports
from tests.store.catalog_content import volume_metadata


def call(*arguments: str | Path) -> int:
    return run_command(cli, [str(a) for a in arguments], "marspipe")


@pytest.fixture
def out(tmp_path: Path, dicom_folder: Path) -> Path:
    """A folder of results: a volume, and beside it the DICOM files made from it."""
    shutil.copytree(dicom_folder, tmp_path / "out" / "dicom")
    (tmp_path / "out" / "volume" / "made").mkdir(parents=True)
    add_version(str(tmp_path / "out" / "volume"), "made", volume_metadata("stone-scan"))
    return tmp_path / "out"


@pytest.fixture
def catalog_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'catalog.sqlite'}"


def test_echo(pacs: Orthanc, url_of: Callable[[Orthanc], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("publish", "--to", url_of(pacs), "--echo") == 0
    assert capsys.readouterr().out == f"answers    {url_of(pacs)}\n"
    (port,) = free_ports(1)
    assert call("publish", "--to", f"dicom://{ORTHANC_AE}@127.0.0.1:{port}", "--echo") == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_published_and_recorded(
    pacs: Orthanc,
    url_of: Callable[[Orthanc], str],
    out: Path,
    catalog_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("publish", out / "dicom", "--to", url_of(pacs), "--catalog", catalog_url)
    assert call(*arguments) == 0
    text = capsys.readouterr().out
    assert f"published  {N_INSTANCES} instances of {len(BINS)} series: {N_INSTANCES} sent, 0 kept" in text
    assert f"verified   {N_INSTANCES} instances are there" in text
    assert call(*arguments) == 0
    assert f"0 sent, {N_INSTANCES} kept" in capsys.readouterr().out
    catalog = open_catalog(catalog_url)
    kept, sent = catalog.publications(scan_id="stone-scan")
    assert (sent.state, sent.n_instances, sent.destination) == ("done", N_INSTANCES, url_of(pacs))
    assert (sent.details["sent"], sent.details["found"]) == (N_INSTANCES, N_INSTANCES)
    assert (kept.state, kept.n_instances, kept.details["kept"]) == ("kept", N_INSTANCES, N_INSTANCES)
    (version,) = [p for p in (out / "volume").iterdir() if p.is_dir()]
    assert sent.volume_uri == str(version)
    runs = catalog.runs(scan_id="stone-scan", kind="publish")
    assert [run.state for run in runs] == ["kept", "done"]
    assert runs[1].run_id == sent.details["run_id"]
    assert call("catalog", "show", out / "volume", "--catalog", catalog_url) == 0
    assert re.search(rf"sent +\S+ \S+ {N_INSTANCES} to {re.escape(url_of(pacs))}: done", capsys.readouterr().out)


def test_failure_is_code_3_and_recorded(out: Path, catalog_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    url = f"dicom://{ORTHANC_AE}@127.0.0.1:{port}"
    assert call("publish", out / "dicom", "--to", url, "--catalog", catalog_url, "--retries", "0") == 3
    error = capsys.readouterr().err
    assert f"marspipe: {url}: " in error
    assert f"0 of {N_INSTANCES} instances are there, publish again to go on" in error
    catalog = open_catalog(catalog_url)
    (sent,) = catalog.publications(scan_id="stone-scan")
    (run,) = catalog.runs(scan_id="stone-scan")
    assert (sent.state, sent.n_instances, run.state) == ("failed", 0, "failed")
    assert run.error is not None
    assert url in run.error


def test_wrong_ae_title_is_code_2_and_recorded(
    pacs: Orthanc, out: Path, catalog_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"dicom://ELSEWHERE@127.0.0.1:{pacs.dicom_port}"
    assert call("publish", out / "dicom", "--to", url, "--catalog", catalog_url) == 2
    assert "does not know the AE title 'ELSEWHERE'" in capsys.readouterr().err
    (sent,) = open_catalog(catalog_url).publications()
    assert (sent.state, sent.n_instances) == ("failed", 0)


def test_a_volume_elsewhere(pacs: Orthanc, dicom_folder: Path, tmp_path: Path, catalog_url: str) -> None:
    commit(str(tmp_path / "volumes"), volume_metadata("other-scan"))
    arguments = ("publish", dicom_folder, "--to", pacs.dicom_url, "--catalog", catalog_url, "--volume")
    assert call(*arguments, tmp_path / "volumes") == 0
    (sent,) = open_catalog(catalog_url).publications(scan_id="other-scan")
    assert sent.volume_uri == storage.absolute(str(tmp_path / "volumes"))
    assert call(*arguments, tmp_path / "nowhere") == 2


def test_without_a_volume_nothing_is_recorded(pacs: Orthanc, dicom_folder: Path, catalog_url: str) -> None:
    assert call("publish", dicom_folder, "--to", pacs.dicom_url, "--catalog", catalog_url) == 0
    assert open_catalog(catalog_url).publications() == []


def test_wrong_input_is_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "dicom://NOBODY@127.0.0.1:1"
    assert call("publish", "--to", url) == 2
    assert "name the folder of DICOM files" in capsys.readouterr().err
    assert call("publish", tmp_path / "none", "--to", url) == 2
    assert f"{tmp_path / 'none'}: there is no such folder" in capsys.readouterr().err
    assert call("publish", tmp_path, "--to", "dicom://NOBODY:geheim@127.0.0.1:1") == 2
    assert "geheim" not in capsys.readouterr().err


def test_fetched(
    pacs: Orthanc,
    url_of: Callable[[Orthanc], str],
    dicom_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call("publish", dicom_folder, "--to", url_of(pacs)) == 0
    monkeypatch.setenv("MARSPIPE_PACS_PATIENT_ID", "stone-7")
    capsys.readouterr()
    assert call("fetch", "--from", url_of(pacs), "--modality", "CT", "--out", tmp_path / "zone") == 0
    said = capsys.readouterr()
    assert said.out.count(f"series     {SLICES} instances, {SLICES} of them new: {tmp_path / 'zone'}") == len(BINS)
    assert "stone-7" not in said.out + said.err
    assert len(list((tmp_path / "zone").rglob("*.dcm"))) == N_INSTANCES
    assert len(list((tmp_path / "zone").rglob("series.yaml"))) == len(BINS)


def test_fetch_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("fetch", "--from", "dicom://NOBODY@127.0.0.1:1", "--out", tmp_path)
    assert call(*arguments) == 2
    assert "name what to fetch" in capsys.readouterr().err
    for value in ("MARSPIPE", "MARSPIPE:", ":104", "MARSPIPE:70000"):
        assert call(*arguments, "--study", "1.2.3", "--move-to", value) == 2
        assert "--move-to must be AE:PORT" in capsys.readouterr().err


def test_the_job_starts_no_spark(pacs: Orthanc, project: Path, out: Path, catalog_url: str) -> None:
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [submit, "--master", "local[1]", "--conf", "spark.ui.enabled=false", project / "jobs" / "publish.py"]
    command += [out / "dicom", "--to", pacs.dicom_url, "--catalog", catalog_url]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"verified   {N_INSTANCES} instances are there" in done.stdout
    assert "SparkContext" not in done.stderr
    assert pacs.n_instances == N_INSTANCES
    (sent,) = open_catalog(catalog_url).publications()
    assert sent.state == "done"
