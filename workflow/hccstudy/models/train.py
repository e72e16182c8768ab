"""Training: nested cross-validation on development patients, then the model that is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from hccstudy.combat import CenterComBat
from hccstudy.config import SELECT, minimum_training
from hccstudy.endpoints import outcome_columns
from hccstudy.errors import StudyError
from hccstudy.models.combined import CombinedPredictors
from hccstudy.models.estimators import ESTIMATORS, importance, scores
from hccstudy.models.frozen import save_model
from hccstudy.models.resampling import TunedModel, assign_folds, strata
from hccstudy.models.steps import (
    CENTER,
    ClinicalEncoder,
    NamedFeatures,
    RadiomicsImputer,
    RedundancyFilter,
    StabilityFilter,
    Standardizer,
    UnivariateSelect,
)
from hccstudy.tables import file_digest, read_table, write_frozen_json, write_table


def categories(settings: dict[str, Any]) -> list[str]:
    """The columns of the cohort that hold categories; their levels are text, "0" and "1" too."""
    names = [name for name, rules in settings["clinical"].items() if rules["type"] == "category"]
    return names + ([settings["endpoint"]["column"]] if settings["endpoint"]["type"] == "multiclass" else [])


def outcome_array(frame: pd.DataFrame, endpoint: dict[str, Any]) -> np.ndarray:
    """Outcomes as models want them: records (event, time, competing), 0/1, or class names."""
    if endpoint["type"] == "survival":
        outcome = np.empty(len(frame), dtype=[("event", bool), ("time", float), ("competing", bool)])
        outcome["event"], outcome["time"] = frame[endpoint["event"]] == 1, frame[endpoint["time"]]
        outcome["competing"] = frame[endpoint["event"]] == endpoint.get("competing")
        return outcome
    values = frame[endpoint["column"]]
    return values.to_numpy(dtype=int) if endpoint["type"] == "binary" else values.to_numpy(dtype=str)


def predictor_frame(features: pd.DataFrame, patients: pd.DataFrame, clinical: list[str]) -> pd.DataFrame:
    """One row a patient who has features: index patient, columns center, clinical variables, radiomics features."""
    joined = patients.set_index("patient")[[CENTER, *clinical]]
    radiomics = features.set_index("patient").drop(columns=CENTER)
    return _quick_names(joined.join(radiomics, how="inner").sort_index())


def _quick_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Thousands of columns are looked up by name in every fold, which is slower in Arrow's strings than in Python's."""
    return frame.set_axis(frame.columns.astype(object), axis="columns")


def development_data(
    features: str, development: str, repeats: str, settings: dict[str, Any]
) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, pd.DataFrame | None]:
    """What a model is trained on: predictors and outcomes of the development patients who have both, their rows of
    the development table, and the repeated measurements (None where stability is not assessed).
    """
    endpoint = settings["endpoint"]
    patients = read_table(development, text=categories(settings))
    repeated = _quick_names(read_table(repeats)) if settings["stability"]["method"] != "none" else None
    X = predictor_frame(read_table(features), patients, list(settings["clinical"]))
    known = patients.set_index("patient").loc[X.index]
    known = known[known[outcome_columns(endpoint)[0]].notna()]
    return X.loc[known.index], outcome_array(known, endpoint), known, repeated


def candidate_parameters(settings: dict[str, Any], X: pd.DataFrame) -> int:
    """Parameters offered to a model before any selection; a category counts once per level but the first, a feature that
    no patient of `X` has not at all."""
    clinical = sum(len(variable.get("levels", [0, 1])) - 1 for variable in settings["clinical"].values())
    measured = X.drop(columns=list(settings["clinical"])).dropna(axis="columns", how="all")
    radiomics = NamedFeatures(settings["model"]["features"]).fit(measured).features_
    candidates = {"radiomics": len(radiomics), "clinical": clinical}
    predictors = settings["model"]["predictors"]
    return sum(candidates.values()) if predictors == "combined" else candidates[predictors]


def build_model(settings: dict[str, Any], repeats: pd.DataFrame | None, sizes: Mapping[str, int]) -> TunedModel:
    """The unfitted model that `settings` (see `settings.model_settings`) describe.

    `repeats`: repeated measurements for the stability filter; `sizes`: patients of each development center.
    """
    kind, rules = settings["endpoint"]["type"], settings["model"]
    resampling, seed = settings["resampling"], settings["seed"]
    repeated = () if repeats is None else tuple(sorted(set(repeats["patient"])))

    def tuned(steps: list[tuple[str, Any]], estimator: str, *, tune: bool = True) -> TunedModel:
        made, grid = ESTIMATORS[kind][estimator](seed)
        grid = grid if tune else [grid[len(grid) // 2]]
        return TunedModel(Pipeline(steps), made, grid, resampling["inner_folds"], seed, repeated)

    def radiomics(select: int | None) -> list[tuple[str, Any]]:
        combat = CenterComBat(sizes=dict(sizes)) if settings["harmonize"] == "combat" else "passthrough"
        return [
            ("impute", RadiomicsImputer(clinical=list(settings["clinical"]))),
            ("combat", combat),
            ("named", NamedFeatures(rules["features"])),
            ("stability", StabilityFilter(repeats, settings["stability"]["threshold"])),
            ("redundancy", RedundancyFilter(resampling["correlation"])),
            ("scale", Standardizer()),
            ("select", UnivariateSelect(select)),
        ]

    if rules["predictors"] == "radiomics":
        return tuned(radiomics(rules["select"]), rules["estimator"])
    last = [("scale", Standardizer()), ("select", UnivariateSelect(rules["select"]))]
    if rules["predictors"] == "clinical":
        return tuned([("encode", ClinicalEncoder(settings["clinical"])), *last], rules["estimator"])
    # The Radscore is tuned inside; tuning around it would cost four times the fits, so the middle of the grid is taken.
    radscore = tuned(radiomics(SELECT["lasso"]), "lasso")
    combine = CombinedPredictors(radscore, settings["clinical"])
    return tuned([("combine", combine), *last], rules["estimator"], tune=False)


def cut_off(predicted: pd.DataFrame) -> float | None:
    """The risk-group cut-off: the median score of the rows that the model was trained on."""
    score = ranking(predicted)
    return None if score is None else float(score.median())


def ranking(predicted: pd.DataFrame) -> pd.Series | None:
    """The score that risk groups go by; several classes have none."""
    return next((predicted[name] for name in ("lp", "risk") if name in predicted), None)


def with_groups(predicted: pd.DataFrame, cut: float | None) -> pd.DataFrame:
    score = ranking(predicted)
    if score is None or cut is None:
        return predicted
    return predicted.assign(group=np.where(score > cut, "high", "low"))


def cross_validate(
    model: TunedModel, X: pd.DataFrame, y: np.ndarray, fold: np.ndarray, endpoint: dict[str, Any]
) -> pd.DataFrame:
    """Out-of-fold scores: each patient's from a model whose every step was fitted without this patient's fold."""
    parts = []
    for number in np.unique(fold):
        inside = fold != number
        fitted = clone(model).fit(X[inside], y[inside]).pipeline_
        cut = cut_off(scores(fitted, X[inside], endpoint))
        held_out = with_groups(scores(fitted, X[~inside], endpoint), cut)
        held_out.insert(0, "fold", number)
        parts.append(held_out)
    return pd.concat(parts).loc[X.index]


def train_model(
    *,
    features: str,
    development: str,
    repeats: str,
    settings: dict[str, Any],
    oof: str,
    model: str,
    card: str,
    coefficients: str,
    tuning: str,
) -> None:
    """Nested cross-validation and the frozen model of one endpoint and model (see docs/architecture.md for the files).

    Patients without features or without this outcome are left out here; the ledger has them.
    """
    endpoint, rules = settings["endpoint"], settings["model"]
    X, y, _, repeated = development_data(features, development, repeats, settings)
    sizes = X[CENTER].value_counts().to_dict()
    needed = minimum_training(settings["resampling"]["folds"])
    if len(X) < needed:
        found = f"{len(X)} development patients with features and {outcome_columns(endpoint)[0]}"
        advice = "the ledger says who was lost; fewer resampling.folds need fewer"
        raise StudyError(f"{endpoint['name']} {rules['name']}: {found}; expected at least {needed} ({advice})")

    unfitted = build_model(settings, repeated, sizes)
    folds, seed = settings["resampling"]["folds"], settings["seed"] + 1
    balanced = strata(y, X.index, unfitted.repeated)
    fold = assign_folds(list(X.index), list(X[CENTER]), folds, seed, balanced)
    held_out = cross_validate(unfitted, X, y, fold, endpoint)
    held_out.insert(0, CENTER, X[CENTER])
    write_table(held_out.reset_index(), oof)

    tuned = clone(unfitted).fit(X, y)
    fitted = tuned.pipeline_
    cut = cut_off(scores(fitted, X, endpoint))
    names = list(fitted[:-1].transform(X.iloc[:1]).columns)
    selected = importance(fitted, names)
    write_table(selected, coefficients)
    write_table(pd.DataFrame(tuned.tuning_, columns=None if tuned.tuning_ else ["inner_score"]), tuning)
    save_model(fitted, model)
    offered = candidate_parameters(settings, X)
    events = int(y["event"].sum()) if y.dtype.names else int(pd.Series(y).value_counts().min())
    write_frozen_json(
        {
            "endpoint": endpoint["name"],
            "model": rules["name"],
            "predictors": rules["predictors"],
            "estimator": rules["estimator"],
            "sha256": file_digest(model),
            "file": Path(model).name,
            "n": len(X),
            "events": events,
            "candidates": offered,
            "events_per_candidate": round(events / offered, 4),
            "entered": len(names),
            "selected": int(selected["feature"].nunique()),
            "hyperparameters": tuned.best_,
            "tried": len(tuned.tuning_) or 1,
            "cut_off": cut,
            "centers": sorted(X[CENTER].unique()),
        },
        card,
    )
