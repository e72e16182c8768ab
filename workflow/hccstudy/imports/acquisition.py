"""How a series was acquired: the few attributes that may leave the import step.

An allow-list, so that nothing leaves by accident: no name, id, institution, address, UID, free description or
date. Numbers are parsed as numbers; of the texts only vendor terms are let through, and not where they hold
one of the patient's identifiers or a run of digits that could be a date.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import UID

from hccstudy.errors import CaseError
from hccstudy.tables import read_json

TEXTS = ("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "ContrastBolusAgent", "Units")
NUMBERS = (
    "SliceThickness",  # mm
    "Rows",
    "Columns",
    "KVP",
    "XRayTubeCurrent",  # mA
    "ExposureTime",  # ms
    "MagneticFieldStrength",  # T
    "RepetitionTime",  # ms
    "EchoTime",  # ms
    "FlipAngle",  # degrees
)
COLUMNS = [
    "patient",
    "center",
    "series",
    *TEXTS,
    "PixelSpacing",
    *NUMBERS,
    "LossyImageCompression",
    "delay_s",
    "days_from_index",
    *(f"{what}_{axis}" for what in ("spacing", "size") for axis in "xyz"),
    "burned_in_annotation",
    "image_sha256",
    "mask_sha256",
]
DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "StudyDate")
TIMES = ("AcquisitionTime", "AcquisitionDateTime", "ContrastBolusStartTime")
IDENTIFIERS = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyID",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
)
CLOCK = r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d+)?)?)?"
TIME = re.compile(CLOCK)
DATE_TIME = re.compile(rf"\d{{4}}-?\d\d-?\d\d[T ]?{CLOCK}(?:[+-]\d\d:?\d\d|Z)?")
# Where text in the picture is common: ultrasound, angiography, endoscopy, photographs, documents, others.
PICTURED = ("US", "IVUS", "XA", "RF", "ES", "XC", "GM", "DOC", "OT", "SC")
BURNED_IN = ("BurnedInAnnotation", "Modality", "SOPClassUID", "ConversionType", "ImageType")
KEYWORDS = (*TEXTS, "PixelSpacing", *NUMBERS, "LossyImageCompression", *DATES, *TIMES, *IDENTIFIERS, *BURNED_IN)

Header = Dataset | Mapping[str, Any]  # DICOM keyword -> value


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON file beside an image (BIDS, dcm2niix) with DICOM's names and units; {} where there is none.

    BIDS states RepetitionTime and EchoTime in seconds, DICOM in ms.
    """
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("expected an object of attributes")
    except (ValueError, RecursionError) as error:
        raise CaseError("unreadable sidecar", f"{path}: not a JSON file of attributes ({error})") from error
    if "ManufacturersModelName" in found:
        found["ManufacturerModelName"] = found["ManufacturersModelName"]
    for name in ("RepetitionTime", "EchoTime"):
        seconds = number(found.get(name))
        found[name] = None if seconds is None else 1000 * seconds
    return found


def describe_acquisition(headers: Sequence[Header], image: sitk.Image, index_date: str) -> dict[str, str]:
    """The acquisition columns of one series from the headers of its slices (or its one sidecar) and its
    image.

    Numbers are the median over the slices (a modulated tube current has no first value), texts those of the
    first slice. `delay_s` is the earliest AcquisitionTime minus ContrastBolusStartTime, `days_from_index` the
    date of the acquisition minus `index_date` (ISO). `Units` are those acquired (suv.py converts the voxels of a
    PET afterwards). Unknown is "".
    """
    first = headers[0] if headers else {}
    result = {name: safe_text(first.get(name), first) for name in TEXTS}
    for name in NUMBERS:
        values = [value for header in headers if (value := number(header.get(name))) is not None]
        result[name] = f"{median(values):.10g}" if values else ""
    pixels = [number(value) for value in several(first.get("PixelSpacing"))]
    result["PixelSpacing"] = "\\".join(f"{value:.10g}" for value in pixels if value is not None)
    result["LossyImageCompression"] = str(first.get("LossyImageCompression") or "")[:2]
    result["delay_s"] = _delay(headers)
    result["days_from_index"] = _days(first, index_date)
    for axis, spacing, size in zip("xyz", image.GetSpacing(), image.GetSize(), strict=True):
        result[f"spacing_{axis}"] = f"{spacing:.6g}"
        result[f"size_{axis}"] = str(size)
    result["burned_in_annotation"] = burned_in(headers)
    return result


def burned_in(headers: Sequence[Header]) -> str:
    """Whether text (a name, a date) may be part of the picture: "yes" where a header says so, "risk: why" where such images
    often hold some (PS3.15 C.7.2, TCIA's practice), "" where nothing points to it or no header is there.

    A header that denies it takes no risk away: scanners set it by default. No text of a header is repeated.
    """
    found = [_burned_in(header) for header in headers]
    return "yes" if "yes" in found else next((text for text in found if text), "")


def _burned_in(header: Header) -> str:
    def values(name: str) -> list[str]:
        return [str(value).strip().upper() for value in several(header.get(name))]

    kinds = [word for value in values("ImageType") for word in re.split(r"[\W_]+", value)]
    modality = next((value for value in values("Modality") if value in PICTURED), "")
    capture = any("Secondary Capture" in UID(value).name for value in values("SOPClassUID"))
    if any(value.startswith("Y") for value in values("BurnedInAnnotation")):
        return "yes"
    if modality:
        return f"risk: modality {modality}"
    if capture or values("ConversionType"):
        return "risk: secondary capture"
    if {"SCREEN", "SCREENSAVE", "CAPTURE", "PASTED"} & set(kinds):
        return "risk: screen save"
    return "risk: secondary image" if "SECONDARY" in kinds else ""


def modality_code(text: str) -> str:
    """A modality as messages may repeat it."""
    return text if re.fullmatch(r"[A-Z]{2,3}|RT[A-Z]+|DOC|IVUS", text) else "of an unknown modality"


def several(value: Any) -> list[Any]:
    """The values of an attribute, be there none, one or more."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def safe_text(value: Any, header: Header) -> str:
    """A vendor term, or "" where it may say who the patient is."""
    text = " ".join("\\".join(str(part) for part in several(value)).split())
    secrets = {
        part.casefold()
        for name in IDENTIFIERS
        for part in re.split(r"[\W_]+", str(header.get(name) or ""))
        if len(part) > 2
    }
    words = {word.casefold() for word in re.split(r"[\W_]+", text)}
    if words & secrets or re.search(r"\d{6}", text) or len(text) > 64:
        return ""
    return text


def time_of_day(header: Header, name: str) -> float | None:
    """Seconds since midnight that an attribute states, None where it states none.

    An attribute named ...DateTime is a DT (YYYYMMDDHHMMSS.ffffff&ZZXX), any other a TM (HHMMSS.ffffff), from HH
    on each as long as it is known (DICOM PS3.5 6.2), and with the separators of ISO 8601 as sidecars have them.
    It is the time on the wall: an offset from UTC is passed over.
    """
    layout = DATE_TIME if name.endswith("DateTime") else TIME
    found = layout.fullmatch(str(header.get(name) or "").strip())
    if not found:
        return None
    hours, minutes, seconds, fraction = found.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(fraction)


def day(header: Header, name: str) -> date | None:
    """The date that an attribute (DA, DT or ISO) begins with, None where there is none."""
    found = re.match(r"(\d{4})-?(\d\d)-?(\d\d)", str(header.get(name) or ""))
    try:
        return date(int(found[1]), int(found[2]), int(found[3])) if found else None
    except ValueError:
        return None


def acquired_at(header: Header) -> float | None:
    """Time of day of the acquisition, in seconds."""
    found = time_of_day(header, "AcquisitionTime")
    return time_of_day(header, "AcquisitionDateTime") if found is None else found


def _delay(headers: Sequence[Header]) -> str:
    starts = [value for header in headers if (value := acquired_at(header)) is not None]
    bolus = time_of_day(headers[0], "ContrastBolusStartTime") if headers else None
    if not starts or bolus is None:
        return ""
    return f"{(min(starts) - bolus) % 86400:.1f}"  # an examination over midnight


def _days(header: Header, index_date: str) -> str:
    if not index_date:
        return ""
    for name in DATES:
        found = day(header, name)
        if found:
            return str((found - date.fromisoformat(index_date)).days)
    return ""
