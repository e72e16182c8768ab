"""The features stage: one row per region of a batch, then one row per patient."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hccstudy.batches import process_batch, read_own
from hccstudy.engine.extract import Clock, extract, left_to_pyradiomics
from hccstudy.errors import CaseError, StudyError
from hccstudy.fingerprint import fingerprint
from hccstudy.ledger import write_ledger
from hccstudy.regions import FILES
from hccstudy.tables import file_digest, read_table, write_table

log = logging.getLogger(__name__)

KEYS = ["patient", "center", "series", "reader", "region"]


def measure(
    image: sitk.Image,
    masks: dict[str, sitk.Image],
    intensity_masks: dict[str, sitk.Image],
    series: str,
    settings: dict[str, Any],
    clock: Clock | None = None,
) -> dict[str, dict[str, float] | CaseError]:
    """`extract` with the settings of the stage (see `extract_batch`); masks of regions hold 1, whatever the file's label."""
    return extract(
        image,
        masks,
        settings["parameters"][series],
        labels=dict.fromkeys(masks, 1),
        intensity_masks=intensity_masks if settings["mode"] == "ibsi" else None,
        names=settings["names"],
        engine=settings["engine"],
        intensity_range=settings["ranges"][series],
        clock=clock,
    )


def extract_batch(
    *, cases: str, settings: dict[str, Any], folder: str, table: str, ledger: str, attempt: int = 1
) -> None:
    """Features of a batch of patients: `cases` is the regions table, `table` gets one wide row per region.

    `settings`: "parameters" (series -> parameter file), "ranges" (series -> re-segmentation range or null), "names",
    "mode" and "engine", as in `extract`; in mode "parity" pyradiomics prepares image and mask, from the acquired grid.
    """
    regions = read_table(cases, [*KEYS, *FILES]).fillna({"reader": ""})
    parameters = settings["parameters"]
    clock: Clock = defaultdict(float)

    def work(case: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
        rows = []
        for members in _by_image(case["regions"]):
            image = read_own(members[0]["image"])
            names = [f"{row['reader']} {row['region']}" for row in members]
            masks, inside = (
                {name: read_own(row[kind]) for name, row in zip(names, members, strict=True)}
                for kind in ("mask", "intensity_mask")
            )
            found = measure(image, masks, inside, members[0]["series"], settings, clock)
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
        "settings": {name: settings[name] for name in ("names", "mode", "engine", "ranges")},
        "parameters": {series: file_digest(path) for series, path in sorted(parameters.items())},
        "code": fingerprint("hccstudy.features"),
    }
    rows, lines = process_batch(grouped, work, stage="features", folder=folder, key=key, attempt=attempt)
    log.info("%.1f s of extraction %s", clock["all"], left_to_pyradiomics(clock))
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
