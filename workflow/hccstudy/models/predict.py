"""Predictions of frozen models for external centers. No outcome is read here."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from hccstudy.combat import CenterComBat
from hccstudy.endpoints import score_columns
from hccstudy.models.estimators import scores
from hccstudy.models.frozen import load_model, read_card
from hccstudy.models.resampling import assign_folds
from hccstudy.models.steps import CENTER
from hccstudy.models.train import categories, predictor_frame, with_groups
from hccstudy.tables import read_table, write_table

PRIMARY, SECONDARY = "none", "center-calibrated"


def predict_external(
    *, features: str, external: str, model: str, card: str, settings: dict[str, Any], predictions: str
) -> None:
    """Scores of every external patient with features.

    `harmonization` says how the new center's features were treated: "none" is the primary result (the frozen model as
    it is); "center-calibrated" is secondary, with the center's shift and scale estimated from the features of its other
    half, so that no patient's own features harmonize him or her.
    """
    frozen = read_card(card)
    pipeline = load_model(model, frozen["sha256"])
    patients = read_table(external, text=categories(settings))
    X = predictor_frame(read_table(features), patients, list(settings["clinical"]))
    endpoint = settings["endpoint"]
    parts = []
    if len(X):
        parts.append(with_groups(scores(pipeline, X, endpoint), frozen["cut_off"]).assign(harmonization=PRIMARY))
        calibrated = _center_calibrated(pipeline, X, settings)
        if calibrated is not None:
            parts.append(with_groups(calibrated, frozen["cut_off"]).assign(harmonization=SECONDARY))
    if parts:
        frame = pd.concat(parts)
        frame.insert(0, CENTER, X[CENTER].loc[frame.index].to_numpy())
        frame.insert(1, "harmonization", frame.pop("harmonization"))
    else:
        grouped = [] if endpoint["type"] == "multiclass" else ["group"]
        frame = pd.DataFrame(columns=[CENTER, "harmonization", *score_columns(endpoint), *grouped])
    write_table(frame.rename_axis("patient").reset_index(), predictions)


def _combat_steps(pipeline: Pipeline) -> Iterator[tuple[Pipeline, int]]:
    """Every pipeline, the one inside a Radscore too, with the place of its ComBat step."""
    for place, (_, step) in enumerate(pipeline.steps):
        if isinstance(step, CenterComBat):
            yield pipeline, place
        if hasattr(step, "radscore_"):
            yield from _combat_steps(step.radscore_)


def _center_calibrated(pipeline: Pipeline, X: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame | None:
    """Scores with each new center harmonized half by half; None where the model has no ComBat or no center suffices."""
    if not list(_combat_steps(pipeline)):
        return None
    half = assign_folds(list(X.index), list(X[CENTER]), 2, settings["seed"] + 2)
    parts = []
    for center in sorted(X[CENTER].unique()):
        inside = (X[CENTER] == center).to_numpy()
        smallest = min(np.sum(inside & (half == number)) for number in (0, 1))
        if smallest < 10:  # policy: fewer patients cannot estimate a shift and a scale
            continue
        for number in (0, 1):
            calibrated = copy.deepcopy(pipeline)
            for part, place in _combat_steps(calibrated):
                known = X[inside & (half != number)]
                known = part[:place].transform(known) if place else known
                part.steps[place] = (part.steps[place][0], part.steps[place][1].add_center(known))
            parts.append(scores(calibrated, X[inside & (half == number)], settings["endpoint"]))
    return pd.concat(parts).sort_index() if parts else None
