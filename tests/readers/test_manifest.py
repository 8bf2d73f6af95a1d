"""The scan manifest: round trip, every kind of fault named, angles, geometry, URIs."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pytest
import yaml

from marspipe.errors import InputError, RawFormatError, ScanError
from marspipe.readers import READERS
from marspipe.readers.manifest import (
    FILE_NAME,
    AngleRange,
    ScanManifest,
    load_manifest,
    manifest_json_schema,
    resolve_angles,
    resolve_uri,
    scan_geometry,
)
from marspipe.scan.energy import Counter
from marspipe.scan.geometry import ScanGeometry

ORIGIN = "hdfs://nn:9000/scans/a b/scan.yaml"
TOOTH = Path(__file__).resolve().parents[1] / "data" / "tooth"
TEXT = """
marspipe_scan: 1
scan_id: demo-1.2_x
description: Läuft über zwei Dateien
geometry:
  kind: circular
  source_to_isocenter_mm: 200.0
  source_to_detector_mm: 250.0
  detector_shape: [128, 96]
  pixel_pitch_mm: [0.11, 0.10]
  principal_point_px: [63.5, 40.25]
tube: {voltage_kvp: 120.0, current_ua: 12.0, filters: {Al: 3.8}}
counters:
  - {counter: 0, mode: CSM, threshold_kev: 20.0}
  - {counter: 1, mode: SPM, threshold_kev: 15.0}
  - {counter: 2, mode: CSM, threshold_kev: 33.17}
files:
  - path: first half.mib
    reader: merlin
    frame_type: projection
    angles_rad: {start: 0.1, step: 0.5, count: 3}
    exposure_s: 0.3
  - path: second half.mib
    reader: merlin
    frame_type: projection
    angles_rad: [1.6, 2.1]
    first_view: 3
    orientation: {flip_rows: true}
  - path: open.mib
    reader: merlin
    frame_type: open_beam
    time: before
  - path: dark.h5
    reader: data_exchange
    frame_type: dark
    dataset: /exchange/more dark
"""


def faulty(old: str, new: str) -> str:
    assert old in TEXT
    with pytest.raises(ScanError) as caught:
        load_manifest(TEXT.replace(old, new, 1), ORIGIN)
    message = str(caught.value)
    assert message.startswith(f"{ORIGIN}: ")
    assert "\n" not in message
    return message


def test_round_trip() -> None:
    manifest = load_manifest(TEXT, ORIGIN)
    text = manifest.to_yaml()
    assert load_manifest(text, ORIGIN) == manifest
    assert "Läuft über" in text
    assert "detector_shape: [128, 96]" in text
    assert text.count("orientation") == 1
    assert manifest.counters[2].threshold_kev == 33.17
    assert manifest.camera_counters()[1] == Counter(1, "SPM", 15.0)


def test_manifest_is_immutable() -> None:
    manifest = load_manifest(TEXT, ORIGIN)
    with pytest.raises(ValueError, match="frozen"):
        manifest.scan_id = "other"  # type: ignore[misc]


def test_defaults() -> None:
    smallest = """
    marspipe_scan: 1
    scan_id: s
    geometry: {kind: parallel, detector_shape: [2, 4], pixel_pitch_mm: [0.01, 0.01]}
    files: [{path: x.h5, reader: data_exchange, frame_type: projection, angles_rad: {step: 0.1, count: 2}}]
    """
    manifest = load_manifest(smallest, ORIGIN)
    assert manifest.camera_counters() == [Counter(0, "SPM", 0.0)]
    assert manifest.tube is None
    assert not any(manifest.files[0].orientation.model_dump().values())
    assert manifest.projection_angles().tolist() == [0.0, 0.1]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("counters:", "counter:", "unknown key 'counter'; did you mean 'counters'?"),
        ("pixel_pitch_mm", "pixel_pich_mm", "geometry: unknown key 'pixel_pich_mm'; did you mean 'pixel_pitch_mm'?"),
        ("voltage_kvp", "kv_peak_voltage", "tube: unknown key 'kv_peak_voltage'; did you mean 'voltage_kvp'?"),
        (
            "frame_type: dark",
            "frame_type: dark\n    zzz: 1",
            "files.3: unknown key 'zzz'; valid keys are path, numbered",
        ),
        ("step: 0.5", "setp: 0.5", "files.0.angles_rad: unknown key 'setp'; did you mean 'step'?"),
        ("flip_rows", "flip_row", "files.1.orientation: unknown key 'flip_row'; did you mean 'flip_rows'?"),
        ("  kind: circular\n", "", "geometry needs kind: circular or kind: parallel"),
        ("kind: circular", "kind: helical", "geometry needs kind: circular or kind: parallel"),
        ("kind: circular", "kind: parallel", "geometry: unknown key 'source_to_isocenter_mm'"),
        ("source_to_isocenter_mm: 200.0", "source_to_isocenter_mm: -1", "source_to_isocenter_mm: input should be gr"),
        ("  source_to_detector_mm: 250.0\n", "", "geometry.source_to_detector_mm: this key is missing"),
        ("250.0", "150.0", "source_to_detector_mm must be at least source_to_isocenter_mm = 200.0 mm, got 150.0"),
        ("[128, 96]", "[128.5, 96]", "geometry.detector_shape.0: input should be a valid integer"),
        ("[128, 96]", "[0, 96]", "detector_shape must be at least 1 x 1 pixel, got (0, 96)"),
        ("[0.11, 0.10]", "[0.11]", "geometry.pixel_pitch_mm.1: this key is missing"),
        ("[0.11, 0.10]", "[0.11, .inf]", "geometry.pixel_pitch_mm.1: input should be a finite number, got inf"),
        ("scan_id: demo-1.2_x", "scan_id: a/b", "scan_id: string should match pattern '^[A-Za-z0-9._-]+$', got 'a/b'"),
        ("scan_id: demo-1.2_x", "scan_id: 20240506", "scan_id: input should be a valid string, got 20240506"),
        ("marspipe_scan: 1", "marspipe_scan: 2", "marspipe_scan: input should be 1, got 2"),
        ("counter: 2", "counter: 3", "counters must be numbered 0 to 2 in order, got [0, 1, 3]"),
        ("mode: SPM", "mode: XSM", "counters.1.mode: input should be 'SPM' or 'CSM', got 'XSM'"),
        ("mode: SPM", "mode: CSM", "counter 0 is at 20 keV and counter 1 at 15 keV"),
        ("33.17", "20.0", "thresholds of mode CSM must ascend, but counter 0 is at 20 keV and counter 2 at 20 keV"),
        ("33.17", ".nan", "counters.2.threshold_kev: input should be a finite number, got nan"),
        ("count: 3", "count: 0", "files.0.angles_rad.count: input should be greater than or equal to 1, got 0"),
        ("count: 3", "count: true", "files.0.angles_rad: count must not be true or false, got True"),
        ("step: 0.5", "step: .nan", "files.0.angles_rad.step: input should be a finite number, got nan"),
        ("[1.6, 2.1]", "[1.6, .nan]", "files.1.angles_rad.1: input should be a finite number, got nan"),
        ("[1.6, 2.1]", "[]", "files.1.angles_rad: tuple should have at least 1 item"),
        ("[1.6, 2.1]", "{dataset: /t, unit: deg}", "files.1: angles_rad.dataset '/t' needs an HDF5 reader"),
        ("    angles_rad: [1.6, 2.1]\n", "", "files.1: angles_rad is missing for the projections in 'second half.mib'"),
        ("first_view: 3", "first_view: 2", "view 2 is doubled: 'first half.mib' holds views 0 to 2"),
        ("first_view: 3", "time: after", "time: after is for open beams, absorbers and dark frames"),
        ("time: before", "first_view: 3", "files.2: angles_rad, first_view and sample_z_mm are for projections"),
        ("reader: merlin", "reader: Merlin", "files.0.reader: unknown reader 'Merlin'; did you mean 'merlin'?"),
        ("reader: data_exchange", "reader: merlin", "files.3: dataset '/exchange/more dark' needs an HDF5 reader"),
        ("frame_type: dark", "frame_type: black", "files.3.frame_type: input should be 'projection', 'open_beam', '"),
        ("exposure_s: 0.3", "exposure_s: 0", "files.0.exposure_s: input should be greater than 0, got 0"),
        (
            "reader: merlin\n    frame_type: open_beam",
            "reader: merlin\n    frame_type: absorber",
            "thickness of the plate",
        ),
        ("time: before", "absorber_mm: 2", "absorber_mm, the thickness of the plate, belongs to frame_type: absorber"),
        (
            "time: before",
            "tile: 1",
            "'open.mib' is of tile 1, but camera_positions_mm lists 1 position, numbered from 0",
        ),
        ("time: before", "tile: -1", "files.2.tile: input should be greater than or equal to 0, got -1"),
        (
            "first_view: 3",
            "first_view: 3\n    group: 1",
            "files.1: group: 1 is for open beams, absorbers and dark frames",
        ),
        ("time: before", "group: -1", "files.2.group: input should be greater than or equal to 0, got -1"),
        ("counters:", "camera_positions_mm: [[0, 1], [0, 1]]\ncounters:", "0 and 1 are both at [0.0, 1.0] mm (v, u)"),
        ("counters:", "camera_positions_mm: []\ncounters:", "camera_positions_mm: tuple should have at least 1 item"),
        (
            "counters:",
            "camera_positions_mm: [[0, .nan]]\ncounters:",
            "camera_positions_mm.0.1: input should be a finite",
        ),
        (
            "step: 0.5",
            "step: 0.5, hold: 0",
            "files.0.angles_rad.hold: input should be greater than or equal to 1, got 0",
        ),
        ("time: before", "numbered: {count: 3}", "path 'open.mib' of numbered files has no {number}"),
        (
            "open.mib",
            "'o{number:5d}.mib'\n    numbered: {count: 3}",
            "stray '{' at character 2; a pattern has {number}",
        ),
        ("open.mib", "'o{view}{number}.mib'\n    numbered: {count: 3}", "has a stray '{' at character 2"),
        ("open.mib", "'o{number}}.mib'\n    numbered: {count: 3}", "has a stray '}' at character 10"),
        ("open.mib", "'{number}'\n    numbered: {count: 0}", "files.2.numbered.count: input should be greater than or"),
        (
            "first half.mib",
            "'{number}'\n    numbered: {count: 4}",
            "gives 3 angles for the 4 numbered files '{number}'",
        ),
        ("exposure_s: 0.3", "sample_z_mm: {dataset: /z, unit: mm}", "sample_z_mm.dataset '/z' needs an HDF5 reader"),
        (
            "exposure_s: 0.3",
            "sample_z_mm: {dataset: /z, unit: ft}",
            "sample_z_mm.unit: input should be 'mm', 'um', 'cm'",
        ),
        ("scan_id:", "scan_id: x\nscan_id:", "not valid YAML: key 'scan_id' is there twice"),
        ("[0.11, 0.10]", "[0.11, 0.10", "not valid YAML: while parsing"),
    ],
)
def test_fault_is_named(old: str, new: str, expected: str) -> None:
    assert expected in faulty(old, new)


def test_all_faults_are_named_at_once() -> None:
    message = faulty(TEXT, TEXT.replace("count: 3", "count: 0").replace("mode: SPM", "mode: XSM"))
    assert "files.0.angles_rad.count" in message
    assert "counters.1.mode" in message
    assert "files: tuple" not in message


@pytest.mark.parametrize("text", ["", "- a\n- b", "42", "\x00"])
def test_not_a_mapping(text: str) -> None:
    with pytest.raises(ScanError, match=re.escape(ORIGIN)):
        load_manifest(text, ORIGIN)


def test_no_projections() -> None:
    content = yaml.safe_load(TEXT)
    content["files"] = content["files"][2:]
    with pytest.raises(ScanError, match="at least one file must have frame_type: projection"):
        load_manifest(yaml.safe_dump(content), ORIGIN)
    content["files"] = []
    with pytest.raises(ScanError, match="files: tuple should have at least 1 item"):
        load_manifest(yaml.safe_dump(content), ORIGIN)


def test_angles_in_the_order_of_the_views() -> None:
    manifest = load_manifest(TEXT, ORIGIN)
    assert manifest.projection_angles() == pytest.approx([0.1, 0.6, 1.1, 1.6, 2.1], abs=1e-15)
    content = yaml.safe_load(TEXT)
    content["files"].reverse()
    assert load_manifest(yaml.safe_dump(content), ORIGIN).projection_angles().tolist() == (
        manifest.projection_angles().tolist()
    )


def test_missing_view() -> None:
    manifest = load_manifest(TEXT.replace("first_view: 3", "first_view: 4"), ORIGIN)
    with pytest.raises(ScanError, match=r"view 3 is in no projection file \(1 of 6 views are missing\)"):
        manifest.projection_angles()


def exchange_manifest(unit: str = "deg", first_view: int = 4) -> ScanManifest:
    return load_manifest(
        f"""
        marspipe_scan: 1
        scan_id: s
        geometry: {{kind: parallel, detector_shape: [2, 4], pixel_pitch_mm: [0.01, 0.01]}}
        files:
        - path: a.h5
          reader: data_exchange
          frame_type: projection
          angles_rad: {{dataset: /exchange/theta, unit: {unit}}}
        - {{path: b.h5, reader: data_exchange, frame_type: projection, angles_rad: [3.0], first_view: {first_view}}}
        """,
        ORIGIN,
    )


def theta(values: object, unit: str | None = None) -> io.BytesIO:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["exchange/theta"] = values
        if unit is not None:
            h5["exchange/theta"].attrs["units"] = unit
    return file


def test_angles_from_a_dataset() -> None:
    manifest = exchange_manifest()
    with pytest.raises(ScanError, match=re.escape("the angles of a.h5 lie in the file; resolve them first")):
        manifest.projection_angles()
    a, b = manifest.projection_files
    degrees = np.array([0, 45, 90, 135], dtype=">i2")
    resolved = [resolve_angles(a, theta(degrees, "degrees")), resolve_angles(b)]
    assert resolved[0].dtype == np.float64
    angles = manifest.projection_angles(resolved)
    assert angles == pytest.approx([0, np.pi / 4, np.pi / 2, 3 * np.pi / 4, 3.0], abs=1e-15)
    with pytest.raises(ScanError, match="view 3 is doubled"):
        exchange_manifest(first_view=3).projection_angles(resolved)
    radians = exchange_manifest("rad").projection_files[0]
    assert resolve_angles(radians, theta([0.0, 1.5])).tolist() == [0.0, 1.5]
    with pytest.raises(ScanError, match="angles of 1 files given, expected 2"):
        manifest.projection_angles(resolved[:1])


@pytest.mark.parametrize(
    ("file", "error", "expected"),
    [
        (theta([0.0, np.nan]), ScanError, "all finite, but angle 1 is nan"),
        (theta(np.zeros(0)), ScanError, "at least one angle, all finite, but it is empty"),
        (theta([0.0], "rad"), ScanError, "is stored in 'rad', but the manifest says unit: deg"),
        (theta(np.zeros((2, 2))), RawFormatError, "must be a one-dimensional array of numbers, got shape (2, 2)"),
        (theta(["a"]), RawFormatError, "must be a one-dimensional array of numbers"),
        (io.BytesIO(b"no HDF5"), RawFormatError, "not an HDF5 file"),
        (None, ScanError, "the file is needed to read them"),
    ],
)
def test_angles_that_make_no_sense(file: io.BytesIO | None, error: type[InputError], expected: str) -> None:
    with pytest.raises(error, match=re.escape(expected)) as caught:
        resolve_angles(exchange_manifest().projection_files[0], file)
    assert "a.h5" in str(caught.value)


def test_many_angles_need_no_memory_to_validate() -> None:
    manifest = load_manifest(
        TEXT.replace("count: 3", "count: 10000000").replace("first_view: 3", "first_view: 10000000"), ORIGIN
    )
    assert isinstance(manifest.files[0].angles_rad, AngleRange)


def test_geometry() -> None:
    manifest = load_manifest(TEXT, ORIGIN)
    angles = manifest.projection_angles()
    assert scan_geometry(manifest, angles) == ScanGeometry.circular(
        source_to_isocenter_mm=200.0,
        source_to_detector_mm=250.0,
        detector_shape=(128, 96),
        pixel_pitch_mm=(0.11, 0.10),
        angles_rad=angles,
        principal_point_px=(63.5, 40.25),
    )


def test_tooth() -> None:
    """The real scan: all files of its manifest are there, with the right angles and the axis where it was found."""
    manifest = load_manifest((TOOTH / FILE_NAME).read_text(encoding="utf-8"), "tooth/scan.yaml")
    counts = {}
    with (TOOTH / "tooth.h5").open("rb") as raw:
        angles = manifest.projection_angles([resolve_angles(f, raw) for f in manifest.projection_files])
        for entry in manifest.files:
            assert (TOOTH / entry.path).is_file()
            counts[entry.frame_type] = READERS[entry.reader].count(raw, entry.path, frame_type=entry.frame_type)
    assert counts == {"projection": 181, "open_beam": 10, "dark": 10}
    assert np.rad2deg(angles[-1]) == pytest.approx(179.0055, abs=1e-4)
    assert np.allclose(np.diff(angles), np.pi / 181, atol=1e-6)
    geometry = scan_geometry(manifest, angles)
    assert geometry == ScanGeometry.parallel(
        detector_shape=(2, 640), pixel_pitch_mm=(0.01, 0.01), angles_rad=angles, principal_point_px=(0.5, 295.86)
    )


@pytest.mark.parametrize(
    ("path", "manifest_uri", "expected"),
    [
        ("a b.mib", "scan.yaml", "a b.mib"),
        ("a b.mib", "/scans/ü 1/scan.yaml", "/scans/ü 1/a b.mib"),
        ("../x.mib", "/scans/1/scan.yaml", "/scans/x.mib"),
        ("/data/x.mib", "/scans/1/scan.yaml", "/data/x.mib"),
        ("raw/ü b.mib", ORIGIN, "hdfs://nn:9000/scans/a b/raw/ü b.mib"),
        ("/data/x.mib", ORIGIN, "hdfs://nn:9000/data/x.mib"),
        ("x.mib", "hdfs:///scans/scan.yaml", "hdfs:///scans/x.mib"),
        ("hdfs://other:1/x.mib", "/scans/scan.yaml", "hdfs://other:1/x.mib"),
        ("file:///data/x.mib", ORIGIN, "file:///data/x.mib"),
        ("100% a.mib", "file:///scans/a%20b/scan.yaml", "/scans/a b/100% a.mib"),
        ("12:30.mib", "/scans/scan.yaml", "/scans/12:30.mib"),
    ],
)
def test_where_a_file_lies(path: str, manifest_uri: str, expected: str) -> None:
    assert resolve_uri(path, manifest_uri) == expected


NUMBERED = """
    marspipe_scan: 1
    scan_id: s
    geometry: {kind: parallel, detector_shape: [2, 4], pixel_pitch_mm: [0.01, 0.01]}
    camera_positions_mm: [[0, 0], [0.5, -0.25]]
    files:
    - path: "tile {tile}/a {{b}} ü {number:07d}.mib"
      reader: merlin
      frame_type: projection
      tile: 1
      numbered: {first: 2, step: 3, count: 6}
      angles_rad: {start: 0.5, step: 0.1, count: 6, hold: 3}
      sample_z_mm: {start: -4, step: 2, begin_again_after: 3}
    - {path: "{plain}.mib", reader: merlin, frame_type: projection, angles_rad: [0.5, 0.5, 0.5, 0.6, 0.6, 0.6]}
    - {path: plate.mib, reader: merlin, frame_type: absorber, absorber_mm: 0.5, time: after}
    """


def test_numbered_files_and_steps_that_are_held() -> None:
    manifest = load_manifest(NUMBERED, ORIGIN)
    assert load_manifest(manifest.to_yaml(), ORIGIN) == manifest
    numbered, plain, plate = manifest.files
    assert [numbered.name(i) for i in (0, 5)] == ["tile 1/a {b} ü 0000002.mib", "tile 1/a {b} ü 0000017.mib"]
    assert plain.name(0) == "{plain}.mib"
    assert manifest.projection_angles() == pytest.approx([0.5, 0.5, 0.5, 0.6, 0.6, 0.6], abs=1e-15)
    assert numbered.heights_mm(6).tolist() == [-4, -2, 0, -4, -2, 0]
    assert [f.group_number for f in manifest.files] == [0, 0, 1]
    assert plate.absorber_mm == 0.5
    assert manifest.camera_positions_mm == ((0.0, 0.0), (0.5, -0.25))
    with pytest.raises(ScanError, match="sample_z_mm of view 0 is 0 mm at camera position 0 and -4 mm at camera pos"):
        manifest.sample_heights_mm([f.heights_mm(6) for f in manifest.projection_files])
    schema = jsonschema.Draft202012Validator(manifest_json_schema())
    assert not list(schema.iter_errors(yaml.safe_load(manifest.to_yaml())))


def test_schema_file_is_that_of_the_code(project: Path) -> None:
    stored = json.loads((project / "schemas" / "scan.schema.json").read_text(encoding="utf-8"))
    assert stored == manifest_json_schema()


def test_schema_accepts_and_refuses_as_the_code_does() -> None:
    schema = jsonschema.Draft202012Validator(manifest_json_schema())
    schema.check_schema(manifest_json_schema())
    for text in (TEXT, (TOOTH / FILE_NAME).read_text(encoding="utf-8"), load_manifest(TEXT, ORIGIN).to_yaml()):
        assert list(schema.iter_errors(yaml.safe_load(text))) == []
    for old, new in [
        ("pixel_pitch_mm", "pixel_pich_mm"),
        ("reader: merlin", "reader: Merlin"),
        ("count: 3", "count: 0"),
    ]:
        assert list(schema.iter_errors(yaml.safe_load(TEXT.replace(old, new, 1))))
