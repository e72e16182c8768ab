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


localrules:
    all,
    features,
    figures,
    report,


rule all:
    default_target: True
    input:
        rules.write_report.output.html,


# One row a patient, and who is in it.
rule features:
    input:
        rules.collect_features.output.table,
        rules.collect_ledger.output.ledger,


# Every figure as PDF, SVG and PNG.
rule figures:
    input:
        figure_files(ALL_FIGURES),


# The report with everything in it.
rule report:
    input:
        rules.write_report.output.html,
