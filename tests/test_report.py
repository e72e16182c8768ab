"""The report: complete, self-contained, and careful with its words."""

from __future__ import annotations

import base64
import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import report_tables as made
from hccstudy import catalog, report
from hccstudy.errors import StudyError
from hccstudy.report import content, internal
from hccstudy.report.methods import methods
from hccstudy.tables import read_table, write_json, write_table

PROVENANCE = {
    "hccstudy": "0.1.0",
    "python": "3.11.9",
    "packages": {"numpy": "2.4.6"},
    "config_sha256": "ab" * 32,
}


class Page(HTMLParser):
    """Ids, links, images and visible text; refuses tags that do not match."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.said: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.images += [values["src"]] if tag == "img" else []
        assert tag not in {"script", "link", "iframe"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The made-up study with a small blank picture for every declared figure."""
    root = tmp_path_factory.mktemp("study") / "results"
    made.write_study(root)
    (root / "figures").mkdir()
    for name in declared():
        Image.new("RGB", (2067, 900), "white").save(root / f"figures/{name}.png")
    return root


def declared(settings=made.SETTINGS) -> list[str]:
    names = catalog.figure_names(settings["endpoints"], settings["models"])
    return [name for of in names.values() for name in of]


def write(results: Path, folder: Path, settings=made.SETTINGS, **other) -> str:
    pictures = [str(results / f"figures/{name}.png") for name in declared(settings)]
    inputs = made.report_inputs(results) | {"figures": pictures, "settings": settings} | other
    html = folder / "index.html"
    report.write_report(**inputs, html=str(html))
    return html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(results, tmp_path_factory) -> str:
    return write(results, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_report_is_one_file_that_needs_nothing_else(html, page):
    assert page.links and all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(source.startswith("data:image/png;base64,") for source in page.images)
    assert not re.search(r"https?://|url\(|@import", html)
    assert len(html) < 10e6


def test_every_figure_is_embedded_at_screen_resolution(page, tmp_path):
    assert set(declared()) <= set(page.ids) and len(page.images) == len(declared())
    path = tmp_path / "x.png"
    path.write_bytes(base64.b64decode(page.images[0].split(",")[1]))
    with Image.open(path) as image:
        assert image.width == report.WIDTH


def test_the_same_study_gives_the_same_bytes(results, html, tmp_path):
    assert write(results, tmp_path) == html


def test_every_lost_patient_is_listed_with_the_reason(page):
    for place, _, reason, detail, _ in made.LOST:
        assert f"HCC-{place + 1:03d}" in page.text and reason in page.text and detail in page.text


def test_headline_shows_cross_validated_and_external_results_apart(results):
    metrics = read_table(results / "validation/os/combined/metrics.tsv")
    table = content.headline(metrics, "os", made.SETTINGS["endpoints"]["os"])
    assert table["Evaluated in"].tolist() == ["Development, cross-validated", "External, pooled"]
    primary = (metrics["center"] == "pooled") & (metrics["evaluation"] == "external")
    row = metrics[primary & (metrics["harmonization"] == "none") & (metrics["metric"] == "harrell_c")].iloc[0]
    expected = f"{row['estimate']:.2f} ({row['lower']:.2f} to {row['upper']:.2f})"
    assert table["Harrell's C"].iloc[1] == expected
    assert table[["n", "Events"]].iloc[1].tolist() == [str(row["n"]), f"{row['events']:.0f}"]


def test_nothing_is_called_validated_but_external_results(page):
    for found in re.finditer(r"\bvalidat\w+", page.text):
        before = page.text[max(0, found.start() - 60) : found.start()]
        allowed = ("cross-", "internal ", "externally ", "in the making, are ")
        assert before.lower().endswith(allowed), f"...{before}{found.group()}"


def test_a_study_without_external_centers_claims_no_validation(results, tmp_path):
    settings = copy.deepcopy(made.SETTINGS)
    settings["cohort"]["centers"]["external"] = []
    empty = tmp_path / "external.tsv"
    write_table(read_table(made.report_inputs(results)["external"]).iloc[:0], empty)
    metrics = []
    for path in made.report_inputs(results)["metrics"]:
        metrics.append(str(tmp_path / Path(path).relative_to(results)))
        table = read_table(path)
        write_table(table[table["evaluation"] != "external"], metrics[-1])
    text = Page(write(results, tmp_path, settings, external=str(empty), metrics=metrics)).text
    assert "no model of this study has been validated" in text
    assert "externally validated" not in text and "there was no external validation" in text


def test_low_events_per_candidate_are_a_warning():
    card = {"endpoint": "os", "model": "radiomics", "events": 30, "candidates": 500}
    (said,) = content.warnings([card, card | {"model": "clinical", "candidates": 3}])
    assert said.startswith("1 of 2 models have fewer than 10 events") and "30 events for 500" in said
    assert content.warnings([card | {"candidates": 3}]) == []


def test_apparent_performance_is_labelled_and_stands_beside_its_corrections(page, results):
    performance = read_table(results / "internal/os/radiomics/performance.tsv")
    metrics = read_table(results / "validation/os/radiomics/metrics.tsv")
    table = internal.optimism(performance, metrics, "os", made.SETTINGS["endpoints"]["os"])
    assert len(table) == 10
    first = table.iloc[0]
    assert first[["Metric", "Apparent", "Optimism", "Optimism-corrected", ".632+", "Resamples"]].tolist() == [
        *("Harrell's C", "0.81", "0.11", "0.70", "0.68", "10")
    ]
    held_out = metrics.query("evaluation == 'cross-validated' and center == 'pooled' and metric == 'harrell_c'").iloc[0]
    assert first["Cross-validated"].startswith(f"{held_out['estimate']:.2f} ({held_out['lower']:.2f} to ")
    assert {"AUC(t) at 12 months", "AUC(t) at 24 months"} <= set(table["Metric"])
    assert table.query("Metric == 'calibration slope'")["Resamples"].tolist() == ["10 (1 undefined)"]
    for label in ("Apparent", "Optimism-corrected", ".632+", "Cross-validated"):
        assert label in page.text


def test_a_corrected_value_that_is_refused_says_why(results):
    performance = read_table(results / "internal/mvi/radiomics/performance.tsv")
    performance.loc[0, ["corrected", "method"]] = [np.nan, "refused: defined in 2 of 10 resamples"]
    metrics = read_table(results / "validation/mvi/radiomics/metrics.tsv")
    table = internal.optimism(performance, metrics, "mvi", made.SETTINGS["endpoints"]["mvi"])
    assert table["Optimism-corrected"].iloc[0] == "refused: defined in 2 of 10 resamples"


def test_centers_left_out_stand_beside_their_mean_and_prediction_interval(page, results):
    tables = [read_table(results / f"internal/mvi/combined/{name}.tsv") for name in ("centers", "pooled")]
    table = internal.left_out(*tables, "mvi", made.SETTINGS["endpoints"]["mvi"])
    row = table.iloc[0]
    assert row["Aldbrook"] == "0.60 (0.50 to 0.75)" and row["Mean of centers"] == "0.65 (0.55 to 0.74)"
    assert row["Prediction interval"] == "0.41 to 0.83" and row["Centers"] == "3"
    assert "refused: 0 centers with an estimate" in page.text


def sized(cards, external_events, endpoint="mvi"):
    settings = made.SETTINGS["endpoints"][endpoint]
    metric = {"mvi": "auc", "os": "harrell_c", "mrecist": "macro_auc"}[endpoint]
    lead = {"endpoint": endpoint, "model": "clinical", "center": "pooled", "harmonization": "none", "metric": metric}
    metrics = pd.DataFrame(
        [
            lead | {"evaluation": "cross-validated", "estimate": 0.77, "n": 400, "events": 172},
            lead | {"evaluation": "external", "estimate": 0.7, "n": 300, "events": external_events},
        ]
    )
    patients = pd.DataFrame({"os_months": [10.0, 30.0]})
    return internal.sample_size(cards, metrics, patients, endpoint, settings)


def test_sample_size_says_what_was_needed_and_warns_plainly():
    """Development: the shrinkage criterion by hand, Riley et al. 2020, equation 1, with 15 % of the largest R2."""
    card = {"endpoint": "mvi", "model": "clinical", "n": 400, "events": 172, "candidates": 10}
    table, said = sized([card], 60)
    row = table.iloc[0]
    needed = int(row["Needed for development"].split()[0])
    r2 = 0.15 * (1 - (0.43**0.43 * 0.57**0.57) ** 2)
    assert needed == int(np.ceil(10 / (-0.1 * np.log(1 - r2 / 0.9))))
    assert row["Patients (events)"] == "400 (172)" and row["Events per parameter"] == "17"
    assert row["External patients (events)"] == "300 (60)"
    assert row["Needed for external evaluation"].startswith("100 events; ")
    assert len(said) == 2 and "1 of 1 models (clinical)" in said[0] and "60 events, fewer than 100" in said[1]
    assert sized([card | {"n": 40000, "events": 17200}], 160)[1] == []


def test_sample_size_of_other_outcomes_says_what_is_not_known():
    card = {"endpoint": "mrecist", "model": "clinical", "n": 400, "events": 40, "candidates": 10}
    table, said = sized([card], np.nan, "mrecist")
    assert "refused" in table["Needed for development"].iloc[0] and "Pate" in table["Needed for development"].iloc[0]
    assert table["Needed for external evaluation"].iloc[0] == "100 of each class" and said == []
    table, _ = sized([card | {"endpoint": "os", "events": 150}], 120, "os")
    assert table["Needed for external evaluation"].iloc[0] == "100 events"


def test_the_sample_size_warning_stands_in_the_report(page):
    assert "Too small." in page.text and "Riley's criteria ask for" in page.text


def test_the_warning_and_the_number_of_models_tried_stand_in_the_report(page):
    assert "Few events." in page.text
    assert "14 models were tried" in page.text


def test_table_1_counts_patients_medians_and_missing_by_center():
    development = pd.DataFrame(
        {
            "patient": list("abcd"),
            "center": ["A", "A", "A", "B"],
            "age": [50, 60, 70, 81],
            "afp": [1.5, np.nan, 4.5, 100.25],
            "sex": ["F", "M", "M", None],
            "ascites": [0.0, 1.0, np.nan, 1.0],
            "os": [1, 2, 3, 4],
        }
    )
    external = pd.DataFrame(
        {"patient": ["e"], "center": ["X"], "age": [66], "afp": [7.0], "sex": ["F"], "ascites": [0.0]}
    )
    columns = {
        "age": {"type": "number", "unit": "years", "label": "Age"},
        "afp": {"type": "number", "unit": "ng/mL"},
        "sex": {"type": "category", "levels": ["F", "M"]},
        "ascites": {"type": "category", "levels": [0, 1]},
        "os": {"type": "number"},
    }
    settings = {"cohort": {"columns": columns}, "endpoints": {"death": {"time": "os"}}}
    table = content.characteristics(development, external, settings).set_index("")
    assert table.columns.tolist() == ["Development", "External", "A", "B", "X"]
    assert table.loc["Patients"].tolist() == ["4", "1", "3", "1", "1"]
    assert table.loc["Age (years)", "A"] == "60.0 [55.0, 65.0]"
    assert table.loc["afp (ng/mL)", "A"] == "3.0 [2.2, 3.8]"
    missing = table.loc["\u2003missing"]
    assert missing["A"].tolist() == ["1 (33 %)", "0 (0 %)", "1 (33 %)"]
    assert missing["B"].tolist() == ["0 (0 %)", "1 (100 %)", "0 (0 %)"]
    assert table.loc["\u2003M", "A"] == "2 (67 %)"
    assert table.loc["\u20031", "Development"] == "2 (67 %)"
    assert "os" not in table.index


def test_table_1_of_the_report_holds_no_outcome(page):
    table = page.text.split("Table 1.")[1].split("Patients and events behind")[0]
    assert "Child-Pugh class" in table and "Microvascular" not in table and "Overall survival" not in table


def test_harmonized_external_results_stand_beside_the_primary_ones(results):
    metrics = read_table(results / "validation/os/forest/metrics.tsv")
    table = content.side_by_side(metrics, "os", made.SETTINGS["endpoints"]["os"])
    kinds = ["none (primary)", "center-calibrated (secondary)"]
    assert table["Center"].tolist() == ["Dunmoor", "Dunmoor", "Eastlyn", "Eastlyn", "pooled", "pooled"]
    assert table["Harmonization of the center"].tolist() == kinds * 3
    values = ["Harrell's C", "O/E at 12 months", "O/E at 24 months", "ICI at 24 months", "calibration slope"]
    assert table.columns[5:].tolist() == values
    here = (metrics["center"] == "Dunmoor") & (metrics["metric"] == "oe") & (metrics["horizon"] == 12)
    for row, harmonization in enumerate(("none", "center-calibrated")):
        found = metrics[here & (metrics["harmonization"] == harmonization)].iloc[0]
        expected = f"{found['estimate']:.2f} ({found['lower']:.2f} to {found['upper']:.2f})"
        assert table.loc[row, "O/E at 12 months"] == expected
        assert table.loc[row, "n"] == f"{found['n']:.0f}"
    assert (table.loc[3, values] == "too few patients").all()  # Eastlyn
    assert (table.loc[5, values] == "other patients").all()  # pooled: of Dunmoor alone
    metrics.loc[metrics["center"] == "pooled", "n"] = 46
    assert "other patients" not in set(content.side_by_side(metrics, "os", made.SETTINGS["endpoints"]["os"])[values[0]])
    primary_only = metrics[metrics["harmonization"] == "none"]
    assert content.side_by_side(primary_only, "os", made.SETTINGS["endpoints"]["os"]).empty


@pytest.mark.parametrize(
    ("endpoint", "columns"), [("mvi", ["AUC", "O/E", "ICI", "calibration slope"]), ("mrecist", [])]
)
def test_every_type_of_endpoint_is_compared_with_and_without_harmonization(results, endpoint, columns):
    metrics = read_table(results / f"validation/{endpoint}/radiomics/metrics.tsv")
    table = content.side_by_side(metrics, endpoint, made.SETTINGS["endpoints"][endpoint])
    assert len(table) == 6 and table.columns[5:].tolist() == (columns or ["macro-averaged AUC"])


def test_a_model_without_combat_is_not_compared(results):
    metrics = read_table(results / "validation/os/forest/metrics.tsv")
    plain = metrics[metrics["harmonization"] == "none"].assign(model="clinical")
    both = pd.concat([plain, metrics])
    table = content.side_by_side(both, "os", made.SETTINGS["endpoints"]["os"])
    assert set(table["Model"]) == {"forest"}


def test_shifts_and_scales_of_every_center_are_summarized(page):
    effects = pd.DataFrame({"feature": [f"f{k}" for k in range(101)] * 2, "center": ["A"] * 101 + ["B"] * 101})
    effects["shift"] = np.r_[np.linspace(0, 1, 101), np.linspace(-3, 1, 101)]
    effects["scale"] = np.r_[np.linspace(1, 2, 101), np.ones(101)]
    first, second = content.shifts(effects).to_dict("records")
    shift, scale = "Shift (SD within centers)", "Scale (ratio of SDs)"
    assert (first["Features"], first[shift], first[scale]) == ("101", "0.50 [0.05, 0.95]", "1.50 [1.05, 1.95]")
    assert (second["Center"], second[scale], second["Largest shift"]) == ("B", "left as it is", "-3.00 (f0)")
    assert "Largest shift" in page.text and "Features were not harmonized" not in page.text
    assert "External centers without and with harmonization" in page.text


@pytest.mark.parametrize(
    ("method", "sentence"),
    [("none", "Features were not harmonized between centers"), ("combat", "there was nothing to harmonize")],
)
def test_a_study_without_harmonization_says_so_instead_of_showing_it(results, tmp_path, method, sentence):
    settings = copy.deepcopy(made.SETTINGS)
    settings["harmonize"]["method"] = method
    inputs = made.report_inputs(results)
    write_table(read_table(inputs["shifts"]).iloc[:0], tmp_path / "shifts.tsv")
    told = read_table(inputs["centers"])
    write_table(told[told["features"] == "raw"], tmp_path / "centers.tsv")
    metrics = []
    for path in inputs["metrics"]:
        metrics.append(str(tmp_path / Path(path).relative_to(results)))
        table = read_table(path)
        write_table(table[table["harmonization"] == "none"], metrics[-1])
    other = {"shifts": str(tmp_path / "shifts.tsv"), "centers": str(tmp_path / "centers.tsv"), "metrics": metrics}
    shown = Page(write(results, tmp_path, settings, **other))
    assert sentence in shown.text and "shifts" not in shown.ids and "harmonization" in shown.ids
    assert "Largest shift" not in shown.text
    assert "External centers were evaluated without harmonization only" in shown.text
    assert ("shifts" in catalog.absent_figures(settings)) == (method == "none")


def test_refused_metrics_say_why(page):
    assert "refused: 3 events; expected at least 5" in page.text


def test_users_words_are_escaped(results, tmp_path):
    settings = copy.deepcopy(made.SETTINGS)
    settings["study"]["title"] = "Tumors < 5 cm & <script>alert(1)</script>"
    settings["endpoints"]["os"]["label"] = "<i>OS</i>"
    text = write(results, tmp_path, settings)
    assert "<script>" not in text and "<i>OS" not in text
    assert "Tumors < 5 cm & <script>alert(1)</script>" in Page(text).text


def test_a_missing_figure_or_card_key_is_refused_by_name(results, tmp_path):
    with pytest.raises(StudyError, match="no figure flow"):
        write(results, tmp_path, figures=[])
    card = tmp_path / "card.json"
    content_of = json.loads(Path(made.report_inputs(results)["cards"][0]).read_text())
    del content_of["candidates"]
    write_json(content_of, card)
    with pytest.raises(StudyError, match=r"card\.json: no candidates; found cut_off"):
        write(results, tmp_path, cards=[str(card)])


def said(settings) -> str:
    return " ".join(text for _, text in methods(settings, PROVENANCE))


def test_methods_say_what_the_config_says():
    text = said(made.SETTINGS)
    for phrase in (
        "3 centers (Aldbrook, Brennac and Corvale)",
        "2 other centers (Dunmoor and Eastlyn)",
        "12 and 24 months",
        "features below 0.75 were not used",
        "5 outer and 3 inner folds",
        "200 bootstrap samples",
        "hccstudy 0.1.0 on Python 3.11.9 (numpy 2.4.6), seed 20240501",
        "0 to 10 mm",
        "2 x 2 x 2 mm",
    ):
        assert phrase in text


def test_methods_say_who_resampled_and_who_measured():
    text = said(made.SETTINGS)
    assert "prescribes" in text and "extracted with hccstudy" in text and "as in the IBSI reference manual" in text
    text = said(made.SETTINGS | {"features": {"mode": "parity", "engine": "pyradiomics", "names": "pyradiomics"}})
    assert "prepared by PyRadiomics' own conventions as its parameter files say" in text
    assert "extracted with PyRadiomics" in text and "named as by PyRadiomics" in text
    assert "prescribes" not in text and "2 x 2 x 2 mm" not in text and "resampled" not in text and "IBSI" not in text


def test_methods_claim_nothing_that_the_config_does_not_say():
    settings = copy.deepcopy(made.SETTINGS)
    assert "ComBat" in said(settings) and "normalized" not in said(settings) and "N4" not in said(settings)
    settings["harmonize"]["method"] = settings["stability"]["method"] = "none"
    for model in settings["models"].values():
        model["endpoints"] = ["mvi"]
    settings["endpoints"] = {"mvi": settings["endpoints"]["mvi"]}
    settings["regions"]["rings"] = {}
    settings["series"]["arterial"] |= {"normalization": "nyul", "bias_correction": True}
    text = said(settings)
    assert "ComBat" not in text and "center-calibrated" not in text and "not harmonized" in text
    assert "Cox" not in text and "concordance" not in text and "survival forest" not in text
    assert "peritumoral" not in text and "ICC" not in text and "stability filter" not in text
    assert "5 models were specified" in text and "unpenalized" not in text
    assert "normalized (nyul)" in text and "N4" in text


def test_every_kind_of_figure_has_a_caption():
    kinds = {
        *catalog.STUDY,
        *(kind for of in catalog.KINDS.values() for kind in of),
        "kaplan_meier",
    }
    captions = {path.stem for path in (Path(__file__).parents[1] / "workflow/report").glob("*.rst")}
    assert captions == kinds
