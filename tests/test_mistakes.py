"""The 28 classic mistakes of radiomics prognosis, each with a proof by number that it is not made here.

Two generic proofs run through the Snakefile: noise in every held-out row leaves everything that is trained byte-identical
(T1), permuted or deleted external outcomes leave predictions and cut-offs byte-identical (T2). The list with its sources
is in docs/statistics.md.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import yaml
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from statsmodels.duration.hazard_regression import PHReg

from hccstudy.agreement import icc
from hccstudy.cohort import check_study, read_cohort
from hccstudy.config import layer, load_config
from hccstudy.errors import StudyError
from hccstudy.evaluation import APPARENT
from hccstudy.evaluation import evaluate as evaluate_frame
from hccstudy.metrics.comparison import adjust
from hccstudy.metrics.regression import cox
from hccstudy.metrics.resampling import once
from hccstudy.metrics.sets import Scored, add_risk_groups
from hccstudy.metrics.sheet import Sheet
from hccstudy.metrics.survival import logrank
from hccstudy.models import internal, resampling, train
from hccstudy.models.estimators import ESTIMATORS, scores
from hccstudy.models.resampling import TunedModel, assign_folds, strata
from hccstudy.models.steps import RedundancyFilter, StabilityFilter
from hccstudy.models.train import build_model, cross_validate, cut_off, outcome_array, predictor_frame, with_groups
from hccstudy.report.content import warnings as report_warnings
from hccstudy.tables import read_json, read_table, write_table
from synthetic import settings as synthetic_settings
from synthetic import study_tables
from table_study import (
    CONFOUNDED,
    LOST,
    OVERLAY,
    change_table,
    digests,
    make_table_study,
    run,
    settings,
    simulate_confounded,
    with_noise_outside,
    with_outcomes_outside,
    write_study,
)
from test_evaluate import ORACLES, SHARED, evaluate, needs_shared, value

OS = {"type": "survival", "time": "time", "event": "event", "horizons": [12], "unit": "months"}
BINARY = {"type": "binary", "column": "y"}
NULL = {"stability": {"method": "none", "threshold": 0}, "clinical": {}}


# --- a study through the Snakefile (table_study.CONFOUNDED) -----------------------------------------------------------

MODELS = list(CONFOUNDED["models"])


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The study, run to its report, and its three variants, run from the start as far as they are needed."""
    folder = tmp_path_factory.mktemp("mistakes")
    tables = simulate_confounded()
    predictions = "results/predictions/recurrence/signature.tsv"
    trained = ["results/internal/recurrence/signature/pooled.tsv", "results/harmonize/parameters.json", predictions]
    plan = {
        "whole": (tables, ["report"]),
        "noise": (with_noise_outside(tables), trained),
        "permuted": (with_outcomes_outside(tables, delete=False), [predictions]),
        "deleted": (with_outcomes_outside(tables, delete=True), [predictions]),
    }

    def finish(name: str) -> Path:
        made, targets = plan[name]
        place = write_study(folder / name, made, CONFOUNDED)
        run(place, "--cores", "1", *(word for target in targets for word in ("--target", target)))
        return place

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(plan, pool.map(finish, plan), strict=True))


@pytest.fixture(scope="module")
def study(studies):
    return studies["whole"] / "results"


@pytest.fixture(scope="module")
def report(study):
    """The words of the report, without its tags."""
    text = re.sub(r"<style>.*?</style>", " ", (study / "report/index.html").read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", text)).split())


def of_signature(folder: Path, *places: str) -> dict[str, str]:
    """Digests of what the signature left in these folders of the results, and of what is no model's."""
    return {path: sha for path, sha in digests(folder).items() if path.startswith(places) and "/volume" not in path}


def metric(
    study: Path, model: str, name: str, center: str = "pooled", evaluation: str = "cross-validated"
) -> pd.Series:
    frame = read_table(study / f"validation/recurrence/{model}/metrics.tsv")
    frame = frame[frame["harmonization"] == "none"].set_index(["metric", "center", "evaluation"])
    return frame.loc[(name, center, evaluation)]


# --- 1 to 7: what a model may see -------------------------------------------------------------------------------------


def test_mistakes_01_02_03_noise_in_every_external_row_leaves_all_training_byte_identical(studies):
    """T1: selection, ComBat, imputation, scaling, stability, internal validation."""
    places = ("models/", "internal/", "stability/", "harmonize/")
    before, after = (of_signature(studies[name], *places) for name in ("whole", "noise"))
    assert {Path(path).parts[0] + "/" for path in before} == set(places) and len(before) >= 14
    assert before == after
    outside = [of_signature(studies[name], "predictions/") for name in ("whole", "noise")]
    assert len(outside[0]) == 1 and outside[0] != outside[1]


def test_mistakes_04_07_predictions_and_cut_offs_know_no_external_outcome(studies):
    """T2: outcomes permuted, outcomes deleted."""
    expected = of_signature(studies["whole"], "predictions/", "models/")
    assert {"models/recurrence/signature/card.json", "predictions/recurrence/signature.tsv"} <= set(expected)
    outcomes = "cohort/external_outcomes.tsv"
    for name in ("permuted", "deleted"):
        assert of_signature(studies[name], "predictions/", "models/") == expected
        assert digests(studies[name])[outcomes] != digests(studies["whole"])[outcomes]


def selection(X, y, inside, rng):
    X.iloc[~inside, 3:] = rng.normal(0, 1, (int((~inside).sum()), X.shape[1] - 3))
    y[~inside] = 1 - y[~inside]


def combat(X, y, inside, rng):
    X.iloc[~inside, 3:] = 7 * X.iloc[~inside, 3:] + 1000


def scaling(X, y, inside, rng):
    X.iloc[~inside, 3:] = 1e9
    X.iloc[~inside, 3::2] = np.nan
    X.loc[X.index[~inside], "age"] = 99.0


def learned(pipeline: Pipeline) -> list:
    """Everything that the steps of a pipeline, and of a Radscore inside, took from their training rows."""
    return [
        {key: learned(of) if isinstance(of, Pipeline) else of for key, of in vars(step).items() if key.endswith("_")}
        for _, step in pipeline.steps
        if step != "passthrough"
    ]


@pytest.mark.parametrize("predictors", ["radiomics", "combined"])
@pytest.mark.parametrize("change", [selection, combat, scaling])
def test_mistakes_01_02_03_a_held_out_fold_leaves_its_model_byte_identical(monkeypatch, predictors, change):
    """Only the models that trained on the changed rows differ, the repeated measurements of these rows being noise too."""
    tables = study_tables(3, features=60)
    chosen = synthetic_settings("mvi", predictors, "linear")
    chosen["resampling"] = {"folds": 3, "inner_folds": 2, "correlation": 0.9}
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    y = outcome_array(tables["development"].set_index("patient").loc[X.index], chosen["endpoint"])
    repeated = set(tables["repeats"]["patient"])
    fold = assign_folds(list(X.index), list(X["center"]), 3, 2, strata(y, X.index, repeated))
    inside, rng = fold != 0, np.random.default_rng(5)
    swapped, other, repeats = X.copy(), y.copy(), tables["repeats"].copy()
    change(swapped, other, inside, rng)
    rows = repeats["patient"].isin(X.index[~inside])
    repeats.loc[rows, repeats.columns[2:]] = rng.normal(size=(rows.sum(), 60))

    models: list[str] = []

    def watched(pipeline, rows, endpoint):
        models.append(joblib.hash(learned(pipeline)))
        return scores(pipeline, rows, endpoint)

    monkeypatch.setattr(train, "scores", watched)
    sizes = X["center"].value_counts().to_dict()
    for table, frame, outcome in ((tables["repeats"], X, y), (repeats, swapped, other)):
        cross_validate(build_model(chosen, table, sizes), frame, outcome, fold, chosen["endpoint"])
    first, second = models[:6:2], models[6::2]  # each fold's model scores its training rows, then the others
    assert first[0] == second[0]
    assert first[1] != second[1] and first[2] != second[2]


def null_study(seed: int, features: int = 400, shift: float = 2.0):
    """Noise, 120 patients; the prevalence of the outcome is that of the center: .2, .4, .6, .8. `shift`: of scanners."""
    rng = np.random.default_rng(seed)
    center = np.repeat(list("ABCD"), 30)
    who = pd.Index([f"P{place:03d}" for place in range(120)], name="patient")
    X = pd.DataFrame(rng.normal(size=(120, features)), index=who, columns=[f"f{k:03d}" for k in range(features)])
    X += rng.normal(0, shift, (4, features))[np.repeat(range(4), 30)]
    X.insert(0, "center", center)
    return X, (rng.random(120) < np.repeat([0.2, 0.4, 0.6, 0.8], 30)).astype(int)


def null_auc(X: pd.DataFrame, y: np.ndarray, seed: int = 0, **changes: object) -> pd.Series:
    """The rows of the cross-validated AUC in metrics.tsv, by center: ComBat, screen for 50 features, LASSO."""
    chosen = synthetic_settings("mvi", **NULL, **changes)
    chosen["model"] |= {"select": 50}
    model = build_model(chosen, None, X["center"].value_counts().to_dict())
    fold = assign_folds(list(X.index), list(X["center"]), 5, seed, strata(y, X.index, ()))
    held_out = cross_validate(model, X, y, fold, BINARY).assign(center=X["center"], y=y)
    held_out = held_out.assign(evaluation="cross-validated", harmonization="none").reset_index()
    return evaluated(held_out, BINARY)["metrics"].query("metric == 'auc'").set_index("center")["estimate"]


def evaluated(frame: pd.DataFrame, endpoint: dict, **changes: object) -> dict[str, pd.DataFrame]:
    """The tables of the engine for predictions of one model."""
    rules = {"endpoint": "e", "model": "m", "bootstrap": 20, "seed": 1, "thresholds": [0.4], "groups": 4}
    return evaluate_frame(frame, rules | {"minimum_events": 5, "smoother": "cox"} | endpoint | changes)


def test_mistake_01_selection_among_noise_leaves_performance_at_chance():
    """Where selection sees all rows the same noise looks like .8."""
    within = [null_auc(*null_study(seed, shift=0), seed)["within-center"] for seed in range(3)]
    assert all(0.33 < area < 0.67 for area in within) and 0.4 < np.mean(within) < 0.6
    X, y = null_study(0, shift=0)
    gap = X.iloc[:, 1:][y == 1].mean() - X.iloc[:, 1:][y == 0].mean()
    assert null_auc(X[["center", *gap.abs().nlargest(20).index]], y)["within-center"] > 0.7


def test_mistake_02_combat_of_centers_with_other_prevalence_makes_no_signal():
    """Without ComBat the scanner tells the prevalence, over all centers and nowhere within one."""
    for seed in range(2):
        found = null_auc(*null_study(seed), seed)
        assert 0.33 < found["pooled"] < 0.67 and 0.33 < found["within-center"] < 0.67
    found = null_auc(*null_study(0), harmonize="none")
    assert found["pooled"] > 0.67 > found["within-center"]


def test_mistake_04_no_search_sees_a_row_that_is_scored(monkeypatch):
    """The ids of the rows of every fit, those of the inner folds included, against those that are predicted after it."""
    log: list[tuple[str, set]] = []

    def watch(place, name, label, argument):
        original = getattr(place, name)

        def watched(*arguments, **named):
            log.append((label, set(arguments[argument].index)))
            return original(*arguments, **named)

        monkeypatch.setattr(place, name, watched)

    watch(resampling, "fit_quietly", "fit", 1)
    watch(resampling, "inner_score", "inner", 1)
    watch(train, "scores", "outer", 1)
    X, y = null_study(0, features=20)
    fold = assign_folds(list(X.index), list(X["center"]), 4, 0)
    cross_validate(build_model(synthetic_settings("mvi", **NULL), None, {}), X, y, fold, BINARY)
    fitted, tested, checked = set(), set(), 0
    for label, rows in log:
        if label == "fit":
            fitted |= rows
            last = rows
        elif label == "inner":
            assert not rows & last
            tested |= rows
        elif rows & fitted:  # the training rows, for the cut-off
            assert rows == fitted
        else:
            assert not rows & tested
            fitted, tested, checked = set(), set(), checked + len(rows)
    assert checked == 120


def test_mistake_05_all_models_are_reported_and_the_inner_score_chose(study, report):
    provenance = read_json(study / "provenance.json")
    assert f"{len(MODELS)} models were tried" in report and provenance["config_sha256"] in report
    compared = read_table(study / "validation/recurrence/comparisons.tsv")
    assert set(compared["model_a"]) == set(compared["model_b"]) == set(MODELS)
    for model in MODELS:
        card = read_json(study / f"models/recurrence/{model}/card.json")
        tuning = read_table(study / f"models/recurrence/{model}/tuning.tsv")
        best = tuning.loc[tuning["inner_score"].idxmax()].drop("inner_score").to_dict()
        assert card["tried"] == len(tuning) > 1 and card["hyperparameters"] == pytest.approx(best)
        assert card["sha256"][:12] in report


def test_mistake_06_optimism_repeats_the_selection_and_finds_noise_to_be_noise(tmp_path, monkeypatch):
    """15 columns of noise, 120 patients; the screen keeps 5 of them, anew in every resample."""
    seen: list[tuple[str, ...]] = []
    original = train.UnivariateSelect.fit
    watch = lambda self, X, y: seen.append(tuple(sorted(X.index))) or original(self, X, y)  # noqa: E731
    monkeypatch.setattr(train.UnivariateSelect, "fit", watch)
    chosen = synthetic_settings("mvi", "radiomics", "linear", harmonize="none", **NULL)
    chosen["model"] |= {"select": 5}
    chosen["resampling"] |= {"inner_folds": 2}
    names = ("performance", "centers", "pooled")
    rows = []
    for seed in range(3):
        X, _ = null_study(seed, features=15)
        X["center"] = "A"
        paths = {name: str(tmp_path / f"{name}.tsv") for name in ("features", "development", "repeats", *names)}
        write_table(X.reset_index(), paths["features"])
        drawn = np.random.default_rng(seed + 50).permutation(np.repeat([0, 1], [72, 48]))
        write_table(pd.DataFrame({"patient": X.index, "center": "A", "mvi": drawn}), paths["development"])
        seen.clear()
        extra = {"optimism": 10, "bootstrap": 5, "minimum_events": 5, "seed": seed}
        internal.validate_internally(**paths, settings=chosen | extra)
        assert all(tuple(sorted(X.index[sample])) in seen for sample in internal.draw_resamples(X, 10, seed))
        table = read_table(paths["performance"]).set_index("metric")
        rows.append([table.loc["auc", name] for name in ("apparent", "corrected", "estimate_632plus")])
        assert table.loc["slope", "corrected"] < table.loc["slope", "apparent"] - 0.3
    apparent, corrected, plus = np.mean(rows, axis=0)
    assert apparent > 0.63
    assert 0.4 < corrected < 0.57 and 0.4 < plus < 0.57


def test_mistake_06_the_report_prints_apparent_beside_corrected(study, report):
    table = read_table(study / "internal/recurrence/signature/performance.tsv").set_index("metric")
    apparent, corrected = (f"{table.loc['harrell_c', name]:.2f}" for name in ("apparent", "corrected"))
    assert "Apparent Optimism Optimism-corrected .632+ Cross-validated" in report
    assert re.search(rf"signature Harrell's C {re.escape(apparent)} \S+ {re.escape(corrected)} ", report)


def test_mistake_07_risk_groups_of_noise_differ_as_often_as_chance_says():
    """Type-I error of the log-rank test in external patients over 200 null studies; the "optimal" cut-off of the external
    patients themselves is held against it."""
    endpoint = OS | {"name": "os"}
    chosen = synthetic_settings("os", "clinical", "linear", **NULL)
    chosen["clinical"] = {name: {"type": "number"} for name in ("a", "b", "c")}
    model = build_model(chosen, None, {})
    model.grid = model.grid[-1:]  # no tuning: time
    rejected, optimal = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        X = pd.DataFrame(rng.normal(size=(140, 3)), columns=list("abc"), index=[f"P{k:03d}" for k in range(140)])
        X.insert(0, "center", "A")
        death, end = rng.exponential(20, 140), rng.uniform(6, 40, 140)
        frame = pd.DataFrame({"time": np.minimum(death, end), "event": (death <= end) * 1.0}, index=X.index)
        y = outcome_array(frame, endpoint)
        fitted = model.fit(X[:80], y[:80]).pipeline_
        cut = cut_off(scores(fitted, X[:80], endpoint))
        outside = with_groups(scores(fitted, X[80:], endpoint), cut)
        data = Scored(y[80:]["event"] * 1.0, y[80:]["time"])
        sheet = Sheet(once(60), 60, int(data.event.sum()))
        add_risk_groups(sheet, data, outside["group"].to_numpy(dtype=str), external=True)
        rejected += sheet.tables["metrics"][0].get("estimate", 1.0) < 0.05
        if seed < 60:
            cuts = outside["lp"].quantile([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
            ps = [logrank(data.time, data.event, np.where(outside["lp"] > at, "high", "low"))[1] for at in cuts]
            optimal += min(ps) < 0.05
    assert 0.01 <= rejected / 200 <= 0.08
    assert optimal / 60 > 0.12


# --- 8 to 13: numbers of censored outcomes ----------------------------------------------------------------------------

QUICK = ("--bootstrap", "50", "--thresholds", "0.4")
SURVIVAL = ("--outcome", "survival", "--time", "time", "--event", "event", *QUICK)


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """`hccstudy evaluate` draws what it found; the numbers are what matters here."""
    monkeypatch.setattr("hccstudy.predictions._draw", lambda *_: None)


@pytest.fixture(scope="module")
def months() -> pd.DataFrame:
    """Integer months with ties between events, censorings and predictors; R's answers are in survival.json."""
    return pd.read_csv(ORACLES / "survival.csv")


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((ORACLES / "survival.json").read_text())


def test_mistake_08_concordance_with_ties_sign_and_order(tmp_path, months, expected):
    frame = months.assign(against=-months["lp"], constant=1.0)
    names = ("--lp", "lp", "--lp", "against", "--lp", "constant")
    out = evaluate(tmp_path, frame, *SURVIVAL, *names)
    c = value(out, "harrell_c", model="lp")["estimate"]
    assert c == pytest.approx(expected["harrell"]["c"], abs=1e-10)
    assert value(out, "uno_c", model="lp")["estimate"] == pytest.approx(expected["uno"]["c"], abs=1e-10)
    assert value(out, "harrell_c", model="against")["estimate"] == pytest.approx(1 - c, abs=1e-12)
    assert value(out, "harrell_c", model="constant")["estimate"] == 0.5
    before = (out / "metrics.tsv").read_bytes()
    shuffled = evaluate(tmp_path, frame.sample(frac=1, random_state=1), *SURVIVAL, *names, "--patient", "patient")
    assert value(shuffled, "harrell_c", model="lp")["estimate"] == pytest.approx(c, abs=1e-12)
    assert (evaluate(tmp_path, frame, *SURVIVAL, *names) / "metrics.tsv").read_bytes() == before


def test_mistake_09_weights_come_from_the_evaluated_patients(months, expected):
    """As R has it, and whatever happens to the censoring of the development patients in the same table."""
    risks = (
        months.drop(columns=["lp", "lp_b"])
        .assign(center="X", harmonization="none")
        .rename(columns={"risk_12": "risk@12"})
    )
    inside = risks.assign(evaluation="cross-validated", center="Y")
    censored = inside.assign(event=np.where(np.arange(len(inside)) % 3, 0, inside["event"]))
    found = [
        evaluated(pd.concat([of, risks.assign(evaluation="external")]), OS)["metrics"].query("evaluation == 'external'")
        for of in (inside, censored)
    ]
    pd.testing.assert_frame_equal(found[0], found[1], check_exact=True)
    pooled = found[0][found[0]["center"] == "pooled"].set_index("metric")["estimate"]
    assert pooled["auc_t"] == pytest.approx(expected["h12"]["model_a"]["auc"], abs=1e-9)
    assert pooled["brier"] == pytest.approx(expected["h12"]["model_a"]["brier"], abs=1e-9)


def test_mistake_10_a_horizon_where_follow_up_ends_is_estimated_and_one_beyond_is_refused(tmp_path, months):
    """Whoever is followed to 23.5 months or longer is censored there: nothing that was known by then changes."""
    ended = months.assign(event=months["event"].where(months["time"] < 23.5, 0), time=months["time"].clip(upper=23.5))
    options = (*SURVIVAL, "--risk", "risk_24", "--lp", "lp", "--horizon")
    out = evaluate(tmp_path / "", months, *options, "23.5")
    whole = {name: value(out, name, horizon=23.5)["estimate"] for name in ("auc_t", "brier", "oe", "net_benefit")}
    out = evaluate(tmp_path, ended, *options, "23.5")
    assert {name: value(out, name, horizon=23.5)["estimate"] for name in whole} == pytest.approx(whole, abs=1e-12)
    late = value(evaluate(tmp_path, ended, *options, "24"), "brier", horizon=24)
    assert np.isnan(late["estimate"]) and "follow-up ends at 23.5, before the horizon of 24" in late["method"]


def test_mistake_11_the_censored_are_neither_dropped_nor_free_of_the_event(tmp_path, months, expected):
    out = evaluate(tmp_path, months, *SURVIVAL, "--risk", "risk_24", "--horizon", "24")
    found = value(out, "oe", horizon=24)["estimate"]
    assert found == pytest.approx(expected["h24"]["oe"], abs=1e-9)
    events = (months["event"] == 1) & (months["time"] <= 24)
    crude = events.mean() / months["risk_24"].mean()
    known = events | (months["time"] > 24)
    dropped = events[known].mean() / months.loc[known, "risk_24"].mean()
    assert crude < found - 0.05 and dropped > found + 0.02


@needs_shared
def test_mistakes_09_10_11_gbsg_with_rotterdams_model(tmp_path):
    """STRATOS: with weights of Rotterdam AUC .6933 and Brier .137; crude O/E .83; 121 are censored exactly at 5 years."""
    rotterdam, gbsg = (pd.read_csv(SHARED / "stratos_survival" / f"{name}.csv") for name in ("rotterdam", "gbsg"))

    def design(of):
        size = of["csize"]
        columns = [size == "20-50", size == ">50", of["nodes2"], of["nodes3"], of["grade3"] == "3"]
        return np.column_stack(columns).astype(float)

    for horizon in (4.99, 5, 8):
        outcome = rotterdam["ryear"].to_numpy(), rotterdam["rfs"].to_numpy(float)
        fit = cox(*outcome, design(rotterdam), once(len(rotterdam)), min(horizon, 5))
        gbsg["lp"] = design(gbsg) @ fit.beta[0]
        gbsg[f"r@{horizon}"] = -np.expm1(-np.exp(fit.log_hazard[0] + gbsg["lp"]))
    options = ("--outcome", "survival", "--time", "ryear", "--event", "rfs", "--risk", "r", "--lp", "lp", *QUICK)
    out = evaluate(tmp_path, gbsg, *options, "--horizon", "4.99", "5", "8")
    before = [value(out, name, horizon=4.99)["estimate"] for name in ("auc_t", "brier")]
    assert [*before, value(out, "uno_c")["estimate"]] == pytest.approx([0.6775, 0.2248, 0.6354], abs=6e-5)
    at_end = [value(out, name, horizon=5)["estimate"] for name in ("auc_t", "brier")]
    assert at_end == pytest.approx(before, abs=4e-3)
    found = [value(out, name, horizon=5)["estimate"] for name in ("oe", "net_benefit", "net_benefit_all")]
    assert found == pytest.approx([1.0174, 0.18858, 0.18059], abs=2e-5)
    late = read_table(out / "metrics.tsv").query("horizon == 8")
    assert len(late) and late["estimate"].isna().all()
    assert late["method"].str.contains("refused: follow-up ends at 5, before the horizon of 8").all()


def test_mistake_12_the_calibration_slope_is_not_penalized(tmp_path):
    rng = np.random.default_rng(2)
    true = rng.normal(size=40)
    frame = pd.DataFrame({"y": (rng.random(40) < expit(true)) * 1, "p": expit(0.3 * true - 0.5).round(6)})
    out = evaluate(tmp_path, frame, "--outcome", "binary", "--event", "y", "--risk", "p", *QUICK)
    odds = logit(frame["p"].to_numpy())
    steep = sm.GLM(frame["y"], sm.add_constant(odds), family=sm.families.Binomial()).fit(tol=1e-12)
    level = sm.GLM(frame["y"], np.ones(40), family=sm.families.Binomial(), offset=odds).fit(tol=1e-12)
    slope = value(out, "slope")
    assert slope["estimate"] == pytest.approx(steep.params.iloc[1], abs=1e-7)
    assert [slope["lower"], slope["upper"]] == pytest.approx(list(steep.conf_int().iloc[1]), abs=1e-6)
    assert value(out, "citl")["estimate"] == pytest.approx(level.params.iloc[0], abs=1e-7)
    assert LogisticRegression().fit(odds[:, None], frame["y"]).coef_[0, 0] < slope["estimate"] - 0.1


def test_mistake_13_the_risk_is_that_of_its_time(tmp_path):
    """1 - S0(t)^exp(lp) with Breslow's S0 of the training patients, by hand; the smoother of a curve has a name."""
    tables = study_tables(3, features=30)
    chosen = synthetic_settings("os", "clinical", "linear")
    X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
    known = tables["development"].set_index("patient").loc[X.index]
    y = outcome_array(known, chosen["endpoint"])
    found = scores(clone(build_model(chosen, None, {})).fit(X, y).pipeline_, X, chosen["endpoint"])
    at_risk = known["os_months"].to_numpy()[None, :] >= known["os_months"].to_numpy()[:, None]
    hazard = known["os_event"] / (at_risk * np.exp(found["lp"].to_numpy())).sum(axis=1)
    for horizon in (12, 24):
        baseline = np.exp(-hazard[known["os_months"] <= horizon].sum())
        np.testing.assert_allclose(found[f"risk@{horizon}"], 1 - baseline ** np.exp(found["lp"]), atol=1e-3)
    frame = found.reset_index().assign(center="A", evaluation="external", harmonization="none")
    frame = frame.assign(time=known["os_months"].to_numpy(), event=known["os_event"].to_numpy())
    metrics = evaluated(frame, OS | {"horizons": [12, 24]})["metrics"].query("center == 'pooled'")
    assert metrics.loc[metrics["metric"] == "oe", "estimate"].tolist() == pytest.approx([1, 1], abs=0.12)
    assert metrics.loc[metrics["metric"] == "ici", "method"].str.contains("restricted cubic spline, 3 knots").all()


# --- 14 to 16: time ---------------------------------------------------------------------------------------------------


def configured(folder: Path, frame: pd.DataFrame, endpoint: dict | None = None, **column: object) -> pd.DataFrame:
    """The cohort of a table with the predictor `responder` and one survival endpoint in months, as every stage sees it."""
    write_table(frame, folder / "patients.tsv")
    write_table(frame[["patient"]].assign(f00=np.arange(len(frame))), folder / "features.tsv")
    endpoint = OVERLAY["endpoints"]["os"] | {"time": "months", "event": "died"} | (endpoint or {})
    overlay = layer(OVERLAY, {"endpoints": {"os": endpoint}, "predictors": {"clinical": ["responder"]}})
    overlay["cohort"] = overlay["cohort"] | {"columns": {"responder": {"type": "number", "range": [0, 1]} | column}}
    overlay["cohort"] |= {name: str(folder / f"{name}.tsv") for name in ("patients",)}
    overlay["features"] = {"table": str(folder / "features.tsv")}
    return read_cohort(load_config(overlay)).patients


def null_responders(seed: int) -> pd.DataFrame:
    """A response that has nothing to do with survival, seen at 3 months in half of those who live to be examined."""
    rng = np.random.default_rng(seed)
    months, end = rng.exponential(10, 160), rng.uniform(4, 40, 160)
    frame = pd.DataFrame({"patient": [f"N-{k:03d}" for k in range(160)], "center": np.tile(list("ABCD"), 40)})
    frame["months"], frame["died"] = np.minimum(months, end).round(2).clip(0.01), (months <= end) * 1
    frame["responder"] = ((rng.random(160) < 0.5) & (frame["months"] > 3)) * 1
    return frame.assign(index_date="2020-01-01", examined="2020-04-01")


def test_mistake_14_what_is_known_after_the_start_needs_a_landmark(tmp_path):
    frame = null_responders(0)
    with pytest.raises(StudyError, match=r"responder.*known 91 days after the index date.*landmark: 2.99 \(months\)"):
        configured(tmp_path, frame, known_at=91)
    with pytest.raises(StudyError, match=r"examined is 2020-04-01, 91 days after.*measured by then, or a landmark"):
        configured(tmp_path, frame, date="examined")
    with pytest.raises(StudyError, match=r"known after 91 days, endpoint os starts after 60"):
        configured(tmp_path, frame, {"landmark": 2}, known_at=91)
    assert len(configured(tmp_path, frame, {"landmark": 3}, known_at=91, date="examined")) == 160


def test_mistake_14_a_response_that_means_nothing_protects_nobody_after_the_landmark(tmp_path):
    hazards = []
    for seed in range(12):
        frame = null_responders(seed)
        after = configured(tmp_path, frame, {"landmark": 3}, known_at=91).dropna(subset=["months_after_3"])
        naive = PHReg(frame["months"], frame[["responder"]], status=frame["died"]).fit().params[0]
        at = PHReg(after["months_after_3"], after[["responder"]], status=after["died_after_3"]).fit().params[0]
        hazards.append([naive, at])
    naive, landmark = np.exp(np.mean(hazards, axis=0))
    assert naive < 0.7
    assert 0.85 < landmark < 1.18


def test_mistake_15_follow_up_starts_at_the_landmark_and_the_early_are_counted(studies, study):
    given = read_table(studies["whole"] / "patients.tsv").set_index("patient")
    after = pd.concat([read_table(study / f"cohort/{name}.tsv") for name in ("development", "external_outcomes")])
    after = after.set_index("patient").loc[given.index]
    early = given["months"] <= 2
    assert early.sum() > 5 and after.loc[early, ["months_after_2", "status_after_2"]].isna().all(axis=None)
    late = given["months"] > 2
    np.testing.assert_allclose(after.loc[late, "months_after_2"], given.loc[late, "months"] - 2, atol=1e-9)
    ledger = read_table(study / "ledger/ledger.tsv")
    reasons = ledger[ledger["reason"] == "before the landmark"]
    assert set(reasons["patient"]) == set(given.index[early]) - set(LOST)
    assert set(reasons["status"]) == {"excluded"} and set(reasons["stage"]) == {"endpoint recurrence"}
    n = int((late & (given["center"] != "D")).sum()) - len({"R-005"} & set(given.index[late]))
    oof = read_table(study / "models/recurrence/signature/oof.tsv")
    assert not set(oof["patient"]) & set(given.index[early])
    assert len(oof) == n == metric(study, "signature", "harrell_c")["n"]
    assert read_json(study / "models/recurrence/signature/card.json")["n"] == n


def test_mistake_16_days_and_months_give_the_same_numbers(tmp_path):
    tables, found = study_tables(3, features=30), []
    for unit, factor in (("months", 1.0), ("days", 30.4375)):
        chosen = synthetic_settings("os", "clinical", "linear")
        horizons = [12 * factor, 24 * factor]
        chosen["endpoint"] = chosen["endpoint"] | {"horizons": horizons, "unit": unit}
        X = predictor_frame(tables["features"], tables["development"], list(chosen["clinical"]))
        known = (
            tables["development"]
            .set_index("patient")
            .loc[X.index]
            .assign(os_months=lambda frame, factor=factor: frame["os_months"] * factor)
        )
        y = outcome_array(known, chosen["endpoint"])
        fitted = clone(build_model(chosen, None, {})).fit(X, y).pipeline_
        said = scores(fitted, X, chosen["endpoint"])
        frame = with_groups(said, cut_off(said)).join(known[["os_months", "os_event", "center"]]).reset_index()
        frame = frame.assign(evaluation="external", harmonization="none")
        found.append(evaluated(frame, chosen["endpoint"])["metrics"].query("metric != 'median_follow_up'"))
    columns = ["estimate", "lower", "upper", "n", "events"]
    assert {"harrell_c", "uno_c", "auc_t", "brier", "oe", "ici", "slope", "logrank_p"} <= set(found[0]["metric"])
    assert found[0]["estimate"].notna().sum() > 30
    np.testing.assert_allclose(*(of[columns].astype(float) for of in found), rtol=1e-6, atol=1e-8)
    assert (found[1]["horizon"].dropna() == found[0]["horizon"].dropna() * 30.4375).all()


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("died", "2", "row 5 (N-003): died is '2'; expected 0 (no event) or 1 (event)"),
        ("died", "yes", "row 5 (N-003): died is 'yes'; expected a number"),
        ("months", "0", "row 5 (N-003): months is '0'; expected > 0"),
        ("months", "-3", "row 5 (N-003): months is '-3'; expected > 0"),
        ("months", "", "row 5 (N-003): months is empty while died is 1; expected both or neither"),
    ],
)
def test_mistake_16_wrong_events_and_times_are_refused(tmp_path, column, cell, message):
    frame = null_responders(0).astype({"months": str, "died": str})
    frame.loc[3, ["months", "died"]] = ["5", "1"]
    frame.loc[3, column] = cell
    with pytest.raises(StudyError, match=re.escape(message)):
        configured(tmp_path, frame.drop(columns="responder").assign(responder=np.arange(160) % 2))


# --- 17 to 25: what is claimed of whom --------------------------------------------------------------------------------


def test_mistake_17_candidates_are_counted_before_selection_and_too_many_are_a_warning(study, report):
    card = read_json(study / "models/recurrence/signature/card.json")
    assert card["candidates"] == 500 > 20 * card["selected"]
    assert f"lowest: signature for recurrence, {card['events']} events for 500 candidates" in report
    assert "Overfitting is likely" in report
    elsewhere = null_study(0, features=4)[0].assign(elsewhere=np.nan)  # a feature of external patients alone
    assert train.candidate_parameters(synthetic_settings("mvi", **NULL), elsewhere) == 4
    few = report_warnings([card | {"events": 30}])
    assert len(few) == 1 and "30 events for 500 candidates" in few[0]
    assert report_warnings([card | {"candidates": 5, "events": 60}]) == []


def test_mistake_17_only_external_results_are_called_validated(report):
    said = re.findall(r"[^.]*(?<!cross-)(?<!Cross-)\bvalidated\b[^.]*", report)
    assert said and all(re.search("externally validated|no model of this study has been", text) for text in said)


def test_mistake_18_p_values_of_comparisons_are_adjusted_as_in_r(tmp_path):
    oracle = json.loads((ORACLES / "pooling.json").read_text())["adjust"]
    table = adjust(pd.DataFrame({"family": "one", "p": oracle["p"]}), ["family"])
    assert table["p_holm"].tolist() == pytest.approx(oracle["holm"], abs=1e-12)
    frame = pd.read_csv(ORACLES / "binary.csv").assign(p_c=lambda of: expit(logit(of["p_a"]) + 0.6 * of["x3"]))
    options = [word for name in ("p_a", "p_b", "p_c") for word in ("--risk", name)]
    out = evaluate(tmp_path, frame, "--outcome", "binary", "--event", "y", *options, *QUICK)
    area = read_table(out / "comparisons.tsv").query("metric == 'auc'").sort_values("p")
    by_hand = np.minimum(1, np.maximum.accumulate(area["p"].to_numpy() * [3, 2, 1]))
    assert len(area) == 3 and area["p_holm"].to_numpy() == pytest.approx(by_hand, abs=1e-12)


def test_mistake_19_one_patient_is_never_on_both_sides(tmp_path, monkeypatch):
    """Copies of a patient in a bootstrap sample stay in one inner fold; copies under two names are refused."""
    sides: list[set[str]] = []
    fit, score = resampling.fit_quietly, resampling.inner_score
    monkeypatch.setattr(resampling, "fit_quietly", lambda e, X, y: sides.append(set(X.index)) or fit(e, X, y))
    monkeypatch.setattr(resampling, "inner_score", lambda e, X, y: sides.append(set(X.index)) or score(e, X, y))
    X, y = null_study(1, features=10)
    drawn = internal.draw_resamples(X, 1, 1)[0]
    assert X.index[drawn].duplicated().sum() > 20
    model: TunedModel = clone(build_model(synthetic_settings("mvi", **NULL), None, {}))
    model.fit(X.iloc[drawn], y[drawn])
    pairs = list(zip(sides[:-1:2], sides[1::2], strict=True))
    assert len(pairs) == 18 and not any(training & tested for training, tested in pairs)

    monkeypatch.chdir(tmp_path)
    make_table_study(tmp_path, patients=120)
    for table, message in (("features", "the same values for T-004, T-090"), ("patients", "the id of row 5 too")):
        kept = (tmp_path / f"{table}.tsv").read_bytes()

        def copy(frame, table=table):
            frame.loc[89, ["patient"] if table == "patients" else list(frame.columns[1:])] = frame.loc[3]

        change_table(tmp_path / f"{table}.tsv", copy)
        with pytest.raises(StudyError, match=message):
            check_study(settings(tmp_path))
        (tmp_path / f"{table}.tsv").write_bytes(kept)


def test_mistake_20_prevalence_within_center_and_leave_one_center_out_are_shown(study, report):
    """A model of the center alone is exposed: high over all patients, .5 within centers."""
    outcomes = read_table(study / "cohort/development.tsv").dropna(subset=["months_after_2"])
    outcomes = outcomes[~outcomes["patient"].isin(LOST)]
    for center in "ABC":
        here = outcomes[outcomes["center"] == center]
        row = metric(study, "signature", "harrell_c", center)
        assert (row["n"], row["events"]) == (len(here), (here["status_after_2"] == 1).sum())
        assert f"{len(here)} ({row['events']:.0f} events)" in report
    assert np.isfinite(metric(study, "signature", "harrell_c", "within-center")["estimate"])
    left_out = read_table(study / "internal/recurrence/signature/centers.tsv").query("metric == 'harrell_c'")
    assert left_out["center"].tolist() == list("ABC") and left_out["estimate"].between(0.5, 0.9).all()
    assert "Leaving out one development center after the other" in report
    X, y = null_study(5, features=1)
    risk = X["center"].map(dict(zip("ABCD", [0.2, 0.4, 0.6, 0.8], strict=True)))
    frame = X[["center"]].assign(y=y, risk=risk, evaluation="cross-validated", harmonization="none").reset_index()
    found = evaluated(frame, BINARY)["metrics"].query("metric == 'auc'").set_index("center")["estimate"]
    assert found["pooled"] > 0.65 and found["within-center"] == 0.5


def test_mistake_21_four_rows_a_patient_are_not_four_patients(tmp_path, months):
    options = ("--outcome", "survival", "--time", "time", "--event", "event", "--lp", "lp", "--bootstrap", "300")
    for name in ("harrell_c", "slope"):
        one = value(evaluate(tmp_path, months, *options, "--patient", "patient"), name)
        four = value(evaluate(tmp_path, pd.concat([months] * 4), *options, "--patient", "patient"), name)
        assert (four["upper"] - four["lower"]) > 0.9 * (one["upper"] - one["lower"])
        assert four["estimate"] == pytest.approx(one["estimate"], abs=0.02)


def test_mistake_22_nested_models_are_compared_on_held_out_predictions_only(tmp_path, study):
    """On the patients of the fit noise improves a model: refused. The study compares held-out predictions."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"y": rng.integers(0, 2, 120)})
    columns = rng.normal(size=(120, 12))
    for name, of in (("small", columns[:, :2]), ("large", columns)):
        frame[name] = LogisticRegression(C=1e6).fit(of, frame["y"]).predict_proba(of)[:, 1]
    options = ("--outcome", "binary", "--event", "y", "--risk", "small", "--risk", "large", *QUICK)
    honest = read_table(evaluate(tmp_path, frame, *options) / "comparisons.tsv").query("metric == 'auc'")
    assert honest["p"].item() < 0.1  # what would be claimed
    found = read_table(evaluate(tmp_path, frame, *options, "--apparent") / "comparisons.tsv")
    assert len(found) and found[["difference", "statistic", "p", "p_holm"]].isna().all(axis=None)
    evaluations = read_table(study / "validation/recurrence/comparisons.tsv")["evaluation"]
    assert set(evaluations) == {"cross-validated", "external"} and APPARENT not in set(evaluations)


def test_mistake_23_reclassification_is_in_two_parts_and_wants_calibrated_models(tmp_path):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(600, 2))
    risk = expit(z @ [0.8, 0.8])
    frame = pd.DataFrame({"y": (rng.random(600) < risk) * 1, "good": risk, "old": expit(0.69 * z[:, 0])})
    frame["half"] = frame["old"] / 2
    frame["noisy"] = (frame["half"] + rng.normal(0, 0.1, 600)).clip(0.001, 0.999)
    names = ["nri_events", "nri_nonevents", "idi"]
    for pair, calibrated in ((("old", "good"), True), (("half", "noisy"), False)):
        options = [word for name in pair for word in ("--risk", name)]
        out = evaluate(tmp_path, frame, "--outcome", "binary", "--event", "y", *options, *QUICK)
        found = read_table(out / "comparisons.tsv")
        assert "nri" not in set(found["metric"])
        found = found[found["metric"].isin(names)].set_index("metric")
        assert found.loc[names, "difference"].notna().all() == calibrated
        if not calibrated:
            assert found["difference"].isna().all() and found["method"].str.contains("miscalibrated").all()


def test_mistake_24_no_class_weights_and_no_synthetic_rows(study):
    for kind, makers in ESTIMATORS.items():
        for name, make in makers.items():
            estimator, grid = make(1)
            weights = {estimator.get_params().get("class_weight")} | {of.get("class_weight") for of in grid}
            assert weights == {None}, f"{kind} {name}"
    X, y = null_study(2, features=5)
    rare = np.where(np.arange(120) % 10, 0, y)
    fitted = clone(build_model(synthetic_settings("mvi", "radiomics", "linear", **NULL), None, {})).fit(X, rare)
    assert scores(fitted.pipeline_, X, BINARY)["risk"].mean() == pytest.approx(rare.mean(), abs=0.01)
    development = read_table(study / "cohort/development.tsv").dropna(subset=["months_after_2"])["patient"]
    for model in MODELS:
        held_out = read_table(study / f"models/recurrence/{model}/oof.tsv")["patient"]
        assert held_out.is_unique and set(held_out) == set(development) - set(LOST)
        assert metric(study, model, "harrell_c")["n"] == len(held_out)
        outside = read_table(study / f"predictions/recurrence/{model}.tsv")
        assert not outside[["patient", "harmonization"]].duplicated().any()


def test_mistake_25_every_patient_is_accounted_for_at_every_step(studies, study):
    everyone = set(read_table(studies["whole"] / "patients.tsv")["patient"])
    ledger = read_table(study / "ledger/ledger.tsv").fillna("")
    counts = read_table(study / "ledger/flow.tsv").fillna("")
    before = everyone
    for stage in ("cohort", "features", "endpoint recurrence"):
        lines = ledger[ledger["stage"] == stage]
        assert set(lines["patient"]) == before and lines["patient"].is_unique
        assert set(lines["status"]) <= {"included", "excluded", "failed"}
        assert (lines["status"].eq("included") == lines["reason"].eq("")).all()
        of = counts[counts["stage"] == stage].set_index("status")["patients"]
        if stage != "endpoint recurrence":
            assert of["in"] == len(before) == of.drop("in").sum()
        before = set(lines.loc[lines["status"] == "included", "patient"])
    reasons = ledger[ledger["status"] != "included"].set_index("patient")
    assert {who: reasons.loc[who, "status"] for who in LOST} == LOST
    assert reasons.loc[["R-010", "R-200"], "reason"].tolist() == ["outcome missing"] * 2
    evaluated = [
        metric(study, "signature", "harrell_c", evaluation=name)["n"] for name in ("cross-validated", "external")
    ]
    assert sum(evaluated) == len(before)


# --- 26 to 28: what is measured ---------------------------------------------------------------------------------------


def permuted_within_deciles(X: pd.DataFrame, volume: pd.Series, rng: np.random.Generator) -> pd.DataFrame:
    """Rows of features dealt out anew among patients of about the same volume."""
    order = np.arange(len(X))
    for _, rows in pd.Series(order).groupby(pd.qcut(volume, 10, labels=False).to_numpy()):
        order[rows] = rng.permutation(rows)
    return X.iloc[order].set_index(X.index)


def test_mistake_26_volume_alone_stands_beside_the_signature(studies, study):
    """Texture here is volume plus noise: volume does as well, and texture of a patient of equal volume does as well."""
    assert read_table(study / "models/recurrence/volume/coefficients.tsv")["feature"].tolist() == ["volume"]
    chosen = read_table(study / "models/recurrence/signature/coefficients.tsv")["feature"]
    assert "volume" not in set(chosen) and chosen.str.startswith("texture").any()
    for evaluation in ("cross-validated", "external"):
        signature, volume = (metric(study, name, "harrell_c", evaluation=evaluation)["estimate"] for name in MODELS)
        assert volume > 0.62 and volume > signature - 0.03
    table = read_table(study / "features/features.parquet").set_index("patient")
    known = read_table(study / "cohort/development.tsv").set_index("patient")
    endpoint = settings(studies["whole"])["endpoints"]["recurrence"]
    known = known.loc[[who for who in table.index if who in known.index]].dropna(subset=[endpoint["time"]])
    texture = table.loc[known.index].filter(regex="^texture")
    rng = np.random.default_rng(0)
    own = rng.normal(size=(len(known), 1)) + 0.3 * rng.normal(size=(len(known), 20))  # a signal that volume has not
    y = outcome_array(known, endpoint)
    with_own = y.copy()
    with_own["time"] = rng.exponential(30 * np.exp(-1.2 * own.mean(axis=1)))
    moved = []
    for values, outcome in ((texture, y), (pd.DataFrame(own, texture.index, texture.columns), with_own)):
        swapped = permuted_within_deciles(values, table.loc[known.index, "volume"], rng)
        moved.append(concordance(values, known, outcome) - concordance(swapped, known, outcome))
    assert abs(moved[0]) < 0.05 and moved[1] > 0.1


def concordance(values: pd.DataFrame, known: pd.DataFrame, y: np.ndarray) -> float:
    """Harrell's C of cross-validated predictions from features `values`."""
    chosen = synthetic_settings("os", **NULL)
    X = values.assign(center=known["center"])
    model = build_model(chosen, None, X["center"].value_counts().to_dict())
    fold = assign_folds(list(X.index), list(X["center"]), 4, 1, strata(y, X.index, ()))
    lp = cross_validate(model, X, y, fold, OS)["lp"]
    frame = pd.DataFrame({"time": y["time"], "event": y["event"] * 1.0}, index=X.index).assign(lp=lp, center="A")
    frame = frame.assign(evaluation="cross-validated", harmonization="none").rename_axis("patient").reset_index()
    return (
        evaluated(frame.assign(**{"risk@12": 0.5}), OS)["metrics"]
        .set_index(["metric", "center"])
        .loc[("harrell_c", "pooled"), "estimate"]
    )


def test_mistake_27_a_reader_who_always_draws_larger_is_less_agreement(study):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 1, 2))
    values = truth + 0.2 * rng.normal(size=(40, 2, 2))
    values[:, 1, 1] += 2  # a systematic bias, which correlation would not see
    found = icc(values)
    assert np.corrcoef(values[:, 0, 1], values[:, 1, 1])[0, 1] > 0.9
    assert found.icc[0] > 0.9 and found.icc[1] < 0.5 and (found.lower < found.icc).all()
    table = read_table(study / "stability/icc.tsv").set_index("feature")
    assert table.loc["noise001", "icc"] < 0.5 < table.loc["volume", "icc"]
    for model in MODELS:
        assert "noise001" not in set(read_table(study / f"models/recurrence/{model}/coefficients.tsv")["feature"])


def test_mistake_27_constants_are_dropped_and_only_training_patients_count(study):
    X = pd.DataFrame({"constant": 1.0, "varies": np.arange(30.0)}, index=[f"P{place}" for place in range(30)])
    repeats = pd.concat([X.assign(patient=X.index, repeat=str(number)) for number in range(2)])
    assert StabilityFilter(repeats, 0.75).fit(X.assign(center="A")).features_ == ["varies"]
    assert RedundancyFilter(0.9).fit(X).features_ == ["varies"]
    repeated = read_table(study / "stability/repeats.parquet")["patient"]
    development = set(read_table(study / "cohort/development.tsv")["patient"])
    assert set(repeated) <= development and read_table(study / "stability/icc.tsv")["n"].max() == repeated.nunique()
    assert repeated.nunique() == len({f"R-{place:03d}" for place in range(1, 181, 3)} - set(LOST))


def test_mistake_28_death_before_recurrence_is_no_censoring(studies, study):
    """The model's risks are cumulative incidences, held against Aalen-Johansen; Kaplan-Meier would observe too much."""
    oof = read_table(study / "models/recurrence/signature/oof.tsv")
    known = read_table(study / "cohort/development.tsv")[["patient", "months_after_2", "status_after_2"]]
    frame = oof.merge(known, on="patient").assign(evaluation="cross-validated", harmonization="none")
    endpoint = settings(studies["whole"])["endpoints"]["recurrence"]
    censored = frame.assign(status_after_2=frame["status_after_2"].replace(2, 0))
    rows = evaluated(censored, endpoint | {"competing": None})["metrics"]
    naive = rows.query("metric == 'oe' and center == 'pooled'")["estimate"].item()
    row = metric(study, "signature", "oe")
    assert "Aalen-Johansen" in row["method"] and 0.8 < row["estimate"] < 1.25
    assert naive > row["estimate"] * 1.1
    assert "Aalen-Johansen" in metric(study, "signature", "net_benefit")["method"].iloc[0]
    y = outcome_array(known.dropna().set_index("patient"), endpoint)
    assert y["competing"].sum() > 30
    config = yaml.safe_load((studies["whole"] / "config.yaml").read_text())
    assert config["endpoints"]["recurrence"]["competing"] == endpoint["competing"] == 2
