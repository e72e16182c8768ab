"""Folds and tuning: everything that is fitted is fitted on training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from hccstudy.models.estimators import Grid, PenalizedCox, fit_quietly, free_of_competing, inner_score
from hccstudy.models.steps import CENTER


def assign_folds(
    patients: Sequence[str],
    centers: Sequence[str],
    folds: int,
    seed: int,
    strata: Sequence[str] | None = None,
) -> np.ndarray:
    """Fold (0 .. folds-1) of every row; all rows of a patient (a bootstrap draws some twice) are in one fold.

    The patients of each center and, where given, of each stratum are dealt out in an order drawn by `seed`, so that
    every fold has its share of every center and outcome. Shares matter: with fewer events in one fold its model's
    training rows have more, and pooled out-of-fold scores of a useless model would rank patients in reverse.
    """
    strata = strata or [""] * len(patients)
    drawn = {patient: hashlib.sha256(f"{seed} {patient}".encode()).hexdigest() for patient in patients}
    first = {patient: place for place, patient in reversed(list(enumerate(patients)))}
    order = sorted(drawn, key=lambda patient: (centers[first[patient]], strata[first[patient]], drawn[patient]))
    fold = {patient: number % folds for number, patient in enumerate(order)}
    return np.array([fold[patient] for patient in patients], dtype=int)


def strata(y: np.ndarray, patients: Sequence[str], repeated: Collection[str]) -> list[str]:
    """What folds are balanced for: the event or class, and who has repeated measurements (for the stability filter)."""
    outcomes = y["event"] if y.dtype.names else y
    return [f"{patient in repeated} {outcome}" for patient, outcome in zip(patients, outcomes, strict=True)]


class TunedModel(BaseEstimator):
    """`steps` and `estimator` with hyperparameters from `grid`, chosen by cross-validation inside the training rows.

    The steps are fitted once per inner fold and shared by all candidates. After `fit`: `pipeline_` (steps and
    estimator, fitted on all rows), `best_` (hyperparameters), `tuning_` (mean inner score of each candidate) and
    `held_out_` (n x k linear predictors of the best candidate, each row from the fold that held it out).
    """

    def __init__(
        self,
        steps: Pipeline,
        estimator: BaseEstimator,
        grid: Grid,
        folds: int,
        seed: int,
        repeated: Collection[str] = (),
    ) -> None:
        self.steps = steps
        self.estimator = estimator
        self.grid = grid
        self.folds = folds
        self.seed = seed
        self.repeated = repeated

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Self:
        self.best_: dict[str, Any] = self.grid[0]
        self.tuning_: list[dict[str, Any]] = []
        if len(self.grid) > 1:
            self._tune(X, y)
        steps = clone(self.steps)
        prepared = steps.fit_transform(X, y)
        estimator = fit_quietly(clone(self.estimator).set_params(**self.best_), prepared, y)
        free = free_of_competing(y)
        if free is not None:
            estimator.free_of_competing_ = free
        self.pipeline_ = Pipeline([*steps.steps, ("estimator", estimator)])
        return self

    def _tune(self, X: pd.DataFrame, y: np.ndarray) -> None:
        balanced = strata(y, X.index, self.repeated)
        fold = assign_folds(list(X.index), list(X[CENTER]), self.folds, self.seed, balanced)
        classes = [None] if y.dtype.names else list(np.unique(y))
        width = 1 if len(classes) < 3 else len(classes) - 1
        held_out = np.full((len(self.grid), len(X), width), np.nan)
        values = np.empty((len(self.grid), self.folds))
        for number in range(self.folds):
            inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            steps = clone(self.steps)
            training = steps.fit_transform(X.iloc[inside], y[inside])
            testing = steps.transform(X.iloc[outside])
            for place, estimator in enumerate(self._candidates(training, y[inside])):
                values[place, number], predicted = inner_score(estimator, testing, y[outside])
                held_out[place, outside] = _all_classes(predicted, estimator, classes)
        best = int(np.argmax(values.mean(axis=1)))
        self.best_ = self.grid[best]
        self.held_out_ = held_out[best]
        self.tuning_ = [
            candidate | {"inner_score": float(value)}
            for candidate, value in zip(self.grid, values.mean(axis=1), strict=True)
        ]

    def _candidates(self, X: pd.DataFrame, y: np.ndarray) -> Iterator[Any]:
        """The estimator, fitted with every entry of the grid."""
        if isinstance(self.estimator, PenalizedCox):
            yield from self.estimator.fit_each([candidate["fraction"] for candidate in self.grid], X, y)
            return
        for candidate in self.grid:
            yield fit_quietly(clone(self.estimator).set_params(**candidate), X, y)

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.asarray(self.pipeline_.predict(X))


def _all_classes(predicted: np.ndarray, estimator: Any, classes: list[Any]) -> np.ndarray:
    """Linear predictors with a column for every class but the first, where an inner fold lacked one (floor: -14)."""
    if len(classes) < 3 or len(estimator.classes_) == len(classes):
        return predicted
    full = np.full((len(predicted), len(classes) - 1), np.log(1e-6))
    for place, name in enumerate(estimator.classes_[1:]):
        full[:, classes.index(name) - 1] = predicted[:, place]
    return full
