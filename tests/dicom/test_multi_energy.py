from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from marspipe.dicom.codes import MATERIALS, body_region_code, material_code
from marspipe.dicom.exposure import unrecorded
from marspipe.dicom.series import series_header
from marspipe.dicom.spectral_map import SpectralMap, spectral_map
from marspipe.errors import InputError
from marspipe.scan.spectra import linear_attenuation
from tests.dicom.written import read_all


def first_slice(volume: Any, bin: int, **options: Any) -> pydicom.FileDataset:
    return read_all(volume, series_header(volume, bin, **options))[0]


def test_a_monoenergetic_image_is_in_hounsfield_units_of_its_energy(maps: Any) -> None:
    dataset = first_slice(maps, 0)
    water = float(linear_attenuation("water", 70.0))
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert np.abs(values - 1000 * (maps[0][0] - water) / water).max() <= 0.5
    assert dataset.RescaleType == "HU"
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "AXIAL", "VMI"]
    assert dataset.MultienergyCTCharacteristicsSequence[0].MonoenergeticEnergyEquivalent == 70.0
    assert dataset.SeriesDescription == "70 keV monoenergetic, CT number, HU"
    mapping = dataset.RealWorldValueMappingSequence[0]
    assert (mapping.LUTLabel, mapping.MeasurementUnitsCodeSequence[0].CodeValue) == ("VMI", "[hnsf'U]")
    own = first_slice(maps, 0, water_attenuation_per_mm=0.02)
    assert own.pixel_array[0, 0] == pytest.approx(1000 * (float(maps[0][0, 0, 0]) - 0.02) / 0.02, abs=0.5)


def test_a_material_map_is_in_milligrams_per_milliliter(maps: Any) -> None:
    dataset = first_slice(maps, 1)
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert np.abs(values - maps[1][0]).max() <= 0.5 * float(dataset.RescaleSlope) * (1 + 1e-9)
    assert dataset.RescaleType == "MGML"
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]
    assert "MultienergyCTCharacteristicsSequence" not in dataset
    assert dataset.SeriesDescription == "iodine, concentration mg/mL"
    mapping = dataset.RealWorldValueMappingSequence[0]
    assert mapping.LUTLabel == "MAT_SPECIFIC"
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "mg/ml"
    substance, method = mapping.QuantityDefinitionSequence
    assert substance.ConceptNameCodeSequence[0].CodeValue == "105590001"
    assert substance.ConceptCodeSequence[0].CodeValue == "44588005"
    assert method.ConceptCodeSequence[0].CodeValue == "129323"


def test_source_detector_and_paths_are_those_of_the_scan(maps: Any) -> None:
    maps.metadata["exposure_s"] = 30.0
    maps.metadata["source_bins"][0]["effective_kev"] = 27.5
    dataset = first_slice(maps, 1)
    assert dataset.MultienergyCTAcquisition == "YES"
    assert dataset["KVP"].value is None
    made = dataset.MultienergyCTAcquisitionSequence[0]
    source = made.MultienergyCTXRaySourceSequence[0]
    assert source.MultienergySourceTechnique == "CONSTANT_SOURCE"
    assert source.SourceStartDateTime == "20240506070807.125000"
    low, high = made.MultienergyCTXRayDetectorSequence
    assert (low.XRayDetectorIndex, high.XRayDetectorIndex) == (1, 2)
    assert low.MultienergyDetectorType == "PHOTON_COUNTING"
    assert (float(low.NominalMinEnergy), float(low.NominalMaxEnergy)) == (20.0, 33.0)
    assert (float(high.NominalMinEnergy), float(high.NominalMaxEnergy)) == (33.0, 120.0)  # the tube's voltage
    assert float(low.EffectiveBinEnergy) == 27.5
    assert "EffectiveBinEnergy" not in high
    paths = made.MultienergyCTPathSequence
    assert [(p.ReferencedXRaySourceIndex, p.ReferencedXRayDetectorIndex) for p in paths] == [(1, 1), (1, 2)]
    assert float(made.CTXRayDetailsSequence[0].KVP) == 120
    assert made.CTExposureSequence[0].ExposureTimeInms == 30000
    geometry = made.CTGeometrySequence[1]
    assert (geometry.ReferencedPathIndex, geometry.DistanceSourceToDetector) == (2, 250.0)
    details = made.CTAcquisitionDetailsSequence[0]
    assert details.SingleCollimationWidth == pytest.approx(0.088)
    fan_rad = np.arctan(24 * 0.11 / 250)
    assert float(details.DataCollectionDiameter) == pytest.approx(400 * np.sin(fan_rad), rel=1e-9)
    processing = dataset.MultienergyCTProcessingSequence[0]
    assert processing.DecompositionMethod == "IMAGE_BASED"
    assert processing.DecompositionDescription == "Least squares. Materials: iodine, ytterbium"


def test_a_map_refers_to_the_slices_it_was_made_from(volume: Any, maps: Any) -> None:
    sources = [series_header(volume, bin) for bin in range(2)]
    header = series_header(maps, 1, sources=sources)
    for z, dataset in enumerate(read_all(maps, header)):
        referenced = [item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence]
        assert referenced == [source.instance_uid(z) for source in sources]
        assert dataset.FrameOfReferenceUID == sources[0].frame_of_reference_uid
        assert dataset.StudyInstanceUID == sources[0].study_uid
    with pytest.raises(InputError, match="with the same slices"):
        series_header(maps, 1, sources=[series_header(volume, 0, kind="parametric-map")])


def test_maps_are_series_of_their_own(volume: Any, maps: Any) -> None:
    headers = [series_header(volume, bin) for bin in range(2)] + [series_header(maps, bin) for bin in range(3)]
    assert len({header.series_uid for header in headers}) == 5
    assert len({header.elements["SeriesNumber"] for header in headers}) == 5
    assert [header.slice_path(0) for header in headers[1:3]] == ["bin-01/slice-0000.dcm", "map-00/slice-0000.dcm"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source_bins": [{"low_kev": 20.0, "high_kev": 33.0}]}, "at least two, .* got 1"),
        ({"source_bins": None}, "at least two, .* got 0"),
        ({"tube": None}, r"source_bins\[1\] is open above and the tube's voltage is unknown"),
        ({"acquired_at": None}, "the time of the scan"),
        ({"decomposition": {"method": "magic"}}, "decomposition.method must be one of projection_based"),
    ],
)
def test_what_the_standard_requires_must_be_known(maps: Any, change: dict[str, Any], said: str) -> None:
    maps.metadata |= change
    with pytest.raises(InputError, match=said):
        series_header(maps, 1)


def test_water_does_not_apply_to_a_concentration(maps: Any) -> None:
    with pytest.raises(InputError, match="attenuation of water does not apply"):
        series_header(maps, 1, water_attenuation_per_mm=0.02)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"kind": "electron density"}, "kind must be"),
        ({"kind": "monoenergetic"}, "energy_kev must be positive, got None"),
        ({"kind": "monoenergetic", "energy_kev": -1}, "energy_kev must be positive, got -1"),
        ({"kind": "material"}, "material must be a name"),
        ({"kind": "material", "material": "iodine", "unit": "g/L"}, "must be 'mg/mL', got 'g/L'"),
    ],
)
def test_unknown_maps_are_refused(described: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        spectral_map({"bins": [{"map": described}]}, 0)


def test_an_energy_bin_is_no_map() -> None:
    assert spectral_map({"bins": [{"low_kev": 20.0}]}, 0) is None
    assert spectral_map({}, 3) is None
    assert spectral_map({"bins": [{"map": {"kind": "material", "material": " gold "}}]}, 0) == SpectralMap(
        "material", material="gold"
    )


def test_materials_have_the_codes_of_the_standard() -> None:
    # PS3.16 CID 300, https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_300.html
    assert [material_code(name).value for name in ("iodine", "Gadolinium", "gold", "water", "calcium", "tantalum")] == [
        *("44588005", "58281002", "2309006", "11713004", "5540006", "45215009"),
    ]
    assert material_code("hydroxyapatite") == codes.cid300.CalciumHydroxyapatite
    assert all(code.scheme_designator == "SCT" for code in MATERIALS.values())
    unknown = material_code("barium-titanate no. 4711")
    assert (unknown.scheme_designator, unknown.value) == ("99MARSPIPE", "BARIUMTITANATENO")


def test_private_codes_are_announced(maps: Any) -> None:
    dataset = first_slice(maps, 2)
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MARSPIPE"
    substance = dataset.RealWorldValueMappingSequence[0].QuantityDefinitionSequence[0]
    assert substance.ConceptCodeSequence[0].CodeMeaning == "ytterbium"


def test_body_parts_have_codes() -> None:
    assert body_region_code("KNEE").value == "72696002"
    assert body_region_code(None).value == body_region_code("NOTHING").value == "91723000"


def test_what_nobody_recorded_is_said(maps: Any) -> None:
    assert unrecorded(maps.metadata) == "Not recorded (0 or absent): focal spot, exposure time."
    known = {**maps.metadata, "exposure_s": 1.0, "tube": {**maps.metadata["tube"], "focal_spot_mm": 0.05}}
    assert unrecorded(known) == ""
    assert "voltage, tube current, focal spot, exposure time, distances" in unrecorded({})
