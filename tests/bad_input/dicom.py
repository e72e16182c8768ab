"""Bad DICOM series, through the stage `imports`, with a good patient in the same batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import JPEG2000Lossless, generate_uid

from bad_input import BadInput, Told
from bad_input.images import MASK, VOXELS, Make, imported
from imports.phantoms import FRAME, SPACING, edit, labels, scan, settings, write, write_dicom, written

SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
Series = list[Path]  # in the order of the slices
UNREADABLE = "truncated or unreadable image"
SLOPES = np.ones(len(VOXELS))


def series(folder: Path, **attributes: Any) -> Series:
    return write_dicom(scan(), folder / "s", **attributes)


def spoilt(spoil: Callable[[Series], Any], **attributes: Any) -> Make:
    """A series after `spoil(files)`."""

    def make(folder: Path) -> Path:
        spoil(series(folder, **attributes))
        return folder / "s"

    return make


def every(**attributes: Any) -> Callable[[Series], None]:
    def spoil(files: Series) -> None:
        for file in files:
            edit(file, **attributes)

    return spoil


def one(**attributes: Any) -> Callable[[Series], None]:
    return lambda files: edit(files[5], **attributes)


def without(*names: str, slices: slice = slice(5, 6)) -> Callable[[Series], None]:
    def spoil(files: Series) -> None:
        for file in files[slices]:
            data = pydicom.dcmread(file)
            for name in names:
                delattr(data, name)
            data.save_as(file)

    return spoil


def raw(file: Path, old: bytes, new: bytes) -> None:
    """Bytes that pydicom would not write."""
    content = file.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    file.write_bytes(content.replace(old, new))


def text_of(file: Path, keyword: str, text: str) -> None:
    """The value of an attribute as any text of its length."""
    data = pydicom.dcmread(file)
    value = data[keyword].value
    old = "\\".join(map(str, value)) if not isinstance(value, str) and hasattr(value, "__len__") else str(value)
    raw(file, old.encode(), text.ljust(len(old))[: len(old)].encode())


def cut(files: Series, kept: int) -> None:
    files[-1].write_bytes(files[-1].read_bytes()[:kept])  # the last one: no gap would give it away


def kind_of(files: Series, uid: str) -> None:
    for file in files:
        data = pydicom.dcmread(file)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid
        data.save_as(file)


def moved(files: Series, mm: float) -> None:
    position = pydicom.dcmread(files[5]).ImagePositionPatient
    edit(files[5], ImagePositionPatient=[position[0], position[1], position[2] + mm])


def tilted(files: Series) -> None:
    for z, file in enumerate(files):
        position = pydicom.dcmread(file).ImagePositionPatient
        edit(file, ImagePositionPatient=[position[0], position[1] + 0.5 * z, position[2]])


def packed_as(files: Series, uid: str, data: bytes) -> None:
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = uid
        dataset.PixelData = pydicom.encaps.encapsulate([data])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.save_as(file, enforce_file_format=False)


def second_series(files: Series, **attributes: Any) -> None:
    write_dicom(scan(seed=2), files[0].parent / "b", **attributes)


def localizer(files: Series) -> None:
    """A scout of the same series: one coronal slice."""
    data = pydicom.dcmread(files[0])
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.ImageOrientationPatient, data.ImageType = [1, 0, 0, 0, 0, -1], ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    data.save_as(files[0].parent / "scout")


def links(folder: Path) -> Path:
    """A series as a data manager keeps it: files of one object store, linked."""
    (folder / "s").mkdir()
    for number, file in enumerate(write_dicom(scan(), folder / "store")):
        (folder / "s" / f"{number}.dcm").symlink_to(file)
    return folder / "s"


def nested(folder: Path) -> Path:
    for number, file in enumerate(series(folder)):
        (folder / "s" / f"{number % 3}" / "deep").mkdir(parents=True, exist_ok=True)
        file.rename(folder / "s" / f"{number % 3}" / "deep" / file.name)
    return folder / "s"


def unlike(files: Series) -> None:
    """What lies in folders of exports beside the slices."""
    folder = files[0].parent
    written(folder / "README.txt", b"exported by hand")
    written(folder / "Thumbs.db", os.urandom(3000))
    write(scan(seed=3), folder / "old.nii.gz")
    directory = pydicom.Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    directory.DirectoryRecordSequence = []
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)


def private(files: Series) -> None:
    for file in files:
        data = pydicom.dcmread(file)
        block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", os.urandom(500))
        block.add_new(0x11, "UN", b"\0\xff" * 7)
        data.save_as(file)


def odd_file_names(files: Series) -> None:
    for number, file in enumerate(files):
        file.rename(Path(os.fsdecode(os.fsencode(file.parent) + b"/Gro\xdfe Leber;$(x) \n" + b"%d" % number)))


def frames(folder: Path, **shared: Any) -> Path:
    """An enhanced CT of one file, as highdicom makes no such thing: functional groups by hand."""
    data = pydicom.dcmread(series(folder)[0])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    groups = pydicom.Dataset()
    orientation, measures, values = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    groups.PlaneOrientationSequence, groups.PixelMeasuresSequence = [orientation], [measures]
    groups.PixelValueTransformationSequence = [values]
    data.SharedFunctionalGroupsSequence = [groups]
    data.PerFrameFunctionalGroupsSequence = []
    data.NumberOfFrames = len(VOXELS)
    for z in range(len(VOXELS)):
        frame, place = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = list(scan().TransformIndexToPhysicalPoint((0, 0, z)))
        frame.PlanePositionSequence = [place]
        data.PerFrameFunctionalGroupsSequence.append(frame)
    data.PixelData = (VOXELS + 1024).astype(np.int16).tobytes()
    for name, value in shared.items():
        setattr(data, name, value)
    (folder / "f").mkdir()
    data.save_as(folder / "f" / "enhanced.dcm")
    return folder / "f"


def empty_folder(folder: Path) -> Path:
    (folder / "s").mkdir()
    return folder / "s"


def folder_of_text(folder: Path) -> Path:
    for number in range(3):
        (folder / "s").mkdir(exist_ok=True)
        (folder / "s" / f"IM{number}.dcm").write_text("the images were moved to the archive\n" * 9)
    return folder / "s"


def lost_links(folder: Path) -> Path:
    place = links(folder)
    (place / "11.dcm").resolve().unlink()  # the last slice: no gap would give it away
    return place


def linked_folder(folder: Path) -> Path:
    files = series(folder)
    (folder / "rest").mkdir()
    for file in files[8:]:
        file.rename(folder / "rest" / file.name)
    (folder / "s" / "rest").symlink_to(folder / "rest")
    return folder / "s"


ABSURD = {"Rows": 65535, "Columns": 65535}
BAD: list[tuple[str, Make, tuple[str, ...]]] = [
    ("empty folder", empty_folder, ("no DICOM series", "none of 0 file(s)")),
    ("folder of text files", folder_of_text, ("no DICOM series", "none of 3 file(s)")),
    (
        "no preamble",
        spoilt(lambda f: [written(file, file.read_bytes()[132:]) for file in f]),
        ("no DICOM series", "none of 12 file(s) is a DICOM image"),
    ),
    ("an empty file", spoilt(lambda f: cut(f, 0)), (UNREADABLE, "the file is empty")),
    ("cut in the meta header", spoilt(lambda f: cut(f, 200)), (UNREADABLE, "ends before its Rows")),
    ("cut in the header", spoilt(lambda f: cut(f, 700)), (UNREADABLE, "ends before its Rows")),
    ("cut in the pixels", spoilt(lambda f: cut(f, -480)), (UNREADABLE, "bytes")),
    ("cut by one byte", spoilt(lambda f: cut(f, -1)), (UNREADABLE,)),
    (
        "two series and no choice",
        spoilt(second_series),
        ("ambiguous series", "series 1: 12 slices, series 2: 12 slices"),
    ),
    ("a missing slice", spoilt(lambda f: f[5].unlink()), ("missing slices", "5.00 mm between", "expected 2.50 mm")),
    ("the same place twice", spoilt(lambda f: moved(f, 2.5)), ("duplicate slices", "1 of 12 slices lie where another")),
    (
        "a slice copied",
        spoilt(lambda f: written(f[0].parent / "copy", f[3].read_bytes())),
        ("duplicate slices", "1 of 13"),
    ),
    (
        "a slice displaced",
        spoilt(lambda f: moved(f, 0.8)),
        ("uneven slice spacing", "0.800 mm", "expected one spacing"),
    ),
    ("tilted gantry", spoilt(tilted), ("gantry tilt", "11.3 degrees", "resample")),
    ("one slice", spoilt(lambda f: [file.unlink() for file in f[1:]]), ("not a 3-D image", "one slice")),
    ("a localizer among the slices", spoilt(localizer), ("differing slice geometry", "ImageOrientationPatient")),
    (
        "two orientations",
        spoilt(one(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])),
        ("differing slice geometry", "ImageOrientationPatient"),
    ),
    ("two spacings", spoilt(one(PixelSpacing=[1.2, 1.2])), ("differing slice geometry", "PixelSpacing", "1.2")),
    (
        "two sizes",
        spoilt(one(Rows=10, PixelData=bytes(480))),
        ("differing slice geometry", "Rows is", "expected one value"),
    ),
    ("no PixelData", spoilt(without("PixelData")), (UNREADABLE, "it has no PixelData")),
    ("no ImagePositionPatient", spoilt(without("ImagePositionPatient")), ("no slice geometry", "ImagePositionPatient")),
    ("no PixelSpacing", spoilt(without("PixelSpacing", slices=slice(None))), ("no slice geometry", "PixelSpacing")),
    ("no BitsAllocated", spoilt(without("BitsAllocated")), (UNREADABLE, "it has no BitsAllocated")),
    ("no Rows", spoilt(without("Rows")), (UNREADABLE, "Rows")),
    (
        "spacing of zero",
        spoilt(every(PixelSpacing=[0, 0.8])),
        ("invalid voxel spacing", "PixelSpacing", "0.01 to 100 mm"),
    ),
    ("one number of spacing", spoilt(every(PixelSpacing=0.8)), ("no slice geometry", "PixelSpacing is not 2")),
    (
        "two coordinates of a place",
        spoilt(one(ImagePositionPatient=[1, 2])),
        ("no slice geometry", "ImagePositionPatient is not 3"),
    ),
    (
        "a place that is no number",
        spoilt(lambda f: text_of(f[5], "ImagePositionPatient", "left\\of\\spine")),
        ("no slice geometry", "ImagePositionPatient is not 3 finite"),
    ),
    (
        "a place of NaN",
        spoilt(lambda f: text_of(f[5], "ImagePositionPatient", "NaN\\NaN\\NaN")),
        ("no slice geometry", "ImagePositionPatient is not 3 finite"),
    ),
    (
        "axes that are not at right angles",
        spoilt(every(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0])),
        ("sheared image axes", "ImageOrientationPatient"),
    ),
    ("axes of zero", spoilt(every(ImageOrientationPatient=[0] * 6)), ("sheared image axes", "ImageOrientationPatient")),
    ("65535 x 65535 pixels", spoilt(every(**ABSURD)), (UNREADABLE, "(65535, 65535, 12)", "expected 1 to")),
    ("9000 x 9000 pixels", spoilt(every(Rows=9000, Columns=9000)), (UNREADABLE, "960 bytes", "expected 162000000")),
    (
        "8 bits for pixels of 16",
        spoilt(every(BitsAllocated=8, BitsStored=8, HighBit=7)),
        (UNREADABLE, "960 bytes", "expected 480"),
    ),
    (
        "32 bits for pixels of 16",
        spoilt(every(BitsAllocated=32, BitsStored=32, HighBit=31)),
        (UNREADABLE, "960 bytes", "expected 1920"),
    ),
    ("fewer bits stored than used", spoilt(every(BitsStored=8, HighBit=7)), (UNREADABLE, "8 bits (BitsStored)")),
    ("more bits stored than allocated", spoilt(every(BitsStored=20, HighBit=19)), (UNREADABLE, "is invalid")),
    ("bytes after the pixels", spoilt(one(PixelData=bytes(2000))), (UNREADABLE, "2000 bytes", "expected 960")),
    (
        "CT without rescale",
        spoilt(without("RescaleSlope", "RescaleIntercept", slices=slice(None))),
        ("no rescale", "RescaleSlope and RescaleIntercept missing"),
    ),
    (
        "one slice without rescale",
        spoilt(without("RescaleIntercept")),
        ("no rescale", "RescaleIntercept missing; expected"),
    ),
    ("one slice of slope zero", spoilt(one(RescaleSlope=0)), ("no rescale", "RescaleSlope is 0", "other than 0")),
    (
        "slope of NaN",
        spoilt(lambda f: text_of(f[5], "RescaleIntercept", "NaN")),
        ("no rescale", "other than 0 and finite"),
    ),
    (
        "unknown transfer syntax",
        spoilt(lambda f: packed_as(f, "1.2.3.4", b"\0" * 64)),
        (UNREADABLE, "transfer syntax is unknown; expected"),
    ),
    (
        "no JPEG 2000 under its name",
        spoilt(lambda f: packed_as(f, JPEG2000Lossless, b"\0" * 64)),
        (UNREADABLE, "cannot be decoded; expected JPEG 2000"),
    ),
    (
        "native pixels called RLE",
        spoilt(lambda f: [raw(file, b"10008.1.2.1\0", b"10008.1.2.5\0") for file in f]),
        (UNREADABLE,),
    ),
    (
        "two patients in a series",
        spoilt(one(PatientID="MRN000001")),
        ("several patients in a series", "differ in PatientID"),
    ),
    (
        "two patients in a folder, and a description that fits one",
        spoilt(lambda f: second_series(f, PatientID="MRN000001", SeriesDescription="arterial")),
        ("several patients in a series", "differ in PatientID; expected one"),
    ),
    (
        "two frames of reference",
        spoilt(one(FrameOfReferenceUID="1.2.3")),
        ("several values of FrameOfReferenceUID", "differ"),
    ),
    ("CT and MR in a series", spoilt(one(Modality="MR")), ("several values of Modality", "differ in Modality")),
    ("MR for CT", spoilt(every(Modality="MR")), ("wrong modality", "it is MR; expected CT")),
    ("inverted gray", spoilt(every(PhotometricInterpretation="MONOCHROME1")), ("not a MONOCHROME2 image",)),
    (
        "color of a secondary capture",
        spoilt(lambda f: (kind_of(f, SECONDARY), every(SamplesPerPixel=3, PhotometricInterpretation="RGB")(f))),
        ("not a MONOCHROME2 image", "RGB with 3 sample(s)"),
    ),
    (
        "secondary capture without geometry",
        spoilt(
            lambda f: (kind_of(f, SECONDARY), without("ImagePositionPatient", "PixelSpacing", slices=slice(None))(f))
        ),
        ("no slice geometry", "PixelSpacing, ImagePositionPatient"),
    ),
    (
        "presentation states, no images",
        spoilt(lambda f: kind_of(f, "1.2.840.10008.5.1.4.1.1.11.1")),
        ("no DICOM series",),
    ),
    ("links to nothing", lost_links, ("missing file", "1 of 12 files", "expected the files themselves")),
    ("a linked folder", linked_folder, ("missing file", "links to no file or to a folder")),
    ("enhanced, cut", lambda p: frames(p, PixelData=VOXELS[:9].tobytes()), (UNREADABLE,)),
    (
        "enhanced of more frames than said",
        lambda p: frames(p, NumberOfFrames=11),
        (UNREADABLE, "11520 bytes", "expected 10560"),
    ),
    ("enhanced of 100000 frames", lambda p: frames(p, NumberOfFrames=100000), (UNREADABLE,)),
    (
        "enhanced without places",
        lambda p: frames(p, PerFrameFunctionalGroupsSequence=[]),
        (UNREADABLE, "0 items of", "12 frames"),
    ),
    ("no series of that UID", spoilt(lambda f: None), ("series not found", "1 series (series 1: 12 slices")),
    ("constant", spoilt(every(PixelData=bytes(960))), ("constant image", "-1024")),
]
WORKS: list[tuple[str, Make]] = [
    ("one SOPInstanceUID for all", spoilt(every(SOPInstanceUID="1.2.3"))),
    ("linked files", links),
    ("nested folders", nested),
    ("README, DICOMDIR, NIfTI and Thumbs.db beside", spoilt(unlike)),
    ("private attributes", spoilt(private)),
    ("names of files that are no UTF-8", spoilt(odd_file_names)),
    ("enhanced", frames),
    ("no series UID", spoilt(without("SeriesInstanceUID", slices=slice(None)))),
    ("no patient ID", spoilt(every(PatientID=""))),
]
CELLS = {
    "no series of that UID": {"series_uid": "1.2.3"},
    "two patients in a folder, and a description that fits one": {"chosen": settings(portal={"description": "portal"})},
}


def bad(name: str, make: Make, folder: Path) -> Told:
    return imported(folder, make(folder), write(labels(), folder / "m.nii.gz"), **CELLS.get(name, {}))


def two_patients_and_a_uid(folder: Path) -> Told:
    """The row of the images table says which of the two it is."""
    series(folder, SeriesInstanceUID="1.2.3.4", FrameOfReferenceUID=FRAME)
    write_dicom(scan(seed=2), folder / "s" / "b", PatientID="MRN000001", SeriesInstanceUID="1.2.3.5")
    return imported(folder, folder / "s", write(labels(), folder / "m.nii.gz"), series_uid="1.2.3.4")


def slopes_apart(folder: Path) -> Told:
    """Each slice is scaled by its own numbers."""
    slopes = np.where(np.arange(len(VOXELS)) % 2, 0.5, 0.25)
    write_dicom(scan(), folder / "s", modality="MR", slopes=slopes)
    chosen = settings(portal={"modality": "MR"})
    return imported(folder, folder / "s", write(labels(), folder / "m.nii.gz"), chosen=chosen)


def mr_without_rescale(folder: Path) -> Told:
    """MR has none by right: values are what is stored."""
    files = write_dicom(scan(), folder / "s", modality="MR", slopes=SLOPES)
    without("RescaleSlope", "RescaleIntercept", slices=slice(None))(files)
    chosen = settings(portal={"modality": "MR"})
    return imported(folder, folder / "s", write(labels(), folder / "m.nii.gz"), chosen=chosen)


def labels_as_series(folder: Path) -> Told:
    """A mask that is a DICOM series of labels, without a rescale."""
    series(folder, FrameOfReferenceUID=FRAME)
    mask = write_dicom(sitk.Cast(labels(), sitk.sitkInt16), folder / "m", slopes=SLOPES, FrameOfReferenceUID=FRAME)
    without("RescaleSlope", "RescaleIntercept", slices=slice(None))(mask)
    return imported(folder, folder / "s", folder / "m", drawn=MASK)


DOOR = "DICOM series"
CASES = [
    *(
        BadInput(DOOR, name, partial(bad, name, make), "ledger", ("images table row 8: ", *says))
        for name, make, says in BAD
    ),
    *(BadInput(DOOR, name, partial(bad, name, make), "works") for name, make in WORKS),
    BadInput(DOOR, "two patients in a folder, and a series UID", two_patients_and_a_uid, "works"),
    BadInput(DOOR, "a slope of its own for each slice", slopes_apart, "works"),
    BadInput(DOOR, "MR without rescale", mr_without_rescale, "works"),
    BadInput(DOOR, "a mask as a series of labels", labels_as_series, "works"),
]
