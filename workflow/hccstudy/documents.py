"""Documents that are generated from the code: `make docs` writes them, `make check` proves that they are current."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hccstudy.config import REPOSITORY, load_config, schema
from hccstudy.simulate import readme, simulate_tables

CONFIG_README = REPOSITORY / "config" / "README.md"
DEMO = REPOSITORY / "resources" / "demo"


def config_readme() -> str:
    """config/README.md: every key and column with its description, from the schemas."""
    lines = [
        "# Configuration and tables",
        "",
        "<!-- Generated from workflow/schemas by `make docs`; edit the schemas. -->",
        "",
        "`config.yaml` is the demo and the commented reference. A study states only what differs",
        "(`studies/*.yaml`, or the file that `hccstudy init` writes). Sections merge key by key; maps with names of your own",
        "(`cohort.columns`, `endpoints`, `series`, `regions.rings`, `models`) are replaced whole.",
        "",
        "## The configuration",
        "",
        "| key | type | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{key}` | {kind} | {text} |" for key, kind, text in _keys(schema("config"), "")]
    for table in ("patients", "images"):
        rules = schema(table)
        lines += [
            "",
            f"## The {rules['title']}",
            "",
            rules["description"],
            "",
            "| column | needed | meaning |",
            "|---|---|---|",
        ]
        for column, inner in rules["properties"].items():
            needed = "yes" if column in rules["required"] else "no"
            lines.append(f"| `{column}` | {needed} | {inner['description']} |")
    return "\n".join(lines) + "\n"


def _keys(rules: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, inner in rules.get("properties", {}).items():
        kind = inner.get("type", "")
        kind = "/".join(kind) if isinstance(kind, list) else kind
        if "enum" in inner:
            kind = ", ".join(inner["enum"])
        text = inner.get("description", "")
        bounds = [
            f"{word} {inner[k]}"
            for k, word in (("minimum", ">="), ("maximum", "<="), ("exclusiveMinimum", ">"))
            if k in inner
        ]
        yield f"{prefix}{key}", kind, f"{text} ({', '.join(bounds)})" if bounds else text
        yield from _keys(inner, f"{prefix}{key}.")
        if isinstance(inner.get("additionalProperties"), dict):
            yield from _keys(inner["additionalProperties"], f"{prefix}{key}.*.")


def demo_tables() -> dict[Path, str]:
    """resources/demo: the tables of the embedded demo cohort; its images are drawn by the workflow."""
    config = load_config()
    rules = config["cohort"]["simulation"]
    tables = simulate_tables(rules["patients"], rules["seed"], "results/simulation")
    texts = {
        DEMO / f"{name}.tsv": frame.to_csv(sep="\t", index=False, lineterminator="\n")
        for name, frame in zip(("patients", "images", "truth"), tables, strict=True)
    }
    return texts | {DEMO / "README.md": readme(rules["patients"], rules["seed"])}


def main(arguments: list[str]) -> int:
    """Write the documents; with `--check` say which are not current instead."""
    documents = {CONFIG_README: config_readme()} | demo_tables()
    stale = [path for path, text in documents.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(REPOSITORY)} is not what the code says; run: make docs", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(documents[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
