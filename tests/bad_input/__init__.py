"""Bad input for every door of hccstudy: what is given, and what the person who gave it is told.

A case builds its input in an empty folder, goes through a door as a user would, and says what came of it. Add a case to
the list CASES of the module of its door; `tests/test_bad_input.py` runs all of them, `docs/reliability.md` counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Answer = Literal["refused", "ledger", "works"]


@dataclass(frozen=True)
class Told:
    """What came of it: "refused" (a clear error, nothing computed), "ledger" (that patient or row is accounted for, the
    others have their numbers), "works" (accepted, with right numbers). `message` is what the person reads."""

    answer: Answer
    message: str = ""


@dataclass(frozen=True)
class BadInput:
    """`go(folder)` gives the input to a door, in `folder` alone; `says` are parts of the message: the place (file, row,
    column), what was found, what is expected."""

    door: str
    name: str
    go: Callable[[Path], Told]
    answer: Answer
    says: tuple[str, ...] = ()
