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
    origin, width, count = (settings.get(key) for key in ("binOrigin", "binWidth", "binCount"))
    width = 25 if width is None else width
    bins = count if count is not None else (float(high) - float(low if origin is None else origin)) / width + 1
    if bins >= MOST_LEVELS:
        found = f"found {bins:.0f}; expected fewer than {MOST_LEVELS}: make binWidth larger"
        raise CaseError("too many gray levels", found)
    if origin is None or count is not None:
        edges = np.asarray(getBinEdges(np.array([low, high]), **settings), dtype=float)
    elif low < origin:
        found = f"found {low:g}; expected {origin:g} (binOrigin) or more in the region"
        raise CaseError("intensity below the first bin", found)
    else:
        edges = np.asarray(origin + width * np.arange(int(bins) + 1), dtype=float)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        found = f"found {low:g} to {high:g}; expected intensities that bins of {width:g} can tell apart"
        raise CaseError("intensities too large for the bins", found)
    return edges


def discretize(values: Array, edges: Array) -> Array:
    """Gray levels 1 ... n (uint16) of intensities (n,): the number of edges that are not above (numpy.digitize)."""
    levels = np.empty(values.shape, np.uint16)
    _digitize(values, edges, levels)
    return levels


@kernel("void(float64[::1], float64[::1], uint16[::1])")
def _digitize(values: Array, edges: Array, levels: Array) -> None:
    last = edges.size - 1
    scale = last / (edges[last] - edges[0])
    for place in range(values.size):
        value = values[place]
        bin_: Any = min(max(np.int64((value - edges[0]) * scale), 0), last)  # a guess, which the edges correct
        while bin_ > 0 and value < edges[bin_]:
            bin_ -= 1
        while bin_ < last and value >= edges[bin_ + 1]:
            bin_ += 1
        levels[place] = np.uint16(bin_ + 1)
