"""Discretization: intensities to gray levels, as pyradiomics does it and as IBSI does it.

pyradiomics' bins of a fixed width (`binWidth`) are counted from a multiple of the width, its gray levels from the
region's minimum; IBSI's fixed bin size (Q3RU) counts both from the lower bound of the re-segmentation range, here
`binOrigin`. A fixed number of bins (`binCount`, IBSI K15C) is the same in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from radiomics.imageoperations import getBinEdges

from hccstudy.engine.jit import kernel
from hccstudy.errors import CaseError

Array = NDArray[Any]
MOST_LEVELS = np.iinfo(np.uint16).max


def bin_edges(low: Any, high: Any, settings: dict[str, Any]) -> Array:
    """Rising edges of bins that hold all intensities from `low` to `high` (scalars of the image's type).

    They are pyradiomics' own, computed from the two extremes alone, which is all that they depend on. Small integers are
    widened first: in uint8, 250 + 2 x 25 would be 44.
    """
    if isinstance(low, np.integer):
        low, high = np.int64(low), np.int64(high)
    origin = settings.get("binOrigin")
    if origin is None or settings.get("binCount") is not None:
        return np.asarray(getBinEdges(np.array([low, high]), **settings), dtype=float)
    if low < origin:
        raise CaseError(
            "intensity below the first bin", f"found {low:g}; expected {origin:g} (binOrigin) or more in the region"
        )
    width = settings.get("binWidth", 25)
    return np.asarray(origin + width * np.arange(int((high - origin) // width) + 2), dtype=float)


def discretize(values: Array, edges: Array) -> Array:
    """Gray levels 1 ... n (uint16) of intensities (n,): the number of edges that are not above (numpy.digitize)."""
    if len(edges) > MOST_LEVELS:
        found = f"found {len(edges) - 1}; expected at most {MOST_LEVELS - 1}: make binWidth larger"
        raise CaseError("too many gray levels", found)
    levels = np.empty(values.shape, np.uint16)
    _digitize(values, edges, levels)
    return levels


@kernel("void(float64[::1], float64[::1], uint16[::1])")
def _digitize(values: Array, edges: Array, levels: Array) -> None:
    last = edges.size - 1
    scale = last / (edges[last] - edges[0])
    for place in range(values.size):
        value = values[place]
        bin_ = min(max(np.int64((value - edges[0]) * scale), 0), last)  # a guess, which the edges correct
        while bin_ > 0 and value < edges[bin_]:
            bin_ -= 1
        while bin_ < last and value >= edges[bin_ + 1]:
            bin_ += 1
        levels[place] = np.uint16(bin_ + 1)
