"""How two models differ on the same patients. Differences are of the first model minus the second.

DeLong's test for the AUC; the bootstrap of patients, both models in the same resamples, for every other measure; what
one model adds to the other by a likelihood-ratio test; net reclassification and integrated discrimination.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm

from hccstudy.metrics import calibration
from hccstudy.metrics.discrimination import placements
from hccstudy.metrics.regression import cox, logistic
from hccstudy.metrics.resampling import Floats, Z, once, percentile_interval
from hccstudy.metrics.sets import Scored
from hccstudy.metrics.sheet import Horizon, Sheet, describe_bootstrap
from hccstudy.metrics.survival import horizon_weights

COMPARISONS = ["model_a", "model_b", "metric", "horizon", "difference", "lower", "upper", "statistic", "p", "p_holm"]
COMPARISONS += ["n", "events", "method"]
RECLASSIFICATION = ["nri_events", "nri_nonevents", "idi"]

Row = dict[str, Any]


def delong_test(event: Floats, a: Floats, b: Floats) -> tuple[float, float, float, float, float]:
    """Difference of two correlated AUCs (a - b), its 95 % interval, z and p (DeLong et al. 1988; R: pROC::roc.test).

    event (n,) 0/1; a, b (n,) scores. z and p are NaN where the models rank alike.
    """
    wins, losses = zip(*(placements(event, score) for score in (a, b)), strict=True)
    difference = float(wins[0].mean() - wins[1].mean())
    variance = sum(np.var(parts[0] - parts[1], ddof=1) / len(parts[0]) for parts in (wins, losses))
    if variance <= 1e-20:
        return difference, np.nan, np.nan, np.nan, np.nan
    error = np.sqrt(variance)
    z = difference / error
    return difference, difference - Z * error, difference + Z * error, z, float(2 * norm.sf(abs(z)))


def reclassification(a: Floats, b: Floats, cases: Floats, controls: Floats) -> dict[str, Floats]:
    """Category-free net reclassification of events and of non-events (Pencina et al. 2011), and IDI (2008), of risk
    `a` over risk `b` (n,), with weights of cases and controls (resamples, n). R: Hmisc::improveProb.
    """
    moved = np.sign(a - b)
    shift = a - b

    def mean(values: Floats, weights: Floats) -> Floats:
        return np.asarray(weights @ values / weights.sum(axis=1))

    return {
        "nri_events": mean(moved, cases),
        "nri_nonevents": -mean(moved, controls),
        "idi": mean(shift, cases) - mean(shift, controls),
    }


def added_information(data: Scored, new: Floats, old: Floats) -> tuple[float, float]:
    """Likelihood-ratio chi-square (1 degree of freedom) of the nested models `old` and `old` + `new`, and p.

    new, old (n,): linear predictors of two models. Logistic regression, or Cox where there is a time; competing events
    are censorings there (cause-specific hazard). NaN where a fit does not exist.
    """
    both, one = np.column_stack([old, new]), old[:, None]
    counts = once(len(old))
    if data.time is None:
        fits = [logistic(data.event, columns, counts) for columns in (both, one)]
    else:
        fits = [cox(data.time, data.event, columns, counts) for columns in (both, one)]
    if not all(np.isfinite(fit.beta).all() for fit in fits):
        return np.nan, np.nan
    statistic = max(0.0, 2 * float(fits[0].log_likelihood[0] - fits[1].log_likelihood[0]))
    return statistic, float(chi2.sf(statistic, 1))


class Evaluated(NamedTuple):
    """One model on one set of patients: its name, its estimates, and what it said."""

    name: str
    sheet: Sheet
    data: Scored


def differences(a: Evaluated, b: Evaluated, reason: str = "") -> Iterator[Row]:
    """Measures of a minus those of b, as rows with the columns COMPARISONS without the models.

    `reason`: why they cannot be compared, here and below; then every row is refused with it.
    """
    (_, sheet, scored), (_, other, other_scored) = a, b
    for metric, horizon in dict.fromkeys([*sheet.drawn, *other.drawn]):
        ours, theirs = sheet.drawn.get((metric, horizon)), other.drawn.get((metric, horizon))
        row = {"metric": metric, "horizon": horizon, "n": sheet.n, "events": sheet.events}
        if reason or ours is None or theirs is None:
            yield row | {"method": f"refused: {reason or 'it is not estimated for both models'}"}
            continue
        row["events"] = ours.events
        draws = ours.values[1:] - theirs.values[1:]
        if metric == "auc" and not sheet.repeated:
            first, second = (of.score if of.score is not None else of.risks[None] for of in (scored, other_scored))
            difference, lower, upper, statistic, p = delong_test(scored.event, first, second)
            method = "DeLong, paired"
        else:
            difference = ours.values[0] - theirs.values[0]
            lower, upper = percentile_interval(draws)
            known = draws[np.isfinite(draws)]
            error = known.std(ddof=1) if len(known) > 1 else 0.0
            statistic = difference / error if error > 1e-12 else np.nan
            p = 2 * norm.sf(abs(statistic))
            method = f"paired {describe_bootstrap(draws)}; z with the bootstrap's standard error"
        if np.isfinite(p):
            row |= {"difference": difference, "lower": lower, "upper": upper, "statistic": statistic, "p": p}
        else:
            method = "refused: the two models do not differ in any resample, or there are too few"
        yield row | {"method": method}


def added(a: Evaluated, b: Evaluated, reason: str = "") -> Iterator[Row]:
    """What a adds to b at each horizon, or overall where models have a score."""
    (_, sheet, scored), (_, _, other) = a, b
    horizons: Sequence[Horizon] = [None] if scored.time is None or scored.score is not None else scored.horizons
    for horizon in horizons:
        row = {"metric": "added_information", "horizon": horizon, "n": sheet.n, "events": sheet.events}
        new, old = _predictor(scored, horizon), _predictor(other, horizon)
        if new is None or old is None:
            continue
        why = reason or ("several rows of one patient are not independent" if sheet.repeated else "")
        statistic, p = (np.nan, np.nan) if why else added_information(scored, new, old)
        if not np.isfinite(statistic):
            yield row | {"method": f"refused: {why or 'the fit does not exist (complete separation, no variation)'}"}
            continue
        fit = "logistic" if scored.time is None else "Cox (Efron)"
        method = f"likelihood ratio of b and b + a, {fit} on these patients, 1 degree of freedom"
        yield row | {"statistic": statistic, "p": p, "method": method}


def _predictor(data: Scored, horizon: Horizon) -> Floats | None:
    if data.score is not None:
        return data.score
    risk = data.risks.get(horizon)
    if risk is None:
        return None
    return calibration.log_odds(risk) if data.time is None else calibration.cloglog(risk)


def reclassified(a: Evaluated, b: Evaluated, reason: str = "") -> Iterator[Row]:
    """Reclassification by a over b, only where both models are calibrated: a miscalibrated model is "improved" by
    noise (Hilden and Gerds 2014; Pepe et al. 2015).
    """
    (_, sheet, scored), (_, _, other_scored) = a, b
    for horizon in sorted(set(scored.risks) & set(other_scored.risks), key=lambda value: value or 0.0):
        row = {"horizon": horizon, "n": sheet.n, "events": sheet.events}
        why = reason or _miscalibrated(a, horizon) or _miscalibrated(b, horizon)
        if why:
            yield from (row | {"metric": name, "method": f"refused: {why}"} for name in RECLASSIFICATION)
            continue
        if horizon is None:
            cases, controls = sheet.counts * scored.event, sheet.counts * (1 - scored.event)
        else:
            assert scored.time is not None
            cases, controls = horizon_weights(scored.time, scored.event, horizon, sheet.counts)
        for name, values in reclassification(
            scored.risks[horizon], other_scored.risks[horizon], cases, controls
        ).items():
            lower, upper = percentile_interval(values[1:])
            method = f"of a over b, category-free, beside both models' calibration; {describe_bootstrap(values[1:])}"
            estimate = {"difference": values[0], "lower": lower, "upper": upper}
            yield row | {"metric": name, "method": method} | estimate


def _miscalibrated(model: Evaluated, horizon: Horizon) -> str:
    """Why reclassification by this model means nothing, or ""."""
    for metric, label in (("oe", "O/E"), ("slope", "slope")):
        name = model.name
        rows = [row for row in model.sheet.tables.get("metrics", []) if row["metric"] == metric]
        rows = [row for row in rows if row["horizon"] in (horizon, None)]
        if not rows or not np.isfinite(rows[0].get("estimate", np.nan)):
            return f"the {label} of model {name} is not estimated, and reclassification needs calibrated models"
        estimate, lower, upper = (rows[0][key] for key in ("estimate", "lower", "upper"))
        if not np.isfinite([lower, upper]).all():
            return f"the {label} of model {name} has no interval, and reclassification needs calibrated models"
        if not lower <= 1 <= upper:
            found = f"{label} {estimate:.2f}, {lower:.2f} to {upper:.2f}"
            return f"model {name} is miscalibrated in these patients ({found}): reclassification would mislead"
    return ""


def adjust(table: pd.DataFrame, family: Sequence[str]) -> pd.DataFrame:
    """`table` with p_holm: p adjusted (Holm) for the pairs of models that are compared by one metric in one set."""
    table = table.copy()
    table["p_holm"] = np.nan
    tested = table[table["p"].notna()]
    for _, rows in tested.groupby(list(family), dropna=False):
        table.loc[rows.index, "p_holm"] = holm(rows["p"].to_numpy(dtype=float))
    return table


def holm(p: Floats) -> Floats:
    """p values (k,) adjusted for their number (Holm 1979; R: p.adjust). Four lines of our own: statsmodels' collects
    garbage at every call, which takes longer than all that is compared."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted
