"""SIGKILL of a whole run at random moments: is every result, after a resume, what it is without an interruption?

    python tests/faults/kills.py [--kills 50] [--seed 1] [--folder DIR] [--write docs/reliability.md]

A small study with every rule runs once to its end. Then, in a new folder each time, it is killed (the process group of
`hccstudy run`, with every job) at a moment drawn evenly over the time that it took, and run again to its end; in every third
folder the runs that resume are killed too, three kills in all. Tables, models, figures and the report are compared byte by
byte; a folder that differs is kept. Exit status 1 if one does, or if a process outlives a kill.
"""

# ruff: noqa: E402 - modules of tests/ are found first
from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import hccstudy.features  # noqa: F401 - compiles the kernels where that is still to do, before a run is timed
from benchmarks.blocks import replace_block
from small_study import OVERLAY, command, configure, digests, make_study, run

# every rule, with as few jobs and resamples as may be
CHANGES = {
    "cohort": OVERLAY["cohort"] | {"batch_size": 40},
    "resampling": {"folds": 2, "inner_folds": 2, "optimism": 1},
    "stability": {"method": "perturbation", "patients": 28, "perturbations": 1},
}
STAGES = ("cohort", "imports", "preprocess", "regions", "features", "stability", "harmonize", "models", "internal")
STAGES += ("predictions", "validation", "report")
NO_JOB = "no job (start, planning, end)"


@dataclass
class Kill:
    """One kill: `seconds` after the start of its run, and the stages whose jobs it hit."""

    seconds: float
    stages: list[str]


@dataclass
class Trial:
    """A study that was killed, perhaps more than once, and then ran to its end."""

    kills: list[Kill]
    difference: str  # the first file that is not as it should be; "" where none is
    survivors: int  # processes that outlived a kill


def members(session: int) -> Iterator[Path]:
    """/proc of every living process of a session: all that a run started, whatever group it is in."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, found = status.read_text().rsplit(")", 1)[1].split()[:4]
            if int(found) == session and state not in "ZX":
                yield status.parent


def stages_at_work(session: int) -> list[str]:
    """The stages whose jobs run: each holds its log open, which lies in the folder of its stage."""
    found = set()
    for process in members(session):
        with contextlib.suppress(OSError):
            for file in (process / "fd").iterdir():
                parts = file.readlink().parts
                if parts[-1].endswith(".log") and "logs" in parts:
                    found.add(parts[parts.index("logs") + 1])
    return [stage for stage in STAGES if stage in found] or [NO_JOB]


def kill_one(folder: Path, moment: float) -> tuple[Kill | None, int]:
    """Run the study and kill it after `moment` seconds; None where it had ended before. And how many outlived the kill."""
    with (folder / "run.log").open("a") as log:
        process = subprocess.Popen(command(folder), start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(timeout=moment):
            raise SystemExit(f"{folder}: the run failed before it was killed; see run.log there")
        return None, 0
    kill = Kill(moment, stages_at_work(process.pid))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # until the kernel has buried them
    return kill, len(list(members(process.pid)))


def try_once(
    source: Path, folder: Path, expected: dict[str, str], seconds: float, most: int, draw: random.Random
) -> Trial:
    """Kill a copy of the study up to `most` times, run it to its end and compare it."""
    shutil.copytree(source, folder)
    trial, remaining = Trial([], "", 0), seconds
    for _ in range(most):
        moment = draw.uniform(0, remaining)
        kill, survivors = kill_one(folder, moment)
        trial.survivors += survivors
        if kill is None:
            break
        trial.kills.append(kill)
        remaining = max(remaining - moment, seconds / 5)
    try:
        run(folder)
    except AssertionError as error:
        trial.difference = f"the resume failed: {str(error)[-2000:]}"
    else:
        found = digests(folder)
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        trial.difference = next(iter(names), "")
    return trial


def report(trials: list[Trial], files: int, seconds: float, seed: int) -> str:
    """The table of docs/reliability.md."""
    kills = [(kill, trial) for trial in trials for kill in trial.kills]
    same = sum(not trial.difference for _, trial in kills)
    chains = sum(len(trial.kills) > 1 for trial in trials)
    lines = [
        f"{len(kills)} kills (seed {seed}) in {len(trials)} folders, {chains} of them with several in a row; the run without an "
        f"interruption took {seconds:.0f} s. After the resume all {files} files of results were byte-identical in {same} of "
        f"{len(kills)}; {sum(trial.survivors for trial in trials)} processes outlived a kill.",
        "",
        "| at work when the kill came | kills | byte-identical after the resume |",
        "|---|--:|--:|",
    ]
    for stage in (*STAGES, NO_JOB):
        hit = [trial for kill, trial in kills if stage in kill.stages]
        if hit:
            lines.append(f"| {stage} | {len(hit)} | {sum(not trial.difference for trial in hit)} |")
    lines += [f"| all | {len(kills)} | {same} |", "", "A kill that hit jobs of two stages is in both lines."]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="where to make the folder for it (default: where temporary files are)"
    )
    parser.add_argument("--write", help="Markdown file whose block `kills` is replaced")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="hccstudy-kills-", dir=options.folder))
    source = make_study(home / "source")
    configure(source, **CHANGES)
    shutil.copytree(source, home / "expected")
    started = time.monotonic()
    run(home / "expected")
    seconds = time.monotonic() - started
    expected = digests(home / "expected")
    print(f"without an interruption: {seconds:.0f} s, {len(expected)} files", flush=True)

    draw, trials, done = random.Random(options.seed), [], 0
    while done < options.kills:
        folder = home / f"study-{len(trials) + 1}"
        most = min(3 if len(trials) % 3 == 2 else 1, options.kills - done)
        started = time.monotonic()
        trial = try_once(source, folder, expected, seconds, most, draw)
        if not trial.kills:
            seconds = min(seconds, time.monotonic() - started)  # the machine has less to do than it had at first
        trials.append(trial)
        done += len(trial.kills)
        hits = (
            "; ".join(f"{kill.seconds:.1f} s: {', '.join(kill.stages)}" for kill in trial.kills)
            or "ended before the kill"
        )
        said = f"DIFFERENT, kept in {folder}: {trial.difference}" if trial.difference else "identical"
        left = f", {trial.survivors} processes LEFT" if trial.survivors else ""
        print(f"{done:3} of {options.kills}  {time.monotonic() - started:5.1f} s  {said}{left}  ({hits})", flush=True)
        if not trial.difference:
            shutil.rmtree(folder)
    text = report(trials, len(expected), seconds, options.seed)
    print(text)
    if options.write:
        replace_block(options.write, "kills", text)
    failed = any(trial.difference or trial.survivors for trial in trials)
    if not failed:
        shutil.rmtree(home)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
