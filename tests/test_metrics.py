"""The metrics against outside truth: R's published numbers, textbooks, other libraries, closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.metrics import accuracy_score, brier_score_loss, cohen_kappa_score, roc_auc_score
from sksurv.metrics import concordance_index_censored
from statsmodels.duration.hazard_regression import PHReg

from hccstudy.metrics import calibration, discrimination, net_benefit, overall, survival
from hccstudy.metrics.regression import cox, logistic
from hccstudy.metrics.resampling import once, patient_counts, percentile_interval

SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "statistics"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"oracle tables are not at {SHARED}")

# Freireich et al. 1963, weeks of remission in leukemia (0 = censored; all of the placebo arm relapsed).
MERCAPTOPURINE = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def months(n: int = 150, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Survival in whole months with many ties between events, censorings and predictions: time, event, lp."""
    rng = np.random.default_rng(seed)
    lp = np.round(rng.normal(size=n), 1)
    death = rng.exponential(20 * np.exp(-lp))
    lost = rng.uniform(5, 60, size=n)
    return np.ceil(np.minimum(death, lost)), (death <= lost) * 1.0, lp


def binary(n: int = 200, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """An outcome and risks that are too extreme: event, risk."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return (rng.random(n) < expit(x - 0.5)) * 1.0, np.round(expit(1.7 * x), 2).clip(0.01, 0.99)


# --- survival -------------------------------------------------------------------------------------


def test_kaplan_meier_equals_the_textbook_table_with_log_log_intervals() -> None:
    steps = survival.kaplan_meier(np.array(MERCAPTOPURINE, float), np.array(RELAPSED, float)).set_index("time")
    published = {  # SAS and Stata print these for the 6-MP arm (log-log intervals)
        6: (0.8571, 0.6197, 0.9516, 21),
        7: (0.8067, 0.5631, 0.9228, 17),
        10: (0.7529, 0.5032, 0.8894, 15),
        13: (0.6902, 0.4316, 0.8491, 12),
        16: (0.6275, 0.3675, 0.8049, 11),
        22: (0.5378, 0.2678, 0.7468, 7),
        23: (0.4482, 0.1881, 0.6801, 6),
    }
    for time, row in published.items():
        assert steps.loc[time, ["survival", "lower", "upper", "at_risk"]].to_numpy() == pytest.approx(row, abs=6e-5)
    assert steps.loc[0].to_list() == [1, 1, 1, 21]


def test_kaplan_meier_claims_no_interval_once_nobody_survives() -> None:
    last = survival.kaplan_meier(np.array([1.0, 2.0, 3.0]), np.ones(3)).iloc[-1]
    assert last["survival"] == 0 and np.isnan(last["lower"]) and np.isnan(last["upper"])


def test_logrank_equals_the_published_chi_square_of_the_leukemia_trial() -> None:
    time = np.array(MERCAPTOPURINE + PLACEBO, float)
    event = np.array(RELAPSED + [1] * 21, float)
    statistic, p = survival.logrank(time, event, np.repeat(["6-MP", "placebo"], 21))
    assert statistic == pytest.approx(16.793, abs=0.001)
    assert p == pytest.approx(4.17e-5, rel=0.01)


def test_median_follow_up_by_hand() -> None:
    time, event = np.array([2.0, 4, 5, 6, 8, 9]), np.array([1.0, 0, 1, 0, 0, 0])
    # Censorings at 4 (5 at risk), 6 (3), 8 (2), 9 (1): 0.8, 0.533, 0.267, 0.
    assert survival.median_follow_up(time, event, once(6))[0] == 8
    # Without events the curve is exactly 0.5 from the 2nd to the 3rd of four patients: R gives the middle.
    assert survival.median_follow_up(np.array([1.0, 2, 4, 9]), np.zeros(4), once(4))[0] == 3
    assert np.isnan(survival.median_follow_up(time, np.ones(6), once(6))[0])


def test_censoring_weights_by_hand_with_a_tie_of_event_and_censoring() -> None:
    time, event = np.array([1.0, 2, 2, 3, 4, 5]), np.array([0.0, 1, 0, 1, 0, 0])
    # G: 5/6 after 1; at 2 five are at risk, the one with the event is no longer exposed: 5/6 * 3/4 = 0.625.
    cases, controls = survival.horizon_weights(time, event, 3.5, once(6))
    assert cases[0] == pytest.approx([0, 6 / 5, 0, 1.6, 0, 0])
    assert controls[0] == pytest.approx([0, 0, 0, 0, 1.6, 1.6])


@pytest.mark.parametrize("horizon", [6, 12, 24])
def test_weights_for_censoring_reproduce_kaplan_meier_with_integer_months(horizon: float) -> None:
    time, event, _ = months()
    cases, controls = survival.horizon_weights(time, event, horizon, once(150))
    assert cases.sum() / 150 == pytest.approx(survival.event_risk(time, event, horizon, once(150))[0], abs=1e-12)
    assert (cases + controls).sum() == pytest.approx(150)


# --- discrimination -------------------------------------------------------------------------------


def concordance_by_definition(time: np.ndarray, event: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    won = pairs = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(time)):
            if time[j] > time[i] or (time[j] == time[i] and not event[j]):
                pairs += weight[i]
                won += weight[i] * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
    return won / pairs


def test_concordance_with_ties_in_time_and_score_follows_its_definition() -> None:
    time, event, lp = months()
    harrell, uno = discrimination.concordance(time, event, lp, once(150))
    assert harrell[0] == pytest.approx(concordance_by_definition(time, event, lp, np.ones(150)), abs=1e-12)
    assert harrell[0] == pytest.approx(concordance_index_censored(event == 1, time, lp)[0], abs=1e-12)
    uncensored = np.ones(150)
    for moment in np.unique(time[event == 0]):
        lost = (time == moment) & (event == 0)
        uncensored[time > moment] *= 1 - lost.sum() / (lost | (time > moment)).sum()
    assert uno[0] == pytest.approx(concordance_by_definition(time, event, lp, uncensored**-2.0), abs=1e-12)
    assert abs(uno[0] - harrell[0]) > 1e-4


def test_concordance_is_reversed_by_the_sign_and_blind_to_row_order_and_unit() -> None:
    time, event, lp = months()
    base = np.ravel(discrimination.concordance(time, event, lp, once(150)))
    assert np.ravel(discrimination.concordance(time, event, -lp, once(150))) == pytest.approx(1 - base)
    assert np.ravel(discrimination.concordance(time * 30.4375, event, lp, once(150))) == pytest.approx(base)
    order = np.random.default_rng(0).permutation(150)
    shuffled = discrimination.concordance(time[order], event[order], lp[order], once(150))
    assert np.ravel(shuffled) == pytest.approx(base)
    assert np.ravel(discrimination.concordance(time, event, np.zeros(150), once(150))).tolist() == [0.5, 0.5]


def test_delong_interval_covers_the_known_auc_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    event, truth = np.repeat([1.0, 0.0], [40, 60]), 0.7602  # normal scores one SD apart: Phi(1 / sqrt 2)
    intervals = [discrimination.delong(event, rng.normal(size=100) + event) for _ in range(1000)]
    covered = np.mean([lower <= truth <= upper for _, lower, upper in intervals])
    assert 0.92 <= covered <= 0.97


def test_complete_separation_has_no_delong_interval() -> None:
    estimate, lower, upper = discrimination.delong(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert estimate == 1 and np.isnan(lower) and np.isnan(upper)


def test_multiclass_auc_and_agreement_equal_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    level = rng.integers(0, 4, size=160)
    probability = np.round(rng.dirichlet(np.ones(4), size=160) + 0.6 * np.eye(4)[level], 2)
    probability /= probability.sum(axis=1, keepdims=True)
    one_vs_one = roc_auc_score(level, probability, multi_class="ovo")
    one_vs_rest = roc_auc_score(level, probability, multi_class="ovr")
    assert discrimination.hand_till(level, probability, once(160))[0] == pytest.approx(one_vs_one, abs=1e-12)
    assert discrimination.macro_auc(level, probability, once(160))[0] == pytest.approx(one_vs_rest, abs=1e-12)
    predicted = probability.argmax(axis=1)
    accuracy, kappa = overall.agreement(level, predicted, 4, once(160))
    assert accuracy[0] == pytest.approx(accuracy_score(level, predicted))
    assert kappa[0] == pytest.approx(cohen_kappa_score(level, predicted))
    score, null = overall.brier_classes(level, probability, once(160))
    assert score[0] == pytest.approx(np.mean(np.sum((np.eye(4)[level] - probability) ** 2, axis=1)))
    assert null[0] == pytest.approx(np.mean(np.sum((np.eye(4)[level] - np.bincount(level) / 160) ** 2, axis=1)))


# --- censored against uncensored ------------------------------------------------------------------


def test_without_censoring_every_censored_metric_equals_its_binary_sister() -> None:
    rng = np.random.default_rng(7)
    lp = np.round(rng.normal(size=200), 1)
    time = np.ceil(rng.exponential(20 * np.exp(-lp)))
    event, all_events, ones = (time <= 12) * 1.0, np.ones(200), once(200)
    risk = 1 - np.exp(-12 / 20 * np.exp(lp))
    thresholds = np.array([0.1, 0.3, 0.5, 0.7])
    pairs = [
        (discrimination.auc_t(time, all_events, lp, 12, ones), discrimination.auc(event, lp, ones)),
        (overall.brier_t(time, all_events, risk, 12, ones), overall.brier(event, risk, ones)),
        (
            calibration.observed_expected_t(time, all_events, risk, 12, ones),
            calibration.observed_expected(event, risk, ones),
        ),
        (
            np.stack(net_benefit.decide_t(time, all_events, risk, 12, thresholds, ones)),
            np.stack(net_benefit.decide(event, risk, thresholds, ones)),
        ),
    ]
    for censored, plain in pairs:
        assert np.ravel(censored) == pytest.approx(np.ravel(plain), abs=1e-12)


def test_censored_metrics_find_the_values_of_the_full_follow_up() -> None:
    rng = np.random.default_rng(13)
    n, horizon = 6000, 24.0
    lp = rng.normal(size=n)
    death, lost = rng.exponential(40 * np.exp(-lp)), rng.exponential(40, size=n)
    time, event, truth = np.minimum(death, lost), (death <= lost) * 1.0, (death <= horizon) * 1.0
    risk = 1 - np.exp(-horizon / 40 * np.exp(lp))
    assert truth.mean() - ((event == 1) & (time <= horizon)).mean() > 0.08  # ignoring censoring would be wrong
    ones = once(n)
    assert discrimination.auc_t(time, event, lp, horizon, ones)[0] == pytest.approx(roc_auc_score(truth, lp), abs=0.01)
    assert overall.brier_t(time, event, risk, horizon, ones)[0][0] == pytest.approx(
        brier_score_loss(truth, risk), abs=0.005
    )
    assert calibration.observed_expected_t(time, event, risk, horizon, ones)[0] == pytest.approx(1, abs=0.04)
    assert calibration.slope_t(time, event, lp, ones)[0][0] == pytest.approx(1, abs=0.04)
    thresholds = np.array([0.2, 0.5, 0.8])
    found = np.stack(net_benefit.decide_t(time, event, risk, horizon, thresholds, ones))
    expected = np.stack(net_benefit.decide(truth, risk, thresholds, ones))
    assert np.ravel(found) == pytest.approx(np.ravel(expected), abs=0.015)
    smoothed, _ = calibration.smooth_curve_t(time, event, risk, risk[:2], horizon, ones)
    assert calibration.curve_errors(smoothed, risk, ones)["ici"][0] < 0.015


def test_a_horizon_where_follow_up_ends_counts_the_censored_there_as_free_of_the_event() -> None:
    time, event = np.array([1.0, 2, 3, 3, 5, 5, 5, 5]), np.array([1.0, 1, 1, 0, 0, 0, 0, 0])
    lp = np.array([4.0, 3, 1, 9, 2, 0, 0, 0])
    cases, controls = survival.horizon_weights(time, event, 5, once(8))
    assert (cases + controls).sum() == pytest.approx(8)
    assert controls[0, 4:] == pytest.approx(1.25)
    # Cases 1, 2, 3 against the four followed to 5: 3 wins 12 pairs but one (1 against 2).
    assert discrimination.auc_t(time, event, lp, 5, once(8))[0] == pytest.approx(11 / 12)


# --- resamples ------------------------------------------------------------------------------------


def test_a_resample_as_counts_equals_the_repeated_rows() -> None:
    """Every metric at once: counts (1, n) must give what the table with repeated rows gives."""
    time, event, lp = months()
    risk = 1 - np.exp(-0.6 * np.exp(lp))
    status, chance = binary(150)
    level = np.random.default_rng(1).integers(0, 3, size=150)
    probability = np.random.default_rng(2).dirichlet(np.ones(3), size=150)
    thresholds, horizon = np.array([0.2, 0.5]), 12.0

    def everything(rows: np.ndarray, counts: np.ndarray) -> list[float]:
        t, e, s, r = time[rows], event[rows], lp[rows], risk[rows]
        y, p, k, q = status[rows], chance[rows], level[rows], probability[rows]
        basis = calibration.spline_basis(s, np.array([-1.0, 0.0, 1.0]))
        fits = [cox(t, e, basis, counts, horizon), logistic(y, basis, counts)]
        values = [
            *discrimination.concordance(t, e, s, counts),
            discrimination.auc_t(t, e, s, horizon, counts),
            discrimination.auc(y, p, counts),
            discrimination.macro_auc(k, q, counts),
            discrimination.hand_till(k, q, counts),
            *overall.brier(y, p, counts),
            *overall.brier_t(t, e, r, horizon, counts),
            *overall.brier_classes(k, q, counts),
            *overall.agreement(k, q.argmax(axis=1), 3, counts),
            calibration.observed_expected(y, p, counts),
            calibration.observed_expected_t(t, e, r, horizon, counts),
            calibration.in_the_large(y, p, counts)[0],
            calibration.slope(y, p, counts)[0],
            calibration.slope_t(t, e, s, counts)[0],
            *net_benefit.decide(y, p, thresholds, counts),
            *net_benefit.decide_t(t, e, r, horizon, thresholds, counts),
            survival.median_follow_up(t, e, counts),
            *(array for fit in fits for array in (fit.beta, fit.covariance)),
            fits[0].log_hazard,
            *calibration.curve_errors(np.sqrt(p)[None] + 0 * counts, p, counts).values(),
        ]
        return np.concatenate([np.ravel(value) for value in values]).tolist()

    draw = patient_counts(np.arange(150), 1, [4])[1:]
    repeated = np.repeat(np.arange(150), draw[0].astype(int))
    assert everything(np.arange(150), draw) == pytest.approx(everything(repeated, once(150)), rel=1e-7, abs=1e-10)


def test_resamples_do_not_depend_on_each_other() -> None:
    time, event, lp = months()
    counts = patient_counts(np.arange(150), 20, [4])
    basis = calibration.spline_basis(lp, np.array([-1.0, 0.0, 1.0]))
    together = cox(time, event, basis, counts, 12)
    alone = [cox(time, event, basis, row[None], 12) for row in counts]
    assert together.beta == pytest.approx(np.concatenate([fit.beta for fit in alone]), abs=1e-8)
    assert together.log_hazard == pytest.approx(np.concatenate([fit.log_hazard for fit in alone]), abs=1e-8)


def test_rows_of_a_patient_are_drawn_together_whatever_the_order_of_the_table() -> None:
    patients = np.array(["c", "a", "b", "a", "c", "c"])
    counts = patient_counts(patients, 50, [1])
    assert (counts[0] == 1).all()
    assert (counts[:, 1] == counts[:, 3]).all() and (counts[:, 0] == counts[:, 5]).all()
    assert (counts[1:, [0, 1, 2]].sum(axis=1) == 3).all()
    order = [3, 5, 2, 0, 1, 4]
    assert (patient_counts(patients[order], 50, [1]) == counts[:, order]).all()


def test_percentiles_are_withheld_where_most_resamples_are_undefined() -> None:
    draws = np.column_stack([np.arange(101.0), np.where(np.arange(101) < 40, 1.0, np.nan)])
    lower, upper = percentile_interval(draws)
    assert (lower[0], upper[0]) == (2.5, 97.5)
    assert np.isnan(lower[1]) and np.isnan(upper[1])


# --- regression -----------------------------------------------------------------------------------


def test_percentiles_of_many_columns_are_those_of_each_alone() -> None:
    draws = np.random.default_rng(1).normal(size=(101, 7))
    draws[:5, 2], draws[50:, 4] = np.nan, np.nan
    lower, upper = percentile_interval(draws)
    for place, column in enumerate(draws.T):
        expected = np.full(2, np.nan) if place == 4 else np.quantile(column[np.isfinite(column)], [0.025, 0.975])
        assert np.array_equal([lower[place], upper[place]], expected, equal_nan=True)
        assert np.array_equal(percentile_interval(column), expected, equal_nan=True)


def test_curve_errors_are_those_of_the_repeated_rows_where_resamples_differ_in_size() -> None:
    rng = np.random.default_rng(1)
    risk, smoothed = rng.random(30), rng.random((40, 30))
    counts = rng.integers(0, 4, (40, 30)) * 1.0
    smoothed[3] = np.nan
    found = calibration.curve_errors(smoothed, risk, counts)
    for row in range(40):
        distance = np.repeat(np.abs(smoothed[row] - risk), counts[row].astype(int))
        expected = np.quantile(distance, [0.5, 0.9]) if row != 3 else [np.nan, np.nan]
        assert np.array_equal([found["e50"][row], found["e90"][row]], expected, equal_nan=True)
        assert found["ici"][row] == pytest.approx(distance.mean(), nan_ok=True)


def test_logistic_equals_statsmodels_with_and_without_offset() -> None:
    event, risk = binary()
    x = np.column_stack([logit(risk), np.arange(200) / 7])
    offset = np.linspace(-1, 1, 200)
    ours = logistic(event, x, once(200), offset)
    theirs = sm.GLM(event, sm.add_constant(x), family=sm.families.Binomial(), offset=offset).fit(tol=1e-12)
    assert ours.beta[0] == pytest.approx(theirs.params, abs=1e-7)
    assert ours.covariance[0] == pytest.approx(theirs.cov_params(), abs=1e-7)


def test_cox_equals_statsmodels_with_tied_months_and_any_scale_of_the_covariate() -> None:
    time, event, lp = months()
    x = np.column_stack([lp * 1000 + 5000, np.arange(150) % 7])
    ours = cox(time, event, x, once(150))
    theirs = PHReg(time, x / [1000, 1], status=event, ties="efron").fit()
    assert ours.beta[0] * [1000, 1] == pytest.approx(theirs.params, abs=1e-6)
    assert np.sqrt(np.diag(ours.covariance[0])) * [1000, 1] == pytest.approx(theirs.bse, rel=1e-5)


def test_a_fit_that_does_not_exist_is_nan_and_spares_the_other_resamples() -> None:
    event, x = np.array([0.0, 0, 0, 1, 1, 1]), np.array([[1.0], [2], [4], [3], [5], [6]])
    separated = np.array([1.0, 1, 0, 1, 1, 1])
    fit = logistic(event, x, np.vstack([np.ones(6), separated]))
    assert np.isfinite(fit.beta[0]).all() and np.isnan(fit.beta[1]).all()
    assert np.isnan(logistic(event, np.ones((6, 1)), once(6)).beta).all()
    assert np.isnan(cox(np.arange(6.0), np.zeros(6), x, once(6)).beta).all()
    # Whoever dies first always has the larger covariate: the partial likelihood has no maximum.
    assert np.isnan(cox(np.arange(6.0), np.ones(6), x[::-1] * 0 + np.arange(6.0)[::-1, None], once(6)).beta).all()


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_in_the_large_of_a_constant_risk_has_a_closed_form() -> None:
    event = np.repeat([1.0, 0.0], [30, 70])
    level, (lower, upper) = calibration.in_the_large(event, np.full(100, 0.2), once(100))
    assert level[0] == pytest.approx(logit(0.3) - logit(0.2), abs=1e-9)
    error = 1 / np.sqrt(100 * 0.3 * 0.7)
    assert (lower, upper) == pytest.approx((level[0] - 1.959964 * error, level[0] + 1.959964 * error), abs=1e-6)
    assert calibration.observed_expected(event, np.full(100, 0.2), once(100)) == pytest.approx([1.5])


def test_risks_with_doubled_log_odds_have_slope_one_half() -> None:
    rng = np.random.default_rng(17)
    truth = rng.normal(size=20000)
    event = (rng.random(20000) < expit(truth)) * 1.0
    steepness, (lower, upper) = calibration.slope(event, expit(2 * truth), once(20000))
    assert lower <= 0.5 <= upper and upper - lower < 0.04
    assert steepness[0] == pytest.approx(0.5, abs=0.02)


def test_ici_finds_the_true_distance_between_predicted_and_real_risk() -> None:
    rng = np.random.default_rng(19)
    x = rng.normal(size=20000)
    truth, risk = expit(x), expit(1.8 * x + 0.4)
    event = (rng.random(20000) < truth) * 1.0
    smoothed, curve = calibration.smooth_curve(event, risk, np.array([0.25, 0.75]), once(20000))
    errors = calibration.curve_errors(smoothed, risk, once(20000))
    assert errors["ici"][0] == pytest.approx(np.abs(truth - risk).mean(), abs=0.01)
    assert errors["e50"][0] == pytest.approx(np.median(np.abs(truth - risk)), abs=0.01)
    assert errors["e90"][0] == pytest.approx(np.quantile(np.abs(truth - risk), 0.9), abs=0.015)
    assert curve[0] == pytest.approx(expit((logit([0.25, 0.75]) - 0.4) / 1.8), abs=0.02)


def test_a_smooth_curve_through_two_distinct_risks_is_refused() -> None:
    event, _ = binary()
    risk = np.where(np.arange(200) % 3, 0.2, 0.4)
    smoothed, curve = calibration.smooth_curve(event, risk, np.array([0.3]), once(200))
    assert np.isnan(smoothed).all() and np.isnan(curve).all()


def test_calibration_groups_keep_equal_predictions_together_and_account_for_everyone() -> None:
    event, risk = binary()
    groups = calibration.calibration_groups(event, np.round(risk, 1), 5)
    assert groups["n"].sum() == 200 and groups["group"].tolist() == list(range(1, len(groups) + 1))
    assert (groups["observed"] * groups["n"]).sum() == pytest.approx(event.sum())
    assert groups["predicted"].is_monotonic_increasing
    assert ((groups["lower"] <= groups["observed"]) & (groups["observed"] <= groups["upper"])).all()
    assert len(calibration.calibration_groups(event, np.full(200, 0.3), 5)) == 1


def test_a_calibration_group_that_is_not_followed_to_the_horizon_has_no_observed_risk() -> None:
    risk = np.repeat([0.1, 0.9], 10)
    time = np.concatenate([np.full(10, 20.0), np.arange(1, 11)])
    groups = calibration.calibration_groups(np.zeros(20), risk, 2, time=time, horizon=12)
    assert groups["observed"][0] == 0 and np.isnan(groups["observed"][1])


def test_the_observed_risk_of_a_group_is_one_minus_kaplan_meier_with_its_interval() -> None:
    time, event = np.array(MERCAPTOPURINE, float), np.array(RELAPSED, float)
    group = calibration.calibration_groups(event, np.full(21, 0.3), 1, time=time, horizon=12).iloc[0]
    assert group[["observed", "lower", "upper"]].to_list() == pytest.approx([0.2471, 0.1106, 0.4968], abs=6e-5)


# --- net benefit ----------------------------------------------------------------------------------


def benefit_of(event: np.ndarray, risk: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return net_benefit.decide(event, risk, thresholds, once(len(event))).net_benefit(thresholds)


def benefit_t(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, horizon: float, thresholds: np.ndarray
) -> np.ndarray:
    return net_benefit.decide_t(time, event, risk, horizon, thresholds, once(len(event))).net_benefit(thresholds)


def test_net_benefit_by_hand_with_a_risk_exactly_at_the_threshold() -> None:
    event, risk = np.array([1.0, 1, 0, 0, 0]), np.array([0.5, 0.25, 0.25, 0.1, 0.9])
    benefit = benefit_of(event, risk, np.array([0.25, 0.95]))
    assert benefit[0] == pytest.approx([2 / 5 - 2 / 5 / 3, 0])


def test_net_benefit_is_undefined_where_the_treated_are_not_followed_to_the_horizon() -> None:
    time, event = np.array([1.0, 2, 9, 9]), np.array([1.0, 0, 0, 0])
    benefit = benefit_t(time, event, np.array([0.8, 0.8, 0.1, 0.1]), 5, np.array([0.05, 0.5]))
    assert benefit[0, 0] == pytest.approx(0.25 - 0.75 / 19) and np.isnan(benefit[0, 1])


# --- published numbers ----------------------------------------------------------------------------


@needs_shared
def test_the_stratos_example_is_reproduced_with_the_tolerances_of_its_oracle() -> None:
    folder = SHARED / "stratos_survival"
    oracle = json.loads((folder / "expected.json").read_text())
    development, gbsg = (pd.read_csv(folder / name) for name in ("rotterdam.csv", "gbsg.csv"))

    def design(frame: pd.DataFrame) -> np.ndarray:
        size, grade = frame["csize"], frame["grade3"] == "3"
        return np.column_stack([size == "20-50", size == ">50", frame["nodes2"], frame["nodes3"], grade]).astype(float)

    model = cox(
        development["ryear"].to_numpy(),
        development["rfs"].to_numpy(float),
        design(development),
        once(2982),
        5,
    )
    coefficients = list(oracle["model"]["reproduced"].values())
    assert model.beta[0] == pytest.approx(coefficients, abs=1e-6)
    assert np.sqrt(np.diag(model.covariance[0])) == pytest.approx(
        list(oracle["model"]["published_se"].values()), abs=1e-5
    )
    assert np.exp(-np.exp(model.log_hazard[0])) == pytest.approx(0.803805576452503, abs=1e-6)  # R basehaz(Efron)

    time, event, ones = gbsg["ryear"].to_numpy(), gbsg["rfs"].to_numpy(float), once(686)
    lp = design(gbsg) @ model.beta[0]
    risk = 1 - np.exp(-np.exp(model.log_hazard[0]) * np.exp(lp))
    truth = {name: item["reproduced_R_4_2_2"] for name, item in oracle["external_validation"].items()}
    tolerance = {name: item["tol_abs"] for name, item in oracle["external_validation"].items()}
    harrell, uno = discrimination.concordance(time, event, lp, ones)
    assert harrell[0] == pytest.approx(truth["harrell_C"][0], abs=1e-6)
    assert uno[0] == pytest.approx(truth["uno_C"][0], abs=1e-6)
    assert discrimination.auc_t(time, event, lp, 4.99, ones)[0] == pytest.approx(truth["td_auc_5y"][0], abs=1e-6)
    score, null = (values[0] for values in overall.brier_t(time, event, risk, 4.99, ones))
    assert score == pytest.approx(truth["brier_5y"][0], abs=1e-6)
    assert 1 - score / null == pytest.approx(truth["IPA"][0], abs=1e-5)
    ratio = calibration.observed_expected_t(time, event, risk, 5, ones)[0]
    events = int(((event == 1) & (time <= 5)).sum())
    assert [ratio, *calibration.poisson_interval(ratio, events)] == pytest.approx(truth["OE_5y"], abs=1e-6)
    steepness, interval = calibration.slope_t(time, event, lp, ones)
    assert [steepness[0], *interval] == pytest.approx(truth["calibration_slope"], abs=1e-5)
    smoothed, _ = calibration.smooth_curve_t(time, event, risk, risk[:2], 5, ones)
    errors = [values[0] for values in calibration.curve_errors(smoothed, risk, ones).values()]
    assert errors == pytest.approx(truth["ICI_E50_E90_Emax"][:3], abs=tolerance["ICI_E50_E90_Emax"][0])
    for threshold, row in oracle["more_net_benefit_5y_reproduced_only"].items():
        found = [
            benefit_t(time, event, values, 5, np.array([float(threshold)]))[0, 0] for values in (np.ones(686), risk)
        ]
        assert found == pytest.approx(row[1:3], abs=1e-6)
    # 121 patients are censored exactly at 5 years: a sensible value there, not NaN and .122 (riskRegression).
    assert discrimination.auc_t(time, event, lp, 5, ones)[0] == pytest.approx(truth["td_auc_5y"][0], abs=0.01)
    assert overall.brier_t(time, event, risk, 5, ones)[0][0] == pytest.approx(truth["brier_5y"][0], abs=0.002)


@needs_shared
@pytest.mark.parametrize("marker", ["s100b", "wfns", "ndka"])
def test_delong_equals_proc(marker: str) -> None:
    frame = pd.read_csv(SHARED / "binary" / "aSAH.csv")
    oracle = json.loads((SHARED / "binary" / "aSAH_expected.json").read_text())[marker]
    event = (frame["outcome"] == "Poor").to_numpy(float)
    estimate, lower, upper = discrimination.delong(event, frame[marker].to_numpy(float))
    assert [lower, estimate, upper] == pytest.approx(oracle["ci"], abs=1e-10)
    assert discrimination.auc(event, frame[marker].to_numpy(float), once(113))[0] == pytest.approx(oracle["auc"])


@needs_shared
def test_net_benefit_equals_the_published_values_of_dcurves() -> None:
    frame = pd.read_csv(SHARED / "binary" / "dcurves_df_binary.csv")
    event, risk, quarter = (
        frame["cancer"].to_numpy(float),
        frame["cancerpredmarker"].to_numpy(),
        np.array([0.25]),
    )
    assert benefit_of(event, risk, quarter)[0] == pytest.approx([0.0640], abs=5e-7)
    everyone = benefit_of(event, np.ones(750), quarter)
    assert everyone[0] == pytest.approx([-0.1466667], abs=5e-8)
    frame = pd.read_csv(SHARED / "binary" / "dcurves_df_surv.csv")
    time, event, risk = (frame[name].to_numpy(float) for name in ("ttcancer", "cancer", "cancerpredmarker"))
    assert benefit_t(time, event, risk, 1, quarter)[0] == pytest.approx([0.05695371], abs=1e-8)
    everyone = benefit_t(time, event, np.ones(750), 1, quarter)
    assert everyone[0] == pytest.approx([-0.13695058], abs=1e-8)
