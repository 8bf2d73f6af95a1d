"""What multi-energy objects of any vendor say of their energies and materials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from marspipe.dicom.foreign.series import check_series
from tests.dicom.foreign.slices import ct

STORED = np.zeros((4, 5), dtype=np.int16)


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def code(meaning: str) -> Dataset:
    return item(CodeValue="1", CodingSchemeDesignator="99TEST", CodeMeaning=meaning)


DETECTORS = item(
    MultienergyCTXRayDetectorSequence=[
        item(NominalMinEnergy="20", NominalMaxEnergy="50"),
        item(NominalMinEnergy="50", NominalMaxEnergy="120"),
    ]
)


@pytest.mark.parametrize("energy_kev", [40.0, 70.5])
def test_virtual_monoenergetic_image(energy_kev: float) -> None:
    image = ct(
        STORED,
        ImageType=["DERIVED", "PRIMARY", "AXIAL", "VMI"],
        MultienergyCTAcquisition="YES",
        MultienergyCTAcquisitionSequence=[DETECTORS],
        MultienergyCTCharacteristicsSequence=[item(MonoenergeticEnergyEquivalent=energy_kev)],
    )
    assert (image.multi_energy_kind, image.monoenergetic_kev) == ("virtual monoenergetic image", energy_kev)
    assert image.detector_bins_kev == ((20.0, 50.0), (50.0, 120.0))
    assert image.frames[0].volume == (f"keV {energy_kev:g}",)


def test_two_energies_in_one_series_are_two_volumes() -> None:
    images = [
        ct(
            STORED,
            MultienergyCTCharacteristicsSequence=[item(MonoenergeticEnergyEquivalent=kev)],
            origin=f"{kev:g}.dcm",
        )
        for kev in (40.0, 70.0)
    ]
    assert "keV 40, keV 70: several volumes in one series" in check_series(images)[0]


def test_material_image_and_its_unit() -> None:
    iodine = code("Iodine")
    image = ct(
        STORED,
        ImageType=["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"],
        RescaleType="MGML",
        MultienergyCTProcessingSequence=[item(DecompositionMaterialSequence=[item(MaterialCodeSequence=[iodine])])],
    )
    assert (image.multi_energy_kind, image.materials, image.units) == ("material image", ("Iodine",), "mg/mL")


def test_only_the_substance_of_a_real_world_mapping_is_a_material() -> None:
    def coded(name: str, meaning: str, value: str) -> Dataset:
        concept = item(CodeValue=name, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
        return item(ConceptNameCodeSequence=[concept], ConceptCodeSequence=[code(value)])

    substance = coded("105590001", "Substance", "Iodine")
    quantity = coded("246205007", "Quantity", "Attenuation Coefficient")
    for items, found in (([quantity, substance], ("Iodine",)), ([quantity], ())):
        image = ct(STORED, RealWorldValueMappingSequence=[item(QuantityDefinitionSequence=items)])
        assert image.materials == found


def test_plain_image() -> None:
    image = ct(STORED)
    assert (image.multi_energy_kind, image.monoenergetic_kev, image.materials) == ("", None, ())
    assert image.detector_bins_kev == ()
