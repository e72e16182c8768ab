#!/usr/bin/env bash
# The README's picture: the top of the demo's report, as headless Chromium shows it. Run `make demo` first.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars \
    --user-data-dir="$profile" --window-size=1200,1650 --screenshot="$PWD/docs/images/report.png" \
    "file://$PWD/results/report/index.html"
