"""The matrices that texture features are computed from, counted by compiled kernels.

`levels` is a box of gray levels (1 ... ng inside the region, 0 outside) with a margin of zeros as wide as the largest
step, flattened; `voxels` are the flat indices of the region in it, rising; `steps` the differences of flat index between
a voxel and its neighbor in each direction (the opposite direction is implied). No kernel checks bounds: the margin does.
Indices are unsigned, because numba tests signed ones for being negative, which takes a third of the time here; a step
backwards wraps around.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hccstudy.engine.jit import inlined, kernel

Array = NDArray[Any]


def directions(shape: Sequence[int], distances: Sequence[int] = (1,), flat_axis: int | None = None) -> Array:
    """Neighbor directions (n, 3) along z, y, x, without their opposites, in the order of pyradiomics.

    All steps whose largest component (Chebyshev distance) is in `distances`, which fit into a box of `shape` and, where
    `flat_axis` is given, stay in its slices: 13 directions at distance 1 in three dimensions, 4 in two.
    """
    far = max(distances)
    steps = [
        step
        for step in product(range(far, -far - 1, -1), repeat=3)
        if step > (0, 0, 0)
        and max(map(abs, step)) in distances
        and all(abs(part) < side for part, side in zip(step, shape, strict=True))
        and (flat_axis is None or step[flat_axis] == 0)
    ]
    return np.array(steps, dtype=np.int64).reshape(-1, 3)


@kernel("void(uint16[::1], uint64[::1], uint64[::1], uint32[:, :, ::1])")
def count_pairs(levels: Array, voxels: Array, steps: Array, pairs: Array) -> None:
    """Add up pairs[direction, level, level of the neighbor], GLCM (IBSI LFYI); column 0: the neighbor is outside."""
    for here in voxels:
        level = np.uint64(levels[here])
        for direction in range(steps.size):
            pairs[direction, level, np.uint64(levels[here + steps[direction]])] += np.uint32(1)


@kernel("void(uint16[::1], uint64[::1], uint64[::1], uint16[::1])")
def count_neighbors(levels: Array, voxels: Array, steps: Array, neighbors: Array) -> None:
    """How many neighbors of each voxel, in all directions and their opposites, are in the region."""
    for place in range(voxels.size):
        here = voxels[place]
        count = 0
        for step in steps:
            count += np.int64(levels[here + step] > 0) + np.int64(levels[here - step] > 0)
        neighbors[place] = np.uint16(count)


@kernel("void(uint16[::1], uint64[::1], uint64[::1], uint16[::1], int64, uint32[:, ::1], float64[::1])")
def compare_neighbors(
    levels: Array, voxels: Array, steps: Array, neighbors: Array, alpha: int, dependence: Array, difference: Array
) -> None:
    """Add up two matrices of each voxel against all of its neighbors, in all directions and their opposites.

    dependence[level, neighbors whose level differs by at most `alpha`], GLDM (IBSI's NGLDM, REK0, which counts the
    voxel itself too); difference[level] = sum of |level - mean level of the neighbors|, NGTDM (IBSI IPET).
    `neighbors` as of `count_neighbors`.
    """
    for place in range(voxels.size):
        here = voxels[place]
        level = np.int64(levels[here])
        total = np.int64(0)
        similar = np.int64(0)
        for step in steps:
            ahead = np.int64(levels[here + step])
            behind = np.int64(levels[here - step])
            total += ahead + behind
            similar += np.int64(abs(ahead - level) <= alpha) + np.int64(abs(behind - level) <= alpha)
        count = np.int64(neighbors[place])
        if level <= alpha:  # the zeros outside are no neighbors
            similar -= 2 * steps.size - count
        dependence[np.uint64(level), np.uint64(similar)] += np.uint32(1)
        if count > 0:
            difference[np.uint64(level)] += abs(level - total / count)


@kernel("void(uint16[::1], uint64[::1], uint64[::1], uint32[::1], uint32[:, :, ::1])")
def count_runs(levels: Array, voxels: Array, steps: Array, passed: Array, runs: Array) -> None:
    """Add up runs[direction, length, level], GLRLM (IBSI TP0I); length 0: voxels whose run goes on.

    `passed` (of the size of `levels`, zero outside the region) keeps of each voxel its level, shifted by 16 bits, and the
    length of its run so far: one memory access tells both, and no branch has to be guessed.
    """
    low = np.uint64(0xFFFF)
    for direction in range(steps.size):
        step = steps[direction]
        for here in voxels:
            level = np.uint64(levels[here])
            before = np.uint64(passed[here - step])
            length = np.uint64(1) + (before & low) * np.uint64(before >> np.uint64(16) == level)
            passed[here] = np.uint32(level << np.uint64(16) | length)
            runs[direction, length * np.uint64(levels[here + step] != level), level] += np.uint32(1)


@inlined
def _first(root: Array, here: Any) -> Any:
    """The first voxel of the zone that `here` belongs to; shortens the way for the next who asks."""
    while root[here] != here:
        root[here] = root[np.uint64(root[here])]
        here = np.uint64(root[here])
    return here


@inlined
def _join(root: Array, mine: Any, other: Any) -> Any:
    """Join the zones of two voxels, `mine` the first of its zone; returns the first of the joined zone."""
    first = _first(root, other)
    if first < mine:
        root[mine] = np.uint32(first)
        return first
    root[first] = np.uint32(mine)
    return mine

@kernel("int64(uint16[::1], uint64[::1], uint64[::1], uint32[::1], uint32[::1], int64[:, ::1])")
def measure_zones(levels: Array, voxels: Array, rows: Array, root: Array, size: Array, zones: Array) -> int:
    """The level and size of each zone of one level (GLSZM, IBSI 9SAK) in a row of `zones`; returns their number.

    Union-find: `root` leads from a voxel to an earlier one of its zone; `size` is zero before and after. `rows` are the steps back to the neighboring
    rows that come earlier. Of three voxels in such a row the outer ones touch the middle one, and what the left
    neighbor touches is joined to it already: most of the 13 earlier neighbors need not be looked at.
    """
    one = np.uint64(1)
    for here in voxels:
        level = levels[here]
        left = levels[here - one] == level
        mine = _first(root, here - one) if left else here
        root[here] = np.uint32(mine)
        for row in rows:
            above = here - row
            if levels[above] == level:
                if not left:
                    mine = _join(root, mine, above)
                continue
            if not left and levels[above - one] == level:
                mine = _join(root, mine, above - one)
            if levels[above + one] == level:
                mine = _join(root, mine, above + one)
    for here in voxels:
        root[here] = root[np.uint64(root[here])]  # an earlier voxel, whose own way is a single step by now
        size[np.uint64(root[here])] += np.uint32(1)
    number = 0
    for here in voxels:
        if size[here] > 0:
            zones[number, 0], zones[number, 1] = np.int64(levels[here]), np.int64(size[here])
            size[here] = np.uint32(0)
            number += 1
    return number

