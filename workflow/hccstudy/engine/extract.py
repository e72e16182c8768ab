"""The one extraction function: all features of all regions of one image, by either engine."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from radiomics import featureextractor, imageoperations
from radiomics.featureextractor import RadiomicsFeatureExtractor

from hccstudy.engine import filters
from hccstudy.engine.ibsi_extra import extra_features
from hccstudy.engine.regions import Region
from hccstudy.engine.resampling import Volume, bounding_box, prepare
from hccstudy.errors import CaseError, StudyError, is_out_of_memory
from hccstudy.ibsi import ibsi_values
from hccstudy.parameters import STANDARDIZATION, check_engine, load_parameters

NAMES = ("ibsi", "pyradiomics")
ENGINES = ("fast", "pyradiomics")
DEFAULT_TOLERANCE = 1e-6  # of SimpleITK
EXTRA_CLASSES = ("shape", "firstorder", "glszm")  # those of which IBSI has more features
LOG_TYPES = ("int8", "uint8", "int16", "uint16", "float32")  # float32 holds them exactly, and ITK computes in it

Array = NDArray[Any]
Values = dict[str, float]
Clock = defaultdict[str, float]  # seconds spent, by what
Settings = dict[str, Any]
Box = tuple[slice, ...]


def extract(
    image: sitk.Image,
    masks: Mapping[str, sitk.Image],
    parameters: str,
    *,
    labels: Mapping[str, int] | None = None,
    intensity_masks: Mapping[str, sitk.Image] | None = None,
    names: str = "ibsi",
    engine: str = "fast",
    intensity_range: Sequence[float] | None = None,
    clock: Clock | None = None,
) -> dict[str, Values | CaseError]:
    """Features of every region of one image.

    `masks`: region -> mask on the image's grid, `labels`: region -> value of the region in its mask (default 1 or the
    parameter file's), `parameters`: path of a parameter file, `names`: "ibsi" or "pyradiomics", `engine`: "fast" or
    "pyradiomics" (the library itself). Without `intensity_masks` image and masks are prepared as pyradiomics does it; with
    them (region -> IBSI's intensity mask, beside the morphological one in `masks`) they are standardized already, and
    settings that would do it again are not heeded.

    Returns region -> {feature: value}, or the CaseError that says why a region is refused. Values are those of
    `RadiomicsFeatureExtractor.execute` (docs/performance.md says how close), under IBSI names those of `hccstudy.ibsi`
    with the features of `hccstudy.engine.ibsi_extra`, of which the intensity-volume histogram looks at `intensity_range`
    (of re-segmentation; default: the parameter file's). `clock` is told the seconds spent: "all", and by image type what
    was left to pyradiomics.
    """
    if names not in NAMES:
        raise StudyError(f"names is {names!r}; expected one of {', '.join(NAMES)}")
    if engine not in ENGINES:
        raise StudyError(f"engine is {engine!r}; expected one of {', '.join(ENGINES)}")
    extractor = load_parameters(parameters)
    if engine == "pyradiomics" or image.GetDimension() == 2:
        check_engine(parameters, "pyradiomics")
    started = time.perf_counter()
    clock = defaultdict(float) if clock is None else clock
    settings = dict(extractor.settings)
    if intensity_masks is not None:
        settings |= dict.fromkeys(STANDARDIZATION)
    label_of = {region: (labels or {}).get(region, settings.get("label", 1)) for region in masks}
    with _tolerance(settings.get("geometryTolerance")):
        cases: dict[str, _Case] = {}
        found = _refused(image, masks)
        if not found and image.GetDimension() == 3:
            cases, found = _prepare(extractor, image, masks, label_of, intensity_masks, settings)
        if engine == "fast":
            _measure(extractor, cases, settings, found, clock)
        for region in masks:
            if region not in found:  # the reference, and images of two dimensions
                began, inside = time.perf_counter(), (intensity_masks or {}).get(region)
                found[region] = _reference(extractor, image, masks[region], label_of[region], inside, settings)
                if engine == "fast":
                    clock["images of two dimensions"] += time.perf_counter() - began
    if names == "ibsi" and image.GetDimension() == 2:
        found = {
            region: values if isinstance(values, CaseError) else ibsi_values(values, voxels=1, force_2d=True)
            for region, values in found.items()
        }
    elif names == "ibsi":
        absolute = extractor.settings.get("resegmentMode", "absolute") == "absolute"
        limits = intensity_range or (extractor.settings.get("resegmentRange") if absolute else None)
        limits = limits if limits and len(limits) == 2 else None
        for region, case in cases.items():
            values = found[region]
            if not isinstance(values, CaseError):
                found[region] = _under_ibsi_names(extractor, case, values, settings, limits)
    for region, error in found.items():
        if isinstance(error, CaseError) and error.reason == "features not computable" and intensity_masks is None:
            found[region] = _explained(error, region, masks[region], label_of[region])
    clock["all"] += time.perf_counter() - started
    return {region: found[region] for region in masks}


def _refused(image: sitk.Image, masks: Mapping[str, sitk.Image]) -> dict[str, Values | CaseError]:
    """All regions of an image that neither engine can measure."""
    dimensions, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    kind = image.GetPixelIDTypeAsString()
    if dimensions in (2, 3) and components == 1 and "complex" not in kind:
        return {}
    found = f"{dimensions} dimensions, {components} values a voxel ({kind}); expected 2 or 3 and one real number"
    return {region: CaseError("image not measurable", found) for region in masks}


@contextmanager
def _tolerance(wanted: float | None) -> Iterator[None]:
    """The tolerance of geometry, which pyradiomics sets for all of SimpleITK and leaves so."""
    featureextractor.geometryTolerance = wanted

    def tell(tolerance: float) -> None:
        sitk.ProcessObject.SetGlobalDefaultCoordinateTolerance(tolerance)
        sitk.ProcessObject.SetGlobalDefaultDirectionTolerance(tolerance)

    tell(wanted or DEFAULT_TOLERANCE)
    try:
        yield
    finally:
        tell(DEFAULT_TOLERANCE)


@dataclass(frozen=True, eq=False)
class _Case:
    """A region, prepared: its masks on the grid of its volume, and the box of the volume that features look at."""

    volume: Volume
    morphological: Array
    intensity: Array
    box: Box
    shape: Region
    region: Region


# --- preparation --------------------------------------------------------------------------------------------


def _prepare(
    extractor: RadiomicsFeatureExtractor,
    image: sitk.Image,
    masks: Mapping[str, sitk.Image],
    labels: Mapping[str, int],
    intensity_masks: Mapping[str, sitk.Image] | None,
    settings: Settings,
) -> tuple[dict[str, _Case], dict[str, Values | CaseError]]:
    """The regions that can be measured, and the errors of the others."""
    arrays: dict[str, Array] = {}
    volumes: dict[str, tuple[Volume, Array]] = {}
    errors: dict[str, Values | CaseError] = {}
    for region, mask in masks.items():
        try:
            if _same_grid(image, mask, settings):
                arrays[region] = _voxels(mask, labels[region])
            else:
                volumes[region] = _by_pyradiomics(extractor, image, mask, settings | {"label": labels[region]})
        except (ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            errors[region] = CaseError("features not computable", str(error))
    if arrays:
        normalized = imageoperations.normalizeImage(image, **settings) if settings.get("normalize") else image
        try:
            volumes |= prepare(normalized, arrays, settings)
        except (ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}"
            errors |= dict.fromkeys(arrays, CaseError("image cannot be resampled", reason))
    cases = {}
    for region, (volume, on_grid) in volumes.items():
        try:
            inside = None if intensity_masks is None else _inside(intensity_masks, region, on_grid)
            cases[region] = _case(volume, on_grid, inside, settings)
        except ValueError as error:
            errors[region] = CaseError("features not computable", str(error))
    return cases, errors


def _inside(intensity_masks: Mapping[str, sitk.Image], region: str, morphological: Array) -> Array:
    """The intensity mask of a region, which lies within its morphological mask."""
    if region not in intensity_masks:
        raise ValueError(f"no intensity mask; expected one of {region}")
    inside = _voxels(intensity_masks[region], 1)
    if inside.shape != morphological.shape or (inside & ~morphological).any():
        raise ValueError("the intensity mask leaves the morphological mask; expected it inside")
    return inside


def _same_grid(image: sitk.Image, mask: sitk.Image, settings: Settings) -> bool:
    tolerance = settings.get("geometryTolerance") or DEFAULT_TOLERANCE
    close = image.GetDimension() == mask.GetDimension() == 3 and mask.GetNumberOfComponentsPerPixel() == 1
    return (
        close
        and image.GetSize() == mask.GetSize()
        and np.allclose(image.GetSpacing(), mask.GetSpacing(), rtol=0, atol=tolerance * min(image.GetSpacing()))
        and np.allclose(image.GetOrigin(), mask.GetOrigin(), rtol=0, atol=tolerance * image.GetSpacing()[0])
        and np.allclose(image.GetDirection(), mask.GetDirection(), rtol=0, atol=tolerance)
    )


def _voxels(mask: sitk.Image, label: int) -> Array:
    """Where a mask has a label (bool; z, y, x), of whole numbers as pyradiomics makes of it."""
    values = sitk.GetArrayViewFromImage(mask)
    found: Array = (values if values.dtype.kind in "iu" else values.astype(np.uint32)) == label
    if not found.any():
        raise ValueError(f"Label {label} not present in the mask")
    return found


def _by_pyradiomics(
    extractor: RadiomicsFeatureExtractor, image: sitk.Image, mask: sitk.Image, settings: Settings
) -> tuple[Volume, Array]:
    """Preparation of a mask that is not on the image's grid, by pyradiomics itself (`correctMask` and resampling)."""
    image, mask = extractor.loadImage(image, mask, None, **settings)
    _, corrected = imageoperations.checkMask(image, mask, **settings)
    on_grid = sitk.GetArrayFromImage(mask if corrected is None else corrected) == settings["label"]
    return Volume(sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]), on_grid


def _case(volume: Volume, mask: Array, inside: Array | None, settings: Settings) -> _Case:
    """The masks of a region by the order of RadiomicsFeatureExtractor.execute."""
    _check_size(mask, settings)
    morphological, intensity = mask, mask
    if inside is not None:
        intensity = inside
    elif settings.get("resegmentRange") is not None:
        image, label_map = volume.image(), Volume(mask.astype(np.uint8), volume.spacing).image()
        kept = imageoperations.resegmentMask(image, label_map, **settings | {"label": 1})
        intensity = sitk.GetArrayFromImage(kept) == 1
        if settings.get("resegmentShape", False):
            morphological = intensity
    _check_size(intensity, settings)
    box = tuple(bounding_box(intensity))
    region = Region(intensity[box], volume.spacing)
    if morphological is intensity:
        return _Case(volume, morphological, intensity, box, region, region)
    # pyradiomics cuts the mask of shape to the box of the re-segmented one
    shape_box = box if inside is None else tuple(bounding_box(morphological))
    shape = Region(morphological[shape_box], volume.spacing)
    return _Case(volume, morphological, intensity, box, shape, region)


def _check_size(mask: Array, settings: Settings) -> None:
    count = int(np.count_nonzero(mask))
    if not count:
        raise ValueError("the region has no voxel on the grid that it is measured on")
    extended = sum(part.stop - part.start > 1 for part in bounding_box(mask))
    least = max(settings.get("minimumROIDimensions", 2), 1)
    if extended < least:
        raise ValueError(f"the region extends along {extended} axes ({count} voxels); expected at least {least}")
    minimum = settings.get("minimumROISize")
    if minimum is not None and count <= minimum:
        raise ValueError(f"the region has {count} voxels; expected more than {minimum} (minimumROISize)")


# --- the fast engine ----------------------------------------------------------------------------------------


def _measure(
    extractor: RadiomicsFeatureExtractor,
    cases: Mapping[str, _Case],
    settings: Settings,
    found: dict[str, Values | CaseError],
    clock: Clock,
) -> None:
    """Measure all cases, filtering each volume once for all of its regions."""
    enabled = extractor.enabledFeatures
    values: dict[str, Values] = {}
    for region, case in cases.items():
        values[region] = case.shape.shape(enabled)
        try:
            values[region] |= _flat_shape(extractor, case, settings)
        except ValueError as error:
            found[region] = CaseError("features not computable", str(error))

    def measure(region: str, part: Array, title: str, arguments: Settings) -> None:
        if region in found:
            return
        try:
            values[region] |= cases[region].region.measure(part, title, enabled, arguments)
        except CaseError as error:
            found[region] = CaseError(error.reason, f"{title}: {error.detail}")

    sharing: dict[Volume, list[str]] = {}
    for region, case in cases.items():
        sharing.setdefault(case.volume, []).append(region)
    for volume, regions in sharing.items():
        boxes = [cases[region].box for region in regions]
        union = tuple(slice(min(a.start for a in axis), max(a.stop for a in axis)) for axis in zip(*boxes, strict=True))
        for kind, custom in extractor.enabledImagetypes.items():
            arguments = settings | custom
            if kind != "Original":  # the bound of re-segmentation says nothing about filtered intensities
                arguments.pop("binOrigin", None)
            if kind == "LBP3D":  # looks at the region alone
                for region in regions:
                    case = cases[region]
                    for title, derived in filters.local_binary_patterns(volume.values, case.intensity, arguments):
                        measure(region, derived[case.box], title, arguments)
                continue
            for title, derived in _filtered(kind, volume, union, arguments, clock):
                for region in regions:
                    measure(region, derived[_within(cases[region].box, union)], title, arguments)
    for region in cases:
        found.setdefault(region, values[region])


def _within(box: Box, union: Box) -> Box:
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, union, strict=True))


def _filtered(kind: str, volume: Volume, box: Box, settings: Settings, clock: Clock) -> Iterator[tuple[str, Array]]:
    """The part `box` of the images of one type: (title, values)."""
    image = volume.values
    if kind == "Original":
        yield "original", image[box]
    elif kind == "Wavelet":
        yield from filters.wavelets(image, settings, box)
    elif kind == "LoG" and image.dtype.name in LOG_TYPES:
        for sigma in settings.get("sigma", []):
            if filters.log_fits(image.shape, volume.spacing, sigma):
                title = f"log-sigma-{str(sigma).replace('.', '-')}-mm-3D"
                yield title, filters.laplacian_of_gaussian(image, volume.spacing, sigma, box)
    else:
        started = time.perf_counter()
        with warnings.catch_warnings():  # what is no number is told when it is measured
            warnings.simplefilter("ignore")
            derived = list(getattr(imageoperations, f"get{kind}Image")(volume.image(), None, **settings))
        clock[kind] += time.perf_counter() - started
        yield from ((title, sitk.GetArrayFromImage(part)[box]) for part, title, _ in derived)


def left_to_pyradiomics(clock: Clock) -> str:
    """A line on the image types that pyradiomics filtered, and their share of the time; "" where there were none."""
    shares = [f"{kind} {seconds / clock['all']:.1%}" for kind, seconds in clock.items() if kind != "all"]
    return f"left to pyradiomics: {', '.join(shares)} of {clock['all']:.1f} s" if shares else ""


def _flat_shape(extractor: RadiomicsFeatureExtractor, case: _Case, settings: Settings) -> Values:
    """The class shape2D, which is left to pyradiomics."""
    if "shape2D" not in extractor.enabledFeatures:
        return {}
    mask = Volume(case.shape.mask.astype(np.uint8), case.volume.spacing).image()
    flat = [limit for side in mask.GetSize() for limit in (0, side - 1)]
    found = extractor.computeShape(mask, mask, np.array(flat), **settings | {"label": 1})
    return {name: float(value) for name, value in found.items() if "_shape2D_" in name}


# --- the reference engine -----------------------------------------------------------------------------------


def _reference(
    extractor: RadiomicsFeatureExtractor,
    image: sitk.Image,
    mask: sitk.Image,
    label: int,
    intensity_mask: sitk.Image | None,
    settings: Settings,
) -> Values | CaseError:
    """Features by pyradiomics itself."""
    try:
        _check_intensities(image, settings)
        if intensity_mask is None:
            found = extractor.execute(image, mask, label=label)
        else:
            settings = settings | {"label": label}
            box, _ = imageoperations.checkMask(image, mask, **settings)
            found = extractor.computeShape(image, mask, box, **settings)
            settings["label"] = 1
            box, _ = imageoperations.checkMask(image, intensity_mask, **settings)
            for kind, custom in extractor.enabledImagetypes.items():
                arguments = settings | custom
                for derived, title, _ in getattr(imageoperations, f"get{kind}Image")(
                    image, intensity_mask, **arguments
                ):
                    cut = imageoperations.cropToTumorMask(derived, intensity_mask, box)
                    found.update(extractor.computeFeatures(*cut, title, **arguments))
    except (ValueError, RuntimeError, IndexError) as error:
        return CaseError("features not computable", str(error))
    return {name: float(value) for name, value in found.items()}


def _check_intensities(image: sitk.Image, settings: Settings) -> None:
    """pyradiomics measures what is no number, and adds two bin widths to integers in their own type, which may wrap."""
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} intensities of the image are not finite")
    if values.dtype.kind in "iu" and settings.get("binCount") is None:
        highest = int(values.max()) + 2 * math.ceil(settings.get("binWidth", 25))
        if highest > np.iinfo(values.dtype).max:
            raise ValueError(
                f"intensities of {values.dtype} up to {values.max()} overflow in pyradiomics; expected a wider type"
            )


# --- names --------------------------------------------------------------------------------------------------


def _under_ibsi_names(
    extractor: RadiomicsFeatureExtractor,
    case: _Case,
    values: Values,
    settings: Settings,
    intensity_range: Sequence[float] | None,
) -> Values | CaseError:
    force_2d = bool(settings.get("force2D", False))
    voxels = int(np.count_nonzero(case.shape.mask))
    renamed = ibsi_values(values, voxels=voxels, force_2d=force_2d)
    classes = {
        name for name in EXTRA_CLASSES if name in extractor.enabledFeatures and not extractor.enabledFeatures[name]
    }
    if "Original" not in extractor.enabledImagetypes or not classes:
        return renamed
    volume = case.volume
    arguments = settings | extractor.enabledImagetypes["Original"]
    try:
        levels = np.zeros(volume.values.shape, np.uint16)
        levels[case.intensity] = case.region.levels(volume.values[case.intensity], arguments)
        # slices of force2D come first
        axes = np.roll([0, 1, 2], -settings.get("force2Ddimension", 0)) if force_2d else [0, 1, 2]
        extra = extra_features(
            volume.values.transpose(axes),
            case.morphological.transpose(axes),
            case.intensity.transpose(axes),
            levels.transpose(axes),
            [volume.spacing[axis] for axis in axes],
            classes=classes,
            force_2d=force_2d,
            whole=volume.values.dtype.kind in "iu",
            intensity_range=intensity_range,
        )
    except CaseError as error:
        return error
    except RuntimeError as error:  # of the convex hull
        return CaseError("features not computable", str(error))
    return renamed | {f"original_{tag}": value for tag, value in extra.items()}


def _explained(error: CaseError, region: str, mask: sitk.Image, label: int) -> CaseError:
    held = np.unique(sitk.GetArrayViewFromImage(mask)).tolist()
    shown = ", ".join(map(str, held[:8])) + (", ..." if len(held) > 8 else "")
    detail = f"region {region}: {error.detail} (the mask holds {shown}; label {label} was expected)"
    return CaseError(error.reason, detail)
