"""Features of any table of images and masks, outside a study: `hccstudy features`."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from hccstudy.errors import CaseError, StudyError
from hccstudy.engine.extract import extract
from hccstudy.parameters import load_parameters
from hccstudy.tables import atomic, read_text_table

REQUIRED = ["patient", "region", "image", "mask"]
Row = dict[str, str]


def extract_table(table: str, *, settings: str, out: str, jobs: int = 1, names: str = "ibsi") -> list[str]:
    """Write one row of features per row of `table`, in the same order; rows of one image share its filtering.

    `table` (CSV, TSV): patient, region, image, mask, optional label (value of the region in the mask); paths are
    relative to the folder of the command. A row that cannot be computed keeps its place with empty features and says
    why in the
    column `error`; the returned list has those messages.
    """
    ending = Path(out).suffix
    if ending not in {".csv", ".tsv", ".parquet"}:
        raise StudyError(f"{out}: the ending is {ending!r}; expected .csv, .tsv or .parquet")
    if jobs < 1:
        raise StudyError(f"--jobs is {jobs}; expected 1 or more")
    load_parameters(settings)
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
    work = [([rows[place] for place in places], settings, names) for places in groups.values()]
    results: list[dict[str, float] | CaseError | None] = [None] * len(rows)
    with tqdm(total=len(rows), unit="region", file=sys.stderr) as progress:
        for places, found in _run(work, list(groups.values()), jobs):
            for place, values in zip(places, found, strict=True):
                results[place] = values
            progress.update(len(places))
    _write(frame, results, out)
    return [
        f"{table} row {row} ({frame.loc[row, 'patient']}, {frame.loc[row, 'region']}): {values}"
        for row, values in zip(frame.index, results, strict=True)
        if isinstance(values, CaseError)
    ]


def _run(work, places, jobs):  # type: ignore[no-untyped-def]
    if jobs == 1:
        yield from zip(places, (_extract_image(*item) for item in work), strict=True)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_extract_image, *item): where for item, where in zip(work, places, strict=True)}
        for done in as_completed(running):
            yield running[done], done.result()


def _extract_image(rows: list[Row], settings: str, names: str) -> list[dict[str, float] | CaseError]:
    """Features (or what went wrong) of all rows of one image."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        image = sitk.ReadImage(rows[0]["image"])
    except RuntimeError as error:
        return [CaseError("unreadable image", f"{rows[0]['image']}: {_last_line(error)}") for _ in rows]
    masks, labels, failed = {}, {}, {}
    for place, row in enumerate(rows):
        try:
            masks[str(place)] = sitk.ReadImage(row["mask"])
            if row.get("label"):
                labels[str(place)] = int(row["label"])
        except RuntimeError as error:
            failed[str(place)] = CaseError("unreadable mask", f"{row['mask']}: {_last_line(error)}")
            masks.pop(str(place), None)
        except ValueError:
            failed[str(place)] = CaseError("label", f"{row['label']!r}; expected a whole number")
            masks.pop(str(place))
    found = extract(image, masks, settings, labels=labels, names=names) | failed
    return [found[str(place)] for place in range(len(rows))]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _write(frame: pd.DataFrame, results: list[dict[str, float] | CaseError | None], out: str) -> None:
    values = pd.DataFrame([item if isinstance(item, dict) else {} for item in results], index=frame.index)
    errors = ["" if isinstance(item, dict) else str(item) for item in results]
    table = pd.concat([frame.assign(error=errors), values], axis="columns")
    with atomic(out) as temporary:
        if out.endswith(".parquet"):
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, sep="\t" if out.endswith(".tsv") else ",", index=False, lineterminator="\n")
