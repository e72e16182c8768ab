"""Bad input at every door: the answer that `bad_input` says, the place in the message, and nothing written elsewhere."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import bad_input
from bad_input import BadInput
from bad_input.table import every_case
from hccstudy.tables import file_digest

CASES = every_case()


def tree(folder: Path, left_out: str) -> dict[str, str]:
    """What lies beside `left_out` in `folder`: kind or SHA-256 by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != left_out:
            found[str(name)] = (
                f"-> {path.readlink()}" if path.is_symlink() else "" if path.is_dir() else file_digest(path)
            )
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.door}: {case.name}"[:100])
def test_bad_input(case: BadInput, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    study.mkdir()
    for name in ("etc/passwd", "neighbor/results/patients.tsv", "x", "study.tsv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    before, home = tree(tmp_path, "study"), Path.cwd()

    told = case.go(study)

    printed = "".join(capfd.readouterr())
    assert told.answer == case.answer, told.message
    for part in case.says:
        assert part in told.message
    assert "Traceback" not in told.message + printed
    assert tree(tmp_path, "study") == before, "something was written outside the study"
    assert Path.cwd() == home
    assert len(told.message) < 10_000, "nobody reads that"


def test_there_are_many_cases_with_names_of_their_own() -> None:
    names = [f"{case.door}: {case.name}" for case in CASES]
    assert len(names) == len(set(names)) >= 150
    assert all(case.says for case in CASES if case.answer != "works"), "a refusal without a word that must be in it"


def test_every_module_of_the_corpus_has_cases() -> None:
    for module in pkgutil.iter_modules(bad_input.__path__):
        if module.name not in ("doors", "table"):
            assert importlib.import_module(f"bad_input.{module.name}").CASES


def test_the_table_of_the_documentation_is_current(repository: Path) -> None:
    from bad_input.table import as_markdown

    assert as_markdown(CASES) in (repository / "docs/reliability.md").read_text(encoding="utf-8"), (
        "python tests/bad_input/table.py --write docs/reliability.md"
    )
