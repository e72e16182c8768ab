"""Tables and configurations drawn at random: read as they were written, or refused by a StudyError, and nothing else."""

from __future__ import annotations

import csv
import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hccstudy.cohort import read_cohort
from hccstudy.config import load_config
from hccstudy.errors import StudyError
from hccstudy.tables import MISSING, read_text_table
from table_study import OVERLAY, simulate_tables

quick = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = st.sampled_from(
    [
        "",
        "NA",
        " ",
        "a\rb",
        "1,5",
        '"',
        'a"b',
        "a\nb",
        "a\r\nb",
        "\t",
        "=1+1",
        "病人",
        "é",
        ";",
        "001",
        "1e400",
        "'",
        "\ufeffx",
    ]
)
TEXT = st.one_of(ODD, st.text(st.characters(codec="utf-8"), max_size=8))
TABLES = st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(TEXT, min_size=width, max_size=width), max_size=5))


def header(rows: list[list[str]]) -> list[str]:
    return [f"column {place}" for place in range(len(rows[0]) if rows else 2)]


def cleaned(rows: list[list[str]]) -> dict[int, list[str]]:
    """What a person expects to be read: row as it is counted in a spreadsheet -> its cells."""
    plain = [[cell.strip().replace("\r\n", "\n").replace("\r", "\n") for cell in row] for row in rows]
    stripped = [["" if cell in MISSING else cell for cell in row] for row in plain]
    return {number: row for number, row in enumerate(stripped, 2) if any(row)}


def found_in(path: Path) -> dict[int, list[str]]:
    frame = read_text_table(path)
    return {int(number): list(row) for number, *row in frame.itertuples(name=None)}


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@given(rows=TABLES, quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), mark=st.booleans())
@settings(quick, max_examples=150)
def test_text_is_read_as_it_was_written(ending, rows, quoting, mark, tmp_path):
    target = io.StringIO(newline="")
    csv.writer(target, delimiter="," if ending == ".csv" else "\t", quoting=quoting).writerows([header(rows), *rows])
    path = tmp_path / f"t{ending}"
    path.write_bytes(target.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    if any("\x00" in cell for row in rows for cell in row):
        with pytest.raises(StudyError, match="NUL"):
            read_text_table(path)
    else:
        assert found_in(path) == cleaned(rows)


@given(rows=TABLES)
@settings(quick, max_examples=60)
def test_a_workbook_is_read_as_it_was_written(rows, tmp_path):
    assume(not openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE.search("".join(map("".join, rows))))
    rows = [[cell.replace("\r", "") for cell in row] for row in rows]  # XML has one kind of line break
    book, path = openpyxl.Workbook(), tmp_path / "t.xlsx"
    for row in [header(rows), *rows]:
        book.active.append(row)
    book.save(path)
    if any(cell.startswith("=") and len(cell) > 1 for row in rows for cell in row):  # openpyxl writes a formula
        with pytest.raises(StudyError, match="never calculated"):
            read_text_table(path)
    else:
        assert found_in(path) == cleaned(rows)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".xlsx", ".parquet"])
@given(content=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"PAR1", b"a,b\n", b'a\tb\n"']))
@settings(quick, max_examples=60)
def test_any_bytes_are_a_table_or_refused(ending, content, start, tmp_path):
    path = tmp_path / f"t{ending}"
    path.write_bytes(start + content)
    try:
        assert isinstance(read_text_table(path), pd.DataFrame)
    except StudyError as error:
        assert str(path) in str(error)


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, bytes]:
    """A table of each binary kind."""
    folder = tmp_path_factory.mktemp("valid")
    frame = pd.DataFrame({"patient": ["P1", "P2"], "age": [61, 62], "when": pd.to_datetime(["2019-03-14"] * 2)})
    frame.to_excel(folder / "t.xlsx", index=False)
    frame.to_parquet(folder / "t.parquet")
    return {ending: (folder / f"t{ending}").read_bytes() for ending in (".xlsx", ".parquet")}


@pytest.mark.parametrize("ending", [".xlsx", ".parquet"])
@given(
    places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4), cut=st.floats(0, 1)
)
@settings(quick, max_examples=100)
def test_a_damaged_file_is_a_table_or_refused(ending, places, cut, tmp_path, valid):
    content = bytearray(valid[ending])
    for place, byte in places:
        content[int(place * len(content))] = byte
    path = tmp_path / f"t{ending}"
    path.write_bytes(content if cut > 0.5 else content[: int(2 * cut * len(content))])
    try:
        assert isinstance(read_text_table(path), pd.DataFrame)
    except StudyError as error:
        assert str(path) in str(error)


CELLS = st.one_of(
    TEXT,
    st.sampled_from(
        ["-1", "0", "1", "2", "30", "61.50", "+62", "1_0", "0x10", "inf", "nan", "\uff16\uff11", "1e1", "A", "B", "D"]
    ),
    st.floats(allow_nan=True).map(str),
    st.integers(-5, 200).map(str),
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 59), st.sampled_from(["patient", "center", "age", "os_months", "os_event", "mvi"]), CELLS),
    min_size=1,
    max_size=3,
    unique_by=lambda change: change[:2],
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "features.tsv").write_text("patient\tf\n")
    config = load_config(OVERLAY)
    config["cohort"]["patients"] = str(folder / "patients.tsv")
    config["features"]["table"] = str(folder / "features.tsv")
    return config, simulate_tables(patients=60, seed=2, features=2)["patients"].astype(str)


@given(changes=CHANGES)
@settings(quick, max_examples=300)
def test_a_patients_table_is_read_as_it_was_written_or_the_cell_is_named(changes, cohort):
    config, frame = cohort
    frame = frame.copy()
    for row, column, text in changes:
        frame.loc[row, column] = text
    assume("\x00" not in "".join(text for *_, text in changes))
    file = config["cohort"]["patients"]
    frame.to_csv(file, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    try:
        found = read_cohort(config).patients
    except StudyError as error:
        said = str(error)
        assert any(f"patients.tsv row {row + 2}" in said for row, *_ in changes)
        assert any(column in said for _, column, _ in changes) and "expected" in said
        return
    assert found["patient"].tolist() == [text.strip() for text in frame["patient"]]
    assert found["center"].tolist() == [text.strip() for text in frame["center"]]
    for column in ("age", "os_months", "os_event", "mvi"):
        written = [np.nan if text.strip() in MISSING else float(text) for text in frame[column]]
        np.testing.assert_array_equal(found[column].to_numpy(float), written)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in nested maps and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in ((*before, key), *places(inner, (*before, key)))]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from([np.nan, np.inf]), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


@given(place=st.sampled_from(places(OVERLAY)), value=JSON, key=TEXT, adds=st.booleans())
@settings(quick, max_examples=300)
def test_any_configuration_is_valid_or_refused(place, value, key, adds):
    overlay: Any = deepcopy(OVERLAY)
    inside = overlay
    for part in place[:-1]:
        inside = inside[part]
    if adds and isinstance(inside, dict):
        inside[key] = value
    else:
        inside[place[-1]] = value
    try:
        found = load_config(overlay)
    except StudyError as error:
        assert "config.yaml" in str(error) and "expected" in str(error)
    else:
        json.dumps(found, allow_nan=False)  # what every stage is given
