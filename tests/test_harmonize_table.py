"""`hccstudy harmonize`: equal to R's sva at the door, exact where nothing is to be done, and clear where it must refuse."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from hccstudy.cli import main
from hccstudy.combat import ComBat
from hccstudy.errors import StudyError
from hccstudy.tables import digest, read_json

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "statistics" / "combat"
needs_oracle = pytest.mark.skipif(not ORACLE.is_dir(), reason=f"sva's outputs are not at {ORACLE}")
TOLERANCE = 1e-6  # SD: what the study promises; measured differences are below 1e-12

# A small table and what sva 3.46.0 (R 4.2) makes of it: rows P01, P05 and P09, 12 digits.
SMALL = """patient,center,age,f1,f2,f3,f4
P01,A,78,17.19,23.03,32.9,45.01
P02,A,50,12.85,18.48,28.94,43.15
P03,A,54,15.41,20.09,31.44,40.15
P04,A,57,13.42,19.05,31.56,43.23
P05,B,52,8.67,24.69,34.78,42.02
P06,B,52,9.55,23.48,32.88,43.18
P07,B,66,10.71,23.8,32.36,44.36
P08,B,59,11.85,22.76,34.08,42.85
P09,C,61,13,16.83,23.51,39.23
P10,C,78,13.65,20.8,25,39.06
P11,C,63,13.8,15.84,25.19,39.46
P12,C,82,10.71,18.72,29.49,40.73
"""
SVA = """patient,f1,f2,f3,f4
P01,14.7752095757,22.2605823852,31.4642277056,43.4506750799
P05,10.4383311552,22.1787571137,32.0244055718,40.4472861435
P09,13.1299033243,19.5988070320,28.0744483285,41.4243498934
"""
SVA_AGE = """patient,f1,f2,f3,f4
P01,15.0859684540,22.8470929850,31.5261905332,43.7215560966
P05,10.5218125633,20.8595017647,30.8072851324,40.2862669588
P09,13.4035986748,20.4142539147,28.8928371914,42.0788683221
"""
SVA_REFERENCE = """patient,f1,f2,f3,f4
P01,17.1900000000,23.0300000000,32.9000000000,45.0100000000
P05,12.2730406726,21.9378143082,33.1658886269,41.1259395794
P09,15.1375917761,19.3110337373,29.1484266784,42.4774411831
"""

PLAIN = ["--patient", "patient", "--batch", "center"]


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture
def cohort() -> pd.DataFrame:
    """90 patients of three centers with their own shift and scale for each of 12 features; text as in a file."""
    rng = np.random.default_rng(3)
    center = np.repeat(["A", "B", "C"], 30)
    shift, scale = rng.normal(size=(3, 12)), rng.uniform(0.6, 1.6, (3, 12))
    which = np.repeat([0, 1, 2], 30)
    values = 20 + 3 * (shift[which] + scale[which] * rng.normal(size=(90, 12)))
    frame = pd.DataFrame({"patient": [f"P{k:02d}" for k in range(90)], "center": center})
    frame["role"] = np.tile(["development", "development", "calibration", "other", "development"], 18)
    frame["age"] = rng.normal(60, 9, 90).round().astype(int).astype(str)
    for k in range(12):
        frame[f"f{k}"] = [f"{value:.6f}" for value in values[:, k]]
    return frame


class Door:
    """The command on a table in a folder of its own; what it wrote and said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.runs = folder, capsys, 0

    def __call__(self, frame: pd.DataFrame | str, *arguments: str, ending: str = ".tsv") -> pd.DataFrame:
        code = self.run(frame, *arguments, ending=ending)
        assert code == 0, self.said
        return pd.read_csv(self.out / "harmonized.tsv", sep="\t", dtype=str, keep_default_na=False)

    def refused(self, frame: pd.DataFrame | str, *arguments: str) -> str:
        assert self.run(frame, *arguments) == 1
        assert not self.out.exists()
        return self.said

    def run(self, frame: pd.DataFrame | str, *arguments: str, ending: str = ".tsv") -> int:
        self.runs += 1
        path = self.folder / f"table{ending}"
        if isinstance(frame, str):
            path.write_text(frame)
        elif ending == ".parquet":
            frame.to_parquet(path)
        elif ending == ".xlsx":
            frame.to_excel(path, index=False)
        else:
            frame.to_csv(path, sep="\t" if ending == ".tsv" else ",", index=False)
        self.out = self.folder / f"out{self.runs}"
        code = main(["harmonize", str(path), *arguments, "--out", str(self.out)])
        self.said = self.capsys.readouterr().err
        return code

    @property
    def parameters(self) -> str:
        return str(self.out / "parameters.json")


@pytest.fixture
def door(tmp_path, capsys) -> Door:
    return Door(tmp_path, capsys)


def numbers(table: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    return table.set_index("patient")[features].astype(float)


def features_of(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame if name.startswith("f")]


def swapped(frame: pd.DataFrame, row: int, column: str, cell: object) -> pd.DataFrame:
    changed = frame.copy()
    changed.loc[row, column] = cell
    return changed


# ---------------------------------------------------------------- outside truth


@needs_oracle
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("param", []),
        ("param_cov", ["--covariates", "age", "stage"]),
        ("nonparam", ["--non-parametric"]),
        ("nonparam_cov", ["--non-parametric", "--covariates", "age", "stage"]),
        ("meanonly", ["--mean-only"]),
        ("meanonly_cov", ["--mean-only", "--covariates", "age", "stage"]),
        ("nonparam_meanonly", ["--non-parametric", "--mean-only"]),
        ("ref", ["--reference", "TCIA"]),
        ("ref_cov", ["--reference", "TCIA", "--covariates", "age", "stage"]),
        ("ref_meanonly", ["--reference", "TCIA", "--mean-only"]),
        ("ref_nonparam", ["--reference", "TCIA", "--non-parametric"]),
        ("ref", ["--reference", "TCIA", "--add-batch", "CHN", "SYS"]),
        ("ref_meanonly", ["--reference", "TCIA", "--mean-only", "--add-batch", "CHN"]),
        ("ref_nonparam", ["--reference", "TCIA", "--non-parametric", "--add-batch", "SYS"]),
    ],
)
def test_equals_sva(name, options, door):
    raw = pd.read_csv(ORACLE / "features.csv", index_col=0, dtype=str).T
    known = pd.read_csv(ORACLE / "covars.csv", dtype=str).set_index("id")
    used = known if name.endswith("cov") else known[["centre"]]
    table = used.join(raw).rename_axis("id").reset_index()
    found = door(table, "--patient", "id", "--batch", "centre", *options)
    assert list(found.columns) == list(table.columns)
    expected = pd.read_csv(ORACLE / f"sva_{name}.csv", index_col=0).T
    found = found.set_index("id")[list(expected)].astype(float)
    assert ((found - expected).abs() / raw.astype(float).std()).to_numpy().max() < TOLERANCE
    for center, n in known["centre"].value_counts().items():
        assert (f"center {center} has {n} patients, fewer than 20" in door.said) == (n < 20)


@needs_oracle
def test_every_output_of_sva_is_held_against():
    cases = next(mark for mark in test_equals_sva.pytestmark if mark.name == "parametrize").args[1]
    assert {f"sva_{name}.csv" for name, _ in cases} == {path.name for path in ORACLE.glob("sva_*.csv")}


@pytest.mark.parametrize(
    ("expected", "left_out", "options"),
    [
        (SVA, ["age"], []),
        (SVA_AGE, [], ["--covariates", "age"]),
        (SVA_REFERENCE, ["age"], ["--reference", "A"]),
        (SVA_REFERENCE, ["age"], ["--reference", "A", "--add-batch", "C"]),
    ],
)
def test_equals_sva_on_a_small_table(expected, left_out, options, door):
    table = pd.read_csv(StringIO(SMALL), dtype=str).drop(columns=left_out)
    found = numbers(door(table, *PLAIN, *options), features_of(table))
    expected = pd.read_csv(StringIO(expected)).set_index("patient")
    assert ((found.loc[expected.index] - expected).abs() / numbers(table, list(found)).std()).max(axis=None) < 1e-10


# ---------------------------------------------------------------- what comes back


def test_the_table_comes_back_as_it_was_but_for_its_features(cohort, door):
    mixed = cohort[["f3", "center", "f0", "role", "age", *[f"f{k}" for k in (1, 2, *range(4, 12))], "patient"]]
    found = door(mixed, *PLAIN, "--covariates", "age", "--fit-on", "role=development", "role=calibration", "role=other")
    assert list(found.columns) == list(mixed.columns)
    rest = ["center", "role", "age", "patient"]
    pd.testing.assert_frame_equal(found[rest], mixed[rest])
    assert (found[features_of(mixed)] != mixed[features_of(mixed)]).all(axis=None)
    shuffled = mixed.sample(frac=1, random_state=1)[list(cohort.columns)]
    again = door(shuffled, *PLAIN, "--apply", door.parameters)
    pd.testing.assert_frame_equal(
        again.set_index("patient")[list(found)[:-1]].loc[found["patient"]], found.set_index("patient")
    )


def test_what_is_not_moved_keeps_its_text(cohort, door):
    table = cohort.drop(columns=["role", "age"]).assign(constant="7.00", within="1.50")
    table.loc[table["center"] != "B", "within"] = table["f0"]
    table["f1"] = table["f1"] + "0"
    found = door(table, *PLAIN, "--reference", "B")
    odd = ["constant", "within"]
    pd.testing.assert_frame_equal(found[odd], table[odd])
    reference = table["center"] == "B"
    pd.testing.assert_frame_equal(found[reference], table[reference])
    assert "constant (constant in A), within (constant in B)" in door.said
    alone = door(table.drop(columns=odd), *PLAIN, "--reference", "B")
    pd.testing.assert_frame_equal(found[list(alone)], alone)


def test_a_feature_that_is_constant_in_a_new_center_stays_there_exactly(cohort, door):
    table = cohort.drop(columns=["role", "age"])
    table.loc[table["center"] == "C", "f5"] = "0.10"
    found = door(table, *PLAIN, "--add-batch", "C")
    assert (found.loc[table["center"] == "C", "f5"] == "0.10").all()
    assert (found.loc[table["center"] != "C", "f5"] != table.loc[table["center"] != "C", "f5"]).all()
    assert "1 features do not vary in center C and stay as they are there: f5" in door.said


@pytest.mark.parametrize("ending", [".csv", ".xlsx", ".parquet"])
def test_every_format_gives_the_same_numbers(cohort, door, ending):
    cohort["center"] = cohort["center"].map({"A": "01", "B": "02", "C": "3"})
    cohort = cohort.drop(columns=["role", "age"])
    expected = door(cohort, *PLAIN)
    typed = cohort.astype(dict.fromkeys(features_of(cohort), float))
    found = door(typed if ending != ".csv" else cohort, *PLAIN, ending=ending)
    pd.testing.assert_frame_equal(found, expected)


def test_single_precision_is_read_exactly(cohort, door):
    table = cohort.drop(columns=["role", "age"]).astype(dict.fromkeys(features_of(cohort), np.float32))
    found = door(table, *PLAIN, "--reference", "A", ending=".parquet")
    same = table["center"] == "A"
    features = features_of(cohort)
    assert (found.loc[same, features].astype(float) == table.loc[same, features].astype(float)).all(axis=None)


# ---------------------------------------------------------------- frozen


def test_parameters_come_from_the_chosen_rows_alone(cohort, door):
    rng = np.random.default_rng(0)
    options = [*PLAIN, "--covariates", "age", "--fit-on", "role=development", "role=calibration"]
    found = door(cohort, *options)
    stored = read_json(door.parameters)
    assert stored["fit_on"] == {"role": ["development", "calibration"]}
    assert [stored["combat"]["batches"][name]["n"] for name in "ABC"] == [24, 24, 24]
    noisy, others = cohort.copy(), cohort["role"] == "other"
    noisy.loc[others, features_of(cohort)] = rng.normal(0, 1e6, (others.sum(), 12)).astype(str)
    changed = door(noisy, *options)
    assert read_json(door.parameters) == stored
    pd.testing.assert_frame_equal(changed[~others], found[~others])
    assert (found.loc[others, "f0"] != cohort.loc[others, "f0"]).all(), "all rows are transformed"
    both = door(cohort.assign(site=np.tile(["x", "y", "y"], 30)), *options, "site=y")
    assert read_json(door.parameters)["combat"]["batches"]["A"]["n"] == 16, "columns are conditions"
    assert list(both.columns) == [*cohort.columns, "site"]


def test_a_new_center_joins_the_frozen_training_whose_rows_stay_bit_by_bit(cohort, door):
    known, new = cohort[cohort["center"] != "C"], cohort[cohort["center"] == "C"]
    columns = [name for name in cohort if name != "age"]
    first = door(known[columns], *PLAIN, "--fit-on", "role=development", "role=other", "role=calibration")
    frozen = door.parameters
    said = door.refused(cohort[columns], *PLAIN, "--apply", frozen)
    assert "center C (30 patients) not in the frozen parameters, which know A, B" in said
    assert "--add-batch C" in said
    cohort["use"], columns = cohort["role"], [*columns, "use"]
    joint = door(cohort[columns], *PLAIN, "--apply", frozen, "--add-batch", "C", "--fit-on", "use=calibration")
    stored = read_json(door.parameters)
    assert stored["fit_on"] == {"role": ["development", "other", "calibration"]}
    assert stored["added_on"] == {"C": {"use": ["calibration"]}}
    once_more = door(cohort[columns], *PLAIN, "--apply", door.parameters)
    pd.testing.assert_frame_equal(once_more, joint)
    joint, columns = joint.drop(columns="use"), columns[:-1]
    pd.testing.assert_frame_equal(joint[joint["center"] != "C"], first)
    batches = stored["combat"]["batches"]
    assert (batches["C"]["n"], batches["C"]["added"]) == (6, True), "estimated on the chosen rows alone"
    # and what it was brought to is the harmonized training, as sva's reference batch
    options = ["--apply", frozen, "--add-batch", "C"]
    joint = door(cohort[columns], *PLAIN, *options)
    grown = door.parameters
    features = features_of(cohort)
    reference = pd.concat([first.assign(center="training"), new[columns]]).drop(columns="role")
    expected = numbers(door(reference, *PLAIN, "--reference", "training"), features)
    spread = numbers(cohort, features).std()
    assert ((numbers(joint, features) - expected).abs() / spread).max(axis=None) < 1e-10
    # the grown parameters are parameters like any others
    again = door(new[columns], *PLAIN, "--apply", grown)
    pd.testing.assert_frame_equal(again, joint[joint["center"] == "C"].reset_index(drop=True))


def test_case_mix_named_as_a_covariate_is_kept_in_a_new_center(door):
    """Features rise by 0.1 SD a year, and the new center, 15 units off by its scanner, is 20 years older."""
    rng = np.random.default_rng(5)
    center = np.repeat(["A", "B", "N"], 150)
    age = rng.uniform(40, 70, 450) + 20 * (center == "N")
    scanner = pd.Series(center).map({"A": 0.0, "B": 5.0, "N": 15.0}).to_numpy()
    values = 100 + 10 * (0.1 * age[:, None] + rng.normal(size=(450, 20))) + scanner[:, None] + rng.normal(size=20)
    table = pd.DataFrame(values.astype(str), columns=[f"f{k}" for k in range(20)])
    table = table.assign(patient=[f"P{k}" for k in range(450)], center=center, age=age.astype(str))
    options = ["--add-batch", "N"]
    kept = door(table, *PLAIN, "--covariates", "age", *options)[features_of(table)].astype(float)
    lost = door(table.drop(columns="age"), *PLAIN, *options)[features_of(table)].astype(float)

    def older(found: pd.DataFrame) -> float:
        difference = found[center == "N"].mean() - found[center != "N"].mean()
        return float(difference.mean()) / (age[center == "N"].mean() - age[center != "N"].mean())

    assert older(kept) == pytest.approx(1, abs=0.05)
    assert older(lost) == pytest.approx(0, abs=0.05)


def test_a_center_without_chosen_rows_is_refused_with_advice(cohort, door):
    cohort.loc[cohort["center"] == "C", "role"] = "external"
    said = door.refused(cohort, *PLAIN, "--covariates", "age", "--fit-on", "role=development")
    assert "center C (30 patients) not in the rows that parameters are estimated on, which know A, B" in said
    assert "--add-batch C" in said
    said = door.refused(cohort, *PLAIN, "--covariates", "age", "--fit-on", "role=development", "--add-batch", "C")
    assert "center C has no row that --fit-on chooses" in said
    options = ["--covariates", "age", "--fit-on", "role=development", "role=external", "--add-batch", "C"]
    door(cohort, *PLAIN, *options)
    assert read_json(door.parameters)["combat"]["batches"]["C"]["n"] == 30
    some = cohort["role"].where(cohort.index % 3 > 0, "other")
    door(cohort.assign(role=some), *PLAIN, *options)
    assert "center C has 20 patients" not in door.said
    some = cohort["role"].where(cohort.index % 2 > 0, "other")
    door(cohort.assign(role=some), *PLAIN, *options)
    assert (
        "center C has 15 patients, fewer than 20: the standard error of its shift is 0.26 SD, of its scale 18 %"
        in door.said
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="f3"), "feature f3 is missing (1 in all); expected those of the fit"),
        (lambda t: t.assign(g9="1"), "feature g9 is not in the fit (1 in all)"),
        (lambda t: t.drop(columns="age"), "no column age; found patient, center"),
        (lambda t: swapped(t, 4, "sex", "x"), "covariate sex of patient P04 is x; expected one of f, m"),
        (lambda t: swapped(t, 4, "age", "old"), "row 6 (P04): age is 'old'; expected a finite number"),
    ],
)
def test_a_table_that_does_not_fit_the_parameters_is_refused(cohort, door, change, message):
    table = cohort.drop(columns="role").assign(sex=np.tile(["f", "m", "m"], 30))
    door(table, *PLAIN, "--covariates", "age", "sex")
    assert message in door.refused(change(table), *PLAIN, "--apply", door.parameters)


def test_frozen_parameters_take_no_options_of_a_fit(cohort, door):
    table = cohort.drop(columns=["role", "age"])
    door(table, *PLAIN)
    frozen = ["--apply", door.parameters]
    said = door.refused(table, *PLAIN, *frozen, "--reference", "A", "--mean-only")
    assert "--apply and --reference, --mean-only: frozen parameters hold the options of their fit" in said
    assert "--fit-on chooses rows of --add-batch" in door.refused(table, *PLAIN, *frozen, "--fit-on", "center=A")
    code = main(["harmonize", str(door.folder / "table.tsv"), *PLAIN, *frozen, "--out", str(Path(frozen[1]).parent)])
    assert code == 1, "frozen parameters are never overwritten"


@pytest.fixture
def stored(cohort, door) -> dict:
    door(cohort.drop(columns="role"), *PLAIN, "--covariates", "age")
    return read_json(door.parameters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["combat"]["batches"]["A"]["shift"].__setitem__(2, 0.5), "was changed after it was written"),
        (lambda c: c.pop("checksum"), "no checksum; expected the file as"),
        (lambda c: c.update(version=99), "is of version 99; this hccstudy knows version 1"),
        (lambda c: c.pop("format"), "is no file of parameters"),
        (lambda c: c.clear(), "is no file of parameters"),
    ],
)
def test_a_tampered_or_foreign_file_of_parameters_is_refused(cohort, door, stored, change, message):
    change(stored)
    path = door.folder / "changed.json"
    path.write_text(json.dumps(stored))
    said = door.refused(cohort.drop(columns="role"), *PLAIN, "--apply", str(path))
    assert message in said and "changed.json" in said
    path.write_text("{")
    assert "changed.json: not readable as JSON" in door.refused(cohort, *PLAIN, "--apply", str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("sd"), "no sd in the parameters"),
        (lambda c: c["batches"]["B"].pop("scale"), "no scale in center B"),
        (lambda c: c["mean"].pop(), "mean has 11 numbers; expected 12, one a feature"),
        (lambda c: c["beta"].clear(), "beta has 0 rows; expected 1"),
        (lambda c: c["mean"].__setitem__(3, float("nan")), "mean for feature f3 is nan; expected a finite number"),
        (lambda c: c["mean"].__setitem__(3, "5"), "mean for feature f3 is 5; expected a finite number"),
        (
            lambda c: c["batches"]["A"]["scale"].__setitem__(0, 0.0),
            "scale of center A for feature f0 is 0.0; expected a number above 0",
        ),
    ],
)
def test_incomplete_parameters_are_refused_even_with_a_valid_checksum(cohort, door, stored, change, message):
    change(stored["combat"])
    with pytest.raises(StudyError) as error:
        ComBat.from_parameters(stored["combat"])
    assert message in str(error.value)
    stored["checksum"] = digest({key: value for key, value in stored.items() if key != "checksum"})
    path = door.folder / "changed.json"
    path.write_text(json.dumps(stored))
    assert message in door.refused(cohort.drop(columns="role"), *PLAIN, "--apply", str(path))


# ---------------------------------------------------------------- refused by name


@pytest.mark.parametrize(
    ("row", "column", "cell", "message"),
    [
        (3, "f2", "", "table.tsv row 5 (P03): f2 is missing; expected a finite number"),
        (3, "f2", "NaN", "table.tsv row 5 (P03): f2 is missing; expected a finite number"),
        (3, "f2", "inf", "table.tsv row 5 (P03): f2 is 'inf'; expected a finite number"),
        (3, "f2", "1e999", "table.tsv row 5 (P03): f2 is '1e999'; expected a finite number"),
        (3, "f2", "1,5", "table.tsv row 5 (P03): f2 is '1,5'; expected a finite number"),
        (3, "f2", "1_000", "table.tsv row 5 (P03): f2 is '1_000'; expected a finite number"),
        (3, "f2", "high", "table.tsv row 5 (P03): f2 is 'high'; expected a finite number"),
        (3, "f2", "1e200", "table.tsv: ComBat: feature f2 is too large to be squared"),
        (3, "center", "", "table.tsv row 5 (P03): center is missing; expected a center for every patient"),
        (3, "patient", "", "table.tsv row 5: patient is missing; expected a patient in every row"),
        (3, "patient", "P00", "table.tsv row 5 (P00): patient is the same as in row 2; expected one row a patient"),
        (3, "age", "", "table.tsv row 5 (P03): age is missing; expected a finite number"),
        (3, "age", "unknown", "table.tsv row 5 (P03): age is 'unknown'; expected a number in every row"),
        (3, "center", "D", "center D has one patient to estimate from (P03, row 5); expected at least 2"),
    ],
)
def test_a_bad_cell_is_named(cohort, door, row, column, cell, message):
    table = swapped(cohort.drop(columns="role"), row, column, cell)
    assert message in door.refused(table, *PLAIN, "--covariates", "age")


def test_all_bad_cells_are_named_at_once(cohort, door):
    table = cohort.drop(columns="age")
    table.loc[[3, 7], "f2"] = ""
    said = door.refused(swapped(table, 5, "center", ""), *PLAIN)
    assert said.startswith("hccstudy: 3 problems")
    assert "row 7 (P05): center is missing" in said
    assert "row 5 (P03): f2 is missing (2 such cells in this column)" in said
    assert "row 2 (P00): role is 'development' (90 such cells in this column); expected a finite number" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference", "Z"], "center Z (reference or mean_only) is not among A, B, C"),
        (["--covariates", "sex"], "no column sex; found patient, center"),
        (["--covariates", "center"], "column center is named twice"),
        (["--covariates", "flat"], "covariate flat is constant"),
        (["--covariates", "near"], "covariates near are confounded with the centers"),
        (["--fit-on", "flat=2"], "flat is '2' in no row; expected one of 1"),
        (["--fit-on", "flat"], "--fit-on is 'flat'; expected COLUMN=VALUE"),
        (["--fit-on", "flat=1", "center=Z"], "center is 'Z' in no row; expected one of A, B, C"),
        (["--add-batch", "Z"], "center Z is not in the table"),
        (["--add-batch", "B", "C"], "the only center is A; expected at least two"),
        (["--fit-on", "center=A"], "the only center is A; expected at least two"),
    ],
)
def test_impossible_options_are_refused(cohort, door, options, message):
    rng = np.random.default_rng(1)
    table = cohort.drop(columns=["role", "age"]).assign(flat="1")
    table["near"] = ((table["center"] == "A") + 1e-3 * rng.normal(size=90)).astype(str)
    said = door.refused(table, *PLAIN, *options)
    assert message in said
    assert "table.tsv" in said or message.startswith("--fit-on")


def test_odd_tables_are_refused(cohort, door):
    table = cohort.drop(columns=["role", "age"])
    assert "the only center is A" in door.refused(table[table["center"] == "A"], *PLAIN)
    assert "1 features vary in center A" in door.refused(table[["patient", "center", "f0"]], *PLAIN)
    assert "no row; expected one row a patient" in door.refused(table[:0], *PLAIN)
    twice = SMALL.replace(",f2,", ",f1,").replace(",", "\t")
    assert "column 'f1' appears twice; expected every column once" in door.refused(twice, *PLAIN)
    unnamed = table.reset_index().rename(columns={"index": ""})  # what R's write.csv does
    assert "column 1 has no name" in door.refused(unnamed, *PLAIN)
    assert "no column who; found patient, center" in door.refused(table, "--patient", "who", "--batch", "center")


def test_codes_among_the_features_and_readings_of_covariates_are_said(cohort, door):
    table = cohort.drop(columns="role").assign(died=np.tile(["0", "1", "1"], 30), bclc=np.tile(["0", "A", "B"], 30))
    door(table, *PLAIN, "--covariates", "age", "bclc")
    assert "note: died: whole numbers, 5 different ones at most, harmonized as features all the same" in door.said
    assert "note: covariate age is preserved as a number" in door.said
    assert "note: covariate bclc is preserved as categories 0, A, B" in door.said
    assert "note: 13 columns are features: f0, f1" in door.said
    assert "fewer than 20" not in door.said


def test_the_help_warns_of_outcomes_as_covariates(capsys):
    with pytest.raises(SystemExit):
        main(["harmonize", "--help"])
    assert "Never name an outcome" in " ".join(capsys.readouterr().out.split())
