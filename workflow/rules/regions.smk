# Tumor and peritumoral rings, re-segmented.


rule make_regions:
    input:
        cases="results/preprocess/{batch}.tsv",
    output:
        table="results/regions/{batch}.tsv",
        ledger="results/ledger/regions/{batch}.tsv",
    log:
        "results/logs/regions/{batch}.log",
    params:
        call=stage("regions:make_regions_batch"),
        settings=region_settings(STUDY),
        folder="results/regions/masks",
    script:
        "../stage.py"
