"""Frozen models and their cards, through the loader that every prediction goes through."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from numpy.f2py import crackfortran
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from bad_input import BadInput, Told
from bad_input.cohort import claim_size
from bad_input.doors import PNG, called, refused, works
from hccstudy.models.frozen import load_model, read_card, save_model
from hccstudy.models.steps import RadiomicsImputer
from hccstudy.tables import digest, file_digest, write_frozen_json

DOOR, CARD = "frozen model", "card of a model"
VALUES = np.random.default_rng(3).normal(size=(40, 3))


class Foreign:
    """A type that no model of ours holds."""


@cache
def _fitted() -> Pipeline:
    return Pipeline([("model", LogisticRegression())]).fit(VALUES, (VALUES[:, 0] > 0).astype(int))


def frozen(folder: Path) -> Path:
    save_model(_fitted(), folder / "model.skops")
    card = {"sha256": file_digest(folder / "model.skops"), "cut_off": 0.25, "endpoint": "os"}
    write_frozen_json(card, folder / "card.json")
    return folder


def load(folder: Path) -> Told:
    def both() -> None:
        card = read_card(folder / "card.json")
        model = load_model(folder / "model.skops", card["sha256"])
        assert np.array_equal(model.predict_proba(VALUES), _fitted().predict_proba(VALUES)) and card["cut_off"] == 0.25

    return called(both)


def tampered(change: Callable[[bytes], bytes], file: str, folder: Path) -> Told:
    path = frozen(folder) / file
    path.write_bytes(change(path.read_bytes()))
    return load(folder)


def forged(content: bytes | Callable[[], bytes], folder: Path) -> Told:
    """A model whose card is right for it: only what is in the file can give it away."""
    (folder / "model.skops").write_bytes(content() if callable(content) else content)
    write_frozen_json({"sha256": file_digest(folder / "model.skops"), "cut_off": 0.25}, folder / "card.json")
    return load(folder)


def bomb(folder: Path) -> Told:
    frozen(folder)
    claim_size(folder / "model.skops", "schema.json")
    return forged((folder / "model.skops").read_bytes(), folder)


def without(name: str, folder: Path) -> Told:
    (frozen(folder) / name).unlink()
    return load(folder)


def card_without(key: str, folder: Path) -> Told:
    frozen(folder)
    card = {name: value for name, value in read_card(folder / "card.json").items() if name not in (key, "checksum")}
    (folder / "card.json").write_text(json.dumps(card | ({} if key == "checksum" else {"checksum": digest(card)})))
    return load(folder)


def one_byte(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def other_cut_off(content: bytes) -> bytes:
    assert b"0.25" in content
    return content.replace(b"0.25", b"0.75")


def with_foreign_type() -> bytes:
    return skops.io.dumps(Pipeline([("scale", StandardScaler()), ("model", Foreign())]))


def with_foreign_function() -> bytes:
    return skops.io.dumps(Pipeline([("call", FunctionTransformer(json.loads))]))


def with_function_of_a_trusted_package() -> bytes:
    """Code as text, and what of numpy would run it: numpy.f2py.crackfortran.myeval."""
    code = FunctionTransformer(np.full_like, kw_args={"fill_value": "print('run')", "dtype": "<U20"})
    return skops.io.dumps(Pipeline([("code", code), ("run", FunctionTransformer(np.vectorize(crackfortran.myeval)))]))


def disguised() -> bytes:
    """A function that says it is a dict."""
    content = with_foreign_function()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        parts = {name: old.read(name).decode() for name in old.namelist()}
    assert '"FunctionNode"' in parts["schema.json"]
    schema = json.loads(parts["schema.json"], object_hook=_as_dict)
    return archive(parts | {"schema.json": json.dumps(schema)})


def _as_dict(node: dict[str, Any]) -> dict[str, Any]:
    foreign = node.get("__loader__") in ("FunctionNode", "ObjectNode") and node["__class__"] != "Pipeline"
    return node | {"__module__": "builtins", "__class__": "dict"} if foreign else node


def no_pipeline(value: Any) -> bytes:
    return skops.io.dumps(value)


def archive(parts: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return target.getvalue()


def other_features(folder: Path) -> Told:
    """A model that was trained on other features than the table has."""
    frame = pd.DataFrame(VALUES, columns=["f1", "f2", "f3"]).assign(center="A")
    save_model(Pipeline([("impute", RadiomicsImputer())]).fit(frame), folder / "model.skops")
    model = load_model(folder / "model.skops", file_digest(folder / "model.skops"))
    assert np.array_equal(model.transform(frame)[["f1", "f2", "f3"]].to_numpy(), VALUES)
    return called(lambda: model.transform(frame.rename(columns={"f2": "f4"})))


SAYS = ("model.skops", "not readable as a frozen model")

CASES: list[BadInput] = [
    refused(DOOR, "features that the table lacks", other_features, "1 features that the model was trained on", "f2"),
    refused(DOOR, "one bit changed", partial(tampered, one_byte, "model.skops"), "model.skops", "not the frozen model"),
    refused(
        DOOR, "cut off", partial(tampered, lambda c: c[:-100], "model.skops"), "model.skops", "not the frozen model"
    ),
    refused(DOOR, "empty", partial(tampered, lambda c: b"", "model.skops"), "model.skops", "not the frozen model"),
    refused(DOOR, "not there", partial(without, "model.skops"), "model.skops", "no such file"),
    refused(DOOR, "a pickle", partial(forged, pickle.dumps({"a": 1})), *SAYS),
    refused(DOOR, "an empty file that its card knows", partial(forged, b""), *SAYS),
    refused(DOOR, "a picture", partial(forged, PNG), *SAYS),
    refused(DOOR, "an archive of something else", partial(forged, archive({"a.txt": "a"})), *SAYS),
    refused(DOOR, "a schema that is no schema", partial(forged, archive({"schema.json": "[]"})), *SAYS),
    refused(DOOR, "a schema of 100,000 brackets", partial(forged, archive({"schema.json": "[" * 100_000})), *SAYS),
    refused(DOOR, "an archive that unpacks to 4 GB", bomb, "model.skops", "unpacks to 4.0 GiB"),
    refused(
        DOOR,
        "a type from elsewhere",
        partial(forged, with_foreign_type),
        "model.skops",
        "Foreign",
        "expected only what hccstudy's models are made of",
    ),
    refused(
        DOOR,
        "a function from elsewhere",
        partial(forged, with_foreign_function),
        "model.skops",
        "(FunctionNode)",
        "expected only",
    ),
    refused(
        DOOR, "code for a function of numpy", partial(forged, with_function_of_a_trusted_package), "(FunctionNode)"
    ),
    refused(DOOR, "a function that says it is a dict", partial(forged, disguised), "builtins.dict (FunctionNode)"),
    refused(
        DOOR,
        "a list",
        partial(forged, partial(no_pipeline, [1, 2])),
        "model.skops",
        "holds list",
        "a scikit-learn pipeline",
    ),
    refused(
        DOOR,
        "an estimator that is no pipeline",
        partial(forged, partial(no_pipeline, LogisticRegression())),
        "holds LogisticRegression",
        "a scikit-learn pipeline",
    ),
    refused(
        CARD, "another cut-off", partial(tampered, other_cut_off, "card.json"), "card.json", "its checksum differs"
    ),
    refused(CARD, "cut off", partial(tampered, lambda c: c[:20], "card.json"), "card.json", "not readable as the card"),
    refused(CARD, "empty", partial(tampered, lambda c: b"", "card.json"), "card.json", "not readable as the card"),
    refused(CARD, "a list", partial(tampered, lambda c: b"[1]", "card.json"), "card.json", "is no card of a model"),
    refused(CARD, "GBK", partial(tampered, lambda c: "模型".encode("gbk"), "card.json"), "card.json", "not readable"),
    refused(CARD, "not there", partial(without, "card.json"), "card.json", "No such file"),
    refused(CARD, "without the SHA-256", partial(card_without, "sha256"), "card.json", "is no card of a model"),
    refused(CARD, "without its checksum", partial(card_without, "checksum"), "card.json", "is no card of a model"),
    works(DOOR, "a model as it was written", lambda folder: load(frozen(folder))),
]
