"""How many patients a prediction model needs: to be developed, and to be validated in other centers.

Development: the criteria of Riley et al. (Stat Med 2019;38:1276, part II; BMJ 2020;368:m441), as in R's pmsampsize
1.1: (1) shrinkage of at least 0.9, (2) optimism of Nagelkerke's R2 of at most 0.05, (3) the overall risk known to
within 0.05. External validation: precision of O/E, calibration slope and C statistic for a binary outcome (Riley et
al. Stat Med 2021;40:4230), as in pmvalsampsize, and the plain rule of 100 events (Vergouwe 2005; Collins 2016).

Outcomes of several classes have criteria of their own for every pair of classes (Pate et al. 2023), which want a C
statistic or R2 anticipated for each pair: refused here. So is precision of time-to-event validation, which has no
closed form (Riley et al. 2022).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, xlogy
from scipy.stats import norm

from hccstudy.errors import StudyError
from hccstudy.metrics.resampling import Floats

Z = 1.96  # as in the papers and their programs
SHRINKAGE, OPTIMISM, MARGIN = 0.9, 0.05, 0.05
SHARE = 0.15  # of the largest possible R2, where nothing is known (Riley et al. 2020)
PLAIN_EVENTS = 100
OE_WIDTH, SLOPE_WIDTH, C_WIDTH = 0.2, 0.3, 0.1  # Riley et al. BMJ 2024;384:e074821 took 0.22, 0.3 and 0.1
NODES = np.linspace(-10, 10, 4001)  # standard deviations of a normal distribution, for integrals


class Development(NamedTuple):
    """Patients needed by each criterion and by all three, with the R2 that was anticipated."""

    shrinkage: int
    optimism: int
    overall_risk: int
    n: int
    events: float
    r2: float


class Validation(NamedTuple):
    """Patients needed for each measure and for all three, and the events among them."""

    oe: int
    slope: int
    c_statistic: int
    n: int
    events: float


def max_r2(kind: str, events: float) -> float:
    """The largest Cox-Snell R2 that an outcome allows. `events`: events per patient, for "binary" the prevalence,
    for "survival" rate times mean follow-up.
    """
    if not 0 < events < 1:
        raise StudyError(f"sample size: {events} events per patient; expected more than 0 and fewer than 1")
    if kind == "binary":
        null = xlogy(events, events) + xlogy(1 - events, 1 - events)
    elif kind == "survival":
        null = events * np.log(events) - events
    else:
        reason = "several classes want an R2 for every pair of classes (Pate et al. 2023)"
        raise StudyError(f"sample size: outcome {kind}; expected binary or survival ({reason})")
    return float(-np.expm1(2 * null))


def r2_of_c(c: float, prevalence: float) -> float:
    """Cox-Snell R2 of a logistic model with C statistic `c` whose linear predictor is normal in patients with and in
    patients without the event (Riley et al. Stat Med 2021;40:859, there by simulation).
    """
    lp, weights = normal_predictor(c, prevalence)
    risk = expit(lp)
    model = (weights * (xlogy(risk, risk) + xlogy(1 - risk, 1 - risk))).sum()
    null = xlogy(prevalence, prevalence) + xlogy(1 - prevalence, 1 - prevalence)
    return float(-np.expm1(2 * (null - model)))


def normal_predictor(c: float, prevalence: float) -> tuple[Floats, Floats]:
    """Calibrated linear predictors (nodes,) and their weights, which sum to 1.

    Variance v = 2 qnorm(c)^2 in both groups, means v apart, so that the C statistic is `c`; the mean without the
    event is logit(prevalence) - v / 2, which makes the predictor calibrated.
    """
    if not (0.5 < c < 1 and 0 < prevalence < 1):
        found = f"C statistic {c:.2f}, prevalence {prevalence:.2f}"
        raise StudyError(f"sample size: {found}; expected C between 0.5 and 1 and a prevalence between 0 and 1")
    variance = 2 * norm.ppf(c) ** 2
    mean = logit(prevalence) - variance / 2
    density = norm.pdf(NODES) / norm.pdf(NODES).sum()
    free = mean + np.sqrt(variance) * NODES
    lp = np.concatenate([free, free + variance])
    return lp, np.concatenate([(1 - prevalence) * density, prevalence * density])


def development(
    kind: str,
    parameters: int,
    events: float,
    *,
    r2: float | None = None,
    follow_up: float = np.nan,
    horizon: float = np.nan,
) -> Development:
    """Patients needed to develop a model with `parameters` candidate parameters, counted before any selection.

    kind: "binary" or "survival"; events: per patient (see max_r2); r2: Cox-Snell R2 that is anticipated, adjusted for
    optimism (None: 15 % of the largest possible one). For survival follow_up and horizon: mean follow-up and the time
    of prediction, in one unit. StudyError where r2 cannot be.
    """
    most = max_r2(kind, events)
    r2 = SHARE * most if r2 is None else r2
    if not 0 < r2 < min(most, SHRINKAGE):
        raise StudyError(f"sample size: R2 {r2}; expected more than 0 and less than the largest possible, {most:.3f}")
    if parameters < 1:
        raise StudyError(f"sample size: {parameters} candidate parameters; expected at least 1")

    def for_shrinkage(shrinkage: float) -> int:
        return int(np.ceil(parameters / ((shrinkage - 1) * np.log1p(-r2 / shrinkage))))

    needed = for_shrinkage(SHRINKAGE), for_shrinkage(r2 / (r2 + OPTIMISM * most))
    if kind == "binary":
        risk = int(np.ceil((Z / MARGIN) ** 2 * events * (1 - events)))
    else:
        risk = _follow_up_needed(events / follow_up, follow_up, horizon)
    n = max(*needed, risk)
    return Development(*needed, risk, n, n * events, r2)


def _follow_up_needed(rate: float, follow_up: float, horizon: float) -> int:
    """Patients for whom the upper limit of an exponential model's risk at the horizon is at most 0.05 above it."""
    if not (follow_up > 0 and horizon > 0):
        raise StudyError(f"sample size: mean follow-up {follow_up}, horizon {horizon}; expected numbers above 0")
    free = np.exp(-rate * horizon) - MARGIN
    if free <= 0:
        return 1
    margin = -np.log(free) / horizon - rate
    return int(np.ceil(rate * (Z / margin) ** 2 / follow_up))


def validation(
    prevalence: float,
    c: float,
    *,
    lp: Floats | None = None,
    oe_width: float = OE_WIDTH,
    slope_width: float = SLOPE_WIDTH,
    c_width: float = C_WIDTH,
) -> Validation:
    """Patients needed to validate a binary prediction model: 95 % intervals of these widths around O/E 1, calibration
    slope 1 and the C statistic `c`.

    lp: anticipated linear predictors (log odds) of the patients, of any number; None: normal in patients with and
    without the event, as `c` and `prevalence` say (see normal_predictor).
    """
    values, weights = normal_predictor(c, prevalence)
    if lp is not None:
        values, weights = np.asarray(lp, dtype=float), np.full(len(lp), 1 / len(lp))
    oe = (1 - prevalence) / (prevalence * (np.arcsinh(oe_width / 2) / Z) ** 2)
    information = weights * expit(values) * expit(-values)
    flat, tilted, steep = (float((information * values**power).sum()) for power in range(3))
    slope = flat / ((slope_width / (2 * Z)) ** 2 * (flat * steep - tilted**2))

    def too_wide(n: float) -> float:
        """Newcombe's variance of a C statistic (2006), less the one that is wanted."""
        half = n / 2 - 1
        variance = c * (1 - c) * (1 + half * (1 - c) / (2 - c) + half * c / (1 + c))
        return float(variance / (n**2 * prevalence * (1 - prevalence)) - (c_width / (2 * Z)) ** 2)

    for_oe, for_slope, for_c = (int(np.ceil(value)) for value in (oe, slope, brentq(too_wide, 2, 1e12)))
    n = max(for_oe, for_slope, for_c)
    return Validation(for_oe, for_slope, for_c, n, n * prevalence)
