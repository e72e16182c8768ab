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
from hccstudy.report import content
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
        allowed = ("cross-", "externally ", "in the making, are ")
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
    assert content.side_by_side(metrics, "os", made.SETTINGS["endpoints"]["os"]).empty  # of different patients
    metrics["n"] = 46
    table = content.side_by_side(metrics, "os", made.SETTINGS["endpoints"]["os"])
    kinds = ["none (primary)", "center-calibrated (secondary)"]
    assert table["Harmonization of the center"].tolist() == kinds
    assert table["n"].tolist() == ["46", "46"] and {"O/E at 24 months", "calibration slope"} <= set(table.columns)
    primary_only = metrics[metrics["harmonization"] == "none"]
    assert content.side_by_side(primary_only, "os", made.SETTINGS["endpoints"]["os"]).empty


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
