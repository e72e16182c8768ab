"""The evaluation engine on tables: one row a patient in, tables of estimates out.

`evaluate` says how good the predictions of one model are, `compare` how models differ on the same patients. Both serve
the validation stage and `hccstudy evaluate`. Every set of patients is labelled with how its predictions came about,
every estimate has an interval, and what cannot be estimated is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from hccstudy.endpoints import outcome_columns, risk_column, score_columns
from hccstudy.errors import Problems
from hccstudy.metrics.comparison import (
    COMPARISONS,
    Evaluated,
    Row,
    added,
    adjust,
    differences,
    reclassified,
)
from hccstudy.metrics.resampling import once, patient_counts
from hccstudy.metrics.sets import (
    Limits,
    Scored,
    add_risk_groups,
    evaluate_binary,
    evaluate_multiclass,
    evaluate_survival,
    refuse_all,
)
from hccstudy.metrics.sheet import Horizon, Sheet, within_centers
from hccstudy.tables import digest

Settings = dict[str, Any]

LEAD = ["endpoint", "model", "center", "evaluation", "harmonization"]
TABLES = {
    "metrics": ["metric", "horizon", "threshold", "estimate", "lower", "upper", "n", "events", "method"],
    "calibration_curve": ["horizon", "predicted", "observed", "lower", "upper"],
    "calibration_groups": ["horizon", "group", "predicted", "observed", "lower", "upper", "n"],
    "net_benefit": ["horizon", "threshold", "net_benefit", "lower", "upper", "net_benefit_all", "net_benefit_none"],
    "kaplan_meier": ["group", "time", "survival", "lower", "upper", "at_risk"],
    "confusion": ["observed", "predicted", "n"],
    "roc": ["threshold", "fpr", "tpr"],
}
COUNTS = ["n", "events", "at_risk"]  # whole numbers that may be missing
POOLED, WITHIN = "pooled", "within-center"
APPARENT = "apparent"  # the label of predictions for the patients that the model was fitted to


def evaluate(frame: pd.DataFrame, settings: Settings) -> dict[str, pd.DataFrame]:
    """Evaluate the predictions of one model for one endpoint.

    frame: columns patient, center, evaluation, harmonization, the outcome columns and the scores
    (docs/architecture.md): for survival lp or risk@<horizon> or both, for binary risk or lp or both, for multiclass
    p@<level>. Rows without an outcome are left out. Several rows of one patient are resampled together. settings:
    endpoint, model, type; for survival time, event, horizons, unit and competing (the event's value for a competing
    event, or None); for binary column; for multiclass column, levels; and bootstrap, seed, thresholds, groups,
    minimum_events, smoother; `curves` (patient x times) for the integrated Brier score is optional. Returns the
    tables named in TABLES, with headers only where the type of the endpoint has no such table.
    """
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def keep(sheet: Sheet, *place: str) -> None:
        lead = dict(zip(LEAD, (settings["endpoint"], settings["model"], *place), strict=True))
        for name, rows in sheet.tables.items():
            records[name] += [lead | row for row in rows]

    for labels, rows in frame.groupby(["evaluation", "harmonization"], sort=False):
        keep(_evaluate_set(_known(rows, settings), settings, POOLED, *labels), POOLED, *labels)
        if frame["center"].isna().all():
            continue
        centers = {
            center: _evaluate_set(_known(part, settings), settings, center, *labels)
            for center, part in rows.groupby("center", sort=True)
        }
        if labels[0] != "external" and len(centers) > 1:
            keep(within_centers(centers), WITHIN, *labels)
        for center, sheet in centers.items():
            keep(sheet, center, *labels)
    return {name: _table(records[name], LEAD + columns) for name, columns in TABLES.items()}


def compare(frames: Mapping[str, pd.DataFrame], settings: Settings) -> pd.DataFrame:
    """Every two of several models on the same patients, pooled and in each center: columns endpoint, center,
    evaluation, harmonization and those of comparison.COMPARISONS.

    frames: model -> frame as for `evaluate`, with the same rows. Differences are model_a - model_b, the first model minus
    the second; reclassification and added information are of model_a over model_b. Resamples are shared.
    Predictions of patients whom a model was fitted to are not compared: the larger model would win.
    """
    lead = [name for name in LEAD if name != "model"]
    records: list[dict[str, Any]] = []
    settings = settings | {"curves": None}
    everything = pd.concat([frame.assign(model=name) for name, frame in frames.items()], ignore_index=True)
    for labels, rows in everything.groupby(["evaluation", "harmonization"], sort=False):
        places = [(POOLED, rows)]
        if rows["center"].notna().any():
            places += list(rows.groupby("center", sort=True))
        for center, part in places:
            by_model = {name: _known(of, settings) for name, of in part.groupby("model", sort=False)}
            found = {
                name: Evaluated(
                    name, _evaluate_set(known, settings, center, *labels, curves=False), _scored(known, settings)
                )
                for name, known in by_model.items()
            }
            patients = {name: known["patient"].tolist() for name, known in by_model.items()}
            place = dict(zip(lead, (settings["endpoint"], center, *labels), strict=True))
            for first, second in combinations(by_model, 2):
                reason = _why_not_compared(patients[first], patients[second], labels[0])
                for a, b, rows_of in _questions(first, second, settings["type"]):
                    names = place | {"model_a": a, "model_b": b}
                    records += [names | row for row in rows_of(found[a], found[b], reason)]
    table = _table(records, lead + COMPARISONS)
    return adjust(table, [*lead, "metric", "horizon"])


def _questions(first: str, second: str, kind: str) -> list[tuple[str, str, Callable[..., Iterator[Row]]]]:
    """What is asked of two models, as (model_a, model_b, who answers): do they differ, does one add to the other?"""
    if kind == "multiclass":
        return [(first, second, differences)]
    return [(first, second, differences), (second, first, added), (first, second, added), (second, first, reclassified)]


def _table(records: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(records, columns=columns).astype({name: "Int64" for name in COUNTS if name in columns})


def _why_not_compared(a: list[str], b: list[str], evaluation: str) -> str:
    """a, b: the sorted patients of two models."""
    if evaluation == APPARENT:
        return "predictions of the patients that the models were fitted to; a comparison needs held-out ones"
    if a != b:
        return "the models were not evaluated on the same patients"
    return ""


def _known(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Rows with an outcome, in an order that does not depend on that of the file."""
    return rows.dropna(subset=outcome_columns(settings)).sort_values("patient", kind="stable")


def _evaluate_set(
    known: pd.DataFrame, settings: Settings, center: str, evaluation: str, harmonization: str, *, curves: bool = True
) -> Sheet:
    """All metrics of one set of patients, who are `_known`; resamples depend on the set and the seed, not on the model.
    `curves` as in `Limits`.
    """
    kind = settings["type"]
    if known.empty:
        sheet = Sheet(once(0), 0, None if kind == "multiclass" else 0)
        refuse_all(sheet, kind, dict.fromkeys(settings.get("horizons", []), 0), "no patient has this outcome")
        return sheet
    seed = (settings["seed"], int(digest(sorted(set(known["patient"])))[:8], 16))
    counts = patient_counts(known["patient"], settings["bootstrap"], seed)
    limits = Limits(
        np.asarray(settings["thresholds"], dtype=float),
        settings["groups"],
        settings["minimum_events"],
        settings.get("unit", ""),
        settings["smoother"],
        curves,
    )
    data = _scored(known, settings)
    events = None if kind == "multiclass" else int((data.event == 1).sum())
    sheet = Sheet(counts, len(known), events, repeated=bool(known["patient"].duplicated().any()))
    fill = {"binary": evaluate_binary, "survival": evaluate_survival, "multiclass": evaluate_multiclass}[kind]
    fill(sheet, data, limits)
    grouped = kind == "survival" and "group" in known and known["group"].notna().all()
    if curves and grouped and (center == POOLED or evaluation == "external"):
        add_risk_groups(sheet, data, known["group"].to_numpy(dtype=str), external=evaluation == "external")
    return sheet


def _scored(known: pd.DataFrame, settings: Settings) -> Scored:
    """The arrays of one set: outcomes, scores, risks."""
    kind = settings["type"]
    if kind == "multiclass":
        levels = tuple(str(level) for level in settings["levels"])
        level = np.array([levels.index(_label(value)) for value in known[settings["column"]]])
        return Scored(level * 1.0, level=level, probability=_numbers(known, score_columns(settings)), levels=levels)
    score = _numbers(known, "lp") if "lp" in known else None
    if kind == "binary":
        risk: dict[Horizon, np.ndarray] = {None: _numbers(known, "risk")} if "risk" in known else {}
        return Scored(_numbers(known, settings["column"]), score=score, risks=risk)
    found = _numbers(known, settings["event"])
    competing = settings.get("competing")
    event = found if competing is None else np.where(found == competing, 2.0, found)
    horizons = tuple(float(horizon) for horizon in settings["horizons"])
    risks: dict[Horizon, np.ndarray] = {
        horizon: _numbers(known, risk_column(horizon)) for horizon in horizons if risk_column(horizon) in known
    }
    curves = settings.get("curves")
    if curves is not None:
        curves = curves.columns.to_numpy(dtype=float), curves.loc[known.index].to_numpy(dtype=float)
    return Scored(event, _numbers(known, settings["time"]), score, risks, horizons, curves)


def _numbers(frame: pd.DataFrame, columns: str | list[str]) -> np.ndarray:
    return frame[columns].to_numpy(dtype=float)


def _label(value: Any) -> str:
    """A level as the user wrote it: a column of whole numbers with gaps is read as decimals."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


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
        column = outcome_columns(settings)[-1]
        competing = settings.get("competing")
        codes = [0, 1] if competing is None else [0, 1, competing]
        wanted = " or ".join(map(str, codes))
        report(~(frame[column].isna() | frame[column].isin(codes)), column, outcomes, wanted)
    if settings["type"] == "survival":
        values = pd.to_numeric(frame[settings["time"]], errors="coerce")
        valid = frame[settings["time"]].isna() | (np.isfinite(values) & (values >= 0))
        report(~valid, settings["time"], outcomes, f"a number of {settings['unit']}, 0 or more")
    problems.raise_if_any()
