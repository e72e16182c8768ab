"""Tables that a benchmark writes into the documentation, between two markers."""

from __future__ import annotations

import re
from pathlib import Path


def replace_block(path: str | Path, name: str, text: str) -> None:
    """Put `text` between `<!-- benchmark: NAME -->` and `<!-- end of NAME -->` of a Markdown file."""
    start, end = f"<!-- benchmark: {name} -->", f"<!-- end of {name} -->"
    content = Path(path).read_text(encoding="utf-8")
    pattern = re.escape(start) + ".*?" + re.escape(end)
    if not re.search(pattern, content, flags=re.S):
        raise SystemExit(f"{path}: found no {start}; expected it and {end}")
    block = f"{start}\n{text.strip()}\n{end}"
    Path(path).write_text(re.sub(pattern, lambda _: block, content, flags=re.S), encoding="utf-8")
