# The only rules that read outcomes of external centers, after models and cut-offs are frozen.


rule validate_model:
    input:
        oof="results/models/{endpoint}/{model}/oof.tsv",
        predictions="results/predictions/{endpoint}/{model}.tsv",
        development="results/cohort/development.tsv",
        outcomes="results/cohort/external_outcomes.tsv",
    output:
        metrics="results/validation/{endpoint}/{model}/metrics.tsv",
        calibration_curve="results/validation/{endpoint}/{model}/calibration_curve.tsv",
        calibration_groups="results/validation/{endpoint}/{model}/calibration_groups.tsv",
        net_benefit="results/validation/{endpoint}/{model}/net_benefit.tsv",
        kaplan_meier="results/validation/{endpoint}/{model}/kaplan_meier.tsv",
        confusion="results/validation/{endpoint}/{model}/confusion.tsv",
        roc="results/validation/{endpoint}/{model}/roc.tsv",
    log:
        "results/logs/validation/{endpoint}/{model}.log",
    params:
        call=stage("validation:validate"),
        settings=lambda wildcards: validation_settings(
            STUDY, wildcards.endpoint, wildcards.model
        ),
    script:
        "../stage.py"


rule compare_models:
    input:
        oof=lambda wildcards: of_models(
            "results/models/{endpoint}/{model}/oof.tsv", wildcards.endpoint
        ),
        predictions=lambda wildcards: of_models(
            "results/predictions/{endpoint}/{model}.tsv", wildcards.endpoint
        ),
        development="results/cohort/development.tsv",
        outcomes="results/cohort/external_outcomes.tsv",
    output:
        comparisons="results/validation/{endpoint}/comparisons.tsv",
    log:
        "results/logs/validation/{endpoint}.log",
    params:
        call=stage("validation:compare_models"),
        settings=lambda wildcards: validation_settings(STUDY, wildcards.endpoint),
    script:
        "../stage.py"
