"""The one place where tables and JSON are read and written.

Tables that a person cites are TSV, wide feature tables are Parquet. Files appear whole or not at all: they are
written under a temporary name in the same folder and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, time
from pathlib import Path
from typing import Any

import pandas as pd

from hccstudy.errors import StudyError

MISSING = {"", "NA", "N/A", "NaN", "nan", "null", "."}
IDS = ("patient", "center", "model", "endpoint", "series", "region", "reader")


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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text_table(path: str | Path) -> pd.DataFrame:
    """Read a user's table (.tsv, .csv, .xlsx, .parquet) as text: every cell a stripped string, missing cells "".

    Column names are stripped too. The index is the row number that a person sees in the file (header = row 1).
    """
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"{path}: no such file; expected a table (.tsv, .csv, .xlsx or .parquet)")
    ending = path.suffix.lower()
    try:
        if ending in {".tsv", ".csv"}:
            frame = pd.read_csv(
                path,
                sep="\t" if ending == ".tsv" else ",",
                header=None,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                skip_blank_lines=False,
            )
        elif ending == ".xlsx":
            frame = pd.read_excel(path, header=None, dtype=object, keep_default_na=False).map(_cell_text)
        elif ending == ".parquet":
            content = pd.read_parquet(path)
            content = content if content.index.names == [None] else content.reset_index()
            rows = content.astype(object).map(_cell_text).to_numpy().tolist()
            frame = pd.DataFrame([list(content.columns), *rows], dtype=object)
        else:
            raise StudyError(f"{path}: the ending is {ending!r}; expected .tsv, .csv, .xlsx or .parquet")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: byte {error.start} is not UTF-8; expected a table saved as 'CSV UTF-8'") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OSError, KeyError) as error:
        raise StudyError(f"{path}: not readable as a table ({str(error).strip()})") from error
    frame.columns = [str(name).strip() for name in frame.iloc[0]] if len(frame) else []
    frame = frame.iloc[1:]
    if len(frame.columns) == 1 and ";" in frame.columns[0]:
        raise StudyError(
            f"{path}: the columns are separated by semicolons; expected {'tabs' if ending == '.tsv' else 'commas'} "
            "and decimal points (or save it as .xlsx)"
        )
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise StudyError(f"{path}: column {twice[0]!r} appears twice; expected every column once")
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    frame = frame.map(lambda cell: "" if str(cell).strip() in MISSING else str(cell).strip())
    return frame[(frame != "").any(axis=1)]


def _cell_text(cell: Any) -> str:
    """A cell of a spreadsheet as text: dates as YYYY-MM-DD, whole numbers without a decimal point."""
    if cell is None or cell is pd.NaT:
        return ""
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat(sep=" ")
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


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


def digest(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, or of all files below a folder with their relative names."""
    path = Path(path)
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return digest([[str(item.relative_to(path)), file_digest(item)] for item in files])
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
