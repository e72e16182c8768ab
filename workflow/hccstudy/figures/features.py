"""Figures of the features: how stable they are, and what harmonization does to center effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hccstudy.figures.style import Look, note

TITLES = {"raw": "Before harmonization", "harmonized": "After ComBat"}


def icc_distribution(ax: Axes, icc: pd.Series, groups: pd.Series, threshold: float, chosen: dict[str, Look]) -> Axes:
    """Cumulative share of features by ICC, a line per group; the legend says how many reach the threshold."""
    for name, look in chosen.items():
        values = np.sort(icc[groups == name].dropna().clip(lower=0))
        if not len(values):
            continue
        share = 100 * np.mean(values >= threshold)
        x = np.concatenate([[0], values, [1]])
        y = 100 * np.concatenate([[0], np.arange(1, len(values) + 1) / len(values), [1]])
        label = f"{look.label} ({len(values)} features, {share:.0f} % stable)"
        ax.step(x, y, where="post", color=look.color, linestyle=look.line, label=label)
    ax.axvline(threshold, color="black", linewidth=0.7, linestyle=":")
    ax.text(threshold, 101, f"{threshold:g}", ha="center", va="bottom", fontsize=6)
    ax.set(xlim=(0, 1), ylim=(0, 100), xlabel="ICC(2,1), absolute agreement")
    ax.set_ylabel("Features at or below (%)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.26), ncols=1, handlelength=2.6)
    return ax


def embedding(ax: Axes, points: pd.DataFrame, features: str, centers: dict[str, Look]) -> Axes:
    """First two principal components of the features, one point per patient, colored by center."""
    rows = points[points["features"] == features]
    if rows.empty:
        return note(ax, "No harmonization in this study")
    for name, look in centers.items():
        of = rows[rows["center"] == name]
        if len(of):
            label = f"{name} (n = {len(of)})"
            ax.scatter(of["pc1"], of["pc2"], s=9, marker=look.marker, color=look.color, linewidth=0, alpha=0.8)
            ax.scatter([], [], s=12, marker=look.marker, color=look.color, linewidth=0, label=label)
    ax.set(xlabel="Principal component 1", ylabel="Principal component 2", title=TITLES[features])
    ax.set_box_aspect(1)
    return ax


def center_predictability(ax: Axes, table: pd.DataFrame) -> Axes:
    """How well a classifier tells the center from features: balanced accuracy, 95 % interval, chance."""
    rows = table.set_index("features").reindex([name for name in TITLES if name in set(table["features"])])
    if rows.empty:
        return note(ax, "One center only")
    x = np.arange(len(rows))
    height = rows["balanced_accuracy"].to_numpy(dtype=float)
    errors = np.abs(rows[["lower", "upper"]].to_numpy(dtype=float).T - height)
    colors = ["#BBBBBB", "#4477AA"][: len(rows)]
    ax.bar(x, height, width=0.6, color=colors, yerr=errors, capsize=2.5, error_kw={"linewidth": 0.8})
    for place, value in enumerate(height):
        ax.text(place, 0.03, f"{value:.2f}", ha="center", fontsize=6.5, fontweight="bold")
    chance = float(rows["chance"].iloc[0])
    ax.axhline(chance, color="black", linestyle="--", linewidth=0.7, label=f"chance ({chance:.2f})")
    ax.set_xticks(x, ["before", "after"][: len(rows)])
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.legend(loc="upper right")
    n = int(rows["n"].iloc[0])
    ax.set(ylim=(0, 1.2), xlim=(-0.5, len(rows) - 0.5), ylabel="Balanced accuracy", title="Telling the center")
    ax.set_xlabel(f"Harmonization (n = {n})")
    return ax
