"""The ledger reconciles: who enters a stage is who the stage before included."""

from __future__ import annotations

import pandas as pd
import pytest

from hccstudy.errors import CaseError, StudyError
from hccstudy.ledger import STAGES, collect_ledger, entry, flow, read_ledger, write_ledger
from hccstudy.tables import read_table, write_table

LOSSES = {"imports": ("B", CaseError("empty mask", "a\n b")), "regions": ("C", CaseError("too small", excluded=True))}


def ledgers(folder, losses=LOSSES):
    patients, paths = ["A", "B", "C", "D"], []
    for stage in STAGES:
        lost, error = losses.get(stage, ("", None))
        lines = [entry(patient, "X", stage, error if patient == lost else None) for patient in patients]
        paths.append(folder / f"{stage}.tsv")
        write_ledger(lines, paths[-1])
        patients = [patient for patient in patients if patient != lost]
    return [str(path) for path in paths]


def test_counts_reconcile_at_every_stage(tmp_path):
    known = {"patient": list("ABCD"), "center": "X", "os": ["known", "known", "known", "missing"]}
    write_table(pd.DataFrame(known), tmp_path / "o.tsv")
    files = {"outcomes": "o.tsv", "ledger": "l.tsv", "counts": "c.tsv"}
    written = {name: str(tmp_path / file) for name, file in files.items()}
    collect_ledger(ledgers=ledgers(tmp_path), stages=STAGES, **written)
    ledger = read_table(tmp_path / "l.tsv")
    endpoint = ledger[ledger["stage"] == "endpoint os"].set_index("patient")
    assert endpoint["status"].to_dict() == {"A": "included", "D": "excluded"}
    counts = read_table(tmp_path / "c.tsv").fillna("")
    for stage in STAGES:
        rows = counts[counts["stage"] == stage].set_index("status")["patients"]
        assert rows["in"] == rows.drop("in").sum()
    assert counts.loc[counts["reason"] == "empty mask", ["stage", "status", "patients"]].to_numpy().tolist() == [
        ["imports", "failed", 1]
    ]
    assert counts["patients"].iloc[-1] == 2


def test_a_patient_who_vanishes_is_an_error(tmp_path):
    frame = read_ledger(ledgers(tmp_path))
    lost = frame[~((frame["patient"] == "D") & (frame["stage"] == "features"))]
    with pytest.raises(StudyError, match="differ in D"):
        flow(lost)


def test_a_patient_counted_twice_is_an_error(tmp_path):
    frame = read_ledger([*ledgers(tmp_path), str(tmp_path / "features.tsv")])
    with pytest.raises(StudyError, match="two lines at stage features"):
        flow(frame)
