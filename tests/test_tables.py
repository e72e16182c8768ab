"""Tables: what a person may hand in is read as it stands or refused by name; files appear whole or not at all."""

from __future__ import annotations

import pandas as pd
import pytest

from hccstudy.errors import StudyError
from hccstudy.tables import atomic, digest, file_digest, read_table, read_text_table, write_json, write_table

ROWS = [["HK-1", "香港", "1.5"], ["HK-2", "Zürich", ""]]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".xlsx"])
def test_every_format_gives_the_same_text(tmp_path, ending):
    path = tmp_path / f"a table{ending}"
    frame = pd.DataFrame(ROWS, columns=["patient", "center", "AFP 值"])
    if ending == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        frame.to_csv(path, sep="\t" if ending == ".tsv" else ",", index=False, encoding="utf-8-sig")
    found = read_text_table(path)
    assert found.to_numpy().tolist() == ROWS
    assert list(found.columns) == ["patient", "center", "AFP 值"]
    assert list(found.index) == [2, 3]


def test_date_cells_of_a_spreadsheet_are_dates_and_whole_numbers_whole(tmp_path):
    frame = pd.DataFrame({"patient": ["P1"], "index_date": [pd.Timestamp("2019-03-14")], "afp": [35.0], "inr": [1.25]})
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    assert read_text_table(tmp_path / "t.xlsx").to_numpy().tolist() == [["P1", "2019-03-14", "35", "1.25"]]


def test_semicolons_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("patient;age\nP1;3\n")
    with pytest.raises(StudyError, match="separated by semicolons; expected commas"):
        read_text_table(tmp_path / "t.csv")


def test_ids_keep_their_zeros_and_na_is_missing(tmp_path):
    (tmp_path / "t.tsv").write_text("patient\tafp\n007\tNA\n\n008\t 3 \n")
    found = read_text_table(tmp_path / "t.tsv")
    assert found["patient"].tolist() == ["007", "008"]
    assert found["afp"].tolist() == ["", "3"]
    assert list(found.index) == [2, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"patient\tpatient\n1\t2\n", "appears twice"),
        ("patient\n病人\n".encode("gbk"), "not UTF-8"),
        (b"a\tb\n1\t2\t3\n1\t2\t3\t4\n", "row 2: has 3 cells; expected 2"),
    ],
)
def test_unreadable_tables_are_refused_with_the_file_name(tmp_path, content, message):
    path = tmp_path / "patients.tsv"
    path.write_bytes(content)
    with pytest.raises(StudyError, match=message) as error:
        read_text_table(path)
    assert "patients.tsv" in str(error.value)


def test_numbers_survive_a_round_trip_to_the_last_bit(tmp_path):
    frame = pd.DataFrame({"patient": ["01", "02"], "x": [0.1 + 0.2, 1e-300]})
    for name in ("t.tsv", "t.parquet"):
        write_table(frame, tmp_path / name)
        pd.testing.assert_frame_equal(read_table(tmp_path / name), frame, check_exact=True)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "t.tsv"
    write_json({"old": 1}, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_digests_ignore_the_order_of_keys_and_see_content(tmp_path):
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"1")
    first = file_digest(folder)
    (folder / "1.dcm").write_bytes(b"2")
    assert file_digest(folder) != first
