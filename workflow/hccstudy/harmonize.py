"""What harmonization does to the features of the development centers: tables for the report.

Nothing here feeds a model: models fit `CenterComBat` anew inside every resampling fold. No outcome is read.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hccstudy.combat import CenterComBat, ComBat
from hccstudy.errors import StudyError
from hccstudy.tables import read_table, write_json, write_table

__all__ = ["CenterComBat", "ComBat", "describe"]

log = logging.getLogger(__name__)

METHODS = ("combat", "none")
SHIFTS = ["feature", "center", "shift", "scale"]
CENTERS = ["features", "balanced_accuracy", "lower", "upper", "chance", "n"]
EMBEDDING = ["patient", "center", "features", "pc1", "pc2"]

# How well a classifier tells the centers: repeats of a stratified cross-validation, principal components it
# sees, bootstrap draws of its interval.
FOLDS, REPEATS, COMPONENTS, DRAWS = 5, 5, 10, 2000


def describe(
    *,
    features: str,
    development: str,
    settings: dict[str, Any],
    parameters: str,
    shifts: str,
    centers: str,
    embedding: str,
) -> None:
    """Fit ComBat on all development patients and write its parameters and what it did.

    `features`: patient, center, feature columns; `development`: its column patient says who counts.
    `settings`: {"method": "combat" or "none", "seed"}.
    `shifts`: per feature and center the shift in pooled within-center SD, and the scale as a ratio of SDs.
    `centers`: how well a classifier tells the center, raw and harmonized (see tell_centers).
    `embedding`: first two principal components of the standardized features, raw and harmonized.
    With method "none", or a single development center, the tables hold the raw part only.
    """
    if settings["method"] not in METHODS:
        raise StudyError(f"harmonize.method is {settings['method']!r}; expected one of {', '.join(METHODS)}")
    table = read_table(features, ["patient", "center"])
    patients = read_table(development, ["patient"])["patient"]
    table = table[table["patient"].isin(patients)].sort_values("patient").set_index("patient")
    if table.empty:
        raise StudyError(f"{features}: no patient of {development}; expected features of development patients")
    raw = _impute(table, table)

    versions = {"raw": raw}
    state: dict[str, Any] = {"method": "none", "settings": settings}
    moves = pd.DataFrame(columns=SHIFTS)
    if settings["method"] == "combat" and raw["center"].nunique() > 1:
        model = CenterComBat().fit(raw)
        versions["harmonized"] = model.transform(raw)
        state |= {"method": "combat", "combat": model.combat_.to_parameters()}
        moves = list_shifts(model.combat_)
    elif settings["method"] == "combat":
        log.warning("harmonize: all development patients are of center %s: nothing to do", raw["center"].iloc[0])

    told = [
        {"features": name} | told_apart
        for name in versions
        if (told_apart := tell_centers(table, settings["seed"], harmonized=name == "harmonized"))
    ]
    write_json(state, parameters)
    write_table(moves, shifts)
    write_table(pd.DataFrame(told, columns=CENTERS), centers)
    drawn = [embed(frame).assign(features=name)[EMBEDDING] for name, frame in versions.items()]
    write_table(pd.concat(drawn), embedding)


def list_shifts(combat: ComBat) -> pd.DataFrame:
    """Shift (SD) and scale (SD ratio) of every adjusted feature in every center."""
    parts = [
        pd.DataFrame({"feature": combat.features_, "center": name, "shift": batch["shift"], "scale": batch["scale"]})
        for name, batch in combat.batches_.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[~table["feature"].isin(combat.untouched_)].reset_index(drop=True)[SHIFTS]


def embed(frame: pd.DataFrame) -> pd.DataFrame:
    """Patient, center and the first two principal components of the standardized features."""
    x = StandardScaler().fit_transform(frame.drop(columns="center").to_numpy())
    scores = np.zeros((len(x), 2))
    count = min(2, *x.shape)
    scores[:, :count] = PCA(count, svd_solver="full").fit_transform(x)
    return pd.DataFrame(
        {"patient": frame.index, "center": frame["center"].array, "pc1": scores[:, 0], "pc2": scores[:, 1]}
    )


def tell_centers(table: pd.DataFrame, seed: int, *, harmonized: bool) -> dict[str, float]:
    """Balanced accuracy with which a linear classifier tells the center of patients it was not trained on.

    `table`: center and feature columns, NaN allowed; `harmonized`: with ComBat. Imputation, ComBat, scaling,
    principal components and discriminant analysis are fitted inside each fold of a repeated stratified
    cross-validation. 95 % interval: bootstrap over patients within centers, given the out-of-fold predictions.
    Chance is 1 / centers. Centers with fewer patients than folds are left out; {} if one is left.
    """
    sizes = table["center"].value_counts()
    table = table[table["center"].isin(sizes.index[sizes >= FOLDS])]
    center = table["center"].to_numpy()
    names, index = np.unique(center.astype(str), return_inverse=True)
    if len(names) < 2:
        return {}
    model = CenterComBat(sizes=sizes.to_dict()) if harmonized else None
    hits = np.zeros(len(table))
    for repeat in range(REPEATS):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed + repeat)
        for train, test in folds.split(index, index):
            predicted = _predict_centers(table.iloc[train], table.iloc[test], model)
            hits[test] += (predicted == index[test]) / REPEATS
    rng = np.random.default_rng(seed)
    groups = [hits[index == number] for number in range(len(names))]
    draws = np.mean([rng.choice(group, (DRAWS, len(group))).mean(axis=1) for group in groups], axis=0)
    lower, upper = np.quantile(draws, [0.025, 0.975])
    return {
        "balanced_accuracy": float(np.mean([group.mean() for group in groups])),
        "lower": float(lower),
        "upper": float(upper),
        "chance": 1 / len(names),
        "n": len(table),
    }


def _predict_centers(train: pd.DataFrame, test: pd.DataFrame, model: CenterComBat | None) -> NDArray[np.int64]:
    """Number of the predicted center (in sorted order) of each test row; every step is fitted on `train`."""
    seen, new = _impute(train, train), _impute(test, train)
    if model is not None:
        model.fit(seen)
        seen, new = model.transform(seen), model.transform(new)
    names, index = np.unique(seen["center"].astype(str), return_inverse=True)
    x = seen.drop(columns="center").to_numpy()
    classifier = make_pipeline(
        StandardScaler(),
        PCA(min(COMPONENTS, x.shape[1], len(x) - len(names)), svd_solver="full"),
        LinearDiscriminantAnalysis(priors=np.full(len(names), 1 / len(names))),
    )
    return classifier.fit(x, index).predict(new.drop(columns="center").to_numpy())


def _impute(frame: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """Missing values by the training medians; features that no training patient has are left out."""
    medians = training.drop(columns="center").median()
    medians = medians[medians.notna()]
    values = frame[medians.index].to_numpy(dtype=float)
    values = np.where(np.isnan(values), medians.to_numpy(), values)
    filled = pd.DataFrame(values, index=frame.index, columns=medians.index)
    filled.insert(0, "center", frame["center"])
    return filled
