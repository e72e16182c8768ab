"""Regions: the tumor, the rings around it, and small perturbations of it.

Arrays are z, y, x, spacings z, y, x in mm. A label map holds 0 background, 1 tumor, 2 liver outside tumors, 3
other lesions; the liver is known where any voxel is 2. Distances are Euclidean and in mm, from voxel center
to voxel center, so they hold on anisotropic grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from hccstudy.batches import process_batch, read_own
from hccstudy.errors import CaseError, StudyError
from hccstudy.fingerprint import fingerprint
from hccstudy.ledger import write_ledger
from hccstudy.tables import file_digest, read_table, write_table

IDENTITY = ["patient", "center", "series", "timepoint", "modality", "reader"]
MEASURES = ["voxels", "volume_mm3", "clipped_fraction"]
FILES = ["image", "mask", "intensity_mask", "image_sha256", "mask_sha256", "intensity_mask_sha256"]
COLUMNS = [*IDENTITY, "region", *FILES, *MEASURES]
BACKGROUND, TUMOR, LIVER, LESION, OUTSIDE = 0, 1, 2, 3, 255

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Window = Sequence[tuple[int, int]]

# How much readers differ: shifts up to a voxel of the finest axis, contours up to a millimeter wider or
# narrower, and a contour that wavers. In tumors of a radius below 10 mm all of it shrinks with the radius.
PERTURBATIONS = ("translation", "growth", "contour", "combined")
GROWTH_MM = 1.0
CONTOUR_SD_MM = 1.0
CONTOUR_CORRELATION_MM = 5.0
FULL_STRENGTH_RADIUS_MM = 10.0
SMOOTHING = 0.7  # voxels of the finest axis


# --- windows around a tumor: distances are needed near it only ----------------------------------------------


def _window(mask: Mask, spacing: Sequence[float], margin_mm: float) -> Window:
    """Per axis the first index and the end of the mask's bounding box plus a margin; may leave the image."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    more = [int(np.ceil(margin_mm / side)) + 1 for side in spacing]
    return [(part.start - extra, part.stop + extra) for part, extra in zip(box, more, strict=True)]


def _inner(window: Window, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a window that lies in the image: as slices of the image and as slices of the window."""
    image = tuple(slice(max(a, 0), min(b, n)) for (a, b), n in zip(window, shape, strict=True))
    inner = tuple(slice(part.start - a, part.stop - a) for part, (a, _) in zip(image, window, strict=True))
    return image, inner


def _cut(array: NDArray[Any], window: Window, fill: int) -> NDArray[Any]:
    part = np.full([b - a for a, b in window], fill, array.dtype)
    image, inner = _inner(window, array.shape)
    part[inner] = array[image]
    return part


def _paste(part: Mask, window: Window, shape: Sequence[int]) -> Mask:
    whole = np.zeros(shape, bool)
    image, inner = _inner(window, shape)
    whole[image] = part[inner]
    return whole


# --- regions ------------------------------------------------------------------------------------------------


def make_regions(
    labels: Labels, spacing: Sequence[float], rings: Mapping[str, Sequence[float]]
) -> dict[str, tuple[Mask, float]]:
    """The tumor and the rings of a label map: name -> (mask, clipped fraction).

    A ring (inner, outer) holds the voxels outside the tumor with inner < distance to the tumor <= outer, in
    mm. It is clipped to the liver where the liver is known, and loses other lesions. The clipped fraction is
    the part of the ring's voxels that this removes; voxels of the ring that would lie beyond the edge of the
    image count as removed. It is 0 for the tumor, and for a ring too thin to hold any voxel. Distances run
    from center to center, so a ring thinner than the slices stays within the tumor's own slices: use a study
    grid finer than the rings.
    """
    tumor = labels == TUMOR
    if not tumor.any():
        raise CaseError("empty mask", f"the label map has no voxel of label {TUMOR} (tumor)")
    regions = {"tumor": (tumor, 0.0)}
    if not rings:
        return regions
    window = _window(tumor, spacing, max(outer for _, outer in rings.values()))
    near = _cut(labels, window, OUTSIDE)
    allowed = near == (LIVER if (labels == LIVER).any() else BACKGROUND)
    # rounded, because a spacing read from NIfTI is a float32 and 10 x 0.3 mm must not be more than 3 mm
    distance = ndimage.distance_transform_edt(near != TUMOR, sampling=spacing).round(4)
    for name, (inner, outer) in rings.items():
        ring = (distance > inner) & (distance <= outer)
        kept = ring & allowed
        clipped = 1 - kept.sum() / ring.sum() if ring.any() else 0.0
        regions[name] = (_paste(kept, window, labels.shape), float(clipped))
    return regions


def resegment(image: NDArray[Any], mask: Mask, range_: Sequence[float] | None, sigma: float | None) -> Mask:
    """The intensity mask of IBSI: the voxels of `mask` in a closed range (USB3) and no outliers (7ACA).

    Outliers lie more than `sigma` standard deviations (population) from the mean of the voxels of `mask`.
    Both filters look at the whole mask and their results are intersected, as in MIRP, IBSI's reference
    implementation.
    """
    kept = mask.copy()
    if range_ is not None:
        kept &= (image >= range_[0]) & (image <= range_[1])
    if sigma is not None and mask.any():
        inside = image[mask].astype(float)
        mean, reach = inside.mean(), sigma * inside.std()
        kept &= (image >= mean - reach) & (image <= mean + reach)
    return kept


# --- perturbations ------------------------------------------------------------------------------------------


def perturb_mask(mask: Mask, spacing: Sequence[float], rng: np.random.Generator, kind: str) -> Mask:
    """The mask as another reader might have drawn it; `kind` is one of PERTURBATIONS.

    translation: a shift of up to one voxel of the finest axis, along each axis; growth: the contour moves
    outwards or inwards by up to GROWTH_MM; contour: it wavers by a smooth random field (standard deviation
    CONTOUR_SD_MM, correlation exp(-1/2) at CONTOUR_CORRELATION_MM); combined: all of them. All act on the
    signed distance to the contour, so parts of voxels count. A perturbation that would leave nothing is
    halved until something is left.
    """
    if kind not in PERTURBATIONS:
        raise StudyError(f"perturbation is {kind!r}; expected one of {', '.join(PERTURBATIONS)}")
    sides = np.asarray(spacing, float)
    finest = float(sides.min())
    window = _window(mask, spacing, finest + GROWTH_MM + 3 * CONTOUR_SD_MM)
    near = _cut(mask, window, 0)

    def drawn(name: str, value: Any) -> Any:
        return value if kind in (name, "combined") else 0 * value

    # all three are always drawn, so that a kind does not change the random numbers of another
    shift = drawn("translation", rng.uniform(-finest, finest, 3))
    growth = drawn("growth", rng.uniform(-GROWTH_MM, GROWTH_MM))
    waver = drawn("contour", CONTOUR_SD_MM * _smooth_field(near.shape, sides, rng))

    # distances run between voxel centers, the contour half a voxel before them
    outwards = ndimage.distance_transform_edt(~near, sampling=sides) - finest / 2
    inwards = ndimage.distance_transform_edt(near, sampling=sides) - finest / 2
    # a little smoothing, since distances come in steps of voxels and small changes would do nothing
    signed = ndimage.gaussian_filter(np.where(near, -inwards, outwards), SMOOTHING * finest / sides)
    radius = np.cbrt(3 * mask.sum() * sides.prod() / (4 * np.pi))
    full = min(1.0, radius / FULL_STRENGTH_RADIUS_MM)
    count = int(near.sum())
    for strength in full * 0.5 ** np.arange(10):
        moved = ndimage.shift(signed, strength * shift / sides, order=1, mode="nearest")
        # the contour is the level that keeps the volume: smoothing and shifting alone would shrink a mask
        level = np.partition(moved, [count - 1, count], axis=None)[count - 1 : count + 1].mean()
        result = _paste(moved - level <= strength * (growth + waver), window, mask.shape)
        if result.any():
            return result
    return mask.copy()


def _smooth_field(shape: Sequence[int], spacing: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A stationary Gaussian random field with mean 0 and standard deviation 1, cut off at 3."""
    # a kernel of this width makes a field whose correlation is sqrt(2) times wider
    width = CONTOUR_CORRELATION_MM / np.sqrt(2) / spacing
    pulse = np.zeros(shape)
    pulse[tuple(n // 2 for n in shape)] = 1
    gain = np.sqrt((ndimage.gaussian_filter(pulse, width, mode="wrap") ** 2).sum())
    field = ndimage.gaussian_filter(rng.standard_normal(shape), width, mode="wrap") / gain
    return np.asarray(np.clip(field, -3, 3))


def perturb_labels(labels: Labels, spacing_zyx: Sequence[float], seed: Any) -> Labels:
    """The label map with a perturbed tumor ("combined"), the same for the same seed (int or sequence of int).

    Other lesions stay. Where the tumor withdraws, its voxels become what lies nearest: liver where the liver
    is known and the tumor touched it, else background.
    """
    tumor = labels == TUMOR
    moved = perturb_mask(tumor, spacing_zyx, np.random.default_rng(seed), "combined") & (labels != LESION)
    if not moved.any():
        moved = tumor
    window = _window(tumor, spacing_zyx, 0)
    near = _cut(labels, window, BACKGROUND)
    nearest = ndimage.distance_transform_edt(
        near == TUMOR, sampling=spacing_zyx, return_distances=False, return_indices=True
    )
    by_liver = _paste(near[tuple(nearest)] != BACKGROUND, window, labels.shape) & (labels == LIVER).any()
    result = labels.copy()
    result[tumor & ~moved] = BACKGROUND
    result[tumor & ~moved & by_liver] = LIVER
    result[moved] = TUMOR
    return result


# --- batch --------------------------------------------------------------------------------------------------


def check_size(name: str, count: int, minimum: int, why: str) -> None:
    """CaseError where a region has too few voxels; a tumor that is too small is excluded, not failed."""
    if count >= minimum:
        return
    detail = f"region {name} {why}: {count} voxels; expected at least {minimum}"
    if name == "tumor":
        raise CaseError("tumor smaller than the minimum", detail, excluded=True)
    raise CaseError("ring empty after clipping", detail)


def make_regions_batch(
    *, cases: str, settings: dict[str, Any], folder: str, table: str, ledger: str, attempt: int = 1
) -> None:
    """Write the masks of every region of every series and reader of a batch.

    As in IBSI a region has two: `mask`, the morphological mask, gives its shape, and `intensity_mask`, the
    re-segmented one, its intensities. `voxels` counts the latter, `volume_mm3` measures the former.

    `cases` is the table of `preprocess`. `settings`: "rings" (name -> [inner, outer] mm), "minimum_voxels",
    and "resegment" (series -> {"range": [low, high] or null, "sigma": number or null}). A patient goes on
    only if every region of every series has the minimum, before and after re-segmentation.
    """
    frame = read_table(cases, [*IDENTITY, "image", "mask", "image_sha256"]).astype(object)
    frame = frame.where(frame.notna(), "")
    minimum = max(int(settings["minimum_voxels"]), 1)

    def work(case: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
        done = []
        for number, row in enumerate(case["rows"], start=1):
            limits = settings["resegment"][row["series"]]
            image = sitk.GetArrayFromImage(read_own(row["image"]))
            label_map = read_own(row["mask"], sitk.sitkUInt8)
            spacing = label_map.GetSpacing()[::-1]
            regions = make_regions(sitk.GetArrayFromImage(label_map), spacing, settings["rings"])
            for name, (region, clipped) in regions.items():
                where = f"of series {row['series']}"
                check_size(name, int(region.sum()), minimum, f"{where} ({clipped:.0%} clipped)")
                inside = resegment(image, region, limits["range"], limits["sigma"])
                count = int(inside.sum())
                if count < minimum:
                    raise CaseError(
                        "region lost by re-segmentation",
                        f"region {name} {where}: {count} of {int(region.sum())} voxels are within range "
                        f"{limits['range']} and {limits['sigma']} sigma; expected at least {minimum}",
                    )
                files = {"mask": f"{row['series']}_{number}_{name}.nii.gz"}
                files["intensity_mask"] = files["mask"].replace(".nii.gz", "_intensity.nii.gz")
                line = {column: row[column] for column in [*IDENTITY, "image", "image_sha256"]} | {"region": name}
                for kind, voxels in (("mask", region), ("intensity_mask", inside)):
                    written = sitk.GetImageFromArray(voxels.astype(np.uint8))
                    written.CopyInformation(label_map)
                    sitk.WriteImage(written, scratch / files[kind], useCompression=True)
                    line |= {kind: str(Path(folder) / case["patient"] / files[kind])}
                    line |= {f"{kind}_sha256": file_digest(scratch / files[kind])}
                volume = int(region.sum()) * float(np.prod(spacing))
                done.append(line | {"voxels": count, "volume_mm3": volume, "clipped_fraction": clipped})
        return done

    patients = [
        {"patient": patient, "center": rows["center"].iloc[0], "rows": rows.to_dict("records")}
        for patient, rows in frame.groupby("patient", sort=False)
    ]
    key = {"settings": settings, "code": fingerprint("hccstudy.regions")}
    rows, lines = process_batch(patients, work, stage="regions", folder=folder, key=key, attempt=attempt)
    write_table(pd.DataFrame(rows, columns=COLUMNS), table)
    write_ledger(lines, ledger)
