"""Frozen models: saved without code inside (skops), loaded only if unchanged and made of known types."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from hccstudy.errors import StudyError
from hccstudy.tables import atomic, check_unchanged, file_digest, read_json
from hccstudy.workbooks import check_unpacked

# where a skops schema names an object by its memory address
ADDRESS = re.compile(r'("__id__": |"file": ")(\d+)')
# All that models are made of, by the way in which skops loads it: no functions, no methods, and of no package more than this.
TYPES = {
    "DictNode": {"builtins.dict"},
    "ListNode": {"builtins.list"},
    "TupleNode": {"builtins.tuple"},
    "JsonNode": {"builtins.str"},
    "TypeNode": {"builtins.str"},
    "NdArrayNode": {"numpy.ndarray", "numpy.float64", "numpy.int64"},
    "RandomStateNode": {"numpy.random.mtrand.RandomState"},
    "TreeNode": {"sklearn.tree._tree.Tree"},
    "LossNode": {f"sklearn._loss._loss.CyHalf{name}Loss" for name in ("Binomial", "Multinomial")},
    "ObjectNode": {
        "hccstudy.combat.CenterComBat",
        "hccstudy.combat.ComBat",
        "hccstudy.models.combined.CombinedPredictors",
        "hccstudy.models.estimators.PenalizedCox",
        "hccstudy.models.estimators.PenalizedLogistic",
        "hccstudy.models.steps.ClinicalEncoder",
        "hccstudy.models.steps.NamedFeatures",
        "hccstudy.models.steps.RadiomicsImputer",
        "hccstudy.models.steps.RedundancyFilter",
        "hccstudy.models.steps.StabilityFilter",
        "hccstudy.models.steps.Standardizer",
        "hccstudy.models.steps.UnivariateSelect",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn.dummy.DummyClassifier",
        "sklearn.ensemble._forest.RandomForestClassifier",
        "sklearn.ensemble._gb.GradientBoostingClassifier",
        "sklearn.linear_model._logistic.LogisticRegression",
        "sklearn.pipeline.Pipeline",
        "sklearn.tree._classes.DecisionTreeClassifier",
        "sklearn.tree._classes.DecisionTreeRegressor",
        "sksurv.ensemble.boosting.GradientBoostingSurvivalAnalysis",
        "sksurv.ensemble.forest.RandomSurvivalForest",
        "sksurv.ensemble.survival_loss.CoxPH",
        "sksurv.functions.StepFunction",
        "sksurv.linear_model.coxnet.CoxnetSurvivalAnalysis",
        "sksurv.linear_model.coxph.BreslowEstimator",
        "sksurv.linear_model.coxph.CoxPHSurvivalAnalysis",
        "sksurv.tree.tree.SurvivalTree",
    },
}


def save_model(pipeline: Pipeline, path: str | Path) -> None:
    """Write a fitted pipeline; what only fitting needs (repeated measurements, unfitted parts) stays behind.

    Equal pipelines give equal bytes.
    """
    import skops.io  # here: its import takes longer than that of all the rest, and internal validation saves nothing

    with atomic(path) as temporary:
        temporary.write_bytes(_reproducible(skops.io.dumps(_slim(copy.deepcopy(pipeline)))))


def _reproducible(archive: bytes) -> bytes:
    """A skops archive without what differs from run to run: times, memory addresses used as names, and what lies in
    memory between the fields of a tree's nodes."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        numbers: dict[str, str] = {}

        def numbered(found: re.Match[str]) -> str:
            return found[1] + numbers.setdefault(found[2], str(len(numbers) + 1))

        contents = {"schema.json": ADDRESS.sub(numbered, old.read("schema.json").decode()).encode()}
        for name in old.namelist():
            if name != "schema.json":
                contents[numbers[Path(name).stem] + Path(name).suffix] = _without_padding(old.read(name))
        for name, content in sorted(contents.items()):
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _without_padding(content: bytes) -> bytes:
    """A saved array of records with zeros between their fields; other contents as they are."""
    if not content.startswith(b"\x93NUMPY"):
        return content
    array = np.load(io.BytesIO(content))
    if not array.dtype.names:
        return content
    clean = np.zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    target = io.BytesIO()
    np.save(target, clean)
    return target.getvalue()


def _slim(pipeline: Pipeline) -> Pipeline:
    for _, step in pipeline.steps:
        if hasattr(step, "repeats"):
            step.repeats = None
        if hasattr(step, "radscore_"):
            step.radscore = None
            step.radscore_ = _slim(step.radscore_)
    return pipeline


def load_model(path: str | Path, sha256: str) -> Pipeline:
    """Read a frozen model; StudyError where its bytes are not those of `sha256`, or it is no pipeline of known types."""
    import skops.io

    if not Path(path).is_file():
        raise StudyError(f"{path}: no such file; expected a frozen model (.skops)")
    found = file_digest(path)
    if found != sha256:
        raise StudyError(
            f"{path}: SHA-256 is {found[:12]}...; expected {sha256[:12]}... of its card: not the frozen model. "
            "Restore it, or delete it and run the study again"
        )
    try:
        check_unpacked(Path(path))
        with zipfile.ZipFile(path) as archive:
            foreign = sorted(set(_foreign(json.loads(archive.read("schema.json")))))
        if foreign:
            raise StudyError(f"{path}: holds {', '.join(foreign)}; expected only what hccstudy's models are made of")
        model = skops.io.load(path, trusted=sorted(set().union(*TYPES.values())))
    except StudyError:
        raise
    except Exception as error:  # a file that is none of ours can raise anything in skops
        found = f"{type(error).__name__}: {error}"
        raise StudyError(
            f"{path}: not readable as a frozen model ({found}); expected the file as it was written"
        ) from error
    if not isinstance(model, Pipeline):
        raise StudyError(f"{path}: holds {type(model).__name__}; expected a scikit-learn pipeline")
    return model


def _foreign(node: Any) -> Iterator[str]:
    """What of a skops schema is not in TYPES."""
    if isinstance(node, dict) and "__loader__" in node:
        name = f"{node['__module__']}.{node['__class__']}"
        if name not in TYPES.get(node["__loader__"], ()):
            yield f"{name} ({node['__loader__']})"
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _foreign(part)


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card of a frozen model; StudyError where it is not as it was written."""
    try:
        card = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path}: not readable as the card of a model ({error}); expected card.json") from error
    if not isinstance(card, dict) or not {"sha256", "cut_off", "checksum"} <= set(card):
        raise StudyError(f"{path}: is no card of a model; expected card.json as it was written beside the model")
    check_unchanged(card, path)
    return card
