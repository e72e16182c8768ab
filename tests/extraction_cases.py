"""Images, regions and settings on which the extraction engine is held against pyradiomics, and the comparison itself.

The oracle is pyradiomics' own `RadiomicsFeatureExtractor.execute`, one region at a time. Two values agree where
`|a - b| <= tolerance * max(|a|, |b|, floor)`, see `difference`.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import SimpleITK as sitk
import yaml
from radiomics import featureextractor, imageoperations
from scipy.ndimage import binary_dilation, gaussian_filter

from ibsi_phantom import LEVELS, REGION, SPACING

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
IMAGE_CLASSES = ("firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
CLASSES: dict[str, Any] = dict.fromkeys(("shape", *IMAGE_CLASSES))

Array = np.ndarray

# ---------------------------------------------------------------------------------------------------------------------
# Comparison
# ---------------------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-9
# square roots of eigenvalues: of a matrix that is not symmetric (MCC), of a covariance (axes)
ROOTS = {"MCC": 1e-6} | dict.fromkeys(
    ("MajorAxisLength", "MinorAxisLength", "LeastAxisLength", "Elongation", "Flatness"), 1e-6
)
# A rounding error of a few 1e-16 in a sum is one of a few 1e-8 in its root, where the sum should be zero.
ZERO_ROOT = 1e-7
# Everything else: a difference below 1e-6 * 1e-9 = 1e-15 of the natural magnitude is rounding, not a value.
FLOOR = 1e-6

# Features that are differences or centered moments, and can so be zero but for rounding; the other feature of their
# class that gives their natural magnitude, and its power. "" is 1: entropies (bits), correlations.
NATURAL = {
    "glcm": {
        "ClusterShade": ("Autocorrelation", 1.5),
        "ClusterProminence": ("Autocorrelation", 2),
        "ClusterTendency": ("Autocorrelation", 1),
        "SumSquares": ("Autocorrelation", 1),
        "Contrast": ("Autocorrelation", 1),
        "DifferenceVariance": ("Autocorrelation", 1),
        "DifferenceAverage": ("Autocorrelation", 0.5),
    }
    | dict.fromkeys(
        ("Correlation", "Imc1", "Imc2", "MCC", "JointEntropy", "SumEntropy", "DifferenceEntropy"), ("", 1.0)
    ),
    "glrlm": {
        "GrayLevelVariance": ("HighGrayLevelRunEmphasis", 1),
        "RunVariance": ("LongRunEmphasis", 1),
        "RunEntropy": ("", 1),
    },
    "glszm": {
        "GrayLevelVariance": ("HighGrayLevelZoneEmphasis", 1),
        "ZoneVariance": ("LargeAreaEmphasis", 1),
        "ZoneEntropy": ("", 1),
    },
    "gldm": {
        "GrayLevelVariance": ("HighGrayLevelEmphasis", 1),
        "DependenceVariance": ("LargeDependenceEmphasis", 1),
        "DependenceEntropy": ("", 1),
    },
    "shape": {
        "MinorAxisLength": ("MajorAxisLength", 1),
        "LeastAxisLength": ("MajorAxisLength", 1),
        "Elongation": ("", 1),
        "Flatness": ("", 1),
    },
    "shape2D": {"MinorAxisLength": ("MajorAxisLength", 1), "Elongation": ("", 1)},
}


def natural_magnitude(name: str, values: dict[str, float]) -> float:
    """The magnitude below a tiny part of which a feature is rounding; 0 where it cannot cancel.

    First-order features: the largest |intensity| of the region in that image, its square (variance), its ratio to the
    standard deviation (skewness: the mean's rounding error, in standard deviations). Others: `NATURAL`.
    """
    image_type, kind, feature = name.rsplit("_", 2)
    if kind != "firstorder":
        other, power = NATURAL.get(kind, {}).get(feature, (None, 0))
        if other is None:
            return 0.0
        return abs(values.get(f"{image_type}_{kind}_{other}", 1.0) if other else 1.0) ** power
    if feature == "Entropy":
        return 1.0
    if feature in ("Energy", "TotalEnergy", "Uniformity", "Kurtosis"):
        return 0.0
    ends = [values.get(f"{image_type}_firstorder_{end}", 0.0) for end in ("Minimum", "Maximum")]
    largest = max(map(abs, ends))
    if feature == "Variance":
        return largest**2
    if feature == "Skewness":
        return max(1.0, largest / math.sqrt(values.get(f"{image_type}_firstorder_Variance", 0.0) or math.inf))
    return largest


def tolerance(name: str) -> float:
    return ROOTS.get(name.rsplit("_", 1)[1], TOLERANCE)


def difference(name: str, ours: float, theirs: float, values: dict[str, float]) -> float:
    """`|a - b| / max(|a|, |b|, floor)`; `values` are all of the oracle's. 0 where both are nan, inf where one is."""
    if math.isnan(ours) or math.isnan(theirs) or math.isinf(ours) or math.isinf(theirs):
        same = ours == theirs or (math.isnan(ours) and math.isnan(theirs))
        return 0.0 if same else math.inf
    if ours == theirs:
        return 0.0
    larger, natural = max(abs(ours), abs(theirs)), natural_magnitude(name, values)
    feature = name.rsplit("_", 1)[1]
    if (feature in ROOTS or feature == "Imc2") and larger <= ZERO_ROOT * natural:
        return 0.0
    return abs(ours - theirs) / max(larger, 0.0 if feature in ROOTS else FLOOR * natural)


def differences(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    return {name: difference(name, ours[name], value, theirs) for name, value in theirs.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The oracle
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lbp3d_of_old() -> Iterator[None]:
    """The function of older scipy that pyradiomics 3.0.1 imports; without it LBP3D yields nothing, in silence."""
    scipy.special.sph_harm = lambda m, n, theta, phi: scipy.special.sph_harm_y(n, m, phi, theta)
    try:
        yield
    finally:
        del scipy.special.sph_harm


@contextlib.contextmanager
def bins_that_do_not_overflow() -> Iterator[None]:
    """pyradiomics adds twice the bin width to the largest intensity in the type of the image. Since numpy 2 that wraps
    around near the type's end (uint8: 230 + 50 = 24), and the discretization is nonsense; integers are widened first."""
    original = imageoperations.getBinEdges

    def edges(values: Array, **settings: Any) -> Array:
        return original(values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else values, **settings)

    imageoperations.getBinEdges = edges
    try:
        yield
    finally:
        imageoperations.getBinEdges = original


@contextlib.contextmanager
def tolerance_restored() -> Iterator[None]:
    """pyradiomics sets the geometry tolerance of all of SimpleITK, and leaves it so."""
    try:
        yield
    finally:
        featureextractor.geometryTolerance = None
        sitk.ProcessObject.SetGlobalDefaultCoordinateTolerance(1e-6)
        sitk.ProcessObject.SetGlobalDefaultDirectionTolerance(1e-6)


def oracle(parameters: str, image: sitk.Image, mask: sitk.Image, label: int) -> dict[str, float] | Exception:
    """pyradiomics' own values, or what it raises."""
    with lbp3d_of_old(), bins_that_do_not_overflow(), tolerance_restored(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = featureextractor.RadiomicsFeatureExtractor(parameters, additionalInfo=False).execute(
                image, mask, label=label
            )
        except Exception as error:
            return error
    return {name: float(value) for name, value in found.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Pictures: an image and its regions
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """An image and its regions; region -> (mask, label)."""

    image: sitk.Image
    regions: dict[str, tuple[sitk.Image, int]]


TURN = math.radians(20)
OBLIQUE = (math.cos(TURN), -math.sin(TURN), 0, math.sin(TURN), math.cos(TURN), 0, 0, 0, 1)
FLIPPED = (-1, 0, 0, 0, 1, 0, 0, 0, -1)
TURNED = (0, 0, 1, 1, 0, 0, 0, 1, 0)


def texture(shape: tuple[int, ...], seed: int, mean: float, spread: float, smooth: float = 1) -> Array:
    """Correlated noise of given mean and standard deviation."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return mean + spread * noise / noise.std()


def ball(shape: tuple[int, ...], center: tuple[float, ...], radii: tuple[float, ...]) -> Array:
    square = sum(((i - c) / r) ** 2 for i, c, r in zip(np.indices(shape), center, radii, strict=True))
    return np.asarray(square) < 1


def itk(array: Array, spacing: tuple[float, ...], direction: tuple[float, ...] = (), origin: bool = True) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    if origin:
        image.SetOrigin((12.5, -31.25, 7.0))
    if direction:
        image.SetDirection(direction)
    return image


def regions_of(labels: Array, names: dict[str, int], like: sitk.Image) -> dict[str, tuple[sitk.Image, int]]:
    """Several regions that share one mask of labels."""
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(like)
    return {name: (mask, label) for name, label in names.items()}


def phantom() -> Picture:
    """The digital phantom of IBSI-1."""
    image = itk(LEVELS.astype(np.int16), SPACING)
    return Picture(image, regions_of(REGION.astype(np.uint8), {"roi": 1}, image))


SHAPE = (15, 32, 33)  # odd and even: the wavelet transform pads odd edges


def blobs(shape: tuple[int, ...] = SHAPE) -> Array:
    """Labels: 1 a lesion, 2 its surroundings, 5 a block at two borders of the image."""
    middle = tuple(0.5 * n - 0.5 for n in shape)
    lesion = ball(shape, middle, tuple(0.27 * n + 0.4 for n in shape))
    labels = np.zeros(shape, dtype=np.uint8)
    labels[binary_dilation(lesion, iterations=2)] = 2
    labels[lesion] = 1
    labels[: shape[0] // 2, : shape[1] // 4, -shape[2] // 3 :] = 5
    return labels


def ct_array(air: int = -160, shape: tuple[int, ...] = SHAPE) -> Array:
    """Simulated CT, HU, int16: organs in air that is clipped at `air`, a cyst and a vessel without any noise."""
    array = texture(shape, 1, 60, 45)
    body = ball(shape, tuple(0.5 * n for n in shape), (shape[0], 0.46 * shape[1], 0.48 * shape[2]))
    array[~body] = air
    lesion = blobs(shape) == 1
    array[lesion] += 40
    array[ball(shape, tuple(0.4 * n for n in shape), (3, 5, 5))] = 8
    array[:, shape[1] // 2 : shape[1] // 2 + 2, shape[2] // 2 :] = 200
    return np.maximum(array, air).round().astype(np.int16)


def scene(array: Array, spacing: tuple[float, ...], direction: tuple[float, ...] = ()) -> Picture:
    """An image with a lesion and a block at its border, as two labels of one mask."""
    image = itk(array, spacing, direction)
    return Picture(image, regions_of(blobs(array.shape), {"lesion": 1, "border": 5}, image))


def ct(spacing: tuple[float, ...] = (0.75, 0.75, 3.0), direction: tuple[float, ...] = ()) -> Picture:
    return scene(ct_array(), spacing, direction)


def ct_in_air() -> Picture:
    """Air of -1024 HU reaches into the region at the border: 0 or 1,000 HU from voxel to voxel."""
    return scene(ct_array(-1024), (0.75, 0.75, 3.0))


def mr(spacing: tuple[float, ...] = (1.0, 1.0, 2.0), direction: tuple[float, ...] = ()) -> Picture:
    """Simulated MR, float32, arbitrary units."""
    return scene(np.abs(texture(SHAPE, 2, 320, 90)).astype(np.float32), spacing, direction)


def pet() -> Picture:
    """Simulated PET, float64, SUV."""
    return scene(np.abs(texture(SHAPE, 3, 4, 2.5)), (4.0, 4.0, 3.27))


def uint8() -> Picture:
    return scene(np.clip(texture(SHAPE, 4, 90, 60), 0, 255).astype(np.uint8), (1.0, 1.0, 1.0))


def negative() -> Picture:
    return scene(np.minimum(texture(SHAPE, 5, -700, 80), -1).round().astype(np.int16), (1.5, 1.5, 2.0))


def flat_region() -> Picture:
    """A lesion of one value, which floats do not hold exactly, in a textured image."""
    array = texture(SHAPE, 6, 100, 30)
    array[blobs() == 1] = 77.7
    return scene(array, (1.0, 1.0, 2.0))


def flat_image() -> Picture:
    return scene(np.full(SHAPE, 50, dtype=np.int16), (1.0, 1.0, 2.0))


def odd_regions() -> Picture:
    """Regions as they should not be, each in a mask of its own."""
    shape = (12, 20, 22)
    image = itk(texture(shape, 7, 100, 60).round().astype(np.int16), (1.0, 1.5, 2.0), OBLIQUE)
    masks = {}

    def add(name: str, *where: Any) -> None:
        masks[name] = np.zeros(shape, dtype=np.uint8)
        for part in where:
            masks[name][part] = 1

    add("one voxel", (5, 6, 7))
    add("two voxels", (5, 6, 7), (5, 6, 8))
    add("two corners", (0, 0, 0), (-1, -1, -1))
    add("one slice", np.s_[4, 3:15, 5:17])
    add("one coronal slice", np.s_[2:9, 8, 5:17])
    add("one sagittal slice", np.s_[2:9, 3:15, 8])
    add("one column", np.s_[2:10, 8, 9])
    add("diagonal", *((i, i, i) for i in range(3, 9)))
    add("disconnected", np.s_[1:4, 2:7, 2:6], np.s_[7:11, 12:18, 13:20])
    add("border", np.s_[:5, :9, :8])
    add("last corner", np.s_[-3:, -6:, -7:])
    add("checkerboard", np.indices(shape).sum(axis=0) % 2 == 1)
    add("all borders", np.s_[:])
    masks["all borders"][6, 10, 11] = 0
    add("whole image", np.s_[:])
    add("hole", np.s_[2:10, 4:16, 4:18])
    masks["hole"][4:8, 7:12, 8:13] = 0
    return Picture(image, {name: regions_of(mask, {name: 1}, image)[name] for name, mask in masks.items()})


def masks_of_all_types() -> Picture:
    base = blobs()
    image = itk(ct_array(), (0.75, 0.75, 3.0))
    found = {}
    kinds = {"uint8": (np.uint8, 1), "uint16": (np.uint16, 1000), "int32": (np.int32, 7), "float32": (np.float32, 1)}
    for name, (kind, label) in kinds.items():
        found |= regions_of((base == 1).astype(kind) * kind(label), {name: label}, image)
    fractions = np.where(base == 1, 1.0, np.where(base == 2, 0.9, 0.0))  # pyradiomics cuts fractions off
    found |= regions_of(fractions, {"float64": 1}, image)
    found |= regions_of(base, {"label 2": 2, "label 5": 5, "label 3, absent": 3}, image)
    return Picture(image, found)


def on_bin_edges(kind: type) -> Picture:
    """Multiples of 0.1, as a float holds them: with bins of 0.1 every voxel lies on an edge or a rounding beside it."""
    return scene((texture(SHAPE, 10, 2, 0.6).round(1)).astype(kind), (1.0, 1.0, 2.0))


def wide_uint16() -> Picture:
    return scene(np.clip(texture(SHAPE, 11, 45000, 9000), 0, 65535).astype(np.uint16), (1.0, 1.0, 2.0))


def int8() -> Picture:
    return scene(np.clip(texture(SHAPE, 12, 0, 50), -128, 127).astype(np.int8), (1.0, 1.0, 2.0))


def zeros() -> Picture:
    return scene(np.zeros(SHAPE, dtype=np.int16), (1.0, 1.0, 2.0))


def image_of_one_slice() -> Picture:
    shape = (1, 25, 28)
    image = itk(texture(shape, 13, 100, 40, 0.8).round().astype(np.int16), (1.0, 1.0, 4.0))
    return Picture(image, regions_of(ball(shape, (0, 12, 13), (1, 8, 9)).astype(np.uint8), {"roi": 1}, image))


def masks_on_other_grids() -> Picture:
    """Masks that are a part of the image, on finer voxels, a hair off, and beyond the image."""
    image = itk(ct_array(), (0.75, 0.75, 3.0), OBLIQUE)
    mask = itk((blobs() == 1).astype(np.uint8), (0.75, 0.75, 3.0), OBLIQUE)
    finer = sitk.Expand(mask, (2, 2, 3), sitk.sitkNearestNeighbor)
    off, beyond = sitk.Image(mask), sitk.Image(mask)
    off.SetOrigin(tuple(value + 5e-4 for value in mask.GetOrigin()))
    beyond.SetOrigin((40.0, 0.0, 0.0))
    masks = {"part": mask[3:-2, 4:-3, 1:-1], "finer": finer, "a hair off": off, "beyond": beyond}
    return Picture(image, {name: (one, 1) for name, one in masks.items()})


def mask_of_two_channels() -> Picture:
    image = itk(ct_array(), (0.75, 0.75, 3.0))
    parts = [itk((blobs() == label).astype(np.uint8), (0.75, 0.75, 3.0)) for label in (5, 1)]
    return Picture(image, {"roi": (sitk.Compose(parts), 1)})


def thin() -> Picture:
    """A region of 3 slices, and a small one: its crop is too small for a LoG of some sigmas."""
    image = itk(ct_array(), (0.75, 0.75, 3.0))
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[5:8, 10:22, 9:25] = 1
    labels[9:13, 24:28, 4:9] = 2
    return Picture(image, regions_of(labels, {"three slices": 1, "small": 2}, image))


def huge() -> Picture:
    shape = (64, 84, 88)
    image = itk(texture(shape, 8, 80, 100).round().astype(np.int16), (1.0, 1.0, 1.0))
    labels = ball(shape, (31, 41, 43), (31, 41, 45)).astype(np.uint8)
    labels[:, 30:50, 42:] = 1
    return Picture(image, regions_of(labels, {"roi": 1}, image))


def real_t1() -> Picture:
    return stored("sts/nifti/STS_003/MR_T1_image.nii.gz", "sts/nifti/STS_003/MR_T1_mask.nii.gz")


def real_pet() -> Picture:
    return stored("sts/nifti/STS_003/PET_image.nii.gz", "sts/nifti/STS_003/PET_mask.nii.gz")


def real_ct() -> Picture:
    """3 mm in all directions: a grid of 1 mm has every third sample on a voxel, where the last bit decides about the
    truncation to int16."""
    folder = "abdomen_ct/example_seg_fast"
    names = ("portal_vein_and_splenic_vein", "aorta")
    return stored("abdomen_ct/example_ct_sm.nii.gz", *(f"{folder}/{name}.nii.gz" for name in names))


def stored(image: str, *masks: str) -> Picture:
    regions = {Path(mask).name.removesuffix(".nii.gz"): (sitk.ReadImage(str(DATA / mask)), 1) for mask in masks}
    return Picture(sitk.ReadImage(str(DATA / image)), regions)


REAL = (real_t1, real_pet, real_ct)

# ---------------------------------------------------------------------------------------------------------------------
# Cases: a picture with settings
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A picture and the content of a pyradiomics parameter file."""

    name: str
    make: Callable[[], Picture]
    setting: dict[str, Any] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=lambda: {"Original": {}})
    classes: dict[str, Any] = field(default_factory=lambda: CLASSES)

    def picture(self) -> Picture:
        return made(self.make)

    def write(self, folder: Path) -> str:
        """Write the parameter file, under a name of its own (files are read once a process); returns its path."""
        content = {"setting": {"binWidth": 25} | self.setting, "imageType": self.types, "featureClass": self.classes}
        if "binCount" in self.setting:
            del content["setting"]["binWidth"]
        text = yaml.safe_dump(content, sort_keys=False)
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
        path.write_text(text)
        return str(path)


@cache
def made(make: Callable[[], Picture]) -> Picture:
    return make()


def at(make: Callable[..., Picture], *arguments: Any) -> Callable[[], Picture]:
    return _at(make, arguments)


@cache
def _at(make: Callable[..., Picture], arguments: tuple[Any, ...]) -> Callable[[], Picture]:
    return lambda: make(*arguments)


ORIGINAL: dict[str, Any] = {"Original": {}}
FILTERS = ORIGINAL | {"Wavelet": {}, "LoG": {"sigma": [1.0, 2.0, 3.0, 4.0, 5.0]}}
FEW = ORIGINAL | {"Wavelet": {}, "LoG": {"sigma": [2.0]}}
ISOTROPIC = {"resampledPixelSpacing": [1, 1, 1]}


def resampled(spacing: list[float], interpolator: str = "sitkBSpline", pad: int = 5) -> dict[str, Any]:
    return {"resampledPixelSpacing": spacing, "interpolator": interpolator, "padDistance": pad}


CASES = [
    # kinds of images
    Case("digital phantom", phantom, {"binWidth": 1}, FEW),
    Case("digital phantom, force2D", phantom, {"binWidth": 1, "force2D": True}, ORIGINAL | {"Wavelet": {}}),
    Case("CT int16", ct, {}, FILTERS),
    Case("CT int16, air -1024", ct_in_air, {}, FEW),
    Case("CT int16, air -1024, resampled", ct_in_air, resampled([1, 1, 1], pad=3) | {"binWidth": 40}),
    Case("MR float32", mr, {}, FILTERS),
    Case("PET float64", pet, {"binWidth": 0.5}, FILTERS),
    Case("uint8", uint8, {}, FEW),
    Case("negative int16", negative, {}, FEW),
    Case("constant region", flat_region, {}, FEW),
    Case("constant region, binCount", flat_region, {"binCount": 8}),
    Case("constant image", flat_image, {}, FEW),
    Case("constant image, binCount", flat_image, {"binCount": 8}),
    # regions
    Case("odd regions", odd_regions),
    Case("odd regions, from one dimension on", odd_regions, {"minimumROIDimensions": 1}, ORIGINAL | {"Wavelet": {}}),
    Case("odd regions, three dimensions", odd_regions, {"minimumROIDimensions": 3, "minimumROISize": 100}),
    Case("odd regions of more than 6 voxels", odd_regions, {"minimumROIDimensions": 1, "minimumROISize": 6}),
    Case("odd regions, force2D", odd_regions, {"minimumROIDimensions": 1, "force2D": True}),
    Case("odd regions, resampled", odd_regions, {"minimumROIDimensions": 1} | resampled([1.2, 1.2, 1.2])),
    Case("odd regions, shape2D", odd_regions, {"force2D": True}, ORIGINAL, {"shape2D": None, "firstorder": None}),
    Case("odd regions, shape2D in x", odd_regions, {"force2D": True, "force2Ddimension": 2}, ORIGINAL,
         {"firstorder": ["Mean"], "shape2D": ["Perimeter", "SphericalDisproportion", "Elongation"]}),
    Case("masks of all types, several labels", masks_of_all_types),
    Case("masks of all types, resampled", masks_of_all_types, resampled([1, 1, 1])),
    Case("huge region (260,000 voxels)", huge),
    # geometry
    Case("oblique", at(ct, (0.75, 0.75, 3.0), OBLIQUE), resampled([1, 1, 1]), FEW),
    Case("flipped", at(ct, (0.75, 0.75, 3.0), FLIPPED), resampled([1, 1, 1]), FEW),
    Case("axes exchanged", at(mr, (1.0, 1.0, 2.0), TURNED), resampled([1, 1, 1]), FEW),
    Case("spacing 0.5 x 0.5 x 5", at(mr, (0.5, 0.5, 5.0)), resampled([1, 1, 1]), FEW),
    Case("spacing 3 x 3 x 3", at(ct, (3.0, 3.0, 3.0)), resampled([1, 1, 1], pad=2)),
    Case("spacing 3 x 3 x 3, float", at(mr, (3.0, 3.0, 3.0)), resampled([1, 1, 1], pad=2)),
    Case("spacing right already", at(ct, (1.0, 1.0, 1.0)), resampled([1, 1, 1]), FEW),
    Case("spacing right in one axis", at(ct, (0.8, 0.8, 1.0)), resampled([1, 1, 1]), FEW),
    Case("masks on other grids", masks_on_other_grids),
    Case("masks on other grids, corrected", masks_on_other_grids, {"correctMask": True}, FEW),
    Case("masks on other grids, resampled", masks_on_other_grids, resampled([1, 1, 1]), FEW),
    Case("masks on other grids, tolerated", masks_on_other_grids, {"geometryTolerance": 1e-2}),
    Case("mask of two channels", mask_of_two_channels, {"label_channel": 1}),
    Case("image of one slice", image_of_one_slice, {}, FEW),
    Case("image of one slice, force2D, resampled", image_of_one_slice, {"force2D": True} | resampled([2, 2, 2]), FEW),
    # resampling
    Case("resampled, all filters", ct, resampled([1, 1, 1]), FILTERS),
    Case("resampled, all filters, float", mr, resampled([1, 1, 1]), FILTERS),
    Case("resampled, uint8", uint8, resampled([0.7, 0.7, 0.7])),
    Case("resampled to 2 mm", ct, resampled([2, 2, 2]), FEW),
    Case("resampled in the plane", ct, resampled([0, 0, 2]), FEW),
    Case("resampled, linear", ct, resampled([1, 1, 1], "sitkLinear"), FEW),
    Case("resampled, linear, float", mr, resampled([1.1, 1.1, 1.1], "sitkLinear")),
    Case("resampled, nearest", mr, resampled([1, 1, 1], "sitkNearestNeighbor")),
    Case("resampled, Gaussian", ct, resampled([1, 1, 1], "sitkGaussian")),
    Case("resampled, interpolator by number", ct, resampled([1, 1, 1]) | {"interpolator": 2}),
    Case("resampled, no interpolator", ct, resampled([1, 1, 1]) | {"interpolator": None, "preCrop": True}, FEW),
    Case("resampled, uint16", wide_uint16, resampled([1, 1, 1]) | {"binWidth": 1500}),
    Case("resampled, no pad", ct, resampled([1, 1, 1], pad=0), FILTERS),
    Case("resampled, pad 10", mr, resampled([1, 1, 1], pad=10), FEW),
    Case("resampled, normalized", mr, resampled([1, 1, 1]) | {"normalize": True, "normalizeScale": 100}),
    Case("resampled, re-segmented", ct, resampled([1, 1, 1]) | {"resegmentRange": [-50, 200]}, FEW),
    # discretization and intensities
    Case("bin width 5", ct, {"binWidth": 5}),
    Case("bin width 0.5", pet, {"binWidth": 0.5}, ORIGINAL | {"Wavelet": {}}),
    Case("bin width 0.3", pet, {"binWidth": 0.3}),
    Case("bin width 7.3, float32", mr, {"binWidth": 7.3}),
    *(Case(f"intensities on bin edges, {kind.__name__}", at(on_bin_edges, kind), {"binWidth": 0.1})
      for kind in (np.float32, np.float64)),
    Case("intensities on bin edges, bin count", uint8, {"binCount": 51}),
    Case("uint16", wide_uint16, {"binWidth": 1500}, ORIGINAL | {"LoG": {"sigma": [3.0], "binWidth": 500}}),
    Case("int8", int8, {"binWidth": 10}),
    Case("bin count 32", ct, {"binCount": 32}, FEW),
    Case("bin count 32, float", mr, {"binCount": 32}, FEW),
    Case("voxelArrayShift", ct, {"voxelArrayShift": 1000}),
    Case("re-segmented, absolute", ct, {"resegmentRange": [0, 150]}, FEW),
    Case("re-segmented, one bound", ct, {"resegmentRange": [60]}),
    Case("re-segmented, relative", mr, {"resegmentRange": [0.4, 0.9], "resegmentMode": "relative"}),
    Case("re-segmented, sigma", mr, {"resegmentRange": [-1.5, 1.5], "resegmentMode": "sigma"}),
    Case("re-segmented, shape too", ct, {"resegmentRange": [40, 150], "resegmentShape": True}, FEW),
    Case("re-segmented, nothing left", ct, {"resegmentRange": [3000, 4000]}),
    Case("normalized", mr, {"normalize": True, "normalizeScale": 100}, FEW),
    Case("normalized, outliers removed", ct, {"normalize": True, "removeOutliers": 1.5, "normalizeScale": 100}, FEW),
    # matrices
    Case("force2D", ct, {"force2D": True}, FEW),
    Case("force2D in y", mr, {"force2D": True, "force2Ddimension": 1}, FEW),
    Case("force2D in x", ct, {"force2D": True, "force2Ddimension": 2}, FEW),
    Case("distances 1, 2", ct, {"distances": [1, 2]}),
    Case("distance 3", mr, {"distances": [3]}),
    Case("distances 1, 2, force2D", mr, {"distances": [1, 2], "force2D": True}),
    Case("GLCM not symmetrical", ct, {"symmetricalGLCM": False}),
    *(Case(f"weighting {norm}", ct, {"weightingNorm": norm})
      for norm in ("manhattan", "euclidean", "infinity", "no_weighting")),
    Case("weighting, not symmetrical, 2-D, distances", mr,
         {"weightingNorm": "euclidean", "symmetricalGLCM": False, "force2D": True, "distances": [1, 2]}),
    Case("gldm_a 2", ct, {"gldm_a": 2}),
    Case("odd regions, distances 1, 2, 3", odd_regions, {"distances": [1, 2, 3], "minimumROIDimensions": 1}),
    Case("odd regions, force2D in y, distances", odd_regions,
         {"force2D": True, "force2Ddimension": 1, "distances": [1, 2]}),
    Case("odd regions, weighted, not symmetrical", odd_regions, {"weightingNorm": "infinity", "symmetricalGLCM": False}),
    # crops
    *(Case(f"preCrop, pad {pad}", ct, {"preCrop": True, "padDistance": pad}, FILTERS) for pad in (0, 5)),
    Case("preCrop, pad 10", mr, {"preCrop": True, "padDistance": 10}, FEW),
    Case("crops too small for some LoG", thin, {"preCrop": True, "padDistance": 0}, FILTERS),
    # features by name
    Case("features by name", mr, {}, FEW, {"glcm": ["Contrast"], "firstorder": ["Mean", "10Percentile"]}),
    Case("deprecated features by name", ct, {}, ORIGINAL, {
        "shape": ["Compactness1", "Compactness2", "SphericalDisproportion", "Sphericity", "VoxelVolume"],
        "firstorder": ["StandardDeviation", "Skewness"],
        "glcm": ["Dissimilarity", "Homogeneity1", "SumVariance", "JointEnergy", "SumAverage"],
        "ngtdm": None,
    }),
    Case("shape alone", ct, {}, ORIGINAL, {"shape": None}),
    Case("classes in another order", mr, {}, ORIGINAL, dict.fromkeys(("ngtdm", "gldm", "shape", "glcm", "firstorder"))),
    # image types
    *(Case(f"wavelet {name}", ct, {}, {"Wavelet": {"wavelet": name}}) for name in ("db2", "haar")),
    Case("wavelet coif1, level 2", mr, {}, {"Wavelet": {"level": 2}}),
    Case("wavelet coif1, start level 1", ct, {}, {"Wavelet": {"start_level": 1}}),
    Case("wavelet with a bin width of its own", mr, {}, {"Wavelet": {"binWidth": 10}, "Original": {}}),
    Case("LoG alone, anisotropic", mr, {}, {"LoG": {"sigma": [1.5, 3]}}),
    Case("settings of an image type alone", mr, {"sigma": [2.0]}, ORIGINAL
         | {"Wavelet": {"force2D": True}, "LoG": {"binCount": 16, "distances": [2], "symmetricalGLCM": False}}),
    *(Case(f"constant zero, {kind}", zeros, {}, {kind: {}})
      for kind in ("Square", "SquareRoot", "Logarithm", "Exponential", "Gradient")),
    Case("constant image, normalized", flat_image, {"normalize": True}),
    Case("square, root, logarithm", ct, {}, {"Square": {}, "SquareRoot": {}, "Logarithm": {}}),
    Case("square, root, logarithm, float", mr, {}, {"Square": {}, "SquareRoot": {}, "Logarithm": {}}),
    Case("exponential", ct, {}, {"Exponential": {}}),
    Case("exponential, float", mr, {}, {"Exponential": {}}),
    Case("gradient", ct, {}, {"Gradient": {}}),
    Case("gradient, uint8", uint8, {}, {"Gradient": {}}),
    Case("gradient without spacing", mr, {}, {"Gradient": {"gradientUseSpacing": False}}),
    Case("LBP2D", ct, {"force2D": True}, {"LBP2D": {"binWidth": 1}}),
    Case("LBP2D, float", mr, {"force2D": True}, {"LBP2D": {"binWidth": 1}}),
    Case("LBP2D in y, default, radius 2", ct, {"force2D": True, "force2Ddimension": 1},
         {"LBP2D": {"binWidth": 8, "lbp2DMethod": "default", "lbp2DRadius": 2.0, "lbp2DSamples": 8}}),
    Case("LBP3D", negative, {}, {"LBP3D": {"binWidth": 1}}),
    Case("LBP3D, three levels, float", mr, {},
         {"LBP3D": {"binWidth": 1, "lbp3DLevels": 3, "lbp3DIcosphereRadius": 1.5, "lbp3DIcosphereSubdivision": 0}}),
    # real images
    Case("sarcoma T1 MRI", real_t1, {}, ORIGINAL | {"LoG": {"sigma": [3.0]}}),
    Case("sarcoma FDG-PET", real_pet, {"binWidth": 0.5}, FILTERS),
    Case("sarcoma FDG-PET, resampled", real_pet, {"binWidth": 0.5} | resampled([4, 4, 4]), FEW),
    Case("abdominal CT", real_ct, {}, FEW),
    Case("abdominal CT, resampled", real_ct, resampled([1, 1, 1]), ORIGINAL | {"LoG": {"sigma": [2.0]}}),
]  # fmt: skip
