"""Resampling as pyradiomics does it (`parity`): grid, spline and nearest-neighbor mask, but only where it is needed.

pyradiomics hands the whole image to SimpleITK, whose B-spline first filters all of it. A coefficient depends on a sample
k voxels away by 0.268^k, so the region's surroundings are enough. Whatever could make a difference is left to
SimpleITK: other interpolators, images of float64, masks on a grid of their own, and intensities so near to an integer that
the last bit decides which integer the cast (towards zero) makes of them, as in flat regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from hccstudy.engine.jit import kernel

Array = NDArray[Any]

SUPPORT = 40  # voxels: 0.268^40 is 1e-23
HORIZON = 18  # voxels from a border that ITK looks at: where 0.268^k is 1e-10
NEAR = 1e-12  # parts of the largest intensity: well above the rounding errors of 64 products


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a resampled image lie; x, y, z, in mm."""

    size: tuple[int, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]


def spline_resample(image: sitk.Image, grid: Grid) -> Array | None:
    """The voxels (z, y, x) of `image` on `grid` by cubic B-spline, of the image's type; None: leave it to SimpleITK.

    The grid has the direction of the image. Beyond half a voxel outside the image the result is 0.
    """
    values = sitk.GetArrayViewFromImage(image)
    integer = values.dtype.kind in "iu"
    if not (integer or values.dtype == np.float32):
        return None
    first = np.array(image.TransformPhysicalPointToContinuousIndex(grid.origin))[::-1]
    step = np.array(grid.spacing)[::-1] / np.array(image.GetSpacing())[::-1]
    positions = [a + b * np.arange(n) for a, b, n in zip(first, step, grid.size[::-1], strict=True)]
    inside = []
    for where, n in zip(positions, values.shape, strict=True):
        if np.abs(np.append(where + 0.5, where - n + 0.5)).min() < 1e-9:
            return None  # exactly on the border of the image
        inside.append(np.flatnonzero((where > -0.5) & (where < n - 0.5)))
    result = np.zeros([len(where) for where in positions], values.dtype)
    if not all(part.size for part in inside):
        return result
    positions = [where[part] for where, part in zip(positions, inside, strict=True)]
    resampled = _spline(values, positions)
    if integer:
        nearest = np.rint(resampled)
        if (np.abs(resampled - nearest) <= NEAR * max(1.0, float(np.abs(nearest).max()))).any():
            return None
        limits = np.iinfo(values.dtype)
        resampled = np.clip(resampled, limits.min, limits.max)
    result[tuple(slice(part[0], part[-1] + 1) for part in inside)] = resampled  # integers: towards zero
    return result


def _spline(values: Array, positions: Sequence[Array]) -> Array:
    """Interpolate at a grid of `positions` (voxels, along z, y and x) within the image, as float64."""
    box = [
        slice(max(int(where[0]) - SUPPORT, 0), min(int(where[-1]) + SUPPORT, n))
        for where, n in zip(positions, values.shape, strict=True)
    ]
    data: Array = values[tuple(box)].astype(np.float64)
    for axis in (2, 1, 0):
        n, part, where = values.shape[axis], box[axis], positions[axis]
        lines = np.ascontiguousarray(np.moveaxis(data, axis, 0)).reshape(data.shape[axis], -1)
        if n > 1:
            _to_coefficients(lines, part.start == 0, part.stop == n, n)
        base = np.floor(where).astype(np.int64) - 1
        places = base[:, None] + np.arange(4)
        places = n - 1 - np.abs(n - 1 - np.abs(places)) if n > 1 else np.zeros_like(places)
        mixed = np.empty((len(where), lines.shape[1]))
        _mix(lines, places - part.start, _weights(where - base - 1), mixed)
        shape = [len(where), *(data.shape[other] for other in range(3) if other != axis)]
        data = np.moveaxis(mixed.reshape(shape), 0, axis)
    return data


def _weights(t: Array) -> Array:
    """Weights (n, 4) of the four cubic B-splines that reach a point `t` (n,) of the way between the inner two."""
    last = t**3 / 6
    first = 1 / 6 + t * (t - 1) / 2 - last
    third = t + first - 2 * last
    return np.stack([first, 1 - first - third - last, third, last], axis=1)


@kernel("void(float64[:, ::1], boolean, boolean, int64)")
def _to_coefficients(lines: Array, from_start: bool, to_end: bool, length: int) -> None:
    """B-spline coefficients along the first axis, in place (Unser, IEEE Signal Processing Magazine 1999;16:22, box 2).

    Mirrored at the borders, which `from_start` and `to_end` say to be there, of an image of `length` voxels; elsewhere the
    recursion starts and ends at voxels that are SUPPORT away from those needed.
    """
    z = np.sqrt(3.0) - 2
    count = lines.shape[0]
    lines *= (1 - z) * (1 - 1 / z)
    if from_start and length > HORIZON:
        power = z
        for i in range(1, HORIZON):
            lines[0] += power * lines[i]
            power *= z
    elif from_start:
        power, back = z, z ** (length - 1)
        lines[0] += back * lines[length - 1]
        back *= back / z
        for i in range(1, length - 1):
            lines[0] += (power + back) * lines[i]
            power *= z
            back /= z
        lines[0] /= 1 - power * power
    for i in range(1, count):
        lines[i] += z * lines[i - 1]
    if to_end and count > 1:
        lines[count - 1] = (z / (z * z - 1)) * (z * lines[count - 2] + lines[count - 1])
    for i in range(count - 2, -1, -1):
        lines[i] = z * (lines[i + 1] - lines[i])


@kernel("void(float64[:, ::1], int64[:, ::1], float64[:, ::1], float64[:, ::1])")
def _mix(lines: Array, places: Array, weights: Array, mixed: Array) -> None:
    for i in range(len(places)):
        a, b, c, d = lines[places[i, 0]], lines[places[i, 1]], lines[places[i, 2]], lines[places[i, 3]]
        for x in range(lines.shape[1]):
            mixed[i, x] = weights[i, 0] * a[x] + weights[i, 1] * b[x] + weights[i, 2] * c[x] + weights[i, 3] * d[x]


# --- pyradiomics' preparation of image and mask -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Volume:
    """An image, or the part of it that filters see: values z, y, x and spacing z, y, x in mm."""

    values: Array
    spacing: tuple[float, ...]

    def image(self) -> sitk.Image:
        result = sitk.GetImageFromArray(self.values)
        result.SetSpacing(self.spacing[::-1])
        return result


def prepare(image: sitk.Image, masks: Mapping[str, Array], settings: dict[str, Any]) -> dict[str, tuple[Volume, Array]]:
    """What pyradiomics' `loadImage` makes of an image for each region: region -> (volume, mask on its grid).

    `masks` are bool (z, y, x) on the image's grid. Regions share a volume where it does not depend on the region.
    """
    spacing, interpolator = settings.get("resampledPixelSpacing"), settings.get("interpolator")
    boxes = {region: bounding_box(mask) for region, mask in masks.items()}
    if spacing and interpolator is not None:
        return _resample(image, masks, boxes, settings)
    if settings.get("preCrop", False):
        return {region: _crop(image, mask, boxes[region], settings) for region, mask in masks.items()}
    whole = Volume(sitk.GetArrayFromImage(image), image.GetSpacing()[::-1])
    return {region: (whole, mask) for region, mask in masks.items()}


def bounding_box(mask: Array) -> list[slice]:
    box: list[slice] = []
    for axis in range(mask.ndim):
        # the axes that are known already are cut first: the rest has less to look at
        part = mask[tuple(box)]
        filled = np.flatnonzero(part.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return box


def _crop(image: sitk.Image, mask: Array, box: Sequence[slice], settings: dict[str, Any]) -> tuple[Volume, Array]:
    pad = settings.get("padDistance", 0)
    wide = tuple(slice(max(part.start - pad, 0), part.stop + pad) for part in box)
    values = sitk.GetArrayViewFromImage(image)[wide].copy()  # a view does not keep the image alive
    return Volume(values, image.GetSpacing()[::-1]), mask[wide]


def _resample(
    image: sitk.Image, masks: Mapping[str, Array], boxes: Mapping[str, Sequence[slice]], settings: dict[str, Any]
) -> dict[str, tuple[Volume, Array]]:
    """All regions lie on one grid per spacing, of which each has its part: the image is resampled once on their union."""
    old = np.array(image.GetSpacing())
    interpolator, pad = settings["interpolator"], settings.get("padDistance", 5)
    size = np.array(image.GetSize())
    parts: dict[tuple[float, ...], dict[str, tuple[Array, Array]]] = {}
    result = {}
    for region, box in boxes.items():
        first, end = (np.array([getattr(part, side) for part in box[::-1]]) for side in ("start", "stop"))
        wanted = np.array(settings["resampledPixelSpacing"], float)
        new = np.where((wanted == 0) | (end - first == 1), old, wanted)
        if np.allclose(old, new):
            result[region] = _crop(image, masks[region], box, settings)
            continue
        ratio = old / new
        low = np.maximum(np.floor((first - 0.5) * ratio - pad), 0)
        high = np.minimum(np.ceil((end - 0.5) * ratio + pad), np.ceil(size * ratio) - 1)
        parts.setdefault(tuple(new), {})[region] = (low, high)
    bits = _in_bits(image, {region: masks[region] for bounds in parts.values() for region in bounds}, boxes)
    for new_spacing, bounds in parts.items():
        new = np.array(new_spacing)
        low = np.min([low for low, _ in bounds.values()], axis=0)
        high = np.max([high for _, high in bounds.values()], axis=0)
        shared = spline_resample(image, _grid(image, low, high, new)) if _is_spline(interpolator) else None
        for region, (own_low, own_high) in bounds.items():
            grid = _grid(image, own_low, own_high, new)
            if shared is None:
                values = sitk.GetArrayFromImage(_by_simpleitk(image, grid, interpolator))
            else:
                cut = [slice(int(a), int(b) + 1) for a, b in zip(own_low - low, own_high - low, strict=True)]
                values = shared[tuple(cut[::-1])]
            # exact ties between two voxels fall as SimpleITK lets them fall on the region's own grid
            together, bit = bits[region]
            nearest = _by_simpleitk(together, grid, sitk.sitkNearestNeighbor)
            on_grid = (sitk.GetArrayViewFromImage(nearest) & bit) != 0
            result[region] = (Volume(values, new_spacing[::-1]), on_grid)
    return result


def _in_bits(
    image: sitk.Image, masks: Mapping[str, Array], boxes: Mapping[str, Sequence[slice]]
) -> dict[str, tuple[sitk.Image, np.uint8]]:
    """Masks on the grid of an image, eight to one: region -> (the image they share, the region's bit in it)."""
    result: dict[str, tuple[sitk.Image, np.uint8]] = {}
    regions = list(masks)
    for group in (regions[start : start + 8] for start in range(0, len(regions), 8)):
        voxels = np.zeros(image.GetSize()[::-1], np.uint8)
        bits = {region: np.uint8(1 << place) for place, region in enumerate(group)}
        for region, bit in bits.items():
            box = tuple(boxes[region])
            voxels[box] |= masks[region][box] * bit
        together = sitk.GetImageFromArray(voxels)
        together.CopyInformation(image)
        result |= {region: (together, bit) for region, bit in bits.items()}
    return result


def _is_spline(interpolator: Any) -> bool:
    return interpolator in ("sitkBSpline", sitk.sitkBSpline)


def _grid(image: sitk.Image, low: Array, high: Array, new: Array) -> Grid:
    """Voxels `low` to `high` of the grid of spacing `new` (mm) that has its first corner where `image` has it."""
    old = np.array(image.GetSpacing())
    origin = 0.5 * (new - old) / old + low / (old / new)
    size = tuple(int(n) for n in high - low + 1)
    return Grid(size, image.TransformContinuousIndexToPhysicalPoint(origin), tuple(new), image.GetDirection())


def _by_simpleitk(image: sitk.Image, grid: Grid, interpolator: Any) -> sitk.Image:
    if isinstance(interpolator, str):
        interpolator = getattr(sitk, interpolator, sitk.sitkBSpline)  # as pyradiomics: an unknown one is a B-spline
    resample = sitk.ResampleImageFilter()
    resample.SetSize(grid.size)
    resample.SetOutputOrigin(grid.origin)
    resample.SetOutputSpacing(grid.spacing)
    resample.SetOutputDirection(grid.direction)
    resample.SetOutputPixelType(image.GetPixelID())
    resample.SetInterpolator(interpolator)
    return resample.Execute(image)
