"""Phantoms of known place and value in every format, and the import stage run on them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pandas as pd
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hccstudy.imports import import_batch

SIZE = (24, 20, 12)
SPACING = (0.8, 0.9, 2.5)
FRAME = "1.2.826.0.1.3680043.8.498.88"
OBLIQUE = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]
OBLIQUE = OBLIQUE * np.sign(np.diag(OBLIQUE))  # a rotation of some 20 degrees


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


def relabeled(tmp_path: Path, mapping: dict[int, int]) -> str:
    array = sitk.GetArrayFromImage(labels())
    result = np.zeros_like(array)
    for old, new in mapping.items():
        result[array == old] = new
    return write(grid(result), tmp_path / "mask_.nii.gz")


def segments() -> dict[str, np.ndarray]:
    array = sitk.GetArrayFromImage(labels())
    return {"Liver": array > 0, "HCC": array == 1, "Lesions": array == 3}  # overlapping


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


# ---------------------------------------------------------------- spoiled files


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


def replace(path: Path, old: bytes, new: bytes) -> str:
    raw = Path(write(scan(), path, False)).read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new))
    return str(path)


def written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


# ---------------------------------------------------------------- contours

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


def everything(folder: Path) -> bytes:
    return b"\n".join(
        str(path.relative_to(folder)).encode()
        + b"\n"
        + (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def header_of(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)
