"""What made the results: versions, configuration, code revision, and the hashes of what went in and came out."""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from hccstudy import __version__
from hccstudy.config import REPOSITORY, Config
from hccstudy.errors import StudyError
from hccstudy.tables import digest, file_digest, read_json, read_table, write_json

Environment = dict[str, Any]


def packages() -> dict[str, str]:
    """The libraries that hccstudy depends on directly, with the versions in use."""
    names = [re.split(r"[\s<>=!~;\[]", line)[0] for line in requires("hccstudy") or []]
    return {name: version(name) for name in sorted(names, key=str.casefold)}


def git_revision() -> str:
    """Commit of the code, "+changes" where files differ from it, "unknown" outside a checkout."""
    try:
        described = subprocess.run(
            [
                "git",
                "-C",
                str(REPOSITORY),
                "describe",
                "--always",
                "--abbrev=12",
                "--dirty=+changes",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def environment() -> Environment:
    """What computes now: hccstudy with its git revision, Python, and the libraries."""
    return {
        "hccstudy": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": packages(),
    }


def environments(file: str | Path, current: Environment) -> list[Environment]:
    """All environments that have worked on a results folder, each once, in the order of their first run.

    `file` is that of earlier runs (the workflow writes it when a run starts); it need not exist. Dates are left out, so
    that the same environment gives the same bytes.
    """
    try:
        known = read_json(file) if Path(file).is_file() else []
    except ValueError as error:
        raise StudyError(f"{file}: not JSON ({error}); expected what an earlier run wrote, or no such file") from error
    everything = known if current in known else [*known, current]
    return list(json.loads(json.dumps(everything, sort_keys=True)))  # in the order of the file: Snakemake compares it


def input_digests(paths: Sequence[str | None]) -> dict[str, str]:
    """Path -> SHA-256 of the small files that a study reads; what is not there is left out (its reader will say so)."""
    return {path: file_digest(path) for path in sorted(filter(None, set(paths))) if Path(path).is_file()}


def record_provenance(
    *,
    settings: Config,
    environments: list[Environment],
    current: Environment,
    inputs: dict[str, str],
    tables: list[str],
    acquisition: str | None = None,
    results: list[str],
    provenance: str,
) -> None:
    """Write versions, the whole configuration and its SHA-256, and the SHA-256 of inputs, images and results.

    `inputs` are the small files of the study (`input_digests`), `tables` those of features that were extracted outside it
    (a study with images has none), `acquisition` the table of its series, whose image and mask hashes become one digest,
    `results` what the report is made of. `current` is the environment of this run, `environments` holds those of earlier
    runs too: where it has several, parts of the results may be of any of them.
    """
    content: dict[str, Any] = {
        **current,
        "platform": platform.platform(),
        "environments": environments,
        "config_sha256": digest(settings),
        "config": settings,
        "inputs": inputs,
        "feature_tables": {path: file_digest(path) for path in tables},
        "images": _images(acquisition) if acquisition else {},
        "results": {path: file_digest(path) for path in results},
    }
    write_json(content, provenance)


def _images(acquisition: str) -> dict[str, Any]:
    """How many images and masks were imported, and one SHA-256 over theirs (by patient and series)."""
    columns = ["patient", "series", "image_sha256", "mask_sha256"]
    rows = read_table(acquisition, columns)[columns].sort_values(columns)
    images, masks = (int(rows[name].str.split().str.len().sum()) for name in columns[2:])
    return {"images": images, "masks": masks, "sha256": digest(rows.to_numpy().tolist())}
