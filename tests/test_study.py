"""A whole small study through Snakemake: what a change runs again, what an interruption costs, what a report holds."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from hccstudy.tables import read_table
from small_study import (
    OVERLAY,
    PARAMETERS,
    add_patient,
    command,
    configure,
    digests,
    jobs,
    kill_after,
    make_study,
    patients_computed,
    run,
)

BATCHED = ("import_images", "preprocess_images", "make_regions", "extract_features")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that ran without an interruption."""
    folder = make_study(tmp_path_factory.mktemp("finished") / "study")
    output = run(folder)
    assert jobs(output)["write_report"] == 1
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    """The finished study again, times of change and Snakemake's records included, to be changed by a test."""
    return shutil.copytree(finished, tmp_path / "study", copy_function=shutil.copy2)


def test_every_patient_is_accounted_for(finished):
    counts = read_table(finished / "results/ledger/flow.tsv").fillna("")
    first, last = counts[counts["stage"] == "cohort"], counts[counts["stage"] == "features"]
    assert first["patients"].iloc[0] == 60
    lost = counts[counts["status"].isin(["excluded", "failed"])]["patients"].sum()
    assert last.loc[last["status"] == "included", "patients"].iloc[0] == 60 - lost
    assert lost >= 3
    ledger = read_table(finished / "results/ledger/ledger.tsv")
    assert ledger.loc[ledger["status"] != "included", ["reason", "detail"]].notna().all(axis=None)


def test_the_report_is_one_offline_file(finished):
    text = (finished / "results/report/index.html").read_text()
    assert "A small simulated study" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', text)


def test_a_rerun_with_nothing_to_do_does_nothing(finished):
    before = digests(finished)
    assert jobs(run(finished)) == {}
    assert digests(finished) == before


def test_a_killed_run_goes_on_and_ends_byte_identical(finished, tmp_path):
    """Killed among the patients; at random moments: tests/faults/kills.py."""
    folder = make_study(tmp_path / "study")
    kill_after(folder, lambda: any(folder.glob("results/features/patients/HCC-0*/done.json.gz")))
    finished_before = {path.parent.name for path in folder.glob("results/features/patients/*/done.json.gz")}
    run(folder)
    assert digests(folder) == digests(finished)
    assert finished_before
    assert not finished_before & set(patients_computed(folder, "features"))


def test_adding_a_patient_runs_only_that_patient_and_the_cohort_level(copy):
    add_patient(copy, "HCC-900")
    planned = jobs(run(copy))
    assert {rule: planned[rule] for rule in BATCHED} == dict.fromkeys(BATCHED, 1)
    for stage in ("imports", "preprocess", "regions", "features"):
        newest = max((copy / f"results/logs/{stage}").glob("b*.log"), key=lambda path: path.stat().st_mtime)
        lines = [line for line in newest.read_text().splitlines() if "hccstudy.batches" in line]
        computed = [line for line in lines if not line.endswith("unchanged")]
        assert len(lines) > 1
        assert [line.split("hccstudy.batches: ")[1] for line in computed] == [f"{stage} HCC-900: done"]
    assert "HCC-900" in set(read_table(copy / "results/features/features.parquet")["patient"])


def test_a_corrected_mask_runs_that_patient_again(copy):
    path = copy / "images/HCC-010_portal_maskA.nii.gz"
    shutil.copyfile(copy / "images/HCC-011_portal_maskA.nii.gz", path)
    planned = jobs(run(copy, "--target", "features"))
    assert planned["import_images"] == 1
    assert sum("HCC-010" in line for line in patients_computed(copy, "imports")) == 1


def test_a_result_that_is_gone_is_made_again(copy):
    """An older report is newer than what it was made of: that alone says nothing."""
    before = digests(copy)
    (copy / "results/predictions/mvi/clinical.tsv").unlink()
    planned = jobs(run(copy))
    assert planned["predict_external"] == planned["validate_model"] == 1
    assert "train_model" not in planned
    assert digests(copy) == before


def test_a_model_that_was_tampered_with_fails_every_run(copy):
    model = copy / "results/models/mvi/clinical/model.skops"
    model.write_bytes(model.read_bytes() + b"x")
    for _ in range(2):
        done = subprocess.run(command(copy), capture_output=True, text=True)
        assert done.returncode == 1
        assert "not the frozen model. Restore it, or delete it and run the study again" in done.stderr
        assert "not finished" in done.stderr
    model.unlink()
    assert "finished in" in run(copy)


def test_images_go_when_they_are_measured_and_come_back_when_they_are_needed(finished, tmp_path):
    folder = make_study(tmp_path / "study")
    configure(folder, cohort=OVERLAY["cohort"] | {"keep_images": False})
    run(folder, "--target", "features")
    results = folder / "results"
    assert not list(results.rglob("*.nii.gz"))
    same = (path.relative_to(results) for path in results.rglob("*.parquet"))
    assert all((results / path).read_bytes() == (finished / "results" / path).read_bytes() for path in same)
    assert jobs(run(folder, "--target", "features")) == {}
    (folder / "plain.yaml").write_text(PARAMETERS.replace("25", "30"))
    planned = jobs(run(folder, "--dry-run", "--target", "features"))
    assert all(planned[rule] == planned["discard_images"] for rule in BATCHED)


def test_a_model_setting_extracts_nothing_again(copy):
    models = OVERLAY["models"] | {"radiomics": {"predictors": "radiomics", "estimator": "elastic_net"}}
    configure(copy, models=models)
    planned = jobs(run(copy, "--dry-run"))
    assert not set(planned) & {*BATCHED, "collect_features", "split_cohort", "measure_stability"}
    assert planned["train_model"] == planned["validate_model"] == 1


def test_a_validation_setting_trains_nothing_again(copy):
    configure(copy, validation={"bootstrap": 60})
    planned = jobs(run(copy, "--dry-run"))
    assert "train_model" not in planned
    assert planned["validate_model"] == 2


def test_two_runs_in_one_folder_are_refused(finished, tmp_path):
    import fcntl

    with (finished / "results/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command(finished), capture_output=True, text=True)
    assert done.returncode == 1
    assert "a run is going on here" in done.stderr
