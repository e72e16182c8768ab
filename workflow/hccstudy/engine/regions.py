"""All features of one region of one (filtered) image, class by class, under pyradiomics' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from radiomics import firstorder, glcm, gldm, glrlm, glszm, ngtdm
from radiomics import shape as shape_class

from hccstudy.engine import formulae, matrices
from hccstudy.engine.discretization import MOST_LEVELS, bin_edges, discretize
from hccstudy.engine.shape import shape
from hccstudy.engine.statistics import first_order
from hccstudy.errors import CaseError

Array = NDArray[Any]
Enabled = Mapping[str, Sequence[str] | None]

MOST_PAIRS = 50_000_000  # counters of a GLCM: 200 MB, and 1,960 gray levels at distance 1

CLASSES = {
    "shape": shape_class.RadiomicsShape,
    "firstorder": firstorder.RadiomicsFirstOrder,
    "glcm": glcm.RadiomicsGLCM,
    "glrlm": glrlm.RadiomicsGLRLM,
    "glszm": glszm.RadiomicsGLSZM,
    "gldm": gldm.RadiomicsGLDM,
    "ngtdm": ngtdm.RadiomicsNGTDM,
}


@cache
def _names(feature_class: str) -> list[str]:
    """pyradiomics' names of a class in its order, without those that it deprecates."""
    return [name for name, deprecated in CLASSES[feature_class].getFeatureNames().items() if not deprecated]


def _chosen(
    values: Mapping[str, Any], feature_class: str, wanted: Sequence[str] | None, prefix: str
) -> dict[str, float]:
    """The wanted ones (all that are not deprecated where none is named); what pyradiomics withdrew is left out."""
    names = [name for name in wanted if name in values] if wanted else _names(feature_class)
    return {f"{prefix}_{feature_class}_{name}": float(values[name]) for name in names}


class Region:
    """The voxels of a region, and where their neighbors are: computed once for all images that it is measured in."""

    def __init__(self, mask: Array, spacing: Sequence[float]) -> None:
        """`mask` (bool; z, y, x) is cut to the region's bounding box; `spacing` is z, y, x in mm."""
        self.mask, self.spacing = mask, tuple(spacing)
        self._walks: dict[Any, _Walk] = {}

    @cached_property
    def _places(self) -> Array:
        return np.flatnonzero(self.mask)

    def shape(self, enabled: Enabled) -> dict[str, float]:
        if "shape" not in enabled:
            return {}
        return _chosen(shape(self.mask, self.spacing), "shape", enabled["shape"], "original")

    def levels(self, values: Array, settings: dict[str, Any]) -> Array:
        """Gray levels (n,) of the intensities of the region (n,), in the type of the image."""
        low, high = values.min(), values.max()
        if not np.isfinite(low) or not np.isfinite(high):
            raise CaseError("intensity not finite", f"{int((~np.isfinite(values)).sum())} of {values.size} voxels")
        return discretize(values.astype(np.float64, copy=False), bin_edges(low, high, settings))

    def measure(self, image: Array, title: str, enabled: Enabled, settings: dict[str, Any]) -> dict[str, float]:
        """Features of an image (z, y, x; cut as the mask): "<title>_<class>_<feature>" -> value."""
        values = image.reshape(-1).take(self._places)  # faster than by the mask
        levels = self.levels(values, settings)
        counts = np.bincount(levels)
        result: dict[str, float] = {}
        texture = None
        for feature_class, wanted in enabled.items():
            if feature_class == "firstorder":
                volume = float(np.prod(self.spacing))
                found = first_order(
                    values.astype(np.float64, copy=False), counts, volume, settings.get("voxelArrayShift", 0)
                )
            elif feature_class in TEXTURES:
                texture = texture or _Texture(self._walk(settings), levels, counts, settings, self.spacing)
                found = TEXTURES[feature_class](texture)
            else:  # shape is measured once, not per image
                continue
            result |= _chosen(found, feature_class, wanted, title)
        return result

    def _walk(self, settings: dict[str, Any]) -> _Walk:
        flat = settings.get("force2Ddimension", 0) if settings.get("force2D", False) else None
        distances = tuple(int(distance) for distance in settings.get("distances") or [1])
        key = (flat, distances)
        if key not in self._walks:
            self._walks[key] = _Walk(self.mask, distances, flat)
        return self._walks[key]


class _Walk:
    """A region laid out for the kernels of `matrices`: its box with a margin, its voxels, steps to neighbors."""

    def __init__(self, mask: Array, distances: Sequence[int], flat_axis: int | None) -> None:
        self.flat_axis, margin = flat_axis, max(distances)
        box = np.pad(mask, margin)
        strides, self.longest = np.array(box.strides), max(box.shape)
        self.voxels = np.flatnonzero(box).astype(np.uint64)
        self.blocks = matrices.in_blocks(self.voxels)
        self.directions = matrices.directions(mask.shape, distances, flat_axis)
        if not len(self.directions):
            raise CaseError(
                "features not computable",
                "no neighbors at these distances within the region's box (with force2D: its slices)",
            )
        self.steps = (self.directions @ strides).astype(np.uint64)
        nearest = matrices.directions(mask.shape, (1,), flat_axis)
        self.near_steps = (nearest @ strides).astype(np.uint64)
        self.representatives = matrices.representatives(tuple(map(tuple, nearest.tolist())))
        self.run_directions = nearest[[_holds_line(mask, step) for step in nearest]]
        self.run_steps = (self.run_directions @ strides).astype(np.uint64)
        # what the kernels write to, image after image: nothing of it is read before it is written
        self.levels = np.zeros(box.size + matrices.BLOCK, np.uint16)
        self.length, self.root = np.zeros_like(self.levels), np.zeros(self.levels.size, np.uint32)
        self.zones = np.empty((self.voxels.size, 2), np.int64)
        self.levels[self.voxels] = 1
        self.neighbors = np.empty(self.voxels.size, np.uint16)
        matrices.count_neighbors(self.levels, self.blocks, self.steps, self.neighbors)


def _holds_line(mask: Array, direction: Array) -> bool:
    """Whether any line along a direction holds two voxels or more; others pyradiomics leaves out of the GLRLM."""
    ahead = tuple(slice(max(step, 0), side + min(step, 0)) for step, side in zip(direction, mask.shape, strict=True))
    behind = tuple(slice(max(-step, 0), side + min(-step, 0)) for step, side in zip(direction, mask.shape, strict=True))
    if (mask[ahead] & mask[behind]).any():
        return True
    places = np.argwhere(mask)
    axis = int(np.flatnonzero(direction)[0])
    lines = places - places[:, [axis]] * direction[axis] * direction
    return len(np.unique(lines, axis=0)) < len(lines)


class _Texture:
    """The gray levels of a region in one image, counted into matrices and summed up in features."""

    def __init__(
        self, walk: _Walk, levels: Array, counts: Array, settings: dict[str, Any], spacing: Sequence[float]
    ) -> None:
        self.walk, self.settings, self.spacing = walk, settings, spacing
        self.present = np.flatnonzero(counts)
        self.gray = self.present.astype(float)
        self.n = len(self.present) + 1
        self.levels = walk.levels
        self.levels[walk.voxels] = levels
        # numbered without gaps, so that matrices are as small as the levels are few
        self.ranks = self.levels
        if self.n <= self.present[-1]:
            number = np.zeros(self.present[-1] + 1, np.uint16)
            number[self.present] = np.arange(1, self.n)
            self.ranks = number[self.levels]

    def _weights(self, directions: Array, *, decay: bool) -> Array | None:
        """The weight of each direction (`weightingNorm`): its length in mm, or with `decay` exp(-length^2)."""
        norm = self.settings.get("weightingNorm")
        if norm is None:
            return None
        if norm not in NORMS:
            return np.ones(len(directions))
        length = NORMS[norm](np.abs(directions) * np.asarray(self.spacing))
        return np.asarray(np.exp(-(length**2)) if decay else length)

    def glcm(self) -> formulae.Features:
        walk = self.walk
        if len(walk.steps) * self.n**2 > MOST_PAIRS:
            raise CaseError("too many gray levels", f"found {self.n - 1} in the region: make binWidth larger")
        pairs = np.zeros((len(walk.steps), self.n, self.n), np.uint32)
        matrices.count_pairs(self.ranks, walk.voxels, walk.steps, pairs)
        weights = self._weights(walk.directions, decay=True)
        symmetrical = self.settings.get("symmetricalGLCM", True)
        return formulae.glcm(pairs[:, 1:, 1:], self.gray, symmetrical=symmetrical, weights=weights)

    def glrlm(self) -> formulae.Features:
        walk = self.walk
        runs = np.empty((len(walk.run_steps), walk.longest, self.n), np.uint32)
        matrices.count_runs(self.ranks, walk.voxels, walk.blocks, walk.run_steps, walk.length, runs)
        counts: Array = runs[:, 1:, 1:]
        used = np.flatnonzero(counts.any((0, 2)))
        counts = counts[:, used].transpose(0, 2, 1)
        weights = self._weights(walk.run_directions, decay=False)
        if weights is not None and len(counts):
            counts = np.sum(counts * weights[:, None, None], axis=0, keepdims=True)
        return formulae.sizes(counts, self.gray, used + 1.0, formulae.RUNS)

    def glszm(self) -> formulae.Features:
        walk = self.walk
        number = matrices.measure_zones(
            self.ranks, walk.blocks, walk.near_steps, walk.representatives, walk.root, walk.zones
        )
        level, size = walk.zones[:number].T
        measured, place = np.unique(size, return_inverse=True)
        counts = np.bincount(level * len(measured) + place, minlength=self.n * len(measured))
        return formulae.sizes(
            counts.reshape(1, self.n, len(measured))[:, 1:], self.gray, measured.astype(float), formulae.ZONES
        )

    @cached_property
    def _compared(self) -> tuple[Array, Array]:
        walk, highest = self.walk, self.present[-1]
        dependence = np.zeros((highest + 1, 2 * len(walk.steps) + 1), np.uint32)
        difference = np.zeros(highest + 1)
        alpha = min(int(self.settings.get("gldm_a", 0)), MOST_LEVELS)
        matrices.compare_neighbors(self.levels, walk.blocks, walk.steps, walk.neighbors, alpha, dependence, difference)
        return dependence[self.present], difference[self.present]

    def gldm(self) -> formulae.Features:
        dependence, _ = self._compared
        used = np.flatnonzero(dependence.any(0))
        return formulae.sizes(dependence[None, :, used], self.gray, used + 1.0, formulae.DEPENDENCES)

    def ngtdm(self) -> formulae.Features:
        dependence, difference = self._compared
        return formulae.ngtdm(dependence.sum(1), difference, self.gray)


NORMS: dict[str, Callable[[Array], Array]] = {
    "infinity": lambda parts: parts.max(axis=1),
    "euclidean": lambda parts: np.sqrt((parts**2).sum(axis=1)),
    "manhattan": lambda parts: parts.sum(axis=1),
}
TEXTURES: dict[str, Callable[[_Texture], formulae.Features]] = {
    "glcm": _Texture.glcm,
    "glrlm": _Texture.glrlm,
    "glszm": _Texture.glszm,
    "gldm": _Texture.gldm,
    "ngtdm": _Texture.ngtdm,
}
