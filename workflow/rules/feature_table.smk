# A study that starts from a table of features. The rules have the names of those of features.smk and stability.smk, whose
# files they write, so that whatever comes after them is the same.


rule collect_features:
    input:
        source=FEATURE_TABLE,
        cohort="results/ledger/cohort.tsv",
    output:
        table="results/features/features.parquet",
        ledger="results/ledger/features.tsv",
    log:
        "results/logs/features/collect_features.log",
    params:
        call=stage("feature_table:collect_features", FEATURE_TABLE),
    script:
        "../stage.py"


rule measure_stability:
    input:
        source=FEATURE_TABLE,
        repeated=repeats_files(),
        cohort="results/ledger/cohort.tsv",
        development="results/cohort/development.tsv",
    output:
        repeats="results/stability/repeats.parquet",
        icc_table="results/stability/icc.tsv",
    log:
        "results/logs/stability/measure_stability.log",
    params:
        call=stage("stability:measure_table_stability", FEATURE_TABLE, *repeats_files()),
        method=STUDY["stability"]["method"],
    script:
        "../stage.py"
