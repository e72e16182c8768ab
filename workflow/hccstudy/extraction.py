"""Features of any table of images and masks, outside a study: `hccstudy features`."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from hccstudy.engine.extract import Clock, extract, left_to_pyradiomics
from hccstudy.errors import CaseError, StudyError
from hccstudy.parameters import load_parameters, widest_filter_mm
from hccstudy.standardize import check_standardization, standardize
from hccstudy.tables import atomic, read_text_table

REQUIRED = ["patient", "region", "image", "mask"]
MODES = ("parity", "ibsi")
MARGIN_MM = 10.0  # kept around the regions: more than local intensity peaks and wavelets look at
Row = dict[str, str]
Values = dict[str, float]


@dataclass(frozen=True)
class Way:
    """How features are extracted: parameter file, mode, engine and names."""

    settings: str
    mode: str
    engine: str
    names: str


def extract_table(
    table: str,
    *,
    settings: str,
    out: str,
    jobs: int = 1,
    mode: str = "parity",
    engine: str = "fast",
    names: str = "ibsi",
) -> tuple[list[str], str]:
    """Write one row of features per row of `table`, in the same order; rows of one image share its filtering.

    `table` (CSV, TSV): patient, region, image, mask, optional label (value of the region in the mask); paths are
    relative to the folder of the command. `mode` "parity" prepares images as pyradiomics does, "ibsi" as a study does
    (hccstudy.standardize). A row that cannot be computed keeps its place with empty features and says why in the
    column `error`. Returns those messages, and a line on the time spent in pyradiomics' own filters ("" for none).
    """
    ending = Path(out).suffix
    if ending not in {".csv", ".tsv", ".parquet"}:
        raise StudyError(f"{out}: the ending is {ending!r}; expected .csv, .tsv or .parquet")
    if jobs < 1:
        raise StudyError(f"--jobs is {jobs}; expected 1 or more")
    _check_mode(settings, mode)
    frame = read_text_table(table)
    absent = [column for column in REQUIRED if column not in frame.columns]
    if absent:
        found = ", ".join(frame.columns)
        raise StudyError(f"{table}: no column {', '.join(absent)}; found {found}; expected {', '.join(REQUIRED)}")
    if frame.empty:
        raise StudyError(f"{table}: no row; expected one row a region")
    rows = frame.to_dict("records")
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row["image"], []).append(place)
    way = Way(settings, mode, engine, names)
    results: list[Values | CaseError | None] = [None] * len(rows)
    clock: Clock = defaultdict(float)
    with tqdm(total=len(rows), unit="region", file=sys.stderr) as progress:
        for places, measured, spent in _run(rows, list(groups.values()), way, jobs):
            for place, values in zip(places, measured, strict=True):
                results[place] = values
            for what, seconds in spent.items():
                clock[what] += seconds
            progress.update(len(places))
    _write(frame, results, out)
    errors = [
        f"{table} row {row} ({frame.loc[row, 'patient']}, {frame.loc[row, 'region']}): {values}"
        for row, values in zip(frame.index, results, strict=True)
        if isinstance(values, CaseError)
    ]
    return errors, left_to_pyradiomics(clock)


def _check_mode(settings: str, mode: str) -> None:
    found = load_parameters(settings).settings
    if mode not in MODES:
        raise StudyError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    if mode == "parity":
        ours = [key for key in ("roundIntensities", "resegmentSigma") if found.get(key)]
        if ours:
            raise StudyError(f"{settings}: section ibsi has {', '.join(ours)}; expected --mode ibsi with it")
        return
    other = [key for key in ("normalize", "preCrop") if found.get(key)]
    if other:
        raise StudyError(f"{settings}: sets {', '.join(other)}; expected neither in mode ibsi")
    try:
        check_standardization(found)
    except StudyError as error:
        raise StudyError(f"{settings}: {error}") from error


Done = tuple[list[Values | CaseError], Clock]


def _run(
    rows: Sequence[Row], groups: Sequence[list[int]], way: Way, jobs: int
) -> Iterator[tuple[list[int], list[Values | CaseError], Clock]]:
    if jobs == 1:
        for places in groups:
            yield places, *_extract_image([rows[place] for place in places], way)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_extract_image, [rows[place] for place in places], way): places for places in groups}
        for done in as_completed(running):
            yield running[done], *done.result()


def _extract_image(rows: list[Row], way: Way) -> Done:
    """Features (or what went wrong) of all rows of one image, and the seconds spent."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    clock: Clock = defaultdict(float)
    try:
        image = sitk.ReadImage(rows[0]["image"])
    except RuntimeError as error:
        return [CaseError("unreadable image", f"{rows[0]['image']}: {_last_line(error)}") for _ in rows], clock
    files: dict[str, sitk.Image] = {}
    masks, labels, failed = {}, {}, {}
    for place, row in enumerate(rows):
        try:
            labels[str(place)] = int(row.get("label") or load_parameters(way.settings).settings.get("label", 1))
            if row["mask"] not in files:
                files[row["mask"]] = sitk.ReadImage(row["mask"])
            masks[str(place)] = files[row["mask"]]
        except RuntimeError as error:
            failed[str(place)] = CaseError("unreadable mask", f"{row['mask']}: {_last_line(error)}")
        except ValueError:
            failed[str(place)] = CaseError("label", f"{row['label']!r}; expected a whole number")
    found = _measure(image, masks, labels, way, clock) | failed
    return [found[str(place)] for place in range(len(rows))], clock


def _measure(
    image: sitk.Image, masks: dict[str, sitk.Image], labels: dict[str, int], way: Way, clock: Clock
) -> dict[str, Values | CaseError]:
    if way.mode == "parity":
        return extract(image, masks, way.settings, labels=labels, names=way.names, engine=way.engine, clock=clock)
    settings = load_parameters(way.settings).settings
    margin = max(MARGIN_MM, widest_filter_mm(way.settings))
    regions = {region: _binary(mask, labels[region]) for region, mask in masks.items()}
    try:
        ready = standardize(image, regions, settings, margin_mm=margin)
    except CaseError as error:
        return dict.fromkeys(masks, error)
    measured = extract(
        ready.image,
        ready.masks,
        way.settings,
        labels=dict.fromkeys(ready.masks, 1),
        intensity_masks=ready.intensity_masks,
        names=way.names,
        engine=way.engine,
        clock=clock,
    )
    return measured | ready.lost


def _binary(mask: sitk.Image, label: int) -> sitk.Image:
    found = sitk.GetImageFromArray((sitk.GetArrayViewFromImage(mask) == label).astype(np.uint8))
    found.CopyInformation(mask)
    return found


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _write(frame: pd.DataFrame, results: Sequence[Values | CaseError | None], out: str) -> None:
    values = pd.DataFrame([item if isinstance(item, dict) else {} for item in results], index=frame.index)
    errors = ["" if isinstance(item, dict) else str(item) for item in results]
    table = pd.concat([frame.assign(error=errors), values], axis="columns")
    with atomic(out) as temporary:
        if out.endswith(".parquet"):
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, sep="\t" if out.endswith(".tsv") else ",", index=False, lineterminator="\n")
