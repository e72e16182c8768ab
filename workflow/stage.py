"""The bridge from Snakemake to the library: a rule is a function call.

The rule's named inputs, outputs and params (but `call`) are the keyword-only arguments of the function that
`params.call` names; this script calls it and nothing else, with the log set up once.
"""

import importlib
import logging
import os
import sys
import traceback
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[variable] = str(snakemake.threads)  # noqa: F821  # type: ignore[name-defined]


def plain(value: object) -> object:
    """Snakemake's file lists and strings as plain lists and strings."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def run(job) -> None:  # type: ignore[no-untyped-def]
    name, function = job.params.call.split("@")[0].split(":")
    arguments = {
        key: plain(value)
        for source in (job.input, job.output, job.params)
        for key, value in source.items()
        if key != "call"
    }
    importlib.import_module(f"hccstudy.{name}").__dict__[function](**arguments)


with Path(snakemake.log[0]).open("w", encoding="utf-8") as log:  # noqa: F821  # type: ignore[name-defined]
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    try:
        run(snakemake)  # noqa: F821  # type: ignore[name-defined]
    except Exception as error:
        traceback.print_exc(file=log)
        sys.exit(f"{type(error).__name__}: {error}")
