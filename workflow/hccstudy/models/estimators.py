"""The registry of estimators, and what a fitted one says about a patient.

`ESTIMATORS[endpoint type][name]` makes an unfitted estimator and the grid of hyperparameters that the inner folds
choose from, the simplest model first (it wins ties). A new estimator is one line here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sksurv.ensemble import GradientBoostingSurvivalAnalysis, RandomSurvivalForest
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.linear_model._coxnet import call_fit_coxnet
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv, check_array_survival

from hccstudy.endpoints import risk_column
from hccstudy.models.steps import cox_score

Grid = list[dict[str, Any]]
Maker = Callable[[int], tuple[BaseEstimator, Grid]]

PENALTIES: Grid = [{"fraction": fraction} for fraction in (0.8, 0.65, 0.5, 0.4, 0.3, 0.2)]


class CoxCoefficients(NamedTuple):
    """What ranks patients in a Cox model: coefficients, and what the mean training patient has."""

    coef_: np.ndarray
    offset: float

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.asarray(np.dot(X.to_numpy(), self.coef_) - self.offset)


def _penalties(largest: float, fraction: float) -> np.ndarray:
    """The path of penalties that ends at a fraction of the largest; each starts where the one before ended."""
    return np.geomspace(largest, largest * fraction, 8)[1:]


class PenalizedCox(BaseEstimator):
    """Cox regression with LASSO (`l1_ratio` 1) or elastic-net penalty, scikit-survival's coordinate descent.

    `fraction` is the penalty in units of the smallest one at which every coefficient is zero, so that one grid suits
    folds of any size. Expects standardized columns.
    """

    def __init__(self, fraction: float = 0.5, l1_ratio: float = 1.0) -> None:
        self.fraction = fraction
        self.l1_ratio = l1_ratio

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Self:
        path = _penalties(self._largest(X, y), self.fraction)
        self.model_ = CoxnetSurvivalAnalysis(alphas=path, l1_ratio=self.l1_ratio, fit_baseline_model=True).fit(
            X.to_numpy(), y
        )
        self.coef_ = self.model_.coef_[:, -1]
        self.unique_times_ = self.model_.unique_times_
        return self

    def _largest(self, X: pd.DataFrame, y: np.ndarray) -> float:
        return float(np.abs(cox_score(X.to_numpy(), y)).max() / len(X) / self.l1_ratio)

    def fit_each(self, fractions: Sequence[float], X: pd.DataFrame, y: np.ndarray) -> Iterator[CoxCoefficients]:
        """The coefficients of a `fit` by every penalty, bit by bit: rows are checked, centered and sorted once, and
        there are no baseline hazards, which only predicted survival needs."""
        values = np.array(X.to_numpy(), dtype=float)
        event, time = check_array_survival(values, _without_competing(y))
        mean = np.average(values, axis=0)
        latest = np.argsort(-time, kind="stable")
        values = np.asfortranarray((values - mean)[latest])
        event, time = event[latest].astype(np.uint8), time[latest].astype(float)
        # as CoxnetSurvivalAnalysis calls its solver: no own path, its defaults of iterations and tolerance
        default, alike, largest = CoxnetSurvivalAnalysis(), np.ones(values.shape[1]), self._largest(X, y)
        for fraction in fractions:
            path = _penalties(largest, fraction)
            limits = (int(default.max_iter), default.tol, False)
            coefficients = call_fit_coxnet(values, time, event, alike, path, False, 0.0, self.l1_ratio, *limits)[0]
            if not np.isfinite(coefficients).all():
                raise ArithmeticError(f"Cox coefficients are not finite at penalty fraction {fraction:g}")
            yield CoxCoefficients(coefficients[:, -1], np.dot(mean, coefficients)[-1])

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.asarray(self.model_.predict(X.to_numpy()))

    def predict_survival_function(self, X: pd.DataFrame, return_array: bool = True) -> np.ndarray:
        return np.asarray(self.model_.predict_survival_function(X.to_numpy(), return_array=return_array))


class PenalizedLogistic(ClassifierMixin, BaseEstimator):
    """Logistic regression (two or more classes) with LASSO or elastic-net penalty, saga solver.

    `fraction` as in PenalizedCox: the smallest penalty that leaves the intercepts alone is the largest inner product
    of a column with a class indicator's residual. Expects standardized columns.
    """

    def __init__(self, fraction: float = 0.5, l1_ratio: float = 1.0, seed: int = 0) -> None:
        self.fraction = fraction
        self.l1_ratio = l1_ratio
        self.seed = seed

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Self:
        indicators = (y[:, None] == np.unique(y)[None, :]).astype(float)
        largest = np.abs(X.to_numpy().T @ (indicators - indicators.mean(axis=0))).max() / self.l1_ratio
        self.model_ = LogisticRegression(
            C=1 / (largest * self.fraction),
            l1_ratio=self.l1_ratio,
            solver="saga",
            tol=1e-4,
            max_iter=2000,
            random_state=self.seed,
        ).fit(X.to_numpy(), y)
        self.coef_ = self.model_.coef_
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        return np.asarray(self.model_.predict_proba(X.to_numpy()))


# "linear" is a regression with a ridge penalty that the inner folds choose: few events make an unpenalized one diverge.
RIDGE_COX: Grid = [{"alpha": alpha} for alpha in (100.0, 30.0, 10.0, 3.0, 1.0)]
RIDGE_LOGISTIC: Grid = [{"C": 1 / alpha} for alpha in (100.0, 30.0, 10.0, 3.0, 1.0)]

ESTIMATORS: dict[str, dict[str, Maker]] = {
    "survival": {
        "linear": lambda seed: (CoxPHSurvivalAnalysis(ties="efron"), RIDGE_COX),
        "lasso": lambda seed: (PenalizedCox(l1_ratio=1.0), PENALTIES),
        "elastic_net": lambda seed: (PenalizedCox(l1_ratio=0.5), PENALTIES),
        "forest": lambda seed: (
            RandomSurvivalForest(n_estimators=100, random_state=seed),
            [{"min_samples_leaf": leaf} for leaf in (10, 5)],
        ),
        "boosting": lambda seed: (
            GradientBoostingSurvivalAnalysis(learning_rate=0.05, max_depth=2, subsample=0.7, random_state=seed),
            [{"n_estimators": trees} for trees in (40, 100)],
        ),
    },
    "binary": {
        "linear": lambda seed: (LogisticRegression(max_iter=1000), RIDGE_LOGISTIC),
        "lasso": lambda seed: (PenalizedLogistic(l1_ratio=1.0, seed=seed), PENALTIES),
        "elastic_net": lambda seed: (PenalizedLogistic(l1_ratio=0.5, seed=seed), PENALTIES),
        "forest": lambda seed: (
            RandomForestClassifier(n_estimators=100, random_state=seed),
            [{"min_samples_leaf": leaf} for leaf in (10, 5)],
        ),
        "boosting": lambda seed: (
            GradientBoostingClassifier(learning_rate=0.05, max_depth=2, subsample=0.7, random_state=seed),
            [{"n_estimators": trees} for trees in (40, 100)],
        ),
    },
}
ESTIMATORS["multiclass"] = ESTIMATORS["binary"]


def fit_quietly(estimator: BaseEstimator, X: pd.DataFrame, y: np.ndarray) -> BaseEstimator:
    """Fit; a solver that has not quite converged is a weaker candidate, not a warning to the user.

    Competing events are censorings to a survival estimator: it models the cause-specific hazard.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, _without_competing(y))


def _without_competing(y: np.ndarray) -> np.ndarray:
    return np.asarray(Surv.from_arrays(y["event"], y["time"])) if y.dtype.names else y


def free_of_competing(y: np.ndarray) -> np.ndarray | None:
    """Times (first row) and the share of patients without a competing event just after them (second row), by
    Kaplan-Meier with the event as censoring; None where nothing competes.
    """
    if not y.dtype.names or "competing" not in y.dtype.names or not y["competing"].any():
        return None
    return np.vstack(kaplan_meier_estimator(y["competing"], y["time"]))


def event_probability(survival: np.ndarray, times: np.ndarray, horizon: float, free: np.ndarray | None) -> np.ndarray:
    """Probability of the event by the horizon (n,) from a model's survival (n x times).

    1 - survival, or where events compete the cumulative incidence: the sum of steps of the event-free survival times
    the share still free of competing events just before, which covariates are not assumed to change (Putter et al. 2007).
    """
    last = np.searchsorted(times, horizon, side="right")
    if free is None or not last:
        return 1 - survival[:, last - 1] if last else np.zeros(len(survival))
    steps = -np.diff(survival[:, :last], axis=1, prepend=1.0)
    before = np.append(1.0, free[1])[np.searchsorted(free[0], times[:last], side="left")]
    return np.asarray(steps @ before)


def linear_predictor(model: Any, X: pd.DataFrame) -> np.ndarray:
    """What ranks patients, as columns: log relative hazard, logit of risk, or logits of all classes but the first."""
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(X)).reshape(-1, 1)
    return _log_ratios(model.predict_proba(X))


def _log_ratios(probabilities: np.ndarray) -> np.ndarray:
    probabilities = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.log(probabilities[:, 1:] / probabilities[:, :1])


def inner_score(estimator: Any, X: pd.DataFrame, y: np.ndarray) -> tuple[float, np.ndarray]:
    """What the inner folds maximize, and the linear predictors (n x k) behind it.

    The mean log-likelihood of the classes, the log partial likelihood per event of Cox models (which sees shrinkage,
    where concordance does not), Harrell's C of survival trees.
    """
    if y.dtype.names:
        predicted = np.asarray(estimator.predict(X))
        of_ranks = log_partial_likelihood if hasattr(estimator, "coef_") else concordance
        return of_ranks(predicted, y), predicted.reshape(-1, 1)
    probabilities = estimator.predict_proba(X)
    known = np.isin(y, estimator.classes_)  # a class that the inner training rows lack cannot be scored
    score = -float(log_loss(y[known], probabilities[known], labels=estimator.classes_))
    return score, _log_ratios(probabilities)


def concordance(predicted: np.ndarray, outcome: np.ndarray) -> float:
    """Harrell's C (predictions within 1e-8 are tied and count one half), 0.5 where no pair can be compared.

    As sksurv's concordance_index_censored, all pairs at once: counts of pairs are whole numbers, so not a digit differs.
    """
    time, first = outcome["time"], outcome["event"].astype(bool)
    outlives = (time > time[first, None]) | ((time == time[first, None]) & ~first)
    ahead = predicted[first, None] - predicted
    tied = np.abs(ahead) <= 1e-8
    pairs = outlives.sum()
    won = (outlives & (ahead > 0) & ~tied).sum() + 0.5 * (outlives & tied).sum()
    return float(won / pairs) if pairs else 0.5


def log_partial_likelihood(lp: np.ndarray, outcome: np.ndarray) -> float:
    """Cox log partial likelihood per event (Breslow ties) of a linear predictor; 0 without events."""
    order = np.argsort(-outcome["time"], kind="stable")
    time, event, lp = outcome["time"][order], outcome["event"][order], lp[order]
    at_risk = np.logaddexp.accumulate(lp)
    last = np.searchsorted(-time, -time, side="right") - 1  # ties are at risk together
    return float((lp - at_risk[last])[event].sum() / max(1, event.sum()))


def scores(model: Any, X: pd.DataFrame, endpoint: dict[str, Any]) -> pd.DataFrame:
    """What is reported of each patient: survival `lp` and `risk@<horizon>`; binary `risk`; multiclass `p@<level>`."""
    if endpoint["type"] == "survival":
        estimator, prepared = model[-1], model[:-1].transform(X)
        survival = estimator.predict_survival_function(prepared, return_array=True)
        times = estimator.unique_times_
        if isinstance(estimator, RandomSurvivalForest):
            # a forest predicts mortality; on the scale of a log hazard it is log(-log S) at the last horizon
            last = max(0, np.searchsorted(times, max(endpoint["horizons"]), side="right") - 1)
            columns = {"lp": np.log(-np.log(np.clip(survival[:, last], 1e-6, 1 - 1e-6)))}
        else:
            columns = {"lp": np.asarray(estimator.predict(prepared))}
        free = getattr(estimator, "free_of_competing_", None)
        for horizon in endpoint["horizons"]:
            columns[risk_column(horizon)] = event_probability(survival, times, horizon, free)
        return pd.DataFrame(columns, index=X.index)
    probabilities = pd.DataFrame(model.predict_proba(X), index=X.index, columns=list(model.classes_))
    if endpoint["type"] == "binary":
        return pd.DataFrame({"risk": probabilities[1]})
    return pd.DataFrame({f"p@{level}": probabilities.get(level, 0.0) for level in endpoint["levels"]}, index=X.index)


def importance(model: Sequence[Any], names: Sequence[str]) -> pd.DataFrame:
    """Selected features with their coefficient (per SD) or impurity importance; empty where there is neither."""
    estimator = model[-1]
    values = getattr(estimator, "coef_", None)
    kind = "coefficient"
    if values is None:
        kind = "importance"
        try:
            values = estimator.feature_importances_
        except (AttributeError, NotImplementedError):  # random survival forests have none
            values = np.full(len(names), np.nan)
    values = np.atleast_2d(np.asarray(values))
    classes = list(getattr(estimator, "classes_", [])) if len(values) > 1 else [""]
    frame = pd.DataFrame(values.T, index=list(names), columns=classes)
    long = frame.rename_axis("feature").reset_index().melt("feature", var_name="level", value_name="coefficient")
    long = long[long["coefficient"] != 0].assign(kind=kind)
    return long[["feature", "level", "kind", "coefficient"]]
