"""A finished study as an RO-Crate: what may be shared, with hashes and a description that machines read.

RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) with the profile Process Run Crate 0.5. What is packed is an allow-list, so that
nothing leaves by accident: no image, no log, no key file, and tables with a row a patient only where asked for.
"""

from __future__ import annotations

import fnmatch
import mimetypes
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from hccstudy.config import load_config, read_yaml
from hccstudy.errors import StudyError
from hccstudy.tables import digest, file_digest, files_below, read_json, write_json

Entity = dict[str, Any]

PROVENANCE = "results/provenance.json"
REPORT = "results/report/index.html"
METADATA = "ro-crate-metadata.json"
# results by their path below the study folder; * also takes a /
SHARED = (
    "results/figures/*",
    "results/ledger/flow.tsv",
    "results/harmonize/parameters.json",
    "results/harmonize/features.tsv",
    "results/harmonize/centers.tsv",
    "results/stability/icc.tsv",
    "results/models/*/model.skops",
    "results/models/*/card.json",
    "results/models/*/coefficients.tsv",
    "results/models/*/tuning.tsv",
    "results/internal/*.tsv",
    "results/validation/*.tsv",
)
OF_PATIENTS = (
    "results/cohort/*.tsv",
    "results/ledger/ledger.tsv",
    "results/imports/acquisition.tsv",
    "results/features/features.parquet",
    "results/stability/repeats.parquet",
    "results/harmonize/embedding.tsv",
    "results/models/*/oof.tsv",
    "results/predictions/*.tsv",
)
CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
KINDS = {
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
    ".parquet": "application/vnd.apache.parquet",
    ".skops": "application/zip",
}


def write_crate(
    folder: Path,
    out: Path,
    *,
    patient_data: bool = False,
    published: str | None = None,
    license_url: str | None = None,
) -> int:
    """Pack the finished study of `folder` into `out` (a new folder, or a .zip file) and return the number of files.

    `patient_data` adds the tables with a row a patient. `published` is the date of publication (YYYY-MM-DD, default: today);
    with it, the same study gives the same bytes. Raises StudyError where the study is not finished, or where its inputs,
    its configuration or a result to pack are not those of the run any more.
    """
    try:
        day = date.fromisoformat(published).isoformat() if published else date.today().isoformat()
    except ValueError as error:
        raise StudyError(f"--date is {published!r}; expected YYYY-MM-DD") from error
    if license_url and not re.fullmatch(r"https?://[^\s/]\S*", license_url, re.IGNORECASE):
        example = "https://creativecommons.org/licenses/by/4.0/"
        raise StudyError(f"--license is {license_url!r}; expected the address of a license, such as {example}")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise StudyError(f"{out}: is there already; expected a new folder or .zip file")
    provenance = _checked(folder)
    files = _chosen(folder, provenance, patient_data)
    _check_hashes(folder, {name: sha256 for name, sha256 in provenance["results"].items() if name in files})
    metadata = describe(files, provenance, day, license_url)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".crate-", dir=out.parent) as scratch:
        made = Path(scratch) / "crate"
        for name, source in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, made / name)
        write_json(metadata, made / METADATA, sort_keys=False)
        if out.suffix.lower() == ".zip":
            packed = Path(scratch) / "crate.zip"
            _zip(made, packed)
            os.replace(packed, out)
        else:
            if out.is_dir():
                out.rmdir()
            os.replace(made, out)
    return len(files) + 1


def _checked(folder: Path) -> dict[str, Any]:
    """The provenance of a finished study, after proof that inputs and configuration are those that it tells of."""
    for name in (PROVENANCE, REPORT):
        if not (folder / name).is_file():
            raise StudyError(f"{folder}: no {name}; expected a study whose run has ended (`hccstudy run {folder}`)")
    provenance: dict[str, Any] = read_json(folder / PROVENANCE)
    if "results" not in provenance:
        raise StudyError(f"{folder / PROVENANCE}: knows no results; it is of an earlier hccstudy: run the study again")
    _check_hashes(folder, provenance["inputs"] | provenance["feature_tables"])
    if (folder / "config.yaml").is_file():
        config = load_config(read_yaml(folder / "config.yaml"), name="config.yaml")
        if digest(config) != provenance["config_sha256"]:
            raise StudyError(
                f"{folder / 'config.yaml'}: has changed since the run; expected that of the run, or a new run"
            )
    return provenance


def _check_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    for name, sha256 in hashes.items():
        file = folder / name
        if not file.is_file() or file_digest(file) != sha256:
            found = "has changed since the run" if file.is_file() else "no such file"
            raise StudyError(f"{file}: {found}; expected that of the run (SHA-256 {sha256[:12]}...), or a new run")


def _chosen(folder: Path, provenance: Mapping[str, Any], patient_data: bool) -> dict[str, Path]:
    """Name in the crate -> file."""
    patterns = (*SHARED, *OF_PATIENTS) if patient_data else SHARED
    names = [name for name in provenance["results"] if any(fnmatch.fnmatchcase(name, each) for each in patterns)]
    files = {name: folder / name for name in (PROVENANCE, REPORT, *names)}
    if (folder / "config.yaml").is_file():
        files["config.yaml"] = folder / "config.yaml"
    for path, role in _inputs(provenance).items():
        if role == "parameters" or patient_data:
            files[_packed_as(path)] = folder / path
    return dict(sorted(files.items()))


def _inputs(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Path -> what it is, of the inputs. The images table is none to share: its paths are the way back to the patients."""
    cohort = provenance["config"]["cohort"]
    roles = {cohort["patients"]: "patients table", cohort["images"]: "images table"}
    told = {path: roles.get(path, "parameters") for path in provenance["inputs"] if path != cohort["images"]}
    return told | dict.fromkeys(provenance["feature_tables"], "feature table")


def _packed_as(path: str) -> str:
    """A path below the study folder as it is, another one by its name alone."""
    place = Path(path)
    outside = place.is_absolute() or ".." in place.parts
    return f"inputs/{digest(path)[:8]}-{place.name}" if outside else f"inputs/{place.as_posix()}"


def describe(
    files: Mapping[str, Path], provenance: Mapping[str, Any], day: str, license_url: str | None
) -> dict[str, Any]:
    """The content of ro-crate-metadata.json (flattened JSON-LD); `files`: name in the crate -> file."""
    study = provenance["config"]["study"]
    described = [_file(name, file) for name, file in files.items()]
    software = _software(provenance)
    results = [{"@id": entity["@id"]} for entity in described if entity["@id"].startswith("results/")]
    packed_inputs = [{"@id": entity["@id"]} for entity in described if not entity["@id"].startswith("results/")]
    absent = _absent(files, provenance)
    rights = license_url or "#license"
    permission = {"@id": rights, "@type": "CreativeWork", "name": license_url or "No license is granted"}
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of the study {study['name']} with hccstudy {provenance['hccstudy']}",
        "description": f"Configuration SHA-256 {provenance['config_sha256']}, git revision {provenance['git']}",
        "instrument": {"@id": "#hccstudy"},
        "object": [*packed_inputs, *({"@id": entity["@id"]} for entity in absent)],
        "result": results,
        "endTime": day,
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": study["title"],
        "description": f"{study['title']}: configuration, tables, figures, report and frozen models of an imaging study. "
        "Patients are known by study ids; images are not part of this crate.",
        "datePublished": day,
        "license": {"@id": rights},
        "conformsTo": {"@id": PROFILE},
        "hasPart": [{"@id": entity["@id"]} for entity in described],
        "mentions": {"@id": "#run"},
    }
    top = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    profile = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    return {
        "@context": CONTEXT,
        "@graph": [top, root, profile, permission, run, *software, *absent, *described],
    }


def _file(name: str, file: Path) -> Entity:
    kind = KINDS.get(file.suffix) or mimetypes.types_map.get(file.suffix, "application/octet-stream")
    return {
        "@id": name,
        "@type": "File",
        "name": name.removeprefix("results/"),
        "encodingFormat": kind,
        "contentSize": str(file.stat().st_size),
        "sha256": file_digest(file),
    }


def _software(provenance: Mapping[str, Any]) -> list[Entity]:
    versions = {"Python": provenance["python"]} | provenance["packages"]
    needed = [
        {
            "@id": f"pkg:{'generic' if name == 'Python' else 'pypi'}/{name.lower()}@{version}",  # a package URL (purl)
            "@type": "SoftwareApplication",
            "name": name,
            "version": version,
        }
        for name, version in versions.items()
    ]
    own = {
        "@id": "#hccstudy",
        "@type": "SoftwareApplication",
        "name": "hccstudy",
        "softwareVersion": f"{provenance['hccstudy']} (git {provenance['git']})",
        "softwareRequirements": [{"@id": entity["@id"]} for entity in needed],
    }
    return [own, *needed]


def _absent(files: Mapping[str, Path], provenance: Mapping[str, Any]) -> list[Entity]:
    """What went into the run and is not in the crate, by its hash."""
    hashes = provenance["inputs"] | provenance["feature_tables"]
    roles = {path: role for path, role in _inputs(provenance).items() if _packed_as(path) not in files}
    images = provenance["config"]["cohort"]["images"]
    roles |= {images: "images table"} if images in hashes else {}
    found = [
        {
            "@id": f"#input-{hashes[path][:12]}",
            "@type": "CreativeWork",
            "name": f"{role[0].upper()}{role[1:]} (not in this crate)",
            "sha256": hashes[path],
        }
        for path, role in roles.items()
    ]
    if provenance["images"]:
        count = "{images} images and {masks} masks".format(**provenance["images"])
        told = {"name": f"{count} (not in this crate)", "sha256": provenance["images"]["sha256"]}
        found.append({"@id": "#images", "@type": "CreativeWork", **told})
    return found


def _zip(folder: Path, target: Path) -> None:
    """All files of a folder, in the order of their names and without times."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files_below(folder):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
