"""Import of masks: label images, DICOM SEG and RTSTRUCT, held against phantoms of known place and volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hccstudy.cli import main
from hccstudy.imports.geometry import rasterize
from imports.phantoms import (
    FRAME,
    INNER,
    OBLIQUE,
    OUTER,
    SIZE,
    SPACING,
    case,
    centers,
    circle,
    cut,
    grid,
    images_row,
    labels,
    plain,
    refused,
    relabeled,
    run,
    sampled,
    scan,
    segments,
    tube,
    write,
    write_dicom,
    write_rtstruct,
    write_seg,
    written,
)


@pytest.mark.parametrize(
    ("mapping", "label", "expected"),
    [
        ({1: 1, 2: 2, 3: 3}, "", {1: 1, 2: 2, 3: 3}),
        ({1: 255}, "", {1: 1}),  # the only value there is
        ({1: 7, 2: 2, 3: 8}, "7", {1: 1, 2: 2}),
        ({1: 7, 2: 2}, "7.0", {1: 1, 2: 2}),  # as spreadsheets write it
        ({1: 2, 2: 9}, "2", {1: 1}),  # the named value is the tumor, whatever the study says of it
    ],
)
def test_labels_become_tumor_liver_and_other_lesions(tmp_path, image, mapping, label, expected):
    result = run(tmp_path, case("P1", images_row(image, relabeled(tmp_path, mapping), label=label)))
    truth = np.zeros(SIZE[::-1], np.uint8)
    for old, new in expected.items():
        truth[sitk.GetArrayFromImage(labels()) == old] = new
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask")), truth)


def test_liver_and_lesions_come_from_their_own_files_and_the_tumor_goes_first(tmp_path, image):
    array = sitk.GetArrayFromImage(labels())
    liver = (array > 0).astype(np.uint8) * 4  # with the tumor in it
    lesions = ((array == 3) | (array == 1)).astype(np.uint8)
    row = images_row(
        image,
        relabeled(tmp_path, {1: 1}),
        liver_mask=write(grid(liver), tmp_path / "liver.nrrd"),
        lesions_mask=write(grid(lesions), tmp_path / "lesions.mha"),
    )
    result = run(tmp_path, case("P1", row))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask")), array)


def shifted(image: sitk.Image, x: float) -> sitk.Image:
    image.SetOrigin((image.GetOrigin()[0] + x, *image.GetOrigin()[1:]))
    return image


def headerless(tmp_path: Path) -> str:
    return write(sitk.GetImageFromArray(sitk.GetArrayFromImage(labels())), tmp_path / "bare.nii.gz")


BAD_MASKS = {
    "empty": ("empty mask", "", lambda p: relabeled(p, {}), "no label"),
    "only liver": (
        "label not in mask",
        "",
        lambda p: relabeled(p, {2: 2}),
        "it holds label 2; expected tumor label 1",
    ),
    "no such label": (
        "label not in mask",
        "5",
        lambda p: relabeled(p, {1: 1, 2: 2}),
        "holds label 1, 2; expected the label that column label names",
    ),
    "fractions": (
        "mask is not a label map",
        "",
        lambda p: write(sitk.Cast(labels(), sitk.sitkFloat32) * 0.5, p / "m.nii.gz"),
        "0.5",
    ),
    "swapped paths": (
        "mask is not a label map",
        "",
        lambda p: write(sitk.Cast(scan(), sitk.sitkInt16) - 100, p / "m.nii.gz"),
        "as an image does",
    ),
    "scan": (
        "mask is not a label map",
        "",
        lambda p: write(sitk.Cast(scan(), sitk.sitkInt32) * 1000, p / "m.nrrd"),
        "run from",
    ),
    "headerless": ("mask on another grid", "", headerless, "header"),
    "half a voxel": (
        "mask on another grid",
        "",
        lambda p: write(shifted(labels(), 0.4), p / "m.nrrd"),
        "header",
    ),
    "whole voxels away": (
        "mask on another grid",
        "",
        lambda p: write(shifted(labels(), 1.6), p / "m.nrrd"),
        "header",
    ),
    "elsewhere": (
        "mask on another grid",
        "",
        lambda p: write(shifted(labels(), 500)[1:, :, :], p / "m.nrrd"),
        "0% of it lies within the image",
    ),
    "tumor half outside": (
        "mask on another grid",
        "",
        lambda p: write(shifted(labels(), -0.8 * 9)[1:, :, :], p / "m.nrrd"),
        "% of it lies within the image; expected all of it",
    ),
    "truncated": ("truncated or unreadable mask", "", lambda p: cut(p / "m.nii.gz", True), "bytes|end"),
    "four dimensions": (
        "4-D image",
        "",
        lambda p: write(sitk.JoinSeries([labels(), labels()]), p / "m.nii.gz"),
        "three dimensions",
    ),
    "no mask format": ("unknown mask format", "", lambda p: written(p / "m.txt", b"x" * 200), "SEG"),
    "no file": ("missing file", "", lambda p: str(p / "absent.nrrd"), "no such mask file"),
}


@pytest.mark.parametrize("what", BAD_MASKS)
def test_a_mask_that_cannot_be_trusted_is_refused(tmp_path, image, what):
    reason, label, make, said = BAD_MASKS[what]
    path = make(tmp_path)
    line = refused(tmp_path, image, path, label=label)
    assert line.reason == reason
    assert "column mask" in line.detail and str(tmp_path) not in line.detail
    assert any(part in line.detail for part in said.split("|"))


def ball(spacing: float, size: int, center: np.ndarray, radius: float, origin: np.ndarray) -> sitk.Image:
    axis = np.arange(size) * spacing
    z, y, x = np.meshgrid(axis + origin[2], axis + origin[1], axis + origin[0], indexing="ij")
    inside = (x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2 <= radius**2
    image = sitk.GetImageFromArray(inside.astype(np.uint8))
    image.SetSpacing([spacing] * 3)
    image.SetOrigin(origin.tolist())
    return image


def test_a_mask_on_another_grid_keeps_its_volume_and_place(tmp_path):
    center, radius = np.array([20.3, 19.6, 21.1]), 12.0
    fine = np.random.default_rng(0).integers(0, 100, (50, 50, 50)).astype(np.int16)
    image = sitk.GetImageFromArray(fine)
    mask = ball(1.3, 30, center, radius, np.array([1.0, 0.4, 2.2]))
    row = images_row(write(image, tmp_path / "i.nii.gz"), write(mask, tmp_path / "m.nii.gz"))
    drawn = sitk.GetArrayFromImage(run(tmp_path, case("P1", row)).image("mask"))
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn.sum() == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    np.testing.assert_allclose(np.argwhere(drawn).mean(0)[::-1], center, atol=0.1)


# ---------------------------------------------------------------- DICOM SEG


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    return write_dicom(scan(), tmp_path / "series", FrameOfReferenceUID=FRAME, SliceThickness="2.5")


@pytest.mark.parametrize("label", ["2", "HCC", "hcc "])
def test_a_segment_is_chosen_by_number_or_label(tmp_path, series, label):
    seg = write_seg(tmp_path / "m.dcm", series, segments())
    result = run(tmp_path, case("P1", images_row(tmp_path / "series", seg, label=label)))
    assert result.ledger.loc["P1", "detail"] == ""
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask")), sitk.GetArrayFromImage(labels()))


def test_the_only_segment_needs_no_label(tmp_path, series):
    seg = write_seg(tmp_path / "m.dcm", series, {"lesion 1": segments()["HCC"]})
    result = run(tmp_path, case("P1", images_row(tmp_path / "series", seg)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask")), sitk.GetArrayFromImage(labels()) == 1)


@pytest.mark.parametrize("label", ["", "Spleen", "4"])
def test_an_unknown_segment_is_refused_with_those_there_are(tmp_path, series, label, capsys):
    seg = write_seg(tmp_path / "m.dcm", series, segments())
    line = refused(tmp_path, tmp_path / "series", seg, label=label)
    assert line.reason == "label not in mask"
    assert "label 1, 2, 3 (`hccstudy look` on it shows their names)" in line.detail
    assert main(["look", seg]) == 0
    assert "label 1 'Liver'\nlabel 2 'HCC'\n" in capsys.readouterr().out


def test_a_look_at_an_image_file_shows_its_grid_and_labels(tmp_path, image, capsys):
    assert main(["look", relabeled(tmp_path, {1: 7, 2: 2})]) == 0
    said = capsys.readouterr().out.splitlines()
    truth = sitk.GetArrayFromImage(labels())
    assert said[1:] == [f"label 2: {(truth == 2).sum():,} voxels", f"label 7: {(truth == 1).sum():,} voxels"]
    assert " x ".join(map(str, SIZE)) in said[0] and "mm" in said[0]
    assert main(["look", image]) == 0
    assert "an image, no mask" in capsys.readouterr().out


def test_a_segmentation_of_another_frame_of_reference_is_refused(tmp_path, series):
    write_dicom(scan(), tmp_path / "other")
    seg = write_seg(tmp_path / "m.dcm", series, segments())
    assert refused(tmp_path, tmp_path / "other", seg, label="HCC").reason == "other frame of reference"


def test_a_truncated_segmentation_is_refused(tmp_path, series):
    seg = Path(write_seg(tmp_path / "m.dcm", series, segments()))
    seg.write_bytes(seg.read_bytes()[:-50])
    assert refused(tmp_path, tmp_path / "series", seg, label="HCC").reason == "truncated or unreadable mask"


@pytest.mark.parametrize("code", ["LPS", "RIP", "AIL"])
@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["axial", "oblique"])
def test_contours_with_a_hole_have_the_analytic_volume_and_place(direction, code):
    acquired = plain(direction)
    image = sitk.DICOMOrient(acquired, code)
    drawn = sitk.GetImageFromArray(rasterize(tube(acquired), image, "tube", whole=True).astype(np.uint8))
    drawn.CopyInformation(image)
    volume = sitk.GetArrayFromImage(drawn).sum() * np.prod(SPACING)
    assert volume == pytest.approx(np.pi * (OUTER**2 - INNER**2) * 7 * 2.5, rel=0.01)
    middle = np.array([[26.4, 25.7, 12.5]]) @ np.reshape(acquired.GetDirection(), (3, 3)).T + acquired.GetOrigin()
    np.testing.assert_allclose(centers(drawn, 1).mean(0), middle[0], atol=0.05)
    assert sampled(drawn, middle) == [0]  # the hole


def test_a_roi_is_chosen_by_name_and_brings_its_liver(tmp_path):
    image = plain()
    write_dicom(image, tmp_path / "s", FrameOfReferenceUID=FRAME)
    liver = [circle((27.0, 26.0), 24.0, 2.5 * k, image) for k in range(1, 11)]
    path = write_rtstruct(tmp_path / "rt.dcm", {"Liver": liver, "GTV": tube(image), "empty": []}, FRAME)
    result = run(tmp_path, case("P1", images_row(tmp_path / "s", path, label="gtv")))
    assert result.ledger.loc["P1", "detail"] == ""
    drawn = sitk.GetArrayFromImage(result.image("mask"))
    ring = np.pi * (OUTER**2 - INNER**2) * 7 * 2.5
    assert (drawn == 1).sum() * np.prod(SPACING) == pytest.approx(ring, rel=0.01)
    assert (drawn > 0).sum() * np.prod(SPACING) == pytest.approx(np.pi * 24**2 * 10 * 2.5, rel=0.01)


def test_a_contour_stored_twice_does_not_cancel_itself():
    contours = [circle((26.4, 25.7), OUTER, 5.0, plain())]
    once = rasterize(contours, plain(), "x", whole=True)
    np.testing.assert_array_equal(rasterize(contours * 2, plain(), "x", whole=True), once)
    assert once.any()


def between(image: sitk.Image) -> list[np.ndarray]:
    return [circle((26.4, 25.7), OUTER, 2.5 * k + 1.2, image) for k in range(2, 9)]


BAD_CONTOURS = {
    "between slices": ("mask on another grid", "GTV", between, "on no slice"),
    "every other slice": (
        "contours skip slices",
        "GTV",
        lambda i: [circle((26.4, 25.7), OUTER, 2.5 * k, i) for k in (1, 3, 5, 7)],
        "2 apart",
    ),
    "outside": (
        "mask on another grid",
        "GTV",
        lambda i: [circle((2.0, 25.7), OUTER, 2.5 * k, i) for k in (2, 3)],
        "% of the contour points",
    ),
    "tilted": (
        "mask on another grid",
        "GTV",
        lambda i: [circle((26.4, 25.7), OUTER, 2.5 * k, i) @ OBLIQUE for k in (2, 3)],
        "not parallel",
    ),
    "none": ("empty mask", "GTV", lambda i: [], "no contour"),
    "between voxels": ("empty mask", "GTV", lambda i: [circle((26.8, 25.7), 0.2, 5.0, i)], "no voxel center"),
    "other name": ("label not in mask", "Tumor", tube, "it holds label 1 (`hccstudy look`"),
}


@pytest.mark.parametrize("what", BAD_CONTOURS)
def test_contours_that_do_not_fit_the_image_are_refused(tmp_path, what):
    reason, label, contours, said = BAD_CONTOURS[what]
    write_dicom(plain(), tmp_path / "s", FrameOfReferenceUID=FRAME)
    path = write_rtstruct(tmp_path / "rt.dcm", {"GTV": contours(plain())}, FRAME)
    line = refused(tmp_path, tmp_path / "s", path, label=label)
    assert line.reason == reason
    assert said in line.detail


def test_points_are_no_region(tmp_path):
    write_dicom(plain(), tmp_path / "s", FrameOfReferenceUID=FRAME)
    path = write_rtstruct(tmp_path / "rt.dcm", {"GTV": tube(plain())}, FRAME, kind="POINT")
    line = refused(tmp_path, tmp_path / "s", path)
    assert (line.reason, "closed" in line.detail) == ("empty mask", True)
