"""Faults of machines: killed writes, two runs at once, clocks that jump, full and read-only disks, late files.

Random kills of a whole run are tests/faults/kills.py, lost jobs of a cluster tests/slurm/.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hccstudy import cli
from hccstudy.batches import process_batch
from hccstudy.tables import atomic, read_table, tidy, write_json, write_table
from small_study import command, digests, jobs, make_study, patients_computed, run
from table_study import make_table_study

COHORT = ("--target", "results/cohort/development.tsv")  # one short job
YEAR = 365 * 86400


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that nothing was run in."""
    return make_study(tmp_path_factory.mktemp("faults") / "study")


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "study", copy_function=shutil.copy2)


def outcome(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, env=os.environ | environment, check=False
    )
    return done.returncode, done.stdout + done.stderr


# -- killed in the middle of a write


def write_for_ever(folder: Path) -> None:
    """Tables, JSON and patients, each with one number all over, a greater one each time."""
    number = 0
    while True:
        number += 1
        frame = pd.DataFrame({"patient": [f"P{row}" for row in range(2000)], "value": number})
        write_table(frame, folder / "table.tsv")
        write_table(frame, folder / "table.parquet")
        write_json([number] * 5000, folder / "list.json")

        def work(case, scratch, number=number):
            for part in range(20):
                (scratch / f"{part}.txt").write_text(f"{number}\n" * 500)
            return [{"number": number}]

        cases = [{"patient": "P1", "center": "A"}, {"patient": "P2", "center": "A"}]
        process_batch(cases, work, stage="imports", folder=folder / "patients", key=number)


def numbers_in(folder: Path) -> list[set[int]]:
    """What stands in each file that is there; every one must be whole."""
    found = []
    for name in ("table.tsv", "table.parquet"):
        if (folder / name).exists():
            frame = read_table(folder / name)
            assert len(frame) == 2000
            found.append(set(frame["value"]))
    if (folder / "list.json").exists():
        values = json.loads((folder / "list.json").read_text())
        assert len(values) == 5000
        found.append(set(values))
    return found


def stop_in_a_write(pid: int, results: Path) -> None:
    """SIGSTOP process `pid` while it writes one of the files in `results` and a patient is done."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        if any(results.glob(".*")) and any(results.glob("patients/P*/done.json.gz")):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("no such moment in 60 seconds")


def test_no_half_written_file_is_ever_taken_for_whole(tmp_path):
    """30 times a process that writes without a pause is killed: 15 at a moment drawn at random, 15 for sure in a write."""
    draw, left, done = random.Random(1), 0, 0
    results = tmp_path / "results"
    for kill in range(30):
        writer = get_context("fork").Process(target=write_for_ever, args=(results,))
        writer.start()
        time.sleep(draw.uniform(0.02, 0.4))
        if kill % 2:
            stop_in_a_write(writer.pid, results)
        writer.kill()
        writer.join()
        assert all(len(numbers) == 1 for numbers in numbers_in(results))
        left += sum(path.name.startswith(".") for path in results.glob(".*"))
        for home in results.glob("patients/P*"):
            done += (home / "done.json.gz").exists()
            if (home / "done.json.gz").exists():  # its files are all there, and of one writing
                assert len({(home / f"{part}.txt").read_text() for part in range(20)}) == 1
        tidy(results, ("patients",))
        assert not list(results.glob(".*"))
    assert left >= 15
    assert done >= 15
    # what is left of the patients is done again from the start
    rows, _ = process_batch(
        [{"patient": "P1", "center": "A"}],
        lambda case, scratch: [{"a": 1}],
        stage="imports",
        folder=results / "patients",
        key=0,
    )
    assert rows == [{"a": 1}]
    assert not list(results.glob("patients/.P1*"))


def test_what_a_killed_write_left_is_deleted_when_a_run_starts(copy):
    results = copy / "results"
    leftovers = [
        results / name for name in (".features-ab12_x9z.parquet", "models/.card-abcdefgh.json", ".a-b-00000000")
    ]
    others = [results / name for name in (".lock", "models/card.json", ".gitignore", "a-abcdefgh.tsv")]
    for path in (*leftovers, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run(copy, "--dry-run", *COHORT)  # which may look on while others work
    assert all(path.exists() for path in (*leftovers, *others))
    run(copy, *COHORT)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)


def test_temporary_files_have_the_names_that_are_swept_up(tmp_path):
    for name in ("features.parquet", "b01.tsv", "image.nii.gz", "done", "a.b-c.json"):
        with pytest.raises(KeyboardInterrupt), atomic(tmp_path / name) as temporary:
            shutil.copyfile(temporary, tmp_path / f"{temporary.name}.copy")
            os.link(temporary, tmp_path / "kept")
            raise KeyboardInterrupt
        (tmp_path / "kept").rename(tmp_path / temporary.name)
        (tmp_path / f"{temporary.name}.copy").unlink()
    assert len(list(tmp_path.iterdir())) == 5
    tidy(tmp_path, ())
    assert not list(tmp_path.iterdir())


# -- two runs, and locks


def test_of_two_runs_started_at_once_one_goes_on_and_one_says_so(copy):
    """Also where a dead run left its locks."""
    locks = copy / ".snakemake/locks"
    locks.mkdir(parents=True)
    for kind in ("input", "output"):
        (locks / f"0.{kind}.lock").write_text(str(copy / "results/cohort/development.tsv"))
    (copy / "results").mkdir()
    (copy / "results/.lock").write_text("of a run that is gone")
    both = [
        subprocess.Popen(command(copy, *COHORT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    refused = said[[process.returncode for process in both].index(1)]
    assert refused == f"hccstudy: {copy}: a run is going on here; wait for it, or stop it, and run again\n"
    assert (copy / "results/cohort/development.tsv").is_file()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_said_to_be_one(copy, capsys, monkeypatch, number):
    """Lustre, mounted without `-o flock`."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(copy)
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert cli.main(["run", str(copy)]) == 1
    assert f"cannot be locked ({os.strerror(number)}); expected a file system with locks" in capsys.readouterr().err


def test_a_study_can_be_checked_while_it_runs(copy, capsys, monkeypatch):
    monkeypatch.chdir(copy)
    (copy / "results").mkdir()
    with (copy / "results/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["check", str(copy)]) == 0
        assert cli.main(["run", str(copy)]) == 1
        assert jobs(run(copy, "--dry-run", *COHORT))["split_cohort"] == 1
    said = capsys.readouterr()
    assert "no problem found" in said.out
    assert "a run is going on here" in said.err


# -- clocks


def test_a_table_that_was_replaced_by_an_older_one_counts(copy):
    """As by `cp -p` or from a backup: Snakemake alone goes by times, and would call the results up to date."""
    run(copy, *COHORT)
    assert jobs(run(copy, "--dry-run", *COHORT)) == {}
    patients = read_table(copy / "patients.tsv")
    write_table(patients.assign(age=patients["age"] + 1), copy / "patients.tsv")
    os.utime(copy / "patients.tsv", (0, time.time() - YEAR))
    run(copy, *COHORT)
    made = read_table(copy / "results/cohort/development.tsv").set_index("patient")["age"]
    assert (made == patients.set_index("patient")["age"].loc[made.index] + 1).all()


def test_results_from_the_future_are_made_again(copy):
    """The clock was years ahead, is right again, and times say no more what is made of what."""
    run(copy, *COHORT)
    expected, table = digests(copy), copy / "results/cohort/development.tsv"
    ahead = time.time() + 3 * YEAR
    os.utime(table, (ahead, ahead))
    said = run(copy, *COHORT)
    assert jobs(said)["split_cohort"] == 1
    assert said.count("was changed in the future") == 1
    assert digests(copy) == expected
    assert table.stat().st_mtime < time.time() + 1
    assert "in the future" not in run(copy, *COHORT)


def test_an_input_from_the_future_is_named(copy):
    """Nothing can be newer than it is, so that its results would never be up to date."""
    ahead = time.time() + YEAR
    os.utime(copy / "images.tsv", (ahead, ahead))
    status, said = outcome(copy, *COHORT)
    assert status == 1
    assert "older modification time" in said and "than input images.tsv" in said
    os.utime(copy / "images.tsv")
    run(copy, *COHORT)


# -- files that come late


def test_a_file_that_a_network_shows_late_is_waited_for(copy, tmp_path):
    """Every output appears 3 s after its job has ended, as on NFS."""
    (tmp_path / "late").mkdir()
    (tmp_path / "late/sitecustomize.py").write_text(
        "import os, subprocess\n"
        "replace = os.replace\n"
        "def late(source, target, **options):\n"
        "    if not str(target).endswith('.tsv'):\n"
        "        return replace(source, target, **options)\n"
        "    hidden = str(source) + '.late'\n"
        "    os.rename(source, hidden)\n"
        "    subprocess.Popen(['sh', '-c', 'sleep 3; mv \"$0\" \"$1\"; echo \"$1\" >> late.txt', hidden, str(target)],\n"
        "                     start_new_session=True)\n"
        "os.replace = late\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path / "late"), os.environ.get("PYTHONPATH")]))
    status, said = outcome(copy, "--latency-wait", "60", *COHORT, PYTHONPATH=path)
    assert status == 0, said
    assert "results/cohort/development.tsv" in (copy / "late.txt").read_text()


# -- disks


@contextmanager
def disk(folder: Path, megabytes: float) -> Iterator[Path]:
    """A file system of its own of a fixed size, or a skipped test."""
    folder.mkdir(exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def leave_room(folder: Path, kilobytes: int) -> None:
    """Make the disk as large as what it holds and `kilobytes` more."""
    usage = shutil.disk_usage(folder)
    remount(folder, f"size={usage.used // 1024 + kilobytes}k")


def complaints(said: str) -> list[str]:
    """What a user reads about a disk."""
    assert "Traceback" not in said
    assert "NWAD" not in said  # of ITK
    return [line for line in said.splitlines() if "No space left" in line or "Read-only" in line]


def test_a_full_disk_is_one_line_and_what_was_finished_is_kept(copy, tmp_path):
    imports = ("--target", "results/imports/b.tsv")
    text = (copy / "config.yaml").read_text().replace("batch_size: 20", "batch_size: 60")
    (copy / "config.yaml").write_text(text)
    with disk(tmp_path / "disk", 200) as mounted:
        folder = shutil.copytree(copy, mounted / "study")
        leave_room(mounted, 4000)
        status, said = outcome(folder, *imports)
        assert status == 1
        (line,) = complaints(said)
        assert "No space left on device" in line and "all that is finished is kept" in line
        done = list(folder.glob("results/imports/images/HCC-*/done.json.gz"))
        assert 0 < len(done) < 57
        assert not (folder / "results/imports/b.tsv").exists()
        leave_room(mounted, 100)
        status, said = outcome(folder, *imports)  # not even a start
        assert (status, len(complaints(said))) == (1, 1)
        leave_room(mounted, 60000)
        run(folder, *imports)
        assert not {path.parent.name for path in done} & set(patients_computed(folder, "imports"))
        run(copy, *imports)
        assert digests(folder) == digests(copy)


@pytest.mark.slow
def test_a_disk_that_is_full_at_one_stage_after_the_other_ends_byte_identical(tmp_path):
    """A study from a feature table on a disk that grows by 700 KB whenever a run fails."""
    source = make_table_study(tmp_path / "study")
    with disk(tmp_path / "disk", 200) as mounted:
        folder = shutil.copytree(source, mounted / "study")
        failures = 0
        leave_room(mounted, 1100)
        while (found := outcome(folder))[0]:
            assert complaints(found[1]), found[1]
            failures += 1
            leave_room(mounted, 1100 + 700 * (failures % 3))
        assert failures >= 3
        run(source)
        assert digests(folder) == digests(source)


@pytest.mark.parametrize("name", ["table.tsv", "table.parquet", "list.json"])
def test_tables_name_a_full_disk_and_leave_what_was_there(tmp_path, name):
    """The error carries the number by which a job knows it, whatever library wrote."""
    large = pd.DataFrame(np.random.default_rng(0).random((2000, 100)), columns=[f"f{n}" for n in range(100)])

    def write(frame: pd.DataFrame) -> None:
        if name.endswith(".json"):
            write_json(frame.to_numpy().tolist(), mounted / name)
        else:
            write_table(frame, mounted / name)

    with disk(tmp_path / "disk", 1) as mounted:
        write(large.head(3))
        before = (mounted / name).read_bytes()
        with pytest.raises(OSError) as caught:
            write(large)
        assert caught.value.errno == errno.ENOSPC
        assert (mounted / name).read_bytes() == before
        assert [path.name for path in mounted.iterdir()] == [name]


def test_a_read_only_folder_is_one_line(copy, tmp_path):
    with disk(tmp_path / "disk", 200) as mounted:
        folder = shutil.copytree(copy, mounted / "study")
        remount(mounted, "ro")
        status, said = outcome(folder, *COHORT)
    assert status == 1
    told = "results cannot be written (Read-only file system); expected a folder with room to write"
    assert said == f"hccstudy: {folder}: {told}\n"


def test_a_full_temporary_folder_is_no_hindrance(copy, tmp_path):
    """Nothing of a run lies there; Snakemake and the libraries go elsewhere."""
    with disk(tmp_path / "disk", 0.05) as mounted:
        (mounted / "filler").write_bytes(bytes(shutil.disk_usage(mounted).free))
        assert shutil.disk_usage(mounted).free == 0
        status, said = outcome(copy, *COHORT, TMPDIR=str(mounted))
        assert status == 0, said
        assert "Traceback" not in said
