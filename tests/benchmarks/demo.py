"""Where the time of a demo goes: seconds of its jobs by part, from what Snakemake wrote down.

    make demo && .venv/bin/python tests/benchmarks/demo.py [--folder .] [--install SECONDS] [--write docs/performance.md]

Jobs run side by side, so their seconds add up to more than the whole; the part that is left is start and scheduling.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path

from blocks import replace_block

PARTS = {
    "simulation": ("simulate",),
    "images to regions": ("import_images", "preprocess_images", "make_regions"),
    "extraction (with repeats)": ("extract_features", "measure_repeats"),
    "modeling": ("train_model", "predict_external", "internal_validation", "validate_model", "compare_models"),
    "figures and report": ("draw_study", "draw_os", "draw_mvi", "draw_mrecist", "write_report"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--install", type=float, help="seconds that `make env` took in a clean clone")
    parser.add_argument("--write", help="Markdown file whose block is replaced")
    options = parser.parse_args()
    files = (options.folder / ".snakemake/metadata").rglob("*")
    records = [json.loads(file.read_text()) for file in files if file.is_file()]
    spans: dict[tuple[str, ...], list[float]] = defaultdict(list)  # a job has a record for each of its outputs
    for record in records:
        spans[record["rule"], *record["log"]] += [record["starttime"], record["endtime"]]
    jobs = [(rule, min(times), max(times)) for (rule, *_), times in spans.items()]
    seconds: dict[str, float] = defaultdict(float)
    number: dict[str, int] = defaultdict(int)
    for rule, start, end in jobs:
        part = next((name for name, rules in PARTS.items() if rule in rules), "cohort, tables, ledger")
        seconds[part] += end - start
        number[part] += 1
    whole = max(end for *_, end in jobs) - min(start for _, start, _ in jobs)
    lines = ["| part | jobs | seconds of jobs |", "|---|---|---|"]
    lines += [
        f"| {part} | {number[part]} | {seconds[part]:.0f} |" for part in sorted(seconds, key=seconds.get, reverse=True)
    ]
    lines.append(
        f"| all, on {os.cpu_count()} cores | {len(jobs)} | {sum(seconds.values()):.0f}; from first to last {whole:.0f} |"
    )
    if options.install:
        lines.append(f"| installation before (`make env`) | | {options.install:.0f} |")
    text = "\n".join(lines)
    print(text)
    if options.write:
        replace_block(options.write, "demo", text)


if __name__ == "__main__":
    main()
