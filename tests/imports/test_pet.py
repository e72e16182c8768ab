"""Import of PET: SUV in closed form, and what SUV cannot be computed without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from imports.phantoms import SIZE, case, edit, grid, images_row, refused, run, settings, write, write_dicom

INJECTION = {
    "RadionuclideTotalDose": "4E8",
    "RadionuclideHalfLife": "6000",
    "RadiopharmaceuticalStartTime": "100000.00",
}
PET = {  # scanned one half-life after the injection
    "Units": "BQML",
    "DecayCorrection": "START",
    "CorrectedImage": ["DECY", "ATTN", "SCAT"],
    "PatientWeight": "80",
    "SeriesDate": "20210317",
    "SeriesTime": "114000",
    "AcquisitionDate": "20210317",
    "AcquisitionTime": "114000.00",
}


def write_pet(folder: Path, **attributes: Any) -> list[Path]:
    """Attributes of the injection go where they belong; None empties one."""
    item = pydicom.Dataset()
    for name, value in INJECTION.items():
        setattr(item, name, attributes.pop(name, value))
    if "RadiopharmaceuticalStartDateTime" in attributes:
        item.RadiopharmaceuticalStartDateTime = attributes.pop("RadiopharmaceuticalStartDateTime")
    items = [item] * attributes.pop("injections", 1)
    whole = PET | {"RadiopharmaceuticalInformationSequence": items} | attributes
    return write_dicom(activity(), folder, modality="PT", slopes=np.ones(SIZE[2]), **whole)


def activity() -> sitk.Image:
    """Bq/ml."""
    return grid(np.random.default_rng(3).integers(0, 30000, SIZE[::-1]).astype(np.float32))


@pytest.mark.parametrize(
    ("attributes", "factor"),
    [
        ({}, 80e3 / 2e8),
        ({"DecayCorrection": "ADMIN"}, 80e3 / 4e8),
        ({"RadionuclideHalfLife": "3000"}, 80e3 / 1e8),
        ({"CorrectedImage": None}, 80e3 / 2e8),
        ({"RadiopharmaceuticalStartTime": "1000"}, 80e3 / 2e8),
        ({"RadiopharmaceuticalStartTime": "230000", "SeriesTime": "0040", "AcquisitionTime": "004000"}, 80e3 / 2e8),
        ({"RadiopharmaceuticalStartDateTime": "20210317082000", "RadiopharmaceuticalStartTime": None}, 80e3 / 1e8),
        ({"RadiopharmaceuticalStartDateTime": "20210316194000", "RadionuclideHalfLife": "57600"}, 80e3 / 2e8),
        (
            {"RadiopharmaceuticalStartDateTime": "20210317020000.00+0000", "TimezoneOffsetFromUTC": "+0800"},
            80e3 / 2e8,
        ),
        ({"SeriesTime": "150000"}, 80e3 / 2e8),  # processed later: the acquisition counts
        ({"SeriesTime": "100000", "SeriesDate": "20210318"}, 80e3 / 2e8),
        ({"SeriesTime": "114000", "AcquisitionTime": "120000"}, 80e3 / 2e8),  # the first bed is in another series
        ({"SeriesDate": None, "AcquisitionDate": None, "SeriesTime": None}, 80e3 / 2e8),
        ({"Units": "GML", "DecayCorrection": None, "injections": 0}, 1),
    ],
)
def test_a_dicom_pet_becomes_suv_in_closed_form(tmp_path, mask, attributes, factor):
    write_pet(tmp_path / "s", **attributes)
    row = images_row(tmp_path / "s", mask)
    result = run(tmp_path, case("P1", row), chosen=settings(portal={"modality": "PT"}))
    assert result.ledger.loc["P1", "detail"] == ""
    expected = sitk.GetArrayFromImage(activity()) * factor
    np.testing.assert_allclose(sitk.GetArrayFromImage(result.image()), expected, rtol=1e-6)


def test_the_earliest_bed_starts_a_pet_that_was_processed_later(tmp_path, mask):
    paths = write_pet(tmp_path / "s", SeriesTime="150000", AcquisitionTime="120000")
    edit(paths[7], AcquisitionTime="114000")
    chosen = settings(portal={"modality": "PT"})
    found = run(tmp_path, case("P1", images_row(tmp_path / "s", mask)), chosen=chosen).image()
    expected = sitk.GetArrayFromImage(activity()) * 80e3 / 2e8
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "found", "expected"),
    [
        ({"Units": "CNTS"}, "Units is 'CNTS'", "GML or BQML"),
        ({"Units": None}, "Units is missing", "GML or BQML"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is 'NONE'", "START or ADMIN"),
        ({"DecayCorrection": None}, "DecayCorrection is missing", "START or ADMIN"),
        ({"CorrectedImage": ["DECY", "SCAT"]}, "CorrectedImage lacks ATTN", "corrected"),
        ({"PatientWeight": None}, "PatientWeight is missing", "above 0 kg"),
        ({"PatientWeight": "0"}, "PatientWeight is no number above 0", "kg"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose is missing", "above 0 Bq"),
        ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife is missing", "above 0 s"),
        ({"RadiopharmaceuticalStartTime": None}, "RadiopharmaceuticalStartTime are missing", "injection"),
        ({"AcquisitionTime": None}, "AcquisitionTime is missing", "time in every slice"),
        ({"injections": 0}, "RadiopharmaceuticalInformationSequence is missing", "one injection"),
        ({"injections": 2}, "RadiopharmaceuticalInformationSequence has 2 items", "one injection"),
        ({"RadiopharmaceuticalStartTime": "114500"}, "23.92 h after the injection", "10 half-lives"),
        ({"RadiopharmaceuticalStartDateTime": "20210318100000"}, "-22.33 h after the injection", "10 half-lives"),
    ],
)
def test_a_dicom_pet_without_what_suv_needs_is_refused(tmp_path, mask, attributes, found, expected):
    write_pet(tmp_path / "s", **attributes)
    line = refused(tmp_path, tmp_path / "s", mask, settings(portal={"modality": "PT"}))
    assert line.reason == "PET not in SUV"
    said, wanted = line.detail.split("; expected ")
    assert found in said and expected in wanted


@pytest.mark.parametrize(("name", "value"), [("Units", "GML"), ("PatientWeight", "70")])
def test_a_dicom_pet_whose_slices_disagree_is_refused(tmp_path, mask, name, value):
    edit(write_pet(tmp_path / "s")[4], **{name: value})
    line = refused(tmp_path, tmp_path / "s", mask, settings(portal={"modality": "PT"}))
    assert (line.reason, f"{name} differs between slices" in line.detail) == ("PET not in SUV", True)


def test_a_pet_in_an_image_file_is_suv_already(tmp_path, mask):
    path = write(activity(), tmp_path / "pet.nii.gz")
    result = run(tmp_path, case("P1", images_row(path, mask)), chosen=settings(portal={"modality": "PT"}))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image()), sitk.GetArrayFromImage(activity()))
