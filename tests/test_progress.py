"""What a run tells while it works: a line whose numbers are known, each failure once, the time that is left."""

from __future__ import annotations

import io
import logging
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from hccstudy import progress
from hccstudy.batches import DONE
from hccstudy.errors import ERROR
from hccstudy.progress import LogHandler, Progress, watch

BATCHES = {"b0": ["P1", "P2", "P3"], "b1": ["P4", "P5"]}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study folder whose workflow has told who is in which batch."""
    monkeypatch.chdir(tmp_path)
    watch(BATCHES)
    yield tmp_path
    watch({})


def ledger(batch: str, stage: str, *lines: tuple[str, str]) -> None:
    path = Path(f"results/ledger/{stage}/{batch}.tsv")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["patient\tcenter\tstage\tstatus\treason\tdetail"]
    path.write_text("\n".join(rows + [f"{who}\tA\t{stage}\t{status}\twhy\t" for who, status in lines]) + "\n")


def planned(**jobs: int) -> Progress:
    return Progress(began=100.0, planned=Counter(jobs))


def test_patients_are_done_when_their_features_are(study):
    state = planned(import_images=2, extract_features=2, train_model=1)
    assert state.line(100.0) == "patients 0 of 5 done, 0 running · jobs 0 of 5, 0 running"
    state.start(1, "import_images", "b0", 100.0)
    state.start(2, "import_images", "b1", 100.0)
    assert state.line(101.0) == "patients 0 of 5 done, 5 running · jobs 0 of 5, 2 running"
    ledger("b0", "imports", ("P1", "failed"), ("P2", "excluded"), ("P3", "included"))
    state.finish(1, 160.0)
    state.start(3, "extract_features", "b0", 160.0)
    assert state.line(160.0).startswith("patients 0 of 5 done, 4 running, 1 failed · jobs 1 of 5, 2 running")
    ledger("b0", "features", ("P3", "included"))
    state.finish(3, 220.0)
    assert state.line(220.0).startswith("patients 2 of 5 done, 2 running, 1 failed · jobs 2 of 5, 1 running")


def test_a_patient_of_a_running_batch_counts_as_done_by_its_own_file(study):
    state = planned(extract_features=2)
    state.began = 0.0
    state.start(1, "extract_features", "b0", 100.0)
    home = Path("results/features/patients/P2")
    home.mkdir(parents=True)
    (home / DONE).touch()
    assert state.patients() == (1, 2, 5)


def test_a_run_that_extracts_some_batches_counts_their_share(study):
    assert planned(extract_features=1).patients()[2] == 2  # one of two batches: 2.5 of 5 patients, to even


def test_the_time_left_is_that_of_the_jobs_to_come_on_as_many_places_as_worked():
    state = planned(a=4, b=2)
    assert state.left(0.0) is None
    for number in (1, 2):
        state.start(number, "a", "", 0.0)
    state.finish(1, 60.0)
    state.finish(2, 120.0)  # a: 90 s on average, b is not known yet: the average of all
    # two of a and two of b to come, 90 s each, two at a time
    assert state.left(120.0) == pytest.approx(4 * 90 / 2)
    state.start(3, "b", "", 120.0)
    assert state.left(150.0) == pytest.approx((4 * 90 - 30) / 2)
    state.finish(3, 130.0)  # b takes 10 s
    assert state.left(130.0) == pytest.approx((2 * 90 + 10) / 2)
    state.start(4, "b", "", 130.0)
    assert "about 2 min left" in state.line(130.0)  # 95 s
    state.finish(4, 1130.0)
    assert state.left(1130.0) >= 0


def test_a_job_that_is_tried_again_is_not_failed_any_more():
    state = planned(a=1)
    state.start(1, "a", "", 0.0)
    state.fail(1)
    assert state.line(1.0) == "jobs 0 of 1, 0 running, 1 failed"
    state.start(1, "a", "", 2.0)
    assert state.line(3.0) == "jobs 0 of 1, 1 running"


@pytest.mark.parametrize(
    ("seconds", "text"), [(20, "a minute"), (90, "2 min"), (3540, "59 min"), (3600, "1 h 0 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds, text):
    assert progress._duration(seconds) == text


# -- the display, from Snakemake's events


@pytest.fixture
def display(study, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    handler = LogHandler(SimpleNamespace(quiet=None), None)
    yield handler, stream
    handler.close()


def tell(handler, event, message="", level=logging.INFO, **details):
    record = logging.LogRecord("snakemake", level, "", 0, message, (), None)
    record.__dict__.update({"event": event} | details)
    handler.emit(record)


def start(handler, number, rule, batch="b0"):
    tell(handler, LogEvent.JOB_INFO, jobid=number, rule_name=rule, wildcards={"batch": batch})


def fail(handler, number, rule, output, log):
    tell(handler, LogEvent.JOB_ERROR, jobid=number, rule_name=rule, output=[output], log=[str(log)])


def test_each_failure_is_told_once_with_its_reason(display):
    handler, stream = display
    log = Path("b0.log")
    log.write_text(f"2026 INFO a\nTraceback\n{ERROR}No space left on device in /study\n")
    for _ in range(4):  # and its retries
        start(handler, 1, "import_images")
        fail(handler, 1, "import_images", "results/imports/b0.tsv", log)
        tell(handler, None, "Error in rule", logging.ERROR, exception="RuleException")
    tell(handler, LogEvent.ERROR, "WorkflowError:\nAt least one job did not complete successfully.", logging.ERROR)
    expected = "failed: import_images (results/imports/b0.tsv): No space left on device in /study (more in b0.log)\n"
    assert stream.getvalue() == expected
    assert handler.progress.failed_jobs == {1}


def test_a_log_without_a_reason_is_of_a_job_that_was_ended(display, monkeypatch):
    handler, stream = display
    Path("b0.log").write_text("2026 INFO half a li")
    start(handler, 1, "train_model")
    fail(handler, 1, "train_model", "card.json", "b0.log")
    assert (
        "train_model (card.json): it was ended from outside (memory, time, a lost node); log: b0.log"
        in stream.getvalue()
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    start(handler, 2, "train_model")
    fail(handler, 2, "train_model", "card.json", "b0.log")
    assert "train_model (card.json): the disk is full; log: b0.log" in stream.getvalue()


def test_a_group_of_jobs_that_is_lost_fails_only_what_was_at_work(display):
    """A cluster's group names all its jobs when it fails; those that had ended well have ended well."""
    handler, stream = display
    tell(handler, LogEvent.RUN_INFO, "Job stats", stats={"import_images": 1, "extract_features": 1, "total": 2})
    start(handler, 1, "import_images")
    start(handler, 2, "extract_features")
    tell(handler, LogEvent.JOB_FINISHED, job_id=1)
    Path("old.log").write_text(f"{ERROR}of a run before this one\n")
    os.utime("old.log", (0, 0))
    members = [{"jobid": 1, "log": ["old.log"]}, {"jobid": 2, "log": ["b0.log"]}]
    tell(handler, LogEvent.GROUP_ERROR, "Error in group", logging.ERROR, job_error_info=members, aux_logs=["slurm.log"])
    fail(handler, 1, "import_images", "results/imports/b0.tsv", "b0.log")
    fail(handler, 2, "extract_features", "results/features/b0.parquet", "b0.log")
    assert handler.progress.failed_jobs == {2}
    assert handler.progress.finished == Counter(import_images=1)
    said = stream.getvalue().split("Job stats\n")[1]
    assert said == "failed: batch b0: it was ended from outside (memory, time, a lost node); log: slurm.log\n"


def test_who_failed_is_neither_done_nor_running(study):
    state = planned(import_images=2, extract_features=2)
    state.start(1, "import_images", "b0", 100.0)
    ledger("b0", "imports", ("P1", "failed"), ("P2", "excluded"), ("P3", "included"))
    state.finish(1, 110.0)
    state.start(2, "extract_features", "b0", 110.0)
    assert state.patients() == (0, 2, 5)
    ledger("b0", "features", ("P3", "failed"))
    state.finish(2, 120.0)
    assert state.line(120.0).startswith("patients 1 of 5 done, 0 running, 2 failed")


def test_a_failure_of_an_earlier_run_counts_when_its_batch_is_measured_again(study):
    ledger("b0", "imports", ("P1", "failed"))
    state = planned(extract_features=1)
    state.start(1, "extract_features", "b0", 100.0)
    ledger("b0", "features", ("P2", "included"))
    state.finish(1, 110.0)
    assert state.failed == {"P1"}


def test_the_last_words_tell_how_a_run_ended_and_where_to_read_on(study):
    state = planned(train_model=2)
    state.start(1, "train_model", "", 100.0)
    state.finish(1, 110.0)
    assert state.end(160.0, told=True).startswith("not finished: what went wrong is said above")
    assert state.end(160.0, told=False).startswith("stopped from outside")
    state.start(2, "train_model", "", 110.0)
    state.finish(2, 160.0)
    Path("results/ledger").mkdir(parents=True)
    rows = ("P1\tA\timports\tfailed", "P2\tA\timports\tincluded", "P2\tA\tregions\texcluded")
    lines = "".join(f"{row}\twhy\t\n" for row in rows)
    Path("results/ledger/ledger.tsv").write_text("patient\tcenter\tstage\tstatus\treason\tdetail\n" + lines)
    Path("results/report").mkdir()
    Path("results/report/index.html").touch()
    assert state.end(160.0, told=False) == "finished in 1 min"  # what is there is of an older run
    state.planned["write_report"] += 1
    state.finished["write_report"] += 1
    said = state.end(160.0, told=True)
    assert "excluded 1, failed 1: " in said and str(study / "results/ledger/ledger.tsv") in said
    assert said.endswith(f"report: {study / 'results/report/index.html'}")


def test_jobs_that_an_interruption_ends_have_not_failed(display):
    handler, stream = display
    start(handler, 1, "train_model")
    tell(handler, None, "Terminating processes on user request, this might take some time.")
    fail(handler, 1, "train_model", "card.json", "b0.log")
    assert stream.getvalue() == "interrupted: ending the jobs that run\n"
    assert handler.progress.failed_jobs == set()
    assert handler.progress.end(0.0, told=False).startswith("interrupted")


def test_who_asks_for_no_progress_gets_none(study, monkeypatch):
    """Snakemake tells of no finished job then, so that nothing could be counted."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    handler = LogHandler(SimpleNamespace(quiet={Quietness.PROGRESS}), None)
    tell(handler, LogEvent.RUN_INFO, "Job stats", stats={"train_model": 1, "total": 1})
    start(handler, 1, "train_model")
    handler.close()
    assert stream.getvalue() == "Job stats\n"


def test_problems_of_a_study_are_told_without_snakemakes_frame(display):
    handler, stream = display
    frame = 'WorkflowError in file "/x/common.smk", line 46:\n{}\n  File "/x/common.smk", line 46, in <module>'
    said = "2 problems:\n  - patients.tsv: a\n  - images.tsv: b"
    tell(handler, LogEvent.ERROR, frame.format(said), logging.ERROR)
    assert stream.getvalue() == f"hccstudy: {said}\n"


def test_nothing_to_do_is_said(display):
    handler, stream = display
    tell(handler, None, "Nothing to be done (all requested files are present and up to date).")
    assert stream.getvalue() == "nothing to be done: everything is up to date\n"
