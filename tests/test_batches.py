"""Batches are stable, and a batch redoes only the patients it must."""

from __future__ import annotations

import pytest

from hccstudy.batches import assign_batches, process_batch
from hccstudy.errors import CaseError

PATIENTS = [f"P{number}" for number in range(200)]


@pytest.mark.parametrize("size", [1, 7, 50, 500])
def test_every_patient_is_in_one_batch_of_at_most_the_size(size):
    batches = assign_batches(PATIENTS, size)
    members = [patient for batch in batches.values() for patient in batch]
    assert sorted(members) == sorted(PATIENTS)
    assert max(map(len, batches.values())) <= size


def test_a_new_patient_touches_one_batch():
    before = assign_batches(PATIENTS, 20)
    for number in range(200, 260):
        after = assign_batches([*PATIENTS, f"P{number}"], 20)
        changed = [name for name, members in before.items() if after.get(name) != members]
        assert len(changed) == 1


def cases(*names: str) -> list[dict]:
    return [{"patient": name, "center": "A", "image": f"{name}-1"} for name in names]


class Work:
    """Counts who is computed; "bad" fails, "odd" is excluded, "bug" raises something unexpected."""

    def __init__(self):
        self.done = []

    def __call__(self, case, scratch):
        self.done.append(case["patient"])
        if case["patient"] == "bad":
            raise CaseError("empty mask", "nothing inside")
        if case["patient"] == "odd":
            raise CaseError("too small", excluded=True)
        if case["patient"] == "bug":
            raise KeyError("oops")
        (scratch / "image.txt").write_text(case["image"])
        return [{"value": 0.1, "patient": case["patient"], "a": 1}]


def run(folder, work, batch, key="k"):
    return process_batch(batch, work, stage="imports", folder=folder, key=key)


def test_a_failing_patient_stops_no_other_and_is_in_the_ledger(tmp_path):
    rows, lines = run(tmp_path, Work(), cases("a", "bad", "odd", "bug", "b"))
    assert [row["patient"] for row in rows] == ["a", "b"]
    status = {line["patient"]: (line["status"], line["reason"]) for line in lines}
    assert status["bad"] == ("failed", "empty mask")
    assert status["odd"] == ("excluded", "too small")
    assert status["bug"] == ("failed", "unexpected error")
    assert status["a"] == ("included", "")


def test_only_what_changed_is_computed_again(tmp_path):
    work = Work()
    first = run(tmp_path, work, cases("a", "bad", "b"))
    again = run(tmp_path, work, cases("a", "bad", "b", "c"))
    assert work.done == ["a", "bad", "b", "c"]
    assert [list(row.items()) for row in again[0][:2]] == [list(row.items()) for row in first[0]]
    changed = cases("a", "b")
    changed[1]["image"] = "b-2"
    run(tmp_path, work, changed)
    assert work.done[4:] == ["b"]
    run(tmp_path, work, changed, key="other settings")
    assert work.done[5:] == ["a", "b"]


def test_a_killed_patient_is_computed_again_and_leaves_nothing_behind(tmp_path):
    work = Work()

    def killed(case, scratch):
        work(case, scratch)
        if case["patient"] == "b":
            raise KeyboardInterrupt
        return []

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed, cases("a", "b"))
    assert not (tmp_path / "b").exists()
    run(tmp_path, work, cases("a", "b"))
    assert work.done == ["a", "b", "b"]
    assert (tmp_path / "b" / "image.txt").read_text() == "b-1"
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_the_jobs_failure_not_the_patients(tmp_path):
    def full(case, scratch):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(tmp_path, full, cases("a"))
