"""The one place where tables and JSON are read and written.

Tables that a person cites are TSV, wide feature tables are Parquet. Files appear whole or not at all: they are
written under a temporary name in the same folder and then renamed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from time import time as clock
from typing import Any

import pandas as pd

from hccstudy.errors import StudyError
from hccstudy.workbooks import read_workbook

MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "."}
NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf)", re.ASCII)
SIGNS = ("=", "+", "-", "@")  # a spreadsheet takes a cell that begins so for a formula
NO_FORMULA = "that begins otherwise (spreadsheets take this for a formula)"  # "a name ..." is expected
TEMPORARY = re.compile(r"\..*-[a-z0-9_]{8}(\..*)?")  # what `atomic` writes into
FUTURE = 300.0  # seconds that the clocks of two machines may differ
IDS = ("patient", "center", "model", "endpoint", "series", "region", "reader")
LOCK = "results/.lock"  # held by the run that is going on in a study folder; its content is the id of that run
RUN = "HCCSTUDY_RUN"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix="".join(path.suffixes), dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        check_run()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_run() -> None:
    """Raise StudyError in a job of a run that is gone: another one computes in this folder, perhaps with other settings.

    `hccstudy run` writes its own id into LOCK and hands it to its jobs in the environment variable RUN.
    """
    run = os.environ.get(RUN)
    if run and Path(LOCK).read_text(encoding="utf-8") != run:
        raise StudyError(
            f"{Path.cwd()}: this job belongs to a run that was killed, and another run has begun; it ends here"
        )


def tidy(folder: str | Path, aside: Container[str]) -> list[Path]:
    """Delete the temporary files below `folder` that a killed `atomic` left; return the files changed in the future.

    Folders named in `aside` are not looked into. No run may be going on.
    """
    latest = clock() + FUTURE
    ahead = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in aside]
        for path in (Path(place, name) for name in files):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
            else:
                with suppress(FileNotFoundError):  # a link to nothing, or taken away by a job of a killed run
                    if path.stat().st_mtime > latest:
                        ahead.append(path)
    return ahead


def read_text_table(path: str | Path) -> pd.DataFrame:
    """Read a user's table (.tsv, .csv, .xlsx, .parquet) as text: every cell a stripped string, missing cells "".

    Column names are stripped too. The index is the row number that a person sees in the file (header = row 1). StudyError:
    a file that is no such table, or in which a cell cannot be told to its column.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise StudyError(f"{path}: {found}; expected a table (.tsv, .csv, .xlsx or .parquet)")
    ending = path.suffix.lower()
    if ending not in READERS:
        raise StudyError(f"{path}: the ending is {path.suffix!r}; expected .tsv, .csv, .xlsx or .parquet")
    try:
        rows = READERS[ending](path)
    except StudyError:
        raise
    except Exception as error:  # a file that is not what its ending says can raise anything in the libraries
        raise StudyError(f"{path}: not readable as a table ({str(error).strip() or type(error).__name__})") from error
    header = rows[0] if rows else []
    if not any(header):
        raise StudyError(
            f"{path}: {'row 1 is empty' if rows else 'the file is empty'}; expected the names of columns in row 1"
        )
    _check_separator(path, header)
    width = max(
        place for place, name in enumerate(header, 1) if name or any(any(row[place - 1 : place]) for row in rows)
    )
    header = header[:width] + [""] * (width - len(header))
    twice = [name for place, name in enumerate(header) if name in header[:place]] if len(set(header)) < width else []
    if "" in twice:
        raise StudyError(f"{path} row 1: {header.count('')} columns have no name; expected names (no title above them)")
    if twice:
        raise StudyError(f"{path}: column {twice[0]!r} appears twice; expected every column once")
    for number, row in enumerate(rows[1:], 2):
        _check_row(path, number, row, width)
    index = pd.RangeIndex(2, len(rows) + 1)
    frame = pd.DataFrame([row[:width] + [""] * (width - len(row)) for row in rows[1:]], index, header, dtype=str)
    return frame[(frame != "").any(axis=1)]


def _check_separator(path: Path, header: list[str]) -> None:
    names = {"\t": "tabs", ",": "commas", ";": "semicolons"}
    used = {".tsv": "\t", ".csv": ","}.get(path.suffix.lower())
    other = next((sign for sign in names if sign in header[0]), None)
    if used and len(header) == 1 and other:
        raise StudyError(
            f"{path}: the columns are separated by {names[other]}; expected {names[used]} and decimal points "
            "(or save it as .xlsx)"
        )


def _check_row(path: Path, number: int, row: list[str], width: int) -> None:
    """A row of text has as many cells as the header (empty ones may follow), an empty row none."""
    short = path.suffix.lower() in {".tsv", ".csv"} and 0 < len(row) < width and any(row)
    if short or any(row[width:]):
        advice = (
            "broken off, or a line break without quotes?" if short else "a decimal comma, or a separator in a cell?"
        )
        raise StudyError(f"{path} row {number}: has {len(row)} cells; expected {width} as in row 1 ({advice})")
    if any("\x00" in cell for cell in row):
        raise StudyError(f"{path} row {number}: holds a NUL character; expected text")


def _text_rows(path: Path) -> list[list[str]]:
    text = read_utf8(path)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    rows: list[list[str]] = []
    try:
        rows.extend([_stripped(cell) for cell in row] for row in reader)
    except csv.Error as error:
        raise ValueError(f"row {len(rows) + 1}: {error}") from error
    return rows


def _sheet_rows(path: Path) -> list[list[str]]:
    return [[_stripped(_cell_text(cell)) for cell in row] for row in read_workbook(path)]


def _parquet_rows(path: Path) -> list[list[str]]:
    content = pd.read_parquet(path)
    content = content if content.index.names == [None] else content.reset_index()
    cells = content.astype(object).to_numpy().tolist()
    return [
        [_stripped(str(name)) for name in content.columns],
        *([_stripped(_cell_text(c)) for c in row] for row in cells),
    ]


READERS: dict[str, Callable[[Path], list[list[str]]]] = {
    ".tsv": _text_rows,
    ".csv": _text_rows,
    ".xlsx": _sheet_rows,
    ".parquet": _parquet_rows,
}


def read_utf8(path: str | Path) -> str:
    """The text of a user's file, without a byte-order mark; StudyError names the line that is no UTF-8."""
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StudyError(
            f"{path} line {line}: byte {error.start} is not UTF-8; expected a file saved as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from error


def _stripped(text: str) -> str:
    """A cell without spaces around; one kind of line break, since a lone \\r would end a line of the tables we write."""
    text = text.strip().replace("\r\n", "\n").replace("\r", "\n")
    return "" if text in MISSING else text


def _cell_text(cell: Any) -> str:
    """A cell of a spreadsheet as text: dates as YYYY-MM-DD, whole numbers without a decimal point."""
    if cell is None or cell is pd.NaT or cell is pd.NA:
        return ""
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(sep=" ")
    if not isinstance(cell, str | int | float | bool | date | time | timedelta | Decimal):
        raise ValueError(f"a cell holds {type(cell).__name__}, expected text, a number or a date")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def number(text: str) -> float:
    """The decimal number that a cell holds; NaN where it is none (12,5 or 1_000 or 0x10). May be infinite."""
    return float(text) if NUMBER.fullmatch(text) else math.nan


def is_formula(text: str) -> bool:
    """Whether a spreadsheet that opens our tables would run a cell: it begins with = + - @ and is no number or sign."""
    return text.startswith(SIGNS) and len(text) > 1 and math.isnan(number(text))


def check_folder(folder: str | Path) -> None:
    """StudyError where a folder can be neither made nor written to; nothing is made."""
    path = Path(folder).absolute()
    place = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not place.is_dir():
        raise StudyError(f"{folder}: {place} is no folder; expected a folder to write, or a new one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StudyError(f"{folder}: {place} cannot be written to; expected another folder")


def read_table(path: str | Path, columns: Sequence[str] = (), *, text: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table that the pipeline wrote (TSV or Parquet); `columns` must be there.

    Ids stay text, and so do the columns of `text` (categories, whose levels may look like numbers).
    """
    path = Path(path)
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        types = {name: str for name in (*IDS, *text)}
        frame = pd.read_csv(path, sep="\t", dtype=types, keep_default_na=False, na_values=[""])
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise StudyError(f"{path}: no column {', '.join(absent)}; found {', '.join(frame.columns)}")
    return frame


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a frame as TSV or Parquet by the ending of `path`; the index is not written."""
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, sep="\t", index=False, lineterminator="\n")


def concatenate(*, tables: Sequence[str], table: str) -> None:
    """Join the tables of all batches, in the order given; columns in the order in which they first appear."""
    write_table(pd.concat([read_table(path) for path in tables], ignore_index=True), table)


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(value: Any, path: str | Path, *, sort_keys: bool = True) -> None:
    """Write JSON; NaN is refused (JSON has none)."""
    text = json.dumps(value, indent=1, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_frozen_json(content: dict[str, Any], path: str | Path) -> None:
    """Write JSON with a checksum of itself, by which `check_unchanged` sees that it was edited."""
    write_json(content | {"checksum": digest(content)}, path)


def check_unchanged(content: dict[str, Any], path: str | Path) -> None:
    """StudyError where the content of a file of `write_frozen_json` is not as it was written."""
    if digest({key: value for key, value in content.items() if key != "checksum"}) != content["checksum"]:
        raise StudyError(
            f"{path}: was changed after it was written (its checksum differs); expected the file as it was. "
            "Restore it, or delete it and make it again"
        )


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # names of files may be no UTF-8


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, in the order in which messages number them."""
    return sorted(item for item in folder.rglob("*") if item.is_file())


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of all files below a folder with their relative names."""
    path = Path(path)
    if path.is_dir():
        return digest([[str(item.relative_to(path)), file_digest(item)] for item in files_below(path)])
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
