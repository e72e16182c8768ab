"""Nothing that identifies a patient leaves: planted strings are searched in every byte of what a run leaves behind;
text in pictures is flagged; a crate holds what may be shared."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import small_study
from hccstudy.cli import main
from hccstudy.crate import OF_PATIENTS, SHARED
from hccstudy.errors import CaseError
from hccstudy.imports.acquisition import burned_in
from hccstudy.privacy import Cases, in_private, without_paths
from hccstudy.provenance import environments
from hccstudy.report.content import burned_in as told_burned_in
from hccstudy.tables import read_json, read_table, read_text_table, write_json
from planted import BURNED, PATIENTS, TEXTS, hits, layers, plant, search, spellings

# ---------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = small_study.make_study(tmp_path_factory.mktemp("privacy") / "study")
    plant(folder)
    (folder / "key.tsv").chmod(0o600)
    output = small_study.run(folder)
    (folder.parent / "output.txt").write_text(output)
    return folder


def test_the_search_finds_every_planted_string_where_it_was_planted(study):
    found, _ = search(study / "pacs")
    seen = set().union(*found.values(), *(hits((study / name).read_bytes()) for name in ("key.tsv", "images.tsv")))
    absent = [text for text in TEXTS if not spellings(text) & seen]
    assert absent == []
    assert {b"19370911", b"20190617", b"172839", b"031415"} <= seen


@pytest.mark.parametrize("where", ["results", ".snakemake"])
def test_nothing_planted_is_in_any_byte_of_what_a_run_leaves(study, where):
    found, total = search(study / where)
    assert total > (10**7 if where == "results" else 10**4)
    assert found == {}


def test_nothing_planted_is_said_on_the_terminal(study):
    assert hits((study.parent / "output.txt").read_bytes()) == set()


def test_text_in_pixels_stays_in_the_imported_image(study):
    texts = [text.encode("utf-16-le") for text in (BURNED, BURNED[::-1])]
    holding = {
        path.relative_to(study / "results").parts[:2]
        for path in sorted((study / "results").rglob("*"))
        if path.is_file() and any(text in part for part in layers(path.name, path.read_bytes()) for text in texts)
    }
    assert holding == {("imports", "images")}  # the pixels themselves, and nothing that is shown or shared


def test_every_loss_names_its_row_and_column(study):
    who = read_json(study / "pacs/who.json")
    ledger = read_table(study / "results/ledger/ledger.tsv").fillna("")
    lines = ledger[ledger["stage"] == "imports"].set_index("patient")
    rows = read_text_table(study / "images.tsv")
    for what in ("seg", "capture", "header of NIfTI", "NRRD"):
        assert lines.loc[who[what], "status"] == "included", (what, lines.loc[who[what], "detail"])
    reasons = {
        "ambiguous series": ("ambiguous series", "column image: found 2 series"),
        "truncated slice": ("truncated or unreadable image", "column image, file 4 of"),
        "names of regions": ("label not in mask", "column mask: it holds label 1, 2"),
        "frame of reference": ("other frame of reference", "its FrameOfReferenceUID is not"),
        "missing file": ("missing file", "column image: no such image file"),
        "text for a number": ("", "column image, file"),
        "odd picture": ("not a MONOCHROME2 image", "column image, file"),
        "units": ("", "column image"),
        "odd modality": ("wrong modality", "column image: it is of an unknown modality; expected CT"),
        "broken sidecar": ("unreadable sidecar", "the .json file beside column image: not a JSON file"),
        "detached": ("", "column image"),
    }
    for what, (reason, said) in reasons.items():
        line = lines.loc[who[what]]
        assert line["status"] == "failed" and line["reason"] != "unexpected error", (what, line["detail"])
        assert reason in line["reason"] and said in line["detail"], (what, line["reason"], line["detail"])
        number = rows.index[(rows["patient"] == who[what])][0]
        assert f"images table row {number}: " in line["detail"]


def test_burned_in_annotation_is_in_the_table_and_in_the_report(study):
    who = read_json(study / "pacs/who.json")
    acquired = read_table(study / "results/imports/acquisition.tsv").set_index("patient")["burned_in_annotation"]
    assert acquired.dropna().to_dict() == {who["seg"]: "yes", who["capture"]: "risk: secondary capture"}
    text = (study / "results/report/index.html").read_text()
    assert f"1 of {len(acquired)} series state that text is in the picture: {who['seg']} portal." in text
    assert f"may hold text in the picture (secondary capture): {who['capture']} portal." in text
    assert "Text in pictures." in text


def test_reports_know_study_ids_and_no_paths(study):
    text = (study / "results/report/index.html").read_text()
    assert "HCC-0" in text and str(study) not in text
    assert not re.search(r"pacs|\.nii|\.dcm|\.nrrd|images/", text)


def test_the_key_file_stays_as_and_where_it_was(study):
    assert (study / "key.tsv").read_text() == f"Zqkeyname\t{PATIENTS[0]}\n"
    assert (study / "key.tsv").stat().st_mode & 0o777 == 0o600
    assert [path for path in study.rglob("key.tsv*") if path.parent != study] == []


def test_figures_carry_no_dates_and_no_random_ids(study):
    figures = sorted((study / "results/figures").iterdir())
    assert {path.suffix for path in figures} == {".pdf", ".svg", ".png"}
    for path in figures:
        content = path.read_bytes()
        assert not re.search(rb"CreationDate|ModDate|<dc:date>|tIME|eXIf", content), path.name
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert set(image.info) <= {"dpi"}, path.name


@pytest.mark.slow
def test_one_core_and_two_give_equal_bytes(study, tmp_path):
    copy = tmp_path / "study"
    ignore = shutil.ignore_patterns("results", ".snakemake")
    shutil.copytree(study, copy, ignore=ignore, copy_function=shutil.copy2)
    small_study.run(copy, "--cores", "1")
    first, second = small_study.digests(study), small_study.digests(copy)
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


# ---------------------------------------------------------------- provenance and crate


def test_provenance_names_inputs_images_models_and_environments(study):
    import hashlib

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    told = read_json(study / "results/provenance.json")
    assert told["inputs"] == {name: sha256(study / name) for name in ("patients.tsv", "images.tsv", "plain.yaml")}
    assert told["results"] == {name: sha256(study / name) for name in told["results"]}
    models = {str(path.relative_to(study)) for path in study.glob("results/models/*/*/model.skops")}
    assert {name for name in told["results"] if name.endswith(".skops")} == models and len(models) == 2
    imported = pd.concat([read_table(path) for path in study.glob("results/imports/b*.tsv")])
    assert told["images"]["images"] == told["images"]["masks"] == len(imported)
    assert len(told["environments"]) == 1
    assert told["environments"][0].items() <= told.items()
    assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?|unknown", told["git"])


def test_a_changed_environment_is_named_beside_the_first(study, tmp_path, monkeypatch):
    copy = shutil.copytree(study, tmp_path / "study", copy_function=shutil.copy2)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import importlib.metadata as m\nreal = m.version\n"
        "m.version = lambda name: '0.0.1' if name == 'trimesh' else real(name)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    planned = small_study.jobs(small_study.run(copy))
    assert {name: count for name, count in planned.items() if name not in ("all", "total")} == {
        "record_provenance": 1,
        "write_report": 1,
    }
    first = read_json(study / "results/provenance.json")
    told = read_json(copy / "results/provenance.json")
    assert told["packages"]["trimesh"] == "0.0.1" != first["packages"]["trimesh"]
    assert [known["packages"]["trimesh"] for known in told["environments"]] == [first["packages"]["trimesh"], "0.0.1"]


def test_the_same_environment_is_listed_once(tmp_path):
    file = tmp_path / "environments.json"
    a, b = {"python": "3.11"}, {"python": "3.12"}
    for current, known in ((a, [a]), (a, [a]), (b, [a, b]), (a, [a, b])):
        assert environments(file, current) == known
        write_json(known, file)


@pytest.fixture(scope="module")
def crate(study):
    out = study.parent / "crate"
    assert main(["crate", str(study), "--out", str(out), "--date", "2026-01-02"]) == 0
    return out


def test_a_crate_describes_every_file_by_its_hash(crate):
    metadata = read_json(crate / "ro-crate-metadata.json")
    entities = {entity["@id"]: entity for entity in metadata["@graph"]}
    assert len(entities) == len(metadata["@graph"])
    # the MUSTs of RO-Crate 1.1
    top, root = entities["ro-crate-metadata.json"], entities["./"]
    assert (top["@type"], top["about"]) == ("CreativeWork", {"@id": "./"})
    assert top["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert metadata["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    assert root["@type"] == "Dataset" and root["datePublished"] == "2026-01-02"
    assert all(root[key] for key in ("name", "description", "license"))
    files = {str(path.relative_to(crate)): path for path in crate.rglob("*") if path.is_file()}
    described = {name: entity for name, entity in entities.items() if entity["@type"] == "File"}
    assert set(described) == set(files) - {"ro-crate-metadata.json"} == {part["@id"] for part in root["hasPart"]}
    import hashlib

    for name, entity in described.items():
        content = files[name].read_bytes()
        assert (entity["sha256"], entity["contentSize"]) == (hashlib.sha256(content).hexdigest(), str(len(content)))
    # every reference leads somewhere
    references = re.findall(r'\{"@id": "([^"]+)"\}', json.dumps(list(entities.values())))
    assert {name for name in references if name not in entities} == {"https://w3id.org/ro/crate/1.1"}
    action = entities["#run"]
    assert action["@type"] == "CreateAction" and entities[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert {"results/models/mvi/radiomics/model.skops", "results/report/index.html"} <= {
        item["@id"] for item in action["result"]
    }
    software = {entity["name"] for entity in entities.values() if entity["@type"] == "SoftwareApplication"}
    assert {"hccstudy", "Python", "snakemake", "numpy"} <= software


def test_a_crate_holds_no_patient_table_no_image_and_no_planted_string(crate, study):
    names = [str(path.relative_to(crate)) for path in crate.rglob("*") if path.is_file()]
    assert not [
        name for name in names if re.search(r"oof|predictions|development|key|\.nii|images|patients|ledger\.tsv", name)
    ]
    assert search(crate)[0] == {}
    with_ids = [name for name in names if any(b"HCC-0" in part for part in layers(name, (crate / name).read_bytes()))]
    assert with_ids == ["results/report/index.html"]  # who was lost, and why: by study id


def test_a_crate_with_patient_data_has_it_and_still_not_the_way_back_to_patients(study, tmp_path):
    out = tmp_path / "crate.zip"
    assert main(["crate", str(study), "--out", str(out), "--date", "2026-01-02", "--with-patient-data"]) == 0
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "unpacked")
    assert {"results/cohort/development.tsv", "results/predictions/mvi/radiomics.tsv", "inputs/patients.tsv"} <= set(
        names
    )
    assert not [name for name in names if "images.tsv" in name or "key" in name or ".nii" in name]
    assert search(tmp_path / "unpacked")[0] == {}


def test_the_same_study_and_date_give_the_same_crate(study, tmp_path):
    for name in ("a.zip", "b.zip"):
        assert main(["crate", str(study), "--out", str(tmp_path / name), "--date", "2026-01-02"]) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_every_result_is_either_shared_or_of_patients_or_work(study):
    """A new table must be put on one side or the other; results/README says nothing about it by accident."""
    results = study / "results"
    patterns, last = (*SHARED, *OF_PATIENTS), ("provenance.json", "environments.json", "report/index.html")
    known = read_json(study / "results/provenance.json")["results"]
    named = {study / name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
    work = ("logs", "benchmarks", "imports", "preprocess", "regions", "features", "stability", "ledger")
    rest = [
        str(path.relative_to(results))
        for path in results.rglob("*")
        if path.is_file()
        and path not in named
        and path.name != ".lock"
        and str(path.relative_to(results)) not in last
        and path.relative_to(results).parts[0] not in work
    ]
    assert rest == []
    assert all(fnmatch.filter(known, pattern) for pattern in patterns), "a pattern that nothing matches"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: _touch(s / "results/models/mvi/radiomics/model.skops"), "model.skops: has changed since the run"),
        (lambda s: _touch(s / "plain.yaml"), "plain.yaml: has changed since the run"),
        (lambda s: _touch(s / "patients.tsv"), "patients.tsv: has changed since the run"),
        (lambda s: small_study.configure(s, validation={"bootstrap": 60}), "config.yaml: has changed since the run"),
        (lambda s: (s / "results/report/index.html").unlink(), "expected a study whose run has ended"),
        (lambda s: _edit(s / "results/models/mvi/clinical/card.json"), "card.json: has changed since the run"),
        (
            lambda s: (s / "results/validation/mvi/clinical/metrics.tsv").unlink(),
            "validation/mvi/clinical/metrics.tsv: no such file; expected that of the run",
        ),
    ],
)
def test_a_study_that_was_changed_after_its_run_is_not_packed(study, tmp_path, capsys, spoil, said):
    copy = shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("pacs", ".snakemake", "imports"))
    spoil(copy)
    assert main(["crate", str(copy), "--out", str(tmp_path / "crate")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "crate").exists()


def test_what_is_not_packed_may_be_gone_and_what_is_of_no_run_is_not_packed(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("pacs", ".snakemake", "imports"))
    (copy / "results/predictions/mvi/clinical.tsv").unlink()
    old = copy / "results/validation/old/comparisons.tsv"
    old.parent.mkdir()
    old.touch()
    out = tmp_path / "crate"
    assert main(["crate", str(copy), "--out", str(out)]) == 0
    assert (out / "results/validation/mvi/comparisons.tsv").is_file() and not (out / "results/validation/old").exists()


def _touch(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _edit(path: Path) -> None:
    text = path.read_text()
    assert '"n": ' in text
    path.write_text(text.replace('"n": ', '"n": 1'))


def test_a_crate_overwrites_nothing_and_wants_a_date_and_an_address(study, crate, tmp_path, capsys):
    assert main(["crate", str(study), "--out", str(crate)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["crate", str(study), "--out", str(tmp_path / "x"), "--date", "2.1.2026"]) == 1
    assert "--date is '2.1.2026'; expected YYYY-MM-DD" in capsys.readouterr().err
    assert main(["crate", str(study), "--out", str(tmp_path / "x"), "--license", "CC BY"]) == 1
    assert "--license is 'CC BY'; expected the address of a license" in capsys.readouterr().err
    assert main(["crate", str(study), "--out", str(tmp_path / "x"), "--license", "https://"]) == 1


# ---------------------------------------------------------------- the rules, one by one


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, ""),
        ({}, ""),
        ({"BurnedInAnnotation": "YES", "Modality": "US"}, "yes"),
        ({"BurnedInAnnotation": "yes "}, "yes"),
        ({"BurnedInAnnotation": "NO", "Modality": "CT"}, ""),
        ({"BurnedInAnnotation": "NO", "Modality": "US"}, "risk: modality US"),
        ({"Modality": "XA"}, "risk: modality XA"),
        ({"Modality": "OT"}, "risk: modality OT"),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "risk: secondary capture"),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.3"}, "risk: secondary capture"),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, ""),
        ({"Modality": "CT", "ConversionType": "WSD"}, "risk: secondary capture"),
        ({"Modality": "CT", "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "risk: screen save"),
        ({"Modality": "CT", "ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}, "risk: secondary image"),
        ({"Modality": "CT", "ImageType": "DERIVED\\PRIMARY"}, ""),
    ],
)
def test_the_risk_of_text_in_pictures(header, found):
    assert burned_in([header]) == found
    assert burned_in([{"Modality": "CT"}, header]) == found  # one slice is enough


def test_the_report_names_at_most_twenty():
    frame = pd.DataFrame(
        {"patient": [f"P{n:02d}" for n in range(30)], "series": "portal", "burned_in_annotation": "yes"}
    )
    (sentence,) = told_burned_in(frame)
    assert sentence.startswith("30 of 30 series state") and sentence.endswith("P19 portal and 10 more.")
    assert told_burned_in(frame.assign(burned_in_annotation=None)) == []


def test_files_are_told_by_column_and_place(tmp_path):
    folder = tmp_path / "DOE^JANE"
    (folder / "a").mkdir(parents=True)
    for name in ("a/IM1", "IM1", "MRN-0001.dcm"):
        (folder / name).write_text("x")
    row = {"image": str(folder), "mask": f"{tmp_path}/Jane.nii.gz"}
    said = f"{folder}/a/IM1: empty; [Errno 5] '{folder}/MRN-0001.dcm'; MRN-0001.dcm and {tmp_path}/Jane.json, {folder.name}"
    assert without_paths(said, row, ("image", "mask")) == (
        "column image, file 3 of 3: empty; [Errno 5] column image, file 2 of 3; column image, file 2 of 3 and "
        "the .json file beside column mask, column image"
    )


def test_unexpected_errors_leave_no_values(tmp_path, caplog):
    row = {"image": str(tmp_path / "DOE.nii.gz")}

    def explode() -> None:
        raise ValueError(f"could not convert 'Jane Doe' in {row['image']}")

    with pytest.raises(CaseError) as caught, in_private(row, ["image"]):
        explode()
    assert str(caught.value) == "unexpected error: ValueError: could not convert '...' in column image"
    assert "in explode" in caplog.text and "Jane" not in caplog.text.replace("could not convert 'Jane Doe'", "")
    with (
        pytest.raises(CaseError, match="unreadable file: Input/output error: column image"),
        in_private(row, ["image"]),
    ):
        raise OSError(errno.EIO, "Input/output error", row["image"])
    with pytest.raises(OSError, match="column image") as machine, in_private(row, ["image"]):
        raise OSError(errno.ESTALE, "Stale file handle", row["image"])
    assert machine.value.errno == errno.ESTALE and "DOE" not in str(machine.value)
    with pytest.raises(MemoryError, match="no memory for an image"), in_private(row, ["image"]):
        raise RuntimeError(f"{row['image']}: std::bad_alloc")


def test_snakemake_remembers_cases_by_digest():
    cases = Cases([{"patient": "P1", "images": [{"image": "/pacs/DOE"}]}])
    assert "DOE" not in repr(cases) and repr(cases) == repr(Cases(list(cases)))
    assert repr(cases) != repr(Cases([{"patient": "P1", "images": [{"image": "/pacs/ROE"}]}]))
