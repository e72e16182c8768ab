"""A made-up but plausible study, as the tables of docs/architecture.md, for the tests of figures and report.

120 patients of five centers, three endpoints (one of each type), five models. Risks, outcomes and therefore
curves come from one seeded simulation; intervals are rough (normal), because only what is drawn and said of
them is tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hccstudy import ledger
from hccstudy.errors import CaseError
from hccstudy.metrics.comparison import COMPARISONS
from hccstudy.models.internal import POOLED, RANKING, metric_keys
from hccstudy.tables import write_json, write_table
from report_study import CENTERS, DEVELOPMENT, EXTERNAL, FEATURES, LEVELS, LOST, PAIRS, SETTINGS, SIGNAL


def expit(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def make_patients(rng: np.random.Generator) -> pd.DataFrame:
    center = np.repeat(list(CENTERS), list(CENTERS.values()))
    n = len(center)
    z, c = rng.normal(size=n), rng.normal(size=n)
    shift = pd.Series(center).map({"Dunmoor": 0.3, "Eastlyn": -0.2}).fillna(0).to_numpy()
    hazard = 0.022 * np.exp(1.2 * z + 0.45 * c + shift)
    death, censored = rng.exponential(1 / hazard), rng.uniform(8, 70, n)
    score = z + 0.4 * c + shift + rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "patient": [f"HCC-{place:03d}" for place in range(1, n + 1)],
            "center": center,
            "age": rng.normal(63, 10, n).round().clip(30, 88),
            "sex": rng.choice(["F", "M"], n, p=[0.22, 0.78]),
            "etiology": rng.choice(["HBV", "HCV", "alcohol", "MASLD"], n),
            "afp": np.exp(rng.normal(3.4, 2, n)).round(1),
            "albumin": rng.normal(38, 5, n).round(1),
            "tumor_number": rng.choice([1, 2, 3, 5], n, p=[0.6, 0.2, 0.15, 0.05]),
            "tumor_size": np.exp(rng.normal(3.7, 0.4, n)).round(),
            "child_pugh": rng.choice(["A", "B", "C"], n, p=[0.7, 0.25, 0.05]),
            "os_months": np.minimum(death, censored).round(1),
            "os_event": (death <= censored).astype(int),
            "mvi": (rng.random(n) < expit(-0.3 + 1.1 * z + 0.5 * c + shift)).astype(int),
            "mrecist": np.array(LEVELS)[np.digitize(score, [-1.2, 0, 1.2])],
            "z": z,
            "c": c,
        }
    )
    frame.loc[rng.choice(n, 6, replace=False), "afp"] = np.nan
    return frame


def make_ledger(patients: pd.DataFrame) -> pd.DataFrame:
    lines, lost = [], {place: rest for place, *rest in LOST}
    left = list(range(len(patients)))
    for stage in ledger.STAGES:
        for place in list(left):
            row = patients.iloc[place]
            error = None
            if place in lost and lost[place][0] == stage:
                error = CaseError(lost[place][1], lost[place][2], excluded=lost[place][3])
                left.remove(place)
            lines.append(ledger.entry(row["patient"], row["center"], stage, error))
    return pd.DataFrame(lines, columns=ledger.COLUMNS)


def kaplan_meier(time: np.ndarray, event: np.ndarray) -> pd.DataFrame:
    """All distinct times and 0; Greenwood intervals on the log-log scale."""
    rows, survival, variance = [(0.0, 1.0, 1.0, 1.0, len(time))], 1.0, 0.0
    for t in np.unique(time):
        at_risk, deaths = int((time >= t).sum()), int(event[time == t].sum())
        survival *= 1 - deaths / at_risk
        variance += deaths / (at_risk * max(at_risk - deaths, 1))
        low = high = survival
        if 0 < survival < 1:
            width = 1.96 * np.sqrt(variance) / abs(np.log(survival))
            low, high = survival ** np.exp(width), survival ** np.exp(-width)
        rows.append((t, survival, low, high, at_risk))
    return pd.DataFrame(rows, columns=["time", "survival", "lower", "upper", "at_risk"])


def concordance(time: np.ndarray, event: np.ndarray, score: np.ndarray) -> float:
    comparable = (time[:, None] < time[None]) & (event[:, None] == 1)
    right = (score[:, None] > score[None]) + 0.5 * (score[:, None] == score[None])
    return float((comparable * right).sum() / comparable.sum())


def roc(outcome: np.ndarray, risk: np.ndarray) -> pd.DataFrame:
    cuts = np.concatenate([[1.0], np.sort(np.unique(risk))[::-1]])
    points = [(cut, (risk[outcome == 0] >= cut).mean(), (risk[outcome == 1] >= cut).mean()) for cut in cuts]
    return pd.DataFrame(points, columns=["threshold", "fpr", "tpr"])


def curves_of_risk(risk: np.ndarray, outcome: np.ndarray, slope: float) -> dict[str, pd.DataFrame]:
    """Calibration and net benefit of a binary outcome (for survival: the status at the horizon, roughly)."""
    grid = np.linspace(risk.min(), risk.max(), 40)
    observed = expit(0.15 + slope * np.log(grid / (1 - grid)))
    half = 1.96 * np.sqrt(observed * (1 - observed) / len(risk)) * (1 + 3 * np.abs(grid - np.median(risk)))
    curve = pd.DataFrame({"predicted": grid, "observed": observed, "lower": observed - half, "upper": observed + half})
    rows = []
    for group, members in enumerate(np.array_split(np.argsort(risk), 5), start=1):
        mean, n = outcome[members].mean(), len(members)
        half_group = 1.96 * np.sqrt(max(mean * (1 - mean), 0.05) / n)
        rows.append((group, risk[members].mean(), mean, max(mean - half_group, 0), min(mean + half_group, 1), n))
    groups = pd.DataFrame(rows, columns=["group", "predicted", "observed", "lower", "upper", "n"])
    benefit = []
    for cut in SETTINGS["validation"]["thresholds"]:
        odds, above, prevalence = cut / (1 - cut), risk >= cut, outcome.mean()
        model = (above & (outcome == 1)).mean() - odds * (above & (outcome == 0)).mean()
        benefit.append((cut, model, prevalence - odds * (1 - prevalence), 0.0))
    names = ["threshold", "net_benefit", "net_benefit_all", "net_benefit_none"]
    return {
        "calibration_curve": curve,
        "calibration_groups": groups,
        "net_benefit": pd.DataFrame(benefit, columns=names),
    }


HEADERS = {
    "metrics": ["metric", "horizon", "threshold", "estimate", "lower", "upper", "n", "events", "method"],
    "calibration_curve": ["horizon", "predicted", "observed", "lower", "upper"],
    "calibration_groups": ["horizon", "group", "predicted", "observed", "lower", "upper", "n"],
    "net_benefit": ["horizon", "threshold", "net_benefit", "net_benefit_all", "net_benefit_none"],
    "kaplan_meier": ["group", "time", "survival", "lower", "upper", "at_risk"],
    "confusion": ["observed", "predicted", "n"],
    "roc": ["threshold", "fpr", "tpr"],
}
CALIBRATED = EXTERNAL[0]
LEADING = ["endpoint", "model", "center", "evaluation", "harmonization"]


def evaluate(endpoint: str, scored: pd.DataFrame, slope: float) -> dict[str, pd.DataFrame]:
    """The validation tables of one evaluated set, without their leading columns."""
    n = len(scored)
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in HEADERS}
    metrics: list[dict[str, Any]] = []

    def metric(name: str, estimate: float, half: float = np.nan, events: float = np.nan, **more: Any) -> None:
        span = {
            "lower": estimate - half,
            "upper": estimate + half,
            "n": n,
            "events": events,
            "method": "made up",
        }
        metrics.append({"metric": name, "estimate": estimate, **span, **more})

    def calibrated(risk: np.ndarray, outcome: np.ndarray, horizon: float) -> None:
        events = int(outcome.sum())
        metric("oe", events / risk.sum(), 0.25, events, horizon=horizon)
        metric("slope", slope, 0.3, events, horizon=horizon)
        metric("ici", 0.05, 0.03, events, horizon=horizon)
        metric("brier", float(np.mean((risk - outcome) ** 2)), 0.03, events, horizon=horizon)
        for name, table in curves_of_risk(risk, outcome, slope).items():
            tables[name].append(table.assign(horizon=horizon))

    if endpoint == "os":
        time, event = scored["os_months"].to_numpy(), scored["os_event"].to_numpy()
        events = int(event.sum())
        c = concordance(time, event, scored["lp"].to_numpy())
        metric("harrell_c", c, 0.42 / np.sqrt(events), events)
        metric("uno_c", c - 0.01, 0.45 / np.sqrt(events), events)
        metric("logrank_p", 0.0004 if n > 40 else 0.03, events=events)
        for horizon in (12, 24):
            status = ((time <= horizon) & (event == 1)).astype(int)
            metric("auc_t", min(c + 0.04, 0.97), 0.11, int(status.sum()), horizon=horizon)
            calibrated(scored[f"risk@{horizon}"].to_numpy(), status, horizon)
        for group in ("low", "high"):
            chosen = (scored["group"] == group).to_numpy()
            tables["kaplan_meier"].append(kaplan_meier(time[chosen], event[chosen]).assign(group=group))
    elif endpoint == "mvi":
        outcome, risk = scored["mvi"].to_numpy(), scored["risk"].to_numpy()
        points = roc(outcome, risk)
        metric("auc", float(np.trapezoid(points["tpr"], points["fpr"])), 0.1, int(outcome.sum()))
        calibrated(risk, outcome, np.nan)
        tables["roc"].append(points)
    else:
        predicted = scored[[f"p@{level}" for level in LEVELS]].to_numpy().argmax(axis=1)
        cells = pd.crosstab(scored["mrecist"], np.array(LEVELS)[predicted])
        counted = cells.reindex(index=LEVELS, columns=LEVELS, fill_value=0).stack().rename("n")
        tables["confusion"].append(counted.rename_axis(["observed", "predicted"]).reset_index())
        metric("macro_auc", 0.73, 0.09)
        metric("accuracy", float((np.array(LEVELS)[predicted] == scored["mrecist"]).mean()), 0.1)
        metric("kappa", 0.4, 0.15)
    made = {"metrics": pd.DataFrame(metrics)}
    made |= {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items() if parts}
    return {name: made.get(name, pd.DataFrame()).reindex(columns=columns) for name, columns in HEADERS.items()}


def refused(endpoint: str, n: int) -> dict[str, pd.DataFrame]:
    """What a set too small leaves behind: a row without an estimate that says why."""
    name = {"os": "uno_c", "mvi": "auc", "mrecist": "macro_auc"}[endpoint]
    row = {"metric": name, "n": n, "method": "refused: 3 events; expected at least 5"}
    tables = {name: pd.DataFrame(columns=columns) for name, columns in HEADERS.items()}
    return tables | {"metrics": pd.DataFrame([row]).reindex(columns=HEADERS["metrics"])}


def score(endpoint: str, model: str, patients: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    truth = (0.0 if model == "clinical" else 1.0) * patients["z"] + (0.2 if model == "radiomics" else 0.4) * patients[
        "c"
    ]
    lp = (SIGNAL[model] * (truth + rng.normal(0, 0.45, len(patients)))).to_numpy()
    if endpoint == "os":
        risks = {f"risk@{t}": (1 - np.exp(-0.022 * t * np.exp(lp))).clip(0.001, 0.999) for t in (12, 24)}
        return pd.DataFrame({"lp": lp, **risks, "group": np.where(lp > 0, "high", "low")})
    if endpoint == "mvi":
        return pd.DataFrame({"risk": expit(lp - 0.3), "group": np.where(lp > 0.3, "high", "low")})
    away = -((lp[:, None] - np.array([-1.6, -0.5, 0.5, 1.6])) ** 2)
    return pd.DataFrame(np.exp(away) / np.exp(away).sum(axis=1, keepdims=True), columns=[f"p@{x}" for x in LEVELS])


def write_model(root: Path, endpoint: str, model: str, patients: pd.DataFrame, rng: np.random.Generator) -> None:
    scored = pd.concat([patients.reset_index(drop=True), score(endpoint, model, patients, rng)], axis=1)
    columns = [name for name in scored if name not in patients.columns]
    inside = scored["center"].isin(DEVELOPMENT)
    home, validation = root / "models" / endpoint / model, root / "validation" / endpoint / model
    folds = {"fold": rng.integers(0, 5, inside.sum())}
    write_table(scored.loc[inside, ["patient", "center"]].assign(**folds).join(scored[columns]), home / "oof.tsv")
    outside = scored.loc[~inside, ["patient", "center", *columns]]
    calibrated = outside[outside["center"] == CALIBRATED].assign(harmonization="center-calibrated")
    both = pd.concat([outside.assign(harmonization="none"), calibrated])
    write_table(
        both[["patient", "center", "harmonization", *columns]],
        root / "predictions" / endpoint / f"{model}.tsv",
    )

    sets = [
        ("pooled", "cross-validated", "none", scored[inside]),
        ("pooled", "external", "none", scored[~inside]),
    ]
    sets += [("within-center", "cross-validated", "none", scored[inside])]
    sets += [(name, "cross-validated", "none", scored[scored["center"] == name]) for name in DEVELOPMENT]
    sets += [(name, "external", "none", scored[scored["center"] == name]) for name in EXTERNAL]
    # the other external center is too small for the secondary analysis
    calibrated = scored[scored["center"] == CALIBRATED]
    sets += [(name, "external", "center-calibrated", calibrated) for name in (CALIBRATED, "pooled")]
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in HEADERS}
    for center, evaluation, harmonization, rows in sets:
        small = center == "Eastlyn" and model == "boosting"
        slope = 1.1 - 0.4 * SIGNAL[model] + 0.1 * rng.normal()
        tables = refused(endpoint, len(rows)) if small else evaluate(endpoint, rows, slope)
        if center == "within-center":
            kept = tables["metrics"]["metric"].isin(["harrell_c", "uno_c", "auc", "macro_auc"])
            tables = {"metrics": tables["metrics"][kept]}
        for name, table in tables.items():
            labels = [endpoint, model, center, evaluation, harmonization]
            parts[name].append(table.assign(**dict(zip(LEADING, labels, strict=True))))
    for name, frames in parts.items():
        filled = [frame for frame in frames if len(frame)] or frames[:1]
        write_table(pd.concat(filled)[[*LEADING, *HEADERS[name]]], validation / f"{name}.tsv")

    radiomic = model in {"radiomics", "combined"}
    terms = FEATURES[3:40:2] + FEATURES[50:60] if radiomic else []
    terms = [
        *["age", "afp", "child_pugh=B", "tumor_size"][: 4 if model in {"clinical", "combined"} else 0],
        *terms,
    ]
    table = pd.DataFrame(
        {"feature": terms, "level": "", "kind": "coefficient", "coefficient": rng.normal(0, 0.3, len(terms))}
    )
    if endpoint == "mrecist":
        table["level"] = np.resize(LEVELS, len(table))
    if model == "boosting":
        names = FEATURES[:9]
        table = pd.DataFrame({"feature": names, "level": "", "kind": "importance", "coefficient": rng.random(9)})
    if model == "forest":  # a survival forest has no importances
        table = pd.DataFrame({"feature": FEATURES[:9], "level": "", "kind": "importance", "coefficient": np.nan})
    write_table(table, home / "coefficients.tsv")
    offered = 8 if model == "clinical" else len(FEATURES) + 8 * (model == "combined")
    known = scored[inside]
    card = {
        "endpoint": endpoint,
        "model": model,
        "sha256": f"{rng.integers(2**62):016x}" * 4,
        "candidates": offered,
        "selected": len(table),
        "n": len(known),
        "events": int(
            {"os": known["os_event"], "mvi": known["mvi"], "mrecist": known["mrecist"] == "CR"}[endpoint].sum()
        ),
        "cut_off": None if endpoint == "mrecist" else 0.0,
        "hyperparameters": {"fraction": 0.08} if radiomic else {"n_estimators": 300},
    }
    write_json(card, home / "card.json")


def write_internal(root: Path, endpoint: str, model: str) -> None:
    """Internal validation: the boosted model's metrics are refused where centers are left out."""
    home, definition = root / "internal" / endpoint / model, SETTINGS["endpoints"][endpoint]
    lead, refused = {"endpoint": endpoint, "model": model}, "refused: 3 events in 24 patients; at least 5 are needed"
    performance, centers, pooled = [], [], []
    for metric, horizon in metric_keys(definition):
        row = lead | {"metric": metric, "horizon": horizon}
        values = {"apparent": 0.81, "optimism": 0.11, "corrected": 0.7, "estimate_632plus": 0.68}
        if metric not in RANKING | {"brier"}:
            values["estimate_632plus"] = np.nan
        rest = {"resamples": 10, "undefined": int(metric == "slope"), "n": 68, "events": 30, "candidates": 84}
        performance.append(row | values | rest | {"method": "bootstrap"})
        small = model == "boosting"
        for place, center in enumerate(DEVELOPMENT):
            found = {"estimate": 0.6 + 0.05 * place, "se": 0.05, "lower": 0.5 + 0.05 * place, "upper": 0.75}
            found = dict.fromkeys(found, np.nan) if small else found
            centers.append(
                row | {"center": center, **found, "n": 24, "events": 10, "method": refused if small else "x"}
            )
        values = dict(zip(POOLED[:6], (0.65, 0.55, 0.74, 0.41, 0.83, 0.02), strict=True))
        values = dict.fromkeys(values, np.nan) if small else values
        method = "refused: 0 centers with an estimate; at least 2 are needed" if small else "x"
        pooled.append(row | values | {"centers": 0 if small else 3, "method": method})
    for name, rows in {"performance": performance, "centers": centers, "pooled": pooled}.items():
        write_table(pd.DataFrame(rows), home / f"{name}.tsv")


def write_study(root: Path) -> None:
    """All tables of the made-up study below `root` (the study's results folder)."""
    rng = np.random.default_rng(SETTINGS["study"]["seed"])
    everyone = make_patients(rng)
    lines = make_ledger(everyone)
    write_table(lines, root / "ledger/ledger.tsv")
    write_table(ledger.flow(lines), root / "ledger/flow.tsv")
    last = lines[(lines["stage"] == "features") & (lines["status"] == "included")]
    patients = everyone[everyone["patient"].isin(last["patient"])].reset_index(drop=True)
    clinical = [name for name in everyone if name not in {"z", "c"}]
    kept = everyone[lines[lines["stage"] == "cohort"]["status"].eq("included").to_numpy()][clinical]
    inside = kept["center"].isin(DEVELOPMENT)
    write_table(kept[inside], root / "cohort/development.tsv")
    outcomes = ["os_months", "os_event", "mvi", "mrecist"]
    write_table(kept[~inside].drop(columns=outcomes), root / "cohort/external.tsv")

    images = patients[["patient", "center"]].merge(pd.DataFrame({"series": ["arterial", "portal"]}), how="cross")
    kernel = {
        "Aldbrook": "B30f",
        "Brennac": "FC08",
        "Corvale": "STANDARD",
        "Dunmoor": "B30f",
        "Eastlyn": "FC08",
    }
    images["ConvolutionKernel"] = images["center"].map(kernel).where(rng.random(len(images)) < 0.85, "B40s")
    thickness = images["center"].map({"Aldbrook": 3, "Brennac": 5, "Corvale": 2.5, "Dunmoor": 3, "Eastlyn": 5})
    images["SliceThickness"] = thickness.where(rng.random(len(images)) < 0.8, 4.0)
    images["Manufacturer"] = images["center"].map(dict(zip(CENTERS, ["A", "B", "C", "A", "B"], strict=True)))
    images["Manufacturer"] = "Simulated " + images["Manufacturer"]
    images["KVP"] = rng.choice([100, 120], len(images))
    images["days_from_index"] = -rng.integers(0, 28, len(images))
    write_table(images, root / "imports/acquisition.tsv")

    value = np.clip(rng.beta(6, 1.6, len(FEATURES)), 0, 0.999)
    bounds = {"lower": np.clip(value - 0.12, -0.2, 1), "upper": np.clip(value + 0.07, 0, 1)}
    icc = pd.DataFrame({"feature": FEATURES, "icc": value, **bounds, "n": 20, "repeats": 2})
    write_table(icc, root / "stability/icc.tsv")

    developed = patients[patients["center"].isin(DEVELOPMENT)]
    place = developed["center"].map({name: k for k, name in enumerate(DEVELOPMENT)}).to_numpy()
    points = []
    for name, apart in {"raw": 4.0, "harmonized": 0.2}.items():
        pc1 = rng.normal(size=len(place)) * 2 + apart * (place - 1)
        pc2 = rng.normal(size=len(place)) * 1.5 + apart * (place == 1)
        points.append(developed[["patient", "center"]].assign(features=name, pc1=pc1, pc2=pc2))
    write_table(pd.concat(points), root / "harmonize/embedding.tsv")
    effects = pd.DataFrame({"feature": FEATURES * len(DEVELOPMENT), "center": np.repeat(DEVELOPMENT, len(FEATURES))})
    effects["shift"] = rng.normal(0.3, 0.6, len(effects))
    effects["scale"] = np.exp(rng.normal(0, 0.2, len(effects)))
    effects.loc[effects["center"] == DEVELOPMENT[1], "scale"] = 1.0  # a small center: shift alone
    write_table(effects, root / "harmonize/features.tsv")
    told = pd.DataFrame({"features": ["raw", "harmonized"], "balanced_accuracy": [0.97, 0.38]})
    told = told.assign(lower=[0.92, 0.28], upper=[1.0, 0.49], chance=1 / 3, n=len(place))
    write_table(told, root / "harmonize/centers.tsv")

    for endpoint, model in PAIRS:
        write_model(root, endpoint, model, patients, rng)
        write_internal(root, endpoint, model)
    for endpoint in SETTINGS["endpoints"]:
        write_comparisons(root, endpoint)
    packages = {"numpy": "2.4.6", "pandas": "3.1.1", "pyradiomics": "3.0.1", "scikit-learn": "1.9.0"}
    provenance = {
        "hccstudy": "0.1.0",
        "python": "3.11.9",
        "packages": packages,
        "config_sha256": "ab" * 32,
        "git": "1f2e3d",
    }
    write_json(provenance, root / "provenance.json")


def write_comparisons(root: Path, endpoint: str) -> None:
    """One comparison that was made and one that was refused, of the first two models."""
    first, second = [model for of, model in PAIRS if of == endpoint][:2]
    metric = {"survival": "harrell_c", "binary": "auc", "multiclass": "macro_auc"}[
        SETTINGS["endpoints"][endpoint]["type"]
    ]
    place = {"endpoint": endpoint, "center": "pooled", "evaluation": "external", "harmonization": "none"}
    pair = place | {"model_a": first, "model_b": second}
    made = {"difference": -0.08, "lower": -0.15, "upper": -0.01, "statistic": -2.2, "p": 0.028, "p_holm": 0.084}
    rows = [
        pair | {"metric": metric, "method": "paired"} | made,
        pair | {"metric": "idi", "method": "refused: miscalibrated"},
    ]
    write_table(pd.DataFrame(rows, columns=[*place, *COMPARISONS]), root / f"validation/{endpoint}/comparisons.tsv")


def endpoint_inputs(root: Path, endpoint: str) -> dict[str, list[str]]:
    """The list arguments of figures.draw_endpoint for one endpoint."""
    models = [model for of, model in PAIRS if of == endpoint]
    inputs = {name: [str(root / f"validation/{endpoint}/{model}/{name}.tsv") for model in models] for name in HEADERS}
    inputs |= {
        name: [str(root / f"models/{endpoint}/{m}/{name}.tsv") for m in models] for name in ("oof", "coefficients")
    }
    return inputs | {"predictions": [str(root / f"predictions/{endpoint}/{model}.tsv") for model in models]}


def study_inputs(root: Path) -> dict[str, str]:
    """The path arguments of figures.draw_study, but for `folder`."""
    return {
        "flow": str(root / "ledger/flow.tsv"),
        "ledger": str(root / "ledger/ledger.tsv"),
        "acquisition": str(root / "imports/acquisition.tsv"),
        "icc": str(root / "stability/icc.tsv"),
        "shifts": str(root / "harmonize/features.tsv"),
        "embedding": str(root / "harmonize/embedding.tsv"),
        "centers": str(root / "harmonize/centers.tsv"),
    }


def report_inputs(root: Path) -> dict[str, Any]:
    """The path arguments of report.write_report, but for `figures` and `html`."""
    templates = Path(__file__).resolve().parents[1] / "workflow/report"
    return {
        "development": str(root / "cohort/development.tsv"),
        "external": str(root / "cohort/external.tsv"),
        "ledger": str(root / "ledger/ledger.tsv"),
        "acquisition": str(root / "imports/acquisition.tsv"),
        "icc": str(root / "stability/icc.tsv"),
        "shifts": str(root / "harmonize/features.tsv"),
        "centers": str(root / "harmonize/centers.tsv"),
        "metrics": [str(root / f"validation/{endpoint}/{model}/metrics.tsv") for endpoint, model in PAIRS],
        "comparisons": [str(root / f"validation/{endpoint}/comparisons.tsv") for endpoint in SETTINGS["endpoints"]],
        "performance": [str(root / f"internal/{endpoint}/{model}/performance.tsv") for endpoint, model in PAIRS],
        "left_out": [str(root / f"internal/{endpoint}/{model}/centers.tsv") for endpoint, model in PAIRS],
        "pooled": [str(root / f"internal/{endpoint}/{model}/pooled.tsv") for endpoint, model in PAIRS],
        "cards": [str(root / f"models/{endpoint}/{model}/card.json") for endpoint, model in PAIRS],
        "captions": sorted(str(path) for path in templates.glob("*.rst")),
        "provenance": str(root / "provenance.json"),
        "template": str(templates / "index.html.j2"),
    }
