"""Fingerprints of code: what a stage computes depends on its module and on the package modules that it imports.

Snakemake's own code trigger sees `stage.py` alone, so results would silently go stale after an edit of the library.
The fingerprint is taken from the syntax tree: comments, layout and docstrings change nothing.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from hccstudy.tables import file_digest

PACKAGE = Path(__file__).parent


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _file_of(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] == PACKAGE.name and candidate.is_file():
            return candidate
    return None


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@cache
def fingerprint(module: str) -> str:
    """SHA-256 (16 hex digits) of `module` (e.g. "hccstudy.features") and all package modules that it reaches."""
    todo, seen = [module], {}
    while todo:
        name = todo.pop()
        file = _file_of(name)
        if name in seen or file is None:
            continue
        tree = _without_docstrings(ast.parse(file.read_text(encoding="utf-8")))
        seen[name] = ast.dump(tree)
        todo.extend(_imported(tree))
    text = "\n".join(f"{name} {seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage(call: str, *files: str) -> str:
    """A rule's `call` param: "features:extract_batch" -> "features:extract_batch@<fingerprint>".

    The contents of the user's `files` that the rule reads are part of it: Snakemake goes by times, and takes a file that was
    replaced by an older one (`cp -p`, a backup, a clock that was wrong) for unchanged. What is not there adds nothing.
    """
    module = call.split(":")[0]
    contents = "".join(f" {file_digest(file)[:16]}" for file in files if Path(file).is_file())
    return f"{call}@{fingerprint(f'hccstudy.{module}')}{contents}"
