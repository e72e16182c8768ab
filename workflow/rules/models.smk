# Trained on development patients, frozen and hashed; then predictions for external centers, without their outcomes.


rule train_model:
    input:
        features=rules.collect_features.output.table,
        development=rules.split_cohort.output.development,
        repeats=rules.measure_stability.output.repeats,
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
        features=rules.collect_features.output.table,
        development=rules.split_cohort.output.development,
        repeats=rules.measure_stability.output.repeats,
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
        features=rules.collect_features.output.table,
        external=rules.split_cohort.output.external,
        model=rules.train_model.output.model,
        card=rules.train_model.output.card,
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
