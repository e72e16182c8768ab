"""Every profile plans the small study with its executor; PBS, LSF and Grid Engine run it by stand-ins of their commands."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pandas as pd
import pytest
import yaml

from conftest import REPOSITORY
from fake_scheduler import end, install, submissions
from hccstudy.tables import read_table
from small_study import OVERLAY, command, configure, jobs, make_study, run

PROFILES = {
    path.parent.name: yaml.safe_load(path.read_text()) for path in REPOSITORY.glob("config/profiles/*/config.yaml")
}
CLUSTERS = sorted(PROFILES.keys() - {"local"})
# as often as the plugins allow: nothing here is a shared cluster
QUICK = ("--seconds-between-status-checks", "3", "--max-status-checks-per-second", "10", "--latency-wait", "5")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = make_study(tmp_path_factory.mktemp("profiles") / "study", patients=45)
    configure(
        folder,
        cohort=OVERLAY["cohort"] | {"batch_size": 30},
        stability={"method": "none"},
        harmonize={"method": "none"},
    )
    return folder


@pytest.fixture(scope="module")
def local(small):
    """The study after a local run."""
    folder = shutil.copytree(small, small.with_name("local"))
    run(folder, "--target", "features")
    return folder


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_asked_gently_and_lost_jobs_are_retried(name):
    profile = PROFILES[name]
    assert profile["retries"] >= 1 and profile["keep-going"] and profile["rerun-incomplete"]
    assert all("attempt" in item for item in profile["default-resources"] if item.startswith(("mem_mb", "runtime")))
    assert float(profile["max-status-checks-per-second"]) <= 1
    assert profile["latency-wait"] >= 30
    assert "array-jobs" not in " ".join(profile)  # deletes finished outputs (slurm plugin 2.8.0)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_plans_the_small_study_and_groups_the_stages_of_a_batch(small, name):
    text = run(small, "--profile", name, "--dry-run")
    batches = jobs(text)["import_images"]
    assert batches >= 2
    assert text.count("Group job patients") == (0 if name == "local" else batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lsf", "pbs", "sge"])
def test_a_run_by_stand_ins_of_the_schedulers_commands_has_the_features_of_a_local_run(small, local, tmp_path, name):
    """Each batch is one submission; the first is killed in the middle and comes again with twice the memory and time."""
    folder = shutil.copytree(small, tmp_path / "study")
    env = install(tmp_path / "scheduler", name)
    log = tmp_path / "log"
    with log.open("w") as handle:
        words = command(folder, "--profile", name, *QUICK, "--target", "features")
        process = subprocess.Popen(words, env=env, stdout=handle, stderr=subprocess.STDOUT)
        while not any(folder.glob("results/imports/images/*/done.json.gz")):
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(0.02)
        end(tmp_path / "scheduler", "1")
        assert process.wait() == 0, log.read_text()[-4000:]
    ours, theirs = (read_table(place / "results/features/features.parquet") for place in (folder, local))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    ledger = "results/ledger/ledger.tsv"
    assert (folder / ledger).read_bytes() == (local / ledger).read_bytes()
    asked = [" ".join(arguments) for arguments in submissions(tmp_path / "scheduler")]
    batches = len(list((local / "results/imports").glob("b*.tsv")))
    assert len(asked) == batches + 2  # collect_features, and the killed batch again
    memory, minutes = zip(*(amounts(name, text) for text in asked), strict=True)
    first = memory[0], minutes[0]
    assert sum((m, t) == (2 * first[0], 2 * first[1]) for m, t in zip(memory, minutes, strict=True)) == 1


def amounts(name: str, text: str) -> tuple[float, float]:
    """Memory in MB and minutes of a submission."""
    patterns = {
        "pbs": (r":mem=(\d+)mb", r"walltime=0:(\d+):00"),
        "lsf": (r"rusage\[mem=([\d.]+)\]", r"-W (\d+)"),
        "sge": (r"h_vmem=(\d+)M", r"h_rt=0:(\d+):0"),
    }
    found = [re.search(pattern, text) for pattern in patterns[name]]
    assert all(found), text
    memory, minutes = (float(match[1]) for match in found)
    return memory, minutes
