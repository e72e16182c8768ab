"""Overall performance: Brier score, the same for a model that predicts the same for all, agreement of
classes.

IPA (scaled Brier) = 1 - brier / brier_null, both on the evaluated cohort.
"""

from __future__ import annotations

import numpy as np

from hccstudy.metrics.resampling import Floats
from hccstudy.metrics.survival import event_risk, horizon_weights


def brier(event: Floats, risk: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Brier score, and that of predicting the cohort's own prevalence, per resample."""
    size = counts.sum(axis=1)
    prevalence = counts @ event / size
    return counts @ (event - risk) ** 2 / size, prevalence * (1 - prevalence)


def scaled(score: Floats, null: Floats) -> Floats:
    """IPA: 1 - score / null, per resample; NaN where the null score is 0."""
    return 1 - np.divide(score, null, out=np.full(len(null), np.nan), where=null > 0)


def brier_t(time: Floats, event: Floats, risk: Floats, horizon: float, counts: Floats) -> tuple[Floats, Floats]:
    """Brier score at the horizon, weighted for censoring (Graf et al. 1999), and that of predicting the
    cohort's own Kaplan-Meier risk for everyone.
    """
    cases, controls = horizon_weights(time, event, horizon, counts)
    size = counts.sum(axis=1)
    common = event_risk(time, event, horizon, counts)
    null = cases.sum(axis=1) * (1 - common) ** 2 + controls.sum(axis=1) * common**2
    return (cases @ (1 - risk) ** 2 + controls @ risk**2) / size, null / size


def brier_classes(level: np.ndarray, probability: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Multiclass Brier score: squared distance of the probabilities from the observed level, summed over
    levels.
    """
    observed = (level[:, None] == np.arange(probability.shape[1])) * 1.0
    size = counts.sum(axis=1)
    shares = counts @ observed / size[:, None]
    return counts @ ((observed - probability) ** 2).sum(axis=1) / size, 1 - (shares**2).sum(axis=1)


def agreement(level: np.ndarray, predicted: np.ndarray, levels: int, counts: Floats) -> tuple[Floats, Floats]:
    """Accuracy and Cohen's kappa of predicted against observed levels (codes 0 .. levels - 1)."""
    size = counts.sum(axis=1)
    accuracy = counts @ ((level == predicted) * 1.0) / size
    codes = np.arange(levels)
    shares = [counts @ ((values[:, None] == codes) * 1.0) / size[:, None] for values in (level, predicted)]
    chance = (shares[0] * shares[1]).sum(axis=1)
    kappa = np.divide(accuracy - chance, 1 - chance, out=np.full(len(size), np.nan), where=chance < 1)
    return accuracy, kappa
