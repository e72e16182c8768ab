"""Import: images and masks of any common format -> canonical NIfTI, and how each series was acquired.

A case leaves this step with its geometry proven and without identity: voxels, a grid and the allow-listed
attributes of `acquisition.COLUMNS`, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import SimpleITK as sitk

from hccstudy.batches import Case, Rows, process_batch
from hccstudy.errors import CaseError
from hccstudy.fingerprint import fingerprint
from hccstudy.imports import acquisition as acquisitions
from hccstudy.imports.dicom import Series, read_series
from hccstudy.imports.geometry import canonical
from hccstudy.imports.images import (
    ENDINGS,
    check_values,
    compact,
    companions,
    is_image_file,
    read_image_file,
    stem,
)
from hccstudy.imports.masks import label_map
from hccstudy.imports.suv import to_suv
from hccstudy.ledger import write_ledger
from hccstudy.privacy import in_private
from hccstudy.tables import digest, file_digest, write_table

COLUMNS = [
    "patient",
    "center",
    "series",
    "timepoint",
    "modality",
    "reader",
    "image",
    "mask",
    "image_sha256",
    "mask_sha256",
]
FILES = ("image", "mask", "liver_mask", "lesions_mask")


def import_batch(
    *,
    cases: Sequence[Case],
    settings: Mapping[str, Any],
    folder: str,
    table: str,
    acquisition: str,
    ledger: str,
    attempt: int = 1,
) -> None:
    """Import a batch of patients into `folder`; one row per patient, series and reader in `table`.

    `cases` and `settings`: docs/architecture.md. A patient whose files have the same content as before (SHA-256,
    so a touched file is no new work) is not imported again. `acquisition` gets one row per patient and
    series.
    """
    known: dict[Path, str] = {}
    kept = [_study_images(case, settings) for case in cases]
    keyed = [_key_case(case, images, known) for case, images in zip(cases, kept, strict=True)]
    rows, lines = process_batch(
        keyed,
        lambda case, scratch: _import_case(case, scratch, settings),
        stage="imports",
        folder=folder,
        key=[settings, fingerprint("hccstudy.imports")],
        attempt=attempt,
    )
    for line, images in zip(lines, kept, strict=True):
        line["detail"] = _with_row_number(line["detail"], images)
    described: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        series = {name: row[name] for name in ("patient", "center", "series")} | row["acquisition"]
        told = described.setdefault((row["patient"], row["series"]), series)
        for name in ("image_sha256", "mask_sha256"):  # of all readers
            told[name] = " ".join(dict.fromkeys([*told.get(name, "").split(), row[name]]))
    for row in rows:
        for name in ("image", "mask"):
            row[name] = str(Path(folder) / row["patient"] / row[name])
    write_table(pd.DataFrame(rows, columns=COLUMNS), table)
    write_table(pd.DataFrame(list(described.values()), columns=acquisitions.COLUMNS), acquisition)
    write_ledger(lines, ledger)


def _with_row_number(detail: str, images: list[dict[str, str]]) -> str:
    """Details are stored without row numbers: a row added above a patient is no reason to import it again."""
    found = re.match(r"images row #(\d+)", detail)
    return f"images table row {images[int(found[1])]['row']}{detail[found.end() :]}" if found else detail


def _study_images(case: Case, settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """The images rows that belong to a configured series; a row without a timepoint belongs to its series."""
    chosen = settings["series"]
    return [
        image
        for image in case["images"]
        if image["series"] in chosen and image["timepoint"] in ("", chosen[image["series"]]["timepoint"])
    ]


def _key_case(case: Case, images: list[dict[str, str]], known: dict[Path, str]) -> Case:
    """The case as far as its result depends on it: contents of files instead of stamps, no row numbers."""
    contents = []
    for image in images:
        told = {name: value for name, value in image.items() if name not in ("row", "stamp")}
        with in_private(image, FILES):
            found = {f"{name}_content": _content(Path(image[name]), known) for name in FILES if image[name]}
        contents.append(told | found)
    return {**case, "images": contents}


def _content(path: Path, known: dict[Path, str]) -> str:
    """SHA-256 of a file or folder and of what belongs to it; "" where it does not exist."""
    if path not in known:
        try:
            parts = [file_digest(item) for item in [path, *companions(path)]] if _is_there(path) else []
        except OSError as error:
            parts = [str(error.errno)]  # told when it is imported
        known[path] = digest(parts) if parts else ""
    return known[path]


def _is_there(path: Path) -> bool:
    """A file or folder; no pipe or device, which could be read forever."""
    return path.is_file() or path.is_dir()


def _import_case(case: Case, scratch: Path, settings: Mapping[str, Any]) -> Rows:
    rows: Rows = []
    for name, series in settings["series"].items():
        places = [place for place, image in enumerate(case["images"]) if image["series"] == name and image["image"]]
        if not places:
            if series["required"]:
                raise CaseError(
                    f"no {name} image", f"no row of the images table; expected series {name}", excluded=True
                )
            continue
        shared: dict[tuple[str, str], dict[str, Any]] = {}
        for place in places:
            row = case["images"][place]
            try:
                with in_private(row, FILES):
                    rows.append(_import_row(case, row, name, series, settings["labels"], scratch, shared))
            except CaseError as error:
                detail = f"images row #{place}: {error.detail}"
                raise CaseError(error.reason, detail, excluded=error.excluded) from None
    if not rows:
        names = ", ".join(settings["series"])
        raise CaseError("no image", f"no row of the images table; expected one of the series {names}", excluded=True)
    return rows


def _import_row(
    case: Case,
    row: dict[str, str],
    name: str,
    series: Mapping[str, Any],
    labels: Mapping[str, int | None],
    scratch: Path,
    shared: dict[tuple[str, str], dict[str, Any]],
) -> dict[str, Any]:
    """One images row: its image (imported once for all its readers, kept in `shared`) and its mask."""
    for column in FILES:
        if row[column] and not _is_there(Path(row[column])):
            raise CaseError("missing file", f"{row[column]}: no such {column} file; expected it to exist")
    if not row["mask"]:
        raise CaseError(f"no {name} mask", f"{row['image']}: no mask is given; expected one", excluded=True)
    reader = re.sub(r"[^A-Za-z0-9-]+", "-", row["reader"])
    mask_file = f"{name}_{reader}_mask.nii.gz" if reader else f"{name}_mask.nii.gz"
    if (scratch / mask_file).exists():
        raise CaseError("duplicate images row", f"series {name} has two rows of reader {row['reader']!r}; expected one")

    source = (row["image"], row["series_uid"])
    if source not in shared:
        found = _read_image(row, series)
        where = row["image"]
        if series["modality"] and found.modality and found.modality != series["modality"]:
            raise CaseError(
                "wrong modality",
                f"{where}: it is {acquisitions.modality_code(found.modality)}; expected {series['modality']}",
            )
        check_values(found.image, where)
        dicom = _is_dicom(Path(where))  # an image file of a PET is taken to be in SUV: it could not be converted
        measured = to_suv(found.image, found.headers, where) if dicom and series["modality"] == "PT" else found.image
        image = canonical(compact(measured))
        acquired = acquisitions.describe_acquisition(found.headers, image, case["index_date"])
        _check_day(acquired["days_from_index"], series["latest_day"], where)
        file = f"{name}_image.nii.gz" if not shared else mask_file.replace("_mask", "_image")
        shared[source] = {
            "image": image,
            "frame": found.frame,
            "file": file,
            "sha256": _write(image, scratch / file),
            "acquisition": acquired,
        }
    image, frame = shared[source]["image"], shared[source]["frame"]
    mask = sitk.GetImageFromArray(label_map(image, frame, row, labels))
    mask.CopyInformation(image)
    return {
        "patient": case["patient"],
        "center": case["center"],
        "series": name,
        "timepoint": series["timepoint"],
        "modality": series["modality"],
        "reader": row["reader"],
        "image": shared[source]["file"],
        "mask": mask_file,
        "image_sha256": shared[source]["sha256"],
        "mask_sha256": _write(mask, scratch / mask_file),
        "acquisition": shared[source]["acquisition"],
    }


def _check_day(days: str, latest: float | None, where: str) -> None:
    """Immortal time: an image from after the start of follow-up exists only of who lived that long."""
    if days and latest is not None and int(days) > latest:
        detail = f"{where}: acquired {days} days after the index date; expected at most {latest:g} (series.latest_day)"
        raise CaseError("image after the index date", detail, excluded=True)


def _read_image(row: Mapping[str, str], series: Mapping[str, Any]) -> Series:
    path = Path(row["image"])
    if _is_dicom(path):
        return read_series(path, row["series_uid"], series["description"])
    if not is_image_file(path):
        raise CaseError(
            "unknown image format",
            f"{path}: expected a DICOM folder, .dcm or {', '.join(ENDINGS)}",
        )
    header = acquisitions.read_sidecar(stem(path).with_name(stem(path).name + ".json"))
    image = read_image_file(path, "image")
    return Series(image, [header], str(header.get("Modality") or ""), "")


def _is_dicom(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in {".dcm", ".ima"}


def _write(image: sitk.Image, path: Path) -> str:
    sitk.WriteImage(image, str(path), True)
    return file_digest(path)
