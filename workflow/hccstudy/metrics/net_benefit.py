"""Decision curves: net benefit of treating whoever's predicted risk reaches a threshold (Vickers and Elkin
2006).

Net benefit = treated patients with the event - treated without it x threshold / (1 - threshold), per patient.
Treat none is 0; treat all is the same function with a risk of 1 for everyone. R: dcurves.
"""

from __future__ import annotations

import numpy as np

from hccstudy.metrics.resampling import Floats
from hccstudy.metrics.survival import event_risk


def net_benefit(event: Floats, risk: Floats, thresholds: Floats, counts: Floats) -> Floats:
    """Net benefit (resamples, thresholds) for a binary outcome."""
    treated = (risk[:, None] >= thresholds) * 1.0
    odds = thresholds / (1 - thresholds)
    benefit = counts @ (treated * event[:, None]) - counts @ (treated * (1 - event)[:, None]) * odds
    return benefit / counts.sum(axis=1, keepdims=True)


def net_benefit_t(
    time: Floats, event: Floats, risk: Floats, horizon: float, thresholds: Floats, counts: Floats
) -> Floats:
    """Net benefit (resamples, thresholds) for a censored outcome: among the treated the share with the event
    by the horizon is 1 - Kaplan-Meier (Vickers et al. 2008). NaN where some are treated but none is followed
    that far.
    """
    size = counts.sum(axis=1)
    benefit = np.empty((len(counts), len(thresholds)))
    before: np.ndarray | None = None
    share = events = np.zeros(len(counts))
    for place, threshold in enumerate(thresholds):
        treated = risk >= threshold
        if before is None or (treated != before).any():
            share = counts[:, treated].sum(axis=1) / size
            events = np.zeros(len(counts))
            if treated.any():
                among = event_risk(time[treated], event[treated], horizon, counts[:, treated])
                events = np.where(share > 0, among, 0.0)
            before = treated
        odds = threshold / (1 - threshold)
        benefit[:, place] = events * share - (1 - events) * share * odds
    return benefit
