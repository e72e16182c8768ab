"""The import stage, held against phantoms of known place and value, GDCM, and masks of dcmqi and MIRP."""

from __future__ import annotations

import gzip
import json
import logging
import struct
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hccstudy.cli import main
from hccstudy.imports import import_batch
from hccstudy.imports.acquisition import COLUMNS, describe_acquisition
from hccstudy.imports.dicom import read_series
from hccstudy.imports.geometry import canonical, rasterize
from hccstudy.imports.images import read_image_file
from hccstudy.imports.masks import open_labels

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the real images are not in the repository")

SIZE = (24, 20, 12)
SPACING = (0.8, 0.9, 2.5)
FRAME = "1.2.826.0.1.3680043.8.498.88"
OBLIQUE = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]
OBLIQUE = OBLIQUE * np.sign(np.diag(OBLIQUE))  # a rotation of some 20 degrees


# ---------------------------------------------------------------- phantoms


def grid(array: np.ndarray, direction: np.ndarray | None = None) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((-31.5, 12.25, -140.0))
    if direction is not None:
        image.SetDirection(direction.ravel().tolist())
    return image


def scan(direction: np.ndarray | None = None, seed: int = 0) -> sitk.Image:
    """Every voxel differs from its neighbors, so that any flip, shift or swap of axes is seen."""
    values = np.random.default_rng(seed).integers(-1000, 1500, SIZE[::-1])
    return grid(values.astype(np.int16), direction)


def labels(direction: np.ndarray | None = None) -> sitk.Image:
    """Without symmetry: tumor (1), liver (2) around it, another lesion (3)."""
    array = np.zeros(SIZE[::-1], np.uint8)
    array[1:10, 2:15, 3:22] = 2
    array[3:7, 4:9, 5:12] = 1
    array[3, 4, 12] = 1
    array[8, 12:14, 18:20] = 3
    return grid(array, direction)


def write(image: sitk.Image, path: Path, compress: bool = True) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), compress)
    return str(path)


def write_dicom(
    image: sitk.Image,
    folder: Path,
    *,
    modality: str = "CT",
    slopes: Any = None,
    seed: int = 1,
    **attributes: Any,
) -> list[Path]:
    """A series with one file per slice, named in no order; paths in the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    array = sitk.GetArrayFromImage(image)
    steps = np.reshape(image.GetDirection(), (3, 3))
    common = {
        "PatientName": "Doe^Jane",
        "PatientID": "MRN778899",
        "Modality": modality,
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SeriesDescription": "portal venous",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
    } | attributes
    names = np.random.default_rng(seed).permutation(len(array))
    paths = []
    for z, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{names[z]:04d}"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.PatientBirthDate, data.PatientSex, data.StudyID, data.AccessionNumber = "", "", "", ""
        data.StudyDate, data.StudyTime, data.ReferringPhysicianName = "", "", ""
        data.Rows, data.Columns = plane.shape
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelSpacing = [SPACING[1], SPACING[0]]
        data.ImageOrientationPatient = [float(f"{value:.8f}") for value in (*steps[:, 0], *steps[:, 1])]
        data.ImagePositionPatient = [float(f"{value:.6f}") for value in image.TransformIndexToPhysicalPoint((0, 0, z))]
        slope, intercept = (1.0, -1024.0) if slopes is None else (slopes[z], 0.0)
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.PixelData = np.rint((plane - intercept) / slope).astype(np.int16).tobytes()
        for name, value in common.items():
            setattr(data, name, value)
        data.save_as(path)
        paths.append(path)
    return paths


def edit(path: Path, **attributes: Any) -> None:
    data = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path)


def write_seg(path: Path, series: list[Path], segments: dict[str, np.ndarray], kind: str = "BINARY") -> str:
    """A DICOM SEG; the segments (z, y, x) are numbered in their order. They are fractions where `kind` is "FRACTIONAL"."""
    sources = [pydicom.dcmread(item) for item in series]
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(segments, start=1)
    ]
    highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack(list(segments.values()), axis=-1).astype(np.uint8 if kind == "BINARY" else np.float32),
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)
    return str(path)


def write_rtstruct(path: Path, rois: dict[str, list[np.ndarray]], frame: str, kind: str = "CLOSED_PLANAR") -> str:
    """An RTSTRUCT; contours are n x 3 points in mm."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.Modality = meta.MediaStorageSOPClassUID, "RTSTRUCT"
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, item = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        item.ReferencedROINumber, item.ContourSequence = number, []
        for points in contours:
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{value:.5f}" for value in points.ravel()]
            item.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(item)
    data.save_as(path)
    return str(path)


# ---------------------------------------------------------------- the stage


def images_row(image: Any, mask: Any, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("reader", "label", "series_uid", "liver_mask", "lesions_mask", "stamp"), "")
    place = {"row": "7", "series": "portal", "timepoint": "baseline"}
    return {**empty, **place, "image": str(image), "mask": str(mask), **values}


def case(patient: str, *rows: dict[str, Any], index_date: str = "") -> dict[str, Any]:
    return {"patient": patient, "center": "A", "index_date": index_date, "images": list(rows)}


def settings(**series: Any) -> dict[str, Any]:
    portal = {"modality": "CT", "timepoint": "baseline", "required": True, "description": "", "latest_day": None}
    chosen = {name: portal | value for name, value in (series or {"portal": {}}).items()}
    return {"series": chosen, "labels": {"tumor": 1, "liver": 2, "lesions": 3}}


class Result:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows, self.acquisition, ledger = (
            pd.read_csv(folder / f"{name}.tsv", sep="\t", dtype=str, keep_default_na=False)
            for name in ("table", "acquisition", "ledger")
        )
        self.ledger = ledger.set_index("patient")

    def image(self, column: str = "image", row: int = 0) -> sitk.Image:
        return sitk.ReadImage(self.rows.loc[row, column])


def run(tmp_path: Path, *cases: dict[str, Any], chosen: dict[str, Any] | None = None, name: str = "out") -> Result:
    folder = tmp_path / name
    import_batch(
        cases=list(cases),
        settings=chosen or settings(),
        folder=str(folder / "imports"),
        table=str(folder / "table.tsv"),
        acquisition=str(folder / "acquisition.tsv"),
        ledger=str(folder / "ledger.tsv"),
    )
    return Result(folder)


def refused(tmp_path: Path, image: Any, mask: Any, chosen: dict[str, Any] | None = None, **values: Any) -> Any:
    """The ledger line of a patient who does not get through; it names the row of the images table."""
    result = run(tmp_path, case("P1", images_row(image, mask, **values)), chosen=chosen)
    line = result.ledger.loc["P1"]
    assert line.status == "failed"
    assert line.detail.startswith("images table row 7: ")
    assert result.rows.empty
    return line


def sampled(image: sitk.Image, points: np.ndarray) -> list[float]:
    return [image[image.TransformPhysicalPointToIndex([float(v) for v in point])] for point in points]


def centers(image: sitk.Image, value: float) -> np.ndarray:
    """Physical places of all voxels of a value, sorted."""
    zyx = np.argwhere(sitk.GetArrayFromImage(image) == value)
    points = np.array([image.TransformIndexToPhysicalPoint([int(v) for v in index[::-1]]) for index in zyx])
    return points[np.lexsort(np.round(points, 3).T)]


@pytest.fixture
def mask(tmp_path: Path) -> str:
    return write(labels(), tmp_path / "mask.nii.gz")


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write(scan(), tmp_path / "image.nii.gz")


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


# ---------------------------------------------------------------- DICOM series


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


# ---------------------------------------------------------------- broken image files


def nifti_with(path: Path, place: int, value: bytes) -> str:
    raw = bytearray(gzip.decompress(Path(write(scan(), path)).read_bytes()))
    raw[place : place + len(value)] = value
    path.write_bytes(gzip.compress(bytes(raw)))
    return str(path)


def cut(path: Path, compress: bool) -> str:
    raw = Path(write(scan(), path, compress)).read_bytes()
    path.write_bytes(raw[: len(raw) - 100])
    return str(path)


def cut_unsized(path: Path) -> str:
    """Truncated, and without the line that would have told ITK."""
    raw = Path(write(scan(), path)).read_bytes()
    lines = raw.split(b"\n", 20)
    kept = [line for line in lines if not line.startswith(b"CompressedDataSize")]
    assert len(kept) == len(lines) - 1
    path.write_bytes(b"\n".join(kept)[:-100])
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


def replace(path: Path, old: bytes, new: bytes) -> str:
    raw = Path(write(scan(), path, False)).read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    return str(path)


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


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


# ---------------------------------------------------------------- masks from image files


def relabeled(tmp_path: Path, mapping: dict[int, int]) -> str:
    array = sitk.GetArrayFromImage(labels())
    result = np.zeros_like(array)
    for old, new in mapping.items():
        result[array == old] = new
    return write(grid(result), tmp_path / "mask_.nii.gz")


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


def segments() -> dict[str, np.ndarray]:
    array = sitk.GetArrayFromImage(labels())
    return {"Liver": array > 0, "HCC": array == 1, "Lesions": array == 3}  # overlapping


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


def test_a_segmentation_of_another_frame_of_reference_is_refused(tmp_path, series):
    write_dicom(scan(), tmp_path / "other")
    seg = write_seg(tmp_path / "m.dcm", series, segments())
    assert refused(tmp_path, tmp_path / "other", seg, label="HCC").reason == "other frame of reference"


def test_a_truncated_segmentation_is_refused(tmp_path, series):
    seg = Path(write_seg(tmp_path / "m.dcm", series, segments()))
    seg.write_bytes(seg.read_bytes()[:-50])
    assert refused(tmp_path, tmp_path / "series", seg, label="HCC").reason == "truncated or unreadable mask"


# ---------------------------------------------------------------- RTSTRUCT

OUTER, INNER = 16.0, 7.0


def circle(center: tuple[float, float], radius: float, z: float, image: sitk.Image) -> np.ndarray:
    """A circle in the slice plane (mm from the first voxel), in patient coordinates."""
    angle = np.linspace(0, 2 * np.pi, 181)[:-1]
    local = np.stack(
        [center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle), np.full_like(angle, z)],
        axis=1,
    )
    return local @ np.reshape(image.GetDirection(), (3, 3)).T + np.asarray(image.GetOrigin())


def plain(direction: np.ndarray | None = None) -> sitk.Image:
    image = grid(np.random.default_rng(5).integers(0, 100, (12, 60, 70)).astype(np.int16), direction)
    return image


def tube(image: sitk.Image) -> list[np.ndarray]:
    """Slices 2 to 8, a hole in each."""
    return [circle((26.4, 25.7), radius, 2.5 * k, image) for k in range(2, 9) for radius in (OUTER, INNER)]


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


# ---------------------------------------------------------------- series, readers, rows


def test_a_patient_without_a_required_series_is_excluded(tmp_path, image, mask):
    other = images_row(image, mask, timepoint="followup")  # belongs to no configured series
    result = run(tmp_path, case("P1"), case("P2", other))
    for patient in ("P1", "P2"):
        line = result.ledger.loc[patient]
        assert (line.status, line.reason) == ("excluded", "no portal image")
    assert result.acquisition.empty and list(result.acquisition.columns) == COLUMNS


def test_an_optional_series_may_be_missing_but_not_broken(tmp_path, image, mask):
    chosen = settings(portal={}, arterial={"required": False})
    broken = images_row(cut(tmp_path / "cut.nii.gz", True), mask, series="arterial")
    cases = case("P1", images_row(image, mask)), case("P2", images_row(image, mask), broken)
    result = run(tmp_path, *cases, chosen=chosen)
    assert result.ledger["status"].to_dict() == {"P1": "included", "P2": "failed"}


def test_a_patient_without_any_series_is_excluded_though_none_is_required(tmp_path, image, mask):
    chosen = settings(portal={"required": False}, arterial={"required": False})
    result = run(tmp_path, case("P1"), case("P2", images_row(image, mask)), chosen=chosen)
    line = result.ledger.loc["P1"]
    assert (line.status, line.reason) == ("excluded", "no image")
    assert "portal, arterial" in line.detail
    assert result.ledger["status"].to_dict() == {"P1": "excluded", "P2": "included"}


def test_an_image_without_a_mask_is_excluded(tmp_path, image):
    line = run(tmp_path, case("P1", images_row(image, ""))).ledger.loc["P1"]
    assert (line.status, line.reason) == ("excluded", "no portal mask")


def test_readers_share_one_image_and_have_masks_of_their_own(tmp_path, image, mask):
    second = relabeled(tmp_path, {1: 1})
    rows = [images_row(image, path, reader=name) for path, name in ((mask, "Dr. A"), (second, "Dr. B"))]
    result = run(tmp_path, case("P1", *rows))
    assert result.rows["reader"].tolist() == ["Dr. A", "Dr. B"]
    assert result.rows["image"].nunique() == 1 and result.rows["mask"].nunique() == 2
    assert [int((sitk.GetArrayFromImage(result.image("mask", row)) == 2).sum() > 0) for row in (0, 1)] == [
        1,
        0,
    ]
    assert len(result.acquisition) == 1


def test_one_reader_cannot_have_two_rows_of_a_series(tmp_path, image, mask):
    rows = [images_row(image, mask, row=str(number)) for number in (4, 5)]
    line = run(tmp_path, case("P1", *rows)).ledger.loc["P1"]
    assert line.reason == "duplicate images row"
    assert line.detail.startswith("images table row 5: ")


# ---------------------------------------------------------------- resume


def two_patients(tmp_path: Path) -> list[dict[str, Any]]:
    rows = {}
    for seed, name in enumerate(("P1", "P2")):
        image = write(scan(seed=seed), tmp_path / name / "i.mhd", False)  # the voxels are in i.raw
        rows[name] = images_row(image, write(labels(), tmp_path / name / "m.nii.gz"), row=str(seed + 2))
    return [case(name, row) for name, row in rows.items()]


def computed(result: Result) -> dict[str, int]:
    """The inode of each patient's result: a new one means that it was computed again."""
    return {path.parent.name: path.stat().st_ino for path in (result.folder / "imports").glob("*/done.json.gz")}


def contents(result: Result) -> dict[str, bytes]:
    return {
        str(path.relative_to(result.folder)): path.read_bytes() for path in result.folder.rglob("*") if path.is_file()
    }


def test_a_second_run_computes_nothing_and_writes_the_same_tables(tmp_path):
    cases = two_patients(tmp_path)
    first = run(tmp_path, *cases)
    inodes, files = computed(first), contents(first)
    for path in tmp_path.glob("P*/*"):
        path.touch()
    for number, item in enumerate(cases):
        item["images"][0] |= {"row": str(40 + number), "stamp": "touched"}
    second = run(tmp_path, *cases)
    assert computed(second) == inodes
    assert contents(second) == files


def test_a_replaced_file_recomputes_its_patient_only(tmp_path):
    cases = two_patients(tmp_path)
    before = run(tmp_path, *cases)
    inodes, hashes = computed(before), before.rows["image_sha256"].tolist()
    write(scan(seed=9), tmp_path / "P2" / "i.mhd", False)
    after = run(tmp_path, *cases)
    assert computed(after)["P1"] == inodes["P1"]
    assert computed(after)["P2"] != inodes["P2"]
    assert after.rows["image_sha256"].tolist()[0] == hashes[0]
    assert after.rows["image_sha256"].tolist()[1] != hashes[1]


def test_a_failure_remembered_names_the_row_of_today(tmp_path, image):
    bad = relabeled(tmp_path, {})
    run(tmp_path, case("P1", images_row(image, bad, row="7")))
    line = run(tmp_path, case("P1", images_row(image, bad, row="8"))).ledger.loc["P1"]
    assert line.detail.startswith("images table row 8: ")


def test_a_missing_file_that_appears_is_imported(tmp_path, image, mask):
    absent = tmp_path / "late.nii.gz"
    assert run(tmp_path, case("P1", images_row(absent, mask))).ledger.loc["P1", "reason"] == "missing file"
    write(scan(), absent)
    assert run(tmp_path, case("P1", images_row(absent, mask))).ledger.loc["P1", "status"] == "included"


def test_the_same_input_gives_the_same_bytes(tmp_path):
    cases = two_patients(tmp_path)
    one, two = (run(tmp_path, *cases, name=name) for name in ("one", "two"))
    for name in ("P1/portal_image.nii.gz", "P1/portal_mask.nii.gz"):
        assert (one.folder / "imports" / name).read_bytes() == (two.folder / "imports" / name).read_bytes()
    assert one.rows["mask_sha256"].tolist() == two.rows["mask_sha256"].tolist()


# ---------------------------------------------------------------- acquisition and identity

SECRETS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "MRN4711",
    "OtherPatientIDs": "HKID-A55",
    "PatientBirthDate": "19561224",
    "PatientAddress": "Hidden Lane 5",
    "InstitutionName": "Saint Secret Hospital",
    "InstitutionAddress": "Petersgraben 4",
    "ReferringPhysicianName": "Watson^John",
    "AccessionNumber": "ACC9988",
    "StudyDate": "20210317",
    "AcquisitionDate": "20210317",
    "SeriesDescription": "portal Mustermann 20210317",
    "StudyInstanceUID": "1.2.840.99999.1",
    "SeriesInstanceUID": "1.2.840.99999.2",
    "ContrastBolusAgent": "Ultravist for Erika",
}
LEAKS = [
    *("Mustermann", "Erika", "MRN4711", "HKID", "19561224", "1956-12-24", "Hidden", "Secret", "Petersgraben"),
    *("Watson", "ACC9988", "20210317", "2021-03-17", "840.99999", "portal Mu"),
]
SCANNER = {
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "SOMATOM Force",
    "ConvolutionKernel": ["Br40d", "3"],
    "SliceThickness": "3",
    "KVP": "100",
    "XRayTubeCurrent": 210,
    "ExposureTime": 500,
    "AcquisitionTime": "140352.457000",
    "ContrastBolusStartTime": "140240.457",
}


def everything(folder: Path) -> bytes:
    return b"\n".join(
        str(path.relative_to(folder)).encode()
        + b"\n"
        + (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def test_a_dicom_series_leaves_its_scanner_and_not_its_patient(tmp_path, mask):
    write_dicom(scan(), tmp_path / "s", **(SECRETS | SCANNER))
    result = run(tmp_path, case("P1", images_row(tmp_path / "s", mask), index_date="2021-03-20"))
    found = result.acquisition.loc[0].to_dict()
    imported = result.rows.loc[0, ["image_sha256", "mask_sha256"]].to_dict()
    assert found == dict.fromkeys(COLUMNS, "") | imported | {
        "patient": "P1",
        "center": "A",
        "series": "portal",
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "SOMATOM Force",
        "ConvolutionKernel": "Br40d\\3",
        "PixelSpacing": "0.9\\0.8",
        "SliceThickness": "3",
        "Rows": "20",
        "Columns": "24",
        "KVP": "100",
        "XRayTubeCurrent": "210",
        "ExposureTime": "500",
        "delay_s": "72.0",
        "days_from_index": "-3",
        "spacing_x": "0.8",
        "spacing_y": "0.9",
        "spacing_z": "2.5",
        "size_x": "24",
        "size_y": "20",
        "size_z": "12",
    }
    out = everything(result.folder)
    assert [secret for secret in LEAKS if secret.encode() in out] == []


@pytest.mark.parametrize(
    ("reason", "chosen", "series_uid"),
    [
        ("ambiguous series", {}, ""),
        ("ambiguous series", {"description": "portal"}, ""),
        ("series not found", {}, "1.2.840.99999.7"),
        ("PET not in SUV", {"modality": "PT"}, "1.2.840.99999.2"),
    ],
)
def test_a_refused_series_leaves_its_texts_nowhere(tmp_path, mask, caplog, reason, chosen, series_uid):
    caplog.set_level(logging.INFO)
    for number in (2, 3):
        uid = {"SeriesInstanceUID": f"1.2.840.99999.{number}"}
        write_dicom(
            scan(), tmp_path / f"s/{number}", **(SECRETS | SCANNER | uid | {"modality": "PT", "Units": "ERIKA"})
        )
    row = images_row(tmp_path / "s", mask, series_uid=series_uid)
    result = run(tmp_path, case("P1", row), chosen=settings(portal=chosen))
    assert result.ledger.loc["P1", "reason"] == reason
    out = everything(result.folder) + caplog.text.encode()
    assert [secret for secret in (*LEAKS, "ERIKA") if secret.encode() in out] == []


@pytest.mark.parametrize(
    ("acquired", "bolus", "delay"),
    [
        ({"AcquisitionDateTime": "20200101101500"}, "101345", "75.0"),
        ({"AcquisitionDateTime": "20200101101500.250000+0800"}, "101344.750", "75.5"),
        ({"AcquisitionDateTime": "202001011015-0500"}, "101345", "75.0"),
        ({"AcquisitionDateTime": "20200101"}, "101345", ""),
        ({"AcquisitionDateTime": "2020-01-01T10:15:00.500000"}, "10:13:45", "75.5"),
        ({"AcquisitionTime": "101500.457000"}, "101345.057", "75.4"),
        ({"AcquisitionTime": "1015"}, "101345", "75.0"),
        ({"AcquisitionTime": "1015"}, "1014", "60.0"),
        ({"AcquisitionTime": "10"}, "0959", "60.0"),
        ({"AcquisitionTime": "20201530"}, "101345", ""),  # no TM
        ({"AcquisitionTime": "256000"}, "101345", ""),
        ({"AcquisitionTime": "000030"}, "235930", "60.0"),
        ({"AcquisitionTime": "", "AcquisitionDateTime": "20200101101500"}, "101345", "75.0"),
    ],
)
def test_the_delay_is_read_from_dicom_times_of_any_length(acquired, bolus, delay):
    found = describe_acquisition([acquired | {"ContrastBolusStartTime": bolus}], scan(), "")
    assert found["delay_s"] == delay


@pytest.mark.parametrize(("latest", "kept"), [(None, True), (16, True), (15, False), (0, False)])
def test_an_image_from_after_the_start_of_follow_up_excludes_its_patient(tmp_path, mask, latest, kept):
    write(scan(), tmp_path / "i.nii.gz")
    (tmp_path / "i.json").write_text(json.dumps({"Modality": "CT", "AcquisitionDate": "20210317"}))
    chosen = settings(portal={"latest_day": latest})
    result = run(tmp_path, case("P1", images_row(tmp_path / "i.nii.gz", mask), index_date="2021-03-01"), chosen=chosen)
    line = result.ledger.loc["P1"]
    assert (line.status == "included") == kept
    if not kept:
        assert (line.status, line.reason) == ("excluded", "image after the index date")
        assert f"16 days after the index date; expected at most {latest}" in line.detail


def test_a_sidecar_leaves_its_scanner_and_not_its_patient(tmp_path, mask):
    image = scan()
    sidecar = SECRETS | {
        "Modality": "MR",
        "Manufacturer": "Philips",
        "ManufacturersModelName": "Ingenia of Erika",
        "MagneticFieldStrength": 3,
        "RepetitionTime": 0.0041,
        "EchoTime": 0.0019,
        "FlipAngle": "not a number: Erika",
    }
    write(image, tmp_path / "i.nii.gz")
    (tmp_path / "i.json").write_text(json.dumps(sidecar))
    raw = bytearray(gzip.decompress((tmp_path / "i.nii.gz").read_bytes()))
    raw[148:158] = b"Mustermann"  # descrip
    (tmp_path / "i.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    chosen = settings(portal={"modality": "MR"})
    result = run(tmp_path, case("P1", images_row(tmp_path / "i.nii.gz", mask), index_date="2021-03-01"), chosen=chosen)
    found = result.acquisition.loc[0]
    assert (found.Manufacturer, found.ManufacturerModelName) == ("Philips", "")
    assert (found.MagneticFieldStrength, found.RepetitionTime, found.EchoTime, found.FlipAngle) == (
        "3",
        "4.1",
        "1.9",
        "",
    )
    assert (found.days_from_index, found.spacing_z, found.size_z) == ("16", "2.5", "12")
    out = everything(result.folder)
    assert [secret for secret in LEAKS if secret.encode() in out] == []


def test_acquisition_rows_survive_a_resume(tmp_path, mask):
    write_dicom(scan(), tmp_path / "s", **SCANNER)
    item = case("P1", images_row(tmp_path / "s", mask))
    before, after = run(tmp_path, item).acquisition, run(tmp_path, item).acquisition
    pd.testing.assert_frame_equal(before, after)
    assert after.loc[0, "KVP"] == "100"


def test_an_edited_sidecar_is_noticed(tmp_path, image, mask):
    item = case("P1", images_row(image, mask))
    assert run(tmp_path, item).acquisition.loc[0, "KVP"] == ""
    (tmp_path / "image.json").write_text('{"KVP": 120}')
    assert run(tmp_path, item).acquisition.loc[0, "KVP"] == "120"


# ---------------------------------------------------------------- PET

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


# ---------------------------------------------------------------- real images


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


def header_of(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)
