"""Shape of a region from a mesh of its surface, its extent and its principal axes, under pyradiomics' names.

The mesh is that of marching cubes at half way between voxel centers (Lorensen and Cline 1987; IBSI C0JK).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hccstudy.engine.formulae import Features
from hccstudy.engine.jit import kernel

Array = NDArray[Any]

# Triangles by the corners of a cube that are inside, as three edges each (hexadecimal). The eighth corner is always
# outside: where it is inside, all corners are swapped. Taken from pyradiomics 3.0.1 (radiomics/src/cshape.c,
# BSD-3-Clause, copyright Harvard Medical School), so that ambiguous cubes are cut as there.
_TRIANGLES = """
- 083 190 183198 12a 08312a 92a029 2832a8a98 b23 b2008b 190b23 b2119b98b 3a1ba3 a1008a8ba 9033b9ba9 98aba8 478
043473 190478 194147173 12a478 34730412a 92a902478 2a9297273479 478b23 b47b24204 190478b23 47b94bb29192
3a1ba3478 ba114b10447b 4789033b9ba9 47b4b99ba 954 954083 054015 854835315 12a954 08312a954 2a5542240
2a5325354834 954b23 b2008b954 054015b23 215258b28548 3a1ba3954 549a1008a8ba 54050ba5bb03 548a58ba8 789579
309539357 780017715 157173 78957912a 12a309395357 0288258572a5 2a5253357 579789b23 579972209b27 b23018178157
21b17b157 7895793a1ba3 5705097b0a10ba0 ba003ba50078570 ba557b 65a 08365a 19065a 18319865a 165126 165126083
965906026 598582526832 b2365a b2008b65a 190b2365a b2119b98b65a 63b653513 08b0b50515b6 63b036065059 65969bb98
47865a 04347365a 19047865a 19414717365a 478165126 043473165126 478965906026 739479329596269 b2347865a
b47b2420465a 190b2347865a 47b94bb2919265a 47863b653513 51b5b610b47b04b 47863b036065059 65969b4797b9 a4964a
a4964a083 01aa60640 18316886461a 149124264 149124264083 024426 832824426 b23a4964a b2008ba4964a b2301aa60640
64161a148b2118b 964369139b63 18b081b61149641 63b036640 86468b 67a78a89a 67a0a709a073 67a1a7178018 67a1a7173
126168189678 269129679309739 078706602 273267 b2367a78a89a 207b2709767a9a7 67a1a7178018b23 b2117ba61167
896678169b63136 09167b 07870603bb60 67b
"""
_CORNERS = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)]  # z, y, x
_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
BLOCK = 32  # surface points that are bounded by one box


@cache
def _mesh_tables(*spacing: float) -> tuple[Array, Array, Array]:
    """Of each of 256 cubes, by the corners inside: the area of its triangles, and what they add to the volume.

    The volume under a mesh is a sixth of the sum of (a x b) . c over its triangles. For a cube at `p` this is the sum for
    the cube at the origin, `volume`, plus p . `normal`, which is the sum of a x b + b x c + c x a.
    """
    area, volume, normal = np.zeros(256), np.zeros(256), np.zeros((256, 3))
    corners = np.array(_CORNERS, float) * spacing
    middles = np.array([(corners[one] + corners[other]) / 2 for one, other in _EDGES])
    for inside, edges in enumerate(_TRIANGLES.split()):
        if edges == "-":
            continue
        a, b, c = (middles[[int(edge, 16) for edge in edges[place::3]]] for place in range(3))
        ab, bc, ca = np.cross(a, b), np.cross(b, c), np.cross(c, a)
        area[inside] = area[255 - inside] = np.linalg.norm(ab + bc + ca, axis=1).sum() / 2
        volume[inside] = np.sum(ab * c) / 6
        normal[inside] = np.sum(ab + bc + ca, axis=0) / 6
        volume[255 - inside], normal[255 - inside] = -volume[inside], -normal[inside]
    return area, volume, normal


def shape(mask: Array, spacing: Any) -> Features:
    """Shape features of a mask (bool; z, y, x), cut to its bounding box, on a grid of `spacing` (z, y, x) mm."""
    spacing = np.asarray(spacing, float)
    padded = np.pad(mask, 1).astype(np.uint8)
    cubes = np.zeros((256, 4))
    _count_cubes(padded, cubes)
    area_of, volume_of, normal_of = _mesh_tables(*spacing)
    area = float(cubes[:, 0] @ area_of)
    volume = float(cubes[:, 0] @ volume_of + np.sum(cubes[:, 1:] * spacing * normal_of))
    n = int(mask.sum())
    least, minor, major = _principal_variances(mask, spacing)
    in_slice, in_column, in_row, diameter = _diameters(padded, spacing)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "Compactness1": volume / (area**1.5 * np.sqrt(np.pi)),  # SKGS
            "Compactness2": 36 * np.pi * volume**2 / area**3,  # BQWJ
            "Elongation": np.sqrt(minor / major),  # Q3CK
            "Flatness": np.sqrt(least / major),  # N17B
            "LeastAxisLength": 4 * np.sqrt(least),  # 7J51, with the population covariance
            "MajorAxisLength": 4 * np.sqrt(major),  # TDIC
            "Maximum2DDiameterColumn": in_column,
            "Maximum2DDiameterRow": in_row,
            "Maximum2DDiameterSlice": in_slice,
            "Maximum3DDiameter": diameter,  # L0JK
            "MeshVolume": volume,  # RNU0
            "MinorAxisLength": 4 * np.sqrt(minor),  # P9VJ
            "Sphericity": (36 * np.pi * volume**2) ** (1 / 3) / area,  # QCFX
            "SphericalDisproportion": area / (36 * np.pi * volume**2) ** (1 / 3),  # KRCK
            "SurfaceArea": area,  # C0JK
            "SurfaceVolumeRatio": area / volume,  # 2PR5
            "VoxelVolume": n * float(np.prod(spacing)),  # YEKZ
        }


@kernel("void(uint8[:, :, ::1], float64[:, ::1])")
def _count_cubes(mask: Array, cubes: Array) -> None:
    """How many cubes of 2 x 2 x 2 voxels have which corners inside, and the sums of their indices z, y, x."""
    for z in range(mask.shape[0] - 1):
        for y in range(mask.shape[1] - 1):
            near, far = mask[z], mask[z + 1]
            left = near[y, 0] | near[y + 1, 0] << 3 | far[y, 0] << 4 | far[y + 1, 0] << 7
            for x in range(mask.shape[2] - 1):
                right = near[y, x + 1] | near[y + 1, x + 1] << 3 | far[y, x + 1] << 4 | far[y + 1, x + 1] << 7
                # corners 1, 2, 5, 6 are right of 0, 3, 4, 7
                inside = left | (right & 1) << 1 | (right & 8) >> 1 | (right & 16) << 1 | (right & 128) >> 1
                left = right
                if 0 < inside < 255:
                    cubes[inside, 0] += 1
                    cubes[inside, 1] += z
                    cubes[inside, 2] += y
                    cubes[inside, 3] += x


def _principal_variances(mask: Array, spacing: Array) -> Array:
    """The eigenvalues, rising, of the population covariance of the voxel centers (z, y, x), in mm^2."""
    places = np.stack(np.nonzero(mask), axis=1) * spacing
    places -= places.mean(axis=0)
    variances = np.linalg.eigvalsh(places.T @ places / len(places))
    variances[(variances < 0) & (variances > -1e-10)] = 0
    return np.asarray(variances)


def _diameters(padded: Array, spacing: Array) -> Array:
    """The largest distances between points of the mesh: within a slice (one z), a column (y), a row (x), and at all.

    The points lie half way between neighbors of which one is inside. Of the points on a line only the first and the last
    can be ends of the longest distance in a plane that holds the line: those of lines along x serve slices and columns,
    those of lines along z the rows. Of the points in a slice only those on its convex hull can be ends of the longest
    distance of all.
    """
    along_x = _ends_of_lines(padded)
    along_z = _ends_of_lines(np.ascontiguousarray(padded.transpose(2, 1, 0)))[:, ::-1]
    widest = [_widest_in(along_x, 0, spacing), _widest_in(along_x, 1, spacing), _widest_in(along_z, 2, spacing)]
    hulls = np.concatenate(
        [points[_on_hull(points, sign)] for points, sign in zip(np.split(along_x, 2), (1, -1), strict=True)]
    )
    hulls = hulls[np.argsort(hulls[:, 0], kind="stable")]
    return np.sqrt([*widest, _widest(hulls * (spacing / 2), np.array([0, len(hulls)]), max(widest))])


def _ends_of_lines(padded: Array) -> Array:
    """The points (n, 3), in half voxels, that are first or last on their line along the last axis; first ones first."""
    found = np.empty((2, 3 * padded.shape[0] * padded.shape[1], 3), np.int64)
    return np.concatenate(found[:, : _find_ends(padded, found)])


def _widest_in(points: Array, plane: int, spacing: Array) -> float:
    """The largest squared distance (mm^2) between points of one index along the axis `plane`."""
    points = points[np.argsort(points[:, plane], kind="stable")]
    starts = np.flatnonzero(np.diff(points[:, plane], prepend=-1, append=-1))
    return float(_widest(points * (spacing / 2), starts, 0.0))


@kernel("int64(uint8[:, :, ::1], int64[:, :, ::1])")
def _find_ends(mask: Array, found: Array) -> int:
    n = 0
    for z in range(mask.shape[0] - 1):
        for y in range(mask.shape[1] - 1):
            row = mask[z, y]
            for dz, dy, dx in ((0, 0, 1), (1, 0, 0), (0, 1, 0)):  # steps between the two voxels of a point
                other = mask[z + dz, y + dy]
                first = last = -1
                for x in range(row.size - 1):
                    if row[x] != other[x + dx]:
                        last = x
                        if first < 0:
                            first = x
                if first >= 0:
                    found[:, n, 0], found[:, n, 1] = 2 * z + dz, 2 * y + dy
                    found[0, n, 2], found[1, n, 2] = 2 * first + dx, 2 * last + dx
                    n += 1
    return n


def _on_hull(points: Array, sign: int) -> Array:
    """Which of the first (`sign` 1) or last (-1) points of all lines are corners of their slice's convex hull (bool)."""
    points = np.ascontiguousarray(points) * (1, 1, sign)
    order = np.lexsort((points[:, 1], points[:, 0]))
    kept = np.zeros(len(points), bool)
    _walk_hull(points[order], kept)
    result = np.empty_like(kept)
    result[order] = kept
    return result


@kernel("void(int64[:, ::1], boolean[::1])")
def _walk_hull(points: Array, kept: Array) -> None:
    """Mark the corners of the hull towards small x, slice by slice (Andrew's monotone chain); sorted by z, then y."""
    chain = np.empty(len(points), np.int64)
    length = 0
    for here in range(len(points)):
        if length and points[chain[0], 0] != points[here, 0]:
            kept[chain[:length]] = True
            length = 0
        while length > 1:
            a, b = chain[length - 2], chain[length - 1]
            turn = (points[b, 1] - points[a, 1]) * (points[here, 2] - points[a, 2])
            turn -= (points[b, 2] - points[a, 2]) * (points[here, 1] - points[a, 1])
            if turn > 0:
                break
            length -= 1
        chain[length] = here
        length += 1
    kept[chain[:length]] = True


@kernel("float64(float64[:, ::1], int64[::1], float64)")
def _widest(points: Array, starts: Array, widest: float) -> float:
    """The largest squared distance between two points (n, 3) of one group, or `widest` where none is larger.

    `starts` are the first points of the groups, and n. Points that follow each other lie close together, so that whole
    blocks of them are compared by the boxes around them first.
    """
    low, high = np.empty((len(points) // BLOCK + 1, 3)), np.empty((len(points) // BLOCK + 1, 3))
    for group in range(starts.size - 1):
        start, end = starts[group], starts[group + 1]
        count = (end - start + BLOCK - 1) // BLOCK
        for block in range(count):
            low[block], high[block] = np.inf, -np.inf
            for place in range(start + block * BLOCK, min(start + (block + 1) * BLOCK, end)):
                for axis in range(3):
                    low[block, axis] = min(low[block, axis], points[place, axis])
                    high[block, axis] = max(high[block, axis], points[place, axis])
        for one in range(count):
            for other in range(count - 1, one - 1, -1):
                reach = 0.0
                for axis in range(3):
                    apart = max(high[one, axis] - low[other, axis], high[other, axis] - low[one, axis])
                    reach += apart * apart
                if reach <= widest:
                    continue
                for a in range(start + one * BLOCK, min(start + (one + 1) * BLOCK, end)):
                    z, y, x = points[a, 0], points[a, 1], points[a, 2]
                    for b in range(start + other * BLOCK, min(start + (other + 1) * BLOCK, end)):
                        dz, dy, dx = points[b, 0] - z, points[b, 1] - y, points[b, 2] - x
                        widest = max(widest, dz * dz + dy * dy + dx * dx)
    return widest
