"""Pooling over centers: equal to R's metafor, refused where there is nothing to pool."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from hccstudy.errors import StudyError
from hccstudy.metrics.pooling import IDENTITY, LOG, LOGIT, center_interval, pool, reml, scale_of
from hccstudy.tables import read_json

NAMES = ["estimate", "lower", "upper", "prediction_lower", "prediction_upper", "tau2"]


@pytest.fixture(scope="module")
def metafor(repository):
    """Outputs of metafor::rma(method="REML", test="knha") and predict(): tests/oracles/pooling.R."""
    return read_json(repository / "tests/oracles/pooling.json")


@pytest.mark.parametrize("case", ["five", "homogeneous", "three"])
def test_random_effects_equal_metafor(metafor, case):
    found = pool(metafor[case]["yi"], metafor[case]["sei"])
    expected = [metafor[case]["knha"][name] for name in NAMES]
    np.testing.assert_allclose([getattr(found, name) for name in NAMES], expected, rtol=1e-4, atol=1e-6)
    assert found.centers == len(metafor[case]["yi"])


def test_c_statistics_are_pooled_on_the_logit_scale(metafor):
    """metafor's result on the logit scale, taken back; standard errors go there by the delta method."""
    y, error = (np.array(metafor["five"][name]) for name in ("yi", "sei"))
    c = expit(y)
    found = pool(c, error * c * (1 - c), LOGIT)
    expected = expit([metafor["five"]["knha"][name] for name in NAMES[:5]])
    np.testing.assert_allclose([getattr(found, name) for name in NAMES[:5]], expected, rtol=1e-4)
    assert found.tau2 == pytest.approx(metafor["five"]["knha"]["tau2"], rel=1e-4)


def test_a_ratio_and_its_inverse_pool_to_inverses():
    ratio, error = np.array([0.8, 1.3, 1.1, 0.7]), np.array([0.1, 0.2, 0.15, 0.12])
    there, back = pool(ratio, error, LOG), pool(1 / ratio, error / ratio**2, LOG)
    assert there.estimate == pytest.approx(1 / back.estimate) and there.lower == pytest.approx(1 / back.upper)


def test_the_prediction_interval_holds_new_centers():
    """Simulated centers with a known spread: 95 % of new centers' true values are inside."""
    rng = np.random.default_rng(4)
    inside = []
    for _ in range(1500):
        error = rng.uniform(0.1, 0.3, 8)
        found = pool(rng.normal(1, 0.5, 8) + rng.normal(0, error), error)
        inside.append(found.prediction_lower < rng.normal(1, 0.5) < found.prediction_upper)
    assert 0.92 < np.mean(inside) < 0.97


def test_scales_are_those_of_the_literature_and_keep_scores_in_their_range():
    scales = {"harrell_c": LOGIT, "auc": LOGIT, "brier": LOGIT, "oe": LOG, "slope": IDENTITY}
    assert {name: scale_of(name) for name in scales} == scales
    lower, upper = center_interval(0.9, 0.06, LOGIT)
    assert logit(0.9) - logit(lower) == pytest.approx(1.959964 * 0.06 / 0.09) and upper < 1


def test_two_centers_have_a_mean_and_no_prediction_interval():
    found = pool([0.6, 0.7], [0.05, 0.05])
    assert found.estimate == pytest.approx(0.65) and np.isnan([found.prediction_lower, found.prediction_upper]).all()


@pytest.mark.parametrize(
    ("estimates", "errors", "scale", "said"),
    [
        ([0.7], [0.1], LOGIT, "1 center; expected at least 2"),
        ([0.7, 1.0], [0.1, 0.1], LOGIT, "logit scale"),
        ([0.7, 0.8], [0.1, 0.0], LOGIT, "logit scale"),
        ([0.0, 0.8], [0.1, 0.1], LOG, "log scale"),
        ([np.nan, 0.8], [0.1, 0.1], IDENTITY, "identity scale"),
    ],
)
def test_what_cannot_be_pooled_is_refused(estimates, errors, scale, said):
    with pytest.raises(StudyError, match=said):
        pool(estimates, errors, scale)


def test_equal_centers_have_no_variance_between_them():
    assert reml(np.array([1.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.3])) == 0
