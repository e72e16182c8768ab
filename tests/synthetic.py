"""Feature tables with a known truth, for tests of models and statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd

DEVELOPMENT = {"A": 30, "B": 28, "C": 26}
EXTERNAL = {"D": 30, "E": 26}


def study_tables(seed: int = 0, *, features: int = 120, signal: float = 1.0) -> dict[str, pd.DataFrame]:
    """Tables of a study with a latent risk z: `features`, `development`, `external`, `external_outcomes`, `repeats`.

    The first 20 features measure z (with noise and center effects), the others nothing. Survival, a binary and a
    four-class outcome follow z with strength `signal` and age weakly. Features 40-59 are not repeatable.
    """
    rng = np.random.default_rng(seed)
    sizes = DEVELOPMENT | EXTERNAL
    center = np.repeat(list(sizes), list(sizes.values()))
    n = len(center)
    patient = np.array([f"P{number:03d}" for number in range(n)])
    z = rng.normal(size=n)
    age = rng.normal(62, 9, n).round()
    values = rng.normal(size=(n, features))
    values[:, :20] += 1.3 * z[:, None]
    shift = {name: rng.normal(0, 1.5, features) for name in sizes}
    scale = {name: rng.uniform(0.6, 1.6, features) for name in sizes}
    values = np.array([row * scale[name] + shift[name] for row, name in zip(values, center, strict=True)])
    names = [f"ct.tumor.original_stat_f{number:03d}" for number in range(features)]
    table = pd.DataFrame(values, columns=names)

    hazard = 0.03 * np.exp(signal * z + 0.02 * (age - 62))
    death = rng.exponential(1 / hazard)
    censoring = rng.uniform(12, 60, n)
    outcomes = pd.DataFrame(
        {
            "os_months": np.ceil(np.minimum(death, censoring) * 10) / 10,
            "os_event": (death <= censoring).astype(float),
            "mvi": (rng.uniform(size=n) < 1 / (1 + np.exp(-1.2 * signal * z))).astype(float),
            "mrecist": np.array(["CR", "PR", "SD", "PD"])[
                np.digitize(signal * z + rng.normal(0, 0.7, n), [-0.9, 0.0, 0.9])
            ],
        }
    )
    keys = pd.DataFrame({"patient": patient, "center": center})
    clinical = pd.DataFrame({"age": age, "sex": rng.choice(["F", "M"], n)})
    inside = np.isin(center, list(DEVELOPMENT))
    noise = np.where((np.arange(features) >= 40) & (np.arange(features) < 60), 3.0, 0.1)
    chosen = np.flatnonzero(inside)[::4]
    spread = values[chosen].std(axis=0)
    repeats = pd.concat(
        [
            keys.loc[chosen, ["patient"]]
            .assign(repeat=str(repeat))
            .join(table.loc[chosen] + (repeat > 0) * noise * spread * rng.normal(size=(len(chosen), features)))
            for repeat in range(3)
        ]
    )
    return {
        "features": keys.join(table),
        "development": keys.join(clinical).join(outcomes)[inside],
        "external": keys.join(clinical)[~inside],
        "external_outcomes": keys.join(outcomes)[~inside],
        "repeats": repeats,
    }


ENDPOINTS = {
    "os": {
        "type": "survival",
        "label": "Overall survival",
        "time": "os_months",
        "event": "os_event",
        "unit": "months",
        "horizons": [12, 24],
    },
    "mvi": {"type": "binary", "label": "MVI", "column": "mvi"},
    "mrecist": {"type": "multiclass", "label": "mRECIST", "column": "mrecist", "levels": ["CR", "PR", "SD", "PD"]},
}
COLUMNS = {
    "age": {"type": "number", "label": "Age", "unit": "years", "range": [18, 100], "log": False},
    "sex": {"type": "category", "label": "Sex", "levels": ["F", "M"], "log": False},
}


def settings(endpoint: str, predictors: str = "radiomics", estimator: str = "lasso", **changes: object) -> dict:
    """What `settings.model_settings` gives for such a study."""
    return {
        "endpoint": ENDPOINTS[endpoint] | {"name": endpoint},
        "model": {
            "predictors": predictors,
            "estimator": estimator,
            "select": None,
            "features": None,
            "name": predictors,
        },
        "clinical": COLUMNS,
        "stability": {"method": "readers", "threshold": 0.75},
        "harmonize": "combat",
        "resampling": {"folds": 4, "inner_folds": 3, "correlation": 0.9},
        "seed": 1,
    } | changes
