"""What the cases of tables and texts share: commands in process, and a small study in which everything is right."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bad_input import BadInput, Told
from hccstudy.cli import main
from hccstudy.config import Config, layer
from hccstudy.errors import StudyError
from hccstudy.parameters import load_parameters
from table_study import OVERLAY, simulate_tables, write_study

Frame = pd.DataFrame
Change = Callable[[Frame], Any]

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256))


def refused(door: str, name: str, go: Callable[[Path], Told], *says: str) -> BadInput:
    return BadInput(door, name, go, "refused", says)


def works(door: str, name: str, go: Callable[[Path], Told], *says: str) -> BadInput:
    return BadInput(door, name, go, "works", says)


def command(folder: Path, *arguments: str) -> Told:
    """`hccstudy ARGUMENTS` in `folder`: refused where its exit status is not 0; the message is all that it prints."""
    load_parameters.cache_clear()  # kept by path, and every case has a p.yaml
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(list(arguments))
        except SystemExit as stop:  # argparse
            status = stop.code
    return Told("works" if status == 0 else "refused", said.getvalue())


def on_table(folder: Path, verb: str, frame: Frame, options: Sequence[str]) -> Told:
    """`hccstudy VERB t.tsv OPTIONS` with `frame` as t.tsv; a refusal leaves no folder `out`."""
    (folder / "t.tsv").write_text(as_text(frame), encoding="utf-8")
    told = command(folder, verb, "t.tsv", *options)
    if told.answer == "refused":
        assert not (folder / "out").is_dir(), "a refusal wrote something"
    return told


def called(function: Callable[[], Any]) -> Told:
    """A function of the library as a door."""
    try:
        function()
    except StudyError as error:
        return Told("refused", str(error))
    return Told("works")


@cache
def _tables() -> dict[str, Frame]:
    """60 patients: 18, 15 and 12 of the development centers A, B and C, 15 of the external center D; 6 features."""
    tables = simulate_tables(patients=60, seed=2, features=6)
    return {name: tables[name].astype(object) for name in ("patients", "features")}


def table(name: str) -> Frame:
    return _tables()[name].copy()


def write_table_study(folder: Path, overlay: Config | None = None, **changed: Frame) -> Path:
    """The study in `folder`, with other tables where `changed` has them."""
    return write_study(
        folder, {"patients": table("patients"), "features": table("features")} | changed, layer(OVERLAY, overlay or {})
    )


def config_text(overlay: Config | None = None) -> str:
    return yaml.safe_dump(layer(OVERLAY, overlay or {}), sort_keys=False, allow_unicode=True)


def cell(row: int, column: str, value: Any) -> Change:
    """Put `value` into `row` (as a person counts: header = row 1)."""

    def change(frame: Frame) -> None:
        frame.loc[row - 2, column] = value

    return change


def changed(frame: Frame, change: Change) -> Frame:
    frame = frame.copy()
    other = change(frame)
    return frame if other is None else other


def as_text(frame: Frame, separator: str = "\t") -> str:
    return frame.to_csv(sep=separator, index=False, lineterminator="\n")
