"""Unpenalized logistic and Cox regression with few covariates, for all resamples at once.

Calibration must be measured by an unpenalized fit (scikit-learn's default penalty is wrong here), and again
in every resample. statsmodels and scikit-survival agree with these fits to rounding but take one table at a
time, about a hundred times slower; the tests hold these functions against them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from hccstudy.metrics.resampling import Floats

ITERATIONS, TOLERANCE, LARGEST_STEP = 40, 1e-9, 2.0
LARGEST_EXPONENT, DAMPED_ITERATIONS = 30.0, 200
BLOCK = 4_000_000  # numbers in the largest intermediate array of one block of resamples


class Fit(NamedTuple):
    """Coefficients (resamples, p), covariance (resamples, p, p), (partial) log-likelihood (resamples,) and, for
    Cox, the log baseline cumulative hazard at the horizon of a patient whose covariates are all 0 (resamples,).
    NaN where the fit does not exist (separation, no variation, no events).
    """

    beta: Floats
    covariance: Floats
    log_likelihood: Floats
    log_hazard: Floats


def _newton(derivatives: Callable[[Floats], tuple[Floats, Floats]], start: Floats) -> tuple[Floats, Floats]:
    """Maximize concave likelihoods; `derivatives(beta)` gives score (B, p) and information (B, p, p).

    Covariates are standardized, so that one limit to the length of a step fits all; it tames early steps.
    """
    beta = start.copy()
    identity = np.eye(start.shape[1])
    converged = np.zeros(len(start), dtype=bool)
    for _ in range(ITERATIONS):
        score, information = derivatives(beta)
        finite = np.isfinite(information).all(axis=(1, 2)) & np.isfinite(score).all(axis=1)
        information[~finite] = identity
        usable = finite & (np.linalg.eigvalsh(information)[:, 0] > 1e-9)
        information[~usable] = identity
        step = np.linalg.solve(information, np.where(usable[:, None], score, 0)[..., None])[..., 0]
        longest = np.abs(step).max(axis=1, keepdims=True)
        converged = usable & (longest[:, 0] < TOLERANCE)
        # A row that has converged stays as it is, so that no resample depends on how long another one takes.
        step[converged] = 0
        beta += step * np.minimum(1, LARGEST_STEP / np.maximum(longest, TOLERANCE))
        if (converged | ~usable).all():
            break
    covariance = np.asarray(np.linalg.inv(information), dtype=float)
    beta[~converged] = np.nan
    covariance[~converged] = np.nan
    return beta, covariance


def _standardized(covariates: Floats) -> tuple[Floats, Floats, Floats]:
    mean, scale = covariates.mean(axis=0), covariates.std(axis=0)
    constant = scale <= 1e-12 * np.maximum(1, np.abs(mean))
    return (covariates - mean) / np.where(constant, 1, scale), mean, np.where(constant, np.nan, scale)


def logistic(event: Floats, covariates: Floats, counts: Floats, offset: Floats | float = 0.0) -> Fit:
    """Logistic regression of event (n,) on an intercept and covariates (n, p), per resample.

    beta[:, 0] is the intercept. p may be 0: the intercept alone, with the predicted log odds as offset.
    """
    standard, mean, scale = _standardized(covariates)
    design = np.column_stack([np.ones(len(event)), standard])
    size = design.shape[1]
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(event), -1)

    def derivatives(beta: Floats) -> tuple[Floats, Floats]:
        risk = expit(beta @ design.T + offset)
        score = (counts * (event - risk)) @ design
        return score, ((counts * risk * (1 - risk)) @ outer).reshape(-1, size, size)

    beta, covariance = _newton(derivatives, np.zeros((len(counts), size)))
    back = np.eye(size)  # from standardized covariates to the user's
    back[1:, 1:] = np.diag(1 / scale)
    back[0, 1:] = -mean / scale
    nothing = np.full(len(counts), np.nan)
    predictor = beta @ design.T + offset
    with np.errstate(invalid="ignore"):  # a fit that does not exist has no likelihood
        likelihood = (counts * (event * predictor - np.logaddexp(0, predictor))).sum(axis=1)
    return Fit(beta @ back.T, back @ covariance @ back.T, likelihood, nothing)


def cloglog_mean(response: Floats, covariates: Floats, counts: Floats) -> Floats:
    """Coefficients (resamples, 1 + p), intercept first, of E(response) = 1 - exp(-exp(linear predictor)).

    Generalized estimating equations with independence and constant variance, i.e. nonlinear least squares: the
    regression of pseudo-observations (Klein and Andersen 2005; R: geepack::geese with mean.link = "cloglog"). It starts at
    the first covariate itself, a perfect calibration; steps are damped until they fit better (Levenberg and Marquardt).
    """
    standard, mean, scale = _standardized(covariates)
    design = np.column_stack([np.ones(len(response)), standard])
    size = design.shape[1]
    outer = (design[:, :, None] * design[:, None, :]).reshape(len(response), -1)
    identity = np.eye(size)

    def hazards(beta: Floats) -> Floats:
        return np.exp(np.clip(beta @ design.T, -LARGEST_EXPONENT, LARGEST_EXPONENT))

    def misfit(hazard: Floats) -> Floats:
        return np.asarray((counts * (response + np.expm1(-hazard)) ** 2).sum(axis=1))

    beta = np.zeros((len(counts), size))
    beta[:, :2] = mean[0], scale[0]
    if not np.isfinite(beta).all():
        return np.full(beta.shape, np.nan)
    hazard, damping = hazards(beta), np.full(len(counts), 1e-3)
    smallest = misfit(hazard)
    converged = np.zeros(len(counts), dtype=bool)
    for _ in range(DAMPED_ITERATIONS):
        steep = hazard * np.exp(-hazard)
        score = (counts * steep * (response + np.expm1(-hazard))) @ design
        information = ((counts * steep**2) @ outer).reshape(-1, size, size)
        ridge = damping * np.maximum(np.trace(information, axis1=1, axis2=2), 1e-12)
        step = np.linalg.solve(information + ridge[:, None, None] * identity, score[..., None])[..., 0]
        tried = hazards(beta + step)
        fits = misfit(tried)
        better = ~converged & (fits <= smallest * (1 + 1e-12))  # rounding is no worse fit
        converged |= better & (np.abs(step).max(axis=1) < TOLERANCE) & (damping < 1e-5)
        beta[better] += step[better]
        hazard[better], smallest[better] = tried[better], fits[better]
        damping = np.where(better, damping / 10, np.minimum(damping * 10, 1e9))
        damping = np.maximum(damping, 1e-12)
        if converged.all():
            break
    beta[~converged] = np.nan
    slopes = beta[:, 1:] / scale
    return np.column_stack([beta[:, 0] - slopes @ mean, slopes])


def cox(time: Floats, event: Floats, covariates: Floats, counts: Floats, horizon: float = np.inf) -> Fit:
    """Cox regression with Efron's handling of ties, a patient drawn twice being two patients with tied times.

    time, event (n,); covariates (n, p). The baseline hazard is Efron's too, as in R's survfit.coxph.
    """
    order = np.argsort(time, kind="stable")
    standard, mean, scale = _standardized(covariates[order])
    time, event, counts = time[order], event[order] == 1, counts[:, order]
    block = max(1, BLOCK // (len(time) * (1 + standard.shape[1]) ** 2))
    start = _cox_block(time, event, standard, counts[:1], horizon, np.zeros((1, standard.shape[1])))
    first = np.nan_to_num(start.beta)  # the whole table's fit: near to every resample's
    fits = [start]
    for place in range(1, len(counts), block):
        part = counts[place : place + block]
        fits.append(_cox_block(time, event, standard, part, horizon, np.repeat(first, len(part), axis=0)))
    beta, covariance, likelihood, log_hazard = (np.concatenate(items) for items in zip(*fits, strict=True))
    beta = beta / scale
    return Fit(beta, covariance / np.outer(scale, scale), likelihood, log_hazard - beta @ mean)


def _cox_block(
    time: Floats, event: np.ndarray, covariates: Floats, counts: Floats, horizon: float, start: Floats
) -> Fit:
    size, resamples = covariates.shape[1], len(counts)
    deaths_at, first_death = np.unique(time[event], return_index=True)
    if not len(deaths_at):
        nothing = np.full((resamples, size), np.nan)
        return Fit(nothing, np.full((resamples, size, size), np.nan), nothing[:, 0], nothing[:, 0])
    at_risk_from = np.searchsorted(time, deaths_at)
    deaths = np.add.reduceat(counts[:, event], first_death, axis=1)

    # One entry per death of each resample: which resample, which time, and the share of the tied deaths that
    # Efron has already taken out of the risk set.
    resample, place = np.nonzero(deaths)
    repeats = deaths[resample, place].astype(int)
    taken = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    share = taken / np.repeat(repeats, repeats)
    resample, place = np.repeat(resample, repeats), np.repeat(place, repeats)

    outer = (covariates[:, :, None] * covariates[:, None, :]).reshape(len(time), -1)
    moments = np.column_stack([np.ones(len(time)), covariates, outer]).T
    observed = (counts * event) @ covariates

    def risk_sets(beta: Floats) -> tuple[Floats, Floats]:
        """Sums of 1, x, x x' over each entry's risk set, weighted by the relative hazard; its log scale."""
        predictor = beta @ covariates.T
        top = predictor.max(axis=1, keepdims=True)
        terms = (counts * np.exp(predictor - top))[:, None, :] * moments
        later = np.cumsum(terms[..., ::-1], axis=-1)[..., ::-1][..., at_risk_from]
        tied = np.add.reduceat(terms[..., event], first_death, axis=-1)
        return later[resample, :, place] - share[:, None] * tied[resample, :, place], top[:, 0]

    def total(values: Floats) -> Floats:
        columns = [np.bincount(resample, weights=column, minlength=resamples) for column in values.T]
        return np.stack(columns, axis=1)

    def derivatives(beta: Floats) -> tuple[Floats, Floats]:
        sums, _ = risk_sets(beta)
        with np.errstate(invalid="ignore", divide="ignore"):  # a fit that runs away is NaN, and said so
            means = sums[:, 1:] / sums[:, :1]
        first, second = means[:, :size], means[:, size:]
        spread = second - (first[:, :, None] * first[:, None, :]).reshape(len(second), -1)
        return observed - total(first), total(spread).reshape(-1, size, size)

    beta, covariance = _newton(derivatives, start)
    sums, top = risk_sets(np.nan_to_num(beta))
    with np.errstate(invalid="ignore", divide="ignore"):
        hazard = total((deaths_at[place] <= horizon)[:, None] / sums[:, :1])[:, 0]
        likelihood = (beta * observed).sum(axis=1) - total(np.log(sums[:, :1]) + top[resample, None])[:, 0]
    log_hazard = np.log(hazard, out=np.full(resamples, -np.inf), where=hazard > 0) - top
    return Fit(beta, covariance, likelihood, np.where(np.isnan(beta[:, 0]), np.nan, log_hazard))
