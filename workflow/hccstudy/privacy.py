"""What may identify a patient stays where it is: out of results, logs, the report and Snakemake's records.

The paths of the images table count as identifying (folders from a PACS are named after patients), and so does every text
inside an image file that is not on the allow-list of imports/acquisition.py. docs/privacy.md has the whole rule.
"""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from hccstudy.errors import UNEXPECTED, UNREADABLE, CaseError, is_of_file, is_out_of_memory
from hccstudy.tables import digest, files_below

log = logging.getLogger(__name__)

READERS = ("pydicom", "highdicom")  # libraries that quote headers in their logs
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


class Cases(list[dict[str, Any]]):
    """Rows of the images table as a param: Snakemake keeps the repr of params, which is a digest here and no path."""

    def __repr__(self) -> str:
        return f"<{len(self)} cases, SHA-256 {digest(list(self))}>"


def without_quotes(text: object) -> str:
    """The message of a library with what it quotes left out: it may be a header's content."""
    return QUOTED.sub("'...'", str(text))


def told(value: object) -> str:
    """A header's value as a message may repeat it: a number, or that it is none."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return "no number"


@contextmanager
def in_private(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[None]:
    """Read the files of an images row: whatever is raised names them by column, and libraries log nothing.

    `columns` are those that hold paths. An unexpected error becomes a CaseError; its traceback goes to the log without
    messages and values. An OSError of the machine stays one, and so does a lack of memory.
    """
    for name in READERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # would go to the job's stderr, with paths
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom, which quote values
            yield
    except CaseError as error:
        raise CaseError(error.reason, without_paths(error.detail, row, columns), excluded=error.excluded) from None
    except OSError as error:
        said = without_paths(f"{error.strerror or without_quotes(error)}: {error.filename or 'a file'}", row, columns)
        if error.errno is None or is_of_file(error):
            raise CaseError(UNREADABLE, said) from None
        raise OSError(error.errno, said) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError("no memory for an image") from None
        kind = type(error).__name__
        log.error("unexpected %s\n%s", kind, "".join(traceback.format_tb(error.__traceback__)))
        said = without_paths(without_quotes(error), row, columns)
        raise CaseError(UNEXPECTED, f"{kind}: {said}") from None


def without_paths(text: str, row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """`text` with the files of an images row named by their column, those of a folder by their place in it.

    "/pacs/DOE^JANE/IM17: the file is empty" -> "column image, file 17 of 40: the file is empty"
    """
    names: dict[str, str] = {}
    for column in columns:
        if row[column]:
            for path, name in _named(row[column], column).items():
                names.setdefault(path, name)
    found = "|".join(re.escape(path) for path in sorted(names, key=len, reverse=True))
    if not found:
        return text
    return re.sub(rf"(['\"]?)(?<![\w.-])({found})(?![\w-])\1", lambda match: names[match[2]], text)


def _named(cell: str, column: str) -> dict[str, str]:
    """How the file or folder of a cell, what is below it and what lies beside it may be written -> how they are told."""
    place = Path(cell)
    told = f"column {column}"
    names: dict[str, str] = {}
    below = files_below(place) if place.is_dir() else []
    for number, file in enumerate(below, start=1):
        names |= dict.fromkeys(_spellings(file), f"{told}, file {number} of {len(below)}")
    for folder in (item for item in place.rglob("*") if item.is_dir()) if place.is_dir() else []:
        names |= dict.fromkeys(_spellings(folder), f"{told}, a folder in it")
    names |= {cell: told} | dict.fromkeys(_spellings(place), told)
    if not place.is_dir():
        stem = re.sub(r"\.(nii\.gz|[^.]+)$", "", place.name, flags=re.IGNORECASE)
        for ending in (".json", ".raw", ".zraw", ".img", ".hdr"):
            for spelling in _spellings(place.with_name(stem + ending)):
                names.setdefault(spelling, f"the {ending} file beside {told}")
    for spelling in _spellings(place.parent) - {place.parent.name if "/" not in str(place.parent) else ""}:
        names.setdefault(spelling, f"the folder of {told}")
    return names


def _spellings(path: Path) -> set[str]:
    """A path as given, absolute, without links, and its last part where that is no ordinary word or number."""
    spelled = {str(path), str(path.absolute()), str(path.resolve())} - {".", "/"}
    ordinary = len(path.name) < 4 or re.fullmatch(r"[a-z]+|[\d.]+", path.name)
    return spelled if ordinary else spelled | {path.name}
