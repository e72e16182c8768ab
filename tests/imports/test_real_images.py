"""Import of real images, held against GDCM and masks of dcmqi and MIRP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from hccstudy.imports.dicom import read_series
from hccstudy.imports.geometry import canonical
from hccstudy.imports.images import read_image_file
from hccstudy.imports.masks import open_labels
from imports.phantoms import case, everything, header_of, images_row, refused, run, settings, write

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the real images are not in the repository")

SIEMENS = DATA / "abdomen_ct" / "example_ct_dicom"


@pytest.fixture(scope="module")
def siemens() -> sitk.Image:
    return read_series(SIEMENS, "", "").image


@needs_data
def test_the_siemens_ct_is_read_as_gdcm_reads_it(siemens):
    paths = sorted(SIEMENS.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    truth = sitk.ReadImage([str(path) for path in paths])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(siemens), sitk.GetArrayFromImage(truth))
    np.testing.assert_allclose(siemens.GetOrigin(), truth.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(siemens.GetSpacing(), truth.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(siemens.GetDirection(), truth.GetDirection(), atol=1e-6)


@needs_data
def test_the_siemens_ct_goes_through_the_stage_without_its_address(tmp_path, siemens):
    array = np.zeros((20, 512, 512), np.uint8)
    array[8:12, 200:230, 240:280] = 1
    mask = sitk.GetImageFromArray(array)
    mask.CopyInformation(canonical(siemens))
    row = images_row(SIEMENS, write(mask, tmp_path / "m.nii.gz"))
    result = run(tmp_path, case("P1", row, index_date="2022-12-01"))
    found = result.acquisition.loc[0]
    assert (found.Manufacturer, found.ManufacturerModelName) == ("SIEMENS", "Biograph40_mCT 4R")
    assert (found.ConvolutionKernel, found.KVP, found.SliceThickness, found.spacing_z) == (
        "Br38f\\3",
        "120",
        "3",
        "2",
    )
    assert (found.delay_s, found.days_from_index) == ("95.8", "7")
    assert (sitk.GetArrayFromImage(result.image("mask")) == array).all()
    assert b"Petersgraben" not in everything(result.folder)


@needs_data
@pytest.mark.parametrize(
    ("seg", "nrrd", "numbers"),
    [
        ("liver.dcm", "liver_seg.nrrd", [1]),
        ("partial_overlaps.dcm", "partial_overlaps-1.nrrd", [1, 4, 5]),
        ("partial_overlaps.dcm", "partial_overlaps-2.nrrd", [2]),
        ("partial_overlaps.dcm", "partial_overlaps-3.nrrd", [3]),
    ],
)
def test_segments_equal_the_masks_that_dcmqi_made_of_them(seg, nrrd, numbers):
    series = read_series(DATA / "dicom_seg" / "ct-3slice", "", "")
    image = canonical(series.image)
    segmented, truth = (open_labels(DATA / "dicom_seg" / name, image, series.frame) for name in (seg, nrrd))
    for number in numbers:
        np.testing.assert_array_equal(segmented.draw(number, True), truth.draw(number, True))


@needs_data
@pytest.mark.parametrize("name", ["noppv", "ppv5"])
def test_a_sparse_labelmap_segmentation_equals_its_mask(name):
    truth = read_image_file(DATA / "dicom_seg" / f"sparse_labelmap_{name}_seg.nrrd", "mask")
    found = open_labels(DATA / "dicom_seg" / f"sparse-labelmap-{name}.dcm", truth, "")
    assert found.names == {1: "Liver"}
    np.testing.assert_array_equal(found.draw(1, True), sitk.GetArrayFromImage(truth) == 1)


@needs_data
def test_a_multiframe_ct_equals_its_single_frames():
    one, many = (
        canonical(read_series(DATA / "dicom_seg" / "23x38x3" / name, "", "").image) for name in ("image", "multiframe")
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(many))
    np.testing.assert_allclose(one.GetOrigin(), many.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(one.GetSpacing(), many.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(one.GetDirection(), many.GetDirection(), atol=1e-6)


@needs_data
@pytest.mark.parametrize("name", ["US1_UNCR.dcm", "OBXXXX1A_2frame.dcm", "MR-SIEMENS-DICOM-WithOverlays.dcm"])
def test_what_is_no_volume_is_refused(tmp_path, mask, name):
    line = refused(tmp_path, DATA / "dicom_misc" / name, mask)
    assert line.reason in {"not a MONOCHROME2 image", "not a 3-D image"}


@needs_data
def test_the_rtstruct_of_a_pet_equals_the_mask_that_mirp_made_of_it():
    folder = DATA / "pet_dicom" / "STS_001" / "FDG_PET"
    series = read_series(folder / "image", "", "")
    image = canonical(series.image)
    contoured = open_labels(folder / "mask", image, series.frame)
    assert set(contoured.names.values()) == {"GTV_Mass", "GTV_Edema"}
    truth = open_labels(DATA / "sts" / "nifti" / "STS_001" / "PET_mask.nii.gz", image, "")
    np.testing.assert_array_equal(contoured.draw(1, True), truth.draw(1, True))


@needs_data
def test_a_pet_from_dicom_equals_the_suv_that_mirp_made_of_it(tmp_path):
    """Most voxels are equal; others are up to one stored step of their slice lower there, as after a re-encoding."""
    nifti = DATA / "sts" / "nifti" / "STS_001"
    folder = DATA / "pet_dicom" / "STS_001" / "FDG_PET" / "image"
    row = images_row(folder, nifti / "PET_mask.nii.gz")
    result = run(tmp_path, case("P1", row), chosen=settings(portal={"modality": "PT"}))
    truth, found = sitk.ReadImage(str(nifti / "PET_image.nii.gz")), result.image()
    corner = found.TransformPhysicalPointToIndex(truth.GetOrigin())
    np.testing.assert_allclose(found.TransformIndexToPhysicalPoint(corner), truth.GetOrigin(), atol=1e-3)
    found, truth = (
        sitk.GetArrayFromImage(image) for image in (sitk.RegionOfInterest(found, truth.GetSize(), corner), truth)
    )
    heights = {float(h.ImagePositionPatient[2]): float(h.RescaleSlope) for h in map(header_of, folder.iterdir())}
    slopes = [heights[z] for z in sorted(heights)][corner[2] : corner[2] + len(truth)]
    step = np.reshape(slopes, (-1, 1, 1)) * 71e3 / (3.88777472e8 * 2 ** (-2711 / 6588))
    assert (np.abs(found - truth) <= 1.01 * step).all()
    assert np.median(found[truth > 1] / truth[truth > 1]) == pytest.approx(1, abs=1e-6)
