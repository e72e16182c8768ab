"""How every figure looks and is saved: sizes, colors, fonts, formats without dates.

Colors: models in the order of the config take Okabe and Ito's palette (jfly.uni-koeln.de/color, made for
color-blind readers), so a model has one color, marker and line in all figures; centers take Tol's "bright"
palette, risk groups two ends of RdBu. Nothing is told by color alone: lines and markers differ too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hccstudy.tables import atomic

log = logging.getLogger(__name__)

MM = 1 / 25.4
ONE_COLUMN, TWO_COLUMNS = 85 * MM, 175 * MM
FORMATS = ("pdf", "svg", "png")
GRAY = "#666666"
NOTHING = "nothing to show: no such center, or too few events"

MODEL_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933"]
MODEL_MARKERS = ["o", "s", "D", "^", "v", "P", "X", "h"]
MODEL_LINES: list = ["-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 2))]
CENTER_COLORS = ["#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#555555", "#BBBBBB"]
GROUP_COLORS = {"low": "#2166AC", "intermediate": "#7A7A7A", "high": "#B2182B"}
GROUP_LINES = {"low": "-", "intermediate": "-.", "high": "--"}

OTHER_SCRIPTS = {"Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "SimHei"}
OTHER_SCRIPTS |= {"Microsoft YaHei", "PingFang SC", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Thai"}

RC = {
    # shipped with matplotlib: the same letters on every machine; then what this one has for other scripts
    "font.family": ["DejaVu Sans", *sorted(OTHER_SCRIPTS & set(font_manager.get_font_names()))],
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # TrueType: editable, accepted by journals
    "svg.fonttype": "path",
    "svg.hashsalt": "hccstudy",
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}
METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}


class Look(NamedTuple):
    """How one model (or center) is drawn wherever it appears."""

    label: str
    color: str
    marker: str
    line: Any  # a name or a dash pattern of matplotlib


def styled() -> AbstractContextManager[None]:
    """The project's settings of matplotlib, for the length of a `with` block; nothing global changes."""
    return mpl.rc_context(RC)


def figure(width: float, height: float) -> Figure:
    """An empty figure, `width` x `height` inches, that leaves room for all labels and legends."""
    made = Figure(figsize=(width, height), layout="constrained")
    made.get_layout_engine().set(w_pad=1.5 * MM, h_pad=1.5 * MM)  # type: ignore[call-arg, union-attr]
    return made


def looks(names: Iterable[str], colors: list[str] = MODEL_COLORS) -> dict[str, Look]:
    """One look per name in the given order; beyond the palette colors repeat with another line and marker."""
    result = {}
    for place, name in enumerate(names):
        lap = place // len(colors)
        result[name] = Look(
            name.replace("_", " "),
            colors[place % len(colors)],
            MODEL_MARKERS[(place + lap) % len(MODEL_MARKERS)],
            MODEL_LINES[(place + lap) % len(MODEL_LINES)],
        )
    return result


def legend(figure: Figure, chosen: Iterable[Look], *, markers: bool = False, extra: Iterable[Line2D] = ()) -> None:
    """One legend for the whole figure, below the panels."""
    handles = [
        Line2D(
            [],
            [],
            color=look.color,
            label=look.label,
            linestyle=look.line,
            marker=look.marker if markers else "",
        )
        for look in chosen
    ]
    handles += list(extra)
    rows = -(-len(handles) // 6)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows), handlelength=2.8)


def titled(ax: Axes, title: str, *lines: str) -> Axes:
    """Title of a panel with lines in gray below it: how many patients and events, the numbers."""
    ax.set_title(title, pad=4 + 8 * len(lines))
    for place, line in enumerate(reversed(lines)):
        ax.annotate(
            line,
            (0, 1),
            (0, 4 + 8 * place),
            textcoords="offset points",
            xycoords="axes fraction",
            color=GRAY,
            fontsize=6.5,
        )
    return ax


def note(ax: Axes, text: str) -> Axes:
    """A panel that has nothing to show says why."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", color=GRAY, wrap=True, transform=ax.transAxes)
    return ax


def save(made: Figure, folder: str | Path, name: str) -> None:
    """Write `folder/name` as PDF, SVG and 300-dpi PNG; the same figure gives the same bytes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.draw_without_rendering()
        made.set_layout_engine("none")  # laid out once, not again for every format: half of the time
        for ending in FORMATS:
            with atomic(Path(folder) / f"{name}.{ending}") as temporary:
                made.savefig(temporary, format=ending, dpi=300, metadata=METADATA[ending])
    unknown = [warning for warning in caught if str(warning.message).startswith("Glyph ")]
    if unknown:
        log.warning("figure %s: no font here has all letters of the names; install Noto Sans CJK, for instance", name)
    for warning in caught:
        if warning not in unknown:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
