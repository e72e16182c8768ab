"""The command line: one door, clear words, exit status 1 for a study that cannot go on."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from hccstudy.cli import main
from hccstudy.config import REPOSITORY, read_yaml, study_file
from hccstudy.errors import StudyError
from hccstudy.launch import check_scheduler, find_profile, read_profile


def test_init_writes_a_commented_study_that_only_lacks_images(tmp_path, capsys):
    folder = tmp_path / "my study"
    assert main(["init", str(folder)]) == 0
    assert {item.name for item in folder.iterdir()} == {"config.yaml", "patients.tsv", "images.tsv", "config"}
    assert "# " in (folder / "config.yaml").read_text()
    assert main(["init", str(folder)]) == 1
    assert "not empty; expected a new folder" in capsys.readouterr().err


def test_a_ready_made_study_keeps_all_but_its_tables(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study"
    assert main(["init", str(folder), "--study", "sarcoma-t1-pet"]) == 0
    ready = read_yaml(study_file("sarcoma-t1-pet"))
    ready["cohort"] |= {"patients": "patients.tsv", "images": "images.tsv"}
    assert read_yaml(folder / "config.yaml") == ready
    monkeypatch.chdir(tmp_path)
    assert main(["check", "study"]) == 1
    assert "patients.tsv: no row; expected one row a patient" in capsys.readouterr().err  # every column is there


def test_check_says_everything_that_is_wrong_at_once(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study"
    main(["init", str(folder)])
    patients = (folder / "patients.tsv").read_text().replace("27.4\t0", "-27.4\t2").replace("\t70\t", "\t700\t")
    (folder / "patients.tsv").write_text(patients)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "study"]) == 1
    error = capsys.readouterr().err
    assert "3 problems" in error
    assert "patients.tsv row 2 (P-001): os_months is '-27.4'; expected > 0" in error
    assert "patients.tsv row 2 (P-001): os_event is '2'; expected 0 (no event) or 1 (event)" in error
    assert "patients.tsv row 3 (P-002): age is '700'; expected 18 to 100 years" in error
    assert f"note: images.tsv: none of the 4 images is there; expected paths relative to {folder}" in error


def test_check_of_the_demo_takes_seconds(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    assert main(["check", "."]) == 0
    assert "no problem found: 120 patients" in capsys.readouterr().out


def test_check_names_a_wrong_key_and_a_missing_parameter_file(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study"
    main(["init", str(folder)])
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("modality: CT", "modalty: CT"))
    monkeypatch.chdir(tmp_path)
    assert main(["check", "study"]) == 1
    assert "unknown key 'modalty' in series.portal; expected modality (did you mean it?)" in capsys.readouterr().err
    (folder / "config.yaml").write_text(text.replace("pyradiomics/ct.yaml", "pyradiomics/absent.yaml"))
    monkeypatch.chdir(tmp_path)
    assert main(["check", "study"]) == 1
    assert "config/pyradiomics/absent.yaml: not readable" in capsys.readouterr().err


def test_a_folder_without_a_study_is_refused(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == 1
    assert "holds no config.yaml; expected a study folder" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_an_unknown_study_or_profile_lists_the_known(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert main(["check", ".", "--study", "liver"]) == 1
    assert "expected one of sarcoma-t1-pet" in capsys.readouterr().err
    assert main(["run", ".", "--profile", "cray", "-n"]) == 1
    assert "no profile 'cray'; expected one of local" in capsys.readouterr().err


def test_a_profile_is_looked_for_from_here_not_from_the_study(tmp_path, monkeypatch):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/config.yaml").write_text("cores: 1\n")
    monkeypatch.chdir(tmp_path)
    assert find_profile("ours") == tmp_path / "ours"
    assert find_profile("slurm") == REPOSITORY / "config/profiles/slurm"
    monkeypatch.chdir("ours")
    with pytest.raises(StudyError, match="no profile ''"):  # an unset variable of a shell
        find_profile("")


def test_a_profile_that_is_none_is_refused(tmp_path):
    for text in ("- jobs", "jobs: [", "", "jobs: 2024-13-45"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(StudyError, match=r"config.yaml: (.|\n)*; expected Snakemake options"):
            read_profile(tmp_path)


def _command(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_scheduler_that_is_not_there_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    def check(name):
        folder = find_profile(name)
        options = read_profile(folder)
        check_scheduler(options.get("executor"), folder, options)

    for name, command in (("slurm", "sbatch"), ("lsf", "bsub"), ("pbs", "qdel")):
        with pytest.raises(StudyError, match=f"profile {name}: no command {command} here; expected a node that"):
            check(name)
        _command(tmp_path, command, "exit 0")
    check("pbs")
    check("local")
    _command(tmp_path, "squeue", "exit 0")
    check("slurm")
    _command(tmp_path, "squeue", "echo Unable to contact slurm controller >&2; exit 1")
    with pytest.raises(StudyError, match=r"profile slurm: Slurm does not answer .*Unable to contact"):
        check("slurm")
    monkeypatch.setattr("hccstudy.launch.SLOW", 0.2)
    _command(tmp_path, "squeue", "exec /bin/sleep 20")
    with pytest.raises(StudyError, match=r"squeue: nothing in 0\.2 s"):
        check("slurm")


@pytest.mark.parametrize("cancel", ["~/our cancel.sh", "$OURS/our cancel.sh", "our cancel.sh", None])
def test_a_cancel_command_of_ones_own_is_found_as_snakemake_finds_it(tmp_path, monkeypatch, cancel):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OURS", str(tmp_path))
    _command(tmp_path, "our cancel.sh", "exit 0")
    check_scheduler("cluster-generic", tmp_path, {"cluster-generic-cancel-cmd": cancel})


def test_an_executor_of_the_command_line_is_the_one_that_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.execve", lambda *_: None)
    simulate = ["simulate", str(tmp_path / "s"), "--patients", "12"]
    assert main(simulate) == 0
    assert "note: too few patients to be studied as config.yaml says" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    for arguments in (["--executor", "slurm"], ["--executor=slurm"], ["-e", "slurm"], ["--profile", "slurm"]):
        assert main(["run", str(tmp_path / "s"), *arguments]) == 1
        assert "no command sbatch here" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "s"), "--profile", "slurm", "--executor", "local"]) == 0


def test_simulate_writes_a_study_with_its_truth_that_is_ready_to_run(tmp_path, capsys, monkeypatch):
    assert main(["simulate", str(tmp_path / "s"), "--patients", "90", "--seed", "4"]) == 0
    assert {item.name for item in (tmp_path / "s").iterdir()} == {
        "patients.tsv",
        "images.tsv",
        "truth.tsv",
        "README.md",
        "images",
        "config.yaml",
        "config",
    }
    assert main(["simulate", str(tmp_path / "s"), "--patients", "6"]) == 1
    assert "not empty; expected a new folder" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["check", "s"]) == 0


@pytest.mark.parametrize("command", ["init", "check", "run", "simulate", "features"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


def test_plain_snakemake_plans_the_demo():
    """`snakemake -n` alone, without the command line, knows the whole study."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--quiet", "rules"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not re.search("Traceback|Error", done.stderr)
