# DICOM, NIfTI, NRRD and masks -> canonical NIfTI, de-identified, geometry proven.


rule import_images:
    input:
        simulated_images,
    output:
        table=passing("results/imports/{batch}.tsv"),
        acquisition="results/imports/acquisition/{batch}.tsv",
        ledger="results/ledger/imports/{batch}.tsv",
    log:
        "results/logs/imports/{batch}.log",
    retries: RETRIES
    group:
        "patients"
    resources:
        attempt=attempt_number,
        mem_mb=memory_mb,
        runtime=runtime_minutes,
    params:
        call=stage("imports:import_batch"),
        cases=cases_of_batch,
        settings=import_settings(STUDY),
        folder="results/imports/images",
    script:
        "../stage.py"


localrules:
    collect_acquisition,


rule collect_acquisition:
    input:
        tables=expand("results/imports/acquisition/{batch}.tsv", batch=BATCHES),
    output:
        table="results/imports/acquisition.tsv",
    log:
        "results/logs/imports/collect_acquisition.log",
    params:
        call=stage("tables:concatenate"),
    script:
        "../stage.py"
