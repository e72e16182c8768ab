# Figures from tables, the report from both, and where everything came from.

# A study that starts from a feature table has no images, and perhaps no repeated measurements.
ACQUISITION = (
    {} if FEATURE_TABLE else {"acquisition": "results/imports/acquisition.tsv"}
)


rule record_provenance:
    input:
        **ACQUISITION,
        tables=features_files(),
        results=reported_results,
    output:
        provenance="results/provenance.json",
    log:
        "results/logs/report/record_provenance.log",
    params:
        call=stage("provenance:record_provenance"),
        settings=STUDY,
        environments=ENVIRONMENTS,
        current=ENVIRONMENT,
        inputs=input_digests(small_inputs()),
    script:
        "../stage.py"


ICC = {"icc": "results/stability/icc.tsv"}
SHIFTS = {"shifts": "results/harmonize/features.tsv"}


rule draw_study:
    input:
        **ACQUISITION,
        **(ICC if "stability" in FIGURES["study"] else {}),
        **(SHIFTS if "shifts" in FIGURES["study"] else {}),
        flow="results/ledger/flow.tsv",
        ledger="results/ledger/ledger.tsv",
        embedding="results/harmonize/embedding.tsv",
        centers="results/harmonize/centers.tsv",
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
            metrics=of_models(
                "results/validation/{endpoint}/{model}/metrics.tsv", ENDPOINT
            ),
            calibration_curve=of_models(
                "results/validation/{endpoint}/{model}/calibration_curve.tsv", ENDPOINT
            ),
            calibration_groups=of_models(
                "results/validation/{endpoint}/{model}/calibration_groups.tsv",
                ENDPOINT,
            ),
            net_benefit=of_models(
                "results/validation/{endpoint}/{model}/net_benefit.tsv", ENDPOINT
            ),
            kaplan_meier=of_models(
                "results/validation/{endpoint}/{model}/kaplan_meier.tsv", ENDPOINT
            ),
            confusion=of_models(
                "results/validation/{endpoint}/{model}/confusion.tsv", ENDPOINT
            ),
            roc=of_models("results/validation/{endpoint}/{model}/roc.tsv", ENDPOINT),
            oof=of_models("results/models/{endpoint}/{model}/oof.tsv", ENDPOINT),
            predictions=of_models(
                "results/predictions/{endpoint}/{model}.tsv", ENDPOINT
            ),
            coefficients=of_models(
                "results/models/{endpoint}/{model}/coefficients.tsv", ENDPOINT
            ),
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
        development="results/cohort/development.tsv",
        external="results/cohort/external.tsv",
        ledger="results/ledger/ledger.tsv",
        icc="results/stability/icc.tsv",
        shifts="results/harmonize/features.tsv",
        centers="results/harmonize/centers.tsv",
        metrics=of_pairs("results/validation/{endpoint}/{model}/metrics.tsv"),
        comparisons=expand(
            "results/validation/{endpoint}/comparisons.tsv", endpoint=ENDPOINTS
        ),
        performance=of_pairs("results/internal/{endpoint}/{model}/performance.tsv"),
        left_out=of_pairs("results/internal/{endpoint}/{model}/centers.tsv"),
        pooled=of_pairs("results/internal/{endpoint}/{model}/pooled.tsv"),
        cards=of_pairs("results/models/{endpoint}/{model}/card.json"),
        figures=figure_files(ALL_FIGURES, ["png"]),
        captions=sorted(map(str, REPORT.glob("*.rst"))),
        template=str(REPORT / "index.html.j2"),
        provenance="results/provenance.json",
    output:
        html="results/report/index.html",
    log:
        "results/logs/report/write_report.log",
    params:
        call=stage("report:write_report"),
        settings=STUDY,
    script:
        "../stage.py"
