"""Internal validation: how good a model is, honestly, on the patients that it was made from.

Three views, in all of which the whole model building (imputation, ComBat, filters, selection, tuning) is repeated:
optimism by bootstrap (Harrell 1996) and .632+ (Efron and Tibshirani 1997), and leaving out one center after the
other (internal-external validation, Steyerberg and Harrell 2016), pooled over centers by random effects. Apparent
performance, on the very patients of the fit, is labelled as such and stands beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone

from hccstudy.endpoints import risk_column
from hccstudy.errors import StudyError
from hccstudy.metrics import calibration, discrimination, overall, survival
from hccstudy.metrics.pooling import PREDICTABLE, Z, center_interval, pool, scale_of
from hccstudy.metrics.resampling import Floats, once, patient_counts
from hccstudy.models.estimators import scores
from hccstudy.models.steps import CENTER
from hccstudy.models.train import build_model, candidate_parameters, development_data
from hccstudy.tables import digest, write_table

log = logging.getLogger(__name__)

Key = tuple[str, float | None]  # metric and horizon
Endpoint = dict[str, Any]
# Fits on rows and outcomes; what it returns gives the scores of other rows.
Fit = Callable[[pd.DataFrame, np.ndarray], Callable[[pd.DataFrame], pd.DataFrame]]
# A resample, or a center left out, may be impossible to fit: too few repeated masks, one class, a diverging Cox model.
IMPOSSIBLE = (StudyError, ValueError, ArithmeticError)

PERFORMANCE = ["apparent", "optimism", "corrected", "estimate_632plus", "resamples", "undefined"]
PERFORMANCE += ["n", "events", "candidates", "method"]
CENTERS = ["estimate", "se", "lower", "upper", "n", "events", "method"]
POOLED = ["estimate", "lower", "upper", "prediction_lower", "prediction_upper", "tau2", "centers", "method"]
COUNTS = ["resamples", "undefined", "n", "events", "candidates", "centers"]
RANKING = {"harrell_c", "auc", "auc_t", "macro_auc"}
METRICS = {
    "survival": ["harrell_c", "slope"],
    "binary": ["auc", "brier", "ipa", "oe", "citl", "slope"],
    "multiclass": ["macro_auc", "accuracy", "brier"],
}
AT_HORIZON = ["auc_t", "brier", "ipa", "oe"]


class Patients(NamedTuple):
    """Development patients: predictors, outcomes as estimators want them, and their rows of the cohort's table."""

    X: pd.DataFrame
    y: np.ndarray
    known: pd.DataFrame

    def rows(self, chosen: np.ndarray) -> Patients:
        return Patients(self.X.iloc[chosen], self.y[chosen], self.known.iloc[chosen])


class Measured(NamedTuple):
    """A metric of each resample, and its analytic standard error on the table as it is, if there is one."""

    values: Floats
    error: float = np.nan


def validate_internally(
    *,
    features: str,
    development: str,
    repeats: str,
    settings: dict[str, Any],
    performance: str,
    centers: str,
    pooled: str,
) -> None:
    """Internal validation of one model for one endpoint; inputs as in `train_model`, settings of
    `settings.internal_settings`, tables as in docs/architecture.md.
    """
    X, y, known, repeated = development_data(features, development, repeats, settings)
    patients, endpoint = Patients(X, y, known), settings["endpoint"]
    unfitted = build_model(settings, repeated, X[CENTER].value_counts().to_dict())

    def fit(rows: pd.DataFrame, outcomes: np.ndarray) -> Callable[[pd.DataFrame], pd.DataFrame]:
        pipeline = clone(unfitted).fit(rows, outcomes).pipeline_
        return lambda new: scores(pipeline, new, endpoint)

    corrected = correct_optimism(fit, patients, endpoint, settings["optimism"], settings["seed"])
    corrected["candidates"] = candidate_parameters(settings, X)
    left_out = leave_one_center_out(
        fit,
        patients,
        endpoint,
        bootstrap=settings["bootstrap"],
        minimum_events=settings["minimum_events"],
        training_centers=2 if _harmonizes(settings) else 1,
        seed=settings["seed"],
    )
    lead = {"endpoint": endpoint["name"], "model": settings["model"]["name"]}
    for table, columns, path in (
        (corrected, ["metric", "horizon", *PERFORMANCE], performance),
        (left_out, ["center", "metric", "horizon", *CENTERS], centers),
        (pool_centers(left_out), ["metric", "horizon", *POOLED], pooled),
    ):
        whole = {name: "Int64" for name in COUNTS if name in columns}
        write_table(table.assign(**lead)[[*lead, *columns]].astype(whole), path)


def _harmonizes(settings: dict[str, Any]) -> bool:
    return settings["harmonize"] == "combat" and settings["model"]["predictors"] != "clinical"


# --- what is measured -------------------------------------------------------------------------------------------------


def metric_keys(endpoint: Endpoint) -> list[Key]:
    """Every metric of an endpoint, those of survival at each horizon too. Where events compete there is no slope:
    the Cox regression behind it is one of the cause, not of the risk.
    """
    keys: list[Key] = [(metric, None) for metric in METRICS[endpoint["type"]]]
    if endpoint["type"] != "survival":
        return keys
    keys = keys[: 1 if endpoint.get("competing") else 2]
    return keys + [(metric, float(horizon)) for horizon in endpoint["horizons"] for metric in AT_HORIZON]


def measure(endpoint: Endpoint, known: pd.DataFrame, scored: pd.DataFrame, counts: Floats) -> dict[Key, Measured]:
    """Every metric of the predictions `scored` of the patients `known` (n rows each, in one order), for every
    resample of `counts` (resamples, n); NaN where a metric is undefined.
    """
    if endpoint["type"] == "multiclass":
        level, probability = _levels(endpoint, known), scored.to_numpy(dtype=float)
        return {
            ("macro_auc", None): Measured(discrimination.macro_auc(level, probability, counts)),
            ("accuracy", None): Measured(
                overall.agreement(level, probability.argmax(axis=1), probability.shape[1], counts)[0]
            ),
            ("brier", None): Measured(overall.brier_classes(level, probability, counts)[0]),
        }
    if endpoint["type"] == "binary":
        event, risk = _numbers(known, endpoint["column"]), _numbers(scored, "risk")
        return {
            ("auc", None): Measured(discrimination.auc(event, risk, counts)),
            **_brier(None, *overall.brier(event, risk, counts)),
            ("oe", None): Measured(calibration.observed_expected(event, risk, counts)),
            ("citl", None): _with_error(*calibration.in_the_large(event, risk, counts)),
            ("slope", None): _with_error(*calibration.slope(event, risk, counts)),
        }
    (time, event), lp = _follow_up(endpoint, known), _numbers(scored, "lp")
    found: dict[Key, Measured] = {("harrell_c", None): Measured(discrimination.concordance(time, event, lp, counts)[0])}
    if not endpoint.get("competing"):
        found["slope", None] = _with_error(*calibration.slope_t(time, event, lp, counts))
    for horizon in map(float, endpoint["horizons"]):
        risk = _numbers(scored, risk_column(horizon))
        found["auc_t", horizon] = Measured(discrimination.auc_t(time, event, lp, horizon, counts))
        found |= _brier(horizon, *overall.brier_t(time, event, risk, horizon, counts))
        found["oe", horizon] = Measured(calibration.observed_expected_t(time, event, risk, horizon, counts))
    return found


def _brier(horizon: float | None, score: Floats, null: Floats) -> dict[Key, Measured]:
    return {("brier", horizon): Measured(score), ("ipa", horizon): Measured(overall.scaled(score, null))}


def _with_error(values: Floats, interval: tuple[float, float]) -> Measured:
    return Measured(values, (interval[1] - interval[0]) / (2 * Z))


def _numbers(frame: pd.DataFrame, column: str) -> Floats:
    return frame[column].to_numpy(dtype=float)


def _follow_up(endpoint: Endpoint, known: pd.DataFrame) -> tuple[Floats, Floats]:
    """Times and events: 0 (censored), 1, or 2 for a competing event."""
    event = _numbers(known, endpoint["event"])
    return _numbers(known, endpoint["time"]), np.where(event == (endpoint.get("competing") or 2), 2.0, event)


def _levels(endpoint: Endpoint, known: pd.DataFrame) -> np.ndarray:
    return pd.Index(map(str, endpoint["levels"])).get_indexer(known[endpoint["column"]].astype(str))


def no_information(endpoint: Endpoint, known: pd.DataFrame, scored: pd.DataFrame) -> dict[Key, float]:
    """What the metrics with a .632+ would be if predictions and outcomes had nothing to do with each other: 0.5 for
    ranking, the mean over all pairs of an outcome and a prediction for the Brier score.
    """
    counts = once(len(known))
    rates = {key: 0.5 for key in metric_keys(endpoint) if key[0] in RANKING}

    def all_pairs(share: Floats | float, without: Floats | float, risk: Floats) -> Floats:
        return share * ((1 - risk) ** 2).mean(axis=0) + without * (risk**2).mean(axis=0)

    if endpoint["type"] == "multiclass":
        shares = np.bincount(_levels(endpoint, known), minlength=scored.shape[1]) / len(known)
        return rates | {("brier", None): float(all_pairs(shares, 1 - shares, scored.to_numpy(dtype=float)).sum())}
    if endpoint["type"] == "binary":
        share = float(known[endpoint["column"]].mean())
        return rates | {("brier", None): float(all_pairs(share, 1 - share, _numbers(scored, "risk")))}
    time, event = _follow_up(endpoint, known)
    for horizon in map(float, endpoint["horizons"]):
        cases, controls = (of.sum() / len(known) for of in survival.horizon_weights(time, event, horizon, counts))
        rates["brier", horizon] = float(all_pairs(cases, controls, _numbers(scored, risk_column(horizon))))
    return rates


def events_of(endpoint: Endpoint, known: pd.DataFrame, horizon: float | None) -> int:
    """Events (by the horizon, if there is one); of several classes the patients of the rarest."""
    if endpoint["type"] == "multiclass":
        return int(np.bincount(_levels(endpoint, known), minlength=len(endpoint["levels"])).min())
    if endpoint["type"] == "binary":
        return int(known[endpoint["column"]].sum())
    by_then = known[endpoint["time"]] <= (np.inf if horizon is None else horizon)
    return int((known[endpoint["event"]].eq(1) & by_then).sum())


# --- bootstrap --------------------------------------------------------------------------------------------------------


def draw_resamples(X: pd.DataFrame, resamples: int, seed: int) -> list[np.ndarray]:
    """Row numbers of bootstrap resamples: patients with replacement, within their centers, which are the design.

    They depend on the seed and the set of patients alone, and the first ones do not depend on how many there are.
    """
    order = np.argsort(X.index.to_numpy(dtype=str), kind="stable")
    center = X[CENTER].to_numpy(dtype=str)[order]
    number = int(digest(list(X.index[order]))[:8], 16)
    drawn = []
    for resample in range(resamples):
        rng = np.random.default_rng([seed, number, resample])
        parts = [order[center == name] for name in np.unique(center)]
        drawn.append(np.sort(np.concatenate([rng.choice(part, len(part)) for part in parts])))
    return drawn


def correct_optimism(fit: Fit, patients: Patients, endpoint: Endpoint, resamples: int, seed: int) -> pd.DataFrame:
    """Apparent performance, its mean optimism over bootstrap resamples, and .632+, a row per metric and horizon.

    In every resample the model is built anew; its optimism is its performance there less that on all patients. The
    .632+ estimate weighs the apparent performance and the mean one of patients who were not drawn. Resamples in which
    a metric is undefined are left out of that metric and counted; where most are, there is no corrected value.
    """
    everyone = fit(patients.X, patients.y)(patients.X)
    whole = once(len(patients.X))
    apparent = {key: of.values[0] for key, of in measure(endpoint, patients.known, everyone, whole).items()}
    rates = no_information(endpoint, patients.known, everyone)
    found, failed = [], []
    for number, drawn in enumerate(draw_resamples(patients.X, resamples, seed), start=1):
        try:
            found.append(_resample(fit, patients, endpoint, drawn))
        except IMPOSSIBLE as error:
            log.warning("resample %d could not be fitted: %s", number, error)
            failed.append(str(error))
    return pd.DataFrame(
        [
            {"metric": key[0], "horizon": key[1], "n": len(patients.X), "resamples": resamples}
            | {"events": events_of(endpoint, patients.known, key[1])}
            | _corrected(key, apparent[key], rates.get(key), [of[key] for of in found], resamples, failed)
            for key in metric_keys(endpoint)
        ],
        columns=["metric", "horizon", *PERFORMANCE],
    )


def _resample(fit: Fit, patients: Patients, endpoint: Endpoint, drawn: np.ndarray) -> dict[Key, list[float]]:
    """Each metric of one resample's model: in the resample, on all patients, on those who were not drawn."""
    sample = patients.rows(drawn)
    predict = fit(sample.X, sample.y)
    everyone = predict(patients.X)
    counts = np.bincount(drawn, minlength=len(everyone)).astype(float)
    out = np.flatnonzero(counts == 0)
    sets = [
        measure(endpoint, patients.known.iloc[rows], everyone.iloc[rows], once(len(rows)))
        for rows in (drawn, np.arange(len(everyone)), out)
    ]
    return {key: [float(of[key].values[0]) for of in sets] for key in sets[0]}


def _corrected(
    key: Key, apparent: float, rate: float | None, found: list[list[float]], resamples: int, failed: list[str]
) -> dict[str, Any]:
    """One metric's row. found: of each resample the values there, on all patients, on those not drawn."""
    values = np.array(found).reshape(-1, 3)
    used = values[np.isfinite(values if rate is not None else values[:, :2]).all(axis=1)]
    row: dict[str, Any] = {"apparent": apparent, "undefined": resamples - len(used)}
    method = "bootstrap of patients within centers, the whole model building repeated"
    if failed:
        method += f"; {len(failed)} resamples could not be fitted (first: {failed[0]})"
    if not np.isfinite(apparent):
        reason = "undefined on the patients of the fit (complete separation or predictions that do not vary)"
        return row | {"apparent": np.nan, "method": f"refused: {reason}"}
    if not resamples:
        return row | {"method": "apparent only: resampling.optimism is 0"}
    if 2 * len(used) <= resamples:
        return row | {"method": f"refused: defined in {len(used)} of {resamples} resamples; {method}"}
    optimism = float((used[:, 0] - used[:, 1]).mean())
    row |= {"optimism": optimism, "corrected": apparent - optimism, "method": method}
    if rate is not None:
        errors = np.array([apparent, used[:, 2].mean(), rate])
        ranking = key[0] in RANKING
        estimate = plus_632(*(1 - errors if ranking else errors))
        row["estimate_632plus"] = 1 - estimate if ranking else estimate
    return row


def plus_632(apparent: float, left_out: float, rate: float) -> float:
    """The .632+ estimate of an error (Efron and Tibshirani 1997, equations 28 to 32).

    left_out: mean over resamples on the patients who were not drawn; rate: the error without any information.
    """
    left_out = min(left_out, rate)
    overfitting = (left_out - apparent) / (rate - apparent) if apparent < left_out else 0.0
    weight = 0.632 / (1 - 0.368 * overfitting)
    return float((1 - weight) * apparent + weight * left_out)


# --- leaving out one center after the other ---------------------------------------------------------------------------


def leave_one_center_out(
    fit: Fit,
    patients: Patients,
    endpoint: Endpoint,
    *,
    bootstrap: int,
    minimum_events: int,
    training_centers: int,
    seed: int,
) -> pd.DataFrame:
    """Every center's performance by the model that was built without it; a row per center, metric and horizon.

    The center's features enter as they are, as those of a center that training has never seen. Standard errors:
    Wald for slope and calibration in the large, else from `bootstrap` resamples of the center's patients; intervals
    are normal on the scale of pooling. Metrics are refused, with the reason, where a center has too few events or
    fewer than `training_centers` remain (ComBat needs two).
    """
    center = patients.X[CENTER].to_numpy(dtype=str)
    names = np.unique(center)
    keys = metric_keys(endpoint)
    rows = []
    for name in names:
        inside = center == name
        part, rest = patients.rows(np.flatnonzero(inside)), patients.rows(np.flatnonzero(~inside))
        reasons = {key: _too_few(endpoint, part.known, key, minimum_events) for key in keys}
        scored = None
        if len(names) - 1 < training_centers:
            reason = f"{len(names)} development centers; without one, training needs {training_centers} others"
            reasons = dict.fromkeys(keys, reason + " (ComBat)" * (training_centers > 1))
        elif not all(reasons.values()):
            try:
                scored = fit(rest.X, rest.y)(part.X)
            except IMPOSSIBLE as error:
                reasons = dict.fromkeys(keys, f"the model cannot be fitted without this center: {error}")
        draws = patient_counts(part.X.index, bootstrap, [seed, int(digest(str(name))[:8], 16)])
        measured = {} if scored is None else measure(endpoint, part.known, scored, draws)
        for key in keys:
            row = {"center": name, "metric": key[0], "horizon": key[1], "n": len(part.X)}
            row["events"] = events_of(endpoint, part.known, key[1])
            rows.append(row | _estimate(key[0], measured.get(key), reasons[key]))
    return pd.DataFrame(rows, columns=["center", "metric", "horizon", *CENTERS])


def _too_few(endpoint: Endpoint, known: pd.DataFrame, key: Key, least: int) -> str:
    """Why nothing can be said of a metric in these patients, or ""."""
    metric, horizon = key
    events = events_of(endpoint, known, None)
    if endpoint["type"] == "multiclass":
        few = metric == "macro_auc" and events < least
        return f"{events} patients of the rarest class; at least {least} of each are needed" if few else ""
    if endpoint["type"] == "binary" and min(events, len(known) - events) < least:
        return f"{events} events in {len(known)} patients; at least {least} with and {least} without are needed"
    if endpoint["type"] == "survival" and events < least:
        return f"{events} events in {len(known)} patients; at least {least} are needed"
    if horizon is None:
        return ""
    time, event = _follow_up(endpoint, known)
    if time.max() < horizon:
        return f"follow-up ends at {time.max():g}, before the horizon of {horizon:g}"
    cases, controls, _ = survival.known_status(time, event, horizon)
    if min(cases.sum(), controls.sum()) < least:
        found = f"{cases.sum()} events by the horizon, {controls.sum()} known to be free of it"
        return f"{found}; at least {least} of each are needed"
    return ""


def _estimate(metric: str, measured: Measured | None, reason: str) -> dict[str, Any]:
    """Estimate, standard error and interval of one center, or the reason why there is none."""
    if reason or measured is None:
        return {"method": f"refused: {reason}"}
    estimate, draws = float(measured.values[0]), measured.values[1:]
    if not np.isfinite(estimate):
        return {"method": "refused: undefined (complete separation or predictions that do not vary)"}
    scale = scale_of(metric)
    analytic = np.isfinite(measured.error)
    drawn = draws[np.isfinite(draws)]
    row: dict[str, Any] = {"estimate": estimate}
    if not analytic and 2 * len(drawn) <= len(draws):
        return row | {"method": f"not pooled: defined in {len(drawn)} of {len(draws)} bootstrap resamples"}
    error = measured.error if analytic else float(drawn.std(ddof=1))
    if not (error > 0 and (scale.name != "logit" or 0 < estimate < 1) and (scale.name != "log" or estimate > 0)):
        return row | {"method": f"not pooled: {estimate:g} has no standard error on the {scale.name} scale"}
    lower, upper = center_interval(estimate, error, scale)
    source = "Wald" if analytic else f"standard error of {len(drawn)} bootstrap resamples"
    return row | {
        "se": error,
        "lower": lower,
        "upper": upper,
        "method": f"{source}, interval on the {scale.name} scale",
    }


def pool_centers(left_out: pd.DataFrame) -> pd.DataFrame:
    """Random-effects mean over centers with its prediction interval; a row per metric and horizon. Centers that could
    not be estimated are left out by name.
    """
    rows = []
    for (metric, horizon), of in left_out.groupby(["metric", "horizon"], sort=False, dropna=False):
        row: dict[str, Any] = {"metric": metric, "horizon": horizon}
        used = of[of["se"].notna()]
        absent = ", ".join(of.loc[of["se"].isna(), "center"])
        row["centers"] = len(used)
        if len(used) < 2:
            reason = f"{len(used)} centers with an estimate; at least 2 are needed"
            rows.append(row | {"method": f"refused: {reason} (without {absent})"})
            continue
        scale = scale_of(metric)
        found = pool(used["estimate"].to_numpy(dtype=float), used["se"].to_numpy(dtype=float), scale)
        method = f"random effects on the {scale.name} scale, REML, Hartung-Knapp"
        if len(used) < PREDICTABLE:
            method += f"; a prediction interval needs {PREDICTABLE} centers"
        if absent:
            method += f"; without {absent}"
        rows.append(row | found._asdict() | {"method": method})
    return pd.DataFrame(rows, columns=["metric", "horizon", *POOLED])
