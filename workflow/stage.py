"""The bridge from Snakemake to the library: a rule is a function call.

The rule's named inputs, outputs and params (but `call`) are the keyword-only arguments of the function that
`params.call` names; this script calls it and nothing else, with the log set up once.
"""

import contextlib
import errno
import importlib
import logging
import os
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path

from hccstudy.errors import ERROR, StudyError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
KEPT = "all that is finished is kept"

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
    if "attempt" in job.resources.keys():  # noqa: SIM118 (a Namedlist)
        arguments["attempt"] = job.resources.attempt
    importlib.import_module(f"hccstudy.{name}").__dict__[function](**arguments)


def explain(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        # without the name of the file, which may be another one in each attempt
        return f"{os.strerror(error.errno)} in {Path.cwd()}; expected room to write: mend that and run again, {KEPT}"
    if isinstance(error, StudyError | OSError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {error}"


def main(job) -> int:  # type: ignore[no-untyped-def]
    # without a buffer, in which would stay what a full disk did not take
    with (
        Path(job.log[0]).open("wb", buffering=0) as file,
        TextIOWrapper(file, encoding="utf-8", write_through=True) as log,  # type: ignore[arg-type]
    ):
        os.dup2(file.fileno(), sys.stderr.fileno())  # where libraries in C complain
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        logging.raiseExceptions = False  # a full disk takes no log
        logging.captureWarnings(True)
        try:
            run(job)
        except Exception as error:
            with contextlib.suppress(OSError):
                log.write(f"{traceback.format_exc()}{ERROR}{explain(error)}\n")
            return 1
    return 0


sys.exit(main(snakemake))  # noqa: F821  # type: ignore[name-defined]
