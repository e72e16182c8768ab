# Who is in the study: tables checked across rows, outcomes of external centers set apart.

if SIMULATION:

    rule simulate:
        output:
            done="results/simulation/done",
        log:
            "results/logs/cohort/simulate.log",
        params:
            call=stage("simulate:simulate_cohort"),
            patients=SIMULATION["patients"],
            seed=SIMULATION["seed"],
            folder=subpath(output.done, parent=True),
        script:
            "../stage.py"


rule split_cohort:
    input:
        simulated_images,
        features_files(),
        patients=STUDY["cohort"]["patients"],
        images=STUDY["cohort"]["images"] or [],
    output:
        development="results/cohort/development.tsv",
        external="results/cohort/external.tsv",
        external_outcomes="results/cohort/external_outcomes.tsv",
        outcomes="results/cohort/outcomes.tsv",
        ledger="results/ledger/cohort.tsv",
    log:
        "results/logs/cohort/split_cohort.log",
    params:
        call=stage(
            "cohort:split_cohort",
            *filter(None, [STUDY["cohort"]["patients"], STUDY["cohort"]["images"]]),
            *features_files(),
        ),
        settings=cohort_settings(STUDY),
    script:
        "../stage.py"
