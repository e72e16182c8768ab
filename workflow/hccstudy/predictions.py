"""`hccstudy evaluate`: predictions of any origin, from a table of the user's own through the evaluation engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hccstudy import __version__
from hccstudy.endpoints import risk_column
from hccstudy.errors import Problems, StudyError
from hccstudy.evaluation import APPARENT, POOLED, TABLES, WITHIN, compare, evaluate
from hccstudy.tables import (
    NO_FORMULA,
    check_folder,
    file_digest,
    is_formula,
    number,
    read_text_table,
    write_json,
    write_table,
)

HELD_OUT = "held-out"
LEFT_OUT = ["endpoint", "evaluation", "harmonization"]  # columns that say nothing of a table of one origin
ALWAYS = ["metrics", "calibration_curve", "net_benefit"]  # written even where they are empty
TRUTH = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
SEPARATORS = "_@.-: "
FIGURES = ["discrimination", "calibration", "decision", "roc", "confusion"]
SUMMARY = ["auc", "harrell_c", "uno_c", "auc_t", "macro_auc", "accuracy", "brier", "oe", "slope"]


@dataclass(frozen=True)
class Request:
    """What `hccstudy evaluate` is asked: the options of the command line under their own names."""

    table: str
    outcome: str
    out: str
    event: str | None = None
    time: str | None = None
    category: str | None = None  # --class
    risk: Sequence[str] = ()
    risk_prefix: Sequence[str] = ()
    lp: Sequence[str] = ()
    horizon: Sequence[float] = ()
    survival_curves: Sequence[str] = ()
    competing: float | None = None
    center: str | None = None
    patient: str | None = None
    thresholds: Sequence[float] | None = None
    smoother: str = "cox"
    bootstrap: int = 500
    seed: int = 1
    apparent: bool = False


USES = {
    "binary": {"event", "risk", "lp"},
    "survival": {"event", "time", "risk", "lp", "horizon", "survival_curves", "competing"},
    "multiclass": {"category", "risk_prefix"},
}
NEEDS = {"binary": ["event"], "survival": ["time", "event"], "multiclass": ["category", "risk_prefix"]}


class Told(NamedTuple):
    """What the command says when it is done: the main estimates as text, and notes."""

    summary: str
    notes: list[str]


def evaluate_table(request: Request) -> Told:
    """Evaluate the predictions of a table (.tsv, .csv, .xlsx; one row a patient) and write metrics.tsv,
    calibration_curve.tsv, net_benefit.tsv, comparisons.tsv, the other tables that the outcome has, and the figures.

    StudyError: an impossible request, or every wrong cell by row and column.
    """
    _check_request(request)
    check_folder(request.out)
    raw = read_text_table(request.table)
    if raw.empty:
        raise StudyError(f"{request.table}: no row; expected one row a patient")
    reader = _Reader(raw, request.table)
    frame, levels = _outcomes(reader, request)
    reader.problems.raise_if_any()
    known = frame.dropna(subset=[name for name in ("event", "time", "level") if name in frame]).index
    if not len(known):
        raise StudyError(f"{request.table}: no row has an outcome; expected values in the outcome's columns")
    reader.rows = known
    frame = frame.loc[known]
    models = _scores(reader, request, levels)
    reader.problems.raise_if_any()
    curves = _curves(request, raw, known, list(models))

    settings = _settings(request, levels)
    frames = {name: frame.join(scores) for name, scores in models.items()}
    results = [evaluate(of, settings | {"model": name, "curves": curves.get(name)}) for name, of in frames.items()]
    tables = {
        name: pd.concat([result[name] for result in results], ignore_index=True).drop(columns=LEFT_OUT)
        for name in TABLES
    }
    folder = Path(request.out)
    _clear(folder)
    for name, table in tables.items():
        if len(table) or name in ALWAYS:
            write_table(table, folder / f"{name}.tsv")
    write_table(compare(frames, settings).drop(columns=LEFT_OUT), folder / "comparisons.tsv")
    _draw(tables, frames, settings, folder)
    said = {"command": asdict(request), "sha256": file_digest(request.table), "hccstudy": __version__}
    write_json(said, folder / "request.json")
    main = tables["metrics"][tables["metrics"]["threshold"].isna()]
    return Told(_summary(main), _notes(request, raw, frame, main))


def _clear(folder: Path) -> None:
    """What an earlier run wrote here must not stand beside the results of this one."""
    for name in [*TABLES, "comparisons"]:
        (folder / f"{name}.tsv").unlink(missing_ok=True)
    for name in FIGURES:
        for ending in ("pdf", "svg", "png"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def _summary(main: pd.DataFrame) -> str:
    """The pooled estimates of every model, a line a metric."""
    lines = []
    for row in main[(main["center"] == "pooled") & main["metric"].isin(SUMMARY)].to_dict("records"):
        when = "" if pd.isna(row["horizon"]) else f" at {row['horizon']:g}"
        value = "refused" if pd.isna(row["estimate"]) else f"{row['estimate']:.3f}"
        if pd.notna(row["lower"]):
            value += f" ({row['lower']:.3f} to {row['upper']:.3f})"
        lines.append(f"{row['model']}\t{row['metric']}{when}\t{value}")
    return "\n".join(lines).expandtabs(24)


def _notes(request: Request, raw: pd.DataFrame, frame: pd.DataFrame, main: pd.DataFrame) -> list[str]:
    notes = []
    if len(raw) > len(frame):
        notes.append(f"{len(raw) - len(frame)} of {len(raw)} rows have no outcome and are left out")
    patients = frame["patient"].nunique()
    if patients < len(frame):
        notes.append(f"{len(frame)} rows of {patients} patients: those of one patient are resampled together")
    events = frame["event"] if "event" in frame else pd.Series(dtype=float)
    if request.competing is not None and not (events == request.competing).any():
        notes.append(f"no row has the competing event {request.competing:g}: nothing competes")
    for horizon in request.horizon:
        early = int(((events == 1) & (frame["time"] <= horizon)).sum())
        if early < 0.05 * (events == 1).sum():
            found = f"{early} of {int((events == 1).sum())} events come by the horizon {horizon:g}"
            notes.append(f"{found}, follow-up ends at {frame['time'].max():g}: is it in the unit of --time?")
    refused = main[main["estimate"].isna()]
    if len(refused):
        names = ", ".join(dict.fromkeys(refused["metric"]))
        notes.append(
            f"{len(refused)} of {len(main)} estimates without a threshold are refused ({names}): see column method"
        )
    return notes


def _check_request(request: Request) -> None:
    """Options that do not belong together, or are missing, or out of range."""
    kind = request.outcome
    given = {name for names in USES.values() for name in names if getattr(request, name)}
    wrong = sorted(given - USES[kind])
    if wrong:
        raise StudyError(f"--{_option(wrong[0])} does not belong to --outcome {kind}; expected only its own options")
    missing = [name for name in NEEDS[kind] if name not in given]
    if kind != "multiclass" and not given & {"risk", "lp"}:
        missing.append("risk")
    if missing:
        raise StudyError(f"--outcome {kind} lacks --{_option(missing[0])}")
    if kind == "survival" and request.risk and not request.horizon:
        raise StudyError("--risk without --horizon; expected the time by which the risk is predicted")
    for names, option in ((request.risk, "risk"), (request.lp, "lp"), (request.risk_prefix, "risk-prefix")):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        if twice:
            raise StudyError(f"--{option} {twice[0]} appears twice; expected every model once")
    roles = [request.event, request.time, request.category, request.center, request.patient]
    for name in (*request.risk, *request.lp):
        if is_formula(name):
            raise StudyError(f"{name} is the name of a model; expected one {NO_FORMULA}")
        if name in roles:
            raise StudyError(f"{name} is a score and also an outcome, a center or a patient; expected another column")
    if request.risk and request.lp and len(request.lp) != len(request.risk):
        raise StudyError(
            f"{len(request.lp)} --lp for {len(request.risk)} --risk; expected one for each, in their order"
        )
    if request.survival_curves and len(request.survival_curves) != max(len(request.risk), len(request.lp)):
        found = f"{len(request.survival_curves)} --survival-curves for {max(len(request.risk), len(request.lp))} models"
        raise StudyError(f"{found}; expected one for each, in their order")
    for option, values, valid, expected in (
        ("horizon", request.horizon, lambda value: value > 0, "a time above 0"),
        ("thresholds", request.thresholds or (), lambda value: 0 < value < 1, "probabilities between 0 and 1"),
        ("bootstrap", [request.bootstrap], lambda value: value >= 50, "50 or more resamples"),
        ("seed", [request.seed], lambda value: value >= 0, "a seed of 0 or more"),
    ):
        for value in values:
            if not (np.isfinite(value) and valid(value)):
                raise StudyError(f"--{option} {value:g}; expected {expected}")
    if request.competing is not None and (request.competing in (0, 1) or not np.isfinite(request.competing)):
        raise StudyError(f"--competing {request.competing:g}; expected a value other than 0 (censored) and 1 (event)")


def _option(name: str) -> str:
    return "class" if name == "category" else name.replace("_", "-")


@dataclass
class _Reader:
    """Columns of a text table as numbers, each wrong cell a problem."""

    raw: pd.DataFrame
    file: str

    def __post_init__(self) -> None:
        self.problems = Problems()
        self.rows = self.raw.index

    def text(self, column: str) -> pd.Series:
        if column not in self.raw.columns:
            raise StudyError(f"{self.file}: no column {column!r}; it has {', '.join(self.raw.columns)}")
        return self.raw.loc[self.rows, column]

    def numbers(self, column: str, expected: str, low: float = -np.inf, high: float = np.inf) -> pd.Series:
        """Every cell must be a finite number from low to high."""
        texts = self.text(column)
        values = texts.map(number).astype(float)
        bad = ~(np.isfinite(values) & values.between(low, high))
        if high == 1 and values.max() <= 100 and (values > 1).mean() > 0.2:
            expected += " (percent? divide by 100)"
        self.report(texts, bad, expected)
        return values

    def report(self, texts: pd.Series, bad: pd.Series, expected: str) -> None:
        for row in texts.index[bad.to_numpy(dtype=bool)]:
            found = repr(texts[row]) if texts[row] else "empty"
            self.problems.add(self.file, found, expected, row=int(row), column=str(texts.name))


def _outcomes(reader: _Reader, request: Request) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns patient, center, evaluation, harmonization and the outcome (missing: NaN), and the levels of a class."""
    raw = reader.raw
    patient = pd.Series(raw.index, raw.index).astype(str).str.zfill(len(str(raw.index[-1])))
    center = pd.Series(None, raw.index, dtype=object)
    if request.patient:
        patient = reader.text(request.patient)
        reader.report(patient, patient == "", "the name of the patient")
    if request.center:
        center = reader.text(request.center)
        reserved = center.isin([POOLED, WITHIN])
        reader.report(center, (center == "") | reserved, f"a center (not called {POOLED} or {WITHIN}: results are)")
        reader.report(center, center.map(is_formula), f"a center {NO_FORMULA}")
    frame = pd.DataFrame({"patient": patient, "center": center}).assign(
        evaluation=APPARENT if request.apparent else HELD_OUT, harmonization="none"
    )
    if request.outcome == "multiclass":
        assert request.category
        observed = reader.text(request.category)
        levels = _levels(raw, request, set(observed) - {""})
        reader.report(
            observed, ~observed.isin([*levels, ""]), f"one of {', '.join(levels)}, as in the columns of --risk-prefix"
        )
        return frame.assign(level=observed.where(observed != "", None)), levels
    assert request.event
    texts = reader.text(request.event)
    event = texts.str.lower().map(TRUTH).fillna(texts.map(number)).astype(float)
    codes = [0.0, 1.0] if request.competing is None else [0.0, 1.0, request.competing]
    advice = (
        "" if request.outcome == "binary" or request.competing is not None else " (--competing names a third value)"
    )
    expected = " or ".join(f"{code:g}" for code in codes) + advice
    reader.report(texts, ~event.isin(codes) & (texts != ""), expected)
    frame["event"] = event.where(event.isin(codes))
    if request.outcome == "survival":
        assert request.time
        moments = reader.text(request.time)
        time = moments.map(number).astype(float)
        reader.report(
            moments,
            ~(np.isfinite(time) & (time > 0)) & (moments != ""),
            "a time above 0 (an event on the first day: half a day)",
        )
        half = (moments == "") != (texts == "")
        reader.report(moments, half & (moments == ""), f"a time, because {request.event} is there")
        reader.report(texts, half & (texts == ""), f"an event, because {request.time} is there")
        frame["time"] = time
    return frame, ()


def _levels(raw: pd.DataFrame, request: Request, observed: set[str]) -> tuple[str, ...]:
    """The classes that the columns of the first prefix name, with or without a separator after the prefix."""
    prefix = request.risk_prefix[0]
    begin = [name for name in map(str, raw.columns) if name.startswith(prefix) and name != prefix]
    ends = [name.removeprefix(prefix) for name in begin]
    cut = [end[1:] for end in ends if end[0] in SEPARATORS and len(end) > 1]
    levels = max(ends, cut, key=lambda names: len(observed & set(names)))
    if len(levels) < 3:
        found = f"{len(begin)} columns begin with {prefix!r} ({', '.join(begin[:5]) or 'none'})"
        raise StudyError(f"{request.table}: {found}; expected one for each of three or more classes")
    if not observed & set(levels):
        found = f"{request.category} holds {', '.join(sorted(observed)[:5])}; columns are {', '.join(begin[:5])}"
        raise StudyError(f"{request.table}: {found}; expected the classes behind {prefix!r}")
    return tuple(levels)


def _scores(reader: _Reader, request: Request, levels: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """The scores of each model under the engine's names of columns."""
    probability = "a probability from 0 to 1"
    models: dict[str, pd.DataFrame] = {}
    for prefix in request.risk_prefix:
        columns = {}
        for level in levels:
            spelled = [f"{prefix}{separator}{level}" for separator in ("", *SEPARATORS)]
            found = [name for name in spelled if name in reader.raw]
            if not found:
                raise StudyError(f"{request.table}: no column {prefix}{level}; expected one for every class")
            columns[f"p@{level}"] = reader.numbers(found[0], probability, 0, 1)
        scores = pd.DataFrame(columns)
        sums = scores.sum(axis=1).round(6)
        off = scores.notna().all(axis=1) & ((sums - 1).abs() > 0.02)
        reader.report(sums.astype(str).rename(f"the sum of {prefix}..."), off, "1")
        models[prefix.rstrip(SEPARATORS) or prefix] = scores
    names = request.risk or request.lp
    for place, name in enumerate(names):
        columns = {}
        if request.lp:
            advice = "a finite number"
            columns["lp"] = reader.numbers(request.lp[place], advice)
        if request.risk and request.outcome == "binary":
            advice = "" if request.lp else " (a score that is no probability goes by --lp alone)"
            columns["risk"] = reader.numbers(name, probability + advice, 0, 1)
        for horizon in request.horizon if request.risk else ():
            column = _horizon_column(reader.raw, name, horizon, request)
            columns[risk_column(horizon)] = reader.numbers(column, probability, 0, 1)
        _check_rising(reader, name, [columns[risk_column(h)] for h in sorted(set(request.horizon)) if request.risk])
        models[name] = pd.DataFrame(columns)
    return models


def _check_rising(reader: _Reader, name: str, risks: list[pd.Series]) -> None:
    """A risk cannot fall from one horizon to a later one."""
    for earlier, later in pairwise(risks):
        fallen = earlier.astype(str) + " and later " + later.astype(str)
        reader.report(fallen.rename(f"the risk {name}"), later < earlier - 1e-9, "a risk that does not fall with time")


def _horizon_column(raw: pd.DataFrame, name: str, horizon: float, request: Request) -> str:
    """`name@horizon`, or `name` itself where there is one horizon."""
    for column in map(str, raw.columns):
        head, _, tail = column.rpartition("@")
        if head == name and pd.to_numeric(tail, errors="coerce") == horizon:
            return column
    _, _, told = name.rpartition("@")
    said = pd.to_numeric(told, errors="coerce") if "@" in name else np.nan
    if len(request.horizon) == 1 and not np.isfinite(said):
        return name
    if np.isfinite(said):
        raise StudyError(
            f"--risk {name} is of time {said:g}; expected {name.rpartition('@')[0]} and --horizon {said:g}"
        )
    wanted = " and ".join(f"{name}@{value:g}" for value in sorted(set(request.horizon)))
    raise StudyError(f"{request.table}: no column {name}@{horizon:g}; with several horizons name the columns {wanted}")


def _curves(request: Request, raw: pd.DataFrame, rows: pd.Index, models: list[str]) -> dict[str, pd.DataFrame]:
    """Predicted survival at the times that the columns name, for the `rows` of the table `raw` that are evaluated.

    A column that is no time holds ids, and is matched with --patient or the table's column of that name; without one
    the rows are those of the table, in its order.
    """
    curves = {}
    for name, path in zip(models, request.survival_curves, strict=False):
        table = read_text_table(path)
        others = [column for column in table if not np.isfinite(pd.to_numeric(column, errors="coerce"))]
        key = request.patient or (others[0] if others and others[0] in raw else None)
        if len(others) == 1 and key:
            ids, wanted = table.pop(others[0]), raw.loc[rows, key]
            absent = sorted(set(wanted) - set(ids))
            if absent or ids.duplicated().any():
                found = f"no row of {absent[0]}" if absent else f"{ids[ids.duplicated()].iloc[0]} appears twice"
                raise StudyError(f"{path}: {found}; expected one row for every patient of {request.table}")
            table = table.set_axis(ids.to_numpy(), axis=0).loc[wanted]
        elif others or len(table) != len(raw):
            found = f"{len(table)} rows" + (f" and the columns {', '.join(map(str, others[:3]))}" if others else "")
            raise StudyError(f"{path}: {found}; expected the {len(raw)} rows of {request.table}, or one column of ids")
        else:
            table = table.set_axis(raw.index, axis=0).loc[rows]
        curves[name] = _checked_curves(table, path).set_axis(rows, axis=0)
    return curves


def _checked_curves(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """Text cells as survival probabilities that never rise; columns as increasing times."""
    times = table.columns.to_numpy(dtype=float)
    if len(times) < 2 or (np.diff(times) <= 0).any() or times[0] < 0:
        found = ", ".join(map(str, table.columns[:5]))
        raise StudyError(f"{path}: the times are {found}...; expected two or more, increasing from 0")
    values = table.map(number).to_numpy(dtype=float)
    bad = np.argwhere(~((values >= 0) & (values <= 1)))
    rising = np.argwhere(np.diff(values, axis=1) > 1e-9)
    for places, expected in ((bad, "a survival probability from 0 to 1"), (rising, "survival that never rises")):
        if len(places):
            row, column = places[0]
            found = f"{values[row, column]:g} at time {times[column]:g}"
            if places is rising:
                found = f"survival rises after time {times[column]:g}"
            raise StudyError(f"{path} (patient {table.index[row]}): {found}; expected {expected}")
    return pd.DataFrame(values, columns=times)


def _settings(request: Request, levels: tuple[str, ...]) -> dict[str, Any]:
    thresholds = sorted(set(request.thresholds)) if request.thresholds else [k / 100 for k in range(1, 100)]
    common = {
        "endpoint": "",
        "type": request.outcome,
        "bootstrap": request.bootstrap,
        "seed": request.seed,
        "thresholds": thresholds,
        "groups": 5,
        "minimum_events": 2,
        "smoother": request.smoother,
    }
    if request.outcome == "binary":
        return common | {"column": "event"}
    if request.outcome == "multiclass":
        return common | {"column": "level", "levels": list(levels)}
    horizons = sorted(set(request.horizon))
    return common | {"time": "time", "event": "event", "horizons": horizons, "competing": request.competing}


def _draw(
    tables: dict[str, pd.DataFrame], frames: dict[str, pd.DataFrame], settings: dict[str, Any], folder: Path
) -> None:
    from hccstudy.figures.given import draw_given  # matplotlib takes a second to start

    draw_given(tables, frames, settings, folder)
