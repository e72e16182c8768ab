"""Parameter files: pyradiomics' own (YAML), with one section of ours, `ibsi`, for what it has no setting for."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import yaml
from radiomics.featureextractor import RadiomicsFeatureExtractor

from hccstudy.engine.regions import CLASSES
from hccstudy.errors import StudyError

logging.getLogger("radiomics").setLevel(logging.ERROR)

SECTIONS = {"setting", "imageType", "featureClass", "ibsi"}
IBSI_SETTINGS = {"roundIntensities": (bool,), "resegmentSigma": (int, float), "binOrigin": (int, float)}
# What a standardized image has behind it: done again by pyradiomics it would be done twice.
STANDARDIZATION = ("resampledPixelSpacing", "normalize", "resegmentRange", "preCrop")


@cache
def load_parameters(path: str) -> RadiomicsFeatureExtractor:
    """An extractor set up by a parameter file; the keys of the section `ibsi` are among its settings.

    Raises StudyError where the file is not one that pyradiomics accepts, or sets what the rest of the pipeline decides.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: not readable as a pyradiomics parameter file ({error})") from error
    if not isinstance(content, dict) or not set(content) <= SECTIONS:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise StudyError(f"{path}: found {found}; expected the sections {', '.join(sorted(SECTIONS))}")
    ours = content.pop("ibsi", None) or {}
    for key, value in ours.items():
        if type(value) not in IBSI_SETTINGS.get(key, ()):
            expected = "roundIntensities: true or false, resegmentSigma: a number, binOrigin: a number"
            raise StudyError(f"{path}: section ibsi has {key}: {value!r}; expected {expected}")
    try:
        extractor = RadiomicsFeatureExtractor(content)
    except Exception as error:  # pykwalify and pyradiomics raise many kinds
        raise StudyError(f"{path}: pyradiomics does not accept this parameter file ({error})") from error
    for feature_class, wanted in extractor.enabledFeatures.items():
        known = CLASSES[feature_class].getFeatureNames() if feature_class in CLASSES else wanted
        unknown = [name for name in wanted or [] if name not in known]
        if unknown:
            raise StudyError(f"{path}: class {feature_class} has no feature {', '.join(unknown)}")
    extractor.settings |= ours | {"additionalInfo": False}
    return extractor


def widest_filter_mm(path: str) -> float:
    """How far the widest LoG filter of a parameter file looks beyond a region: 4 sigma."""
    return 4.0 * max(load_parameters(path).enabledImagetypes.get("LoG", {}).get("sigma", [0]))


def check_parameters(path: str, mode: str, outer_mm: float, margin_mm: float) -> None:
    """StudyError where a parameter file asks for what a study does itself (series in config.yaml), or where the
    margin kept around the labels cuts into the support of its widest LoG filter. In mode "parity" the file asks and the
    study does not: nothing of its section `ibsi` but the origin of bins."""
    settings = load_parameters(path).settings
    if mode == "parity":
        ours = [name for name in ("roundIntensities", "resegmentSigma") if settings.get(name)]
        if ours:
            raise StudyError(f"{path}: section ibsi sets {', '.join(ours)}; expected none with features.mode parity")
        return
    twice = [name for name in (*STANDARDIZATION, "roundIntensities", "resegmentSigma") if settings.get(name)]
    if twice:
        raise StudyError(f"{path}: sets {', '.join(twice)}; expected none of these in a study, which does it itself")
    reach = widest_filter_mm(path)
    if outer_mm + reach > margin_mm:
        found = f"preprocess.margin_mm is {margin_mm:g}"
        needed = f"the widest ring ({outer_mm:g} mm) plus 4 x LoG sigma {reach / 4:g}"
        raise StudyError(f"{path}: {found}; expected at least {outer_mm + reach:g}, {needed}")
