"""Stability: repeats of readers and perturbed masks become repeated measurements, on development patients only."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor

from hccstudy.cohort import perturbed_patients
from hccstudy.config import load_config
from hccstudy.errors import StudyError
from hccstudy.features import extract_batch
from hccstudy.regions import perturb_labels
from hccstudy.stability import measure_repeats_batch, measure_stability
from hccstudy.tables import file_digest, read_table, write_table

PARAMETERS = "setting: {binWidth: 25}\nimageType: {Original: {}}\nfeatureClass: {shape: , firstorder: }\n"


def feature_rows(patients, readers, noise, rng):
    """A features table: `size` hardly differs between readers, `texture` as `noise` says."""
    rows = []
    for patient in patients:
        size, texture = rng.normal(size=2)
        for reader in readers:
            keys = {"patient": patient, "center": "A", "series": "ct", "reader": reader, "region": "tumor"}
            rows.append(keys | {"size": size + 0.01 * rng.normal(), "texture": texture + noise * rng.normal()})
    return pd.DataFrame(rows)


def measured(tmp_path, table, development, **changes):
    write_table(table, tmp_path / "features.parquet")
    write_table(pd.DataFrame({"patient": development}), tmp_path / "development.tsv")
    outputs = {"repeats": tmp_path / "repeats.parquet", "icc_table": tmp_path / "icc.tsv"}
    arguments = {"repeated": [], "method": "readers", "primary_reader": ""} | changes
    measure_stability(
        tables=[str(tmp_path / "features.parquet")],
        development=str(tmp_path / "development.tsv"),
        **arguments,
        **{name: str(path) for name, path in outputs.items()},
    )
    return read_table(outputs["repeats"]), read_table(outputs["icc_table"]).set_index("feature")


def test_readers_of_development_patients_give_the_icc(tmp_path):
    rng = np.random.default_rng(0)
    patients = [f"P{number:02d}" for number in range(30)]
    table = feature_rows(patients, ["A", "B"], 1.0, rng)
    repeats, icc = measured(tmp_path, table, patients[:20])
    assert set(repeats["patient"]) == set(patients[:20])
    assert icc.loc["ct.tumor.size", "icc"] > 0.99
    assert icc.loc["ct.tumor.texture", "icc"] == pytest.approx(0.5, abs=0.3)  # equal variances: 1 / (1 + 1)
    assert (icc["n"] == 20).all()
    assert (icc["repeats"] == 2).all()


def test_the_primary_reader_is_the_first_measurement(tmp_path):
    rng = np.random.default_rng(1)
    patients = [f"P{number}" for number in range(6)]
    table = feature_rows(patients, ["A", "B"], 1.0, rng)
    repeats, _ = measured(tmp_path, table, patients, primary_reader="B")
    first = repeats[repeats["repeat"] == "0"].set_index("patient")["ct.tumor.texture"]
    expected = table[table["reader"] == "B"].set_index("patient")["texture"]
    pd.testing.assert_series_equal(first, expected, check_names=False)


def test_patients_with_one_reader_do_not_count_and_too_few_are_refused(tmp_path):
    rng = np.random.default_rng(2)
    patients = [f"P{number}" for number in range(10)]
    table = pd.concat([feature_rows(patients[:4], ["A", "B"], 1, rng), feature_rows(patients[4:], ["A"], 1, rng)])
    with pytest.raises(StudyError, match="4 development patients have every repeat; expected 5 or more"):
        measured(tmp_path, table, patients)


def test_without_stability_the_tables_are_empty(tmp_path):
    repeats, icc = measured(tmp_path, feature_rows(["P1"], ["A"], 1, np.random.default_rng(0)), ["P1"], method="none")
    assert len(repeats) == len(icc) == 0


@pytest.fixture
def preprocessed(tmp_path):
    """A preprocess table of two patients with a ball-shaped tumor, the second read twice."""
    rng = np.random.default_rng(3)
    z, y, x = np.indices((16, 24, 24))
    rows = []
    for patient, reader, radius in (("P1", "A", 6), ("P2", "A", 6), ("P2", "B", 7), ("P3", "A", 6)):
        image = sitk.GetImageFromArray(rng.normal(60, 20, (16, 24, 24)).round().astype(np.int16))
        labels = ((z - 8) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 < radius**2).astype(np.uint8)
        row = {"patient": patient, "center": "A", "series": "ct", "timepoint": "baseline", "modality": "CT"}
        for kind, item in (("image", image), ("mask", sitk.GetImageFromArray(labels))):
            path = tmp_path / f"{patient}{reader}_{kind}.nii.gz"
            sitk.WriteImage(item, str(path))
            row |= {kind: str(path), f"{kind}_sha256": file_digest(path)}
        rows.append(row | {"reader": reader})
    write_table(pd.DataFrame(rows), tmp_path / "preprocess.tsv")
    (tmp_path / "p.yaml").write_text(PARAMETERS)
    return tmp_path


def perturbed(folder: Path, name: str = "out", **changes) -> pd.DataFrame:
    settings = {
        "regions": {"rings": {"ring_0_3": [0, 3]}, "resegment": {"ct": {"range": [0, 120], "sigma": None}}},
        "features": {
            "names": "ibsi",
            "mode": "ibsi",
            "engine": "fast",
            "parameters": {"ct": str(folder / "p.yaml")},
            "ranges": {"ct": None},
        },
        "perturbations": 2,
        "primary_reader": "",
        "seed": 1,
    } | changes
    measure_repeats_batch(
        cases=str(folder / "preprocess.tsv"),
        patients=["P1", "P2"],
        settings=settings,
        folder=str(folder / name),
        table=str(folder / f"{name}.parquet"),
    )
    return read_table(folder / f"{name}.parquet")


def test_chosen_patients_get_perturbed_masks_of_one_reader(preprocessed):
    table = perturbed(preprocessed)
    assert table.groupby(["patient", "region", "repeat"]).size().to_dict() == {
        (patient, region, repeat): 1
        for patient in ("P1", "P2")
        for region in ("tumor", "ring_0_3")
        for repeat in ("1", "2")
    }
    assert set(table["reader"]) == {"A"}
    volumes = table[table["region"] == "tumor"]["original_morph_volume"]
    assert volumes.nunique() == 4  # every perturbation is another
    assert volumes.between(0.6 * 4 / 3 * np.pi * 6**3, 1.6 * 4 / 3 * np.pi * 6**3).all()


def test_perturbations_follow_the_seed(preprocessed):
    first, again, other = (perturbed(preprocessed, name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first["original_morph_volume"] != other["original_morph_volume"]).any()


WITHOUT_RINGS = {"rings": {}, "resegment": {"ct": {"range": None, "sigma": None}}}


def parity(folder: Path) -> dict[str, Any]:
    """Settings of features whose parameter file resamples and re-segments; its label is that of other masks."""
    setting = "setting: {binWidth: 25, label: 7, resampledPixelSpacing: [2, 2, 2], resegmentRange: [20, 100]}\n"
    path = folder / "parity.yaml"
    path.write_text(setting + PARAMETERS.split("\n", 1)[1])
    way = {"names": "pyradiomics", "mode": "parity", "engine": "fast"}
    return way | {"parameters": {"ct": str(path)}, "ranges": {"ct": None}}


def test_in_parity_mode_pyradiomics_prepares_what_is_measured_again(preprocessed):
    table = perturbed(preprocessed, "parity", regions=WITHOUT_RINGS, features=parity(preprocessed))
    assert len(table) == 4  # two patients, tumor only, two perturbations
    row = table[(table["patient"] == "P1") & (table["repeat"] == "1")].iloc[0]
    seed = int.from_bytes(hashlib.sha256(b"1 P1 ct 1").digest()[:8])
    image, mask = (sitk.ReadImage(str(preprocessed / f"P1A_{kind}.nii.gz")) for kind in ("image", "mask"))
    changed = sitk.GetImageFromArray(perturb_labels(sitk.GetArrayFromImage(mask), (1.0, 1.0, 1.0), seed))
    expected = RadiomicsFeatureExtractor(str(preprocessed / "parity.yaml")).execute(image, changed, label=1)
    for name in ("original_shape_MeshVolume", "original_firstorder_Mean", "original_firstorder_Entropy"):
        assert row[name] == pytest.approx(float(expected[name]), rel=1e-9)


def test_a_batch_of_features_in_parity_mode_equals_pyradiomics(preprocessed):
    cases = read_table(preprocessed / "preprocess.tsv")
    cases = cases.assign(region="tumor", intensity_mask=cases["mask"], intensity_mask_sha256=cases["mask_sha256"])
    write_table(cases, preprocessed / "regions.tsv")
    extract_batch(
        cases=str(preprocessed / "regions.tsv"),
        settings=parity(preprocessed),
        folder=str(preprocessed / "work"),
        table=str(preprocessed / "features.parquet"),
        ledger=str(preprocessed / "ledger.tsv"),
    )
    table = read_table(preprocessed / "features.parquet")
    assert list(table["patient"] + table["reader"]) == ["P1A", "P2A", "P2B", "P3A"]
    extractor = RadiomicsFeatureExtractor(str(preprocessed / "parity.yaml"))
    for _, row in table.iterrows():
        files = [str(preprocessed / f"{row['patient']}{row['reader']}_{kind}.nii.gz") for kind in ("image", "mask")]
        expected = extractor.execute(*files, label=1)
        for name in ("original_shape_MeshVolume", "original_firstorder_Mean", "original_firstorder_Entropy"):
            assert row[name] == pytest.approx(float(expected[name]), rel=1e-9)


def test_a_new_patient_replaces_at_most_one_chosen(tmp_path):
    config = load_config(
        {"stability": {"method": "perturbation", "patients": 10, "perturbations": 1, "threshold": 0.8}}
    )
    patients = pd.DataFrame({"patient": [f"P{number}" for number in range(40)], "center": "Aldbrook"})
    before = set(perturbed_patients(patients, config))
    assert len(before) == 10
    for number in range(40, 50):
        more = pd.concat([patients, pd.DataFrame({"patient": [f"P{number}"], "center": ["Aldbrook"]})])
        assert len(before - set(perturbed_patients(more, config))) <= 1
    patients["center"] = "Dunmoor"
    assert perturbed_patients(patients, config) == []
