"""The workflow's contracts: rules are function calls, outcomes of external centers have one reader."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.api import SnakemakeApi
from snakemake.settings.types import (
    ConfigSettings,
    DeploymentSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
    StorageSettings,
    WorkflowSettings,
)

import small_study
from hccstudy.batches import ATTEMPTS, MORE
from hccstudy.config import REPOSITORY
from hccstudy.documents import demo_tables


@pytest.fixture(scope="module")
def rules():
    """The rules of the demo study, as Snakemake sees them."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        loaded = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(),
            storage_settings=StorageSettings(),
            workflow_settings=WorkflowSettings(),
            deployment_settings=DeploymentSettings(),
            snakefile=REPOSITORY / "Snakefile",
            workdir=REPOSITORY,
        )
        yield {rule.name: rule for rule in loaded._workflow.rules}


def scripted(rules):
    return [rule for rule in rules.values() if rule.script]


def test_the_names_of_a_rule_are_the_arguments_of_its_function(rules):
    assert len(scripted(rules)) >= 19
    for rule in scripted(rules):
        module, function = rule.params.get("call").split("@")[0].split(":")
        signature = inspect.signature(getattr(importlib.import_module(f"hccstudy.{module}"), function))
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}, rule.name
        given = [*rule.input.keys(), *rule.output.keys(), *(key for key in rule.params.keys() if key != "call")]  # noqa: SIM118
        signature.bind(**dict.fromkeys(given))  # TypeError names what is missing or unexpected


def test_every_rule_has_a_log_and_one_bridge(rules):
    for rule in scripted(rules):
        assert rule.log, rule.name
        assert rule.script == "../stage.py"


def test_inputs_are_paths(rules):
    """A job on a node of a cluster looks at its own rule alone. An input written as `rules.X.output.Y` brings in rule X
    with everything before it: the node would do again what looks changed from there (Snakemake 9.27)."""
    for rule in rules.values():
        assert not rule.dependencies, rule.name


def test_external_outcomes_are_read_by_the_validation_alone(rules):
    path = "results/cohort/external_outcomes.tsv"
    assert [rule.name for rule in rules.values() if path in map(str, rule.input)] == [
        "validate_model",
        "compare_models",
    ]
    assert [rule.name for rule in rules.values() if path in map(str, rule.output)] == ["split_cohort"]


def test_no_training_rule_reads_the_raw_tables(rules):
    raw = {"resources/demo/patients.tsv", "resources/demo/images.tsv"}
    assert [rule.name for rule in rules.values() if raw & set(map(str, rule.input))] == ["split_cohort"]


def test_the_targets_are_there(rules):
    assert {"all", "features", "figures", "report"} <= set(rules)


def test_the_embedded_demo_is_what_the_simulation_says():
    for path, text in demo_tables().items():
        assert Path(path).read_text(encoding="utf-8") == text, f"{path} is stale; run: make docs"


def test_every_attempt_of_a_batch_gets_its_share_of_memory_and_time(rules):
    """1.5 GB and 15 times the largest image at first; then by MORE, at last no more than at first."""
    scope = rules["import_images"].workflow.globals
    batch, wildcards = next(iter(scope["BATCHES"])), SimpleNamespace()
    wildcards.batch = batch
    for name in ("memory_mb", "runtime_minutes", "extraction_minutes"):
        told = [scope[name](wildcards, attempt) for attempt in range(1, ATTEMPTS + 1)]
        assert [value / told[0] for value in told] == list(MORE)
    assert scope["memory_mb"](wildcards, 1) == 1500 + 15 * scope["image_mb"](batch)


# what Python does at its start: every file that it opens is written down
LISTENER = """
import os, sys
target = os.open(os.environ["OPENED"], os.O_WRONLY | os.O_APPEND)
def hook(event, details):
    if event == "open" and isinstance(details[0], str | os.PathLike):
        os.write(target, (os.fspath(details[0]) + "\\n").encode())
sys.addaudithook(hook)
"""


def test_planning_opens_no_image(tmp_path, monkeypatch):
    """The head of a run on a cluster plans and waits; all that it asks of an image is its size and time."""
    folder = small_study.make_study(tmp_path / "study")
    (tmp_path / "sitecustomize.py").write_text(LISTENER)
    (tmp_path / "opened").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OPENED", str(tmp_path / "opened"))
    planned = small_study.jobs(small_study.run(folder, "--dry-run"))
    assert planned["import_images"] > 1
    names = {Path(line).name for line in (tmp_path / "opened").read_text().splitlines()}
    assert {"patients.tsv", "images.tsv"} <= names
    assert not names & {path.name for path in (folder / "images").iterdir()}
