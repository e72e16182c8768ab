"""The validation stage: what is evaluated, on whom, what is refused, and what cannot leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from hccstudy.errors import StudyError
from hccstudy.evaluation import LEAD, TABLES, evaluate
from hccstudy.metrics.resampling import once
from hccstudy.metrics.sets import Scored, add_risk_groups
from hccstudy.metrics.sheet import Sheet
from hccstudy.tables import read_table, write_table
from hccstudy.validation import validate

Settings = dict[str, Any]
COMMON: Settings = {
    "endpoint": "end",
    "model": "combined",
    "bootstrap": 60,
    "seed": 1,
    "thresholds": [0.1, 0.3, 0.5],
    "groups": 4,
    "minimum_events": 5,
    "smoother": "cox",
    "competing": None,
}
SETTINGS: dict[str, Settings] = {
    "survival": COMMON
    | {"type": "survival", "time": "os_months", "event": "death", "horizons": [12, 24.5], "unit": "months"},
    "binary": COMMON | {"type": "binary", "column": "mvi"},
    "multiclass": COMMON | {"type": "multiclass", "column": "response", "levels": ["1", "2", "3"]},
}


def cohort(kind: str, centers: dict[str, int], seed: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and outcomes of simulated patients of some centers, predicted by a model that is right on
    average.
    """
    rng = np.random.default_rng(seed)
    center = np.repeat(list(centers), list(centers.values()))
    n = len(center)
    ids = pd.DataFrame({"patient": [f"{name}-{place:03d}" for place, name in enumerate(center)], "center": center})
    x = rng.normal(size=n)
    if kind == "survival":
        death, lost = rng.exponential(25 * np.exp(-x)), rng.uniform(3, 70, size=n)
        scores = {"lp": x} | {f"risk@{h:g}": 1 - np.exp(-h / 25 * np.exp(x)) for h in (12, 24.5)}
        scores["group"] = np.where(x > 0, "high", "low")
        truth = {"os_months": np.ceil(np.minimum(death, lost)), "death": (death <= lost) * 1}
    elif kind == "binary":
        scores, truth = {"risk": expit(x), "group": "low"}, {"mvi": (rng.random(n) < expit(x)) * 1}
    else:
        p = rng.dirichlet(np.ones(3), size=n)
        scores = {f"p@{level}": p[:, place] for place, level in enumerate("123")}
        truth = {"response": [int(rng.choice(3, p=row)) + 1 for row in p]}
    return ids.assign(**scores), ids.assign(**truth)


def labelled(scores: pd.DataFrame, truth: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    outcomes = truth.drop(columns="center")
    return scores.merge(outcomes, on="patient").assign(evaluation=evaluation, harmonization="none")


def row(tables: dict[str, pd.DataFrame], metric: str, center: str = "pooled", **where: Any) -> pd.Series:
    frame = tables["metrics"]
    chosen = (frame["metric"] == metric) & (frame["center"] == center)
    for column, value in where.items():
        chosen &= frame[column] == value
    assert chosen.sum() == 1, f"{chosen.sum()} rows for {metric}, {center}, {where}"
    return frame[chosen].iloc[0]


def run_stage(folder: Path, kind: str, **changes: pd.DataFrame) -> dict[str, Path]:
    """Write the four inputs of the stage (or `changes` in their place), run it, return the paths of its
    tables.
    """
    oof, development = cohort(kind, {"A": 40, "B": 40}, seed=1)
    scores, outcomes = cohort(kind, {"X": 40, "Y": 40}, seed=2)
    calibrated = scores[scores["center"] == "X"].assign(harmonization="center-calibrated")
    inputs = {
        "oof": oof.assign(fold=0),
        "predictions": pd.concat([scores.assign(harmonization="none"), calibrated]),
        "development": development,
        "outcomes": outcomes,
    } | changes
    for name, frame in inputs.items():
        write_table(frame, folder / f"{name}.tsv")
    outputs = {name: folder / "out" / f"{name}.tsv" for name in TABLES}
    arguments = {name: str(folder / f"{name}.tsv") for name in inputs} | {k: str(v) for k, v in outputs.items()}
    validate(settings=SETTINGS[kind], **arguments)
    return outputs


@pytest.mark.parametrize("kind", ["survival", "binary", "multiclass"])
def test_every_table_is_written_with_the_columns_of_the_contract(tmp_path: Path, kind: str) -> None:
    outputs = run_stage(tmp_path, kind)
    filled = {
        "survival": {"calibration_curve", "calibration_groups", "net_benefit", "kaplan_meier"},
        "binary": {"calibration_curve", "calibration_groups", "net_benefit", "roc"},
        "multiclass": {"confusion"},
    }[kind]
    for name, path in outputs.items():
        frame = read_table(path)
        assert frame.columns.tolist() == LEAD + TABLES[name]
        assert (len(frame) > 0) == (name in filled | {"metrics"})
    metrics = read_table(outputs["metrics"])
    assert set(zip(metrics["evaluation"], metrics["harmonization"], metrics["center"], strict=True)) == {
        *(("cross-validated", "none", center) for center in ("pooled", "within-center", "A", "B")),
        *(("external", "none", center) for center in ("pooled", "X", "Y")),
        *(("external", "center-calibrated", center) for center in ("pooled", "X")),
    }


@pytest.mark.parametrize("kind", ["survival", "binary", "multiclass"])
def test_every_row_has_an_estimate_or_a_reason_and_every_estimate_an_interval_around_it(kind: str) -> None:
    frame = labelled(*cohort(kind, {"A": 70, "B": 60, "tiny": 4}), "cross-validated")
    metrics = evaluate(frame, SETTINGS[kind])["metrics"]
    refused = metrics["method"].str.startswith("refused: ")
    assert refused.any() and (metrics["estimate"].isna() == refused).all()
    given = metrics[~refused]
    none = given["lower"].isna()
    assert given.loc[none, "method"].str.contains("no interval").all() and not none.all()
    given = given[~none]
    assert (given["lower"] <= given["estimate"] + 1e-12).all() and (given["estimate"] <= given["upper"] + 1e-12).all()
    assert metrics["n"].notna().all()


@pytest.mark.parametrize("kind", ["survival", "binary", "multiclass"])
def test_the_order_of_the_rows_changes_no_byte(tmp_path: Path, kind: str) -> None:
    scores, outcomes = cohort(kind, {"X": 40, "Y": 40}, seed=2)
    first = run_stage(tmp_path / "a", kind, predictions=scores.assign(harmonization="none"))
    order = np.random.default_rng(3).permutation(80)
    second = run_stage(
        tmp_path / "b",
        kind,
        predictions=scores.assign(harmonization="none").iloc[order],
        outcomes=outcomes.iloc[order[::-1]],
    )
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in TABLES)


def test_external_results_do_not_depend_on_development_outcomes(tmp_path: Path) -> None:
    """Weights for censoring come from the evaluated cohort."""
    _, development = cohort("survival", {"A": 40, "B": 40}, seed=1)
    before = read_table(run_stage(tmp_path / "a", "survival")["metrics"])
    changed = development.assign(os_months=development["os_months"] * 3 + 1, death=1 - development["death"])
    after = read_table(run_stage(tmp_path / "b", "survival", development=changed)["metrics"])
    external, same = (frame[frame["evaluation"] == "external"].reset_index(drop=True) for frame in (before, after))
    pd.testing.assert_frame_equal(external, same)
    assert row({"metrics": before[before["evaluation"] != "external"]}, "uno_c")["estimate"] > 0.6
    assert row({"metrics": after[after["evaluation"] != "external"]}, "uno_c")["estimate"] < 0.6


def test_patients_without_the_outcome_are_left_out_and_counted() -> None:
    scores, truth = cohort("binary", {"A": 80})
    truth["mvi"] = truth["mvi"].astype(float).mask(np.arange(80) < 10)
    tables = evaluate(labelled(scores, truth, "external"), SETTINGS["binary"])
    found = row(tables, "auc")
    kept = truth["mvi"].notna()
    assert found["n"] == 70 and found["events"] == truth["mvi"].sum()
    assert found["estimate"] == pytest.approx(roc_auc_score(truth["mvi"][kept], scores["risk"][kept]))
    nobody = evaluate(labelled(scores, truth.assign(mvi=np.nan), "external"), SETTINGS["binary"])
    assert row(nobody, "auc")["method"] == "refused: no patient has this outcome"


def test_a_set_with_too_few_events_is_refused_with_the_numbers() -> None:
    scores, truth = cohort("binary", {"A": 80, "B": 30})
    rare = np.where(truth["center"] == "B", np.arange(110) == 100, truth["mvi"])
    found = row(evaluate(labelled(scores, truth.assign(mvi=rare), "external"), SETTINGS["binary"]), "auc", "B")
    assert np.isnan(found["estimate"])
    assert found["method"] == "refused: 1 events in 30 patients; at least 5 with and 5 without the event are needed"


def test_a_horizon_beyond_follow_up_is_refused_and_the_others_are_given() -> None:
    scores, truth = cohort("survival", {"A": 100})
    censored = truth.assign(
        death=truth["death"].where(truth["os_months"] <= 20, 0), os_months=truth["os_months"].clip(upper=20)
    )
    tables = evaluate(labelled(scores, censored, "external"), SETTINGS["survival"])
    for metric in ("auc_t", "brier", "ipa", "oe", "ici"):
        assert np.isfinite(row(tables, metric, horizon=12)["estimate"])
        late = row(tables, metric, horizon=24.5)
        assert np.isnan(late["estimate"])
        assert late["method"] == "refused: follow-up ends at 20 months, before the horizon of 24.5 months"
    assert set(tables["net_benefit"]["horizon"]) == {12}


def test_events_at_a_horizon_are_those_by_then_whether_refused_or_not() -> None:
    scores, truth = cohort("survival", {"A": 100, "B": 12})
    tables = evaluate(labelled(scores, truth, "cross-validated"), SETTINGS["survival"])
    metrics = tables["metrics"]
    for center in ("A", "B"):
        of = truth[truth["center"] == center]
        for horizon in (12, 24.5):
            known = int(((of["death"] == 1) & (of["os_months"] <= horizon)).sum())
            rows = metrics[(metrics["center"] == center) & (metrics["horizon"] == horizon)]
            assert set(rows["events"]) == {known}
    assert metrics[metrics["center"] == "B"]["method"].str.startswith("refused").any()
    scores, truth = cohort("survival", {"B": 12, "C": 10})
    inside = row(
        evaluate(labelled(scores, truth, "cross-validated"), SETTINGS["survival"]), "auc_t", "within-center", horizon=12
    )
    assert inside["method"] == "refused: it was refused in every center"
    assert inside["events"] == ((truth["death"] == 1) & (truth["os_months"] <= 12)).sum() < truth["death"].sum()


def test_a_model_that_only_knows_the_center_is_unmasked_within_centers() -> None:
    rng = np.random.default_rng(8)
    scores, truth = cohort("binary", {"A": 100, "B": 100})
    common = scores["center"] == "B"
    truth["mvi"] = (rng.random(200) < np.where(common, 0.85, 0.15)) * 1
    scores["risk"] = np.where(common, 0.8, 0.2) + rng.normal(0, 0.01, size=200)
    tables = evaluate(labelled(scores, truth, "cross-validated"), SETTINGS["binary"])
    assert row(tables, "auc")["estimate"] > 0.75
    within = row(tables, "auc", "within-center")
    assert 0.4 < within["estimate"] < 0.6


def test_within_center_is_the_mean_weighted_by_n_of_the_centers_that_were_not_refused() -> None:
    scores, truth = cohort("binary", {"A": 150, "B": 50, "tiny": 6})
    tables = evaluate(labelled(scores, truth, "cross-validated"), SETTINGS["binary"])
    first, second = (row(tables, "auc", center)["estimate"] for center in "AB")
    within = row(tables, "auc", "within-center")
    assert within["estimate"] == pytest.approx((3 * first + second) / 4)
    assert within["n"] == 200 and within["events"] == truth["mvi"][:200].sum()
    assert within["method"].startswith("mean of 2 centers weighted by n (refused in tiny); patient bootstrap")


def test_rows_of_one_patient_do_not_narrow_the_intervals() -> None:
    for kind, names in (
        ("binary", ["auc", "brier", "slope", "citl"]),
        ("survival", ["harrell_c", "slope", "uno_c"]),
    ):
        frame = labelled(*cohort(kind, {"A": 120}), "external")
        settings = SETTINGS[kind] | {"bootstrap": 400, "thresholds": []}
        alone = evaluate(frame, settings)
        often = evaluate(pd.concat([frame] * 4, ignore_index=True), settings)
        for name in names:
            single, repeated = row(alone, name), row(often, name)
            assert repeated["upper"] - repeated["lower"] > 0.85 * (single["upper"] - single["lower"])
            assert "bootstrap" in repeated["method"]


def test_days_and_months_give_the_same_ranking_and_p_value() -> None:
    frame = labelled(*cohort("survival", {"A": 120}), "external")
    months = evaluate(frame, SETTINGS["survival"])
    days = frame.assign(os_months=frame["os_months"] * 30).rename(
        columns={"risk@12": "risk@360", "risk@24.5": "risk@735"}
    )
    in_days = evaluate(days, SETTINGS["survival"] | {"horizons": [360, 735], "unit": "days"})
    unit = np.where(months["metrics"]["metric"] == "median_follow_up", 30, 1)
    for column in ("estimate", "lower", "upper"):
        expected = months["metrics"][column].to_numpy() * unit
        assert in_days["metrics"][column].to_numpy() == pytest.approx(expected, nan_ok=True)


def test_logrank_is_reserved_for_external_patients() -> None:
    frames = [
        labelled(*cohort("survival", {"A": 90}, seed), name) for seed, name in ((1, "cross-validated"), (2, "external"))
    ]
    tables = evaluate(pd.concat(frames, ignore_index=True), SETTINGS["survival"])
    assert row(tables, "logrank_p", evaluation="external")["estimate"] < 0.01
    assert "not independent" in row(tables, "logrank_p", evaluation="cross-validated")["method"]
    curves = tables["kaplan_meier"]
    assert set(curves["group"]) == {"high", "low"}
    assert set(curves.loc[curves["evaluation"] == "cross-validated", "center"]) == {"pooled"}
    first = curves[(curves["time"] == 0) & (curves["evaluation"] == "external")]
    assert first.groupby("center")["at_risk"].sum().to_dict() == {"A": 90, "pooled": 90}


def test_logrank_of_random_groups_keeps_its_level() -> None:
    rejected = 0
    for seed in range(200):
        scores, truth = cohort("survival", {"A": 60}, seed)
        random = np.random.default_rng(seed).permutation(scores["group"].to_numpy())
        sheet = Sheet(once(60), 60, int(truth["death"].sum()))
        data = Scored(truth["death"].to_numpy(), truth["os_months"].to_numpy())
        add_risk_groups(sheet, data, random, external=True)
        rejected += sheet.tables["metrics"][0]["estimate"] < 0.05
    assert 0.02 <= rejected / 200 <= 0.08


def test_resamples_are_the_same_for_every_model_and_change_with_the_seed() -> None:
    frame = labelled(*cohort("binary", {"A": 80}), "external")
    one = evaluate(frame, SETTINGS["binary"])["metrics"]
    other = evaluate(frame, SETTINGS["binary"] | {"model": "clinical"})["metrics"]
    pd.testing.assert_frame_equal(one.drop(columns="model"), other.drop(columns="model"))
    reseeded = evaluate(frame, SETTINGS["binary"] | {"seed": 2})["metrics"]
    assert not one["lower"].equals(reseeded["lower"]) and one["estimate"].equals(reseeded["estimate"])


def test_levels_read_as_decimals_are_still_levels() -> None:
    scores, truth = cohort("multiclass", {"A": 90})
    gap = truth.assign(response=truth["response"].astype(float).mask(np.arange(90) == 5))
    tables = evaluate(labelled(scores, gap, "external"), SETTINGS["multiclass"])
    assert tables["confusion"]["n"].sum() == 2 * 89  # pooled and center A
    assert row(tables, "accuracy")["n"] == 89


def test_predictions_that_do_not_vary_are_refused_where_they_must_be() -> None:
    scores, truth = cohort("binary", {"A": 80})
    tables = evaluate(labelled(scores.assign(risk=0.5), truth, "external"), SETTINGS["binary"])
    assert row(tables, "auc")["estimate"] == 0.5
    assert row(tables, "slope")["method"].startswith("refused: the fit does not exist")
    assert row(tables, "ici")["method"].startswith("refused: no smooth curve")
    assert len(tables["calibration_curve"]) == 0


@pytest.mark.parametrize(
    ("kind", "table", "column", "value", "message"),
    [
        ("binary", "predictions", "risk", 1.2, "risk is .*1.2.*; expected a probability from 0 to 1"),
        ("binary", "predictions", "risk", np.nan, "expected a probability from 0 to 1"),
        ("binary", "outcomes", "mvi", 2, "mvi is .*2.*; expected 0 or 1"),
        ("survival", "predictions", "lp", np.nan, "lp is .*nan.*; expected a finite number"),
        (
            "survival",
            "outcomes",
            "os_months",
            -3,
            "os_months is .*-3.*; expected a number of months, 0 or more",
        ),
        ("survival", "outcomes", "death", 2, "expected 0 or 1"),
        ("multiclass", "predictions", "p@2", 0.99, "expected probabilities that add up to 1"),
        ("multiclass", "outcomes", "response", 7, "response is .*7.*; expected one of 1, 2, 3"),
    ],
)
def test_wrong_values_are_refused_with_file_patient_and_expectation(
    tmp_path: Path, kind: str, table: str, column: str, value: float, message: str
) -> None:
    scores, outcomes = cohort(kind, {"X": 40, "Y": 40}, seed=2)
    frames = {"predictions": scores.assign(harmonization="none"), "outcomes": outcomes}
    frames[table][column] = frames[table][column].astype(float)
    frames[table].loc[3, column] = value
    with pytest.raises(StudyError, match=rf"{table}\.tsv.*X-003.*{message}"):
        run_stage(tmp_path, kind, **frames)


def test_predictions_and_outcomes_must_be_of_the_same_patients(tmp_path: Path) -> None:
    scores, outcomes = cohort("binary", {"X": 40, "Y": 40}, seed=2)
    with pytest.raises(StudyError, match=r"X-000 has a prediction; expected a row in .*outcomes\.tsv"):
        run_stage(tmp_path / "a", "binary", outcomes=outcomes.iloc[1:])
    twice = pd.concat([scores, scores.iloc[:1]]).assign(harmonization="none")
    with pytest.raises(StudyError, match=r"predictions\.tsv: X-000 appears twice; expected once"):
        run_stage(tmp_path / "b", "binary", predictions=twice)


def test_a_study_without_external_centers_is_still_evaluated(tmp_path: Path) -> None:
    scores, outcomes = cohort("survival", {"X": 40}, seed=2)
    outputs = run_stage(
        tmp_path, "survival", predictions=scores.assign(harmonization="none").iloc[:0], outcomes=outcomes
    )
    assert set(read_table(outputs["metrics"])["evaluation"]) == {"cross-validated"}
