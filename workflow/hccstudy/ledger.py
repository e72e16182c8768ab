"""The ledger: every patient, every stage, one status and its reason.

At every stage in = included + excluded + failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from hccstudy.errors import CaseError, StudyError
from hccstudy.tables import read_table, write_table

COLUMNS = ["patient", "center", "stage", "status", "reason", "detail"]
STAGES = ["cohort", "imports", "preprocess", "regions", "features"]
TABLE_STAGES = ["cohort", "features"]  # of a study that starts from a feature table
STATUSES = ["included", "excluded", "failed"]


def entry(patient: str, center: str, stage: str, error: CaseError | None = None) -> dict[str, str]:
    """One line of the ledger; `error` says why a patient does not go on."""
    if error is None:
        status, reason, detail = "included", "", ""
    else:
        status, reason, detail = "excluded" if error.excluded else "failed", error.reason, error.detail
    values = (patient, center, stage, status, reason, " ".join(detail.split()))
    return dict(zip(COLUMNS, values, strict=True))


def write_ledger(lines: Iterable[dict[str, str]], path: str | Path) -> None:
    write_table(pd.DataFrame(list(lines), columns=COLUMNS), path)


def read_ledger(paths: Iterable[str | Path]) -> pd.DataFrame:
    """All ledger files as one frame, in the order of the stages and then of the patients."""
    frame = pd.concat([read_table(path, COLUMNS) for path in paths], ignore_index=True)
    frame = frame.astype(object).where(frame.notna(), "")
    order = {stage: place for place, stage in enumerate(STAGES)}
    frame["order"] = frame["stage"].map(order)
    return frame.sort_values(["order", "patient"], kind="stable").drop(columns="order").reset_index(drop=True)


def flow(ledger: pd.DataFrame, stages: Sequence[str] = STAGES) -> pd.DataFrame:
    """Counts per stage of `stages`, status and reason, after proof that they reconcile.

    Raises StudyError where a patient has two lines at a stage, or where the patients who enter a stage are not
    those whom the stage before it included.
    """
    rows = []
    before: set[str] | None = None
    for stage in stages:
        lines = ledger[ledger["stage"] == stage]
        twice = lines.loc[lines["patient"].duplicated(), "patient"].tolist()
        if twice:
            raise StudyError(f"ledger: {twice[0]} has two lines at stage {stage}; expected one")
        entered = set(lines["patient"])
        if before is not None and entered != before:
            odd = sorted(entered ^ before)[:5]
            raise StudyError(
                f"ledger: {len(before)} patients were passed on to {stage}, which accounts for {len(entered)}; "
                f"they differ in {', '.join(odd)}"
            )
        rows.append((stage, "in", "", len(entered)))
        for status in STATUSES:
            chosen = lines[lines["status"] == status]
            if status == "included":
                rows.append((stage, status, "", len(chosen)))
            else:
                rows += [(stage, status, reason, n) for reason, n in sorted(chosen["reason"].value_counts().items())]
        before = set(lines.loc[lines["status"] == "included", "patient"])
    return pd.DataFrame(rows, columns=["stage", "status", "reason", "patients"])


def collect_ledger(*, ledgers: list[str], outcomes: str, stages: list[str], ledger: str, counts: str) -> None:
    """Join the ledger files of all `stages` and write their reconciled counts.

    Behind the stages stands a line per endpoint for every patient who has features ("endpoint os"): who lacks an
    outcome is left out of that endpoint alone. `outcomes` says who has which (a column per endpoint).
    """
    frame = read_ledger(ledgers)
    reconciled = flow(frame, stages)
    last = frame[(frame["stage"] == stages[-1]) & (frame["status"] == "included")]
    known = read_table(outcomes, ["patient"]).set_index("patient").loc[last["patient"]]
    lines = [
        entry(patient, center, f"endpoint {endpoint}", None if has == "known" else _no_outcome(endpoint, has))
        for endpoint in known.columns.drop("center")
        for patient, center, has in zip(known.index, known["center"], known[endpoint], strict=True)
    ]
    write_table(pd.concat([frame, pd.DataFrame(lines, columns=COLUMNS)]), ledger)
    write_table(reconciled, counts)


def _no_outcome(endpoint: str, why: str) -> CaseError:
    if why == "before the landmark":
        return CaseError(
            why, f"the event of {endpoint} or the end of follow-up comes before the landmark", excluded=True
        )
    return CaseError("outcome missing", f"the patients table has no outcome for {endpoint}", excluded=True)
