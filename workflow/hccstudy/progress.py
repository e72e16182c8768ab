"""What `hccstudy run` shows while Snakemake works: patients done, running and failed, jobs, time left, errors in a line.

Snakemake itself writes everything that happened to `.snakemake/log`.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from hccstudy.batches import DONE, PROBE
from hccstudy.errors import ERROR
from hccstudy.ledger import read_ledger

LAST = "extract_features"  # a batch's patients are done with this rule
PATIENTS = Path("results/features/patients")
LEDGERS = Path("results/ledger")
LEDGER = LEDGERS / "ledger.tsv"
REPORT = Path("results/report/index.html")
STAGES = {  # the rules that may lose a patient
    "import_images": "imports",
    "preprocess_images": "preprocess",
    "make_regions": "regions",
    LAST: "features",
}
EVERY = {True: 2.0, False: 30.0}  # seconds between two lines, on a terminal and in a file

PAUSE = 50  # times as long as a line took: it looks for each patient of the running batches, on a disk that may be far

INTERRUPTED = "Terminating processes on user request"  # Snakemake after Ctrl-C, before what the ended jobs say
# what Snakemake sets around our own words
WORKFLOW_ERROR = re.compile(
    r'\AWorkflowError in file .*:\n(?P<said>(.|\n)*?)(\n  File ".*", line \d+, in <module>)?\n?\Z'
)
JOBS_FAILED = "At least one job did not complete successfully"  # after all of their errors

BATCHES: dict[str, list[str]] = {}


def watch(batches: Mapping[str, Sequence[str]]) -> None:
    """Tell the display who is in which batch; the workflow says so when it has read the cohort."""
    BATCHES.clear()
    BATCHES.update({name: list(members) for name, members in batches.items()})


@dataclass
class Job:
    rule: str
    batch: str
    started: float


@dataclass
class Progress:
    """What is known of a run. Times are seconds of `time.time`."""

    began: float
    planned: Counter[str] = field(default_factory=Counter)  # rule -> jobs of this run
    running: dict[int, Job] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)  # rule -> time taken by all finished jobs
    most: int = 1  # jobs that ran side by side
    batches: set[str] = field(default_factory=set)  # whose features are done
    failed_jobs: set[int] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)  # patients
    interrupted: bool = False  # by the user

    def start(self, number: int, rule: str, batch: str, now: float) -> None:
        self.running[number] = Job(rule, batch, now)
        self.failed_jobs.discard(number)
        self.most = max(self.most, len(self.running))

    def finish(self, number: int, now: float) -> None:
        job = self.running.pop(number, None)
        if job is None:
            return
        self.finished[job.rule] += 1
        self.seconds[job.rule] = self.seconds.get(job.rule, 0.0) + now - job.started
        ended = STAGES.values() if job.rule == LAST else [STAGES[job.rule]] if job.rule in STAGES else []
        for stage in ended:  # at the last also those of earlier runs
            self.failed |= _failed(LEDGERS / stage / f"{job.batch}.tsv")
        if job.rule == LAST:
            self.batches.add(job.batch)

    def fail(self, number: int) -> None:
        self.running.pop(number, None)
        if not self.interrupted:
            self.failed_jobs.add(number)

    def patients(self) -> tuple[int, int, int]:
        """Done, running and to do in this run; who failed is neither done nor running."""
        everyone = sum(map(len, BATCHES.values()))
        to_do = round(everyone * self.planned[LAST] / max(len(BATCHES), 1))
        done = sum(len(set(BATCHES[batch]) - self.failed) for batch in self.batches)
        active = {job.batch for job in self.running.values() if job.batch in BATCHES} - self.batches
        at_work = {patient for batch in active for patient in BATCHES[batch]} - self.failed
        fresh = sum(_fresh(patient, self.began) for patient in at_work)
        return done + fresh, len(at_work) - fresh, to_do

    def left(self, now: float) -> float | None:
        """Seconds until the end, if the jobs to come take as long as those of their rule (or of all) did."""
        done = sum(self.finished.values())
        if not done:
            return None
        mean = sum(self.seconds.values()) / done
        taken = {rule: self.seconds[rule] / self.finished[rule] for rule in self.finished}
        work = sum(taken.get(rule, mean) * (jobs - self.finished[rule]) for rule, jobs in self.planned.items())
        begun = sum(min(now - job.started, taken.get(job.rule, mean)) for job in self.running.values())
        return max(work - begun, 0) / self.most

    def line(self, now: float) -> str:
        jobs = f"jobs {sum(self.finished.values())} of {sum(self.planned.values())}, {len(self.running)} running"
        if self.failed_jobs:
            jobs += f", {len(self.failed_jobs)} failed"
        parts = [jobs]
        if self.planned[LAST] and BATCHES:
            done, running, to_do = self.patients()
            failed = f", {len(self.failed):,} failed" if self.failed else ""
            parts.insert(0, f"patients {done:,} of {to_do:,} done, {running:,} running{failed}")
        left = self.left(now)
        if left is not None and self.running:
            parts.append(f"about {_duration(left)} left")
        return " · ".join(parts)

    def end(self, now: float, *, told: bool) -> str:
        """The last words of a run: whether it came to its end, who was lost, and where to read on.

        `told`: something was said to have gone wrong.
        """
        if self.interrupted:
            return "interrupted; what is done stays done: run again to go on"
        if sum(self.finished.values()) < sum(self.planned.values()):
            if not told:
                return "stopped from outside; what is done stays done: run again to go on"
            return "not finished: what went wrong is said above; run again once it is mended, what is done stays done"
        words = [f"finished in {_duration(now - self.began)}"]
        if (
            self.planned["collect_ledger"] + self.planned["write_report"] and LEDGER.is_file()
        ):  # of this run, not an older one
            lines = read_ledger([LEDGER])
            lost = {
                status: lines.loc[lines["status"] == status, "patient"].nunique() for status in ("excluded", "failed")
            }
            words.append(f"patients excluded {lost['excluded']:,}, failed {lost['failed']:,}: {LEDGER.absolute()}")
        if self.planned["write_report"] and REPORT.is_file():
            words.append(f"report: {REPORT.absolute()}")
        return " · ".join(words)


def _failed(ledger: Path) -> set[str]:
    try:
        lines = read_ledger([ledger])
    except OSError:
        return set()
    return set(lines.loc[lines["status"] == "failed", "patient"])


def _fresh(patient: str, since: float) -> bool:
    try:
        return (PATIENTS / patient / DONE).stat().st_mtime >= since
    except OSError:
        return False


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "a minute"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class LogHandler(LogHandlerBase):
    """Snakemake's events as a few lines: the table of jobs, progress, what went wrong and where to read more."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.progress = Progress(time.time())
        self.stream = sys.stderr
        self.terminal = self.stream.isatty()
        # asked for no progress, Snakemake tells of no finished job either
        self.silent = Quietness.PROGRESS in (self.common_settings.quiet or ())
        self.shown = ""
        self.told: set[str] = set()
        self.stopped = threading.Event()
        self.clock = threading.Thread(target=self._tick, daemon=True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._take(record)
        except Exception:
            self.handleError(record)

    def _take(self, record: logging.LogRecord) -> None:
        now, event = time.time(), getattr(record, "event", None)
        details: Any = record  # Snakemake's events carry their fields as attributes
        if event == LogEvent.RUN_INFO:
            self.progress.planned = Counter({name: n for name, n in details.stats.items() if name != "total"})
            self._write(record.getMessage())
            if not self.clock.is_alive() and not self.silent:
                self.clock.start()
        elif event is None and record.getMessage().startswith(INTERRUPTED):
            self.progress.interrupted = True
            self._write("interrupted: ending the jobs that run")
        elif event == LogEvent.JOB_INFO:
            batch = dict(details.wildcards or {}).get("batch", "")
            self.progress.start(details.jobid, details.rule_name, batch, now)
        elif event == LogEvent.JOB_FINISHED:
            self.progress.finish(details.job_id, now)
        elif event == LogEvent.JOB_ERROR:
            if details.jobid in self.progress.running:  # else one of a group, told already
                what = f"{details.rule_name} ({details.output[0]})" if details.output else details.rule_name
                self._fail({details.jobid}, what, details.log)
        elif event == LogEvent.GROUP_ERROR:
            members = {member["jobid"]: member for member in details.job_error_info}
            batches = {self.progress.running[number].batch for number in members.keys() & self.progress.running.keys()}
            logs = [log for member in members.values() for log in member["log"]]
            self._fail(set(members), f"batch {', '.join(sorted(batches))}", [*logs, *details.aux_logs])
        elif (
            getattr(record, "exception", "") in ("RuleException", "CalledProcessError")
            or JOBS_FAILED in record.getMessage()
        ):
            pass  # of a job, whose own error says more
        elif event in (None, LogEvent.ERROR) and record.levelno >= logging.WARNING:
            self._write_once(WORKFLOW_ERROR.sub(r"hccstudy: \g<said>", record.getMessage()))
        elif event is None and str(record.msg).startswith("Nothing to be done"):
            self._write("nothing to be done: everything is up to date")

    def _fail(self, numbers: set[int], what: str, logs: Sequence[str]) -> None:
        for number in numbers & self.progress.running.keys():
            self.progress.fail(number)
        if self.progress.interrupted:
            return
        self._write_once(f"failed: {what}: {_reason(logs, self.progress.began)}")

    def _tick(self) -> None:
        took = 0.0
        while not self.stopped.wait(max(EVERY[self.terminal], PAUSE * took)):
            began = time.monotonic()
            self.acquire()
            try:
                self._show()
            finally:
                self.release()
            took = time.monotonic() - began

    def _show(self) -> None:
        line = self.progress.line(time.time())
        if self.terminal:
            self.stream.write(f"\r\033[K{line}")
            self.stream.flush()
            self.shown = line
        elif line != self.shown:
            self.shown = line
            self.stream.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
            self.stream.flush()

    def _write(self, text: str) -> None:
        """A line of its own, above the moving one on a terminal."""
        self.stream.write(("\r\033[K" if self.terminal and self.shown else "") + text.rstrip("\n") + "\n")
        self.stream.flush()

    def _write_once(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self._write(text)

    def close(self) -> None:
        self.stopped.set()
        if self.clock.is_alive():
            self.clock.join()
            self._show()
            if self.terminal:
                self._write("")
            self._write(self.progress.end(time.time(), told=bool(self.told)))
        super().close()


def _reason(logs: Sequence[str], since: float) -> str:
    """Why a job failed, by the last line of the first log that has one and was written `since`, and where to read more."""
    for log in logs:
        try:
            lines = Path(log).read_text(encoding="utf-8").splitlines() if Path(log).stat().st_mtime >= since else []
        except OSError:
            continue
        reason = next((line for line in reversed(lines) if line.startswith(ERROR)), "")
        if reason:
            return f"{reason.removeprefix(ERROR)} (more in {log})"
    full = shutil.disk_usage(".").free < PROBE
    why = "the disk is full" if full else "it was ended from outside (memory, time, a lost node)"
    return f"{why}; log: {logs[-1] if logs else 'none'}"
