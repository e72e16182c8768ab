# One row a region (batches), one row a patient (features.parquet).


rule extract_features:
    input:
        parameter_files,
        cases="results/regions/{batch}.tsv",
    output:
        table="results/features/{batch}.parquet",
        ledger="results/ledger/features/{batch}.tsv",
    log:
        "results/logs/features/{batch}.log",
    benchmark:
        "results/benchmarks/features/{batch}.tsv"
    params:
        call=stage("features:extract_batch"),
        settings=feature_settings(STUDY),
        folder="results/features/patients",
    script:
        "../stage.py"


rule collect_features:
    input:
        tables=expand("results/features/{batch}.parquet", batch=BATCHES),
    output:
        table="results/features/features.parquet",
    log:
        "results/logs/features/collect_features.log",
    params:
        call=stage("features:collect_features"),
        primary_reader=STUDY["features"]["primary_reader"],
    script:
        "../stage.py"
