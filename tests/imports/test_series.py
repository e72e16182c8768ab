"""Import of DICOM series, held against GDCM: order, rescaling, choice of the series, what is no regular stack."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import generate_uid

from hccstudy.cli import main
from hccstudy.imports.dicom import read_series
from imports.phantoms import OBLIQUE, SIZE, case, edit, images_row, refused, run, scan, settings, write_dicom


@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["axial", "oblique"])
def test_an_unsorted_series_is_read_as_gdcm_reads_it(tmp_path, direction):
    paths = write_dicom(scan(direction), tmp_path / "s")
    found = read_series(tmp_path / "s", "", "").image
    truth = sitk.ReadImage([str(path) for path in paths])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(truth))
    np.testing.assert_allclose(found.GetOrigin(), truth.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(found.GetSpacing(), truth.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(found.GetDirection(), truth.GetDirection(), atol=1e-6)


def test_each_slice_has_its_own_rescale_slope(tmp_path):
    slopes = np.linspace(0.5, 3.0, SIZE[2])
    write_dicom(scan(), tmp_path / "s", modality="PT", slopes=slopes)
    found = sitk.GetArrayFromImage(read_series(tmp_path / "s", "", "").image)
    error = np.abs(found - sitk.GetArrayFromImage(scan())).max(axis=(1, 2))
    assert (error <= slopes / 2 + 1e-4).all()  # rounding to stored integers is all that may be lost
    assert (np.abs(found[-1] / slopes[-1] - np.rint(found[-1] / slopes[-1])) < 1e-4).all()


def test_jpeg_lossless_slices_are_decoded(tmp_path):
    paths = write_dicom(scan(), tmp_path / "s")
    for path in paths:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "packed.dcm"))
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.KeepOriginalImageUIDOn()
        writer.Execute(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkInt16))
        packed = pydicom.dcmread(tmp_path / "packed.dcm")
        assert packed.file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
        original = pydicom.dcmread(path)
        original.PixelData = packed.PixelData
        original["PixelData"].is_undefined_length = True
        original.RescaleIntercept = packed.get("RescaleIntercept", 0)
        original.RescaleSlope = packed.get("RescaleSlope", 1)
        original.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        original.save_as(path)
    found = sitk.GetArrayFromImage(read_series(tmp_path / "s", "", "").image)
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(scan()))


def mixed(tmp_path: Path) -> dict[str, sitk.Image]:
    """Three series in one folder, nested as a PACS exports them; UID -> image."""
    found = {}
    for seed, (part, said) in enumerate((("a", "Arterial 1.0"), ("b/deep", "Ax PORTAL 3.0"), ("c", "portal MPR"))):
        uid = generate_uid()
        found[uid] = scan(seed=seed)
        write_dicom(found[uid], tmp_path / "mixed" / part, SeriesInstanceUID=uid, SeriesDescription=said)
    (tmp_path / "mixed" / "README.txt").write_text("not DICOM")
    return found


def test_a_series_is_chosen_by_its_uid(tmp_path, mask):
    for uid, truth in mixed(tmp_path).items():
        result = run(tmp_path, case("P1", images_row(tmp_path / "mixed", mask, series_uid=uid)))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image()), sitk.GetArrayFromImage(truth))


def test_a_series_is_chosen_by_its_description(tmp_path, mask):
    truth = list(mixed(tmp_path).values())[1]
    chosen = settings(portal={"description": r"portal \d"})
    result = run(tmp_path, case("P1", images_row(tmp_path / "mixed", mask)), chosen=chosen)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image()), sitk.GetArrayFromImage(truth))


@pytest.mark.parametrize("description", ["", "portal", "late"])
def test_an_ambiguous_folder_is_refused_with_counts_and_what_shows_more(tmp_path, mask, description, caplog, capsys):
    caplog.set_level(logging.INFO)
    uids = mixed(tmp_path)
    line = refused(tmp_path, tmp_path / "mixed", mask, settings(portal={"description": description}))
    assert line.reason == "ambiguous series"
    for word in ("3 series", "series 1: 12 slices, series 2: 12 slices, series 3: 12 slices", "series_uid"):
        assert word in line.detail
    for text in zip(uids, ("Arterial 1.0", "Ax PORTAL 3.0", "portal MPR"), strict=True):
        assert not any(word in line.detail for word in text)
        assert not any(word in caplog.text for word in text)
    assert main(["look", str(tmp_path / "mixed")]) == 0
    shown = capsys.readouterr().out
    for uid, text in zip(uids, ("Arterial 1.0", "Ax PORTAL 3.0", "portal MPR"), strict=True):
        assert f"series_uid {uid}: 12 slices, CT, {text!r}" in shown


def test_an_unknown_series_uid_is_refused(tmp_path, mask):
    write_dicom(scan(), tmp_path / "s")
    line = refused(tmp_path, tmp_path / "s", mask, series_uid="1.2.3")
    assert (line.reason, "1 series (series 1: 12 slices;" in line.detail) == ("series not found", True)


def spoil(path: Path, what: str) -> None:
    paths = sorted(path.iterdir(), key=lambda item: pydicom.dcmread(item).ImagePositionPatient[2])
    position = [float(value) for value in pydicom.dcmread(paths[5]).ImagePositionPatient]
    if what == "missing slices":
        paths[5].unlink()
    elif what == "duplicate slices":
        (path / "copy").write_bytes(paths[5].read_bytes())
    elif what == "uneven slice spacing":
        edit(paths[5], ImagePositionPatient=[*position[:2], position[2] + 0.8])
    elif what == "gantry tilt":
        for z, item in enumerate(paths):
            edit(item, ImagePositionPatient=[position[0], position[1] + 0.5 * z, position[2] + 2.5 * z])
    elif what == "differing slice geometry":
        edit(paths[5], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    elif what == "not a MONOCHROME2 image":
        edit(paths[5], PhotometricInterpretation="MONOCHROME1")
    elif what == "invalid voxel spacing":
        for item in paths:
            edit(item, PixelSpacing=[0, 0.8])
    elif what == "no slice geometry":
        data = pydicom.dcmread(paths[5])
        del data.ImagePositionPatient
        data.save_as(paths[5])
    elif what == "not a 3-D image":
        for item in paths[1:]:
            item.unlink()
    elif what == "no DICOM series":
        for item in paths:
            item.write_bytes(b"no DICOM at all")
    elif what == "wrong modality":
        for item in paths:
            edit(item, Modality="MR")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("missing slices", "5.00 mm between"),
        ("duplicate slices", "1 of 13 slices"),
        ("uneven slice spacing", "0.800 mm"),
        ("gantry tilt", "11.3 degrees"),
        ("differing slice geometry", "ImageOrientationPatient"),
        ("not a MONOCHROME2 image", "MONOCHROME1"),
        ("invalid voxel spacing", "PixelSpacing"),
        ("no slice geometry", "ImagePositionPatient"),
        ("not a 3-D image", "one slice"),
        ("no DICOM series", "none of 12 file(s)"),
        ("wrong modality", "it is MR; expected CT"),
    ],
)
def test_a_series_that_is_no_regular_stack_is_refused(tmp_path, mask, reason, said):
    write_dicom(scan(), tmp_path / "s")
    spoil(tmp_path / "s", reason)
    line = refused(tmp_path, tmp_path / "s", mask)
    assert line.reason == reason
    assert said in line.detail


def test_two_phases_under_one_series_uid_are_refused_with_what_tells_them_apart(tmp_path, mask):
    uid = generate_uid()
    for number in (1, 2):
        write_dicom(scan(), tmp_path / f"s/{number}", SeriesInstanceUID=uid, AcquisitionNumber=number)
    line = refused(tmp_path, tmp_path / "s", mask)
    assert line.reason == "duplicate slices"
    assert line.detail.endswith("slices differ in AcquisitionNumber")


@pytest.mark.parametrize("kept", [0, 200, 1000, -100])
def test_a_truncated_slice_is_refused_by_name(tmp_path, mask, kept):
    paths = write_dicom(scan(), tmp_path / "s")
    paths[-1].write_bytes(paths[-1].read_bytes()[:kept])  # the last one: no gap would give it away
    line = refused(tmp_path, tmp_path / "s", mask)
    assert line.reason == "truncated or unreadable image"
    place = sorted(paths).index(paths[-1]) + 1
    assert f"column image, file {place} of 12: " in line.detail
