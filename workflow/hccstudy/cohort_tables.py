"""The two tables of a study as typed rows: patients and images, every wrong cell a problem with its file, row and column."""

from __future__ import annotations

import difflib
import math
import os
import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from typing import Any

import pandas as pd

from hccstudy import tables
from hccstudy.config import Config, landmark_days, schema
from hccstudy.errors import Problems
from hccstudy.tables import read_text_table


def read_patients(config: Config, problems: Problems) -> pd.DataFrame:
    file = config["cohort"]["patients"]
    raw = read_text_table(file)
    center_column = config["cohort"]["centers"]["column"]
    for column in patient_columns(config):
        if column not in raw.columns:
            problems.add(file, f"no column {column!r}; it has {', '.join(raw.columns)}", f"a column {column!r}")
    if len(raw) == 0:
        problems.add(file, "no row", "one row a patient")
    problems.raise_if_any()  # without its columns nothing more can be said of the table
    raw["center"] = raw[center_column]
    raw["index_date"] = raw.get("index_date", "")
    who = raw["patient"].to_dict()
    _check_ids(raw["patient"], file, problems)
    roles = config["cohort"]["centers"]["development"] + config["cohort"]["centers"]["external"]
    for row, center in raw["center"].items():
        if center not in roles:
            known = f"one of {', '.join(roles)} (cohort.centers)"
            problems.add(file, repr(center) if center else "empty", known, row=row, who=who[row], column=center_column)
    for row, text in raw["index_date"].items():
        if text and not is_date(text):
            problems.add(file, repr(text), "a date YYYY-MM-DD", row=row, who=who[row], column="index_date")
    typed = raw[["patient", "center", "index_date"]].copy()
    for column, rules in config["cohort"]["columns"].items():
        typed[column] = _typed(raw[column], rules, file, who, problems)
    for rules in config["endpoints"].values():
        for column, kind in _outcome_rules(rules).items():
            typed[column] = _typed(raw[column], kind, file, who, problems)
        if rules["type"] == "survival":
            _check_survival_pair(raw, rules["source"], file, who, problems)
            _start_at_landmark(typed, rules)
    _check_dates(raw, config, who, problems)
    return typed


def patient_columns(config: Config) -> list[str]:
    """The columns that a configuration needs of the patients table."""
    wanted = [
        "patient",
        config["cohort"]["centers"]["column"],
        *config["cohort"]["columns"],
        *(rules["date"] for rules in config["cohort"]["columns"].values() if "date" in rules),
        *(column for rules in config["endpoints"].values() for column in _outcome_rules(rules)),
    ]
    return list(dict.fromkeys(wanted))


def _start_at_landmark(typed: pd.DataFrame, rules: dict[str, Any]) -> None:
    """The outcome after the landmark in columns of its own; missing for whoever is not followed beyond it."""
    if rules["landmark"]:
        time, event = (typed[rules["source"][key]] for key in ("time", "event"))
        beyond = time > rules["landmark"]
        typed[rules["time"]], typed[rules["event"]] = (time - rules["landmark"]).where(beyond), event.where(beyond)


def _check_dates(raw: pd.DataFrame, config: Config, who: dict[Any, str], problems: Problems) -> None:
    """A predictor that was measured after follow-up of a survival endpoint starts would leak survival itself."""
    file = config["cohort"]["patients"]
    starts = {name: landmark_days(rules) for name, rules in config["endpoints"].items() if rules["type"] == "survival"}
    for predictor in config["predictors"]["clinical"]:
        column = config["cohort"]["columns"][predictor].get("date")
        for row, text in raw[column].items() if column and starts else ():
            if not raw.loc[row, predictor]:
                continue
            index = raw.loc[row, "index_date"]
            place: dict[str, Any] = {"row": row, "who": who[row], "column": str(column)}
            if not (is_date(text) and is_date(index)):
                found = f"{text!r} (index_date {index!r})"
                problems.add(file, found, f"dates YYYY-MM-DD of index and of {predictor}", **place)
                continue
            days = (date.fromisoformat(text) - date.fromisoformat(index)).days
            late = [name for name, start in starts.items() if days > start]
            if late:
                found = f"{text}, {days} days after the index date"
                expected = f"{predictor} measured by then, or a landmark that late in endpoint {late[0]}"
                problems.add(file, found, expected, **place)


def _outcome_rules(rules: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if rules["type"] == "survival":
        source = rules["source"]
        return {source["time"]: {"type": "time"}, source["event"]: {"type": "event", "competing": rules["competing"]}}
    if rules["type"] == "binary":
        return {rules["column"]: {"type": "event"}}
    return {rules["column"]: {"type": "category", "levels": rules["levels"]}}


def _typed(texts: pd.Series, rules: dict[str, Any], file: str, who: dict[Any, str], problems: Problems) -> pd.Series:
    """A text column as numbers (missing: NaN) or categories (missing: None), each wrong cell a problem."""
    values: list[Any] = []
    for row, text in texts.items():
        value, expected = _cell(text, rules)
        if expected:
            problems.add(file, repr(text), expected, row=int(str(row)), who=who[row], column=str(texts.name))
        values.append(value)
    dtype = object if rules["type"] == "category" else float
    return pd.Series(values, index=texts.index, dtype=dtype)


def _cell(text: str, rules: dict[str, Any]) -> tuple[Any, str]:
    """(value, what was expected); the second is "" where the cell is right."""
    if rules["type"] == "category":
        if text == "" or text in rules["levels"]:
            return text or None, ""
        return None, f"one of {', '.join(rules['levels'])}, or empty"
    if text == "":
        return math.nan, ""
    number = tables.number(text)
    if math.isnan(number):
        hint = " (a decimal point, not a comma)" if re.fullmatch(r"-?\d+,\d+", text) else ""
        return math.nan, f"a number{hint}"
    if not math.isfinite(number):
        return math.nan, "a finite number"
    competing = rules.get("competing")
    if rules["type"] == "event" and number not in (0, 1, competing):
        return math.nan, f"0 (no event) or 1 (event){f' or {competing} (competing event)' if competing else ''}"
    if rules["type"] == "time" and number <= 0:
        return math.nan, "> 0"
    low, high = rules.get("range", (-math.inf, math.inf))
    if not low <= number <= high:
        return math.nan, f"{low} to {high}{' ' + rules['unit'] if rules.get('unit') else ''}"
    return number, ""


def is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _spelling(patient: str) -> str:
    """What is the same for ids that differ in letters' case or in how Unicode writes a character."""
    return unicodedata.normalize("NFKC", patient).casefold()


def near_id(patient: str, known: Iterable[str]) -> str:
    """ " (is it '001'?)" where a known id differs in case, spaces, leading zeros or forms of characters only."""

    def bare(text: str) -> str:
        return re.sub(r"\s", "", _spelling(text)).lstrip("0")

    near = next((name for name in known if patient and bare(name) == bare(patient)), None)
    return f" (is it {near!r}?)" if near else ""


def _check_ids(ids: pd.Series, file: str, problems: Problems) -> None:
    rules = schema("patients")["properties"]["patient"]
    first: dict[str, Any] = {}
    for row, patient in ids.items():
        key = _spelling(patient)  # some file systems do not tell a from A
        if not patient:
            problems.add(file, "empty", "an id", row=row, column="patient")
        elif not re.fullmatch(rules["pattern"].strip("^$"), patient):
            expected = "letters, digits, space and . @ + - _ only, 64 at most, a letter or digit first"
            problems.add(file, repr(patient), expected, row=row, column="patient")
        elif key in first:
            problems.add(
                file,
                f"the id of row {first[key]} too",
                "every id once",
                row=row,
                who=patient,
                column="patient",
            )
        first.setdefault(key, row)


def _check_survival_pair(
    raw: pd.DataFrame, rules: dict[str, Any], file: str, who: dict[Any, str], problems: Problems
) -> None:
    for row in raw.index:
        time, event = raw.loc[row, rules["time"]], raw.loc[row, rules["event"]]
        if bool(time) != bool(event):
            empty, there = (rules["event"], rules["time"]) if time else (rules["time"], rules["event"])
            expected = "both or neither"
            problems.add(file, f"empty while {there} is {time or event}", expected, row=row, who=who[row], column=empty)


def read_images(config: Config, patients: pd.DataFrame, problems: Problems, notes: list[str]) -> pd.DataFrame:
    file = config["cohort"]["images"]
    raw = read_text_table(file)
    rules = schema("images")
    for column in raw.columns:
        if column not in rules["properties"]:
            problems.add(file, f"unknown column {column!r}", f"only {', '.join(rules['properties'])}")
    for column in rules["properties"]:
        if column not in raw.columns:
            if column in rules["required"]:
                problems.add(file, f"no column {column!r}; it has {', '.join(raw.columns)}", f"a column {column!r}")
            raw[column] = ""
    if not len(raw):
        problems.add(file, "no row", "one row a series and reader")
    raw.loc[raw["timepoint"] == "", "timepoint"] = "baseline"
    ids = set(patients["patient"])
    known = {(rule["timepoint"], name) for name, rule in config["series"].items()}
    seen: dict[tuple[str, ...], Any] = {}
    for row, values in zip(raw.index, raw.to_dict("records"), strict=True):
        patient = values["patient"]
        if patient not in ids:
            expected = f"a patient of {config['cohort']['patients']}{near_id(patient, ids)}"
            problems.add(file, repr(patient) if patient else "empty", expected, row=row, column="patient")
        for column in ("image", "mask"):
            if not values[column]:
                problems.add(file, "empty", "a path", row=row, who=patient, column=column)
        for column in ("image", "mask", "liver_mask", "lesions_mask"):
            if max(map(len, map(os.fsencode, values[column].split("/")))) > 255 or len(values[column]) > 1000:
                expected = "a path that a disk can hold"
                problems.add(file, repr(values[column]), expected, row=row, who=patient, column=column)
        key = (patient, values["timepoint"], values["series"], values["reader"])
        if key in seen:
            what = f"the same timepoint, series and reader as row {seen[key]}"
            problems.add(file, what, "one row a series and reader", row=row, who=patient)
        seen.setdefault(key, row)
    series = set(zip(raw["timepoint"], raw["series"], strict=True))
    for time, name in sorted(series - known):
        count = int(((raw["series"] == name) & (raw["timepoint"] == time)).sum())
        near = difflib.get_close_matches(name, [series for when, series in known if when == time], n=1)
        meant = f" (is it {near[0]!r}?)" if near else ""
        ignored = f"{count} rows of series {name} ({time}){meant}, which the configuration does not have, are ignored"
        notes.append(f"{file}: {ignored}")
    if known and not known & series and len(raw):
        found = ", ".join(sorted({f"{name} ({time})" for time, name in series}))
        expected = ", ".join(sorted(f"{name} ({time})" for time, name in known))
        problems.add(file, f"only series {found}", f"at least one series of the configuration: {expected}")
    return raw
