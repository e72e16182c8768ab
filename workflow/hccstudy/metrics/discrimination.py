"""Discrimination: how well predictions rank patients. Ties between predictions count one half."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.stats import rankdata

from hccstudy.metrics.resampling import Floats, Z
from hccstudy.metrics.survival import censoring_survival, horizon_weights, step_values, tally

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


def placements(event: Floats, score: Floats) -> tuple[Floats, Floats]:
    """Share of controls below each case, and of cases above each control (midranks; Sun and Xu 2014)."""
    cases, controls = score[event == 1], score[event == 0]
    ranks = rankdata(np.concatenate([cases, controls]))
    wins = (ranks[: len(cases)] - rankdata(cases)) / len(controls)
    return wins, 1 - (ranks[len(cases) :] - rankdata(controls)) / len(cases)


def delong(event: Floats, score: Floats) -> tuple[float, float, float]:
    """AUC with DeLong's 95 % interval (DeLong 1988, by midranks as Sun and Xu 2014), cut at 0 and 1 as in
    pROC.

    Where cases and controls are completely separated the variance says 0 and nothing is known: the interval
    is NaN.
    """
    wins, losses = placements(event, score)
    estimate = float(wins.mean())
    variance = wins.var(ddof=1) / len(wins) + losses.var(ddof=1) / len(losses)
    if variance <= 0:
        return estimate, np.nan, np.nan
    half = Z * np.sqrt(variance)
    return estimate, max(0.0, estimate - half), min(1.0, estimate + half)


def concordance(time: Floats, event: Floats, score: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Harrell's and Uno's C of a score that grows with risk, per resample.

    A pair counts if the first patient's event is known to come first; a censoring at the time of an event
    comes after it, two events at one time make no pair (R: survival::concordance). Uno 2011: each pair is
    weighted by 1/G(T-)^2 of its event, G from the cohort that is evaluated (R: timewt="n/G2"), over all of
    its follow-up. Who had a competing event never has the event and stays comparable (Wolbers 2009); such a
    pair weighs 1/(G(T-) G(S-)), S the time of the competing event (Wolbers, Blanche et al. 2014).
    """
    order = np.argsort(time, kind="stable")
    time, event, score, counts = time[order], event[order], score[order], counts[:, order]
    events, gone = np.flatnonzero(event == 1), np.flatnonzero(event == 2)
    weight = step_values(*censoring_survival(time, event, counts), time, before=True)
    weight = np.divide(counts, weight, out=np.zeros_like(counts), where=counts > 0)
    drawn, inverse = counts[:, events], weight[:, events]
    shape = (len(events), len(counts))
    won, won_gone, won_gone_weighted = np.empty(shape), np.zeros(shape), np.zeros(shape)
    for start in range(0, len(events), BLOCK):
        stop = start + BLOCK
        rows = events[start:stop, None]
        later = (time > time[rows]) | ((time == time[rows]) & (event == 0))
        beats = np.where(score < score[rows], 1.0, np.where(score == score[rows], 0.5, 0.0))
        won[start:stop] = (later * beats) @ counts.T
        if len(gone):
            before = (time[gone] <= time[rows]) * beats[:, gone]
            won_gone[start:stop] = before @ counts[:, gone].T
            won_gone_weighted[start:stop] = before @ weight[:, gone].T
    times, ended, _, at_risk = tally(time, event, counts)
    place = np.searchsorted(times, time[events])
    later_drawn = (at_risk - ended)[:, place]
    left_by = np.searchsorted(time[gone], time[events], side="right")
    left, left_weighted = (
        np.column_stack([np.zeros(len(counts)), np.cumsum(of[:, gone], axis=1)])[:, left_by] for of in (counts, weight)
    )

    def share(won: Floats, pairs: Floats) -> Floats:
        total = pairs.sum(axis=1)
        return np.divide(won.sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)

    harrell = share(drawn * (won + won_gone).T, drawn * (later_drawn + left))
    single = np.divide(inverse, drawn, out=np.zeros_like(inverse), where=drawn > 0)  # 1 / G(T-)
    uno = share(
        inverse * (single * won.T + won_gone_weighted.T),
        inverse * (single * later_drawn + left_weighted),
    )
    return harrell, uno


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
