"""A simulated study that starts from a feature table, in a folder of its own: the truth is known, a run takes a minute.

`make_table_study` writes the tables and the configuration; `run`, `jobs` and `digests` of small_study.py go with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hccstudy.config import Config, layer, load_config
from hccstudy.tables import write_table
from small_study import digests, jobs, run

__all__ = [
    "CENTERS",
    "OVERLAY",
    "change_table",
    "digests",
    "jobs",
    "make_table_study",
    "run",
    "settings",
    "simulate_tables",
]

# share of the patients, and the log odds of the binary outcome at mean risk
CENTERS = {"A": (0.30, -0.4), "B": (0.25, 0.0), "C": (0.20, 0.5), "D": (0.25, -0.6)}
MEASURING = 8  # the first features measure the risk, the others nothing
OVERLAY: Config = {
    "study": {"name": "table", "title": "A simulated study from a feature table", "seed": 3},
    "cohort": {
        "patients": "patients.tsv",
        "centers": {"development": ["A", "B", "C"], "external": ["D"]},
        "minimum_patients": 5,
        "columns": {"age": {"type": "number", "unit": "years", "range": [18, 100]}},
    },
    "endpoints": {
        "os": {
            "type": "survival",
            "label": "Overall survival",
            "time": "os_months",
            "event": "os_event",
            "unit": "months",
            "horizons": [12],
        },
        "mvi": {"type": "binary", "label": "MVI", "column": "mvi"},
    },
    "features": {"table": "features.tsv"},
    "predictors": {"clinical": ["age"]},
    "models": {
        "clinical": {"predictors": "clinical", "estimator": "linear"},
        "radiomics": {"predictors": "radiomics", "estimator": "lasso"},
    },
    "resampling": {"folds": 3, "inner_folds": 2, "optimism": 0},
    "validation": {"bootstrap": 50},
}


def simulate_tables(
    *,
    patients: int = 150,
    seed: int = 1,
    features: int = 40,
    signal: float = 1.0,
    shift: float = 1.0,
    repeated: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables patients, features, repeats and truth of a study with a latent risk z ~ N(0, 1).

    The first MEASURING features are 1.5 z plus N(0, 1), the others N(0, 1); in each center every feature is moved by
    N(0, `shift`) and scaled. Survival is exponential with the log hazard ratio `signal` per unit of z and 0.02 per year of
    age, median 20 months, about 40 % censored; the log odds of mvi are 1.5 `signal` z plus those of the center. With
    `signal` 0 nothing tells an outcome. The first `repeated` patients are measured twice: features with an odd number
    again with an SD of 0.2, those with an even one with an SD of 3 (their ICC is near 0.1).
    """
    rng = np.random.default_rng(seed)
    counts = np.round(np.cumsum([share for share, _ in CENTERS.values()]) * patients).astype(int)
    center = np.repeat(list(CENTERS), np.diff(counts, prepend=0))
    who = [f"T-{number:03d}" for number in range(1, patients + 1)]
    z = rng.normal(size=patients)
    age = rng.normal(62, 9, patients).round().clip(30, 90)
    death = rng.exponential(20 / np.log(2) * np.exp(-signal * z - 0.02 * (age - 62)))
    end = rng.uniform(6, 60, patients)
    odds = 1.5 * signal * z + np.array([CENTERS[name][1] for name in center])
    clinical = {
        "patient": who,
        "center": center,
        "age": age,
        "os_months": np.minimum(death, end).round(2).clip(0.01),
        "os_event": (death <= end).astype(int),
        "mvi": (rng.random(patients) < 1 / (1 + np.exp(-odds))).astype(int),
    }
    values = rng.normal(size=(patients, features))
    values[:, :MEASURING] += 1.5 * z[:, None]
    for name in CENTERS:
        inside = center == name
        values[inside] = values[inside] * rng.uniform(0.7, 1.4, features) + rng.normal(0, shift, features)
    names = [f"f{number:02d}" for number in range(features)]
    error = np.where(np.arange(features) % 2, 0.2, 3.0)
    again = values[:repeated] + rng.normal(size=(repeated, features)) * error
    return {
        "patients": pd.DataFrame(clinical),
        "features": pd.concat([pd.DataFrame({"patient": who}), pd.DataFrame(values, columns=names)], axis="columns"),
        "repeats": pd.concat(
            [pd.DataFrame({"patient": who[:repeated], "reader": "B"}), pd.DataFrame(again, columns=names)],
            axis="columns",
        ),
        "truth": pd.DataFrame({"patient": who, "z": z}),
    }


def make_table_study(folder: Path, *, overlay: Config | None = None, **simulation: Any) -> Path:
    """Write patients.tsv, features.tsv, truth.tsv, config.yaml, and repeats.tsv with `repeated`, into a new folder.

    `overlay` is laid over OVERLAY, further arguments are those of `simulate_tables`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = simulate_tables(**simulation)
    chosen = layer(OVERLAY, overlay or {})
    if len(tables["repeats"]):
        chosen = layer(chosen, {"features": {"repeats": "repeats.tsv"}})
    else:
        del tables["repeats"]
    for name, table in tables.items():
        write_table(table, folder / f"{name}.tsv")
    (folder / "config.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))
    return folder


def settings(folder: Path) -> Config:
    """The study's configuration as the workflow sees it."""
    return load_config(yaml.safe_load((folder / "config.yaml").read_text()))


def change_table(path: Path, change: Any) -> None:
    """Rewrite a table of text cells: `change(frame)` alters it in place or returns another."""
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    changed = change(frame)
    write_table(frame if changed is None else changed, path)
