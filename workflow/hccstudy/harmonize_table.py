"""One table of features to a harmonized table and frozen parameters, outside a study: `hccstudy harmonize`.

The command reads no outcome and cannot know one: which columns are covariates is the user's word. See
docs/harmonize.md for the policy.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hccstudy import __version__
from hccstudy.combat import ComBat, varies
from hccstudy.errors import Problems, StudyError
from hccstudy.tables import (
    NO_FORMULA,
    SIGNS,
    check_folder,
    check_unchanged,
    is_formula,
    number,
    read_text_table,
    write_frozen_json,
    write_table,
)

FORMAT, VERSION = "hccstudy harmonize", 1
KEYS = ("format", "version", "hccstudy", "patient", "batch", "fit_on", "added_on", "combat", "checksum")

SMALL = 20  # patients of a center below which its shift and scale are too uncertain to pass without a word
LEVELS = 10  # categories of a covariate: more is a number that somebody wrote as a word
SHOWN = 10  # names that a message lists


@dataclass(frozen=True)
class Rows:
    """The checked table; every part has a row per patient, with the patient as label, in the order of the file."""

    file: str
    cells: pd.DataFrame  # as read: text, labelled by the row of the file
    values: pd.DataFrame  # the features as numbers
    center: pd.Series
    covariates: pd.DataFrame | None
    chosen: NDArray[np.bool_]  # rows that parameters may be estimated on


def harmonize_table(
    features: str,
    *,
    out: str,
    patient: str,
    batch: str,
    covariates: Sequence[str] = (),
    reference: str | None = None,
    mean_only: bool = False,
    parametric: bool = True,
    fit_on: Sequence[str] = (),
    apply: str | None = None,
    add_batch: Sequence[str] = (),
) -> list[str]:
    """Write `out`/harmonized.tsv and `out`/parameters.json; return notes on what a careful user must know.

    `features` (.tsv, .csv, .xlsx, .parquet) has a row per patient; whatever is not the column `patient` or `batch`,
    a covariate or a column of `fit_on` is a feature. `fit_on` ("column=value"; values of one column are
    alternatives, columns are conditions) chooses the rows that parameters are estimated on; all rows are
    transformed. `apply`: the parameters of an earlier run, used as they are. `add_batch`: centers that take no
    part in the fit and are brought to the frozen training from their own (chosen) rows.

    StudyError: a file, row, column or option that cannot be used, and why.
    """
    parameters = Path(out) / "parameters.json"
    _check_overwriting(Path(out) / "harmonized.tsv", parameters, [features, *([apply] if apply else [])])
    check_folder(out)
    frozen = _read_parameters(apply) if apply else None
    if frozen:
        _check_nothing_to_fit(reference, mean_only, parametric, covariates, fit_on, add_batch)
    conditions = _conditions(fit_on)
    model = _stored_model(str(apply), frozen) if frozen else ComBat(reference, mean_only, parametric)
    known = model.covariates_ if frozen else [{"name": name} for name in covariates]
    fitted_on, added_on = (frozen["fit_on"], frozen["added_on"]) if frozen else (conditions, {})
    earlier = {column for each in (fitted_on, *added_on.values()) for column in each}
    rows = _read_rows(features, patient, batch, known, conditions, earlier)
    before = [] if frozen is None else list(model.batches_)
    try:
        if frozen is None:
            inside = rows.chosen & ~rows.center.isin(list(add_batch)).to_numpy()
            _check_sizes(rows, inside, sorted(set(rows.center[inside])))
            model.fit(rows.values[inside], rows.center[inside], _at(rows.covariates, inside))
        for name in add_batch:
            inside = rows.chosen & (rows.center == name).to_numpy()
            _check_sizes(rows, inside, [name])
            part = _at(rows.covariates, inside)
            model = model.add_batch(rows.values[inside], name, part, mean_only=model.mean_only)
        _check_known(rows, model, bool(apply))
        harmonized = model.transform(rows.values, rows.center, rows.covariates)[list(rows.values.columns)]
    except StudyError as error:
        raise StudyError(f"{features}: {error}") from error
    write_table(_with_values(rows, harmonized), Path(out) / "harmonized.tsv")
    content = {"format": FORMAT, "version": VERSION, "hccstudy": __version__, "patient": patient, "batch": batch}
    content |= {"fit_on": fitted_on, "added_on": added_on | dict.fromkeys(add_batch, conditions)}
    content |= {"combat": model.to_parameters()}
    write_frozen_json(content, parameters)
    estimated = [name for name in model.batches_ if name not in before]
    return [*_notes_on_columns(rows, model), *_notes_on_centers(rows, model, estimated)]


# ---------------------------------------------------------------- options and parameters


def _check_overwriting(table: Path, parameters: Path, inputs: list[str]) -> None:
    for path in (table, parameters):
        if path.resolve() in [Path(name).resolve() for name in inputs]:
            raise StudyError(f"{path}: is an input of this command and would be overwritten; expected another --out")


def _check_nothing_to_fit(
    reference: str | None,
    mean_only: bool,
    parametric: bool,
    covariates: Sequence[str],
    fit_on: Sequence[str],
    add_batch: Sequence[str],
) -> None:
    given: dict[str, object] = {"--reference": reference, "--mean-only": mean_only, "--non-parametric": not parametric}
    given |= {"--covariates": covariates, "--fit-on": fit_on and not add_batch}
    if wrong := [name for name, value in given.items() if value]:
        advice = "; --fit-on chooses rows of --add-batch" if "--fit-on" in wrong else ""
        raise StudyError(f"--apply and {', '.join(wrong)}: frozen parameters hold the options of their fit{advice}")


def _conditions(fit_on: Sequence[str]) -> dict[str, list[str]]:
    """{"column": [values]} from "column=value"."""
    conditions: dict[str, list[str]] = {}
    for item in fit_on:
        column, equals, value = (part.strip() for part in item.partition("="))
        if not (column and equals and value):
            raise StudyError(f"--fit-on is {item!r}; expected COLUMN=VALUE")
        conditions.setdefault(column, []).append(value)
    return conditions


def _read_parameters(path: str) -> dict[str, Any]:
    """The content of a parameters.json as this command wrote it; anything else is refused."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(
            f"{path}: not readable as JSON ({error}); expected parameters.json of an earlier run"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StudyError(f"{path}: is no file of parameters; expected parameters.json of `hccstudy harmonize`")
    if content.get("version") != VERSION:
        raise StudyError(f"{path}: is of version {content.get('version')}; this hccstudy knows version {VERSION}")
    if absent := [key for key in KEYS if key not in content]:
        raise StudyError(f"{path}: no {', '.join(absent)}; expected the file as `hccstudy harmonize` wrote it")
    check_unchanged(content, path)
    return content


def _stored_model(path: str, content: Mapping[str, Any]) -> ComBat:
    try:
        return ComBat.from_parameters(content["combat"])
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


# ---------------------------------------------------------------- the table


def _read_rows(
    file: str,
    patient: str,
    batch: str,
    covariates: Sequence[Mapping[str, Any]],
    conditions: Mapping[str, list[str]],
    earlier: Collection[str],
) -> Rows:
    """`covariates` as ComBat describes them (before the fit the name alone), `earlier`: more columns that are no feature."""
    cells = read_text_table(file)
    names = [each["name"] for each in covariates]
    _check_columns(file, cells, [patient, batch, *names], list(conditions))
    others = {patient, batch, *names, *conditions, *earlier}
    features = [name for name in cells.columns if name not in others]
    problems = Problems()
    _check_ids(problems, file, cells, patient, batch)
    chosen = _choose(problems, file, cells, conditions)
    values = _numbers(problems, file, cells, features, patient)
    read = [_covariate(problems, file, cells, each, chosen, patient) for each in covariates]
    problems.raise_if_any()
    index = pd.Index(cells[patient], name=None)
    return Rows(
        file,
        cells,
        pd.DataFrame(values, index=index, columns=features),
        pd.Series(cells[batch].to_numpy(dtype=object), index=index),
        pd.DataFrame(dict(zip(names, read, strict=True))).set_axis(index) if names else None,
        chosen,
    )


def _check_columns(file: str, cells: pd.DataFrame, named: list[str], of_fit: list[str]) -> None:
    if cells.empty:
        raise StudyError(f"{file}: no row; expected one row a patient")
    if "" in cells.columns:
        place = list(cells.columns).index("") + 1
        raise StudyError(f"{file}: column {place} has no name; expected a name, or the table without this column")
    if absent := [name for name in [*named, *of_fit] if name not in cells.columns]:
        raise StudyError(f"{file}: no column {absent[0]}; found {_some(list(cells.columns))}")
    if formulas := [name for name in cells.columns if is_formula(name)]:
        raise StudyError(f"{file}: a column is called {formulas[0]!r}; expected a name {NO_FORMULA}")
    if twice := [name for name in named if named.count(name) > 1]:
        raise StudyError(f"{file}: column {twice[0]} is named twice; expected patient, batch and covariates apart")


def _check_ids(problems: Problems, file: str, cells: pd.DataFrame, patient: str, batch: str) -> None:
    first: dict[str, Any] = {}
    for row, who, center in zip(cells.index, cells[patient], cells[batch], strict=True):
        if not who:
            problems.add(file, "missing", "a patient in every row", row=row, column=patient)
        elif who in first:
            problems.add(
                file, f"the same as in row {first[who]}", "one row a patient", row=row, who=who, column=patient
            )
        if not center:
            problems.add(file, "missing", "a center for every patient", row=row, who=who, column=batch)
        for column, text in ((patient, who), (batch, center)):
            if text.startswith(SIGNS):
                problems.add(file, repr(text), f"a name {NO_FORMULA}", row=row, column=column)
        first.setdefault(who, row)


def _choose(
    problems: Problems, file: str, cells: pd.DataFrame, conditions: Mapping[str, list[str]]
) -> NDArray[np.bool_]:
    chosen = np.ones(len(cells), dtype=bool)
    for column, values in conditions.items():
        for value in values:
            if not (cells[column] == value).any():
                problems.add(file, f"{value!r} in no row", f"one of {_some(sorted(set(cells[column])))}", column=column)
        chosen &= cells[column].isin(values).to_numpy()
    if not chosen.any() and not len(problems):
        problems.add(file, "no row meets all of --fit-on", "rows to estimate the parameters on")
    return chosen


def _numbers(
    problems: Problems, file: str, cells: pd.DataFrame, features: list[str], patient: str
) -> NDArray[np.float64]:
    """The features as numbers; what is none is a problem, one a column."""
    values, wrong = np.empty((len(cells), len(features))), []
    for place, name in enumerate(features):
        values[:, place] = [number(cell) for cell in cells[name]]
        if not np.isfinite(values[:, place]).all():
            wrong.append(place)
    for place in wrong[:SHOWN]:
        bad = ~np.isfinite(values[:, place])
        row, name = cells.index[bad][0], features[place]
        many = f" ({bad.sum()} such cells in this column)" if bad.sum() > 1 else ""
        problems.add(
            file,
            (repr(cells.loc[row, name]) if cells.loc[row, name] else "missing") + many,
            "a finite number (impute before; a column that is no feature: name it, or take it out)",
            row=row,
            who=cells.loc[row, patient],
            column=name,
        )
    if len(wrong) > SHOWN:
        problems.add(file, f"{len(wrong) - SHOWN} more columns with such cells", "finite numbers in all features")
    return values


def _covariate(
    problems: Problems,
    file: str,
    cells: pd.DataFrame,
    described: Mapping[str, Any],
    chosen: NDArray[np.bool_],
    patient: str,
) -> pd.Series:
    """A covariate as numbers if it has nothing else in the chosen rows (frozen: if it was so in the fit), else as text."""
    name = described["name"]
    column = cells[name]
    numbers = np.array([number(cell) for cell in column])
    words = (~np.isfinite(numbers) & (column != "")).to_numpy()
    category = bool(described["levels"]) if "levels" in described else bool((words & chosen).any())
    if category and "levels" not in described and column[chosen].nunique() > LEVELS:
        wrong, expected = words, f"a number in every row (or at most {LEVELS} categories)"
    elif category:
        wrong, expected = (column == "").to_numpy(), "a category"
    else:
        wrong, expected = ~np.isfinite(numbers), "a finite number"
    for row in cells.index[wrong]:
        found = repr(column[row]) if column[row] else "missing"
        problems.add(file, found, expected, row=row, who=cells.loc[row, patient], column=name)
    return column if category else pd.Series(numbers, index=cells.index)


# ---------------------------------------------------------------- centers


def _check_sizes(rows: Rows, inside: NDArray[np.bool_], centers: Sequence[str]) -> None:
    for name in centers:
        where = np.flatnonzero(inside & (rows.center == name).to_numpy())
        if len(where) > 1:
            continue
        if not len(where):
            found = "is not in the table" if name not in set(rows.center) else "has no row that --fit-on chooses"
            raise StudyError(f"center {name} {found}; expected patients to estimate its shift and scale from")
        who = f"{rows.center.index[where[0]]}, row {rows.cells.index[where[0]]}"
        raise StudyError(
            f"center {name} has one patient to estimate from ({who}); expected at least 2 "
            "(leave the center out, or merge it with one of the same scanner)"
        )


def _check_known(rows: Rows, model: ComBat, frozen: bool) -> None:
    """Every row's center has parameters, or the way to get them is said."""
    counted = rows.center[~rows.center.isin(list(model.batches_))].value_counts(sort=False)
    if counted.empty:
        return
    named = ", ".join(f"{name} ({n} patients)" for name, n in counted.items())
    where = "the frozen parameters" if frozen else "the rows that parameters are estimated on"
    raise StudyError(
        f"center {named} not in {where}, which know {', '.join(model.batches_)}; expected known centers "
        f"(leave its rows out, or bring it to the frozen training from its own features: --add-batch {counted.index[0]})"
    )


def _at(frame: pd.DataFrame | None, inside: NDArray[np.bool_]) -> pd.DataFrame | None:
    return None if frame is None else frame[inside]


# ---------------------------------------------------------------- what is written and said


def _with_values(rows: Rows, harmonized: pd.DataFrame) -> pd.DataFrame:
    """The cells as read, with every number that changed in the shortest text that is exactly it."""
    before, after = rows.values.to_numpy(), harmonized.to_numpy()
    bad = np.argwhere(~np.isfinite(after))
    if len(bad):
        patient, feature = rows.values.index[bad[0][0]], rows.values.columns[bad[0][1]]
        raise StudyError(f"{rows.file}: feature {feature} of patient {patient} cannot be harmonized: no finite result")
    text = rows.cells[rows.values.columns].to_numpy(dtype=object, copy=True)
    changed = after != before
    text[changed] = [repr(value) for value in after[changed].tolist()]
    features = pd.DataFrame(text, index=rows.cells.index, columns=rows.values.columns)
    others = rows.cells.drop(columns=rows.values.columns)
    return pd.concat([others, features], axis=1)[list(rows.cells.columns)]


def _notes_on_columns(rows: Rows, model: ComBat) -> list[str]:
    names = list(rows.values.columns)
    notes = [f"{len(names)} columns are features: {_some(names)}"]
    for each in model.covariates_:
        kind = f"categories {', '.join(each['levels'])}" if each["levels"] else "a number"
        notes.append(f"covariate {each['name']} is preserved as {kind}")
    codes = [name for name in names if _looks_like_code(rows.values[name])]
    if codes:
        notes.append(
            f"{_some(codes)}: whole numbers, 5 different ones at most, harmonized as features all the same; "
            "take out what is a code or an outcome"
        )
    return notes


def _looks_like_code(values: pd.Series) -> bool:
    return 1 < values.nunique() <= 5 and bool((values % 1 == 0).all())


def _notes_on_centers(rows: Rows, model: ComBat, estimated: Sequence[str]) -> list[str]:
    """`estimated`: the centers whose parameters are of this run."""
    notes = []
    for name in estimated:
        batch = model.batches_[name]
        n, shift_alone = batch["n"], batch["mean_only"]
        if n < SMALL:
            scale = "" if shift_alone else f", of its scale {100 / np.sqrt(2 * n):.0f} %"
            notes.append(
                f"center {name} has {n} patients, fewer than {SMALL}: the standard error of its shift is "
                f"{1 / np.sqrt(n):.2f} SD{scale} before shrinkage"
            )
        if batch["added"]:
            notes.append(f"center {name} was brought to the frozen training from the features of {n} of its patients")
            inside = rows.chosen & (rows.center == name).to_numpy()
            flat = rows.values.columns[~varies(rows.values[inside].to_numpy())]
            still = [feature for feature in flat if feature not in model.untouched_]
            if still:
                notes.append(
                    f"{len(still)} features do not vary in center {name} and stay as they are there: {_some(still)}"
                )
    if model.untouched_ and not all(model.batches_[name]["added"] for name in estimated):
        listed = [f"{name} ({_flat_in(rows, model, name)})" for name in model.untouched_[:SHOWN]]
        more = f" and {len(model.untouched_) - SHOWN} more" if len(model.untouched_) > SHOWN else ""
        notes.append(f"features that do not vary stay as they are in all centers: {', '.join(listed)}{more}")
    return notes


def _flat_in(rows: Rows, model: ComBat, feature: str) -> str:
    """The first center of the fit in which a feature does not vary."""
    for name, batch in model.batches_.items():
        inside = rows.chosen & (rows.center == name).to_numpy()
        if not batch["added"] and not varies(rows.values.loc[inside, [feature]].to_numpy())[0]:
            return f"constant in {name}"
    return "explained by the covariates"


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
