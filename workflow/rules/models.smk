# Trained on development patients, frozen and hashed; then predictions for external centers, without their outcomes.


rule train_model:
    input:
        features="results/features/features.parquet",
        development="results/cohort/development.tsv",
        repeats="results/stability/repeats.parquet",
    output:
        oof="results/models/{endpoint}/{model}/oof.tsv",
        model="results/models/{endpoint}/{model}/model.skops",
        card="results/models/{endpoint}/{model}/card.json",
        coefficients="results/models/{endpoint}/{model}/coefficients.tsv",
        tuning="results/models/{endpoint}/{model}/tuning.tsv",
    log:
        "results/logs/models/{endpoint}/{model}.log",
    benchmark:
        "results/benchmarks/models/{endpoint}/{model}.tsv"
    params:
        call=stage("models:train_model"),
        settings=lambda wildcards: model_settings(
            STUDY, wildcards.endpoint, wildcards.model
        ),
    script:
        "../stage.py"


rule internal_validation:
    input:
        features="results/features/features.parquet",
        development="results/cohort/development.tsv",
        repeats="results/stability/repeats.parquet",
    output:
        performance="results/internal/{endpoint}/{model}/performance.tsv",
        centers="results/internal/{endpoint}/{model}/centers.tsv",
        pooled="results/internal/{endpoint}/{model}/pooled.tsv",
    log:
        "results/logs/internal/{endpoint}/{model}.log",
    benchmark:
        "results/benchmarks/internal/{endpoint}/{model}.tsv"
    params:
        call=stage("models:validate_internally"),
        settings=lambda wildcards: internal_settings(
            STUDY, wildcards.endpoint, wildcards.model
        ),
    script:
        "../stage.py"


rule predict_external:
    input:
        features="results/features/features.parquet",
        external="results/cohort/external.tsv",
        model="results/models/{endpoint}/{model}/model.skops",
        card="results/models/{endpoint}/{model}/card.json",
    output:
        predictions="results/predictions/{endpoint}/{model}.tsv",
    log:
        "results/logs/predictions/{endpoint}/{model}.log",
    params:
        call=stage("models:predict_external"),
        settings=lambda wildcards: model_settings(
            STUDY, wildcards.endpoint, wildcards.model
        ),
    script:
        "../stage.py"
