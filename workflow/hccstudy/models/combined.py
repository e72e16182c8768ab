"""The predictors of combined models: clinical variables plus the Radscore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, clone

from hccstudy.models.estimators import linear_predictor
from hccstudy.models.steps import ClinicalEncoder


class CombinedPredictors(TransformerMixin, BaseEstimator):
    """Clinical variables plus the Radscore, the linear predictor of a radiomics model.

    `radscore` is that model, unfitted and tunable (`TunedModel`). For the training rows the Radscore is the one of the
    inner folds, in which the patient was held out: taken in sample it would look better than it is, and the clinical
    variables would be crowded out. New patients get the Radscore of the model fitted on all training rows.
    """

    def __init__(self, radscore: Any, clinical: Mapping[str, Mapping[str, Any]]) -> None:
        self.radscore = radscore
        self.clinical = clinical

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Self:
        self._fit_radscore(X, y)
        return self

    def _fit_radscore(self, X: pd.DataFrame, y: np.ndarray) -> np.ndarray:
        tuned = clone(self.radscore).fit(X, y)
        self.radscore_ = tuned.pipeline_
        self.encoder_ = ClinicalEncoder(self.clinical).fit(X)
        return np.asarray(tuned.held_out_)

    def fit_transform(self, X: pd.DataFrame, y: np.ndarray | None = None, **_: Any) -> pd.DataFrame:
        assert y is not None
        return self._join(X, self._fit_radscore(X, y))

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return self._join(X, linear_predictor(self.radscore_, X))

    def _join(self, X: pd.DataFrame, scores: np.ndarray) -> pd.DataFrame:
        names = ["radscore"] if scores.shape[1] == 1 else [f"radscore_{place}" for place in range(scores.shape[1])]
        return self.encoder_.transform(X).assign(**dict(zip(names, scores.T, strict=True)))
