"""The demo cohort: is the truth that it claims really in its tables and in its images?"""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import statsmodels.api as sm
from scipy import ndimage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import cross_val_predict
from statsmodels.duration.hazard_regression import PHReg

from hccstudy.errors import StudyError
from hccstudy.phantom import LESIONS, LIVER, PHASES, TISSUES, TUMOR, draw_patient
from hccstudy.simulate import (
    BETA_CLINICAL,
    BETA_RISK,
    BROKEN,
    CENTERS,
    DAYS_PER_MONTH,
    MVI_LOGIT,
    SEED,
    STUDY_END,
    simulate_cohort,
    simulate_images,
    simulate_study,
    simulate_tables,
)
from hccstudy.staging import bclc_stage, child_pugh_class, child_pugh_points
from hccstudy.tables import file_digest, read_json, read_table, read_text_table

FEW = 20  # the smallest cohort with broken patients


@pytest.fixture(scope="module")
def demo():
    return simulate_tables()


@pytest.fixture(scope="module")
def large():
    """4,000 patients: standard errors small enough to tell the truth from its neighbors."""
    return simulate_tables(4000, seed=7)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    simulate_study(folder, FEW, seed=3)
    return folder


@pytest.fixture(scope="module")
def measured(demo):
    """What a simple look at the arterial images and masks of 16 demo patients in each center finds."""
    chosen = demo[2].groupby("center").head(16)
    return pd.DataFrame([measure(traits) for traits in chosen.to_dict("records")])


def measure(traits: dict) -> dict:
    scanner = CENTERS[traits["center"]].scanner
    image, masks = draw_patient(traits, scanner, "AB")["arterial"]
    mask, second = masks["A"], masks["B"]
    tumor = mask == TUMOR
    liver = ndimage.binary_erosion(mask == LIVER, iterations=2)
    middle = np.median(image[liver])
    steps = np.diff(image.astype(float), axis=2)[liver[:, :, 1:] & liver[:, :, :-1]]
    return {
        **{name: traits[name] for name in ("center", "z", "tumor_size", "tumor_number")},
        "liver": middle,
        "noise": 1.4826 * np.median(np.abs(image[liver] - middle)),
        "step": 1.4826 * np.median(np.abs(steps)),
        "texture": texture_at_2_mm(image, tumor, scanner.spacing),
        "washin": image[tumor].mean() - middle,
        "diameter": largest_axial_diameter(tumor, scanner.spacing[0]),
        "parts": ndimage.label(tumor)[1],
        "others": (mask == LESIONS).any(),
        "dice": dice(tumor, second == TUMOR),
    }


def texture_at_2_mm(image: np.ndarray, tumor: np.ndarray, spacing: tuple) -> float:
    """Log of the SD inside the tumor on a grid of 2 mm, the study grid of the demo."""
    zoom = np.array(spacing[::-1]) / 2
    box = ndimage.find_objects(tumor.astype(int))[0]
    values = ndimage.zoom(image[box].astype(float), zoom, order=1)
    inside = ndimage.zoom(tumor[box].astype(float), zoom, order=1) >= 0.5
    return np.log(values[inside].std())


def largest_axial_diameter(tumor: np.ndarray, pixel: float) -> float:
    """Largest extent over slices and directions, mm: what a radiologist measures as tumor size."""
    angles = np.linspace(0, np.pi, 36, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    extents = [np.ptp(np.argwhere(plane) @ directions, axis=0).max() for plane in tumor if plane.any()]
    return (max(extents) + 1) * pixel


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# Tables


def test_the_same_seed_gives_the_same_tables_and_another_seed_gives_others():
    first, again, other = (simulate_tables(50, seed=seed) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(a, b)
    assert not first[2]["z"].equals(other[2]["z"])


def test_the_demo_has_120_patients_in_three_development_and_two_external_centers(demo):
    patients, _, truth = demo
    counts = patients["center"].value_counts().to_dict()
    assert counts == {"Aldbrook": 26, "Brennac": 24, "Corvale": 22, "Dunmoor": 26, "Eastlyn": 22}
    assert [center.role for center in CENTERS.values()] == ["development"] * 3 + ["external"] * 2
    assert patients["patient"].is_unique
    assert patients[["patient", "center"]].equals(truth[["patient", "center"]])


@pytest.mark.parametrize("patients", [1, 7, 20, 333])
def test_any_number_of_patients_is_shared_among_the_centers(patients):
    frame, _, truth = simulate_tables(patients, seed=1)
    assert len(frame) == patients
    assert (truth["broken"] != "").sum() == (len(BROKEN) if patients >= FEW else 0)


def test_no_patients_is_refused():
    with pytest.raises(StudyError, match="patients is 0; expected at least 1"):
        simulate_tables(0)


def test_outcomes_are_coded_as_the_study_expects(large):
    patients = large[0]
    assert set(patients["os_event"]) == {0, 1}
    assert (patients["os_months"] > 0).all()
    assert set(patients["mvi"].dropna()) == {0, 1}
    assert set(patients["mrecist"].dropna()) == {"CR", "PR", "SD", "PD"}
    assert patients[["os_months", "os_event"]].notna().all(axis=None)
    assert 0.55 < patients["os_event"].mean() < 0.65


def test_nobody_is_followed_beyond_the_end_of_the_study(large):
    patients = large[0]
    start = patients["index_date"].to_numpy().astype("datetime64[D]")
    room = (STUDY_END - start).astype(float) / DAYS_PER_MONTH
    assert (patients["os_months"] <= room + 0.05).all()  # months are rounded to one decimal


def test_only_the_named_columns_have_missing_values_and_few(large):
    missing = large[0].isna().mean()
    assert set(missing.index[missing > 0]) == {"afp", "inr", "mvi", "mrecist"}
    assert missing.max() < 0.06


def test_clinical_variables_hang_together_as_in_patients(large):
    patients = large[0]
    rank = patients[["albumin", "bilirubin", "platelets", "tumor_size", "tumor_number", "afp"]].corr("spearman")
    assert rank.loc["albumin", "bilirubin"] < -0.3
    assert rank.loc["albumin", "platelets"] > 0.2
    assert rank.loc["tumor_size", "afp"] > 0.2
    assert rank.loc["tumor_size", "tumor_number"] > 0.2
    assert set(patients["child_pugh"]) == {"A", "B", "C"}
    assert set(patients["bclc"]) == {"0", "A", "B", "C"}


def test_recorded_child_pugh_follows_from_the_recorded_values(large):
    known = large[0].dropna(subset="inr")
    names = ["albumin", "bilirubin", "inr", "ascites", "encephalopathy"]
    points = child_pugh_points(*(known[name].to_numpy() for name in names))
    assert (child_pugh_class(points) == known["child_pugh"]).all()


@pytest.mark.parametrize(
    ("variable", "values", "points"),
    [
        ("albumin", [36, 35, 28, 27.9], [1, 2, 2, 3]),
        ("bilirubin", [33, 34, 50, 51], [1, 2, 2, 3]),
        ("inr", [1.6, 1.7, 2.3, 2.4], [1, 2, 2, 3]),
        ("ascites", ["none", "mild", "moderate"], [1, 2, 3]),
        ("encephalopathy", ["none", "mild", "severe"], [1, 2, 3]),
    ],
)
def test_child_pugh_points_follow_the_published_table(variable, values, points):
    n = len(values)
    best = {"albumin": 45.0, "bilirubin": 10.0, "inr": 1.0, "ascites": "none", "encephalopathy": "none"}
    columns = {name: np.array([value] * n) for name, value in best.items()} | {variable: np.array(values)}
    assert (child_pugh_points(**columns) - 4).tolist() == points


def test_child_pugh_classes_are_5_6_7_9_10_15():
    points = np.arange(5, 16)
    assert "".join(child_pugh_class(points)) == "AABBBCCCCCC"


@pytest.mark.parametrize(
    ("number", "size", "child_pugh", "ecog", "stage"),
    [
        (1, 20, "A", 0, "0"),
        (1, 20, "B", 0, "A"),
        (1, 90, "A", 0, "A"),
        (3, 30, "B", 0, "A"),
        (3, 31, "A", 0, "B"),
        (4, 10, "A", 0, "B"),
        (1, 15, "A", 1, "C"),
        (4, 60, "C", 0, "D"),
        (1, 50, "C", 0, "A"),
        (1, 20, "A", 3, "D"),
    ],
)
def test_bclc_follows_the_published_rules(number, size, child_pugh, ecog, stage):
    assert bclc_stage(*(np.array([value]) for value in (number, size, child_pugh, ecog))).item() == stage


def test_a_cox_model_of_the_truth_recovers_the_hazard_ratios(large):
    patients, _, truth = large
    covariates = truth[["z", "clinical_score"]]
    fit = PHReg(patients["os_months"], covariates, status=patients["os_event"], ties="efron").fit()
    assert (np.abs(fit.params - [BETA_RISK, BETA_CLINICAL]) < 3 * fit.bse).all()
    assert fit.bse.max() < 0.05


def test_a_logistic_model_of_the_truth_recovers_mvi(large):
    patients, _, truth = large
    known = patients["mvi"].notna()
    design = sm.add_constant(truth.loc[known, ["z", "clinical_score"]])
    fit = sm.Logit(patients.loc[known, "mvi"].astype(int), design).fit(disp=False)
    assert (np.abs(fit.params.to_numpy() - MVI_LOGIT) < 3 * fit.bse.to_numpy()).all()


def test_response_worsens_with_the_risk(large):
    risk = large[2]["z"].groupby(large[0]["mrecist"]).mean()
    assert risk[["CR", "PR", "SD", "PD"]].is_monotonic_increasing


def test_the_latent_risk_knows_nothing_of_the_clinical_variables(large):
    truth = large[2]
    within = truth[["z", "clinical_score"]] - truth.groupby("center")[["z", "clinical_score"]].transform("mean")
    assert abs(within.corr().iloc[0, 1]) < 3 / np.sqrt(len(truth))
    assert within.std().to_numpy() == pytest.approx(1, abs=0.05)


def test_second_readers_are_24_development_patients_without_flaws(demo):
    _, images, truth = demo
    second = truth[truth["patient"].isin(images.loc[images["reader"] == "B", "patient"])]
    assert len(second) == 24
    assert {CENTERS[name].role for name in second["center"]} == {"development"}
    assert set(second["broken"]) == {""}


# Voxels


def test_texture_follows_the_latent_risk_within_centers(measured):
    within = measured[["texture", "z"]] - measured.groupby("center")[["texture", "z"]].transform("mean")
    assert within.corr().iloc[0, 1] > 0.65
    # of 16 patients: a correlation of 0.7 comes out above 0.39 in 19 of 20 samples
    for _, inside in measured.groupby("center"):
        assert inside[["texture", "z"]].corr().iloc[0, 1] > 0.39


@pytest.mark.parametrize("name", CENTERS)
def test_every_center_shows_its_offset_and_scale_in_the_liver(measured, name):
    scanner = CENTERS[name].scanner
    expected = TISSUES["liver"][0] * scanner.scale + scanner.offset
    liver = measured.loc[measured["center"] == name, "liver"]
    assert liver.mean() == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("name", CENTERS)
def test_every_center_shows_its_noise_in_the_liver(measured, name):
    scanner = CENTERS[name].scanner
    noise = measured.loc[measured["center"] == name, "noise"]
    assert noise.median() == pytest.approx(scanner.noise * scanner.scale, rel=0.15)


def test_three_simple_statistics_tell_the_center(measured):
    found = cross_val_predict(
        LinearDiscriminantAnalysis(), measured[["liver", "noise", "step"]], measured["center"], cv=5
    )
    # chance is 0.2; the scanners differ as calibrated ones do, so that frozen models survive a new center
    assert (found == measured["center"]).mean() > 0.7


def test_tumors_take_up_contrast_early_and_lose_it_late(demo):
    traits = demo[2].iloc[0].to_dict()
    scans = draw_patient(traits, CENTERS[traits["center"]].scanner)
    excess = {}
    for phase in PHASES:
        image, masks = scans[phase]
        excess[phase] = np.median(image[masks["A"] == TUMOR]) - np.median(image[masks["A"] == LIVER])
    assert excess["arterial"] > 10
    assert excess["portal"] < -10


def test_tumor_size_is_the_largest_diameter_of_the_mask(measured):
    size = measured["tumor_size"]
    assert (measured["diameter"] / size).median() == pytest.approx(1, abs=0.05)
    assert ((measured["diameter"] - size).abs() < 4 + 0.1 * size).all()  # two pixels and a tenth


def test_the_index_tumor_is_one_piece_and_others_are_drawn_where_the_table_says(measured):
    assert (measured["parts"] == 1).all()
    assert (measured["others"] == (measured["tumor_number"] > 1)).all()


def test_readers_agree_but_not_exactly(measured):
    assert measured["dice"].between(0.5, 0.99).all()  # the smallest tumors have some ten voxels in a slice
    assert 0.88 < measured["dice"].median() < 0.97


# Files


def test_the_same_seed_gives_the_same_bytes(study, tmp_path):
    simulate_study(tmp_path, FEW, seed=3)
    assert file_digest(tmp_path) == file_digest(study)


def test_one_patient_made_alone_has_the_same_files(study, tmp_path):
    _, images, truth = simulate_tables(FEW, seed=3)
    one = truth[truth["patient"] == "HCC-011"]
    simulate_images(one, images, tmp_path)
    files = sorted((tmp_path / "images").iterdir())
    assert {file.name.split("_")[0] for file in files} == {"HCC-011"}
    assert all(file_digest(file) == file_digest(study / "images" / file.name) for file in files)


def test_the_stage_writes_what_its_images_table_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, done = "results/simulation/images", "results/simulation/done.json"
    simulate_cohort(patients=3, seed=2, folder=folder, done=done)
    _, images, _ = simulate_tables(3, 2, folder)
    named = set(images["image"]) | set(images["mask"])
    sidecars = {name.replace(".nii.gz", ".json") for name in images["image"]}
    assert {path.as_posix() for path in Path(folder).iterdir()} == named | sidecars
    assert read_json(done) == {"patients": 3, "seed": 2, "files": len(named | sidecars)}


def test_a_written_study_reads_back(study):
    patients, images = read_text_table(study / "patients.tsv"), read_text_table(study / "images.tsv")
    truth = read_table(study / "truth.tsv", ["patient", "z", "broken"])
    assert patients["patient"].tolist() == truth["patient"].tolist()
    assert images.columns.tolist() == ["patient", "timepoint", "series", "image", "mask", "label", "reader"]
    assert all((study / name).is_file() for name in [*images["image"], *images["mask"]])
    assert all(name in (study / "README.md").read_text() for name in CENTERS)
    for name, center in CENTERS.items():
        of_center = truth.loc[truth["center"] == name, "patient"].iloc[0]
        sidecar = read_json(study / "images" / f"{of_center}_arterial.json")
        assert sidecar["Manufacturer"] == center.manufacturer
        assert sidecar["SliceThickness"] == center.scanner.spacing[2]


def broken_patient(study: Path, flaw: str) -> str:
    truth = read_table(study / "truth.tsv")
    (patient,) = truth.loc[truth["broken"] == flaw, "patient"]
    return patient


def scan_of(study: Path, patient: str, phase: str = "arterial") -> tuple[sitk.Image, sitk.Image]:
    stem = study / "images" / f"{patient}_{phase}"
    return sitk.ReadImage(f"{stem}.nii.gz"), sitk.ReadImage(f"{stem}_maskA.nii.gz")


def extent(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    last = [size - 1 for size in image.GetSize()]
    return np.array(image.GetOrigin()), np.array(image.TransformIndexToPhysicalPoint(last))


def test_sound_patients_have_mask_and_image_on_one_grid(study):
    truth = read_table(study / "truth.tsv")
    for patient in truth.loc[truth["broken"].isna(), "patient"]:
        for phase in PHASES:
            image, mask = scan_of(study, patient, phase)
            assert image.GetSize() == mask.GetSize()
            assert image.GetOrigin() == mask.GetOrigin()
            assert set(np.unique(sitk.GetArrayViewFromImage(mask))) >= {0, TUMOR, LIVER}


def test_the_empty_mask_is_empty(study):
    _, mask = scan_of(study, broken_patient(study, "empty mask"))
    assert not sitk.GetArrayViewFromImage(mask).any()


def test_the_mask_elsewhere_shares_no_space_with_its_image(study):
    image, mask = scan_of(study, broken_patient(study, "mask elsewhere"))
    assert image.GetSize() != mask.GetSize()
    assert sitk.GetArrayViewFromImage(mask).any()
    assert (extent(mask)[0] > extent(image)[1]).any()


def test_the_truncated_image_ends_too_early(study):
    file = study / "images" / f"{broken_patient(study, 'truncated image')}_portal.nii.gz"
    with pytest.raises(EOFError), gzip.open(file) as stream:
        stream.read()


def test_the_missing_phase_has_neither_row_nor_file(study):
    patient = broken_patient(study, "missing phase")
    images = read_text_table(study / "images.tsv")
    assert set(images.loc[images["patient"] == patient, "series"]) == {"arterial"}
    assert not list((study / "images").glob(f"{patient}_portal*"))


def test_the_coarse_mask_comes_back_by_resampling(study):
    patient = broken_patient(study, "coarse mask")
    image, mask = scan_of(study, patient)
    assert mask.GetSpacing()[:2] == pytest.approx(np.multiply(2, image.GetSpacing()[:2]))
    resampled = sitk.GetArrayFromImage(sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor))
    _, _, truth = simulate_tables(FEW, seed=3)
    (traits,) = truth[truth["patient"] == patient].to_dict("records")
    _, masks = draw_patient(traits, CENTERS[traits["center"]].scanner)["arterial"]
    assert dice(resampled == TUMOR, masks["A"] == TUMOR) > 0.8


def test_the_demo_seed_is_the_default(demo):
    pd.testing.assert_frame_equal(demo[2], simulate_tables(120, SEED)[2])
