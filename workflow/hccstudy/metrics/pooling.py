"""Pooling over centers: random-effects meta-analysis of a metric that every center was evaluated by.

Between-center variance by restricted maximum likelihood (REML), interval by Hartung and Knapp, and the interval in
which a new center's value is to be expected (Higgins et al. 2009): R's metafor::rma(method="REML", test="knha") and
its predict(). C statistics are pooled on the logit scale, O/E on the log scale, slopes as they are (Snell et al.
2018; Debray et al. 2017). statsmodels has DerSimonian-Laird and Paule-Mandel, but no REML.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import t

from hccstudy.errors import StudyError
from hccstudy.metrics.resampling import Floats, Z

PREDICTABLE = 3  # centers from which on a prediction interval is given


class Scale(NamedTuple):
    """There and back, and the derivative that takes a standard error there (delta method)."""

    name: str
    to: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]
    derivative: Callable[[Floats], Floats]


LOGIT = Scale("logit", logit, expit, lambda x: 1 / (x * (1 - x)))
LOG = Scale("log", np.log, np.exp, lambda x: 1 / x)
IDENTITY = Scale("identity", np.asarray, np.asarray, np.ones_like)
SCALES = dict.fromkeys(("harrell_c", "auc", "auc_t", "macro_auc", "accuracy", "brier"), LOGIT) | {"oe": LOG}


class Pooled(NamedTuple):
    """Mean over centers with its 95 % interval, the 95 % prediction interval of a new center (NaN below three
    centers), tau2 on the scale of pooling, and the number of centers.
    """

    estimate: float
    lower: float
    upper: float
    prediction_lower: float
    prediction_upper: float
    tau2: float
    centers: int


def scale_of(metric: str) -> Scale:
    """The scale that a metric is pooled on."""
    return SCALES.get(metric, IDENTITY)


def center_interval(estimate: float, error: float, scale: Scale) -> tuple[float, float]:
    """95 % interval of one center: normal on the scale of pooling. `error` is the standard error as it is."""
    place, half = scale.to(np.array(estimate)), Z * error * scale.derivative(np.array(estimate))
    return float(scale.back(place - half)), float(scale.back(place + half))


def pool(estimates: ArrayLike, errors: ArrayLike, scale: Scale = IDENTITY) -> Pooled:
    """Random-effects mean of `estimates` (k,) with standard errors `errors` (k,), both on their natural scale.

    StudyError where there are fewer than two centers, or one has no finite value or no positive standard error
    on the scale of pooling.
    """
    natural = np.asarray(estimates, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = scale.to(natural)
        variances = (np.asarray(errors, dtype=float) * scale.derivative(natural)) ** 2
    if len(values) < 2:
        raise StudyError(f"pooling: {len(values)} center; expected at least 2")
    if not (np.isfinite(values).all() and np.isfinite(variances).all() and (variances > 0).all()):
        raise StudyError(
            f"pooling: estimates {natural} with errors {errors!r} on the {scale.name} scale; expected finite"
        )
    tau2 = reml(values, variances)
    weights = 1 / (variances + tau2)
    mean = np.average(values, weights=weights)
    spread = (weights * (values - mean) ** 2).sum() / (len(values) - 1)  # Hartung and Knapp 2001
    variance = spread / weights.sum()
    reach = t.ppf(0.975, len(values) - 1)
    half, further = reach * np.sqrt(variance), reach * np.sqrt(variance + tau2)
    if len(values) < PREDICTABLE:
        further = np.nan
    points = scale.back(np.array([mean, mean - half, mean + half, mean - further, mean + further]))
    estimate, lower, upper, prediction_lower, prediction_upper = map(float, points)
    return Pooled(estimate, lower, upper, prediction_lower, prediction_upper, tau2, len(values))


def reml(values: Floats, variances: Floats) -> float:
    """Between-center variance: the root of the derivative of the restricted likelihood, 0 where it falls from the
    start (Viechtbauer 2005).
    """

    def derivative(tau2: float) -> float:
        weights = 1 / (variances + tau2)
        residuals = values - np.average(values, weights=weights)
        trace = weights.sum() - (weights**2).sum() / weights.sum()
        return float((weights**2 * residuals**2).sum() - trace)

    if derivative(0.0) <= 0:
        return 0.0
    high = float(values.var() + variances.max())
    while derivative(high) > 0:
        high *= 2
    return float(brentq(derivative, 0.0, high, xtol=1e-14, rtol=1e-12))
