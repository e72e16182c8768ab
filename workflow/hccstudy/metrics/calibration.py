"""Calibration: do predicted risks agree with what was observed?

Observed risk of censored outcomes is 1 - Kaplan-Meier (Aalen-Johansen where events compete), or comes from a Cox
model of the prediction or a regression of pseudo-observations; patients who were censored are never dropped or
counted as free of the event. McLernon et al. 2023 (STRATOS), Austin et al. 2020, van Geloven et al. 2022.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import binomtest

from hccstudy.metrics.regression import cloglog_mean, cox, logistic
from hccstudy.metrics.resampling import Floats, Z
from hccstudy.metrics.survival import event_risk, kaplan_meier

CLIP = 1e-6  # a risk of exactly 0 or 1 has no log odds
KNOTS = (0.1, 0.5, 0.9)
LARGEST = 50.0  # log cumulative hazards beyond it are a risk of 1


def log_odds(risk: Floats) -> Floats:
    clipped = np.clip(risk, CLIP, 1 - CLIP)
    return np.log(clipped / (1 - clipped))


def cloglog(risk: Floats) -> Floats:
    """Complementary log-log: the scale on which a Cox model is linear."""
    return np.log(-np.log1p(-np.clip(risk, CLIP, 1 - CLIP)))


def observed_expected(event: Floats, risk: Floats, counts: Floats) -> Floats:
    """Events over the sum of predicted risks, per resample."""
    return _ratio(counts @ event, counts @ risk)


def observed_expected_t(time: Floats, event: Floats, risk: Floats, horizon: float, counts: Floats) -> Floats:
    """Observed risk at the horizon (Kaplan-Meier, Aalen-Johansen) over the mean predicted risk, per resample."""
    return _ratio(event_risk(time, event, horizon, counts) * counts.sum(axis=1), counts @ risk)


def _ratio(observed: Floats, expected: Floats) -> Floats:
    return np.divide(observed, expected, out=np.full(len(expected), np.nan), where=expected > 0)


def poisson_interval(ratio: float, events: int) -> tuple[float, float]:
    """The interval of O/E that is published with it: log scale, standard error 1 / sqrt(events by the horizon)
    (McLernon et al. 2023). It is too wide (docs/statistics.md), and reported beside the bootstrap's.
    """
    factor = np.exp(Z / np.sqrt(events))
    return ratio / factor, ratio * factor


def in_the_large(event: Floats, risk: Floats, counts: Floats) -> tuple[Floats, tuple[float, float]]:
    """Calibration in the large: the intercept of a logistic model with the predicted log odds as offset (0 is
    ideal), per resample, and the Wald interval of the first.
    """
    fit = logistic(event, np.empty((len(event), 0)), counts, offset=log_odds(risk))
    return fit.beta[:, 0], _wald(fit.beta[0, 0], fit.covariance[0, 0, 0])


def slope(event: Floats, risk: Floats, counts: Floats) -> tuple[Floats, tuple[float, float]]:
    """Calibration slope: unpenalized logistic regression on the predicted log odds (below 1: overfitted)."""
    fit = logistic(event, log_odds(risk)[:, None], counts)
    return fit.beta[:, 1], _wald(fit.beta[0, 1], fit.covariance[0, 1, 1])


def slope_t(time: Floats, event: Floats, lp: Floats, counts: Floats) -> tuple[Floats, tuple[float, float]]:
    """Calibration slope of a censored outcome: Cox regression (Efron ties) on the linear predictor."""
    fit = cox(time, event, lp[:, None], counts)
    return fit.beta[:, 0], _wald(fit.beta[0, 0], fit.covariance[0, 0, 0])


def _wald(estimate: float, variance: float) -> tuple[float, float]:
    half = Z * np.sqrt(variance)
    return estimate - half, estimate + half


def spline_basis(x: Floats, knots: Floats) -> Floats:
    """Restricted cubic spline, three knots (Hmisc::rcspline.eval, norm=2): x and its nonlinear term."""
    first, middle, last = knots
    cubes = [np.maximum(x - knot, 0) ** 3 for knot in knots]
    bent = cubes[0] - cubes[1] * (last - first) / (last - middle) + cubes[2] * (middle - first) / (last - middle)
    return np.column_stack([x, bent / (last - first) ** 2])


def _bases(x: Floats, grid: Floats) -> tuple[Floats, Floats] | None:
    """Spline bases of patients and grid; None where predictions take too few values for three knots."""
    knots = np.quantile(x, KNOTS)
    if (np.diff(knots) <= 1e-9).any():
        return None
    return spline_basis(x, knots), spline_basis(grid, knots)


def smooth_curve(event: Floats, risk: Floats, grid: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Smoothed observed risk at every patient's prediction (resamples, n) and at the grid of predictions.

    Logistic regression on restricted cubic splines of the predicted log odds, knots at the 10th, 50th and
    90th percentile of the whole set.
    """
    bases = _bases(log_odds(risk), log_odds(grid))
    if bases is None:
        return np.full(counts.shape, np.nan), np.full((len(counts), len(grid)), np.nan)
    beta = logistic(event, bases[0], counts).beta
    patients, curve = (expit(beta[:, :1] + beta[:, 1:] @ basis.T) for basis in bases)
    return patients, curve


def smooth_curve_t(
    time: Floats, event: Floats, risk: Floats, grid: Floats, horizon: float, counts: Floats
) -> tuple[Floats, Floats]:
    """The same for a censored outcome: Cox regression on restricted cubic splines of cloglog(predicted risk),
    read at the horizon (Austin et al. 2020).
    """
    bases = _bases(cloglog(risk), cloglog(grid))
    if bases is None:
        return np.full(counts.shape, np.nan), np.full((len(counts), len(grid)), np.nan)
    fit = cox(time, event, bases[0], counts, horizon)
    patients, curve = (
        -np.expm1(-np.exp(np.minimum(fit.log_hazard[:, None] + fit.beta @ basis.T, LARGEST))) for basis in bases
    )
    return patients, curve


def slope_pseudo(pseudo: Floats, risk: Floats, counts: Floats) -> Floats:
    """Calibration slope from pseudo-observations (n,) of the event by the horizon: their regression with
    complementary log-log link on that of the risk (van Geloven et al. 2022).
    """
    return cloglog_mean(pseudo, cloglog(risk)[:, None], counts)[:, 1]


def smooth_curve_pseudo(pseudo: Floats, risk: Floats, grid: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """As smooth_curve: pseudo-observations regressed on restricted cubic splines of cloglog(predicted risk)."""
    bases = _bases(cloglog(risk), cloglog(grid))
    if bases is None:
        return np.full(counts.shape, np.nan), np.full((len(counts), len(grid)), np.nan)
    beta = cloglog_mean(pseudo, bases[0], counts)
    patients, curve = (-np.expm1(-np.exp(np.minimum(beta[:, :1] + beta[:, 1:] @ basis.T, LARGEST))) for basis in bases)
    return patients, curve


def curve_errors(smoothed: Floats, risk: Floats, counts: Floats) -> dict[str, Floats]:
    """Distance of the smooth curve from the predictions: mean (ici), median (e50), 90th percentile (e90).

    Austin and Steyerberg 2019.
    """
    distance = np.abs(smoothed - risk)
    quantiles = np.full((len(counts), 2), np.nan)
    drawn = counts.astype(int)
    sizes = np.where(np.isfinite(distance).all(axis=1), drawn.sum(axis=1), 0)
    for size in np.unique(sizes[sizes > 0]):  # one size, but where patients have several rows
        rows = sizes == size
        repeated = np.repeat(distance[rows].ravel(), drawn[rows].ravel()).reshape(-1, size)
        quantiles[rows] = np.quantile(repeated, [0.5, 0.9], axis=1).T
    mean = (counts * distance).sum(axis=1) / counts.sum(axis=1)
    return {"ici": mean, "e50": quantiles[:, 0], "e90": quantiles[:, 1]}


def calibration_groups(
    event: Floats, risk: Floats, groups: int, *, time: Floats | None = None, horizon: float = np.nan
) -> pd.DataFrame:
    """Predicted against observed risk in groups of about equal size; equal predictions stay together.

    Columns group, predicted (mean), observed, lower, upper, n. Binary: share of events with Wilson's
    interval; censored (with time): 1 - Kaplan-Meier at the horizon with its log-log interval (where events
    compete Aalen-Johansen), NaN where a group is not followed that far.
    """
    edges = np.unique(np.quantile(risk, np.arange(1, groups) / groups))
    _, place = np.unique(np.searchsorted(edges, risk), return_inverse=True)
    rows = []
    for group in range(place.max() + 1):
        inside = place == group
        n = int(inside.sum())
        if time is None:
            found = binomtest(int(event[inside].sum()), n)
            interval = found.proportion_ci(method="wilson")
            observed = (found.statistic, interval.low, interval.high)
        else:
            observed = _risk_with_interval(time[inside], event[inside], horizon)
        rows.append((group + 1, float(risk[inside].mean()), *map(float, observed), n))
    return pd.DataFrame(rows, columns=["group", "predicted", "observed", "lower", "upper", "n"])


def _risk_with_interval(time: Floats, event: Floats, horizon: float) -> tuple[float, float, float]:
    steps = kaplan_meier(time, event)
    last = steps[steps["time"] <= horizon].iloc[-1]
    if time.max() < horizon and last["at_risk"] > np.sum((time == last["time"]) & (event > 0)):
        return np.nan, np.nan, np.nan
    return 1 - last["survival"], 1 - last["upper"], 1 - last["lower"]
