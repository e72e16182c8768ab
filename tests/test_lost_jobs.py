"""Jobs that live longer than their cluster or their run believes never spoil what others compute."""

from __future__ import annotations

import pytest

from hccstudy.batches import process_batch
from hccstudy.errors import StudyError
from hccstudy.tables import LOCK, RUN, atomic, check_run

CASES = [{"patient": "a", "center": "A"}]


def run(folder, work, key="k"):
    return process_batch(CASES, work, stage="imports", folder=folder, key=key)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(text):
    def work(case, scratch):
        (scratch / "image.txt").write_text(text)
        return [{"value": text}]

    return work


def test_of_two_processes_on_one_patient_the_later_one_wins_and_the_other_fails(tmp_path):
    later = []

    def work(case, scratch):
        (scratch / "first.txt").write_text("of the lost job")
        later.append(run(tmp_path, write("later")))  # meanwhile, on another node
        (scratch / "image.txt").write_text("of the lost job")
        return [{"value": "lost"}]

    with pytest.raises(FileNotFoundError):
        run(tmp_path, work)
    assert later[0][0] == [{"value": "later"}]
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["done.json.gz", "image.txt"]
    assert (tmp_path / "a/image.txt").read_text() == "later"
    assert run(tmp_path, pytest.fail) == later[0]  # it is done and not computed again


@pytest.fixture
def overtaken(tmp_path, monkeypatch):
    """This process is a job of run "old"; run "new" has begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN, "old")
    (tmp_path / "results").mkdir()
    (tmp_path / LOCK).write_text("new")
    return tmp_path


def test_a_job_of_a_killed_run_publishes_nothing_once_another_run_has_begun(overtaken):
    with pytest.raises(StudyError, match="another run has begun"):
        run(overtaken / "patients", write("old settings"))
    assert not (overtaken / "patients/a").exists()
    with pytest.raises(StudyError, match="another run has begun"), atomic(overtaken / "table.tsv") as path:
        path.write_text("old settings")
    assert names(overtaken) == ["patients", "results"]
    assert not list((overtaken / "patients").rglob("*.txt"))


def test_a_job_of_the_present_run_and_one_of_no_run_go_on(overtaken, monkeypatch):
    monkeypatch.setenv(RUN, "new")
    check_run()
    monkeypatch.delenv(RUN)
    run(overtaken / "patients", write("x"))
    assert (overtaken / "patients/a/image.txt").read_text() == "x"
