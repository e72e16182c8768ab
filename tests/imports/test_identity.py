"""What an import keeps of a header: the acquisition, and nothing that names a patient."""

from __future__ import annotations

import gzip
import json
import logging

import pandas as pd
import pytest

from hccstudy.imports.acquisition import COLUMNS, describe_acquisition
from imports.phantoms import case, everything, images_row, run, scan, settings, write, write_dicom

SECRETS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "MRN4711",
    "OtherPatientIDs": "HKID-A55",
    "PatientBirthDate": "19561224",
    "PatientAddress": "Hidden Lane 5",
    "InstitutionName": "Saint Secret Hospital",
    "InstitutionAddress": "Petersgraben 4",
    "ReferringPhysicianName": "Watson^John",
    "AccessionNumber": "ACC9988",
    "StudyDate": "20210317",
    "AcquisitionDate": "20210317",
    "SeriesDescription": "portal Mustermann 20210317",
    "StudyInstanceUID": "1.2.840.99999.1",
    "SeriesInstanceUID": "1.2.840.99999.2",
    "ContrastBolusAgent": "Ultravist for Erika",
}
LEAKS = [
    *("Mustermann", "Erika", "MRN4711", "HKID", "19561224", "1956-12-24", "Hidden", "Secret", "Petersgraben"),
    *("Watson", "ACC9988", "20210317", "2021-03-17", "840.99999", "portal Mu"),
]
SCANNER = {
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "SOMATOM Force",
    "ConvolutionKernel": ["Br40d", "3"],
    "SliceThickness": "3",
    "KVP": "100",
    "XRayTubeCurrent": 210,
    "ExposureTime": 500,
    "AcquisitionTime": "140352.457000",
    "ContrastBolusStartTime": "140240.457",
}


def test_a_dicom_series_leaves_its_scanner_and_not_its_patient(tmp_path, mask):
    write_dicom(scan(), tmp_path / "s", **(SECRETS | SCANNER))
    result = run(tmp_path, case("P1", images_row(tmp_path / "s", mask), index_date="2021-03-20"))
    found = result.acquisition.loc[0].to_dict()
    imported = result.rows.loc[0, ["image_sha256", "mask_sha256"]].to_dict()
    assert found == dict.fromkeys(COLUMNS, "") | imported | {
        "patient": "P1",
        "center": "A",
        "series": "portal",
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "SOMATOM Force",
        "ConvolutionKernel": "Br40d\\3",
        "PixelSpacing": "0.9\\0.8",
        "SliceThickness": "3",
        "Rows": "20",
        "Columns": "24",
        "KVP": "100",
        "XRayTubeCurrent": "210",
        "ExposureTime": "500",
        "delay_s": "72.0",
        "days_from_index": "-3",
        "spacing_x": "0.8",
        "spacing_y": "0.9",
        "spacing_z": "2.5",
        "size_x": "24",
        "size_y": "20",
        "size_z": "12",
    }
    out = everything(result.folder)
    assert [secret for secret in LEAKS if secret.encode() in out] == []


@pytest.mark.parametrize(
    ("reason", "chosen", "series_uid"),
    [
        ("ambiguous series", {}, ""),
        ("ambiguous series", {"description": "portal"}, ""),
        ("series not found", {}, "1.2.840.99999.7"),
        ("PET not in SUV", {"modality": "PT"}, "1.2.840.99999.2"),
    ],
)
def test_a_refused_series_leaves_its_texts_nowhere(tmp_path, mask, caplog, reason, chosen, series_uid):
    caplog.set_level(logging.INFO)
    for number in (2, 3):
        uid = {"SeriesInstanceUID": f"1.2.840.99999.{number}"}
        write_dicom(
            scan(), tmp_path / f"s/{number}", **(SECRETS | SCANNER | uid | {"modality": "PT", "Units": "ERIKA"})
        )
    row = images_row(tmp_path / "s", mask, series_uid=series_uid)
    result = run(tmp_path, case("P1", row), chosen=settings(portal=chosen))
    assert result.ledger.loc["P1", "reason"] == reason
    out = everything(result.folder) + caplog.text.encode()
    assert [secret for secret in (*LEAKS, "ERIKA") if secret.encode() in out] == []


@pytest.mark.parametrize(
    ("acquired", "bolus", "delay"),
    [
        ({"AcquisitionDateTime": "20200101101500"}, "101345", "75.0"),
        ({"AcquisitionDateTime": "20200101101500.250000+0800"}, "101344.750", "75.5"),
        ({"AcquisitionDateTime": "202001011015-0500"}, "101345", "75.0"),
        ({"AcquisitionDateTime": "20200101"}, "101345", ""),
        ({"AcquisitionDateTime": "2020-01-01T10:15:00.500000"}, "10:13:45", "75.5"),
        ({"AcquisitionTime": "101500.457000"}, "101345.057", "75.4"),
        ({"AcquisitionTime": "1015"}, "101345", "75.0"),
        ({"AcquisitionTime": "1015"}, "1014", "60.0"),
        ({"AcquisitionTime": "10"}, "0959", "60.0"),
        ({"AcquisitionTime": "20201530"}, "101345", ""),  # no TM
        ({"AcquisitionTime": "256000"}, "101345", ""),
        ({"AcquisitionTime": "000030"}, "235930", "60.0"),
        ({"AcquisitionTime": "", "AcquisitionDateTime": "20200101101500"}, "101345", "75.0"),
    ],
)
def test_the_delay_is_read_from_dicom_times_of_any_length(acquired, bolus, delay):
    found = describe_acquisition([acquired | {"ContrastBolusStartTime": bolus}], scan(), "")
    assert found["delay_s"] == delay


@pytest.mark.parametrize(("latest", "kept"), [(None, True), (16, True), (15, False), (0, False)])
def test_an_image_from_after_the_start_of_follow_up_excludes_its_patient(tmp_path, mask, latest, kept):
    write(scan(), tmp_path / "i.nii.gz")
    (tmp_path / "i.json").write_text(json.dumps({"Modality": "CT", "AcquisitionDate": "20210317"}))
    chosen = settings(portal={"latest_day": latest})
    result = run(tmp_path, case("P1", images_row(tmp_path / "i.nii.gz", mask), index_date="2021-03-01"), chosen=chosen)
    line = result.ledger.loc["P1"]
    assert (line.status == "included") == kept
    if not kept:
        assert (line.status, line.reason) == ("excluded", "image after the index date")
        assert f"16 days after the index date; expected at most {latest}" in line.detail


def test_a_sidecar_leaves_its_scanner_and_not_its_patient(tmp_path, mask):
    image = scan()
    sidecar = SECRETS | {
        "Modality": "MR",
        "Manufacturer": "Philips",
        "ManufacturersModelName": "Ingenia of Erika",
        "MagneticFieldStrength": 3,
        "RepetitionTime": 0.0041,
        "EchoTime": 0.0019,
        "FlipAngle": "not a number: Erika",
    }
    write(image, tmp_path / "i.nii.gz")
    (tmp_path / "i.json").write_text(json.dumps(sidecar))
    raw = bytearray(gzip.decompress((tmp_path / "i.nii.gz").read_bytes()))
    raw[148:158] = b"Mustermann"  # descrip
    (tmp_path / "i.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    chosen = settings(portal={"modality": "MR"})
    result = run(tmp_path, case("P1", images_row(tmp_path / "i.nii.gz", mask), index_date="2021-03-01"), chosen=chosen)
    found = result.acquisition.loc[0]
    assert (found.Manufacturer, found.ManufacturerModelName) == ("Philips", "")
    assert (found.MagneticFieldStrength, found.RepetitionTime, found.EchoTime, found.FlipAngle) == (
        "3",
        "4.1",
        "1.9",
        "",
    )
    assert (found.days_from_index, found.spacing_z, found.size_z) == ("16", "2.5", "12")
    out = everything(result.folder)
    assert [secret for secret in LEAKS if secret.encode() in out] == []


def test_acquisition_rows_survive_a_resume(tmp_path, mask):
    write_dicom(scan(), tmp_path / "s", **SCANNER)
    item = case("P1", images_row(tmp_path / "s", mask))
    before, after = run(tmp_path, item).acquisition, run(tmp_path, item).acquisition
    pd.testing.assert_frame_equal(before, after)
    assert after.loc[0, "KVP"] == "100"


def test_an_edited_sidecar_is_noticed(tmp_path, image, mask):
    item = case("P1", images_row(image, mask))
    assert run(tmp_path, item).acquisition.loc[0, "KVP"] == ""
    (tmp_path / "image.json").write_text('{"KVP": 120}')
    assert run(tmp_path, item).acquisition.loc[0, "KVP"] == "120"
