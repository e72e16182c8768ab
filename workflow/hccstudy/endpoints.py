"""What the type of an endpoint means for the columns of outcomes and scores.

Here `endpoint` is an entry of the configuration's endpoints: type, and time, event, horizons (survival), column
(binary, multiclass) and levels (multiclass).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def risk_column(horizon: float) -> str:
    return f"risk@{horizon:g}"


def outcome_columns(endpoint: Mapping[str, Any]) -> list[str]:
    return [endpoint["time"], endpoint["event"]] if endpoint["type"] == "survival" else [endpoint["column"]]


def score_columns(endpoint: Mapping[str, Any]) -> list[str]:
    """What models say of a patient: a linear predictor and risks, a risk, or a probability for each level."""
    if endpoint["type"] == "survival":
        return ["lp", *(risk_column(horizon) for horizon in endpoint["horizons"])]
    return ["risk"] if endpoint["type"] == "binary" else [f"p@{level}" for level in endpoint["levels"]]
