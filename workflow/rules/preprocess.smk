# Images on the study grid, by modality and IBSI conventions.


rule preprocess_images:
    input:
        landmarks_files,
        cases="results/imports/{batch}.tsv",
    output:
        table="results/preprocess/{batch}.tsv",
        ledger="results/ledger/preprocess/{batch}.tsv",
    log:
        "results/logs/preprocess/{batch}.log",
    params:
        call=stage("preprocess:preprocess_batch"),
        settings=preprocess_settings(STUDY),
        folder="results/preprocess/images",
    script:
        "../stage.py"
