"""Everything that is said about one evaluated set of patients, by the type of the endpoint.

Each function fills a Sheet. Metrics that a set is too small for are refused with the numbers that were found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import roc_curve
from statsmodels.stats.proportion import proportion_confint

from hccstudy.metrics import calibration, discrimination, net_benefit, overall, survival
from hccstudy.metrics.net_benefit import Decisions
from hccstudy.metrics.resampling import Floats, percentile_interval
from hccstudy.metrics.sheet import Horizon, Sheet

GRID = 50  # points of a smooth calibration curve
SMOOTHER = "restricted cubic spline, 3 knots"

CALIBRATED = ["brier", "brier_null", "ipa", "oe", "ici", "e50", "e90"]
BINARY = ["auc", *CALIBRATED, "citl", "slope"]
SURVIVAL = ["harrell_c", "uno_c", "slope"]
AT_HORIZON = ["auc_t", *CALIBRATED]
MULTICLASS = ["macro_auc", "hand_till", "accuracy", "kappa", "brier", "brier_null", "ipa"]


@dataclass(frozen=True)
class Limits:
    """What is asked of a set: risk thresholds of the decision curve, calibration groups, the fewest events
    (and patients free of the event) for which a number is given, the unit of time that reasons are told in, and the
    smoother of calibration curves of survival ("cox" or "pseudo"; competing risks are always "pseudo").
    `curves`: False leaves out curves, groups and decisions, of which nothing is compared between models.
    """

    thresholds: Floats
    groups: int
    minimum_events: int
    unit: str = ""
    smoother: str = "cox"
    curves: bool = True


@dataclass(frozen=True)
class Scored:
    """Outcomes of n patients and what one model said of them.

    event (n,): 0, 1, or 2 for a competing event; time (n,) for survival. score (n,): what ranks, None: the risk does.
    risks: predicted probability of the event (n,) by horizon; the horizon of a binary outcome is None. horizons: what
    is asked of survival. curves: times (k,) and predicted survival then (n, k). Multiclass: level (n,) is the column
    of probability (n, c), whose columns are `levels`.
    """

    event: Floats
    time: Floats | None = None
    score: Floats | None = None
    risks: dict[Horizon, Floats] = field(default_factory=dict)
    horizons: tuple[float, ...] = ()
    curves: tuple[Floats, Floats] | None = None
    level: np.ndarray | None = None
    probability: Floats | None = None
    levels: tuple[str, ...] = ()


def refuse_all(sheet: Sheet, kind: str, events: Mapping[float, int], reason: str) -> None:
    """Refuse every metric of a type of endpoint ("survival", "binary", "multiclass") for one reason.

    `events`: horizon -> events by then, of survival."""
    sheet.refuse({"survival": SURVIVAL, "binary": BINARY, "multiclass": MULTICLASS}[kind], reason)
    for horizon, count in events.items():
        sheet.refuse(AT_HORIZON, reason, horizon=horizon, events=count)


def evaluate_binary(sheet: Sheet, data: Scored, limits: Limits) -> None:
    event, counts = data.event, sheet.counts
    risk = data.risks.get(None)
    score = risk if data.score is None else data.score
    assert score is not None
    events, least = int(event.sum()), limits.minimum_events
    if min(events, sheet.n - events) < least:
        found = f"{events} events in {sheet.n} patients"
        reason = f"{found}; at least {least} with and {least} without the event are needed"
        refuse_all(sheet, "binary", {}, reason)
        return
    _, *interval = discrimination.delong(event, score)
    area = discrimination.auc(event, score, counts)
    name = "DeLong" if np.isfinite(interval[0]) else "no interval (complete separation, or scores that do not vary)"
    sheet.add("auc", area, "ROC", analytic=((interval[0], interval[1]), name))
    if limits.curves:
        fpr, tpr, cuts = roc_curve(event, score, drop_intermediate=False)
        points = zip(cuts, fpr, tpr, strict=True)
        sheet.write("roc", [{"threshold": t, "fpr": f, "tpr": s} for t, f, s in points])
    if risk is None:
        sheet.refuse(BINARY[1:], "the model gives a score, no risk")
        return
    _add_brier(sheet, *overall.brier(event, risk, counts), "null: prevalence of this set")
    zero = "the sum of the risks is 0"
    sheet.add("oe", calibration.observed_expected(event, risk, counts), "events / sum of risks", undefined=zero)
    note = _clipped(risk)
    level, bounds = calibration.in_the_large(event, risk, counts)
    sheet.add("citl", level, f"logistic intercept, log odds as offset{note}", analytic=(bounds, "Wald"))
    steepness, bounds = calibration.slope(event, risk, counts)
    sheet.add("slope", steepness, f"unpenalized logistic on log odds{note}", analytic=(bounds, "Wald"))
    if not limits.curves:
        return
    grid = _grid(risk)
    curves = calibration.smooth_curve(event, risk, grid, counts)
    _add_curve(sheet, *curves, risk, grid, f"logistic, {SMOOTHER} of log odds{note}")
    groups = calibration.calibration_groups(event, risk, limits.groups)
    sheet.write("calibration_groups", groups.to_dict("records"), horizon=None)
    decisions = net_benefit.decide(event, risk, limits.thresholds, counts)
    everyone = net_benefit.decide(event, np.ones(sheet.n), limits.thresholds, counts)
    _add_decisions(sheet, decisions, everyone, limits, "counts")


def evaluate_survival(sheet: Sheet, data: Scored, limits: Limits) -> None:
    counts, least, time, event = sheet.counts, limits.minimum_events, data.time, data.event
    assert time is not None
    competing = bool((event == 2).any())
    events = int((event == 1).sum())
    by = {horizon: int(((event == 1) & (time <= horizon)).sum()) for horizon in data.horizons}
    sheet.add(
        "median_follow_up",
        survival.median_follow_up(time, event, counts),
        "reverse Kaplan-Meier",
        undefined="fewer than half of the patients were censored by the end of follow-up",
    )
    if events < least:
        reason = f"{events} events in {sheet.n} patients; at least {least} are needed"
        refuse_all(sheet, "survival", by, reason)
        return
    if data.score is None:
        _add_concordance(sheet, time, event, data.risks[max(data.horizons)], f"risk at {max(data.horizons):g}")
    else:
        _add_concordance(sheet, time, event, data.score, "")
    if data.score is not None and not competing:
        steepness, bounds = calibration.slope_t(time, event, data.score, _needed(sheet))
        sheet.add("slope", steepness, "Cox (Efron) on the linear predictor", analytic=(bounds, "Wald"))
    for horizon in data.horizons:
        reason = _too_short(time, event, horizon, limits)
        risk = data.risks.get(horizon)
        score = risk if data.score is None else data.score
        if score is None:
            continue
        if reason:
            sheet.refuse(AT_HORIZON, reason, horizon=horizon, events=by[horizon])
            continue
        _, controls, ends_there = survival.known_status(time, event, horizon)
        weights = f"{controls.sum()} known to be free of the event, IPCW of this set"
        if ends_there:
            weights += " just before the horizon, where follow-up ends"
        area = discrimination.auc_t(time, event, score, horizon, counts)
        method = f"cumulative cases, dynamic controls, {weights}"
        sheet.add("auc_t", area, method, horizon=horizon, events=by[horizon])
        if risk is None:
            sheet.refuse(CALIBRATED, "the model gives a score, no risk", horizon=horizon, events=by[horizon])
            continue
        if data.score is None and not competing:
            steepness, bounds = calibration.slope_t(time, event, calibration.cloglog(risk), _needed(sheet))
            method = f"Cox (Efron) on cloglog of the risk{_clipped(risk)}"
            sheet.add("slope", steepness, method, horizon=horizon, events=by[horizon], analytic=(bounds, "Wald"))
        _evaluate_horizon(sheet, time, event, risk, horizon, by[horizon], weights, limits)
    if data.curves is not None:
        _add_integrated_brier(sheet, time, event, *data.curves)


def _needed(sheet: Sheet) -> Floats:
    """The resamples that an estimate with an analytic interval needs: none where rows are independent."""
    return sheet.counts if sheet.repeated else sheet.counts[:1]


def _add_concordance(sheet: Sheet, time: Floats, event: Floats, score: Floats, by: str) -> None:
    harrell, uno = discrimination.concordance(time, event, score, sheet.counts)
    none, tied = "no pair of patients can be compared", "tied predictions count 1/2, all of the follow-up"
    if (event == 2).any():
        tied += ", who had a competing event stays at risk (Wolbers)"
    weights = "weights 1/G(T-)^2 of this set, all of its follow-up"
    for metric, values, method in (("harrell_c", harrell, tied), ("uno_c", uno, weights)):
        sheet.add(metric, values, f"{method}, by the {by}" if by else method, undefined=none)


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
    sheet: Sheet, time: Floats, event: Floats, risk: Floats, horizon: float, events: int, weights: str, limits: Limits
) -> None:
    """All that needs a predicted probability of the event by the horizon."""
    counts = sheet.counts
    observed = "Aalen-Johansen" if (event == 2).any() else "Kaplan-Meier"
    scores = overall.brier_t(time, event, risk, horizon, counts)
    _add_brier(sheet, *scores, f"{weights}, null: {observed} of this set", horizon, events)
    ratio = calibration.observed_expected_t(time, event, risk, horizon, counts)
    low, high = calibration.poisson_interval(ratio[0], events)
    method = f"{observed} / mean risk (interval by 1/sqrt(events): {low:.3f} to {high:.3f})"
    sheet.add("oe", ratio, method, horizon=horizon, events=events, undefined="the sum of the risks is 0")
    pseudo = np.empty(0)
    if observed == "Aalen-Johansen" or limits.smoother == "pseudo":
        pseudo = survival.pseudo_values(time, event, horizon)
    if observed == "Aalen-Johansen":
        steepness = calibration.slope_pseudo(pseudo, risk, counts)
        by = f"pseudo-observations on cloglog of the risk{_clipped(risk)}"
        sheet.add("slope", steepness, by, horizon=horizon, events=events)
    if not limits.curves:
        return
    grid = _grid(risk)
    if len(pseudo):
        curves = calibration.smooth_curve_pseudo(pseudo, risk, grid, counts)
        method = f"pseudo-observations, {SMOOTHER} of cloglog risk{_clipped(risk)}"
    else:
        curves = calibration.smooth_curve_t(time, event, risk, grid, horizon, counts)
        method = f"Cox (Efron), {SMOOTHER} of cloglog risk{_clipped(risk)}"
    _add_curve(sheet, *curves, risk, grid, method, horizon, events)
    groups = calibration.calibration_groups(event, risk, limits.groups, time=time, horizon=horizon)
    sheet.write("calibration_groups", groups.to_dict("records"), horizon=horizon)
    decisions = net_benefit.decide_t(time, event, risk, horizon, limits.thresholds, counts)
    everyone = net_benefit.decide_t(time, event, np.ones(sheet.n), horizon, limits.thresholds, counts)
    _add_decisions(sheet, decisions, everyone, limits, observed, horizon, events)


def _add_integrated_brier(sheet: Sheet, time: Floats, event: Floats, times: Floats, survival_then: Floats) -> None:
    if (event == 2).any():
        sheet.refuse(["ibs"], "survival curves are no risks of the event where events compete")
        return
    if times[-1] > time.max():
        sheet.refuse(["ibs"], f"curves go to {times[-1]:g}, follow-up ends at {time.max():g}")
        return
    scores = [overall.brier_t(time, event, 1 - survival_then[:, k], t, sheet.counts)[0] for k, t in enumerate(times)]
    values = np.trapezoid(np.stack(scores, axis=1), times, axis=1) / (times[-1] - times[0])
    method = f"Brier score by trapezoids over {len(times)} times from {times[0]:g} to {times[-1]:g}, IPCW of this set"
    sheet.add("ibs", values, method)


def add_risk_groups(sheet: Sheet, data: Scored, group: np.ndarray, *, external: bool) -> None:
    """Kaplan-Meier curves by risk group, and the log-rank test where the patients are new to the model.

    Groups of cross-validated predictions depend on each other through the shared training patients: the
    log-rank test rejects too often there (Simon et al. 2011).
    """
    time, event = data.time, data.event
    assert time is not None
    names = np.unique(group)
    for name in names:
        steps = survival.kaplan_meier(time[group == name], event[group == name])
        sheet.write("kaplan_meier", steps.to_dict("records"), group=name)
    if not external:
        sheet.refuse(["logrank_p"], "cross-validated groups are not independent; the test needs external patients")
    elif len(names) < 2:
        sheet.refuse(["logrank_p"], f"all patients are in one risk group ({', '.join(map(str, names))})")
    elif not (event == 1).any():
        sheet.refuse(["logrank_p"], "no patient has the event")
    else:
        statistic, p = survival.logrank(time, event, group)
        method = f"log-rank, chi-square {statistic:.4g}, {len(names) - 1} degrees of freedom; p value, no interval"
        if (event == 2).any():
            method = f"cause-specific {method}"
        row = {"metric": "logrank_p", "horizon": None, "threshold": None, "estimate": p}
        sheet.write("metrics", [row], n=sheet.n, events=sheet.events, method=method)


def evaluate_multiclass(sheet: Sheet, data: Scored, limits: Limits) -> None:
    level, probability, levels = data.level, data.probability, data.levels
    assert level is not None and probability is not None
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
    for metric, values in (("brier", score), ("brier_null", null), ("ipa", overall.scaled(score, null))):
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
    method += " (a distance is never negative: the interval of a small one starts above it)"
    for metric, values in calibration.curve_errors(smoothed, risk, sheet.counts).items():
        sheet.add(metric, values, method, horizon=horizon, events=events, undefined=undefined)
    if np.isfinite(curve[0]).all():
        points = zip(grid, curve[0], *percentile_interval(curve[1:]), strict=True)
        rows = [{"predicted": p, "observed": o, "lower": low, "upper": high} for p, o, low, high in points]
        sheet.write("calibration_curve", rows, horizon=horizon)


def _add_decisions(
    sheet: Sheet,
    decisions: Decisions,
    everyone: Decisions,
    limits: Limits,
    observed: str,
    horizon: Horizon = None,
    events: int | None = None,
) -> None:
    """Every threshold as a metric with its interval, and the decision curve with its band."""
    benefit, treat_all = (of.net_benefit(limits.thresholds) for of in (decisions, everyone))
    estimates = {"net_benefit": benefit, "net_benefit_all": treat_all} | decisions.ratios()
    bounds = {name: np.transpose(percentile_interval(values[1:])) for name, values in estimates.items()}
    wilson = {} if horizon is not None or sheet.repeated else _wilson(decisions, sheet.n)
    methods = {
        "net_benefit": f"true - weighted false positives, {observed}",
        "net_benefit_all": f"treat all, {observed}",
    }
    unfollowed = "nobody above (or below) the threshold is followed to the horizon"
    reasons = {"net_benefit": unfollowed, "net_benefit_all": unfollowed}
    for name in decisions.pairs():
        side = "above" if name in ("ppv", "sensitivity") else "below"
        reasons[name] = f"nobody is {side} the threshold, or nobody there is followed to the horizon"
    for place, threshold in enumerate(limits.thresholds):
        for name, values in estimates.items():
            sheet.add(
                name,
                values[:, place],
                methods.get(name, observed),
                horizon=horizon,
                threshold=threshold,
                events=events,
                analytic=((wilson[name][0][place], wilson[name][1][place]), "Wilson") if name in wilson else None,
                percentiles=(bounds[name][place, 0], bounds[name][place, 1]),
                undefined=reasons[name],
            )
    curve = zip(limits.thresholds, benefit[0], *bounds["net_benefit"].T, treat_all[0], strict=True)
    rows = [
        {"threshold": t, "net_benefit": of, "lower": low, "upper": high, "net_benefit_all": all_}
        for t, of, low, high, all_ in curve
    ]
    sheet.write("net_benefit", rows, horizon=horizon, net_benefit_none=0.0)


def _wilson(decisions: Decisions, n: int) -> dict[str, tuple[Floats, Floats]]:
    counted = Decisions(*(np.rint(part[0] * n) for part in decisions)).pairs()
    return {
        name: proportion_confint(of, np.maximum(of + others, 1), method="wilson")
        for name, (of, others) in counted.items()
    }


def _grid(risk: Floats) -> Floats:
    first, last = np.quantile(risk, [0.01, 0.99])
    return np.linspace(first, last, GRID)


def _clipped(risk: Floats) -> str:
    extreme = int(((risk < calibration.CLIP) | (risk > 1 - calibration.CLIP)).sum())
    return f" ({extreme} risks of 0 or 1 clipped to {calibration.CLIP:g})" if extreme else ""
