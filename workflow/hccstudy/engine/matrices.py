"""The matrices that texture features are computed from, counted by compiled kernels.

`levels` is a box of gray levels (1 ... ng inside the region, 0 outside) with a margin of zeros as wide as the largest
step, flattened, and BLOCK zeros behind; `voxels` are the flat indices of the region in it, rising; `blocks` (n, 2) the
same in stretches along x: the first index and how many, at most BLOCK; `steps` the differences of flat index between a
voxel and its neighbor in each direction (the opposite direction is implied). No kernel checks bounds: the margin does.
Indices are unsigned, because numba tests signed ones for being negative, which takes a third of the time here; a step
backwards wraps around. What is compared is compared for a whole block, whatever stands behind its last voxel: a loop of
a constant number of turns over narrow types becomes a few vector instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros
from numpy.typing import NDArray

from hccstudy.engine.jit import inlined, kernel

Array = NDArray[Any]
BLOCK = 32  # voxels that are compared together, and bits of a word


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


def in_blocks(voxels: Array) -> Array:
    """The `blocks` of `voxels`."""
    starts = np.flatnonzero(np.diff(voxels, prepend=voxels[:1]) != 1)  # of what follows each other
    ends = np.append(starts[1:], voxels.size)
    number = -(-(ends - starts) // BLOCK)
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    first = np.repeat(starts, number) + place * BLOCK
    count = np.minimum(np.repeat(ends, number) - first, BLOCK)
    return np.stack([voxels[first], count.astype(np.uint64)], axis=1)


@kernel("void(uint16[::1], uint64[::1], uint64[::1], uint32[:, :, ::1])")
def count_pairs(levels: Array, voxels: Array, steps: Array, pairs: Array) -> None:
    """Add up pairs[direction, level, level of the neighbor], GLCM (IBSI LFYI); column 0: the neighbor is outside."""
    for here in voxels:
        level = np.uint64(levels[here])
        for direction in range(steps.size):
            pairs[direction, level, np.uint64(levels[here + steps[direction]])] += np.uint32(1)


@kernel("void(uint16[::1], uint64[:, ::1], uint64[::1], uint16[::1])")
def count_neighbors(levels: Array, blocks: Array, steps: Array, neighbors: Array) -> None:
    """How many neighbors of each voxel, in all directions and their opposites, are in the region."""
    found = np.empty(BLOCK, np.uint16)
    place = np.uint64(0)
    for start, count in blocks:
        found[:] = 0
        for step in steps:
            for x in range(BLOCK):
                here = start + np.uint64(x)
                found[x] += np.uint16(levels[here + step] > 0) + np.uint16(levels[here - step] > 0)
        for x in range(count):
            neighbors[place] = found[x]
            place += np.uint64(1)


@inlined
def _similar(one: Any, other: Any, alpha: Any) -> Any:
    return np.uint16(np.uint16(max(one, other) - min(one, other)) <= alpha)


@kernel("void(uint16[::1], uint64[:, ::1], uint64[::1], uint16[::1], uint16, uint32[:, ::1], float64[::1])")
def compare_neighbors(
    levels: Array, blocks: Array, steps: Array, neighbors: Array, alpha: int, dependence: Array, difference: Array
) -> None:
    """Add up two matrices of each voxel against all of its neighbors, in all directions and their opposites.

    dependence[level, neighbors whose level differs by at most `alpha`], GLDM (IBSI's NGLDM, REK0, which counts the
    voxel itself too); difference[level] = sum of |level - mean level of the neighbors|, NGTDM (IBSI IPET).
    `neighbors` as of `count_neighbors`.
    """
    total, similar = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint16)
    place = np.uint64(0)
    for start, size in blocks:
        total[:] = 0
        similar[:] = 0
        for step in steps:
            for x in range(BLOCK):
                here = start + np.uint64(x)
                level, ahead, behind = levels[here], levels[here + step], levels[here - step]
                total[x] += np.uint32(ahead) + np.uint32(behind)
                similar[x] += _similar(ahead, level, alpha) + _similar(behind, level, alpha)
        for x in range(size):
            level = levels[start + np.uint64(x)]
            count = np.int64(neighbors[place])
            place += np.uint64(1)
            same = np.int64(similar[x])
            if level <= alpha:  # the zeros outside are no neighbors
                same -= 2 * steps.size - count
            dependence[np.uint64(level), np.uint64(same)] += np.uint32(1)
            if count > 0:
                difference[np.uint64(level)] += abs(level - total[x] / count)


@kernel("void(uint16[::1], uint64[::1], uint64[:, ::1], uint64[::1], uint16[::1], uint32[:, :, ::1])")
def count_runs(levels: Array, voxels: Array, blocks: Array, steps: Array, length: Array, runs: Array) -> None:
    """Count runs[direction, length, level], GLRLM (IBSI TP0I); of length 0 are none.

    `length` (of the size of `levels`) keeps of each voxel the length of its run so far. A voxel whose run goes on is
    counted before the matrix, at a place that differs from its neighbors': no branch has to be guessed.
    """
    one, ng = np.uint64(1), np.uint32(runs.shape[2])
    places = np.empty(voxels.size + BLOCK, np.uint32)
    counts = np.empty(runs.shape[1] * runs.shape[2] + BLOCK, np.uint32)
    for direction in range(steps.size):
        step = steps[direction]
        if step == one:  # along x each voxel waits for the one before
            run = np.uint32(0)
            for i in range(voxels.size):
                here = voxels[i]
                level = levels[here]
                run = np.uint32(1) + run * np.uint32(levels[here - one] == level)
                ends = np.uint32(levels[here + one] != level)
                places[i] = ends * (np.uint32(BLOCK) + run * ng + np.uint32(level))
        else:
            done = np.uint64(0)
            for start, count in blocks:
                for x in range(BLOCK):
                    here = start + np.uint64(x)
                    level, before = levels[here], here - step
                    so_far = np.uint16(np.uint16(1) + length[before] * np.uint16(levels[before] == level))
                    length[here] = so_far
                    ends = np.uint32(levels[here + step] != level)
                    place = ends * (np.uint32(BLOCK) + np.uint32(so_far) * ng + np.uint32(level))
                    places[done + np.uint64(x)] = place + (np.uint32(1) - ends) * np.uint32(x)
                done += count
        counts[:] = 0
        for i in range(voxels.size):
            counts[np.uint64(places[i])] += np.uint32(1)
        runs[direction] = counts[BLOCK:].reshape(runs.shape[1:])


@cache
def representatives(directions: tuple[tuple[int, ...], ...]) -> Array:
    """Of every set of earlier neighbors a smallest part that touches all of it, directly or from one to the next.

    Neighbors lie opposite to the `directions` (z, y, x), at distance 1; a set is a number with a bit for each of them.
    """
    where = np.array(directions)
    touching = (np.abs(where[:, None] - where).max(axis=2) <= 1) @ (1 << np.arange(len(where)))
    rest = np.arange(1 << len(where))
    kept = np.zeros(rest.size, np.uint16)
    while rest.any():
        group, grown = rest, rest & -rest  # the lowest bit, and all that hangs on it
        kept |= grown.astype(np.uint16)
        while (grown != group).any():
            group = grown
            for bit, others in enumerate(touching):
                grown = grown | -(grown >> bit & 1) & others & rest
        rest = rest & ~group
    return kept


@inlined
def _lowest_bit(bits: Any) -> Any:
    return np.uint64(trailing_zeros(bits))  # type: ignore[call-arg]  # numba hands over the first argument


@inlined
def _first(root: Array, here: Any) -> Any:
    """The first voxel of the zone that `here` belongs to; shortens the way for the next who asks."""
    while root[here] != here:
        root[here] = root[np.uint64(root[here])]
        here = np.uint64(root[here])
    return here


@kernel("int64(uint16[::1], uint64[:, ::1], uint64[::1], uint16[::1], uint32[::1], int64[:, ::1])")
def measure_zones(levels: Array, blocks: Array, steps: Array, kept: Array, root: Array, zones: Array) -> int:
    """The level and size of each zone of one level (GLSZM, IBSI 9SAK) in a row of `zones`; returns their number.

    Union-find: `root` leads from a voxel to an earlier one of its zone. Neighbors that touch one another are joined
    already, so of each such group one is enough: `kept`, the `representatives` of the directions that `steps` belong to.
    """
    same = np.empty(BLOCK, np.uint16)
    one = np.uint64(1)
    for start, count in blocks:
        same[:] = 0
        for i in range(steps.size):
            step, bit = steps[i], np.uint16(1 << i)
            for x in range(BLOCK):
                here = start + np.uint64(x)
                same[x] |= bit * np.uint16(levels[here - step] == levels[here])
        for x in range(count):
            here = start + np.uint64(x)
            rest = np.uint64(kept[np.uint64(same[x])])
            if rest == 0:
                root[here] = np.uint32(here)
                continue
            other = here - steps[_lowest_bit(rest)]
            rest &= rest - one
            if rest == 0:
                root[here] = root[np.uint64(root[other])]
                continue
            mine = _first(root, other)
            while rest != 0:
                other = _first(root, here - steps[_lowest_bit(rest)])
                rest &= rest - one
                root[max(mine, other)] = np.uint32(min(mine, other))
                mine = min(mine, other)
            root[here] = np.uint32(mine)
    number = 0
    for start, count in blocks:
        for x in range(count):
            here = start + np.uint64(x)
            first = np.uint64(root[here])
            if first == here:
                zones[number, 0], zones[number, 1] = np.int64(levels[here]), 1
                root[here] = np.uint32(number)  # from here on the number of the zone
                number += 1
            else:
                root[here] = root[first]
                zones[np.uint64(root[here]), 1] += 1
    return number
