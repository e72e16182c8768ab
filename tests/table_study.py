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
    "CONFOUNDED",
    "LOST",
    "OVERLAY",
    "change_table",
    "digests",
    "jobs",
    "make_table_study",
    "run",
    "settings",
    "simulate_confounded",
    "simulate_tables",
    "with_noise_outside",
    "with_outcomes_outside",
    "write_study",
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
    tables = simulate_tables(**simulation)
    if tables["repeats"].empty:
        del tables["repeats"]
    return write_study(folder, tables, layer(OVERLAY, overlay or {}))


def write_study(folder: Path, tables: dict[str, pd.DataFrame], chosen: Config) -> Path:
    """Write NAME.tsv of every table and config.yaml, `chosen` with repeats.tsv where `tables` hold repeats."""
    folder.mkdir(parents=True, exist_ok=True)
    if "repeats" in tables:
        chosen = layer(chosen, {"features": {"repeats": "repeats.tsv"}})
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


# texture is volume plus noise, death competes with recurrence, follow-up starts at 2 months
CONFOUNDED: Config = layer(
    OVERLAY,
    {
        "study": {"name": "mistakes", "title": "A study in which texture is volume", "seed": 3},
        "endpoints": {
            "recurrence": {
                "type": "survival",
                "label": "Recurrence",
                "time": "months",
                "event": "status",
                "competing": 2,
                "landmark": 2,
                "unit": "months",
                "horizons": [12],
            }
        },
        "models": {
            "signature": {"predictors": "radiomics", "estimator": "lasso", "features": "^(texture|noise)"},
            "volume": {"predictors": "radiomics", "estimator": "linear", "features": "^volume$"},
        },
        "resampling": {"folds": 3, "inner_folds": 2, "optimism": 2},
    },
)
LOST = {"R-005": "excluded", "R-230": "failed"}  # no row of features; a cell that is no number


def simulate_confounded(seed: int = 4) -> dict[str, pd.DataFrame]:
    """240 patients of centers A, B, C and D (external). Recurrence follows volume alone; 20 textures are volume plus noise,
    480 features are noise; death before recurrence is a competing event that nothing predicts."""
    rng = np.random.default_rng(seed)
    center = np.repeat(list("ABCD"), [70, 60, 50, 60])
    n = len(center)
    z = rng.normal(size=n)
    values = np.column_stack([z[:, None] + 0.6 * rng.normal(size=(n, 20)), rng.normal(size=(n, 480))])
    for name in "ABCD":
        values[center == name] += rng.normal(0, 0.5, 500)
    names = ["volume", *(f"texture{k:02d}" for k in range(20)), *(f"noise{k:03d}" for k in range(480))]
    table = pd.DataFrame(np.column_stack([60 + 15 * z, values]), columns=names)
    times = np.stack(
        [rng.uniform(8, 60, n), rng.exponential(1 / (0.03 * np.exp(0.9 * z))), rng.exponential(1 / 0.03, n)]
    )
    who = [f"R-{place:03d}" for place in range(1, n + 1)]
    patients = pd.DataFrame({"patient": who, "center": center, "age": rng.normal(62, 9, n).round().clip(30, 90)})
    patients["months"] = times.min(axis=0).round(2).clip(0.01).astype(str)
    patients["status"] = times.argmin(axis=0).astype(str)
    patients.loc[patients["patient"].isin(["R-010", "R-200"]), ["months", "status"]] = ""
    again = table[::3] + rng.normal(size=(len(table[::3]), 501)) * np.where(np.arange(501) % 2, 0.1, 0.3)
    again["noise001"] = 5 - again["noise001"]  # nothing of it is repeatable
    features = pd.concat([patients[["patient"]], table], axis="columns")
    features["noise000"] = features["noise000"].astype(object)
    features.loc[229, "noise000"] = "n.a."
    repeats = pd.concat([patients.loc[again.index, ["patient"]].assign(reader="B"), again], axis="columns")
    return {"patients": patients, "features": features.drop(4), "repeats": repeats}


def with_noise_outside(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Every external row is noise: features (some empty), repeated measurements, clinical variables, outcomes."""
    rng = np.random.default_rng(0)
    swapped = {name: table.copy() for name, table in tables.items()}
    outside = tables["patients"].loc[tables["patients"]["center"] == "D", "patient"]
    for name in ("features", "repeats"):
        rows = swapped[name]["patient"].isin(outside)
        noise = rng.normal(0, 1e4, (rows.sum(), 501))
        noise[rng.random(noise.shape) < 0.2] = np.nan
        swapped[name].loc[rows, swapped[name].columns[-501:]] = noise
    rows = swapped["patients"]["center"] == "D"
    swapped["patients"].loc[rows, "age"] = rng.integers(20, 90, rows.sum())
    swapped["patients"].loc[rows, "months"] = rng.uniform(0.1, 99, rows.sum()).round(2).astype(str)
    swapped["patients"].loc[rows, "status"] = rng.choice(["0", "1", "2"], rows.sum())
    return swapped


def with_outcomes_outside(tables: dict[str, pd.DataFrame], *, delete: bool) -> dict[str, pd.DataFrame]:
    """External outcomes dealt out anew, or deleted."""
    patients = tables["patients"].copy()
    rows = np.flatnonzero(patients["center"] == "D")
    other = np.random.default_rng(1).permutation(rows)
    for column in ("months", "status"):
        patients.loc[rows, column] = "" if delete else tables["patients"].loc[other, column].to_numpy()
    return tables | {"patients": patients}
