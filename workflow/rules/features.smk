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
    retries: RETRIES
    group:
        "patients"
    resources:
        attempt=attempt_number,
        mem_mb=memory_mb,
        runtime=extraction_minutes,
    params:
        call=stage("features:extract_batch", *parameter_files(None)),
        settings=feature_settings(STUDY),
        folder="results/features/patients",
    script:
        "../stage.py"


if not STUDY["cohort"]["keep_images"]:

    # The tables that name the images are temporary: whoever needs an image again makes it again, from the beginning.
    rule discard_images:
        input:
            measured_files,
            tables=[
                "results/imports/{batch}.tsv",
                "results/preprocess/{batch}.tsv",
                "results/regions/{batch}.tsv",
            ],
        output:
            discarded="results/features/discarded/{batch}.tsv",
        log:
            "results/logs/features/discard_{batch}.log",
        group:
            "patients"
        params:
            call=stage("batches:discard_images"),
            patients=lambda wildcards: BATCHES[wildcards.batch],
            folders=[
                "results/imports/images",
                "results/preprocess/images",
                "results/regions/masks",
            ],
        script:
            "../stage.py"


rule collect_features:
    input:
        discarded_images(),
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
