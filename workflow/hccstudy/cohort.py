"""The cohort: patients and images tables read, checked across rows, split by the role of their centers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hccstudy import endpoints
from hccstudy import ledger as ledgers
from hccstudy.agreement import MINIMUM_REPEATED
from hccstudy.cohort_tables import read_images, read_patients
from hccstudy.config import Config, minimum_training, outcome_columns
from hccstudy.errors import Problems, StudyError
from hccstudy.feature_table import FeatureTable, read_features, read_repeats
from hccstudy.tables import digest, files_below, read_text_table, write_table

IMAGE_COLUMNS = [
    "timepoint",
    "series",
    "reader",
    "image",
    "mask",
    "label",
    "series_uid",
    "liver_mask",
    "lesions_mask",
]
PATHS = ["image", "mask", "liver_mask", "lesions_mask"]


@dataclass
class Cohort:
    """`patients`: one typed row a patient (columns patient, center, index_date, clinical variables, outcomes), index =
    row in the file. `images`: text rows, index = row in the file. `notes`: what a person should know before a run."""

    patients: pd.DataFrame
    images: pd.DataFrame
    notes: list[str]

    def cases(self, patients: list[str]) -> list[dict[str, Any]]:
        """What the imports stage gets for `patients`: their rows, and a stamp of each file so that a changed file is
        noticed (size and time of change; the stage itself goes by content)."""
        return [
            self._known[patient] | {"images": [dict(row) for row in self._rows.get(patient, [])]}
            for patient in patients
        ]

    def files(self, patients: list[str]) -> list[str]:
        """The paths of the images of `patients`, each once."""
        return sorted({row["image"] for patient in patients for row in self._rows.get(patient, []) if row["image"]})

    @functools.cached_property
    def _known(self) -> dict[str, dict[str, str]]:
        columns = self.patients[["patient", "center", "index_date"]].astype(str)
        return {values["patient"]: values for values in columns.to_dict("records")}

    @functools.cached_property
    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row, values in zip(self.images.index, self.images.to_dict("records"), strict=True):
            rows[values["patient"]].append({"row": int(row)} | {key: values[key] for key in IMAGE_COLUMNS})
        return rows


def stamp(path: str) -> str:
    """Size and time of change of a file with its sidecar and data file (.mhd), or of all files below a folder.

    It is "" where nothing is there.
    """
    found = [f"{status.st_size}-{status.st_mtime_ns}" for status in _statuses(path)]
    return found[0] if len(found) == 1 else digest(found)[:16] if found else ""


def voxels_mb(path: str) -> int:
    """About how many MB an image takes with 16 bits a voxel: the size of its file (thrice where it is compressed) or of
    all files below its folder. 0 where nothing is there."""
    compressed = path.lower().endswith((".gz", ".nrrd", ".mha"))
    return sum(status.st_size for status in _statuses(path)) * (3 if compressed else 1) // 10**6


def _statuses(path: str) -> list[os.stat_result]:
    """Of a file and what belongs to it, or of all files below a folder, by name. Ten thousand patients have millions of
    DICOM files, so each is asked once, and nothing is opened."""
    with contextlib.suppress(PermissionError):  # the import will say so
        if Path(path).is_dir():
            return [status for _, status in sorted(_below(path), key=lambda item: item[0])]
    stem = path.removesuffix(".gz").rsplit(".", 1)[0]
    endings = [".json", ".raw", ".zraw"] if path.endswith(".mhd") else [".json"]
    found = []
    for file in [path, *(stem + ending for ending in endings)]:
        with contextlib.suppress(OSError, ValueError):
            found.append(Path(file).stat())
    return found


def _below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path)
            else:
                with contextlib.suppress(OSError):
                    yield entry.path, entry.stat()


def read_cohort(config: Config) -> Cohort:
    """Read and check both tables in seconds, without opening an image or a feature table.

    Raises StudyError with every problem in them at once.
    """
    problems = Problems()
    notes: list[str] = []
    patients = read_patients(config, problems)
    for key in ("table", "repeats"):
        path = config["features"][key]
        if path and not Path(path).is_file():
            problems.add(path, "no such file", f"the table of features.{key}")
    images = pd.DataFrame(columns=["patient", *IMAGE_COLUMNS])
    if config["cohort"]["images"]:
        images = read_images(config, patients, problems, notes)
    if not len(problems):
        _check_centers(config, patients, problems, notes)
        _check_predictors(config, patients, problems)
        if config["cohort"]["images"]:
            notes += _without_series(config, patients, images)
    problems.raise_if_any()
    return Cohort(patients, images, notes)


def _without_series(config: Config, patients: pd.DataFrame, images: pd.DataFrame) -> list[str]:
    """Notes on the patients whom the images table leaves without an image."""
    file, everyone = config["cohort"]["images"], set(patients["patient"])
    none = everyone - set(images["patient"])
    notes = [f"{len(none)} patients have no row in {file}: {_some(sorted(none))}"] if none else []
    for name, rules in config["series"].items():
        rows = images[(images["series"] == name) & (images["timepoint"] == rules["timepoint"])]
        without = sorted(everyone - none - set(rows["patient"]))
        if without:
            outcome = "they will be excluded" if rules["required"] else "its features will be missing"
            found = f"{len(without)} patients have no row of series {name} ({rules['timepoint']}), {outcome}"
            notes.append(f"{file}: {found}: {_some(without)}")
    return notes


def perturbed_patients(patients: pd.DataFrame, config: Config) -> list[str]:
    """The development patients whose masks are perturbed: at most `stability.patients`, the same for the same seed.

    The order is that of a hash, so that a new patient replaces at most one.
    """
    if config["stability"]["method"] != "perturbation":
        return []
    inside = patients["center"].isin(config["cohort"]["centers"]["development"])
    seed = config["study"]["seed"]
    ranked = sorted(patients.loc[inside, "patient"], key=lambda p: hashlib.sha256(f"{seed} {p}".encode()).hexdigest())
    return sorted(ranked[: config["stability"]["patients"]])


def check_design(cohort: Cohort, config: Config) -> None:
    """StudyError where nested cross-validation cannot work: too few events, or too few patients with repeated masks."""
    resampling = config["resampling"]
    patients, images = cohort.patients, cohort.images
    problems = Problems()
    inside = patients["center"].isin(config["cohort"]["centers"]["development"])
    for endpoint, definition in config["endpoints"].items():
        known = int(patients.loc[inside, definition.get("time", definition.get("column"))].notna().sum())
        if known < minimum_training(resampling["folds"]):
            found = f"endpoint {endpoint}: {known} development patients with an outcome"
            expected = f"at least {minimum_training(resampling['folds'])} (resampling.folds: {resampling['folds']})"
            problems.add(config["cohort"]["patients"], found, expected)
        if definition["type"] == "multiclass":
            continue
        values = patients.loc[inside, definition.get("event", definition.get("column"))].dropna()
        rarest = int(min((values == 1).sum(), (values == 0).sum() if definition["type"] == "binary" else len(values)))
        if rarest < 2 * resampling["folds"]:
            found = f"endpoint {endpoint}: {rarest} development patients have the rarer outcome"
            expected = f"at least {2 * resampling['folds']}, two a fold (resampling.folds: {resampling['folds']})"
            problems.add(config["cohort"]["patients"], found, expected)
    _check_repeats(patients, images, config, problems)
    problems.raise_if_any()


def _check_repeats(patients: pd.DataFrame, images: pd.DataFrame, config: Config, problems: Problems) -> None:
    rules, resampling = config["stability"], config["resampling"]
    if rules["method"] == "none":
        return
    repeated = set(perturbed_patients(patients, config))
    inside = patients.loc[patients["center"].isin(config["cohort"]["centers"]["development"]), "patient"]
    if config["features"]["repeats"]:
        repeated = set(read_text_table(config["features"]["repeats"]).get("patient", [])) & set(inside)
    elif rules["method"] == "readers":
        series = _of_study(images, config).groupby(["patient", "timepoint", "series"])
        readers = series["reader"].nunique().groupby("patient").max()
        repeated = set(readers.index[readers > 1]) & set(inside)
    share = (1 - 1 / resampling["folds"]) * (1 - 1 / resampling["inner_folds"])
    needed = math.ceil((MINIMUM_REPEATED + 2) / share)  # two to spare for patients who are lost on the way
    if len(repeated) < needed:
        if rules["method"] == "perturbation":
            found = f"perturbed masks of {len(repeated)} development patients (stability.patients: {rules['patients']})"
            problems.add(
                "configuration", found, f"at least {needed}, so that every inner fold trains on {MINIMUM_REPEATED}"
            )
            return
        if config["features"]["repeats"]:
            found = f"measurements of {len(repeated)} development patients"
            expected = f"at least {needed}, so that every inner fold trains on {MINIMUM_REPEATED}"
            problems.add(config["features"]["repeats"], found, f"{expected}, or stability: {{method: none}}")
            return
        found = f"{len(repeated)} development patients with masks of two readers (stability.method: readers)"
        expected = f"at least {needed}, so that every inner fold trains on {MINIMUM_REPEATED}"
        problems.add(config["cohort"]["images"], found, f"{expected}, or stability: {{method: perturbation}}")


def _of_study(images: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows of series that the configuration has."""
    known = {(rules["timepoint"], name) for name, rules in config["series"].items()}
    used = [key in known for key in zip(images["timepoint"], images["series"], strict=True)]
    return images[np.array(used, dtype=bool)]


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_centers(config: Config, patients: pd.DataFrame, problems: Problems, notes: list[str]) -> None:
    """Small centers and endpoints without variation: what no model survives is a problem, the rest a note."""
    file, minimum = config["cohort"]["patients"], config["cohort"]["minimum_patients"]
    centers = config["cohort"]["centers"]
    for role in ("development", "external"):
        for center in centers[role]:
            count = int((patients["center"] == center).sum())
            if count == 0:
                problems.add(file, f"no patient of center {center}", f"at least {minimum} (cohort.centers.{role})")
            elif role == "development" and config["harmonize"]["method"] == "combat" and count < 10:
                expected = "at least 10 for ComBat, or harmonize: {method: none}"
                problems.add(file, f"{count} patients of development center {center}", expected)
            elif role == "development" and config["harmonize"]["method"] == "combat" and count < 20:
                notes.append(f"center {center} has {count} patients: ComBat estimates its shift, but no scale below 20")
            elif count < minimum:
                notes.append(f"center {center} has {count} patients, fewer than {minimum} (cohort.minimum_patients)")
    if config["harmonize"]["method"] == "combat" and len(centers["development"]) < 2:
        problems.add("configuration", "one development center", "two or more for ComBat, or harmonize: {method: none}")
    for endpoint, rules in config["endpoints"].items():
        column = endpoints.outcome_columns(rules)[-1]
        for center in centers["development"] + centers["external"]:
            values = patients.loc[patients["center"] == center, column].dropna()
            if len(values) and values.nunique() < 2:
                notes.append(f"endpoint {endpoint}: center {center} has one outcome only ({column} = {values.iloc[0]})")
        values = patients.loc[patients["center"].isin(centers["development"]), column].dropna()
        if values.nunique() < 2:
            found = f"{len(values)} development patients with {values.nunique()} different {column}"
            problems.add(file, found, f"two or more outcomes to learn endpoint {endpoint} from")
        if rules["type"] == "survival":
            longest = patients.loc[patients["center"].isin(centers["development"]), rules["time"]].max()
            for horizon in rules["horizons"]:
                if not horizon < longest:
                    found = f"horizon {horizon} of endpoint {endpoint}"
                    problems.add("configuration", found, f"below the longest development follow-up, {longest}")


def _check_predictors(config: Config, patients: pd.DataFrame, problems: Problems) -> None:
    """A predictor that orders patients just as an outcome does is the outcome under another name."""
    for predictor in config["predictors"]["clinical"]:
        values = _codes(patients[predictor])
        if values.notna().sum() == 0:
            found = "empty in every row"
            problems.add(config["cohort"]["patients"], found, "some values", column=f"predictor {predictor}")
        for endpoint, column in outcome_columns(config):
            both = pd.DataFrame({"predictor": values, "outcome": _codes(patients[column])}).dropna()
            if len(both) >= 20 and _mirrors(both["predictor"].to_numpy(), both["outcome"].to_numpy()):
                found = f"predictor {predictor} tells {column} of endpoint {endpoint} without a mistake in {len(both)} patients"
                expected = "a variable known before the outcome, not the outcome itself"
                problems.add(config["cohort"]["patients"], found, expected)


def _codes(values: pd.Series) -> pd.Series:
    if values.dtype != object:
        return values
    codes = pd.Series(pd.factorize(values, sort=True)[0], index=values.index, dtype=float)
    return codes.where(codes >= 0)


def _mirrors(predictor: np.ndarray, outcome: np.ndarray) -> bool:
    levels = np.unique(outcome)
    if len(levels) < 2:
        return False
    if len(levels) > 10:  # a time
        correlation = abs(np.corrcoef(pd.Series(predictor).rank(), pd.Series(outcome).rank())[0, 1])
        return bool(correlation > 0.99)
    spans = sorted((predictor[outcome == level].min(), predictor[outcome == level].max()) for level in levels)
    return all(low[1] < high[0] for low, high in pairwise(spans))


def check_files(cohort: Cohort, config: Config) -> Problems:
    """The same content under two patients or series: nobody can know which is right."""
    problems = Problems()
    file = config["cohort"]["images"]
    sizes: dict[int, list[tuple[Any, dict[str, str]]]] = defaultdict(list)
    for row, values in zip(cohort.images.index, cohort.images.to_dict("records"), strict=True):
        path = Path(values["image"])
        if not (_is_there(values["image"]) and os.access(path, os.R_OK)):
            continue  # said by `missing_files`, or by the import
        if path.is_file():
            sizes[path.stat().st_size].append((row, values))
        else:
            sizes[sum(item.stat().st_size for item in files_below(path))].append((row, values))
    for alike in sizes.values():
        if len({values["image"] for _, values in alike}) < 2 and len({values["patient"] for _, values in alike}) < 2:
            continue  # several readers or series share one path
        first: dict[str, tuple[Any, dict[str, str]]] = {}
        for row, values in alike:
            earlier_row, earlier = first.setdefault(_content(Path(values["image"])), (row, values))
            same = [values[key] == earlier[key] for key in ("patient", "series", "timepoint")]
            uid = values["series_uid"] == earlier["series_uid"] and values["patient"] == earlier["patient"]
            if not all(same) and (uid or not same[0]):
                who = f"{earlier['patient']} {earlier['series']} ({earlier['timepoint']})"
                found = f"the same image as row {earlier_row} ({who})"
                problems.add(file, found, "an image of its own", row=row, who=values["patient"], column="image")
    return problems


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that no disk can hold, a folder that may not be read
        return False


def missing_files(config: Config, most: int = 10) -> list[str]:
    """Notes on images and masks of the study that are not there, also of a table with other problems."""
    file, notes = config["cohort"]["images"], []
    if not file or config["cohort"]["simulation"] or not Path(file).is_file():
        return []
    try:
        table = read_text_table(file)
    except StudyError:
        return []
    if "series" in table:
        times = [time or "baseline" for time in table.get("timepoint", [""] * len(table))]
        table = _of_study(table.assign(timepoint=times), config)
    images = [path for path in table.get("image", []) if path]
    if images and not any(_is_there(path) for path in images):
        return [f"{file}: none of the {len(images)} images is there; expected paths relative to {Path.cwd()}"]
    for row, values in zip(table.index, table.to_dict("records"), strict=True):
        for column in PATHS:
            if values.get(column) and not _is_there(values[column]):
                text = f"{file} row {row} ({values.get('patient', '')}): {column} {values[column]} is missing"
                notes.append(f"{text}; this patient will fail and the study goes on")
    rest = [f"... and {len(notes) - most} more files are missing"] if len(notes) > most else []
    return notes[:most] + rest


def check_features(cohort: Cohort, config: Config) -> FeatureTable:
    """The feature table, after it and its repeats are checked against the cohort; StudyError with all problems.

    Beside what `feature_table.read_features` refuses: a feature with the name of a column of the patients table, or with
    an outcome as its values, and two patients with the same values.
    """
    file, repeats = config["features"]["table"], config["features"]["repeats"]
    known = {name.casefold(): name for name in read_text_table(config["cohort"]["patients"]).columns}
    problems = Problems()
    found = read_features(file, cohort.patients)
    for name in found.values.columns:
        if name.casefold() in known:
            what = f"a feature {name!r}, which is the column {known[name.casefold()]} of {config['cohort']['patients']}"
            problems.add(file, what, "features only, under names of their own")
    _check_leaks(found.values, cohort.patients, config, problems)
    alike = found.values[(found.values.nunique(axis="columns") >= 5) & found.values.duplicated(keep=False)]
    for _, same in alike.groupby(pd.util.hash_pandas_object(alike, index=False)):
        problems.add(file, f"the same values for {_some(list(same.index))}", "values of its own for every patient")
    problems.raise_if_any()
    if repeats:
        read_repeats(repeats, found.values, cohort.patients)
    return found


def _check_remaining(cohort: Cohort, found: FeatureTable, config: Config) -> list[str]:
    """The checks of the cohort again, on the patients who have features."""
    patients = cohort.patients[cohort.patients["patient"].isin(found.values.index)]
    problems = Problems()
    notes: list[str] = []
    try:
        _check_centers(config, patients, problems, notes)
        problems.raise_if_any()
        check_design(Cohort(patients, cohort.images, []), config)
    except StudyError as error:
        raise StudyError(
            f"{config['features']['table']}: of the {len(patients)} patients with features: {error}"
        ) from None
    return [note for note in notes if note not in cohort.notes]


def _feature_notes(found: FeatureTable, config: Config) -> list[str]:
    file, values = config["features"]["table"], found.values
    notes = [f"{file}: {len(values)} patients with {values.shape[1]} features"]
    absent = sorted(patient for patient, error in found.lost.items() if error.excluded)
    if absent:
        notes.append(f"{len(absent)} patients have no row in {file}: {_some(absent)}")
    for patient, error in found.lost.items():
        if not error.excluded:
            notes.append(f"{error.detail} ({patient}); this patient will fail and the study goes on")
    empty = values.isna()
    if empty.any(axis=None):
        count, patients = int(empty.sum().sum()), int(empty.any(axis="columns").sum())
        notes.append(f"{file}: {count} empty cells in {patients} patients; models fill them with training medians")
    if config["stability"]["method"] == "none":
        notes.append(
            "stability of features is not assessed (that needs features.repeats, and stability.method: readers)"
        )
    return notes


def _check_leaks(features: pd.DataFrame, patients: pd.DataFrame, config: Config, problems: Problems) -> None:
    """No feature is an outcome under another name."""
    values, of = features.to_numpy(), patients.set_index("patient").loc[features.index]
    for endpoint, column in outcome_columns(config):
        outcome = _codes(of[column]).to_numpy(dtype=float)
        for place, name in enumerate(features.columns):
            both = np.isfinite(values[:, place]) & np.isfinite(outcome)
            if _is_outcome(values[both, place], outcome[both], tries=values.shape[1]):
                found = (
                    f"feature {name} tells {column} of endpoint {endpoint} without a mistake in {both.sum()} patients"
                )
                problems.add(config["features"]["table"], found, "a feature, not the outcome itself")


def _is_outcome(feature: np.ndarray, outcome: np.ndarray, tries: int) -> bool:
    """A feature that orders patients just as the outcome does, and not because one of `tries` features may by chance."""
    if len(outcome) < 20 or np.ptp(feature) == 0 or not _mirrors(feature, outcome):
        return False
    levels, counts = np.unique(outcome, return_counts=True)
    if len(levels) > 10 or len(np.unique(feature)) == len(levels):
        return True
    # of all ways to deal the outcome out to the ordered patients, those in which every level is in one piece
    chance = math.lgamma(len(levels) + 1) + sum(map(math.lgamma, counts + 1)) - math.lgamma(len(outcome) + 1)
    return math.log(tries) + chance < math.log(0.001)


def _content(path: Path) -> str:
    files = files_below(path) if path.is_dir() else [path]
    total = hashlib.sha256()
    for item in files:
        with item.open("rb") as handle:
            total.update(hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()


def split_cohort(
    *,
    settings: Config,
    development: str,
    external: str,
    external_outcomes: str,
    outcomes: str,
    ledger: str,
    **tables: Any,
) -> None:
    """Write the cohort by role: development patients with outcomes; external patients without; their outcomes apart,
    for the validation alone. `outcomes` lists who has which endpoint. `settings` is the whole configuration; `tables`
    are the files whose change makes the rule run again."""
    cohort = read_cohort(settings)
    if settings["features"]["table"]:
        check_features(cohort, settings)
    else:
        check_files(cohort, settings).raise_if_any()
    patients = cohort.patients.sort_values("patient")
    columns = list(dict.fromkeys(column for _, column in outcome_columns(settings)))
    clinical = ["patient", "center", *settings["cohort"]["columns"]]
    inside = patients["center"].isin(settings["cohort"]["centers"]["development"])
    write_table(patients.loc[inside, [*clinical, *columns]], development)
    write_table(patients.loc[~inside, clinical], external)
    write_table(patients.loc[~inside, ["patient", "center", *columns]], external_outcomes)
    known = {}
    for endpoint, rules in settings["endpoints"].items():
        column = endpoints.outcome_columns(rules)[0]
        known[endpoint] = patients[column].notna().map({True: "known", False: "missing"})
        if rules["type"] == "survival":
            early = patients[column].isna() & patients[rules["source"]["time"]].notna()
            known[endpoint] = known[endpoint].mask(early, "before the landmark")
    write_table(pd.DataFrame({"patient": patients["patient"], "center": patients["center"]} | known), outcomes)
    lines = [ledgers.entry(row.patient, row.center, "cohort") for row in patients.itertuples()]
    ledgers.write_ledger(lines, ledger)


def check_study(config: Config) -> list[str]:
    """Everything that can be known in seconds; returns notes, raises StudyError with all problems."""
    cohort = read_cohort(config)
    check_design(cohort, config)
    notes: list[str] = []
    if not config["cohort"]["images"]:
        features = check_features(cohort, config)
        notes = _feature_notes(features, config) + _check_remaining(cohort, features, config)
    elif not config["cohort"]["simulation"]:  # the workflow draws those images itself
        notes = missing_files(config)
        check_files(cohort, config).raise_if_any()
        if not any(map(_is_there, _of_study(cohort.images, config)["image"])):
            raise StudyError(notes[0])
    roles = config["cohort"]["centers"]
    counts = {role: int(cohort.patients["center"].isin(roles[role]).sum()) for role in ("development", "external")}
    if counts["external"] == 0:
        notes.append("no external center: nothing in this study will be external validation")
    return cohort.notes + notes
