"""Filters: Laplacian of Gaussian and stationary wavelets, computed where they are needed.

Values are those of pyradiomics, which takes the one from ITK and the other from PyWavelets, to the last bit: intensities
on a bin's edge, as those of a flat region are, would else fall on its other side. So every sum has their order and
every intermediate image their type; what is saved is the rest of the image, and lines are filtered side by side.

All other filters are left to pyradiomics.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pywt
from numpy.typing import NDArray

from hccstudy.engine.jit import inlined, kernel

Array = NDArray[Any]
Box = Sequence[slice]
VOXELS_AT_ONCE = 4096  # of local binary patterns
SIDE_BY_SIDE = 32  # lines that are filtered together
AT_ONCE = 512  # elements of a sum of shifted lines


# --- Laplacian of Gaussian (IBSI L6PA): recursive approximation, Deriche, INRIA research report 1893 (1993) --


def log_fits(shape: Sequence[int], spacing: Sequence[float], sigma: float) -> bool:
    """Whether an image (voxels and mm along the same axes) is large enough for the filter, as pyradiomics demands."""
    enough = all(n >= math.ceil(sigma / side) + 1 for n, side in zip(shape, spacing, strict=True))
    return sigma > 0 and min(shape) >= 4 and enough


def laplacian_of_gaussian(image: Array, spacing: Sequence[float], sigma: float, box: Box) -> Array:
    """The part `box` of the Laplacian of Gaussian (float32) of an image (z, y, x), `spacing` and `sigma` in mm.

    As itk::LaplacianRecursiveGaussianImageFilter, normalized across scale, on images of integers or float32.
    """
    image = np.ascontiguousarray(image, np.float32)
    total = np.zeros([part.stop - part.start for part in box], np.float32)
    for axis in (2, 1, 0):
        part = image
        for along in (axis, *(other for other in (2, 1, 0) if other != axis)):
            coefficients = _recursion(sigma, spacing[along], second=along == axis)
            part = _filter_lines(part, along, coefficients, box[along])
        scaled = np.multiply(part, 1.0 / spacing[axis] ** 2, dtype=np.float64)
        np.add(total, scaled, out=total, dtype=np.float64, casting="same_kind")
    return total


@cache
def _recursion(sigma: float, spacing: float, *, second: bool) -> Array:
    """The coefficients N0 ... N3, D1 ... D4, M1 ... M4 and, for the borders, BN1 ... BN4, BM1 ... BM4.

    They approximate a Gaussian, or its second derivative scaled by sigma^2. The numbers of Deriche's approximation and the
    order of operations are those of itk::RecursiveGaussianImageFilter (Apache-2.0, copyright NumFOCUS).
    """
    s = sigma / spacing
    w1, l1, w2, l2 = 0.6681, -1.3932, 2.0787, -1.3732
    sin1, sin2, cos1, cos2 = math.sin(w1 / s), math.sin(w2 / s), math.cos(w1 / s), math.cos(w2 / s)
    exp1, exp2 = math.exp(l1 / s), math.exp(l2 / s)

    d4 = exp1 * exp1 * exp2 * exp2
    d3 = -2 * cos1 * exp1 * exp2 * exp2
    d3 += -2 * cos2 * exp2 * exp1 * exp1
    d2 = 4 * cos2 * cos1 * exp1 * exp2
    d2 += exp1 * exp1 + exp2 * exp2
    d1 = -2 * (exp2 * cos2 + exp1 * cos1)
    sd = 1.0 + d1 + d2 + d3 + d4
    dd = d1 + 2 * d2 + 3 * d3 + 4 * d4
    ed = d1 + 4 * d2 + 9 * d3 + 16 * d4

    def numerator(a1: float, b1: float, a2: float, b2: float) -> tuple[list[float], float, float, float]:
        n0 = a1 + a2
        n1 = exp2 * (b2 * sin2 - (a2 + 2 * a1) * cos2)
        n1 += exp1 * (b1 * sin1 - (a1 + 2 * a2) * cos1)
        n2 = (a1 + a2) * cos2 * cos1
        n2 -= b1 * cos2 * sin1 + b2 * cos1 * sin2
        n2 *= 2 * exp1 * exp2
        n2 += a2 * exp1 * exp1 + a1 * exp2 * exp2
        n3 = exp2 * exp1 * exp1 * (b2 * sin2 - a2 * cos2)
        n3 += exp1 * exp2 * exp2 * (b1 * sin1 - a1 * cos1)
        return [n0, n1, n2, n3], n0 + n1 + n2 + n3, n1 + 2 * n2 + 3 * n3, n1 + 4 * n2 + 9 * n3

    n, sn, dn, en = numerator(1.3530, 1.8151, -0.3531, 0.0902)
    if second:
        n_2, sn_2, dn_2, en_2 = numerator(-1.3563, 5.2318, 0.3446, -2.2355)
        beta = -(2 * sn_2 - sd * n_2[0]) / (2 * sn - sd * n[0])
        n = [of_second + beta * of_zero for of_second, of_zero in zip(n_2, n, strict=True)]
        sn, dn, en = sn_2 + beta * sn, dn_2 + beta * dn, en_2 + beta * en
        alpha = en * sd * sd - ed * sn * sd - 2 * dn * dd * sd + 2 * dd * dd * sn
        alpha /= sd * sd * sd
        factor = sigma * sigma / alpha
    else:
        factor = 1.0 / (2 * sn / sd - n[0])
    n = [value * factor for value in n]
    d = [d1, d2, d3, d4]
    m = [n[1] - d1 * n[0], n[2] - d2 * n[0], n[3] - d3 * n[0], -d4 * n[0]]
    sn, sm = n[0] + n[1] + n[2] + n[3], m[0] + m[1] + m[2] + m[3]
    return np.array([*n, *d, *m, *(value * sn / sd for value in d), *(value * sm / sd for value in d)])


def _filter_lines(image: Array, axis: int, coefficients: Array, keep: slice) -> Array:
    """Filter along one axis and keep the part `keep` of it."""
    shape = list(image.shape)
    shape[axis] = keep.stop - keep.start
    result = np.empty(shape, np.float32)
    length, inner = image.shape[axis], math.prod(image.shape[axis + 1 :])
    if inner == 1:  # along x: neighbors in memory are of one line, so lines are brought side by side
        _recur_rows(image.ravel(), length, coefficients, keep.start, result.ravel())
    else:
        _recur(image.ravel(), length, inner, coefficients, keep.start, result.ravel())
    return result


@inlined
def _recur_block(data: Array, c: Array, borders: Array, result: Array) -> None:
    """One direction of the recursion for lines side by side, rows of SIDE_BY_SIDE in flat arrays.

    result[i] = sum of c[k] data[i - k] - c[4 + k] result[i - k - 1] over k = 0 ... 3. In the first three rows of `data`,
    to which no result belongs, and before them the outermost value goes on; `borders` tell what it adds in place of the
    results. Indices are unsigned and both arrays alike, so that the compiler sees that it may use vector instructions.
    """
    w, rows = np.uint64(SIDE_BY_SIDE), result.size // SIDE_BY_SIDE
    n0, n1, n2, n3, d1, d2, d3, d4 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    old = np.empty(SIDE_BY_SIDE)
    for i in range(3, 7):
        old[:] = 0.0
        for back in range(4):
            inside = i > back + 3
            row = result[(i - back - 1) * SIDE_BY_SIDE :] if inside else data
            factor = c[4 + back] if inside else borders[back]
            for line in range(SIDE_BY_SIDE):
                old[line] += row[line] * factor
        for line in range(SIDE_BY_SIDE):
            k = np.uint64(i) * w + np.uint64(line)
            new = data[k] * n0 + data[k - w] * n1 + data[k - w - w] * n2 + data[k - w - w - w] * n3
            result[k] = new - old[line]
    for i in range(7, rows):
        for line in range(SIDE_BY_SIDE):
            k = np.uint64(i) * w + np.uint64(line)
            new = data[k] * n0 + data[k - w] * n1 + data[k - w - w] * n2 + data[k - w - w - w] * n3
            before = (
                result[k - w] * d1
                + result[k - w - w] * d2
                + result[k - w - w - w] * d3
                + result[k - w - w - w - w] * d4
            )
            result[k] = new - before


@kernel("void(float32[::1], int64, int64, float64[::1], int64, float32[::1])")
def _recur(image: Array, length: int, inner: int, c: Array, start: int, result: Array) -> None:
    """Filter along the middle axis of an image (outer, length, inner), flattened; keep (outer, kept, inner) from `start`.

    Where fewer lines are left than fit side by side, some before them are filtered again.
    """
    forth, back = np.zeros((length + 3) * SIDE_BY_SIDE), np.zeros((length + 3) * SIDE_BY_SIDE)
    causal, anticausal = np.empty_like(forth), np.empty_like(forth)
    to_anticausal = np.concatenate((c[8:12], c[4:8]))
    outer, last = image.size // (length * inner), length - 1
    kept = result.size // (outer * inner)
    width = min(SIDE_BY_SIDE, inner)
    for place in range(outer):
        for block in range(0, inner, SIDE_BY_SIDE):
            first = min(block, inner - width)
            for i in range(length + 3):
                source = np.uint64((place * length + max(i - 3, 0)) * inner + first)
                behind = np.uint64((place * length + min(last - i + 4, last)) * inner + first)
                target = np.uint64(i * SIDE_BY_SIDE)
                for line in range(width):
                    forth[target + np.uint64(line)] = image[source + np.uint64(line)]
                for line in range(width):
                    back[target + np.uint64(line)] = image[behind + np.uint64(line)]
            _recur_block(forth, c, c[12:16], causal)
            _recur_block(back, to_anticausal, c[16:20], anticausal)
            for i in range(kept):
                one, other = np.uint64((start + i + 3) * SIDE_BY_SIDE), np.uint64((last - start - i + 3) * SIDE_BY_SIDE)
                target = np.uint64((place * kept + i) * inner + first)
                for line in range(width):
                    both = causal[one + np.uint64(line)] + anticausal[other + np.uint64(line)]
                    result[target + np.uint64(line)] = np.float32(both)


@kernel("void(float32[::1], int64, float64[::1], int64, float32[::1])")
def _recur_rows(image: Array, length: int, c: Array, start: int, result: Array) -> None:
    """Filter along the last axis of an image (lines, length), flattened; keep (lines, kept) from `start`."""
    forth, back = np.zeros((length + 3) * SIDE_BY_SIDE), np.zeros((length + 3) * SIDE_BY_SIDE)
    causal, anticausal = np.empty_like(forth), np.empty_like(forth)
    to_anticausal = np.concatenate((c[8:12], c[4:8]))
    lines, last = image.size // length, length - 1
    kept = result.size // lines
    for first in range(0, lines, SIDE_BY_SIDE):
        width = min(SIDE_BY_SIDE, lines - first)
        for i in range(length + 3):
            source = np.uint64(first * length + max(i - 3, 0))
            behind = np.uint64(first * length + min(last - i + 4, last))
            target = np.uint64(i * SIDE_BY_SIDE)
            for line in range(width):
                forth[target + np.uint64(line)] = image[source + np.uint64(line * length)]
                back[target + np.uint64(line)] = image[behind + np.uint64(line * length)]
        _recur_block(forth, c, c[12:16], causal)
        _recur_block(back, to_anticausal, c[16:20], anticausal)
        for line in range(width):
            target = np.uint64((first + line) * kept)
            for i in range(kept):
                one = np.uint64((start + i + 3) * SIDE_BY_SIDE + line)
                other = np.uint64((last - start - i + 3) * SIDE_BY_SIDE + line)
                result[target + np.uint64(i)] = np.float32(causal[one] + anticausal[other])


# --- stationary wavelet transform, one level at a time (PyWavelets' swtn; IBSI 25BO) -------------------------


def wavelets(image: Array, settings: dict[str, Any], box: Box) -> Iterator[tuple[str, Array]]:
    """The part `box` of every sub-band of a stationary wavelet transform: (image type, values), as pyradiomics names them.

    `settings`: wavelet ("coif1"), level (1), start_level (0), force2D and force2Ddimension. Axes of odd length are made
    even by repeating their first plane at the end; the transform is periodic. PyWavelets does not dilate its filters
    here, because pyradiomics asks it for the first level again and again.
    """
    wavelet = pywt.Wavelet(settings.get("wavelet", "coif1"))
    start, levels = settings.get("start_level", 0), settings.get("level", 1)
    flat = settings.get("force2Ddimension", 0) if settings.get("force2D", False) else None
    axes = [axis for axis in (2, 1, 0) if axis != flat]
    data = np.pad(image, [(0, n % 2) for n in image.shape], "wrap")
    data = np.ascontiguousarray(data, np.float32 if data.dtype == np.float32 else np.float64)
    filters = dict(zip("LH", _taps(wavelet, data.dtype), strict=True))
    for level in range(1, start + levels + 1):
        if level > start:
            title = "wavelet" if level == start + 1 else f"wavelet{level - start}"
            bands = _bands(data, filters, axes, box)
            _, approximation = next(bands)
            yield from ((f"{title}-{name}", band) for name, band in bands)
        if level < start + levels:
            for axis in axes:
                data = _convolve(data, axis, filters["L"], slice(0, data.shape[axis]))
    yield f"wavelet{levels if levels > 1 else ''}-{'L' * len(axes)}", approximation


def _taps(wavelet: pywt.Wavelet, dtype: Any) -> list[Array]:
    """The low and high pass filter in the precision that PyWavelets works in: its answers to an impulse."""
    impulse = np.zeros(2 * wavelet.dec_len, dtype)
    impulse[0] = 1
    ((low, high),) = pywt.swt(impulse, wavelet, level=1)
    return [np.roll(answer, wavelet.dec_len // 2)[: wavelet.dec_len].copy() for answer in (low, high)]


def _bands(data: Array, filters: dict[str, Array], axes: Sequence[int], box: Box) -> Iterator[tuple[str, Array]]:
    """Sub-bands from LLL to HHH; a letter says which filter passed along the axis of its place in `axes`."""
    done = [data]  # after no filter, one, two, ... of the current name
    last = ""
    for letters in product("LH", repeat=len(axes)):
        name = "".join(letters)
        common = next(
            (place for place, pair in enumerate(zip(name, last, strict=False)) if len(set(pair)) > 1), len(last)
        )
        del done[common + 1 :]
        for axis, letter in zip(axes[common:], name[common:], strict=True):
            done.append(_convolve(done[-1], axis, filters[letter], box[axis]))
        last = name
        yield name, done[-1][tuple(slice(None) if axis in axes else box[axis] for axis in range(3))]


def _convolve(data: Array, axis: int, taps: Array, keep: slice) -> Array:
    """Periodic convolution along an axis, centered as by PyWavelets, of which the part `keep` is returned."""
    shape = list(data.shape)
    n = shape[axis]
    shape[axis] = keep.stop - keep.start
    result = np.empty(shape, data.dtype)
    ahead = np.arange(keep.start, keep.stop)[:, None] + len(taps) // 2
    order = np.broadcast_to(np.arange(len(taps)), (len(ahead), len(taps)))
    # beyond the end PyWavelets first adds the taps that wrapped around, from the last to the first
    order = np.where((order <= ahead - n) & (ahead >= n), ahead - n - order, order)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    parts = [(i, 0, inner) for i in range(len(ahead))]
    plain = np.flatnonzero((ahead[:, 0] >= len(taps) - 1) & (ahead[:, 0] < n))
    if inner == 1 and plain.size:  # along x: where no tap wraps around, neighbors are computed together
        parts[plain[0] : plain[-1] + 1] = [(plain[0], 0, plain.size)]
    places = (ahead - order) % n * inner
    _sum_taps(data.reshape(outer, -1), taps[order], places, np.array(parts), inner, result.reshape(outer, -1))
    return result


@kernel(
    "void(float64[:, ::1], float64[:, ::1], int64[:, ::1], int64[:, ::1], int64, float64[:, ::1])",
    "void(float32[:, ::1], float32[:, ::1], int64[:, ::1], int64[:, ::1], int64, float32[:, ::1])",
)
def _sum_taps(data: Array, taps: Array, places: Array, parts: Array, inner: int, result: Array) -> None:
    """Sum up parts of the result: row of `taps` (of even number) and `places`, first element, end."""
    for outer in range(data.shape[0]):
        line = data[outer]
        for i, first, end in parts:
            for at in range(first, end, AT_ONCE):
                count = min(AT_ONCE, end - at)
                total = result[outer, i * inner + at :][:count]
                for tap in range(0, taps.shape[1], 2):  # two at once, in their order
                    one, other = line[places[i, tap] + at :][:count], line[places[i, tap + 1] + at :][:count]
                    a, b = taps[i, tap], taps[i, tap + 1]
                    if tap == 0:
                        for x in range(count):
                            total[x] = a * one[x] + b * other[x]
                    else:
                        for x in range(count):
                            total[x] = total[x] + a * one[x] + b * other[x]


# --- local binary patterns in three dimensions -------------------------------------------------------------


def local_binary_patterns(image: Array, mask: Array, settings: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """Local binary patterns of the voxels of a mask (z, y, x) by spherical harmonics: (image type, values), 0 outside.

    As pyradiomics' LBP3D (Banerjee et al. 2013), whose own code finds neither `scipy.ndimage.interpolation` nor
    `scipy.special.sph_harm` in a current SciPy, and then silently leaves the image type out.
    """
    from scipy.ndimage import map_coordinates
    from scipy.special import sph_harm_y
    from scipy.stats import kurtosis
    from trimesh.creation import icosphere

    levels, radius = settings.get("lbp3DLevels", 2), settings.get("lbp3DIcosphereRadius", 1)
    around = np.array(icosphere(settings.get("lbp3DIcosphereSubdivision", 1), radius).vertices)
    theta, phi = np.arccos(around[:, 2] / radius), np.arctan2(around[:, 1], around[:, 0])
    degrees = np.array([n for n in range(levels) for _ in range(-n, n + 1)])
    # pyradiomics hands over polar and azimuthal angle in each other's place
    harmonics = np.stack([sph_harm_y(n, m, phi, theta) for n in range(levels) for m in range(-n, n + 1)], axis=1)

    places = np.stack(np.nonzero(mask))
    sampled = map_coordinates(image, (places.T[None] + around[:, None]).T, order=3)  # (voxels, points around)
    brighter = sampled >= image[mask][:, None]
    patterns = np.empty((levels, len(sampled)))
    for part in (slice(start, start + VOXELS_AT_ONCE) for start in range(0, len(sampled), VOXELS_AT_ONCE)):
        # sums in the order of pyradiomics: many voxels have one value, up to the last bit
        coefficients = (brighter[part, :, None].astype(int) * harmonics).sum(axis=1)
        responses = [
            (coefficients[:, None, degrees == level] * harmonics[None, :, degrees == level]).sum(axis=2)
            for level in range(levels)
        ]
        patterns[:, part] = np.sqrt(np.sum(np.stack(responses, axis=2) ** 2, axis=1)).real.T
    with warnings.catch_warnings():  # the kurtosis of points that are all equal is no number: told when it is measured
        warnings.simplefilter("ignore", RuntimeWarning)
        shapes = kurtosis(sampled, axis=1)
    titles = [f"lbp-3D-m{level + 1}" for level in range(levels)] + ["lbp-3D-k"]
    for title, values in zip(titles, [*patterns, shapes], strict=True):
        result = np.zeros(image.shape)
        result[mask] = values
        yield title, result
