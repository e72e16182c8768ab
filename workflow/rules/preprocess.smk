# Images on the study grid, by modality and IBSI conventions.


rule preprocess_images:
    input:
        landmarks_files,
        cases="results/imports/{batch}.tsv",
    output:
        table=passing("results/preprocess/{batch}.tsv"),
        ledger="results/ledger/preprocess/{batch}.tsv",
    log:
        "results/logs/preprocess/{batch}.log",
    retries: RETRIES
    group:
        "patients"
    resources:
        attempt=attempt_number,
        mem_mb=memory_mb,
        runtime=runtime_minutes,
    params:
        call=stage("preprocess:preprocess_batch", *landmarks_files(None)),
        settings=preprocess_settings(STUDY),
        folder="results/preprocess/images",
    script:
        "../stage.py"
