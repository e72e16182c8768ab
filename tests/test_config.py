"""The configuration is closed, layered without leaks, and documented."""

from __future__ import annotations

import pytest
import yaml

from hccstudy.config import BASE, REPOSITORY, STUDIES, layer, load_config, read_yaml, schema
from hccstudy.documents import config_readme
from hccstudy.errors import StudyError


def test_the_demo_and_every_ready_made_study_are_valid():
    assert load_config()["study"]["name"] == "demo"
    files = sorted(STUDIES.glob("*.yaml"))
    assert files
    for file in files:
        load_config(read_yaml(file), name=file.name)
    load_config(read_yaml(REPOSITORY / "resources" / "template" / "config.yaml"))


def test_the_reference_file_states_every_key_and_a_comment_for_choices():
    """Whoever reads config.yaml sees all sections; optional keys are those with a default."""
    stated = read_yaml(BASE)
    for section, rules in schema("config")["properties"].items():
        assert set(rules.get("required", [])) <= set(stated[section]), section


def test_maps_with_free_names_are_replaced_and_sections_merge():
    merged = layer(read_yaml(BASE), {"series": {"t1": {"modality": "MR"}}, "validation": {"bootstrap": 999}})
    assert list(merged["series"]) == ["t1"]
    assert merged["validation"]["bootstrap"] == 999
    assert merged["validation"]["groups"] == read_yaml(BASE)["validation"]["groups"]
    assert layer(read_yaml(BASE), {"cohort": {"columns": {}}})["cohort"]["columns"] == {}


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"modles": {}}, "unknown key 'modles' in top level; expected models (did you mean it?)"),
        ({"validation": {"bootstrap": 3}}, "validation.bootstrap is 3; expected 50 or more"),
        ({"models": {"x": {"predictors": "clinical", "estimator": "svm"}}}, "linear"),
        ({"predictors": {"clinical": ["os_event"]}}, "the outcome column of endpoint os"),
        ({"predictors": {"clinical": ["weight"]}}, "not in cohort.columns"),
        ({"cohort": {"centers": {"external": ["Aldbrook"]}}}, "Aldbrook is both development and external"),
        ({"regions": {"rings": {"r": [5, 3]}}}, "regions.rings.r is [5, 3]; expected inner < outer"),
        ({"regions": {"rings": {"r": [0, 90]}}}, "preprocess.margin_mm"),
        ({"models": {"x": {"predictors": "radiomics", "estimator": "lasso", "endpoints": ["dfs"]}}}, "endpoint 'dfs'"),
        ({"endpoints": {"os": {"type": "survival", "label": "OS"}}}, "endpoints.os lacks event, horizons, time, unit"),
        ({"study": {"seed": "one"}}, "study.seed is 'one'"),
        (
            {
                "features": {"mode": "parity"},
                "series": {"a": {"modality": "PT", "spacing": [1, 1, 1], "parameters": "p", "resegment_sigma": 3}},
            },
            "series.a.resegment_sigma is 3; expected null with features.mode parity (the parameter file does it)",
        ),
        *(
            (
                {
                    "features": {"mode": "parity"},
                    "series": {"a": {"modality": modality, "spacing": [1, 1, 1], "parameters": "p", key: value}},
                },
                f"series.a.{key} is {said} with features.mode parity",
            )
            for modality, key, value, said in (
                ("CT", "window", [0, 9], "[0, 9]; expected null"),
                ("MR", "bias_correction", True, "true; expected false"),
                ("MR", "normalization", "zscore", '"zscore"; expected "none"'),
                ("PT", "resegment_range", [0, 9], "[0, 9]; expected null"),
            )
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(overlay, message):
    with pytest.raises(StudyError) as error:
        load_config(overlay)
    assert message in str(error.value)


def test_in_parity_mode_no_margin_is_kept_so_rings_may_be_wide():
    series = {"a": {"modality": "CT", "spacing": [1, 1, 1], "parameters": "p"}}
    rings = {"regions": {"rings": {"r": [0, 90]}}, "series": series}
    assert load_config(rings | {"features": {"mode": "parity"}})["regions"]["rings"] == {"r": [0, 90]}


def test_all_problems_are_said_at_once():
    with pytest.raises(StudyError, match="3 problems"):
        load_config({"modles": {}, "validation": {"bootstrap": 3}, "study": {"seed": -1}})


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("study:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(StudyError, match="'seed' stands twice"):
        read_yaml(tmp_path / "c.yaml")
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["study"]["seed"] == 2  # what plain YAML would do


def test_every_key_and_column_has_a_description_and_the_readme_is_current():
    def walk(rules, place):
        for key, inner in rules.get("properties", {}).items():
            assert inner.get("description") or "properties" in inner or "additionalProperties" in inner, place + key
            walk(inner, f"{place}{key}.")
            if isinstance(inner.get("additionalProperties"), dict):
                walk(inner["additionalProperties"], f"{place}{key}.*.")
        if rules.get("type") == "object" and "properties" in rules:
            assert rules.get("additionalProperties") is False, f"{place} is open"

    walk(schema("config"), "")
    assert (REPOSITORY / "config" / "README.md").read_text(encoding="utf-8") == config_readme()
