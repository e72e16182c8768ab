"""The demo study from the embedded tables to its report, held against the truth that it was simulated from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score
from sksurv.metrics import concordance_index_censored

from hccstudy.catalog import figure_names
from hccstudy.config import REPOSITORY, load_config
from hccstudy.models.resampling import assign_folds, strata
from hccstudy.models.train import build_model, cross_validate, outcome_array, predictor_frame
from hccstudy.settings import model_settings
from hccstudy.tables import read_json, read_table


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo study; `HCCSTUDY_DEMO` may name a folder that has one already."""
    folder = Path(os.environ.get("HCCSTUDY_DEMO") or tmp_path_factory.mktemp("demo"))
    if not (folder / "resources").exists():
        for name in ("resources", "config"):
            shutil.copytree(REPOSITORY / name, folder / name)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    done = subprocess.run([*command, "--cores", "2", "--quiet", "all"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "results"


@pytest.fixture(scope="module")
def truth():
    return read_table(REPOSITORY / "resources/demo/truth.tsv").fillna({"broken": ""}).set_index("patient")


@pytest.fixture(scope="module")
def metrics(demo):
    return pd.concat(read_table(path) for path in sorted(demo.glob("validation/*/*/metrics.tsv")))


DISCRIMINATION = {"os": "harrell_c", "mvi": "auc", "mrecist": "macro_auc"}


def estimates(metrics, endpoint, evaluation="external"):
    rows = metrics[(metrics["endpoint"] == endpoint) & (metrics["metric"] == DISCRIMINATION[endpoint])]
    rows = rows[(rows["evaluation"] == evaluation) & (rows["center"] == "pooled") & (rows["harmonization"] == "none")]
    return rows.set_index("model")["estimate"]


def test_broken_patients_are_in_the_ledger_for_what_is_broken(demo, truth):
    ledger = read_table(demo / "ledger/ledger.tsv")
    lost = ledger[(ledger["status"] != "included") & ~ledger["stage"].str.startswith("endpoint")]
    lost = lost.set_index("patient")["reason"].to_dict()
    expected = {
        "empty mask": "empty mask",
        "mask elsewhere": "mask on another grid",
        "truncated image": "truncated or unreadable image",
        "missing phase": "no portal image",
    }
    broken = truth.loc[truth["broken"].isin(expected), "broken"]
    assert lost == {patient: expected[flaw] for patient, flaw in broken.items()}
    survivor = truth.index[truth["broken"] == "coarse mask"].item()
    assert ledger.loc[(ledger["patient"] == survivor) & (ledger["stage"] == "features"), "status"].item() == "included"


def test_radiomics_beats_clinical_variables_in_external_centers_as_the_truth_says(metrics):
    for endpoint in DISCRIMINATION:
        found = estimates(metrics, endpoint)
        assert found["radiomics"] > found["clinical"] + 0.03, endpoint
    assert estimates(metrics, "os")["radiomics"] > 0.6


def test_the_radscore_measures_the_latent_risk_in_every_external_center(demo, truth):
    predicted = read_table(demo / "predictions/os/radiomics.tsv").query("harmonization == 'none'").set_index("patient")
    for center, rows in predicted.groupby("center"):
        assert np.corrcoef(rows["lp"], truth.loc[rows.index, "z"])[0, 1] > 0.5, center


def test_combat_hides_the_center_from_a_classifier(demo):
    told = read_table(demo / "harmonize/centers.tsv").set_index("features")
    assert told.loc["raw", "lower"] > 0.8
    assert told.loc["harmonized", "upper"] < 0.6
    assert told.loc["harmonized", "lower"] < told.loc["harmonized", "chance"]


def test_every_number_has_an_interval_or_a_reason(metrics):
    without = metrics[metrics["estimate"].isna()]
    assert without["method"].str.startswith("refused").all()
    described = {"median_follow_up", "logrank_p"}
    estimated = metrics[metrics["estimate"].notna() & ~metrics["metric"].isin(described)]
    missing = estimated[estimated[["lower", "upper"]].isna().any(axis=1)]
    assert missing["method"].str.contains("no interval").all()
    pooled = missing[missing["center"].eq("pooled") & missing["threshold"].isna()]
    assert pooled.empty, pooled[["endpoint", "model", "metric", "method"]].head().to_string()
    # resampling makes miscalibration larger than it is, so a percentile interval of these may lie above the estimate
    around = estimated.drop(missing.index)
    around = around[~around["metric"].isin(["ici", "e50", "e90"])]
    assert (around["lower"] <= around["estimate"] + 1e-9).all()
    assert (around["upper"] >= around["estimate"] - 1e-9).all()


def test_every_figure_is_there_in_three_formats(demo):
    config = load_config()
    names = [name for group in figure_names(config["endpoints"], config["models"]).values() for name in group]
    for name in names:
        for ending in ("pdf", "svg", "png"):
            assert (demo / f"figures/{name}.{ending}").stat().st_size > 2000, name
    assert len(names) == len({path.stem for path in (demo / "figures").iterdir()})


def test_the_models_are_those_of_their_cards_and_say_what_was_offered(demo):
    for path in demo.glob("models/*/*/card.json"):
        card = read_json(path)
        assert card["n"] <= 69
        assert card["selected"] <= card["candidates"]
        assert card["centers"] == ["Aldbrook", "Brennac", "Corvale"]


PERMUTATIONS = 6


@pytest.mark.parametrize("endpoint", ["os", "mvi"])
@pytest.mark.parametrize("model", ["clinical", "radiomics", "combined", "forest", "boosting"])
def test_with_permuted_outcomes_every_model_lands_at_one_half(demo, endpoint, model):
    """Outcomes shuffled among the development patients: nothing is left to learn.

    One cross-validated estimate of 69 patients has an SD of about 0.08 under the null, so the mean over permutations is
    held against 0.5 by a t interval, at 99.5 % each, which is 95 % for the ten together. Features are the 100 or so
    of the original arterial tumor: the same pipeline, in seconds.
    """
    settings = model_settings(load_config(), endpoint, model)
    features = read_table(demo / "features/features.parquet")
    few = [name for name in features.columns if name.startswith("arterial.tumor.original")]
    patients = read_table(demo / "cohort/development.tsv")
    X = predictor_frame(features[["patient", "center", *few]], patients, list(settings["clinical"]))
    known = patients.set_index("patient").loc[X.index]
    known = known[known[settings["endpoint"].get("column", "os_event")].notna()]
    X, y = X.loc[known.index], outcome_array(known, settings["endpoint"])
    unfitted = build_model(
        settings, read_table(demo / "stability/repeats.parquet"), X["center"].value_counts().to_dict()
    )
    found = []
    for seed in range(PERMUTATIONS):
        shuffled = y[np.random.default_rng(seed).permutation(len(y))]
        balanced = strata(shuffled, X.index, unfitted.repeated)
        fold = assign_folds(list(X.index), list(X["center"]), 5, seed, balanced)
        predicted = cross_validate(unfitted, X, shuffled, fold, settings["endpoint"])
        if endpoint == "os":
            found.append(concordance_index_censored(shuffled["event"], shuffled["time"], predicted["lp"])[0])
        else:
            found.append(roc_auc_score(shuffled, predicted["risk"]))
    reach = t.ppf(1 - 0.005 / 2, PERMUTATIONS - 1) * np.std(found, ddof=1) / np.sqrt(PERMUTATIONS)
    assert abs(np.mean(found) - 0.5) < reach, found
    assert reach < 0.25  # or the test could not fail
