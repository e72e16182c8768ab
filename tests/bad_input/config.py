"""Configurations (config.yaml of a study folder), through `hccstudy check`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from bad_input import BadInput, Told
from bad_input.doors import PNG, command, config_text, refused, works, write_table_study

DOOR = "configuration"
RULES = {"type": "binary", "label": "MVI", "column": "mvi"}
MODEL = {"predictors": "radiomics", "estimator": "lasso"}


def check(content: str | bytes, folder: Path) -> Told:
    write_table_study(folder)
    (folder / "config.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    return command(folder, "check", ".")


def overlay(changes: dict[str, Any], folder: Path) -> Told:
    return check(config_text(changes), folder)


def replaced(old: str, new: str, folder: Path) -> Told:
    text = config_text()
    assert text.count(old) == 1, old
    return check(text.replace(old, new), folder)


def in_folder(name: str, folder: Path) -> Told:
    write_table_study(folder / name)
    return command(folder, "check", name)


def no_folder(folder: Path) -> Told:
    return command(folder, "check", "studie")


def a_folder_for_a_file(folder: Path) -> Told:
    (folder / "config.yaml").mkdir()
    return command(folder, "check", ".")


def given_with_option(folder: Path) -> Told:
    write_table_study(folder)
    return command(folder, "check", ".", "--configfile", "confg.yaml")


def short_message(folder: Path) -> Told:
    told = overlay({"study": {"title": ["x"] * 20_000}}, folder)
    assert len(told.message) < 2000, "a message that nobody can read"
    return told


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

FILES = {
    "empty file": ("", ["config.yaml", "found nothing"]),
    "comments alone": ("# a study\n", ["config.yaml", "found nothing"]),
    "cut off": (config_text()[:200] + "\n  development: [A, B", ["config.yaml", "not readable", "line"]),
    "a picture": (PNG, ["config.yaml line 1", "not UTF-8"]),
    "GBK": (config_text({"study": {"title": "肝癌"}}).encode("gbk"), ["config.yaml line 3", "saved as UTF-8"]),
    "Latin-1": (
        config_text({"study": {"title": "Zürich"}}).encode("latin-1"),
        ["config.yaml line 3", "saved as UTF-8"],
    ),
    "UTF-16": (config_text().encode("utf-16"), ["config.yaml line 1", "saved as UTF-8"]),
    "a list": ("- study\n- cohort\n", ["found list", "sections such as study"]),
    "plain text": ("hello", ["found str", "sections such as study"]),
    "two documents": (config_text() + "---\nstudy: {}\n", ["a single document", "config.yaml"]),
    "aliases of aliases (billion laughs)": (BOMB + config_text(), ["config.yaml", "100000 values"]),
    "an alias of itself": ("study: &a [*a]\n", ["config.yaml", "100000 values"]),
    "5,000 brackets": ("study: " + "[" * 5000, ["config.yaml", "too many brackets"]),
    "a Python object": (
        'study: !!python/object/apply:os.system ["touch pwned"]\n',
        ["could not determine a constructor"],
    ),
    "a section twice": (config_text() + "study: {name: b, title: b, seed: 1}\n", ["key 'study' stands twice"]),
    "a tab for indentation": ("study:\n\tname: a\n", ["'\\t'", "line 2"]),
    "a control character": ("study:\n  title: a\x07b\n", ["config.yaml", "special characters are not allowed"]),
    "a key that is a number": (
        config_text().replace("  mvi:\n    type", "  1:\n    type"),
        ["key 1", "expected a name (put it in quotes)"],
    ),
    "a key that YAML reads as true": (
        config_text().replace("  mvi:\n    type", "  on:\n    type"),
        ["key True", "quotes"],
    ),
}

LINES = {
    "an octal number": ("seed: 3", "seed: 012", ["line 4: 012", "decimal number"]),
    "a sexagesimal number": ("    - 12\n", "    - 1:30\n", ["1:30", "decimal number"]),
    "a date that is none": ("seed: 3", "seed: 2019-13-45", ["study.seed is '2019-13-45'", "type integer"]),
    "NaN": ("    - 12\n", "    - .nan\n", [".nan", "finite decimal number"]),
    "infinity": ("      - 100\n", "      - .inf\n", [".inf", "finite decimal number"]),
    "1e400": ("      - 100\n", "      - 1.0e+400\n", ["1.0e+400", "finite decimal number"]),
    "a number with underscores": ("seed: 3", "seed: 1_000", ["1_000", "decimal number"]),
    "a center that YAML reads as false": (
        "    - A\n",
        "    - NO\n",
        ["cohort.centers.development.0 is False", "string"],
    ),
    "a decimal comma": ("      - 100\n", "      - 1,5\n", ["cohort.columns.age.range.1 is '1,5'", "type number"]),
    "a missing key": ("    time: os_months\n", "", ["endpoints.os lacks time"]),
}

OVERLAYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a misspelt key": ({"resampling": {"fold": 3}}, ["unknown key 'fold' in resampling", "folds (did you mean it?)"]),
    "an unknown section": ({"slurm": {}}, ["unknown key 'slurm' in top level", "expected one of cohort"]),
    "a section that is a list": ({"cohort": []}, ["cohort is []", "type object"]),
    "a section that is empty": ({"study": None}, ["study is None", "type object"]),
    "text for a number": ({"study": {"seed": "three"}}, ["study.seed is 'three'", "type integer"]),
    "a seed beyond all generators": ({"study": {"seed": 10**30}}, ["study.seed", "2147483647 or less"]),
    "batch_size 0": ({"cohort": {"batch_size": 0}}, ["cohort.batch_size is 0", "1 or more"]),
    "a negative horizon": (
        {
            "endpoints": {
                "os": {
                    "type": "survival",
                    "label": "OS",
                    "time": "os_months",
                    "event": "os_event",
                    "unit": "months",
                    "horizons": [-12],
                }
            }
        },
        ["endpoints.os.horizons.0 is -12", "more than 0"],
    ),
    "a regular expression that does not compile": (
        {"models": {"m": MODEL | {"features": "(["}}},
        ["models.m.features is '(['", "a regex that can be compiled"],
    ),
    "an endpoint that is a path": ({"endpoints": {"../../x": RULES}}, ["'../../x'", "a name of letters"]),
    "a model that is a path": ({"models": {"a/b": MODEL}}, ["'a/b'", "a name of letters"]),
    "a study name that is a path": ({"study": {"name": "../x"}}, ["study.name is '../x'"]),
    "an estimator nobody has": ({"models": {"m": MODEL | {"estimator": "svm"}}}, ["'svm'", "one of linear, lasso"]),
    "a center in both roles": (
        {"cohort": {"centers": {"development": ["A", "B", "C"], "external": ["C"]}}},
        ["C is both development and external"],
    ),
    "a center that a spreadsheet would run": (
        {"cohort": {"centers": {"development": ["A", "B", "C"], "external": ["=cmd|'/c calc'!A1"]}}},
        ["cohort.centers is", "=cmd|", "formula"],
    ),
    "a level that is a missing cell": (
        {"cohort": {"columns": {"stage": {"type": "category", "levels": ["I", "NA"]}}}},
        ["cohort.columns.stage is 'NA'", "read as missing"],
    ),
    "a level with a space at its end": (
        {"cohort": {"columns": {"stage": {"type": "category", "levels": ["I", "II "]}}}},
        ["cohort.columns.stage is 'II '", "no space at its ends"],
    ),
    "a predictor that is the outcome": ({"predictors": {"clinical": ["mvi"]}}, ["predictor mvi", "outcome column"]),
    "a predictor nobody describes": ({"predictors": {"clinical": ["afp"]}}, ["predictor afp", "not in cohort.columns"]),
    "thresholds in the wrong order": ({"validation": {"thresholds": [0.5, 0.1]}}, ["validation.thresholds", "lower"]),
    "images beside a feature table": (
        {"cohort": {"images": "images.tsv"}},
        ["cohort.images together with features.table"],
    ),
    "a patients table outside that is no table": (
        {"cohort": {"patients": "/etc/passwd"}},
        ["/etc/passwd", "the ending"],
    ),
    "a patients table without a name": ({"cohort": {"patients": ""}}, ["is a folder"]),
}

CASES: list[BadInput] = [
    *(refused(DOOR, name, partial(check, content), *says) for name, (content, says) in FILES.items()),
    *(refused(DOOR, name, partial(replaced, old, new), *says) for name, (old, new, says) in LINES.items()),
    *(refused(DOOR, name, partial(overlay, changes), *says) for name, (changes, says) in OVERLAYS.items()),
    refused(DOOR, "no such study folder", no_folder, "studie", "no such folder"),
    refused(DOOR, "a folder called config.yaml", a_folder_for_a_file, "holds no config.yaml"),
    refused(DOOR, "a --configfile that is not there", given_with_option, "confg.yaml", "No such file"),
    refused(DOOR, "a title of 20,000 items", short_message, "study.title is", "type string"),
    works(DOOR, "a byte-order mark", partial(check, "\ufeff" + config_text()), "60 patients"),
    works(DOOR, "batch_size 10^30", partial(overlay, {"cohort": {"batch_size": 10**30}}), "60 patients"),
    works(DOOR, "a Chinese title", partial(overlay, {"study": {"title": "肝癌 预后"}}), "60 patients"),
    works(DOOR, "a study folder in Chinese with spaces", partial(in_folder, "肝癌 研究 1"), "60 patients"),
    works(
        DOOR,
        "a study folder called a;rm -rf $HOME `id` '{batch}' %s",
        partial(in_folder, "a;rm -rf $HOME `id` '{batch}' %s"),
        "60 patients",
    ),
]
