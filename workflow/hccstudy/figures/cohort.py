"""Figures of the cohort: who went through every stage, and how the images were acquired."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hccstudy.figures.style import GRAY, Look, note
from hccstudy.ledger import STAGES, TABLE_STAGES

PASSED = {
    "cohort": "Cohort checks passed",
    "imports": "Images and masks imported",
    "preprocess": "Images on the study grid",
    "regions": "Regions of interest made",
    "features": "Features extracted",
}
FROM_TABLE = "Features in the feature table"  # of a study without images
LINE, PAD = 3.2, 1.6  # mm: height of a line at 7 points, and the air in a box
MAIN, SIDE = (4.0, 94.0), (104.0, 171.0)  # mm: left and right edge of the two columns
CHARACTER = 1.42  # mm: mean width of a letter at 7 points


@dataclass
class Box:
    left: float
    right: float
    top: float
    lines: list[str]
    emphasis: bool = False

    @property
    def bottom(self) -> float:
        return self.top + LINE * len(self.lines) + 2 * PAD


@dataclass
class Flow:
    """Boxes and arrows of the flow diagram in mm, y downwards."""

    boxes: list[Box] = field(default_factory=list)
    arrows: list[tuple[float, float, float, float]] = field(default_factory=list)
    height: float = 0


def _wrapped(text: str, left: float, right: float, indent: str = "") -> list[str]:
    return textwrap.wrap(text, int((right - left - 2 * PAD) / CHARACTER), subsequent_indent=indent)


def _losses(rows: pd.DataFrame, status: str) -> list[str]:
    chosen = rows[rows["status"] == status]
    if chosen.empty:
        return []
    lines = [f"{status.capitalize()} (n = {chosen['patients'].sum()})"]
    for reason, n in zip(chosen["reason"], chosen["patients"], strict=True):
        lines += _wrapped(f"  {reason}: {n}", *SIDE, indent="    ")
    return lines


def layout_flow(flow: pd.DataFrame, roles: dict[str, dict[str, int]]) -> Flow:
    """Place the boxes: one per stage, losses beside it, then the split by role of the center.

    `flow` is results/ledger/flow.tsv (stage, status, reason, patients); `roles` holds the patients of each
    center who passed all stages: {"Development": {"Aldbrook": 25, ...}, "External": {...}}.
    """
    middle = sum(MAIN) / 2
    plan = Flow()
    start = flow.loc[(flow["stage"] == STAGES[0]) & (flow["status"] == "in"), "patients"].sum()
    box = Box(*MAIN, 2, ["Patients in the cohort table", f"n = {start}"], emphasis=True)
    plan.boxes.append(box)
    stages = list(dict.fromkeys(flow["stage"]))
    for stage in stages:
        rows = flow[flow["stage"] == stage]
        lost = _losses(rows, "excluded") + _losses(rows, "failed")
        above, bottom = box.bottom, box.bottom + 4
        if lost:
            side = Box(*SIDE, above + 2, lost)
            bottom = side.bottom + 2
            branch = (side.top + side.bottom) / 2
            plan.boxes.append(side)
            plan.arrows.append((middle, branch, SIDE[0], branch))
        n = rows.loc[rows["status"] == "included", "patients"].sum()
        passed = FROM_TABLE if stages == TABLE_STAGES and stage == "features" else PASSED[stage]
        box = Box(*MAIN, bottom, [f"{passed}: n = {n}"])
        plan.boxes.append(box)
        plan.arrows.append((middle, above, middle, bottom))
    fork = box.bottom + 3
    plan.height = fork
    plan.arrows.append((middle, box.bottom, middle, fork))
    width = (MAIN[1] - MAIN[0] - 4) / 2
    for place, (role, centers) in enumerate(roles.items()):
        left = MAIN[0] + place * (width + 4)
        lines = [f"{role}: n = {sum(centers.values())}"]
        listed = ", ".join(f"{name} {n}" for name, n in centers.items())
        lines += _wrapped(listed, left, left + width) or ["no center"]
        leaf = Box(left, left + width, fork + 4, lines, emphasis=True)
        plan.boxes.append(leaf)
        plan.arrows += [
            (middle, fork, left + width / 2, fork),
            (left + width / 2, fork, left + width / 2, leaf.top),
        ]
        plan.height = max(plan.height, leaf.bottom + 2)
    return plan


def flow_diagram(ax: Axes, plan: Flow) -> Axes:
    """Draw a placed flow diagram; `ax` must be 175 mm wide and `plan.height` mm high."""
    ax.set(xlim=(0, 175), ylim=(plan.height, 0))
    ax.set_axis_off()
    for x0, y0, x1, y1 in plan.arrows:
        tip = any(abs(box.top - y1) < 1e-6 or abs(box.left - x1) < 1e-6 for box in plan.boxes)
        style = "-|>" if tip else "-"
        arrow = {"arrowstyle": style, "linewidth": 0.7, "color": "black", "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=arrow | {"mutation_scale": 6})
    for box in plan.boxes:
        fill = "#E8F0F7" if box.emphasis else "white"
        size = (box.right - box.left, box.bottom - box.top)
        corner = (box.left, box.top)
        ax.add_patch(Rectangle(corner, *size, facecolor=fill, edgecolor="black", linewidth=0.7))
        side = box.left >= SIDE[0]
        x = box.left + PAD if side else (box.left + box.right) / 2
        for place, line in enumerate(box.lines):
            bold = "bold" if (box.emphasis and place == 0) or (not line.startswith(" ") and side) else "normal"
            y = box.top + PAD + LINE * (place + 0.5)
            ax.text(x, y, line, ha="left" if side else "center", va="center", fontweight=bold)
    return ax


def slice_thickness(ax: Axes, acquisition: pd.DataFrame, centers: Sequence[str], series: dict[str, Look]) -> Axes:
    """Slice thickness (mm; else voxel spacing) by center: areas of disks are numbers of images."""
    columns = {"SliceThickness": "Slice thickness", "spacing_z": "Voxel spacing in z"}
    column = next((name for name in columns if name in acquisition and acquisition[name].notna().any()), None)
    if column is None:
        return note(ax, "Slice thickness is not recorded\nin the images of this study")
    width = 0.7 / len(series)
    thickness = acquisition[column].astype(float).round(2)
    largest = acquisition.groupby(["center", "series", thickness]).size().max()
    for place, (name, look) in enumerate(series.items()):
        rows = acquisition[acquisition["series"] == name]
        table = rows.groupby(["center", thickness.loc[rows.index]]).size()
        y = [centers.index(center) - 0.35 + width * (place + 0.5) for center, _ in table.index]
        x = table.index.get_level_values(1).to_numpy(dtype=float)
        area = 80 * table.to_numpy(dtype=float) / largest
        ax.scatter(x, y, s=area, color=look.color, alpha=0.75, linewidth=0, label=look.label)
        for across, up, n, size in zip(x, y, table, area, strict=True):
            style: dict[str, Any] = {
                "fontsize": 5.5,
                "va": "center",
                "color": GRAY,
                "textcoords": "offset points",
            }
            ax.annotate(str(n), (across, up), (1.5 + np.sqrt(size / np.pi), 0), **style)
    ax.set(
        xlabel=f"{columns[column]} (mm)",
        ylim=(len(centers) - 0.4, -0.6),
        title=f"{columns[column]} (number of images)",
    )
    ax.set_yticks(range(len(centers)), centers)
    ax.margins(x=0.12)
    return ax


def kernels(ax: Axes, acquisition: pd.DataFrame, centers: Sequence[str], colors: Sequence[str]) -> Axes:
    """Share of images by reconstruction kernel, or by scanner model where no kernel is recorded (MRI)."""
    titles = {"ConvolutionKernel": "Reconstruction kernel", "ManufacturerModelName": "Scanner model"}
    column = next((name for name in titles if name in acquisition and acquisition[name].notna().any()), None)
    if column is None:
        return note(ax, "Neither kernel nor scanner model is recorded\nin the images of this study")
    values = acquisition[column].astype("string").fillna("not recorded")
    frequent = values.value_counts().index[: len(colors) - 1]
    values = values.where(values.isin(frequent), "other")
    share = pd.crosstab(acquisition["center"], values, normalize="index").reindex(centers).fillna(0) * 100
    left = np.zeros(len(centers))
    for color, name in zip(colors, share.columns, strict=False):
        ax.barh(
            range(len(centers)),
            share[name],
            left=left,
            color=color,
            height=0.6,
            label=name,
            edgecolor="white",
        )
        left = left + share[name].to_numpy()
    ax.set(xlabel="Images (%)", xlim=(0, 100), ylim=(len(centers) - 0.4, -0.6), title=titles[column])
    ax.set_yticks(range(len(centers)), [""] * len(centers))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1, handlelength=1)
    return ax
