"""The commands of PBS, Grid Engine and LSF, as far as Snakemake's plugins use them, for a machine that has none.

`install(folder, kind)` makes a folder of commands for PATH. A submitted job really runs, in the background, with the
working directory and environment that the scheduler would give it. State is in `folder/state`: `submissions` (a line of
arguments each), and per job its log, process group and exit status. `end` kills a job, as for its time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "pbs": ("qsub", "qstat", "qdel"),
    "sge": ("qsub", "qstat", "qdel", "qacct"),
    "lsf": ("bsub", "bjobs", "bkill", "badmin", "lsclusters", "bhist"),
}
FLAGS = {"pbs": {"-V"}, "sge": {"-V", "-terse"}, "lsf": set()}  # options without a value
KILLED = 271  # 256 + SIGTERM, as PBS tells it


def install(folder: Path, kind: str) -> dict[str, str]:
    """Make the commands and return the environment in which they are found."""
    state, commands = folder / "state", folder / "bin"
    state.mkdir(parents=True)
    commands.mkdir()
    for name in COMMANDS[kind]:
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {state} {kind} {name} "$@"\n')
        (commands / name).chmod(0o755)
    if kind == "lsf":
        parameters = state / "conf/lsbatch/fake/configdir/lsb.params"
        parameters.parent.mkdir(parents=True)
        parameters.write_text("DEFAULT_QUEUE = normal\n")
    return os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "HOME": str(folder)}


def submissions(folder: Path) -> list[list[str]]:
    """The arguments of every submission, in their order."""
    path = folder / "state/submissions"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(state: Path, kind: str, name: str, arguments: list[str]) -> None:
    if name in ("qsub", "bsub"):
        submit(state, kind, arguments)
    elif name in ("qdel", "bkill"):
        for job in arguments:
            end(state.parent, job.split(".")[0])
    elif name == "badmin":
        print(f"Configuration\n  LSB_SHAREDIR = {state}\n  LSF_CONFDIR = {state}/conf\n  LSF_UNIT_FOR_LIMITS = MB")
    elif name == "lsclusters":
        print("CLUSTER_NAME STATUS\nfake ok")
    elif name != "bhist":
        print(told(state, kind, name, arguments))


def submit(state: Path, kind: str, arguments: list[str]) -> None:
    with (state / "submissions").open("a") as handle:
        handle.write(json.dumps(arguments) + "\n")
    job = str(len((state / "submissions").read_text().splitlines()))
    options, rest = {}, list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        options[option] = "" if option in FLAGS[kind] else rest.pop(0)
    command = rest[0] if kind == "lsf" else f"bash {rest[0]}"
    if not Path(options["-o"]).is_dir() and kind != "lsf":
        sys.exit(f"qsub: no folder {options['-o']}")
    whole = kind == "lsf" or "-V" in options
    env = dict(os.environ) if whole else {key: os.environ[key] for key in ("HOME", "USER") if key in os.environ}
    (state / f"{job}.sh").write_text(command)
    with (state / f"{job}.log").open("w") as log:
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                f"bash {state}/{job}.sh; echo $? > {state}/{job}.new; mv {state}/{job}.new {state}/{job}.exit",
            ],
            cwd=options.get("-cwd", os.environ["HOME"]),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (state / f"{job}.group").write_text(str(process.pid))
    print({"pbs": f"{job}.fake", "sge": job, "lsf": f"Job <{job}> is submitted to queue <normal>."}[kind])


def end(folder: Path, job: str) -> None:
    """SIGKILL to all processes of a job."""
    state = folder / "state"
    os.killpg(int((state / f"{job}.group").read_text()), signal.SIGKILL)
    (state / f"{job}.exit").write_text(str(KILLED))


def told(state: Path, kind: str, name: str, arguments: list[str]) -> str:
    """What the status commands print."""
    ended = {path.stem: path.read_text().strip() for path in state.glob("*.exit")}
    jobs = [path.stem for path in state.glob("*.group")]
    if kind == "pbs":
        job = arguments[-1].split(".")[0]
        if job not in jobs:
            sys.exit(f"qstat: Unknown Job Id {job}")
        state_lines = f"    job_state = {'F' if job in ended else 'R'}\n"
        return f"Job Id: {job}.fake\n{state_lines}" + (f"    Exit_status = {ended[job]}\n" if job in ended else "")
    if kind == "lsf":
        states = {"0": "DONE", None: "RUN"}
        return "\n".join(f"{job} {states.get(ended.get(job), 'EXIT')}" for job in jobs)
    job = arguments[-1]
    if name == "qstat":
        if job not in jobs or job in ended:
            sys.exit(f"Following jobs do not exist: {job}")
        return f"job_number: {job}"
    return f"{'=' * 20}\njobnumber    {job}\nfailed       0\nexit_status  {ended[job]}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
