"""The small study on a real Slurm cluster of two nodes on this machine, with everything that goes wrong on clusters.

One cluster, started by cluster.sh. `runs` starts a run with faults, and while its slow patient uses up its minutes, a local
run and an undisturbed run on the cluster. What Slurm says of its jobs proves that each fault happened.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hccstudy.batches import assign_batches
from hccstudy.tables import read_table, read_text_table, write_table
from small_study import OVERLAY, PATIENT_RULES, command, configure, digests, jobs, make_study, submissions

pytestmark = pytest.mark.slurm

SIZE = 12
SETTINGS = {"cohort": OVERLAY["cohort"] | {"batch_size": SIZE}, "harmonize": {"method": "none"}}
# the profile, looked after by the second: nobody else waits for this cluster
QUICK = "--slurm-init-seconds-before-status-checks 1 --seconds-between-status-checks 2 --max-status-checks-per-second 1"
QUICK += " --latency-wait 5 --max-jobs-per-timespan 100/1s"
# what the docs advise to users: memory by the number of the attempt
MEMORY = [f"{rule}:mem_mb=800*attempt" for rule in PATIENT_RULES]
SLOW_BATCH, LARGE_BATCH, HUGE_BATCH, PLAIN_BATCH = "b10", "b01", "b11", "b00"


@dataclass
class Cluster:
    folder: Path

    def script(self, verb: str) -> None:
        env = os.environ | {"SLURM_SN_DIR": str(self.folder), "SLURM_SN_NODES": "2", "SLURM_SN_CPUS": "4"}
        done = subprocess.run([Path(__file__).with_name("cluster.sh"), verb], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def lose_node(self, node: str) -> None:
        """SIGKILL to the slurmd of a node, which is down then at once; its jobs compute on, as where a network is lost."""
        pid, _ = (self.folder / f"pids/slurmd-{node}").read_text().split()
        os.kill(int(pid), signal.SIGKILL)
        slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")


@dataclass
class SlurmJob:
    number: str
    run: str  # the id that the plugin gives to each run of Snakemake
    folder: Path
    state: str
    node: str
    seconds: int
    restarts: int
    memory: str
    limit: str
    batches: set[str]


def slurm(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def slurm_jobs() -> list[SlurmJob]:
    """All jobs of the cluster, ended ones too, by `scontrol show jobs`."""
    found = []
    for block in slurm("scontrol", "show", "jobs", "--oneliner").splitlines():
        told = dict(item.split("=", 1) for item in block.split() if "=" in item)
        if "JobId" not in told:
            continue
        script = slurm("scontrol", "write", "batch_script", told["JobId"], "-")
        hours, minutes, seconds = map(int, told["RunTime"].split(":"))
        found.append(
            SlurmJob(
                told["JobId"],
                told["JobName"],
                Path(told["WorkDir"]),
                told["JobState"],
                told.get("NodeList", ""),
                seconds + 60 * minutes + 3600 * hours,
                int(told["Restarts"]),
                told.get("MinMemoryNode", ""),
                told["TimeLimit"],
                set(re.findall(r"import_images:batch=(b[01]*)", script)),
            )
        )
    return found


def wait_for(what: str, run: subprocess.Popen, condition, seconds: float = 300):
    """The first value of `condition()` that is true, while `run` goes on."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert run.poll() is None, f"the run ended before {what}:\n{run.communicate()[0]}"
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}:\n{slurm('squeue', '-t', 'all')}"
        time.sleep(0.5)
    return value


def running(folder: Path, batch: str = "", seconds: int = 0) -> list[SlurmJob]:
    """The jobs of a study (and batch) that have been running for so many seconds."""
    return [
        job
        for job in slurm_jobs()
        if job.folder == folder and job.state == "RUNNING" and job.seconds >= seconds and batch in job.batches | {""}
    ]


def ended(folder: Path) -> list[SlurmJob]:
    return [job for job in slurm_jobs() if job.folder == folder and job.state not in ("PENDING", "RUNNING")]


STARTED: list[subprocess.Popen] = []  # ended with the cluster where a test did not get so far


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    STARTED.append(subprocess.Popen(command(folder, *arguments), start_new_session=True, **pipes))
    return STARTED[-1]


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


def on_slurm(folder: Path, *arguments: str) -> subprocess.Popen:
    return start(folder, "--profile", "slurm", *QUICK.split(), *arguments)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = make_study(tmp_path_factory.mktemp("plain") / "study", patients=36)
    configure(folder, **SETTINGS)
    return folder


def add_patient(folder: Path, batch: str, megabytes: int, readers: int) -> str:
    """A patient of a batch with one image of so many MB of voxels and a mask per reader; zeros compress to nothing."""
    patients, images = (read_text_table(folder / f"{name}.tsv") for name in ("patients", "images"))
    known = list(patients["patient"])
    candidates = (f"HCC-9{number:02d}" for number in range(100))
    name = next(
        name for name in candidates if name not in known and name in assign_batches([*known, name], SIZE)[batch]
    )
    side = round((megabytes * 1e6 / 2) ** (1 / 3))
    voxels, mask = np.zeros((side,) * 3, np.int16), np.zeros((side,) * 3, np.uint8)
    voxels[:60, :60, :60] = np.random.default_rng(0).integers(0, 200, (60, 60, 60))
    mask[10:30, 10:30, 10:30] = 1
    files = {"image": f"images/{name}.nii.gz", "mask": f"images/{name}_mask.nii.gz"}
    for array, path in zip((voxels, mask), files.values(), strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / path), useCompression=True)
    row = images[images["series"] == "portal"].iloc[[0]].assign(patient=name, **files)
    rows = [row.assign(reader=f"R{number}") for number in range(readers)]
    write_table(pd.concat([images, *rows]), folder / "images.tsv")
    write_table(pd.concat([patients, patients.iloc[[-1]].assign(patient=name)]), folder / "patients.tsv")
    return name


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        pytest.skip("needs root on Debian or Ubuntu: it starts (and where it is missing installs) Slurm")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.script("start")
    yield cluster
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    cluster.script("stop")


@dataclass
class Runs:
    local: Path
    clean: Path
    faulty: Path
    slow: str  # the patient who has too little time
    large: str  # who needs more memory than the first attempt has
    huge: str  # who needs more than any attempt has
    canceled: str  # number of the job
    lost: str  # number of the job whose node was lost
    left: list[str]  # states of an interrupted run's jobs
    output: str  # of the undisturbed run
    jobs: list[SlurmJob]  # in the end


@pytest.fixture(scope="module")
def runs(cluster, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    local, clean, faulty = (shutil.copytree(study, folder / name) for name in ("local", "clean", "faulty"))
    slow = add_patient(faulty, SLOW_BATCH, 20, 1000)
    large = add_patient(faulty, LARGE_BATCH, 200, 1)
    huge = add_patient(faulty, HUGE_BATCH, 650, 1)
    # the slow patient's batch has one minute (Slurm knows no less) in all attempts but the last
    short = f"if wildcards.batch == '{SLOW_BATCH}' and attempt < 4 else 5"
    minutes = [f"{rule}:runtime={int(rule == PATIENT_RULES[0])} {short}" for rule in PATIENT_RULES]
    defaults = ("--default-resources", "mem_mb=800", "runtime=5")
    clock = Clock()
    faults = on_slurm(faulty, "--target", "features", *defaults, "--set-resources", *MEMORY, *minutes)

    # before a node is lost, on which the large patient could be computed to the end
    wait_for("the end of the large patient", faults, lambda: [j for j in ended(faulty) if LARGE_BATCH in j.batches])
    canceled = wait_for("a job to cancel", faults, lambda: running(faulty, PLAIN_BATCH))[0]
    slurm("scancel", canceled.number)
    lost = wait_for("the same batch again", faults, lambda: running(faulty, PLAIN_BATCH, 4))[0]
    cluster.lose_node(lost.node)
    plain = start(local)
    wait_for("the job of the lost node", faults, lambda: [job for job in running(faulty, PLAIN_BATCH) if job.restarts])
    cluster.script("start")  # the node is back
    clock.tell("cancel and lost node")

    signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell started these tests with & it is ignored
    interrupted = on_slurm(clean)
    wait_for("a job to interrupt", interrupted, lambda: running(clean, "", 1))
    os.kill(interrupted.pid, signal.SIGINT)
    interrupted.communicate(timeout=120)
    left = [job.state for job in slurm_jobs() if job.folder == clean]
    clock.tell("interrupted run")
    output = finish(on_slurm(clean))
    clock.tell("undisturbed run")
    finish(plain)
    finish(faults)
    clock.tell("run with faults, and the local one")
    return Runs(local, clean, faulty, slow, large, huge, canceled.number, lost.number, left, output, slurm_jobs())


class Clock:
    def __init__(self) -> None:
        self.began = time.monotonic()

    def tell(self, what: str) -> None:
        print(f"{what}: done after {time.monotonic() - self.began:.0f} s")


def of_batch(runs: Runs, batch: str) -> list[SlurmJob]:
    """The submissions of a batch of the run with faults, in their order."""
    return [job for job in runs.jobs if job.folder == runs.faulty and batch in job.batches]


def logs(folder: Path, number: str = "*") -> str:
    """What Slurm kept of the output of a job of the study, or of all."""
    return "".join(path.read_text() for path in (folder / "results/logs/slurm").rglob(f"{number}.log"))


def out_of_memory(runs: Runs, job: SlurmJob) -> bool:
    return job.state == "FAILED" and re.search("xceeded (job )?memory limit", logs(runs.faulty, job.number)) is not None


def test_a_run_on_the_cluster_is_byte_identical_to_a_local_one(runs):
    assert digests(runs.clean) == digests(runs.local)


def test_a_batch_is_one_submission(runs):
    planned = jobs(runs.output)
    batches = planned["import_images"]
    assert batches == 4
    alone = submissions(planned) - batches
    submitted = [job for job in runs.jobs if job.folder == runs.clean]
    last_run = [job for job in submitted if job.run == submitted[-1].run]
    assert Counter(len(job.batches) for job in last_run) == {1: batches, 0: alone}
    assert {job.state for job in last_run} == {"COMPLETED"}


def test_an_interrupted_run_cancels_its_jobs(runs):
    assert "CANCELLED" in runs.left
    assert not {"RUNNING", "PENDING"} & set(runs.left)


def test_a_canceled_job_is_submitted_again(runs):
    first, second, *_ = of_batch(runs, PLAIN_BATCH)
    assert (first.number, first.state) == (runs.canceled, "CANCELLED")
    assert second.number != first.number


def test_the_job_of_a_lost_node_is_done_again(runs):
    lost = next(job for job in runs.jobs if job.number == runs.lost)
    assert lost.restarts >= 1
    assert of_batch(runs, PLAIN_BATCH)[-1].state == "COMPLETED"


def test_a_patient_with_too_little_memory_gets_more(runs):
    first, *_, last = of_batch(runs, LARGE_BATCH)
    assert out_of_memory(runs, first)
    assert last.state == "COMPLETED"


def test_memory_grows_and_the_last_attempt_leaves_the_patient_out(runs):
    huge = of_batch(runs, HUGE_BATCH)
    assert [job.memory for job in huge] == ["800M", "1600M", "2400M", "3200M"]
    assert all(out_of_memory(runs, job) for job in huge[:3])
    assert huge[3].state == "COMPLETED"


def test_a_patient_who_takes_too_long_is_left_out_too(runs):
    assert [job.state for job in of_batch(runs, SLOW_BATCH)] == ["TIMEOUT"] * 3 + ["COMPLETED"]


def test_exactly_the_two_are_lost_and_everybody_else_is_as_in_a_local_run(runs):
    ours, theirs = (read_table(folder / "results/ledger/ledger.tsv").fillna("") for folder in (runs.faulty, runs.local))
    added = ours[ours["patient"].isin([runs.slow, runs.large, runs.huge])]
    lost = added[added["status"] != "included"]
    assert dict(zip(lost["patient"], lost["reason"], strict=True)) == dict.fromkeys(
        (runs.slow, runs.huge), "out of memory or time"
    )
    assert (added["patient"] == runs.large).sum() >= 4
    others = ours[~ours.index.isin(added.index)].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, theirs)
    rows = [read_table(folder / "results/features/features.parquet") for folder in (runs.faulty, runs.local)]
    assert set(rows[0]["patient"]) - set(rows[1]["patient"]) == {runs.large}
    features = rows[0][rows[0]["patient"] != runs.large].reset_index(drop=True)
    pd.testing.assert_frame_equal(features, rows[1], check_exact=True)


def test_jobs_that_outlive_a_killed_run_do_no_harm(study, runs, tmp_path):
    """Their run is gone and another has begun: they end without writing, and nothing is lost or doubled."""
    folder = shutil.copytree(study, tmp_path / "study")
    killed = on_slurm(folder, "--target", "features")
    wait_for("patients at work", killed, lambda: any(folder.glob("results/*/*/.HCC-*.part")))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    orphans = running(folder)
    assert orphans
    finish(on_slurm(folder, "--target", "features"))
    for name in ("features/features.parquet", "ledger/ledger.tsv"):
        assert (folder / "results" / name).read_bytes() == (runs.local / "results" / name).read_bytes()
    states = {job.number: job.state for job in slurm_jobs()}
    assert {states[job.number] for job in orphans} == {"FAILED"}
