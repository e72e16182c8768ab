"""Patient bootstrap: resamples as counts, and percentile intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
Z = norm.ppf(0.975)  # half the width of a normal 95 % interval, in standard errors
DEFINED = 0.9  # share of resamples in which a metric must be defined for an interval


def once(n: int) -> Floats:
    """The table as it is: one resample in which every row appears once."""
    return np.ones((1, n))


def patient_counts(patients: ArrayLike, resamples: int, seed: Sequence[int]) -> Floats:
    """Counts (1 + resamples, n): the table as it is, then resamples of patients with replacement.

    Rows of one patient are drawn together. The draw depends on the set of patients and the seed alone, not on
    the order of the rows, so that two models on the same patients see the same resamples.
    """
    _, code = np.unique(np.asarray(patients), return_inverse=True)
    size = int(code.max()) + 1
    draws = np.random.default_rng(list(seed)).multinomial(size, np.full(size, 1 / size), size=resamples)
    return np.vstack([once(len(code)), draws[:, code]])


def percentile_interval(draws: ArrayLike) -> tuple[Any, Any]:
    """2.5 and 97.5 percentiles along the first axis, NaN left out; NaN where fewer than DEFINED of the draws are
    defined: percentiles over the resamples that happen to have a value are no 95 % interval.

    draws: (resamples,) or (resamples, points).
    """
    values = np.asarray(draws, dtype=float)
    enough = np.isfinite(values).mean(axis=0) >= DEFINED if len(values) else np.zeros(values.shape[1:], dtype=bool)
    bounds = np.full((2, *values.shape[1:]), np.nan)
    complete = np.isfinite(values).all(axis=0) & enough
    for of, quantile in ((complete, np.quantile), (enough & ~complete, np.nanquantile)):  # the latter goes one by one
        if of.any():
            bounds[:, of] = quantile(values[:, of], [0.025, 0.975], axis=0)
    return bounds[0], bounds[1]
