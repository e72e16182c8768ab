"""`hccstudy features` and what users give it: every bad row says why, and costs no other row its features."""

from __future__ import annotations

import gzip
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from hccstudy import extraction, extraction_rows
from hccstudy.cli import main
from hccstudy.imports import images
from hccstudy.imports.images import read_any_file

SHAPE = (12, 20, 18)
MEAN = "original_firstorder_Mean"
VALUES = np.round(gaussian_filter(np.random.default_rng(5).normal(0, 900, SHAPE), 1)).astype(np.int16)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:7, 3:12, 3:12] = 1
LABELS[7:10, 8:17, 5:15] = 2


def image_of(array, **options):
    image = sitk.GetImageFromArray(array, **options)
    image.SetSpacing((0.8, 0.9, 2.5)[: image.GetDimension()])
    return image


def mean_of(label):
    return VALUES[np.equal(LABELS, label)].mean()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, the current one, with a good image, its mask of two labels, and a parameter file."""
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(image_of(VALUES), "image.nii.gz")
    sitk.WriteImage(image_of(LABELS), "mask.nii.gz")
    write_settings()
    return tmp_path


def write_settings(setting="{binWidth: 25}", types="{Original: {}}", classes="{firstorder: [Mean]}"):
    Path("p.yaml").write_text(f"setting: {setting}\nimageType: {types}\nfeatureClass: {classes}\n")
    extraction.load_parameters.cache_clear()


def measure(rows, capsys, *options, out="o.csv"):
    """Exit status, table and messages of the command; a row is (region, image, mask, label)."""
    names = ["patient", "region", "image", "mask", "label"]
    pd.DataFrame([("P", *row) for row in rows], columns=names).to_csv("t.csv", index=False)
    arguments = ["features", "t.csv", "--settings", "p.yaml", "--out", out, "--names", "pyradiomics", *options]
    status = main(arguments)
    said = capsys.readouterr().err
    return status, pd.read_csv(out, keep_default_na=False) if Path(out).is_file() else None, said


GOOD = ("two", "image.nii.gz", "mask.nii.gz", "2.0")


def write_bad_files():
    content = Path("image.nii.gz").read_bytes()
    Path("short.nii.gz").write_bytes(content[: len(content) // 2])
    turned = bytearray(content)
    turned[len(content) // 2] ^= 1
    Path("turned.nii.gz").write_bytes(turned)
    hole = VALUES.astype(np.float32)
    hole[0, 0, 0] = np.nan
    for ending in ("nii.gz", "nrrd"):
        sitk.WriteImage(image_of(hole), f"hole.{ending}")
    sitk.WriteImage(image_of(np.stack([LABELS] * 3, -1), isVector=True), "color.nrrd")
    sitk.WriteImage(sitk.JoinSeries([image_of(LABELS)] * 2), "series.nii.gz")
    sitk.WriteImage(image_of(LABELS * np.float32(0.5)), "part.nii.gz")
    sitk.WriteImage(image_of(LABELS * np.int16(-1)), "below.nii.gz")
    sitk.WriteImage(image_of(0 * LABELS), "empty.nii.gz")
    sitk.WriteImage(image_of(VALUES - VALUES.min()), "many.nii.gz")
    moved = image_of(LABELS)
    moved.SetOrigin((0, 0, 7))
    sitk.WriteImage(moved, "moved.nii.gz")
    sitk.WriteImage(image_of(LABELS[1:]), "low.nii.gz")
    Path("series").mkdir()


IMAGE, MASK = "image.nii.gz", "mask.nii.gz"
BAD_ROWS = [
    (("a", "short.nii.gz", MASK, 1), "short.nii.gz"),
    (("a", "turned.nii.gz", MASK, 1), "turned.nii.gz"),
    (("a", "hole.nii.gz", MASK, 1), "hole.nii.gz: 1 voxels are NaN or infinite"),
    (("a", "hole.nrrd", MASK, 1), "hole.nrrd: 1 voxels are NaN or infinite"),
    (("a", "series.nii.gz", MASK, 1), "series.nii.gz: 4 dimensions"),
    (("a", "absent.nii.gz", MASK, 1), "unreadable image: absent.nii.gz: no such file"),
    (("a", "series", MASK, 1), "series: is a folder"),
    (("a", "p.yaml", MASK, 1), "p.yaml"),
    (("a", "", MASK, 1), "column image is empty"),
    (("a", IMAGE, "", 1), "column mask is empty"),
    (("", IMAGE, MASK, 1), "column region is empty"),
    (("a", IMAGE, "absent.nii.gz", 1), "unreadable mask: absent.nii.gz: no such file"),
    (("a", IMAGE, "color.nrrd", 1), "color.nrrd: 3 dimensions and 3 value(s) a voxel; expected 3"),
    (("a", IMAGE, "series.nii.gz", 1), "series.nii.gz: 4 dimensions and 1 value(s) a voxel; expected 3"),
    (("a", IMAGE, "part.nii.gz", 1), "part.nii.gz: it holds 2 values from 0.5 to 1"),
    (("a", IMAGE, "below.nii.gz", 1), "below.nii.gz: it holds 2 values from -2 to -1"),
    (("a", IMAGE, "many.nii.gz", 1), "expected at most 255 labels"),
    (("a", MASK, IMAGE, 1), "are image and mask swapped?"),
    (("a", IMAGE, "empty.nii.gz", 1), "empty.nii.gz: no voxel is set; expected label 1"),
    (("a", IMAGE, MASK, 3), "mask.nii.gz: it holds 1, 2; expected label 3"),
    (("a", IMAGE, MASK, 0), "column label is '0'; expected a whole number, 1 or more"),
    (("a", IMAGE, MASK, 1.5), "column label is '1.5'"),
    (("a", IMAGE, MASK, "inf"), "column label is 'inf'"),
    (
        ("a", IMAGE, "moved.nii.gz", 1),
        "region a: the mask has 18x20x12 voxels of 0.8x0.9x2.5 mm, origin (0.00, 0.00, 7",
    ),
    (("a", IMAGE, "low.nii.gz", 1), "the mask has 18x20x11 voxels"),
]


@pytest.mark.parametrize("mode", ["parity", "ibsi"])
def test_every_bad_row_says_why_and_the_others_are_measured(folder, capsys, mode):
    write_bad_files()
    rows = [GOOD, *(row for row, _ in BAD_ROWS), ("one", "image.nii.gz", "mask.nii.gz", "1")]
    status, found, said = measure(rows, capsys, "--mode", mode)
    assert status == 1
    assert found[MEAN].iloc[[0, -1]].astype(float).tolist() == pytest.approx([mean_of(2), mean_of(1)], rel=1e-6)
    assert found["error"].iloc[[0, -1]].tolist() == ["", ""]
    for number, (row, message), error in zip(range(3, 99), BAD_ROWS, found["error"][1:], strict=False):
        assert message in error, row
        assert f"t.csv row {number} (P, {row[0]}): {error}\n" in said  # on one line
    assert "it/s" not in said and "region/s" not in said  # no progress bar in a log


def test_the_checksum_of_gzip_saves_a_second_reading_where_it_can(folder, monkeypatch):
    real, held = images._checksum_holds, []
    monkeypatch.setattr(images, "_checksum_holds", lambda *given: held.append(real(*given)) or held[-1])
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        values = (VALUES % 200).astype(dtype)
        sitk.WriteImage(image_of(values), "a.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_any_file(Path("a.nii.gz"), "image")), values)
    content = gzip.decompress(Path("a.nii.gz").read_bytes())
    # two members, as block compressors write: read again, and found whole
    Path("b.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_any_file(Path("b.nii.gz"), "image")), values)
    assert held == [True] * 4 + [False]


def test_without_a_label_the_default_is_measured_and_said_once(folder, capsys):
    rows = [("a", "image.nii.gz", "mask.nii.gz", ""), ("b", "image.nii.gz", "mask.nii.gz", "")]
    for setting, label in (("{binWidth: 25}", 1), ("{binWidth: 25, label: 2}", 2)):
        write_settings(setting)
        status, found, said = measure(rows, capsys)
        assert status == 0
        assert found[MEAN].astype(float).tolist() == pytest.approx([mean_of(label)] * 2)
        assert said.count("note: no label is given for 2 row(s)") == 1
        assert f"label {label} was measured, such as in mask.nii.gz (1, 2)" in said


def test_rows_of_one_name_keep_their_own_values_and_rows_alike_are_told(folder, capsys):
    rows = [("a", IMAGE, MASK, 1), ("a", IMAGE, MASK, 2), ("a", IMAGE, MASK, 1), ("a (row 3)", IMAGE, MASK, 2)]
    status, found, said = measure(rows, capsys)
    assert status == 0
    assert found[MEAN].astype(float).tolist() == pytest.approx([mean_of(label) for label in (1, 2, 1, 2)])
    assert "note: t.csv: row 4 repeats an earlier row (1 such)" in said


def test_what_fails_for_all_regions_is_tried_for_each(folder, capsys, monkeypatch):
    real = extraction_rows.extract

    def short_of_memory(image, masks, *arguments, **options):
        if "large" in masks:
            raise MemoryError("Unable to allocate 9 GiB")
        if "odd" in masks:
            raise ZeroDivisionError("a defect of ours")
        return real(image, masks, *arguments, **options)

    monkeypatch.setattr(extraction_rows, "extract", short_of_memory)
    status, found, _ = measure([GOOD, ("large", IMAGE, MASK, 1), ("odd", IMAGE, MASK, 1)], capsys)
    assert status == 1
    assert float(found[MEAN][0]) == pytest.approx(mean_of(2))
    assert found["error"][1].startswith("out of memory: Unable to allocate 9 GiB")
    assert found["error"][2] == "features not computable: ZeroDivisionError: a defect of ours"


def dies_of_one_image(rows, way):
    """In place of `extract_image`, in worker processes: the killer takes the pool with it while others are at work."""
    image, gone = rows[0].image, Path("gone")
    if image == "killer.nii.gz":
        gone.touch()
        os._exit(9)
    while not gone.exists():
        time.sleep(0.01)
    if not Path(f"seen {image}").exists():
        Path(f"seen {image}").touch()
        time.sleep(1)
    return extraction.Done({row.number: {MEAN: 4.0} for row in rows}, defaultdict(float), [])


def test_a_worker_that_dies_costs_only_its_own_image(folder, capsys, monkeypatch):
    monkeypatch.setattr(extraction, "extract_image", dies_of_one_image)
    rows = [("a", f"{name}.nii.gz", MASK, 1) for name in ("bystander", "killer", "waiting")]
    status, found, _ = measure(rows, capsys, "--jobs", "2")
    assert status == 1
    assert found[MEAN].tolist() == ["4.0", "", "4.0"]
    assert found["error"][1] == "worker process died: killer.nii.gz: out of memory? Try fewer --jobs"


def test_an_interrupted_run_keeps_what_is_done(folder, capsys, monkeypatch):
    real = extraction.extract_image

    def interrupted(rows, way):
        if rows[0].image == "second.nii.gz":
            raise KeyboardInterrupt
        return real(rows, way)

    monkeypatch.setattr(extraction, "extract_image", interrupted)
    rows = [GOOD, ("a", "second.nii.gz", MASK, 1), ("a", "third.nii.gz", MASK, 1)]
    status, found, said = measure(rows, capsys)
    assert status == 130
    assert float(found[MEAN][0]) == pytest.approx(mean_of(2))
    assert found["error"].tolist() == ["", *["not measured: interrupted"] * 2]
    assert said == "hccstudy: interrupted; 2 not measured, the others are written\n"
    before = Path("o.csv").read_bytes()
    status, _, said = measure(rows[1:], capsys)
    assert (status, said) == (130, "hccstudy: interrupted; nothing is written\n")
    assert Path("o.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("o.xlsx", "the ending is '.xlsx'; expected .csv, .tsv or .parquet"),
        ("folder.csv", "folder.csv: is a folder"),
        ("t.csv", "is the table of images itself"),
        ("p.yaml/o.csv", "its folder cannot be written to"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_first_image(folder, capsys, monkeypatch, out, message):
    Path("folder.csv").mkdir()
    monkeypatch.setattr(extraction, "_run", lambda *_: pytest.fail("an image is measured"))
    status, _, said = measure([GOOD], capsys, out=out)
    assert status == 1 and message in said
    assert len(pd.read_csv("t.csv").columns) == 5


def test_a_missing_folder_is_made_and_an_old_output_replaced(folder, capsys):
    Path("old.csv").write_text("old\n")
    for out in ("old.csv", "new/deep/o.csv"):
        assert measure([GOOD], capsys, out=out)[0] == 0
        assert float(pd.read_csv(out)[MEAN][0]) == pytest.approx(mean_of(2))
    # an output measured again: its columns of results are replaced, and that is said
    assert main(["features", "old.csv", "--settings", "p.yaml", "--out", "o.csv", "--names", "pyradiomics"]) == 0
    assert list(pd.read_csv("o.csv", nrows=1)).count(MEAN) == 1
    assert f"replaced: error, {MEAN}" in capsys.readouterr().err


def test_a_row_without_any_feature_is_an_error(folder, capsys):
    write_settings(types="{LoG: {sigma: [50]}}")  # left out where the image is too small, as pyradiomics does
    status, found, _ = measure([GOOD], capsys)
    assert status == 1
    assert found["error"][0].startswith("no feature: region two: 0 values")


def test_two_dimensions_are_measured_in_parity_and_refused_in_mode_ibsi(folder, capsys):
    sitk.WriteImage(image_of(VALUES[4]), "flat.nii.gz")
    sitk.WriteImage(image_of(LABELS[4]), "flatmask.nii.gz")
    rows = [("a", "flat.nii.gz", "flatmask.nii.gz", 1), ("b", "flat.nii.gz", MASK, 1)]
    _, found, _ = measure(rows, capsys)
    assert float(found[MEAN][0]) == pytest.approx(VALUES[4][LABELS[4] == 1].mean())
    assert "mask.nii.gz: 3 dimensions and 1 value(s) a voxel; expected 2" in found["error"][1]
    _, found, _ = measure(rows[:1], capsys, "--mode", "ibsi")
    assert found["error"][0].startswith("not a 3-D image")


def test_what_is_cut_away_in_mode_ibsi_is_beyond_all_filters(folder, capsys, monkeypatch):
    rng = np.random.default_rng(8)
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[18:23, 17:22, 16:21] = 1
    sitk.WriteImage(image_of(rng.integers(-200, 200, labels.shape).astype(np.int16)), "large.nii.gz")
    sitk.WriteImage(image_of(labels), "small.nii.gz")
    write_settings("{binWidth: 25, resampledPixelSpacing: [2.5, 2.5, 2.5]}", "{Wavelet: {level: 2}, LoG: {sigma: [2]}}")
    rows = [("a", "large.nii.gz", "small.nii.gz", 1)]
    _, found, _ = measure(rows, capsys, "--mode", "ibsi")
    monkeypatch.setattr(extraction_rows, "MARGIN_MM", 500)
    _, whole, _ = measure(rows, capsys, "--mode", "ibsi")
    values, expected = (table.iloc[0, 6:].astype(float) for table in (found, whole))
    assert len(values) == 16
    spread = expected.abs().max()
    assert values.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-4 * spread)
