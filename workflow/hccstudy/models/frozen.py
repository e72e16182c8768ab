"""Frozen models: saved without code inside (skops), loaded only if unchanged and made of known types."""

from __future__ import annotations

import copy
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from hccstudy.errors import StudyError
from hccstudy.tables import atomic, file_digest

# where a skops schema names an object by its memory address
ADDRESS = re.compile(r'("__id__": |"file": ")(\d+)')
TRUSTED_PACKAGES = ("hccstudy.", "sklearn.", "sksurv.", "numpy.", "scipy.")


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


def load_model(path: str | Path, sha256: str) -> Any:
    """Read a frozen model; StudyError where its bytes are not those of `sha256` or it holds types from elsewhere."""
    import skops.io

    found = file_digest(path)
    if found != sha256:
        raise StudyError(
            f"{path}: SHA-256 is {found[:12]}...; expected {sha256[:12]}... of its card: not the frozen model"
        )
    types = skops.io.get_untrusted_types(file=path)
    foreign = [name for name in types if not name.startswith(TRUSTED_PACKAGES)]
    if foreign:
        raise StudyError(
            f"{path}: holds {', '.join(foreign)}; expected only scikit-learn, scikit-survival and hccstudy"
        )
    return skops.io.load(path, trusted=types)
