# Configuration and cohort, loaded and checked; wildcard constraints; input functions. No rules.

from hccstudy.batches import assign_batches
from hccstudy.cohort import PATHS, check_design, perturbed_patients, read_cohort, stamp
from hccstudy.config import REPOSITORY, load_config
from hccstudy.errors import StudyError
from hccstudy.catalog import absent_figures, figure_kind, figure_names
from hccstudy.fingerprint import stage
from hccstudy.ledger import STAGES, TABLE_STAGES
from hccstudy.provenance import git_revision, packages
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
from snakemake.exceptions import WorkflowError
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
REPORT = REPOSITORY / "workflow" / "report"


wildcard_constraints:
    batch="b[01]*",
    endpoint="|".join(ENDPOINTS),
    model="|".join(MODELS),


def cases_of_batch(wildcards):
    """The images rows of a batch with a stamp of every file: a changed row or file runs this batch again.

    Images that the workflow draws itself are tracked by their rule instead."""
    cases = COHORT.cases(BATCHES[wildcards.batch])
    for case in cases:
        for row in case["images"]:
            row["stamp"] = (
                ""
                if SIMULATION
                else " ".join(stamp(row[column]) for column in PATHS if row[column])
            )
    return cases


def simulated_images(wildcards):
    return ["results/simulation/done"] if SIMULATION else []


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


ALL_FIGURES = [name for names in FIGURES.values() for name in names]
