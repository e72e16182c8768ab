"""Import of image files: every format gives the same voxels at the same place, broken files are refused."""

from __future__ import annotations

import errno
import gzip
import os
import resource
import struct
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from hccstudy import imports as stage
from hccstudy.imports.images import read_image_file
from imports.phantoms import (
    OBLIQUE,
    case,
    centers,
    cut,
    cut_unsized,
    grid,
    images_row,
    labels,
    refused,
    replace,
    run,
    sampled,
    scan,
    write,
    write_dicom,
    written,
)

# ---------------------------------------------------------------- formats and orientation


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", "dicom"])
def test_every_format_gives_the_same_voxels_at_the_same_place(tmp_path, mask, ending, compress):
    path = tmp_path / "scan" if ending == "dicom" else tmp_path / f"scan{ending}"
    write_dicom(scan(), path) if ending == "dicom" else write(scan(), path, compress)
    result = run(tmp_path, case("P1", images_row(path, mask)))
    assert result.ledger.loc["P1", "status"] == "included"
    found, truth = result.image(), scan()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(truth))
    assert found.GetPixelID() == sitk.sitkInt16
    np.testing.assert_allclose(found.GetOrigin(), truth.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.GetSpacing(), truth.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(found.GetDirection(), truth.GetDirection(), atol=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask")), sitk.GetArrayFromImage(labels()))


@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("codes_", [("RAS", "RAS"), ("LPS", "RAI"), ("PIR", "LPS"), ("SAL", "ILP")])
def test_axis_orders_and_flips_change_nothing_in_space(tmp_path, codes_, direction):
    image, mask = (
        sitk.DICOMOrient(volume, code)
        for volume, code in zip((scan(direction), labels(direction)), codes_, strict=True)
    )
    row = images_row(write(image, tmp_path / "i.nrrd"), write(mask, tmp_path / "m.nii.gz"))
    result = run(tmp_path, case("P1", row))
    assert result.ledger.loc["P1", "detail"] == ""
    found, drawn = result.image(), result.image("mask")
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(found.GetDirection()) == "LPS"
    for value in (1, 2, 3):
        np.testing.assert_allclose(centers(drawn, value), centers(labels(direction), value), atol=1e-3)
    tumor = centers(drawn, 1)
    assert sampled(found, tumor) == sampled(scan(direction), tumor)


def test_a_cropped_mask_on_the_image_lattice_is_put_in_its_place(tmp_path, image):
    cropped = labels()[2:22, 1:16, 0:11]
    result = run(tmp_path, case("P1", images_row(image, write(cropped, tmp_path / "m.nii.gz"))))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image("mask")), sitk.GetArrayFromImage(labels()))


def test_real_numbers_stay_real(tmp_path, mask):
    truth = sitk.Cast(scan(), sitk.sitkFloat32) * 0.37
    result = run(tmp_path, case("P1", images_row(write(truth, tmp_path / "i.mha"), mask)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result.image()), sitk.GetArrayFromImage(truth))


# ---------------------------------------------------------------- broken image files


def nifti_with(path: Path, place: int, value: bytes) -> str:
    raw = bytearray(gzip.decompress(Path(write(scan(), path)).read_bytes()))
    raw[place : place + len(value)] = value
    path.write_bytes(gzip.compress(bytes(raw)))
    return str(path)


def flip(path: Path) -> str:
    raw = bytearray(Path(write(scan(), path)).read_bytes())
    raw[-400] ^= 0x55
    path.write_bytes(bytes(raw))
    return str(path)


def nan_image(path: Path) -> str:
    array = sitk.GetArrayFromImage(scan()).astype(np.float32)
    array[2, 3, 4] = np.nan
    array[2, 3, 5] = np.inf
    return write(grid(array), path)


UNREADABLE = "truncated or unreadable image"
BROKEN = {
    "truncated .nii": (UNREADABLE, lambda p: cut(p / "i.nii", False)),
    "truncated .nii.gz": (UNREADABLE, lambda p: cut(p / "i.nii.gz", True)),
    "truncated .nrrd": (UNREADABLE, lambda p: cut(p / "i.nrrd", True)),
    "truncated .mha": (UNREADABLE, lambda p: cut(p / "i.mha", False)),
    "truncated packed .mha": (UNREADABLE, lambda p: cut(p / "i.mha", True)),
    "truncated packed .mha of unstated length": (UNREADABLE, lambda p: cut_unsized(p / "i.mha")),
    "corrupt .nii.gz": (UNREADABLE, lambda p: flip(p / "i.nii.gz")),
    "corrupt .mha": (UNREADABLE, lambda p: flip(p / "i.mha")),
    "empty .nii.gz": (UNREADABLE, lambda p: written(p / "i.nii.gz", b"")),
    "text as .nii.gz": (UNREADABLE, lambda p: written(p / "i.nii.gz", b"not gzip")),
    "text as .nrrd": (UNREADABLE, lambda p: written(p / "i.nrrd", b"not NRRD")),
    "unpacks to more than stated": (
        UNREADABLE,
        lambda p: written(
            p / "i.nii.gz",
            gzip.compress(gzip.decompress(Path(write(scan(), p / "j.nii.gz")).read_bytes()) + bytes(2**24)),
        ),
    ),
    "absurd size": (
        UNREADABLE,
        lambda p: nifti_with(p / "i.nii.gz", 42, struct.pack("<3h", 30000, 30000, 30000)),
    ),
    "spacing zero": (
        "invalid voxel spacing",
        lambda p: nifti_with(p / "i.nii.gz", 80, struct.pack("<f", 0.0)),
    ),
    "spacing negative": (
        "invalid voxel spacing",
        lambda p: nifti_with(p / "i.nii.gz", 84, struct.pack("<f", -0.9)),
    ),
    "spacing NaN": (
        "invalid voxel spacing",
        lambda p: nifti_with(p / "i.nii.gz", 88, struct.pack("<f", np.nan)),
    ),
    "spacing zero in .mha": (
        "invalid voxel spacing",
        lambda p: replace(p / "i.mha", b"ElementSpacing = 0.8", b"ElementSpacing = 0 0.8"),
    ),
    "spacing zero in .nrrd": (
        "invalid voxel spacing",
        lambda p: replace(p / "i.nrrd", b"(0.80000000000000004,", b"(0,"),
    ),
    "no spacing in .mha": (
        "invalid voxel spacing",
        lambda p: replace(p / "i.mha", b"ElementSpacing", b"ElementComment"),
    ),
    "sheared": (
        "sheared image axes",
        lambda p: nifti_with(p / "i.nii.gz", 252, struct.pack("<2h", 0, 1) + bytes(24) + struct.pack("<2f", -0.8, 0.7)),
    ),
    "four dimensions": (
        "4-D image",
        lambda p: write(sitk.JoinSeries([scan(), scan(seed=1)]), p / "i.nii.gz"),
    ),
    "two dimensions": ("not a 3-D image", lambda p: write(scan()[:, :, 3], p / "i.nii.gz")),
    "one slice": ("not a 3-D image", lambda p: write(scan()[:, :, 3:4], p / "i.nii.gz")),
    "color": ("not a 3-D image", lambda p: write(sitk.Compose(scan(), scan()), p / "i.nrrd")),
    "NaN in .nii.gz": ("non-finite voxels", lambda p: nan_image(p / "i.nii.gz")),
    "NaN in .mha": ("non-finite voxels", lambda p: nan_image(p / "i.mha")),
    "spacing in m": (
        "invalid voxel spacing",
        lambda p: nifti_with(p / "i.nii.gz", 80, struct.pack("<f", 0.0008)),
    ),
    "constant": ("constant image", lambda p: write(scan() * 0, p / "i.nii.gz")),
    "other format": ("unknown image format", lambda p: written(p / "i.png", b"PNG")),
    "no file": ("missing file", lambda p: str(p / "absent.nii.gz")),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_is_refused_by_reason_and_name(tmp_path, mask, what):
    reason, make = BROKEN[what]
    path = make(tmp_path)
    line = refused(tmp_path, path, mask)
    assert line.reason == reason
    assert line.detail.startswith("images table row 7: column image")
    assert str(tmp_path) not in line.detail


def test_a_broken_image_does_not_stop_the_others(tmp_path, image, mask):
    broken = cut(tmp_path / "cut.nii.gz", True)
    result = run(tmp_path, case("P1", images_row(broken, mask)), case("P2", images_row(image, mask)))
    assert result.ledger["status"].to_dict() == {"P1": "failed", "P2": "included"}
    assert result.rows["patient"].tolist() == ["P2"]


def test_a_file_that_the_disk_cannot_read_is_its_patients_and_may_be_read_later(tmp_path, image, mask, monkeypatch):
    bad = write(scan(seed=1), tmp_path / "bad.nii.gz")
    cases = case("P1", images_row(bad, mask)), case("P2", images_row(image, mask))

    def on_a_bad_block(function):
        def read(path, *rest):
            if str(path) == bad:
                raise OSError(errno.EIO, "Input/output error", bad)
            return function(path, *rest)

        return read

    with monkeypatch.context() as patch:
        for name in ("file_digest", "read_image_file"):
            patch.setattr(stage, name, on_a_bad_block(getattr(stage, name)))
        result = run(tmp_path, *cases)
    assert result.ledger["status"].to_dict() == {"P1": "failed", "P2": "included"}
    assert result.ledger.loc["P1", "reason"] == "unreadable file"
    assert result.ledger.loc["P1", "detail"] == "images table row 7: Input/output error: column image"
    assert run(tmp_path, *cases).ledger["status"].to_dict() == {"P1": "included", "P2": "included"}


def read_with_little_memory(path: str) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    try:
        read_image_file(Path(path), "image")
    except MemoryError:
        os._exit(7)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_an_image_that_memory_cannot_hold_is_no_broken_image(tmp_path):
    """With more memory it may do: ITK's word for it must not be taken for a truncated file."""
    large = np.zeros((64, 1024, 1024), np.int16)
    large[0, 0, :9] = 1
    path = write(sitk.GetImageFromArray(large), tmp_path / "i.nii.gz")
    child = get_context("fork").Process(target=read_with_little_memory, args=(path,))
    child.start()
    child.join()
    assert child.exitcode == 7
