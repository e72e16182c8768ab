"""The report's tables of internal validation and of sample size: frames in, frames of text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hccstudy.errors import StudyError
from hccstudy.figures.evaluated import DISCRIMINATION, interval, pooled
from hccstudy.metrics.sample_size import PLAIN_EVENTS, development, validation
from hccstudy.report.content import NAMES

LEAD = ["endpoint", "model", "metric", "horizon"]


def _named(row: Mapping[str, Any], definition: Mapping[str, Any]) -> str:
    """A metric as a reader knows it, with its horizon."""
    when = "" if pd.isna(row["horizon"]) else f" at {row['horizon']:g} {definition['unit']}"
    return NAMES.get(row["metric"], row["metric"]) + when


def _of_metric(rows: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    horizon = rows["horizon"].astype(float)
    same = horizon.isna() if pd.isna(row["horizon"]) else np.isclose(horizon, row["horizon"])
    return rows[(rows["model"] == row["model"]) & (rows["metric"] == row["metric"]) & same]


def _plain(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.2f}"


def optimism(
    performance: pd.DataFrame, metrics: pd.DataFrame, endpoint: str, definition: Mapping[str, Any]
) -> pd.DataFrame:
    """Apparent, optimism-corrected, .632+ and cross-validated performance, side by side and labelled.

    performance: `results/internal/.../performance.tsv` of all models; metrics: the validation tables.
    """
    held_out = pooled(metrics[metrics["endpoint"] == endpoint], "cross-validated")
    rows = []
    for row in performance[performance["endpoint"] == endpoint].to_dict("records"):
        beside = _of_metric(held_out, row)
        refused = pd.isna(row["corrected"])
        values = [interval(*of) for of in beside[["estimate", "lower", "upper"]].to_numpy(dtype=float)[:1]]
        undefined = f" ({row['undefined']} undefined)" if row["undefined"] else ""
        rows.append(
            {
                "Model": row["model"],
                "Metric": _named(row, definition),
                "Apparent": _plain(row["apparent"]),
                "Optimism": _plain(row["optimism"]),
                "Optimism-corrected": str(row["method"]) if refused else _plain(row["corrected"]),
                ".632+": _plain(row["estimate_632plus"]),
                "Cross-validated": values[0] if values else "-",
                "Resamples": f"{row['resamples']}{undefined}",
            }
        )
    return pd.DataFrame(rows)


def first_of(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of `optimism` or `left_out` that are read first: ranking and calibration slope."""
    if table.empty:
        return table
    return table[table["Metric"].isin([NAMES[next(iter(DISCRIMINATION[kind]))], NAMES["slope"]])]


def left_out(
    centers: pd.DataFrame, together: pd.DataFrame, endpoint: str, definition: Mapping[str, Any]
) -> pd.DataFrame:
    """Performance in every development center of the model that was built without it, and over centers.

    centers, together: `centers.tsv` and `pooled.tsv` of all models.
    """
    here = centers[centers["endpoint"] == endpoint]
    rows = []
    for row in together[together["endpoint"] == endpoint].to_dict("records"):
        of = _of_metric(here, row)
        values = of[["estimate", "lower", "upper"]].to_numpy(dtype=float)
        cells = [
            method if np.isnan(value[0]) else interval(*value)
            for method, value in zip(of["method"], values, strict=True)
        ]
        refused = pd.isna(row["estimate"])
        between = [row["prediction_lower"], row["prediction_upper"]]
        rows.append(
            {"Model": row["model"], "Metric": _named(row, definition)}
            | dict(zip(of["center"], cells, strict=True))
            | {
                "Mean of centers": row["method"] if refused else interval(row["estimate"], row["lower"], row["upper"]),
                "Prediction interval": "-" if np.isnan(between).any() else f"{between[0]:.2f} to {between[1]:.2f}",
                "Centers": str(row["centers"]),
            }
        )
    return pd.DataFrame(rows)


def sample_size(
    cards: Iterable[Mapping[str, Any]],
    metrics: pd.DataFrame,
    patients: pd.DataFrame,
    endpoint: str,
    definition: Mapping[str, Any],
) -> tuple[pd.DataFrame, list[str]]:
    """What each model had and what it would have needed, and a plain warning for each shortage.

    cards: of all models; patients: the development table, for the mean follow-up. Multiclass models have no
    criterion for development here (see metrics.sample_size); all have the plain rule for validation.
    """
    metric = next(iter(DISCRIMINATION[definition["type"]]))
    rows, short, few = [], [], []
    used = [card for card in cards if card["endpoint"] == endpoint]
    for card in used:
        of = metrics[(metrics["endpoint"] == endpoint) & (metrics["model"] == card["model"])]
        outside = pooled(of, "external")
        n, events = outside["n"].max(), _events(outside, metric, definition)
        needed, patients_needed = _developed(card, patients, definition)
        wanted = _validated(card, pooled(of, "cross-validated"), metric, definition)
        if patients_needed is not None and card["n"] < patients_needed:
            short.append(card["model"])
        if pd.notna(events) and events < PLAIN_EVENTS:
            few.append(events)
        rows.append(
            {
                "Model": card["model"],
                "Patients (events)": f"{card['n']} ({card['events']})",
                "Candidate parameters": str(card["candidates"]),
                "Events per parameter": f"{card['events'] / max(card['candidates'], 1):.2g}",
                "Needed for development": needed,
                "External patients (events)": "-" if pd.isna(n) else f"{n:.0f} ({_whole(events)})",
                "Needed for external evaluation": wanted,
            }
        )
    said = []
    if short:
        said.append(
            f"{len(short)} of {len(used)} models ({', '.join(short)}) were developed with fewer patients than Riley's "
            "criteria ask for: expect predictions that are unstable and too extreme in new patients."
        )
    if few:
        said.append(
            f"External evaluation rests on {min(few):.0f} events, fewer than {PLAIN_EVENTS}: good and bad "
            "performance cannot be told apart with confidence."
        )
    return pd.DataFrame(rows), said


def _events(rows: pd.DataFrame, metric: str, definition: Mapping[str, Any]) -> float:
    """Events of an evaluated set; of several classes none are counted there."""
    return np.nan if definition["type"] == "multiclass" else float(rows.loc[rows["metric"] == metric, "events"].max())


def _whole(value: float) -> str:
    return "events not counted" if pd.isna(value) else f"{value:.0f}"


def _developed(
    card: Mapping[str, Any], patients: pd.DataFrame, definition: Mapping[str, Any]
) -> tuple[str, int | None]:
    kind, follow_up, horizon = definition["type"], np.nan, np.nan
    if kind == "survival":
        follow_up, horizon = float(patients[definition["time"]].mean()), float(max(definition["horizons"]))
    try:
        events = card["events"] / card["n"]
        found = development(kind, card["candidates"], events, follow_up=follow_up, horizon=horizon)
    except StudyError as error:
        return f"refused: {error}", None
    return f"{found.n} ({found.events:.0f} events)", found.n


def _validated(card: Mapping[str, Any], held_out: pd.DataFrame, metric: str, definition: Mapping[str, Any]) -> str:
    plain = f"{PLAIN_EVENTS} events"
    if definition["type"] == "multiclass":
        return f"{PLAIN_EVENTS} of each class"
    values = held_out.loc[held_out["metric"] == metric, "estimate"].dropna()
    if definition["type"] == "survival" or values.empty:
        return plain
    try:
        found = validation(card["events"] / card["n"], float(values.iloc[0]))
    except StudyError as error:
        return f"{plain}; more cannot be said ({error})"
    return f"{plain}; {found.n} patients ({found.events:.0f} events) for precise O/E, slope and AUC"
