#!/bin/sh
# Rerun every oracle: the CSV inputs and the JSON values come back byte for byte under the versions of README.md.
set -eu
cd "$(dirname "$0")"
for script in competing survival binary pooling optimism; do
    echo "$script"
    Rscript "$script.R"
done
