"""Figures of how good predictions are: discrimination, calibration, clinical utility, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from hccstudy.figures.evaluated import counts, interval, primary
from hccstudy.figures.style import GRAY, NOTHING, Look, note, titled

SHARE = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#2166AC"])


def forest(
    ax: Axes,
    metrics: pd.DataFrame,
    sets: Sequence[tuple[str, str, str]],
    models: dict[str, Look],
    title: str,
    *,
    named: bool = True,
) -> Axes:
    """Estimates with 95 % intervals of every model in every evaluated set; the numbers stand at the right.

    `metrics` holds the rows of one metric, `sets` is made by evaluated_sets. A refused estimate is said to be
    so. `named=False` leaves out the names of sets and models (a second panel beside the first).
    """
    rows = primary(metrics)
    y, ticks, labels = 0.0, [], []
    for evaluation, center, label in sets:
        of = rows[(rows["evaluation"] == evaluation) & (rows["center"] == center)].set_index("model")
        if named:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            style: dict[str, Any] = {
                "transform": ax.get_yaxis_transform(),
                "va": "center",
                "fontweight": "bold",
                "bbox": box,
            }
            ax.text(0.01, y, label, **style)
        ax.text(1.02, y, counts(of), transform=ax.get_yaxis_transform(), va="center", fontsize=6, color=GRAY)
        for name, look in models.items():
            y += 1
            ticks.append(y)
            labels.append(look.label if named else "")
            if name not in of.index:
                text = "not estimated"
            else:
                estimate, low, high = of.loc[name, ["estimate", "lower", "upper"]].astype(float)
                text = interval(estimate, low, high)
                filled = look.color if evaluation == "external" else "white"
                ax.plot([low, high], [y, y], color=look.color, solid_capstyle="butt")
                ax.plot([estimate], [y], look.marker, color=look.color, markerfacecolor=filled)
            ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6)
        y += 1.6
    ax.axvline(0.5, color="black", linestyle=":", linewidth=0.7)
    low = min(0.45, np.floor(10 * np.nanmin(rows["lower"].astype(float).fillna(0.5).tolist() or [0.4])) / 10)
    ax.set(ylim=(y - 0.8, -0.8), xlim=(low, 1), xlabel=f"{title} (95 % interval)", title=title)
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    return ax


def horizon_auc(ax: Axes, rows: pd.DataFrame, models: dict[str, Look], unit: str, title: str) -> Axes:
    """Time-dependent AUC with 95 % intervals by horizon, models side by side."""
    rows = rows[rows["estimate"].notna()]
    if rows.empty:
        return note(ax, f"{title}\n{NOTHING}")
    horizons = np.sort(rows["horizon"].astype(float).unique())
    gap = np.min(np.diff(horizons)) if len(horizons) > 1 else 1.0
    for place, (name, look) in enumerate(models.items()):
        of = rows[rows["model"] == name].sort_values("horizon")
        shift = gap * 0.05 * (place - (len(models) - 1) / 2)
        x, y = of["horizon"].astype(float) + shift, of["estimate"].astype(float)
        errors = [y - of["lower"].astype(float), of["upper"].astype(float) - y]
        style = {"color": look.color, "marker": look.marker, "linestyle": look.line, "linewidth": 0.8}
        ax.errorbar(x, y, errors, elinewidth=0.8, **style)
    ax.axhline(0.5, color="black", linestyle=":", linewidth=0.7)
    low = min(0.4, np.floor(10 * rows["lower"].astype(float).min()) / 10)
    ax.set(ylim=(low, 1), ylabel="Time-dependent AUC", title=title, xlabel=f"Horizon ({unit})")
    ax.set_xticks(horizons, [f"{value:g}\n{counts(of)}" for value, of in rows.groupby("horizon")])
    ax.margins(x=0.2)
    return ax


def roc_curve(ax: Axes, points: pd.DataFrame, metrics: pd.DataFrame, models: dict[str, Look], title: str) -> Axes:
    """ROC curves of one evaluated set; the legend gives the AUC with its interval."""
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.7)
    for name, look in models.items():
        of = points[points["model"] == name].sort_values(["fpr", "tpr"])
        value = metrics[metrics["model"] == name]
        if of.empty or value.empty:
            continue
        text = interval(*value.iloc[0][["estimate", "lower", "upper"]].astype(float))
        style = {"color": look.color, "linestyle": look.line, "drawstyle": "steps-post"}
        ax.plot(of["fpr"], of["tpr"], label=f"{look.label} {text}", **style)
    ax.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="1 - specificity", ylabel="Sensitivity")
    titled(ax, title, counts(metrics))
    ax.legend(loc="lower right", title="AUC (95 % interval)", title_fontsize=6.5, handlelength=2.4)
    ax.set_box_aspect(1)
    return ax


def calibration(
    ax: Axes,
    curve: pd.DataFrame,
    groups: pd.DataFrame,
    risks: pd.DataFrame,
    models: dict[str, Look],
    title: str,
) -> Axes:
    """Observed against predicted risk: smooth curves, and histograms of the risks below them.

    `curve`, `groups` and `risks` (columns model, risk) are those of one evaluated set and horizon. The 95 %
    band and groups of patients are drawn where one model alone is shown; those of several would hide one
    another.
    """
    if curve.empty and groups.empty:
        return note(ax, f"{title}\n{NOTHING}")
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=0.7)
    alone = len(models) == 1
    edges = np.linspace(0, 1, 26)
    for name, look in models.items():
        of = curve[curve["model"] == name].sort_values("predicted")
        x, y = of["predicted"].astype(float), of["observed"].astype(float)
        ax.plot(x, y, color=look.color, linestyle=look.line, clip_on=True)
        if alone:
            band = (of["lower"].astype(float).clip(0, 1), of["upper"].astype(float).clip(0, 1))
            ax.fill_between(x, *band, color=look.color, alpha=0.2, linewidth=0)
        values = risks.loc[risks["model"] == name, "risk"].to_numpy(dtype=float)
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        share /= max(0.25, share.max())
        ax.stairs(
            -0.18 + 0.15 * share,
            edges,
            baseline=-0.18,
            color=look.color,
            fill=alone,
            alpha=0.6,
            linewidth=0.7,
        )
    if alone:
        of = groups[groups["model"].isin(models)]
        x, y = of["predicted"].astype(float), of["observed"].astype(float)
        errors = [(y - of["lower"].astype(float)).clip(0), (of["upper"].astype(float) - y).clip(0)]
        ax.errorbar(x, y, errors, fmt="o", color="black", markersize=3, elinewidth=0.7, capsize=1.5)
    ax.set(xlim=(0, 1), ylim=(-0.18, 1.03), xlabel="Predicted risk", ylabel="Observed proportion")
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_box_aspect(1.1)
    return ax


def calibration_summary(metrics: pd.DataFrame) -> list[str]:
    """O/E, slope and ICI of one model in one evaluated set, as two lines below a panel's title."""
    values = {}
    for metric, label in {"oe": "O/E", "slope": "slope", "ici": "ICI"}.items():
        rows = metrics[metrics["metric"] == metric]
        if len(rows):
            values[metric] = f"{label} {interval(*rows.iloc[0][['estimate', 'lower', 'upper']].astype(float))}"
    oe, *rest = values.values() or [""]
    return ["; ".join(filter(None, [counts(metrics[metrics["metric"] == "oe"]), oe])), "; ".join(rest)]


def decision_curve(ax: Axes, benefit: pd.DataFrame, models: dict[str, Look], title: str) -> Axes:
    """Net benefit over the threshold probabilities of the config, against treating all and none."""
    rows = benefit[benefit["model"].isin(models)].astype({"threshold": float})
    if rows.empty:
        return note(ax, f"{title}\n{NOTHING}")
    references = rows.groupby("threshold")[["net_benefit_all", "net_benefit_none"]].mean()
    ax.plot(100 * references.index, references["net_benefit_all"], color=GRAY, linewidth=0.9)
    ax.plot(100 * references.index, references["net_benefit_none"], color="black", linewidth=0.9)
    for name, look in models.items():
        of = rows[rows["model"] == name].sort_values("threshold")
        ax.plot(
            100 * of["threshold"],
            of["net_benefit"].astype(float),
            color=look.color,
            linestyle=look.line,
            marker=look.marker if len(of) == 1 else "",
        )
    top = float(rows[["net_benefit", "net_benefit_all"]].astype(float).max().max())
    span = 100 * rows["threshold"].min(), 100 * rows["threshold"].max()
    ax.set(ylim=(-0.15 * max(top, 0.05), 1.08 * max(top, 0.05)))
    if span[0] < span[1]:
        ax.set(xlim=span)
    ax.set(xlabel="Threshold probability (%)", ylabel="Net benefit", title=title)
    return ax


def confusion_matrix(ax: Axes, cells: pd.DataFrame, levels: Sequence[str], title: str) -> Axes:
    """Observed (rows) against predicted (columns) classes: patients, and percent of the observed class."""
    table = cells.assign(observed=cells["observed"].astype(str), predicted=cells["predicted"].astype(str))
    counted = table.pivot_table(index="observed", columns="predicted", values="n", aggfunc="sum")
    counted = counted.reindex(index=levels, columns=levels).fillna(0).astype(int)
    share = counted.div(counted.sum(axis=1).clip(lower=1), axis=0)
    ax.imshow(share.to_numpy(), cmap=SHARE, vmin=0, vmax=1, aspect="equal")
    for row in range(len(levels)):
        for column in range(len(levels)):
            ink = "white" if share.iat[row, column] > 0.6 else "black"
            text = f"{counted.iat[row, column]}\n{100 * share.iat[row, column]:.0f} %"
            ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=5.5, linespacing=1.1)
    ax.set_xticks(range(len(levels)), levels)
    ax.set_yticks(range(len(levels)), levels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{title} (n = {int(counted.to_numpy().sum())})")
    return ax
