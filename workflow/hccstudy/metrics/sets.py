"""Everything that is said about one evaluated set of patients, by the type of the endpoint.

Each function fills a Sheet. Metrics that a set is too small for are refused with the numbers that were found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from hccstudy.metrics import calibration, discrimination, net_benefit, overall, survival
from hccstudy.metrics.resampling import Floats, percentile_interval
from hccstudy.metrics.sheet import Horizon, Sheet

GRID = 50  # points of a smooth calibration curve
SMOOTHER = "restricted cubic spline, 3 knots"

BINARY = ["auc", "brier", "brier_null", "ipa", "oe", "citl", "slope", "ici", "e50", "e90"]
SURVIVAL = ["harrell_c", "uno_c", "slope"]
AT_HORIZON = ["auc_t", "brier", "brier_null", "ipa", "oe", "ici", "e50", "e90"]
MULTICLASS = ["macro_auc", "hand_till", "accuracy", "kappa", "brier", "brier_null", "ipa"]


@dataclass(frozen=True)
class Limits:
    """What is asked of a set: risk thresholds of the decision curve, calibration groups, the fewest events
    (and patients free of the event) for which a number is given, and the unit of time that reasons are told
    in.
    """

    thresholds: Floats
    groups: int
    minimum_events: int
    unit: str = ""


def refuse_all(sheet: Sheet, kind: str, horizons: Iterable[float], reason: str) -> None:
    """Refuse every metric of a type of endpoint ("survival", "binary", "multiclass") for one reason."""
    sheet.refuse({"survival": SURVIVAL, "binary": BINARY, "multiclass": MULTICLASS}[kind], reason)
    for horizon in horizons if kind == "survival" else []:
        sheet.refuse(AT_HORIZON, reason, horizon=horizon)


def evaluate_binary(sheet: Sheet, event: Floats, risk: Floats, limits: Limits) -> None:
    """event (n,) 0/1, risk (n,) in [0, 1]."""
    events, least = int(event.sum()), limits.minimum_events
    if min(events, sheet.n - events) < least:
        found = f"{events} events in {sheet.n} patients"
        reason = f"{found}; at least {least} with and {least} without the event are needed"
        refuse_all(sheet, "binary", [], reason)
        return
    counts = sheet.counts
    _, *interval = discrimination.delong(event, risk)
    area = discrimination.auc(event, risk, counts)
    name = "DeLong" if np.isfinite(interval[0]) else "no interval (complete separation)"
    sheet.add("auc", area, "ROC", analytic=((interval[0], interval[1]), name))
    _add_brier(sheet, *overall.brier(event, risk, counts), "null: prevalence of this set")
    ratio, bounds = calibration.observed_expected(event, risk, counts)
    sheet.add("oe", ratio, "events / sum of risks", analytic=(bounds, "log scale, (1 - prevalence) / events"))
    note = _clipped(risk)
    level, bounds = calibration.in_the_large(event, risk, counts)
    sheet.add("citl", level, f"logistic intercept, log odds as offset{note}", analytic=(bounds, "Wald"))
    steepness, bounds = calibration.slope(event, risk, counts)
    sheet.add("slope", steepness, f"unpenalized logistic on log odds{note}", analytic=(bounds, "Wald"))
    grid = _grid(risk)
    curves = calibration.smooth_curve(event, risk, grid, counts)
    _add_curve(sheet, *curves, risk, grid, f"logistic, {SMOOTHER} of log odds{note}")
    groups = calibration.calibration_groups(event, risk, limits.groups)
    sheet.write("calibration_groups", groups.to_dict("records"), horizon=None)
    benefit = net_benefit.net_benefit(event, risk, limits.thresholds, counts)
    everyone = net_benefit.net_benefit(event, np.ones(sheet.n), limits.thresholds, counts[:1])
    _add_net_benefit(sheet, benefit, everyone, limits, "true - weighted false positives")
    fpr, tpr, thresholds = roc_curve(event, risk, drop_intermediate=False)
    points = zip(thresholds, fpr, tpr, strict=True)
    sheet.write("roc", [{"threshold": t, "fpr": f, "tpr": s} for t, f, s in points])


def evaluate_survival(
    sheet: Sheet, time: Floats, event: Floats, lp: Floats, risks: dict[float, Floats], limits: Limits
) -> None:
    """time, event (0/1), lp (n,); risks: horizon -> predicted probability of the event by then."""
    counts, least = sheet.counts, limits.minimum_events
    events = int(event.sum())
    sheet.add(
        "median_follow_up",
        survival.median_follow_up(time, event, counts),
        "reverse Kaplan-Meier",
        undefined="fewer than half of the patients were censored by the end of follow-up",
    )
    if events < least:
        reason = f"{events} events in {sheet.n} patients; at least {least} are needed"
        refuse_all(sheet, "survival", risks, reason)
        return
    harrell, uno = discrimination.concordance(time, event, lp, counts)
    none = "no pair of patients can be compared"
    sheet.add("harrell_c", harrell, "tied predictions count 1/2", undefined=none)
    sheet.add("uno_c", uno, "weights 1/G(T-)^2 of this set, all of its follow-up", undefined=none)
    steepness, bounds = calibration.slope_t(time, event, lp, counts[:1] if not sheet.repeated else counts)
    sheet.add("slope", steepness, "Cox (Efron) on the linear predictor", analytic=(bounds, "Wald"))
    for horizon, risk in risks.items():
        reason = _too_short(time, event, horizon, limits)
        if reason:
            sheet.refuse(AT_HORIZON, reason, horizon=horizon)
        else:
            _evaluate_horizon(sheet, time, event, lp, risk, horizon, limits)


def _too_short(time: Floats, event: Floats, horizon: float, limits: Limits) -> str:
    """Why nothing can be said at a horizon, or ""."""
    if time.max() < horizon:
        unit = f" {limits.unit}" if limits.unit else ""
        return f"follow-up ends at {time.max():g}{unit}, before the horizon of {horizon:g}{unit}"
    cases, controls, _ = survival.known_status(time, event, horizon)
    least = limits.minimum_events
    if min(cases.sum(), controls.sum()) < least:
        found = f"{cases.sum()} patients have the event by the horizon, {controls.sum()} are followed beyond it"
        return f"{found}; at least {least} of each are needed"
    return ""


def _evaluate_horizon(
    sheet: Sheet, time: Floats, event: Floats, lp: Floats, risk: Floats, horizon: float, limits: Limits
) -> None:
    counts = sheet.counts
    cases, _, ends_there = survival.known_status(time, event, horizon)
    events = int(cases.sum())
    weights = "IPCW of this set"
    if ends_there:
        weights += " just before the horizon, where follow-up ends"
    area = discrimination.auc_t(time, event, lp, horizon, counts)
    sheet.add("auc_t", area, f"cumulative cases, dynamic controls, {weights}", horizon=horizon, events=events)
    scores = overall.brier_t(time, event, risk, horizon, counts)
    _add_brier(sheet, *scores, f"{weights}, null: Kaplan-Meier of this set", horizon, events)
    ratio, bounds = calibration.observed_expected_t(time, event, risk, horizon, counts)
    interval = (bounds, "log scale, 1 / sqrt(events)")
    sheet.add("oe", ratio, "1 - Kaplan-Meier / mean risk", horizon=horizon, events=events, analytic=interval)
    grid = _grid(risk)
    curves = calibration.smooth_curve_t(time, event, risk, grid, horizon, counts)
    method = f"Cox (Efron), {SMOOTHER} of cloglog risk{_clipped(risk)}"
    _add_curve(sheet, *curves, risk, grid, method, horizon, events)
    groups = calibration.calibration_groups(event, risk, limits.groups, time=time, horizon=horizon)
    sheet.write("calibration_groups", groups.to_dict("records"), horizon=horizon)
    benefit = net_benefit.net_benefit_t(time, event, risk, horizon, limits.thresholds, counts)
    everyone = net_benefit.net_benefit_t(time, event, np.ones(sheet.n), horizon, limits.thresholds, counts[:1])
    _add_net_benefit(sheet, benefit, everyone, limits, "Kaplan-Meier among the treated", horizon, events)


def add_risk_groups(sheet: Sheet, time: Floats, event: Floats, group: np.ndarray, *, external: bool) -> None:
    """Kaplan-Meier curves by risk group, and the log-rank test where the patients are new to the model.

    Groups of cross-validated predictions depend on each other through the shared training patients: the
    log-rank test rejects too often there (Simon et al. 2011).
    """
    names = np.unique(group)
    for name in names:
        steps = survival.kaplan_meier(time[group == name], event[group == name])
        sheet.write("kaplan_meier", steps.to_dict("records"), group=name)
    if not external:
        sheet.refuse(["logrank_p"], "cross-validated groups are not independent; the test needs external patients")
    elif len(names) < 2:
        sheet.refuse(["logrank_p"], f"all patients are in one risk group ({', '.join(map(str, names))})")
    elif not event.any():
        sheet.refuse(["logrank_p"], "no patient has the event")
    else:
        statistic, p = survival.logrank(time, event, group)
        method = f"log-rank, chi-square {statistic:.4g}, {len(names) - 1} degrees of freedom; p value, no interval"
        row = {"metric": "logrank_p", "horizon": None, "threshold": None, "estimate": p}
        sheet.write("metrics", [row], n=sheet.n, events=sheet.events, method=method)


def evaluate_multiclass(
    sheet: Sheet, level: np.ndarray, probability: Floats, levels: list[str], limits: Limits
) -> None:
    """level (n,) = column of probability (n, k), whose columns are `levels`."""
    counts, least = sheet.counts, limits.minimum_events
    found = np.bincount(level, minlength=len(levels))
    predicted = probability.argmax(axis=1)
    rare = [f"{name} ({number})" for name, number in zip(levels, found, strict=True) if number < least]
    if rare:
        reason = f"too few patients with level {', '.join(rare)}; at least {least} of each are needed"
        sheet.refuse(MULTICLASS[:2], reason)
    else:
        area = discrimination.macro_auc(level, probability, counts)
        sheet.add("macro_auc", area, "mean of one level against the rest")
        sheet.add("hand_till", discrimination.hand_till(level, probability, counts), "mean over pairs of levels")
    if (found > 0).sum() < 2:
        sheet.refuse(MULTICLASS[2:], "all patients have the same level")
        return
    accuracy, kappa = overall.agreement(level, predicted, len(levels), counts)
    sheet.add("accuracy", accuracy, "most probable level")
    sheet.add("kappa", kappa, "Cohen, unweighted, most probable level", undefined="agreement by chance is complete")
    _add_brier(sheet, *overall.brier_classes(level, probability, counts), "null: shares of this set")
    table = np.zeros((len(levels), len(levels)), dtype=int)
    np.add.at(table, (level, predicted), 1)
    names = [(o, p) for o in range(len(levels)) for p in range(len(levels))]
    sheet.write("confusion", [{"observed": levels[o], "predicted": levels[p], "n": table[o, p]} for o, p in names])


def _add_brier(
    sheet: Sheet, score: Floats, null: Floats, method: str, horizon: Horizon = None, events: int | None = None
) -> None:
    scaled = 1 - np.divide(score, null, out=np.full(len(null), np.nan), where=null > 0)
    for metric, values in (("brier", score), ("brier_null", null), ("ipa", scaled)):
        sheet.add(metric, values, method, horizon=horizon, events=events)


def _add_curve(
    sheet: Sheet,
    smoothed: Floats,
    curve: Floats,
    risk: Floats,
    grid: Floats,
    method: str,
    horizon: Horizon = None,
    events: int | None = None,
) -> None:
    undefined = "no smooth curve (predictions take too few values or separate the outcome completely)"
    for metric, values in calibration.curve_errors(smoothed, risk, sheet.counts).items():
        sheet.add(metric, values, method, horizon=horizon, events=events, undefined=undefined)
    if np.isfinite(curve[0]).all():
        points = zip(grid, curve[0], *percentile_interval(curve[1:]), strict=True)
        rows = [{"predicted": p, "observed": o, "lower": low, "upper": high} for p, o, low, high in points]
        sheet.write("calibration_curve", rows, horizon=horizon)


def _add_net_benefit(
    sheet: Sheet,
    benefit: Floats,
    everyone: Floats,
    limits: Limits,
    method: str,
    horizon: Horizon = None,
    events: int | None = None,
) -> None:
    """Every threshold as a metric with its interval, and the decision curve without intervals."""
    for place, threshold in enumerate(limits.thresholds):
        sheet.add(
            "net_benefit",
            benefit[:, place],
            method,
            horizon=horizon,
            threshold=threshold,
            events=events,
            undefined="nobody above the threshold is followed to the horizon",
        )
    curves = zip(limits.thresholds, benefit[0], everyone[0], strict=True)
    rows = [{"threshold": t, "model_net_benefit": model, "treat_all": all_} for t, model, all_ in curves]
    sheet.write("net_benefit", rows, horizon=horizon, treat_none=0.0)


def _grid(risk: Floats) -> Floats:
    first, last = np.quantile(risk, [0.01, 0.99])
    return np.linspace(first, last, GRID)


def _clipped(risk: Floats) -> str:
    extreme = int(((risk < calibration.CLIP) | (risk > 1 - calibration.CLIP)).sum())
    return f" ({extreme} risks of 0 or 1 clipped to {calibration.CLIP:g})" if extreme else ""
