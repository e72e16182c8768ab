"""Parameter files: pyradiomics' own (YAML), with one section of ours, `ibsi`, for what it has no setting for."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pywt
import SimpleITK as sitk
import yaml
from pykwalify.core import Core
from radiomics import getFeatureClasses, getImageTypes, getParameterValidationFiles
from radiomics.featureextractor import RadiomicsFeatureExtractor

from hccstudy.config import load_yaml
from hccstudy.engine.ibsi_extra import PEAK_RADIUS_MM
from hccstudy.engine.regions import CLASSES
from hccstudy.errors import Problems, StudyError

logging.getLogger("radiomics").setLevel(logging.ERROR)
logging.getLogger("pykwalify").setLevel(logging.CRITICAL)  # it prints what is raised as well

SECTIONS = {"setting", "imageType", "featureClass", "ibsi"}
IBSI_SETTINGS = {"roundIntensities": (bool,), "resegmentSigma": (int, float), "binOrigin": (int, float)}
# What a standardized image has behind it: done again by pyradiomics it would be done twice.
STANDARDIZATION = ("resampledPixelSpacing", "normalize", "resegmentRange", "preCrop")
# Beyond 7 sigma a cut changes the filtered intensities of a region by 1 to 4 in 10,000 of their standard deviation (root
# mean square), beyond 4 sigma by 1 to 2 in 100: texture between air and bone, sigma 1 to 5 voxels.
LOG_REACH_SIGMA = 7.0
# LBP3D samples a cubic spline, of which a sample k voxels away changes 0.268**k: 1e-4 at 7, beside the support of 1.
SPLINE_REACH_VOXELS = 8

Content = dict[str, Any]


@cache
def load_parameters(path: str) -> RadiomicsFeatureExtractor:
    """An extractor set up by a parameter file; the keys of the section `ibsi` are among its settings.

    Raises StudyError with all that pyradiomics does not accept, or, where there is nothing of that, with all that it would
    pass over in silence or count twice.
    """
    content, problems = _read(path)
    problems.raise_if_any()
    ours = content.pop("ibsi", None) or {}
    extractor = RadiomicsFeatureExtractor(content)
    extractor.settings |= ours | {"additionalInfo": False}
    return extractor


def _read(path: str) -> tuple[Content, Problems]:
    """The content of a parameter file and all that is wrong with it."""
    problems = Problems()
    try:
        content = load_yaml(path)
    except OSError as error:
        problems.add(path, f"not readable ({error.strerror})", "a pyradiomics parameter file (YAML)")
        return {}, problems
    except StudyError as error:
        problems.add(path, str(error).removeprefix(str(path)).lstrip(": "), "a pyradiomics parameter file (YAML)")
        return {}, problems
    if not isinstance(content, dict) or not set(content) <= SECTIONS:
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        found = "nothing" if content is None else found
        problems.add(path, f"found {found}", f"the sections {', '.join(sorted(SECTIONS))}")
        return {}, problems
    ours = content.get("ibsi") or {}
    for key, value in ours.items() if isinstance(ours, dict) else [("a value", ours)]:
        if type(value) not in IBSI_SETTINGS.get(key, ()):
            expected = "roundIntensities: true or false, resegmentSigma: a number, binOrigin: a number"
            problems.add(path, f"section ibsi has {key}: {value!r}", expected)
    _check_schema({key: value for key, value in content.items() if key != "ibsi"}, path, problems)
    if not len(problems):
        _check_values(content, path, problems)
    return content, problems


# --- what pyradiomics does not accept ------------------------------------------------------------------------


def _check_schema(content: Content, path: str, problems: Problems) -> None:
    """Names that pyradiomics does not know, and values that its schema refuses."""
    schema, functions = getParameterValidationFiles()
    rules = yaml.safe_load(Path(schema).read_text(encoding="utf-8"))["mapping"]["setting"]["mapping"]
    maps = {key: content[key] for key in content if isinstance(content[key], dict)}
    _check_names(maps.get("imageType", {}), getImageTypes(), "imageType", path, problems)
    _check_names(maps.get("featureClass", {}), getFeatureClasses(), "featureClass", path, problems)
    for name, wanted in maps.get("featureClass", {}).items():
        if name in CLASSES and isinstance(wanted, list):
            _check_names(wanted, CLASSES[name].getFeatureNames(), f"featureClass.{name}", path, problems)
    for place, settings in _settings(content):
        _check_names(settings, rules, place, path, problems)
        if "wavelet" in settings:
            _check_names([settings["wavelet"]], pywt.wavelist(kind="discrete"), f"{place}.wavelet", path, problems)
    if len(problems):
        return
    core = Core(source_data=content, schema_files=[schema], extensions=[functions])
    try:
        core.validate(raise_exception=False)
    except (TypeError, ValueError) as error:  # of pyradiomics' own checks
        problems.add(path, f"pyradiomics does not accept it ({error})", "what its documentation allows")
    for line in core.validation_errors or []:
        text, place = re.split(r"\.? (?:Value path|Path): ", line, maxsplit=1)
        text = re.sub(r"Type '\w+' has size of", "found", text)
        key = place.strip("'/").replace("/", ".")
        problems.add(path, f"pyradiomics does not accept {key} ({text})", "what its documentation allows")


def _check_names(found: Iterable[Any], names: Iterable[str], place: str, path: str, problems: Problems) -> None:
    by_letters = {name.lower(): name for name in sorted(names)}
    for name in found:
        if name not in by_letters.values():
            near = difflib.get_close_matches(str(name).lower(), by_letters, n=1)
            known = f"{by_letters[near[0]]} (did you mean it?)" if near else f"one of {', '.join(by_letters.values())}"
            problems.add(path, f"unknown name {name!r} in {place}", known)


def _settings(content: Content) -> list[tuple[str, Content]]:
    """(place, settings) of the section `setting` and of every image type, which has settings of its own."""
    places = {"setting": content.get("setting", {})}
    if isinstance(content.get("imageType"), dict):
        places |= {f"imageType.{name}": own for name, own in content["imageType"].items()}
    return [(place, settings) for place, settings in places.items() if isinstance(settings, dict)]


# --- what pyradiomics passes over in silence ----------------------------------------------------------------


def _check_values(content: Content, path: str, problems: Problems) -> None:
    for place, settings in _settings(content):

        def must(good: bool, key: str, expected: str, place: str = place, settings: Content = settings) -> None:
            if not good:
                problems.add(path, repr(settings[key]), expected, column=f"{place}.{key}")

        for key in settings:
            if key in VALUES:
                fits, expected = VALUES[key]
                must(fits(settings[key]), key, expected)
        if "binCount" in settings and settings["binCount"] is not None:
            must("binWidth" not in settings, "binCount", "either binWidth or binCount: the count would win in silence")
    common = content.get("setting", {})
    for name, own in content.get("imageType", {}).items():
        if "binWidth" in own and common.get("binCount") is not None and "binCount" not in own:
            expected = "no binWidth beside setting.binCount, which would win in silence"
            problems.add(path, repr(own["binWidth"]), expected, column=f"imageType.{name}.binWidth")
    if "binOrigin" in (content.get("ibsi") or {}) and common.get("binCount") is not None:
        expected = "no binOrigin with setting.binCount, whose bins start at the region's minimum"
        problems.add(path, repr(content["ibsi"]["binOrigin"]), expected, column="ibsi.binOrigin")
    if "LoG" in content.get("imageType", {}) and not (common | content["imageType"]["LoG"]).get("sigma"):
        problems.add(path, "without sigma", "sigma: [mm, ...]", column="imageType.LoG")
    if "shape2D" in content.get("featureClass", {}) and not common.get("force2D"):
        problems.add(path, "without setting.force2D", "force2D: true with it", column="featureClass.shape2D")


def _is_spacing(value: Any) -> bool:
    return value is None or (len(value) == 3 and all(math.isfinite(side) and side >= 0 for side in value))


def _are_distances(value: Any) -> bool:
    return bool(value) and len(set(value)) == len(value) and min(value) >= 1


def _is_interpolator(value: Any) -> bool:
    return not isinstance(value, str) or (value.startswith("sitk") and hasattr(sitk, value))


def _is_range(value: Any) -> bool:
    return value is None or (1 <= len(value) <= 2 and all(math.isfinite(bound) for bound in value))


# What pyradiomics' schema lets pass: setting -> (whether a value makes sense, what is expected).
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "resampledPixelSpacing": (_is_spacing, "three numbers of 0 or more, mm (0 keeps an axis as it is)"),
    "interpolator": (_is_interpolator, "a name of SimpleITK such as sitkBSpline"),
    "distances": (_are_distances, "one or more whole numbers of 1 or more, each once"),
    "resegmentRange": (_is_range, "one or two numbers"),
}


# --- what a study asks of them ------------------------------------------------------------------------------


def filter_reach_mm(path: str, spacing: Sequence[float]) -> float:
    """How far beyond a region its features look at most, in mm; `spacing` is that of the grid (mm, any order of axes).

    Exact for wavelets (periodic beyond), gradient, LBP2D and local intensity peaks (IBSI names); LoG and the spline of
    LBP3D reach on forever, and are cut where that changes features by about 1e-4 of their spread. No distance holds for
    Square, SquareRoot, Logarithm and Exponential, which scale by the largest intensity of all that is kept.
    """
    extractor = load_parameters(path)
    reach = [PEAK_RADIUS_MM if "firstorder" in extractor.enabledFeatures else 0.0]
    for name, own in extractor.enabledImagetypes.items():
        settings = extractor.settings | own
        if name == "LoG":
            reach.append(LOG_REACH_SIGMA * max(settings["sigma"]))
        else:
            reach.append(_voxels_reached(name, settings) * max(spacing))
    return float(max(reach))


def _voxels_reached(image_type: str, settings: Mapping[str, Any]) -> float:
    if image_type == "Wavelet":
        levels = settings.get("start_level", 0) + settings.get("level", 1)
        return float(levels * pywt.Wavelet(settings.get("wavelet", "coif1")).dec_len / 2)
    if image_type == "Gradient":
        return 1.0
    if image_type == "LBP2D":
        return float(math.ceil(settings.get("lbp2DRadius", 1)))
    if image_type == "LBP3D":
        return float(math.ceil(settings.get("lbp3DIcosphereRadius", 1)) + SPLINE_REACH_VOXELS)
    return 0.0


def check_engine(path: str, engine: str) -> None:
    """StudyError where a parameter file asks for what an engine ("fast" or "pyradiomics") does not have."""
    _engine_problems(path, engine).raise_if_any()


def _engine_problems(path: str, engine: str) -> Problems:
    problems, extractor = Problems(), load_parameters(path)
    if engine == "pyradiomics":
        if "LBP3D" in extractor.enabledImagetypes:
            problems.add(path, "LBP3D with engine pyradiomics, which fails with this version of SciPy", "engine fast")
        if "binOrigin" in extractor.settings:
            problems.add(path, "binOrigin with engine pyradiomics, which has no such setting", "engine fast")
    return problems


def check_parameters(
    path: str,
    mode: str,
    engine: str,
    *,
    spacing: Sequence[float],
    resegment_range: Sequence[float] | None,
    outer_mm: float,
    margin_mm: float,
) -> Problems:
    """What is wrong with a parameter file, and with it in a study: one series with its `spacing` (mm) and range.

    In mode "ibsi" the study resamples, normalizes and re-segments (series in config.yaml), so the file must not; bins start
    where the series' range does; and the margin kept around the labels holds the widest ring and what filters look at
    beyond it (`filter_reach_mm`). In mode "parity" the file asks and the study does not: nothing of its section `ibsi`
    but the origin of bins.
    """
    _, problems = _read(path)
    if len(problems):
        return problems
    problems = _engine_problems(path, engine)
    settings = load_parameters(path).settings
    if mode == "parity":
        for key in ("roundIntensities", "resegmentSigma"):
            if settings.get(key):
                problems.add(path, f"section ibsi sets {key}", "none of it with features.mode parity")
        return problems
    for key in (*STANDARDIZATION, "resegmentShape", "roundIntensities", "resegmentSigma"):
        if settings.get(key):
            problems.add(path, f"sets {key}", "none of this in a study, which does it itself (series)")
    if settings["label"] != 1:
        problems.add(path, str(settings["label"]), "1, the value of every region in a study's masks", column="label")
    if resegment_range and settings.get("binOrigin", resegment_range[0]) != resegment_range[0]:
        expected = f"{resegment_range[0]:g}, the lower bound of resegment_range: bins start there (IBSI)"
        problems.add(path, f"{settings['binOrigin']:g}", expected, column="ibsi.binOrigin")
    reach = filter_reach_mm(path, spacing)
    if outer_mm + reach > margin_mm + 1e-9:
        needed = f"the widest ring ({outer_mm:g} mm) and the reach of filters beyond it ({reach:.3g} mm)"
        expected = f"{math.ceil(outer_mm + reach - 1e-9)} or more: {needed}"
        problems.add(path, f"preprocess.margin_mm is {margin_mm:g}", expected)
    return problems
