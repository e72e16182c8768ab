"""First-order statistics (IBSI UHIW and the histogram's ZVCW) under pyradiomics' names, each beside its IBSI code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hccstudy.engine.formulae import EPSILON, Features
from hccstudy.engine.jit import kernel

Array = NDArray[Any]


def first_order(values: Array, counts: Array, voxel_volume: float, shift: float) -> Features:
    """Statistics of intensities (n,) and of the `counts` of their gray levels.

    `voxel_volume` in mm^3; `shift` is added to the intensities in energy, total energy and root mean square
    (pyradiomics' `voxelArrayShift`). Kurtosis is not the excess kurtosis of IBSI, which is 3 less.
    """
    n = values.size
    low, high = values.min(), values.max()
    tenth, quarter, median, three_quarters, ninetieth = _percentiles(values, low, high, [10, 25, 50, 75, 90])
    mean = float(np.mean(values))
    absolute, second, third, fourth, squares, inner_count, inner_sum = _moments(values, mean, shift, tenth, ninetieth)
    robust = float("nan")  # of two voxels none lies between the percentiles
    if inner_count:
        robust = _deviation_within(values, tenth, ninetieth, mean + inner_sum / inner_count) / inner_count
    p = counts[counts > 0] / n
    variance = second / n
    scale = variance or 1.0
    return {
        "10Percentile": tenth,  # QG58
        "90Percentile": ninetieth,  # 8DWT
        "Energy": squares,  # N8CA
        "Entropy": -np.sum(p * np.log2(p + EPSILON)),  # TLU2
        "InterquartileRange": three_quarters - quarter,  # SALO
        "Kurtosis": fourth / n / scale**2,  # IPH6
        "Maximum": high,  # 84IY
        "Mean": mean,  # Q4LE
        "MeanAbsoluteDeviation": absolute / n,  # 4FUA
        "Median": median,  # Y12H
        "Minimum": low,  # 1GSF
        "Range": high - low,  # 2OJQ
        "RobustMeanAbsoluteDeviation": robust,  # 1128
        "RootMeanSquared": np.sqrt(squares / n),  # 5ZWQ
        "Skewness": third / n / scale**1.5,  # KE2A
        "StandardDeviation": np.sqrt(variance),
        "TotalEnergy": squares * voxel_volume,
        "Uniformity": np.sum(p**2),  # BJ5W
        "Variance": variance,  # ECT3
    }


def _percentiles(values: Array, low: float, high: float, percents: list[int]) -> Array:
    """numpy.percentile, with the values that come next in order looked for in narrow classes of the range only."""
    n = values.size
    if low == high:
        return np.full(len(percents), low)
    classes = max(min(n // 8, 4096), 1)
    places = np.array(percents) / 100 * (n - 1)
    below = np.floor(places).astype(np.int64)
    wanted = np.concatenate([below, np.minimum(below + 1, n - 1)])
    found = np.empty(len(wanted))
    _in_order(values, low, classes / (high - low), classes, wanted, found)
    one, other = np.split(found, 2)
    t = places - below
    # as numpy interpolates: from the nearer end
    return np.where(t >= 0.5, other - (other - one) * (1 - t), one + (other - one) * t)


@kernel("void(float64[::1], float64, float64, int64, int64[::1], float64[::1])")
def _in_order(values: Array, low: float, scale: float, classes: int, wanted: Array, found: Array) -> None:
    """The values that stand at the places `wanted` (0 ... n - 1) when all are sorted."""
    ends = np.zeros(classes + 1, np.int64)
    for value in values:
        ends[np.uint64(min((value - low) * scale, classes - 1.0)) + np.uint64(1)] += 1
    needed = np.zeros(classes, np.bool_)
    for k in range(classes):
        ends[k + 1] += ends[k]
    for place in wanted:
        needed[np.searchsorted(ends, place, side="right") - 1] = True
    kept, starts = np.empty(values.size), np.empty(classes, np.int64)
    size = 0
    for k in range(classes):
        if needed[k]:
            starts[k] = size
            size += ends[k + 1] - ends[k]
    filled = starts.copy()
    for value in values:
        which = np.uint64(min((value - low) * scale, classes - 1.0))
        if needed[which]:
            kept[filled[which]] = value
            filled[which] += 1
    for k in range(classes):
        if needed[k]:
            kept[starts[k] : filled[k]].sort()
    for i in range(wanted.size):
        k = np.searchsorted(ends, wanted[i], side="right") - 1
        found[i] = kept[starts[k] + wanted[i] - ends[k]]


@kernel("UniTuple(float64, 7)(float64[::1], float64, float64, float64, float64)")
def _moments(values: Array, mean: float, shift: float, low: float, high: float) -> Any:
    """Sums of |x - mean|, of its powers 2 to 4, of (x + shift)^2; number and sum of x - mean of those in [low, high]."""
    absolute = second = third = fourth = squares = inner_count = inner_sum = 0.0
    for value in values:
        apart = value - mean
        square = apart * apart
        absolute += abs(apart)
        second += square
        third += square * apart
        fourth += square * square
        squares += (value + shift) * (value + shift)
        if low <= value <= high:
            inner_count += 1.0
            inner_sum += apart
    return absolute, second, third, fourth, squares, inner_count, inner_sum


@kernel("float64(float64[::1], float64, float64, float64)")
def _deviation_within(values: Array, low: float, high: float, center: float) -> float:
    total = 0.0
    for value in values:
        if low <= value <= high:
            total += abs(value - center)
    return total
