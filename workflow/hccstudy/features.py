"""Radiomics features: pyradiomics behind one function, one row per region out.

`extract` filters an image once for all of its regions. What is shared is what does not depend on the region: where a
parameter file asks pyradiomics to resample or crop (`resampledPixelSpacing`, `preCrop`), pyradiomics itself makes an
image per region, and each region is its own group.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
import yaml
from radiomics import imageoperations
from radiomics.featureextractor import RadiomicsFeatureExtractor

from hccstudy.batches import process_batch
from hccstudy.errors import CaseError, StudyError
from hccstudy.fingerprint import fingerprint
from hccstudy.ibsi import ibsi_values
from hccstudy.ledger import write_ledger
from hccstudy.regions import FILES
from hccstudy.tables import file_digest, read_table, write_table

logging.getLogger("radiomics").setLevel(logging.ERROR)

NAMES = ("ibsi", "pyradiomics")
SECTIONS = {"setting", "imageType", "featureClass"}
KEYS = ["patient", "center", "series", "reader", "region"]


@cache
def load_parameters(path: str) -> RadiomicsFeatureExtractor:
    """An extractor set up by a native pyradiomics parameter file (YAML).

    Raises StudyError where the file is not one that pyradiomics accepts, or sets what the rest of the pipeline decides.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: not readable as a pyradiomics parameter file ({error})") from error
    if not isinstance(content, dict) or not set(content) <= SECTIONS:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise StudyError(f"{path}: found {found}; expected the sections {', '.join(sorted(SECTIONS))}")
    try:
        extractor = RadiomicsFeatureExtractor(content)
    except Exception as error:  # pykwalify and pyradiomics raise many kinds
        raise StudyError(f"{path}: pyradiomics does not accept this parameter file ({error})") from error
    extractor.settings["additionalInfo"] = False
    return extractor


# What the study does itself, by IBSI conventions: done again by pyradiomics it would be done twice.
NOT_IN_A_STUDY = ("resampledPixelSpacing", "normalize", "resegmentRange", "preCrop")


def check_parameters(parameters: str, outer_mm: float, margin_mm: float) -> None:
    """StudyError where a parameter file asks for what the study does itself (series in config.yaml), or where the
    margin kept around the labels cuts into the support of its widest LoG filter (4 sigma)."""
    settings = load_parameters(parameters).settings
    twice = [name for name in NOT_IN_A_STUDY if settings.get(name)]
    if twice:
        raise StudyError(
            f"{parameters}: sets {', '.join(twice)}; expected none of these in a study, which does it itself"
        )
    widest = max(load_parameters(parameters).enabledImagetypes.get("LoG", {}).get("sigma", [0]))
    if outer_mm + 4 * widest > margin_mm:
        found = f"preprocess.margin_mm is {margin_mm:g}"
        reach = f"the widest ring ({outer_mm:g} mm) plus 4 x LoG sigma {widest:g}"
        raise StudyError(f"{parameters}: {found}; expected at least {outer_mm + 4 * widest:g}, {reach}")


def _prepare(
    extractor: RadiomicsFeatureExtractor, image: sitk.Image, mask: sitk.Image, settings: dict[str, Any]
) -> tuple[sitk.Image, sitk.Image]:
    """pyradiomics' own loading: label mask, optional normalization, resampling and cropping; then its checks."""
    image, mask = extractor.loadImage(image, mask, None, **settings)
    _, corrected = imageoperations.checkMask(image, mask, **settings)
    return image, mask if corrected is None else corrected


def _region_features(
    extractor: RadiomicsFeatureExtractor,
    image: sitk.Image,
    mask: sitk.Image,
    intensity_mask: sitk.Image | None,
    filtered: list[tuple[sitk.Image, str, dict[str, Any]]],
    settings: dict[str, Any],
    names: str,
) -> dict[str, float]:
    """All features of one region, in the order and with the re-segmentation of RadiomicsFeatureExtractor.execute."""
    box, _ = imageoperations.checkMask(image, mask, **settings)
    shape_mask = texture_mask = mask
    if settings.get("resegmentRange") is not None:
        texture_mask = imageoperations.resegmentMask(image, mask, **settings)
        # pyradiomics takes the bounding box of the re-segmented mask for the shape features too
        box, _ = imageoperations.checkMask(image, texture_mask, **settings)
        if settings.get("resegmentShape", False):
            shape_mask = texture_mask
    values = dict(extractor.computeShape(image, shape_mask, box, **settings))
    if intensity_mask is not None:
        texture_mask = imageoperations.getMask(intensity_mask, **settings)
        box, _ = imageoperations.checkMask(image, texture_mask, **settings)
    for derived, image_type, arguments in filtered:
        cropped, cropped_mask = imageoperations.cropToTumorMask(derived, texture_mask, box)
        values.update(extractor.computeFeatures(cropped, cropped_mask, image_type, **arguments))
    result = {name: float(value) for name, value in values.items()}
    if names == "pyradiomics":
        return result
    voxels = int(np.count_nonzero(sitk.GetArrayViewFromImage(shape_mask) == settings["label"]))
    return ibsi_values(result, voxels=voxels, force_2d=bool(settings.get("force2D", False)))


def extract(
    image: sitk.Image,
    masks: Mapping[str, sitk.Image],
    parameters: str,
    *,
    labels: Mapping[str, int] | None = None,
    intensity_masks: Mapping[str, sitk.Image] | None = None,
    names: str = "ibsi",
) -> dict[str, dict[str, float] | CaseError]:
    """Features of every region of one image.

    `masks`: region -> mask on the image's grid, `labels`: region -> value of the region in its mask (default 1 or the
    parameter file's), `parameters`: path of a pyradiomics parameter file, `names`: "ibsi" or "pyradiomics".
    `intensity_masks`: region -> IBSI's intensity mask, where it differs from the morphological one in `masks`.
    Returns region -> {feature: value}, or the CaseError that says why pyradiomics refuses a region. Values are those of
    `RadiomicsFeatureExtractor.execute` (held to 1e-9 in the tests), under IBSI names those of `hccstudy.ibsi`.
    """
    if names not in NAMES:
        raise StudyError(f"names is {names!r}; expected one of {', '.join(NAMES)}")
    extractor = load_parameters(parameters)
    per_region = extractor.settings.get("preCrop", False) or extractor.settings.get("resampledPixelSpacing")
    results: dict[str, dict[str, float] | CaseError] = {}
    shared: list[tuple[sitk.Image, str, dict[str, Any]]] = []
    for region, mask in masks.items():
        label = (labels or {}).get(region, extractor.settings.get("label", 1))
        settings = extractor.settings | {"label": label}
        try:
            prepared, region_mask = _prepare(extractor, image, mask, settings)
            if per_region or not shared:
                shared = _filter(extractor, prepared, region_mask, settings)
            # the label may differ between the regions that share a filtered image
            filtered = [(derived, kind, arguments | {"label": label}) for derived, kind, arguments in shared]
            inside = (intensity_masks or {}).get(region)
            results[region] = _region_features(extractor, prepared, region_mask, inside, filtered, settings, names)
        except (ValueError, RuntimeError, IndexError) as error:
            held = np.unique(sitk.GetArrayViewFromImage(mask)).tolist()
            shown = ", ".join(map(str, held[:8])) + (", ..." if len(held) > 8 else "")
            detail = f"region {region}: {error} (the mask holds {shown}; label {label} was expected)"
            results[region] = CaseError("features not computable", detail)
    return results


def _filter(
    extractor: RadiomicsFeatureExtractor, image: sitk.Image, mask: sitk.Image, settings: dict[str, Any]
) -> list[tuple[sitk.Image, str, dict[str, Any]]]:
    """The image and its filtered versions as pyradiomics makes them: (image, image type, settings)."""
    return [
        derived
        for image_type, custom in extractor.enabledImagetypes.items()
        for derived in getattr(imageoperations, f"get{image_type}Image")(image, mask, **settings | custom)
    ]


def extract_batch(*, cases: str, settings: dict[str, Any], folder: str, table: str, ledger: str) -> None:
    """Features of a batch of patients: `cases` is the regions table, `table` gets one wide row per region.

    `settings["parameters"]` maps series to pyradiomics parameter files, `settings["names"]` chooses the names.
    """
    regions = read_table(cases, [*KEYS, *FILES]).fillna({"reader": ""})
    parameters = settings["parameters"]

    def work(case: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
        rows = []
        for members in _by_image(case["regions"]):
            image = sitk.ReadImage(members[0]["image"])
            names = [f"{row['reader']} {row['region']}" for row in members]
            masks, inside = (
                {name: sitk.ReadImage(row[kind]) for name, row in zip(names, members, strict=True)}
                for kind in ("mask", "intensity_mask")
            )
            found = extract(
                image, masks, parameters[members[0]["series"]], intensity_masks=inside, names=settings["names"]
            )
            for row, values in zip(members, found.values(), strict=True):
                if isinstance(values, CaseError):
                    raise CaseError(values.reason, f"{row['series']}: {values.detail}")
                finite = {name: value if np.isfinite(value) else None for name, value in values.items()}
                rows.append({key: row[key] for key in KEYS} | finite)
        return rows

    grouped = []
    for (patient, center), members in regions.groupby(["patient", "center"], sort=True):
        rows = members[[*KEYS, *FILES]].to_dict("records")
        grouped.append({"patient": patient, "center": center, "regions": rows})
    key = {
        "names": settings["names"],
        "parameters": {series: file_digest(path) for series, path in sorted(parameters.items())},
        "code": fingerprint("hccstudy.features"),
    }
    rows, lines = process_batch(grouped, work, stage="features", folder=folder, key=key)
    write_table(_frame(rows), table)
    write_ledger(lines, ledger)


def _by_image(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["series"], row["image_sha256"]), []).append(row)
    return list(groups.values())


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    names = list(dict.fromkeys(name for row in rows for name in row))
    frame = pd.DataFrame(rows, columns=names or KEYS)
    return frame.astype({name: float for name in frame.columns if name not in KEYS})


def collect_features(*, tables: list[str], primary_reader: str, table: str) -> None:
    """Join the batches into one row a patient: patient, center, then `<series>.<region>.<feature>`.

    The primary reader's masks give a patient's features; "" is the first reader in alphabetical order.
    """
    frame = pd.concat([read_table(path, KEYS) for path in tables], ignore_index=True)
    if frame.empty:
        raise StudyError("no patient has features; results/ledger says at which stage each one ended")
    first = frame.sort_values("reader", kind="stable").drop_duplicates(["patient", "series", "region"])
    if primary_reader:
        chosen = frame[frame["reader"] == primary_reader]
        keys = ["patient", "series", "region"]
        first = pd.concat([chosen, first]).drop_duplicates(keys)
    write_table(widen(first, ["patient", "center"]), table)


def widen(frame: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """One row per `index` with columns `<series>.<region>.<feature>`; all-missing columns go.

    The order is fixed, and of correlated features models keep the first: series by name, the tumor before its rings,
    features as extracted (the original image before filtered ones).
    """
    parts = []
    groups = frame.groupby(["series", "region"])
    for (series, region), members in sorted(groups, key=lambda item: (item[0][0], item[0][1] != "tumor", item[0][1])):
        values = members.set_index(index).drop(columns=[key for key in KEYS if key in members and key not in index])
        values = values.dropna(axis="columns", how="all")
        parts.append(values.rename(columns=lambda name, s=series, r=region: f"{s}.{r}.{name}"))
    return pd.concat(parts, axis="columns").sort_index().reset_index()
