"""How often 95 % intervals hold the truth: simulated cohorts whose population values are known.

    .venv/bin/python tests/benchmarks/intervals.py --replicates 1000 --write docs/statistics.md

Predictions are miscalibrated on purpose (their log odds or log hazards are 0.8 of the true ones, and shifted), so that
no truth is 0, 0.5 or 1. The truth of a measure is its value in a population of 400,000 (Harrell's and Uno's C, which
count pairs: the mean of 40 samples of 10,000), with the same censoring.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from blocks import replace_block
from scipy.special import expit
from tqdm import tqdm

from hccstudy.metrics import calibration, discrimination, overall
from hccstudy.metrics.net_benefit import decide, decide_t
from hccstudy.metrics.resampling import once, patient_counts
from hccstudy.metrics.sets import Limits, Scored, evaluate_binary, evaluate_survival
from hccstudy.metrics.sheet import Sheet
from hccstudy.metrics.survival import pseudo_values

HORIZON, THRESHOLD, RESAMPLES = 24.0, 0.3, 500
POPULATION, SAMPLES, SAMPLE = 400_000, 40, 10_000
LIMITS = Limits(np.array([THRESHOLD]), 5, 2)
PUBLISHED = "oe by 1/sqrt(events)"


def binary(n: int, rng: np.random.Generator) -> Scored:
    x = rng.normal(size=n)
    event = (rng.random(n) < expit(-0.7 + x)) * 1.0
    return Scored(event, risks={None: expit(-0.5 + 0.8 * x)})


def censored(n: int, rng: np.random.Generator, competing: float = 0.0) -> Scored:
    """Exponential hazards of the event and, where asked, of a competing one; uniform accrual as censoring."""
    x = rng.normal(size=n)
    times = [rng.exponential(50 * np.exp(-x)), rng.uniform(6, 80, size=n)]
    if competing:
        times.append(rng.exponential(1 / competing, size=n))
    first = np.argmin(times, axis=0)
    event = np.select([first == 0, first == 2], [1.0, 2.0], 0.0)
    lp = 0.8 * x + 0.1
    hazard = np.exp(lp) / 50
    risk = hazard / (hazard + competing) * -np.expm1(-(hazard + competing) * HORIZON)
    score = None if competing else lp
    return Scored(event, np.min(times, axis=0), score, {HORIZON: risk}, (HORIZON,))


def truth_binary(rng: np.random.Generator) -> dict[str, float]:
    data, ones = binary(POPULATION, rng), once(POPULATION)
    event, risk = data.event, data.risks[None]
    return {
        "auc": discrimination.auc(event, risk, ones)[0],
        "brier": overall.brier(event, risk, ones)[0][0],
        "oe": calibration.observed_expected(event, risk, ones)[0],
        "citl": calibration.in_the_large(event, risk, ones)[0][0],
        "slope": calibration.slope(event, risk, ones)[0][0],
    } | _decided(decide(event, risk, LIMITS.thresholds, ones))


def truth_censored(competing: float) -> Callable[[np.random.Generator], dict[str, float]]:
    def truth(rng: np.random.Generator) -> dict[str, float]:
        data, ones = censored(POPULATION, rng, competing), once(POPULATION)
        assert data.time is not None
        time, event, risk = data.time, data.event, data.risks[HORIZON]
        score = risk if data.score is None else data.score
        found = {
            "auc_t": discrimination.auc_t(time, event, score, HORIZON, ones)[0],
            "brier": overall.brier_t(time, event, risk, HORIZON, ones)[0][0],
            "oe": calibration.observed_expected_t(time, event, risk, HORIZON, ones)[0],
        }
        found[PUBLISHED] = found["oe"]
        found |= _decided(decide_t(time, event, risk, HORIZON, LIMITS.thresholds, ones))
        pairs = [_concordance(censored(SAMPLE, rng, competing)) for _ in range(SAMPLES)]
        found |= dict(zip(("harrell_c", "uno_c"), np.mean(pairs, axis=0), strict=True))
        if competing:
            found["slope"] = float(np.mean([_slope(censored(SAMPLE // 4, rng, competing)) for _ in range(4 * SAMPLES)]))
        else:
            found["slope"] = 1 / 0.8  # lp is 0.8 of the log hazard
        return found

    return truth


def _concordance(data: Scored) -> list[float]:
    score = data.risks[HORIZON] if data.score is None else data.score
    assert data.time is not None
    return [value[0] for value in discrimination.concordance(data.time, data.event, score, once(len(score)))]


def _slope(data: Scored) -> float:
    assert data.time is not None
    pseudo = pseudo_values(data.time, data.event, HORIZON)
    return float(calibration.slope_pseudo(pseudo, data.risks[HORIZON], once(len(pseudo)))[0])


def _decided(decisions) -> dict[str, float]:  # type: ignore[no-untyped-def]
    ratios = {name: values[0, 0] for name, values in decisions.ratios().items()}
    return {"net_benefit": decisions.net_benefit(LIMITS.thresholds)[0, 0]} | ratios


SCENARIOS = {
    "binary": (binary, truth_binary, evaluate_binary),
    "survival": (censored, truth_censored(0.0), evaluate_survival),
    "competing risks": (lambda n, rng: censored(n, rng, 0.01), truth_censored(0.01), evaluate_survival),
}


def coverage(name: str, n: int, replicates: int) -> pd.DataFrame:
    """One row a measure: truth, mean estimate, share of intervals that hold the truth, below and above it."""
    draw, find_truth, evaluate = SCENARIOS[name]
    truth = find_truth(np.random.default_rng([7, len(name)]))
    found: dict[str, list[tuple[float, float, float]]] = {metric: [] for metric in truth}
    events = []
    for seed in tqdm(range(replicates), desc=f"{name}, n = {n}"):
        data = draw(n, np.random.default_rng([seed, n]))
        counts = patient_counts(np.arange(n), RESAMPLES, (seed, 1))
        sheet = Sheet(counts, n, int((data.event == 1).sum()))
        evaluate(sheet, data, LIMITS)
        events.append(sheet.events)
        for row in sheet.tables["metrics"]:
            if row["metric"] in found and "estimate" in row:
                found[row["metric"]].append((row["estimate"], row["lower"], row["upper"]))
            if row["metric"] == "oe" and PUBLISHED in found:
                interval = calibration.poisson_interval(row["estimate"], row["events"])
                found[PUBLISHED].append((row["estimate"], *interval))
    rows = []
    for metric, values in found.items():
        estimate, lower, upper = np.array(values).T
        held = (lower <= truth[metric]) & (truth[metric] <= upper)
        rows.append(
            {
                "outcome": name,
                "n": n,
                "events": round(float(np.mean(events))),
                "metric": metric,
                "truth": f"{truth[metric]:.3f}",
                "mean estimate": f"{estimate.mean():.3f}",
                "coverage": f"{100 * held.mean():.1f} %",
                "too high": f"{100 * np.mean(lower > truth[metric]):.1f} %",
                "too low": f"{100 * np.mean(upper < truth[metric]):.1f} %",
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * table.shape[1]]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 600])
    parser.add_argument("--write", help="Markdown file whose block between the markers is replaced")
    options = parser.parse_args()
    table = pd.concat([coverage(name, n, options.replicates) for name in SCENARIOS for n in options.sizes])
    said = f"{options.replicates} cohorts each, {RESAMPLES} resamples, horizon {HORIZON:g}, threshold {THRESHOLD:g}."
    text = f"{said}\n\n{markdown(table)}"
    print(text)
    if options.write:
        replace_block(options.write, "coverage", text)


if __name__ == "__main__":
    main()
