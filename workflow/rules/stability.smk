# Features of repeated masks, on development patients only.


rule measure_repeats:
    input:
        parameter_files,
        cases="results/preprocess/{batch}.tsv",
    output:
        table="results/stability/{batch}.parquet",
    log:
        "results/logs/stability/{batch}.log",
    params:
        call=stage("stability:measure_repeats_batch"),
        patients=PERTURBED,
        settings=repeat_settings(STUDY),
        folder="results/stability/patients",
    script:
        "../stage.py"


rule measure_stability:
    input:
        tables=rules.collect_features.input.tables,
        development=rules.split_cohort.output.development,
        repeated=expand(rules.measure_repeats.output.table, batch=REPEATED),
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
