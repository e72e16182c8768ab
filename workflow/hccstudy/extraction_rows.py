"""The rows of one image, for `hccstudy features`: files read and proven, labels looked up, regions measured."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from hccstudy.engine.extract import DEFAULT_TOLERANCE, Clock, extract
from hccstudy.errors import CaseError, StudyError, is_out_of_memory
from hccstudy.imports.images import read_any_file
from hccstudy.parameters import filter_reach_mm, load_parameters
from hccstudy.standardize import grids, new_spacing, standardize

MARGIN_MM = 10.0  # kept around the regions at least
MOST_LABELS = 255
Values = dict[str, float]


class Way(NamedTuple):
    """How features are extracted: parameter file, mode, engine, names, and the label of rows that give none."""

    settings: str
    mode: str
    engine: str
    names: str
    label: int


class Row(NamedTuple):
    """A row of the user's table; `number` is the one that a person sees in the file."""

    number: int
    patient: str
    region: str
    image: str
    mask: str
    label: str


class Done(NamedTuple):
    """The rows of one image by number, the seconds spent, and the masks of several labels that got the default label."""

    results: dict[int, Values | CaseError]
    clock: Clock
    ambiguous: list[str]


def extract_image(rows: list[Row], way: Way) -> Done:
    """Features (or what went wrong) of all rows of one image."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    done = Done({}, defaultdict(float), [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; what matters is an error
        try:
            image = _read_image(rows[0].image)
        except Exception as error:
            case = _case_error(error, "unreadable image")
            return done._replace(results={row.number: case for row in rows})
        files: dict[str, tuple[sitk.Image, list[int]]] = {}
        regions, masks, labels = {}, {}, {}
        for row in rows:
            try:
                label = _label(row.label) if row.label else way.label
                if row.mask not in files:
                    files[row.mask] = _read_mask(row.mask, image)
                mask, held = files[row.mask]
                _check_label(label, held, row)
            except Exception as error:
                done.results[row.number] = _case_error(error, "unreadable mask")
                continue
            if not row.label and len(held) > 1:
                done.ambiguous.append(f"{row.mask} ({_shown(held)})")
            name = row.region
            while name in regions:
                name += f" (row {row.number})"
            regions[name], masks[name], labels[name] = row.number, mask, label
        measured = _measure_all(image, masks, labels, way, done.clock)
        done.results.update({regions[name]: values for name, values in measured.items()})
    return done


def _measure_all(
    image: sitk.Image, masks: dict[str, sitk.Image], labels: dict[str, int], way: Way, clock: Clock
) -> dict[str, Values | CaseError]:
    """All regions at once; where that fails each alone, so that one does not cost the others theirs."""
    try:
        found = _measure(image, masks, labels, way, clock) if masks else {}
    except Exception as error:
        if len(masks) == 1:
            return dict.fromkeys(masks, _case_error(error, "features not computable"))
        parts = [_measure_all(image, {name: masks[name]}, labels, way, clock) for name in masks]
        return {name: values for part in parts for name, values in part.items()}
    for name, values in found.items():
        if isinstance(values, CaseError):
            found[name] = _on_one_grid(image, masks[name], name, way) or values
        elif not any(map(np.isfinite, values.values())):
            found[name] = CaseError("no feature", f"region {name}: {len(values)} values, none a number; expected some")
    return found


def _measure(
    image: sitk.Image, masks: dict[str, sitk.Image], labels: dict[str, int], way: Way, clock: Clock
) -> dict[str, Values | CaseError]:
    if way.mode == "parity":
        return extract(image, masks, way.settings, labels=labels, names=way.names, engine=way.engine, clock=clock)
    settings = load_parameters(way.settings).settings
    margin = max(MARGIN_MM, filter_reach_mm(way.settings, new_spacing(image, settings)))
    regions = {region: _binary(mask, labels[region]) for region, mask in masks.items()}
    ready = standardize(image, regions, settings, margin_mm=margin)
    measured = extract(
        ready.image,
        ready.masks,
        way.settings,
        labels=dict.fromkeys(ready.masks, 1),
        intensity_masks=ready.intensity_masks,
        names=way.names,
        engine=way.engine,
        clock=clock,
    )
    return measured | ready.lost


def _on_one_grid(image: sitk.Image, mask: sitk.Image, name: str, way: Way) -> CaseError | None:
    """In place of ITK's words: that a region could not be measured because its mask is on another grid."""
    settings = load_parameters(way.settings).settings
    tolerance = settings.get("geometryTolerance") or DEFAULT_TOLERANCE
    same = image.GetSize() == mask.GetSize() and mask.IsCongruentImageGeometry(image, tolerance, tolerance)
    if way.mode != "parity" or settings.get("correctMask") or same:
        return None
    return CaseError("mask on another grid", f"region {name}: {grids(image, mask)}")


def _case_error(error: Exception, reason: str) -> CaseError:
    """What is wrong with a row; a StudyError that is none of a row goes on."""
    if isinstance(error, CaseError):
        return error
    if isinstance(error, StudyError):
        raise error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if is_out_of_memory(error):
        return CaseError("out of memory", f"{lines[-1]} (try fewer --jobs)")
    return CaseError(reason, f"{type(error).__name__}: {lines[-1]}")


# --- files and labels ---------------------------------------------------------------------------------------


def _read_image(file: str) -> sitk.Image:
    image = _read_file(file, "image")
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() not in (2, 3) or components != 1:
        found = f"{file}: {image.GetDimension()} dimensions and {components} value(s) a voxel"
        raise CaseError("image not measurable", f"{found}; expected 2 or 3 and one")
    return image


def _read_file(file: str, kind: str) -> sitk.Image:
    path = Path(file)
    if not path.is_file():
        found = "is a folder; expected an image file, not a DICOM series" if path.is_dir() else "no such file"
        raise CaseError(f"unreadable {kind}", f"{file}: {found}")
    return read_any_file(path, kind)


def _read_mask(file: str, image: sitk.Image) -> tuple[sitk.Image, list[int]]:
    """A mask and the labels that it holds; CaseError where it is no label map of the image's dimensions."""
    mask = _read_file(file, "mask")
    dimensions, components = mask.GetDimension(), mask.GetNumberOfComponentsPerPixel()
    if components != 1 or dimensions != image.GetDimension():
        found = f"{file}: {dimensions} dimensions and {components} value(s) a voxel"
        raise CaseError("mask is not a label map", f"{found}; expected {image.GetDimension()}, as the image, and one")
    values = sitk.GetArrayViewFromImage(mask)
    held = np.unique(values[values != 0])
    if (held != np.rint(held)).any() or (held < 0).any() or len(held) > MOST_LABELS:
        found = f"{file}: it holds {len(held)} values from {held[0]:g} to {held[-1]:g}"
        expected = f"expected at most {MOST_LABELS} labels, whole numbers above 0"
        raise CaseError("mask is not a label map", f"{found}; {expected} (are image and mask swapped?)")
    return mask, [int(label) for label in held]


def _label(cell: str) -> int:
    """A label of the table; spreadsheets write 2 as 2.0."""
    try:
        value = float(cell)
    except ValueError:
        value = 0.0
    if not (value.is_integer() and value >= 1):
        raise CaseError("no label", f"column label is {cell!r}; expected a whole number, 1 or more")
    return int(value)


def _check_label(label: int, held: Sequence[int], row: Row) -> None:
    if not held:
        raise CaseError("empty mask", f"{row.mask}: no voxel is set; expected label {label}")
    if label not in held:
        default = "" if row.label else ", the default (column label chooses another)"
        raise CaseError("label not in mask", f"{row.mask}: it holds {_shown(held)}; expected label {label}{default}")


def _binary(mask: sitk.Image, label: int) -> sitk.Image:
    found = sitk.GetImageFromArray((sitk.GetArrayViewFromImage(mask) == label).astype(np.uint8))
    found.CopyInformation(mask)
    return found


def _shown(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels[:8])) + (f", ... ({len(labels)} in all)" if len(labels) > 8 else "")
