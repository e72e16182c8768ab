"""`hccstudy evaluate`: predictions of any origin, through the command."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hccstudy.cli import main
from hccstudy.metrics import overall
from hccstudy.metrics.resampling import once
from hccstudy.tables import read_table

ORACLES = Path(__file__).with_name("oracles")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "reference" / "statistics"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared (STRATOS and aSAH data)")
COLUMNS = ["model", "center", "metric", "horizon", "threshold", "estimate", "lower", "upper", "n", "events", "method"]


def evaluate(folder: Path, frame: pd.DataFrame | Path, *options: str) -> Path:
    """Run the command on a table and return the folder that it wrote."""
    folder.mkdir(exist_ok=True)
    table = frame if isinstance(frame, Path) else folder / "table.csv"
    if isinstance(frame, pd.DataFrame):
        frame.to_csv(table, index=False)
    assert main(["evaluate", str(table), *options, "--out", str(folder / "out")]) == 0
    return folder / "out"


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, frame: pd.DataFrame, *options: str) -> str:
    """What the command says of an impossible request; nothing may be written."""
    frame.to_csv(folder / "table.csv", index=False)
    assert main(["evaluate", str(folder / "table.csv"), *options, "--out", str(folder / "out")]) == 1
    assert not (folder / "out").exists()
    return capsys.readouterr().err


def value(out: Path, metric: str, **where: object) -> pd.Series:
    frame = read_table(out / "metrics.tsv")
    chosen = frame["metric"] == metric
    for column, wanted in ({"center": "pooled"} | where).items():
        chosen &= frame[column] == wanted
    assert chosen.sum() == 1, f"{chosen.sum()} rows of {metric} {where}"
    return frame[chosen].iloc[0]


@pytest.fixture
def binary() -> pd.DataFrame:
    return pd.read_csv(ORACLES / "binary.csv")


@pytest.fixture
def survival() -> pd.DataFrame:
    frame = pd.read_csv(ORACLES / "survival.csv")
    rename = {f"risk_{model}{h}": f"{name}@{h}" for model, name in (("", "a"), ("b_", "b")) for h in (12, 24)}
    return frame.rename(columns=rename)


QUICK = ("--bootstrap", "50", "--thresholds", "0.2", "0.4")
BINARY = ("--outcome", "binary", "--event", "y", "--risk", "p_a", *QUICK)
SURVIVAL = ("--outcome", "survival", "--time", "time", "--event", "event", *QUICK)


def test_binary_predictions_of_two_models(tmp_path: Path, binary: pd.DataFrame) -> None:
    expected = json.loads((ORACLES / "binary.json").read_text())
    out = evaluate(tmp_path, binary, *BINARY, "--risk", "p_b", "--patient", "patient")
    assert read_table(out / "metrics.tsv").columns.tolist() == COLUMNS
    wanted = {"auc", "brier", "brier_null", "ipa", "oe", "citl", "slope", "ici", "e50", "e90"}
    wanted |= {"net_benefit", "net_benefit_all", "sensitivity", "specificity", "ppv", "npv"}
    assert set(read_table(out / "metrics.tsv")["metric"]) == wanted
    area = value(out, "auc", model="p_a")
    assert [area["lower"], area["upper"]] == pytest.approx(
        [expected["model_a"][name] for name in ("auc_lower", "auc_upper")], abs=1e-9
    )
    event, treated = binary["y"].to_numpy(), binary["p_b"].to_numpy() >= 0.4
    row = value(out, "sensitivity", model="p_b", threshold=0.4)
    assert row["estimate"] == pytest.approx(treated[event == 1].mean()) and "Wilson" in row["method"]
    assert value(out, "npv", model="p_b", threshold=0.4)["estimate"] == pytest.approx(1 - event[~treated].mean())
    found = read_table(out / "comparisons.tsv")
    auc = found[found["metric"] == "auc"].iloc[0]
    assert (auc["model_a"], auc["model_b"]) == ("p_a", "p_b")
    oracle = expected["delong_b_minus_a"]
    assert [-auc["difference"], -auc["statistic"], auc["p"]] == pytest.approx(
        [oracle["difference"], oracle["z"], oracle["p"]], abs=1e-9
    )
    added = found[(found["metric"] == "added_information") & (found["model_a"] == "p_b")].iloc[0]
    assert added["statistic"] == pytest.approx(expected["likelihood_ratio"]["chisq"], rel=1e-7)
    assert {"discrimination", "calibration", "decision", "roc"} == {path.stem for path in out.glob("*.png")}
    with Image.open(out / "calibration.png") as image:
        assert len(set(image.convert("L").resize((60, 60)).tobytes())) > 5


def test_survival_with_linear_predictor_horizons_and_curves(tmp_path: Path, survival: pd.DataFrame) -> None:
    expected = json.loads((ORACLES / "survival.json").read_text())
    curves = tmp_path / "curves.csv"
    curves.write_bytes(gzip.decompress((ORACLES / "survival_curves.csv.gz").read_bytes()))
    out = evaluate(
        tmp_path,
        survival,
        *(*SURVIVAL, "--risk", "a", "--lp", "lp", "--horizon", "12", "24"),
        *("--patient", "patient", "--survival-curves", str(curves), "--center", "group"),
    )
    assert value(out, "harrell_c")["estimate"] == pytest.approx(expected["harrell"]["c"], abs=1e-9)
    assert value(out, "slope")["estimate"] == pytest.approx(expected["slope"]["slope"], abs=1e-9)
    assert value(out, "ibs")["estimate"] == pytest.approx(expected["ibs"], abs=1e-9)
    for horizon in (12, 24):
        of = expected[f"h{horizon}"]
        assert value(out, "ici", horizon=horizon)["estimate"] == pytest.approx(of["calibration_cox"]["ici"], abs=1e-7)
        assert value(out, "oe", horizon=horizon)["estimate"] == pytest.approx(of["oe"], abs=1e-9)
    assert set(read_table(out / "metrics.tsv")["center"]) == {"pooled", "within-center", "a", "b", "c"}


def test_without_a_linear_predictor_the_risk_ranks_at_every_horizon(tmp_path: Path, survival: pd.DataFrame) -> None:
    expected = json.loads((ORACLES / "survival.json").read_text())
    out = evaluate(tmp_path, survival, *SURVIVAL, "--risk", "a", "--horizon", "12", "--smoother", "pseudo")
    assert value(out, "auc_t", horizon=12)["estimate"] == pytest.approx(expected["h12"]["model_a"]["auc"], abs=1e-9)
    ici = value(out, "ici", horizon=12)
    assert ici["estimate"] == pytest.approx(expected["h12"]["calibration_pseudo"]["ici"], abs=1e-6)
    assert "pseudo-observations" in ici["method"]


def test_competing_risks(tmp_path: Path) -> None:
    frame = pd.read_csv(ORACLES / "competing.csv")
    expected = json.loads((ORACLES / "competing.json").read_text())["months"]["h24"]
    options = ("--outcome", "survival", "--time", "time", "--event", "status", "--risk", "risk_24", "--horizon", "24")
    out = evaluate(tmp_path, frame, *options, "--competing", "2", *QUICK)
    found = {name: value(out, name)["estimate"] for name in ("auc_t", "brier", "ipa", "oe", "slope", "ici")}
    wanted = {name: expected[name] for name in ("brier", "ipa", "oe")} | {"auc_t": expected["auc"]}
    wanted |= {name: expected["calibration"][name] for name in ("slope", "ici")}
    assert found == pytest.approx(wanted, abs=1e-6)
    assert value(out, "auc_t")["events"] == expected["events"]
    censored = evaluate(tmp_path, frame.assign(status=frame["status"] % 2), *options, *QUICK)
    assert value(censored, "oe")["estimate"] > found["oe"] * 1.05  # death as censoring: a wrong value


def test_classes(tmp_path: Path) -> None:
    expected = json.loads((ORACLES / "binary.json").read_text())["multiclass"]
    frame = pd.read_csv(ORACLES / "multiclass.csv")
    options = ("--outcome", "multiclass", "--class", "class", *QUICK[:2])
    for prefix in ("p_", "p"):
        out = evaluate(tmp_path, frame, *options, "--risk-prefix", prefix)
        assert value(out, "macro_auc")["estimate"] == pytest.approx(expected["auc_macro"], abs=1e-9)
        assert value(out, "kappa")["estimate"] == pytest.approx(expected["kappa"], abs=1e-9)
        assert value(out, "accuracy", model="p")["estimate"] == pytest.approx(expected["accuracy"])


@needs_shared
def test_stratos_example_through_the_command(tmp_path: Path) -> None:
    """Rotterdam's model on gbsg: weights of the evaluated cohort, net benefit at .4, a refusal beyond follow-up."""
    from hccstudy.metrics.regression import cox
    from hccstudy.metrics.resampling import once

    rotterdam, gbsg = (pd.read_csv(SHARED / "stratos_survival" / f"{name}.csv") for name in ("rotterdam", "gbsg"))

    def design(frame: pd.DataFrame) -> np.ndarray:
        size, grade = frame["csize"], frame["grade3"] == "3"
        return np.column_stack([size == "20-50", size == ">50", frame["nodes2"], frame["nodes3"], grade]).astype(float)

    outcome = rotterdam["ryear"].to_numpy(), rotterdam["rfs"].to_numpy(float)
    for horizon in (4.99, 5, 8):
        fit = cox(*outcome, design(rotterdam), once(len(rotterdam)), min(horizon, 5))
        gbsg["lp"] = design(gbsg) @ fit.beta[0]
        gbsg[f"basic@{horizon}"] = -np.expm1(-np.exp(fit.log_hazard[0] + gbsg["lp"]))
    options = ("--outcome", "survival", "--time", "ryear", "--event", "rfs", "--risk", "basic", "--lp", "lp")
    out = evaluate(tmp_path, gbsg, *options, "--horizon", "4.99", "5", "8", "--thresholds", "0.4", "--bootstrap", "50")
    at = {name: value(out, name, horizon=4.99)["estimate"] for name in ("auc_t", "brier", "ipa")}
    assert at == pytest.approx({"auc_t": 0.6775, "brier": 0.2248, "ipa": 0.1006}, abs=6e-5)
    assert value(out, "harrell_c")["estimate"] == pytest.approx(0.6524, abs=5e-5)
    assert value(out, "uno_c")["estimate"] == pytest.approx(0.6354, abs=5e-5)
    net = [value(out, name, horizon=5)["estimate"] for name in ("net_benefit", "net_benefit_all")]
    assert net == pytest.approx([0.18858, 0.18059], abs=1e-5)
    assert value(out, "oe", horizon=5)["estimate"] == pytest.approx(1.01739, abs=1e-5)
    late = value(out, "brier", horizon=8)
    assert np.isnan(late["estimate"]) and "follow-up ends at 5, before the horizon of 8" in late["method"]


@needs_shared
def test_delong_of_asah_markers_through_the_command(tmp_path: Path) -> None:
    """Markers are scores, not probabilities: --lp alone."""
    frame = pd.read_csv(SHARED / "binary" / "aSAH.csv").assign(poor=lambda table: (table["outcome"] == "Poor") * 1)
    expected = json.loads((SHARED / "binary" / "aSAH_expected.json").read_text())["delong_s100b_vs_wfns"]
    out = evaluate(tmp_path, frame, "--outcome", "binary", "--event", "poor", "--lp", "s100b", "--lp", "wfns", *QUICK)
    found = read_table(out / "comparisons.tsv").set_index("metric").loc["auc"]
    assert [found["statistic"], found["p"]] == pytest.approx([expected["Z"], expected["p"]], abs=1e-9)
    assert [found["lower"], found["upper"]] == pytest.approx(expected["ci"], abs=1e-9)
    assert "gives a score, no risk" in value(out, "brier", model="wfns")["method"]
    nested = pd.read_csv(SHARED / "binary" / "aSAH_nested_predictions.csv")
    oracle = json.loads((SHARED / "binary" / "aSAH_expected.json").read_text())["improveProb"]
    out = evaluate(tmp_path, nested, "--outcome", "binary", "--event", "y", "--risk", "p1", "--risk", "p2", *QUICK)
    table = read_table(out / "comparisons.tsv").set_index("metric")
    estimates = [table.loc[name, "difference"] for name in ("nri_events", "nri_nonevents", "idi")]
    assert estimates == pytest.approx([oracle["nri.ev"], oracle["nri.ne"], oracle["idi"]], abs=1e-9)


def test_rows_without_an_outcome_are_counted_and_row_order_changes_nothing(
    tmp_path: Path, binary: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    gaps = binary.assign(y=binary["y"].astype(object).where(binary["patient"] > 20, ""))
    first = evaluate(tmp_path, gaps, *BINARY, "--patient", "patient")
    assert "20 of 300 rows have no outcome and are left out" in capsys.readouterr().err
    before = (first / "metrics.tsv").read_bytes()
    assert value(first, "auc")["n"] == 280
    second = evaluate(tmp_path, gaps.sample(frac=1, random_state=3), *BINARY, "--patient", "patient")
    assert (second / "metrics.tsv").read_bytes() == before


def test_rows_of_one_patient_are_resampled_together(tmp_path: Path, binary: pd.DataFrame) -> None:
    options = (*BINARY[:-5], "--bootstrap", "400", "--thresholds", "0.4", "--patient", "patient")
    once_each = value(evaluate(tmp_path, binary, *options), "auc")
    often = value(evaluate(tmp_path, pd.concat([binary] * 4), *options), "auc")
    assert (often["upper"] - often["lower"]) > 0.9 * (once_each["upper"] - once_each["lower"])
    assert "bootstrap" in often["method"] and often["n"] == 1200


def test_apparent_predictions_are_not_compared(tmp_path: Path, binary: pd.DataFrame) -> None:
    out = evaluate(tmp_path, binary, *BINARY, "--risk", "p_b", "--apparent")
    found = read_table(out / "comparisons.tsv")
    assert found["difference"].isna().all() and found["p"].isna().all()
    assert found["method"].str.contains("needs held-out ones").all()


def test_a_miscalibrated_model_gets_no_reclassification(tmp_path: Path, binary: pd.DataFrame) -> None:
    """Noise added to a miscalibrated risk must not look like an improvement."""
    rng = np.random.default_rng(1)
    half = binary["p_b"] / 2
    noisy = (half + rng.normal(0, 0.1, size=len(half))).clip(0.001, 0.999)
    out = evaluate(
        tmp_path, binary.assign(half=half, noisy=noisy), *BINARY[:4], "--risk", "half", "--risk", "noisy", *QUICK
    )
    found = read_table(out / "comparisons.tsv").set_index("metric")
    for name in ("nri_events", "nri_nonevents", "idi"):
        assert np.isnan(found.loc[name, "difference"]) and "miscalibrated" in found.loc[name, "method"]


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("p_a", 1.2, "table.csv row 5: p_a is '1.2'; expected a probability from 0 to 1"),
        ("p_a", np.nan, "table.csv row 5: p_a is empty; expected a probability"),
        ("p_a", "high", "table.csv row 5: p_a is 'high'; expected a probability"),
        ("p_a", np.inf, "table.csv row 5: p_a is 'inf'; expected a probability"),
        ("y", 2, "table.csv row 5: y is '2'; expected 0 or 1"),
        ("y", "yes", "table.csv row 5: y is 'yes'; expected 0 or 1"),
        ("patient", np.nan, "table.csv row 5: patient is empty; expected the name of the patient"),
    ],
)
def test_wrong_cells_are_named(
    tmp_path: Path, binary: pd.DataFrame, capsys: pytest.CaptureFixture[str], column: str, cell: object, message: str
) -> None:
    wrong = binary.astype(object)
    wrong.loc[3, column] = cell
    assert message in refusal(capsys, tmp_path, wrong, *BINARY, "--patient", "patient")


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        (-1, 1, "row 5: time is '-1'; expected a time above 0"),
        (0, 1, "row 5: time is '0'; expected a time above 0"),
        (3, 2, "row 5: event is '2'; expected 0 or 1 (--competing names a third value)"),
        (np.nan, 1, "row 5: time is empty; expected a time, because event is there"),
        (3, np.nan, "row 5: event is empty; expected an event, because time is there"),
    ],
)
def test_wrong_outcomes_are_named(
    tmp_path: Path, survival: pd.DataFrame, capsys: pytest.CaptureFixture[str], time: float, event: float, message: str
) -> None:
    wrong = survival.astype(object)
    wrong.loc[3, ["time", "event"]] = [time, event]
    assert message in refusal(capsys, tmp_path, wrong, *SURVIVAL, "--risk", "a", "--horizon", "12")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*BINARY, "--horizon", "12"), "--horizon does not belong to --outcome binary"),
        (("--outcome", "binary", "--event", "y"), "--outcome binary lacks --risk"),
        ((*BINARY, "--risk", "p_a"), "--risk p_a appears twice"),
        ((*BINARY, "--lp", "x1", "x2"), "2 --lp for 1 --risk"),
        ((*BINARY, "--center", "hospital"), "no column 'hospital'; it has patient, y"),
        (("--outcome", "binary", "--event", "y", "--risk", "nope"), "no column 'nope'"),
        ((*BINARY[:6], "--thresholds", "1.5"), "--thresholds 1.5; expected probabilities between 0 and 1"),
        (("--outcome", "survival", "--time", "x1", "--event", "y", "--risk", "p_a"), "--risk without --horizon"),
        (("--outcome", "multiclass", "--class", "y", "--risk-prefix", "p_"), "2 columns begin with 'p_' (p_a, p_b)"),
        ((*BINARY[:4], "--risk", "y"), "y is a score and also an outcome"),
        (
            ("--outcome", "survival", "--time", "x1", "--event", "y", "--risk", "p_a", "--horizon", "-1"),
            "--horizon -1; expected a time above 0",
        ),
    ],
)
def test_impossible_requests_are_refused(
    tmp_path: Path, binary: pd.DataFrame, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert message in refusal(capsys, tmp_path, binary, *options)


def test_what_a_risk_is_of_must_be_what_is_asked(
    tmp_path: Path, survival: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, tmp_path, survival, *SURVIVAL, "--risk", "a@24", "--horizon", "12")
    assert "--risk a@24 is of time 24; expected a and --horizon 24" in said
    swapped = survival.rename(columns={"a@12": "a@24", "a@24": "a@12"})
    said = refusal(capsys, tmp_path, swapped, *SURVIVAL, "--risk", "a", "--horizon", "12", "24")
    assert "row 2: the risk a is" in said and "expected a risk that does not fall with time" in said
    said = refusal(capsys, tmp_path, survival.assign(event="alive"), *SURVIVAL, "--risk", "a", "--horizon", "12")
    assert "row 2: event is 'alive'; expected 0 or 1" in said
    centers = survival.assign(center=np.where(survival["patient"] > 9, "pooled", "A"))
    said = refusal(capsys, tmp_path, centers, *SURVIVAL, "--risk", "a", "--horizon", "12", "--center", "center")
    assert "center is 'pooled'; expected a center (not called pooled or within-center" in said


def test_classes_with_signs_and_foreign_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(ORACLES / "multiclass.csv")
    numbers = {"a": "-1", "b": "0", "c": "1"}
    signed = frame.assign(**{"class": frame["class"].map(numbers)})
    signed = signed.rename(columns={f"p_{name}": f"p_{number}" for name, number in numbers.items()})
    options = ("--outcome", "multiclass", "--class", "class", "--risk-prefix", "p_", *QUICK[:2])
    plain = value(evaluate(tmp_path / "a", frame, *options), "accuracy")["estimate"]
    assert value(evaluate(tmp_path / "b", signed, *options), "accuracy")["estimate"] == plain
    words = frame.assign(**{"class": frame["class"].map({"a": "low", "b": "middle", "c": "high"})})
    said = refusal(capsys, tmp_path, words, *options)
    assert "class holds high, low, middle; columns are p_a, p_b, p_c" in said


def test_curves_are_matched_by_id_or_by_order(tmp_path: Path, survival: pd.DataFrame) -> None:
    curves = pd.read_csv(ORACLES / "survival_curves.csv.gz")
    curves.insert(1, "0", 1.0)
    options = (*SURVIVAL, "--risk", "a", "--horizon", "12", "--survival-curves", str(tmp_path / "curves.csv"))
    shuffled = curves.sample(frac=1, random_state=1)
    found = []
    for table, more in (
        (shuffled, ("--patient", "patient")),
        (shuffled.rename(columns={"patient": "Patient ID"}), ("--patient", "patient")),
        (shuffled, ()),
        (curves.drop(columns="patient"), ()),
    ):
        table.to_csv(tmp_path / "curves.csv", index=False)
        found.append(value(evaluate(tmp_path, survival, *options, *more), "ibs")["estimate"])
    assert found == pytest.approx([found[0]] * 4, abs=1e-12)
    time, event = survival["time"].to_numpy(float), survival["event"].to_numpy(float)
    times = np.arange(31.0)
    scores = [overall.brier_t(time, event, 1 - curves[f"{k:g}"].to_numpy(), k, once(400))[0][0] for k in times]
    assert found[0] == pytest.approx(np.trapezoid(scores, times) / 30, abs=1e-12)


def test_curves_must_be_survival_of_the_same_patients(
    tmp_path: Path, survival: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = pd.read_csv(ORACLES / "survival_curves.csv.gz")
    options = (*SURVIVAL, "--risk", "a", "--horizon", "12", "--patient", "patient")
    for wrong, message in (
        (curves.iloc[1:], "no row of 1; expected one row for every patient"),
        (curves.assign(**{"5": 0.999}), "survival rises after time 4; expected survival that never rises"),
        (curves.assign(**{"5": 1.5}), "1.5 at time 5; expected a survival probability from 0 to 1"),
        (curves.rename(columns={"5": "five"}), "the columns patient, five; expected the 400 rows"),
        (curves.rename(columns={"5": "3.5"}), "expected two or more, increasing from 0"),
    ):
        wrong.to_csv(tmp_path / "curves.csv", index=False)
        assert message in refusal(
            capsys, tmp_path, survival, *options, "--survival-curves", str(tmp_path / "curves.csv")
        )
