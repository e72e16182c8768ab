"""A study may start from a feature table: what is wrong in it is named, who is lost is accounted for, nothing else differs."""

from __future__ import annotations

import hashlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from hccstudy.catalog import absent_figures, figure_names
from hccstudy.cli import main
from hccstudy.cohort import _is_outcome, check_study
from hccstudy.config import load_config
from hccstudy.errors import StudyError
from hccstudy.feature_table import read_features
from hccstudy.report.methods import methods
from hccstudy.tables import read_json, read_table, write_table
from table_study import (
    CENTERS,
    MEASURING,
    OVERLAY,
    change_table,
    jobs,
    make_table_study,
    run,
    settings,
    simulate_tables,
)

LOST = {"T-003": "excluded", "T-050": "failed", "T-140": "failed"}


def spoil(frame):
    """Three patients who are lost, a cell that is missing, a feature that is constant and one that nobody has."""
    cells = frame.set_index("patient")
    cells["constant"], cells["nobody"] = "1", ""
    cells.loc["T-050", "f11"] = "n.a."
    cells.loc["T-140", "f00":] = ""
    cells.loc["T-010", "f01"] = ""
    return cells.drop("T-003").reset_index()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study with repeated measurements and lost patients that ran to its end."""
    folder = make_table_study(tmp_path_factory.mktemp("finished") / "study", seed=2, repeated=45, signal=1.5)
    change_table(folder / "features.tsv", spoil)
    change_table(folder / "repeats.tsv", lambda frame: frame.assign(constant="1", nobody=""))
    planned = jobs(run(folder))
    assert planned["write_report"] == 1
    assert not {"import_images", "extract_features", "collect_acquisition"} & set(planned)
    return folder


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study in the working folder that has not run."""
    monkeypatch.chdir(tmp_path)
    return make_table_study(tmp_path, repeated=45)


def problems(folder) -> str:
    with pytest.raises(StudyError) as error:
        check_study(settings(folder))
    return str(error.value)


def test_every_patient_is_accounted_for(finished):
    counts = read_table(finished / "results/ledger/flow.tsv").fillna("")
    assert list(dict.fromkeys(counts["stage"])) == ["cohort", "features"]
    reasons = counts[counts["stage"] == "features"].set_index(["status", "reason"])["patients"].to_dict()
    assert reasons == {
        ("in", ""): 150,
        ("included", ""): 147,
        ("excluded", "no row in features.tsv"): 1,
        ("failed", "feature is not a number"): 1,
        ("failed", "no feature value"): 1,
    }
    ledger = read_table(finished / "results/ledger/ledger.tsv").fillna("")
    lines = ledger[ledger["stage"] == "features"].set_index("patient")
    assert {who: lines.loc[who, "status"] for who in LOST} == LOST
    assert lines.loc["T-050", "detail"] == "features.tsv row 50: f11 is 'n.a.'; expected a finite number, or empty"
    assert lines.loc["T-010", "detail"] == "1 of 41 features are missing and will be imputed"
    endpoint = ledger[ledger["stage"] == "endpoint os"]
    assert len(endpoint) == 147


def test_the_values_are_those_of_the_table(finished):
    source = pd.read_csv(finished / "features.tsv", sep="\t", index_col="patient", na_values=["n.a."])
    table = read_table(finished / "results/features/features.parquet").set_index("patient")
    assert list(table.index) == sorted(set(source.index) - set(LOST))
    expected = source.drop(columns="nobody").loc[table.index].astype(float)
    pd.testing.assert_frame_equal(table.drop(columns="center"), expected, rtol=1e-15)


def test_models_find_the_known_truth(finished):
    truth = read_table(finished / "truth.tsv").set_index("patient")["z"]
    for endpoint, score in (("os", "lp"), ("mvi", "risk")):
        held_out = read_table(finished / f"results/models/{endpoint}/radiomics/oof.tsv").set_index("patient")[score]
        outside = read_table(finished / f"results/predictions/{endpoint}/radiomics.tsv")
        outside = outside[outside["harmonization"] == "none"].set_index("patient")[score]
        assert not (set(held_out.index) | set(outside.index)) & set(LOST)
        for scores in (held_out, outside):
            assert scores.corr(truth.loc[scores.index], method="spearman") > 0.6
        chosen = read_table(finished / f"results/models/{endpoint}/radiomics/coefficients.tsv")
        best = chosen.loc[chosen["coefficient"].abs().idxmax(), "feature"]
        assert int(best.removeprefix("f")) < MEASURING


def test_only_repeatable_features_reach_a_model(finished):
    icc = read_table(finished / "results/stability/icc.tsv").set_index("feature")
    assert "nobody" not in icc.index
    assert set(icc["n"]) == {44} and set(icc["repeats"]) == {2}  # T-003 is repeated, but has no row
    repeatable = [name for name in icc.index if name[1:].isdigit() and int(name[1:]) % 2]
    assert len(repeatable) == 20
    assert icc.loc[repeatable, "icc"].min() > 0.9
    assert icc.drop(index=repeatable)["icc"].max() < 0.7
    for endpoint in OVERLAY["endpoints"]:
        chosen = read_table(finished / f"results/models/{endpoint}/radiomics/coefficients.tsv")
        assert set(chosen["feature"]) <= set(repeatable)


def test_the_report_says_where_features_come_from_and_claims_nothing_else(finished):
    text = (finished / "results/report/index.html").read_text()
    sha256 = hashlib.sha256((finished / "features.tsv").read_bytes()).hexdigest()
    provenance = read_json(finished / "results/provenance.json")
    assert provenance["feature_tables"]["features.tsv"] == sha256
    assert set(provenance["feature_tables"]) == {"features.tsv", "repeats.tsv"}
    assert not {"series", "imports", "preprocess", "regions"} & set(provenance["config"])
    assert "Features were extracted outside this study" in text and sha256 in text
    assert 'id="stability"' in text and 'id="acquisition' not in text
    assert not (finished / "results/figures/acquisition.png").exists()
    written = " ".join(paragraph for _, paragraph in methods(settings(finished), provenance))
    assert "repeated measurements made outside this study" in written
    assert not re.search("PyRadiomics|SimpleITK|IBSI|resampled|tumor|segmentation by|second reader", written, re.I)
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', text)


def test_a_rerun_does_nothing_and_a_changed_table_trains_again(finished, tmp_path):
    assert jobs(run(finished)) == {}
    copy = shutil.copytree(finished, tmp_path / "study", copy_function=shutil.copy2)

    def change(frame):
        frame.loc[0, "f00"] = "0.5"

    change_table(copy / "features.tsv", change)
    planned = jobs(run(copy, "--dry-run"))
    assert planned["collect_features"] == planned["split_cohort"] == 1
    assert planned["train_model"] == 4


def test_every_other_center_has_its_role(finished):
    development = read_table(finished / "results/cohort/development.tsv")
    external = read_table(finished / "results/cohort/external.tsv")
    assert set(development["center"]) == set(CENTERS) - {"D"} and set(external["center"]) == {"D"}
    assert not {"os_months", "os_event", "mvi"} & set(external.columns)


def test_check_counts_and_names_who_will_be_lost(study, capsys):
    change_table(study / "features.tsv", spoil)
    change_table(study / "repeats.tsv", lambda frame: frame.assign(constant="1", nobody=""))
    assert main(["check", str(study)]) == 0
    said = capsys.readouterr().out
    assert "features.tsv: 147 patients with 42 features" in said
    assert "1 patients have no row in features.tsv: T-003" in said
    assert (
        "features.tsv row 50: f11 is 'n.a.'; expected a finite number, or empty (T-050); this patient will fail" in said
    )
    assert "148 empty cells in 147 patients" in said
    assert "no problem found: 150 patients (" in said


def cell(row, column, value):
    def change(frame):
        frame.loc[row - 2, column] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            cell(5, "patient", "T-999"),
            "features.tsv row 5: patient is 'T-999'; expected a patient of the patients table",
        ),
        (cell(5, "patient", ""), "features.tsv row 5: patient is empty"),
        (cell(5, "patient", "T-003"), "features.tsv row 5 (T-003): patient is the id of row 4 too"),
        (lambda f: f.rename(columns={"patient": "id"}), "no column 'patient'; it begins with id, f00"),
        (lambda f: f[["patient"]], "no feature; expected a column for each feature"),
        (lambda f: f.iloc[:0], "no row; expected one row a patient"),
        (lambda f: f.assign(center="A"), "row 47 (T-046): center is 'A'; expected 'B' as in the patients table"),
        (lambda f: f.rename(columns={"f00": "Unnamed: 0"}), "column 2 is called 'Unnamed: 0'"),
        (lambda f: f.rename(columns={"f00": "reader"}), "further measurements go to features.repeats"),
        (lambda f: f.rename(columns={"f00": "age"}), "a feature 'age', which is the column age of patients.tsv"),
        (lambda f: f.rename(columns={"f00": "OS_event"}), "which is the column os_event of patients.tsv"),
        (lambda f: f.rename(columns={"f00": "note"}), "which is the column note of patients.tsv"),
        (lambda f: f.assign(scanner="Siemens"), "scanner is 'Siemens' and the like in most rows; expected a column of"),
        (lambda f: f.assign(f00=f["f00"].str.replace(".", ",")), "(a decimal point, not a comma)"),
    ],
)
def test_a_broken_table_is_refused_by_name(study, change, message):
    change_table(study / "patients.tsv", lambda frame: frame.assign(note="x"))
    change_table(study / "features.tsv", change)
    assert message in problems(study)


@pytest.mark.parametrize("value", ["inf", "-inf", "abc", "1e999", "True", "0x1f"])
def test_a_cell_that_is_no_finite_number_loses_its_patient_alone(study, value):
    change_table(study / "features.tsv", cell(6, "f07", value))
    notes = check_study(settings(study))
    assert any(f"features.tsv row 6: f07 is '{value}'; expected a finite number" in note for note in notes)
    assert "features.tsv: 149 patients with 40 features" in notes


@pytest.mark.parametrize(
    ("feature", "column"),
    [
        (lambda p: p["mvi"], "mvi of endpoint mvi"),
        (lambda p: 5 - 2 * p["mvi"], "mvi of endpoint mvi"),
        (lambda p: p["mvi"] + np.linspace(0, 0.5, len(p)), "mvi of endpoint mvi"),
        (lambda p: p["os_months"] / 12, "os_months of endpoint os"),
        (lambda p: p["os_event"], "os_event of endpoint os"),
    ],
)
def test_a_feature_that_is_an_outcome_is_refused(study, feature, column):
    values = feature(read_table(study / "patients.tsv")).astype(str)
    change_table(study / "features.tsv", lambda frame: frame.assign(score=values))
    change_table(study / "repeats.tsv", lambda frame: frame.assign(score="0"))
    assert f"feature score tells {column} without a mistake in 150 patients" in problems(study)


def test_one_of_many_features_may_tell_few_events_by_chance():
    outcome = np.repeat([0.0, 1.0], [21, 4])
    assert not _is_outcome(np.arange(25.0), outcome, tries=2000)  # 2 of 12,650 orders: 0.3 of 2000 features
    assert _is_outcome(np.arange(25.0), outcome, tries=5)
    assert _is_outcome(1 - outcome, outcome, tries=2000)
    assert _is_outcome(np.arange(100.0), np.repeat([0.0, 1.0], [60, 40]), tries=2000)
    assert not _is_outcome(np.ones(100), np.repeat([0.0, 1.0], [60, 40]), tries=1)


def test_checks_count_only_patients_with_features(study):
    change_table(study / "features.tsv", lambda frame: frame.drop(range(50, 82)))  # leaves 5 of center B
    text = problems(study)
    assert "of the 118 patients with features: 1 problem" in text
    assert "5 patients of development center B; expected at least 10 for ComBat" in text


def test_the_same_values_under_two_patients_are_refused(study):
    def copy(frame):
        frame.loc[7, "f00":] = frame.loc[120, "f00":]

    change_table(study / "features.tsv", copy)
    assert "the same values for T-008, T-121; expected values of its own" in problems(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cell(5, "patient", "T-999"), "repeats.tsv row 5: patient is 'T-999'"),
        (cell(5, "f07", "abc"), "repeats.tsv row 5 (T-004): f07 is 'abc'; expected a finite number"),
        (
            cell(5, "patient", "T-003"),
            "row 5 (T-003): a further row of reader 'B'; expected one row a patient and reader",
        ),
        (lambda f: f.drop(columns="f07"), "no feature 'f07'; expected the features of the feature table (40)"),
        (lambda f: f.assign(f99="1"), "a feature 'f99' that the feature table does not have"),
        (lambda f: f.drop(columns="reader"), "no column reader or repeat; expected one of the columns reader, repeat"),
        (lambda f: f.iloc[:20], "measurements of 20 development patients; expected at least 21"),
    ],
)
def test_broken_repeats_are_refused_by_name(study, change, message):
    change_table(study / "repeats.tsv", change)
    assert message in problems(study)


def test_repeats_that_copy_the_feature_table_are_refused(study):
    table = pd.read_csv(study / "features.tsv", sep="\t", dtype=str)
    change_table(study / "repeats.tsv", lambda frame: pd.concat([frame, table.iloc[[3]].assign(reader="A")]))
    assert "repeats.tsv row 47 (T-004): the same values as in the feature table; expected a further" in problems(study)


def test_every_format_holds_the_same_values(study):
    patients = read_table(study / "patients.tsv")
    table = read_table(study / "features.tsv")
    table.loc[3, "f05"] = np.nan
    for ending in ("tsv", "parquet"):
        write_table(table, study / f"copy.{ending}")
    table.to_csv(study / "copy.csv", index=False)
    table.to_excel(study / "copy.xlsx", index=False)
    table.set_index("patient").to_parquet(study / "indexed.parquet")
    expected = table.set_index("patient")
    for name in ("copy.tsv", "copy.parquet", "indexed.parquet", "copy.csv", "copy.xlsx"):
        values = read_features(str(study / name), patients).values
        pd.testing.assert_frame_equal(values, expected, rtol=1e-15, obj=name)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"cohort": {"images": "images.tsv"}}, "cohort.images together with features.table"),
        ({"cohort": {"simulation": {"patients": 20, "seed": 1}}}, "cohort.simulation together with features.table"),
        ({"regions": {"minimum_voxels": 3}}, "regions together with features.table"),
        ({"features": {"table": "f.tsv", "names": "ibsi"}}, "features.names together with features.table"),
        (
            {"stability": {"method": "perturbation"}},
            "stability.method is perturbation for a feature table; expected readers",
        ),
        (
            {"stability": {"method": "readers"}},
            "stability.method is readers for a feature table; expected readers with",
        ),
        ({"features": {"repeats": "r.tsv"}}, "features.repeats is set without features.table"),
        (
            {"features": {"table": None}, "cohort": {"images": None}},
            "cohort.images is null; expected the images table, or",
        ),
    ],
)
def test_contradictions_are_said(overlay, message):
    with pytest.raises(StudyError) as error:
        load_config({"features": {"table": "features.tsv"}} | overlay)
    assert message in str(error.value)


def test_the_table_alone_is_enough_and_nothing_of_the_demo_leaks():
    config = load_config({"features": {"table": "features.tsv"}})
    assert config == load_config(
        {"features": {"table": "features.tsv"}, "cohort": {"images": None, "simulation": None}}
    )
    assert not {"series", "imports", "preprocess", "regions"} & set(config)
    assert config["cohort"]["images"] is config["cohort"]["simulation"] is None
    assert config["features"] == {"table": "features.tsv", "repeats": None}
    assert config["stability"]["method"] == "none"
    with_repeats = load_config({"features": {"table": "features.tsv", "repeats": "repeats.tsv"}})
    assert with_repeats["stability"]["method"] == "readers"
    endpoints, models = config["endpoints"], config["models"]
    assert absent_figures(load_config()) == []
    assert not {"acquisition", "stability"} & set(figure_names(endpoints, models, absent_figures(config))["study"])
    assert "stability" in figure_names(endpoints, models, absent_figures(with_repeats))["study"]


def test_a_missing_table_is_said_with_its_key(study):
    for name in ("features", "repeats"):
        (study / f"{name}.tsv").unlink()
    text = problems(study)
    assert "features.tsv: no such file; expected the table of features.table" in text
    assert "repeats.tsv: no such file; expected the table of features.repeats" in text


def test_the_hint_of_the_template_is_a_valid_configuration(repository):
    text = (repository / "resources/template/config.yaml").read_text()
    hint = re.search(r"(?m)^# features:\n(?:#  .*\n)+", text).group().replace("# ", "", 1).replace("\n# ", "\n")
    config = load_config(yaml.safe_load(hint))
    assert config["features"] == {"table": "features.tsv", "repeats": "repeats.tsv"}


def test_the_simulation_is_what_it_says():
    """The hazard ratio and the log odds ratio of the truth, from many patients."""
    import statsmodels.api as sm

    tables = simulate_tables(patients=6000, seed=5)
    patients, z = tables["patients"], tables["truth"]["z"]
    assert patients["os_event"].mean() == pytest.approx(0.6, abs=0.05)
    exposed = sm.add_constant(pd.DataFrame({"z": z, "age": patients["age"] - 62}))
    # an exponential model: Poisson regression of events with log time as offset
    fitted = sm.GLM(
        patients["os_event"], exposed, family=sm.families.Poisson(), offset=np.log(patients["os_months"])
    ).fit()
    assert fitted.params["z"] == pytest.approx(1.0, abs=0.1)
    assert fitted.params["age"] == pytest.approx(0.02, abs=0.01)
    centers = pd.get_dummies(patients["center"], dtype=float)
    odds = sm.Logit(patients["mvi"], centers.assign(z=z)).fit(disp=0).params
    assert odds["z"] == pytest.approx(1.5, abs=0.15)
    assert odds[list(CENTERS)].to_numpy() == pytest.approx([of for _, of in CENTERS.values()], abs=0.25)
