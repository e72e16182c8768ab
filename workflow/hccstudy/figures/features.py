"""Figures of the features: how stable they are, and what harmonization does to them and to center effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hccstudy.figures.style import GRAY, Look, note

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


def center_effects(ax: Axes, table: pd.DataFrame, column: str, neutral: float, centers: dict[str, Look]) -> Axes:
    """What ComBat takes away in each center: a point per feature, the middle half and the median as a bar.

    `table`: center and `column` (shift or scale); `neutral`: the value of a center like the others. Points of one
    value lie as wide as the values are dense, so that 50 features and 4000 have the same outline.
    """
    for row, (name, look) in enumerate(centers.items()):
        values = np.sort(table.loc[table["center"] == name, column].to_numpy(dtype=float))
        if (values == neutral).all():
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            said = ax.text(0.5, row, f"{column} left as it is", transform=ax.get_yaxis_transform(), bbox=box)
            said.set(color=GRAY, fontsize=6.5, ha="center", va="center")
            continue
        size = float(np.clip(400 / len(values), 0.6, 7))
        away = 0.36 * _density(values) * _spread(len(values))
        ax.scatter(values, row + away, s=size, color=look.color, alpha=0.5, linewidth=0, rasterized=True)
        low, middle, high = np.percentile(values, [25, 50, 75])
        ax.plot([low, high], [row, row], color="black", linewidth=1.6, solid_capstyle="butt")
        ax.plot(middle, row, marker="o", markersize=3.6, color="white", markeredgecolor="black", markeredgewidth=0.8)
    ax.axvline(neutral, color="black", linewidth=0.7, linestyle=":", zorder=0)
    ax.set(ylim=(len(centers) - 0.5, -0.5))
    ax.set_yticks(range(len(centers)), [look.label for look in centers.values()])
    return ax


def ratio_ticks(ax: Axes) -> Axes:
    """Plain numbers on a logarithmic axis of ratios around 1, as many as fit."""
    low, high = ax.get_xlim()
    offered = [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10]
    inside = [value for value in offered if low <= value <= high]
    shown = inside if len(inside) <= 8 else [value for value in inside if value not in (0.3, 0.8, 0.9, 1.1, 1.25, 3)]
    ax.set_xticks(shown, [f"{value:g}" for value in shown])
    ax.minorticks_off()
    return ax


def _density(values: np.ndarray) -> np.ndarray:
    """How dense the sorted values lie around each of them, 1 at most: a Gaussian kernel, Silverman's bandwidth."""
    deviation = values.std() or 1.0
    grid = np.linspace(values[0] - deviation, values[-1] + deviation, 200)
    width = 1.06 * deviation * len(values) ** -0.2
    heights = np.exp(-(((grid[:, None] - values) / width) ** 2) / 2).sum(axis=1)
    return np.asarray(np.interp(values, grid, heights / heights.max()))


def _spread(count: int) -> np.ndarray:
    """`count` places between -1 and 1 that fill the span evenly without chance (golden ratio sequence)."""
    return 2 * (np.arange(count) * 0.6180339887498949 % 1) - 1
