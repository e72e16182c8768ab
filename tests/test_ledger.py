"""The ledger reconciles: who enters a stage is who the stage before included."""

from __future__ import annotations

import pytest

from hccstudy.errors import CaseError, StudyError
from hccstudy.ledger import STAGES, collect_ledger, entry, flow, read_ledger, write_ledger
from hccstudy.tables import read_table

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
    collect_ledger(ledgers=ledgers(tmp_path), ledger=str(tmp_path / "l.tsv"), counts=str(tmp_path / "c.tsv"))
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
