"""Texture features from their matrices, under pyradiomics' names, each beside its IBSI code.

The codes are those of the IBSI reference manual (Zwanenburg et al., Radiology 2020;295:328-338). Where pyradiomics'
definition leaves IBSI's, the line says so. Matrices hold counts as (directions, ...) and every feature is computed per
direction, then averaged (IBSI 3D_avg): shapes are given for d directions, g gray levels, s sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Features = dict[str, Any]

EPSILON = np.spacing(1)  # within logarithms, as in pyradiomics
LARGEST = 2_000_000  # matrix elements that are worked on at once


def _entropy(p: Array, axis: Any = -1) -> Array:
    return np.asarray(-np.sum(p * np.log2(p + EPSILON), axis=axis))


def _means(values: Mapping[str, Array]) -> Features:
    """The means over directions (d,) of all features; undefined ones are left out."""
    stacked = np.array(list(values.values()))
    defined = ~np.isnan(stacked)
    sums, counts = np.where(defined, stacked, 0).sum(1), defined.sum(1)
    return dict(zip(values, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), strict=True))


# --- gray level co-occurrence matrix (IBSI LFYI) ------------------------------------------------------------


def glcm(counts: Array, gray: Array, *, symmetrical: bool, weights: Array | None) -> Features:
    """`counts` (d, g, g) of pairs, `gray` (g,) the gray levels present in the region.

    `symmetrical` adds the opposite directions; `weights` (d,) merges all directions into one weighted matrix.
    """
    if weights is not None:
        counts = np.tensordot(weights, counts, axes=1)[None]
    counts = counts[counts.any((1, 2))]
    step = max(1, LARGEST // gray.size**2)
    parts = []
    for start in range(0, max(len(counts), 1), step):
        p = counts[start : start + step].astype(float)
        if symmetrical:
            p += p.transpose(0, 2, 1)
        parts.append(_glcm_by_direction(p / p.sum((1, 2), keepdims=True), gray))
    return _means({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _glcm_by_direction(p: Array, gray: Array) -> Features:
    i, j, highest = gray[:, None], gray[None, :], int(gray[-1])
    d = np.arange(len(p))[:, None, None]
    row, column = p.sum(2), p.sum(1)
    mean_row, mean_column = row @ gray, column @ gray
    from_row, from_column = gray - mean_row[:, None], gray - mean_column[:, None]
    variance_row, variance_column = np.sum(row * from_row**2, 1), np.sum(column * from_column**2, 1)

    # the diagonal (IBSI p_i-j) and cross-diagonal (p_i+j) probabilities
    apart, sums = np.abs(i - j).astype(int), (i + j).astype(int)
    difference = np.bincount((d * highest + apart).ravel(), p.ravel(), len(p) * highest).reshape(len(p), highest)
    total = np.bincount((d * (2 * highest + 1) + sums).ravel(), p.ravel(), len(p) * (2 * highest + 1))
    total = total.reshape(len(p), 2 * highest + 1)[:, 2:]
    k = np.arange(highest, dtype=float)
    k_sum = np.arange(2, 2 * highest + 1, dtype=float)
    difference_average = difference @ k
    spread = k_sum - (mean_row + mean_column)[:, None]

    joint_entropy = _entropy(p, (1, 2))
    product = row[:, :, None] * column[:, None, :]
    log_product = np.log2(product + EPSILON)
    entropy_1, entropy_2 = -np.sum(p * log_product, (1, 2)), -np.sum(product * log_product, (1, 2))
    marginal = np.fmax(_entropy(row), _entropy(column))
    deviation = np.sqrt(variance_row) * np.sqrt(variance_column)
    covariance = np.einsum("dij,di,dj->d", p, from_row, from_column)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "Autocorrelation": np.einsum("dij,i,j->d", p, gray, gray),  # QWB0
            "ClusterProminence": np.sum(total * spread**4, 1),  # AE86
            "ClusterShade": np.sum(total * spread**3, 1),  # 7NFM
            "ClusterTendency": np.sum(total * spread**2, 1),  # DG8W
            "Contrast": difference @ k**2,  # ACUI
            "Correlation": np.where(deviation == 0, 1, covariance / (deviation + EPSILON)),  # NI2N
            "DifferenceAverage": difference_average,  # TF7R
            "DifferenceEntropy": _entropy(difference),  # NTRS
            "DifferenceVariance": np.sum(difference * (k - difference_average[:, None]) ** 2, 1),  # D3YU
            "Id": difference @ (1 / (1 + k)),  # IB1Z
            "Idm": difference @ (1 / (1 + k**2)),  # WF0Z
            "Idmn": difference @ (1 / (1 + k**2 / highest**2)),  # 1QCO
            "Idn": difference @ (1 / (1 + k / highest)),  # NDRX
            "Imc1": np.where(marginal == 0, 0, (joint_entropy - entropy_1) / marginal),  # R8DG
            "Imc2": np.where(
                entropy_2 == joint_entropy, 0, np.sqrt(1 - np.exp(-2 * (entropy_2 - joint_entropy)))
            ),  # JN9H
            "InverseVariance": difference[:, 1:] @ (1 / k[1:] ** 2),  # E8JP
            "JointAverage": mean_row,  # 60VM
            "JointEnergy": np.sum(p**2, (1, 2)),  # 8ZQL
            "JointEntropy": joint_entropy,  # TU9B
            "MCC": _maximal_correlation(p, product),  # not in IBSI
            "MaximumProbability": p.max((1, 2), initial=0),  # GYBY
            "SumAverage": total @ k_sum,  # ZGXS
            "SumEntropy": _entropy(total),  # P6QZ
            "SumSquares": variance_row,  # UR99
        }


def _maximal_correlation(p: Array, product: Array) -> Array:
    """The square root of the second largest eigenvalue of Q(i, j) = sum_k p(i, k) p(j, k) / (p_x(i) p_y(k)).

    Q has the eigenvalues of the symmetric s s', s = p / sqrt(p_x p_y), which are found faster.
    """
    if p.shape[1] < 2:
        return np.ones(len(p))
    s = p / np.sqrt(product + EPSILON)
    return np.asarray(np.sqrt(np.linalg.eigvalsh(s @ s.transpose(0, 2, 1))[:, -2]))


# --- matrices of gray level and size: runs, zones, dependences ----------------------------------------------

# generic feature: GLRLM (IBSI TP0I), GLSZM (9SAK), GLDM (REK0)
SIZE_FEATURES = {
    "small": ("ShortRunEmphasis", "SmallAreaEmphasis", "SmallDependenceEmphasis"),  # 22OV, 5QRC, SODN
    "large": ("LongRunEmphasis", "LargeAreaEmphasis", "LargeDependenceEmphasis"),  # W4KF, 48P8, IMOQ
    "low": ("LowGrayLevelRunEmphasis", "LowGrayLevelZoneEmphasis", "LowGrayLevelEmphasis"),  # V3SW, XMSY, TL9H
    "high": ("HighGrayLevelRunEmphasis", "HighGrayLevelZoneEmphasis", "HighGrayLevelEmphasis"),  # G3QZ, 5GN9, OAE7
    "small_low": (
        "ShortRunLowGrayLevelEmphasis",  # HTZT
        "SmallAreaLowGrayLevelEmphasis",  # 5RAI
        "SmallDependenceLowGrayLevelEmphasis",  # EQ3F
    ),
    "small_high": (
        "ShortRunHighGrayLevelEmphasis",  # GD3A
        "SmallAreaHighGrayLevelEmphasis",  # HW1V
        "SmallDependenceHighGrayLevelEmphasis",  # JA6D
    ),
    "large_low": (
        "LongRunLowGrayLevelEmphasis",  # IVPO
        "LargeAreaLowGrayLevelEmphasis",  # YH51
        "LargeDependenceLowGrayLevelEmphasis",  # NBZI
    ),
    "large_high": (
        "LongRunHighGrayLevelEmphasis",  # 3KUM
        "LargeAreaHighGrayLevelEmphasis",  # J17V
        "LargeDependenceHighGrayLevelEmphasis",  # 9QMG
    ),
    "gray_uniformity": ("GrayLevelNonUniformity",) * 3,  # R5YN, JNSA, FP8K
    "gray_uniformity_normalized": ("GrayLevelNonUniformityNormalized",) * 3,  # OVBL, Y1RO, 5SPA (not in GLDM)
    "size_uniformity": (
        "RunLengthNonUniformity",  # W92Y
        "SizeZoneNonUniformity",  # 4JP3
        "DependenceNonUniformity",  # Z87G
    ),
    "size_uniformity_normalized": (
        "RunLengthNonUniformityNormalized",  # IC23
        "SizeZoneNonUniformityNormalized",  # VB3A
        "DependenceNonUniformityNormalized",  # OKJI
    ),
    "percentage": ("RunPercentage", "ZonePercentage", "DependencePercentage"),  # 9ZK5, P30P, 6XV8
    "gray_variance": ("GrayLevelVariance",) * 3,  # 8CE5, BYLV, 1PFV
    "size_variance": ("RunVariance", "ZoneVariance", "DependenceVariance"),  # SXLW, 3NSA, DNX2
    "entropy": ("RunEntropy", "ZoneEntropy", "DependenceEntropy"),  # HJ9O, GU8N, FCBV
}
RUNS, ZONES, DEPENDENCES = 0, 1, 2


def sizes(counts: Array, gray: Array, size: Array, kind: int) -> Features:
    """Features of `counts` (d, g, s) of runs, zones or dependences, `gray` (g,) and `size` (s,) their coordinates."""
    counts = counts.astype(float)
    n = counts.sum((1, 2))
    p = counts / n[:, None, None]
    by_gray, by_size = p.sum(2), p.sum(1)
    i2, j2 = gray**2, size**2
    mean_gray, mean_size = by_gray @ gray, by_size @ size
    values = {
        "small": by_size @ (1 / j2),
        "large": by_size @ j2,
        "low": by_gray @ (1 / i2),
        "high": by_gray @ i2,
        "small_low": (p @ (1 / j2)) @ (1 / i2),
        "small_high": (p @ (1 / j2)) @ i2,
        "large_low": (p @ j2) @ (1 / i2),
        "large_high": (p @ j2) @ i2,
        "gray_uniformity": np.sum(by_gray**2, 1) * n,
        "gray_uniformity_normalized": np.sum(by_gray**2, 1),
        "size_uniformity": np.sum(by_size**2, 1) * n,
        "size_uniformity_normalized": np.sum(by_size**2, 1),
        "percentage": 1 / mean_size,
        "gray_variance": np.sum(by_gray * (gray - mean_gray[:, None]) ** 2, 1),
        "size_variance": np.sum(by_size * (size - mean_size[:, None]) ** 2, 1),
        "entropy": _entropy(p, (1, 2)),
    }
    return _means({SIZE_FEATURES[key][kind]: value for key, value in values.items()})


# --- neighborhood gray tone difference matrix (IBSI IPET) ---------------------------------------------------


def ngtdm(counts: Array, difference: Array, gray: Array) -> Features:
    """`counts` (g,) of voxels, `difference` (g,) the sums of differences, `gray` (g,) the gray levels present."""
    n, levels = counts.sum(), len(gray)
    p = counts / n
    weighted = np.sum(p * difference)
    apart = gray[:, None] - gray[None, :]
    pair = p[:, None] + p[None, :]
    contrast = np.sum(p[:, None] * p[None, :] * apart**2) * difference.sum() / n
    changes = np.sum(np.abs((gray * p)[:, None] - (gray * p)[None, :]))
    products = p * difference
    return {
        "Busyness": weighted / changes if changes else 0.0,  # NQ30
        "Coarseness": 1 / weighted if weighted else 1e6,  # QCDE
        "Complexity": np.sum(np.abs(apart) * (products[:, None] + products[None, :]) / pair) / n,  # HDEZ
        "Contrast": contrast / (levels * (levels - 1)) if levels > 1 else 0.0,  # 65HE
        "Strength": np.sum(pair * apart**2) / difference.sum() if difference.any() else 0.0,  # 1X9X
    }
