"""ICC(A,1) against Shrout & Fleiss 1979, R's psych and pingouin."""

import numpy as np
import pandas as pd
import pytest

from hccstudy.agreement import icc

# Shrout & Fleiss, Psychological Bulletin 1979, Table 2: six patients, four judges.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)


def pingouin_icc(values: np.ndarray) -> tuple[float, float, float]:
    """ICC(A,1) and its interval by pingouin for one feature, shape (patients, raters)."""
    import pingouin

    n, k = values.shape
    patients, raters = np.indices((n, k))
    long = pd.DataFrame({"patient": patients.ravel(), "rater": raters.ravel(), "value": values.ravel()})
    with pingouin_without_rounding(pingouin):
        table = pingouin.intraclass_corr(long, "patient", "rater", "value", nan_policy="omit").set_index("Type")
    row = table.loc["ICC(A,1)"]
    return row["ICC"], *row["CI95"]


class pingouin_without_rounding:
    """pingouin rounds intervals to two digits by default; here all of them count."""

    def __init__(self, pingouin):
        self.options = pingouin.options

    def __enter__(self):
        self.before = dict(self.options)
        self.options["round"] = None
        self.options["round.column.CI95"] = None

    def __exit__(self, *_):
        self.options.clear()
        self.options.update(self.before)


# pingouin 0.7 calls DataFrame.dropna(inplace=...), which pandas 3.1 deprecates: theirs to mend.
ignore_pingouin = pytest.mark.filterwarnings("ignore:The inplace keyword:pandas.errors.Pandas4Warning")


@pytest.fixture
def ratings() -> np.ndarray:
    """30 patients, 3 raters, 12 features from useless to excellent, some with biased raters."""
    rng = np.random.default_rng(11)
    signal = np.linspace(0, 4, 12)
    bias = rng.normal(size=(1, 3, 12)) * np.tile([0, 0.5, 2], 4)
    return 100 + signal * rng.normal(size=(30, 1, 12)) + rng.normal(size=(30, 3, 12)) + bias


def test_equals_shrout_and_fleiss_and_the_interval_of_psych():
    result = icc(SHROUT_FLEISS[:, :, None])
    assert result.icc[0] == pytest.approx(0.29, abs=0.005)  # as printed in the paper
    assert result.icc[0] == pytest.approx(0.28976377953, abs=1e-10)  # psych 2.2.9
    assert result.lower[0] == pytest.approx(0.018786513375, abs=1e-10)
    assert result.upper[0] == pytest.approx(0.76108436965, abs=1e-10)


@ignore_pingouin
def test_equals_pingouin_for_every_feature(ratings):
    result = icc(ratings)
    for feature in range(ratings.shape[2]):
        expected = pingouin_icc(ratings[:, :, feature])
        assert [part[feature] for part in result] == pytest.approx(expected, abs=1e-9)


@ignore_pingouin
def test_missing_ratings_drop_the_patient_for_that_feature_only(ratings):
    holes = ratings.copy()
    holes[3, 1, 5] = np.nan
    holes[7, :, 5] = np.nan
    result, whole = icc(holes), icc(ratings)
    without = icc(np.delete(ratings, [3, 7], axis=0))
    assert [part[5] for part in result] == pytest.approx([part[5] for part in without], abs=1e-12)
    assert [part[5] for part in result] == pytest.approx(pingouin_icc(holes[:, :, 5]), abs=1e-9)
    others = np.arange(12) != 5
    assert result.icc[others] == pytest.approx(whole.icc[others], abs=1e-12)


def test_a_systematic_bias_of_a_reader_lowers_it(ratings):
    fair = ratings - ratings.mean(axis=0)
    biased = fair.copy()
    biased[:, 1] += 3
    assert (icc(biased).icc[2:] < icc(fair).icc[2:] - 0.05).all()
    twice = np.repeat(ratings[:, :1], 2, axis=1)
    assert icc(twice).icc == pytest.approx(np.ones(12), abs=1e-12)
    assert (icc(twice + np.array([0, 2.0])[:, None]).icc < 0.95).all()


def test_identical_repeats_have_an_icc_and_interval_of_one():
    values = np.repeat(np.random.default_rng(1).normal(size=(20, 1, 3)), 4, axis=1)
    assert np.array(icc(values)) == pytest.approx(np.ones((3, 3)), abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 / 3])
def test_undefined_features_get_zero_and_pass_no_filter(ratings, constant):
    values = ratings.copy()
    values[:, :, 2] = constant
    values[2:, 0, 3] = np.nan  # two complete patients left
    values[:, 1, 4] = np.nan
    result = icc(values)
    assert np.array(result)[:, 2:5].tolist() == np.zeros((3, 3)).tolist()
    assert np.isfinite(np.array(result)).all()


def test_a_large_offset_changes_nothing(ratings):
    assert icc(ratings + 1e7).icc == pytest.approx(icc(ratings).icc, abs=1e-7)


def test_the_interval_holds_its_estimate_and_covers_the_truth():
    # 2000 features with a true ICC(A,1) of 1 / (1 + 0.25 + 0.5), which 95 % of the intervals must cover.
    rng = np.random.default_rng(5)
    shape = (40, 5, 2000)
    values = rng.normal(size=(40, 1, 2000)) + 0.5 * rng.normal(size=(1, 5, 2000))
    result = icc(values + np.sqrt(0.5) * rng.normal(size=shape))
    truth = 1 / 1.75
    assert ((result.lower <= result.icc) & (result.icc <= result.upper)).all()
    assert ((result.lower <= truth) & (truth <= result.upper)).mean() == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("shape", [(10, 3), (10, 1, 4)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        icc(np.zeros(shape))
