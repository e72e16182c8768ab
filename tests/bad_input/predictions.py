"""Tables of predictions, through `hccstudy evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from bad_input import BadInput, Told
from bad_input.doors import PNG, Change, Frame, cell, changed, command, on_table, refused, works

DOOR = "hccstudy evaluate"
QUICK = ("--bootstrap", "50", "--thresholds", "0.3", "--out", "out")
BINARY = ("--outcome", "binary", "--event", "y", "--risk", "p", *QUICK)
SURVIVAL = ("--outcome", "survival", "--event", "y", "--time", "t", "--risk", "p", "--horizon", "12", *QUICK)


@cache
def _given() -> Frame:
    rng = np.random.default_rng(4)
    risk = rng.uniform(0.05, 0.95, 60).round(3)
    event = (rng.random(60) < risk).astype(int)
    frame = pd.DataFrame({"patient": [f"P{number}" for number in range(60)], "center": ["A", "B"] * 30, "y": event})
    return frame.assign(t=rng.uniform(1, 40, 60).round(1), p=risk).astype(object)


def evaluate(change: Change, folder: Path, *, options: Sequence[str] = BINARY) -> Told:
    return on_table(folder, "evaluate", changed(_given(), change), options)


def bytes_of(content: bytes, folder: Path, *, name: str = "t.tsv") -> Told:
    (folder / name).write_bytes(content)
    return command(folder, "evaluate", name, *BINARY)


def same(frame: Frame) -> None:
    """Nothing is changed."""


def auc(folder: Path) -> float:
    found = pd.read_csv(folder / "out/metrics.tsv", sep="\t")
    return float(found.loc[(found["metric"] == "auc") & (found["center"] == "pooled"), "estimate"].iloc[0])


def pairs() -> float:
    """The share of pairs (event, none) in which the event has the higher risk, ties counted half."""
    frame = _given()
    events, others = (frame.loc[frame["y"] == value, "p"].to_numpy(float) for value in (1, 0))
    difference = events[:, None] - others[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def right(change: Change, folder: Path, *, options: Sequence[str] = BINARY) -> Told:
    told = evaluate(change, folder, options=options)
    assert told.answer == "refused" or np.isclose(auc(folder), pairs(), rtol=1e-12)
    return told


def chinese(folder: Path) -> Told:
    names = {"patient": "病人", "center": "中心", "y": "结局", "p": "风险"}
    _given().rename(columns=names).to_excel(folder / "预测 1.xlsx", index=False)
    told = command(
        folder, "evaluate", "预测 1.xlsx", "--outcome", "binary", "--event", "结局", "--risk", "风险",
        "--center", "中心", "--patient", "病人", *QUICK,
    )  # fmt: skip
    assert np.isclose(auc(folder), pairs(), rtol=1e-12)
    return told


def out_is_a_file(folder: Path) -> Told:
    (folder / "out").write_text("mine")
    told = evaluate(same, folder)
    assert (folder / "out").read_text() == "mine"
    return told


def curves(content: str, folder: Path) -> Told:
    (folder / "s.tsv").write_text(content)
    return evaluate(same, folder, options=(*SURVIVAL, "--survival-curves", "s.tsv"))


CURVES = "6\t12\n" + "0.9\t0.5\n" * 60

CELLS: dict[str, tuple[Change, Sequence[str], list[str]]] = {
    "a risk above 1": (cell(5, "p", "1.2"), BINARY, ["t.tsv row 5: p is '1.2'", "a probability from 0 to 1"]),
    "a risk below 0": (cell(5, "p", "-0.1"), BINARY, ["t.tsv row 5: p is '-0.1'", "a probability from 0 to 1"]),
    "percent": (lambda f: f.assign(p=f["p"] * 100), BINARY, ["t.tsv row 2: p is", "percent? divide by 100"]),
    "a decimal comma": (cell(5, "p", "0,5"), BINARY, ["t.tsv row 5: p is '0,5'"]),
    "no risk": (cell(5, "p", ""), BINARY, ["t.tsv row 5: p is empty"]),
    "NaN": (cell(5, "p", "NaN"), BINARY, ["t.tsv row 5: p is empty"]),
    "1e400": (cell(5, "p", "1e400"), BINARY, ["t.tsv row 5: p is '1e400'"]),
    "underscores": (cell(5, "t", "1_0"), SURVIVAL, ["t.tsv row 5: t is '1_0'", "a time above 0"]),
    "an outcome of 2": (cell(5, "y", "2"), BINARY, ["t.tsv row 5: y is '2'", "0 or 1"]),
    "an outcome in words": (cell(5, "y", "yes"), BINARY, ["t.tsv row 5: y is 'yes'"]),
    "a time below zero": (cell(5, "t", "-3"), SURVIVAL, ["t.tsv row 5: t is '-3'", "a time above 0"]),
    "a date for a time": (cell(5, "t", "2019-03-14"), SURVIVAL, ["t.tsv row 5: t is '2019-03-14'", "a time above 0"]),
    "an event without its time": (cell(5, "t", ""), SURVIVAL, ["t.tsv row 5: t is empty", "because y is there"]),
    "no center": (cell(5, "center", ""), (*BINARY, "--center", "center"), ["t.tsv row 5: center is empty"]),
    "a center called pooled": (
        cell(5, "center", "pooled"),
        (*BINARY, "--center", "center"),
        ["row 5: center is 'pooled'"],
    ),
    "a center that is a formula": (
        cell(5, "center", "=1+1"),
        (*BINARY, "--center", "center"),
        ["t.tsv row 5: center is '=1+1'", "formula"],
    ),
    "no id": (cell(5, "patient", ""), (*BINARY, "--patient", "patient"), ["t.tsv row 5: patient is empty"]),
    "without its column": (lambda f: f.drop(columns="p"), BINARY, ["no column 'p'", "it has patient, center"]),
    "no outcome at all": (lambda f: f.assign(y=""), BINARY, ["t.tsv", "no row has an outcome"]),
    "a competing event that is NaN": (
        same,
        (*SURVIVAL, "--competing", "nan"),
        ["--competing nan", "a value other than"],
    ),
    "a horizon of infinity": (same, (*SURVIVAL, "--horizon", "inf"), ["--horizon inf", "a time above 0"]),
    "a model that is a formula": (
        lambda f: f.rename(columns={"p": "=p"}),
        ("--outcome", "binary", "--event", "y", "--risk", "=p", *QUICK),
        ["=p is the name of a model", "formula"],
    ),
    "an option that is no number": (same, (*SURVIVAL, "--horizon", "12,5"), ["--horizon", "12,5"]),
}

CASES: list[BadInput] = [
    refused(DOOR, "empty file", partial(bytes_of, b""), "t.tsv", "the file is empty"),
    refused(DOOR, "header alone", partial(bytes_of, b"patient\ty\tp\n"), "t.tsv: no row"),
    refused(DOOR, "a picture called .xlsx", partial(bytes_of, PNG, name="t.xlsx"), "t.xlsx", "not readable as a table"),
    refused(
        DOOR, "Latin-1", partial(bytes_of, "y\tp\tort\n1\t0.5\tZürich\n".encode("latin-1")), "t.tsv line 2", "UTF-8"
    ),
    refused(
        DOOR, "cut off in a row", partial(bytes_of, b"patient\ty\tp\nP1\t1\t0.5\nP2\t0"), "t.tsv row 3", "broken off"
    ),
    *(
        refused(DOOR, name, partial(evaluate, change, options=options), *says)
        for name, (change, options, says) in CELLS.items()
    ),
    refused(DOOR, "an --out that is a file", out_is_a_file, "out", "is no folder"),
    refused(
        DOOR,
        "survival that rises",
        partial(curves, CURVES.replace("0.9\t0.5", "0.4\t0.5")),
        "s.tsv",
        "survival that never rises",
    ),
    refused(
        DOOR,
        "survival of another number of patients",
        partial(curves, CURVES[:-8]),
        "s.tsv: 59 rows",
        "the 60 rows of t.tsv",
    ),
    refused(
        DOOR,
        "survival at times that fall",
        partial(curves, CURVES.replace("6\t12", "12\t6")),
        "s.tsv: the times are 12, 6",
    ),
    works(DOOR, "TRUE and FALSE", partial(right, lambda f: f.assign(y=f["y"].map({1: "TRUE", 0: "False"}))), "auc"),
    works(
        DOOR, "numbers with spaces around", partial(right, lambda f: f.assign(p=f["p"].map(lambda v: f" {v} "))), "auc"
    ),
    works(
        DOOR,
        "an id that begins with -",
        partial(right, cell(5, "patient", "-12"), options=(*BINARY, "--patient", "patient")),
        "auc",
    ),
    works(DOOR, "names in Chinese, in a workbook", chinese, "auc"),
]
