"""The evaluation engine against R on the simulated inputs of tests/oracles (see its README for how they were made)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from hccstudy.metrics import calibration, comparison, discrimination, net_benefit, overall, survival
from hccstudy.metrics.resampling import once, patient_counts
from hccstudy.metrics.sets import Scored

ORACLES = Path(__file__).with_name("oracles")
EXACT = 1e-8


def oracle(name: str) -> Any:
    return json.loads((ORACLES / f"{name}.json").read_text())


def errors(smoothed: np.ndarray, risk: np.ndarray) -> list[float]:
    return [values[0] for values in calibration.curve_errors(smoothed, risk, once(len(risk))).values()]


def net_benefits(time: np.ndarray, event: np.ndarray, risk: np.ndarray, horizon: int, expected: Any) -> None:
    thresholds = np.array(expected["thresholds"])
    for name, values in {"model": risk, "all": np.ones(len(risk))}.items():
        decisions = net_benefit.decide_t(time, event, values, horizon, thresholds, once(len(risk)))
        wanted = [row[name] for row in expected["values"]]
        assert decisions.net_benefit(thresholds)[0] == pytest.approx(wanted, abs=EXACT)


@pytest.mark.parametrize("horizon", [12, 24])
@pytest.mark.parametrize(("table", "key"), [("competing", "months"), ("competing_continuous", "continuous")])
def test_competing_risks_equal_r(table: str, key: str, horizon: int) -> None:
    """survival::survfit, riskRegression::Score, geepack::geese, Wolbers' C; whole months make ties of every kind."""
    frame, expected = pd.read_csv(ORACLES / f"{table}.csv"), oracle("competing")[key][f"h{horizon}"]
    time, event = frame["time"].to_numpy(float), frame["status"].to_numpy(float)
    risk, ones = frame[f"risk_{horizon}"].to_numpy(), once(len(frame))
    score, null = overall.brier_t(time, event, risk, horizon, ones)
    until = np.where(time <= horizon, event, 0)  # the oracle's concordance looks at events by the horizon
    harrell, uno = discrimination.concordance(time, until, risk, ones)
    found = {
        "cif": survival.event_risk(time, event, horizon, ones)[0],
        "oe": calibration.observed_expected_t(time, event, risk, horizon, ones)[0],
        "auc": discrimination.auc_t(time, event, risk, horizon, ones)[0],
        "brier": score[0],
        "brier_null": null[0],
        "ipa": 1 - score[0] / null[0],
    }
    assert found == pytest.approx({name: expected[name] for name in found}, abs=EXACT)
    assert [harrell[0], uno[0]] == pytest.approx([expected["wolbers"][name] for name in ("harrell", "ipcw")], abs=EXACT)
    pseudo = survival.pseudo_values(time, event, horizon)
    assert pseudo[:20] == pytest.approx(expected["pseudo_first20"], abs=EXACT)
    assert calibration.slope_pseudo(pseudo, risk, ones)[0] == pytest.approx(expected["calibration"]["slope"], abs=1e-7)
    smoothed, _ = calibration.smooth_curve_pseudo(pseudo, risk, risk[:2], ones)
    assert errors(smoothed, risk) == pytest.approx(
        [expected["calibration"][k] for k in ("ici", "e50", "e90")], abs=1e-7
    )
    net_benefits(time, event, risk, horizon, expected["net_benefit"])


def test_without_competing_events_aalen_johansen_is_kaplan_meier() -> None:
    frame = pd.read_csv(ORACLES / "survival.csv")
    time, event = frame["time"].to_numpy(float), frame["event"].to_numpy(float)
    counts = patient_counts(frame["patient"], 20, (1,))
    whole = survival.event_risk(time, event, 12, counts)
    someone = np.append(event, 2.0)  # one competing event at the very end, after the horizon, changes nothing before it
    extended = np.column_stack([counts, np.ones(len(counts))])
    with_one = survival.event_risk(np.append(time, time.max() + 1), someone, 12, extended)
    kaplan_meier = survival.event_risk(np.append(time, time.max() + 1), np.append(event, 0.0), 12, extended)
    assert with_one == pytest.approx(kaplan_meier, abs=1e-12) and whole != pytest.approx(kaplan_meier, abs=1e-6)


@pytest.mark.parametrize("horizon", [12, 24])
def test_survival_at_a_horizon_equals_r(horizon: int) -> None:
    """riskRegression::Score, survival::coxph with rms-style splines, geepack::geese; whole months."""
    frame, expected = pd.read_csv(ORACLES / "survival.csv"), oracle("survival")[f"h{horizon}"]
    time, event, ones = frame["time"].to_numpy(float), frame["event"].to_numpy(float), once(len(frame))
    for model, column in {"model_a": f"risk_{horizon}", "model_b": f"risk_b_{horizon}"}.items():
        risk = frame[column].to_numpy()
        score, null = overall.brier_t(time, event, risk, horizon, ones)
        found = {
            "auc": discrimination.auc_t(time, event, risk, horizon, ones)[0],
            "brier": score[0],
            "ipa": 1 - score[0] / null[0],
        }
        assert found == pytest.approx({name: expected[model][name] for name in found}, abs=EXACT)
    risk = frame[f"risk_{horizon}"].to_numpy()
    ratio = calibration.observed_expected_t(time, event, risk, horizon, ones)[0]
    assert ratio == pytest.approx(expected["oe"], abs=EXACT)
    for kind, curve in {
        "cox": calibration.smooth_curve_t(time, event, risk, risk[:2], horizon, ones)[0],
        "pseudo": calibration.smooth_curve_pseudo(survival.pseudo_values(time, event, horizon), risk, risk[:2], ones)[
            0
        ],
    }.items():
        wanted = [expected[f"calibration_{kind}"][name] for name in ("ici", "e50", "e90")]
        assert errors(curve, risk) == pytest.approx(wanted, abs=1e-7)
    net_benefits(time, event, risk, horizon, expected["net_benefit"])


@pytest.mark.parametrize("horizon", [12, 24])
def test_bootstrap_differences_agree_with_the_influence_functions_of_r(horizon: int) -> None:
    """riskRegression's standard errors of the difference of two models; ours are of 2,000 paired resamples."""
    frame, expected = pd.read_csv(ORACLES / "survival.csv"), oracle("survival")[f"h{horizon}"]
    time, event = frame["time"].to_numpy(float), frame["event"].to_numpy(float)
    counts = patient_counts(frame["patient"], 2000, (horizon,))
    a, b = (frame[name].to_numpy() for name in (f"risk_{horizon}", f"risk_b_{horizon}"))
    areas = [discrimination.auc_t(time, event, risk, horizon, counts) for risk in (b, a)]
    scores = [overall.brier_t(time, event, risk, horizon, counts)[0] for risk in (b, a)]
    for name, (first, second) in {"delta_auc": areas, "delta_brier": scores}.items():
        difference = first - second
        assert difference[0] == pytest.approx(expected[name]["estimate"], abs=EXACT)
        assert difference[1:].std(ddof=1) == pytest.approx(expected[name]["se"], rel=0.08)


def test_ranking_follow_up_and_log_rank_equal_r() -> None:
    frame, expected = pd.read_csv(ORACLES / "survival.csv"), oracle("survival")
    time, event, lp = (frame[name].to_numpy(float) for name in ("time", "event", "lp"))
    ones = once(len(frame))
    harrell, uno = discrimination.concordance(time, event, lp, ones)
    assert [harrell[0], uno[0]] == pytest.approx([expected["harrell"]["c"], expected["uno"]["c"]], abs=EXACT)
    steepness, (low, high) = calibration.slope_t(time, event, lp, ones)
    assert steepness[0] == pytest.approx(expected["slope"]["slope"], abs=EXACT)
    assert (high - low) / 2 / comparison.Z == pytest.approx(expected["slope"]["se"], abs=EXACT)
    assert survival.median_follow_up(time, event, ones)[0] == expected["follow_up"]["survfit_median"]
    statistic, p = survival.logrank(time, event, frame["group"].to_numpy(str))
    assert [statistic, p] == pytest.approx([expected["logrank"]["chisq"], expected["logrank"]["p"]], rel=1e-8)
    chi, p = comparison.added_information(Scored(event, time), frame["lp_b"].to_numpy(float), lp)
    ratio = expected["cox_likelihood_ratio"]
    assert chi == pytest.approx(ratio["chisq"], abs=1e-7) and p == pytest.approx(ratio["p"], rel=1e-6)


def test_brier_at_every_month_equals_r() -> None:
    frame, curves = pd.read_csv(ORACLES / "survival.csv"), pd.read_csv(ORACLES / "survival_curves.csv.gz")
    expected = oracle("survival")
    time, event, ones = frame["time"].to_numpy(float), frame["event"].to_numpy(float), once(len(frame))
    months = range(1, 31)
    found = [overall.brier_t(time, event, 1 - curves[str(k)].to_numpy(), k, ones)[0][0] for k in months]
    assert found == pytest.approx(expected["brier_by_month"], abs=EXACT)


def test_binary_calibration_and_comparisons_equal_r() -> None:
    frame, expected = pd.read_csv(ORACLES / "binary.csv"), oracle("binary")
    event, ones = frame["y"].to_numpy(float), once(len(frame))
    for model in "ab":
        risk, wanted = frame[f"p_{model}"].to_numpy(), expected[f"model_{model}"]
        area, low, high = discrimination.delong(event, risk)
        assert [area, low, high] == pytest.approx([wanted[k] for k in ("auc", "auc_lower", "auc_upper")], abs=EXACT)
        score, null = overall.brier(event, risk, ones)
        ratio = calibration.observed_expected(event, risk, ones)
        assert [score[0], null[0], ratio[0]] == pytest.approx(
            [wanted[k] for k in ("brier", "brier_null", "oe")], abs=EXACT
        )
        for name, fit in {"in_the_large": calibration.in_the_large, "slope": calibration.slope}.items():
            values, (low, high) = fit(event, risk, ones)
            found = [values[0], (high - low) / 2 / comparison.Z]
            assert found == pytest.approx([wanted[name]["estimate"], wanted[name]["se"]], abs=1e-6)
        smoothed, _ = calibration.smooth_curve(event, risk, risk[:2], ones)
        assert errors(smoothed, risk) == pytest.approx(
            [wanted["calibration"][k] for k in ("ici", "e50", "e90")], abs=1e-6
        )
    a, b = frame["p_a"].to_numpy(), frame["p_b"].to_numpy()
    wanted = expected["delong_b_minus_a"]
    found = dict(zip(["difference", "lower", "upper", "z", "p"], comparison.delong_test(event, b, a), strict=True))
    assert found == pytest.approx(wanted, abs=EXACT)
    net = comparison.reclassification(b, a, once(len(a)) * event, once(len(a)) * (1 - event))
    improved = expected["improve_prob"]
    assert [net[k][0] for k in ("nri_events", "nri_nonevents", "idi")] == pytest.approx(
        [improved["nri_ev"], improved["nri_ne"], improved["idi"]], abs=EXACT
    )
    chi, p = comparison.added_information(Scored(event), calibration.log_odds(b), calibration.log_odds(a))
    assert [chi, p] == pytest.approx([expected["likelihood_ratio"][k] for k in ("chisq", "p")], rel=1e-7)


def test_classes_equal_r() -> None:
    frame, expected = pd.read_csv(ORACLES / "multiclass.csv"), oracle("binary")["multiclass"]
    level = frame["class"].map(expected["classes"].index).to_numpy()
    probability, ones = frame[[f"p_{name}" for name in expected["classes"]]].to_numpy(), once(len(frame))
    accuracy, kappa = overall.agreement(level, probability.argmax(axis=1), 3, ones)
    found = {
        "auc_macro": discrimination.macro_auc(level, probability, ones)[0],
        "hand_till": discrimination.hand_till(level, probability, ones)[0],
        "accuracy": accuracy[0],
        "kappa": kappa[0],
        "brier": overall.brier_classes(level, probability, ones)[0][0],
    }
    assert found == pytest.approx({name: expected[name] for name in found}, abs=EXACT)


def test_adjusted_p_values_equal_r() -> None:
    expected = oracle("pooling")["adjust"]
    table = pd.DataFrame({"metric": "auc", "p": expected["p"]})
    assert comparison.adjust(table, ["metric"])["p_holm"].to_numpy() == pytest.approx(expected["holm"], abs=1e-12)


def test_the_regression_of_pseudo_observations_converges_where_risks_are_extreme() -> None:
    """Damped steps: least squares of the same kind by scipy, on small sets with risks near 1."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = 60
        x = rng.normal(size=n)
        death, other, lost = rng.exponential(10 * np.exp(-2 * x)), rng.exponential(60, n), rng.uniform(5, 60, n)
        time = np.minimum(np.minimum(death, other), lost)
        event = np.select([death == time, other == time], [1.0, 2.0], 0.0)
        risk = -np.expm1(-24 / 10 * np.exp(2 * x))
        pseudo = survival.pseudo_values(time, event, 24.0)
        predictor = calibration.cloglog(risk)

        def residuals(beta: np.ndarray, predictor: np.ndarray = predictor, pseudo: np.ndarray = pseudo) -> np.ndarray:
            return pseudo + np.expm1(-np.exp(np.clip(beta[0] + beta[1] * predictor, -30, 30)))

        expected = least_squares(residuals, [0.0, 1.0], xtol=1e-14, ftol=1e-14, gtol=1e-14).x[1]
        assert calibration.slope_pseudo(pseudo, risk, once(n))[0] == pytest.approx(expected, rel=1e-5)
