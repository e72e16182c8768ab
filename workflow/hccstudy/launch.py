"""`hccstudy run`: find the profile, ask the scheduler whether it is there, lock the study, become Snakemake."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from hccstudy.batches import PROBE
from hccstudy.config import REPOSITORY
from hccstudy.errors import StudyError
from hccstudy.tables import LOCK, RUN, tidy

PROFILES = REPOSITORY / "config" / "profiles"
PATIENTS = ("images", "masks", "patients")  # folders of results with one a patient, each proven by its done.json.gz
SLOW = 60  # seconds after which a scheduler counts as not there


def find_profile(name: str) -> Path:
    """The folder of a profile: one of config/profiles by its name, or any with a config.yaml by its path."""
    known, given = PROFILES / name, Path(name).absolute()
    for folder in (known, given) if name else ():
        if (folder / "config.yaml").is_file():
            return folder
    names = ", ".join(sorted(item.name for item in PROFILES.iterdir()))
    raise StudyError(f"no profile {name!r}; expected one of {names}, or a folder with a config.yaml (not in {given})")


def launch(profile: Path, arguments: Sequence[str], *, dry_run: bool) -> NoReturn:
    """Replace this process, which is in the study folder, by Snakemake with a profile and further arguments.

    A run asks the scheduler of the profile first whether it is there, and takes the lock of the study; a dry run needs neither.
    """
    run = uuid.uuid4().hex
    options = read_profile(profile)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    # greedy: the other scheduler starts a solver for every choice of jobs, which writes to /tmp
    command += ["--workflow-profile", str(profile), "--scheduler", "greedy"]
    if dry_run:
        command.append("--dry-run")
    else:
        chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chosen.add_argument("--executor", "-e", default=options.get("executor"))
        check_scheduler(chosen.parse_known_args(arguments)[0].executor, profile, options)
        ahead = take_lock(run)
        if ahead:
            print(
                f"note: by the clock {ahead[0]} was changed in the future, so that times do not tell what is up to date: "
                "all tables, models and figures are made again",
                file=sys.stderr,
            )
            command.append("--forceall")
        command += ["--logger", "hccstudy"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [*command, *arguments], os.environ | {RUN: run})


def read_profile(folder: Path) -> dict[str, Any]:
    """The Snakemake options of a profile."""
    file = folder / "config.yaml"
    try:
        options = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, no date
        raise StudyError(f"{file}: not readable as YAML ({error}); expected Snakemake options") from error
    if not isinstance(options, dict) or not options:
        found = type(options).__name__ if options else "nothing"
        raise StudyError(f"{file}: holds {found}; expected Snakemake options, one a line: `jobs: 100`")
    return options


def check_scheduler(executor: str | None, profile: Path, options: Mapping[str, Any]) -> None:
    """StudyError where a cluster's commands are not there, or Slurm does not answer: a run would hang, or lose every job.

    `options` are those of the folder `profile`.
    """
    name, cancel = profile.name, options.get("cluster-generic-cancel-cmd") or ""  # who has qdel has qsub and qstat
    generic = Path(
        os.path.expandvars(str(cancel))
    ).expanduser()  # as Snakemake reads it, which looks into the profile too
    generics = [] if (profile / generic).exists() else [str(generic)]
    needed = {"slurm": ["sbatch", "squeue"], "lsf": ["bsub", "bjobs"], "cluster-generic": generics}
    expected = "a node that submits jobs, with the scheduler's commands in PATH (docs/clusters.md)"
    for command in needed.get(str(executor), []):
        if not shutil.which(command):
            raise StudyError(f"profile {name}: no command {command} here; expected {expected}")
    if executor != "slurm":
        return
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", f"--user={os.getuid()}"], capture_output=True, text=True, timeout=SLOW
        )
        said = asked.stderr.strip().rsplit("\n", 1)[-1].removeprefix("squeue: ") if asked.returncode else None
    except subprocess.TimeoutExpired:
        said = f"nothing in {SLOW} s"
    if said is not None:
        raise StudyError(f"profile {name}: Slurm does not answer (squeue: {said}); expected {expected}")


def take_lock(run: str) -> list[Path]:
    """One run at a time in a study folder; what a killed run left is taken away. Returns results changed in the future.

    The kernel drops the lock of a process that is gone, so whoever gets it knows that no run is alive. Jobs of a killed
    run may be: they find another run's id in the lock (`tables.check_run`) and end without writing.
    """
    try:
        for folder in (Path("results"), Path(".snakemake")):
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(PROBE))
        handle = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, run.encode())
        os.fsync(handle)  # the nodes of a cluster read it
        ahead = tidy("results", PATIENTS)
        for leftover in ("locks", "scripts"):
            shutil.rmtree(f".snakemake/{leftover}", ignore_errors=True)
    except BlockingIOError:
        raise StudyError(f"{Path.cwd()}: a run is going on here; wait for it, or stop it, and run again") from None
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            expected = "a file system with locks (Lustre: mounted with -o flock), so that two runs never mix"
            raise StudyError(f"{Path.cwd()}: cannot be locked ({error.strerror}); expected {expected}") from None
        raise StudyError(
            f"{Path.cwd()}: results cannot be written ({error.strerror}); expected a folder with room to write"
        ) from None
    os.set_inheritable(handle, True)  # Snakemake keeps it
    return ahead
