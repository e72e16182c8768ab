"""A small abdomen with a liver and its tumors, painted and then scanned: the voxels of the demo cohort.

Pure: a patient's traits and seed in, arrays out. Arrays are indexed [z, y, x]; lengths are mm in LPS with the
middle of the liver near the origin; intensities are HU. How the traits follow a patient's risk is said in
`simulate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage, special

Array = np.ndarray[Any, Any]

PHASES = ("arterial", "portal")
TUMOR, LIVER, LESIONS = 1, 2, 3  # the label map of every mask
READING_ERROR = {"A": 0.4, "B": 1.2}  # SD of a reader's contour, mm

# Attenuation of each tissue in the arterial and the portal phase; a voxel's code is the place in this table.
TISSUES = {
    "air": (-1000, -1000),
    "fat": (-100, -98),
    "muscle": (58, 66),
    "bone": (240, 250),
    "stomach": (25, 25),
    "spleen": (115, 122),
    "cava": (95, 140),
    "aorta": (310, 155),
    "liver": (68, 108),
    "vessel": (88, 150),
}
CODE = {name: code for code, name in enumerate(TISSUES)}
NECROSIS = 25.0
TEXTURE_SHARE = (1.0, 0.75)  # of a tumor's texture, by phase
FIELD_OF_VIEW = (130.0, 144.0, 176.0)  # z, y, x: cropped around the liver

# Middle and semi-axes (z, y, x), painted from the outside in; an infinite axis makes a cylinder.
BODY = (
    ("fat", (0, 0, 14), (np.inf, 80, 112)),
    ("muscle", (0, 0, 14), (np.inf, 71, 103)),
    ("fat", (0, 0, 14), (np.inf, 66, 98)),
    ("bone", (0, 72, 14), (np.inf, 20, 21)),
    ("stomach", (10, -14, 66), (45, 28, 24)),
    ("spleen", (6, 36, 74), (42, 26, 26)),
    ("cava", (0, 36, 2), (np.inf, 10, 10)),
    ("aorta", (0, 46, 26), (np.inf, 9, 9)),
)
RIGHT_LOBE = np.array([(0, 0, -28), (60, 54, 56)])
LEFT_LOBE = np.array([(14, -30, 26), (30, 26, 48)])
VESSELS = (  # portal trunk and two branches: two ends and a radius
    ((-20, 14, -6), (4, 2, -32), 6.0),
    ((4, 2, -32), (10, -6, -76), 4.0),
    ((4, 2, -32), (16, -22, 6), 4.0),
)


@dataclass(frozen=True)
class Scanner:
    """How a center's CT turns attenuation into an image."""

    spacing: tuple[float, float, float]  # x, y, z; slices are contiguous
    blur: float  # SD of the in-plane point spread, mm
    noise: float  # SD of the noise in the image, HU
    grain: float  # SD of the kernel that correlates the noise in plane, mm
    offset: float  # HU, after `scale`
    scale: float


@dataclass(frozen=True)
class Phantom:
    """A patient's anatomy on a scanner's grid, before the scan; what follows `box` covers the box alone."""

    tissue: Array  # codes
    liver: Array  # bool: the organ with all of its tumors
    lesions: Array  # bool: tumors other than the index tumor
    box: tuple[slice, ...]  # surroundings of the index tumor
    depth: Array  # mm below the surface of the index tumor, positive inside, -inf outside the liver
    texture: Array  # heterogeneity, mean 0 and SD 1
    patches: Array  # where the tumor invades its surroundings, 0 to 1


def draw_patient(
    traits: Mapping[str, Any], scanner: Scanner, readers: str = "A"
) -> dict[str, tuple[Array, dict[str, Array]]]:
    """Scan one patient: per phase the image (int16) and the mask (uint8) of each reader.

    `traits` is a row of simulate's truth. The same traits and scanner give the same voxels.
    """
    anatomy, *phases = np.random.default_rng(int(traits["seed"])).spawn(1 + len(PHASES))
    phantom = build_phantom(traits, scanner, anatomy)
    scans = {}
    for place, (phase, stream) in enumerate(zip(PHASES, phases, strict=True)):
        noise, *hands = stream.spawn(1 + len(READING_ERROR))
        image = scan(attenuation(traits, phantom, place), traits["noise_factor"], scanner, noise)
        hand = dict(zip(READING_ERROR, hands, strict=True))
        scans[phase] = image, {who: read(phantom, READING_ERROR[who], scanner, hand[who]) for who in readers}
    return scans


def origin(scanner: Scanner) -> tuple[float, float, float]:
    """Position (x, y, z) of the first voxel's center."""
    z, y, x = (float(axis.flat[0]) for axis in _grid(scanner))
    return x, y, z


def build_phantom(traits: Mapping[str, Any], scanner: Scanner, rng: np.random.Generator) -> Phantom:
    """Place the organs, the index tumor in the right lobe and the other lesions elsewhere in the liver."""
    grid = _grid(scanner)
    size = 1 + 0.05 * np.clip(rng.standard_normal(), -2, 2)
    liver = np.minimum(*(_ellipsoid(grid, *(lobe * size)) for lobe in (RIGHT_LOBE, LEFT_LOBE))) < 1
    tissue = np.full(liver.shape, CODE["air"], dtype=np.uint8)
    for name, middle, axes in BODY:
        tissue[np.broadcast_to(_ellipsoid(grid, middle, axes) < 1, liver.shape)] = CODE[name]
    tissue[liver] = CODE["liver"]
    for start, end, radius in VESSELS:
        tissue[_tube(grid, np.multiply(start, size), np.multiply(end, size), radius) & liver] = CODE["vessel"]

    # An irregular outline bulges beyond its mean radius; tumor_size is the largest diameter.
    radius = traits["tumor_size"] / 2 / (1 + 1.1 * traits["irregularity"])
    room = np.maximum(RIGHT_LOBE[1] * size - radius - 3, 3)
    middle = RIGHT_LOBE[0] * size + room * _in_ball(rng)
    box, shape, local = _surroundings(grid, middle, 1.45 * radius + 14)
    bulge = _field(rng, shape, max(4.0, 0.4 * radius), scanner)
    depth = radius * (1 + traits["irregularity"] * bulge) - np.sqrt(_ellipsoid(local, middle, (1, 1, 1)))
    depth = np.where(liver[box], depth, -np.inf).astype(np.float32)
    texture = _field(rng, shape, traits["texture_mm"], scanner)
    patches = special.expit(2 * _field(rng, shape, 3.0, scanner))

    lesions = np.zeros_like(liver)
    balls = [(middle, 1.2 * radius)]
    for _ in range(traits["tumor_number"] - 1):
        balls.append(_place_lesion(grid, liver, balls, rng))
        lesions |= (_ellipsoid(grid, balls[-1][0], (1, 1, 1)) < balls[-1][1] ** 2) & liver
    lesions[box] &= depth <= 0
    return Phantom(tissue, liver, lesions, box, depth, texture, patches)


def attenuation(traits: Mapping[str, Any], phantom: Phantom, phase: int) -> Array:
    """The patient's HU in one phase (0 arterial, 1 portal), free of noise and blur."""
    table = np.array(list(TISSUES.values()), dtype=np.float32)[:, phase]
    hu = table[phantom.tissue]
    liver = table[CODE["liver"]]
    # tumors take up contrast through the hepatic artery and lose it when the liver around them fills
    tumor = liver + (traits["washin_hu"], -traits["washout_hu"])[phase]
    hu[phantom.lesions] = tumor
    depth = phantom.depth
    inside = tumor + traits["texture_hu"] * TEXTURE_SHARE[phase] * phantom.texture
    core = special.expit((depth - (1 - traits["core_fraction"]) * traits["tumor_size"] / 2) / 1.5)
    inside = inside * (1 - core) + NECROSIS * core
    inside += traits["capsule_hu"] * (0.2, 1.0)[phase] * np.exp(-((depth / 2) ** 2))
    halo = traits["halo_hu"] * phantom.patches * np.exp(np.minimum(depth, 0) / 5)
    hu[phantom.box] = np.where(depth > 0, inside, hu[phantom.box] + halo)
    return hu


def scan(hu: Array, noise_factor: float, scanner: Scanner, rng: np.random.Generator) -> Array:
    """Blur, add correlated noise, miscalibrate, round: the image (int16)."""
    step = np.array(scanner.spacing[::-1])
    # a slice is the mean over its thickness: SD thickness / sqrt(12), that is 0.29 voxels
    image = ndimage.gaussian_filter(hu, (12**-0.5, *(scanner.blur / step[1:])), mode="nearest", truncate=3)
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (0, *(scanner.grain / step[1:])), mode="wrap", truncate=3)
    image += scanner.noise * noise_factor * noise / noise.std()
    return np.round(np.clip(image * scanner.scale + scanner.offset, -1024, 3071)).astype(np.int16)


def read(phantom: Phantom, error: float, scanner: Scanner, rng: np.random.Generator) -> Array:
    """A reader's label map, with one connected index tumor.

    The reader misses the true outline by a smooth field (SD `error` mm) and draws all of it wide or narrow
    (SD `error` / 2 mm).
    """
    wander = error * _field(rng, phantom.depth.shape, 5.0, scanner) + error / 2 * rng.standard_normal()
    parts, _ = ndimage.label(phantom.depth + wander > 0)
    mask = np.where(phantom.liver, LIVER, 0).astype(np.uint8)
    mask[phantom.lesions] = LESIONS
    mask[phantom.box][parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])] = TUMOR
    return mask


def _grid(scanner: Scanner) -> tuple[Array, ...]:
    """Coordinates of the voxel centers as open arrays (z, y, x)."""
    steps = scanner.spacing[::-1]
    counts = [round(length / step) for length, step in zip(FIELD_OF_VIEW, steps, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(counts, steps, strict=True)]
    return np.ix_(*(axis.astype(np.float32) for axis in axes))


def _ellipsoid(grid: tuple[Array, ...], middle: Any, axes: Any) -> Array:
    """Squared distance from `middle` in units of the semi-axes: below 1 inside."""
    middle, axes = np.asarray(middle, np.float32), np.asarray(axes, np.float32)
    z, y, x = (((g - m) / a) ** 2 for g, m, a in zip(grid, middle, axes, strict=True))
    return z + y + x


def _tube(grid: tuple[Array, ...], start: Any, end: Any, radius: float) -> Array:
    """Voxels within `radius` of the line from `start` to `end`."""
    start, axis = np.asarray(start, np.float32), np.subtract(end, start, dtype=np.float32)
    offsets = [g - s for g, s in zip(grid, start, strict=True)]
    along = np.clip(sum(o * a for o, a in zip(offsets, axis, strict=True)) / (axis @ axis), 0, 1)
    z, y, x = ((o - along * a) ** 2 for o, a in zip(offsets, axis, strict=True))
    return z + y + x < radius**2


def _surroundings(
    grid: tuple[Array, ...], middle: Array, reach: float
) -> tuple[tuple[slice, ...], tuple[int, ...], tuple[Array, ...]]:
    """The box within `reach` of a point: its slices, shape and coordinates."""
    box = []
    for axis, place in zip(grid, middle, strict=True):
        near = np.flatnonzero(np.abs(axis.ravel() - place) <= reach)
        box.append(slice(near[0], near[-1] + 1))
    local = np.ix_(*(axis.ravel()[cut] for axis, cut in zip(grid, box, strict=True)))
    return tuple(box), tuple(cut.stop - cut.start for cut in box), local


def _field(rng: np.random.Generator, shape: tuple[int, ...], sd: float, scanner: Scanner) -> Array:
    """A stationary Gaussian random field, mean 0 and SD 1, from a smoothing kernel of `sd` mm."""
    white = rng.standard_normal(shape, dtype=np.float32)
    # "wrap" keeps the variance as high at the edges as inside
    smooth = ndimage.gaussian_filter(white, sd / np.array(scanner.spacing[::-1]), mode="wrap", truncate=3)
    return (smooth - smooth.mean()) / smooth.std()


def _in_ball(rng: np.random.Generator) -> Array:
    """A point, uniform in the unit ball."""
    direction = rng.standard_normal(3)
    return direction / np.linalg.norm(direction) * rng.random() ** (1 / 3)


def _place_lesion(
    grid: tuple[Array, ...], liver: Array, balls: list[tuple[Array, float]], rng: np.random.Generator
) -> tuple[Array, float]:
    """Middle and radius of a further lesion.

    Of 200 places in the liver the first that is clear of all `balls` by 3 mm, else the clearest.
    """
    radius = rng.uniform(5, 9)
    voxels = rng.choice(np.flatnonzero(liver), 200)
    index = np.unravel_index(voxels, liver.shape)
    places = np.stack([axis.ravel()[at] for axis, at in zip(grid, index, strict=True)], axis=1)
    clear = np.min([np.linalg.norm(places - middle, axis=1) - reach for middle, reach in balls], axis=0) - radius
    chosen = np.argmax(clear > 3) if (clear > 3).any() else np.argmax(clear)
    return places[chosen], radius
