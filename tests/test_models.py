"""Models: nothing leaks, what is frozen stays frozen, known truth is found, noise is not."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sksurv.datasets import load_gbsg2
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored

from hccstudy.errors import StudyError
from hccstudy.models import predict_external, steps, train_model
from hccstudy.models.estimators import ESTIMATORS, PenalizedCox, concordance, log_partial_likelihood, scores
from hccstudy.models.frozen import _without_padding, load_model
from hccstudy.models.resampling import TunedModel, assign_folds
from hccstudy.models.steps import (
    ClinicalEncoder,
    RadiomicsImputer,
    RedundancyFilter,
    StabilityFilter,
    Standardizer,
    UnivariateSelect,
    cox_score,
)
from hccstudy.models.train import build_model, cross_validate, outcome_array, predictor_frame
from hccstudy.tables import file_digest, read_json, read_table, write_table
from hccstudy.validation import validate
from synthetic import settings, study_tables

OUTPUTS = {
    "oof": "oof.tsv",
    "model": "model.skops",
    "card": "card.json",
    "coefficients": "coefficients.tsv",
    "tuning": "tuning.tsv",
}


def save(tables, folder):
    paths = {}
    for name, frame in tables.items():
        ending = "parquet" if name in ("features", "repeats") else "tsv"
        paths[name] = str(folder / f"{name}.{ending}")
        write_table(frame, paths[name])
    return paths


def fit(tables, folder, chosen):
    """Train and predict as the rules do; returns the paths of all files."""
    folder.mkdir(parents=True)
    paths = save(tables, folder) | {name: str(folder / file) for name, file in OUTPUTS.items()}
    paths["predictions"] = str(folder / "predictions.tsv")
    inputs = {name: paths[name] for name in ("features", "development", "repeats")}
    train_model(**inputs, settings=chosen, **{name: paths[name] for name in OUTPUTS})
    inputs = {name: paths[name] for name in ("features", "external", "model", "card")}
    predict_external(**inputs, settings=chosen, predictions=paths["predictions"])
    return paths


@pytest.fixture(scope="module")
def tables():
    return study_tables(3)


@pytest.fixture(scope="module")
def lasso(tables, tmp_path_factory):
    return fit(tables, tmp_path_factory.mktemp("lasso") / "os", settings("os"))


# --- what is learned --------------------------------------------------------------------------------------------------


def test_a_radiomics_signal_is_found_and_beats_clinical_noise(tables, lasso, tmp_path):
    clinical = fit(tables, tmp_path / "clinical", settings("os", "clinical", "linear"))

    def concordance(paths):
        predicted = read_table(paths["predictions"]).query("harmonization == 'none'").merge(tables["external_outcomes"])
        return concordance_index_censored(predicted["os_event"] == 1, predicted["os_months"], predicted["lp"])[0]

    assert concordance(lasso) > 0.65
    assert concordance(lasso) > concordance(clinical) + 0.1
    selected = read_table(lasso["coefficients"])["feature"].str[-3:].astype(int)
    assert (selected < 20).mean() > 0.6  # those that carry the signal


@pytest.mark.parametrize("endpoint", ["os", "mvi", "mrecist"])
@pytest.mark.parametrize(
    ("predictors", "estimator"),
    [("radiomics", "elastic_net"), ("combined", "linear"), ("radiomics", "forest"), ("radiomics", "boosting")],
)
def test_every_estimator_trains_freezes_and_predicts(tables, tmp_path, endpoint, predictors, estimator):
    chosen = settings(endpoint, predictors, estimator)
    chosen["resampling"] = {"folds": 2, "inner_folds": 2, "correlation": 0.9}
    chosen["model"] |= {"select": 10}
    paths = fit(tables, tmp_path / "x", chosen)
    oof, predicted = read_table(paths["oof"]), read_table(paths["predictions"])
    assert sorted(oof["patient"]) == sorted(tables["development"]["patient"])
    assert sorted(predicted.query("harmonization == 'none'")["patient"]) == sorted(tables["external"]["patient"])
    scores = [name for name in oof.columns if name.startswith(("risk", "p@"))]
    for frame in (oof, predicted):
        assert frame[scores].notna().all(axis=None)
        assert ((frame[scores] >= 0) & (frame[scores] <= 1)).all(axis=None)
    if endpoint == "os":
        assert (oof["risk@24"] >= oof["risk@12"] - 1e-9).all()
    if endpoint == "mrecist":
        np.testing.assert_allclose(oof[scores].sum(axis=1), 1)


def test_selecting_among_noise_leaves_performance_at_chance():
    """400 noise features, 120 patients, outcome prevalence different by center: within-center AUC stays near 0.5."""
    rng = np.random.default_rng(11)
    center = np.repeat(["A", "B", "C"], 40)
    patients = [f"P{number:03d}" for number in range(120)]
    X = pd.DataFrame(rng.normal(size=(120, 400)), index=patients, columns=[f"f{n}" for n in range(400)])
    X.insert(0, "center", center)
    y = (rng.uniform(size=120) < np.repeat([0.3, 0.5, 0.7], 40)).astype(int)
    chosen = settings("mvi", stability={"method": "none", "threshold": 0}, clinical={})
    model = build_model(chosen, None, {"A": 40, "B": 40, "C": 40})
    fold = assign_folds(patients, list(center), 5, 1, [str(value) for value in y])
    risk = cross_validate(model, X, y, fold, chosen["endpoint"])["risk"].to_numpy()
    within = [roc_auc_score(y[center == name], risk[center == name]) for name in "ABC"]
    assert 0.33 < np.mean(within) < 0.67


# --- nothing leaks ----------------------------------------------------------------------------------------------------


def artifacts(paths):
    return {name: file_digest(paths[name]) for name in ("oof", "model", "coefficients", "tuning")}


@pytest.mark.parametrize(("predictors", "estimator"), [("radiomics", "lasso"), ("combined", "linear")])
def test_noise_in_every_external_row_leaves_training_byte_identical(tables, tmp_path, predictors, estimator):
    chosen = settings("os", predictors, estimator)
    rng = np.random.default_rng(0)
    swapped = {name: frame.copy() for name, frame in tables.items()}
    outside = swapped["features"]["patient"].isin(tables["external"]["patient"]).to_numpy()
    noise = rng.normal(0, 5, (outside.sum(), swapped["features"].shape[1] - 2))
    swapped["features"].iloc[outside, 2:] = noise
    swapped["external"]["age"] = 99
    for column in ("os_months", "os_event"):
        swapped["external_outcomes"][column] = rng.permutation(swapped["external_outcomes"][column])
    first, second = fit(tables, tmp_path / "a", chosen), fit(swapped, tmp_path / "b", chosen)
    assert artifacts(first) == artifacts(second)
    assert file_digest(first["predictions"]) != file_digest(second["predictions"])


@pytest.mark.parametrize(("predictors", "estimator"), [("radiomics", "lasso"), ("combined", "linear")])
def test_noise_in_a_held_out_fold_leaves_its_model_byte_identical(tables, predictors, estimator):
    """Features and outcomes of the fold are noise; imputer, ComBat, selection, scaling, penalty and cut-off stay."""
    chosen = settings("mvi", predictors, estimator)
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    known = tables["development"].set_index("patient").loc[X.index]
    y = outcome_array(known, chosen["endpoint"])
    fold = assign_folds(list(X.index), list(X["center"]), 4, 2)
    inside = fold != 0
    rng = np.random.default_rng(5)
    noisy, other = X.copy(), y.copy()
    noisy.iloc[~inside, 3:] = rng.normal(0, 1e9, (int((~inside).sum()), X.shape[1] - 3))
    noisy.iloc[0 if not inside[0] else int(np.flatnonzero(~inside)[0]), 5] = np.nan
    other[~inside] = 1 - other[~inside]
    model = build_model(chosen, tables["repeats"], X["center"].value_counts().to_dict())

    def scores_of_training_rows(frame, outcome):
        return clone(model).fit(frame[inside], outcome[inside]).pipeline_.predict_proba(X[inside]).tobytes()

    assert scores_of_training_rows(X, y) == scores_of_training_rows(noisy, other)
    held_out = cross_validate(model, X, other, fold, chosen["endpoint"])
    truth = cross_validate(model, X, y, fold, chosen["endpoint"])
    pd.testing.assert_frame_equal(held_out[~inside], truth[~inside], check_exact=True)


def test_no_fit_ever_sees_a_held_out_patient(tables, monkeypatch):
    """The ids of the rows of every fit of every step, inner folds included, are among the training rows."""
    seen: list[set[str]] = []
    original = RadiomicsImputer.fit
    monkeypatch.setattr(RadiomicsImputer, "fit", lambda self, X, y=None: seen.append(set(X.index)) or original(self, X))
    chosen = settings("mvi")
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    y = outcome_array(tables["development"].set_index("patient").loc[X.index], chosen["endpoint"])
    model = build_model(chosen, tables["repeats"], X["center"].value_counts().to_dict())
    rows = np.random.default_rng(0).permutation(len(X))[:60]
    training = X.iloc[rows]
    clone(model).fit(training, y[rows])
    assert len(seen) == 4  # three inner folds and the final fit
    assert all(ids <= set(training.index) for ids in seen)
    held_out = [set(training.index) - ids for ids in seen[:3]]
    assert set.union(*held_out) == set(training.index)
    assert sum(map(len, held_out)) == 60


def test_one_extreme_test_row_changes_no_training_number():
    X = pd.DataFrame(
        {"center": ["A"] * 5, "a": [1.0, 2, 3, 4, 1e9], "b": [np.nan, 2, 2, 3, np.nan]}, index=list("vwxyz")
    )
    training = X.iloc[:4]
    imputer = RadiomicsImputer().fit(training)
    assert imputer.medians_.tolist() == [2.5, 2.0]
    scaler = Standardizer().fit(imputer.transform(training).drop(columns="center"))
    assert scaler.mean_.tolist() == [2.5, 2.25]
    assert imputer.transform(X)["b"].tolist() == [2, 2, 2, 3, 2]


# --- the steps --------------------------------------------------------------------------------------------------------


def test_folds_share_out_centers_and_outcomes_and_follow_the_seed():
    patients = [f"P{n}" for n in range(90)]
    centers = ["A"] * 50 + ["B"] * 40
    outcome = ["1" if n % 3 == 0 else "0" for n in range(90)]
    fold = assign_folds(patients, centers, 5, 1, outcome)
    table = pd.crosstab(fold, [centers, outcome])
    assert (table.max() - table.min() <= 1).all()
    assert (fold != assign_folds(patients, centers, 5, 2, outcome)).any()
    order = np.random.default_rng(0).permutation(90)
    shuffled = assign_folds(
        *([values[n] for n in order] for values in (patients, centers)), 5, 1, [outcome[n] for n in order]
    )
    assert (shuffled == fold[order]).all()


def test_stability_counts_training_patients_only():
    rng = np.random.default_rng(0)
    patients = [f"P{n}" for n in range(20)]
    values = rng.normal(size=(20, 2))
    first = pd.DataFrame(values, columns=["good", "half"]).assign(patient=patients, repeat="0")
    second = first.assign(repeat="1")
    second.loc[10:, "half"] = rng.normal(size=10)  # unstable in the second half only
    repeats = pd.concat([first, second])
    X = pd.DataFrame(values, index=patients, columns=["good", "half"]).assign(center="A")
    assert StabilityFilter(repeats, 0.9).fit(X.iloc[:10]).features_ == ["good", "half"]
    assert StabilityFilter(repeats, 0.9).fit(X.iloc[10:]).features_ == ["good"]
    with pytest.raises(StudyError, match="4 training patients have repeated masks"):
        StabilityFilter(repeats, 0.9).fit(X.iloc[:4])


def test_of_correlated_features_the_first_stays_and_constants_go():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60))
    X = pd.DataFrame({"constant": 3.0, "a": a, "again": -np.exp(a), "b": b, "rare": np.r_[1, np.zeros(59)]})
    assert RedundancyFilter(0.9).fit(X).features_ == ["a", "b"]


def kept_one_by_one(X: pd.DataFrame, correlation: float) -> list[str]:
    """The definition of the redundancy filter, a column after the other against all later ones that are left."""
    ranks = rankdata(X.to_numpy()[:, np.arange(X.shape[1])], axis=0)
    ranks -= ranks.mean(axis=0)
    ranks /= np.sqrt((ranks**2).sum(axis=0))
    keep = np.ones(X.shape[1], dtype=bool)
    for place in range(X.shape[1]):
        if keep[place]:
            later = np.flatnonzero(keep[place + 1 :]) + place + 1
            keep[later[np.abs(ranks[:, later].T @ ranks[:, place]) > correlation]] = False
    return list(X.columns[keep])


@pytest.mark.parametrize(("patients", "noise"), [(55, 0.3), (5, 3.0)])
def test_a_column_is_kept_if_no_kept_one_before_correlates_more(monkeypatch, patients, noise):
    """On more columns than a block has, whatever its size; of 5 patients many ranks correlate 0.9 to the last digit."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(patients, 40))[:, rng.integers(0, 40, 300)] + noise * rng.normal(size=(patients, 300))
    X = pd.DataFrame(values, columns=[f"f{place}" for place in range(300)])
    X["f7"] = X["f7"].round()
    expected = kept_one_by_one(X, 0.9)
    assert 10 < len(expected) < 250
    for block in (1, 10, 64, 1000):
        monkeypatch.setattr(steps, "BLOCK", block)
        assert RedundancyFilter(0.9).fit(X).features_ == expected


def test_medians_are_those_of_the_finite_values_and_empty_features_go():
    X = pd.DataFrame({"a": [4.0, 1, 2, 3], "b": [np.nan, 5, np.inf, 1], "c": np.nan, "center": "A"})
    imputer = RadiomicsImputer().fit(X)
    assert imputer.features_ == ["a", "b"] and imputer.medians_.tolist() == [2.5, 3.0]
    assert imputer.transform(X)["b"].tolist() == [3, 5, 3, 1]
    with pytest.raises(StudyError, match=r"1 features .* are missing, e\.g\. a"):
        imputer.transform(X.drop(columns="a"))


def test_clinical_variables_are_encoded_by_their_rules():
    columns = {
        "afp": {"type": "number", "log": True},
        "stage": {"type": "category", "levels": ["A", "B", "C"], "log": False},
    }
    X = pd.DataFrame({"afp": [1.0, 10, 100, np.nan], "stage": ["A", "B", "B", None]})
    encoded = ClinicalEncoder(columns).fit(X).transform(X)
    np.testing.assert_allclose(encoded["afp"], np.log([1, 10, 100, 10]))
    assert encoded["stage=B"].tolist() == [0, 1, 1, 1]
    assert encoded["stage=C"].tolist() == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def gbsg():
    X, y = load_gbsg2()
    X = X[["age", "estrec", "pnodes", "progrec", "tsize"]].astype(float)
    X = (X - X.mean()) / X.std(ddof=0)
    outcome = np.empty(len(y), dtype=[("event", bool), ("time", float)])
    outcome["event"], outcome["time"] = y["cens"], np.round(y["time"] / 30)  # months: many ties
    return X, outcome


def test_cox_score_is_the_gradient_of_the_partial_likelihood(gbsg):
    X, y = gbsg
    step = 1e-5
    for place, column in enumerate(X.columns):
        up, down = (log_partial_likelihood(sign * step * X[column].to_numpy(), y) for sign in (1, -1))
        gradient = (up - down) / (2 * step) * y["event"].sum()
        assert cox_score(X.to_numpy(), y)[place] == pytest.approx(gradient, rel=1e-4, abs=1e-3)


def test_partial_likelihood_is_maximal_where_an_unpenalized_cox_fit_says(gbsg):
    X, y = gbsg
    best = CoxPHSurvivalAnalysis(ties="breslow").fit(X, y).coef_
    at_best = log_partial_likelihood(X.to_numpy() @ best, y)
    for place in range(len(best)):
        for change in (-0.02, 0.02):
            moved = best + change * (np.arange(len(best)) == place)
            assert log_partial_likelihood(X.to_numpy() @ moved, y) < at_best


def test_penalty_is_in_units_of_the_smallest_that_empties_the_model(gbsg):
    X, y = gbsg
    path = CoxnetSurvivalAnalysis(l1_ratio=1.0, alpha_min_ratio=0.5, n_alphas=5).fit(X.to_numpy(), y)
    largest = np.abs(cox_score(X.to_numpy(), y)).max() / len(X)
    assert path.alphas_[0] == pytest.approx(largest, rel=0.02)  # same point, other handling of ties
    assert np.count_nonzero(PenalizedCox(0.98).fit(X, y).coef_) <= 1
    assert np.count_nonzero(PenalizedCox(0.05).fit(X, y).coef_) >= 3


def test_candidates_of_the_inner_folds_are_the_fits_of_scikit_survival(gbsg):
    """All penalties at once, without baseline hazards: not a digit differs from one model after the other."""
    X, y = gbsg
    rows, new = X.iloc[::9], X.iloc[1:60]
    fractions = [0.8, 0.3, 0.05]
    for l1_ratio in (1.0, 0.5):
        found = list(PenalizedCox(l1_ratio=l1_ratio).fit_each(fractions, rows, y[::9]))
        for model, fraction in zip(found, fractions, strict=True):
            largest = np.abs(cox_score(rows.to_numpy(), y[::9])).max() / len(rows) / l1_ratio
            path = np.geomspace(largest, largest * fraction, 8)[1:]
            expected = CoxnetSurvivalAnalysis(alphas=path, l1_ratio=l1_ratio).fit(rows.to_numpy(), y[::9])
            assert np.array_equal(model.coef_, expected.coef_[:, -1])
            assert np.array_equal(model.predict(new), expected.predict(new.to_numpy()))
    with pytest.raises(ValueError, match="all samples are censored"):
        next(PenalizedCox().fit_each(fractions, rows, np.array([(False, 1.0)] * len(rows), y.dtype)))


def test_concordance_is_that_of_scikit_survival_with_ties_in_time_and_prediction():
    rng = np.random.default_rng(3)
    for _ in range(30):
        y = np.empty(25, dtype=[("event", bool), ("time", float)])
        y["event"], y["time"] = rng.random(25) < 0.5, rng.integers(1, 9, 25)
        predicted = rng.integers(0, 6, 25) + rng.choice([0, 1e-9, 1e-6], 25)
        assert concordance(predicted, y) == concordance_index_censored(y["event"], y["time"], predicted)[0]
    y["event"] = False
    assert concordance(predicted, y) == 0.5


def test_univariate_screen_ranks_as_cox_models_do(gbsg):
    X, y = gbsg
    gain = [
        log_partial_likelihood(X[name].to_numpy() * CoxPHSurvivalAnalysis().fit(X[[name]], y).coef_[0], y)
        for name in X.columns
    ]
    by_gain = [X.columns[place] for place in np.argsort(gain)[::-1]]
    assert set(UnivariateSelect(3).fit(X, y).features_) == set(by_gain[:3])


def test_radscore_of_training_rows_is_out_of_fold(tables):
    chosen = settings("mvi", "combined", "linear")
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    y = outcome_array(tables["development"].set_index("patient").loc[X.index], chosen["endpoint"])
    combine = build_model(chosen, tables["repeats"], X["center"].value_counts().to_dict()).steps.named_steps["combine"]
    training = clone(combine).fit_transform(X, y)["radscore"]
    in_sample = clone(combine).fit(X, y).transform(X)["radscore"]
    assert roc_auc_score(y, in_sample) > roc_auc_score(y, training) + 0.03


def test_tuning_takes_the_simplest_of_equals():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(40, 2)), index=[f"P{n}" for n in range(40)]).assign(center="A")
    y = rng.integers(0, 2, 40)
    from sklearn.pipeline import Pipeline

    steps = Pipeline([("drop", StabilityFilter(None))])
    grid = [{"C": 1.0, "max_iter": 100}, {"C": 1.0, "max_iter": 200}]
    assert TunedModel(steps, LogisticRegression(), grid, 3, 0).fit(X, y).best_ == grid[0]


# --- frozen -----------------------------------------------------------------------------------------------------------


def test_the_card_tells_what_was_offered_and_what_was_frozen(lasso):
    card = read_json(lasso["card"])
    assert card["sha256"] == file_digest(lasso["model"])
    assert (card["n"], card["candidates"]) == (84, 120)
    assert card["events_per_candidate"] == pytest.approx(card["events"] / 120, abs=1e-4)
    assert card["tried"] == len(read_table(lasso["tuning"])) == 6
    assert 0 < card["selected"] < card["entered"] <= 100


def test_training_twice_gives_the_same_bytes(tables, lasso, tmp_path):
    again = fit(tables, tmp_path / "again", settings("os"))
    assert {name: file_digest(again[name]) for name in OUTPUTS} == {name: file_digest(lasso[name]) for name in OUTPUTS}


def test_what_lies_between_the_fields_of_tree_nodes_is_not_frozen():
    """scikit-learn leaves it as it was in memory, so that equal forests had other bytes in every run."""
    kind = np.dtype({"names": ["threshold", "left"], "formats": ["<f8", "u1"], "offsets": [0, 8], "itemsize": 16})
    saved = []
    for filling in (b"\x00", b"\x5a"):
        nodes = np.frombuffer(bytearray(filling * 48), kind)
        nodes["threshold"], nodes["left"] = [1.5, np.nan, -2], [0, 1, 255]
        target = io.BytesIO()
        np.save(target, nodes)
        saved.append(target.getvalue())
    assert saved[0] != saved[1] and _without_padding(saved[0]) == _without_padding(saved[1])
    read = np.load(io.BytesIO(_without_padding(saved[1])))
    assert all(np.array_equal(read[name], nodes[name], equal_nan=True) for name in ("threshold", "left"))
    assert _without_padding(b"any text") == b"any text"


def predict_again(tables, lasso, folder):
    """Predictions of the frozen LASSO model for changed tables."""
    paths = save(tables, folder)
    out = str(folder / "p.tsv")
    inputs = {
        "features": paths["features"],
        "external": paths["external"],
        "model": lasso["model"],
        "card": lasso["card"],
    }
    predict_external(**inputs, settings=settings("os"), predictions=out)
    return read_table(out)


def test_one_patient_alone_gets_the_same_prediction(tables, lasso, tmp_path):
    alone = {name: frame.copy() for name, frame in tables.items()}
    patient = tables["external"]["patient"].iloc[7]
    alone["external"] = alone["external"][alone["external"]["patient"] == patient]
    everyone = read_table(lasso["predictions"]).query("harmonization == 'none'").set_index("patient")
    found = predict_again(alone, lasso, tmp_path)["lp"].tolist()
    assert found == [pytest.approx(everyone.loc[patient, "lp"], rel=1e-12)]


def test_no_patients_own_features_harmonize_the_patient(tables, lasso, tmp_path):
    """Center-calibrated: a patient's features reach the other half's parameters, never the own half's."""
    changed = {name: frame.copy() for name, frame in tables.items()}
    patient = tables["external"]["patient"].iloc[7]
    row = changed["features"]["patient"] == patient
    changed["features"].loc[row, changed["features"].columns[2:]] += 50
    before, after = (
        table.query("harmonization == 'center-calibrated' and center == 'D'").set_index("patient")["lp"]
        for table in (read_table(lasso["predictions"]), predict_again(changed, lasso, tmp_path))
    )
    moved = before.index[before != after]
    assert patient in moved
    half = assign_folds(list(before.index), ["D"] * len(before), 2, 3)
    own = half[list(before.index).index(patient)]
    assert set(moved) == {patient} | set(before.index[half != own])


def test_a_tampered_or_foreign_model_is_refused(lasso, tmp_path):
    card = read_json(lasso["card"])
    tampered = tmp_path / "model.skops"
    tampered.write_bytes(Path(lasso["model"]).read_bytes() + b"x")
    with pytest.raises(StudyError, match="not the frozen model"):
        load_model(tampered, card["sha256"])
    foreign = tmp_path / "foreign.skops"
    with zipfile.ZipFile(lasso["model"]) as source, zipfile.ZipFile(foreign, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(
                name, data.replace(b"hccstudy.models.steps", b"subprocess") if name == "schema.json" else data
            )
    with pytest.raises(StudyError, match="subprocess"):
        load_model(foreign, file_digest(foreign))


def test_too_few_patients_are_refused_with_the_count(tables, tmp_path):
    small = {name: frame.copy() for name, frame in tables.items()}
    small["development"].loc[small["development"].index[8:], "os_months"] = np.nan
    with pytest.raises(StudyError, match="8 development patients with features and os_months; expected at least 20"):
        fit(small, tmp_path / "x", settings("os"))


def test_categories_whose_levels_look_like_numbers_are_categories(tmp_path):
    """Levels "0", "1", "2" with gaps come back from a TSV as decimals, unless they are read as text."""
    tables = study_tables(4, features=30)
    ecog = {"type": "category", "levels": ["0", "1", "2"], "log": False}
    classes = {"CR": "0", "PR": "1", "SD": "2", "PD": "3"}
    rng = np.random.default_rng(0)
    for name in ("development", "external"):
        tables[name]["ecog"] = rng.choice(["0", "1", "2"], len(tables[name]))
        tables[name].loc[tables[name].index[0], "ecog"] = None
    for name in ("development", "external_outcomes"):
        tables[name]["mrecist"] = tables[name]["mrecist"].map(classes)
        tables[name].loc[tables[name].index[1], "mrecist"] = None
    chosen = settings("mrecist", "clinical", "linear", clinical={"ecog": ecog})
    chosen["endpoint"] = chosen["endpoint"] | {"levels": ["0", "1", "2", "3"]}
    paths = fit(tables, tmp_path / "x", chosen)
    assert set(read_table(paths["coefficients"])["feature"]) == {"ecog=1", "ecog=2"}
    oof = read_table(paths["oof"])
    np.testing.assert_allclose(oof[[f"p@{level}" for level in "0123"]].sum(axis=1), 1)


@pytest.mark.parametrize("endpoint", ["os", "mvi", "mrecist"])
def test_without_external_patients_the_predictions_are_empty_and_can_be_validated(tables, tmp_path, endpoint):
    alone = {name: frame.copy() for name, frame in tables.items()}
    for name in ("external", "external_outcomes"):
        alone[name] = alone[name].iloc[:0]
    paths = fit(alone, tmp_path / "x", settings(endpoint, "clinical", "linear"))
    rules = {"endpoint": endpoint, "model": "clinical", "bootstrap": 50, "seed": 1, "thresholds": [0.2, 0.4]}
    names = ("metrics", "calibration_curve", "calibration_groups", "net_benefit", "kaplan_meier", "confusion", "roc")
    validate(
        oof=paths["oof"],
        predictions=paths["predictions"],
        development=paths["development"],
        outcomes=paths["external_outcomes"],
        settings=settings(endpoint)["endpoint"] | rules | {"groups": 4, "minimum_events": 5, "smoother": "cox"},
        **{name: str(tmp_path / f"{name}.tsv") for name in names},
    )
    assert set(read_table(tmp_path / "metrics.tsv")["evaluation"]) == {"cross-validated"}


def test_the_score_of_a_survival_forest_is_on_the_scale_of_a_log_hazard(tables):
    """A slope is only meaningful on that scale: lp is log(-log(1 - risk)) at the last horizon, and ranks as it does."""
    chosen = settings("os", "radiomics", "forest", stability={"method": "none", "threshold": 0})
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    y = outcome_array(tables["development"].set_index("patient").loc[X.index], chosen["endpoint"])
    model = build_model(chosen, None, X["center"].value_counts().to_dict())
    found = scores(model.fit(X, y).pipeline_, X, chosen["endpoint"])
    np.testing.assert_allclose(found["lp"], np.log(-np.log(1 - found["risk@24"])), rtol=1e-6)


def test_every_endpoint_type_offers_every_estimator():
    for kind in ("survival", "binary", "multiclass"):
        assert sorted(ESTIMATORS[kind]) == ["boosting", "elastic_net", "forest", "lasso", "linear"]


@pytest.mark.parametrize("estimator", ["linear", "forest"])
def test_risks_under_competing_events_are_cumulative_incidences(estimator):
    """Exponential hazards: the event's depends on x, death from elsewhere does not."""
    rng = np.random.default_rng(4)
    n, other, horizon = 1500, 0.04, 24.0
    x = rng.normal(size=n)
    own = np.exp(0.7 * x) / 40
    times = np.stack([rng.exponential(1 / own), rng.exponential(1 / other, n), rng.uniform(10, 60, n)])
    first = times.argmin(axis=0)
    y = np.empty(n, dtype=[("event", bool), ("time", float), ("competing", bool)])
    y["event"], y["time"], y["competing"] = first == 0, times.min(axis=0), first == 1
    X = pd.DataFrame({"center": "A", "x": x}, index=[f"P{place:04d}" for place in range(n)])
    made, grid = ESTIMATORS["survival"][estimator](1)
    model = TunedModel(Pipeline([("scale", Columns(["x"]))]), made, [grid[-1]], 2, 1).fit(X, y).pipeline_
    found = scores(model, X, {"type": "survival", "horizons": [horizon]})[f"risk@{horizon:g}"]
    truth = own / (own + other) * -np.expm1(-(own + other) * horizon)
    naive = -np.expm1(-own * horizon)
    assert found.mean() == pytest.approx(truth.mean(), abs=0.03)
    assert naive.mean() > truth.mean() + 0.1  # what treating deaths as censorings would predict
    if estimator == "linear":
        assert np.abs(found - truth).mean() < 0.02


class Columns(TransformerMixin, BaseEstimator):
    """The step of a pipeline that takes some columns."""

    def __init__(self, names):
        self.names = names

    def fit(self, X, y=None):
        self.names_ = self.names
        return self

    def transform(self, X):
        return X[self.names]
