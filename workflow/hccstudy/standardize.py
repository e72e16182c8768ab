"""Standardize: images and masks outside a study, brought to one grid by the same IBSI conventions as inside.

`hccstudy features --mode ibsi` calls this with what a pyradiomics parameter file says under `setting`, and our own section
`ibsi`. The steps and their order are those of preprocess.py and regions.py: interpolation on a grid with the same center,
rounding of CT, masks interpolated linearly and cut at 0.5, re-segmentation into IBSI's intensity mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from hccstudy.errors import CaseError, StudyError
from hccstudy.preprocess import Mask, place, positions_around, resample, resample_mask, round_to_integers
from hccstudy.regions import resegment

INTERPOLATORS = {"sitkLinear": 1, "sitkBSpline": 3}
SAME_VOXEL = 0.1  # part of a voxel by which headers of an image and its mask may differ


class Standardized(NamedTuple):
    """An image and, per region that is left, its morphological and intensity masks (1 inside) on one grid.

    `lost` says for each of the other regions why it is not there.
    """

    image: sitk.Image
    masks: dict[str, sitk.Image]
    intensity_masks: dict[str, sitk.Image]
    lost: dict[str, CaseError]


def standardize(
    image: sitk.Image, masks: Mapping[str, sitk.Image], settings: Mapping[str, Any], *, margin_mm: float
) -> Standardized:
    """One image and the masks of its regions on the standard grid, cut to all regions and `margin_mm` around.

    `masks`: region -> mask on the grid of `image`, nonzero inside. `settings`, as checked by `check_standardization`:
    resampledPixelSpacing ([x, y, z] mm, 0 keeps an axis; null keeps all), interpolator, resegmentRange ([low, high], both
    included, or null), roundIntensities (true for CT in HU), resegmentSigma (or null). The cut changes no voxel. Where no
    mask has a voxel the image comes back as it was. CaseError where the image has not three dimensions or has intensities
    that are not finite.
    """
    check_standardization(settings)
    values = sitk.GetArrayFromImage(image)
    if values.ndim != 3 or image.GetDimension() != 3:
        raise CaseError(
            "not a 3-D image", f"an array of {values.ndim} dimensions; expected one number a voxel, x, y and z"
        )
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise CaseError("intensity not finite", f"{count} voxels of the image; expected finite intensities")
    acquired: dict[str, Mask] = {}
    kept, inside, lost = {}, {}, {}
    for region, mask in masks.items():
        try:
            acquired[region] = _on_grid_of(image, mask, region)
        except CaseError as error:
            lost[region] = error
    if not acquired:
        return Standardized(image, {}, {}, lost)

    old, new = image.GetSpacing(), new_spacing(image, settings)
    positions = positions_around(np.logical_or.reduce(list(acquired.values())), old[::-1], new[::-1], margin_mm)
    order = INTERPOLATORS[settings.get("interpolator", "sitkBSpline")]
    moved = resample(values, positions, order)
    if settings.get("roundIntensities"):
        moved = round_to_integers(moved)
    else:
        moved = moved.astype(np.result_type(values.dtype, np.float32))  # as in a study
    limits = settings.get("resegmentRange"), settings.get("resegmentSigma")
    for region, before in acquired.items():
        morphological = resample_mask(before, positions)
        intensity = resegment(moved, morphological, *limits)
        if not intensity.any():
            lost[region] = _loss(region, before, morphological, new, limits)
            continue
        kept[region], inside[region] = (
            place(part.astype(np.uint8), image, positions, new) for part in (morphological, intensity)
        )
    return Standardized(place(moved, image, positions, new), kept, inside, lost)


def new_spacing(image: sitk.Image, settings: Mapping[str, Any]) -> list[float]:
    """Spacing (x, y, z; mm) of the standard grid of an image: resampledPixelSpacing, where 0 keeps an axis."""
    old = image.GetSpacing()
    return [wanted or side for wanted, side in zip(settings.get("resampledPixelSpacing") or old, old, strict=False)]


def check_standardization(settings: Mapping[str, Any]) -> None:
    """StudyError where `settings` asks for what `standardize` does not do, or for nonsense."""

    def must(good: bool, key: str, expected: str) -> None:
        if not good:
            raise StudyError(f"{key} is {settings[key]!r}; expected {expected}")

    def numbers(key: str, count: int) -> bool:
        found = settings.get(key)
        return isinstance(found, list | tuple) and len(found) == count and all(_is_number(item) for item in found)

    if settings.get("resampledPixelSpacing") is not None:
        good = numbers("resampledPixelSpacing", 3) and min(settings["resampledPixelSpacing"]) >= 0
        must(good, "resampledPixelSpacing", "three numbers in mm (x, y, z), 0 to keep an axis, or null")
    if "interpolator" in settings:
        must(settings["interpolator"] in list(INTERPOLATORS), "interpolator", "one of " + ", ".join(INTERPOLATORS))
    if settings.get("resegmentRange") is not None:
        good = numbers("resegmentRange", 2) and settings["resegmentRange"][0] <= settings["resegmentRange"][1]
        must(good, "resegmentRange", "two rising intensities, both included, or null")
        if "resegmentMode" in settings:
            must(settings["resegmentMode"] == "absolute", "resegmentMode", "absolute (sigma: ibsi.resegmentSigma)")
    if "roundIntensities" in settings:
        must(isinstance(settings["roundIntensities"], bool), "roundIntensities", "true or false")
    if settings.get("resegmentSigma") is not None:
        sigma = settings["resegmentSigma"]
        must(_is_number(sigma) and sigma > 0, "resegmentSigma", "a number above 0, or null")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _on_grid_of(image: sitk.Image, mask: sitk.Image, region: str) -> Mask:
    if mask.GetSize() != image.GetSize() or not mask.IsCongruentImageGeometry(image, SAME_VOXEL, 1e-3):
        raise CaseError("mask on another grid", f"region {region}: {grids(image, mask)}")
    array: Mask = sitk.GetArrayFromImage(mask) != 0
    if not array.any():
        raise CaseError("empty mask", f"region {region}: no voxel; expected 1 or more")
    return array


def grids(image: sitk.Image, mask: sitk.Image) -> str:
    """The grids of an image and of a mask that is on another one, in words for a message."""

    def told(item: sitk.Image) -> str:
        size = "x".join(map(str, item.GetSize()))
        spacing = "x".join(f"{side:.4g}" for side in item.GetSpacing())
        return f"{size} voxels of {spacing} mm, origin ({', '.join(f'{value:.2f}' for value in item.GetOrigin())})"

    found = f"the mask has {told(mask)}; the image {told(image)}"
    if mask.GetSize() == image.GetSize():  # what rounded numbers may not show
        ends = ([0] * image.GetDimension(), [side - 1 for side in image.GetSize()])
        places = np.array([[item.TransformIndexToPhysicalPoint(end) for end in ends] for item in (mask, image)])
        found += f"; voxels are up to {np.linalg.norm(places[0] - places[1], axis=1).max():.2g} mm apart"
    return f"{found}; expected one grid"


def _loss(region: str, before: Mask, after: Mask, new: Sequence[float], limits: tuple[Any, Any]) -> CaseError:
    if not after.any():
        spacing = " x ".join(f"{side:g}" for side in new)
        detail = f"region {region}: {int(before.sum())} voxels become 0 of {spacing} mm; expected 1 or more"
        return CaseError("region lost on the standard grid", detail)
    limits_shown = f"range {limits[0]} and {limits[1]} sigma"
    detail = f"region {region}: 0 of {int(after.sum())} voxels are within {limits_shown}; expected 1 or more"
    return CaseError("region lost by re-segmentation", detail)
