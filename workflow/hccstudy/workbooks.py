"""Workbooks (.xlsx): the cells of their one sheet, and a refusal where what Excel shows is not what the file says."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

from openpyxl import load_workbook

from hccstudy.errors import StudyError

LARGEST = 2 * 2**30  # bytes unpacked: beyond any table, but not beyond what a small archive may claim
FORMULA = re.compile(rb"<(\w+:)?f[ >/]")
MERGED = re.compile(rb"<(\w+:)?mergeCell ")
STALE = re.compile(rb'fullCalcOnLoad="(1|true)"')


def read_workbook(path: Path) -> list[list[Any]]:
    """The rows of the only visible sheet that has cells; a formula is the value that was saved with it.

    StudyError: several such sheets, merged cells, a formula without its value. A broken file raises what openpyxl raises.
    """
    check_unpacked(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what openpyxl does not know: drop-down lists, conditional formats
        sheets = _visible(path, values=True)
        filled = [
            name for name, cells in sheets.items() if any(cell.value is not None for row in cells for cell in row)
        ]
        if len(filled) != 1:
            found = f"{len(filled)} sheets with cells ({', '.join(filled)})" if filled else "no cell in a visible sheet"
            raise StudyError(f"{path}: {found}; expected one (move the others to files of their own, or hide them)")
        cells = sheets[filled[0]]
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist() if name.startswith("xl/worksheets/")]
            stale = bool(STALE.search(archive.read("xl/workbook.xml")))
        if any(MERGED.search(part) for part in parts):
            _check_merged(path, filled[0])
        if any(FORMULA.search(part) for part in parts):
            _check_formulas(path, filled[0], cells, stale)
    return [[cell.value for cell in row] for row in cells]


def check_unpacked(path: Path) -> None:
    """StudyError where an archive (.xlsx, .skops) unpacks to more than any file of its kind holds."""
    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > LARGEST:
        raise StudyError(f"{path}: unpacks to {size / 2**30:.1f} GiB; expected {LARGEST / 2**30:.0f} GiB at most")


def _visible(path: Path, *, values: bool) -> dict[str, list[Any]]:
    """Sheet -> its rows of cells, with the values of formulas or with the formulas."""
    book = load_workbook(path, read_only=True, data_only=values)
    found = {}
    for sheet in book.worksheets:
        if sheet.sheet_state == "visible":
            sheet.reset_dimensions()  # what the file says of its size may be wrong
            found[sheet.title] = list(sheet.iter_rows())
    book.close()
    return found


def _check_merged(path: Path, sheet: str) -> None:
    ranges = load_workbook(path)[sheet].merged_cells.ranges
    if ranges:
        merged = min(map(str, ranges))
        raise StudyError(f"{path}: cells {merged} are merged; expected a value in every cell (unmerge and fill them)")


def _check_formulas(path: Path, sheet: str, cells: list[Any], stale: bool) -> None:
    """`stale`: the program that wrote the file leaves it to the reader to calculate."""
    for row, with_formulas in zip(cells, _visible(path, values=False)[sheet], strict=True):
        for cell, formula in zip(row, with_formulas, strict=True):
            empty = cell.value is None and cell.data_type != "str"  # "str": calculated, an empty text
            if formula.data_type == "f" and (stale or empty):
                raise StudyError(
                    f"{path}: cell {formula.coordinate} is a formula that was never calculated; "
                    "expected a value (open the file in Excel and save it)"
                )
