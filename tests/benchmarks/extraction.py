"""Speed and memory of the extraction, against pyradiomics 3.0.1 and, where there is one, pictologics.

    python tests/benchmarks/extraction.py                     all parts (about half an hour)
    python tests/benchmarks/extraction.py pairs --cases ct10  one part, one case
    python tests/benchmarks/extraction.py --quick             fewer rotations and repeats
    python tests/benchmarks/extraction.py --write docs/performance.md

Images are generated: CT 512 x 512 x 60 (0.75 x 0.75 x 3 mm) with a tumor of 10, 25 or 45 mm radius and MR 320 x 260 x
72 (1 x 1 x 2 mm) with one of 25 mm, each with the ring of 10 mm around it. Recipe: original, wavelet coif1, LoG 1-5 mm,
1 x 1 x 1 mm, bin width 25: 1,316 features a region. Every process has one thread. What is compared runs in turn in the
same rotation, and only ratios of one rotation are reported, as medians: the speed of a shared machine changes by the
minute. Parts: pairs, stages, process, jobs, memory, batch, compile, equality, pictologics.
"""

# ruff: noqa: E402 - the environment is set before the libraries that read it
from __future__ import annotations

import os

# before numpy, numba and SimpleITK are imported, and for all child processes
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys((*THREADS, "PICTOLOGICS_NUM_THREADS"), "1"))

import argparse
import cProfile
import csv
import json
import logging
import math
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor
from scipy.ndimage import gaussian_filter, zoom

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from blocks import replace_block

from extraction_cases import difference, tolerance
from hccstudy.engine.extract import extract

RECIPE = """\
setting: {binWidth: 25, resampledPixelSpacing: [1, 1, 1], interpolator: sitkBSpline}
imageType: {Original: {}, Wavelet: {}, LoG: {sigma: [1.0, 2.0, 3.0, 4.0, 5.0]}}
featureClass: {shape: , firstorder: , glcm: , glrlm: , glszm: , gldm: , ngtdm: }
"""
REGIONS = {"tumor": 1, "ring": 2}
BIN = Path(sys.executable).parent
Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Generated:
    """A generated image: voxels (x, y, z), voxel size (mm), tumor radius (mm)."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    radius: float


CT, MR = ((512, 512, 60), (0.75, 0.75, 3.0)), ((320, 260, 72), (1.0, 1.0, 2.0))
CASES = {
    "ct10": Generated(*CT, 10),
    "ct25": Generated(*CT, 25),
    "mr25": Generated(*MR, 25),
    "ct45": Generated(*CT, 45),
}


def generate(folder: Path, name: str) -> tuple[str, str]:
    """Write the image and its labels (1 tumor, 2 ring) once; returns the two paths."""
    image, labels = folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"
    if not labels.exists():
        case = CASES[name]
        shape = case.size[::-1]
        rng = np.random.default_rng(20260101)
        noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.7)
        coarse = zoom(gaussian_filter(rng.standard_normal([n // 4 + 1 for n in shape]), 2), 4, order=1)
        coarse = coarse[tuple(map(slice, shape))]
        axes = [(np.arange(n) - n / 2) * s for n, s in zip(shape, case.spacing[::-1], strict=True)]
        distance = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
        distance += 0.05 * case.radius * coarse / coarse.std()  # a lumpy ball
        values = 60 + 90 * noise / noise.std() + 50 * coarse / coarse.std() + 40 * (distance < case.radius)
        pixels = values.round().astype(np.int16) if name.startswith("ct") else (values + 400).astype(np.float32)
        regions = np.where(distance < case.radius, 1, np.where(distance < case.radius + 10, 2, 0)).astype(np.uint8)
        for array, path in ((pixels, image), (regions, labels)):
            written = sitk.GetImageFromArray(array)
            written.SetSpacing(case.spacing)
            sitk.WriteImage(written, str(path))
    return str(image), str(labels)


# ---------------------------------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------------------------------


def ours(image: str, labels: str, parameters: str) -> dict[str, Any]:
    """As `hccstudy features` does it: files read once, both regions together."""
    mask = sitk.ReadImage(labels)
    regions = dict.fromkeys(REGIONS, mask)
    return extract(sitk.ReadImage(image), regions, parameters, labels=REGIONS, names="pyradiomics", engine="fast")


@cache
def extractor(parameters: str) -> RadiomicsFeatureExtractor:
    return RadiomicsFeatureExtractor(parameters, additionalInfo=False)


def pyradiomics(image: str, labels: str, parameters: str) -> dict[str, Any]:
    """As its command line does it: files read for each region."""
    return {region: extractor(parameters).execute(image, labels, label=label) for region, label in REGIONS.items()}


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
    """Seconds of CPU (children that have ended included), seconds of wall, result."""
    wall, cpu = time.perf_counter(), _cpu()
    result = function(*arguments)
    return _cpu() - cpu, time.perf_counter() - wall, result


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rotations(number: int, *functions: Callable[[], Any]) -> list[list[tuple[float, float, Any]]]:
    """Time the functions in turn, in alternating order; per rotation a list in the order given."""
    found = []
    for turn in range(number):
        order = range(len(functions)) if turn % 2 else reversed(range(len(functions)))
        times = {place: timed(functions[place]) for place in order}
        found.append([times[place] for place in range(len(functions))])
    return found


def run(line: list[str], cache: str = "") -> str:
    """Standard output of a command that must succeed; `cache`: another folder for compiled kernels."""
    done = subprocess.run(line, capture_output=True, text=True, env=environment(cache), check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def environment(cache: str) -> dict[str, str]:
    return os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {})


def command(table: Path, parameters: str, out: Path, jobs: int = 1) -> list[str]:
    start = [str(BIN / "hccstudy"), "features", str(table), "--settings", parameters, "--out", str(out)]
    return [*start, "--mode", "parity", "--names", "pyradiomics", "--jobs", str(jobs)]


def hccstudy(table: Path, parameters: str, out: Path, jobs: int = 1) -> str:
    return run(command(table, parameters, out, jobs))


def write_table(path: Path, images: list[tuple[str, str]]) -> Path:
    """The table of `hccstudy features`: a row per region of each image."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["patient", "region", "image", "mask", "label"])
        for number, (image, labels) in enumerate(images):
            writer.writerows([f"P{number}", region, image, labels, label] for region, label in REGIONS.items())
    return path


def copies(folder: Path, images: list[tuple[str, str]], number: int) -> list[tuple[str, str]]:
    """Links to the images in turn, as if they were `number` patients."""
    places = []
    for count in range(number):
        links = [folder / f"copy{count}_{kind}.nii.gz" for kind in ("image", "labels")]
        for link, target in zip(links, images[count % len(images)], strict=True):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        places.append((str(links[0]), str(links[1])))
    return places


def unequal(found: dict[str, float], expected: dict[str, float]) -> tuple[int, int, float]:
    """Values beyond tolerance, values, and the largest relative difference but for those with tolerance 1e-6."""
    assert set(found) == set(expected)
    all_of = {name: difference(name, found[name], value, expected) for name, value in expected.items()}
    strict = max(value for name, value in all_of.items() if tolerance(name) < 1e-6)
    return sum(value > tolerance(name) for name, value in all_of.items()), len(all_of), strict


def ratio_row(times: list[list[tuple[float, float, Any]]], names: tuple[str, str]) -> dict[str, Any]:
    """Medians of two things timed in turn: seconds of each and, of every rotation, the second by the first."""
    row: dict[str, Any] = {}
    for place, kind in enumerate(("CPU", "wall")):
        for which, name in enumerate(names):
            row[f"{name}, {kind} s"] = median(turn[which][place] for turn in times)
    for place, kind in enumerate(("CPU", "wall")):
        row[f"ratio, {kind}"] = median(turn[1][place] / turn[0][place] for turn in times)
    return row


# ---------------------------------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    folder: Path
    parameters: str
    cases: list[str]
    rotations: int
    quick: bool
    pictologics: str | None

    def images(self, *names: str) -> list[tuple[str, str]]:
        return [generate(self.folder, name) for name in names or self.cases]


def pairs(bench: Bench) -> Table:
    """Both regions of an image, one thread, in one process: pyradiomics against ours; all values compared."""
    ours(*bench.images("ct10")[0], bench.parameters)  # loads the kernels
    table = []
    for name in bench.cases:
        (files,) = bench.images(name)
        times = rotations(
            bench.rotations,
            lambda files=files: ours(*files, bench.parameters),
            lambda files=files: pyradiomics(*files, bench.parameters),
        )
        _, _, found = times[-1][0]
        _, _, expected = times[-1][1]
        wrong, count, largest = np.array(
            [unequal(found[region], {n: float(v) for n, v in expected[region].items()}) for region in REGIONS]
        ).T
        voxels = ", ".join(f"{float(expected[region]['original_shape_VoxelVolume']) / 1000:.0f}k" for region in REGIONS)
        table.append(
            {"case": name, "voxels": voxels}
            | ratio_row(times, ("ours", "pyradiomics"))
            | {"unequal": f"{sum(wrong):.0f} of {sum(count):.0f}", "largest difference": f"{max(largest):.0e}"}
        )
    geometric = {f"ratio, {kind}": math.prod(row[f"ratio, {kind}"] for row in table) for kind in ("CPU", "wall")}
    return [*table, {"case": "geometric mean"} | {name: v ** (1 / len(table)) for name, v in geometric.items()}]


STAGES = {
    "reading": ("ReadImage",),
    "resampling": ("prepare",),
    "LoG": ("laplacian_of_gaussian",),
    "wavelets": ("wavelets",),
    "discretization": ("levels",),
    "first order": ("first_order",),
    "GLCM": ("count_pairs",),
    "GLDM, NGTDM": ("compare_neighbors",),
    "GLRLM": ("count_runs",),
    "GLSZM": ("measure_zones",),
    "texture formulae": ("formulae.py:glcm", "sizes", "ngtdm"),
    "shape": ("shape.py:shape",),
}


def stages(bench: Bench) -> Table:
    """What the time of both regions is spent on (ms, by a profiler, which slows small things down a little)."""
    table = []
    for name in bench.cases:
        (files,) = bench.images(name)
        ours(*files, bench.parameters)
        profiler = cProfile.Profile()
        profiler.runcall(ours, *files, bench.parameters)
        found = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
        spent = {}
        for stage, functions in STAGES.items():
            named = [
                times[3]
                for (file, _, function), times in found.items()
                if any(
                    f"{Path(file).name}:{function}".endswith(wanted if ":" in wanted else f":{wanted}")
                    for wanted in functions
                )
            ]
            assert named, stage
            spent[stage] = 1000 * sum(named)
        whole = 1000 * max(times[3] for times in found.values())
        table.append({"case": name} | spent | {"rest": whole - sum(spent.values()), "all": whole})
    return table


def process(bench: Bench) -> Table:
    """The two command lines, start to end, on two regions of every image."""
    images = bench.images()
    table = write_table(bench.folder / "process.csv", images)
    batch = bench.folder / "batch.csv"
    with batch.open("w", newline="") as handle:
        rows = [(*files, label) for files in images for label in REGIONS.values()]
        csv.writer(handle).writerows([("Image", "Mask", "Label"), *rows])
    out, theirs = bench.folder / "process_ours.csv", bench.folder / "process_theirs.csv"
    line = [str(BIN / "pyradiomics"), str(batch), "--param", bench.parameters, "--jobs", "1", "--verbosity", "1"]

    def pyradiomics_command() -> None:
        theirs.unlink(missing_ok=True)  # it appends
        run([*line, "--out", str(theirs), "--format", "csv"])

    hccstudy(table, bench.parameters, out)
    times = rotations(
        1 if bench.quick else 3, lambda: hccstudy(table, bench.parameters, out), lambda: pyradiomics_command()
    )
    wrong = count = 0
    with out.open() as first, theirs.open() as second:
        for mine, row in zip(csv.DictReader(first), csv.DictReader(second), strict=True):
            features = {name: float(v) for name, v in row.items() if name.startswith(("original", "wavelet", "log"))}
            more, values, _ = unequal({name: float(mine[name]) for name in features}, features)
            wrong, count = wrong + more, count + values
    row = {"rows": len(rows)} | ratio_row(times, ("ours", "pyradiomics")) | {"unequal": f"{wrong} of {count}"}
    return [row]


def jobs(bench: Bench) -> Table:
    """`--jobs 1` against `--jobs 2` on images of equal size."""
    number = 12 if bench.quick else 40
    table = write_table(bench.folder / "jobs.csv", copies(bench.folder, bench.images("ct25", "mr25"), number))
    out = bench.folder / "jobs.parquet"
    load = os.getloadavg()[0]
    times = rotations(
        1 if bench.quick else 3,
        lambda: hccstudy(table, bench.parameters, out, jobs=2),
        lambda: hccstudy(table, bench.parameters, out, jobs=1),
    )
    row = {"images": number, "load before": load, "cores": os.cpu_count()}
    return [row | ratio_row(times, ("2 jobs", "1 job"))]


# the command as its own process; prints the peak of resident MB
COMMAND = """
import resource, sys
from hccstudy.cli import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

# a worker by itself: arguments image, labels, parameters, times, ...; prints resident MB (now) after each, and the peak
WORKER = """
import resource, sys
sys.path.insert(0, {here!r})
import SimpleITK as sitk
from extraction import ours
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
image, labels, parameters, number = sys.argv[1:]
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
for _ in range(int(number)):
    ours(image, labels, parameters)
    print(now())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory(bench: Bench) -> Table:
    """Peak of the command on the largest case, and growth of a worker over many small ones."""
    script = WORKER.format(here=str(Path(__file__).parent))
    python, number = sys.executable, 60 if bench.quick else 200
    (largest,), (small,) = bench.images(bench.cases[-1]), bench.images("ct10")
    table = write_table(bench.folder / "memory.csv", [largest])
    line = command(table, bench.parameters, bench.folder / "memory_out.csv")[1:]
    peak = float(run([python, "-c", COMMAND, *line]).split()[-1])
    *series, _ = map(float, run([python, "-c", script, *small, bench.parameters, str(number)]).split())
    # medians of 20: an image that was just read, and not yet let go, is 30 MB
    early, late = median(series[10:30]), median(series[-20:])
    row = {"peak, largest case, MB": peak, "small cases": number, "at 10-30, MB": early}
    return [row | {"at the end, MB": late, "growth, MB": late - early}]


def batch(bench: Bench) -> Table:
    """What a process of many cases needs besides the cases: from batches of 2 and of 50, the time at 0 cases."""
    sizes = (2, 50)
    images = copies(bench.folder, bench.images("ct25", "mr25"), max(sizes))
    tables = [write_table(bench.folder / f"batch{size}.csv", images[:size]) for size in sizes]
    out = bench.folder / "batch.parquet"
    times = rotations(
        1 if bench.quick else 3, *(lambda table=table: hccstudy(table, bench.parameters, out) for table in tables)
    )
    walls = [[turn[place][1] for turn in times] for place in range(2)]
    each = median((large - few) / (sizes[1] - sizes[0]) for few, large in zip(*walls, strict=True))
    overhead = median(walls[0]) - sizes[0] * each
    row = {"cases": sizes[1], "wall s": median(walls[1]), "s a case": each, "overhead s": overhead}
    return [row | {"overhead, % of batch": 100 * overhead / median(walls[1])}]


# the command in a process that finds no folder for compiled kernels
NOWHERE = """
import tempfile
def refuse(**_): raise PermissionError("read-only")
keep, tempfile.TemporaryFile = tempfile.TemporaryFile, refuse
from hccstudy.engine import jit
assert jit.FOLDER is None
tempfile.TemporaryFile = keep
from hccstudy.cli import main
"""


def compile_kernels(bench: Bench) -> Table:
    """First run with an empty kernel cache, four at once on one, and a cache folder that cannot be written."""
    table = write_table(bench.folder / "compile.csv", bench.images("ct10"))
    out = [bench.folder / f"compile{number}.csv" for number in range(4)]

    def first(cache: str) -> None:
        run(command(table, bench.parameters, out[0]), cache)

    rows = []
    with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
        for what in ("empty cache", "the same cache again"):
            cpu, wall, _ = timed(first, cache)
            rows.append({"what": what, "CPU s": cpu, "wall s": wall})
    expected = out[0].read_text()
    nowhere = NOWHERE + f"main({command(table, bench.parameters, out[0])[1:]})"
    _, wall, _ = timed(run, [sys.executable, "-c", nowhere], "/proc/no/such/folder")
    rows.append({"what": "no folder that can be written", "wall s": wall, "equal": out[0].read_text() == expected})
    with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
        start = time.perf_counter()
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment(cache)}
        running = [subprocess.Popen(command(table, bench.parameters, path), **silent) for path in out]
        codes = [child.wait() for child in running]
        wall = time.perf_counter() - start
    same = not any(codes) and all(path.read_text() == expected for path in out)
    rows.append({"what": "four processes at once, one empty cache", "wall s": wall, "equal": same})
    return rows


# run by an interpreter that has pictologics: a line [image, labels] in, a line [CPU s, wall s, features] out
PICTOLOGICS = """
import contextlib, itertools, json, sys, time
from pictologics import RadiomicsPipeline
answers = sys.stdout
pipeline = RadiomicsPipeline(load_standard=False)
bands = ["".join(letters) for letters in itertools.product("LH", repeat=3)]
filters = {"original": None}
filters |= {b: {"type": "wavelet", "wavelet": "coif1", "level": 1, "decomposition": b} for b in bands}
filters |= {f"log{s}": {"type": "log", "sigma_mm": float(s)} for s in range(1, 6)}
for name, filter in filters.items():
    steps = [{"step": "resample", "params": {"new_spacing": (1.0, 1.0, 1.0), "interpolation": "cubic"}}]
    if filter:
        steps.append({"step": "filter", "params": filter})
    steps.append({"step": "discretise", "params": {"method": "FBS", "bin_width": 25.0, "min_val": START}})
    families = ["intensity", "texture"] + ([] if filter else ["morphology"])
    options = {"include_spatial_intensity": False, "include_local_intensity": False}
    steps.append({"step": "extract_features", "params": {"families": families} | options})
    pipeline.add_config(name, steps)
for line in sys.stdin:
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        found = pipeline.run_rois(*json.loads(line), labels={"tumor": 1, "ring": 2})
    count = sum(int(values.notna().sum()) for region in found.values() for values in region.values())
    print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall, count]), file=answers, flush=True)
""".replace("START", "-500.0")


def pictologics(bench: Bench) -> Table:
    """pictologics on full images, both regions in one call, similar settings (IBSI definitions) against ours."""
    if not bench.pictologics:
        return [{"skipped": "--pictologics PYTHON was not given (a Python >= 3.12 that has pictologics)"}]
    line = [bench.pictologics, "-W", "ignore", "-c", PICTOLOGICS]
    child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout

    def ask(files: tuple[str, str]) -> tuple[float, float, Any]:
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps(files) + "\n")
        child.stdin.flush()
        cpu, wall, count = json.loads(child.stdout.readline())
        return cpu, wall, count

    table = []
    for files in bench.images("ct10"):  # compiles
        ask(files), ours(*files, bench.parameters)
    for name in bench.cases:
        (files,) = bench.images(name)
        times = []
        for turn in range(bench.rotations):
            two = [lambda f=files: timed(ours, *f, bench.parameters), lambda f=files: ask(f)]
            found = {place: two[place]() for place in ((0, 1) if turn % 2 else (1, 0))}
            times.append([found[0], found[1]])
        row = ratio_row(times, ("ours", "pictologics"))
        table.append({"case": name} | row | {"its values": times[0][1][2]})
    child.stdin.close()
    child.wait()
    return table


def equality(bench: Bench) -> Table:
    """Largest relative differences between the engines over the cases of tests/test_engine.py, by case."""
    from test_engine import largest_differences

    return [
        {name: f"{value:.0e}" if isinstance(value, float) and value else value for name, value in row.items()}
        for row in largest_differences()
    ]


PARTS = {
    "pairs": pairs,
    "stages": stages,
    "process": process,
    "jobs": jobs,
    "memory": memory,
    "batch": batch,
    "compile": compile_kernels,
    "equality": equality,
    "pictologics": pictologics,
}


def markdown(table: Table) -> str:
    columns = list(dict.fromkeys(name for row in table for name in row))
    cells = [[_cell(row.get(name, "")) for name in columns] for row in table]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rotations", type=int, help="of pairs and pictologics (default: 5; quick: 2)")
    parser.add_argument("--quick", action="store_true", help="fewer rotations, smaller batches")
    parser.add_argument("--folder", type=Path, help="keep the generated images here (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    parser.add_argument("--write", help="Markdown file whose blocks of these parts are replaced")
    parser.add_argument("--pictologics", metavar="PYTHON", help="interpreter (>= 3.12) that has pictologics")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    logging.getLogger("radiomics").setLevel(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    tables = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        parameters = folder / "parameters.yaml"
        parameters.write_text(RECIPE)
        turns = options.rotations or (2 if options.quick else 5)
        bench = Bench(folder, str(parameters), options.cases, turns, options.quick, options.pictologics)
        for name in options.parts or PARTS:
            tables[name] = PARTS[name](bench)
            text = f"{PARTS[name].__doc__} Load {os.getloadavg()[0]:.1f}.\n\n{markdown(tables[name])}"
            print(f"### {name}\n\n{text}\n", flush=True)
            if options.write:
                replace_block(options.write, name, text)
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
