"""DICOM series of a volume through Spark: the same files as in one process, on every run, or none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pyspark.sql import SparkSession

from marspipe.cli import cli, run_command
from marspipe.dicom.ct import series_files
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.series import series_header
from marspipe.errors import BusyError, InputError, OutputExistsError
from marspipe.pipeline.export import dicom as export
from marspipe.pipeline.export import slices
from marspipe.pipeline.export.dicom import Exported, export_dicom, refuse_foreign
from marspipe.pipeline.export.options import DicomOptions
from marspipe.show.progress import Progress
from marspipe.store import storage
from marspipe.store.commit import commit, committed
from marspipe.store.lock import held
from marspipe.store.volume import open_volume
from tests.dicom.conftest import scan_metadata
from tests.dicom.written import SYNTAXES
from tests.pipeline.scans import quiet
from tests.store.stored_volumes import write_slab, write_volume

LOUD = SeriesIdentity(
    patient_name="Loud^Lucy",
    patient_id="ID-4711",
    patient_birth_date="1971-02-03",
    accession_number="ACC-99",
    referring_physician_name="Doe^Dora",
    institution_name="Somewhere Clinic",
)
PRIVATE = ("Loud", "Lucy", "ID-4711", "19710203", "ACC-99", "Dora", "Somewhere")
Export = Callable[..., Exported]
SHAPE = (8, 40, 44)


@pytest.fixture
def volume_uri(tmp_path: Path) -> str:
    uri = str(tmp_path / "volume")
    write_volume(uri, SHAPE, tile_rows=16)
    # The field of view ends within the grid of 44 x 40 voxels of 0.1 mm.
    seen = {"redundancy": {"name": "full", "description": "", "field_of_view_mm": 2.1}}
    commit(uri, {**(committed(uri) or {}), **scan_metadata(), **seen})
    return uri


@pytest.fixture
def to(spark: SparkSession, volume_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    monkeypatch.setattr(slices, "SLICES_PER_TASK", 3)

    def run(name: str, progress: Progress | None = None, **options: Any) -> Exported:
        wanted = DicomOptions(**options)
        return export_dicom(spark, volume_uri, str(tmp_path / name), wanted, progress=progress or quiet())

    return run


def files(folder: str | Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*.dcm")}


def values(content: Path) -> NDArray[np.float64]:
    dataset = dcmread(content)
    return np.asarray(dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))


def test_the_files_are_those_of_one_process_on_every_run(
    to: Export, volume_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = to("out")
    assert (done.n_instances, done.clipped_voxels) == (2 * SHAPE[0], {0: 0, 1: 0})
    volume, expected = open_volume(volume_uri), {}
    for bin_ in range(2):
        expected |= {f.path: f.content for f in series_files(volume, series_header(volume, bin_))}
    assert files(done.uri) == expected
    monkeypatch.setattr(slices, "SLICES_PER_TASK", 5)
    assert files(to("again").uri) == files(to("out").uri) == expected
    told = committed(done.uri)
    assert told is not None and [s["n_instances"] for s in told["series"]] == [SHAPE[0]] * 2
    assert [p.name for p in Path(done.uri).parent.iterdir() if p.name.startswith(".")] == []


def test_outliers_do_not_make_the_steps_coarse(spark: SparkSession, tmp_path: Path) -> None:
    uri, shape = str(tmp_path / "streak"), (4, 200, 200)
    voxels = write_volume(uri, shape, tile_rows=200, slabs=1, bins=1)
    voxels[0, 2, 100, 90] = 1000.0  # a thousand times as high as all others
    Path(uri, "part-0-0.parquet").write_bytes(write_slab(voxels[0], 0, 0, shape[0], shape[1]))
    statistics = [{name: float(getattr(voxels, name)()) for name in ("min", "max", "mean")}]
    commit(uri, {**(committed(uri) or {}), **scan_metadata(), "statistics": statistics})
    done = export_dicom(spark, uri, str(tmp_path / "out"), progress=quiet())
    assert done.clipped_voxels == {0: 1}
    (told,) = (committed(done.uri) or {})["series"]
    assert told["series_uid"] == dcmread(Path(done.uri, "bin-00", "slice-0000.dcm")).SeriesInstanceUID
    for z in range(shape[0]):
        path = Path(done.uri, "bin-00", f"slice-{z:04d}.dcm")
        step = float(dcmread(path).RescaleSlope)
        assert step < 3 / 65534
        far = np.abs(voxels[0, z] - values(path)) > 0.51 * step
        assert np.count_nonzero(far) == (z == 2)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_encoding_holds_the_same_pixels(to: Export, syntax: str) -> None:
    plain, encoded = files(to("plain").uri), to("encoded", transfer_syntax=syntax, bins=(1,)).uri
    assert len(files(encoded)) == SHAPE[0]
    for path in Path(encoded).rglob("*.dcm"):
        expected = dcmread(Path(encoded).parent / "plain" / path.relative_to(encoded)).pixel_array
        dataset = dcmread(path)
        assert dataset.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
        np.testing.assert_array_equal(dataset.pixel_array, expected)
    assert len(plain) == 2 * SHAPE[0]


@pytest.mark.parametrize("kind", ["enhanced-ct", "parametric-map"])
def test_multi_frame_files_hold_the_volume(to: Export, volume_uri: str, kind: str) -> None:
    size = 90_000
    water = {0: 0.5} if kind == "enhanced-ct" else {}
    options = {"kind": kind, "bins": (0,), "max_instance_bytes": size, "identity": LOUD}
    done = to("out", **options, water_attenuation_per_mm=water)
    parts = sorted(Path(done.uri).rglob("*.dcm"))
    assert len(parts) == done.n_instances > 1
    assert max(path.stat().st_size for path in parts) <= size
    assert files(to("again", **options, water_attenuation_per_mm=water).uri) == files(done.uri)
    stacks = []
    for path in parts:
        dataset = dcmread(path)
        frames = dataset.pixel_array.reshape(-1, *SHAPE[1:])
        group = dataset.SharedFunctionalGroupsSequence[0]
        if "PixelValueTransformationSequence" in group:
            scale = group.PixelValueTransformationSequence[0]
            frames = frames * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
        stacks.append(frames)
    volume = open_volume(volume_uri)
    outside = series_header(volume, 0).outside()
    assert outside is not None and 0 < np.count_nonzero(outside) < outside.size
    whole, expected = np.concatenate(stacks)[:, ~outside], np.asarray(volume[0])[:, ~outside]
    if kind == "parametric-map":
        np.testing.assert_array_equal(whole, expected)
    else:
        np.testing.assert_allclose(whole, 1000 * (expected - 0.5) / 0.5, atol=0.51)


def test_hounsfield_units_where_water_is_known(to: Export, volume_uri: str) -> None:
    done = to("out", water_attenuation_per_mm={1: 0.5})
    first, second = (dcmread(Path(done.uri, f"bin-0{b}", "slice-0000.dcm")) for b in (0, 1))
    assert (first.RescaleType, second.RescaleType) == ("US", "HU")
    shown = values(Path(done.uri, "bin-01", "slice-0000.dcm"))
    inside = second.pixel_array != second.PixelPaddingValue
    expected = 1000 * (open_volume(volume_uri)[1][0] - 0.5) / 0.5
    np.testing.assert_allclose(shown[inside], expected[inside], atol=0.51)


def test_nothing_private_is_left_by_deidentification_or_told_elsewhere(
    to: Export, volume_uri: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # It logs the code of tasks in base64, in which any four letters may come.
    caplog.set_level(logging.INFO, logger="py4j")
    named = to("named", Progress(), identity=LOUD)
    clean = to("clean", Progress(), identity=LOUD, deidentification_key=b"0123456789abcdef")
    said = "".join(capfd.readouterr()) + caplog.text
    assert "dicom done" in said
    assert any(b"Loud" in content for content in files(named.uri).values())
    told = Path(named.uri, "_marspipe.json").read_text() + repr(DicomOptions(identity=LOUD)) + repr(named)
    told += said + "".join(str(p) for p in Path(named.uri).rglob("*"))
    assert [text for text in PRIVATE if text in told] == []
    scan = [scan_metadata()["scan_id"], scan_metadata()["description"]]
    everything = b"".join(p.read_bytes() for p in Path(clean.uri).rglob("*") if p.is_file())
    assert [text for text in (*PRIVATE, *scan) if text.encode() in everything] == []
    assert (committed(clean.uri) or {})["deidentified"] is True
    again = to("again", identity=LOUD, deidentification_key=b"0123456789abcdef")
    assert files(again.uri) == files(clean.uri)
    other = to("other", identity=LOUD, deidentification_key=b"another 16 bytes")
    assert not set(files(other.uri).values()) & set(files(clean.uri).values())


def test_a_failed_export_leaves_what_was_there(
    to: Export, volume_uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = files(to("out").uri)
    with pytest.raises(InputError, match="bins 0 to 1, asked for bin 2"):
        to("out", bins=(2,))
    file = Path(volume_uri, "part-1-1.parquet")
    content = bytearray(file.read_bytes())
    at = content.index(np.asarray(open_volume(volume_uri)[1][7][:4]).tobytes())
    content[at + 5] ^= 1
    file.write_bytes(content)
    with pytest.raises(Exception, match=r"the checksum of bin 1, slice 7"):
        to("out")
    assert files(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "volume"]


def test_folders_of_others_are_not_replaced(to: Export, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    refuse_foreign(str(tmp_path / "mine"), overwrite=False)
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="mine exists and was not made by marspipe export"):
            refuse_foreign(str(tmp_path / "mine"), overwrite=overwrite)
    done = to("out", bins=(0,))
    with pytest.raises(OutputExistsError, match="pass --overwrite"):
        refuse_foreign(done.uri, overwrite=False)
    refuse_foreign(done.uri, overwrite=True)


def test_the_old_series_come_back_if_the_new_ones_cannot_take_their_place(
    to: Export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = files(to("out", bins=(0,)).uri)
    rename = storage.rename

    def fail_once(source: str, target: str) -> None:
        if source.endswith(".part"):
            raise OSError("the disk is away")
        rename(source, target)

    monkeypatch.setattr(storage, "rename", fail_once)
    with pytest.raises(OSError, match="the disk is away"):
        to("out")
    assert files(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "volume"]


def test_two_exports_to_a_folder_do_not_mix(to: Export, tmp_path: Path) -> None:
    with held(str(tmp_path), "an export to out", name=".out.lock.json"):
        with pytest.raises(BusyError, match="is in use by an export to out"):
            to("out")
        assert to("other", bins=(0,)).n_instances == SHAPE[0]
    assert to("out", bins=(0,)).n_instances == SHAPE[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out", "volume"]


def test_the_command(spark: SparkSession, volume_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del spark  # the command finds it
    identity, out = tmp_path / "patient.yaml", str(tmp_path / "out")
    identity.write_text("patient_id: ID-4711\npatient_name: Loud^Lucy\n")

    def command(*arguments: str) -> tuple[int, str]:
        code = run_command(cli, ["export", volume_uri, "--out", out, *arguments], "marspipe")
        said = capsys.readouterr()
        assert "Loud" not in said.out + said.err
        return code, said.out + said.err

    assert command("--identity", str(identity), "--bin", "1", "--water", "1=0.5")[0] == 0
    assert sorted(files(out)) == [f"bin-01/slice-{z:04d}.dcm" for z in range(SHAPE[0])]
    assert dcmread(Path(out, "bin-01", "slice-0000.dcm")).PatientID == "ID-4711"
    assert command() == (2, f"marspipe: {out} already holds DICOM series: choose another folder, or pass --overwrite\n")
    frame = str(Path(out, "bin-01", "slice-0003.dcm"))
    (tmp_path / "frame.dcm").write_bytes(Path(frame).read_bytes())
    assert command("--overwrite", "--identity", str(tmp_path / "frame.dcm"))[0] == 0
    assert dcmread(Path(out, "bin-00", "slice-0000.dcm")).PatientID == "ID-4711"
    for arguments, message in (
        (("--overwrite", "--water", "0:3"), "--water must be BIN=VALUE such as 0=0.0206, got '0:3'"),
        (("--overwrite", "--water", "5=0.02"), "bins 0 to 1, asked for bin 5"),
        (("--overwrite", "--deidentify"), "de-identification needs a secret"),
        (("--overwrite", "--key-file", frame), "--key-file is for --deidentify: give both, or neither"),
        (("--overwrite", "--identity", str(tmp_path / "none.yaml")), "none.yaml cannot be read"),
        (("--overwrite", "--kind", "parametric-map", "--compression", "rle"), "uncompressed"),
        (("--overwrite", "--kind", "enhanced-ct", "--water", "1=0.5"), "an Enhanced CT image are in Hounsfield units"),
    ):
        code, said = command(*arguments)
        assert (code, message in said) == (2, True), said
    assert export.committed(out) is not None
