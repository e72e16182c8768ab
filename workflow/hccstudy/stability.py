"""Stability: would another contour have given the same feature?

Development patients only. Repeats are the masks of further readers, or masks perturbed at random. What is written are
the repeated measurements; the models compute the ICC from their own training rows, the table here is for the report.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hccstudy.agreement import MINIMUM_REPEATED, icc, repeated_values
from hccstudy.batches import process_batch, read_own
from hccstudy.errors import CaseError, StudyError
from hccstudy.feature_table import read_features, read_repeats
from hccstudy.features import KEYS, measure, widen
from hccstudy.fingerprint import fingerprint
from hccstudy.regions import make_regions, perturb_labels, resegment
from hccstudy.tables import file_digest, read_table, write_table

REPEAT_KEYS = [*KEYS, "repeat"]


def measure_repeats_batch(
    *, cases: str, patients: list[str], settings: dict[str, Any], folder: str, table: str, attempt: int = 1
) -> None:
    """Features of perturbed masks for those of `patients` who are in this batch (`cases`: the preprocess table).

    A perturbation that a region does not survive (a ring lost its last voxel) makes the patient's repeats incomplete,
    and the patient does not count; the log says so.
    """
    frame = read_table(cases, ["patient", "center", "series", "reader", "image", "mask"]).fillna({"reader": ""})
    frame = frame[frame["patient"].isin(patients)].sort_values(["patient", "series", "reader"], kind="stable")
    rank = (frame["reader"] != settings["primary_reader"]).astype(int)
    frame = frame.assign(rank=rank).sort_values(["patient", "series", "rank"], kind="stable")
    frame = frame.drop_duplicates(["patient", "series"]).drop(columns="rank")

    def work(case: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
        return [
            row
            for series in case["rows"]
            for repeat in range(1, settings["perturbations"] + 1)
            for row in _perturbed(series, repeat, settings)
        ]

    columns = ["patient", "center", "series", "reader", "image", "mask", "image_sha256", "mask_sha256"]
    grouped = [
        {"patient": patient, "center": center, "rows": rows[columns].to_dict("records")}
        for (patient, center), rows in frame.groupby(["patient", "center"])
    ]
    parameters = settings["features"]["parameters"]
    digests = {series: file_digest(path) for series, path in sorted(parameters.items())}
    key = {"settings": settings, "parameters": digests, "code": fingerprint("hccstudy.stability")}
    rows, _ = process_batch(grouped, work, stage="stability", folder=folder, key=key, attempt=attempt)
    write_table(pd.DataFrame(rows, columns=list(dict.fromkeys(n for row in rows for n in row)) or REPEAT_KEYS), table)


def _perturbed(row: dict[str, Any], repeat: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The feature rows of one series with its tumor mask perturbed once."""
    image = read_own(row["image"])
    mask = read_own(row["mask"], sitk.sitkUInt8)
    spacing = mask.GetSpacing()[::-1]
    text = f"{settings['seed']} {row['patient']} {row['series']} {repeat}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    labels = perturb_labels(sitk.GetArrayFromImage(mask), spacing, seed)
    limits = settings["regions"]["resegment"][row["series"]]
    masks: dict[str, sitk.Image] = {}
    intensity_masks: dict[str, sitk.Image] = {}
    for region, (voxels, _) in make_regions(labels, spacing, settings["regions"]["rings"]).items():
        inside = resegment(sitk.GetArrayViewFromImage(image), voxels, limits["range"], limits["sigma"])
        for made, array in ((masks, voxels), (intensity_masks, inside)):
            made[region] = sitk.GetImageFromArray(array.astype(np.uint8))
            made[region].CopyInformation(mask)
    found = measure(image, masks, intensity_masks, row["series"], settings["features"])
    rows = []
    for region, values in found.items():
        if isinstance(values, CaseError):
            raise values
        keys = {key: row[key] for key in KEYS if key != "region"} | {"region": region, "repeat": str(repeat)}
        rows.append(keys | {name: value if np.isfinite(value) else None for name, value in values.items()})
    return rows


def measure_stability(
    *,
    tables: list[str],
    development: str,
    repeated: list[str],
    method: str,
    primary_reader: str,
    repeats: str,
    icc_table: str,
) -> None:
    """Write the repeated measurements (patient, repeat, features) and their ICC over all development patients.

    `tables` are the feature tables of all batches, `repeated` those of perturbed masks. Repeat "0" is the mask that the
    study uses. Raises StudyError where fewer than 5 patients have repeats.
    """
    if method == "none":
        _write_nothing(repeats, icc_table)
        return
    patients = set(read_table(development, ["patient"])["patient"])
    frame = pd.concat([read_table(path, KEYS) for path in tables], ignore_index=True).fillna({"reader": ""})
    frame = frame[frame["patient"].isin(patients)]
    rank = (frame["reader"] != primary_reader).astype(str) + frame["reader"]
    order = rank.groupby([frame["patient"], frame["series"], frame["region"]]).rank(method="first").astype(int) - 1
    frame = frame.assign(repeat=order.astype(str))
    if method == "perturbation":
        perturbed = [read_table(path, REPEAT_KEYS) for path in repeated]
        frame = pd.concat([frame[frame["repeat"] == "0"], *perturbed], ignore_index=True)
    else:
        frame = frame[frame["repeat"].isin(["0", "1"])]  # a pair of readers in every patient
    twice = frame.groupby("patient")["repeat"].transform("nunique") > 1
    wide = widen(frame[twice].drop(columns=["center", "reader"]), ["patient", "repeat"])
    _write_agreement(wide, "more readers' masks, or stability: {method: perturbation}", repeats, icc_table)


def measure_table_stability(
    *,
    source: str,
    repeated: list[str],
    cohort: str,
    development: str,
    method: str,
    repeats: str,
    icc_table: str,
) -> None:
    """The same files as `measure_stability` for a study that starts from a feature table.

    `source` is the feature table, `repeated` the table of further measurements (none with the method "none"), `cohort`
    the ledger file that says who is in the study.
    """
    if method == "none":
        _write_nothing(repeats, icc_table)
        return
    patients = read_table(cohort, ["patient", "center"])
    values = read_features(source, patients).values
    values = values[values.index.isin(read_table(development, ["patient"])["patient"])]
    wide = read_repeats(repeated[0], values, patients).dropna(axis="columns", how="all")
    _write_agreement(wide, "more measurements, or stability: {method: none}", repeats, icc_table)


def _write_nothing(repeats: str, icc_table: str) -> None:
    write_table(pd.DataFrame(columns=["patient", "repeat"]), repeats)
    write_table(pd.DataFrame(columns=["feature", "icc", "lower", "upper", "n", "repeats"]), icc_table)


def _write_agreement(wide: pd.DataFrame, advice: str, repeats: str, icc_table: str) -> None:
    """Write the measurements (patient, repeat, features) and their ICC; StudyError where too few patients have them."""
    features = [name for name in wide.columns if name not in ("patient", "repeat")]
    values = repeated_values(wide, wide["patient"].unique(), features)
    if len(values) < MINIMUM_REPEATED:
        found = f"{len(values)} development patients have every repeat"
        raise StudyError(f"stability: {found}; expected {MINIMUM_REPEATED} or more ({advice})")
    agreement = icc(values)
    columns = {"feature": features, "icc": agreement.icc, "lower": agreement.lower, "upper": agreement.upper}
    write_table(wide, repeats)
    write_table(pd.DataFrame(columns | {"n": len(values), "repeats": values.shape[1]}), icc_table)
