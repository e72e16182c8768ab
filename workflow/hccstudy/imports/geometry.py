"""Where voxels lie: grids, slice stacks and masks that are moved from one grid to another.

Everything is in the patient's LPS system in mm (DICOM, ITK). Index coordinates are (x, y, z) in voxels, the
center of the first voxel at 0, as in SimpleITK.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from skimage.draw import polygon

from hccstudy.errors import CaseError

Floats = NDArray[np.float64]

# How far (in voxels) a center may lie from where a regular grid has it. Headers are rounded to 1e-3 voxels
# and better; a real displacement is half a voxel and more.
TOLERANCE = 0.1
SPACINGS = (0.01, 100)  # mm
OTHER_GRID = "mask on another grid"


def axes(image: sitk.Image) -> Floats:
    """The 3 x 3 matrix whose columns are the steps in mm along the index axes."""
    matrix: Floats = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    return matrix


def to_index(image: sitk.Image, points: Floats) -> Floats:
    """Index coordinates (n x 3) of points (n x 3) in mm."""
    result: Floats = np.linalg.solve(axes(image), (points - np.asarray(image.GetOrigin())).T).T
    return result


def to_mm(image: sitk.Image, index: Floats) -> Floats:
    """Points (n x 3) in mm of index coordinates (n x 3)."""
    result: Floats = index @ axes(image).T + np.asarray(image.GetOrigin())
    return result


def describe(image: sitk.Image) -> str:
    """A grid in words, for messages."""
    size = "x".join(str(n) for n in image.GetSize())
    spacing = "x".join(f"{step:.4g}" for step in image.GetSpacing())
    origin = ", ".join(f"{value:.2f}" for value in image.GetOrigin())
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return f"{size} voxels of {spacing} mm, axes {code}, origin ({origin})"


def check_spacing(spacing: Sequence[float], where: str) -> None:
    """Refuse a spacing (mm) that no scan has: zero, negative, NaN, or in another unit."""
    if not all(SPACINGS[0] <= step <= SPACINGS[1] for step in spacing):
        found = ", ".join(f"{step:.4g}" for step in spacing)
        raise CaseError(
            "invalid voxel spacing",
            f"{where}: spacing is {found} mm; expected {SPACINGS[0]} to {SPACINGS[1]} mm",
        )


def check_grid(image: sitk.Image, where: str) -> None:
    """Refuse a grid without volume: impossible spacing, axes not orthonormal, fewer than two slices."""
    check_spacing(image.GetSpacing(), where)
    direction = np.reshape(image.GetDirection(), (3, 3))
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise CaseError(
            "sheared image axes", f"{where}: the axes are not orthogonal unit vectors: {direction.tolist()}"
        )
    if min(image.GetSize()) < 2:
        raise CaseError(
            "not a 3-D image",
            f"{where}: size is {image.GetSize()}; expected two voxels or more along each axis",
        )


def canonical(image: sitk.Image) -> sitk.Image:
    """The same voxels, axes permuted and flipped to run nearest to left, posterior and superior."""
    return sitk.DICOMOrient(image, "LPS")


class Stack(NamedTuple):
    """A proven regular stack of slices."""

    order: list[int]
    spacing: float  # between slices, mm
    normal: Floats  # unit vector from the first to the last slice


def stack_slices(
    positions: Floats, row: Floats, column: Floats, pixel: float, names: Sequence[str], where: str
) -> Stack:
    """Sort slices along their normal and prove that they are a regular orthogonal stack.

    `positions` (n x 3, mm) are the ImagePositionPatient of the slices, `row` and `column` the two halves of
    their common ImageOrientationPatient, `pixel` the smaller in-plane spacing in mm (DICOM PS3.3
    C.7.6.2.1.1). A tilted gantry and gaps are refused rather than repaired: a repair would interpolate what
    was not acquired.
    """
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    along = along[order]
    gaps = np.diff(along)
    named = [names[place] for place in order]

    twice = np.flatnonzero(gaps < 0.01)
    if len(twice):
        pairs = ", ".join(f"{named[i]} and {named[i + 1]} at {along[i]:.2f} mm" for i in twice[:3])
        raise CaseError(
            "duplicate slices",
            f"{where}: {len(twice)} of {len(named)} slices lie where another does ({pairs}); expected one "
            "slice per position (several phases, echoes or reconstructions may share the series)",
        )
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if len(wide):
        places = ", ".join(
            f"{gaps[i]:.2f} mm between {named[i]} ({along[i]:.2f}) and {named[i + 1]} ({along[i + 1]:.2f})"
            for i in wide[:3]
        )
        raise CaseError(
            "missing slices",
            f"{where}: {len(wide)} gap(s) in {len(named)} slices: {places}; expected {usual:.2f} mm",
        )
    spacing = float(gaps.mean())
    uneven = np.abs(along - along[0] - spacing * np.arange(len(along)))
    if uneven.max() > TOLERANCE * spacing:
        worst = int(uneven.argmax())
        raise CaseError(
            "uneven slice spacing",
            f"{where}: {named[worst]} is {uneven[worst]:.3f} mm from its place in an even stack "
            f"(gaps {gaps.min():.3f} to {gaps.max():.3f} mm); expected one spacing",
        )
    shift = positions[order] - positions[order[0]] - np.outer(along - along[0], normal)
    aside = np.linalg.norm(shift, axis=1)
    if aside.max() > TOLERANCE * pixel:
        angle = np.degrees(np.arctan2(aside[-1], along[-1] - along[0]))
        raise CaseError(
            "gantry tilt",
            f"{where}: the slices shift sideways by {aside.max():.2f} mm along the stack "
            f"({angle:.1f} degrees); expected them above each other (resample the series first)",
        )
    return Stack([int(place) for place in order], spacing, normal)


def on_one_lattice(image: sitk.Image, mask: sitk.Image) -> bool:
    """Whether voxels of `mask` are voxels of the (extended) image grid, in any axis order, cropped or not."""
    steps = np.linalg.solve(axes(image), axes(mask))
    whole = np.rint(steps)
    if not ((np.abs(whole).sum(0) == 1).all() and (np.abs(whole).sum(1) == 1).all()):
        return False
    start = to_index(image, np.asarray([mask.GetOrigin()]))[0]
    apart = _corners(mask) @ (steps - whole).T + (start - np.rint(start))
    return bool(np.abs(apart).max() <= TOLERANCE)


def _corners(image: sitk.Image) -> Floats:
    """Index coordinates (8 x 3) of the outermost voxel centers."""
    ends = [(0, n - 1) for n in image.GetSize()]
    return np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, 3).astype(float)


def _share_inside(image: sitk.Image, points: Floats) -> float:
    """The share of points (mm) that lie within the voxels of the image."""
    index, margin = to_index(image, points), 0.5 + TOLERANCE
    return float(((index >= -margin) & (index <= np.asarray(image.GetSize()) - 1 + margin)).all(axis=1).mean())


def place(mask: sitk.Image, image: sitk.Image, where: str, *, whole: bool) -> NDArray[np.bool_]:
    """A binary mask (values 0 and 1) on the image's grid, as a (z, y, x) array.

    A mask on the same lattice is taken voxel by voxel (axes permuted, flipped or cropped are fine); on
    another grid it is interpolated linearly and cut at 0.5 (IBSI), where its physical space says that it
    belongs there. `whole`: all of the mask must lie within the image (a tumor), else any part of it (a liver
    that the scan cuts). Raises CaseError "mask on another grid".
    """
    aligned = on_one_lattice(image, mask)
    grids = f"the mask has {describe(mask)}; the image has {describe(image)}"
    inside = _share_inside(image, to_mm(mask, _corners(mask)))
    if sorted(mask.GetSize()) == sorted(image.GetSize()) and not (aligned and inside == 1):
        raise CaseError(
            OTHER_GRID,
            f"{where}: {grids}; the same size at another place is how a mask looks that lost its header, so "
            "nothing is assumed: copy the header of the image if they belong voxel to voxel",
        )
    if inside < 1:  # not all of the grid, but perhaps all of the region
        zyx = np.argwhere(sitk.GetArrayViewFromImage(mask) != 0)
        inside = _share_inside(image, to_mm(mask, zyx[:, ::-1].astype(float)))
    if inside == 0 or (whole and inside < 1):
        expected = "all of it" if whole else "some of it"
        raise CaseError(OTHER_GRID, f"{where}: {inside:.0%} of it lies within the image; expected {expected}; {grids}")
    if aligned:
        moved = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
    else:
        soft = sitk.Cast(mask, sitk.sitkFloat32)
        moved = sitk.Resample(soft, image, sitk.Transform(), sitk.sitkLinear, 0.0)
    result: NDArray[np.bool_] = sitk.GetArrayViewFromImage(moved) >= 0.5
    if not result.any():
        raise CaseError("empty mask", f"{where}: nothing of it is left on the image's grid; {grids}")
    return result


def rasterize(contours: Sequence[Floats], image: sitk.Image, where: str, *, whole: bool) -> NDArray[np.bool_]:
    """Closed planar contours (each n x 3, mm) as a (z, y, x) mask of the voxels whose centers they enclose.

    Works in index coordinates, so oblique images need no care. Contours of one slice are combined by XOR,
    which makes an inner contour a hole (DICOM PS3.3 C.8.8.6, CLOSEDPLANAR_XOR).
    """
    indices = [to_index(image, contour) for contour in contours]
    flatness = np.max([np.ptp(index, axis=0) for index in indices], axis=0)
    axis = int(flatness.argmin())
    size = np.asarray(image.GetSize())
    levels = np.asarray([index[:, axis].mean() for index in indices])
    slices = np.rint(levels).astype(int)
    grid = f"the image has {describe(image)}"
    if flatness[axis] > TOLERANCE:
        raise CaseError(OTHER_GRID, f"{where}: the contours are not parallel to the slices; {grid}")
    if np.abs(levels - slices).max() > TOLERANCE:
        worst = int(np.abs(levels - slices).argmax())
        raise CaseError(
            OTHER_GRID, f"{where}: a contour lies on no slice (slice coordinate {levels[worst]:.2f}); {grid}"
        )
    inside = _share_inside(image, np.concatenate(contours))
    if inside == 0 or (whole and inside < 1):
        raise CaseError(OTHER_GRID, f"{where}: {inside:.0%} of the contour points lie within the image; {grid}")
    steps = np.diff(np.unique(slices))
    if len(steps) and np.median(steps) > 1:
        raise CaseError(
            "contours skip slices",
            f"{where}: contours on {len(steps) + 1} slices, mostly {np.median(steps):g} apart; expected "
            "every slice of the region (interpolate the contours first)",
        )
    result = np.zeros(tuple(size[::-1]), dtype=bool)
    planes = np.moveaxis(result, 2 - axis, 0)
    first, second = (other for other in (2, 1, 0) if other != axis)
    seen = set()
    for index, level in zip(indices, slices, strict=True):
        # A contour stored twice would cancel itself.
        if not 0 <= level < size[axis] or (level, index.tobytes()) in seen:
            continue
        seen.add((level, index.tobytes()))
        filled = polygon(index[:, first], index[:, second], planes.shape[1:])
        planes[level][filled] ^= True
    return result
