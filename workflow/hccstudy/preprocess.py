"""Preprocess: from canonical images and label maps to the study grid, by the conventions of IBSI.

Arrays are z, y, x as SimpleITK gives them; spacings in settings are x, y, z in mm. The order of operations is
that of the IBSI reference manual (Zwanenburg et al., Radiology 2020;295:328, and its image processing
chapter): intensities (CT window; MR bias field and normalization) on the acquired grid and the whole image,
then interpolation, then rounding of CT to integer HU. Re-segmentation, which removes voxels from a region,
comes later (regions.py): a CT window here *clips* intensities and removes nothing.

A new modality is a line in MODALITIES, a new normalization a function and a line in NORMALIZERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from hccstudy.batches import process_batch, read_own
from hccstudy.errors import CaseError, StudyError
from hccstudy.fingerprint import fingerprint
from hccstudy.ledger import write_ledger
from hccstudy.tables import file_digest, read_json, read_table, write_table

Array = NDArray[Any]
Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

IDENTITY = ["patient", "center", "series", "timepoint", "modality", "reader"]
COLUMNS = [*IDENTITY, "image", "mask", "image_sha256", "mask_sha256"]
TUMOR, LIVER, LESION = 1, 2, 3
# NIfTI stores spacing as float32, so 0.3 mm comes back as 0.30000001: without this slack (in voxels of the
# study grid) rounding up would add a voxel, and equal spacings would be interpolated.
GRID_SLACK = 1e-3
# A cubic spline coefficient depends on the sample k voxels away by 0.268**k: 1e-18 at 32 voxels.
SPLINE_SUPPORT = 32
INTERPOLATORS = {"linear": 1, "bspline": 3}
N4_VOXEL_MM = 8.0
# Three levels: the last has 4 x 4 x 4 spline cells, about 10 cm of a body. A fourth takes tumors for bias.
N4_ITERATIONS = [50, 50, 50]


@dataclass(frozen=True)
class Modality:
    """What the intensities of a modality allow: `knobs` are the settings that may be switched on."""

    knobs: frozenset[str]
    integer: bool = False


MODALITIES = {
    "CT": Modality(frozenset({"window"}), integer=True),
    "MR": Modality(frozenset({"bias_correction", "normalization"})),
    "PT": Modality(frozenset()),  # standardized uptake values, calibrated as they come
}


# --- the study grid -----------------------------------------------------------------------------------------


def grid_positions(n: int, old: float, new: float) -> Array:
    """Where the voxel centers of the study grid lie along one axis, in voxels of the acquired grid.

    Same center as the acquired grid, ceil(n * old / new) voxels (IBSI 026Q and QCY4, "align grid centers").
    Where the spacings agree, the positions are exactly 0 ... n - 1.
    """
    if abs(n * old / new - n) < GRID_SLACK:
        return np.arange(n, dtype=float)
    count = int(np.ceil(n * old / new - GRID_SLACK))
    step = new / old
    return (n - 1 - step * (count - 1)) / 2 + step * np.arange(count)


def needed_box(labels: Array, positions: Sequence[Array], margin: Sequence[float]) -> list[slice]:
    """The part of the study grid that covers all labels and `margin` acquired voxels (z, y, x) more."""
    box = []
    for axis, (where, more) in enumerate(zip(positions, margin, strict=True)):
        others = tuple(other for other in range(labels.ndim) if other != axis)
        filled = np.flatnonzero(labels.any(axis=others))
        inside = (where >= filled[0] - 0.5 - more) & (where <= filled[-1] + 0.5 + more)
        # a label thinner than the study grid may fall between two of its planes: keep the nearest
        inside[np.argmin(np.abs(where - filled.mean()))] = True
        chosen = np.flatnonzero(inside)
        box.append(slice(int(chosen[0]), int(chosen[-1]) + 1))
    return box


def positions_around(labels: Array, old: Sequence[float], new: Sequence[float], margin_mm: float) -> list[Array]:
    """`grid_positions` along z, y and x of the part of the study grid that `needed_box` keeps; spacings in mm."""
    whole = [grid_positions(*axis) for axis in zip(labels.shape, old, new, strict=True)]
    box = needed_box(labels, whole, [margin_mm / side for side in old])
    return [where[part] for where, part in zip(whole, box, strict=True)]


def resample(values: Array, positions: Sequence[Array], order: int) -> Array:
    """Interpolate at a grid, linearly (order 1) or by cubic B-spline (order 3).

    `positions` are those of the grid along z, y and x, in voxels of `values`, as of `grid_positions`.
    Interpolation on a grid is separable, so each axis is done in turn and only the samples that matter are
    touched: a part of a grid gets the values that the whole grid would give it. Beyond the outermost voxel
    centers the intensity of the boundary holds, as IBSI recommends. Axes with whole positions are copied;
    where all are, the values and their type are returned unchanged, otherwise float64.
    """
    reach = SPLINE_SUPPORT if order == 3 else 1
    positions = list(positions)
    for axis, where in enumerate(positions):
        first = max(int(np.floor(where[0])) - reach, 0)
        last = int(np.ceil(where[-1])) + reach
        values = values[(slice(None),) * axis + (slice(first, last + 1),)]
        positions[axis] = where - first
    # axes that lose voxels first, so that the arrays between are small
    for axis in sorted(range(values.ndim), key=lambda a: len(positions[a]) / values.shape[a]):
        values = _resample_axis(values, axis, positions[axis], order)
    return values


def _resample_axis(values: Array, axis: int, where: Array, order: int) -> Array:
    if np.array_equal(where, np.round(where)):
        return np.take(values, where.astype(int), axis=axis)
    last = values.shape[axis] - 1
    where = np.clip(where, 0, last)
    base = np.minimum(np.floor(where), max(last - 1, 0)).astype(int)
    t = where - base
    if order == 3:
        values = ndimage.spline_filter1d(values, 3, axis=axis, output=np.float64, mode="mirror")
        near, far = 2 / 3 - t**2 + t**3 / 2, 2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2
        weights = {-1: (1 - t) ** 3 / 6, 0: near, 1: far, 2: t**3 / 6}
    else:
        weights = {0: 1 - t, 1: t}
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    total: Any = 0
    for offset, weight in weights.items():
        index = np.clip(last - np.abs(last - np.abs(base + offset)), 0, None)  # mirrored at the ends
        part = np.take(values, index, axis=axis).astype(float, copy=False)
        part *= weight.reshape(shape)
        total += part
    return total


def resample_mask(mask: Mask, positions: Sequence[Array]) -> Mask:
    """Interpolate a mask linearly and threshold it at 0.5; ties count as inside."""
    # float32 spacings move exact ties by about 1e-8
    return np.asarray(resample(mask.astype(float), positions, order=1) >= 0.5 - 1e-6)


def place(array: Array, image: sitk.Image, positions: Sequence[Array], spacing: Sequence[float]) -> sitk.Image:
    """An array (z, y, x) as an image at `positions` (z, y, x) of the grid of `image`, `spacing` x, y, z in mm."""
    result = sitk.GetImageFromArray(array)
    first = [float(where[0]) for where in positions[::-1]]
    result.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    result.SetSpacing(spacing)
    result.SetDirection(image.GetDirection())
    return result


def resample_labels(labels: Labels, positions: Sequence[Array]) -> Labels:
    """Interpolate each mask of a label map by `resample_mask`.

    The tumor wins over other lesions, these over the liver. The liver is treated as the whole organ (any
    label), where the map has it at all, so that no hole opens where three labels meet.
    """
    result = np.zeros([len(where) for where in positions], np.uint8)
    if (labels == LIVER).any():
        result[resample_mask(labels > 0, positions)] = LIVER
    if (labels == LESION).any():
        result[resample_mask(labels == LESION, positions)] = LESION
    result[resample_mask(labels == TUMOR, positions)] = TUMOR
    return result


# --- intensities --------------------------------------------------------------------------------------------


def clip(values: Array, window: Sequence[float]) -> Array:
    low, high = (np.float32(bound) for bound in window)  # a Python float would turn int16 into float64
    return np.clip(values, low, high)


def round_to_integers(values: Array) -> Array:
    """The nearest integers, halves (up to numerical noise) upwards; int16 where they fit, else int32."""
    rounded = np.floor(values + (0.5 + 1e-6))
    small = np.iinfo(np.int16)
    fits = rounded.min() >= small.min and rounded.max() <= small.max
    return rounded.astype(np.int16 if fits else np.int32)


def body_region(values: Array) -> Mask:
    """The patient without the air around: above Otsu's threshold, holes filled slice by slice.

    The brightest 1 % are clipped for the threshold, since a few bright vessels or coil voxels would raise it.
    """
    clipped = np.minimum(values, np.percentile(values, 99))
    body = clipped > threshold_otsu(clipped)
    if not body.any():
        raise CaseError("image without contrast", f"all {values.size} voxels are {values.flat[0]:g}; expected a body")
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])


def correct_bias(image: sitk.Image, body: Mask) -> Array:
    """Divide by the bias field that N4 finds in the body (Tustison et al., IEEE TMI 2010;29:1310).

    The field is smooth, so it is estimated on about every 8 mm and evaluated on the full grid. One thread:
    sums over threads would depend on their number.
    """
    values = sitk.Cast(image, sitk.sitkFloat32)
    mask = sitk.GetImageFromArray((body & (sitk.GetArrayViewFromImage(values) > 0)).astype(np.uint8))
    mask.CopyInformation(values)
    factors = [
        int(np.clip(round(N4_VOXEL_MM / spacing), 1, max(size // 8, 1)))
        for size, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(N4_ITERATIONS)
    n4.Execute(sitk.Shrink(values, factors), sitk.Shrink(mask, factors))
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(values)).astype(float)
    return np.asarray(sitk.GetArrayFromImage(values) / np.exp(field))


def normalize_none(values: Array, region: Mask, landmarks: Any) -> Array:
    return values


def normalize_zscore(values: Array, region: Mask, landmarks: Any) -> Array:
    """Mean 0 and standard deviation 1 within the region."""
    inside = values[region].astype(float)
    if inside.std() == 0:
        raise CaseError(
            "image cannot be normalized",
            f"all {inside.size} voxels of the region have one intensity; expected some spread",
        )
    return np.asarray((values - inside.mean()) / inside.std())


def normalize_nyul(values: Array, region: Mask, landmarks: dict[str, Any]) -> Array:
    """Map the region's percentiles onto the standard scale, piecewise linearly.

    Beyond the outermost landmarks the first and last segments go on. Source: Nyul and Udupa, Magn Reson Med
    1999;42:1072.
    """
    scale = np.asarray(landmarks["scale"], float)
    found = np.percentile(values[region], landmarks["percentiles"])
    if (np.diff(found) <= 0).any():
        raise CaseError(
            "image cannot be normalized",
            f"percentiles {landmarks['percentiles']} are {found.tolist()}; expected them to rise",
        )
    slopes = np.diff(scale) / np.diff(found)
    result = np.interp(values, found, scale)
    below, above = values < found[0], values > found[-1]
    result[below] = scale[0] + (values[below] - found[0]) * slopes[0]
    result[above] = scale[-1] + (values[above] - found[-1]) * slopes[-1]
    return np.asarray(result)


NORMALIZERS: dict[str, Callable[[Array, Mask, Any], Array]] = {
    "none": normalize_none,
    "zscore": normalize_zscore,
    "nyul": normalize_nyul,
}


def learn_landmarks(images: Iterable[Array], percentiles: Sequence[float], *, made_from: str) -> dict[str, Any]:
    """The standard scale of Nyul's normalization, in the form of a landmarks file.

    `images` holds one array of intensities per image (the voxels of the region that will be normalized),
    `percentiles` are rising, e.g. 1, 10, ..., 90, 99. Each image's percentiles are mapped linearly so that
    the outermost become 0 and 100, then averaged over the images. The pipeline reads landmarks from a file
    and never learns them on its way, because a scale learned on patients who are evaluated later would leak:
    make the file once from development patients or from other people's images, and say in `made_from` which.
    """
    scales = []
    for image in images:
        found = np.percentile(image, percentiles)
        scales.append((found - found[0]) / (found[-1] - found[0]) * 100)
    scale = np.mean(scales, axis=0)
    return {
        "percentiles": list(percentiles),
        "scale": scale.tolist(),
        "n": len(scales),
        "made_from": made_from,
    }


def read_landmarks(path: str | Path) -> dict[str, Any]:
    """A landmarks file, {"percentiles": [...], "scale": [...], "n": ..., "made_from": ...}, checked."""
    if not Path(path).is_file():
        raise StudyError(f"{path}: no such file; expected landmarks for Nyul's normalization")
    found = read_json(path)
    try:
        percentiles, scale = np.array([found["percentiles"], found["scale"]], float)
        good = len(scale) > 1 and (np.diff(percentiles) > 0).all() and (np.diff(scale) > 0).all()
        good = good and percentiles[0] >= 0 and percentiles[-1] <= 100
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        expected = "percentiles (0 to 100) and scale, two rising lists of one length, at least 2 long"
        raise StudyError(f"{path}: {str(found)[:200]}; expected {expected}")
    return dict(found)


# --- series and batch ---------------------------------------------------------------------------------------


def check_settings(settings: dict[str, Any]) -> None:
    """StudyError where a series asks for what does not exist or what its modality does not allow."""

    def must(good: bool, key: str, found: Any, expected: str) -> None:
        if not good:
            raise StudyError(f"preprocess.{key} is {found!r}; expected {expected}")

    def one_of(valid: Iterable[str], key: str, found: Any) -> None:
        must(found in valid, key, found, "one of " + ", ".join(valid))

    for name, series in settings["series"].items():
        key = f"series.{name}"
        one_of(MODALITIES, f"{key}.modality", series["modality"])
        one_of(INTERPOLATORS, f"{key}.interpolator", series["interpolator"])
        one_of(NORMALIZERS, f"{key}.normalization", series["normalization"])
        one_of(["body", "liver"], f"{key}.normalization_region", series["normalization_region"])
        used = {"window": series["window"] is not None, "bias_correction": series["bias_correction"]}
        used["normalization"] = series["normalization"] != "none"
        for knob, on in used.items():
            fitting = [modality for modality, rules in MODALITIES.items() if knob in rules.knobs]
            expected = f"it to be off for {series['modality']} (it is for {', '.join(fitting)})"
            must(not on or series["modality"] in fitting, f"{key}.{knob}", series[knob], expected)
            allowed = not on or settings["mode"] == "ibsi"
            must(allowed, f"{key}.{knob}", series[knob], "it to be off with features.mode parity")
        if series["normalization"] == "nyul":
            must(bool(series["landmarks"]), f"{key}.landmarks", series["landmarks"], "a file, for nyul")


def prepare_intensities(image: sitk.Image, labels: Labels, series: dict[str, Any]) -> Array:
    """Window, bias correction and normalization of one whole image on its acquired grid."""
    values = sitk.GetArrayFromImage(image)
    if series["window"] is not None:
        # before interpolation, so that the spline does not ring at metal or air
        values = clip(values, series["window"])
    if series["bias_correction"]:
        values = correct_bias(image, body_region(values))
    if series["normalization"] != "none":
        if series["normalization_region"] == "body":
            region = body_region(values)
        elif (labels == LIVER).any():
            region = labels > 0
        else:
            raise CaseError("no liver mask", f"normalization within the liver needs label {LIVER} (liver)")
        landmarks = read_landmarks(series["landmarks"]) if series["normalization"] == "nyul" else None
        values = NORMALIZERS[series["normalization"]](values, region, landmarks)
    return values


def to_study_grid(
    image: sitk.Image, maps: Sequence[Labels], settings: dict[str, Any], name: str
) -> tuple[sitk.Image, list[sitk.Image]]:
    """One image and its readers' label maps on the study grid, cut to what the labels and the margin need.

    The cut changes no voxel: grid and intensities are those of the whole image. What filters then see beyond it is for
    the margin to hold (`parameters.filter_reach_mm`). In mode "parity" image and maps stay as they were acquired, with
    their type, which pyradiomics resamples into. CaseError where a reader's map has no tumor, or loses it by
    interpolation.
    """
    series = settings["series"][name]
    for labels in maps:
        if not (labels == TUMOR).any():
            raise CaseError("empty mask", f"series {name}: no voxel of label {TUMOR} (tumor)")
    old = image.GetSpacing()[::-1]
    if settings["mode"] == "parity":
        whole = [np.arange(n, dtype=float) for n in maps[0].shape]
        return image, [place(labels, image, whole, image.GetSpacing()) for labels in maps]
    prepared = prepare_intensities(image, maps[0], series)
    new = [float(side) for side in series["spacing"][::-1]]
    positions = positions_around(np.maximum.reduce(maps), old, new, settings["margin_mm"])
    values = resample(prepared, positions, INTERPOLATORS[series["interpolator"]])
    if series["window"] is not None:
        values = clip(values, series["window"])  # a spline overshoots the window's own edges
    if MODALITIES[series["modality"]].integer:
        values = round_to_integers(values)
    else:
        # the smallest type that holds the acquired values: what is not interpolated stays bit-identical
        values = values.astype(np.result_type(sitk.GetArrayViewFromImage(image).dtype, np.float32))

    masks = []
    for labels in maps:
        mapped = resample_labels(labels, positions)
        if not (mapped == TUMOR).any():
            count = int((labels == TUMOR).sum())
            raise CaseError(
                "tumor lost on the study grid",
                f"series {name}: {count} voxels of {old[2]:g} x {old[1]:g} x {old[0]:g} mm become 0 of "
                f"{new[2]:g} x {new[1]:g} x {new[0]:g} mm",
            )
        masks.append(place(mapped, image, positions, new[::-1]))
    return place(values, image, positions, new[::-1]), masks


def preprocess_batch(
    *, cases: str, settings: dict[str, Any], folder: str, table: str, ledger: str, attempt: int = 1
) -> None:
    """Bring every series of every patient of a batch to the study grid.

    `cases` is the table of `imports`; `table` gets the same rows with the files on the study grid.
    `settings`: "series" (name -> modality, spacing, interpolator, window, bias_correction, normalization,
    normalization_region, landmarks), "margin_mm" (what is kept around the labels: at least the largest
    ring plus the reach of the filters) and "mode" (of features: "parity" keeps images as they were acquired).
    """
    check_settings(settings)
    using = [series for series in settings["series"].values() if series["normalization"] == "nyul"]
    landmarks = {series["landmarks"]: read_landmarks(series["landmarks"]) for series in using}
    frame = read_table(cases, COLUMNS)[COLUMNS].astype(object)
    frame = frame.where(frame.notna(), "")
    strange = sorted(set(frame["series"]) - set(settings["series"]))
    if strange:
        known = ", ".join(settings["series"])
        raise StudyError(
            f"{cases}: series {strange[0]!r} is not in the settings of preprocess; expected one of {known}"
        )

    def image_key(row: dict[str, Any]) -> tuple[str, ...]:
        # readers share an image, unless it is normalized within the liver that a reader drew
        series = settings["series"][row["series"]]
        own = series["normalization"] != "none" and series["normalization_region"] == "liver"
        return (row["series"], row["image_sha256"], row["mask"] if own else "")

    def work(case: dict[str, Any], scratch: Path) -> list[dict[str, Any]]:
        home = Path(folder) / case["patient"]
        done = []
        groups = groupby(sorted(case["rows"], key=image_key), key=image_key)
        for number, ((name, *_), group) in enumerate(groups, start=1):
            rows = list(group)
            maps = [sitk.GetArrayFromImage(read_own(row["mask"], sitk.sitkUInt8)) for row in rows]
            image, masks = to_study_grid(read_own(rows[0]["image"]), maps, settings, name)
            image_file = f"{name}_{number}.nii.gz"
            sitk.WriteImage(image, scratch / image_file, useCompression=True)
            for reader, (row, mask) in enumerate(zip(rows, masks, strict=True), start=1):
                mask_file = f"{name}_{number}_mask_{reader}.nii.gz"
                sitk.WriteImage(mask, scratch / mask_file, useCompression=True)
                new = {"image": str(home / image_file), "mask": str(home / mask_file)}
                new["image_sha256"] = file_digest(scratch / image_file)
                new["mask_sha256"] = file_digest(scratch / mask_file)
                done.append(row | new)
        order = {(row["series"], row["reader"]): place for place, row in enumerate(case["rows"])}
        return sorted(done, key=lambda row: order[row["series"], row["reader"]])

    patients = [
        {"patient": patient, "center": rows["center"].iloc[0], "rows": rows.to_dict("records")}
        for patient, rows in frame.groupby("patient", sort=False)
    ]
    key = {"settings": settings, "landmarks": landmarks, "code": fingerprint("hccstudy.preprocess")}
    rows, lines = process_batch(patients, work, stage="preprocess", folder=folder, key=key, attempt=attempt)
    write_table(pd.DataFrame(rows, columns=COLUMNS), table)
    write_ledger(lines, ledger)
