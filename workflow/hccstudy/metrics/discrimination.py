"""Discrimination: how well predictions rank patients. Ties between predictions count one half."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.stats import norm, rankdata

from hccstudy.metrics.resampling import Floats
from hccstudy.metrics.survival import censoring_survival, horizon_weights, step_values, tally

Z = norm.ppf(0.975)
BLOCK = 512  # rows of the pair matrix that are held at once


def weighted_auc(score: Floats, cases: Floats, controls: Floats) -> Floats:
    """P(score of a case > score of a control), with weights of cases and controls (resamples, n) each."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    high = np.add.reduceat(cases[:, order], starts, axis=1)
    low = np.add.reduceat(controls[:, order], starts, axis=1)
    beaten = np.cumsum(low, axis=1) - low / 2
    pairs = high.sum(axis=1) * low.sum(axis=1)
    return np.divide((high * beaten).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def auc(event: Floats, score: Floats, counts: Floats) -> Floats:
    """Area under the ROC curve, per resample."""
    return weighted_auc(score, counts * event, counts * (1 - event))


def delong(event: Floats, score: Floats) -> tuple[float, float, float]:
    """AUC with DeLong's 95 % interval (DeLong 1988, by midranks as Sun and Xu 2014), cut at 0 and 1 as in
    pROC.

    Where cases and controls are completely separated the variance says 0 and nothing is known: the interval
    is NaN.
    """
    cases, controls = score[event == 1], score[event == 0]
    ranks = rankdata(np.concatenate([cases, controls]))
    wins = (ranks[: len(cases)] - rankdata(cases)) / len(controls)
    losses = 1 - (ranks[len(cases) :] - rankdata(controls)) / len(cases)
    estimate = float(wins.mean())
    variance = wins.var(ddof=1) / len(cases) + losses.var(ddof=1) / len(controls)
    if variance <= 0:
        return estimate, np.nan, np.nan
    half = Z * np.sqrt(variance)
    return estimate, max(0.0, estimate - half), min(1.0, estimate + half)


def concordance(time: Floats, event: Floats, score: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Harrell's and Uno's C of a score that grows with risk, per resample.

    A pair counts if the first patient's event is known to come first; a censoring at the time of an event
    comes after it, two events at one time make no pair (R: survival::concordance). Uno 2011: each pair is
    weighted by 1/G(T-)^2 of its event, G from the cohort that is evaluated (R: timewt="n/G2"), over all of
    its follow-up.
    """
    order = np.argsort(time, kind="stable")
    time, event, score, counts = time[order], event[order], score[order], counts[:, order]
    events = np.flatnonzero(event == 1)
    won = np.empty((len(events), len(counts)))
    for start in range(0, len(events), BLOCK):
        rows = events[start : start + BLOCK, None]
        later = (time > time[rows]) | ((time == time[rows]) & (event == 0))
        beats = np.where(score < score[rows], 1.0, np.where(score == score[rows], 0.5, 0.0))
        won[start : start + BLOCK] = (later * beats) @ counts.T
    times, deaths, _, at_risk = tally(time, event, counts)
    comparable = (at_risk - deaths)[:, np.searchsorted(times, time[events])]
    uncensored = step_values(*censoring_survival(time, event, counts), time[events], before=True)
    drawn = counts[:, events]
    doubled = np.divide(drawn, uncensored**2, out=np.zeros_like(drawn), where=drawn > 0)

    def share(weights: Floats) -> Floats:
        pairs = (weights * comparable).sum(axis=1)
        return np.divide((weights * won.T).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    return share(drawn), share(doubled)


def auc_t(time: Floats, event: Floats, score: Floats, horizon: float, counts: Floats) -> Floats:
    """Time-dependent AUC, cumulative cases and dynamic controls, weighted for censoring (R: timeROC)."""
    return weighted_auc(score, *horizon_weights(time, event, horizon, counts))


def macro_auc(level: np.ndarray, probability: Floats, counts: Floats) -> Floats:
    """Mean over the levels of the AUC of one level against the rest; level (n,) = column of probability (n,
    k).
    """
    columns = range(probability.shape[1])
    return np.mean([auc((level == k) * 1.0, probability[:, k], counts) for k in columns], axis=0)


def hand_till(level: np.ndarray, probability: Floats, counts: Floats) -> Floats:
    """Hand and Till's M (2001): mean over the pairs of levels, each by the probability of either level."""
    pairs = []
    for a, b in combinations(range(probability.shape[1]), 2):
        of_a, of_b = counts * (level == a), counts * (level == b)
        pairs.append(weighted_auc(probability[:, a], of_a, of_b) + weighted_auc(probability[:, b], of_b, of_a))
    return np.mean(pairs, axis=0) / 2
