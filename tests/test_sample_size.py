"""Sample size: equal to published examples and to the programs of the methods' authors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta, norm

from hccstudy.errors import StudyError
from hccstudy.metrics.discrimination import weighted_auc
from hccstudy.metrics.sample_size import development, max_r2, normal_predictor, r2_of_c, validation

# equally likely values of a distribution, where pmvalsampsize draws a million at random
LEVELS = (np.arange(100_000) + 0.5) / 100_000


@pytest.mark.parametrize(
    ("r2", "parameters", "prevalence", "criteria"),
    [  # pmsampsize 1.1.3, help page (662) and tests/testthat/test_bin.R
        (0.288, 24, 0.174, (623, 662, 221)),
        (0.55, 24, 0.174, (255, 532, 221)),
    ],
)
def test_binary_development_equals_pmsampsize(r2, parameters, prevalence, criteria):
    found = development("binary", parameters, prevalence, r2=r2)
    assert found[:3] == criteria and found.n == max(criteria)
    assert found.events == pytest.approx(found.n * prevalence)


@pytest.mark.parametrize(
    ("r2", "parameters", "rate", "criteria"),
    [  # pmsampsize 1.1.3, help page and BMJ 2020 (5143), tests/testthat/test_surv.R
        (0.051, 30, 0.065, (5143, 1039)),
        (0.051, 25, 0.065, (4286, 866)),
        (0.065, 25, 0.065, (3335, 859)),
        (0.051, 50, 0.065, (8572, 1731)),
        (0.051, 25, 0.1, (4286, 731)),
    ],
)
def test_survival_development_equals_pmsampsize(r2, parameters, rate, criteria):
    found = development("survival", parameters, rate * 2.07, r2=r2, follow_up=2.07, horizon=2)
    assert found.n == found.shrinkage == criteria[0]
    assert abs(found.optimism - criteria[1]) <= 1  # pmsampsize rounds the events of 10,000 patients up


def test_follow_up_needed_makes_the_overall_risk_precise():
    """The criterion that was inverted: the upper limit of the risk at 2 years is 0.05 above it, no more."""
    rate, mean = 0.1, 2.07
    n = development("survival", 1, rate * mean, r2=0.3, follow_up=mean, horizon=2).overall_risk

    def above(patients):
        upper = rate + 1.96 * np.sqrt(rate / (patients * mean))
        return np.exp(-rate * 2) - np.exp(-upper * 2)

    assert above(n) <= 0.05 < above(n - 1)


def test_anticipated_r2_is_15_percent_of_the_largest_unless_given():
    """Riley et al. 2020: the largest Cox-Snell R2 is 0.33, 0.48, 0.63, 0.74, 0.75 at these prevalences (Box 4)."""
    largest = [max_r2("binary", prevalence) for prevalence in (0.05, 0.1, 0.2, 0.4, 0.5)]
    np.testing.assert_allclose(largest, [0.33, 0.48, 0.63, 0.74, 0.75], atol=0.006)
    assert development("binary", 10, 0.2).r2 == pytest.approx(0.15 * largest[2])


def test_r2_from_a_c_statistic_is_that_of_simulated_patients():
    rng = np.random.default_rng(3)
    prevalence, c = 0.3, 0.75
    event = (rng.uniform(size=400_000) < prevalence) * 1.0
    x = rng.normal(size=len(event)) + np.sqrt(2) * norm.ppf(c) * event
    assert weighted_auc(x, event[None], 1 - event[None])[0] == pytest.approx(c, abs=0.005)
    risk = (
        prevalence
        * norm.pdf(x, np.sqrt(2) * norm.ppf(c))
        / (prevalence * norm.pdf(x, np.sqrt(2) * norm.ppf(c)) + (1 - prevalence) * norm.pdf(x))
    )
    likelihood = np.mean(np.log(np.where(event == 1, risk, 1 - risk)))
    null = prevalence * np.log(prevalence) + (1 - prevalence) * np.log(1 - prevalence)
    assert r2_of_c(c, prevalence) == pytest.approx(1 - np.exp(2 * (null - likelihood)), abs=0.004)


def test_the_anticipated_predictor_is_calibrated_and_ranks_as_told():
    lp, weights = normal_predictor(0.8, 0.2)
    assert weights.sum() == pytest.approx(1) and (weights * expit(lp)).sum() == pytest.approx(0.2, abs=1e-6)
    risk = expit(lp)
    assert weighted_auc(lp, (weights * risk)[None], (weights * (1 - risk))[None])[0] == pytest.approx(0.8, abs=1e-3)


def test_validation_equals_the_published_example():
    """Riley et al. BMJ 2024;384:e074821, validation of a COVID-19 deterioration model: 423, 949 and 347 patients."""
    risk = beta.ppf(LEVELS, 1.33, 1.75)
    found = validation(0.43, 0.77, lp=logit(risk), oe_width=0.22, slope_width=0.3)
    assert (found.oe, found.slope, found.c_statistic) == (423, 949, 347)
    assert found.n == 949 and found.events == pytest.approx(408, abs=0.5)


@pytest.mark.parametrize(
    ("lp", "slope"),
    [(norm.ppf(LEVELS, -5, 2.5), 4501), (logit(beta.ppf(LEVELS, 0.5, 0.5)), 1641), (None, 16175)],
)
def test_validation_is_that_of_pmvalsampsize(lp, slope):
    """pmvalsampsize 0.1.0, tests/testthat/test_bin.R; its slope comes from 1,000 to 10,000 random patients, its O/E
    from a search in steps."""
    found = validation(0.018, 0.8, lp=lp, oe_width=1, slope_width=0.2)
    assert found.c_statistic == 4252 and abs(found.oe - 905) <= 1
    assert found.slope == pytest.approx(slope, rel=0.07)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: development("multiclass", 5, 0.3), "expected binary or survival .*Pate"),
        (lambda: development("binary", 5, 0.3, r2=0.8), "less than the largest possible, 0.705"),
        (lambda: development("binary", 0, 0.3), "0 candidate parameters"),
        (lambda: development("binary", 5, 1.0), "1.0 events per patient"),
        (lambda: development("survival", 5, 0.3), "mean follow-up nan"),
        (lambda: validation(0.3, 0.4), "C statistic 0.4"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(StudyError, match=said):
        call()
