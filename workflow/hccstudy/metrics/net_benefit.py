"""Decisions at a threshold: net benefit, sensitivity, specificity and predictive values.

Whoever's predicted risk reaches the threshold is treated. Net benefit = treated patients with the event - treated
without it x threshold / (1 - threshold), per patient (Vickers and Elkin 2006). Treat none is 0; treat all is the
same with a risk of 1 for everyone. R: dcurves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hccstudy.metrics.resampling import Floats
from hccstudy.metrics.survival import event_risk


class Decisions(NamedTuple):
    """Shares of all patients, (resamples, thresholds) each: treated or not, with the event (by the horizon) or not."""

    true_positive: Floats
    false_positive: Floats
    false_negative: Floats
    true_negative: Floats

    def net_benefit(self, thresholds: Floats) -> Floats:
        return self.true_positive - self.false_positive * thresholds / (1 - thresholds)

    def pairs(self) -> dict[str, tuple[Floats, Floats]]:
        """Sensitivity, specificity and predictive values as (those it is about, the others)."""
        return {
            "sensitivity": (self.true_positive, self.false_negative),
            "specificity": (self.true_negative, self.false_positive),
            "ppv": (self.true_positive, self.false_positive),
            "npv": (self.true_negative, self.false_negative),
        }

    def ratios(self) -> dict[str, Floats]:
        """The same as shares; NaN where nobody is in the denominator."""
        return {name: _share(of, of + others) for name, (of, others) in self.pairs().items()}


def _share(part: Floats, total: Floats) -> Floats:
    return np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0)


def decide(event: Floats, risk: Floats, thresholds: Floats, counts: Floats) -> Decisions:
    """Decisions of a binary outcome."""
    treated = (risk[:, None] >= thresholds) * 1.0
    with_event, without = event[:, None], (1 - event)[:, None]
    parts = (treated * with_event, treated * without, (1 - treated) * with_event, (1 - treated) * without)
    size = counts.sum(axis=1, keepdims=True)
    return Decisions(*(counts @ part / size for part in parts))


def decide_t(
    time: Floats, event: Floats, risk: Floats, horizon: float, thresholds: Floats, counts: Floats
) -> Decisions:
    """Decisions of a censored outcome: among the treated, and among the others, the share with the event by the
    horizon is that of Kaplan-Meier, or Aalen-Johansen where events compete (Vickers et al. 2008). NaN where some
    are in a group but none of it is followed that far.
    """
    size = counts.sum(axis=1)
    shares = np.empty((4, len(counts), len(thresholds)))
    before: np.ndarray | None = None
    for place, threshold in enumerate(thresholds):
        treated = risk >= threshold
        if before is not None and (treated == before).all():
            shares[:, :, place] = shares[:, :, place - 1]
            continue
        for first, group in ((0, treated), (2, ~treated)):
            share = counts[:, group].sum(axis=1) / size
            events = np.zeros(len(counts))
            if group.any():
                events = np.where(share > 0, event_risk(time[group], event[group], horizon, counts[:, group]), 0.0)
            shares[first, :, place], shares[first + 1, :, place] = share * events, share * (1 - events)
        before = treated
    return Decisions(*shares)
