from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from marspipe.dicom.ct import series_files, series_header, slice_dataset, write_slice
from marspipe.dicom.identity import SeriesIdentity
from marspipe.errors import InputError, RunError
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid
from tests.dicom.written import read_all, write_all

WATER = 0.0206


def test_every_voxel_is_found_at_its_world_coordinate_with_its_value(volume: Any) -> None:
    grid = volume.grid
    for bin in (0, 1):
        slices = read_all(volume, series_header(volume, bin))
        assert len(slices) == grid.shape[0]
        # In an order that has nothing to do with the volume's: positions alone must place the slices.
        for dataset in sorted(slices, key=lambda d: d.SOPInstanceUID):
            orientation = np.array(dataset.ImageOrientationPatient, dtype=float)
            along_row, along_column = orientation[:3], orientation[3:]
            between_rows, between_columns = (float(v) for v in dataset.PixelSpacing)
            first = np.array(dataset.ImagePositionPatient, dtype=float)
            row, column = np.mgrid[0 : dataset.Rows, 0 : dataset.Columns]
            # PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1
            world = (
                first + along_row * between_columns * column[..., None] + along_column * between_rows * row[..., None]
            )
            index = np.rint((world[..., ::-1] - [grid.axis_mm(a)[0] for a in "zyx"]) / np.array(grid.voxel_mm)).astype(
                int
            )
            np.testing.assert_allclose(world[..., 0], grid.axis_mm("x")[index[..., 2]], atol=1e-9)
            np.testing.assert_allclose(world[..., 1], grid.axis_mm("y")[index[..., 1]], atol=1e-9)
            np.testing.assert_allclose(world[..., 2], grid.axis_mm("z")[index[..., 0]], atol=1e-9)
            values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            expected = volume[bin][index[..., 0], index[..., 1], index[..., 2]]
            assert np.abs(values - expected).max() <= 0.5 * float(dataset.RescaleSlope) * (1 + 1e-9)


def test_slices_follow_the_normal_of_the_image_plane(volume: Any) -> None:
    slices = read_all(volume, series_header(volume, 0))
    orientation = np.array(slices[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    heights = [normal @ np.array(d.ImagePositionPatient, dtype=float) for d in slices]
    np.testing.assert_allclose(np.diff(heights), 0.25, rtol=1e-12)
    assert [d.InstanceNumber for d in slices] == list(range(1, 8))


def test_simpleitk_reads_the_volume_in_place(volume: Any, tmp_path: Path, simpleitk: Any) -> None:
    header = series_header(volume, 0)
    write_all(volume, header, tmp_path)
    names = simpleitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "bin-00"), header.series_uid)
    assert len(names) == 7
    image = simpleitk.ReadImage(names)
    grid = volume.grid
    np.testing.assert_allclose(image.GetSpacing(), grid.voxel_mm[::-1], rtol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), [grid.axis_mm(a)[0] for a in "xyz"], rtol=1e-9)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    values = simpleitk.GetArrayFromImage(image)
    assert values.shape == grid.shape
    # GDCM rescales in float64; the result may be kept in float32.
    assert np.abs(values - volume[0]).max() <= 0.5 * header.scale.slope + 1e-8
    point = (float(grid.axis_mm("x")[3]), float(grid.axis_mm("y")[2]), float(grid.axis_mm("z")[1]))
    assert image[image.TransformPhysicalPointToIndex(point)] == pytest.approx(0.09, abs=header.scale.slope)


def test_attenuation_is_not_called_hounsfield_units(volume: Any) -> None:
    dataset = read_all(volume, series_header(volume, 0))[0]
    assert dataset.RescaleType == "US"
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert dataset.SeriesDescription == "20-33 keV, attenuation 1/mm"
    assert dataset.VOILUTFunction == "LINEAR_EXACT"
    mapping = dataset.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/mm"
    assert mapping.RealWorldValueSlope == float(dataset.RescaleSlope)
    assert mapping.RealWorldValueIntercept == float(dataset.RescaleIntercept)
    low = float(dataset.WindowCenter) - 0.5 * float(dataset.WindowWidth)
    expected = np.percentile(volume[0][3], [1, 99.5])
    np.testing.assert_allclose([low, low + float(dataset.WindowWidth)], expected, rtol=1e-4)


def test_hounsfield_units_with_water(volume: Any) -> None:
    slices = read_all(volume, series_header(volume, 0, water_attenuation_per_mm=WATER))
    values = np.stack([d.pixel_array for d in slices])
    hounsfield = 1000 * (volume[0].astype(float) - WATER) / WATER
    assert np.abs(values - hounsfield).max() <= 0.5
    assert slices[0].RescaleType == "HU"
    assert (float(slices[0].RescaleSlope), float(slices[0].RescaleIntercept)) == (1.0, 0.0)
    assert list(slices[0].ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert slices[0].SeriesDescription == "20-33 keV, CT number, HU"
    assert float(slices[0].WindowWidth) >= 1
    assert "VOILUTFunction" not in slices[0]


def test_clipped_voxels_are_counted(volume: Any) -> None:
    volume.arrays[0][2, :3, 0] = 3.0
    header = series_header(volume, 0, water_attenuation_per_mm=WATER)
    assert [f.clipped_voxels for f in series_files(volume, header)] == [0, 0, 3, 0, 0, 0, 0]


def test_the_bins_of_a_scan_share_study_and_frame_of_reference(volume: Any) -> None:
    first, second = series_header(volume, 0), series_header(volume, 1)
    assert first.study_uid == second.study_uid
    assert first.frame_of_reference_uid == second.frame_of_reference_uid
    assert first.series_uid != second.series_uid
    instances = {h.instance_uid(z) for h in (first, second) for z in range(7)}
    assert len(instances) == 14


def test_what_changes_the_pixels_changes_the_series(volume: Any) -> None:
    def uids(**options: Any) -> tuple[str, str, str]:
        header = series_header(volume, 0, **options)
        return header.study_uid, header.frame_of_reference_uid, header.series_uid

    study, frame, series = uids()
    assert uids(identity=SeriesIdentity(patient_name="Doe^Jane")) == (study, frame, series)
    assert uids(window=(0.0, 0.1)) == (study, frame, series)
    hounsfield = uids(water_attenuation_per_mm=WATER)
    assert hounsfield[:2] == (study, frame)
    assert hounsfield[2] != series
    volume.metadata["recipe_hash"] = "0" * 64
    assert uids()[:2] == (study, frame)
    assert uids()[2] != series
    volume.metadata["content_hash"] = "1" * 64
    other_frames = uids()
    assert other_frames[:2] == (study, frame)
    assert other_frames[2] not in (series, hounsfield[2])
    volume.metadata["geometry"]["principal_point_px"] = [15.5, 24.0]
    assert uids()[0] == study
    assert uids()[1] != frame
    assert uids(identity=SeriesIdentity(study_instance_uid="1.2.3"))[0] == "1.2.3"


def test_bytes_are_the_same_in_another_process(volume: Any, tmp_path: Path) -> None:
    header = series_header(volume, 0)
    here = write_slice(header, 4, volume[0][4])
    assert here == write_slice(series_header(volume, 0), 4, volume[0][4])
    pickled = tmp_path / "task.pickle"
    pickled.write_bytes(pickle.dumps((header, 4, volume[0][4])))
    program = (
        "import pickle, sys; from marspipe.dicom.ct import write_slice\n"
        "sys.stdout.buffer.write(write_slice(*pickle.load(open(sys.argv[1], 'rb'))))"
    )
    run = subprocess.run([sys.executable, "-c", program, str(pickled)], capture_output=True, check=True)
    assert run.stdout == here


def test_the_file_is_explicit_little_endian_with_its_meta_information(volume: Any) -> None:
    header = series_header(volume, 1)
    content = write_slice(header, 0, volume[1][0])
    assert content[:132] == bytes(128) + b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(content))
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID == header.instance_uid(0)
    assert dataset == slice_dataset(header, 0, volume[1][0])


def test_scanner_and_scan_are_described(volume: Any) -> None:
    dataset = read_all(volume, series_header(volume, 1))[0]
    assert (dataset.KVP, dataset.ConvolutionKernel, dataset.FilterType) == (120, "hann 0.8", "Al 3.8mm")
    assert (dataset.DistanceSourceToDetector, dataset.DistanceSourceToPatient) == (250, 200)
    assert (dataset.StudyDate, dataset.StudyTime, dataset.TimezoneOffsetFromUTC) == (
        "20240506",
        "070807.125000",
        "+0000",
    )
    assert dataset.SoftwareVersions == "marspipe 0.1.0"
    assert dataset.ReconstructionDiameter == pytest.approx(1.1)
    assert "12 uA" in dataset.ImageComments
    assert "3f2a" in dataset.ImageComments
    assert (dataset.PatientID, str(dataset.PatientName), dataset.PatientPosition) == ("stone-7", "Anonymous^", "HFS")


def test_a_given_identity_is_written(volume: Any) -> None:
    identity = SeriesIdentity(
        patient_name="Müller^Änne",
        patient_id="007",
        patient_birth_date="1980-01-02",
        patient_sex="F",
        study_date="2020-02-03",
        study_id="S1",
        accession_number="A9",
        body_part_examined="KNEE",
        laterality="L",
    )
    dataset = read_all(volume, series_header(volume, 0, identity=identity))[0]
    assert str(dataset.PatientName) == "Müller^Änne"
    assert (dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex) == ("007", "19800102", "F")
    assert (dataset.StudyDate, dataset.StudyTime, dataset.AcquisitionDate) == ("20200203", "", "20240506")
    assert (dataset.StudyID, dataset.AccessionNumber) == ("S1", "A9")
    assert (dataset.BodyPartExamined, dataset.Laterality) == ("KNEE", "L")


def test_a_description_becomes_one_line(volume: Any) -> None:
    volume.metadata["description"] = "a stone\n  from C:\\data " + 60 * "x"
    assert read_all(volume, series_header(volume, 0))[0].StudyDescription == "a stone from C:/data " + 43 * "x"


def test_file_names_sort_by_slice(volume: Any, make_volume: Any) -> None:
    assert series_header(volume, 1).slice_path(5) == "bin-01/slice-0005.dcm"
    tall = make_volume(
        [np.zeros((10001, 1, 1), np.float32)],
        [EnergyBin(20.0)],
        VolumeGrid((10001, 1, 1), (0.1, 0.1, 0.1)),
        volume.metadata,
    )
    header = series_header(tall, 0)
    assert header.slice_path(999) == "bin-00/slice-00999.dcm"
    assert header.slice_path(999) < header.slice_path(10000)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5)])
def test_constant_and_one_voxel_volumes_are_written(volume: Any, make_volume: Any, shape: tuple[int, int, int]) -> None:
    plain = make_volume(
        [np.zeros(shape, np.float32)], [EnergyBin(0.0)], VolumeGrid(shape, (0.1, 0.1, 0.1)), volume.metadata
    )
    dataset = read_all(plain, series_header(plain, 0))[0]
    assert not dataset.pixel_array.any()
    assert (float(dataset.RescaleSlope), float(dataset.RescaleIntercept)) == (1.0, 0.0)
    assert float(dataset.WindowWidth) > 0


def test_wrong_slices_are_refused(volume: Any) -> None:
    header = series_header(volume, 0)
    with pytest.raises(InputError, match="slices 0 to 6, got slice 7"):
        slice_dataset(header, 7, volume[0][0])
    with pytest.raises(InputError, match=r"slice 2 of bin 0 has shape \(10, 11\), expected \(10, 12\)"):
        slice_dataset(header, 2, volume[0][2][:, :-1])
    broken = volume[0][2].copy()
    broken[0, 0] = np.nan
    with pytest.raises(InputError, match="slice 2 of bin 0: 1 of 120 pixels"):
        slice_dataset(header, 2, broken)
    broken[0, 0] = 5.0
    with pytest.raises(RunError, match="outside the volume's statistics"):
        slice_dataset(header, 2, broken)


def test_wrong_volumes_are_refused(volume: Any, make_volume: Any) -> None:
    with pytest.raises(InputError, match="bins 0 to 1, asked for bin 2"):
        series_header(volume, 2)
    with pytest.raises(InputError, match="display window"):
        series_header(volume, 0, window=(0.2, 0.1))
    for key in ("scan_id", "recipe_hash"):
        metadata = {k: v for k, v in volume.metadata.items() if k != key}
        with pytest.raises(InputError, match=f"needs a text '{key}'"):
            series_header(make_volume(volume.arrays, volume.bins, volume.grid, metadata), 0)
    long = make_volume(volume.arrays, volume.bins, volume.grid, {**volume.metadata, "scan_id": "s" * 65})
    with pytest.raises(InputError, match="give patient_id"):
        series_header(long, 0)
    assert series_header(long, 0, SeriesIdentity(patient_id="1")).elements["StudyID"] == "s" * 16
    wide = make_volume(
        [np.zeros((1, 1, 65536), np.float32)],
        [EnergyBin(20.0)],
        VolumeGrid((1, 1, 65536), (0.1, 0.1, 0.1)),
        volume.metadata,
    )
    with pytest.raises(InputError, match="too large for a CT image"):
        series_header(wide, 0)
