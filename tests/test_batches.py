"""Batches are stable, and a batch redoes only the patients it must."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from multiprocessing import get_context

import numpy as np
import pytest

from hccstudy.batches import ATTEMPTS, assign_batches, discard_images, process_batch, read_own, settle
from hccstudy.errors import CaseError, StudyError

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


def attempt(folder, work, number, *names):
    rows, lines = process_batch(cases(*names), work, stage="imports", folder=folder, key="k", attempt=number)
    return rows, {line["patient"]: (line["status"], line["reason"]) for line in lines}


class Deadly(Work):
    """A job of its own process group ends while "b" is computed, as if the machine had killed it; `how` says by what."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __call__(self, case, scratch):
        if case["patient"] == "b":
            self.done.append("b")
            self.how()
        return super().__call__(case, scratch)


def raises(error):
    def how(*_, **__):
        raise error

    return how


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_who_ends_every_job_is_computed_last_and_then_left_to_the_ledger(tmp_path, error):
    work = Deadly(raises(error))
    for number in (1, 2, 3):
        with pytest.raises(error):
            attempt(tmp_path, work, number, "a", "b", "c")
    # the second attempt does all others before it
    assert work.done == ["a", "b", "c", "b", "b"]
    rows, status = attempt(tmp_path, work, ATTEMPTS, "a", "b", "c")
    assert work.done == ["a", "b", "c", "b", "b"]
    assert [row["patient"] for row in rows] == ["a", "c"]
    assert status == {"a": ("included", ""), "b": ("failed", "out of memory or time"), "c": ("included", "")}
    # which is not kept: a new run has its new chance
    rows, status = attempt(tmp_path, Work(), 1, "a", "b", "c")
    assert status["b"] == ("included", "")
    assert (tmp_path / "b" / "image.txt").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_process_that_is_really_killed_leaves_the_same_marks(tmp_path):
    work = Deadly(lambda: os.kill(os.getpid(), signal.SIGKILL))
    for number in (1, 2, 3):
        child = get_context("fork").Process(target=attempt, args=(tmp_path, work, number, "a", "b", "c"))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert (tmp_path / "c").exists() == (number > 1)
    status = attempt(tmp_path, work, ATTEMPTS, "a", "b", "c")[1]
    assert status == {"a": ("included", ""), "b": ("failed", "out of memory or time"), "c": ("included", "")}


def test_a_patient_who_needed_more_memory_gets_it_in_a_later_attempt(tmp_path):
    with pytest.raises(MemoryError):
        attempt(tmp_path, Deadly(raises(MemoryError)), 1, "a", "b", "c")
    assert attempt(tmp_path, Work(), 2, "a", "b", "c")[1]["b"] == ("included", "")


def finish(folder, dies):
    """Attempts of one run until one ends: how many they were, and the ledger (None: the run ended with an error).

    `dies(patient, number)`: whether attempt `number` ends while `patient` is computed.
    """
    for number in range(1, ATTEMPTS + 1):

        def work(case, scratch, number=number):
            if dies(case["patient"], number):
                raise SystemExit
            return []

        try:
            return number, {name: reason for name, (_, reason) in attempt(folder, work, number, *"abcdef")[1].items()}
        except SystemExit:
            pass
    return ATTEMPTS, None


LOST = "out of memory or time"


def test_who_was_there_when_other_things_ended_the_attempts_is_not_given_up(tmp_path):
    """A preemption, a reboot, `scancel`: five attempts end, each with another patient."""
    number, ledger = finish(tmp_path, lambda patient, number: patient == "abcdef"[number - 1] and number < ATTEMPTS)
    assert number == ATTEMPTS
    assert set(ledger.values()) == {""}


@pytest.mark.parametrize("killers", ["b", "be"])
def test_exactly_those_who_take_jobs_down_are_lost(tmp_path, killers):
    _, ledger = finish(tmp_path, lambda patient, number: patient in killers)
    assert ledger == dict.fromkeys("abcdef", "") | dict.fromkeys(killers, LOST)


def test_many_who_take_jobs_down_are_lost_in_the_next_run(tmp_path):
    _, ledger = finish(tmp_path, lambda patient, number: patient in "ace")
    assert ledger is None
    _, ledger = finish(tmp_path, lambda patient, number: patient in "ace")
    assert ledger == dict.fromkeys("abcdef", "") | dict.fromkeys("ace", LOST)


def test_a_run_that_its_user_stops_again_and_again_is_nobodys_fault(tmp_path):
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path, Deadly(raises(KeyboardInterrupt)), 1, "a", "b", "c")
    assert finish(tmp_path, lambda patient, number: patient == "b" and number < 3) == (3, dict.fromkeys("abcdef", ""))


def test_a_job_that_is_too_late_takes_no_mark_of_another_away(tmp_path):
    """The same patient is computed by a second job, which has the folder now."""

    def overtaken(case, scratch):
        shutil.rmtree(scratch.parent)
        (scratch / "image.txt").write_text("late")

    with pytest.raises(FileNotFoundError):
        attempt(tmp_path, overtaken, 1, "a")
    assert (tmp_path / ".a.deaths").exists()


@pytest.mark.parametrize(
    "error", [KeyError("oops"), CaseError("unreadable file", "no permission"), OSError(errno.EIO, "")]
)
def test_what_may_pass_is_tried_again_by_the_next_job(tmp_path, error):
    assert attempt(tmp_path, Deadly(raises(error)), 1, "a", "b")[1]["b"][0] == "failed"
    work = Work()
    assert attempt(tmp_path, work, 1, "a", "b")[1]["b"] == ("included", "")
    assert work.done == ["b"]


def test_what_is_wrong_with_a_patient_is_not_computed_again(tmp_path):
    work = Deadly(raises(CaseError("empty mask")))
    assert attempt(tmp_path, work, 1, "a", "b")[1]["b"] == attempt(tmp_path, work, 1, "a", "b")[1]["b"]
    assert work.done == ["a", "b"]


def test_a_lack_of_memory_in_itk_ends_the_job_which_gets_more(tmp_path):
    said = "Exception thrown in SimpleITK: itkImageFileReader: Failed to allocate memory for image."
    with pytest.raises(MemoryError):
        attempt(tmp_path, Deadly(raises(RuntimeError(said))), 1, "a", "b")


def test_an_image_that_somebody_deleted_is_the_jobs_failure_not_the_patients(tmp_path):
    def work(case, scratch):
        return [{"size": read_own(str(tmp_path / "gone.nii.gz")).GetSize()}]

    with pytest.raises(StudyError, match=r"gone[.]nii[.]gz: no such file, though its stage has written it"):
        attempt(tmp_path, work, 1, "a")
    assert not list(tmp_path.glob(".*.deaths"))


def test_images_are_discarded_after_the_tables_that_name_them(tmp_path, monkeypatch):
    """Killed in the middle, no table is left that names an image which is not there."""
    (tmp_path / "masks/a").mkdir(parents=True)
    (tmp_path / "b0.tsv").write_text("patient\n")
    monkeypatch.setattr(shutil, "rmtree", raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        discard_images(
            tables=[str(tmp_path / "b0.tsv")],
            patients=["a"],
            folders=[str(tmp_path / "masks")],
            discarded=str(tmp_path / "discarded.tsv"),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


def test_a_full_disk_puts_the_blame_on_nobody(tmp_path):
    work = Deadly(raises(OSError(errno.ENOSPC, "No space left on device")))
    for number in range(1, ATTEMPTS + 1):
        with pytest.raises(OSError, match="No space"):
            attempt(tmp_path, work, number, "a", "b", "c")
    assert "c" not in work.done  # b stays in its place, tried in every attempt
    assert work.done == ["a", *["b"] * ATTEMPTS]
    assert not list(tmp_path.glob(".*.deaths"))


def write_image(path, keep=1.0):
    import SimpleITK as sitk

    noise = np.random.default_rng(0).integers(-1000, 1000, (5, 40, 40)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), path, True)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9, 0.9999])
def test_an_image_that_a_full_disk_cut_off_is_not_taken_for_whole(tmp_path, keep):
    """ITK writes without an error what has room, and reads zeros for what had none."""

    def cut(case, scratch):
        write_image(scratch / "image.nii.gz", keep)
        return []

    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, cut, cases("a"))
    assert not list(tmp_path.rglob("done.json.gz"))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_a_whole_image_is_taken_for_whole(tmp_path, kind):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ones((3, 4, 5), kind))
    sitk.WriteImage(image, tmp_path / "image.nii.gz", True)
    settle(tmp_path)


def test_what_is_half_deleted_is_not_done(tmp_path, monkeypatch):
    """Killed while an old result was deleted, with settings that are taken back after that."""
    run(tmp_path, Work(), cases("a"))

    def delete_one_file(home, **_):
        if home.name == "a":
            (home / "image.txt").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", delete_one_file)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Work(), cases("a"), key="other settings")
    monkeypatch.undo()
    run(tmp_path, Work(), cases("a"))
    assert (tmp_path / "a" / "image.txt").read_text() == "a-1"
