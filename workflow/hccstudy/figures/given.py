"""Figures of `hccstudy evaluate`: discrimination, calibration and decision curves of all models of one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hccstudy.endpoints import risk_column
from hccstudy.figures import performance
from hccstudy.figures.evaluated import DISCRIMINATION, at, counts
from hccstudy.figures.style import (
    GRAY,
    MM,
    TWO_COLUMNS,
    Line2D,
    Look,
    figure,
    legend,
    looks,
    save,
    styled,
    titled,
)

TITLES = {"auc_t": "AUC(t)"} | {name: title for shown in DISCRIMINATION.values() for name, title in shown.items()}
IDEAL = Line2D([], [], color="black", linestyle=":", linewidth=0.7, label="ideal")
REFERENCES = [Line2D([], [], color=GRAY, label="treat all"), Line2D([], [], color="black", label="treat none")]


def draw_given(
    tables: Mapping[str, pd.DataFrame],
    frames: Mapping[str, pd.DataFrame],
    settings: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write discrimination, and where models give risks calibration and decision; roc (binary), confusion (multiclass).

    `tables`: those of `hccstudy evaluate`; `frames`: the scores of each model; `settings` as in evaluation.evaluate.
    """
    metrics, kind = tables["metrics"].assign(evaluation="held-out", harmonization="none"), settings["type"]
    known = looks(frames)
    horizons: list[float | None] = list(settings["horizons"]) if kind == "survival" else [None]
    with styled():
        _discrimination(metrics, kind, known, folder)
        if kind == "multiclass":
            _confusion(tables["confusion"], settings["levels"], known, folder)
            return
        if kind == "binary" and len(tables["roc"]):
            made = figure(TWO_COLUMNS / 2, 92 * MM)
            area = _pooled(metrics[metrics["metric"] == "auc"])
            performance.roc_curve(made.subplots(), _pooled(tables["roc"]), area, known, "All patients")
            save(made, folder, "roc")
        if len(tables["calibration_groups"]):
            _calibration(tables, metrics, frames, horizons, known, folder)
        if len(tables["net_benefit"]):
            _decision(tables["net_benefit"], metrics, horizons, known, folder)


def _pooled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["center"] == "pooled"]


def _title(horizon: float | None) -> str:
    return "All patients" if horizon is None else f"All patients, time {horizon:g}"


def _discrimination(metrics: pd.DataFrame, kind: str, known: dict[str, Look], folder: Path) -> None:
    names = [*DISCRIMINATION[kind], "auc_t"]
    panels = metrics.loc[metrics["metric"].isin(names), ["metric", "horizon"]].drop_duplicates().to_numpy()
    labels = {"pooled": "All patients", "within-center": "Within center"}
    sets = [("held-out", center, labels.get(center, center)) for center in metrics["center"].drop_duplicates()]
    height = 16 + 3.6 * len(sets) * (len(known) + 1.6)
    rows = -(-len(panels) // 2)
    made = figure(TWO_COLUMNS, rows * height * MM)
    axes = made.subplots(rows, min(2, len(panels)), squeeze=False)
    for place, (ax, (metric, horizon)) in enumerate(zip(axes.ravel(), panels, strict=False)):
        of = metrics[(metrics["metric"] == metric)]
        of = of[of["horizon"].isna()] if pd.isna(horizon) else at(of, float(horizon))
        title = TITLES[metric] + ("" if pd.isna(horizon) else f", time {horizon:g}")
        performance.forest(ax, of, sets, known, title, named=place % 2 == 0)
    for ax in axes.ravel()[len(panels) :]:
        ax.set_axis_off()
    save(made, folder, "discrimination")


def _calibration(
    tables: Mapping[str, pd.DataFrame],
    metrics: pd.DataFrame,
    frames: Mapping[str, pd.DataFrame],
    horizons: list[float | None],
    known: dict[str, Look],
    folder: Path,
) -> None:
    """A row a horizon, a column a model: curve with its band, groups, the distribution of risks."""
    columns = min(2, len(known))
    places = [(name, horizon) for horizon in horizons for name in known]
    made = figure(TWO_COLUMNS, (14 + 62 * -(-len(places) // columns)) * MM)
    axes = made.subplots(-(-len(places) // columns), columns, squeeze=False).ravel()
    for ax, (name, horizon) in zip(axes, places, strict=False):
        curve, groups = (
            at(_pooled(table[table["model"] == name]), horizon)
            for table in (tables["calibration_curve"], tables["calibration_groups"])
        )
        column = "risk" if horizon is None else risk_column(horizon)
        risk = frames[name].get(column, pd.Series(dtype=float))
        risks = pd.DataFrame({"model": name, "risk": risk})
        title = known[name].label + ("" if horizon is None else f", time {horizon:g}")
        performance.calibration(ax, curve, groups, risks, {name: known[name]}, title)
        if ax.axison:
            rows = at(_pooled(metrics[metrics["model"] == name]), horizon)
            titled(ax, title, *performance.calibration_summary(rows))
    for ax in axes[len(places) :]:
        ax.set_axis_off()
    legend(made, [], extra=[IDEAL])
    save(made, folder, "calibration")


def _decision(
    benefit: pd.DataFrame,
    metrics: pd.DataFrame,
    horizons: list[float | None],
    known: dict[str, Look],
    folder: Path,
) -> None:
    made = figure(TWO_COLUMNS, (14 + 62 * len(horizons)) * MM)
    for ax, horizon in zip(made.subplots(len(horizons), 1, squeeze=False)[:, 0], horizons, strict=True):
        performance.decision_curve(ax, at(_pooled(benefit), horizon), known, _title(horizon))
        if ax.axison:
            rows = at(_pooled(metrics[metrics["metric"] == "brier"]), horizon)
            titled(ax, _title(horizon), counts(rows))
    legend(made, known.values(), extra=REFERENCES)
    save(made, folder, "decision")


def _confusion(cells: pd.DataFrame, levels: list[str], known: dict[str, Look], folder: Path) -> None:
    columns = min(len(known), 3)
    rows = -(-len(known) // columns)
    made = figure(min(1.0, columns / 2) * TWO_COLUMNS, rows * (14 + np.clip(170 / columns, 55, 85)) * MM)
    axes = made.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, look) in zip(axes, known.items(), strict=False):
        performance.confusion_matrix(ax, _pooled(cells[cells["model"] == name]), levels, look.label)
    for ax in axes[len(known) :]:
        ax.set_axis_off()
    made.supxlabel("Predicted class", fontsize=7)
    made.supylabel("Observed class", fontsize=7)
    save(made, folder, "confusion")
