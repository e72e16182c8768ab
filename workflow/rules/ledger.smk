# Every patient, every stage: who went on, and why somebody did not.


rule collect_ledger:
    input:
        ledgers=stage_ledgers(),
        outcomes="results/cohort/outcomes.tsv",
    output:
        ledger="results/ledger/ledger.tsv",
        counts="results/ledger/flow.tsv",
    log:
        "results/logs/features/collect_ledger.log",
    params:
        call=stage("ledger:collect_ledger"),
        stages=TABLE_STAGES if FEATURE_TABLE else STAGES,
    script:
        "../stage.py"
