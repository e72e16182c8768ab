"""PET from DICOM: activity concentration (Bq/ml) -> SUV by body weight (g/ml).

Follows the vendor-neutral pseudo-code for SUVbw of the Quantitative Imaging Biomarkers Alliance (QIBA),
https://qibawiki.rsna.org/index.php/Standardized_Uptake_Value_(SUV), without its private attributes of vendors; for
DecayCorrection ADMIN, which it leaves out, DICOM PS3.3 C.8.9.1. Whatever is missing is refused, never guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import SimpleITK as sitk

from hccstudy.errors import CaseError
from hccstudy.imports.acquisition import Header, acquired_at, day, number, safe_text, several, time_of_day

INJECTIONS = "RadiopharmaceuticalInformationSequence"
INJECTION = (
    "RadionuclideTotalDose",  # Bq, at the time of injection
    "RadionuclideHalfLife",  # s
    "RadiopharmaceuticalStartDateTime",
    "RadiopharmaceuticalStartTime",
)
KEYWORDS = (
    "Units",
    "DecayCorrection",
    "CorrectedImage",
    "PatientWeight",  # kg
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "TimezoneOffsetFromUTC",
    INJECTIONS,
)
DAY = 86400
MOST_HALF_LIVES = 10  # 0.1 % of the dose is left: no scan, but clocks or dates that do not belong together


def to_suv(image: sitk.Image, headers: Sequence[Header], where: str) -> sitk.Image:
    """The image in SUV; `headers` are those of its slices, its values after the modality transform.

    Units GML is SUV already. Raises CaseError where Units is neither GML nor BQML or what the conversion needs is
    missing or differs between slices.
    """
    units = _stated(headers, "Units", "GML or BQML", where)
    if units == "GML":
        return image
    if units != "BQML":
        raise _refusal(where, f"Units is {safe_text(units, headers[0])!r}", "GML or BQML")
    return image * suv_factor(headers, where)


def suv_factor(headers: Sequence[Header], where: str) -> float:
    """SUV per Bq/ml: the weight over the dose that was left at the time to which decay was corrected."""
    correction = _stated(headers, "DecayCorrection", "START or ADMIN", where)
    if correction not in ("START", "ADMIN"):
        raise _refusal(where, f"DecayCorrection is {safe_text(correction, headers[0])!r}", "START or ADMIN")
    for header in headers:
        corrected = several(header.get("CorrectedImage"))
        if corrected and not {"ATTN", "DECY"} <= set(corrected):
            raise _refusal(where, "CorrectedImage lacks ATTN or DECY", "attenuation and decay corrected")
    weight = _positive(headers, "PatientWeight", "kg", where)
    injections = [_injection(header, where) for header in headers]
    dose = _positive(injections, "RadionuclideTotalDose", "Bq", where)
    half_life = _positive(injections, "RadionuclideHalfLife", "s", where)
    elapsed = _elapsed(headers, injections, where)
    if not 0 <= elapsed <= MOST_HALF_LIVES * half_life:
        raise _refusal(
            where,
            f"the scan starts {elapsed / 3600:.2f} h after the injection (RadiopharmaceuticalStartDateTime or "
            "RadiopharmaceuticalStartTime)",
            f"0 to {MOST_HALF_LIVES * half_life / 3600:.2f} h, {MOST_HALF_LIVES} half-lives",
        )
    left = dose if correction == "ADMIN" else dose * 2 ** (-elapsed / half_life)
    return 1000 * weight / left


def _refusal(where: str, found: str, expected: str) -> CaseError:
    return CaseError("PET not in SUV", f"{where}: {found}; expected {expected}")


def _stated(headers: Sequence[Header], name: str, expected: str, where: str) -> str:
    """What all slices state alike."""
    values = {str(value).strip() for header in headers if (value := header.get(name)) is not None} or {""}
    if len(values) > 1:
        raise _refusal(where, f"{name} differs between slices", f"one value in a series ({expected})")
    value = values.pop()
    if not value:
        raise _refusal(where, f"{name} is missing", expected)
    return value


def _positive(headers: Sequence[Header], name: str, unit: str, where: str) -> float:
    value = number(_stated(headers, name, f"a number above 0 {unit}", where))
    if value is None or not math.isfinite(value) or value <= 0:
        raise _refusal(where, f"{name} is no number above 0", f"one in {unit}")
    return value


def _injection(header: Header, where: str) -> Mapping[str, Any]:
    items = list(header.get(INJECTIONS) or [])
    if len(items) != 1:
        found = f"{INJECTIONS} has {len(items)} items" if items else f"{INJECTIONS} is missing"
        raise _refusal(where, found, f"one injection with {', '.join(INJECTION[:2])} and its time")
    return {name: items[0].get(name) for name in INJECTION}


def _elapsed(headers: Sequence[Header], injections: Sequence[Mapping[str, Any]], where: str) -> float:
    """Seconds from the injection to the start of the scan.

    The scan starts at SeriesTime unless an acquisition came before, as in a series that was processed later; then
    at the earliest acquisition. An injection without a date is in the 24 h before.
    """
    clocks = [clock for header in headers if (clock := acquired_at(header)) is not None]
    if len(clocks) < len(headers):
        raise _refusal(where, "AcquisitionTime is missing", "a time in every slice")
    days = [_acquisition_day(header) for header in headers]
    clock = time_of_day(headers[0], "SeriesTime")
    if clock is not None:
        clocks.append(clock)
        days.append(day(headers[0], "SeriesDate"))
    ordinals = [found.toordinal() for found in days if found]
    dated = len(ordinals) == len(days)
    scan = min(DAY * ordinal + clock for ordinal, clock in zip(ordinals, clocks, strict=True)) if dated else min(clocks)

    for name in INJECTION[2:]:
        if not any(injection[name] for injection in injections):
            continue
        text = _stated(injections, name, "one injection time", where)
        injected, on = time_of_day({name: text}, name), None
        if injected is None:
            continue
        if name.endswith("DateTime"):
            injected += _zone(headers[0].get("TimezoneOffsetFromUTC"), text)
            on = day({name: text}, name)
        return scan - (DAY * on.toordinal() + injected) if dated and on else (scan - injected) % DAY
    raise _refusal(where, " and ".join(INJECTION[2:]) + " are missing", "the time of the injection in either")


def _acquisition_day(header: Header) -> date | None:
    return day(header, "AcquisitionDate") or day(header, "AcquisitionDateTime")


def _zone(series: Any, date_time: str) -> int:
    """Seconds from the clock of a DT to that of the series; 0 unless both state their offset from UTC (+HHMM)."""
    offsets = [re.search(r"([+-])(\d\d)(\d\d)$", str(text or "").strip()) for text in (series, date_time)]
    seconds = [int(found[1] + "60") * (60 * int(found[2]) + int(found[3])) for found in offsets if found]
    return seconds[0] - seconds[1] if len(seconds) == 2 else 0
