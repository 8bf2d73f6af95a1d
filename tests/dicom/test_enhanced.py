from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest

from marspipe.dicom.ct import series_files
from marspipe.dicom.enhanced import enhanced_files, enhanced_instances
from marspipe.dicom.identity import SeriesIdentity
from marspipe.dicom.multi_frame import MAX_INSTANCE_BYTES
from marspipe.dicom.series import series_header
from marspipe.errors import InputError
from marspipe.scan.energy import EnergyBin
from marspipe.scan.grid import VolumeGrid
from tests.dicom.written import read_all, write_all

# Of the volume of 7 slices of 240 bytes: three instances.
THREE_PARTS_BYTES = 65536 + 3 * (240 + 512)
WATER_PER_MM = 0.0206


def enhanced(volume: Any, bin: int = 0, water_attenuation_per_mm: float = WATER_PER_MM, **options: Any) -> Any:
    return series_header(volume, bin, kind="enhanced-ct", water_attenuation_per_mm=water_attenuation_per_mm, **options)


def test_every_frame_lies_in_place_with_its_values(volume: Any) -> None:
    header = enhanced(volume, 1)
    (dataset,) = read_all(volume, header)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2.1"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.11, 0.088]
    assert (float(measures.SliceThickness), float(measures.SpacingBetweenSlices)) == (0.25, 0.25)
    transformation = shared.PixelValueTransformationSequence[0]
    values = dataset.pixel_array * float(transformation.RescaleSlope) + float(transformation.RescaleIntercept)
    assert np.abs(values - header.scale.output(volume[1])).max() <= 0.5 * header.scale.slope * (1 + 1e-9)
    assert transformation.RescaleType == "HU"
    assert len(dataset.PerFrameFunctionalGroupsSequence) == 7
    for z, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        position = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        np.testing.assert_allclose(position, [volume.grid.axis_mm(a)[i] for a, i in zip("xyz", (0, 0, z), strict=True)])
        assert frame.FrameContentSequence[0].DimensionIndexValues == [1, z + 1]


def test_highdicom_builds_the_same_volume(volume: Any, tmp_path: Path) -> None:
    (path,) = write_all(volume, enhanced(volume), tmp_path)
    built = highdicom.imread(path).get_volume()
    # highdicom orders frames so that the axes are right-handed, whatever the order in the file.
    center = built.map_indices_to_reference(np.array([[0, 0, 0], np.array(built.spatial_shape) - 1])).mean(axis=0)
    np.testing.assert_allclose(center, [volume.grid.axis_mm(a).mean() for a in "xyz"], atol=1e-9)
    reference = built.map_reference_to_indices(
        np.array([[volume.grid.axis_mm(a)[i] for a, i in zip("xyz", (3, 2, 1), strict=True)]])
    )
    k, j, i = np.rint(reference[0]).astype(int)
    assert built.array[k, j, i] == pytest.approx(1000 * (0.09 - WATER_PER_MM) / WATER_PER_MM, abs=0.51)


def test_simpleitk_reads_the_frames_in_place(volume: Any, tmp_path: Path, simpleitk: Any) -> None:
    header = enhanced(volume)
    (path,) = write_all(volume, header, tmp_path)
    image = simpleitk.ReadImage(str(path))
    np.testing.assert_allclose(image.GetSpacing(), volume.grid.voxel_mm[::-1], rtol=1e-9)
    np.testing.assert_allclose(image.GetOrigin(), [volume.grid.axis_mm(a)[0] for a in "xyz"], rtol=1e-9)
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    expected = header.scale.output(volume[0])
    assert np.abs(simpleitk.GetArrayFromImage(image) - expected).max() <= 0.5 * header.scale.slope + 1e-8


def test_a_large_series_becomes_a_concatenation(volume: Any) -> None:
    header = enhanced(volume)
    parts = enhanced_instances(header, THREE_PARTS_BYTES)
    assert [part.frames for part in parts] == [range(0, 2), range(2, 4), range(4, 7)]
    files = list(enhanced_files(volume, header, max_instance_bytes=THREE_PARTS_BYTES))
    assert [file.path for file in files] == [f"enhanced-bin-00/frames-000{n}.dcm" for n in range(3)]
    assert max(len(file.content()) for file in files) <= THREE_PARTS_BYTES
    datasets = read_all(volume, header, max_instance_bytes=THREE_PARTS_BYTES)
    assert [d.InConcatenationNumber for d in datasets] == [1, 2, 3]
    assert [d.ConcatenationFrameOffsetNumber for d in datasets] == [0, 2, 4]
    assert [d.NumberOfFrames for d in datasets] == [2, 2, 3]
    for shared in (
        *("ConcatenationUID", "InConcatenationTotalNumber", "SOPInstanceUIDOfConcatenationSource", "InstanceNumber"),
        *("SeriesInstanceUID", "FrameOfReferenceUID"),
    ):
        assert len({d[shared].value for d in datasets}) == 1
    assert len({d.SOPInstanceUID for d in datasets}) == 3
    assert datasets[0].SOPInstanceUIDOfConcatenationSource not in {d.SOPInstanceUID for d in datasets}
    positions = [
        frame.FrameContentSequence[0].InStackPositionNumber
        for d in datasets
        for frame in d.PerFrameFunctionalGroupsSequence
    ]
    assert positions == list(range(1, 8))
    np.testing.assert_array_equal(
        np.concatenate([d.pixel_array for d in datasets]), read_all(volume, header)[0].pixel_array
    )


def test_a_task_writes_any_instance_alone_with_the_same_bytes(volume: Any) -> None:
    header = enhanced(volume)
    whole = [file.content() for file in enhanced_files(volume, header, max_instance_bytes=THREE_PARTS_BYTES)]
    again = pickle.loads(pickle.dumps(header))
    (alone,) = enhanced_files(volume, again, [1], max_instance_bytes=THREE_PARTS_BYTES)
    assert alone.content() == whole[1] == alone.content()
    assert alone.frames == range(2, 4)


def test_an_instance_is_never_in_memory_as_a_whole(make_volume: Any, volume: Any) -> None:
    grid = VolumeGrid((60, 256, 256), (0.1, 0.1, 0.1))
    source = make_volume([np.broadcast_to(np.float32(0.02), grid.shape)], [EnergyBin(20.0)], grid, volume.metadata)
    (file,) = enhanced_files(source, enhanced(source, window=(0.0, 1.0)))
    tracemalloc.start()
    size = sum(len(chunk) for chunk in file.chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 60 * 2 * 256 * 256
    assert peak < 0.4 * size


def test_the_default_size_of_an_instance_is_below_a_gibibyte(make_volume: Any, volume: Any) -> None:
    grid = VolumeGrid((3000, 1024, 1024), (0.1, 0.1, 0.1))
    plane = np.broadcast_to(np.float32(0.02), grid.shape)
    source = make_volume([plane[:1]], [EnergyBin(20.0)], grid, volume.metadata)
    source.arrays = [plane]
    source_header = enhanced(_Constant(source), window=(0.0, 1.0))
    parts = enhanced_instances(source_header)
    assert MAX_INSTANCE_BYTES < 2**30
    assert len(parts) == 6
    assert max(len(part.frames) for part in parts) * 2 * 1024**2 < MAX_INSTANCE_BYTES


class _Constant:
    """A volume whose statistics need no look at its pixels."""

    def __init__(self, source: Any) -> None:
        self.bins, self.grid, self.metadata = source.bins, source.grid, source.metadata
        self.statistics = [{"min": 0.02, "max": 0.02, "mean": 0.02}]
        self._arrays = source.arrays

    def __getitem__(self, bin: int) -> Any:
        return self._arrays[bin]


def test_clipped_voxels_are_counted(volume: Any) -> None:
    volume.arrays[0][0, :2, 0] = 40 * WATER_PER_MM  # beyond the 32767 HU that 16 bits hold
    (file,) = enhanced_files(volume, enhanced(volume))
    assert file.clipped_voxels == 0
    list(file.chunks())
    assert file.clipped_voxels == 2
    list(file.chunks())
    assert file.clipped_voxels == 2


def test_what_is_known_of_the_scan_is_written(volume: Any) -> None:
    volume.metadata["exposure_s"] = 36.0
    identity = SeriesIdentity(body_part_examined="KNEE", laterality="L")
    (dataset,) = read_all(volume, enhanced(volume, identity=identity))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert float(shared.CTXRayDetailsSequence[0].KVP) == 120
    assert shared.CTXRayDetailsSequence[0].FilterMaterial == "ALUMINUM"
    exposure = shared.CTExposureSequence[0]
    assert (exposure.ExposureTimeInms, exposure.XRayTubeCurrentInmA) == (36000.0, 0.012)
    assert exposure.ExposureInmAs == pytest.approx(0.432)
    assert shared.CTGeometrySequence[0].DistanceSourceToDetector == 250.0
    details = shared.CTAcquisitionDetailsSequence[0]
    assert details.TotalCollimationWidth == pytest.approx(32 * 0.11 / 1.25)
    assert shared.FrameAnatomySequence[0].AnatomicRegionSequence[0].CodeValue == "72696002"
    assert shared.FrameAnatomySequence[0].FrameLaterality == "L"
    assert dataset.AcquisitionDateTime == "20240506070807.125000"
    assert "Kernel hann 0.8." in dataset.ImageComments
    assert "Not recorded (0 or absent): focal spot." in dataset.ImageComments


def test_a_scan_without_a_date_needs_one(volume: Any) -> None:
    del volume.metadata["acquired_at"]
    (file,) = enhanced_files(volume, enhanced(volume))
    with pytest.raises(InputError, match="give study_date and study_time"):
        file.content()
    dated = enhanced(volume, identity=SeriesIdentity(study_date="20200102", study_time="0304"))
    (dataset,) = read_all(volume, dated)
    assert (dataset.ContentDate, dataset.ContentTime) == ("20200102", "0304")


def test_wrong_series_and_slices_are_refused(volume: Any) -> None:
    plain = series_header(volume, 0)
    with pytest.raises(InputError, match="kind 'ct-image', not 'enhanced-ct'"):
        next(enhanced_files(volume, plain))
    with pytest.raises(InputError, match="kind 'enhanced-ct', not 'ct-image'"):
        next(series_files(volume, enhanced(volume)))
    with pytest.raises(InputError, match="cannot hold a slice of 10 x 12 pixels; at least"):
        enhanced_instances(enhanced(volume), 10_000)
    with pytest.raises(InputError, match="kind must be one of"):
        series_header(volume, 0, kind="legacy")  # type: ignore[arg-type]
    header = enhanced(volume)
    volume.arrays[0][3, 2, 1] = np.nan
    (file,) = enhanced_files(volume, header)
    with pytest.raises(InputError, match="slice 3 of bin 0: 1 of 120 pixels are NaN or infinite"):
        file.content()


def test_only_hounsfield_units_are_written(volume: Any, maps: Any) -> None:
    """Frames of other units are an error to dciodvfy, and Hounsfield units to many a viewer."""
    refusal = "frames of an Enhanced CT image are in Hounsfield units: give the attenuation of water"
    with pytest.raises(InputError, match=refusal):
        series_header(volume, 0, kind="enhanced-ct")
    for water in (None, WATER_PER_MM):
        with pytest.raises(InputError, match=refusal):
            series_header(maps, 1, kind="enhanced-ct", water_attenuation_per_mm=water)
    assert series_header(maps, 0, kind="enhanced-ct").scale.units == "HU"  # monoenergetic: water is tabulated


def test_a_series_of_frames_is_another_than_that_of_slices(volume: Any) -> None:
    slices, frames = series_header(volume, 0), enhanced(volume)
    assert slices.study_uid == frames.study_uid
    assert slices.frame_of_reference_uid == frames.frame_of_reference_uid
    assert slices.series_uid != frames.series_uid
    assert slices.elements["SeriesNumber"] != frames.elements["SeriesNumber"]
