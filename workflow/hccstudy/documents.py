"""Documents that are generated from the code: `make docs` writes them, `make check` proves that they are current."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hccstudy.config import REPOSITORY, schema

CONFIG_README = REPOSITORY / "config" / "README.md"


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


def main(arguments: list[str]) -> int:
    """Write config/README.md; with `--check` say whether it is current instead."""
    wanted = config_readme()
    if "--check" in arguments:
        current = CONFIG_README.is_file() and CONFIG_README.read_text(encoding="utf-8") == wanted
        if not current:
            print("config/README.md is not what the schemas say; run: make docs", file=sys.stderr)
        return 0 if current else 1
    CONFIG_README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
