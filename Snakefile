# The contents page: what is included, in the order of the pipeline, and the targets.
# Stages are described in docs/architecture.md, every key of the configuration in config/README.md.

from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"


if FEATURE_TABLE:

    include: "workflow/rules/feature_table.smk"

else:

    include: "workflow/rules/imports.smk"
    include: "workflow/rules/preprocess.smk"
    include: "workflow/rules/regions.smk"
    include: "workflow/rules/features.smk"
    include: "workflow/rules/stability.smk"


include: "workflow/rules/ledger.smk"
include: "workflow/rules/harmonize.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/validation.smk"
include: "workflow/rules/report.smk"


# What takes seconds runs where hccstudy does, not as a job of a cluster.
localrules:
    all,
    features,
    figures,
    report,
    split_cohort,
    collect_ledger,
    record_provenance,


# Every result, and not the report alone: of a job that failed or was killed Snakemake deletes the outputs, and would take
# an older report that was made of them for up to date.
rule all:
    default_target: True
    input:
        "results/report/index.html",
        every_result,


# One row a patient, and who is in it.
rule features:
    input:
        "results/features/features.parquet",
        "results/ledger/ledger.tsv",


# Every figure as PDF, SVG and PNG.
rule figures:
    input:
        figure_files(ALL_FIGURES),


# The report with everything in it.
rule report:
    input:
        "results/report/index.html",
