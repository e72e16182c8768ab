# Figures from tables, the report from both, and where everything came from.


rule record_provenance:
    input:
        tables=features_files(),
    output:
        provenance="results/provenance.json",
    log:
        "results/logs/report/record_provenance.log",
    params:
        call=stage("provenance:record_provenance"),
        settings=STUDY,
        revision=git_revision(),
        versions=packages(),
    script:
        "../stage.py"


# A study that starts from a feature table has no images, and perhaps no repeated measurements.
ACQUISITION = (
    {} if FEATURE_TABLE else {"acquisition": rules.collect_acquisition.output.table}
)
ICC = {"icc": rules.measure_stability.output.icc_table}
SHIFTS = {"shifts": rules.describe_harmonization.output.shifts}


rule draw_study:
    input:
        **ACQUISITION,
        **(ICC if "stability" in FIGURES["study"] else {}),
        **(SHIFTS if "shifts" in FIGURES["study"] else {}),
        flow=rules.collect_ledger.output.counts,
        ledger=rules.collect_ledger.output.ledger,
        embedding=rules.describe_harmonization.output.embedding,
        centers=rules.describe_harmonization.output.centers,
    output:
        reported_figures(FIGURES["study"], "Study"),
    log:
        "results/logs/report/draw_study.log",
    params:
        call=stage("figures:draw_study"),
        settings={
            "cohort": {"centers": STUDY["cohort"]["centers"]},
            "stability": STUDY["stability"],
        },
        folder=subpath(output[0], parent=True),
    script:
        "../stage.py"


# One rule an endpoint, because the figures depend on its type.
for ENDPOINT in ENDPOINTS:

    rule:
        name:
            f"draw_{ENDPOINT}"
        input:
            metrics=of_models(rules.validate_model.output.metrics, ENDPOINT),
            calibration_curve=of_models(
                rules.validate_model.output.calibration_curve, ENDPOINT
            ),
            calibration_groups=of_models(
                rules.validate_model.output.calibration_groups, ENDPOINT
            ),
            net_benefit=of_models(rules.validate_model.output.net_benefit, ENDPOINT),
            kaplan_meier=of_models(rules.validate_model.output.kaplan_meier, ENDPOINT),
            confusion=of_models(rules.validate_model.output.confusion, ENDPOINT),
            roc=of_models(rules.validate_model.output.roc, ENDPOINT),
            oof=of_models(rules.train_model.output.oof, ENDPOINT),
            predictions=of_models(rules.predict_external.output.predictions, ENDPOINT),
            coefficients=of_models(rules.train_model.output.coefficients, ENDPOINT),
        output:
            reported_figures(FIGURES[ENDPOINT], STUDY["endpoints"][ENDPOINT]["label"]),
        log:
            f"results/logs/report/draw_{ENDPOINT}.log",
        params:
            call=stage("figures:draw_endpoint"),
            endpoint=ENDPOINT,
            settings={
                "cohort": {"centers": STUDY["cohort"]["centers"]},
                "endpoints": STUDY["endpoints"],
                "models": STUDY["models"],
            },
            folder=subpath(output[0], parent=True),
        script:
            "../stage.py"


rule write_report:
    input:
        **ACQUISITION,
        development=rules.split_cohort.output.development,
        external=rules.split_cohort.output.external,
        ledger=rules.collect_ledger.output.ledger,
        icc=rules.measure_stability.output.icc_table,
        shifts=rules.describe_harmonization.output.shifts,
        centers=rules.describe_harmonization.output.centers,
        metrics=of_pairs(rules.validate_model.output.metrics),
        comparisons=expand(rules.compare_models.output.comparisons, endpoint=ENDPOINTS),
        performance=of_pairs(rules.internal_validation.output.performance),
        left_out=of_pairs(rules.internal_validation.output.centers),
        pooled=of_pairs(rules.internal_validation.output.pooled),
        cards=of_pairs(rules.train_model.output.card),
        figures=figure_files(ALL_FIGURES, ["png"]),
        captions=sorted(map(str, REPORT.glob("*.rst"))),
        template=str(REPORT / "index.html.j2"),
        provenance=rules.record_provenance.output.provenance,
    output:
        html="results/report/index.html",
    log:
        "results/logs/report/write_report.log",
    params:
        call=stage("report:write_report"),
        settings=STUDY,
    script:
        "../stage.py"
