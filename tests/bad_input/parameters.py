"""Parameter files of pyradiomics, through `hccstudy features`, and frozen parameters of `hccstudy harmonize --apply`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bad_input import BadInput, Told
from bad_input.doors import PNG, as_text, command, refused, works
from bad_input.features import GOOD, OPTIONS, extract, given
from hccstudy.tables import digest

DOOR, FROZEN = "pyradiomics parameter file", "harmonize --apply"
GOOD_FILE = "setting: {binWidth: 25}\nimageType: {Original: {}}\nfeatureClass: {firstorder: [Mean]}\n"


def settings(text: str | bytes, folder: Path) -> Told:
    """The command with this parameter file; nothing may be written where it is refused."""
    (folder / "t.csv").write_text(pd.DataFrame([GOOD]).to_csv(index=False))
    (folder / "p.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    told = command(folder, "features", "t.csv", "--settings", "p.yaml", "--out", "o.csv")
    assert not (folder / "o.csv").exists()
    return told


def no_file(folder: Path) -> Told:
    (folder / "t.csv").write_text("patient,region,image,mask\na,b,c,d\n")
    return command(folder, "features", "t.csv", "--settings", "p.yaml", "--out", "o.csv")


def replaced(old: str, new: str, folder: Path) -> Told:
    assert old in GOOD_FILE
    return settings(GOOD_FILE.replace(old, new), folder)


FILES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty file": ("", ["p.yaml: found nothing", "the sections"]),
    "a picture": (PNG, ["p.yaml", "line 1", "not UTF-8"]),
    "GBK": (f"# 参数\n{GOOD_FILE}".encode("gbk"), ["p.yaml", "line 1", "not UTF-8"]),
    "cut off": (GOOD_FILE[:20], ["p.yaml", "not readable"]),
    "a list": ("- binWidth\n", ["p.yaml: found list", "the sections featureClass"]),
    "a section nobody knows": (GOOD_FILE + "settings: {}\n", ["settings", "the sections"]),
    "a section twice": (GOOD_FILE + "setting: {binWidth: 5}\n", ["key 'setting' stands twice"]),
    "a setting twice": (
        GOOD_FILE.replace("binWidth: 25", "binWidth: 25, binWidth: 5"),
        ["key 'binWidth' stands twice"],
    ),
    "aliases of themselves": ("setting: &a {binWidth: *a}\n", ["p.yaml", "100000 values"]),
    "a Python object": ("setting: !!python/name:os.system\n", ["could not determine a constructor"]),
}

VALUES: dict[str, tuple[str, str, list[str]]] = {
    "an image type nobody knows": (
        "Original",
        "Wavelets",
        ["unknown name 'Wavelets' in imageType", "Wavelet (did you"],
    ),
    "a feature class nobody knows": ("firstorder", "first_order", ["'first_order' in featureClass", "firstorder (did"]),
    "a feature nobody knows": ("Mean", "Average", ["unknown name 'Average' in featureClass.firstorder"]),
    "a setting nobody knows": (
        "binWidth",
        "binWidht",
        ["unknown name 'binWidht' in setting", "binWidth (did you mean"],
    ),
    "binWidth 0": ("25", "0", ["setting.binWidth", "p.yaml"]),
    "binWidth below zero": ("25", "-25", ["setting.binWidth", "p.yaml"]),
    "binWidth in words": ("25", "wide", ["setting.binWidth", "p.yaml"]),
    "binWidth with a decimal comma": ("25", '"2,5"', ["setting.binWidth", "p.yaml"]),
    "binWidth NaN": ("25", ".nan", ["p.yaml", ".nan", "a finite decimal number"]),
    "binWidth infinity": ("25", ".inf", ["p.yaml", ".inf", "a finite decimal number"]),
    "an octal binWidth": ("25", "025", ["p.yaml", "025", "decimal number"]),
    "binWidth and binCount": ("25", "25, binCount: 32", ["setting.binCount", "either binWidth or binCount"]),
    "a spacing of two numbers": (
        "25",
        "25, resampledPixelSpacing: [1, 1]",
        ["setting.resampledPixelSpacing", "three numbers"],
    ),
    "a spacing below zero": ("25", "25, resampledPixelSpacing: [1, 1, -1]", ["setting.resampledPixelSpacing"]),
    "an interpolator nobody has": ("25", "25, interpolator: sitkCubic", ['value "sitkCubic" not valid', "sitkBSpline"]),
    "LoG without sigma": ("Original", "LoG", ["imageType.LoG", "sigma: [mm, ...]"]),
    "a wavelet nobody has": ("25", "25, wavelet: coif99", ["'coif99' in setting.wavelet"]),
    "2-D shape in three dimensions": ("firstorder: [Mean]", "shape2D: ", ["featureClass.shape2D", "force2D"]),
    "our section with another's key": ("imageType", "ibsi: {mode: a}\nimageType", ["section ibsi has mode: 'a'"]),
}

CASES: list[BadInput] = [
    *(refused(DOOR, name, partial(settings, content), *says) for name, (content, says) in FILES.items()),
    *(refused(DOOR, name, partial(replaced, old, new), *says) for name, (old, new, says) in VALUES.items()),
    refused(DOOR, "not there", no_file, "p.yaml", "No such file"),
    works(
        DOOR,
        "a byte-order mark and a comment in Chinese",
        partial(extract, settings=f"\ufeff# 参数\n{GOOD_FILE}"),
        "written",
    ),
]


# --- frozen parameters of ComBat --------------------------------------------------------------------------------


def fitted(folder: Path) -> dict[str, Any]:
    (folder / "t.tsv").write_text(as_text(given()))
    assert command(folder, "harmonize", "t.tsv", *OPTIONS[:-1], "fit").answer == "works"
    return dict(json.loads((folder / "fit/parameters.json").read_text()))


def apply(content: str | bytes, folder: Path, *, name: str = "p.json") -> Told:
    (folder / "p.json").write_bytes(content.encode() if isinstance(content, str) else content)
    told = command(folder, "harmonize", "t.tsv", *OPTIONS, "--apply", name)
    assert told.answer == "works" or not (folder / "out").exists()
    return told


def stored(change: Callable[[dict[str, Any]], Any], folder: Path, *, signed: bool = False) -> Told:
    """Parameters after a change; `signed`: with a checksum that is right for them."""
    content = fitted(folder)
    change(content)
    if signed:
        content["checksum"] = digest({key: value for key, value in content.items() if key != "checksum"})
    return apply(json.dumps(content), folder)


def raw(content: str | bytes, folder: Path) -> Told:
    (folder / "t.tsv").write_text(as_text(given()))
    return apply(content, folder)


def half(folder: Path) -> Told:
    return apply(json.dumps(fitted(folder))[:500], folder)


def unchanged(folder: Path) -> Told:
    """The same rows come out as they did in the fit."""
    told = apply(json.dumps(fitted(folder)), folder)
    before, after = (pd.read_csv(folder / name / "harmonized.tsv", sep="\t") for name in ("fit", "out"))
    np.testing.assert_allclose(after.iloc[:, 2:], before.iloc[:, 2:], rtol=1e-12)
    return told


def not_there(folder: Path) -> Told:
    (folder / "t.tsv").write_text(as_text(given()))
    return command(folder, "harmonize", "t.tsv", *OPTIONS, "--apply", "p.json")


def edited(content: dict[str, Any]) -> None:
    content["combat"]["mean"][2] += 1e-9


def not_a_number(content: dict[str, Any]) -> None:
    content["combat"]["mean"][2] = float("nan")


def fewer(content: dict[str, Any]) -> None:
    content["combat"]["mean"].pop()


CASES += [
    refused(FROZEN, "not there", not_there, "p.json", "No such file"),
    refused(FROZEN, "empty", partial(raw, ""), "p.json", "not readable as JSON"),
    refused(FROZEN, "a picture", partial(raw, PNG), "p.json", "not readable as JSON"),
    refused(FROZEN, "100,000 brackets", partial(raw, "[" * 100_000), "p.json", "not readable as JSON"),
    refused(FROZEN, "a list", partial(raw, "[1]"), "p.json", "is no file of parameters"),
    refused(FROZEN, "something else's JSON", partial(raw, '{"format": "x"}'), "p.json", "is no file of parameters"),
    refused(FROZEN, "cut off", half, "p.json", "not readable as JSON"),
    refused(
        FROZEN, "another version", partial(stored, lambda c: c.update(version=99)), "version 99", "knows version 1"
    ),
    refused(FROZEN, "a number edited in its 9th digit", partial(stored, edited), "p.json", "its checksum differs"),
    refused(FROZEN, "NaN", partial(stored, not_a_number), "p.json", "its checksum differs"),
    refused(
        FROZEN, "NaN, with a checksum", partial(stored, not_a_number, signed=True), "p.json", "nan", "a finite number"
    ),
    refused(FROZEN, "without its checksum", partial(stored, lambda c: c.pop("checksum")), "p.json: no checksum"),
    refused(FROZEN, "without the parameters", partial(stored, lambda c: c.pop("combat"), signed=True), "no combat"),
    refused(
        FROZEN, "fewer means than features, with a checksum", partial(stored, fewer, signed=True), "p.json", "mean"
    ),
    works(FROZEN, "parameters as they were written", unchanged, "written: out"),
]
