"""Batches of patients: which patient is in which batch, and how a batch survives an interruption.

One process per patient is 80 % start-up, so a job carries a batch. Inside it each patient's result is written
atomically in a folder of its own, under a key of inputs, settings and code; an interrupted or changed batch
redoes only the patients it must.

A job that is killed from outside (memory, time, a lost node) is started again by Snakemake, with more of both. Whoever
was being computed when an attempt died is a suspect: computed after all others in the next attempts, and left to the
ledger at last, so that no patient takes a batch down for good (docs/clusters.md).
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import logging
import math
import os
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import SimpleITK as sitk

from hccstudy import ledger
from hccstudy.errors import UNEXPECTED, UNREADABLE, CaseError, StudyError, is_of_file, is_out_of_memory
from hccstudy.tables import check_run, digest, write_table

log = logging.getLogger(__name__)

# Times the memory and time of the first attempt that each attempt gets. No node may hold the larger ones: so not the last.
MORE = (1, 2, 4, 4, 4, 1)
ATTEMPTS = len(MORE)
# A patient is given up after so many deaths: in one run; in all runs, where it is the last attempt.
MOST_DEATHS, MOST_DEATHS_AT_LAST = 3, 2
DONE = "done.json.gz"
PROBE = 2**20  # bytes that can be written where a disk is not full

Case = dict[str, Any]
Rows = list[dict[str, Any]]


def assign_batches(patients: Sequence[str], size: int) -> dict[str, list[str]]:
    """Split patients into named batches of at most `size`, stable under additions.

    A batch is a prefix of the bits of SHA-256(patient): a batch that would grow beyond `size` splits in two and no
    other batch notices. `size=1` is one batch per patient.
    """

    def split(prefix: str, members: list[tuple[str, str]]) -> dict[str, list[str]]:
        if len(members) <= size:
            return {f"b{prefix}": sorted(patient for _, patient in members)} if members else {}
        place = len(prefix)
        halves = [[m for m in members if m[0][place] == bit] for bit in "01"]
        return split(prefix + "0", halves[0]) | split(prefix + "1", halves[1])

    def bits(patient: str) -> str:
        return f"{int.from_bytes(hashlib.sha256(patient.encode()).digest()):0256b}"

    return split("", [(bits(patient), patient) for patient in set(patients)])


def process_batch(
    cases: Sequence[Case],
    work: Callable[[Case, Path], Rows],
    *,
    stage: str,
    folder: str | Path,
    key: Any,
    attempt: int = 1,
) -> tuple[Rows, list[dict[str, str]]]:
    """Run `work(case, scratch)` for every case and return its rows and ledger lines, in the order of `cases`.

    A case is a dict with at least `patient` and `center`. `work` returns the patient's rows (JSON values) and may
    write files into `scratch`, which becomes `folder/<patient>/` when all of it is done. A CaseError, or any other
    exception, makes a ledger line; the other patients go on. `key` is whatever else the result depends on (settings,
    code); a patient whose case and key are unchanged is not computed again. `attempt` counts from 1 within a run;
    patients under whom an attempt died come last, and fail after MOST_DEATHS.
    """
    folder = Path(folder)
    deaths = {case["patient"]: _deaths(folder / case["patient"]) for case in cases}
    finished = {}
    for case in sorted(cases, key=lambda case: len(deaths[case["patient"]])):
        patient = case["patient"]
        wanted = digest([case, key])
        done = _read_done(folder / patient, wanted)
        if done is not None:
            log.info("%s %s: unchanged", stage, patient)
        else:
            if _is_hopeless(deaths[patient], attempt):
                done = _given_up(deaths[patient])
            else:
                done = _compute(case, work, folder / patient, wanted, [*deaths[patient], attempt])
            log.info("%s %s: %s", stage, patient, done["reason"] or "done")
        finished[patient] = done
    rows: Rows = []
    lines = []
    for case in cases:
        done = finished[case["patient"]]
        error = None
        if done["reason"]:
            error = CaseError(done["reason"], done["detail"], excluded=done["excluded"])
        rows += done["rows"]
        lines.append(ledger.entry(case["patient"], case["center"], stage, error))
    return rows, lines


def _marker(home: Path) -> Path:
    """The file that is there while a patient is computed; it holds the numbers of the attempts that died meanwhile."""
    return home.with_name(f".{home.name}.deaths")


def _deaths(home: Path) -> list[int]:
    marker = _marker(home)
    return list(marker.read_bytes()) if marker.exists() else []


def _remember(deaths: Sequence[int], home: Path) -> None:
    if deaths:
        _marker(home).write_bytes(bytes(deaths))
    else:
        _marker(home).unlink(missing_ok=True)


def _is_hopeless(deaths: Sequence[int], attempt: int) -> bool:
    """Whether a patient took so many jobs down that the others must not wait any longer.

    Attempts of one run grow: what comes before a number that does not was in an earlier run, which may have been
    stopped by its user.
    """
    in_this_run, later = 0, attempt
    for number in reversed(deaths):
        if number >= later:
            break
        in_this_run, later = in_this_run + 1, number
    return in_this_run >= MOST_DEATHS or (attempt >= ATTEMPTS and len(deaths) >= MOST_DEATHS_AT_LAST)


def _given_up(deaths: Sequence[int]) -> dict[str, Any]:
    """What stands for a patient who takes every job down; nothing is kept of it."""
    detail = (
        f"{len(deaths)} jobs were ended while this patient was computed, the largest with {max(MORE[n - 1] for n in deaths)} "
        "times the memory and time of the first attempt; expected a job that fits (docs/clusters.md)"
    )
    return {"rows": [], "reason": "out of memory or time", "detail": detail, "excluded": False}


def _read_done(home: Path, wanted: str) -> dict[str, Any] | None:
    try:
        done = json.loads(gzip.decompress((home / DONE).read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError):
        return None
    return done if done.get("key") == wanted else None


def _compute(case: Case, work: Callable[[Case, Path], Rows], home: Path, key: str, deaths: list[int]) -> dict[str, Any]:
    """The result of a patient, kept under `key`; `deaths` has this attempt at its end, should it die."""
    scratch = _scratch(home)
    _remember(deaths, home)
    try:
        result = _result(case, work, scratch)
        done = {"key": "" if result["reason"] in (UNREADABLE, UNEXPECTED) else key} | result
        text = json.dumps(done, allow_nan=False, ensure_ascii=False)
        settle(scratch)
        (scratch / DONE).write_bytes(gzip.compress(text.encode(), mtime=0))  # a thousand features take 55 KB, not 230
        check_run()
        (home / DONE).unlink(missing_ok=True)  # first of all: what is half deleted is not done
        shutil.rmtree(home, ignore_errors=True)
        os.replace(scratch, home)
        with contextlib.suppress(OSError):
            scratch.parent.rmdir()
        _remember([], home)
    except (OSError, StudyError):  # the machine's error or the run's, no fault of this patient
        if scratch.exists():  # else another job has this patient now
            _remember(deaths[:-1], home)
            shutil.rmtree(scratch, ignore_errors=True)  # the log needs room
        raise
    return done


def _scratch(home: Path) -> Path:
    """A new folder for what is computed of a patient, which is no other process's.

    A job that its cluster took for lost may be at work on the patient still: its folder is renamed in one step, so that it
    fails at its next file and its files are never mixed with ours.
    """
    parts, own = home.with_name(f".{home.name}.part"), uuid.uuid4().hex
    lost = home.with_name(f".{home.name}.lost")
    shutil.rmtree(lost, ignore_errors=True)  # of somebody who was killed in the next line but one
    with contextlib.suppress(FileNotFoundError):
        os.replace(parts, lost)
    shutil.rmtree(lost, ignore_errors=True)
    scratch = parts / own
    scratch.mkdir(parents=True)
    return scratch


def _result(case: Case, work: Callable[[Case, Path], Rows], scratch: Path) -> dict[str, Any]:
    """Rows, or why there are none; an OSError is the machine's."""
    done: dict[str, Any] = {"rows": [], "reason": "", "detail": "", "excluded": False}
    try:
        done["rows"] = work(case, scratch)
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error  # as if the machine had killed the job: with more memory it may do
        _check_machine(error, scratch)
        if isinstance(error, StudyError) and not isinstance(error, CaseError):
            raise
        if isinstance(error, CaseError):
            done |= {"reason": error.reason, "detail": error.detail, "excluded": error.excluded}
        elif isinstance(error, OSError):
            done |= {"reason": UNREADABLE, "detail": str(error)}
        else:
            log.exception("%s: unexpected error", case["patient"])
            done |= {"reason": UNEXPECTED, "detail": f"{type(error).__name__}: {error}"}
    return done


def settle(folder: Path) -> None:
    """Bring all files in `folder` to the disk; OSError where there is no room for one.

    ITK takes no notice of a disk that is full: it writes the part of a .nii.gz that has room, and reads zeros for the
    rest. The length that gzip states at the end of a file tells.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())  # a network's disk may say only now that it is full
            if path.name.endswith(".nii.gz") and not _is_whole(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _is_whole(path: Path) -> bool:
    """Whether a .nii.gz that ITK wrote ends with the length (RFC 1952) of the header and voxels that it announces."""
    try:
        with gzip.open(path) as handle:
            head = handle.read(348)
        dimensions, bits, offset = (
            struct.unpack_from(kind, head, at) for kind, at in (("8h", 40), ("h", 72), ("f", 108))
        )
        with path.open("rb") as handle:
            handle.seek(-4, os.SEEK_END)
            (length,) = struct.unpack("<I", handle.read(4))
    except (OSError, EOFError, zlib.error, struct.error):
        return False
    voxels = math.prod(dimensions[1 : 1 + dimensions[0]])
    return bool(length == (int(offset[0]) + voxels * bits[0] // 8) % 2**32)


def _check_machine(error: Exception, scratch: Path) -> None:
    """Raise where an error is the machine's and not the patient's: the job fails then and can be retried.

    A full or read-only disk shows itself by a write, since libraries for images hide it behind errors of their own.
    """
    probe = scratch / ".probe"
    with probe.open("wb") as handle:
        handle.write(bytes(PROBE))
        os.fsync(handle.fileno())
    probe.unlink()
    if isinstance(error, OSError) and error.errno is not None and not is_of_file(error):
        raise error


def read_own(path: str, kind: int = sitk.sitkUnknown) -> sitk.Image:
    """An image that an earlier stage wrote; StudyError where somebody deleted it, which is no fault of its patient."""
    if not Path(path).is_file():
        raise StudyError(
            f"{path}: no such file, though its stage has written it; expected it, or run with --forcerun import_images"
        )
    return sitk.ReadImage(path, kind)


def discard_images(*, tables: Sequence[str], patients: Sequence[str], folders: Sequence[str], discarded: str) -> None:
    """Delete what the stages keep of `patients` in `folders`; `discarded` gets the names.

    First of all the `tables` that name the images: what is half deleted is not there.
    """
    for table in tables:
        Path(table).unlink(missing_ok=True)
    for folder in folders:
        for patient in patients:
            shutil.rmtree(Path(folder) / patient, ignore_errors=True)
    write_table(pd.DataFrame({"patient": list(patients)}), discarded)
