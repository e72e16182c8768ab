"""Tables of features: a study's `features.table`, and those of `hccstudy harmonize` and `hccstudy features`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from bad_input import BadInput, Told
from bad_input.doors import (
    PNG,
    Change,
    Frame,
    as_text,
    cell,
    changed,
    command,
    on_table,
    refused,
    table,
    works,
    write_table_study,
)
from hccstudy.config import Config
from hccstudy.feature_table import read_features

STUDY, HARMONIZE, EXTRACT = "features.table", "hccstudy harmonize", "hccstudy features"


def again(frame: Frame) -> Frame:
    return pd.concat([frame, frame.iloc[[3]]], ignore_index=True)


def renamed(old: str, new: str) -> Change:
    return lambda frame: frame.rename(columns={old: new})


# --- features.table of a study ---------------------------------------------------------------------------------


def features(change: Change, folder: Path) -> Told:
    write_table_study(folder, features=changed(table("features"), change))
    return command(folder, "check", ".")


def bytes_of(content: bytes, folder: Path) -> Told:
    write_table_study(folder)
    (folder / "features.tsv").write_bytes(content)
    return command(folder, "check", ".")


def one_lost(change: Change, folder: Path) -> Told:
    """The patient of row 5 is accounted for, and all others have the numbers of the table."""
    frame = table("features")
    told = features(change, folder)
    assert told.answer == "works"
    found = read_features(str(folder / "features.tsv"), table("patients"))
    assert list(found.lost) == ["T-004"]
    others = frame.drop(3).set_index("patient").astype(float)
    assert np.array_equal(found.values.to_numpy(), others.to_numpy())
    return Told("ledger", told.message)


def copied_outcome(frame: Frame) -> None:
    frame["f05"] = table("patients")["mvi"]


def same_values(frame: Frame) -> None:
    frame.iloc[5, 1:] = frame.iloc[4, 1:]


CASES: list[BadInput] = [
    refused(STUDY, "empty file", partial(bytes_of, b""), "features.tsv", "the file is empty"),
    refused(STUDY, "a picture", partial(bytes_of, PNG), "features.tsv line 1", "not UTF-8"),
    refused(STUDY, "no patient", partial(features, lambda f: f.iloc[:0]), "features.tsv: no row"),
    refused(STUDY, "no feature", partial(features, lambda f: f[["patient"]]), "features.tsv: no feature"),
    refused(STUDY, "without ids", partial(features, lambda f: f.drop(columns="patient")), "no column 'patient'"),
    refused(
        STUDY, "a patient nobody knows", partial(features, cell(5, "patient", "T-999")), "row 5: patient is 'T-999'"
    ),
    refused(
        STUDY,
        "a patient in small letters",
        partial(features, cell(5, "patient", "t-004")),
        "features.tsv row 5: patient is 't-004'",
        "is it 'T-004'?",
    ),
    refused(STUDY, "a patient twice", partial(features, again), "row 62 (T-004)", "the id of row 5 too"),
    refused(STUDY, "a saved row index", partial(features, renamed("f00", "Unnamed: 0")), "column 2 is called"),
    refused(
        STUDY, "a feature that a spreadsheet would run", partial(features, renamed("f00", "=f00")), "'=f00'", "formula"
    ),
    refused(
        STUDY,
        "a feature called like a clinical variable",
        partial(features, renamed("f00", "Age")),
        "'Age'",
        "column age",
    ),
    refused(STUDY, "a feature that is the outcome", partial(features, copied_outcome), "feature f05 tells mvi"),
    refused(
        STUDY, "two patients with the same values", partial(features, same_values), "the same values for T-005, T-006"
    ),
    refused(
        STUDY,
        "decimal commas",
        partial(features, lambda f: f.assign(f00=f["f00"].map(lambda value: f"{value:.3f}".replace(".", ",")))),
        "f00 is",
        "a decimal point, not a comma",
    ),
    refused(STUDY, "another center", partial(features, lambda f: f.assign(center="A")), "center is 'A'", "'B' as in"),
    *(
        BadInput(
            STUDY, f"a cell {text!r}", partial(one_lost, cell(5, "f02", text)), "ledger", ("row 5: f02 is", "T-004")
        )
        for text in ("abc", "inf", "1e400", "1,5", "1_000", "#DIV/0!")
    ),
    BadInput(
        STUDY,
        "a patient without features",
        partial(one_lost, lambda f: f.drop(3)),
        "ledger",
        ("no row in features", "T-004"),
    ),
]

# --- hccstudy harmonize ----------------------------------------------------------------------------------------

OPTIONS = ("--patient", "patient", "--batch", "center", "--out", "out")


def given() -> Frame:
    frame = table("features")
    frame.insert(1, "center", table("patients")["center"])
    return frame


def harmonize(change: Change, folder: Path, *, options: Sequence[str] = OPTIONS) -> Told:
    return on_table(folder, "harmonize", changed(given(), change), options)


def same(frame: Frame) -> None:
    """Nothing is changed."""


def harmonize_bytes(content: bytes, folder: Path) -> Told:
    (folder / "t.tsv").write_bytes(content)
    return command(folder, "harmonize", "t.tsv", *OPTIONS)


def out_is_a_file(folder: Path) -> Told:
    (folder / "out").write_text("mine")
    told = harmonize(same, folder)
    assert (folder / "out").read_text() == "mine"
    return told


def into_its_own_folder(folder: Path) -> Told:
    (folder / "harmonized.tsv").write_text(as_text(given()))
    told = command(folder, "harmonize", "harmonized.tsv", *OPTIONS[:-1], ".")
    assert (folder / "harmonized.tsv").read_text() == as_text(given())
    return told


def linked_output(folder: Path) -> Told:
    """The folder of results is a link to a scratch disk, as on clusters."""
    (folder / "disk").mkdir()
    (folder / "out").symlink_to("disk")
    told = harmonize(same, folder)
    assert (folder / "disk/harmonized.tsv").is_file() and (folder / "out").is_symlink()
    return told


def chinese_table(folder: Path) -> Told:
    """The same numbers, whatever columns, centers and patients are called."""
    harmonize(same, folder)
    expected = pd.read_csv(folder / "out/harmonized.tsv", sep="\t")
    frame = given().rename(columns={"patient": "病人", "center": "中心", "f00": "体积"})
    frame["中心"] = frame["中心"].map({"A": "上海", "B": "北京", "C": "广州", "D": "香港"})
    frame.to_csv(folder / "表 1.csv", index=False, encoding="utf-8-sig")
    told = command(folder, "harmonize", "表 1.csv", "--patient", "病人", "--batch", "中心", "--out", "结果 1")
    found = pd.read_csv(folder / "结果 1/harmonized.tsv", sep="\t")
    # the order of centers is that of their names, so sums may differ in the last digits
    np.testing.assert_allclose(found["体积"], expected["f00"], rtol=1e-10)
    assert found["病人"].tolist() == expected["patient"].tolist()
    return told


CASES += [
    refused(HARMONIZE, "empty file", partial(harmonize_bytes, b""), "t.tsv", "the file is empty"),
    refused(HARMONIZE, "header alone", partial(harmonize_bytes, b"patient\tcenter\tf1\n"), "t.tsv: no row"),
    refused(
        HARMONIZE, "GBK", partial(harmonize_bytes, "patient\tcenter\n病人\tA\n".encode("gbk")), "t.tsv line 2", "UTF-8"
    ),
    refused(
        HARMONIZE, "without the column of centers", partial(harmonize, renamed("center", "site")), "no column center"
    ),
    refused(HARMONIZE, "a column without a name", partial(harmonize, renamed("f01", "")), "column 4 has no name"),
    refused(HARMONIZE, "a patient twice", partial(harmonize, again), "row 62 (T-004)", "the same as in row 5"),
    refused(HARMONIZE, "no center", partial(harmonize, cell(5, "center", "")), "row 5 (T-004): center is missing"),
    refused(HARMONIZE, "one center", partial(harmonize, lambda f: f.assign(center="A")), "t.tsv", "center"),
    refused(
        HARMONIZE,
        "a center of one patient",
        partial(harmonize, cell(5, "center", "E")),
        "center E has one patient",
        "row 5",
    ),
    refused(HARMONIZE, "an empty cell", partial(harmonize, cell(5, "f02", "")), "t.tsv row 5 (T-004): f02 is missing"),
    refused(HARMONIZE, "1e400", partial(harmonize, cell(5, "f02", "1e400")), "row 5 (T-004): f02 is '1e400'", "finite"),
    refused(
        HARMONIZE, "a decimal comma", partial(harmonize, cell(5, "f02", "1,5")), "row 5 (T-004): f02 is '1,5'", "finite"
    ),
    refused(HARMONIZE, "a column of text", partial(harmonize, lambda f: f.assign(sex="m")), "sex is 'm'", "no feature"),
    refused(
        HARMONIZE, "an id that is a formula", partial(harmonize, cell(5, "patient", "=1+1")), "row 5: patient is '=1+1'"
    ),
    refused(
        HARMONIZE, "an id that begins with -", partial(harmonize, cell(5, "patient", "-12")), "row 5: patient is '-12'"
    ),
    refused(
        HARMONIZE,
        "a center that is a formula",
        partial(harmonize, cell(5, "center", "@SUM(A1)")),
        "center is '@SUM(A1)'",
    ),
    refused(
        HARMONIZE, "a column that is a formula", partial(harmonize, renamed("f01", "=HYPERLINK(1)")), "'=HYPERLINK(1)'"
    ),
    refused(
        HARMONIZE,
        "one column for patient and center",
        partial(harmonize, same, options=("--patient", "center", "--batch", "center", "--out", "out")),
        "column center is named twice",
    ),
    refused(HARMONIZE, "an --out that is a file", out_is_a_file, "out", "is no folder"),
    refused(HARMONIZE, "an --out that would overwrite the table", into_its_own_folder, "would be overwritten"),
    refused(
        HARMONIZE,
        "a --fit-on without a value",
        partial(harmonize, same, options=(*OPTIONS, "--fit-on", "role")),
        "--fit-on is 'role'",
        "COLUMN=VALUE",
    ),
    works(HARMONIZE, "an --out that is a link", linked_output, "written: out"),
    works(HARMONIZE, "names in Chinese", chinese_table, "written: 结果 1"),
]

# --- hccstudy features -----------------------------------------------------------------------------------------

VALUES = np.random.default_rng(1).integers(0, 200, (8, 9, 10)).astype(np.int16)
INSIDE = np.zeros(VALUES.shape, np.uint8)
INSIDE[2:6, 2:7, 3:8] = 1
MEAN = "original_firstorder_Mean"
GOOD = {"patient": "P1", "region": "tumor", "image": "image.nii.gz", "mask": "mask.nii.gz"}


def extract(
    folder: Path,
    bad: Config | None = None,
    *,
    text: str | bytes | None = None,
    out: str = "o.csv",
    options: Sequence[str] = (),
    settings: str = "setting: {binWidth: 25}\nimageType: {Original: {}}\nfeatureClass: {firstorder: [Mean]}\n",
) -> Told:
    """A good row (its mean is checked wherever the command writes) and `bad`; "ledger": that one says why it has none."""
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), folder / "image.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(INSIDE), folder / "mask.nii.gz")
    (folder / "p.yaml").write_text(settings, encoding="utf-8")
    rows = [GOOD | {"region": "good"}, *([GOOD | bad] if bad is not None else [])]
    content = pd.DataFrame(rows).to_csv(index=False) if text is None else text
    (folder / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    told = command(
        folder, "features", "t.csv", "--settings", "p.yaml", "--out", out, "--names", "pyradiomics", *options
    )
    if not (folder / out).is_file() or out != "o.csv":
        return told
    found = pd.read_csv(folder / out, keep_default_na=False)
    assert found["error"][0] == "" and np.isclose(float(found[MEAN][0]), VALUES[INSIDE == 1].mean(), rtol=1e-12)
    if len(found) > 1 and found["error"][1]:
        assert found[MEAN][1] == "" and "row 3" in told.message
        return Told("ledger", told.message)
    return told


def row(**cells: Any) -> Any:
    return partial(extract, bad=cells)


def linked(folder: Path) -> Told:
    (folder / "disk").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), folder / "disk/x.nii.gz")
    (folder / "链接 $(id).nii.gz").symlink_to(folder / "disk/x.nii.gz")
    told = extract(folder, {"image": "链接 $(id).nii.gz"})
    found = pd.read_csv(folder / "o.csv")
    assert np.isclose(found[MEAN], VALUES[INSIDE == 1].mean(), rtol=1e-12).all()
    return told


def linked_file(folder: Path) -> Told:
    """The output is a link: it is replaced, and what it pointed to stays as it was."""
    (folder / "mine.csv").write_text("mine")
    (folder / "o.csv").symlink_to("mine.csv")
    told = extract(folder)
    assert (folder / "mine.csv").read_text() == "mine" and not (folder / "o.csv").is_symlink()
    return told


def ledger(name: str, *says: str, **cells: Any) -> BadInput:
    return BadInput(EXTRACT, name, row(**cells), "ledger", says)


CASES += [
    refused(EXTRACT, "empty file", partial(extract, text=""), "t.csv", "the file is empty"),
    refused(EXTRACT, "a picture", partial(extract, text=PNG), "t.csv line 1", "not UTF-8"),
    refused(EXTRACT, "header alone", partial(extract, text="patient,region,image,mask\n"), "t.csv: no row"),
    refused(EXTRACT, "without a column", partial(extract, text="patient,region,image\nP,a,b\n"), "no column mask"),
    refused(
        EXTRACT, "a decimal comma in a row", partial(extract, text="patient,region,image,mask\nP,a,b,c,d\n"), "row 2"
    ),
    refused(EXTRACT, "an id that is a formula", row(patient="=1+1"), "t.csv row 3: patient is '=1+1'", "formula"),
    refused(EXTRACT, "a region that begins with -", row(region="-1"), "t.csv row 3: region is '-1'", "formula"),
    refused(
        EXTRACT, "a note that a spreadsheet would run", row(note="@SUM(A1)"), "row 3: note is '@SUM(A1)'", "formula"
    ),
    refused(
        EXTRACT, "an --out that is no table", partial(extract, out="o.xls"), "o.xls", "expected .csv, .tsv or .parquet"
    ),
    refused(EXTRACT, "an --out that is the table", partial(extract, out="t.csv"), "t.csv", "another file to write"),
    refused(
        EXTRACT, "an --out below a file", partial(extract, out="p.yaml/o.csv"), "p.yaml/o.csv", "cannot be written to"
    ),
    refused(EXTRACT, "--jobs 0", partial(extract, options=("--jobs", "0")), "--jobs is 0", "1 or more"),
    ledger("an image that is not there", "t.csv row 3 (P1, tumor)", "x.nii.gz", image="x.nii.gz"),
    ledger("an image that is the table", "t.csv row 3 (P1, tumor)", "t.csv", image="t.csv"),
    ledger("an image that is a folder upwards", "t.csv row 3 (P1, tumor)", image="../.."),
    ledger("an image called for 5,000 characters", "t.csv row 3 (P1, tumor)", image="x" * 5000),
    ledger("no mask", "t.csv row 3 (P1, tumor)", "column mask is empty", mask=""),
    ledger("a mask that is not there", "t.csv row 3 (P1, tumor)", "no.nii.gz", mask="no.nii.gz"),
    ledger("a label in words", "t.csv row 3 (P1, tumor)", "'tumor'", label="tumor"),
    ledger("a label of 1.5", "t.csv row 3 (P1, tumor)", "1.5", label="1.5"),
    ledger("a label of 0", "t.csv row 3 (P1, tumor)", "0", label="0"),
    ledger("a label of 1e400", "t.csv row 3 (P1, tumor)", "1e400", label="1e400"),
    ledger("a label that the mask lacks", "t.csv row 3 (P1, tumor)", "7", label="7"),
    works(EXTRACT, "a linked image with a shell command for a name", linked, "written: o.csv"),
    works(EXTRACT, "an --out that is a link", linked_file, "written: o.csv"),
]
