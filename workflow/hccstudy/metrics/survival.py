"""Censored follow-up: Kaplan-Meier, Aalen-Johansen, median follow-up, log-rank, weights for censoring.

`event` is 0 (censored), 1 (the event) or 2 (a competing event, after which the event can no longer happen).
Ties are handled as in R `survival`: at one time events come before censorings. Weights for censoring always
come from the cohort that is evaluated: G(T-) for an event, G(t) at the horizon.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sksurv.compare import compare_survival
from sksurv.nonparametric import cumulative_incidence_competing_risks, kaplan_meier_estimator
from sksurv.util import Surv

from hccstudy.metrics.resampling import Floats

BLOCK = 256  # leave-one-out tables that are held at once


def kaplan_meier(time: Floats, event: Floats) -> pd.DataFrame:
    """Share without the event at 0 and at every observed time, 95 % log-log intervals, the number at risk just
    before.

    Kaplan-Meier, or 1 - Aalen-Johansen where events compete (its variance Aalen's). The interval is empty once the
    share is 0, where the log-log scale has none.
    """
    if {1, 2} <= set(event):
        times, risk, bounds = cumulative_incidence_competing_risks(
            event.astype(int), time, time_min=None, conf_type="log-log"
        )
        survival, lower, upper = 1 - risk[1], 1 - bounds[1, 1], 1 - bounds[1, 0]
        none_yet = risk[1] <= 0
        lower, upper = np.where(none_yet, 1.0, lower), np.where(none_yet, 1.0, upper)
    else:
        times, survival, (lower, upper) = kaplan_meier_estimator(event == 1, time, conf_type="log-log")
    extinct = survival <= np.finfo(float).eps
    steps = pd.DataFrame(
        {
            "time": times,
            "survival": np.where(extinct, 0.0, survival),
            "lower": np.where(extinct, np.nan, lower),
            "upper": np.where(extinct, np.nan, upper),
            "at_risk": len(time) - np.searchsorted(np.sort(time), times),
        }
    )
    if times[0] == 0:
        return steps
    origin = pd.DataFrame({"time": [0.0], "survival": 1.0, "lower": 1.0, "upper": 1.0, "at_risk": len(time)})
    return pd.concat([origin, steps], ignore_index=True)


def tally(time: Floats, ended: np.ndarray, counts: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Distinct times (k,), and who `ended` (n,), who did not, and numbers at risk there, each (resamples, k)."""
    order = np.argsort(time, kind="stable")
    times, starts = np.unique(time[order], return_index=True)
    counts = counts[:, order]
    ending = np.add.reduceat(counts * (ended[order] > 0), starts, axis=1)
    leaving = np.add.reduceat(counts, starts, axis=1)
    at_risk = np.cumsum(leaving[:, ::-1], axis=1)[:, ::-1]
    return times, ending, leaving - ending, at_risk


def _product_limit(ended: Floats, exposed: Floats) -> Floats:
    hazard = np.divide(ended, exposed, out=np.zeros_like(ended), where=exposed > 0)
    return np.cumprod(1 - hazard, axis=1)


def step_values(times: Floats, values: Floats, when: Floats | float, *, before: bool = False) -> Floats:
    """A step function that starts at 1, read at `when` (or just before it): (resamples, len(when))."""
    place = np.searchsorted(times, np.atleast_1d(when), side="left" if before else "right")
    return np.column_stack([np.ones(len(values)), values])[:, place]


def censoring_survival(time: Floats, event: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """G: the probability to be still uncensored after each distinct time (reverse Kaplan-Meier).

    Who has the event at a time is no longer exposed to censoring at that time.
    """
    times, ended, censored, at_risk = tally(time, event, counts)
    return times, _product_limit(censored, at_risk - ended)


def incidence(time: Floats, event: Floats, horizon: float, counts: Floats) -> tuple[Floats, Floats]:
    """Probability of the event by the horizon (Aalen-Johansen; 1 - Kaplan-Meier where nothing competes), and of
    being free of any event then, per resample; as if the last value held where follow-up ends before.
    """
    times, ended, _, at_risk = tally(time, event, counts)
    free = _product_limit(ended, at_risk)
    at_horizon = step_values(times, free, horizon)[:, 0]
    if not (event == 2).any():
        return 1 - at_horizon, at_horizon
    _, events, _, _ = tally(time, event == 1, counts)
    hazard = np.divide(events, at_risk, out=np.zeros_like(events), where=at_risk > 0)
    before = np.column_stack([np.ones(len(free)), free[:, :-1]])
    return (before * hazard)[:, times <= horizon].sum(axis=1), at_horizon


def event_risk(time: Floats, event: Floats, horizon: float, counts: Floats) -> Floats:
    """`incidence` by the horizon; NaN where follow-up ends before, with patients left."""
    risk, free = incidence(time, event, horizon, counts)
    followed = counts[:, time >= horizon].any(axis=1)
    extinct = counts.any(axis=1) & (free <= np.finfo(float).eps)
    return np.where(followed | extinct, risk, np.nan)


def pseudo_values(time: Floats, event: Floats, horizon: float) -> Floats:
    """Jackknife pseudo-observations (n,) of the risk by the horizon: n F - (n - 1) F without the patient.

    They stand for "had the event by the horizon" where censoring hides it (Andersen and Pohar Perme 2010).
    """
    n = len(time)
    whole = incidence(time, event, horizon, np.ones((1, n)))[0]
    without = np.empty(n)
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(n, start + BLOCK))
        counts = np.ones((len(rows), n))
        counts[np.arange(len(rows)), rows] = 0
        without[rows] = incidence(time, event, horizon, counts)[0]
    return np.asarray(n * whole - (n - 1) * without)


def known_status(time: Floats, event: Floats, horizon: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Who had the event by the horizon, who is known to be free of it then, and whether follow-up ends there.

    Free of the event is who was followed beyond the horizon, and who had a competing event by then. Where nobody
    was followed beyond, because follow-up ends exactly at the horizon, it is who was censored there.
    """
    cases = (event == 1) & (time <= horizon)
    controls = time > horizon
    ends_there = not controls.any()
    if ends_there:
        controls = (time == horizon) & (event == 0)
    return cases, controls | ((event == 2) & (time <= horizon)), ends_there


def horizon_weights(time: Floats, event: Floats, horizon: float, counts: Floats) -> tuple[Floats, Floats]:
    """Inverse-probability-of-censoring weights of the cases and of the controls, (resamples, n) each.

    Cases weigh 1/G(T-), controls 1/G(horizon), everyone else 0; where follow-up ends exactly at the horizon,
    controls weigh 1/G(horizon-). A competing event weighs 1/G(T-). Graf et al. 1999; Uno et al. 2007; Schoop et
    al. 2011. NaN in resamples that hold nobody who was followed beyond the horizon.
    """
    cases, controls, ends_there = known_status(time, event, horizon)
    times, uncensored = censoring_survival(time, event, counts)
    case_weights = np.where(cases, counts, 0.0)
    at_event = step_values(times, uncensored, time, before=True)
    np.divide(case_weights, at_event, out=case_weights, where=case_weights > 0)
    control_weights = np.where(controls, counts, 0.0)
    at_horizon = step_values(times, uncensored, horizon, before=ends_there)
    chance = np.where((event == 2) & (time <= horizon), at_event, at_horizon)
    np.divide(control_weights, chance, out=control_weights, where=control_weights > 0)
    known_free = controls & ~((event == 2) & (time <= horizon))
    control_weights[~counts[:, known_free].any(axis=1)] = np.nan
    return case_weights, control_weights


def median_follow_up(time: Floats, event: Floats, counts: Floats) -> Floats:
    """Median follow-up by reverse Kaplan-Meier (Schemper and Smith 1996); NaN where it is not reached.

    Where the curve runs along 0.5 the middle of that stretch is taken, as in R.
    """
    times, censored, _, at_risk = tally(time, event == 0, counts)
    curve = _product_limit(censored, at_risk)
    reached, below = curve <= 0.5 + 1e-12, curve < 0.5 - 1e-12
    first, second = times[reached.argmax(axis=1)], times[below.argmax(axis=1)]
    middle = np.where(below.any(axis=1), (first + second) / 2, first)
    return np.where(reached.any(axis=1), middle, np.nan)


def logrank(time: Floats, event: Floats, group: np.ndarray) -> tuple[float, float]:
    """Log-rank chi-square of two or more groups, and its p value."""
    statistic, p = compare_survival(Surv.from_arrays(event == 1, time), group)
    return float(statistic), float(p)
