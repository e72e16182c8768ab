"""Features of any table of images and masks, outside a study: `hccstudy features`."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from hccstudy.engine.extract import Clock, left_to_pyradiomics
from hccstudy.errors import CaseError, Problems, StudyError
from hccstudy.extraction_rows import Done, Row, Values, Way, extract_image
from hccstudy.parameters import check_engine, load_parameters
from hccstudy.standardize import check_standardization
from hccstudy.tables import NO_FORMULA, SIGNS, atomic, is_formula, read_text_table

# a forked process has its libraries and kernels loaded; so nothing may start a thread before
START = "fork" if sys.platform == "linux" else "spawn"
tqdm.monitor_interval = 0
REQUIRED = ["patient", "region", "image", "mask"]
MODES = ("parity", "ibsi")


class Outcome(NamedTuple):
    """What a person is told: a line for each row that cannot be measured, notes, and how many rows Ctrl-C left out."""

    errors: list[str]
    notes: list[str]
    left_out: int


def extract_table(
    table: str,
    *,
    settings: str,
    out: str,
    jobs: int = 1,
    mode: str = "parity",
    engine: str = "fast",
    names: str = "ibsi",
) -> Outcome:
    """Write one row of features per row of `table`, in the same order; rows of one image share its filtering.

    `table` (CSV, TSV, XLSX, Parquet): patient, region, image, mask, optional label (value of the region in the mask, 1 or
    more; default: `setting.label` of the parameter file, else 1); paths are relative to the folder of the command. `mode`
    "parity" prepares images as pyradiomics does, "ibsi" as a study does (hccstudy.standardize). `out` gets the columns of
    `table`, `error` and the features; an existing file is replaced. A row that cannot be measured, or was not before
    Ctrl-C, keeps its place with empty features and says why in `error`.
    """
    if jobs < 1:
        raise StudyError(f"--jobs is {jobs}; expected 1 or more")
    way = Way(settings, mode, engine, names, _check_settings(settings, mode))
    check_engine(settings, engine)
    frame = _read(table)
    _check_output(out, table)
    cells = frame.assign(number=frame.index, label=frame.get("label", ""))[list(Row._fields)]
    rows = [Row(*row) for row in cells.itertuples(index=False, name=None)]
    results: dict[int, Values | CaseError] = {row.number: error for row in rows if (error := _empty_cell(row))}
    images: dict[str, list[Row]] = {}
    for row in rows:
        if row.number not in results:
            images.setdefault(row.image, []).append(row)
    clock: Clock = defaultdict(float)
    ambiguous: list[str] = []
    with tqdm(total=len(rows), initial=len(results), unit="region", file=sys.stderr, disable=None) as progress:

        def take(done: Done) -> None:
            results.update(done.results)
            ambiguous.extend(done.ambiguous)
            for what, seconds in done.clock.items():
                clock[what] += seconds
            progress.update(len(done.results))

        try:
            _run(list(images.values()), way, jobs, take)
        except KeyboardInterrupt:
            if not any(isinstance(values, dict) for values in results.values()):
                raise
    errors = [
        f"{table} row {row.number} ({row.patient}, {row.region}): {results[row.number]}"
        for row in rows
        if isinstance(results.get(row.number), CaseError)
    ]
    left_out = [row.number for row in rows if row.number not in results]
    replaced = _write(frame, results | dict.fromkeys(left_out, CaseError("not measured", "interrupted")), out)
    notes = [*_alike(table, frame), *replaced, *_default_label(ambiguous, way), left_to_pyradiomics(clock)]
    return Outcome(errors, [note for note in notes if note], len(left_out))


# --- what is given ------------------------------------------------------------------------------------------


def _check_settings(settings: str, mode: str) -> int:
    """StudyError where `mode` cannot follow the parameter file; returns the default label."""
    found = load_parameters(settings).settings
    if mode not in MODES:
        raise StudyError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    label = int(found.get("label", 1))
    if mode == "parity":
        ours = [key for key in ("roundIntensities", "resegmentSigma") if found.get(key)]
        if ours:
            raise StudyError(f"{settings}: section ibsi has {', '.join(ours)}; expected --mode ibsi with it")
        return label
    other = [key for key in ("normalize", "preCrop") if found.get(key)]
    if other:
        raise StudyError(f"{settings}: sets {', '.join(other)}; expected neither in mode ibsi")
    try:
        check_standardization(found)
    except StudyError as error:
        raise StudyError(f"{settings}: {error}") from error
    return label


def _read(table: str) -> pd.DataFrame:
    frame = read_text_table(table)
    absent = [column for column in REQUIRED if column not in frame.columns]
    if absent:
        found = ", ".join(frame.columns)
        raise StudyError(f"{table}: no column {', '.join(absent)}; found {found}; expected {', '.join(REQUIRED)}")
    if frame.empty:
        raise StudyError(f"{table}: no row; expected one row a region")
    problems = Problems()  # all cells are written again
    for column, cells in frame.items():
        for row, text in {"1": str(column), **cells}.items():
            if is_formula(text) or (column in ("patient", "region") and text.startswith(SIGNS)):
                problems.add(table, repr(text), f"text {NO_FORMULA}", row=int(str(row)), column=str(column))
    problems.raise_if_any()
    return frame


def _check_output(out: str, table: str) -> None:
    """StudyError, before hours of work, where `out` cannot be written; makes its folder."""
    path = Path(out)
    if path.suffix not in {".csv", ".tsv", ".parquet"}:
        raise StudyError(f"{out}: the ending is {path.suffix!r}; expected .csv, .tsv or .parquet")
    if path.is_dir():
        raise StudyError(f"{out}: is a folder; expected a file to write")
    if path.exists() and path.samefile(table):
        raise StudyError(f"{out}: is the table of images itself; expected another file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise StudyError(f"{out}: its folder cannot be written to ({error.strerror})") from error


def _empty_cell(row: Row) -> CaseError | None:
    empty = [name for name in REQUIRED if not getattr(row, name)]
    return CaseError(f"column {empty[0]} is empty") if empty else None


def _alike(table: str, frame: pd.DataFrame) -> list[str]:
    columns = [name for name in (*REQUIRED, "label") if name in frame]
    twice = frame[frame.duplicated(columns)]
    return [f"{table}: row {twice.index[0]} repeats an earlier row ({len(twice)} such)"] if len(twice) else []


def _default_label(masks: Sequence[str], way: Way) -> list[str]:
    told = f"no label is given for {len(masks)} row(s) whose mask holds several: label {way.label} was measured"
    return [f"{told}, such as in {min(masks)}"] if masks else []


# --- the work -----------------------------------------------------------------------------------------------


def _run(images: Sequence[list[Row]], way: Way, jobs: int, take: Callable[[Done], None]) -> None:
    if min(jobs, len(images)) < 2:
        for rows in images:
            take(extract_image(rows, way))
        return
    for rows in _in_processes(images, way, jobs, take):  # which of them a process died of shows when each is alone
        if _in_processes([rows], way, 1, take):
            died = CaseError("worker process died", f"{rows[0].image}: out of memory? Try fewer --jobs")
            take(Done({row.number: died for row in rows}, defaultdict(float), []))


def _in_processes(images: Sequence[list[Row]], way: Way, jobs: int, take: Callable[[Done], None]) -> list[list[Row]]:
    """Returns the images that are not done because a process died."""
    lost = []
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process alone
    with ProcessPoolExecutor(
        min(jobs, len(images)), mp_context=get_context(START), initializer=signal.signal, initargs=ignore
    ) as pool:
        running = {pool.submit(extract_image, rows, way): rows for rows in images}
        try:
            for future in as_completed(running):
                try:
                    done = future.result()
                except BrokenProcessPool:
                    lost.append(running[future])
                else:
                    take(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise
    return lost


def _write(frame: pd.DataFrame, results: Mapping[int, Values | CaseError], out: str) -> list[str]:
    """Returns a note on columns of the user's table that were replaced."""
    found = [results[number] for number in frame.index]
    values = pd.DataFrame([item if isinstance(item, dict) else {} for item in found], index=frame.index)
    errors = ["" if isinstance(item, dict) else str(item) for item in found]
    replaced = [name for name in frame if name == "error" or name in values]
    table = pd.concat([frame.drop(columns=replaced).assign(error=errors), values], axis="columns")
    try:
        with atomic(out) as temporary:
            if out.endswith(".parquet"):
                table.to_parquet(temporary, index=False)
            else:
                table.to_csv(temporary, sep="\t" if out.endswith(".tsv") else ",", index=False, lineterminator="\n")
    except OSError as error:
        raise StudyError(f"{out}: not written ({error.strerror or error})") from error
    return [f"columns of the table that are replaced: {', '.join(replaced)}"] if replaced else []
