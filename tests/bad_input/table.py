"""The cases by door as a Markdown table: python tests/bad_input/table.py --write docs/reliability.md"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not this folder, whose modules have common names

import bad_input
from bad_input import BadInput
from benchmarks.blocks import replace_block


def every_case() -> list[BadInput]:
    """The cases of all modules of the package, in the order of their names."""
    found: list[BadInput] = []
    for module in pkgutil.iter_modules(bad_input.__path__):
        if module.name != "table":
            found += getattr(importlib.import_module(f"bad_input.{module.name}"), "CASES", [])
    return found


def as_markdown(cases: Sequence[BadInput]) -> str:
    counts = Counter((case.door, case.answer) for case in cases)
    lines = ["| door | cases | refused | ledger | works |", "|---|--:|--:|--:|--:|"]
    doors = list(dict.fromkeys(case.door for case in cases))
    for door in [*doors, "all"]:
        row = [
            sum(count for (of, answer), count in counts.items() if door in (of, "all") and answer in wanted)
            for wanted in (("refused", "ledger", "works"), ("refused",), ("ledger",), ("works",))
        ]
        lines.append(f"| {door} | {' | '.join(map(str, row))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", metavar="FILE", help="Markdown file with the markers of this table")
    options = parser.parse_args()
    text = as_markdown(every_case())
    if options.write:
        replace_block(options.write, "bad-input", text)
    print(text)
