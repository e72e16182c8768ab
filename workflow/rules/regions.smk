# Tumor and peritumoral rings, re-segmented.


rule make_regions:
    input:
        cases="results/preprocess/{batch}.tsv",
    output:
        table=passing("results/regions/{batch}.tsv"),
        ledger="results/ledger/regions/{batch}.tsv",
    log:
        "results/logs/regions/{batch}.log",
    retries: RETRIES
    group:
        "patients"
    resources:
        attempt=attempt_number,
        mem_mb=memory_mb,
        runtime=runtime_minutes,
    params:
        call=stage("regions:make_regions_batch"),
        settings=region_settings(STUDY),
        folder="results/regions/masks",
    script:
        "../stage.py"
