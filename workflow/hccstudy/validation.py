"""Validation: how well frozen predictions agree with what happened, per center and pooled.

The only stage that reads external outcomes. Predictions are joined with outcomes, checked, and given to the engine
(`evaluation`), whose tables are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from hccstudy.endpoints import outcome_columns, score_columns
from hccstudy.errors import StudyError
from hccstudy.evaluation import TABLES, check_predictions, compare, evaluate
from hccstudy.tables import read_table, write_table

Settings = dict[str, Any]


def _with_outcomes(scores: str, outcomes: str, settings: Settings, evaluation: str) -> pd.DataFrame:
    """Scores joined with outcomes by patient, checked."""
    wanted = outcome_columns(settings)
    text = wanted if settings["type"] == "multiclass" else []
    found = read_table(outcomes, ["patient", *wanted], text=text)[["patient", *wanted]]
    predicted = read_table(scores, ["patient", "center", *score_columns(settings)])
    if "harmonization" not in predicted:
        predicted["harmonization"] = "none"
    twice = predicted[["patient", "harmonization"]].duplicated()
    if twice.any():
        raise StudyError(f"{scores}: {predicted.loc[twice, 'patient'].iloc[0]} appears twice; expected once")
    if found["patient"].duplicated().any():
        twice = found.loc[found["patient"].duplicated(), "patient"]
        raise StudyError(f"{outcomes}: {twice.iloc[0]} appears twice; expected once")
    unknown = sorted(set(predicted["patient"]) - set(found["patient"]))
    if unknown:
        raise StudyError(f"{scores}: {unknown[0]} has a prediction; expected a row in {outcomes} too")
    joined = predicted.merge(found, on="patient", validate="many_to_one").assign(evaluation=evaluation)
    check_predictions(joined, settings, scores, outcomes)
    return joined


def _predictions(oof: str, predictions: str, development: str, outcomes: str, settings: Settings) -> pd.DataFrame:
    joined = [
        _with_outcomes(oof, development, settings, "cross-validated"),
        _with_outcomes(predictions, outcomes, settings, "external"),
    ]
    return pd.concat([part for part in joined if len(part)], ignore_index=True)


def validate(
    *,
    oof: str,
    predictions: str,
    development: str,
    outcomes: str,
    settings: Settings,
    metrics: str,
    calibration_curve: str,
    calibration_groups: str,
    net_benefit: str,
    kaplan_meier: str,
    confusion: str,
    roc: str,
) -> None:
    """Evaluate one model for one endpoint and write all tables.

    oof with development: out-of-fold scores and outcomes of development patients; predictions with outcomes:
    scores of the frozen model and outcomes of external patients. settings as in `evaluation.evaluate`.
    """
    tables = evaluate(_predictions(oof, predictions, development, outcomes, settings), settings)
    paths = (metrics, calibration_curve, calibration_groups, net_benefit, kaplan_meier, confusion, roc)
    for name, path in zip(TABLES, paths, strict=True):
        write_table(tables[name], path)


def compare_models(
    *,
    oof: list[str],
    predictions: list[str],
    development: str,
    outcomes: str,
    settings: Settings,
    comparisons: str,
) -> None:
    """Compare all models of one endpoint, pair by pair, on cross-validated and on external predictions.

    Each list holds one path a model, whose name is that of the file in `predictions`; settings as in `validate`.
    """
    frames = {
        Path(frozen).stem: _predictions(held_out, frozen, development, outcomes, settings)
        for held_out, frozen in zip(oof, predictions, strict=True)
    }
    write_table(compare(frames, settings), comparisons)
