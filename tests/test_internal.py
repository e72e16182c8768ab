"""Internal validation: optimism and .632+ as in R, honest where nothing is to be found, nobody on both sides."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hccstudy.metrics.pooling import LOGIT, pool
from hccstudy.metrics.regression import cox, logistic
from hccstudy.metrics.resampling import once
from hccstudy.models.internal import (
    CENTERS,
    PERFORMANCE,
    POOLED,
    Patients,
    correct_optimism,
    draw_resamples,
    events_of,
    leave_one_center_out,
    measure,
    metric_keys,
    plus_632,
    validate_internally,
)
from hccstudy.models.resampling import assign_folds
from hccstudy.models.steps import RadiomicsImputer
from hccstudy.models.train import build_model, outcome_array, predictor_frame
from hccstudy.tables import read_json, read_table, write_table
from synthetic import settings, study_tables

BINARY = {"type": "binary", "column": "y"}
SURVIVAL = {"type": "survival", "time": "time", "event": "event", "horizons": []}
COVARIATES = [f"x{place}" for place in range(1, 16)]


def patients_of(frame, endpoint):
    X = frame[[name for name in frame if name.startswith("x")]].assign(center=frame.get("center", "A"))
    return Patients(X, outcome_array(frame, endpoint), frame)


def logistic_fit(X, y):
    """Unpenalized logistic regression on all covariates; ValueError where it does not exist."""
    columns = [name for name in X if name != "center"]
    beta = logistic(y * 1.0, X[columns].to_numpy(float), once(len(X))).beta[0]
    if not np.isfinite(beta).all():
        raise ValueError("separation")
    return lambda new: pd.DataFrame({"risk": expit(beta[0] + new[columns].to_numpy(float) @ beta[1:])})


def cox_fit(X, y):
    columns = [name for name in X if name != "center"]
    beta = cox(y["time"], y["event"] * 1.0, X[columns].to_numpy(float), once(len(X))).beta[0]
    if not np.isfinite(beta).all():
        raise ValueError("separation")
    return lambda new: pd.DataFrame({"lp": new[columns].to_numpy(float) @ beta})


# --- the bootstrap, against R -----------------------------------------------------------------------------------------

CASES = {
    "binary": (BINARY, logistic_fit, "auc", 500),
    "survival": (SURVIVAL, cox_fit, "harrell_c", 200),
}


@pytest.fixture(scope="module")
def oracle(repository):
    """rms::validate and an own .632+ in R, 1000 resamples each: tests/oracles/optimism.R."""
    return read_json(repository / "tests/oracles/optimism.json")


@pytest.fixture(scope="module")
def corrected(repository):
    found = {}
    for kind, (endpoint, fit, _, resamples) in CASES.items():
        frame = pd.read_csv(repository / f"tests/oracles/optimism_{kind}.csv", index_col="patient")
        frame.index = frame.index.astype(str)
        table = correct_optimism(fit, patients_of(frame, endpoint), endpoint, resamples, seed=1)
        found[kind] = table.set_index("metric")
    return found


@pytest.mark.parametrize("kind", CASES)
def test_optimism_of_an_unpenalized_model_equals_rms_validate(corrected, oracle, kind):
    """Two bootstraps of the same model: equal within four Monte-Carlo standard errors of their difference."""
    _, _, ranking, resamples = CASES[kind]
    r, ours = oracle[kind], corrected[kind]
    assert ours.loc[ranking, "apparent"] == pytest.approx(r["bootstrap"]["apparent"]["c"], abs=1e-6)
    assert ours.loc["slope", "apparent"] == pytest.approx(1, abs=1e-6)
    for name, metric in (("c", ranking), ("slope", "slope")):
        error = r["bootstrap"]["monte_carlo_se"][name] * np.sqrt(1 + 1000 / resamples)
        assert abs(ours.loc[metric, "corrected"] - r["rms_validate"]["corrected"][name]) < 4 * error


def test_weak_covariates_look_good_and_are_corrected(corrected, oracle):
    """What the fitted models are worth in 200,000 new patients of the same kind: corrected is nearer than apparent."""
    for kind, (_, _, ranking, _) in CASES.items():
        found, truth = corrected[kind].loc[ranking], oracle[kind]["truth"]["c"]
        assert abs(found["corrected"] - truth) < found["apparent"] - truth
        assert corrected[kind].loc["slope", "corrected"] < 0.8


@pytest.mark.parametrize("metric", ["auc", "brier"])
def test_632plus_equals_its_r_implementation(corrected, oracle, metric):
    r = oracle["binary"]["plus632"][metric]
    error = r["out_of_bag_monte_carlo_se"] * np.sqrt(1 + 1000 / 500)
    assert abs(corrected["binary"].loc[metric, "estimate_632plus"] - r["estimate_632plus"]) < 4 * error


@pytest.mark.parametrize("metric", ["auc", "brier"])
def test_632plus_formula_equals_r(oracle, metric):
    r = oracle["binary"]["plus632"][metric]
    values = np.array([r["apparent"], r["out_of_bag"], r["no_information"]])
    values = 1 - values if metric == "auc" else values
    expected = 1 - r["estimate_632plus"] if metric == "auc" else r["estimate_632plus"]
    assert plus_632(*values) == pytest.approx(expected, rel=1e-9)


def test_632plus_ends_at_no_information_and_at_632():
    assert plus_632(0.0, 0.7, 0.5) == pytest.approx(0.5)  # worse than guessing: overfitting is complete
    assert plus_632(0.2, 0.2, 0.5) == pytest.approx(0.2)
    assert plus_632(0.55, 0.52, 0.5) == pytest.approx(0.368 * 0.55 + 0.632 * 0.5)  # the fit is worse than guessing


def test_null_covariates_look_good_and_are_corrected_to_chance():
    """15 columns of noise, 120 patients (mean of 16 such studies): with so few events the bootstrap itself is known to
    leave some optimism (Iba et al. 2021), a third of it here."""
    rows = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame(rng.normal(size=(120, 15)), columns=COVARIATES, index=[f"P{n:03d}" for n in range(120)])
        frame["y"] = (rng.uniform(size=120) < 0.4) * 1
        table = correct_optimism(logistic_fit, patients_of(frame, BINARY), BINARY, 40, seed).set_index("metric")
        rows.append([*table.loc["auc", ["apparent", "corrected", "estimate_632plus"]], table.loc["slope", "corrected"]])
    apparent, corrected, plus, slope = np.mean(rows, axis=0)
    assert apparent > 0.67
    assert 0.45 < corrected < 0.58 and 0.48 < plus < 0.57
    assert slope < 0.45


def test_competing_events_are_no_censorings(repository):
    """AUC, Brier score, IPA and O/E with competing events are those of R (tests/oracles/competing.R), whatever value the
    cohort's table has for a competing event; there is no Cox slope."""
    frame = pd.read_csv(repository / "tests/oracles/competing.csv")
    expected = read_json(repository / "tests/oracles/competing.json")
    endpoint = {"type": "survival", "time": "time", "event": "status", "horizons": [12, 24], "competing": 7}
    frame["status"] = frame["status"].replace(2, 7)
    scored = pd.DataFrame({"lp": frame["risk_24"], "risk@12": frame["risk_12"], "risk@24": frame["risk_24"]})
    found = measure(endpoint, frame, scored, once(len(frame)))
    assert list(found) == metric_keys(endpoint) and ("slope", None) not in found
    for name, metric in (("auc", "auc_t"), ("brier", "brier"), ("ipa", "ipa"), ("oe", "oe")):
        assert found[metric, 24.0].values[0] == pytest.approx(expected["months"]["h24"][name], abs=1e-6)
    assert events_of(endpoint, frame, 24) == expected["months"]["h24"]["events"]


# --- the models of a study --------------------------------------------------------------------------------------------


def noise_study(seed):
    rng = np.random.default_rng(seed)
    names = [f"P{number:03d}" for number in range(120)]
    center = np.repeat(["A", "B", "C"], 40)
    features = pd.DataFrame(rng.normal(size=(120, 400)), columns=[f"f{number}" for number in range(400)])
    keys = pd.DataFrame({"patient": names, "center": center})
    outcome = pd.DataFrame({"mvi": (rng.uniform(size=120) < 0.5) * 1.0})
    return {"features": keys.join(features), "development": keys.join(outcome), "repeats": keys.iloc[:0]}


def run(tables, folder, chosen, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in ("features", "development", "repeats"):
        paths[name] = str(folder / f"{name}.{'tsv' if name == 'development' else 'parquet'}")
        write_table(tables[name], paths[name])
    outputs = {name: str(folder / f"{name}.tsv") for name in ("performance", "centers", "pooled")}
    chosen = chosen | {"optimism": 6, "bootstrap": 100, "minimum_events": 5} | changes
    validate_internally(**paths, settings=chosen, **outputs)
    return {name: read_table(path) for name, path in outputs.items()}


def test_selection_among_noise_is_repeated_in_every_resample(tmp_path):
    """400 features of noise, screened and fitted with a LASSO: apparently excellent, by .632+ worth nothing. The
    optimism correction keeps part of the illusion where features outnumber patients, and must not hide that."""
    found = []
    for seed in range(3):
        chosen = settings("mvi", stability={"method": "none", "threshold": 0}, clinical={})
        chosen["model"] |= {"select": 20}
        table = run(noise_study(seed), tmp_path / str(seed), chosen, optimism=12)["performance"]
        found.append(table.set_index("metric").loc["auc", ["apparent", "corrected", "estimate_632plus"]])
    apparent, corrected, plus = np.mean(np.array(found, dtype=float), axis=0)
    assert apparent > 0.75
    assert corrected < apparent - 0.12 and 0.45 < plus < 0.58


@pytest.fixture(scope="module")
def tables():
    return study_tables(3)


@pytest.mark.parametrize(
    ("endpoint", "predictors", "estimator"),
    [("os", "radiomics", "lasso"), ("mvi", "combined", "linear"), ("mrecist", "radiomics", "lasso")],
)
def test_every_table_is_complete_and_says_how_it_came_about(tables, tmp_path, endpoint, predictors, estimator):
    chosen = settings(endpoint, predictors, estimator)
    found = run(tables, tmp_path, chosen)
    lead = ["endpoint", "model"]
    assert list(found["performance"]) == [*lead, "metric", "horizon", *PERFORMANCE]
    assert list(found["centers"]) == [*lead, "center", "metric", "horizon", *CENTERS]
    assert list(found["pooled"]) == [*lead, "metric", "horizon", *POOLED]
    keys = len(metric_keys(chosen["endpoint"]))
    assert [len(found[name]) for name in ("performance", "centers", "pooled")] == [keys, 3 * keys, keys]
    table = found["performance"].set_index("metric")
    ranking = metric_keys(chosen["endpoint"])[0][0]
    assert (table["corrected"].notna() | table["method"].str.startswith("refused")).all()
    assert table.loc[ranking, "apparent"] > table.loc[ranking, "corrected"]
    np.testing.assert_allclose(table["corrected"], table["apparent"] - table["optimism"])
    assert table["candidates"].iloc[0] == {"radiomics": 120, "combined": 122}[predictors]
    assert (table["resamples"] == 6).all() and table["undefined"].between(0, 2).all()


def test_the_estimates_of_centers_are_pooled_as_metafor_does(tables, tmp_path):
    found = run(tables, tmp_path, settings("os", "radiomics", "lasso"))
    part = found["centers"].query("metric == 'harrell_c'")
    expected = pool(part["estimate"].to_numpy(), part["se"].to_numpy(), LOGIT)  # equal to metafor: test_pooling.py
    row = found["pooled"].query("metric == 'harrell_c'").iloc[0]
    for name in ("estimate", "lower", "upper", "prediction_lower", "prediction_upper", "tau2"):
        assert row[name] == pytest.approx(getattr(expected, name))
    assert (part["lower"] < part["estimate"]).all() and (part["upper"] < 1).all()
    assert row["centers"] == 3


def test_resamples_do_not_depend_on_the_order_of_rows_nor_on_their_number(tables):
    X = predictor_frame(tables["features"], tables["development"], [])
    shuffled = X.sample(frac=1, random_state=1)
    first, second, more = draw_resamples(X, 2, 5), draw_resamples(shuffled, 2, 5), draw_resamples(X, 4, 5)
    for one, other, third in zip(first, second, more, strict=False):
        assert sorted(X.index[one]) == sorted(shuffled.index[other]) == sorted(X.index[third])
        assert X["center"].iloc[one].value_counts().equals(X["center"].value_counts())
    assert list(first[0]) != list(first[1])


def test_copies_of_a_patient_are_in_one_fold_and_singles_where_they_were():
    patients, centers = [f"P{number}" for number in range(60)], ["A", "B", "C"] * 20
    alone = assign_folds(patients, centers, 3, 7)
    rows = np.random.default_rng(0).integers(0, 60, 90)
    fold = assign_folds([patients[row] for row in rows], [centers[row] for row in rows], 3, 7)
    for row in np.unique(rows):
        assert len(set(fold[rows == row])) == 1
    assert set(fold) == {0, 1, 2}
    np.testing.assert_array_equal(assign_folds(patients + patients, centers + centers, 3, 7), np.tile(alone, 2))


@pytest.mark.parametrize("predictors", ["radiomics", "combined"])
def test_no_inner_fold_of_a_resample_holds_a_patient_on_both_sides(tables, monkeypatch, predictors):
    """Each inner fit lacks whole patients, and all inner folds together hold out every patient of the resample once."""
    seen = []
    original = RadiomicsImputer.fit
    monkeypatch.setattr(
        RadiomicsImputer, "fit", lambda self, X, y=None: seen.append(list(X.index)) or original(self, X)
    )
    chosen = settings("mvi", predictors, "linear")
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    y = outcome_array(tables["development"].set_index("patient").loc[X.index], chosen["endpoint"])
    drawn = draw_resamples(X, 1, 1)[0]
    build_model(chosen, tables["repeats"], X["center"].value_counts().to_dict()).fit(X.iloc[drawn], y[drawn])
    *inner, last = seen
    assert sorted(last) == sorted(X.index[drawn]) and len(set(last)) < len(last)
    held_out = [set(last) - set(fold) for fold in inner]
    assert len(inner) == 3 and set.union(*held_out) == set(last) and sum(map(len, held_out)) == len(set(last))
    copies = pd.Series(last).value_counts()
    for fold in inner:  # who is in a fold's training rows is there with every copy
        found = pd.Series(fold).value_counts()
        assert found.to_dict() == copies[found.index].to_dict()


# --- leaving out one center after the other ---------------------------------------------------------------------------


def test_noise_in_a_center_leaves_the_model_without_it_identical(tables):
    """The model for center A, with A's features and outcomes as they are and as noise: equal scores, bit by bit."""
    chosen = settings("mvi")
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    known = tables["development"].set_index("patient").loc[X.index]
    inside = (X["center"] == "A").to_numpy()
    noisy, other = X.copy(), known.copy()
    rng = np.random.default_rng(2)
    noisy.iloc[inside, 3:] = rng.normal(0, 1e6, (inside.sum(), X.shape[1] - 3))
    other.loc[inside, "mvi"] = 1 - other.loc[inside, "mvi"]
    model = build_model(chosen, tables["repeats"], X["center"].value_counts().to_dict())
    seen = []

    def fit(rows, outcomes):
        pipeline = model.fit(rows, outcomes).pipeline_
        seen.append(pipeline.predict_proba(X).tobytes())
        return lambda new: pd.DataFrame({"risk": pipeline.predict_proba(new)[:, 1]})

    for frame, truth in ((X, known), (noisy, other)):
        patients = Patients(frame, outcome_array(truth, chosen["endpoint"]), truth)
        leave_one_center_out(
            fit, patients, chosen["endpoint"], bootstrap=20, minimum_events=5, training_centers=2, seed=1
        )
    before, after = seen[:3], seen[3:]
    assert before[0] == after[0] and before[1] != after[1] and before[2] != after[2]


def test_a_left_out_center_is_not_harmonized(tables):
    """The primary rule for a new center: its features enter as they are."""
    chosen = settings("mvi")
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    y = outcome_array(tables["development"].set_index("patient").loc[X.index], chosen["endpoint"])
    inside = (X["center"] == "A").to_numpy()
    model = build_model(chosen, tables["repeats"], X["center"].value_counts().to_dict())
    pipeline = model.fit(X[~inside], y[~inside]).pipeline_
    imputed = pipeline.named_steps["impute"].transform(X[inside])
    pd.testing.assert_frame_equal(pipeline.named_steps["combat"].transform(imputed)[imputed.columns], imputed)


def test_two_centers_are_refused_with_combat_and_possible_without(tables, tmp_path):
    two = tables | {"development": tables["development"].query("center != 'C'")}
    refused = run(two, tmp_path / "combat", settings("mvi"), optimism=0)
    assert refused["centers"]["estimate"].isna().all() and refused["pooled"]["estimate"].isna().all()
    assert refused["centers"]["method"].iloc[0] == (
        "refused: 2 development centers; without one, training needs 2 others (ComBat)"
    )
    assert refused["performance"]["corrected"].isna().all()
    assert refused["performance"]["method"].iloc[0] == "apparent only: resampling.optimism is 0"
    possible = run(two, tmp_path / "none", settings("mvi", "clinical", "linear", harmonize="none"), optimism=0)
    row = possible["pooled"].query("metric == 'auc'").iloc[0]
    assert row["centers"] == 2 and np.isnan(row["prediction_lower"])
    assert "a prediction interval needs 3 centers" in row["method"]


def test_a_center_with_few_events_is_refused_by_name(tables, tmp_path):
    few = {name: frame.copy() for name, frame in tables.items()}
    inside = few["development"].index[few["development"]["center"] == "B"]
    few["development"].loc[inside, "mvi"] = 0
    few["development"].loc[inside[:3], "mvi"] = 1
    found = run(few, tmp_path, settings("mvi"), optimism=0)
    rows = found["centers"].query("center == 'B'")
    assert rows["estimate"].isna().all()
    assert (rows["method"] == "refused: 3 events in 28 patients; at least 5 with and 5 without are needed").all()
    assert found["pooled"]["method"].str.endswith("without B").all() and (found["pooled"]["centers"] == 2).all()
