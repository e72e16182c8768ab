# Configuration and cohort, loaded and checked; wildcard constraints; input functions. No rules.

import functools

from hccstudy.batches import ATTEMPTS, MORE, assign_batches
from hccstudy.cohort import (
    PATHS,
    check_design,
    perturbed_patients,
    read_cohort,
    stamp,
    voxels_mb,
)
from hccstudy.config import REPOSITORY, load_config
from hccstudy.errors import StudyError
from hccstudy.catalog import absent_figures, figure_kind, figure_names
from hccstudy.fingerprint import stage
from hccstudy.ledger import STAGES, TABLE_STAGES
from hccstudy.progress import watch
from hccstudy.privacy import Cases
from hccstudy.provenance import environment, environments, input_digests
from hccstudy.settings import (
    cohort_settings,
    feature_settings,
    import_settings,
    internal_settings,
    model_settings,
    preprocess_settings,
    region_settings,
    repeat_settings,
    validation_settings,
)
from hccstudy.tables import write_json
from snakemake.exceptions import WorkflowError
from snakemake.io import is_flagged, strip_wildcard_constraints
from snakemake.io import report as in_report

try:
    # `config` holds --configfile and --config only; load_config lays them over config/config.yaml.
    STUDY = load_config(
        config, name=" + ".join(map(str, workflow.configfiles)) or "config/config.yaml"
    )
    COHORT = read_cohort(STUDY)
    check_design(COHORT, STUDY)
except StudyError as error:
    raise WorkflowError(str(error))

BATCHES = assign_batches(
    list(COHORT.patients["patient"]), STUDY["cohort"]["batch_size"]
)
watch(BATCHES)
ENDPOINTS = list(STUDY["endpoints"])
MODELS = list(STUDY["models"])
PAIRS = [
    (endpoint, model)
    for model in MODELS
    for endpoint in STUDY["models"][model]["endpoints"]
]
SIMULATION = STUDY["cohort"]["simulation"]
FEATURE_TABLE = STUDY["features"]["table"]  # None: features are extracted from images
# development patients whose masks are perturbed, and the batches that they are in
PERTURBED = perturbed_patients(COHORT.patients, STUDY)
REPEATED = [
    batch for batch, members in BATCHES.items() if set(members) & set(PERTURBED)
]
FIGURES = figure_names(STUDY["endpoints"], STUDY["models"], absent_figures(STUDY))
# A job of patients that is killed starts again, with more memory and time. The job itself, on its node, does not repeat.
RETRIES = ATTEMPTS - 1 if workflow.is_main_process else 0
REPORT = REPOSITORY / "workflow" / "report"
# what computes now, and what did in earlier runs into the same results
ENVIRONMENT = environment()
ENVIRONMENTS = environments("results/environments.json", ENVIRONMENT)


onstart:
    write_json(ENVIRONMENTS, "results/environments.json")


wildcard_constraints:
    batch="b[01]*",
    endpoint="|".join(ENDPOINTS),
    model="|".join(MODELS),


def cases_of_batch(wildcards):
    """The images rows of a batch with a stamp of every file: a changed row or file runs this batch again.

    Images that the workflow draws itself are tracked by their rule instead."""
    return stamped_cases(wildcards.batch)


@functools.cache
def stamped_cases(batch):
    cases = Cases(COHORT.cases(BATCHES[batch]))
    for case in cases:
        for row in case["images"]:
            row["stamp"] = (
                ""
                if SIMULATION
                else " ".join(stamp(row[column]) for column in PATHS if row[column])
            )
    return cases


def attempt_number(wildcards, attempt):
    return attempt


def memory_mb(wildcards, attempt):
    """What a batch needs for its largest image (docs/clusters.md)."""
    return MORE[attempt - 1] * (1500 + 15 * image_mb(wildcards.batch))


def runtime_minutes(wildcards, attempt):
    """Minutes of a batch in imports, preprocess and regions."""
    images = len(COHORT.files(BATCHES[wildcards.batch]))
    return MORE[attempt - 1] * (
        10 + images * (12 + image_mb(wildcards.batch) // 10) // 60
    )


def extraction_minutes(wildcards, attempt):
    slower = 10 if STUDY["features"]["engine"] == "pyradiomics" else 2
    return slower * runtime_minutes(wildcards, attempt)


@functools.cache
def image_mb(batch):
    """The largest image of a batch, in MB of 16-bit voxels, by the sizes of files and folders; 0 where none is there."""
    return max(map(voxels_mb, COHORT.files(BATCHES[batch])), default=0)


def passing(path):
    """A table that names images, which goes with them when their features are measured, unless images are kept."""
    return path if STUDY["cohort"]["keep_images"] else temp(path)


def discarded_images():
    pattern = "results/features/discarded/{batch}.tsv"
    kept = STUDY["cohort"]["keep_images"]
    return [] if kept else expand(pattern, batch=BATCHES)


def measured_files(wildcards):
    """What is measured on the images of a batch."""
    files = [f"results/features/{wildcards.batch}.parquet"]
    if wildcards.batch in REPEATED:
        files.append(f"results/stability/{wildcards.batch}.parquet")
    return files


def simulated_images(wildcards):
    return ["results/simulation/done"] if SIMULATION else []


def small_inputs():
    """The tables and parameter files that the study reads."""
    cohort = STUDY["cohort"]
    series = [] if FEATURE_TABLE else [*landmarks_files(None), *parameter_files(None)]
    return [cohort["patients"], cohort["images"], *series]


def features_files():
    """The feature table and its repeats, of a study that has them."""
    return [path for path in (FEATURE_TABLE, STUDY["features"]["repeats"]) if path]


def repeats_files():
    """The table of repeated measurements, where it is used."""
    used = STUDY["stability"]["method"] == "readers"
    return [STUDY["features"]["repeats"]] if used else []


def stage_ledgers():
    """The ledger files of all stages, in their order."""
    if FEATURE_TABLE:
        return [f"results/ledger/{name}.tsv" for name in TABLE_STAGES]
    pattern = "results/ledger/{stage}/{batch}.tsv"
    return [f"results/ledger/{STAGES[0]}.tsv"] + expand(
        pattern, stage=STAGES[1:], batch=BATCHES
    )


def landmarks_files(wildcards):
    return sorted(
        {rules["landmarks"] for rules in STUDY["series"].values() if rules["landmarks"]}
    )


def parameter_files(wildcards):
    return sorted({rules["parameters"] for rules in STUDY["series"].values()})


def of_models(pattern, endpoint):
    """`pattern` for every model of an endpoint."""
    return [
        pattern.format(endpoint=endpoint, model=model)
        for e, model in PAIRS
        if e == endpoint
    ]


def of_pairs(pattern):
    """`pattern` for every endpoint and its models."""
    return [pattern.format(endpoint=endpoint, model=model) for endpoint, model in PAIRS]


def figure_files(names, endings=("pdf", "svg", "png")):
    return [f"results/figures/{name}.{ending}" for name in names for ending in endings]


def reported_figures(names, category):
    """The files of figures as outputs; Snakemake's own report shows the PNGs with our captions."""
    shown = [
        in_report(path, caption=REPORT / f"{figure_kind(name)}.rst", category=category)
        for name in names
        for path in figure_files([name], ["png"])
    ]
    return figure_files(names, ["pdf", "svg"]) + shown


def results_of(makers):
    """What rules make and nothing deletes."""
    found = []
    for maker in makers:
        batches = REPEATED if maker.name == "measure_repeats" else BATCHES
        for output in maker.output:
            pattern = strip_wildcard_constraints(str(output))
            if is_flagged(output, "temp"):
                continue
            if "{model}" in pattern:
                found += of_pairs(pattern)
            else:
                found += expand(pattern, batch=batches, endpoint=ENDPOINTS)
    return sorted(set(found))


def every_result(wildcards):
    return results_of(workflow.rules)


def reported_results(wildcards):
    """The results that the report goes back to: those of the whole study, not of a batch of its patients."""
    last = ("record_provenance", "write_report")
    return results_of(
        maker
        for maker in workflow.rules
        if maker.name not in last and "batch" not in maker.wildcard_names
    )


ALL_FIGURES = [name for names in FIGURES.values() for name in names]
