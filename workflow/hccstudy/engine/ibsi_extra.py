"""The IBSI-1 features that pyradiomics lacks, for one region of one image.

Definitions, tags and four-letter codes are those of the IBSI reference manual (Zwanenburg et al., arXiv:1612.07003; Radiology
2020;295:328); each feature stands beside its code. Left out are the features without a consensus value: densities of
the oriented bounding box (ombb) and of the enclosing ellipsoid (mvee), and the area under the intensity-volume
histogram. Arrays are z, y, x, lengths mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from hccstudy.engine.resampling import bounding_box
from hccstudy.errors import CaseError

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Values = dict[str, float]

PEAK_RADIUS_MM = 10 * (3 / (4 * math.pi)) ** (1 / 3)  # a sphere of 1 cm^3
IVH_BINS = 1000
SLAB = 8  # columns of frequencies done at a time: what they need stays in the processor's cache


def extra_features(
    image: Array,
    morphological: Mask,
    intensity: Mask,
    levels: Array,
    spacing: Sequence[float],
    *,
    classes: set[str],
    force_2d: bool = False,
    whole: bool = False,
    intensity_range: Sequence[float] | None = None,
) -> Values:
    """IBSI features that pyradiomics lacks, by IBSI tag; nan where a feature is undefined for the region.

    `image`, the masks and `levels` have one shape (z, y, x), `spacing` is z, y, x in mm. `image` holds the surroundings of
    the region as far as they exist, since local intensity peaks look 6.2 mm beyond it. `levels` are the discretized gray
    levels, 1 or more in the intensity mask and 0 outside. `classes` are the pyradiomics classes whose complement is
    wanted: "shape" (morph_), "firstorder" (stat_, loc_, ih_, ivh_), "glszm" (dzm_, per slice and merged with `force_2d`).
    `whole`: intensities are whole numbers by their nature, as HU are, which ivh_ then uses as they are.
    `intensity_range` is that of re-segmentation (low, high), where there was one: IBSI takes fractions of it in ivh_.
    CaseError where the intensity mask is empty or leaves the morphological one, or where an intensity is not finite.
    """
    if not intensity.any() or (intensity & ~morphological).any():
        count = int(intensity.sum())
        detail = f"{count} voxels, {int((intensity & ~morphological).sum())} of them outside the morphological mask"
        raise CaseError("intensity mask", f"{detail}; expected 1 or more, all of them inside")
    sides = np.asarray(spacing, float)
    box = _box(morphological, sides, 0)
    region, inside = morphological[box], intensity[box]
    near = image[box].astype(float)
    _check_finite(near[inside])
    values: Values = {}
    if "shape" in classes:
        values |= _morphology(near, region, inside, sides)
    if "firstorder" in classes:
        wide = _box(intensity, sides, PEAK_RADIUS_MM)
        _check_finite(image[wide])
        values |= {f"stat_{name}": value for name, value in _spread(near[inside]).items()}
        values |= _local_peaks(image[wide].astype(float), intensity[wide], sides)
        values |= _histogram(levels[intensity])
        values |= _volume_histogram(near[inside], whole, intensity_range)
    if "glszm" in classes:
        values |= _distance_zones(levels[box], region, inside, force_2d)
    return values


def _box(mask: Mask, sides: Array, margin_mm: float) -> tuple[slice, ...]:
    """The bounding box of a mask and the voxels around it up to a distance, as far as the array has them."""
    more = [int(margin_mm / side) for side in sides]
    box = bounding_box(mask)
    return tuple(slice(max(part.start - n, 0), part.stop + n) for part, n in zip(box, more, strict=True))


def _check_finite(values: Array) -> None:
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise CaseError("intensity not finite", f"{wrong} voxels in or near the region; expected finite intensities")


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else math.nan


# --- morphology ---------------------------------------------------------------------------------------------


def _morphology(image: Array, region: Mask, inside: Mask, sides: Array) -> Values:
    vertices, volume, area = _mesh(region, sides)
    sphericity = (36 * math.pi * volume**2) ** (1 / 3) / area
    moran, geary = _autocorrelation(image, inside, sides)
    values = {
        "comp_1": volume / (math.sqrt(math.pi) * area**1.5),  # SKGS compactness 1
        "comp_2": sphericity**3,  # BQWJ compactness 2
        "sph_dispr": 1 / sphericity,  # KRCK spherical disproportion
        "asphericity": 1 / sphericity - 1,  # 25C7
        "com": _center_shift(image, region, inside, sides),  # KLMA center of mass shift, mm
        "integ_int": volume * image[inside].mean(),  # 99N0 integrated intensity
        "moran_i": moran,  # N365 Moran's I index
        "geary_c": geary,  # NPT7 Geary's C measure
    }
    enclosing = {
        "aabb": _bounding_box(vertices),  # PBX1, R59B axis-aligned bounding box
        "aee": _ellipsoid(np.argwhere(region) * sides),  # 6BDE, RDD2 approximate enclosing ellipsoid
        "conv_hull": _convex_hull(vertices),  # R3ER, 7T7F convex hull
    }
    for name, (its_volume, its_area) in enclosing.items():
        values[f"vol_dens_{name}"] = _ratio(volume, its_volume)
        values[f"area_dens_{name}"] = _ratio(area, its_area)
    return {f"morph_{name}": float(value) for name, value in values.items()}


def _mesh(region: Mask, sides: Array) -> tuple[Array, float, float]:
    """Vertices (n, 3) in mm, volume (mm^3) and area (mm^2) of the surface, a triangle mesh at level 0.5."""
    from skimage.measure import marching_cubes

    vertices, faces, _, _ = marching_cubes(np.pad(region, 1).astype(np.float32), 0.5)
    vertices = vertices * sides  # here, because in voxels they are exact in float32
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    return vertices, abs((a * normals).sum()) / 6, np.linalg.norm(normals, axis=1).sum() / 2


def _bounding_box(vertices: Array) -> tuple[float, float]:
    a, b, c = np.ptp(vertices, axis=0)
    return a * b * c, 2 * (a * b + b * c + a * c)


def _convex_hull(vertices: Array) -> tuple[float, float]:
    from scipy.spatial import ConvexHull

    hull = ConvexHull(vertices)
    return hull.volume, hull.area


def _ellipsoid(points: Array) -> tuple[float, float]:
    """Volume and area of the ellipsoid whose semi-axes are twice the root of the eigenvalues of the covariance.

    The area is that of IBSI's series, 4 pi a b sum_n (alpha beta)^n / (1 - 4 n^2) P_n((alpha^2 + beta^2) / (2 alpha beta))
    up to n = 20, with alpha^2 = 1 - b^2 / a^2, beta^2 = 1 - c^2 / a^2. It is less than the true area (4 % for the digital
    phantom: the true one takes alpha^2 = 1 - c^2 / b^2), but it is what IBSI's reference values were computed with.
    """
    if len(points) < 2:
        return math.nan, math.nan
    squares = 4 * np.linalg.eigvalsh(np.cov(points.T))
    squares[squares < 1e-12 * squares.max()] = 0  # a flat region
    c2, b2, a2 = squares
    volume = 4 / 3 * math.pi * math.sqrt(a2 * b2 * c2)
    mean, product = 1 - (b2 + c2) / a2 / 2, (1 - b2 / a2) * (1 - c2 / a2)
    before, term, total = 0.0, 1.0, 1.0  # (alpha beta)^n P_n by Legendre's recurrence
    for n in range(1, 21):
        before, term = term, ((2 * n - 1) * mean * term - (n - 1) * product * before) / n
        total += term / (1 - 4 * n**2)
    return volume, 4 * math.pi * math.sqrt(a2 * b2) * total


def _center_shift(image: Array, region: Mask, inside: Mask, sides: Array) -> float:
    """Distance of the center of the region to the center of its intensities."""
    weights = image[inside]
    if not weights.sum():
        return math.nan
    weighted = np.average(np.argwhere(inside), axis=0, weights=weights)
    return float(np.linalg.norm((np.argwhere(region).mean(axis=0) - weighted) * sides))


def _autocorrelation(image: Array, inside: Mask, sides: Array) -> tuple[float, float]:
    """Moran's I and Geary's C of all pairs of voxels, weighted by the inverse of their distance; exact.

    A sum over pairs, sum_ij w(i - j) f_i g_j, is one over frequencies, mean_k W(k) F(k) G*(k), of arrays padded to twice
    their size. W is real: the cosine transform of the weights of one octant, mirrored.
    """
    count = int(inside.sum())
    deviation = np.where(inside, image - image[inside].mean(), 0)
    squares = deviation**2
    if np.ptp(image[inside]) == 0:
        return math.nan, math.nan
    halves = [fft.next_fast_len(n, real=True) for n in inside.shape]
    axes = np.ogrid[tuple(slice(half + 1) for half in halves)]
    distance = np.sqrt(sum((axis * side) ** 2 for axis, side in zip(axes, sides, strict=True)))
    distance[0, 0, 0] = math.inf  # no voxel is its own pair
    octant = fft.dctn(1 / distance, type=1)
    octant[:, :, 1:-1] *= 2  # the other half of the last axis, which the real transform leaves out
    mirror = np.ix_(*(np.r_[: half + 1, half - 1 : 0 : -1] for half in halves[:2]))

    lengths = [2 * half for half in halves]
    rows = [fft.rfft(item, lengths[2], axis=2) for item in (inside.astype(float), deviation, squares)]
    sums = np.zeros(3)
    for first in range(0, octant.shape[2], SLAB):
        part = (slice(None), slice(None), slice(first, first + SLAB))
        weights = octant[part][mirror]
        ones, values, second = (fft.fft(fft.fft(row[part], lengths[1], axis=1), lengths[0], axis=0) for row in rows)
        for place, (f, g) in enumerate(((ones, ones), (values, values), (second, ones))):
            sums[place] += (weights * (f.real * g.real + f.imag * g.imag)).sum()
    pairs, products, second_moments = sums / math.prod(lengths)
    differences = 2 * (second_moments - products)  # sum_ij w_ij (x_i - x_j)^2
    moran = count / pairs * products / squares.sum()
    geary = (count - 1) / (2 * pairs) * differences / squares.sum()
    return float(moran), float(geary)


# --- intensities --------------------------------------------------------------------------------------------


def _spread(x: Array) -> Values:
    low, high = np.percentile(x, [25, 75])
    return {
        "medad": float(np.abs(x - np.median(x)).mean()),  # N72L, 4RNL median absolute deviation
        "cov": _ratio(x.std(), x.mean()),  # 7TET, CWYJ coefficient of variation
        "qcod": _ratio(high - low, high + low),  # 9S40, SLWD quartile coefficient of dispersion
    }


def _local_peaks(image: Array, inside: Mask, sides: Array) -> Values:
    """Largest mean intensity in spheres of 1 cm^3 around voxels of the region; what lies outside the image is left out."""
    reach = [int(PEAK_RADIUS_MM / side) for side in sides]
    axes = np.ogrid[tuple(slice(-more, more + 1) for more in reach)]
    sphere = sum((axis * side) ** 2 for axis, side in zip(axes, sides, strict=True)) <= PEAK_RADIUS_MM**2
    shape = [fft.next_fast_len(n + 2 * more, real=True) for n, more in zip(image.shape, reach, strict=True)]
    transformed = fft.rfftn(sphere.astype(float), shape)
    center = tuple(slice(more, more + n) for n, more in zip(image.shape, reach, strict=True))

    def total(values: Array) -> Array:
        return np.asarray(fft.irfftn(fft.rfftn(values, shape) * transformed, shape)[center][inside])

    means = total(image) / np.rint(total(np.ones_like(image)))
    brightest = image[inside] == image[inside].max()
    return {
        "loc_peak_loc": float(means[brightest].max()),  # VJGA around the brightest voxel; of many the highest
        "loc_peak_glob": float(means.max()),  # 0F91 around any voxel
    }


def _histogram(levels: Array) -> Values:
    """ih_: statistics of the gray levels, and gradients of their histogram over levels 1 to the highest."""
    x = levels.astype(float)
    counts = np.bincount(levels.astype(np.int64))[1:]
    mean, deviation = x.mean(), x - x.mean()
    variance = (deviation**2).mean()
    low, quarter, median, three_quarters, high = np.percentile(x, [10, 25, 50, 75, 90])
    central = x[(x >= low) & (x <= high)]
    most = np.flatnonzero(counts == counts.max()) + 1
    gradient = np.gradient(counts) if len(counts) > 1 else np.array([math.nan])
    values = {
        "mean": mean,  # X6K6
        "var": variance,  # CH89
        "skew": (deviation**3).mean() / variance**1.5 if variance else 0,  # 88K1
        "kurt": (deviation**4).mean() / variance**2 - 3 if variance else 0,  # C3I7 excess kurtosis
        "median": median,  # WIFQ
        "min": x.min(),  # 1PR8
        "p10": low,  # GPMT
        "p90": high,  # OZ0C
        "max": x.max(),  # 3NCY
        "mode": most[np.abs(most - mean).argmin()],  # AMMC; of many the one closest to the mean
        "iqr": three_quarters - quarter,  # WR0O
        "range": x.max() - x.min(),  # 5Z3W
        "mad": np.abs(deviation).mean(),  # D2ZX mean absolute deviation
        "rmad": np.abs(central - central.mean()).mean() if central.size else math.nan,  # WRZB robust m. a. deviation
        **_spread(x),
        "max_grad": gradient.max(),  # 12CE
        "max_grad_g": gradient.argmax() + 1 if len(counts) > 1 else math.nan,  # 8E6O its level
        "min_grad": gradient.min(),  # VQB3
        "min_grad_g": gradient.argmin() + 1 if len(counts) > 1 else math.nan,  # RHQZ its level
    }
    return {f"ih_{name}": float(value) for name, value in values.items()}


def _volume_histogram(x: Array, whole: bool, intensity_range: Sequence[float] | None) -> Values:
    """ivh_: intensity fractions against volume fractions.

    Whole intensities are used as they are, in steps of 1, and fractions are of the re-segmentation range or else of the
    region's own. Others are discretized into 1000 bins between the region's extremes and the intensities i10, i90 are
    numbers of bins, as IBSI recommends for arbitrary units: in one study always the one or always the other.
    """
    names = ("v10", "v90", "i10", "i90", "diff_v10_v90", "diff_i10_i90")
    lowest, highest = x.min(), x.max()
    if whole and intensity_range is not None:
        lowest, highest = intensity_range
    if lowest == highest:
        return {f"ivh_{name}": math.nan for name in names}
    if not whole:
        x = np.minimum(np.floor(IVH_BINS * (x - lowest) / (highest - lowest)) + 1, IVH_BINS)
        lowest, highest = 1, IVH_BINS

    def volume(percent: int) -> float:
        """BC2M: the fraction of the volume with at least this fraction of the range of intensities."""
        return float(((x - lowest) / (highest - lowest) >= percent / 100).mean())

    def intensity(percent: int) -> float:
        """GBPN: the lowest intensity that at most this fraction of the volume has or exceeds."""
        place = len(x) - 1 - len(x) * percent // 100
        return float(np.partition(x, place)[place] + 1)

    v10, v90, i10, i90 = volume(10), volume(90), intensity(10), intensity(90)
    values = (v10, v90, i10, i90, v10 - v90, i10 - i90)  # the differences are DDTU and CNV2
    return {f"ivh_{name}": value for name, value in zip(names, values, strict=True)}


# --- distance zones -----------------------------------------------------------------------------------------


def _distance_zones(levels: Array, region: Mask, inside: Mask, force_2d: bool) -> Values:
    """dzm_: zones of one gray level and their distance, in voxels, to the border of the region.

    Zones are connected over faces, edges and corners. The distance of a zone is that of its closest voxel, in steps over
    faces to the nearest voxel outside the morphological mask; what is outside the image is outside the mask.
    """
    zones, distance = _zones(levels, force_2d)[inside], _border_distance(region, force_2d)[inside]
    count = int(zones.max())
    closest = np.full(count, distance.max())
    np.minimum.at(closest, zones - 1, distance)
    gray = np.zeros(count, np.int64)
    gray[zones - 1] = levels[inside]

    g, d = gray.astype(float) ** 2, closest.astype(float) ** 2
    of_level, of_distance = np.bincount(gray), np.bincount(closest)
    both = np.bincount(gray * len(of_distance) + closest)
    p = both[both > 0] / count
    values = {
        "sde": (1 / d).mean(),  # 0GBI small distance emphasis
        "lde": d.mean(),  # MB4I large distance emphasis
        "lgze": (1 / g).mean(),  # S1RA low gray level zone emphasis
        "hgze": g.mean(),  # K26C high gray level zone emphasis
        "sdlge": (1 / (g * d)).mean(),  # RUVG small distance low gray level emphasis
        "sdhge": (g / d).mean(),  # DKNJ small distance high gray level emphasis
        "ldlge": (d / g).mean(),  # A7WM large distance low gray level emphasis
        "ldhge": (d * g).mean(),  # KLTH large distance high gray level emphasis
        "glnu": (of_level**2).sum() / count,  # VFT7 gray level non-uniformity
        "glnu_norm": (of_level**2).sum() / count**2,  # 7HP3
        "zdnu": (of_distance**2).sum() / count,  # V294 zone distance non-uniformity
        "zdnu_norm": (of_distance**2).sum() / count**2,  # IATH
        "z_perc": count / len(zones),  # VIWW zone percentage
        "gl_var": gray.var(),  # QK93 gray level variance
        "zd_var": closest.var(),  # 7WT1 zone distance variance
        "zd_entr": -(p * np.log2(p)).sum() + 0.0,  # GBDU zone distance entropy
    }
    suffix = "2_5D" if force_2d else "3D"
    return {f"dzm_{name}_{suffix}": float(value) for name, value in values.items()}


def _zones(levels: Array, force_2d: bool) -> Array:
    """Zones numbered from 1, 0 outside; with `force_2d` in slices."""
    from skimage.measure import label

    levels = levels.astype(np.int64)
    if force_2d:  # no gray level in two slices, so no zone either
        slices = np.arange(len(levels))[:, None, None]
        levels = np.where(levels > 0, levels + slices * (levels.max() + 1), 0)
    return np.asarray(label(levels, background=0, connectivity=3))


def _border_distance(region: Mask, force_2d: bool) -> Array:
    """Steps over faces (with `force_2d` in the slice) to the nearest voxel outside, which is 1 at the border."""
    if force_2d:
        return np.stack([_border_distance(plane, False) for plane in region])
    distance = ndimage.distance_transform_cdt(np.pad(region, 1), "taxicab")
    return np.asarray(distance[(slice(1, -1),) * region.ndim])
