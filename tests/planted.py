"""Strings that name a patient, planted in every place of a study's images, and the search for them in every byte.

python tests/planted.py STUDY   # what of them is in the results of a study
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pydicom
import SimpleITK as sitk
from PIL import Image

from hccstudy.tables import read_text_table, write_json, write_table
from imports.phantoms import write_dicom, write_rtstruct, write_seg

# ---------------------------------------------------------------- what is planted

BURNED = "ZQBURNEDINPIXELS"
UIDS = {name: f"1.2.826.0.1.3680043.8.498.77{n}31415926535" for n, name in enumerate(("Study", "Series", "Frame"), 1)}
HEADER = {
    "PatientName": "Zqfamily^Zqgiven",
    "PatientID": "ZQMRN-4711",
    "OtherPatientIDs": "ZQOTHER-8",
    "PatientBirthDate": "19370911",
    "PatientBirthTime": "031415.926535",
    "PatientAddress": "Zqstreet 5",
    "PatientTelephoneNumbers": "ZQPHONE-99",
    "PatientComments": "Zqcomment of a patient",
    "ImageComments": "Zqremark on an image",
    "StudyDate": "20190617",
    "SeriesDate": "20190617",
    "AcquisitionDate": "20190617",
    "ContentDate": "20190617",
    "StudyTime": "172839.414243",
    "AcquisitionTime": "172839.414243",
    "StudyID": "ZQSTUDYID",
    "StudyDescription": "Zqstudydescription",
    "SeriesDescription": "portal Zqseriesdescription",
    "ProtocolName": "Zqprotocol",
    "AccessionNumber": "ZQACCESSION",
    "InstitutionName": "Zqhospital",
    "InstitutionAddress": "Zqavenue 1",
    "InstitutionalDepartmentName": "Zqdepartment",
    "ReferringPhysicianName": "Zqreferring^Doctor",
    "PerformingPhysicianName": "Zqperforming^Doctor",
    "OperatorsName": "Zqoperator^One",
    "StationName": "ZQSTATION",
    "DeviceSerialNumber": "ZQSERIAL",
    "RequestingService": "Zqservice",
    "StudyInstanceUID": UIDS["Study"],
    "SeriesInstanceUID": UIDS["Series"],
    "FrameOfReferenceUID": UIDS["Frame"],
    "SliceThickness": "3",
    "PositionReferenceIndicator": "",
    "SeriesNumber": 1,
    "PatientSex": "F",
}
TEXTS = [  # words, ids and UIDs; each is planted somewhere below pacs/ or in the key file
    *("Zqfamily", "Zqgiven", "ZQMRN", "ZQOTHER", "Zqstreet", "ZQPHONE", "Zqcomment", "Zqremark", "ZQSTUDYID"),
    *("Zqstudydescription", "Zqseriesdescription", "Zqprotocol", "ZQACCESSION", "Zqhospital", "Zqavenue"),
    *("Zqdepartment", "Zqreferring", "Zqperforming", "Zqoperator", "ZQSTATION", "ZQSERIAL", "Zqservice"),
    *(UIDS.values()),
    *("Zqprivatetag", "Zqfolder", "Zqfile", "Zqroi", "Zqsegment", "Zqdescrip", "Zqaux", "Zqnrrdvalue", "Zqsidecar"),
    *(
        "ZqSlope",
        "ZQMODALITY",
        "Zqbrokenjson",
        "Zqdetached",
        "ZQPICTURE",
        "Zqunits",
        "Zqmissing",
        "ZqSecondSeries",
        "Zqkeyname",
        "Zqümlaut",
        "测试姓名",
    ),
]
DATES = ["19370911", "1937-09-11", "20190617", "2019-06-17", "031415", "172839", "17:28:39"]
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "latin-1", "gb18030")
# those who lose nothing are of development centers, the others of external ones; the last are spare
PATIENTS = [f"HCC-{number:03d}" for number in (4, 15, 27, 37, *range(38, 44), *range(50, 56), 44, 45, 56, 57)]


def plant(folder: Path) -> None:
    """Rewrite the portal images of the first patients as a hospital would have them; the rest of the study stays."""
    images = read_text_table(folder / "images.tsv")
    images = images[(images["series"] == "portal") & (images["reader"] == "A")].copy()
    shutil.copytree(folder / "images", folder / "pacs/Zqfolder^Jane (测试姓名)/plain")
    home = folder / "pacs/Zqfolder^Jane (测试姓名)"
    for place, row in zip(images.index, images.to_dict("records"), strict=True):
        for column in ("image", "mask"):
            images.loc[place, column] = str((home / "plain" / Path(row[column]).name).relative_to(folder))
    at = {patient: place for place, patient in images["patient"].items() if patient in PATIENTS}
    healthy = [patient for patient in PATIENTS if patient in at and _is_whole(folder, images.loc[at[patient]])]

    def change(patient: str, **cells: str | Path) -> None:
        for column, cell in cells.items():
            value = cell.relative_to(folder) if isinstance(cell, Path) else cell
            images.loc[at[patient], column] = str(value)

    def dicom(patient: str, name: str = "Zqfile", **more: object) -> Path:
        image = sitk.ReadImage(str(folder / images.loc[at[patient], "image"]))
        image = sitk.Cast(image, sitk.sitkInt16)
        x, y, _ = image.GetSpacing()
        for i, letter in enumerate(BURNED):
            image[i + 2, 1, 2] = ord(letter)
        target = home / patient / name
        for path in write_dicom(image, target, **(HEADER | {"PixelSpacing": [y, x]} | more)):
            data = pydicom.dcmread(path)
            data.private_block(0x0099, "ZQ", create=True).add_new(1, "LO", "Zqprivatetag")
            data.save_as(path.with_name(f"Zqfile {path.name}"))
            path.unlink()
        return target

    def label(patient: str) -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / images.loc[at[patient], "mask"]))) == 1

    names = iter(healthy)
    who = {}

    def next_patient(what: str) -> str:
        who[what] = next(names)
        return who[what]

    patient = next_patient("seg")
    series = dicom(patient, BurnedInAnnotation="YES")
    seg = write_seg(home / patient / "Zqfile.dcm", sorted(series.iterdir(), key=_height), {"Zqsegment": label(patient)})
    change(patient, image=series, mask=Path(seg))

    patient = next_patient("capture")
    change(
        patient, image=dicom(patient, ConversionType="WSD", PatientName="Zqümlaut", SpecificCharacterSet="ISO_IR 100")
    )

    patient = next_patient("header of NIfTI")
    file = folder / images.loc[at[patient], "image"]
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[148:228] = b"Zqdescrip".ljust(80, b"\0")
    content[228:252] = b"Zqaux".ljust(24, b"\0")
    file.write_bytes(gzip.compress(bytes(content)))
    (home / f"plain/{file.name.replace('.nii.gz', '.json')}").write_text(
        json.dumps(
            {
                "Modality": "CT",
                "PatientName": "Zqsidecar",
                "AcquisitionTime": "17:28:39",
                "InstitutionName": "Zqhospital",
            }
        )
    )

    patient = next_patient("NRRD")
    image = sitk.ReadImage(str(folder / images.loc[at[patient], "image"]))
    image.SetMetaData("PatientName", "Zqnrrdvalue")
    sitk.WriteImage(image, str(home / "Zqfile.nrrd"))
    change(patient, image=home / "Zqfile.nrrd")

    # and those that fail, each in its way
    patient = next_patient("ambiguous series")
    series = dicom(patient)
    dicom(patient, "Zqfile/second", SeriesInstanceUID=UIDS["Series"] + ".2", SeriesDescription="ZqSecondSeries")
    change(patient, image=series)

    patient = next_patient("truncated slice")
    series = dicom(patient)
    broken = sorted(series.iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:-200])
    change(patient, image=series)

    patient = next_patient("names of regions")
    series = dicom(patient)
    square = np.array([[0.0, 0, 0], [9, 0, 0], [9, 9, 0]])
    rois = {"Zqroi one": [square], "Zqroi two": [square]}
    mask = write_rtstruct(home / patient / "Zqfile rt.dcm", rois, UIDS["Frame"])
    change(patient, image=series, mask=Path(mask), label="Zqroi three")

    patient = next_patient("frame of reference")
    series = dicom(patient)
    mask = write_rtstruct(home / patient / "Zqfile rt.dcm", {"Zqroi": [square]}, UIDS["Study"])
    change(patient, image=series, mask=Path(mask), label="Zqroi")

    patient = next_patient("missing file")
    change(patient, image=home / "Zqmissing.nii.gz")

    patient = next_patient("text for a number")
    series = dicom(patient)
    for path in series.iterdir():
        content = path.read_bytes()
        where = content.index(b"\x28\x00\x53\x10DS")  # RescaleSlope
        length = int.from_bytes(content[where + 6 : where + 8], "little")
        path.write_bytes(content[: where + 6] + b"\x08\x00" + b"ZqSlope " + content[where + 8 + length :])
    change(patient, image=series)

    patient = next_patient("odd modality")
    change(patient, image=dicom(patient, Modality="ZQMODALITY"))

    patient = next_patient("odd picture")
    change(patient, image=dicom(patient, PhotometricInterpretation="ZQPICTURE"))

    patient = next_patient("units")
    (home / "Zqfile units.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nspacings: 1 1 1\nencoding: raw\n"
        b'space units: "Zqunits" "mm" "mm"\nZqnrrdkey:=Zqnrrdvalue\n\n' + bytes(range(128))
    )
    change(patient, image=home / "Zqfile units.nrrd")

    patient = next_patient("broken sidecar")
    file = folder / images.loc[at[patient], "image"]
    file.with_name(file.name.replace(".nii.gz", ".json")).write_text("{Zqbrokenjson: ")
    patient = next_patient("detached")
    (home / "Zqfile.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
        "ElementDataFile = Zqdetached.raw\n"
    )
    change(patient, image=home / "Zqfile.mhd")

    write_table(images, folder / "images.tsv")
    used = {Path(path).name.removesuffix(".nii.gz") for column in ("image", "mask") for path in images[column]}
    for file in (home / "plain").iterdir():
        if file.name.removesuffix(".nii.gz").removesuffix(".json") not in used:
            file.unlink()
    shutil.rmtree(folder / "images")
    (folder / "key.tsv").write_text(f"Zqkeyname\t{PATIENTS[0]}\n", encoding="utf-8")
    write_json(who, folder / "pacs/who.json")


def _height(path: Path) -> float:
    return float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])


def _is_whole(folder: Path, row: pd.Series) -> bool:
    try:
        image, mask = (sitk.ReadImage(str(folder / row[column])) for column in ("image", "mask"))
    except RuntimeError:
        return False
    same = image.GetSize() == mask.GetSize() and image.GetOrigin() == mask.GetOrigin()
    return same and bool((sitk.GetArrayViewFromImage(mask) == 1).any())


# ---------------------------------------------------------------- the search


def layers(name: str, content: bytes) -> Iterator[bytes]:
    """A file's bytes and whatever is packed in them."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield from layers(name.removesuffix(".gz"), zlib.decompressobj(31).decompress(content))  # truncated ones too
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield member.encode()
                yield from layers(member, archive.read(member))
    elif content.startswith(b"PAR1"):
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        yield str(table.schema.metadata).encode()
        yield table.to_pandas().to_csv().encode()
    elif content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            yield json.dumps(getattr(image, "text", {}) | image.info, default=str).encode()
    elif content.startswith(b"%PDF"):
        for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
            try:
                yield zlib.decompress(stream)
            except zlib.error:
                yield stream
    elif content.lstrip()[:15].lower().startswith(b"<!doctype html"):
        for data in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
            yield from layers("embedded", base64.b64decode(data))


def spellings(text: str) -> set[bytes]:
    """A text in every encoding that has its letters."""
    found = set()
    for encoding in ENCODINGS:
        with contextlib.suppress(UnicodeEncodeError):
            found.add(text.encode(encoding))
    return found


WORDS = sorted(set().union(*map(spellings, TEXTS)))
# digits by themselves, not part of a longer number
NUMBERS = {text.encode(): re.compile(rb"(?<![\d.])" + re.escape(text.encode()) + rb"(?!\d)") for text in DATES}


def hits(content: bytes) -> set[bytes]:
    found = {word for word in WORDS if word in content}
    return found | {text for text, alone in NUMBERS.items() if text in content and alone.search(content)}


def search(folder: Path) -> tuple[dict[str, set[bytes]], int]:
    """File -> planted strings in its name or any layer of its bytes; and how many bytes were searched."""
    found: dict[str, set[bytes]] = {}
    total = 0
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        name = str(path.relative_to(folder))
        for part in (name.encode(), *layers(path.name, path.read_bytes())):
            total += len(part)
            if planted := hits(part):
                found.setdefault(name, set()).update(planted)
    return found, total


if __name__ == "__main__":
    print({where: (search(Path(sys.argv[1]) / where)) for where in ("results", ".snakemake")})
