"""The import stage: series, readers and rows; what a resume computes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk

from hccstudy.imports.acquisition import COLUMNS
from imports.phantoms import Result, case, cut, images_row, labels, relabeled, run, scan, settings, write

# ---------------------------------------------------------------- series, readers, rows


def test_a_patient_without_a_required_series_is_excluded(tmp_path, image, mask):
    other = images_row(image, mask, timepoint="followup")  # belongs to no configured series
    result = run(tmp_path, case("P1"), case("P2", other))
    for patient in ("P1", "P2"):
        line = result.ledger.loc[patient]
        assert (line.status, line.reason) == ("excluded", "no portal image")
    assert result.acquisition.empty and list(result.acquisition.columns) == COLUMNS


def test_an_optional_series_may_be_missing_but_not_broken(tmp_path, image, mask):
    chosen = settings(portal={}, arterial={"required": False})
    broken = images_row(cut(tmp_path / "cut.nii.gz", True), mask, series="arterial")
    cases = case("P1", images_row(image, mask)), case("P2", images_row(image, mask), broken)
    result = run(tmp_path, *cases, chosen=chosen)
    assert result.ledger["status"].to_dict() == {"P1": "included", "P2": "failed"}


def test_a_patient_without_any_series_is_excluded_though_none_is_required(tmp_path, image, mask):
    chosen = settings(portal={"required": False}, arterial={"required": False})
    result = run(tmp_path, case("P1"), case("P2", images_row(image, mask)), chosen=chosen)
    line = result.ledger.loc["P1"]
    assert (line.status, line.reason) == ("excluded", "no image")
    assert "portal, arterial" in line.detail
    assert result.ledger["status"].to_dict() == {"P1": "excluded", "P2": "included"}


def test_an_image_without_a_mask_is_excluded(tmp_path, image):
    line = run(tmp_path, case("P1", images_row(image, ""))).ledger.loc["P1"]
    assert (line.status, line.reason) == ("excluded", "no portal mask")


def test_readers_share_one_image_and_have_masks_of_their_own(tmp_path, image, mask):
    second = relabeled(tmp_path, {1: 1})
    rows = [images_row(image, path, reader=name) for path, name in ((mask, "Dr. A"), (second, "Dr. B"))]
    result = run(tmp_path, case("P1", *rows))
    assert result.rows["reader"].tolist() == ["Dr. A", "Dr. B"]
    assert result.rows["image"].nunique() == 1 and result.rows["mask"].nunique() == 2
    assert [int((sitk.GetArrayFromImage(result.image("mask", row)) == 2).sum() > 0) for row in (0, 1)] == [
        1,
        0,
    ]
    assert len(result.acquisition) == 1


def test_one_reader_cannot_have_two_rows_of_a_series(tmp_path, image, mask):
    rows = [images_row(image, mask, row=str(number)) for number in (4, 5)]
    line = run(tmp_path, case("P1", *rows)).ledger.loc["P1"]
    assert line.reason == "duplicate images row"
    assert line.detail.startswith("images table row 5: ")


# ---------------------------------------------------------------- resume


def two_patients(tmp_path: Path) -> list[dict[str, Any]]:
    rows = {}
    for seed, name in enumerate(("P1", "P2")):
        image = write(scan(seed=seed), tmp_path / name / "i.mhd", False)  # the voxels are in i.raw
        rows[name] = images_row(image, write(labels(), tmp_path / name / "m.nii.gz"), row=str(seed + 2))
    return [case(name, row) for name, row in rows.items()]


def computed(result: Result) -> dict[str, int]:
    """The inode of each patient's result: a new one means that it was computed again."""
    return {path.parent.name: path.stat().st_ino for path in (result.folder / "imports").glob("*/done.json.gz")}


def contents(result: Result) -> dict[str, bytes]:
    return {
        str(path.relative_to(result.folder)): path.read_bytes() for path in result.folder.rglob("*") if path.is_file()
    }


def test_a_second_run_computes_nothing_and_writes_the_same_tables(tmp_path):
    cases = two_patients(tmp_path)
    first = run(tmp_path, *cases)
    inodes, files = computed(first), contents(first)
    for path in tmp_path.glob("P*/*"):
        path.touch()
    for number, item in enumerate(cases):
        item["images"][0] |= {"row": str(40 + number), "stamp": "touched"}
    second = run(tmp_path, *cases)
    assert computed(second) == inodes
    assert contents(second) == files


def test_a_replaced_file_recomputes_its_patient_only(tmp_path):
    cases = two_patients(tmp_path)
    before = run(tmp_path, *cases)
    inodes, hashes = computed(before), before.rows["image_sha256"].tolist()
    write(scan(seed=9), tmp_path / "P2" / "i.mhd", False)
    after = run(tmp_path, *cases)
    assert computed(after)["P1"] == inodes["P1"]
    assert computed(after)["P2"] != inodes["P2"]
    assert after.rows["image_sha256"].tolist()[0] == hashes[0]
    assert after.rows["image_sha256"].tolist()[1] != hashes[1]


def test_a_failure_remembered_names_the_row_of_today(tmp_path, image):
    bad = relabeled(tmp_path, {})
    run(tmp_path, case("P1", images_row(image, bad, row="7")))
    line = run(tmp_path, case("P1", images_row(image, bad, row="8"))).ledger.loc["P1"]
    assert line.detail.startswith("images table row 8: ")


def test_a_missing_file_that_appears_is_imported(tmp_path, image, mask):
    absent = tmp_path / "late.nii.gz"
    assert run(tmp_path, case("P1", images_row(absent, mask))).ledger.loc["P1", "reason"] == "missing file"
    write(scan(), absent)
    assert run(tmp_path, case("P1", images_row(absent, mask))).ledger.loc["P1", "status"] == "included"


def test_the_same_input_gives_the_same_bytes(tmp_path):
    cases = two_patients(tmp_path)
    one, two = (run(tmp_path, *cases, name=name) for name in ("one", "two"))
    for name in ("P1/portal_image.nii.gz", "P1/portal_mask.nii.gz"):
        assert (one.folder / "imports" / name).read_bytes() == (two.folder / "imports" / name).read_bytes()
    assert one.rows["mask_sha256"].tolist() == two.rows["mask_sha256"].tolist()
