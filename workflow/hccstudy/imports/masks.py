"""Masks from image files, DICOM SEG and RTSTRUCT, brought onto the image's grid as one label map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from hccstudy.errors import CaseError
from hccstudy.imports.dicom import check_length, check_stack, read_dicom, read_series, volume_image
from hccstudy.imports.geometry import Floats, place, rasterize
from hccstudy.imports.images import ENDINGS, is_image_file, read_image_file, unreadable

TUMOR, LIVER, LESIONS = 1, 2, 3
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
WIDEST = 2**16
MOST_LABELS = 255

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """What a mask file offers: the names of its labels by number, and a way to draw one on the image's grid.

    In image files the numbers are the user's convention (settings `labels`); in SEG and RTSTRUCT they are
    mere counters and the names count, so `numbered` is False.
    """

    file: Path
    names: Mapping[int, str]
    numbered: bool
    frame: str  # FrameOfReferenceUID, "" where unknown
    draw: Callable[[int, bool], Mask]  # label number, must it lie wholly within the image

    def listing(self) -> str:
        """Its labels by number: names may tell who the patient is."""
        told = ", ".join(map(str, list(self.names)[:20])) + (
            f", ... ({len(self.names)} in all)" * (len(self.names) > 20)
        )
        return f"label {told}" + ("" if self.numbered else " (`hccstudy look` on it shows their names)")

    def named(self, name: str) -> list[int]:
        return [n for n, found in self.names.items() if found.strip().casefold() == name.strip().casefold()]


def label_map(
    image: sitk.Image, frame: str, row: Mapping[str, str], labels: Mapping[str, int | None]
) -> NDArray[np.uint8]:
    """The canonical mask of one images row on the grid of `image`: 0 background, 1 tumor, 2 liver, 3 other
    lesions.

    `row` has the cells mask, label, liver_mask and lesions_mask, `labels` the study's values of tumor, liver
    and lesions in masks. `frame` is the image's FrameOfReferenceUID. Where regions overlap, the tumor goes
    before other lesions, and these before the liver. In SEG and RTSTRUCT files the liver and the lesions are
    what is so named.
    """
    source = open_labels(Path(row["mask"]), image, frame)
    tumor = _tumor_label(source, row["label"], labels)
    parts = {TUMOR: source.draw(tumor, True)}
    if parts[TUMOR].all():
        found = f"label {tumor} is every voxel of the image"
        raise CaseError("mask covers the whole image", f"{source.file}: {found}; expected a tumor in it")
    for value, name in ((LIVER, "liver"), (LESIONS, "lesions")):
        if row[f"{name}_mask"]:
            parts[value] = _separate(Path(row[f"{name}_mask"]), image, frame, name)
        else:
            numbers = [labels.get(name)] if source.numbered else source.named(name)
            drawn = [source.draw(n, False) for n in numbers if n is not None and n in source.names and n != tumor]
            if drawn:
                parts[value] = np.logical_or.reduce(drawn)
    result = np.zeros(parts[TUMOR].shape, dtype=np.uint8)
    for value in (LIVER, LESIONS, TUMOR):
        if value in parts:
            result[parts[value]] = value
    return result


def open_labels(path: Path, image: sitk.Image, frame: str) -> Labels:
    """Look into a mask file of any kind. A folder with a single file is that file, else a DICOM series of
    labels.
    """
    inside = [item for item in path.iterdir() if item.is_file()] if path.is_dir() else []
    file = inside[0] if len(inside) == 1 else path
    if is_image_file(file):
        return _from_image(file, read_image_file(file, "mask"), "", image)
    if file.is_dir():
        series = read_series(file, "", "", "mask")
        source = _from_image(file, series.image, series.frame, image)
    else:
        try:
            with unreadable(file, "mask"):
                modality = read_dicom(file, stop_before_pixels=True).get("Modality")
        except InvalidDicomError as error:
            raise CaseError(
                "unknown mask format", f"{file}: not DICOM; expected SEG, RTSTRUCT or {', '.join(ENDINGS)}"
            ) from error
        if modality == "SEG":
            source = _from_seg(file, image)
        elif modality == "RTSTRUCT":
            source = _from_rtstruct(file, image, frame)
        else:
            raise CaseError(
                "unknown mask format",
                f"{file}: a DICOM file of modality {modality}; expected SEG, RTSTRUCT or an image file",
            )
    if frame and source.frame and frame != source.frame:
        raise _other_frame(str(file))
    return source


def _other_frame(where: str) -> CaseError:
    found = "its FrameOfReferenceUID is not that of the image"
    return CaseError(
        "other frame of reference", f"{where}: {found}; expected a mask that was drawn in the image's coordinates"
    )


def _tumor_label(source: Labels, label: str, labels: Mapping[str, int | None]) -> int:
    """The number of the tumor's label: the user's `label`, else the only one, else the study's value."""
    if not source.names:
        raise CaseError("empty mask", f"{source.file}: it holds no label; expected a tumor")
    if label:
        number = _whole_number(label)
        found = source.named(label)
        if number is not None and number in source.names and (source.numbered or not found):
            return number
        expected = "the label that column label names"
    else:
        others = {labels.get("liver"), labels.get("lesions")} if source.numbered else set()
        found = [number for number in source.names if number not in others]
        if len(source.names) > 1:
            found = [number for number in source.names if source.numbered and number == labels["tumor"]]
        expected = (
            f"tumor label {labels['tumor']}" if source.numbered else "one label, or the tumor's name in column label"
        )
    if len(found) > 1:
        several = f"labels {', '.join(map(str, found))} have that name"
        raise CaseError(
            "label not in mask", f"{source.file}: {several}; expected one, or the number of one in column label"
        )
    if not found:
        raise CaseError("label not in mask", f"{source.file}: it holds {source.listing()}; expected {expected}")
    return found[0]


def _whole_number(text: str) -> int | None:
    try:
        value = float(text)  # spreadsheets write 2 as 2.0
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _separate(path: Path, image: sitk.Image, frame: str, name: str) -> Mask:
    """A mask file of the liver or the lesions: all labels of an image file, what SEG or RTSTRUCT so names."""
    source = open_labels(path, image, frame)
    chosen = list(source.names) if source.numbered or len(source.names) == 1 else source.named(name)
    if not source.names:
        raise CaseError("empty mask", f"{path}: it holds no label; expected the {name}")
    if not chosen:
        raise CaseError("label not in mask", f"{path}: it holds {source.listing()}; expected one named {name!r}")
    return np.logical_or.reduce([source.draw(number, False) for number in chosen])


def _from_image(file: Path, mask: sitk.Image, frame: str, image: sitk.Image) -> Labels:
    array = sitk.GetArrayFromImage(mask)
    if array.dtype.kind == "f" and (not np.isfinite(array).all() or (array != np.rint(array)).any()):
        raise CaseError(
            "mask is not a label map",
            f"{file}: it holds values such as {_odd(array)}; expected whole numbers",
        )
    low, high = int(array.min()), int(array.max())
    if high - low >= WIDEST:
        raise CaseError("mask is not a label map", f"{file}: its values run from {low} to {high}; expected labels")
    counts = np.zeros(high - low + 1, dtype=np.int64)
    for plane in array:  # np.unique would sort the volume
        counts += np.bincount(plane.ravel().astype(np.int64) - low, minlength=len(counts))
    names = {int(n) + low: str(int(n) + low) for n in np.flatnonzero(counts) if int(n) + low != 0}
    if low < 0 or len(names) > MOST_LABELS:
        found = f"{len(names)} different values from {low} to {high}"
        raise CaseError("mask is not a label map", f"{file}: it holds {found}, as an image does; expected labels")

    def draw(number: int, whole: bool) -> Mask:
        binary = sitk.GetImageFromArray((array == number).astype(np.uint8))
        binary.CopyInformation(mask)
        return place(binary, image, f"{file} label {number}", whole=whole)

    return Labels(file, names, True, frame, draw)


def _odd(array: NDArray[Any]) -> float:
    return float(array[~np.isfinite(array) | (array != np.rint(array))][0])


def _from_seg(file: Path, image: sitk.Image) -> Labels:
    import highdicom  # slow to import, and most masks are no SEG

    with unreadable(file, "mask"):
        content = read_dicom(file)
        check_length(content)
        dataset = highdicom.seg.Segmentation.from_dataset(content, copy=False)
        # In a LABELMAP segmentation segment 0 is the background.
        names = {
            int(n): str(dataset.get_segment_description(n).segment_label) for n in dataset.segment_numbers if n > 0
        }

    def draw(number: int, whole: bool) -> Mask:
        with unreadable(file, "mask"):
            check_stack(dataset)
            volume = dataset.get_volume(segment_numbers=[number])
            binary = volume_image((volume.array[..., 0] >= 0.5).astype(np.uint8), volume)  # fractional ones too
        where = f"{file} segment {number}"
        if not sitk.GetArrayViewFromImage(binary).any():
            raise CaseError("empty mask", f"{where}: no voxel is set; expected a region")
        return place(binary, image, where, whole=whole)

    return Labels(file, names, False, str(dataset.get("FrameOfReferenceUID") or ""), draw)


def _from_rtstruct(file: Path, image: sitk.Image, frame: str) -> Labels:
    with unreadable(file, "mask"):
        dataset = read_dicom(file)
        rois = {int(roi.ROINumber): roi for roi in dataset.get("StructureSetROISequence") or []}
        names = {number: str(roi.get("ROIName") or "") for number, roi in rois.items()}
        frames = {number: str(roi.get("ReferencedFrameOfReferenceUID") or "") for number, roi in rois.items()}
        contours = {
            int(item.ReferencedROINumber): list(item.get("ContourSequence") or [])
            for item in dataset.get("ROIContourSequence") or []
        }
        for keyword, found in (("StructureSetROISequence", rois), ("ROIContourSequence", contours)):
            if len(found) < len(dataset.get(keyword) or []):
                raise ValueError(f"two items of its {keyword} have one number; expected a number for each")

    def draw(number: int, whole: bool) -> Mask:
        where = f"{file} ROI {number}"
        stored = contours.get(number, [])
        if not stored:
            raise CaseError("empty mask", f"{where}: it has no contour; expected a region")
        if frame and frames[number] not in ("", frame):
            raise _other_frame(where)
        with unreadable(file, "mask"):
            points = _closed_contours(stored, where)
        if not points:
            kinds = sorted({str(item.get("ContourGeometricType")) for item in stored})
            raise CaseError("empty mask", f"{where}: {', '.join(kinds)} encloses nothing; expected closed contours")
        drawn = rasterize(points, image, where, whole=whole)
        if not drawn.any():
            raise CaseError("empty mask", f"{where}: its {len(points)} contours enclose no voxel center")
        return drawn

    return Labels(file, names, False, "", draw)


def _closed_contours(stored: Sequence[pydicom.Dataset], where: str) -> list[Floats]:
    """The points (n x 3, mm) of the contours that enclose something; points are passed over, open contours refused."""
    closed = [item for item in stored if item.get("ContourGeometricType") in CLOSED]
    others = [item for item in stored if item.get("ContourGeometricType") not in (*CLOSED, "POINT")]
    if closed and others:
        found = f"{len(others)} of {len(stored)} contours are not closed"
        raise CaseError("open contours", f"{where}: {found}; expected {' or '.join(CLOSED)}")
    found_points = []
    for number, item in enumerate(closed, start=1):
        values = np.asarray(item.ContourData, dtype=float)
        if values.size % 3:
            raise ValueError(f"contour {number} has {values.size} coordinates; expected three for each point")
        points = values.reshape(-1, 3)
        count = item.get("NumberOfContourPoints")
        if count is not None and int(count) != len(points):
            raise ValueError(f"contour {number} has {len(points)} points; expected {count} by its header")
        if not np.isfinite(points).all():
            raise ValueError(f"contour {number} has a point that is NaN or infinite; expected mm")
        found_points.append(points)
    return [points for points in found_points if len(points) > 2]
