"""How much faster the slowest parts of modeling are than in the first version, and that they give the same numbers.

    python tests/benchmarks/modeling.py [--rounds 15]

Every part is run the old way (plain code, kept here) and the new way, alternating, on one simulated cohort: 69 patients
of three centers and 4236 features as in the demo. The results are compared bit by bit first. Prints a Markdown table
with medians and the median of the paired ratios. One thread; anything else that runs moves the seconds, less the ratios.
"""

# ruff: noqa: E402 - the environment is set before the libraries that read it
from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from blocks import replace_block
from scipy.stats import rankdata
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv
from statsmodels.stats.multitest import multipletests

from hccstudy.agreement import icc
from hccstudy.metrics.calibration import curve_errors
from hccstudy.metrics.comparison import holm
from hccstudy.metrics.resampling import DEFINED, patient_counts, percentile_interval
from hccstudy.models.estimators import PenalizedCox, concordance
from hccstudy.models.steps import RadiomicsImputer, RedundancyFilter, StabilityFilter, cox_score

PATIENTS, FEATURES, FACTORS, RESAMPLES, THRESHOLDS = 69, 4236, 300, 200, 76
FRACTIONS = (0.8, 0.65, 0.5, 0.4, 0.3, 0.2)


class Part(NamedTuple):
    name: str
    old: Callable[[], Any]
    new: Callable[[], Any]


# --- the old way ------------------------------------------------------------------------------------------------------


def old_cox_path(X: pd.DataFrame, y: np.ndarray, new: pd.DataFrame) -> list[np.ndarray]:
    """A whole model with its baseline hazards for every penalty; asked twice, for the score and for the Radscore."""
    predicted = []
    for fraction in FRACTIONS:
        largest = np.abs(cox_score(X.to_numpy(), y)).max() / len(X)
        path = np.geomspace(largest, largest * fraction, 8)[1:]
        model = CoxnetSurvivalAnalysis(alphas=path, l1_ratio=1.0, fit_baseline_model=True).fit(X.to_numpy(), y)
        model.predict(new.to_numpy())
        predicted.append(model.predict(new.to_numpy()))
    return predicted


def old_redundancy(X: pd.DataFrame, correlation: float = 0.9) -> list[str]:
    values = X.to_numpy(dtype=float)
    spread = np.quantile(values, 0.95, axis=0) - np.quantile(values, 0.05, axis=0)
    varies = np.flatnonzero(spread > 1e-9 * np.maximum(1e-9, np.abs(values).max(axis=0)))
    ranks = rankdata(values[:, varies], axis=0)
    ranks -= ranks.mean(axis=0)
    ranks /= np.sqrt((ranks**2).sum(axis=0))
    keep = np.ones(len(varies), dtype=bool)
    for place in range(len(varies)):
        if keep[place]:
            later = np.flatnonzero(keep[place + 1 :]) + place + 1
            alike = np.abs(ranks[:, later].T @ ranks[:, place]) > correlation
            keep[later[alike]] = False
    return [X.columns[place] for place in varies[keep]]


def old_stability(repeats: pd.DataFrame, X: pd.DataFrame) -> list[str]:
    names = [name for name in X.columns if name != "center" and name in repeats.columns]
    count = repeats["repeat"].nunique()
    chosen = repeats[repeats["patient"].isin(list(X.index))].sort_values(["patient", "repeat"])
    chosen = chosen[chosen.groupby("patient")["repeat"].transform("size") == count]
    values = chosen[names].to_numpy(dtype=float).reshape(-1, count, len(names))
    return [name for name, value in zip(names, icc(values)[0], strict=True) if value >= 0.75]


def old_medians(X: pd.DataFrame) -> np.ndarray:
    features = X.drop(columns="center").astype(float)
    return features.where(np.isfinite(features)).median().dropna().to_numpy()


def old_percentiles(curves: list[np.ndarray]) -> list[Any]:
    """One by one, for every threshold of the decision curve and every measure."""
    return [
        np.nanquantile(of, [0.025, 0.975]) if np.isfinite(of).mean() >= DEFINED else np.full(2, np.nan)
        for values in curves
        for of in values.T
    ]


def old_curve_errors(smoothed: np.ndarray, risk: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    distance = np.abs(smoothed - risk)
    quantiles = np.full((len(counts), 2), np.nan)
    for row in np.flatnonzero(np.isfinite(distance).all(axis=1)):
        quantiles[row] = np.quantile(np.repeat(distance[row], counts[row].astype(int)), [0.5, 0.9])
    mean = (counts * distance).sum(axis=1) / counts.sum(axis=1)
    return {"ici": mean, "e50": quantiles[:, 0], "e90": quantiles[:, 1]}


# --- the cohort -------------------------------------------------------------------------------------------------------


def cohort() -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Features that share factors, as radiomics features do; censored outcomes; a second measurement of 24 patients."""
    rng = np.random.default_rng(1)
    patients = [f"P{number:03d}" for number in range(PATIENTS)]
    names = [f"arterial.tumor.wavelet_feature_{number}" for number in range(FEATURES)]
    shared = rng.normal(size=(PATIENTS, FACTORS))[:, rng.integers(0, FACTORS, FEATURES)]
    values = shared + rng.normal(size=(PATIENTS, FEATURES)) * rng.uniform(0.1, 1.5, FEATURES)
    X = pd.DataFrame(np.asfortranarray(values), index=patients, columns=names)
    X["center"] = np.array(["A", "B", "C"])[np.arange(PATIENTS) % 3]
    time_ = np.ceil(rng.exponential(30 * np.exp(-0.5 * shared[:, 0])))
    y = Surv.from_arrays(rng.random(PATIENTS) < 0.6, time_, name_event="event", name_time="time")
    again = values[:24] + rng.normal(size=(24, FEATURES)) * 0.5
    both = [
        pd.DataFrame(of, columns=names).assign(patient=patients[:24], repeat=str(number))
        for number, of in enumerate((values[:24], again))
    ]
    return X, y, pd.concat(both, ignore_index=True)


def decision_curves() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(RESAMPLES, THRESHOLDS)) for _ in range(6)]


def old_holm(families: list[np.ndarray]) -> list[np.ndarray]:
    return [multipletests(p, method="holm")[1] for p in families]


def parts() -> list[Part]:
    X, y, repeats = cohort()
    fold = X.iloc[np.flatnonzero(np.arange(PATIENTS) % 3)]
    outcome = y[np.arange(PATIENTS) % 3 > 0]
    chosen = fold.columns[:50]
    standard = (fold[chosen] - fold[chosen].mean()) / fold[chosen].std()
    rng = np.random.default_rng(4)
    score, curves = rng.normal(size=PATIENTS), decision_curves()
    counts = patient_counts(X.index, RESAMPLES, [1])
    risk = rng.uniform(0.05, 0.9, PATIENTS)
    smoothed = np.clip(risk + 0.05 * rng.normal(size=counts.shape), 0, 1)
    families = [rng.random(15) for _ in range(20)]
    plain = fold.drop(columns="center")
    # pandas' own strings as names in the old way, Python's in the new one (train.py: _quick_names)
    new_fold, new_repeats = (of.set_axis(of.columns.astype(object), axis="columns") for of in (fold, repeats))

    def new_cox() -> list[np.ndarray]:
        return [model.predict(standard) for model in PenalizedCox().fit_each(FRACTIONS, standard, outcome)]

    def new_percentiles() -> list[Any]:
        return [pair for values in curves for pair in np.transpose(percentile_interval(values))]

    return [
        Part("Cox paths of an inner fold, six penalties", lambda: old_cox_path(standard, outcome, standard), new_cox),
        Part(
            "C-index of a tree model in an inner fold",
            lambda: concordance_index_censored(y["event"], y["time"], score)[0],
            lambda: concordance(score, y),
        ),
        Part("percentiles of a decision curve's bootstrap", lambda: old_percentiles(curves), new_percentiles),
        Part(
            "calibration errors (ICI, E50, E90), 201 resamples",
            lambda: old_curve_errors(smoothed, risk, counts),
            lambda: curve_errors(smoothed, risk, counts),
        ),
        Part("Holm's adjustment, 20 families", lambda: old_holm(families), lambda: [holm(p) for p in families]),
        Part(
            "redundancy filter of a fold",
            lambda: old_redundancy(plain),
            lambda: RedundancyFilter(0.9).fit(plain).features_,
        ),
        Part(
            "stability filter of a fold",
            lambda: old_stability(repeats, fold),
            lambda: StabilityFilter(new_repeats, 0.75).fit(new_fold).features_,
        ),
        Part("imputer of a fold", lambda: old_medians(fold), lambda: RadiomicsImputer().fit(new_fold).medians_),
    ]


# --- the measurement --------------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever the containers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and a and not isinstance(a[0], str):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often every part is run each way")
    parser.add_argument("--write", help="Markdown file whose block is replaced")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = ["| part | old, ms | new, ms | ratio | same to the last bit |", "|---|---:|---:|---:|---|"]
    for part in parts():
        equal = same(part.old(), part.new())
        times = np.empty((options.rounds, 2))
        for number in range(options.rounds):
            for way in (0, 1) if number % 2 else (1, 0):
                times[number, way] = seconds((part.old, part.new)[way])
        old, new = 1000 * np.median(times, axis=0)
        ratio = np.median(times[:, 0] / times[:, 1])
        lines.append(f"| {part.name} | {old:.2f} | {new:.2f} | {ratio:.1f} | {'yes' if equal else 'NO'} |")
        print(lines[-1], flush=True)
    if options.write:
        replace_block(options.write, "modeling", "\n".join(lines))


if __name__ == "__main__":
    main()
