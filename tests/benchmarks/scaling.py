"""How a study of many patients scales: seconds and memory of the graph, a rerun that finds nothing to do, submissions, disk.

    .venv/bin/python tests/benchmarks/scaling.py --patients 100 1000 10000 --write docs/scaling.md     # 15 minutes
    .venv/bin/python tests/benchmarks/scaling.py --disk 10000 --write docs/scaling.md                  # minutes
    .venv/bin/python tests/benchmarks/scaling.py --memory 100 400 1000 --write docs/scaling.md         # minutes
    .venv/bin/python tests/benchmarks/scaling.py --slurm --write docs/scaling.md                       # root, Debian; 15 minutes

Images are stubs (two series of 12 x 12 x 12 voxels a patient), so that what is measured is everything but the imaging: the real
Snakefile, all of its rules, its tables, models and report. `--slurm` starts the cluster of tests/slurm.
"""

# ruff: noqa: E402 - modules of tests/ are found first
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
import yaml

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.blocks import replace_block
from hccstudy.batches import assign_batches, process_batch
from hccstudy.features import collect_features
from hccstudy.tables import write_table
from small_study import jobs, submissions

REPOSITORY = Path(__file__).resolve().parents[2]
BATCH = 200
SERIES = ("arterial", "portal")
CENTERS = ("Aldbrook", "Brennac", "Corvale", "Dunmoor")
STUDY = {
    "study": {"name": "scaling", "title": "Stub images", "seed": 1},
    "cohort": {
        "patients": "patients.tsv",
        "images": "images.tsv",
        "simulation": None,
        "centers": {"development": list(CENTERS[:3]), "external": [CENTERS[3]]},
        "columns": {"age": {"type": "number", "label": "Age", "unit": "years", "range": [18, 100]}},
        "batch_size": BATCH,
    },
    "endpoints": {"mvi": {"type": "binary", "label": "MVI", "column": "mvi"}},
    "series": {name: {"modality": "CT", "spacing": [3, 3, 3], "parameters": "first.yaml"} for name in SERIES},
    "imports": {"labels": {"tumor": 1, "liver": None, "lesions": None}},
    "regions": {"rings": {}, "minimum_voxels": 8},
    "stability": {"method": "none"},
    "predictors": {"clinical": ["age"]},
    "models": {
        "clinical": {"predictors": "clinical", "estimator": "linear"},
        "radiomics": {"predictors": "radiomics", "estimator": "linear", "features": "stat_mean$|stat_var$"},
    },
    "resampling": {"folds": 3, "inner_folds": 2, "optimism": 0},
    "validation": {"bootstrap": 50},
}
QUICK = [
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "2",
    "--latency-wait",
    "5",
]
APART = ["--groups", "import_images=a", "preprocess_images=b", "make_regions=c", "extract_features=d"]
WAYS = [  # name, patients in a batch, patients measured, further options
    ("one patient a job, each rule a submission", 1, 8, APART),
    ("one patient a job, its rules in one submission", 1, 8, []),
    ("a batch of 50, each rule a submission", 50, 50, APART),
    ("a batch of 50, its rules in one submission", 50, 50, []),
    ("a batch of 200, its rules in one submission", 200, 200, []),
    ("a batch of 1,000, its rules in one submission", 1000, 1000, []),
]
# A command counts as its own what the process that starts it holds, so a small one does: status, CPU seconds, kB.
WATCH = """
import json, os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
with open(sys.argv[1], "w") as file:
    json.dump([status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
"""
PARAMETERS = "setting: {binWidth: 25}\nimageType: {Original: {}}\nfeatureClass: {firstorder: }\n"


@dataclass
class Cost:
    """Of a command: wall seconds, CPU seconds with those of its children, largest memory of one process, what it said."""

    seconds: float
    cpu: float
    peak_mb: float
    text: str


def make_cohort(folder: Path, patients: int) -> None:
    """A cohort whose images are as small as they can be; every image has noise of its own."""
    rng = np.random.default_rng(1)
    (folder / "images").mkdir(parents=True)
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[4:8, 4:8, 4:8] = 1
    _write(mask, folder / "images/mask.nii.gz")
    rows, images = [], []
    for number in range(patients):
        name = f"P{number:05d}"
        mvi = int(rng.random() < 0.4)
        rows.append((name, CENTERS[number % 4], round(float(np.clip(rng.normal(60 + 4 * mvi, 8), 20, 95)), 1), mvi))
        for series in SERIES:
            image = rng.normal(60 + 5 * mvi, 20, mask.shape).astype(np.int16)
            _write(image, folder / f"images/{name}_{series}.nii.gz")
            images.append((name, series, "A", f"images/{name}_{series}.nii.gz", "images/mask.nii.gz"))
    columns = ["patient", "center", "age", "mvi"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "patients.tsv", sep="\t", index=False)
    columns = ["patient", "series", "reader", "image", "mask"]
    pd.DataFrame(images, columns=columns).to_csv(folder / "images.tsv", sep="\t", index=False)
    (folder / "first.yaml").write_text(PARAMETERS)
    configure(folder)


def _write(array: np.ndarray, path: Path, spacing: tuple[float, float, float] = (3, 3, 3)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


def configure(folder: Path, changes: Mapping[str, object] | None = None, **cohort: object) -> None:
    study = STUDY | {"cohort": STUDY["cohort"] | cohort} | dict(changes or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(study))


def hccstudy(folder: Path, *arguments: str) -> Cost:
    """`hccstudy run FOLDER ...`; SystemExit where it fails."""
    command = [str(Path(sys.executable).with_name("hccstudy")), "run", str(folder), *arguments]
    with tempfile.NamedTemporaryFile() as usage:
        watched = [sys.executable, "-S", "-c", WATCH, usage.name, *command]
        started = time.monotonic()
        done = subprocess.run(watched, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        seconds = time.monotonic() - started
        status, cpu, peak = json.load(usage)
    if status:
        raise SystemExit(done.stdout[-3000:])
    return Cost(seconds, cpu, peak / 1024, done.stdout)


def disk_mb(folder: Path) -> float:
    """Results without images, as the disk counts them."""
    files = (path for path in (folder / "results").rglob("*") if path.is_file() and not path.name.endswith(".nii.gz"))
    return sum(path.stat().st_blocks * 512 for path in files) / 1e6


def scale(counts: list[int], place: Path) -> str:
    rows = []
    for count in counts:
        folder = place / f"scale-{count}"
        shutil.rmtree(folder, ignore_errors=True)
        make_cohort(folder, count)
        configure(folder, batch_size=1)
        single = hccstudy(folder, "--dry-run", "--quiet", "rules")
        configure(folder)
        graph = hccstudy(folder, "--dry-run", "--quiet", "rules")
        run = hccstudy(folder)
        again = hccstudy(folder)
        assert "nothing to be done" in again.text, again.text
        planned, alone = jobs(graph.text), jobs(single.text)
        rows.append(
            f"| {count:,} | {alone['total']:,} | {single.seconds:.0f} s, {single.peak_mb:,.0f} MB | {planned['total']:,} | "
            f"{graph.seconds:.1f} s, {graph.peak_mb:,.0f} MB | {submissions(planned):,} | {run.seconds / 60:.1f} min | "
            f"{1000 * (run.seconds * os.cpu_count() / count):,.0f} ms | {again.seconds:.1f} s, {again.peak_mb:,.0f} MB | "
            f"{disk_mb(folder):,.0f} MB |"
        )
        print(rows[-1], flush=True)
        shutil.rmtree(folder)
    head = (
        "| patients | jobs, one a patient | graph | jobs, batches of 200 | graph | submissions | whole run | core time a "
        "patient | rerun with nothing to do | results without images |"
    )
    return "\n".join([head, "|" + "---|" * 10, *rows])


def memory(slices: list[int], place: Path) -> str:
    """The largest process of each stage for one patient whose CT has 512 x 512 x `slices` voxels, against what its job asks for.

    0.8 x 0.8 x 1 mm on the 1 mm grid, a tumor of 80 mm with its ring, the parameters of `hccstudy init`.
    """
    stages = ("imports", "preprocess", "regions", "features")
    rows = []
    for count in slices:
        folder = place / f"scale-memory-{count}"
        shutil.rmtree(folder, ignore_errors=True)
        make_cohort(folder, 60)
        _make_large(folder, count)
        table = pd.read_csv(folder / "images.tsv", sep="\t")
        table.loc[0, ["image", "mask"]] = ["images/large.nii", "images/large_mask.nii"]
        table.to_csv(folder / "images.tsv", sep="\t", index=False)
        shutil.copyfile(REPOSITORY / "config/pyradiomics/ct.yaml", folder / "first.yaml")
        series = {"modality": "CT", "spacing": [1, 1, 1], "window": [-200, 400], "parameters": "first.yaml"}
        configure(folder, {"series": {SERIES[0]: series}, "regions": {"rings": {"ring": [0, 10]}}}, batch_size=1)
        patients = pd.read_csv(folder / "patients.tsv", sep="\t")["patient"]
        (batch,) = (
            name for name, members in assign_batches(list(patients), 1).items() if table.loc[0, "patient"] in members
        )
        peaks = []
        for stage in stages:
            file = f"results/{stage}/{batch}.{'parquet' if stage == 'features' else 'tsv'}"
            peaks.append(hccstudy(folder, "--cores", "1", "--target", file).peak_mb)
        size = (folder / "images/large.nii").stat().st_size // 10**6
        asked = 1500 + 15 * size  # memory_mb of workflow/rules/common.smk
        rows.append(
            f"| 512 x 512 x {count:,} ({size:,} MB) | "
            + " | ".join(f"{peak:,.0f} MB" for peak in peaks)
            + f" | {asked:,} MB |"
        )
        print(rows[-1], flush=True)
        shutil.rmtree(folder)
    return "\n".join([f"| CT | {' | '.join(stages)} | asked for |", "|" + "---|" * (len(stages) + 2), *rows])


def _make_large(folder: Path, slices: int) -> None:
    z, y, x = np.ogrid[:slices, :512, :512]
    tumor = ((z - slices / 2) ** 2 + (0.8 * (y - 256)) ** 2 + (0.8 * (x - 256)) ** 2 < 40**2).astype(np.uint8)
    voxels = np.random.default_rng(slices).integers(-100, 200, tumor.shape, dtype=np.int16)
    voxels[tumor == 1] += 50
    _write(voxels, folder / "images/large.nii", (0.8, 0.8, 1))
    _write(tumor, folder / "images/large_mask.nii", (0.8, 0.8, 1))


def feature_disk(patients: int, place: Path) -> str:
    """What the features of a full recipe take, random numbers, tumor and ring in two series, as the stages write them."""
    folder = place / "scale-disk"
    shutil.rmtree(folder, ignore_errors=True)
    names = [f"wavelet-{number:04d}_glcm_a_name_of_usual_length" for number in range(1061)]
    regions = [(series, region) for series in SERIES for region in ("tumor", "ring_0_10")]
    rng = np.random.default_rng(1)

    def measure(case: dict[str, str], scratch: Path) -> list[dict[str, object]]:
        keys = case | {"reader": "A"}
        return [
            keys | {"series": series, "region": region} | dict(zip(names, rng.normal(size=1061).tolist(), strict=True))
            for series, region in regions
        ]

    tables = []
    for batch, members in assign_batches([f"P{number:05d}" for number in range(patients)], BATCH).items():
        cases = [{"patient": patient, "center": CENTERS[0]} for patient in members]
        rows, _ = process_batch(cases, measure, stage="features", folder=folder / "patients", key=1)
        tables.append(str(folder / f"{batch}.parquet"))
        write_table(pd.DataFrame(rows), tables[-1])
    collect_features(tables=tables, primary_reader="", table=str(folder / "features.parquet"))
    parts = {
        "each patient's result (`done.json.gz`)": (folder / "patients").rglob("*.gz"),
        "a table a batch": map(Path, tables),
        "`features.parquet`": [folder / "features.parquet"],
    }
    sizes = {name: sum(file.stat().st_blocks * 512 for file in files) / 1e6 for name, files in parts.items()}
    shutil.rmtree(folder)
    rows = [f"| {name} | {size:,.0f} MB |" for name, size in sizes.items()]
    rows.append(f"| together | {sum(sizes.values()):,.0f} MB |")
    head = f"| {patients:,} patients, 4 regions of 1,061 features each | on disk |"
    return "\n".join([head, "|---|---|", *rows])


def on_slurm(place: Path) -> str:
    """Seconds of a node's core that a patient's jobs take on a real Slurm, from its own record of jobs."""
    state = place / "scale-slurm-state"
    cluster = REPOSITORY / "tests/slurm/cluster.sh"
    settings = os.environ | {"SLURM_SN_DIR": str(state), "SLURM_SN_NODES": "1"}
    subprocess.run([cluster, "start"], check=True, env=settings, stdout=subprocess.DEVNULL)
    try:
        rows = [_slurm_row(place / "scale-slurm", state / "log/jobcomp.log", *way) for way in WAYS]
    finally:
        subprocess.run([cluster, "stop"], check=True, env=settings)
    head = "| jobs | patients | submissions | seconds of a core, a patient | of 5 s |"
    return "\n".join([head, "|" + "---|" * 5, *rows])


def _slurm_row(folder: Path, record: Path, name: str, batch: int, patients: int, options: list[str]) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    make_cohort(folder, max(patients, 50))
    configure(folder, batch_size=batch)
    names = pd.read_csv(folder / "patients.tsv", sep="\t")["patient"]
    batches = assign_batches(list(names), batch)
    chosen: list[str] = []
    while sum(len(batches[name]) for name in chosen) < patients:
        chosen.append(list(batches)[len(chosen)])
    measured = sum(len(batches[name]) for name in chosen)
    record.touch()
    before = len(record.read_text().splitlines())
    targets = [word for name in chosen for word in ("--target", f"results/features/{name}.parquet")]
    hccstudy(folder, "--profile", "slurm", *QUICK, *options, *targets)
    time.sleep(5)  # the last job's line
    jobs = [
        dict(word.split("=", 1) for word in line.split() if "=" in word) for line in record.read_text().splitlines()
    ]
    spans = [datetime.fromisoformat(job["EndTime"]) - datetime.fromisoformat(job["StartTime"]) for job in jobs[before:]]
    cores = [int(job["ProcCnt"]) for job in jobs[before:]]
    each = sum(span.total_seconds() * n for span, n in zip(spans, cores, strict=True)) / measured
    row = f"| {name} | {measured} | {len(spans)} | {each:.2f} | {each / 5:.1%} |"
    print(row, flush=True)
    shutil.rmtree(folder)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[])
    parser.add_argument("--disk", type=int, help="patients whose features are written")
    parser.add_argument("--memory", type=int, nargs="+", default=[], help="slices of a CT")
    parser.add_argument("--slurm", action="store_true", help="measure what a patient costs on a real Slurm")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--write", help="Markdown file whose blocks are replaced")
    options = parser.parse_args()
    if options.patients:
        text = scale(options.patients, options.folder)
        if options.write:
            replace_block(options.write, "scaling", text)
    if options.disk:
        text = feature_disk(options.disk, options.folder)
        print(text)
        if options.write:
            replace_block(options.write, "disk", text)
    if options.memory:
        text = memory(options.memory, options.folder)
        if options.write:
            replace_block(options.write, "memory", text)
    if options.slurm:
        text = on_slurm(options.folder)
        if options.write:
            replace_block(options.write, "slurm", text)


if __name__ == "__main__":
    main()
