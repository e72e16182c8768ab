"""Agreement between readers, or between repeated segmentations, of every feature at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import fdtri

# A feature whose whole range is below this part of its magnitude is constant: what varies is rounding.
CONSTANT = 1e-12
# Fewer patients with repeated masks than this cannot tell a stable feature from another.
MINIMUM_REPEATED = 5


# of patients, raters and error, each per feature
MeanSquares = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class Agreement(NamedTuple):
    """One value per feature; `lower` and `upper` bound the 95 % interval."""

    icc: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def icc(values: ArrayLike) -> Agreement:
    """Intraclass correlation: absolute agreement of single ratings, two-way random effects, 95 % interval.

    `values` has the shape (patients, raters, features). A rater is a reader or a repeat of the mask. This is
    ICC(2,1) of Shrout & Fleiss 1979 = ICC(A,1) of McGraw & Wong 1996, whose Table 7 gives the interval (F
    distribution with Satterthwaite's degrees of freedom). Because raters are a random effect, a reader's
    systematic bias lowers it.

    Patients with a missing rating of a feature are left out for that feature. A feature for which the
    coefficient is undefined (constant, or fewer than three complete patients) gets 0 with the interval (0,
    0): no feature passes a filter because a NaN compares as the filter's author did not expect.

    Raises ValueError where the shape is not three-dimensional or has fewer than two raters.
    """
    x, squares, n, defined = _two_way(values)
    bounds = np.zeros((3, x.shape[2]))
    value = _coefficient(*squares, n, x.shape[1])
    bounds[:, defined] = value, *_interval(value, *squares, n, x.shape[1])
    return Agreement(*bounds)


def icc_values(values: ArrayLike) -> NDArray[np.float64]:
    """The coefficients of `icc` (features,) without their intervals, which take most of its time."""
    x, squares, n, defined = _two_way(values)
    found = np.zeros(x.shape[2])
    found[defined] = _coefficient(*squares, n, x.shape[1])
    return found


def _two_way(values: ArrayLike) -> tuple[NDArray[np.float64], MeanSquares, NDArray[np.float64], NDArray[np.bool_]]:
    """`values` as an array; mean squares and numbers of complete patients of the features that have a coefficient, and
    which ones those are."""
    x = np.asarray(values, dtype=float)
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"values have the shape {x.shape}; expected (patients, at least 2 raters, features)")
    complete = np.isfinite(x).all(axis=1)  # (patients, features)
    n = complete.sum(axis=0).astype(float)
    kept = np.ones_like(x) if complete.all() else np.broadcast_to(complete[:, None, :], x.shape).astype(float)
    x = np.where(kept, x, 0.0)
    magnitude = np.abs(x).max(axis=(0, 1), initial=0.0)
    # Centered first: large offsets (HU, volumes) would otherwise cost digits.
    x = (x - x.sum(axis=(0, 1)) / np.maximum(n * x.shape[1], 1)) * kept
    defined = (n >= 3) & (np.abs(x).max(axis=(0, 1), initial=0.0) > CONSTANT * magnitude)

    n = n[defined]
    return x, _mean_squares(x[:, :, defined], kept[:, :, defined], n), n, defined


def _mean_squares(x: NDArray[np.float64], kept: NDArray[np.float64], n: NDArray[np.float64]) -> MeanSquares:
    """Mean squares of patients, raters and error of the balanced two-way layout, per feature.

    `x` is centered and 0 where `kept` is 0, so that patients who are left out add nothing to any sum.
    """
    k = x.shape[1]
    patients = x.mean(axis=1)
    raters = x.sum(axis=0) / n
    error = (x - patients[:, None, :] - raters) * kept
    return (
        k * np.einsum("if,if->f", patients, patients) / (n - 1),
        n * np.einsum("jf,jf->f", raters, raters) / (k - 1),
        np.einsum("ijf,ijf->f", error, error) / ((n - 1) * (k - 1)),
    )


def _coefficient(
    patients: NDArray[np.float64],
    raters: NDArray[np.float64],
    error: NDArray[np.float64],
    n: NDArray[np.float64],
    k: int,
) -> NDArray[np.float64]:
    """ICC(A,1) from the mean squares (McGraw & Wong 1996, Table 4)."""
    return np.asarray((patients - error) / (patients + (k - 1) * error + k / n * (raters - error)))


def _interval(
    value: NDArray[np.float64],
    patients: NDArray[np.float64],
    raters: NDArray[np.float64],
    error: NDArray[np.float64],
    n: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of `value`, an ICC(A,1), from the mean squares (McGraw & Wong 1996, Table 7)."""
    # Degrees of freedom of the denominator, written without F = raters / error, which may be x / 0.
    a = k * value * raters
    b = (n * (1 + (k - 1) * value) - k * value) * error
    noise = (n - 1) * a**2 + b**2
    v = np.divide((k - 1) * (n - 1) * (a + b) ** 2, noise, out=np.full_like(noise, k - 1.0), where=noise > 0)
    v = np.maximum(v, np.finfo(float).tiny)

    spread = k * raters + (k * n - k - n) * error
    inverse = fdtri(v, n - 1, 0.025)  # = 1 / F(0.975; n - 1, v), finite also where v is next to 0
    lower = n * (patients * inverse - error) / (spread + n * patients * inverse)
    high = fdtri(v, n - 1, 0.975)
    upper = n * (high * patients - error) / (spread + n * high * patients)
    # For a clearly negative coefficient the approximation breaks down (v near 0); an interval holds its
    # estimate.
    return np.minimum(lower, value), np.maximum(upper, value)


def repeated_values(repeats: pd.DataFrame, patients: Sequence[str], features: Sequence[str]) -> np.ndarray:
    """Values of shape (patients, repeats, features) of the patients who have every repeat."""
    names, patient = np.unique(repeats["patient"].to_numpy(dtype=str), return_inverse=True)
    raters, repeat = np.unique(repeats["repeat"].to_numpy(), return_inverse=True)
    chosen = np.isin(names, list(patients)) & (np.bincount(patient, minlength=len(names)) == len(raters))
    order = np.lexsort((repeat, patient))
    rows = order[chosen[patient[order]]]
    return repeats[list(features)].to_numpy(dtype=float)[rows].reshape(-1, len(raters), len(features))
