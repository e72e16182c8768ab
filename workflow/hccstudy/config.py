"""The configuration: layered, and validated against its closed schema.

A study's file is laid over `config/config.yaml`. Sections merge key by key; a map with names of the user's own
(columns, endpoints, series, rings, models) is replaced whole, so that nothing of the demo leaks into another study.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from hccstudy import endpoints, tables
from hccstudy.errors import Problems, StudyError

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMAS = REPOSITORY / "workflow" / "schemas"
BASE = REPOSITORY / "config" / "config.yaml"
STUDIES = REPOSITORY / "config" / "studies"

Config = dict[str, Any]

# Sections that only a study with images has.
IMAGING = ("series", "imports", "preprocess", "regions")

# What a series asks of preprocess, and how it is switched off: nothing of it in mode parity.
PREPARATION: dict[str, Any] = {
    "window": None,
    "bias_correction": False,
    "normalization": "none",
    "resegment_range": None,
    "resegment_sigma": None,
}

# Features that pass the univariate screen by default (None: all). Penalized models choose among 50.
SELECT = {"linear": None, "lasso": 50, "elastic_net": 50, "forest": 20, "boosting": 20}


LARGEST = 100_000  # values of a YAML file
DAYS = {"days": 1.0, "weeks": 7.0, "months": 30.4375, "years": 365.25}


@cache
def schema(name: str) -> dict[str, Any]:
    """A schema of workflow/schemas: "config", "patients", "images" or "features"."""
    return dict(yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8")))


class _PlainValues(yaml.SafeLoader):
    """YAML that means what it shows: no key twice (the last would win), keys that are text, and decimal finite numbers
    (012 would be 10, and 1:30 would be 90)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key, (at, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"key {key!r} stands twice in the section that begins in line {line}")
            if not isinstance(key, str):
                raise yaml.YAMLError(f"line {at.start_mark.line + 1}: key {key!r}, expected a name (put it in quotes)")
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        plain = re.fullmatch(r"[+-]?0\d.*", node.value) is None and math.isfinite(tables.number(node.value))
        if not plain:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {node.value}, expected a finite decimal number")
        return int(node.value) if node.tag.endswith(":int") else float(node.value)

    def construct_date(self, node: yaml.ScalarNode) -> str:
        return node.value  # no key holds a date; a center or level may look like one


for _tag in ("int", "float"):
    _PlainValues.add_constructor(f"tag:yaml.org,2002:{_tag}", _PlainValues.construct_number)
_PlainValues.add_constructor("tag:yaml.org,2002:timestamp", _PlainValues.construct_date)


def load_yaml(path: str | Path) -> Any:
    """The plain values of a YAML file; StudyError says what is wrong with it, or is not what it seems."""
    try:
        content = yaml.load(tables.read_utf8(path), _PlainValues)
    except RecursionError as error:
        raise StudyError(f"{path}: not readable (too many brackets in brackets)") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: not readable ({' '.join(str(error).split())})") from error
    waiting, count = [content], 0
    while waiting:  # nine lines of aliases can hold a billion values, or themselves
        count += 1
        if count > LARGEST:
            raise StudyError(
                f"{path}: holds more than {LARGEST} values (aliases of aliases?); expected a configuration"
            )
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return content


def read_yaml(path: str | Path) -> Config:
    """A YAML file that holds a map; StudyError says what is wrong with it."""
    try:
        content = load_yaml(path)
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror}; expected a study's configuration (YAML)") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise StudyError(f"{path}: found {found}; expected sections such as study: and cohort:")
    return content


def layer(base: Mapping[str, Any], overlay: Mapping[str, Any], rules: Mapping[str, Any] | None = None) -> Config:
    """`overlay` over `base`: objects with fixed keys merge, maps with free names and plain values are replaced."""
    rules = schema("config") if rules is None else rules
    merged = deepcopy(dict(base))
    for key, value in overlay.items():
        inner = rules.get("properties", {}).get(key, {})
        mergeable = "properties" in inner and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = layer(merged[key], value, inner) if mergeable else deepcopy(value)
    return merged


def load_config(overlay: Mapping[str, Any] | None = None, *, name: str = "config/config.yaml") -> Config:
    """The whole, validated configuration of a study: the reference file with `overlay` over it.

    Raises StudyError with every problem at once; `name` is the file that messages name.
    """
    config = layer(read_yaml(BASE), overlay or {})
    problems = Problems()
    validator = Draft202012Validator(schema("config"), format_checker=Draft202012Validator.FORMAT_CHECKER)
    for error in validator.iter_errors(config):
        _explain(error, name, problems)
    _check_finite(config, "", name, problems)
    if not len(problems):
        if config["features"]["table"]:
            config = _without_images(config, overlay or {}, name, problems)
        else:
            _check_imaging(config, name, problems)
        _check_references(config, name, problems)
    problems.raise_if_any()
    return _with_defaults(config)


def _without_images(config: Config, overlay: Mapping[str, Any], name: str, problems: Problems) -> Config:
    """The configuration of a study that starts from a feature table.

    What the reference file says of images goes; what the study itself says of them is a problem. Without
    `features.repeats` there is no stability to measure, and the method is none unless the study says otherwise.
    """
    stated = [section for section in IMAGING if section in overlay]
    stated += [f"cohort.{key}" for key in ("images", "simulation") if overlay.get("cohort", {}).get(key)]
    stated += [f"features.{key}" for key in ("names", "primary_reader") if key in overlay["features"]]
    for key in stated:
        problems.add(name, f"{key} together with features.table", "one of them: a study has images or a feature table")
    config = {section: rules for section, rules in config.items() if section not in IMAGING}
    config["cohort"] |= {"images": None, "simulation": None}
    config["features"] = {key: config["features"][key] for key in ("table", "repeats")}
    repeats = config["features"]["repeats"]
    method = overlay.get("stability", {}).get("method", "readers" if repeats else "none")
    if method == "perturbation" or (method == "readers" and not repeats):
        expected = "readers with features.repeats, or none (there is no mask to perturb)"
        problems.add(name, f"{method} for a feature table", expected, column="stability.method")
    config["stability"] |= {"method": method}
    return config


def _check_imaging(config: Config, name: str, problems: Problems) -> None:
    """What a schema cannot say of images."""
    if not config["cohort"]["images"]:
        problems.add(name, "null", "the images table, or features: {table: ...}", column="cohort.images")
    if config["features"]["repeats"]:
        problems.add(name, "set without features.table", "both, or null", column="features.repeats")
    for series, rules in config["series"].items():
        if rules["modality"] != "CT" and rules.get("window"):
            problems.add(name, str(rules["window"]), "a window for CT only", column=f"series.{series}.window")
        if rules["modality"] != "MR" and rules.get("bias_correction"):
            problems.add(name, "true", "bias correction for MR only", column=f"series.{series}.bias_correction")
        if rules["modality"] == "PT" and rules.get("normalization", "none") != "none":
            problems.add(name, rules["normalization"], "none for PT (SUV)", column=f"series.{series}.normalization")
        if rules.get("normalization") == "nyul" and not rules.get("landmarks"):
            problems.add(
                name,
                "missing",
                "a landmarks file for normalization: nyul",
                column=f"series.{series}.landmarks",
            )
        if rules["modality"] == "CT" and rules.get("normalization", "none") != "none":
            problems.add(
                name,
                rules["normalization"],
                "none for CT (Hounsfield units)",
                column=f"series.{series}.normalization",
            )
        if config["features"]["mode"] == "parity":
            for key, off in PREPARATION.items():
                if rules.get(key, off) != off:
                    expected = f"{json.dumps(off)} with features.mode parity (the parameter file does it)"
                    problems.add(name, json.dumps(rules[key]), expected, column=f"series.{series}.{key}")
    for ring, (inner, outer) in config["regions"]["rings"].items():
        if inner >= outer:
            problems.add(name, f"[{inner}, {outer}]", "inner < outer", column=f"regions.rings.{ring}")
        if config["features"]["mode"] == "ibsi" and outer + 10 > config["preprocess"]["margin_mm"]:
            margin = f"at most preprocess.margin_mm - 10 = {config['preprocess']['margin_mm'] - 10}"
            problems.add(name, f"{outer} mm", margin, column=f"regions.rings.{ring}")


def _check_finite(value: Any, place: str, name: str, problems: Problems) -> None:
    """NaN passes every bound of a schema."""
    if isinstance(value, float) and not math.isfinite(value):
        problems.add(name, str(value), "a finite number", column=place)
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        _check_finite(inner, f"{place}.{key}".lstrip("."), name, problems)


def _explain(error: Any, name: str, problems: Problems) -> None:
    place = ".".join(str(part) for part in error.absolute_path) or "top level"
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        for key in sorted(set(error.instance) - set(known)):
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"{near[0]} (did you mean it?)" if near else "one of " + ", ".join(known)
            problems.add(name, f"unknown key {key!r} in {place}", hint)
    elif error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))
        problems.add(name, f"{place} lacks {', '.join(missing)}", "every required key")
    else:
        problems.add(name, f"{error.instance!r}", _expectation(error), column=place)


def _expectation(error: Any) -> str:
    """What a schema rule wants, in words, and the description of the key."""
    rule, value = error.validator, error.validator_value
    words = {
        "type": f"a value of type {' or '.join(value) if isinstance(value, list) else value}",
        "enum": f"one of {', '.join(map(str, value))}" if isinstance(value, list) else "",
        "pattern": "a name of letters, digits and _ that begins with a letter",
        "minimum": f"{value} or more",
        "maximum": f"{value} or less",
        "exclusiveMinimum": f"more than {value}",
        "minItems": f"{value} or more items",
        "maxItems": f"{value} items at most",
        "minProperties": f"{value} or more",
        "uniqueItems": "every item once",
        "format": f"a {value} that can be compiled",
    }
    text = words.get(rule) or f"{rule} {value}"
    description = error.schema.get("description")
    return f"{text} ({description})" if description else text


def _check_references(config: Config, name: str, problems: Problems) -> None:
    """What a schema cannot say: names that refer to other names."""
    columns = config["cohort"]["columns"]
    outcomes = {column: endpoint for endpoint, column in outcome_columns(config)}
    for predictor in config["predictors"]["clinical"]:
        if predictor in outcomes:
            place = f"the outcome column of endpoint {outcomes[predictor]}"
            problems.add(name, place, "a variable known before the outcome", column=f"predictor {predictor}")
        elif predictor not in columns:
            problems.add(name, "not in cohort.columns", f"one of {', '.join(columns)}", column=f"predictor {predictor}")
    _check_known_in_time(config, name, problems)
    for column, rules in columns.items():
        if column in outcomes:
            place = f"also the outcome of endpoint {outcomes[column]}"
            problems.add(name, place, "outcomes only under endpoints", column=f"cohort.columns.{column}")
        if rules["type"] == "category" and "levels" not in rules:
            problems.add(name, "a category without levels", "levels: [...]", column=f"cohort.columns.{column}")
        if rules.get("log") and not rules.get("range", [0])[0] > 0:
            problems.add(
                name,
                "log with a range that is not above 0",
                "range: [> 0, ...]",
                column=f"cohort.columns.{column}",
            )
    _check_words(config, name, problems)
    centers = config["cohort"]["centers"]
    for center in sorted({"pooled", "within-center"} & {*centers["development"], *centers["external"]}):
        problems.add(name, f"a center called {center}", "another name (results are called so)", column="cohort.centers")
    for center in sorted(set(centers["development"]) & set(centers["external"])):
        problems.add(
            name,
            f"{center} is both development and external",
            "one role for a center",
            column="cohort.centers",
        )
    for model, rules in config["models"].items():
        for endpoint in rules.get("endpoints", []):
            if endpoint not in config["endpoints"]:
                known = ", ".join(config["endpoints"])
                problems.add(name, f"endpoint {endpoint!r}", f"one of {known}", column=f"models.{model}.endpoints")
        if rules["predictors"] != "radiomics" and not config["predictors"]["clinical"]:
            problems.add(name, "empty", "at least one column for clinical models", column="predictors.clinical")
    for endpoint in config["endpoints"]:
        if not any(endpoint in rules.get("endpoints", [endpoint]) for rules in config["models"].values()):
            problems.add(name, f"endpoint {endpoint} has no model", "at least one", column="models")
    if "study" in config["endpoints"]:
        problems.add(name, "an endpoint called study", "another name", column="endpoints")
    low, high = config["validation"]["thresholds"]
    if not low < high:
        problems.add(name, f"[{low}, {high}]", "the lower threshold first", column="validation.thresholds")


def _check_words(config: Config, name: str, problems: Problems) -> None:
    """Words that no cell can hold, and those that a spreadsheet would run as soon as it opens a result."""
    sections: list[tuple[str, Config]] = [
        ("cohort.centers", config["cohort"]["centers"]),
        *((f"cohort.columns.{column}", rules) for column, rules in config["cohort"]["columns"].items()),
        *((f"endpoints.{endpoint}", rules) for endpoint, rules in config["endpoints"].items()),
    ]
    for place, rules in sections:
        for word in (*rules.get("levels", []), *rules.get("development", []), *rules.get("external", [])):
            if word in tables.MISSING:
                problems.add(name, repr(word), "another name (such a cell is read as missing)", column=place)
            elif word != word.strip():
                problems.add(name, repr(word), "no space at its ends (cells are read without)", column=place)
            elif tables.is_formula(word):
                problems.add(name, repr(word), f"a name {tables.NO_FORMULA}", column=place)


def _check_known_in_time(config: Config, name: str, problems: Problems) -> None:
    """Immortal time: a predictor that is known after follow-up starts is known only of those who live that long."""
    for predictor in config["predictors"]["clinical"]:
        known_at = config["cohort"]["columns"].get(predictor, {}).get("known_at", 0)
        for endpoint, rules in config["endpoints"].items():
            if rules["type"] == "survival" and known_at > landmark_days(rules) + 1e-9:
                found = f"known {known_at:g} days after the index date, while endpoint {endpoint} starts there"
                if rules.get("landmark"):
                    found = f"known after {known_at:g} days, endpoint {endpoint} starts after {landmark_days(rules):g}"
                needed = known_at / DAYS[rules["unit"]]
                expected = f"landmark: {needed:.3g} ({rules['unit']}) or more in endpoint {endpoint}"
                problems.add(name, found, expected, column=f"predictor {predictor}")


def _with_defaults(config: Config) -> Config:
    """Optional keys filled in, so that no stage has to know a default."""
    starts = [landmark_days(rules) for rules in config["endpoints"].values() if rules["type"] == "survival"]
    series = {
        "timepoint": "baseline",
        "required": True,
        "description": "",
        "latest_day": min(starts, default=None),
        "interpolator": "bspline",
        "window": None,
        "bias_correction": False,
        "normalization": "none",
        "normalization_region": "body",
        "landmarks": None,
        "resegment_range": None,
        "resegment_sigma": None,
    }
    config["cohort"]["centers"].setdefault("column", "center")
    if "series" in config:
        config["series"] = {name: series | rules for name, rules in config["series"].items()}
    for rules in config["models"].values():
        rules.setdefault("select", SELECT[rules["estimator"]])
        rules.setdefault("features", None)
        rules.setdefault("endpoints", list(config["endpoints"]))
    for rules in config["endpoints"].values():
        if rules["type"] == "survival":
            rules.setdefault("competing", None)
            rules.setdefault("landmark", 0)
            # after a landmark the outcome is another one, in columns of its own (cohort_tables._start_at_landmark)
            rules["source"] = {key: rules[key] for key in ("time", "event")}
            if rules["landmark"]:
                rules |= {key: f"{name}_after_{rules['landmark']:g}" for key, name in rules["source"].items()}
    for column, rules in config["cohort"]["columns"].items():
        rules.setdefault("label", column)
        rules.setdefault("log", False)
    return config


def landmark_days(endpoint: Mapping[str, Any]) -> float:
    """How long after the index date the follow-up of a survival endpoint starts."""
    return float(endpoint.get("landmark", 0)) * DAYS[endpoint["unit"]]


def outcome_columns(config: Config) -> Iterator[tuple[str, str]]:
    """(endpoint, column) for every column that holds an outcome."""
    for endpoint, rules in config["endpoints"].items():
        for column in endpoints.outcome_columns(rules):
            yield endpoint, column


def minimum_training(folds: int) -> int:
    """Development patients that nested cross-validation wants at least: five a fold."""
    return 5 * folds


def study_file(name: str) -> Path:
    """The configuration file of a ready-made study (config/studies/<name>.yaml)."""
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in STUDIES.glob("*.yaml")))
        raise StudyError(f"no study {name!r} in config/studies; expected one of {known}")
    return path
