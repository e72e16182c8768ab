"""Features that were extracted elsewhere: a table with one row a patient takes the place of images.

A broken table stops the study, and every problem in it is named. A broken row loses its patient, as a broken image does,
and the others go on. Tables are `features.table` and `features.repeats` of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hccstudy.cohort_tables import near_id
from hccstudy.errors import CaseError, Problems, StudyError
from hccstudy.ledger import COLUMNS, entry, write_ledger
from hccstudy.tables import NO_FORMULA, is_formula, read_table, read_text_table, write_table

IDS = ("patient", "center")
REPEAT = ("reader", "repeat")
NUMBER = "a finite number, or empty"


@dataclass
class FeatureTable:
    """`values`: one row a usable patient (index patient), one float column a feature, NaN where a cell is empty.
    `lost`: patient of the cohort -> why this one cannot go on."""

    values: pd.DataFrame
    lost: dict[str, CaseError]


def read_features(path: str, patients: pd.DataFrame) -> FeatureTable:
    """Read a feature table: column patient, optionally center, and one number per feature.

    `patients` (columns patient, center) is the cohort. Raises StudyError with every problem of the table: an unknown
    or repeated patient, another center than the cohort's, columns that cannot be features. A cell that is no finite
    number, or a row without any, loses the patient; an empty cell is missing.
    """
    problems = Problems()
    raw = read_text_table(path)
    _check_columns(path, raw, (*IDS, *REPEAT), problems)
    for column in set(REPEAT) & set(raw.columns):
        problems.add(path, f"a column {column!r}", "one row a patient; further measurements go to features.repeats")
    problems.raise_if_any()  # without its columns nothing more can be said of the table
    _check_patients(path, raw, patients, problems)
    twice = raw["patient"].str.casefold().duplicated() & (raw["patient"] != "")
    for row, patient in raw.loc[twice, "patient"].items():
        first = raw.index[raw["patient"].str.casefold() == patient.casefold()][0]
        problems.add(path, f"the id of row {first} too", "one row a patient", row=row, who=patient, column="patient")
    texts = raw[[name for name in raw.columns if name not in IDS]]
    values, wrong = _numbers(texts)
    for name in texts.columns[wrong.mean() > 0.5 * (texts != "").mean()]:
        text = texts.loc[wrong[name], name].iloc[0]
        hint = " (a decimal point, not a comma)" if re.fullmatch(r"-?\d+,\d+", text) else ""
        problems.add(path, f"{text!r} and the like in most rows", f"a column of numbers{hint}", column=name)
    problems.raise_if_any()

    lost = {}
    for row, patient in raw["patient"].items():
        if wrong.loc[row].any():
            names = texts.columns[wrong.loc[row]]
            more = f" ({len(names) - 1} more cells of this row are wrong)" if len(names) > 1 else ""
            found = f"{names[0]} is {texts.loc[row, names[0]]!r}; expected {NUMBER}"
            lost[patient] = CaseError("feature is not a number", f"{path} row {row}: {found}{more}")
        elif values.loc[row].isna().all():
            lost[patient] = CaseError("no feature value", f"{path} row {row}: every feature is empty")
    for patient in sorted(set(patients["patient"]) - set(raw["patient"])):
        lost[patient] = CaseError(f"no row in {Path(path).name}", f"{path} has no row of {patient}", excluded=True)
    values = values.set_axis(pd.Index(raw["patient"], name="patient"))
    return FeatureTable(values[~values.index.isin(list(lost))], lost)


def read_repeats(path: str, features: pd.DataFrame, patients: pd.DataFrame) -> pd.DataFrame:
    """Read repeated measurements and put those of `features` (index patient) before them as repeat "0".

    Returns patient, repeat, features: every patient with as many repeats as the patient with fewest has ("1" is the
    first reader in alphabetical order), so that agreement is between equal numbers. Raises StudyError with every
    problem, among them a row that only copies the feature table: two equal rows would call every feature stable.
    """
    problems = Problems()
    raw = read_text_table(path)
    _check_columns(path, raw, (*IDS, *REPEAT), problems)
    reader = [name for name in REPEAT if name in raw.columns]
    if len(reader) != 1:
        problems.add(
            path, f"{' and '.join(reader) or 'no column reader or repeat'}", "one of the columns reader, repeat"
        )
    expected = f"the features of the feature table ({len(features.columns)})"
    names = set(raw.columns) - {*IDS, *REPEAT}
    for name in sorted(names - set(features.columns)):
        problems.add(path, f"a feature {name!r} that the feature table does not have", expected)
    for name in sorted(set(features.columns) - names):
        problems.add(path, f"no feature {name!r}", expected)
    problems.raise_if_any()

    _check_patients(path, raw, patients, problems)
    for row in raw.index[raw.duplicated(["patient", reader[0]])]:
        who, found = raw.loc[row, "patient"], f"a further row of {reader[0]} {raw.loc[row, reader[0]]!r}"
        problems.add(path, found, f"one row a patient and {reader[0]}", row=row, who=who)
    texts = raw[list(features.columns)]
    values, wrong = _numbers(texts)
    for row, place in np.argwhere(wrong.to_numpy()):
        found, name = repr(texts.iat[row, place]), texts.columns[place]
        problems.add(path, found, NUMBER, row=raw.index[row], who=raw["patient"].iat[row], column=name)
    problems.raise_if_any()

    used = raw["patient"].isin(features.index)
    values, who = values[used], raw.loc[used, "patient"]
    same = values.eq(features.loc[who].to_numpy()) | (values.isna() & features.loc[who].isna().to_numpy())
    for row in values.index[same.all(axis="columns")]:
        found = "the same values as in the feature table"
        problems.add(path, found, "a further measurement", row=row, who=who[row])
    problems.raise_if_any()
    place = raw.loc[used, reader[0]].groupby(who).rank(method="first").astype(int)
    values = values.assign(patient=who, repeat=place.astype(str))[place <= who.map(who.value_counts()).min()]
    first = features.loc[sorted(set(who))].reset_index().assign(repeat="0")
    joined = pd.concat([first, values])[["patient", "repeat", *features.columns]]
    return joined.sort_values(["patient", "repeat"], ignore_index=True)


def collect_features(*, source: str, cohort: str, table: str, ledger: str) -> None:
    """Write one row a patient (patient, center, features in the order of `source`) and the ledger of the stage.

    `source` is the feature table, `cohort` the ledger file of the cohort: whom it included are those accounted for
    here. A feature that nobody has is left out.
    """
    lines = read_table(cohort, COLUMNS)
    patients = lines.loc[lines["status"] == "included", ["patient", "center"]].sort_values("patient")
    found = read_features(source, patients)
    values = found.values.dropna(axis="columns", how="all").sort_index()
    if values.empty:
        raise StudyError(f"{source}: no patient of the cohort has features; expected a number in most cells")
    centers = patients.set_index("patient")["center"]
    values.insert(0, "center", centers.loc[values.index])
    missing = values.isna().sum(axis="columns")
    entries = []
    for patient, center in centers.items():
        line = entry(str(patient), center, "features", found.lost.get(str(patient)))
        if patient in missing.index and missing[patient]:
            line["detail"] = f"{missing[patient]} of {values.shape[1] - 1} features are missing and will be imputed"
        entries.append(line)
    write_table(values.reset_index(), table)
    write_ledger(entries, ledger)


def _check_columns(path: str, raw: pd.DataFrame, others: Iterable[str], problems: Problems) -> None:
    if "patient" not in raw.columns:
        some = ", ".join(raw.columns[:8])
        problems.add(path, f"no column 'patient'; it begins with {some}", "a column 'patient'")
    for place, name in enumerate(raw.columns):
        if not name or re.fullmatch(r"Unnamed: \d+", name):  # a row index that was saved along: no feature
            problems.add(path, f"column {place + 1} is called {name!r}", "a name for every column, and no row index")
        if is_formula(name):
            problems.add(path, f"column {place + 1} is called {name!r}", f"a name {NO_FORMULA}")
    if set(raw.columns) <= set(others):
        problems.add(path, "no feature", "a column for each feature")
    if raw.empty:
        problems.add(path, "no row", "one row a patient")


def _check_patients(path: str, raw: pd.DataFrame, patients: pd.DataFrame, problems: Problems) -> None:
    """Every row is of a patient of the cohort, and of the center that the cohort says."""
    centers = dict(zip(patients["patient"], patients["center"], strict=True))
    for row, patient in raw["patient"].items():
        if patient not in centers:
            found = repr(patient) if patient else "empty"
            problems.add(
                path, found, f"a patient of the patients table{near_id(patient, centers)}", row=row, column="patient"
            )
        elif "center" in raw.columns and raw.loc[row, "center"] != centers[patient]:
            found, expected = repr(raw.loc[row, "center"]), f"{centers[patient]!r} as in the patients table"
            problems.add(path, found, expected, row=row, who=patient, column="center")


def _numbers(texts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Text cells as numbers (empty: NaN), and which cells hold something that is no finite number."""
    cells = texts.to_numpy(dtype=object)
    read = pd.to_numeric(cells.ravel(), errors="coerce").reshape(cells.shape).astype(float)
    right = np.isfinite(read)
    values = np.where(right, cells, "nan").astype(float)  # to_numeric may be off in the last digit
    frames = [pd.DataFrame(of, index=texts.index, columns=texts.columns) for of in (values, ~right & (cells != ""))]
    return frames[0], frames[1]
