"""The command line: a friendly door to the workflow and to single functions of the library."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from hccstudy import __version__
from hccstudy.errors import StudyError

STUDY_FILE = "config.yaml"
SIMULATED = """# The patients of this folder, studied as the demo is: all else is as in config/config.yaml of hccstudy.
study: {name: simulated, title: A simulated study of hepatocellular carcinoma}
cohort: {patients: patients.tsv, images: images.tsv, simulation: null}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a StudyError is one clear message and exit status 1."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command is not run_study:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = [item for item in rest if item != "--"]
    try:
        return int(options.command(options) or 0)
    except StudyError as error:
        print(f"hccstudy: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hccstudy", description=__doc__)
    parser.add_argument("--version", action="version", version=f"hccstudy {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write a commented study folder")
    init.add_argument("folder", help="new folder")
    init.add_argument("--study", help="start from a ready-made study of config/studies")
    init.set_defaults(command=init_study)

    check = commands.add_parser("check", help="validate a study in seconds and say everything that is wrong")
    run = commands.add_parser("run", help="run a study; further arguments go to Snakemake")
    for command in (check, run):
        command.add_argument("folder", nargs="?", default=".", help="study folder (default: here)")
        command.add_argument("--study", help="a ready-made study of config/studies")
        command.add_argument(
            "--configfile", help="configuration (default: config.yaml of the study folder, else the demo)"
        )
    check.set_defaults(command=check_command)
    run.add_argument("--cores", "-c", help="cores to use (default: the profile's; local: all)")
    run.add_argument(
        "--profile", default="local", help="local, slurm, lsf, sge, pbs, or the folder of a Snakemake profile"
    )
    run.add_argument("--dry-run", "--dryrun", "-n", action="store_true", help="show what would run")
    run.add_argument("--target", "-t", action="append", default=[], help="features, figures, report or a file")
    run.set_defaults(command=run_study)

    look = commands.add_parser(
        "look", help="show the series of a DICOM folder, or the size and labels of a mask; nothing is kept"
    )
    look.add_argument("path", help="DICOM folder, SEG, RTSTRUCT, NIfTI, NRRD or MetaImage")
    look.set_defaults(command=look_command)

    crate = commands.add_parser(
        "crate",
        help="pack a finished study as an RO-Crate to share",
        description="Configuration, tables, figures, report, models and provenance with their SHA-256; no images and, "
        "unless asked for, no table with a row a patient. docs/privacy.md says what to look at before it leaves the house.",
    )
    crate.add_argument("folder", help="study folder, after a run")
    crate.add_argument("--out", required=True, metavar="DIR_OR_ZIP", help="new folder, or a .zip file")
    crate.add_argument("--with-patient-data", action="store_true", help="also tables with a row a patient (study ids)")
    crate.add_argument("--date", metavar="YYYY-MM-DD", help="date of publication (default: today)")
    crate.add_argument("--license", metavar="URL", help="license of the crate (default: none granted)")
    crate.set_defaults(command=crate_command)

    simulate = commands.add_parser(
        "simulate", help="make a simulated cohort with its known truth, as a study ready to run (from 70 patients on)"
    )
    simulate.add_argument("folder", help="where to write it")
    simulate.add_argument("--patients", type=int, default=120)
    simulate.add_argument("--seed", type=int, default=20260101)
    simulate.set_defaults(command=simulate_command)

    features = commands.add_parser(
        "features",
        help="extract features outside a study",
        description="One row of features for each row of TABLE. Images and masks: NIfTI, NRRD, MetaImage (2-D in mode parity "
        "too). A row that cannot be measured says why in the column error and makes the exit status 1.",
    )
    features.add_argument(
        "table",
        help="CSV, TSV, XLSX or Parquet with the columns patient, region, image, mask and optionally label (default: "
        "setting.label of the parameter file, else 1)",
    )
    features.add_argument("--settings", required=True, help="pyradiomics parameter file (YAML; section ibsi: ours)")
    features.add_argument(
        "--out", required=True, help="table to write (.csv, .tsv or .parquet); its folder is made, an old file replaced"
    )
    features.add_argument("--jobs", type=int, default=1, help="processes, each with images of its own (default: 1)")
    features.add_argument(
        "--mode",
        choices=("parity", "ibsi"),
        default="parity",
        help="how image and mask are prepared: as pyradiomics does it (parity, the default), or by IBSI's conventions as a "
        "study does it",
    )
    features.add_argument(
        "--engine",
        choices=("fast", "pyradiomics"),
        default="fast",
        help="what computes: our kernels (fast, the default), or pyradiomics itself (the same values, many times slower)",
    )
    features.add_argument(
        "--names", choices=("ibsi", "pyradiomics"), default="ibsi", help="names of the features (default: ibsi)"
    )
    features.set_defaults(command=features_command)

    harmonize = commands.add_parser(
        "harmonize",
        help="remove differences between centers from a table of features (ComBat)",
        description="ComBat on a table with a row per patient. All columns that are not named here are features. "
        "Never name an outcome, or what was derived from one, as a covariate: it would leak into every feature, and "
        "this command cannot know. For models use a study: there ComBat is fitted inside every resampling fold.",
    )
    harmonize.add_argument("table", metavar="FEATURES", help="table (.tsv, .csv, .xlsx or .parquet)")
    harmonize.add_argument("--patient", required=True, metavar="COL", help="column of the patients")
    harmonize.add_argument("--batch", required=True, metavar="COL", help="column of the centers (or scanners)")
    harmonize.add_argument("--out", required=True, metavar="DIR", help="folder of harmonized.tsv and parameters.json")
    harmonize.add_argument("--reference", metavar="CENTER", help="center that stays as it is (default: a common mean)")
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    harmonize.add_argument("--covariates", metavar="COL", help="columns whose effect is preserved", **several)
    harmonize.add_argument("--mean-only", action="store_true", help="shifts alone, no scales (sva's mean.only)")
    harmonize.add_argument("--non-parametric", action="store_true", help="empirical priors (sva's par.prior=FALSE)")
    harmonize.add_argument(
        "--fit-on",
        metavar="COL=VALUE",
        help="estimate on these rows only, transform all (values of one column: or; columns: and)",
        **several,
    )
    harmonize.add_argument("--apply", metavar="FILE", help="parameters.json of an earlier run, used as it is")
    harmonize.add_argument(
        "--add-batch", metavar="CENTER", help="new centers, brought to the frozen fit from their own rows", **several
    )
    harmonize.set_defaults(command=harmonize_command)

    evaluate = commands.add_parser(
        "evaluate",
        help="evaluate predictions of any origin: discrimination, calibration, net benefit, comparisons",
        description="One row a patient. Writes metrics.tsv, calibration_curve.tsv, net_benefit.tsv, comparisons.tsv and "
        "figures. Predictions must be of patients whom the models have not seen; say --apparent where they are not.",
    )
    evaluate.add_argument("table", help="table (.tsv, .csv, .xlsx or .parquet)")
    evaluate.add_argument("--outcome", required=True, choices=("binary", "multiclass", "survival"))
    evaluate.add_argument("--event", metavar="COL", help="1 or TRUE = event, 0 or FALSE = none or censored")
    evaluate.add_argument("--time", metavar="COL", help="survival: follow-up time")
    evaluate.add_argument("--class", metavar="COL", dest="category", help="multiclass: observed class")
    risk = "predicted probability of the event, one option a model (survival: by the horizon; COL@H where several)"
    evaluate.add_argument("--risk", metavar="COL", help=risk, **several)
    evaluate.add_argument("--risk-prefix", metavar="P", help="multiclass: probabilities in columns P<class>", **several)
    evaluate.add_argument(
        "--lp", metavar="COL", help="linear predictor, which ranking metrics use; alone: a score", **several
    )
    evaluate.add_argument("--horizon", metavar="H", type=float, help="survival: time of the risks", **several)
    curves = "survival: predicted survival, patients x times (column names), for the integrated Brier score"
    evaluate.add_argument("--survival-curves", metavar="FILE", help=curves, **several)
    evaluate.add_argument("--competing", metavar="CODE", type=float, help="value of --event for a competing event")
    evaluate.add_argument("--smoother", choices=("cox", "pseudo"), default="cox", help="calibration curve of survival")
    evaluate.add_argument("--center", metavar="COL", help="also evaluate every center")
    evaluate.add_argument("--patient", metavar="COL", help="rows of one patient are resampled together")
    evaluate.add_argument(
        "--thresholds", metavar="P", type=float, nargs="+", help="risk thresholds (default: 0.01 to 0.99)"
    )
    evaluate.add_argument(
        "--bootstrap", metavar="N", type=int, default=500, help="resamples of patients (default: 500)"
    )
    evaluate.add_argument("--seed", metavar="S", type=int, default=1, help="seed of the resamples (default: 1)")
    evaluate.add_argument("--apparent", action="store_true", help="these patients trained the models: no comparisons")
    evaluate.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    evaluate.set_defaults(command=evaluate_command)
    return parser


def _study_config(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The validated configuration of the chosen study, and its file for Snakemake. Changes into the study folder."""
    from hccstudy.config import load_config, read_yaml, study_file

    folder = Path(options.folder)
    if not folder.is_dir():
        raise StudyError(f"{folder}: no such folder; `hccstudy init {folder}` makes a study")
    file = Path(options.configfile).resolve() if options.configfile else None
    if options.study:
        if file:
            raise StudyError("both --study and --configfile; expected one of them")
        file = study_file(options.study)
    os.chdir(folder)
    if file is None and Path(STUDY_FILE).is_file():
        file = Path(STUDY_FILE).resolve()
    if file is None and not Path("config/config.yaml").is_file():
        raise StudyError(f"{folder}: holds no {STUDY_FILE}; expected a study folder (`hccstudy init`) or --configfile")
    overlay = read_yaml(file) if file else {}
    return load_config(overlay, name=str(file or "config/config.yaml")), [str(file)] if file else []


def _check_new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise StudyError(f"{folder}: is there already and not empty; expected a new folder")


def init_study(options: argparse.Namespace) -> None:
    from hccstudy.cohort_tables import patient_columns
    from hccstudy.config import BASE, REPOSITORY, load_config, read_yaml, schema, study_file

    folder = Path(options.folder)
    _check_new(folder)
    template = REPOSITORY / "resources" / "template"
    source = study_file(options.study) if options.study else template / STUDY_FILE
    folder.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8")
    for name in ("patients", "images"):  # a ready-made study is a design: its tables are the user's own
        text = re.sub(rf"(?m)^(cohort:\n(?:  .*\n)*?  {name}:) .*", rf"\1 {name}.tsv", text)
    (folder / STUDY_FILE).write_text(text, encoding="utf-8")
    if options.study:
        columns = {
            "patients": patient_columns(load_config(read_yaml(source))),
            "images": schema("images")["properties"],
        }
        for name, names in columns.items():
            (folder / f"{name}.tsv").write_text("\t".join(names) + "\n", encoding="utf-8")
    else:
        for name in ("patients", "images"):
            shutil.copyfile(template / f"{name}.tsv", folder / f"{name}.tsv")
    shutil.copytree(REPOSITORY / "config" / "pyradiomics", folder / "config" / "pyradiomics")
    rows = "" if options.study else ": replace the example rows"
    print(
        f"{folder}/{STUDY_FILE}    what the study is: edit it first (every key: {BASE.parent / 'README.md'})\n"
        f"{folder}/patients.tsv   one row a patient{rows}\n"
        f"{folder}/images.tsv     one row a series and reader{rows}\n"
        f"then: hccstudy check {shlex.quote(str(folder))}  and  hccstudy run {shlex.quote(str(folder))}"
    )


def check_command(options: argparse.Namespace) -> None:
    from hccstudy.cohort import check_study, missing_files
    from hccstudy.config import REPOSITORY, read_yaml
    from hccstudy.errors import Problems
    from hccstudy.parameters import check_parameters
    from hccstudy.tables import read_text_table

    started = time.monotonic()
    config, _ = _study_config(options)
    features, found_in_files = config["features"], Problems()
    for rules in config.get("series", {}).values():  # none with features.table
        found_in_files.items += check_parameters(
            rules["parameters"],
            features["mode"],
            features["engine"],
            spacing=rules["spacing"],
            resegment_range=rules["resegment_range"],
            outer_mm=max([outer for _, outer in config["regions"]["rings"].values()], default=0),
            margin_mm=config["preprocess"]["margin_mm"],
        )
    lines = [str(problem) for problem in dict.fromkeys(found_in_files)]
    count = len(lines)
    try:
        notes = check_study(config)
    except StudyError as error:
        count += len(error.problems or [error])
        lines += error.problems.shown() if error.problems else [str(error)]
    if count:
        listed = "\n".join(f"  - {line}" for line in lines)
        further = "".join(f"\nnote: {note}" for note in missing_files(config) if note not in lines)
        raise StudyError(f"{count} problem{'s' if count > 1 else ''}:\n{listed}{further}")
    title = config["study"]["title"]
    if title == read_yaml(REPOSITORY / "resources" / "template" / STUDY_FILE)["study"]["title"]:
        notes.append(f"study.title is {title!r}, as in the template")
    for note in notes:
        print(f"note: {note}")
    found = f"{len(read_text_table(config['cohort']['patients']))} patients"
    if config["cohort"]["images"]:
        found += f", {len(read_text_table(config['cohort']['images']))} rows of images"
    print(f"no problem found: {found} ({time.monotonic() - started:.1f} s)")


def run_study(options: argparse.Namespace) -> None:
    """Replace this process by Snakemake, so that whoever stops one stops the other."""
    from hccstudy.launch import find_profile, launch

    profile = find_profile(options.profile)  # before the next line changes the folder
    _, files = _study_config(options)
    arguments = ["--cores", options.cores] if options.cores else []
    if files:
        arguments += ["--configfile", *files]
    arguments += [*options.rest, *(["--", *options.target] if options.target else [])]
    launch(profile, arguments, dry_run=options.dry_run)


def look_command(options: argparse.Namespace) -> None:
    from hccstudy.imports.look import look

    for line in look(Path(options.path)):
        print(line)


def crate_command(options: argparse.Namespace) -> None:
    from hccstudy.crate import write_crate

    count = write_crate(
        Path(options.folder),
        Path(options.out),
        patient_data=options.with_patient_data,
        published=options.date,
        license_url=options.license,
    )
    print(f"written: {options.out} ({count} files)")


def simulate_command(options: argparse.Namespace) -> None:
    from hccstudy.cohort import check_study
    from hccstudy.config import REPOSITORY, load_config, read_yaml
    from hccstudy.simulate import simulate_study

    folder = Path(options.folder)
    _check_new(folder)
    simulate_study(folder, options.patients, options.seed)
    (folder / STUDY_FILE).write_text(SIMULATED, encoding="utf-8")
    shutil.copytree(REPOSITORY / "config" / "pyradiomics", folder / "config" / "pyradiomics")
    print(f"{folder}: {options.patients} simulated patients; README.md says how, truth.tsv what is true of each")
    with contextlib.chdir(folder):
        try:
            check_study(load_config(read_yaml(Path(STUDY_FILE)), name=STUDY_FILE))
        except StudyError as error:
            print(f"note: too few patients to be studied as {STUDY_FILE} says: {error}")
        else:
            print(f"then: hccstudy run {shlex.quote(str(folder))}")


def features_command(options: argparse.Namespace) -> int:
    from hccstudy.extraction import extract_table

    try:
        told = extract_table(
            options.table,
            settings=options.settings,
            out=options.out,
            jobs=options.jobs,
            mode=options.mode,
            engine=options.engine,
            names=options.names,
        )
    except KeyboardInterrupt:
        print("hccstudy: interrupted; nothing is written", file=sys.stderr)
        return 130
    for line in told.errors:
        print(f"hccstudy: {line}", file=sys.stderr)
    for note in told.notes:
        print(f"note: {note}", file=sys.stderr)
    count = len(told.errors) + told.left_out
    lost = f"; {count} row{'s'[: count != 1]} without features, see column error" if count else ""
    print(f"written: {options.out}{lost}")
    if told.left_out:
        print(f"hccstudy: interrupted; {told.left_out} not measured, the others are written", file=sys.stderr)
        return 130
    return 1 if told.errors else 0


def harmonize_command(options: argparse.Namespace) -> None:
    from hccstudy.harmonize_table import harmonize_table

    notes = harmonize_table(
        options.table,
        out=options.out,
        patient=options.patient,
        batch=options.batch,
        covariates=options.covariates,
        reference=options.reference,
        mean_only=options.mean_only,
        parametric=not options.non_parametric,
        fit_on=options.fit_on,
        apply=options.apply,
        add_batch=options.add_batch,
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"written: {options.out}/harmonized.tsv and parameters.json")


def evaluate_command(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from hccstudy.predictions import Request, evaluate_table

    request = Request(**{field.name: getattr(options, field.name) for field in fields(Request)})
    told = evaluate_table(request)
    print(told.summary)
    for note in told.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"written: {options.out}")
