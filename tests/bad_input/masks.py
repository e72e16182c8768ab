"""Bad masks: image files, DICOM SEG and RTSTRUCT, through `imports` and, where it shows only there, the stages behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import SimpleITK as sitk

from bad_input import BadInput, Told
from bad_input.images import HTML, JPEG, MASK, PLACE, Make, headed, imported, with_voxels, zeros
from hccstudy.preprocess import preprocess_batch
from hccstudy.regions import make_regions_batch
from imports.phantoms import (
    FRAME,
    INNER,
    OUTER,
    SPACING,
    case,
    circle,
    edit,
    grid,
    images_row,
    labels,
    plain,
    run,
    scan,
    segments,
    write,
    write_dicom,
    write_rtstruct,
    write_seg,
    written,
)
from test_preprocess import series as preprocess_series

MISSHAPEN = "mask is not a label map"
UNREADABLE = "truncated or unreadable mask"
ELSEWHERE = "mask on another grid"

# ---------------------------------------------------------------- image files


def array_of(values: np.ndarray, name: str = "m.nii.gz") -> Make:
    return lambda folder: write(grid(values), folder / name)


def only(*bounds: tuple[int, int], value: float = 1, dtype: Any = np.uint8) -> np.ndarray:
    """A box (z, y, x) of one value."""
    values = np.zeros(MASK.shape, dtype)
    values[tuple(slice(*ends) for ends in bounds)] = value
    return values


def image_of(build: Callable[[], sitk.Image], name: str = "m.nrrd") -> Make:
    return lambda folder: write(build(), folder / name)


def shifted(mm: float) -> sitk.Image:
    image = labels()
    image.SetOrigin((image.GetOrigin()[0] + mm, *image.GetOrigin()[1:]))
    return image


def respaced(factor: float) -> sitk.Image:
    image = labels()
    image.SetSpacing([factor * side for side in image.GetSpacing()])
    return image


def turned() -> sitk.Image:
    image = labels()
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def probabilities() -> np.ndarray:
    z, y, x = np.indices(MASK.shape)
    return np.exp(-((z - 5) ** 2 + (y - 7) ** 2 + (x - 9) ** 2) / 30).astype(np.float32)


def cut(folder: Path) -> str:
    raw = Path(write(labels(), folder / "m.nii.gz")).read_bytes()
    return written(folder / "m.nii.gz", raw[:-1])


def folder_of_two(folder: Path) -> str:
    write(labels(), folder / "masks" / "a.nii.gz")
    write(labels(), folder / "masks" / "b.nii.gz")
    return str(folder / "masks")


def of(name: str, data: bytes) -> Make:
    return lambda folder: written(folder / name, data)


FILES: list[tuple[str, Make, tuple[str, ...]]] = [
    ("empty", array_of(0 * MASK), ("empty mask", "every voxel is 0; expected a region")),
    ("empty, in MetaImage", array_of(0 * MASK, "m.mha"), ("empty mask", "every voxel is 0; expected a region")),
    ("full", array_of(0 * MASK + 1), ("mask covers the whole image", "every voxel", "expected a tumor")),
    ("1 GB of zeros in 1 MB", zeros("m.nii.gz", (1024, 1024, 1023)), ("empty mask", "every voxel is 0")),
    (
        "1000 voxels a side",
        lambda p: headed(p / "m.nii.gz", (42, "3h", (1000,) * 3), image=labels()),
        (UNREADABLE, "bytes"),
    ),
    ("values of 0.5", array_of(0.5 * (MASK == 1).astype(np.float32)), (MISSHAPEN, "such as 0.5", "whole numbers")),
    ("probabilities", array_of(probabilities()), (MISSHAPEN, "expected whole numbers")),
    ("NaN", image_of(lambda: with_voxels(np.nan)), (MISSHAPEN, "such as nan")),
    ("NaN, in NIfTI", image_of(lambda: with_voxels(np.nan), "m.nii.gz"), ("non-finite voxels", "1 voxels are NaN")),
    ("negative labels", array_of(-MASK.astype(np.int16)), (MISSHAPEN, "from -3 to 0", "expected labels")),
    ("the image instead", image_of(scan), (MISSHAPEN, "as an image does")),
    (
        "300 labels",
        array_of(np.arange(MASK.size).reshape(MASK.shape) % 301),
        (MISSHAPEN, "300 different values from 0 to 300"),
    ),
    (
        "labels up to 2**40",
        array_of(only((2, 4), (3, 5), (4, 6), value=2**40, dtype=np.int64)),
        (MISSHAPEN, "run from 0 to 1099511627776"),
    ),
    (
        "labels up to 2**63",
        array_of(only((2, 4), (3, 5), (4, 6), value=2**63, dtype=np.uint64), "m.nrrd"),
        (MISSHAPEN, "9223372036854775808"),
    ),
    ("the liver alone", array_of(2 * (MASK == 2).astype(np.uint8)), ("label not in mask", "holds label 2", "expected")),
    ("another spacing", image_of(lambda: respaced(0.5)), (ELSEWHERE, "0.4x0.45x1.25 mm", "0.8x0.9x2.5 mm")),
    ("half a voxel aside", image_of(lambda: shifted(0.4)), (ELSEWHERE, "copy the header")),
    ("half a meter aside", image_of(lambda: shifted(500)[1:, :, :]), (ELSEWHERE, "0% of it lies within the image")),
    ("turned by 180 degrees", image_of(turned), (ELSEWHERE, "axes RAS")),
    (
        "four dimensions",
        image_of(lambda: sitk.JoinSeries([labels(), labels()]), "m.nii.gz"),
        ("4-D image", "three dimensions"),
    ),
    ("one plane", image_of(lambda: labels()[:, :, 5]), ("not a 3-D image", "(24, 20)")),
    ("color", image_of(lambda: sitk.Compose(labels(), labels(), labels())), ("not a 3-D image", "3 value(s)")),
    ("cut by one byte", cut, (UNREADABLE, "ended before")),
    ("JPEG", of("m.jpg", JPEG), ("unknown mask format", "not DICOM; expected SEG, RTSTRUCT")),
    ("HTML of a failed download", of("m.dcm", HTML), ("unknown mask format", "not DICOM; expected SEG")),
    ("empty file", of("m.nrrd", b""), (UNREADABLE,)),
    ("empty DICOM file", of("m.dcm", b""), ("mask", "expected")),
    ("folder of two masks", folder_of_two, ("no DICOM series", "none of 2 file(s)")),
    ("no such file", lambda p: p / "absent.nii.gz", ("missing file", "no such mask file")),
]
WORKS: list[tuple[str, Make, np.ndarray]] = [
    ("one voxel", array_of(only((5, 6), (7, 8), (9, 10))), only((5, 6), (7, 8), (9, 10))),
    ("one slice", array_of(only((5, 6), (3, 9), (4, 12))), only((5, 6), (3, 9), (4, 12))),
    ("255 for 1, as float", array_of(255 * (MASK == 1).astype(np.float32)), (MASK == 1).astype(np.uint8)),
    ("64-bit labels", array_of(MASK.astype(np.int64)), MASK),
    ("other axis order", image_of(lambda: sitk.DICOMOrient(labels(), "SAR")), MASK),
    ("all but one voxel of the image", array_of(1 - only((0, 1), (0, 1), (0, 1))), 1 - only((0, 1), (0, 1), (0, 1))),
]


def of_file(make: Make, folder: Path, **cells: Any) -> Told:
    return imported(folder, write(scan(), folder / "i.nii.gz"), make(folder), **cells)


def of_liver(values: np.ndarray, folder: Path) -> Told:
    """A mask of the liver in a file of its own."""
    liver = write(grid(values), folder / "liver.nii.gz")
    tumor = write(grid((MASK == 1).astype(np.uint8)), folder / "m.nii.gz")
    return imported(folder, write(scan(), folder / "i.nii.gz"), tumor, liver_mask=liver)


# ---------------------------------------------------------------- the stages behind


def measured(values: np.ndarray, folder: Path, spacing: float = 1.0, minimum: int = 27) -> Told:
    """A mask that is imported well and lost in preprocess or regions; the good patient gets its regions."""
    image = write(scan(), folder / "i.nii.gz")
    rows = {
        "BAD": images_row(image, write(grid(values), folder / "b.nii.gz"), row="8"),
        "GOOD": images_row(image, write(labels(), folder / "g.nii.gz"), row="3"),
    }
    run(folder, *(case(patient, row) for patient, row in rows.items()))
    files = {"table": str(folder / "p.tsv"), "ledger": str(folder / "p_ledger.tsv")}
    series = {"portal": preprocess_series(spacing=(spacing,) * 3)}
    settings: dict[str, Any] = {"series": series, "margin_mm": 10, "mode": "ibsi"}
    preprocess_batch(cases=str(folder / "out" / "table.tsv"), settings=settings, folder=str(folder / "p"), **files)
    settings = {"rings": {}, "minimum_voxels": minimum, "resegment": {"portal": {"range": None, "sigma": None}}}
    ends = {"table": str(folder / "r.tsv"), "ledger": str(folder / "r_ledger.tsv")}
    make_regions_batch(cases=files["table"], settings=settings, folder=str(folder / "r"), **ends)
    lines = pd.concat([pd.read_csv(folder / f"{stage}_ledger.tsv", sep="\t", keep_default_na=False) for stage in "pr"])
    regions = pd.read_csv(ends["table"], sep="\t")
    good = regions[regions["patient"] == "GOOD"]
    volume = float((MASK == 1).sum() * np.prod(SPACING))
    assert len(good) == 1
    if spacing == 1:
        np.testing.assert_allclose(good["volume_mm3"], volume, rtol=0.1)
    lost = lines[(lines["patient"] == "BAD") & (lines["status"] != "included")]
    if lost.empty:
        return Told("works")
    assert "BAD" not in regions["patient"].tolist() and len(lost) == 1
    return Told("ledger", f"{lost['reason'].iloc[0]}: {lost['detail'].iloc[0]}")


# ---------------------------------------------------------------- DICOM SEG


def with_series(folder: Path) -> list[Path]:
    return write_dicom(scan(), folder / "s", FrameOfReferenceUID=FRAME, SliceThickness="2.5")


def seg(folder: Path, spoil: Callable[[Path], Any] = lambda path: None, **options: Any) -> Path:
    path = Path(
        write_seg(folder / "m.dcm", options.get("of") or with_series(folder), options.get("parts") or segments())
    )
    spoil(path)
    return path


def of_seg(
    folder: Path,
    spoil: Callable[[Path], Any] = lambda path: None,
    label: str = "HCC",
    drawn: Any = MASK,
    **options: Any,
) -> Told:
    path = seg(folder, spoil, **options)
    return imported(folder, folder / "s", path, label=label, drawn=drawn)


def of_other_place(folder: Path) -> Told:
    other = write_dicom(scan(), folder / "other", SliceThickness="2.5")
    with_series(folder)
    return of_seg(folder, of=other)


def of_sister_series(folder: Path) -> Told:
    """A segmentation of another series in the same coordinates lies where it says."""
    other = write_dicom(scan(seed=9), folder / "arterial", FrameOfReferenceUID=FRAME, SliceThickness="2.5")
    with_series(folder)
    return of_seg(folder, of=other)


def fractional(folder: Path, largest: float = 1.0) -> Path:
    """Fractions of the tumor: 0.8 in it, 0.3 beside it."""
    fractions = largest * np.where(MASK == 1, 0.8, np.where(MASK == 2, 0.3, 0.0))
    write_seg(folder / "m.dcm", with_series(folder), {"HCC": fractions}, "FRACTIONAL")
    return folder / "m.dcm"


def of_fractions(folder: Path, largest: float = 1.0) -> Told:
    path = fractional(folder, largest)
    return imported(folder, folder / "s", path, drawn=(MASK == 1).astype(np.uint8))


def less_frames(path: Path) -> None:
    edit(path, NumberOfFrames=int(pydicom.dcmread(path).NumberOfFrames) - 1)


def without_places(path: Path) -> None:
    data = pydicom.dcmread(path)
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    data.save_as(path)


def far_away(path: Path) -> None:
    data = pydicom.dcmread(path)
    place = data.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    place.ImagePositionPatient = [*place.ImagePositionPatient[:2], 2.5e6]
    data.save_as(path)


def without_description(path: Path) -> None:
    data = pydicom.dcmread(path)
    del data.SegmentSequence
    data.save_as(path)


SEGS: list[tuple[str, Callable[[Path], Told], tuple[str, ...]]] = [
    ("another frame of reference", of_other_place, ("other frame of reference", "FrameOfReferenceUID")),
    ("no such segment", partial(of_seg, label="Spleen"), ("label not in mask", "holds label 1, 2, 3")),
    ("no such number", partial(of_seg, label="9"), ("label not in mask", "holds label 1, 2, 3")),
    ("no choice of three", partial(of_seg, label=""), ("label not in mask", "expected one label")),
    (
        "an empty segment",
        partial(of_seg, parts={"Liver": MASK > 0, "HCC": np.zeros(MASK.shape, bool)}),
        ("empty mask", "segment 2"),
    ),
    (
        "two segments of one name",
        partial(of_seg, parts={"HCC": MASK == 1, "hcc ": MASK == 3}),
        ("label not in mask", "labels 1, 2 have that name", "expected"),
    ),
    ("cut in the pixels", partial(of_seg, spoil=lambda p: p.write_bytes(p.read_bytes()[:-50])), (UNREADABLE, "bytes")),
    ("cut in the header", partial(of_seg, spoil=lambda p: p.write_bytes(p.read_bytes()[:900])), ()),
    ("a frame 2.5 km away", partial(of_seg, spoil=far_away), (UNREADABLE, "slices; expected at most 10000")),
    ("a frame less than said", partial(of_seg, spoil=less_frames), (UNREADABLE, "bytes of pixels; expected")),
    (
        "100000 frames",
        partial(of_seg, spoil=lambda p: edit(p, NumberOfFrames=100000)),
        (UNREADABLE, "expected 6000000 by"),
    ),
    (
        "65535 x 65535 pixels",
        partial(of_seg, spoil=lambda p: edit(p, Rows=65535, Columns=65535)),
        (UNREADABLE, "840 bytes"),
    ),
    (
        "frames without a place",
        partial(of_seg, spoil=without_places),
        (UNREADABLE, "it has no PlanePositionSequence; expected"),
    ),
    (
        "no description of segments",
        partial(of_seg, spoil=without_description),
        (UNREADABLE, "it has no SegmentSequence"),
    ),
    (
        "a CT slice",
        lambda p: imported(p, write(scan(), p / "i.nii.gz"), with_series(p)[0]),
        ("unknown mask format", "expected SEG"),
    ),
    ("fractions below a half", partial(of_fractions, largest=0.5), ("empty mask", "segment 1")),
]
SEGS_WORK: list[tuple[str, Callable[[Path], Told]]] = [
    ("overlapping segments", of_seg),
    ("fractions", of_fractions),
    ("of a sister series", of_sister_series),
    (
        "two segments named liver",
        partial(
            of_seg,
            parts={
                "HCC": MASK == 1,
                "Liver": (MASK == 2) & (np.indices(MASK.shape)[2] < 12),
                "liver": (MASK == 2) & (np.indices(MASK.shape)[2] >= 12),
            },
            drawn=np.where(MASK == 3, 0, MASK),
        ),
    ),
]

# ---------------------------------------------------------------- RTSTRUCT


def tube(image: sitk.Image, slices: Sequence[int] = range(2, 9)) -> list[np.ndarray]:
    return [circle((26.4, 25.7), radius, SPACING[2] * k, image) for k in slices for radius in (OUTER, INNER)]


def drawn_tube() -> np.ndarray:
    """The voxels whose centers the contours enclose, from the formula of a ring."""
    z, y, x = np.indices(sitk.GetArrayFromImage(plain()).shape)
    radius = np.hypot(SPACING[0] * x - 26.4, SPACING[1] * y - 25.7)
    return ((radius <= OUTER) & (radius > INNER) & (z >= 2) & (z < 9)).astype(np.uint8)


def of_contours(
    folder: Path,
    contours: Callable[[sitk.Image], list[np.ndarray]] = tube,
    spoil: Callable[[pydicom.Dataset], Any] = lambda data: None,
    label: str = "GTV",
    frame: str = FRAME,
    others: dict[str, list[np.ndarray]] | None = None,
) -> Told:
    write_dicom(plain(), folder / "s", FrameOfReferenceUID=FRAME)
    path = write_rtstruct(folder / "rt.dcm", {"GTV": contours(plain())} | (others or {}), frame)
    data = pydicom.dcmread(path)
    spoil(data)
    data.save_as(path)
    right = sitk.GetArrayFromImage(plain())
    return imported(folder, folder / "s", path, label=label, right=right, drawn=drawn_tube())


def first(data: pydicom.Dataset) -> pydicom.Dataset:
    return data.ROIContourSequence[0].ContourSequence[0]


def said(keyword: str, value: Any) -> Callable[[pydicom.Dataset], None]:
    """Another value of the first contour."""
    return lambda data: setattr(first(data), keyword, value)


def warped(image: sitk.Image) -> list[np.ndarray]:
    contours = tube(image)
    contours[4] = contours[4] + np.outer(np.arange(len(contours[4])) % 2, [0, 0, 1.2])
    return contours


def not_a_number(data: pydicom.Dataset) -> None:
    with pydicom.config.disable_value_validation():
        first(data).ContourData = ["NaN", *map(str, first(data).ContourData[1:])]


def odd_count(data: pydicom.Dataset) -> None:
    first(data).ContourData = list(first(data).ContourData)[:-1]


def points_lost(data: pydicom.Dataset) -> None:
    first(data).ContourData = list(first(data).ContourData)[:-30]


def renamed(data: pydicom.Dataset) -> None:
    data.StructureSetROISequence[1].ROIName = "GTV"


def renumbered(data: pydicom.Dataset) -> None:
    data.StructureSetROISequence[1].ROINumber = 1


def another_frame(data: pydicom.Dataset) -> None:
    data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"


def lone_points(data: pydicom.Dataset) -> None:
    """Reference points and one-point contours beside the contours: they enclose nothing."""
    for kind in ("POINT", "CLOSED_PLANAR"):
        point = pydicom.Dataset()
        point.ContourGeometricType, point.NumberOfContourPoints = kind, 1
        point.ContourData = list(first(data).ContourData)[:3]
        data.ROIContourSequence[0].ContourSequence.append(point)


def no_contours(data: pydicom.Dataset) -> None:
    del data.ROIContourSequence


OTHER = {"CTV": [circle((26.4, 25.7), 5.0, 5.0, plain())]}
CONTOURS: list[tuple[str, Callable[[Path], Told], tuple[str, ...]]] = [
    ("no contours", partial(of_contours, contours=lambda image: []), ("empty mask", "no contour; expected a region")),
    ("no sequence of contours", partial(of_contours, spoil=no_contours), ("empty mask", "no contour")),
    (
        "outside",
        partial(of_contours, contours=lambda i: [c + np.array([300, 0, 0]) for c in tube(i)]),
        (ELSEWHERE, "0% of the contour points"),
    ),
    (
        "half outside",
        partial(of_contours, contours=lambda i: [c - np.array([26, 0, 0]) for c in tube(i)]),
        (ELSEWHERE, "% of the contour"),
    ),
    (
        "between slices",
        partial(of_contours, contours=lambda i: [c + np.array([0, 0, 1.2]) for c in tube(i)]),
        (ELSEWHERE, "on no slice"),
    ),
    (
        "every other slice",
        partial(of_contours, contours=lambda i: tube(i, (1, 3, 5, 7))),
        ("contours skip slices", "2 apart"),
    ),
    ("not planar", partial(of_contours, contours=warped), (ELSEWHERE, "not parallel to the slices")),
    (
        "open contours among closed",
        partial(of_contours, spoil=said("ContourGeometricType", "OPEN_PLANAR")),
        ("open contours", "1 of 14 contours are not closed", "expected CLOSED_PLANAR"),
    ),
    (
        "a contour of no kind",
        partial(of_contours, spoil=lambda d: delattr(first(d), "ContourGeometricType")),
        ("open contours", "1 of 14"),
    ),
    (
        "single points alone",
        partial(of_contours, contours=lambda i: [c[:1] for c in tube(i)]),
        ("empty mask", "closed"),
    ),
    ("NaN among the points", partial(of_contours, spoil=not_a_number), (UNREADABLE, "contour 1", "NaN")),
    (
        "a coordinate missing",
        partial(of_contours, spoil=odd_count),
        (UNREADABLE, "539 coordinates; expected three for each point"),
    ),
    ("points lost", partial(of_contours, spoil=points_lost), (UNREADABLE, "170 points; expected 180")),
    (
        "two ROIs of one name",
        partial(of_contours, spoil=renamed, others=OTHER),
        ("label not in mask", "labels 1, 2 have that name"),
    ),
    ("two ROIs of one number", partial(of_contours, spoil=renumbered, others=OTHER), (UNREADABLE, "one number")),
    ("another frame of reference", partial(of_contours, frame="1.2.3"), ("other frame of reference",)),
    (
        "another frame of reference for one ROI of two",
        partial(of_contours, spoil=another_frame, others=OTHER),
        ("other frame of reference", "ROI 1"),
    ),
    ("no such ROI", partial(of_contours, label="Spleen"), ("label not in mask", "holds label 1")),
    (
        "no ROI",
        partial(of_contours, spoil=lambda d: setattr(d, "StructureSetROISequence", [])),
        ("empty mask", "no label"),
    ),
]
CONTOURS_WORK: list[tuple[str, Callable[[Path], Told]]] = [
    ("a tube", of_contours),
    ("points beside the contours", partial(of_contours, spoil=lone_points)),
    (
        "another frame of reference for an ROI not asked for",
        partial(
            of_contours,
            spoil=lambda d: setattr(d.StructureSetROISequence[1], "ReferencedFrameOfReferenceUID", "1.2.3"),
            others=OTHER,
        ),
    ),
]


def unreadable_bytes(folder: Path) -> Told:
    """A structure set whose second half is noise."""
    write_dicom(plain(), folder / "s", FrameOfReferenceUID=FRAME)
    path = Path(write_rtstruct(folder / "rt.dcm", {"GTV": tube(plain())}, FRAME))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + np.random.default_rng(0).bytes(len(raw) // 2))
    return imported(folder, folder / "s", path, label="GTV")


CASES = [
    *(
        BadInput("mask image", name, partial(of_file, make), "ledger", (PLACE[0], "column mask", *says))
        for name, make, says in FILES
    ),
    *(BadInput("mask image", name, partial(of_file, make, drawn=drawn), "works") for name, make, drawn in WORKS),
    BadInput(
        "mask image",
        "label that the file has not",
        partial(of_file, lambda folder: write(labels(), folder / "m.nii.gz"), label="9"),
        "ledger",
        (PLACE[0], "column mask", "label not in mask", "holds label 1, 2, 3"),
    ),
    BadInput(
        "mask image",
        "an empty liver",
        partial(of_liver, 0 * MASK),
        "ledger",
        (PLACE[0], "column liver_mask", "empty mask"),
    ),
    BadInput(
        "mask image",
        "four voxels, to the regions",
        partial(measured, only((5, 6), (7, 9), (9, 11))),
        "ledger",
        ("tumor", "expected at least 27"),
    ),
    BadInput(
        "mask image",
        "one voxel, on a coarse grid",
        partial(measured, only((5, 6), (7, 8), (9, 10)), spacing=5.0, minimum=1),
        "ledger",
        ("tumor lost on the study grid", "1 voxels"),
    ),
    BadInput(
        "mask image",
        "a line of voxels",
        partial(measured, only((5, 6), (7, 8), (4, 18))),
        "ledger",
        ("expected at least 27",),
    ),
    *(BadInput("DICOM SEG", name, go, "ledger", (PLACE[0], "column mask", *says)) for name, go, says in SEGS),
    *(BadInput("DICOM SEG", name, go, "works") for name, go in SEGS_WORK),
    *(BadInput("RTSTRUCT", name, go, "ledger", (PLACE[0], "column mask", *says)) for name, go, says in CONTOURS),
    *(BadInput("RTSTRUCT", name, go, "works") for name, go in CONTOURS_WORK),
    BadInput("RTSTRUCT", "half of it is noise", unreadable_bytes, "ledger", (PLACE[0], "column mask")),
]
