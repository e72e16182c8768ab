"""The fitted steps between a table and an estimator. Each takes and returns a frame with patients as index.

The frame that enters has the column `center`, the clinical variables, and one column per radiomics feature. Every step
learns from the rows that it is fitted on and nothing else, so that a pipeline inside a fold cannot leak.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_selection import f_classif

from hccstudy.agreement import MINIMUM_REPEATED, icc_values, repeated_values
from hccstudy.errors import StudyError

CENTER = "center"
BLOCK, TIE = 64, 1e-9  # columns whose correlations are computed at once, and how near to the limit one is a tie


class RadiomicsImputer(TransformerMixin, BaseEstimator):
    """Takes the radiomics columns (all but `clinical`) and fills what is missing with the training median.

    A feature without any training value is dropped. `center` stays, for ComBat.
    """

    def __init__(self, clinical: Sequence[str] = ()) -> None:
        self.clinical = clinical

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        features = X.drop(columns=[CENTER, *self.clinical])
        medians = _medians(features.to_numpy(dtype=float))
        self.features_ = list(features.columns[np.isfinite(medians)])
        self.medians_ = medians[np.isfinite(medians)]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        place = X.columns.get_indexer(self.features_)
        if (place < 0).any():
            absent = sorted(set(self.features_) - set(X.columns))
            raise StudyError(f"{len(absent)} features that the model was trained on are missing, e.g. {absent[0]}")
        values = X.iloc[:, place].to_numpy(dtype=float)
        values = np.where(np.isfinite(values), values, self.medians_)
        return pd.DataFrame(values, index=X.index, columns=self.features_).assign(**{CENTER: X[CENTER]})


def _medians(values: np.ndarray) -> np.ndarray:
    """Median of the finite values of every column (n x p -> p); NaN where there is none."""
    finite = np.isfinite(values)
    complete, empty = finite.all(axis=0), ~finite.any(axis=0)
    medians = np.full(values.shape[1], np.nan)
    medians[complete] = np.median(np.ascontiguousarray(values[:, complete].T), axis=1)
    for place in np.flatnonzero(~complete & ~empty):
        medians[place] = np.median(values[finite[:, place], place])
    return medians


def _columns(X: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """X[names], without a copy where these are its columns: thousands of names take longer than their values."""
    return X if X.columns.tolist() == names else X[names]


class NamedFeatures(TransformerMixin, BaseEstimator):
    """Keeps features whose name matches the regular expression `pattern` (None: all), and `center`."""

    def __init__(self, pattern: str | None = None) -> None:
        self.pattern = pattern

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        names = [name for name in X.columns.tolist() if name != CENTER]
        self.features_ = [name for name in names if self.pattern is None or re.search(self.pattern, name)]
        if not self.features_:
            found = f"none of {len(names)} radiomics features matches {self.pattern!r}"
            raise StudyError(
                f"models: {found}; expected a part of a name such as {names[0] if names else 'morph_volume'}"
            )
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return _columns(X, [*self.features_, CENTER])


class StabilityFilter(TransformerMixin, BaseEstimator):
    """Keeps features whose ICC(2,1) over repeated masks of the training patients reaches `threshold`.

    `repeats` (None: keep all) has the columns patient, repeat and one per feature. Only patients among the training
    rows count, and of those only the ones with every repeat. `center` is dropped: it has served ComBat.
    """

    def __init__(self, repeats: pd.DataFrame | None = None, threshold: float = 0.75) -> None:
        self.repeats = repeats
        self.threshold = threshold

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        names = [name for name in X.columns.tolist() if name != CENTER]
        if self.repeats is not None:
            measured = set(self.repeats.columns.tolist())
            names = [name for name in names if name in measured]
            values = repeated_values(self.repeats, X.index, names)
            if len(values) < MINIMUM_REPEATED:
                found = f"{len(values)} training patients have repeated masks"
                raise StudyError(f"stability: {found}; expected {MINIMUM_REPEATED} or more")
            names = [name for name, value in zip(names, icc_values(values), strict=True) if value >= self.threshold]
            if not names:
                raise StudyError(f"stability: no feature reaches ICC {self.threshold}; lower stability.threshold")
        self.features_ = names
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return X[self.features_]


class RedundancyFilter(TransformerMixin, BaseEstimator):
    """Drops features that hardly vary, and of two that correlate (|Spearman| > `correlation`) the later one.

    A feature hardly varies where nine tenths of the patients share one value. Columns are in the order of series,
    region and image type, so that plain features win over filtered ones.
    """

    def __init__(self, correlation: float = 0.9) -> None:
        self.correlation = correlation

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        values = X.to_numpy(dtype=float)
        low, high = np.quantile(values, [0.05, 0.95], axis=0)
        varies = np.flatnonzero(high - low > 1e-9 * np.maximum(1e-9, np.abs(values).max(axis=0)))
        ranks = rankdata(values[:, varies], axis=0)
        ranks -= ranks.mean(axis=0)
        ranks /= np.sqrt((ranks**2).sum(axis=0))
        self.features_ = X.columns[varies[_first_of_alike(ranks, self.correlation)]].tolist()
        if not self.features_:
            raise StudyError("every radiomics feature is constant on the training patients")
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return X[self.features_]


def _first_of_alike(columns: np.ndarray, correlation: float) -> np.ndarray:
    """Places of the columns (n x p, of length 1) that do not correlate more than `correlation` with one kept before.

    A block of columns is multiplied with all that are left at once. Rounding decides where a correlation is the limit
    itself (0.9 is one of 55 ranks): such a column is multiplied alone, so that the size of blocks changes nothing.
    """
    left, kept = np.arange(columns.shape[1]), []
    rows = np.ascontiguousarray(columns.T)
    while len(left):
        product = np.abs(rows[:BLOCK] @ rows.T)
        alike = product > correlation + TIE
        unsure = (alike != (product > correlation - TIE)).any(axis=1)
        keep = np.ones(len(left), dtype=bool)
        for place in np.arange(len(product)):
            if not keep[place]:
                continue
            if unsure[place]:
                later = np.flatnonzero(keep[place + 1 :]) + place + 1
                alone = np.abs(columns[:, left[later]].T @ columns[:, left[place]]) > correlation
                keep[later[alone]] = False
            else:
                keep[place + 1 :] &= ~alike[place, place + 1 :]
        kept.append(left[:BLOCK][keep[:BLOCK]])
        keep[:BLOCK] = False
        left, rows = left[keep], rows[keep]
    return np.concatenate([np.arange(0), *kept])


class Standardizer(TransformerMixin, BaseEstimator):
    """Subtracts the training mean and divides by the training SD; a constant column becomes 0."""

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        values = X.to_numpy(dtype=float)
        self.mean_ = values.mean(axis=0)
        deviation = values.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1.0)
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        values = (X.to_numpy(dtype=float) - self.mean_) / self.scale_
        return pd.DataFrame(values, index=X.index, columns=X.columns)


class UnivariateSelect(TransformerMixin, BaseEstimator):
    """Keeps the `k` features with the largest univariate score: Cox score test or ANOVA F; None keeps all.

    Expects standardized columns.
    """

    def __init__(self, k: int | None = None) -> None:
        self.k = k

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Self:
        if self.k is None or self.k >= X.shape[1]:
            self.features_ = list(X.columns)
            return self
        scores = np.abs(cox_score(X.to_numpy(), y)) if y.dtype.names else f_classif(X.to_numpy(), y)[0]
        best = np.argsort(-np.nan_to_num(scores), kind="stable")[: self.k]
        self.features_ = [X.columns[place] for place in sorted(best)]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return X[self.features_]


def cox_score(values: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Score of the Cox partial likelihood at beta = 0 for each column (n x p -> p), Breslow ties.

    It is the sum of martingale residuals times covariate: event indicator minus the Nelson-Aalen hazard at the
    patient's time (Therneau & Grambsch 2000, section 4.2).
    """
    time, event = outcome["time"], outcome["event"].astype(float)
    moments = np.unique(time)
    deaths = np.array([event[time == moment].sum() for moment in moments])
    at_risk = np.array([(time >= moment).sum() for moment in moments])
    hazard = np.cumsum(deaths / at_risk)
    residuals = event - hazard[np.searchsorted(moments, time)]
    return np.asarray(values.T @ residuals)


class ClinicalEncoder(TransformerMixin, BaseEstimator):
    """Clinical variables as numbers: training median for missing numbers, logarithm where the configuration says so,
    one column per further level of a category (missing: the training mode).

    `columns`: name -> rules of `cohort.columns`.
    """

    def __init__(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        self.columns = columns

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        self.fill_ = {}
        for name, rules in self.columns.items():
            known = X[name].dropna()
            if known.empty:
                raise StudyError(f"predictor {name} has no value among {len(X)} training patients")
            self.fill_[name] = float(known.median()) if rules["type"] == "number" else str(known.mode().iloc[0])
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        encoded = {}
        for name, rules in self.columns.items():
            values = X[name].where(X[name].notna(), self.fill_[name])
            if rules["type"] == "number":
                encoded[name] = np.log(values.astype(float)) if rules.get("log") else values.astype(float)
            else:
                for level in rules["levels"][1:]:
                    encoded[f"{name}={level}"] = (values == level).astype(float)
        return pd.DataFrame(encoded, index=X.index)
