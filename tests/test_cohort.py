"""The cohort: every cross-row check says file, row, column, what was found and what was expected."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hccstudy.cohort import check_study, missing_files, read_cohort, split_cohort, voxels_mb
from hccstudy.config import load_config
from hccstudy.errors import StudyError
from hccstudy.tables import read_table

CENTERS = {"development": ["A", "B"], "external": ["C"]}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A valid study in the working folder: tables (frames, to be changed and saved) and its configuration."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    n = 60
    patients = pd.DataFrame(
        {
            "patient": [f"P{number:02d}" for number in range(n)],
            "center": np.repeat(["A", "B", "C"], 20),
            "age": rng.integers(40, 80, n),
            "stage": rng.choice(["I", "II"], n),
            "os_months": rng.uniform(1, 60, n).round(1),
            "os_event": rng.integers(0, 2, n),
            "mvi": rng.integers(0, 2, n),
        }
    ).astype(object)
    images = pd.DataFrame({"patient": patients["patient"], "series": "ct"})
    images["image"] = [f"images/{patient}.nii.gz" for patient in patients["patient"]]
    images["mask"] = "images/mask.nii.gz"
    overlay = {
        "cohort": {
            "patients": "patients.tsv",
            "images": "images.tsv",
            "simulation": None,
            "centers": CENTERS,
            "columns": {
                "age": {"type": "number", "unit": "years", "range": [18, 100]},
                "stage": {"type": "category", "levels": ["I", "II"]},
            },
        },
        "endpoints": {
            "os": {
                "type": "survival",
                "label": "OS",
                "time": "os_months",
                "event": "os_event",
                "unit": "months",
                "horizons": [12],
            },
            "mvi": {"type": "binary", "label": "MVI", "column": "mvi"},
        },
        "series": {"ct": {"modality": "CT", "spacing": [1, 1, 1], "parameters": "ct.yaml"}},
        "stability": {"method": "none"},
        "predictors": {"clinical": ["age", "stage"]},
    }
    Path("images").mkdir()
    for number, name in enumerate(images["image"]):
        Path(name).write_bytes(bytes([number]) * 10)
    Path("images/mask.nii.gz").write_bytes(b"mask")

    def save(config=overlay):
        patients.to_csv("patients.tsv", sep="\t", index=False)
        images.to_csv("images.tsv", sep="\t", index=False)
        return load_config(config)

    return patients, images, overlay, save


def problems(save, overlay=None) -> str:
    with pytest.raises(StudyError) as error:
        check_study(save(overlay) if overlay else save())
    return str(error.value)


def test_a_valid_study_passes(study):
    assert check_study(study[3]()) == []


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (3, "os_months", -3, "patients.tsv row 5 (P03): os_months is '-3'; expected > 0"),
        (3, "os_months", 0, "row 5 (P03): os_months is '0'; expected > 0"),
        (3, "os_event", 2, "row 5 (P03): os_event is '2'; expected 0 (no event) or 1 (event)"),
        (3, "os_months", "", "row 5 (P03): os_months is empty while os_event is"),
        (3, "mvi", "yes", "row 5 (P03): mvi is 'yes'; expected a number"),
        (3, "age", 610, "row 5 (P03): age is '610'; expected 18 to 100 years"),
        (3, "age", "61,5", "expected a number (a decimal point, not a comma)"),
        (3, "age", "inf", "expected a finite number"),
        (3, "stage", "III", "row 5 (P03): stage is 'III'; expected one of I, II, or empty"),
        (3, "center", "D", "row 5 (P03): center is 'D'; expected one of A, B, C (cohort.centers)"),
        (3, "center", "", "row 5 (P03): center is empty"),
        (3, "patient", "P02", "row 5 (P02): patient is the id of row 4 too; expected every id once"),
        (3, "patient", "p02", "patient is the id of row 4 too"),
        (3, "patient", "../../x", "row 5: patient is '../../x'"),
        (3, "patient", "", "row 5: patient is empty"),
    ],
)
def test_a_wrong_cell_is_named(study, row, column, value, message):
    patients, _, _, save = study
    patients.loc[row, column] = value
    assert message in problems(save)


def test_all_problems_of_both_tables_are_said_at_once(study):
    patients, images, _, save = study
    patients.loc[0, "os_event"] = 7
    patients.loc[9, "age"] = 7
    images.loc[5, "patient"] = "nobody"
    images.loc[6, "mask"] = ""
    images.loc[8] = images.loc[7]
    text = problems(save)
    assert text.startswith("5 problems")
    assert "images.tsv row 7: patient is 'nobody'; expected a patient of patients.tsv" in text
    assert "images.tsv row 8 (P06): mask is empty" in text
    assert "images.tsv row 10 (P07): the same timepoint, series and reader as row 9" in text


def test_many_alike_are_summed_up(study):
    patients, _, _, save = study
    patients["mvi"] = patients["mvi"] + 1
    text = problems(save)
    assert text.count("mvi is '2'") == 5
    assert "... and mvi in" in text


def test_a_missing_column_is_said_with_those_that_are_there(study):
    patients, _, _, save = study
    del patients["os_event"]
    assert "no column 'os_event'; it has patient, center, age" in problems(save)


def test_the_same_image_under_two_patients_is_refused(study):
    _, images, _, save = study
    Path(images.loc[4, "image"]).write_bytes(Path(images.loc[2, "image"]).read_bytes())
    assert "images.tsv row 6 (P04): image is the same image as row 4 (P02 ct (baseline))" in problems(save)


def test_the_same_dicom_series_under_two_patients_is_refused(study):
    _, images, _, save = study
    for row in (4, 5):
        Path(f"images/series{row}").mkdir()
        Path(f"images/series{row}/{row}.dcm").write_bytes(b"slice")
        images.loc[row, "image"] = f"images/series{row}"
    assert "images.tsv row 7 (P05): image is the same image as row 6" in problems(save)


def test_readers_may_share_an_image(study):
    _, images, _, save = study
    images["reader"] = "A"
    images.loc[len(images)] = images.loc[0].to_dict() | {"reader": "B"}
    assert check_study(save()) == []


def test_a_missing_file_is_a_note_because_the_study_goes_on(study):
    _, images, _, save = study
    Path(images.loc[2, "image"]).unlink()
    (note,) = check_study(save())
    assert "images.tsv row 4 (P02): image images/P02.nii.gz is missing" in note


def test_files_that_are_missing_are_said_beside_other_problems(study):
    _, images, _, save = study
    Path(images.loc[2, "image"]).unlink()
    images.loc[5, "patient"] = "nobody"
    config = save()
    with pytest.raises(StudyError):
        check_study(config)
    (note,) = missing_files(config)
    assert "images.tsv row 4 (P02): image images/P02.nii.gz is missing" in note
    for path in images["image"][:20]:
        Path(path).unlink(missing_ok=True)
    notes = missing_files(config)
    assert len(notes) == 11 and notes[-1] == "... and 10 more files are missing"
    for path in images["image"]:
        Path(path).unlink(missing_ok=True)
    assert missing_files(config) == [
        f"images.tsv: none of the {len(images)} images is there; expected paths relative to {Path.cwd()}"
    ]


def test_files_of_series_that_are_ignored_are_not_missed(study):
    _, images, _, save = study
    images.loc[len(images)] = images.loc[0].to_dict() | {"series": "arterial", "image": "nowhere.nii.gz"}
    (note,) = check_study(save())
    assert "1 rows of series arterial (baseline), which the configuration does not have, are ignored" in note
    for path in images["image"]:
        Path(path).unlink(missing_ok=True)
    Path("nowhere.nii.gz").touch()
    assert "none of the 60 images is there" in problems(save)


def test_a_table_without_rows_is_refused_whatever_is_done_with_repeats(study):
    _, images, overlay, save = study
    config = save(overlay | {"stability": {"method": "readers"}})
    images[:0].to_csv("images.tsv", sep="\t", index=False)
    with pytest.raises(StudyError, match=r"images.tsv: no row; expected one row a series and reader"):
        check_study(config)


def test_a_folder_that_may_not_be_read_costs_its_patient_only(study):
    _, images, _, save = study
    Path("closed").mkdir()
    images.loc[2, "image"] = "closed/P02.nii.gz"
    config, user = save(), os.geteuid()
    check_study(config)
    Path().chmod(0o755)
    Path("closed").chmod(0)
    os.seteuid(user or 65534)  # root may read everything
    try:
        (note,) = check_study(config)
        assert "row 4 (P02): image closed/P02.nii.gz is missing" in note
        assert voxels_mb("closed/P02.nii.gz") == 0
    finally:
        os.seteuid(user)
        Path("closed").chmod(0o700)


def test_a_misspelt_series_is_noticed_with_who_loses_it(study):
    _, images, overlay, save = study
    images.loc[2, "series"] = "cts"
    ignored, lost = check_study(save())
    assert ignored.startswith("images.tsv: 1 rows of series cts (baseline) (is it 'ct'?)")
    assert lost == "images.tsv: 1 patients have no row of series ct (baseline), they will be excluded: P02"
    overlay["series"]["ct"]["required"] = False
    assert "its features will be missing: P02" in check_study(save(overlay))[1]


@pytest.mark.parametrize("values", [lambda f: f["mvi"], lambda f: 3 - f["mvi"], lambda f: f["os_months"] + 0.5])
def test_a_predictor_that_is_really_the_outcome_is_refused(study, values):
    patients, _, overlay, save = study
    patients["score"] = values(patients)
    overlay["cohort"]["columns"]["score"] = {"type": "number"}
    overlay["predictors"]["clinical"].append("score")
    assert "predictor score tells" in problems(save)


def test_small_and_one_sided_centers_are_said(study):
    patients, _, _, save = study
    patients.loc[patients["center"] == "C", "mvi"] = 0
    drop = patients.index[patients["center"] == "C"][:10]
    patients.loc[drop, "center"] = "A"
    notes = check_study(save())
    assert "center C has 10 patients, fewer than 15 (cohort.minimum_patients)" in notes
    assert "endpoint mvi: center C has one outcome only (mvi = 0.0)" in notes


def test_combat_refuses_a_tiny_development_center_and_a_single_one(study):
    patients, _, overlay, save = study
    drop = patients.index[patients["center"] == "B"][:11]
    patients.loc[drop, "center"] = "A"
    assert "9 patients of development center B; expected at least 10 for ComBat" in problems(save)
    overlay["cohort"]["centers"] = {"development": ["A"], "external": ["B", "C"]}
    assert "one development center; expected two or more for ComBat" in problems(save)


def test_too_few_repeated_masks_for_the_stability_filter_are_said_before_the_run(study):
    _, _, overlay, save = study
    overlay["stability"] = {"method": "readers"}
    assert (
        "0 development patients with masks of two readers (stability.method: readers); expected at least 14"
        in problems(save)
    )
    overlay["stability"] = {"method": "perturbation", "patients": 10}
    assert "perturbed masks of 10 development patients (stability.patients: 10); expected at least 14" in problems(save)


def test_an_outcome_without_variation_and_a_horizon_beyond_follow_up_are_refused(study):
    patients, _, overlay, save = study
    patients["mvi"] = 1
    overlay["endpoints"]["os"]["horizons"] = [12, 600]
    text = problems(save)
    assert "expected two or more outcomes to learn endpoint mvi from" in text
    assert "horizon 600 of endpoint os; expected below the longest development follow-up" in text


def test_external_outcomes_are_set_apart(study, tmp_path):
    config = study[3]()
    names = ("development", "external", "external_outcomes", "outcomes", "ledger")
    split_cohort(settings=config, **{name: str(tmp_path / f"{name}.tsv") for name in names})
    tables = {name: read_table(tmp_path / f"{name}.tsv") for name in names}
    assert set(tables["development"]["center"]) == {"A", "B"}
    assert {"os_months", "os_event", "mvi"} <= set(tables["development"].columns)
    assert not {"os_months", "os_event", "mvi"} & set(tables["external"].columns)
    assert set(tables["external_outcomes"]["center"]) == {"C"}
    assert len(tables["ledger"]) == 60


def test_cases_carry_everything_the_import_needs(study):
    cohort = read_cohort(study[3]())
    (case,) = cohort.cases(["P03"])
    assert case["center"] == "A"
    assert case["images"][0] | {"row": 5, "image": "images/P03.nii.gz", "timepoint": "baseline"} == case["images"][0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"i.nii": 8}, 8),
        ({"i.nii.gz": 3}, 9),  # CT packs about three times
        ({"i.nii.gz": 3, "i.json": 0, "other.nii.gz": 7}, 9),
        ({"i.mhd": 0, "i.raw": 5, "j.raw": 5}, 5),
        ({"i/1.dcm": 2, "i/below/2.dcm": 2}, 4),
        ({}, 0),
    ],
)
def test_the_size_of_an_image_is_told_by_its_files(tmp_path, files, expected):
    for name, megabytes in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as handle:
            handle.truncate(megabytes * 10**6)
    image = next(iter(files), "absent.nii").split("/")[0]
    assert voxels_mb(str(tmp_path / image)) == expected
