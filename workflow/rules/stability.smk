# Features of repeated masks, on development patients only.


rule measure_repeats:
    input:
        parameter_files,
        # after the features: a cluster would reserve a group for what runs side by side
        ancient("results/features/{batch}.parquet"),
        cases="results/preprocess/{batch}.tsv",
    output:
        table="results/stability/{batch}.parquet",
    log:
        "results/logs/stability/{batch}.log",
    retries: RETRIES
    group:
        "patients"
    resources:
        attempt=attempt_number,
        mem_mb=memory_mb,
        runtime=extraction_minutes,
    params:
        call=stage("stability:measure_repeats_batch", *parameter_files(None)),
        patients=PERTURBED,
        settings=repeat_settings(STUDY),
        folder="results/stability/patients",
    script:
        "../stage.py"


rule measure_stability:
    input:
        tables=expand("results/features/{batch}.parquet", batch=BATCHES),
        development="results/cohort/development.tsv",
        repeated=expand("results/stability/{batch}.parquet", batch=REPEATED),
    output:
        repeats="results/stability/repeats.parquet",
        icc_table="results/stability/icc.tsv",
    log:
        "results/logs/stability/measure_stability.log",
    params:
        call=stage("stability:measure_stability"),
        method=STUDY["stability"]["method"],
        primary_reader=STUDY["features"]["primary_reader"],
    script:
        "../stage.py"
