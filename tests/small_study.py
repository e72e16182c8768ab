"""A small simulated study in a folder of its own, run through the real Snakefile."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import yaml

from hccstudy.simulate import simulate_study
from hccstudy.tables import read_text_table, write_table

OVERLAY = {
    "study": {"name": "small", "title": "A small simulated study", "seed": 3},
    "cohort": {
        "patients": "patients.tsv",
        "images": "images.tsv",
        "simulation": None,
        "minimum_patients": 5,
        "batch_size": 20,
    },
    "endpoints": {"mvi": {"type": "binary", "label": "MVI", "column": "mvi"}},
    "series": {
        "portal": {"modality": "CT", "spacing": [4, 4, 4], "window": [-200, 400], "parameters": "plain.yaml"},
    },
    "regions": {"rings": {"ring_0_10": [0, 10]}, "minimum_voxels": 8},
    "models": {
        "clinical": {"predictors": "clinical", "estimator": "linear"},
        "radiomics": {"predictors": "radiomics", "estimator": "lasso"},
    },
    "stability": {"method": "perturbation", "patients": 24, "perturbations": 1},
    "resampling": {"folds": 3, "inner_folds": 2, "optimism": 2},
    "validation": {"bootstrap": 50},
}
PATIENT_RULES = ("import_images", "preprocess_images", "make_regions", "extract_features", "measure_repeats")
# run where hccstudy does (Snakefile: localrules)
LOCAL_RULES = ("all", "split_cohort", "collect_acquisition", "collect_ledger", "record_provenance")
PARAMETERS = "setting: {binWidth: 25}\nimageType: {Original: {}}\nfeatureClass: {shape: , firstorder: , glcm: }\n"

# written anew at each run, or the time of each run
VOLATILE = ("logs", "benchmarks")


def make_study(folder: Path, patients: int = 60) -> Path:
    simulate_study(folder, patients=patients, seed=5)
    (folder / "plain.yaml").write_text(PARAMETERS)
    configure(folder)
    return folder


def configure(folder: Path, **changes) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(OVERLAY | changes))


def command(folder: Path, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("hccstudy")), "run", str(folder), "--cores", "2", *arguments]


def run(folder: Path, *arguments: str) -> str:
    """Run the study to its end and return what Snakemake said."""
    done = subprocess.run(command(folder, *arguments), capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-4000:]
    return text


def jobs(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from Snakemake's table of job stats; {} where nothing is to be done."""
    table: dict[str, int] = {}
    inside = False
    for line in output.splitlines():
        fields = line.split()
        inside = (inside and len(fields) == 2) or line.startswith("-----")
        if inside and len(fields) == 2 and fields[1].isdigit():
            table[fields[0]] = int(fields[1])
    return table


def submissions(planned: dict[str, int]) -> int:
    """Jobs that a cluster gets: a batch goes through its rules in one, small rules stay at home."""
    alone = sum(number for rule, number in planned.items() if rule not in (*PATIENT_RULES, *LOCAL_RULES, "total"))
    return planned["import_images"] + alone


def kill_after(folder: Path, condition, *arguments: str) -> None:
    """Start a run and SIGKILL its whole process group once `condition()` holds."""
    process = subprocess.Popen(
        command(folder, *arguments),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every result that a person cites: tables, cards, models, figures, the report."""
    results = folder / "results"
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.relative_to(results).parts[0] not in VOLATILE
    }


def add_patient(folder: Path, new: str) -> None:
    """Append a patient: the row and image of another, one voxel changed so that it is an image of its own."""
    import SimpleITK as sitk

    patients, images = (read_text_table(folder / f"{name}.tsv") for name in ("patients", "images"))
    model = patients[patients["center"] == "Aldbrook"].iloc[-1]
    rows = images[(images["patient"] == model["patient"]) & (images["series"] == "portal") & (images["reader"] == "A")]
    image = sitk.ReadImage(str(folder / rows["image"].iloc[0]))
    image[3, 3, 3] = 0
    sitk.WriteImage(image, str(folder / f"images/{new}.nii.gz"))
    shutil.copyfile(folder / rows["mask"].iloc[0], folder / f"images/{new}_mask.nii.gz")
    row = rows.iloc[[0]].assign(patient=new, image=f"images/{new}.nii.gz", mask=f"images/{new}_mask.nii.gz")
    write_table(pd.concat([images, row]), folder / "images.tsv")
    write_table(pd.concat([patients, model.to_frame().T.assign(patient=new)]), folder / "patients.tsv")


def patients_computed(folder: Path, stage: str) -> list[str]:
    """Who was computed, not found unchanged, in the stage's last run (from its logs)."""
    lines = [line for log in (folder / f"results/logs/{stage}").glob("b*.log") for line in log.read_text().splitlines()]
    done = [line.rsplit("hccstudy.batches: ", 1)[1] for line in lines if "hccstudy.batches: " in line]
    return sorted(line.split()[1].rstrip(":") for line in done if not line.endswith("unchanged"))
