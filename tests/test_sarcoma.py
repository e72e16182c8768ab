"""A whole study on real images: 51 sarcomas with T1 MRI and FDG-PET (config/studies/sarcoma-t1-pet.yaml)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hccstudy.config import REPOSITORY
from hccstudy.tables import read_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory, shared):
    folder = tmp_path_factory.mktemp("sarcoma")
    (folder / "shared").symlink_to(shared)
    for name in ("resources", "config"):
        shutil.copytree(REPOSITORY / name, folder / "study" / name)
    command = [str(Path(sys.executable).with_name("hccstudy")), "run", str(folder / "study")]
    done = subprocess.run([*command, "--study", "sarcoma-t1-pet", "--cores", "2"], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return folder / "study" / "results"


def test_all_51_patients_are_accounted_for_and_two_have_no_mri(results):
    ledger = read_table(results / "ledger/ledger.tsv")
    assert ledger[ledger["stage"] == "cohort"]["patient"].nunique() == 51
    without = ledger[ledger["reason"] == "no t1 image"]
    assert sorted(without["patient"]) == ["STS_009", "STS_020"]
    assert (without["status"] == "excluded").all()
    last = ledger[ledger["stage"] == "features"]
    assert (last["status"] == "included").sum() >= 47


def test_features_of_both_series_and_the_ring_are_there(results):
    table = read_table(results / "features/features.parquet")
    groups = {tuple(name.split(".")[:2]) for name in table.columns if "." in name}
    assert groups == {(series, region) for series in ("t1", "pet") for region in ("tumor", "ring_0_10")}
    assert table.drop(columns=["patient", "center"]).notna().mean().min() > 0.9


def test_normalized_mr_intensities_are_comparable_between_vendors(results):
    """z-score in the body: the spread of tumor means over patients is a few SD, not hundreds of arbitrary units."""
    means = read_table(results / "features/features.parquet")["t1.tumor.original_stat_mean"]
    assert means.abs().max() < 6


def test_the_report_is_written_and_external_results_are_labelled(results):
    text = (results / "report/index.html").read_text(encoding="utf-8")
    assert "Lung metastasis" in text
    metrics = read_table(results / "validation/metastasis/radiomics/metrics.tsv")
    assert set(metrics["evaluation"]) == {"cross-validated", "external"}
