"""The stage functions: tables in, named figures out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hccstudy.catalog import models_of
from hccstudy.errors import StudyError
from hccstudy.figures import cohort, features, models, performance
from hccstudy.figures.evaluated import (
    DISCRIMINATION,
    EVALUATIONS,
    LEADING,
    at,
    counts,
    evaluated_sets,
    p_value,
    pooled,
    stack,
)
from hccstudy.figures.style import (
    CENTER_COLORS,
    GRAY,
    GROUP_COLORS,
    GROUP_LINES,
    MM,
    NOTHING,
    ONE_COLUMN,
    TWO_COLUMNS,
    Line2D,
    Look,
    figure,
    legend,
    looks,
    note,
    save,
    styled,
    titled,
)
from hccstudy.ledger import COLUMNS as LEDGER_COLUMNS
from hccstudy.ledger import STAGES
from hccstudy.tables import read_table

# feature classes by the prefix of IBSI's tags, and by pyradiomics' names
CLASSES = {
    "stat": "intensity",
    "ih": "intensity",
    "firstorder": "intensity",
    "morph": "shape",
    "cm": "GLCM",
    "rlm": "GLRLM",
}
CLASSES |= {"szm": "GLSZM", "ngl": "GLDM (NGLDM)", "ngt": "NGTDM", "gldm": "GLDM (NGLDM)"}
CLASSES |= {name: name.upper() for name in ("glcm", "glrlm", "glszm", "ngtdm")}
CLASSES |= {"dzm": "GLDZM", "ivh": "intensity-volume histogram", "loc": "local intensity"}

METRICS = [*LEADING, "metric", "horizon", "threshold", "estimate", "lower", "upper", "n", "events", "method"]
CURVE = [*LEADING, "horizon", "predicted", "observed", "lower", "upper"]


def draw_study(
    *,
    flow: str,
    ledger: str,
    acquisition: str | None = None,
    icc: str | None = None,
    shifts: str | None = None,
    embedding: str,
    centers: str,
    settings: dict[str, Any],
    folder: str,
) -> None:
    """Write the figures flow, acquisition, stability, harmonization and shifts into `folder`.

    The paths are those of docs/architecture.md (`shifts`, `embedding` and `centers` below results/harmonize).
    `settings` is the config; read are cohort.centers and stability.threshold.
    """
    roles = settings["cohort"]["centers"]
    names = [*roles["development"], *roles["external"]]
    with styled():
        _draw_flow(read_table(flow), read_table(ledger, LEDGER_COLUMNS), roles, folder)
        if acquisition:
            _draw_acquisition(read_table(acquisition, ["patient", "center", "series"]), names, folder)
        if icc:
            _draw_stability(read_table(icc, ["feature", "icc"]), float(settings["stability"]["threshold"]), folder)
        points = read_table(embedding, ["patient", "center", "features", "pc1", "pc2"])
        told = read_table(centers, ["features", "balanced_accuracy", "lower", "upper", "chance", "n"])
        _draw_harmonization(points, told, looks(names, CENTER_COLORS), folder)
        if shifts:
            moves = read_table(shifts, ["feature", "center", "shift", "scale"])
            _draw_shifts(moves, looks(names, CENTER_COLORS), folder)


def _draw_flow(flow: pd.DataFrame, ledger: pd.DataFrame, roles: dict[str, list[str]], folder: str) -> None:
    last = ledger[(ledger["stage"] == STAGES[-1]) & (ledger["status"] == "included")]
    per_center = last["center"].value_counts()
    split = {
        role.capitalize(): {name: int(per_center.get(name, 0)) for name in roles[role]}
        for role in ("development", "external")
    }
    plan = cohort.layout_flow(flow.fillna({"reason": ""}), split)
    made = figure(TWO_COLUMNS, plan.height * MM)
    made.set_layout_engine("none")
    cohort.flow_diagram(made.add_axes((0, 0, 1, 1)), plan)
    save(made, folder, "flow")


def _draw_acquisition(acquisition: pd.DataFrame, centers: list[str], folder: str) -> None:
    made = figure(TWO_COLUMNS, (42 + 7 * len(centers)) * MM)
    left, right = made.subplots(1, 2)
    series = looks(sorted(acquisition["series"].unique()), CENTER_COLORS)
    cohort.slice_thickness(left, acquisition, centers, series)
    cohort.kernels(right, acquisition, centers, CENTER_COLORS)
    if left.get_legend_handles_labels()[0]:
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, title="Series", markerscale=0.7)
    save(made, folder, "acquisition")


def _draw_stability(icc: pd.DataFrame, threshold: float, folder: str) -> None:
    parts = pd.DataFrame([_class_and_region(name) for name in icc["feature"]], columns=["class", "region"])
    made = figure(TWO_COLUMNS, 84 * MM)
    for ax, by, title in zip(made.subplots(1, 2), parts.columns, ["By feature class", "By region"], strict=True):
        if icc.empty:
            note(ax, "Stability was not assessed in this study")
            continue
        groups = parts[by].set_axis(icc.index)
        features.icc_distribution(ax, icc["icc"].astype(float), groups, threshold, looks(sorted(groups.unique())))
        ax.set_title(title, pad=11)
    save(made, folder, "stability")


def _class_and_region(feature: str) -> tuple[str, str]:
    series, region, _, kind = models.feature_parts(feature)
    return CLASSES.get(kind, kind) or "other", f"{series}, {region}" if region else "other"


def _draw_harmonization(points: pd.DataFrame, told: pd.DataFrame, centers: dict[str, Look], folder: str) -> None:
    shown = [name for name in features.TITLES if name in set(points["features"])] or ["raw"]
    made = figure(TWO_COLUMNS, 74 * MM)
    *panels, bars = made.subplots(1, len(shown) + 1, width_ratios=[*[3] * len(shown), 2.2])
    for ax, version in zip(panels, shown, strict=True):
        features.embedding(ax, points, version, centers)
    features.center_predictability(bars, told)
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=5)
    save(made, folder, "harmonization")


def _draw_shifts(moves: pd.DataFrame, centers: dict[str, Look], folder: str) -> None:
    if moves.empty:
        made = figure(ONE_COLUMN, 30 * MM)
        note(made.subplots(), "All development patients are of one center:\nthere was nothing to harmonize")
        return save(made, folder, "shifts")
    present = {name: look for name, look in centers.items() if name in set(moves["center"])}
    count = moves["feature"].nunique()
    made = figure(TWO_COLUMNS, min(24 + 13 * len(present), 240) * MM)
    left, right = made.subplots(1, 2, sharey=True)
    features.center_effects(left, moves, "shift", 0, present)
    features.center_effects(right, moves, "scale", 1, present)
    left.set(xlabel="Shift (SD within centers)", title=f"Shift of {count} features")
    right.set(xlabel="Scale (ratio of SDs)", xscale="log", title=f"Scale of {count} features")
    features.ratio_ticks(right)
    save(made, folder, "shifts")


def draw_endpoint(
    *,
    endpoint: str,
    metrics: list[str],
    calibration_curve: list[str],
    calibration_groups: list[str],
    net_benefit: list[str],
    kaplan_meier: list[str],
    roc: list[str],
    confusion: list[str],
    oof: list[str],
    predictions: list[str],
    coefficients: list[str],
    settings: dict[str, Any],
    folder: str,
) -> None:
    """Write the figures of one endpoint into `folder`: `figure_names(...)[endpoint]`.

    survival: E_discrimination, E_time_dependent_auc, E_calibration, E_decision, E_coefficients, and per model
    M E_kaplan_meier_M, E_calibration_M; binary: E_discrimination, E_roc, E_calibration, E_decision,
    E_coefficients, and E_calibration_M; multiclass: E_discrimination, E_confusion, E_coefficients.

    Each list holds one path per model (docs/architecture.md); the model of `oof` and `coefficients` is the name
    of their folder, that of `predictions` the name of the file. `settings` is the config; read are
    cohort.centers, endpoints, models. Outcomes are not read here: the figures know them from the validation
    tables alone.
    """
    definition = settings["endpoints"][endpoint]
    kind = definition["type"]
    everywhere = looks(settings["models"])  # a model keeps its color where another is not fitted
    known = {name: everywhere[name] for name in models_of(endpoint, settings["models"])}
    table = stack(metrics, METRICS)
    curves = stack(calibration_curve, CURVE), stack(calibration_groups, [*CURVE, "group", "n"])
    with styled():
        _draw_discrimination(endpoint, kind, table, settings["cohort"]["centers"]["external"], known, folder)
        _draw_coefficients(endpoint, coefficients, known, folder)
        if kind == "multiclass":
            cells = stack(confusion, [*LEADING, "observed", "predicted", "n"])
            _draw_confusion(endpoint, cells, [str(level) for level in definition["levels"]], known, folder)
            return
        horizons: list[float | None] = (
            [float(value) for value in definition["horizons"]] if kind == "survival" else [None]
        )
        unit = definition.get("unit", "")
        risks = _read_risks(oof, predictions, horizons)
        _draw_calibration(endpoint, *curves, risks, table, horizons, unit, known, folder)
        _draw_decision(
            endpoint,
            stack(net_benefit, [*LEADING, "horizon", "threshold"]),
            table,
            horizons,
            unit,
            known,
            folder,
        )
        if kind == "binary":
            _draw_roc(endpoint, stack(roc, [*LEADING, "threshold", "fpr", "tpr"]), table, known, folder)
        else:
            _draw_horizon_auc(endpoint, table, unit, known, folder)
            columns = [*LEADING, "group", "time", "survival", "lower", "upper", "at_risk"]
            _draw_kaplan_meier(endpoint, definition, stack(kaplan_meier, columns), table, known, folder)


def _panel_title(evaluation: str, horizon: float | None, unit: str) -> str:
    return EVALUATIONS[evaluation] + ("" if horizon is None else f", {horizon:g} {unit}")


def _read_risks(oof: list[str], predictions: list[str], horizons: list[float | None]) -> pd.DataFrame:
    """Predicted risks (model, evaluation, horizon, risk): out of fold, and of the frozen models."""
    frames = []
    for evaluation, paths in {"cross-validated": oof, "external": predictions}.items():
        for path in paths:
            table = read_table(path, ["patient", "center"])
            model = Path(path).parent.name if evaluation == "cross-validated" else Path(path).stem
            if evaluation == "external":
                table = table[table["harmonization"] == "none"]
            for horizon in horizons:
                column = "risk" if horizon is None else _risk_column(table, horizon, path)
                labels = {
                    "model": model,
                    "evaluation": evaluation,
                    "horizon": np.nan if horizon is None else horizon,
                }
                frames.append(pd.DataFrame({"risk": table[column].astype(float)}).assign(**labels))
    return pd.concat(frames, ignore_index=True)


def _risk_column(table: pd.DataFrame, horizon: float, path: str) -> str:
    offered = [name for name in table.columns if name.startswith("risk@")]
    for name in offered:
        if np.isclose(float(name.removeprefix("risk@")), horizon):
            return name
    raise StudyError(f"{path}: no column risk@{horizon:g}; found {', '.join(offered) or 'no risk@ column'}")


def _draw_discrimination(
    endpoint: str, kind: str, metrics: pd.DataFrame, external: list[str], known: dict[str, Look], folder: str
) -> None:
    shown = DISCRIMINATION[kind]
    sets = evaluated_sets(metrics[metrics["metric"].isin(shown)], external)
    made = figure(TWO_COLUMNS, (16 + 3.6 * len(sets) * (len(known) + 1.6)) * MM)
    panels = made.subplots(1, len(shown), squeeze=False)[0]
    for place, (ax, (metric, title)) in enumerate(zip(panels, shown.items(), strict=True)):
        rows = metrics[metrics["metric"] == metric]
        performance.forest(ax, rows, sets, known, title, named=place == 0)
    save(made, folder, f"{endpoint}_discrimination")


def _draw_horizon_auc(endpoint: str, metrics: pd.DataFrame, unit: str, known: dict[str, Look], folder: str) -> None:
    rows = metrics[metrics["metric"] == "auc_t"]
    made = figure(TWO_COLUMNS, 72 * MM)
    for ax, evaluation in zip(made.subplots(1, 2, sharey=True), EVALUATIONS, strict=True):
        performance.horizon_auc(ax, pooled(rows, evaluation), known, unit, EVALUATIONS[evaluation])
    legend(made, known.values(), markers=True)
    save(made, folder, f"{endpoint}_time_dependent_auc")


def _draw_roc(endpoint: str, points: pd.DataFrame, metrics: pd.DataFrame, known: dict[str, Look], folder: str) -> None:
    rows = metrics[metrics["metric"] == "auc"]
    made = figure(TWO_COLUMNS, 92 * MM)
    for ax, (evaluation, title) in zip(made.subplots(1, 2), EVALUATIONS.items(), strict=True):
        of = pooled(points, evaluation)
        if of.empty:
            note(ax, f"{title}\n{NOTHING}")
        else:
            performance.roc_curve(ax, of, pooled(rows, evaluation), known, title)
    save(made, folder, f"{endpoint}_roc")


def _draw_calibration(
    endpoint: str,
    curve: pd.DataFrame,
    groups: pd.DataFrame,
    risks: pd.DataFrame,
    metrics: pd.DataFrame,
    horizons: list[float | None],
    unit: str,
    known: dict[str, Look],
    folder: str,
) -> None:
    """The overview of all models, and one figure per model with groups and the numbers."""
    for name in [None, *known]:
        chosen = known if name is None else {name: known[name]}
        made = figure(TWO_COLUMNS, (14 + 82 * len(horizons)) * MM)
        axes = made.subplots(len(horizons), 2, squeeze=False)
        for row, horizon in zip(axes, horizons, strict=True):
            for ax, evaluation in zip(row, EVALUATIONS, strict=True):
                predicted = at(risks[risks["evaluation"] == evaluation], horizon)
                line, points = (at(pooled(table, evaluation), horizon) for table in (curve, groups))
                line, points = line[line["model"].isin(chosen)], points[points["model"].isin(chosen)]
                title = _panel_title(evaluation, horizon, unit)
                performance.calibration(ax, line, points, predicted, chosen, title)
                if ax.axison:
                    rows = at(pooled(metrics, evaluation), horizon)
                    rows = rows[rows["model"].isin(chosen)]
                    lines = [counts(rows)] if name is None else performance.calibration_summary(rows)
                    titled(ax, title, *lines)
        ideal = [Line2D([], [], color="black", linestyle=":", linewidth=0.7, label="ideal")]
        legend(made, chosen.values(), extra=ideal)
        save(made, folder, f"{endpoint}_calibration" + ("" if name is None else f"_{name}"))


def _draw_decision(
    endpoint: str,
    benefit: pd.DataFrame,
    metrics: pd.DataFrame,
    horizons: list[float | None],
    unit: str,
    known: dict[str, Look],
    folder: str,
) -> None:
    made = figure(TWO_COLUMNS, (14 + 62 * len(horizons)) * MM)
    axes = made.subplots(len(horizons), 2, squeeze=False)
    for row, horizon in zip(axes, horizons, strict=True):
        for ax, evaluation in zip(row, EVALUATIONS, strict=True):
            title = _panel_title(evaluation, horizon, unit)
            performance.decision_curve(ax, at(pooled(benefit, evaluation), horizon), known, title)
            if ax.axison:
                titled(ax, title, counts(_estimated(at(pooled(metrics, evaluation), horizon))))
    references = [
        Line2D([], [], color=GRAY, label="treat all"),
        Line2D([], [], color="black", label="treat none"),
    ]
    legend(made, known.values(), extra=references)
    save(made, folder, f"{endpoint}_decision")


def _estimated(rows: pd.DataFrame) -> pd.DataFrame:
    """Metric rows without those that were refused, whose counts may be of all follow-up."""
    return rows[rows["estimate"].notna()]


def _draw_kaplan_meier(
    endpoint: str,
    definition: dict[str, Any],
    curves: pd.DataFrame,
    metrics: pd.DataFrame,
    known: dict[str, Look],
    folder: str,
) -> None:
    label = f"Time ({definition['unit']})"
    for name in known:
        made = figure(TWO_COLUMNS, 84 * MM)
        axes = made.subplots(2, 2, sharex="col", height_ratios=[5, 1.1])
        for (top, bottom), evaluation in zip(axes.T, EVALUATIONS, strict=True):
            of = pooled(curves[curves["model"] == name], evaluation)
            if of.empty:
                note(top, f"{EVALUATIONS[evaluation]}\n{NOTHING}")
                bottom.set_axis_off()
                continue
            ticks = models.time_ticks(of["time"].astype(float).max(), definition["unit"])
            models.kaplan_meier(top, of, ticks)
            models.numbers_at_risk(bottom, of, ticks, label)
            rows = pooled(metrics[metrics["model"] == name], evaluation)
            test = rows.loc[rows["metric"] == "logrank_p", "estimate"].dropna()
            lines = [counts(rows[rows["metric"] == "harrell_c"])]
            lines += [f"log-rank {p_value(float(value))}" for value in test]
            titled(top, f"{EVALUATIONS[evaluation]}: {known[name].label} model", "; ".join(lines))
        seen = [group for group in GROUP_COLORS if (curves.loc[curves["model"] == name, "group"] == group).any()]
        legend(
            made,
            [Look(f"{group} predicted risk", GROUP_COLORS[group], "", GROUP_LINES[group]) for group in seen],
        )
        save(made, folder, f"{endpoint}_kaplan_meier_{name}")


def _draw_confusion(endpoint: str, cells: pd.DataFrame, levels: list[str], known: dict[str, Look], folder: str) -> None:
    columns = min(len(known), 5)
    rows_each = -(-len(known) // columns)
    made = figure(TWO_COLUMNS, 2 * (12 + rows_each * (6 + 165 / columns)) * MM)
    parts: Any = made.subfigures(2, 1)
    for part, (evaluation, title) in zip(parts, EVALUATIONS.items(), strict=True):
        part.suptitle(title, fontsize=7.5, fontweight="bold", x=0.02, ha="left")
        axes = part.subplots(rows_each, columns, squeeze=False).ravel()
        for ax in axes[len(known) :]:
            ax.set_axis_off()
        for ax, (name, look) in zip(axes, known.items(), strict=False):
            of = pooled(cells, evaluation)
            performance.confusion_matrix(ax, of[of["model"] == name], levels, look.label)
        part.supxlabel("Predicted class", fontsize=7)
        part.supylabel("Observed class", fontsize=7)
    save(made, folder, f"{endpoint}_confusion")


def _draw_coefficients(endpoint: str, paths: list[str], known: dict[str, Look], folder: str) -> None:
    tables = {Path(path).parent.name: read_table(path, ["feature", "level", "kind", "coefficient"]) for path in paths}
    shown = {
        name: table for name in known if len(table := tables.get(name, pd.DataFrame())) and len(models.largest(table))
    }
    name = f"{endpoint}_coefficients"
    if not shown:
        made = figure(ONE_COLUMN, 30 * MM)
        note(made.subplots(), "No model of this endpoint\nhas coefficients other than zero")
        return save(made, folder, name)
    heights = [len(models.largest(table)) + 3 for table in shown.values()]
    made = figure(TWO_COLUMNS, (6 + 3.7 * sum(heights)) * MM)
    axes = made.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (model, table) in zip(axes, shown.items(), strict=True):
        models.coefficients(ax, table, known[model])
    save(made, folder, name)
