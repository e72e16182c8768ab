"""Figures of single models: Kaplan-Meier curves of their risk groups, and their coefficients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hccstudy.figures.evaluated import feature_parts
from hccstudy.figures.style import GRAY, GROUP_COLORS, GROUP_LINES, Look

SHOWN = 20  # the largest coefficients of a model; the table holds all


def time_ticks(longest: float, unit: str) -> np.ndarray:
    """Round tick positions from 0 to `longest`, at most 8: quarters or years where the unit is months."""
    steps = [1, 3, 6, 12, 24, 36, 60, 120] if unit.startswith("month") else [1, 2, 5]
    scale = 1.0
    while True:
        for step in steps:
            if longest / (step * scale) <= 7:
                return np.arange(0, longest + 1e-9, step * scale)
        scale *= 10


def kaplan_meier(ax: Axes, curves: pd.DataFrame, ticks: Sequence[float] | np.ndarray) -> Axes:
    """Survival by risk group with 95 % bands; `curves` holds group, time, survival, lower, upper."""
    for group, of in _groups(curves):
        of = of.sort_values("time").astype({"time": float})
        start = pd.DataFrame({"time": [0.0], "survival": [1.0], "lower": [1.0], "upper": [1.0]})
        of = of[of["time"] > 0][["time", "survival", "lower", "upper"]].astype(float)
        of = pd.concat([start, of], ignore_index=True)
        color = GROUP_COLORS[group]
        ax.step(of["time"], of["survival"], where="post", color=color, linestyle=GROUP_LINES[group], label=group)
        ax.fill_between(of["time"], of["lower"], of["upper"], step="post", color=color, alpha=0.15, linewidth=0)
    ax.set(ylim=(0, 1.02), ylabel="Event-free proportion")
    ax.set_xlim(0, 1.02 * curves["time"].astype(float).max())
    ax.set_xticks(ticks)
    ax.tick_params(labelbottom=False)
    return ax


def numbers_at_risk(ax: Axes, curves: pd.DataFrame, ticks: Sequence[float] | np.ndarray, label: str) -> Axes:
    """Patients still at risk at the ticks, one row per group, in the color of its curve.

    The number at t is that of the first row at or after t: patients with time >= t.
    """
    groups = list(_groups(curves))
    for row, (group, of) in enumerate(groups):
        of = of.sort_values("time")
        times = of["time"].to_numpy(dtype=float)
        remaining = np.append(of["at_risk"].to_numpy(dtype=float), 0)
        for tick in ticks:
            text = f"{remaining[np.searchsorted(times, tick)]:.0f}"
            ax.text(tick, row, text, ha="center", va="center", color=GROUP_COLORS[group], fontsize=6.5)
    ax.set(ylim=(len(groups) - 0.5, -0.5), xlabel=label)
    ax.set_yticks(range(len(groups)), [group for group, _ in groups])
    ax.set_title("Number at risk", fontsize=6.5, fontweight="normal", pad=2)
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0, pad=11)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    for name, (group, _) in zip(ax.get_yticklabels(), groups, strict=True):
        name.set_color(GROUP_COLORS[group])
    return ax


def _groups(curves: pd.DataFrame):  # type: ignore[no-untyped-def]
    return [(name, curves[curves["group"] == name]) for name in GROUP_COLORS if (curves["group"] == name).any()]


def feature_label(feature: str) -> str:
    """`portal.tumor.wavelet-LLH_glcm_Contrast` as "portal, tumor: wavelet-LLH glcm Contrast"."""
    series, region, _, kind = feature_parts(feature)
    if not kind:
        return feature.replace("_", " ")
    return f"{series}, {region.replace('_', ' ')}: {feature.split('.', 2)[2].replace('_', ' ')}"


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """The known coefficients other than zero, largest first in absolute value, at most SHOWN."""
    values = table["coefficient"].astype(float)
    nonzero = table[values.notna() & (values != 0)]
    return nonzero.sort_values("coefficient", key=lambda value: -value.astype(float).abs(), kind="stable").head(SHOWN)


def coefficients(ax: Axes, table: pd.DataFrame, look: Look) -> Axes:
    """The largest coefficients or importances of one model as bars; the title says how many there are in all.

    `table` holds feature, level (of the outcome, where it has several), kind ("coefficient" or "importance"),
    coefficient.
    """
    shown = largest(table)
    values = table["coefficient"].astype(float)
    total = int((values.notna() & (values != 0)).sum())
    quantity = {"coefficient": "Coefficient (per SD of the predictor)", "importance": "Impurity importance"}
    labels = [
        feature_label(feature) + ("" if pd.isna(level) or level == "" else f" [{level}]")
        for feature, level in zip(shown["feature"], shown["level"], strict=True)
    ]
    ax.barh(range(len(shown)), shown["coefficient"].astype(float), color=look.color, height=0.65)
    ax.axvline(0, color="black", linewidth=0.7)
    ax.set_yticks(range(len(shown)), labels)
    ax.set(ylim=(len(shown) - 0.4, -0.6), xlabel=quantity[shown["kind"].iloc[0]])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", linewidth=0.4, color="#DDDDDD")
    ax.set_axisbelow(True)
    part = f"{total} terms" if total == len(shown) else f"largest {len(shown)} of {total} terms"
    ax.set_title(f"{look.label} ({part})", color="black")
    ax.spines["left"].set_color(GRAY)
    return ax
