"""Patients tables and images tables of a study, through `hccstudy check`."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
from openpyxl.worksheet.worksheet import Worksheet

from bad_input import BadInput, Told
from bad_input.doors import (
    PNG,
    Change,
    Frame,
    as_text,
    cell,
    changed,
    command,
    refused,
    table,
    works,
    write_table_study,
)
from hccstudy.cohort import read_cohort
from hccstudy.config import layer
from table_study import OVERLAY, settings

DOOR, IMAGES = "patients table", "images table"


def bytes_of(content: bytes, name: str, folder: Path) -> Told:
    """A patients table of these bytes under another name."""
    write_table_study(folder, {"cohort": {"patients": name}})
    (folder / name).write_bytes(content)
    return command(folder, "check", ".")


def text_of(content: str, folder: Path) -> Told:
    return bytes_of(content.encode(), "patients.tsv", folder)


def patients(change: Change, folder: Path, *, also: str = "") -> Told:
    """The patients table with a change, which the feature table has too where `also` says so."""
    tables = {"patients": changed(table("patients"), change)}
    if also == "features":
        tables["features"] = table("features").assign(patient=tables["patients"]["patient"])
    write_table_study(folder, **tables)
    return command(folder, "check", ".")


def dated(text: str, folder: Path) -> Told:
    frame = table("patients").assign(index_date="2019-03-14")
    return patients(lambda _: changed(frame, cell(5, "index_date", text)), folder)


def named(name: str, folder: Path) -> Told:
    """The patient of row 5 under another id, in both tables; where that is right, the value comes with it."""
    told = patients(cell(5, "patient", name), folder, also="features")
    if told.answer == "works":
        cohort = read_cohort(settings_in(folder)).patients.set_index("patient")
        assert cohort.loc[name.strip(), "age"] == table("patients").loc[3, "age"]
    return told


def settings_in(folder: Path) -> Any:
    """The configuration with paths that hold anywhere."""
    config = settings(folder)
    config["cohort"]["patients"] = str(folder / config["cohort"]["patients"])
    config["features"]["table"] = str(folder / config["features"]["table"])
    return config


def workbook(change: Callable[[openpyxl.Workbook, Worksheet], None], folder: Path, *, xml: Any = None) -> Told:
    """The patients table as a workbook, with a change and edits of its XML; right values are those of the table."""
    write_table_study(folder, {"cohort": {"patients": "patients.xlsx"}})
    path = folder / "patients.xlsx"
    frame = table("patients")
    frame.to_excel(path, index=False)
    book = openpyxl.load_workbook(path)
    change(book, book.worksheets[0])
    book.save(path)
    if xml:
        rewrite_parts(path, xml)
    told = command(folder, "check", ".")
    if told.answer == "works":
        found = read_cohort(settings_in(folder)).patients
        assert found["age"].tolist() == frame["age"].tolist()
        assert found["os_months"].tolist() == frame["os_months"].tolist()
    return told


def rewrite_parts(path: Path, edit: Callable[[str, bytes], bytes]) -> None:
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))


def formula(book: openpyxl.Workbook, sheet: Worksheet) -> None:
    sheet["C5"] = f"={sheet['C5'].value}+0"


def calculated(name: str, content: bytes) -> bytes:
    """What Excel saves: the formula with its value, and no wish to calculate anew."""
    age = str(table("patients").loc[3, "age"]).encode()
    content = re.sub(rb"(<f>[^<]*</f>)<v\s*/>|(<f>[^<]*</f>)<v></v>", rb"\1\2<v>" + age + rb"</v>", content)
    return content.replace(b' fullCalcOnLoad="1"', b"")


def never_calculated(name: str, content: bytes) -> bytes:
    """What XlsxWriter saves: a 0 that no one calculated."""
    return re.sub(rb"(<f>[^<]*</f>)<v\s*/>|(<f>[^<]*</f>)<v></v>", rb"\1\2<v>61</v>", content)


def merge(book: openpyxl.Workbook, sheet: Worksheet) -> None:
    sheet.merge_cells("C5:C7")


def second_sheet(state: str, filled: bool, book: openpyxl.Workbook, sheet: Worksheet) -> None:
    other = book.create_sheet("Legend", 0)
    other.sheet_state = state
    if filled:
        other["A1"] = "patient"
        other["A2"] = "P-wrong"


def error_cell(book: openpyxl.Workbook, sheet: Worksheet) -> None:
    sheet["C5"] = "#DIV/0!"


def text_numbers(book: openpyxl.Workbook, sheet: Worksheet) -> None:
    for row in range(2, sheet.max_row + 1):
        sheet.cell(row, 3).value = f" {sheet.cell(row, 3).value} "


def far_formats(book: openpyxl.Workbook, sheet: Worksheet) -> None:
    sheet["XFD5000"].font = openpyxl.styles.Font(bold=True)
    sheet["J3000"] = "  "


def lost_zeros(folder: Path) -> Told:
    """Ids are 001 to 060 in the feature table, and numbers in the workbook of patients."""
    numbers = list(range(1, 61))
    tables = {"features": table("features").assign(patient=[f"{number:03d}" for number in numbers])}
    write_table_study(folder, {"cohort": {"patients": "patients.xlsx"}}, **tables)
    table("patients").assign(patient=numbers).to_excel(folder / "patients.xlsx", index=False)
    return command(folder, "check", ".")


def date_cells(folder: Path) -> Told:
    write_table_study(folder, {"cohort": {"patients": "patients.xlsx"}})
    frame = table("patients").assign(index_date=pd.Timestamp("2019-03-14"))
    frame.to_excel(folder / "patients.xlsx", index=False)
    told = command(folder, "check", ".")
    assert set(read_cohort(settings_in(folder)).patients["index_date"]) == {"2019-03-14"}
    return told


def zip_bomb(folder: Path) -> Told:
    """A workbook of a few KB that claims to unpack to 4 GB."""
    write_table_study(folder, {"cohort": {"patients": "patients.xlsx"}})
    table("patients").to_excel(folder / "patients.xlsx", index=False)
    claim_size(folder / "patients.xlsx", "xl/worksheets/sheet1.xml")
    return command(folder, "check", ".")


def claim_size(path: Path, part: str, size: int = 0xFFFFFFF0) -> None:
    """Put another unpacked size of one part into an archive's directory."""
    content = bytearray(path.read_bytes())
    place = content.rindex(part.encode()) - 46  # fields of a central directory entry before the name
    content[place + 24 : place + 28] = size.to_bytes(4, "little")
    path.write_bytes(bytes(content))


def truncated_workbook(folder: Path) -> Told:
    content = io.BytesIO()
    table("patients").to_excel(content, index=False)
    return bytes_of(content.getvalue()[:3000], "patients.xlsx", folder)


def parquet(change: Change, folder: Path) -> Told:
    write_table_study(folder, {"cohort": {"patients": "patients.parquet"}})
    frame = table("patients").infer_objects()
    changed(frame, change).to_parquet(folder / "patients.parquet")
    told = command(folder, "check", ".")
    if told.answer == "works":
        found = read_cohort(settings_in(folder)).patients
        assert found["age"].iloc[1:].tolist() == frame["age"].iloc[1:].tolist()
        assert pd.isna(found["age"].iloc[0])
    return told


def missing_integer(frame: Frame) -> Frame:
    age = frame["age"].astype(int).astype("Int64")
    age[0] = pd.NA
    return frame.assign(age=age)


def a_folder(folder: Path) -> Told:
    write_table_study(folder, {"cohort": {"patients": "patients"}})
    (folder / "patients").mkdir()
    return command(folder, "check", ".")


def not_there(folder: Path) -> Told:
    write_table_study(folder)
    (folder / "patients.tsv").unlink()
    return command(folder, "check", ".")


def chinese(folder: Path) -> Told:
    """Names of columns, centers, patients and files in Chinese; the values are those of the table."""
    frame = table("patients").rename(columns={"age": "年龄"})
    frame["patient"] = [f"病人 {number}" for number in range(1, 61)]
    frame["center"] = frame["center"].map({"A": "上海", "B": "北京", "C": "广州", "D": "香港"})
    centers = {"development": ["上海", "北京", "广州"], "external": ["香港"]}
    changes = {
        "cohort": {"patients": "病人 表.tsv", "centers": centers, "columns": {"年龄": {"type": "number"}}},
        "predictors": {"clinical": ["年龄"]},
    }
    write_table_study(folder, changes, features=table("features").assign(patient=frame["patient"]))
    (folder / "病人 表.tsv").write_bytes(as_text(frame).encode("utf-8-sig"))
    found = read_cohort(settings_in(folder)).patients
    assert found["patient"].tolist() == frame["patient"].tolist()
    assert found["年龄"].tolist() == frame["年龄"].tolist()
    assert found["center"].tolist() == frame["center"].tolist()
    return command(folder, "check", ".")


def symlinked(folder: Path) -> Told:
    """The table lies elsewhere and is linked, as on clusters."""
    write_table_study(folder)
    (folder / "disk").mkdir()
    (folder / "patients.tsv").rename(folder / "disk/p.tsv")
    (folder / "patients.tsv").symlink_to(folder / "disk/p.tsv")
    return command(folder, "check", ".")


TEXT = as_text(table("patients"))
FILES: dict[str, tuple[bytes, str, list[str]]] = {
    "empty file": (b"", "patients.tsv", ["patients.tsv", "the file is empty"]),
    "header alone": (TEXT.splitlines()[0].encode(), "patients.tsv", ["patients.tsv", "no row"]),
    "a picture called .tsv": (PNG, "patients.tsv", ["patients.tsv line 1", "not UTF-8"]),
    "a picture called .xlsx": (PNG, "patients.xlsx", ["patients.xlsx", "not readable as a table"]),
    "a locked or old workbook called .xlsx": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000),
        "patients.xlsx",
        ["patients.xlsx", "not readable"],
    ),
    "a text called .xlsx": (TEXT.encode(), "patients.xlsx", ["patients.xlsx", "not readable as a table"]),
    "a text called .parquet": (TEXT.encode(), "patients.parquet", ["patients.parquet", "not readable as a table"]),
    "an old workbook (.xls)": (b"\xd0\xcf\x11\xe0", "patients.xls", ["the ending is '.xls'", ".xlsx or .parquet"]),
    "GBK": (TEXT.replace("T-004", "病人").encode("gbk"), "patients.tsv", ["patients.tsv line 5", "saved as UTF-8"]),
    "Latin-1": (
        TEXT.replace("T-004", "Zürich").encode("latin-1"),
        "patients.tsv",
        ["patients.tsv line 5", "saved as UTF-8"],
    ),
    "UTF-16": (TEXT.encode("utf-16"), "patients.tsv", ["patients.tsv line 1", "saved as UTF-8"]),
    "cut off in a row": (
        TEXT[:1000].rsplit("\t", 2)[0].encode(),
        "patients.tsv",
        ["patients.tsv row", "expected 6 as in row 1", "broken off"],
    ),
    "a quote that never ends": (TEXT.replace("T-004", '"T-004').encode(), "patients.tsv", ["patients.tsv", "row 5"]),
    "semicolons": (TEXT.replace("\t", ";").encode(), "patients.csv", ["separated by semicolons", "expected commas"]),
    "commas called .tsv": (TEXT.replace("\t", ",").encode(), "patients.tsv", ["separated by commas", "expected tabs"]),
    "decimal commas between commas": (
        TEXT.replace("\t", ",").replace(".", ",").encode(),
        "patients.csv",
        ["patients.csv row 2", "a decimal comma"],
    ),
    "a NUL character": (TEXT.replace("T-004", "T-\x00004").encode(), "patients.tsv", ["patients.tsv row 5", "NUL"]),
    "a line break in a row": (
        TEXT.replace("T-004\t", "T-004\n\t").encode(),
        "patients.tsv",
        ["patients.tsv row 5", "line break"],
    ),
    "a cell of 200,000 characters": (
        TEXT.replace("T-004", "x" * 200_000).encode(),
        "patients.tsv",
        ["patients.tsv", "row 5", "limit"],
    ),
    "an empty first row": (("\n" + TEXT).encode(), "patients.tsv", ["patients.tsv", "row 1 is empty"]),
    "a title above the header": (
        ("Cohort\t\t\t\t\t\n" + TEXT).encode(),
        "patients.tsv",
        ["patients.tsv row 1: 5 columns have no name"],
    ),
    "a column twice": (TEXT.replace("os_months", "age", 1).encode(), "patients.tsv", ["column 'age' appears twice"]),
    "without its column": (
        TEXT.replace("os_months", "OS", 1).encode(),
        "patients.tsv",
        ["no column 'os_months'", "it has patient, center"],
    ),
}

CELLS: dict[str, tuple[int, str, Any, list[str]]] = {
    "a decimal comma": (5, "age", "61,5", ["row 5 (T-004): age is '61,5'", "a decimal point, not a comma"]),
    "a thousands separator": (5, "age", "1,234", ["row 5 (T-004): age is '1,234'", "a number"]),
    "underscores in a number": (5, "age", "6_1", ["row 5 (T-004): age is '6_1'", "a number"]),
    "a hexadecimal number": (5, "age", "0x3D", ["row 5 (T-004): age is '0x3D'", "a number"]),
    "full-width digits": (5, "age", "\uff16\uff11", ["row 5 (T-004): age is", "a number"]),
    "a number with its unit": (5, "age", "61 y", ["row 5 (T-004): age is '61 y'", "a number"]),
    "infinity": (5, "age", "inf", ["row 5 (T-004): age is 'inf'", "a finite number"]),
    "1e400": (5, "age", "1e400", ["row 5 (T-004): age is '1e400'", "a finite number"]),
    "an impossible value": (5, "age", "610", ["row 5 (T-004): age is '610'", "18 to 100 years"]),
    "a time below zero": (5, "os_months", "-3", ["row 5 (T-004): os_months is '-3'", "> 0"]),
    "a time of zero": (5, "os_months", "0", ["row 5 (T-004): os_months is '0'", "> 0"]),
    "a time without its event": (5, "os_event", "", ["row 5 (T-004): os_event is empty while os_months"]),
    "an event in words": (5, "os_event", "dead", ["row 5 (T-004): os_event is 'dead'"]),
    "an event of 2": (5, "os_event", "2", ["row 5 (T-004): os_event is '2'", "0 (no event) or 1 (event)"]),
    "a center nobody named": (5, "center", "E", ["row 5 (T-004): center is 'E'", "one of A, B, C, D"]),
    "a center in small letters": (5, "center", "a", ["row 5 (T-004): center is 'a'", "one of A, B, C, D"]),
    "no center": (5, "center", "", ["row 5 (T-004): center is empty", "one of A, B, C, D"]),
    "no id": (5, "patient", "", ["row 5: patient is empty", "an id"]),
    "a missing id (NA)": (5, "patient", "NA", ["row 5: patient is empty", "an id"]),
    "an id twice": (5, "patient", "T-001", ["row 5 (T-001)", "the id of row 2 too"]),
    "an id twice, in other letters": (5, "patient", "t-001", ["row 5 (t-001)", "the id of row 2 too"]),
    "an id twice, with spaces around": (5, "patient", "  T-001 ", ["row 5 (T-001)", "the id of row 2 too"]),
    "an id twice, in full-width letters": (5, "patient", "\uff34-001", ["row 5", "the id of row 2 too"]),
}

IDS = {
    "a formula": "=1+1",
    "a command for a spreadsheet": "=cmd|'/c calc'!A1",
    "an id with +": "+1",
    "an id with -": "-12",
    "an id with @": "@SUM(A1)",
    "a path upwards": "../../x",
    "an absolute path": "/etc/passwd",
    "a path": "a/b",
    "a path of Windows": "a\\b",
    "a dot": "./.",
    "two dots": "..",
    "a line break": "T\n004",
    "a terminal's escape code": "T\x1b[31m004",
    "a character that cannot be seen": "T-\u200b004",
    "a quote": "T'004",
    "a shell command": "$(id)",
    "300 characters": "T" * 300,
}

DATES = ["14.03.2019", "03/14/2019", "20190314", "43538", "2019-02-30", "2019-3-14", "2019-03-14 10:00", "March 2019"]


def swapped(frame: Frame) -> Frame:
    return frame.rename(columns={"age": "os_months", "os_months": "age"})


def copied_outcome(frame: Frame) -> None:
    frame["age"] = 20 + 60 * frame["mvi"].astype(int)


CASES: list[BadInput] = [
    *(refused(DOOR, name, partial(bytes_of, content, file), *says) for name, (content, file, says) in FILES.items()),
    *(
        refused(DOOR, name, partial(patients, cell(row, column, value)), "patients.tsv", *says)
        for name, (row, column, value, says) in CELLS.items()
    ),
    *(
        refused(DOOR, f"id: {name}", partial(named, text), "patients.tsv row 5: patient is", "letters")
        for name, text in IDS.items()
    ),
    *(
        refused(DOOR, f"a date {text}", partial(dated, text), "row 5 (T-004): index_date is", "YYYY-MM-DD")
        for text in DATES
    ),
    refused(DOOR, "not there", not_there, "patients.tsv", "no such file"),
    refused(DOOR, "a folder", a_folder, "patients", "is a folder"),
    refused(DOOR, "two columns swapped", partial(patients, swapped), "age is", "18 to 100 years", "more rows"),
    refused(DOOR, "a predictor that is the outcome", partial(patients, copied_outcome), "predictor age tells mvi"),
    refused(DOOR, "a workbook cut off", truncated_workbook, "patients.xlsx", "not readable as a table"),
    refused(DOOR, "a workbook that unpacks to 4 GB", zip_bomb, "patients.xlsx", "unpacks to 4.0 GiB"),
    refused(
        DOOR, "a formula without its value", partial(workbook, formula), "patients.xlsx", "cell C5", "never calculated"
    ),
    refused(
        DOOR,
        "a formula with a value nobody calculated",
        partial(workbook, formula, xml=never_calculated),
        "cell C5",
        "never calculated",
    ),
    refused(DOOR, "merged cells", partial(workbook, merge), "cells C5:C7 are merged"),
    refused(
        DOOR,
        "two sheets with cells",
        partial(workbook, partial(second_sheet, "visible", True)),
        "2 sheets with cells (Legend, Sheet1)",
    ),
    refused(DOOR, "an error cell (#DIV/0!)", partial(workbook, error_cell), "row 5 (T-004): age is '#DIV/0!'"),
    refused(
        DOOR,
        "ids that lost their zeros in a workbook",
        lost_zeros,
        "features.tsv row 2: patient is '001'",
        "is it '1'?",
    ),
    refused(
        DOOR,
        "cells of bytes in Parquet",
        partial(parquet, lambda f: f.assign(patient=[b"T"] * 60)),
        "patients.parquet",
        "holds bytes",
    ),
    works(DOOR, "a formula with its value", partial(workbook, formula, xml=calculated), "60 patients"),
    works(DOOR, "a hidden sheet", partial(workbook, partial(second_sheet, "hidden", True)), "60 patients"),
    works(DOOR, "an empty second sheet", partial(workbook, partial(second_sheet, "visible", False)), "60 patients"),
    works(DOOR, "numbers as text in a workbook", partial(workbook, text_numbers), "60 patients"),
    works(DOOR, "a workbook with formats far out", partial(workbook, far_formats), "60 patients"),
    works(DOOR, "date cells of a workbook", date_cells, "60 patients"),
    works(DOOR, "a missing integer in Parquet", partial(parquet, missing_integer), "60 patients"),
    works(DOOR, "a byte-order mark", partial(bytes_of, TEXT.encode("utf-8-sig"), "patients.tsv"), "60 patients"),
    works(
        DOOR,
        "lines that end as in Windows",
        partial(bytes_of, TEXT.replace("\n", "\r\n").encode(), "patients.tsv"),
        "60 patients",
    ),
    works(
        DOOR,
        "empty rows and columns at the end",
        partial(bytes_of, TEXT.replace("\n", "\t\t\n").encode() + b"\n\t\t\n", "patients.tsv"),
        "60 patients",
    ),
    works(DOOR, "a column nobody asked for", partial(patients, lambda f: f.assign(note="=1+1")), "60 patients"),
    works(DOOR, "names in Chinese", chinese, "60 patients"),
    works(DOOR, "a linked table", symlinked, "60 patients"),
    works(DOOR, "id: a name that Windows reserves", partial(named, "CON"), "60 patients"),
    works(DOOR, "id: spaces, dots and @", partial(named, "P 4.b@x"), "60 patients"),
    works(DOOR, "id: Chinese", partial(named, "张三-1"), "60 patients"),
]


# --- images ---------------------------------------------------------------------------------------------------

IMAGING = layer(
    {key: value for key, value in OVERLAY.items() if key != "features"},
    {
        "cohort": {"images": "images.tsv", "simulation": None},
        "series": {"ct": {"modality": "CT", "spacing": [1, 1, 1], "parameters": "ct.yaml"}},
        "regions": {"rings": {}, "minimum_voxels": 1},
        "stability": {"method": "none"},
    },
)


def write_imaging_study(folder: Path, change: Change, before: Callable[[Path], None] | None = None) -> Told:
    """A study with an image file each; `before` changes the files."""
    write_table_study(folder)
    (folder / "config.yaml").write_text(config_text_of_images())
    (folder / "ct.yaml").write_text(
        "setting: {binWidth: 25}\nimageType: {Original: {}}\nfeatureClass: {firstorder: }\n"
    )
    (folder / "images").mkdir()
    ids = table("patients")["patient"]
    for name in ids:
        (folder / f"images/{name}.nii.gz").write_text(f"image of {name}")
    (folder / "images/mask.nii.gz").write_text("mask")
    if before:
        before(folder)
    frame = pd.DataFrame(
        {"patient": ids, "series": "ct", "image": [f"images/{name}.nii.gz" for name in ids]}, dtype=object
    )
    frame["mask"] = "images/mask.nii.gz"
    (folder / "images.tsv").write_text(as_text(changed(frame, change)), encoding="utf-8")
    return command(folder, "check", ".")


def config_text_of_images() -> str:
    import yaml

    return yaml.safe_dump(IMAGING, sort_keys=False)


def images(change: Change, folder: Path) -> Told:
    return write_imaging_study(folder, change)


def lost_with_a_note(change: Change, folder: Path) -> Told:
    """`check` passes and says who will fail: the study goes on without."""
    told = write_imaging_study(folder, change)
    assert told.answer == "works" and "this patient will fail and the study goes on" in told.message
    return Told("ledger", told.message)


def moved(name: str, linked: bool, folder: Path) -> Told:
    """The image of row 5 under another name, or linked from a scratch disk."""

    def move(folder: Path) -> None:
        path = folder / "images/T-004.nii.gz"
        target = folder / "disk/x.nii.gz" if linked else folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        if linked:
            (folder / name).symlink_to(target)

    told = write_imaging_study(folder, cell(5, "image", name), move)
    assert "will fail" not in told.message
    return told


def again(frame: Frame) -> Frame:
    return pd.concat([frame, frame.iloc[[3]]], ignore_index=True)


ODD_NAME = "images/a;rm -rf $HOME `id` '{batch}' %s 肝.nii.gz"

CASES += [
    refused(
        IMAGES,
        "a patient nobody knows",
        partial(images, cell(5, "patient", "T-999")),
        "images.tsv row 5: patient is 'T-999'",
        "a patient of patients.tsv",
    ),
    refused(
        IMAGES,
        "a patient in small letters",
        partial(images, cell(5, "patient", "t-004")),
        "row 5: patient is 't-004'",
        "is it 'T-004'?",
    ),
    refused(IMAGES, "no patient", partial(images, cell(5, "patient", "")), "images.tsv row 5: patient is empty"),
    refused(
        IMAGES, "no image", partial(images, cell(5, "image", "")), "images.tsv row 5 (T-004): image is empty", "a path"
    ),
    refused(
        IMAGES, "no mask", partial(images, cell(5, "mask", "NA")), "images.tsv row 5 (T-004): mask is empty", "a path"
    ),
    refused(IMAGES, "without the column mask", partial(images, lambda f: f.drop(columns="mask")), "no column 'mask'"),
    refused(
        IMAGES,
        "a column nobody knows",
        partial(images, lambda f: f.assign(masks="x")),
        "unknown column 'masks'",
        "only patient",
    ),
    refused(IMAGES, "no row", partial(images, lambda f: f.iloc[:0]), "images.tsv: no row"),
    refused(
        IMAGES,
        "a row twice",
        partial(images, again),
        "images.tsv row 62 (T-004)",
        "the same timepoint, series and reader as row 5",
    ),
    refused(
        IMAGES,
        "another series alone",
        partial(images, lambda f: f.assign(series="mr")),
        "only series mr (baseline)",
        "ct (baseline)",
    ),
    refused(
        IMAGES, "a NUL character in a path", partial(images, cell(5, "image", "a\x00b")), "images.tsv row 5", "NUL"
    ),
    refused(
        IMAGES,
        "an image of two patients",
        partial(images, cell(5, "image", "images/T-001.nii.gz")),
        "row 5 (T-004): image is the same image as row 2 (T-001",
    ),
    refused(
        IMAGES,
        "no image is there",
        partial(images, lambda f: f.assign(image="x.nii.gz")),
        "none of the 60 images is there",
        "paths relative to",
    ),
    BadInput(
        IMAGES,
        "an image that is not there",
        partial(lost_with_a_note, cell(5, "image", "x.nii.gz")),
        "ledger",
        ("images.tsv row 5 (T-004): image x.nii.gz is missing",),
    ),
    refused(
        IMAGES,
        "a mask of 5,000 characters",
        partial(images, cell(5, "mask", "x/" * 2500)),
        "images.tsv row 5 (T-004): mask",
        "(5010 characters)",
    ),
    refused(
        IMAGES,
        "an image with a name of 300 characters",
        partial(images, cell(5, "image", "x" * 300)),
        "images.tsv row 5 (T-004): image",
        "a path that a disk can hold",
    ),
    works(IMAGES, "a linked image", partial(moved, "images/link.nii.gz", True), "60 rows of images"),
    works(IMAGES, "an image with a shell command for a name", partial(moved, ODD_NAME, False), "60 rows of images"),
]
