"""Batches of patients: which patient is in which batch, and how a batch survives an interruption.

One process per patient is 80 % start-up, so a job carries a batch. Inside it each patient's result is written
atomically in a folder of its own, under a key of inputs, settings and code; an interrupted or changed batch
redoes only the patients it must.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hccstudy import ledger
from hccstudy.errors import CaseError
from hccstudy.tables import digest, read_json, write_json

log = logging.getLogger(__name__)

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
) -> tuple[Rows, list[dict[str, str]]]:
    """Run `work(case, scratch)` for every case and return its rows and ledger lines, in the order of `cases`.

    A case is a dict with at least `patient` and `center`. `work` returns the patient's rows (JSON values) and may
    write files into `scratch`, which becomes `folder/<patient>/` when all of it is done. A CaseError, or any other
    exception, makes a ledger line; the other patients go on. `key` is whatever else the result depends on (settings,
    code); a patient whose case and key are unchanged is not computed again.
    """
    folder = Path(folder)
    rows: Rows = []
    lines = []
    for case in cases:
        patient, center = case["patient"], case["center"]
        wanted = digest([case, key])
        home = folder / patient
        done = _read_done(home, wanted)
        if done is None:
            done = _compute(case, work, home, wanted)
            log.info("%s %s: %s", stage, patient, done["reason"] or "done")
        else:
            log.info("%s %s: unchanged", stage, patient)
        error = None
        if done["reason"]:
            error = CaseError(done["reason"], done["detail"], excluded=done["excluded"])
        rows += done["rows"]
        lines.append(ledger.entry(patient, center, stage, error))
    return rows, lines


def _read_done(home: Path, wanted: str) -> dict[str, Any] | None:
    try:
        done = read_json(home / "done.json")
    except (OSError, ValueError):
        return None
    return done if done.get("key") == wanted else None


def _compute(case: Case, work: Callable[[Case, Path], Rows], home: Path, key: str) -> dict[str, Any]:
    scratch = home.with_name(f".{home.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    done: dict[str, Any] = {"key": key, "rows": [], "reason": "", "detail": "", "excluded": False}
    try:
        done["rows"] = work(case, scratch)
    except CaseError as error:
        done |= {"reason": error.reason, "detail": error.detail, "excluded": error.excluded}
    except (MemoryError, OSError) as error:
        if isinstance(error, MemoryError) or (error.errno is not None and not isinstance(error, FileNotFoundError)):
            raise  # the machine's trouble, not the patient's: the job fails and can be retried
        done |= {"reason": "unreadable file", "detail": str(error)}
    except Exception as error:
        log.exception("%s: unexpected error", case["patient"])
        done |= {"reason": "unexpected error", "detail": f"{type(error).__name__}: {error}"}
    write_json(done, scratch / "done.json", sort_keys=False)  # the order of columns is part of the result
    shutil.rmtree(home, ignore_errors=True)
    os.replace(scratch, home)
    return done
