"""ComBat against R's sva and neuroCombat, its guards, the policy for centers, and what it must never see."""

import importlib
import inspect
import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from hccstudy import harmonize
from hccstudy.combat import _empirical_posterior
from hccstudy.errors import StudyError
from hccstudy.harmonize import CenterComBat, ComBat
from hccstudy.tables import read_json, read_table, write_table

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "statistics" / "combat"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason=f"sva's outputs are not at {ORACLE}")
neuro = importlib.import_module("neuroCombat.neuroCombat")

# sva 3.46 rounds nothing; 1e-6 SD is what the study promises, the measured difference is below 1e-13.
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def one_thread():
    """The matrices here are small: threads of the linear algebra would spend their time waiting."""
    with threadpool_limits(1):
        yield


def simulate(sizes: dict[str, int], features: int = 60, seed: int = 0) -> tuple[pd.DataFrame, dict[str, dict]]:
    """Features with a known shift (SD) and scale per center and feature; column center first."""
    rng = np.random.default_rng(seed)
    parts, truth = [], {}
    level, unit = rng.normal(50, 20, features), rng.uniform(0.5, 20, features)
    for center, n in sizes.items():
        shift = rng.normal(rng.normal(), 0.7, features)
        scale = np.sqrt(1 / rng.gamma(12, 1 / 12, features))
        truth[center] = {"shift": shift, "scale": scale}
        part = pd.DataFrame(level + unit * (shift + scale * rng.normal(size=(n, features))))
        part.columns = [f"f{number:03d}" for number in range(features)]
        part.insert(0, "center", center)
        part.index = [f"{center}-{number:03d}" for number in range(n)]
        parts.append(part)
    return pd.concat(parts), truth


@pytest.fixture
def cohort() -> pd.DataFrame:
    return simulate({"A": 30, "B": 25, "C": 40})[0]


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    return frame.drop(columns="center"), frame["center"]


def largest_difference(found: pd.DataFrame, expected: pd.DataFrame, raw: pd.DataFrame) -> float:
    """Largest difference in SD of the raw feature."""
    return float(((found - expected).abs() / raw.std()).to_numpy().max())


# ---------------------------------------------------------------- outside truth


def read_oracle(name: str = "features") -> pd.DataFrame:
    return pd.read_csv(ORACLE / f"{name}.csv", index_col=0).T


def read_covariates() -> pd.DataFrame:
    return pd.read_csv(ORACLE / "covars.csv").set_index("id")


@needs_oracle
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("param", {}),
        ("param_cov", {}),
        ("nonparam", {"parametric": False}),
        ("nonparam_cov", {"parametric": False}),
        ("meanonly", {"mean_only": True}),
        ("meanonly_cov", {"mean_only": True}),
        ("nonparam_meanonly", {"parametric": False, "mean_only": True}),
        ("ref", {"reference": "TCIA"}),
        ("ref_cov", {"reference": "TCIA"}),
        ("ref_meanonly", {"reference": "TCIA", "mean_only": True}),
        ("ref_nonparam", {"reference": "TCIA", "parametric": False}),
    ],
)
def test_equals_sva(name, options):
    raw, table = read_oracle(), read_covariates()
    covariates = table[["age", "stage"]] if name.endswith("cov") else None
    found = ComBat(**options).fit_transform(raw, table["centre"], covariates)
    assert largest_difference(found, read_oracle(f"sva_{name}"), raw) < TOLERANCE


@needs_oracle
def test_every_output_of_sva_is_held_against():
    cases = next(mark for mark in test_equals_sva.pytestmark if mark.name == "parametrize").args[1]
    assert {f"sva_{name}.csv" for name, _ in cases} == {path.name for path in ORACLE.glob("sva_*.csv")}


@needs_oracle
@pytest.mark.parametrize(("name", "mean_only"), [("ref", False), ("ref_meanonly", True)])
def test_centers_added_to_a_frozen_fit_equal_a_joint_fit_of_sva(name, mean_only):
    raw, center = read_oracle(), read_covariates()["centre"]
    start = center.isin(["TCIA", "HKG"])
    model = ComBat(reference="TCIA", mean_only=mean_only).fit(raw[start], center[start])
    for new in ("CHN", "SYS"):
        model = model.add_batch(raw[center == new], new, mean_only=mean_only)
    assert largest_difference(model.transform(raw, center), read_oracle(f"sva_{name}"), raw) < TOLERANCE


def test_equals_neurocombat_where_neurocombat_works(cohort, capsys):
    features, center = split(cohort)
    expected = neuro.neuroCombat(features.to_numpy().T, center.to_frame(), "center")["data"].T
    capsys.readouterr()  # neuroCombat prints
    assert largest_difference(ComBat().fit_transform(features, center), expected, features) < 1e-12


def test_empirical_priors_equal_neurocombat_and_do_not_underflow():
    rng = np.random.default_rng(3)
    z = rng.normal(rng.normal(size=20), 1 + rng.random(20), size=(30, 20))
    shift, variance = z.mean(axis=0), z.var(axis=0, ddof=1)
    expected = neuro.int_eprior(z.T, shift, variance)
    assert np.array(_empirical_posterior(z, shift, variance)) == pytest.approx(np.array(expected), rel=1e-12)
    features, center = split(simulate({"A": 700, "B": 700}, features=12)[0])
    assert np.isfinite(ComBat(parametric=False).fit_transform(features, center).to_numpy()).all()


def test_recovers_known_shifts_and_scales():
    frame, truth = simulate({"A": 300, "B": 300, "C": 300}, seed=4)
    model = ComBat().fit(*split(frame))
    for one, other in (("A", "B"), ("B", "C")):
        shift = model.batches_[one]["shift"] - model.batches_[other]["shift"]
        scale = model.batches_[one]["scale"] / model.batches_[other]["scale"]
        pooled = np.sqrt(sum(t["scale"] ** 2 for t in truth.values()) / 3)
        known = (truth[one]["shift"] - truth[other]["shift"]) / pooled
        assert np.abs(shift - known).max() < 5 * np.sqrt(2 / 300)
        assert np.abs(scale / (truth[one]["scale"] / truth[other]["scale"]) - 1).max() < 5 * np.sqrt(1 / 300)


def test_a_covariate_is_preserved():
    frame, _ = simulate({"A": 80, "B": 80}, seed=2)
    age = pd.DataFrame({"age": np.r_[np.linspace(30, 60, 80), np.linspace(50, 80, 80)]}, index=frame.index)
    features, center = split(frame)
    spread = features.std()
    features = features + 0.1 * age.to_numpy() * spread.to_numpy()
    kept, lost = (ComBat().fit_transform(features, center, each) for each in (age, None))

    def slope(table: pd.DataFrame) -> float:
        return float(np.median([np.polyfit(age["age"], table[f] / spread[f], 1)[0] for f in table]))

    assert slope(kept) == pytest.approx(0.1, abs=0.01)
    assert slope(lost) < 0.09


# ---------------------------------------------------------------- frozen, row by row, by name


@pytest.mark.parametrize("options", [{}, {"reference": "B"}, {"mean_only": True}, {"parametric": False}])
def test_transform_of_the_training_rows_is_fit_transform_to_the_last_bit(cohort, options):
    features, center = split(cohort)
    model = ComBat(**options)
    fitted = model.fit_transform(features, center)
    pd.testing.assert_frame_equal(model.transform(features, center), fitted, check_exact=True)


def test_a_patient_alone_gets_the_result_of_the_batch(cohort):
    rng = np.random.default_rng(0)
    covariates = pd.DataFrame(
        {"age": rng.normal(60, 9, len(cohort)), "sex": rng.choice(["f", "m"], len(cohort))}, cohort.index
    )
    features, center = split(cohort)
    model = ComBat().fit(features, center, covariates)
    together = model.transform(features, center, covariates)
    for place in (0, 40, 94):
        row = slice(place, place + 1)
        alone = model.transform(features[row], center[row], covariates[row])
        pd.testing.assert_frame_equal(alone, together[row], check_exact=True)


def test_rows_of_the_reference_stay_bit_by_bit(cohort):
    features, center = split(cohort)
    result = ComBat(reference="B").fit_transform(features, center)
    pd.testing.assert_frame_equal(result[center == "B"], features[center == "B"], check_exact=True)
    assert (result[center != "B"] != features[center != "B"]).all(axis=None)


def test_features_are_matched_by_name(cohort):
    model = CenterComBat().fit(cohort)
    mixed = cohort[["center", *cohort.columns[:0:-1]]]
    pd.testing.assert_frame_equal(model.transform(mixed), model.transform(cohort), check_exact=True)
    with pytest.raises(StudyError, match=r"feature f007 is missing \(1 in all\)"):
        model.transform(cohort.drop(columns="f007"))
    with pytest.raises(StudyError, match="feature extra is not in the fit"):
        model.transform(cohort.assign(extra=1.0))


def test_parameters_survive_json_to_the_last_bit(cohort):
    features, center = split(cohort)
    age = pd.DataFrame({"age": np.linspace(40, 80, 95) % 17, "sex": ["f", "m", "m", "f", "m"] * 19}, cohort.index)
    for covariates in (None, age):
        model = ComBat(mean_only=["B"]).fit(features.assign(flat=0.1), center, covariates)
        text = json.dumps(model.to_parameters(), allow_nan=False, sort_keys=True)
        again = ComBat.from_parameters(json.loads(text))
        expected = model.transform(features.assign(flat=0.1), center, covariates)
        found = again.transform(features.assign(flat=0.1), center, covariates)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
        assert json.dumps(again.to_parameters(), sort_keys=True) == text


def test_works_as_a_scikit_learn_step_and_loads_without_foreign_code(cohort):
    model = clone(CenterComBat(minimum=5, mean_only_below=7))
    assert model.get_params() == {"minimum": 5, "mean_only_below": 7, "sizes": None}
    assert clone(ComBat(mean_only=["A"], reference="B")).get_params()["mean_only"] == ["A"]
    stored = skops.io.dumps(model.fit(cohort))
    foreign = skops.io.get_untrusted_types(data=stored)
    assert set(foreign) == {"hccstudy.combat.CenterComBat", "hccstudy.combat.ComBat"}
    again = skops.io.loads(stored, trusted=foreign)
    pd.testing.assert_frame_equal(again.transform(cohort), model.transform(cohort), check_exact=True)


# ---------------------------------------------------------------- guards


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_cell_is_refused_by_feature_and_patient(cohort, value):
    bad = cohort.copy()
    bad.loc["B-003", "f010"] = value
    model = CenterComBat().fit(cohort)
    for call in (model.fit, model.transform):
        with pytest.raises(StudyError, match=rf"f010 of patient B-003 is {value}.*expected finite"):
            call(bad)


@pytest.mark.parametrize("value", [7.0, 0.1])
def test_constant_features_pass_untouched_and_leave_the_others_alone(cohort, value):
    features, center = split(cohort)
    flat = features.assign(constant=value, rounding=value * (1 + 1e-16 * np.arange(95)))
    flat["within"] = np.where(center == "A", value, features["f000"])
    result = ComBat().fit_transform(flat, center)
    odd = ["constant", "rounding", "within"]
    pd.testing.assert_frame_equal(result[odd], flat[odd], check_exact=True)
    expected = ComBat().fit_transform(features, center)
    pd.testing.assert_frame_equal(result.drop(columns=odd), expected, check_exact=True)


def test_a_shift_of_exactly_zero_is_solved_like_its_neighbors():
    # neuroCombat's solver divides by the shift: x / 0 would warn, and 0 / 0 end it after one step.
    features, center = split(simulate({"A": 30, "B": 30}, features=8, seed=9)[0])
    features["f000"] = np.tile([1.0, -1.0], 30) * np.repeat(np.arange(1, 31), 2)  # both means are exactly 0
    nearby = features.assign(f000=features["f000"] + np.where(center == "A", 1e-9, 0))
    exact, near = (ComBat().fit_transform(each, center) for each in (features, nearby))
    assert largest_difference(exact, near, features) < 1e-8


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({"A": 30}, {}, "only center is A"),
        ({"A": 30, "B": 1}, {}, "center B has one patient"),
        ({"A": 30, "B": 30}, {"reference": "X"}, "center X .* not among A, B"),
        ({"A": 30, "B": 30}, {"mean_only": ["Y"]}, "center Y .* not among A, B"),
    ],
)
def test_impossible_batches_are_refused(sizes, options, message):
    frame, _ = simulate(sizes)
    with pytest.raises(StudyError, match=message):
        ComBat(**options).fit(*split(frame))


def test_malformed_input_is_refused(cohort):
    features, center = split(cohort)
    model = ComBat().fit(features, center)
    with pytest.raises(StudyError, match="center Z is not in the fit"):
        model.transform(features[:1], center[:1].replace("A", "Z"))
    with pytest.raises(StudyError, match="patient A-002 has no center"):
        model.fit(features, center.where(center.index != "A-002"))
    with pytest.raises(StudyError, match="different row labels"):
        model.fit(features, center[::-1])
    with pytest.raises(StudyError, match="f001 is of type"):
        model.fit(features.assign(f001="text"), center)
    with pytest.raises(StudyError, match="f000 appears twice"):
        model.fit(features[["f000", "f000", "f001"]], center)
    with pytest.raises(StudyError, match="1 features vary in center A"):
        model.fit(features[["f000"]], center)
    with pytest.raises(StudyError, match="no column center"):
        CenterComBat().fit(features)


@pytest.mark.parametrize("noise", [0, 1e-9, 1e-6, 1e-3])
def test_a_covariate_confounded_with_the_center_is_refused(cohort, noise):
    features, center = split(cohort)
    rng = np.random.default_rng(0)
    covariate = pd.DataFrame({"kernel": (center == "A") + noise * rng.normal(size=95)}, cohort.index)
    with pytest.raises(StudyError, match=r"covariates kernel .* confounded .*condition number"):
        ComBat().fit(features, center, covariate)


def test_bad_covariates_are_refused(cohort):
    features, center = split(cohort)
    table = pd.DataFrame({"age": np.arange(95.0) % 13, "sex": ["f", "m", "m", "f", "m"] * 19}, cohort.index)
    model = ComBat().fit(features, center, table)
    with pytest.raises(StudyError, match="the fit has age, sex"):
        model.transform(features, center)
    with pytest.raises(StudyError, match=r"sex of patient A-000 is x; expected one of f, m"):
        model.transform(features, center, table.assign(sex=["x"] + ["f"] * 94))
    with pytest.raises(StudyError, match="age of patient A-001 is nan; expected a finite number"):
        model.fit(features, center, table.assign(age=table["age"].where(table["age"] != 1)))
    with pytest.raises(StudyError, match="covariate age is constant"):
        model.fit(features, center, table.assign(age=3.0))
    with pytest.raises(StudyError, match="age of patient A-000 is old; expected a finite number"):
        model.transform(features, center, table.assign(age="old"))


# ---------------------------------------------------------------- policy for centers


def test_a_center_that_the_training_never_saw_passes_through_unchanged(cohort):
    new, _ = simulate({"X": 5}, seed=8)
    mixed = pd.concat([cohort[:3], new])
    model = CenterComBat().fit(cohort)
    result = model.transform(mixed)
    assert list(result.columns) == list(mixed.columns)
    pd.testing.assert_frame_equal(result[3:], new, check_exact=True)
    pd.testing.assert_frame_equal(result[:3], model.transform(cohort)[:3], check_exact=True)
    assert (result[:3] != mixed[:3]).drop(columns="center").all(axis=None)


@pytest.mark.parametrize(("n", "mean_only"), [(10, True), (19, True), (20, False)])
def test_small_centers_get_a_shift_and_no_scale(n, mean_only, caplog):
    frame, _ = simulate({"A": 30, "B": 30, "S": n, "X": n})
    training, new = frame[frame["center"] != "X"], frame[frame["center"] == "X"]
    with caplog.at_level(logging.INFO):
        model = CenterComBat().fit(training).add_center(new)
    for name in ("S", "X"):
        assert (model.combat_.batches_[name]["scale"] == 1).all() == mean_only
        assert (f"center {name} has {n} patients: shift only" in caplog.text) == mean_only
        assert (model.combat_.batches_[name]["shift"] != 0).all()
    assert (model.combat_.batches_["A"]["scale"] != 1).all()


def test_the_policy_goes_by_the_whole_center_not_by_its_fold():
    frame, _ = simulate({"A": 24, "B": 24, "S": 12})
    sizes = frame["center"].value_counts().to_dict()
    fold = frame.groupby("center").head(8)
    with pytest.raises(StudyError, match="has 8 patients"):
        CenterComBat().fit(fold)
    batches = CenterComBat(sizes=sizes).fit(fold).combat_.batches_
    assert [bool((batches[name]["scale"] == 1).all()) for name in "ABS"] == [False, False, True]


def test_centers_below_the_minimum_are_refused(cohort):
    tiny, _ = simulate({"T": 9}, seed=1)
    with pytest.raises(StudyError, match="center T has 9 patients; expected at least 10"):
        CenterComBat().fit(pd.concat([cohort, tiny]))
    with pytest.raises(StudyError, match="center T has 9 patients"):
        CenterComBat().fit(cohort).add_center(tiny)


def test_the_shift_of_a_small_center_is_removed_as_far_as_its_size_allows():
    frame, truth = simulate({"A": 60, "B": 60, "S": 15}, features=400, seed=5)
    sva, named = (ComBat(mean_only=mode).fit(*split(frame)) for mode in (True, ["S"]))

    def left(model: ComBat) -> float:
        """Part of the variance over features of the center's true shift that remains."""
        scale = np.sqrt(np.average([truth[c]["scale"] ** 2 for c in truth], axis=0, weights=[60, 60, 15]))
        others = [truth["S"]["shift"] - truth[c]["shift"] for c in "AB"]
        known = np.mean(others, axis=0) / scale
        found = model.batches_["S"]["shift"] - (model.batches_["A"]["shift"] + model.batches_["B"]["shift"]) / 2
        return float(np.var(known - found) / np.var(known))

    assert left(named) < 0.2 < left(sva)


def test_adding_a_center_equals_combat_with_the_harmonized_training_as_reference(cohort):
    new, _ = simulate({"X": 30}, seed=8)
    model = CenterComBat().fit(cohort)
    joint = pd.concat([model.transform(cohort).assign(center="training"), new])
    expected = ComBat(reference="training").fit_transform(*split(joint))
    grown = model.add_center(new)
    found = grown.transform(pd.concat([cohort, new]))
    features = cohort.columns[1:]
    assert largest_difference(found[features], expected[features], cohort[features]) < 1e-10
    # the frozen part is untouched, in the copy and in the original
    pd.testing.assert_frame_equal(grown.transform(cohort), model.transform(cohort), check_exact=True)
    pd.testing.assert_frame_equal(model.transform(new), new, check_exact=True)
    with pytest.raises(StudyError, match="center X is already in the fit"):
        grown.add_center(new)
    with pytest.raises(StudyError, match="rows are of A, B, C; expected one center"):
        model.add_center(cohort)


# ---------------------------------------------------------------- leaks


def only_features(frame: pd.DataFrame) -> np.ndarray:
    return frame.drop(columns="center").to_numpy()


def model_steps(harmonized: bool):
    steps = [FunctionTransformer(only_features), StandardScaler(), LogisticRegression(C=0.1)]
    return make_pipeline(*([CenterComBat()] if harmonized else []), *steps)


def test_noise_in_held_out_rows_and_outcomes_changes_no_parameter(cohort):
    rng = np.random.default_rng(0)
    outcome = rng.integers(0, 2, len(cohort))
    folds = list(StratifiedKFold(4, shuffle=True, random_state=1).split(cohort, cohort["center"]))

    def fitted(frame: pd.DataFrame, y: np.ndarray) -> list[str]:
        result = cross_validate(model_steps(True), frame, y, cv=folds[:1], return_estimator=True)
        pipeline = result["estimator"][0]
        return [json.dumps(pipeline[0].combat_.to_parameters()), str(pipeline[-1].coef_.tolist())]

    test = folds[0][1]
    noisy, flipped = cohort.copy(), outcome.copy()
    noisy.iloc[test, 1:] = rng.normal(0, 1e6, (len(test), cohort.shape[1] - 1))
    flipped[test] = 1 - flipped[test]
    assert fitted(noisy, flipped) == fitted(cohort, outcome)
    training_noise = cohort.copy()
    training_noise.iloc[folds[0][0][:5], 1:] *= 2
    assert fitted(training_noise, outcome) != fitted(cohort, outcome)


def test_the_outcome_is_no_possible_argument(cohort):
    assert set(inspect.signature(CenterComBat.fit).parameters) == {"self", "X", "y"}
    assert set(inspect.signature(CenterComBat.add_center).parameters) == {"self", "X_calibration"}
    assert set(inspect.signature(CenterComBat.transform).parameters) == {"self", "X"}
    outcome = (cohort["f000"] > cohort["f000"].median()).astype(int)
    blind, given = CenterComBat().fit(cohort), CenterComBat().fit(cohort, outcome)
    assert json.dumps(blind.combat_.to_parameters()) == json.dumps(given.combat_.to_parameters())


def test_center_dependent_prevalence_fools_raw_features_and_not_combat_in_folds():
    """Null features, prevalence 0.2 / 0.4 / 0.6 / 0.8 by center: any AUC but 0.5 is the center."""
    pooled, within = {True: [], False: []}, []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        frame, _ = simulate(dict.fromkeys("ABCD", 30), features=25, seed=seed)
        prevalence = frame["center"].map(dict(zip("ABCD", (0.2, 0.4, 0.6, 0.8), strict=True)))
        outcome = (rng.random(120) < prevalence).to_numpy().astype(int)
        score = {True: np.zeros(120), False: np.zeros(120)}
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(frame, frame["center"]):
            for harmonized in (True, False):
                model = model_steps(harmonized).fit(frame.iloc[train], outcome[train])
                score[harmonized][test] = model.decision_function(frame.iloc[test])
        for harmonized in (True, False):
            pooled[harmonized].append(roc_auc_score(outcome, score[harmonized]))
        within += [
            roc_auc_score(outcome[rows], score[True][rows])
            for rows in (np.flatnonzero(frame["center"] == c) for c in "ABCD")
            if 0 < outcome[rows].sum() < len(rows)
        ]
    assert np.mean(pooled[False]) > 0.6
    assert np.mean(pooled[True]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(within) == pytest.approx(0.5, abs=0.05)


# ---------------------------------------------------------------- the stage

SETTINGS = {"method": "combat", "seed": 1}


def run_describe(folder: Path, frame: pd.DataFrame, development: pd.DataFrame, **settings: object) -> dict[str, Path]:
    folder.mkdir()
    write_table(frame.rename_axis("patient").reset_index(), folder / "features.parquet")
    write_table(development, folder / "development.tsv")
    endings = {"parameters": "json", "shifts": "tsv", "centers": "tsv", "embedding": "tsv"}
    outputs = {name: folder / "out" / f"{name}.{ending}" for name, ending in endings.items()}
    inputs = {"features": str(folder / "features.parquet"), "development": str(folder / "development.tsv")}
    harmonize.describe(**inputs, settings=SETTINGS | settings, **{k: str(v) for k, v in outputs.items()})
    return outputs


def listed(frame: pd.DataFrame) -> pd.DataFrame:
    patients = pd.DataFrame({"patient": frame.index, "center": frame["center"].to_numpy()})
    return patients.assign(event=np.arange(len(frame)) % 2)


def test_describe_shows_that_harmonization_hides_the_center(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(harmonize, "REPEATS", 2)
    cohort.iloc[::7, 3] = np.nan
    cohort["empty"] = np.nan
    files = run_describe(tmp_path / "study", cohort, listed(cohort))
    centers = read_table(files["centers"]).set_index("features")
    assert list(centers.index) == ["raw", "harmonized"]
    assert list(centers.columns) == ["balanced_accuracy", "lower", "upper", "chance", "n"]
    raw, harmonized = centers.loc["raw"], centers.loc["harmonized"]
    assert raw["lower"] > 0.9
    assert harmonized["lower"] <= harmonized["balanced_accuracy"] <= harmonized["upper"] < 0.5
    assert (centers["chance"] == 1 / 3).all()
    assert (centers["n"] == 95).all()

    shifts = read_table(files["shifts"], ["feature", "center", "shift", "scale"])
    assert len(shifts) == 60 * 3
    stored = ComBat.from_parameters(read_json(files["parameters"])["combat"])
    one = shifts[(shifts["center"] == "B") & (shifts["feature"] == "f004")].iloc[0]
    assert one["shift"] == pytest.approx(stored.batches_["B"]["shift"][4], rel=1e-12)
    embedding = read_table(files["embedding"], ["patient", "center", "features", "pc1", "pc2"])
    assert embedding["features"].value_counts().to_dict() == {"raw": 95, "harmonized": 95}

    def between(part: pd.DataFrame) -> float:
        return part.groupby("center")["pc1"].mean().var() / part["pc1"].var()

    raw_part, harmonized_part = (embedding[embedding["features"] == name] for name in ("raw", "harmonized"))
    assert between(harmonized_part) < 0.1 < between(raw_part)


def test_describe_sees_neither_outcomes_nor_other_patients(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(harmonize, "REPEATS", 1)
    rng = np.random.default_rng(0)
    development = listed(cohort)
    other, _ = simulate({"X": 12}, seed=3)
    noise = other.copy()
    noise.iloc[:, 1:] = rng.normal(0, 1e6, (12, 60))
    first = run_describe(tmp_path / "a", pd.concat([cohort, other]), development)
    flipped = development.assign(event=1 - development["event"])
    second = run_describe(tmp_path / "b", pd.concat([cohort, noise]), flipped)
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes(), name


@pytest.mark.parametrize("reason", ["method none", "one center"])
def test_describe_writes_the_raw_part_alone_without_harmonization(cohort, tmp_path, monkeypatch, reason):
    monkeypatch.setattr(harmonize, "REPEATS", 1)
    frame = cohort if reason == "method none" else cohort[cohort["center"] == "C"]
    settings = {"method": "none"} if reason == "method none" else {}
    files = run_describe(tmp_path / "study", frame, listed(frame), **settings)
    assert read_json(files["parameters"])["method"] == "none"
    assert read_table(files["shifts"], ["feature", "center", "shift", "scale"]).empty
    assert set(read_table(files["embedding"])["features"]) == {"raw"}
    expected = ["raw"] if reason == "method none" else []  # one center cannot be told from another
    assert list(read_table(files["centers"], ["chance"])["features"]) == expected


def test_the_predicted_center_of_a_patient_depends_on_no_other_held_out_patient(cohort):
    cohort.iloc[::9, 5] = np.nan
    rng = np.random.default_rng(0)
    train, test = cohort.iloc[::2], cohort.iloc[1::2]
    model = CenterComBat()
    predicted = harmonize._predict_centers(train, test, model)
    for place in range(0, len(test), 8):
        noisy = test.copy()
        noisy.iloc[:, 1:] = rng.normal(0, 1e6, (len(test), 60))
        noisy.iloc[place] = test.iloc[place]
        assert harmonize._predict_centers(train, noisy, model)[place] == predicted[place]


def test_centers_without_scanner_effect_are_told_at_chance():
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(rng.normal(size=(90, 30))).rename(columns=lambda number: f"f{number}")
    frame.insert(0, "center", np.repeat(["A", "B", "C"], 30))
    told = harmonize.tell_centers(frame, seed=0, harmonized=False)
    assert told["lower"] < 1 / 3 < told["upper"]


def test_an_unknown_method_is_refused_and_the_valid_ones_named(cohort, tmp_path):
    with pytest.raises(StudyError, match="'magic'; expected one of combat, none"):
        run_describe(tmp_path / "study", cohort, listed(cohort), method="magic")
