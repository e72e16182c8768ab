"""Which rows of the validation tables a figure or a report shows, and how an evaluated set is named.

Nothing is called validated that is not external: every set carries its label, and the primary external result
is the frozen model without harmonization of the new center.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hccstudy.tables import read_table

LEADING = ["endpoint", "model", "center", "evaluation", "harmonization"]
EVALUATIONS = {"cross-validated": "Development, cross-validated", "external": "External, pooled"}
DISCRIMINATION = {
    "survival": {"harrell_c": "Harrell's C", "uno_c": "Uno's C"},
    "binary": {"auc": "AUC"},
    "multiclass": {"macro_auc": "Macro-averaged AUC"},
}


def stack(paths: Iterable[str], columns: Sequence[str]) -> pd.DataFrame:
    """The tables of several models as one frame with at least `columns`."""
    frames = [read_table(path, columns) for path in paths]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(columns))


def primary(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the primary analysis: cross-validated ones, and external ones of the frozen model as it is."""
    return frame[(frame["evaluation"] == "cross-validated") | (frame["harmonization"] == "none")]


def pooled(frame: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """The pooled rows of one evaluation ("cross-validated" or "external") in the primary analysis."""
    rows = primary(frame)
    return rows[(rows["evaluation"] == evaluation) & (rows["center"] == "pooled")]


def at(frame: pd.DataFrame, horizon: float | None) -> pd.DataFrame:
    """The rows at one horizon; all rows where the endpoint has none."""
    if horizon is None:
        return frame
    return frame[np.isclose(frame["horizon"].astype(float), horizon)]


def at_or_timeless(frame: pd.DataFrame, horizon: float | None) -> pd.DataFrame:
    """The rows at one horizon and those that have none: the slope has one only where events compete."""
    return frame if horizon is None else frame[frame["horizon"].isna() | frame.index.isin(at(frame, horizon).index)]


def evaluated_sets(metrics: pd.DataFrame, external: Sequence[str]) -> list[tuple[str, str, str]]:
    """(evaluation, center, label) in reading order: cross-validated, external centers, external pooled."""
    sets = [("cross-validated", "pooled", EVALUATIONS["cross-validated"])]
    sets += [("cross-validated", "within-center", "Development, within center")]
    sets += [("external", name, f"{name} (external)") for name in external]
    sets += [("external", "pooled", EVALUATIONS["external"])]
    present = set(zip(metrics["evaluation"], metrics["center"], strict=True))
    return [item for item in sets if item[:2] in present]


def counts(rows: pd.DataFrame) -> str:
    """Patients and events behind metric rows: "n = 72, 41 events"; a range where models differ."""

    def span(column: str) -> str:
        values = rows[column].dropna().astype(int)
        if values.empty:
            return ""
        low, high = values.min(), values.max()
        return str(low) if low == high else f"{low} to {high}"

    n, events = span("n"), span("events")
    return ", ".join([f"n = {n}"] * bool(n) + [f"{events} events"] * bool(events))


def interval(estimate: float, lower: float, upper: float, digits: int = 2) -> str:
    """ "0.71 (0.60 to 0.80)"; a value without an interval stands alone, a refused one is said to be so."""
    if not np.isfinite(estimate):
        return "not estimated"
    if not (np.isfinite(lower) and np.isfinite(upper)):
        return f"{estimate:.{digits}f}"
    return f"{estimate:.{digits}f} ({lower:.{digits}f} to {upper:.{digits}f})"


def p_value(value: float) -> str:
    """ "p < 0.001", "p = 0.023"."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def feature_parts(feature: str) -> tuple[str, str, str, str]:
    """`<series>.<region>.<filter>_<class>_<name>` -> (series, region, filter, class); "" for absent parts."""
    series, _, rest = feature.partition(".")
    region, _, name = rest.partition(".")
    if not name:
        return "", "", "", ""
    parts = name.split("_", 2)
    return (series, region, parts[0], parts[1]) if len(parts) == 3 else (series, region, "", parts[0])
