"""Validation: how well frozen predictions agree with what happened, per center and pooled.

`evaluate` is the engine: a table with one row a patient in, tables out. `validate` is the stage around it and
the only place where external outcomes are read. Every set of patients is labelled with how its predictions
came about ("cross-validated" or "external"), every estimate has an interval, and what cannot be estimated is
refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hccstudy.errors import Problems, StudyError
from hccstudy.metrics.resampling import once, patient_counts
from hccstudy.metrics.sets import (
    Limits,
    add_risk_groups,
    evaluate_binary,
    evaluate_multiclass,
    evaluate_survival,
    refuse_all,
)
from hccstudy.metrics.sheet import Sheet, within_centers
from hccstudy.tables import digest, read_table, write_table

Settings = dict[str, Any]

LEAD = ["endpoint", "model", "center", "evaluation", "harmonization"]
TABLES = {
    "metrics": ["metric", "horizon", "threshold", "estimate", "lower", "upper", "n", "events", "method"],
    "calibration_curve": ["horizon", "predicted", "observed", "lower", "upper"],
    "calibration_groups": ["horizon", "group", "predicted", "observed", "lower", "upper", "n"],
    "net_benefit": ["horizon", "threshold", "model_net_benefit", "treat_all", "treat_none"],
    "kaplan_meier": ["group", "time", "survival", "lower", "upper", "at_risk"],
    "confusion": ["observed", "predicted", "n"],
    "roc": ["threshold", "fpr", "tpr"],
}
COUNTS = ["n", "events", "at_risk"]  # whole numbers that may be missing
POOLED, WITHIN = "pooled", "within-center"


def evaluate(frame: pd.DataFrame, settings: Settings) -> dict[str, pd.DataFrame]:
    """Evaluate the predictions of one model for one endpoint.

    frame: columns patient, center, evaluation, harmonization, the outcome columns and the scores
    (docs/architecture.md). Rows without an outcome are left out. Several rows of one patient are resampled
    together. settings: endpoint, model, type; for survival time, event, horizons, unit; for binary column;
    for multiclass column, levels; and bootstrap, seed, thresholds, groups, minimum_events. Returns the tables
    named in TABLES, with headers only where the type of the endpoint has no such table.
    """
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def keep(sheet: Sheet, *place: str) -> None:
        lead = dict(zip(LEAD, (settings["endpoint"], settings["model"], *place), strict=True))
        for name, rows in sheet.tables.items():
            records[name] += [lead | row for row in rows]

    for (evaluation, harmonization), rows in frame.groupby(["evaluation", "harmonization"], sort=False):
        keep(
            _evaluate_set(rows, settings, POOLED, evaluation, harmonization),
            POOLED,
            evaluation,
            harmonization,
        )
        centers = {
            center: _evaluate_set(part, settings, center, evaluation, harmonization)
            for center, part in rows.groupby("center")
        }
        if evaluation == "cross-validated":
            keep(within_centers(centers), WITHIN, evaluation, harmonization)
        for center, sheet in centers.items():
            keep(sheet, center, evaluation, harmonization)
    return {
        name: pd.DataFrame(records[name], columns=LEAD + columns).astype(
            {column: "Int64" for column in COUNTS if column in columns}
        )
        for name, columns in TABLES.items()
    }


def _evaluate_set(rows: pd.DataFrame, settings: Settings, center: str, evaluation: str, harmonization: str) -> Sheet:
    """All metrics of one set of patients; resamples depend on the set and the seed, not on the model."""
    known = rows.dropna(subset=outcome_columns(settings)).sort_values("patient", kind="stable")
    kind = settings["type"]
    if known.empty:
        sheet = Sheet(once(0), 0, None if kind == "multiclass" else 0)
        refuse_all(sheet, kind, settings.get("horizons", []), "no patient has this outcome")
        return sheet
    seed = (settings["seed"], int(digest([center, evaluation, harmonization])[:8], 16))
    counts = patient_counts(known["patient"], settings["bootstrap"], seed)
    limits = Limits(
        np.asarray(settings["thresholds"], dtype=float),
        settings["groups"],
        settings["minimum_events"],
        settings.get("unit", ""),
    )
    sheet = Sheet(counts, len(known), None, repeated=bool(known["patient"].duplicated().any()))
    if kind == "multiclass":
        levels = [str(level) for level in settings["levels"]]
        observed = np.array([levels.index(_label(value)) for value in known[settings["column"]]])
        evaluate_multiclass(sheet, observed, _numbers(known, score_columns(settings)), levels, limits)
        return sheet
    event = _numbers(known, settings["event" if kind == "survival" else "column"])
    sheet.events = int(event.sum())
    if kind == "binary":
        evaluate_binary(sheet, event, _numbers(known, "risk"), limits)
        return sheet
    time = _numbers(known, settings["time"])
    risks = {float(horizon): _numbers(known, risk_column(horizon)) for horizon in settings["horizons"]}
    evaluate_survival(sheet, time, event, _numbers(known, "lp"), risks, limits)
    if (center == POOLED or evaluation == "external") and "group" in known and known["group"].notna().all():
        add_risk_groups(sheet, time, event, known["group"].to_numpy(dtype=str), external=evaluation == "external")
    return sheet


def _numbers(frame: pd.DataFrame, columns: str | list[str]) -> np.ndarray:
    return frame[columns].to_numpy(dtype=float)


def _label(value: Any) -> str:
    """A level as the user wrote it: a column of whole numbers with gaps is read as decimals."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def risk_column(horizon: float) -> str:
    return f"risk@{horizon:g}"


def outcome_columns(settings: Settings) -> list[str]:
    return [settings["time"], settings["event"]] if settings["type"] == "survival" else [settings["column"]]


def score_columns(settings: Settings) -> list[str]:
    if settings["type"] == "survival":
        return ["lp", *(risk_column(horizon) for horizon in settings["horizons"])]
    return ["risk"] if settings["type"] == "binary" else [f"p@{level}" for level in settings["levels"]]


def check_predictions(frame: pd.DataFrame, settings: Settings, scores: str, outcomes: str) -> None:
    """Refuse scores and outcomes that are not what they must be; `scores` and `outcomes` name the files.

    A patient without a score is an error (the model owes one); a patient without an outcome is not.
    """
    problems = Problems()

    def report(bad: pd.Series, column: str, file: str, expected: str) -> None:
        for row in frame.index[bad.to_numpy(dtype=bool)][:5]:
            problems.add(file, repr(frame.at[row, column]), expected, who=frame.at[row, "patient"], column=column)

    for column in score_columns(settings):
        values = pd.to_numeric(frame[column], errors="coerce")
        if column == "lp":
            report(~np.isfinite(values), column, scores, "a finite number")
        else:
            report(~values.between(0, 1), column, scores, "a probability from 0 to 1")
    if settings["type"] == "multiclass":
        sums = frame[score_columns(settings)].sum(axis=1)
        report((sums - 1).abs() > 1e-3, score_columns(settings)[0], scores, "probabilities that add up to 1")
        levels = [str(level) for level in settings["levels"]]
        observed = frame[settings["column"]]
        known = observed.isna() | observed.map(_label, na_action="ignore").isin(levels)
        report(~known, settings["column"], outcomes, f"one of {', '.join(levels)}")
    else:
        column = settings["event" if settings["type"] == "survival" else "column"]
        report(~(frame[column].isna() | frame[column].isin([0, 1])), column, outcomes, "0 or 1")
    if settings["type"] == "survival":
        values = pd.to_numeric(frame[settings["time"]], errors="coerce")
        valid = frame[settings["time"]].isna() | (np.isfinite(values) & (values >= 0))
        report(~valid, settings["time"], outcomes, f"a number of {settings['unit']}, 0 or more")
    problems.raise_if_any()


def _with_outcomes(scores: str, outcomes: str, settings: Settings, evaluation: str) -> pd.DataFrame:
    """Scores joined with outcomes by patient, checked."""
    wanted = outcome_columns(settings)
    text = wanted if settings["type"] == "multiclass" else []
    found = read_table(outcomes, ["patient", *wanted], text=text)[["patient", *wanted]]
    predicted = read_table(scores, ["patient", "center", *score_columns(settings)])
    if "harmonization" not in predicted:
        predicted["harmonization"] = "none"
    twice = predicted[["patient", "harmonization"]].duplicated()
    if twice.any():
        raise StudyError(f"{scores}: {predicted.loc[twice, 'patient'].iloc[0]} appears twice; expected once")
    if found["patient"].duplicated().any():
        twice = found.loc[found["patient"].duplicated(), "patient"]
        raise StudyError(f"{outcomes}: {twice.iloc[0]} appears twice; expected once")
    unknown = sorted(set(predicted["patient"]) - set(found["patient"]))
    if unknown:
        raise StudyError(f"{scores}: {unknown[0]} has a prediction; expected a row in {outcomes} too")
    joined = predicted.merge(found, on="patient", validate="many_to_one").assign(evaluation=evaluation)
    check_predictions(joined, settings, scores, outcomes)
    return joined


def validate(
    *,
    oof: str,
    predictions: str,
    development: str,
    outcomes: str,
    settings: Settings,
    metrics: str,
    calibration_curve: str,
    calibration_groups: str,
    net_benefit: str,
    kaplan_meier: str,
    confusion: str,
    roc: str,
) -> None:
    """Evaluate one model for one endpoint and write all tables.

    oof with development: out-of-fold scores and outcomes of development patients; predictions with outcomes:
    scores of the frozen model and outcomes of external patients. settings as in `evaluate`.
    """
    joined = [
        _with_outcomes(oof, development, settings, "cross-validated"),
        _with_outcomes(predictions, outcomes, settings, "external"),
    ]
    tables = evaluate(pd.concat([part for part in joined if len(part)], ignore_index=True), settings)
    paths = (metrics, calibration_curve, calibration_groups, net_benefit, kaplan_meier, confusion, roc)
    for name, path in zip(TABLES, paths, strict=True):
        write_table(tables[name], path)
