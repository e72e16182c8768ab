"""The digital phantom of the IBSI-1 reference manual and IBSI's rule of agreement."""

from __future__ import annotations

import math

import numpy as np

# z y x, 2 mm isotropic; intensities are the gray levels
LEVELS = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [1, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 9, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)
OUTSIDE = [(1, 2, 0), (2, 0, 3), (2, 0, 4), (2, 2, 2), (3, 0, 3), (3, 0, 4)]
REGION = np.ones(LEVELS.shape, bool)
REGION[tuple(np.array(OUTSIDE).T)] = False
SPACING = (2.0, 2.0, 2.0)


def within(value: float, reference: float, tolerance: float) -> bool:
    """Within the tolerance plus half a unit of the reference's third significant digit; never for nan."""
    half = 0.5 * 10 ** (math.floor(math.log10(abs(reference))) - 2) if reference else 0
    return abs(value - reference) <= tolerance + half
