# What ComBat does to the development features, for the report. Models fit their own ComBat inside their folds.


rule describe_harmonization:
    input:
        features="results/features/features.parquet",
        development="results/cohort/development.tsv",
    output:
        parameters="results/harmonize/parameters.json",
        shifts="results/harmonize/features.tsv",
        centers="results/harmonize/centers.tsv",
        embedding="results/harmonize/embedding.tsv",
    log:
        "results/logs/harmonize/describe_harmonization.log",
    params:
        call=stage("harmonize:describe"),
        settings=STUDY["harmonize"] | {"seed": STUDY["study"]["seed"]},
    script:
        "../stage.py"
