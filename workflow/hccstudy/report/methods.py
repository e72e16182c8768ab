"""The methods section, written from the config and the versions: sentences that an author can paste.

Every sentence follows from a key of the config or from what the pipeline always does; words as in TRIPOD+AI
(Collins 2024) and CLEAR (Kocak 2023). Nothing is claimed that the config does not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ESTIMATORS = {
    "linear": {
        "survival": "Cox regression with a ridge penalty",
        "binary": "logistic regression with a ridge penalty",
        "multiclass": "multinomial logistic regression with a ridge penalty",
    },
    "lasso": {
        "survival": "Cox regression with LASSO penalty",
        "binary": "logistic regression with LASSO penalty",
        "multiclass": "multinomial logistic regression with LASSO penalty",
    },
    "elastic_net": {
        "survival": "Cox regression with elastic-net penalty",
        "binary": "logistic regression with elastic-net penalty",
        "multiclass": "multinomial logistic regression with elastic-net penalty",
    },
    "forest": {
        "survival": "random survival forest",
        "binary": "random forest",
        "multiclass": "random forest",
    },
    "boosting": {kind: "gradient boosting" for kind in ("survival", "binary", "multiclass")},
}
PREDICTORS = {
    "clinical": "clinical variables",
    "radiomics": "radiomic features",
    "combined": "the radiomics score and clinical variables",
}


def _listed(items: Iterable[object]) -> str:
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def methods(settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(heading, paragraph) in the order of a methods section."""
    sections = [
        ("Study design and participants", _participants(settings)),
        ("Outcomes", _outcomes(settings["endpoints"])),
        _source(settings, provenance),
        ("Feature stability and harmonization", _robustness(settings)),
        ("Model development", _development(settings)),
        ("Performance evaluation", _evaluation(settings)),
        ("Software and reproducibility", _software(settings, provenance)),
    ]
    return [(heading, text) for heading, text in sections if text]


def _participants(settings: Mapping[str, Any]) -> str:
    centers = settings["cohort"]["centers"]
    development, external = centers["development"], centers["external"]
    text = f"Models were developed on patients of {_plural(len(development), 'center')} ({_listed(development)})"
    if external:
        others = _plural(len(external), "other center")
        text += f" and externally validated on patients of {others} ({_listed(external)})"
    else:
        text += "; there was no external validation"
    return (
        f"{text}. Roles of centers were fixed in the configuration before any model was fitted. Every "
        "patient who left the study did so at a recorded step for a recorded reason (flow diagram)."
    )


def _outcomes(endpoints: Mapping[str, Mapping[str, Any]]) -> str:
    sentences = []
    for name, definition in endpoints.items():
        label = definition.get("label") or name
        if definition["type"] == "survival":
            horizons = _listed(f"{value:g}" for value in definition["horizons"])
            told = f"time to event, predicted at {horizons} {definition['unit']}"
            if definition.get("landmark"):
                told += f" after a landmark of {definition['landmark']:g} {definition['unit']} from the index date"
                told += ", to which only patients still under observation without the event contribute"
            if definition.get("competing"):
                told += ", with competing events"
            sentences.append(f"{label} ({told})")
        elif definition["type"] == "binary":
            sentences.append(f"{label} (binary)")
        else:
            sentences.append(
                f"{label} ({len(definition['levels'])} classes: {', '.join(map(str, definition['levels']))})"
            )
    return (
        f"Outcomes were {_listed(sentences)}. Patients with an unknown outcome were left out of the analysis "
        "of that outcome only. Outcomes of external centers were no input to any step of model development; "
        "they were used for evaluation alone, after models and cut-offs were frozen."
    )


def _from_table(settings: Mapping[str, Any]) -> bool:
    return bool(settings["features"].get("table"))


def _source(settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> tuple[str, str]:
    """Where the features come from: (heading, paragraph)."""
    if not _from_table(settings):
        return "Images, regions of interest and features", _imaging(settings)
    table = settings["features"]["table"]
    return "Features", (
        "Features were extracted outside this study, which began with a table of them "
        f"({Path(table).name}, SHA-256 beginning {provenance['feature_tables'][table][:12]}). [How images were acquired, "
        "processed and segmented, and how features were computed, is for the author to describe.] A patient without a "
        "row, or with a value that is no number, was left out; missing values were imputed."
    )


def _imaging(settings: Mapping[str, Any]) -> str:
    sentences = []
    parity = settings["features"]["mode"] == "parity"
    for name, definition in settings["series"].items():
        text = f"{name.replace('_', ' ')} {definition['modality']}"
        if definition.get("spacing") and not parity:
            text += f" resampled to {' x '.join(f'{value:g}' for value in definition['spacing'])} mm"
        if definition.get("window"):
            low, high = definition["window"]
            text += f", intensities limited to {low:g} to {high:g}"
        if definition.get("bias_correction"):
            text += ", bias field corrected (N4)"
        if definition.get("normalization", "none") != "none":
            text += f", intensities normalized ({definition['normalization']})"
        sentences.append(text)
    rings = settings["regions"].get("rings") or {}
    around = ""
    if rings:
        spans = _listed(f"{inner:g} to {outer:g} mm" for inner, outer in rings.values())
        count = _plural(len(rings), "peritumoral ring")
        around = f" and {count} ({spans} from its border, clipped to the liver where known)"
    grid = "Images and masks were prepared by PyRadiomics' own conventions as its parameter files say."
    if not parity:
        grid = (
            "The image grid was aligned by its center as the Image Biomarker Standardisation Initiative (IBSI) "
            "prescribes."
        )
    software = "PyRadiomics"
    if settings["features"]["engine"] == "fast":
        software = "hccstudy, whose values are held against those of PyRadiomics 3.0.1"
    naming = "named as by PyRadiomics"
    if settings["features"]["names"] == "ibsi":
        naming = "named and defined as in the IBSI reference manual where it has them"
    return (
        f"Image series: {'; '.join(sentences)}. {grid} Regions of interest were the tumor{around}. Features, {naming}, "
        f"were extracted with {software}; the parameter files are part of the study's configuration."
    )


def _robustness(settings: Mapping[str, Any]) -> str:
    stability = settings["stability"]
    repeated = {
        "readers": "repeated segmentation by a second reader",
        "perturbation": f"{stability.get('perturbations')} random perturbations of the segmentation",
    }
    subject, text = "Stability to segmentation", "Stability of features to segmentation was not assessed. "
    if _from_table(settings):
        subject, text = "Stability", "Stability of features was not assessed. "
        repeated = {"readers": "repeated measurements made outside this study"}
    if stability["method"] != "none":
        text = (
            f"{subject} was measured on development patients from "
            f"{repeated[stability['method']]} as the intraclass correlation coefficient ICC(2,1), absolute "
            f"agreement; features below {stability['threshold']:g} were not used. "
        )
    if settings["harmonize"]["method"] != "combat":
        return text + "Features were not harmonized between centers."
    text += (
        "Differences between development centers were removed with ComBat (empirical Bayes, no outcome as "
        "covariate), fitted on the training patients of every resampling fold."
    )
    if settings["cohort"]["centers"]["external"]:
        text += (
            " In the primary analysis the frozen models were applied to external centers without "
            "harmonizing these. Where a secondary analysis is reported (center-calibrated), an external "
            "center's shift and scale were estimated from features alone, those of one half of its patients for "
            "the other half."
        )
    return text


def _development(settings: Mapping[str, Any]) -> str:
    described = []
    for name, model in settings["models"].items():
        kinds = dict.fromkeys(settings["endpoints"][endpoint]["type"] for endpoint in model["endpoints"])
        fitted = " or ".join(dict.fromkeys(ESTIMATORS[model["estimator"]][kind] for kind in kinds))
        described.append(f"{name.replace('_', ' ')} ({PREDICTORS[model['predictors']]}; {fitted})")
    resampling = settings["resampling"]
    tried = sum(len(model["endpoints"]) for model in settings["models"].values())
    steps = ["imputation of missing values"]
    if any(model["predictors"] != "clinical" for model in settings["models"].values()):
        steps += ["harmonization"] * (settings["harmonize"]["method"] == "combat")
        steps += ["the stability filter"] * (settings["stability"]["method"] != "none")
        steps += [f"removal of one of two features with a rank correlation above {resampling['correlation']:g}"]
    screened = sorted({model["select"] for model in settings["models"].values() if model["select"]})
    steps += ["scaling"]
    if screened:
        steps += [f"a univariate screen for the best {' or '.join(map(str, screened))} features"]
    steps += ["tuning"]
    return (
        f"{_plural(tried, 'model')} {'was' if tried == 1 else 'were'} specified in the configuration, all of "
        f"them reported: {'; '.join(described)}. All fitted steps ({_listed(steps)}) were fitted on training "
        f"patients only, inside every fold of a nested cross-validation ({resampling['folds']} outer and "
        f"{resampling['inner_folds']} inner folds, grouped by patient). The final models were refitted on "
        "all development patients and frozen with their cut-offs (median predicted score of the training "
        f"patients). {_internal(settings)}"
    )


def _internal(settings: Mapping[str, Any]) -> str:
    """How optimism was estimated, and the centers left out one after the other."""
    text, resamples = "", settings["resampling"]["optimism"]
    if resamples:
        text = (
            f"Optimism was estimated in {resamples} bootstrap samples of patients within centers, in each of which "
            "the whole model building was repeated, and .632+ estimates from the patients who were not drawn. "
        )
    centers = len(settings["cohort"]["centers"]["development"])
    if centers < (3 if settings["harmonize"]["method"] == "combat" else 2):
        return text.strip()
    return text + (
        "Every development center was left out once and predicted by the model built on the others; estimates were "
        "pooled over centers by random effects (restricted maximum likelihood, Hartung-Knapp intervals)."
    )


def _evaluation(settings: Mapping[str, Any]) -> str:
    kinds = {definition["type"] for definition in settings["endpoints"].values()}
    parts = []
    if "survival" in kinds:
        parts.append(
            "for survival by Harrell's and Uno's concordance and the time-dependent AUC, with censoring "
            "respected in calibration, Brier score and decision curves (weights from the evaluated cohort)"
        )
    if any(definition.get("competing") for definition in settings["endpoints"].values()):
        parts.append(
            "where events compete, models of the cause-specific hazard predicted cumulative incidences, observed risks "
            "are Aalen-Johansen estimates, and calibration comes from pseudo-observations"
        )
    if "binary" in kinds:
        parts.append("for binary outcomes by the area under the receiver operating characteristic curve")
    if "multiclass" in kinds:
        parts.append("for outcomes of several classes by the macro-averaged AUC and the confusion matrix")
    external = (
        " and of the frozen models in each external center and pooled"
        if settings["cohort"]["centers"]["external"]
        else ""
    )
    calibration = ""
    if kinds & {"survival", "binary"}:
        calibration = (
            " Calibration was described by the ratio of observed to expected events (O/E), the calibration "
            "slope and smooth curves, clinical utility by decision curves."
        )
    return (
        f"Performance of out-of-fold predictions in the development centers (cross-validated){external} was "
        f"measured {'; '.join(parts)}.{calibration} Intervals are 95 %, from "
        f"{settings['validation']['bootstrap']} bootstrap samples of patients where no analytic interval is "
        "customary; the tables name the method of each."
    )


def _software(settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    imaging = [] if _from_table(settings) else ["pyradiomics", "SimpleITK"]
    cited = ["scikit-learn", "scikit-survival", *imaging, "numpy", "snakemake"]
    versions = {name.lower(): version for name, version in provenance["packages"].items()}
    named = [f"{name} {versions[name.lower()]}" for name in cited if name.lower() in versions]
    return (
        f"All steps were run with hccstudy {provenance['hccstudy']} on Python {provenance['python']}"
        f"{' (' + ', '.join(named) + ')' if named else ''}, seed {settings['study']['seed']}, configuration "
        f"{provenance['config_sha256'][:12]} (first digits of its SHA-256)."
    )
