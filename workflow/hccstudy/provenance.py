"""What made the results: versions, configuration, code revision."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import requires, version
from typing import Any

from hccstudy import __version__
from hccstudy.config import REPOSITORY, Config
from hccstudy.tables import digest, file_digest, write_json


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


def record_provenance(
    *, settings: Config, revision: str, versions: dict[str, str], tables: list[str], provenance: str
) -> None:
    """Write versions, the whole configuration and its SHA-256, the code's revision, and the SHA-256 of `tables`.

    `tables` are those of features that were extracted outside the study; a study with images has none.
    `revision` and `versions` are those of `git_revision` and `packages` when the workflow started.
    """
    content: dict[str, Any] = {
        "hccstudy": __version__,
        "git": revision,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "config_sha256": digest(settings),
        "config": settings,
        "feature_tables": {path: file_digest(path) for path in tables},
    }
    write_json(content, provenance)
