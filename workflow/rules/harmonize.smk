# What ComBat does to the development features, for the report. Models fit their own ComBat inside their folds.


rule describe_harmonization:
    input:
        features=rules.collect_features.output.table,
        development=rules.split_cohort.output.development,
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
