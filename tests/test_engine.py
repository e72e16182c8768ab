"""The extraction engine against pyradiomics itself: every feature, many images, regions and settings.

`python tests/benchmarks/extraction.py equality` prints the largest difference of every case.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from extraction_cases import (
    CASES,
    DATA,
    FEW,
    FILTERS,
    ORIGINAL,
    REAL,
    ROOTS,
    TOLERANCE,
    Case,
    Picture,
    ball,
    blobs,
    ct,
    difference,
    differences,
    itk,
    masks_on_other_grids,
    mr,
    oracle,
    resampled,
    texture,
    tolerance,
    uint8,
)
from hccstudy.engine.extract import ENGINES, extract
from hccstudy.engine.regions import _Texture, _Walk
from hccstudy.errors import CaseError, StudyError

Values = dict[str, float]


def values_of(picture: Picture, parameters: str, engine: str = "fast") -> dict[str, Values | CaseError]:
    masks = {region: mask for region, (mask, _) in picture.regions.items()}
    labels = {region: label for region, (_, label) in picture.regions.items()}
    return extract(picture.image, masks, parameters, labels=labels, names="pyradiomics", engine=engine)


def both(case: Case, folder: Path) -> dict[str, tuple[Values | CaseError, Values | Exception]]:
    """Region -> (the engine's values or its refusal, pyradiomics' own or what it raised)."""
    picture, parameters = case.picture(), case.write(folder)
    ours = values_of(picture, parameters)
    return {
        region: (ours[region], oracle(parameters, picture.image, mask, label))
        for region, (mask, label) in picture.regions.items()
    }


def weighed_nothing(name: str, ours: dict[str, float], theirs: dict[str, float]) -> bool:
    """Weighted runs of a region without any: pyradiomics' two sums over nothing are 0, its other features nan as ours."""
    return np.isnan(ours[name]) and theirs[name] == 0 and name.endswith(("glrlm_RunEntropy", "glrlm_RunVariance"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engine_gives_pyradiomics_values(case, tmp_path):
    if case.make in REAL and not DATA.is_dir():
        pytest.skip(f"{DATA} (real images, not part of the repository) is missing")
    wrong = {}
    ordinary = not case.name.startswith(("odd", "constant", "masks", "image of one", "re-segmented, nothing"))
    for region, (ours, theirs) in both(case, tmp_path).items():
        # equality of refusals and of nan proves nothing: ordinary cases have neither
        assert not ordinary or (isinstance(theirs, dict) and np.isfinite(list(theirs.values())).all()), (
            f"{region}: {theirs}"
        )
        if region == "whole image":  # a mask without background is refused by pyradiomics alone
            assert isinstance(ours, dict) or "shape2D" in case.classes
            continue
        assert isinstance(ours, CaseError) == isinstance(theirs, Exception), f"{region}: {ours}, pyradiomics: {theirs}"
        if isinstance(ours, CaseError) or isinstance(theirs, Exception):
            continue
        assert list(ours) == list(theirs), region
        for name, found in differences(ours, theirs).items():
            if weighed_nothing(name, ours, theirs):
                continue
            if found > tolerance(name):
                wrong[f"{region} {name}"] = (ours[name], theirs[name], found)
    assert not wrong, f"{len(wrong)} values differ: {dict(list(wrong.items())[:8])}"


def test_a_difference_is_noticed(tmp_path):
    """Ten times the tolerance in any one feature is seen, also in one that is small; nan is not equal to a number."""
    case = Case("", ct, {}, FEW)
    _, theirs = both(case, tmp_path)["lesion"]
    assert isinstance(theirs, dict)
    # a sum that is nearly 0 beside its terms is compared with its terms: at most this many of 944 values, by this much
    lenient = 0
    for name, value in theirs.items():
        assert difference(name, value, value, theirs) == 0
        assert difference(name, math.nan, value, theirs) == math.inf
        assert difference(name, math.nan, math.nan, theirs) == 0
        if value:
            lenient += not difference(name, value * (1 + 10 * tolerance(name)), value, theirs) > tolerance(name)
            assert difference(name, value * 1.001, value, theirs) > tolerance(name), name
    assert lenient == 0
    assert {name.rsplit("_", 1)[1] for name in theirs if tolerance(name) > TOLERANCE} == set(ROOTS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_intensity_that_is_no_number_is_refused(engine, bad, tmp_path):
    """Inside the region always; outside where a filter or the interpolation would carry it in."""
    for where, case in (
        ((7, 16, 17), Case("", mr, {}, ORIGINAL)),
        ((7, 16, 17), Case("", mr, resampled([1, 1, 1]), ORIGINAL)),
        ((7, 16, 28), Case("", mr, {}, FEW)),
        ((7, 16, 28), Case("", mr, resampled([1, 1, 1]), FEW)),
    ):
        picture, parameters = case.picture(), case.write(tmp_path)
        array = sitk.GetArrayFromImage(picture.image)
        assert np.isfinite(array).all()
        array[where] = bad
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(picture.image)
        regions = {"lesion": picture.regions["lesion"]}
        found = values_of(Picture(image, regions), parameters, engine)["lesion"]
        assert isinstance(found, CaseError), (where, case.setting)


def test_lbp3d_is_refused_where_all_neighbors_are_equal(tmp_path):
    """The kurtosis of one value is no number: pyradiomics counts it as the highest gray level, in silence."""
    picture, parameters = ct(), Case("", ct, {}, {"LBP3D": {"binWidth": 1}}).write(tmp_path)
    found = values_of(picture, parameters)
    assert isinstance(found["lesion"], dict)
    assert isinstance(found["border"], CaseError)  # it reaches into the clipped air
    with pytest.raises(StudyError, match="LBP3D"):
        values_of(picture, parameters, "pyradiomics")


# ---------------------------------------------------------------------------------------------------------------------
# What must change nothing
# ---------------------------------------------------------------------------------------------------------------------

FEW_EXAMPLES = settings(derandomize=True, max_examples=15, deadline=None, database=None)
MATRICES = dict.fromkeys(("glcm", "glrlm", "glszm", "gldm", "ngtdm"))
LEVELS = 25


@st.composite
def small(draw) -> tuple[np.ndarray, np.ndarray]:
    """Intensities (int16) and a region (bool) in a volume of 3 to 7 voxels an edge."""
    shape = tuple(draw(st.lists(st.integers(3, 7), min_size=3, max_size=3)))
    intensities = draw(arrays(np.int16, shape, elements=st.integers(-80, 120), fill=st.nothing()))
    region = draw(arrays(np.bool_, shape, elements=st.booleans(), fill=st.nothing()))
    region[1, 1, 1] = region[1, 1, 2] = region[1, 2, 1] = region[2, 1, 1] = True
    region[0, 0, 0] = False  # pyradiomics refuses a mask without background
    return intensities, region


def one(
    array: np.ndarray,
    region: np.ndarray,
    parameters: str,
    spacing=(1.0, 1.0, 1.0),
    label: int = 1,
) -> Values:
    image = itk(array, spacing)
    mask = itk(region.astype(np.uint8) * np.uint8(label), spacing)
    found = values_of(Picture(image, {"roi": (mask, label)}), parameters)["roi"]
    assert isinstance(found, dict), found
    return found


def assert_close(found: Values, expected: Values) -> None:
    assert list(found) == list(expected)
    wrong = {
        name: (found[name], expected[name]) for name, d in differences(found, expected).items() if d > tolerance(name)
    }
    assert not wrong


def assert_same(found: Values, expected: Values) -> None:
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    return Case("", ct).write(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def texture_only(tmp_path_factory) -> str:
    return Case("", ct, {}, ORIGINAL, MATRICES).write(tmp_path_factory.mktemp("texture"))


# Marching cubes are a table that prefers a direction where the corners of a cube are ambiguous: the mesh of a ragged
# region changes as it turns, in pyradiomics too.
MESH = ("MeshVolume", "SurfaceArea", "SurfaceVolumeRatio", "Sphericity")
COLUMN, ROW, SLICE = (f"original_shape_Maximum2DDiameter{name}" for name in ("Column", "Row", "Slice"))


def without(values: Values, features: tuple[str, ...]) -> Values:
    return {name: value for name, value in values.items() if not name.endswith(features)}


def turned(volume: tuple[np.ndarray, np.ndarray], turns: int, axes: tuple[int, int]) -> list[np.ndarray]:
    return [np.rot90(array, turns, axes).copy() for array in volume]


@FEW_EXAMPLES
@given(volume=small(), axes=st.sampled_from([(0, 1), (0, 2), (1, 2)]), turns=st.integers(1, 3))
def test_a_rotation_by_90_degrees_changes_no_feature_but_those_of_a_plane(plain, volume, axes, turns):
    before, after = one(*volume, plain), one(*turned(volume, turns, axes), plain)
    planes = (COLUMN, ROW, SLICE)
    assert sorted(after[name] for name in planes) == pytest.approx(sorted(before[name] for name in planes), rel=1e-9)
    assert_close(without(after, planes + MESH), without(before, planes + MESH))


@FEW_EXAMPLES
@given(volume=small(), turns=st.integers(1, 3))
def test_a_rotation_about_z_changes_nothing_on_voxels_that_are_longer_in_z(plain, volume, turns):
    spacing = (0.8, 0.8, 3.0)
    before, after = one(*volume, plain, spacing), one(*turned(volume, turns, (1, 2)), plain, spacing)
    if turns % 2:
        before[COLUMN], before[ROW] = before[ROW], before[COLUMN]
    assert_close(without(after, MESH), without(before, MESH))


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_a_rotation_changes_no_mesh_of_a_smooth_region(plain, axes):
    shape = (15, 17, 19)
    volume = texture(shape, 9, 60, 50).round().astype(np.int16), ball(shape, (7, 8, 9), (5.5, 6.5, 8.5))
    planes = (COLUMN, ROW, SLICE)
    assert_close(without(one(*turned(volume, 1, axes), plain), planes), without(one(*volume, plain), planes))


@FEW_EXAMPLES
@given(volume=small(), steps=st.integers(-40, 40))
def test_a_shift_by_whole_bins_changes_no_texture_feature(texture_only, volume, steps):
    array, region = volume
    shifted = (array + steps * LEVELS).astype(np.int16)
    assert_same(one(shifted, region, texture_only), one(array, region, texture_only))


@FEW_EXAMPLES
@given(volume=small(), label=st.integers(2, 255))
def test_the_value_of_the_label_changes_nothing(plain, volume, label):
    assert_same(one(*volume, plain, label=label), one(*volume, plain))


@FEW_EXAMPLES
@given(volume=small(), pads=st.lists(st.integers(0, 4), min_size=6, max_size=6), value=st.integers(-3000, 3000))
def test_background_around_the_image_changes_nothing(plain, volume, pads, value):
    array, region = volume
    width = list(zip(pads[::2], pads[1::2], strict=True))
    padded = np.pad(array, width, constant_values=value)
    assert_same(one(padded, np.pad(region, width), plain), one(array, region, plain))


@FEW_EXAMPLES
@given(volume=small(), seed=st.integers(0, 99))
def test_intensities_outside_the_region_change_nothing_in_an_image_that_is_not_filtered(plain, volume, seed):
    array, region = volume
    other = np.random.default_rng(seed).integers(-3000, 3000, array.shape).astype(np.int16)
    assert_same(one(np.where(region, array, other), region, plain), one(array, region, plain))


@pytest.mark.parametrize("setting", [{}, resampled([1, 1, 1]), {"preCrop": True, "padDistance": 4}])
def test_other_labels_and_regions_and_their_order_change_nothing(tmp_path, setting):
    picture, parameters = ct(), Case("", ct, setting, FILTERS).write(tmp_path)
    together = values_of(picture, parameters)
    backwards = values_of(Picture(picture.image, dict(reversed(picture.regions.items()))), parameters)
    for region, (mask, label) in picture.regions.items():
        alone = sitk.Cast(mask == label, sitk.sitkUInt8)
        found = values_of(Picture(picture.image, {region: (alone, 1)}), parameters)[region]
        assert_same(found, together[region])
        assert_same(backwards[region], together[region])


def test_the_type_of_the_pixels_changes_nothing_where_it_holds_the_same_numbers(plain):
    """Also where two bins above the largest intensity are beyond what the type holds, see bins_that_do_not_overflow."""
    array, region = np.clip(texture((9, 14, 15), 1, 190, 40), 0, 255).round(), blobs((9, 14, 15)) == 1
    expected = one(array.astype(np.int16), region, plain)
    for kind in (np.uint8, np.uint16, np.int32, np.float32, np.float64):
        assert_same(one(array.astype(kind), region, plain), expected)


def test_the_reference_engine_refuses_what_overflows_in_pyradiomics(plain):
    case = Case("", uint8, {}, ORIGINAL)
    found = values_of(case.picture(), plain, "pyradiomics")["lesion"]
    assert isinstance(found, CaseError) and "overflow" in found.detail


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tolerance_holds_for_the_parameter_file_that_sets_it(tmp_path, engine):
    """pyradiomics sets it for all of SimpleITK: it must not reach the next file, and not be lost when this one returns."""
    files = [Case("", ct, setting).write(tmp_path) for setting in ({"geometryTolerance": 1e-2}, {})]
    picture = masks_on_other_grids()
    off = Picture(picture.image, {"a hair off": picture.regions["a hair off"]})
    for _ in range(2):
        tolerant, strict = (values_of(off, parameters, engine)["a hair off"] for parameters in files)
        assert isinstance(tolerant, dict)
        assert isinstance(strict, CaseError)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_label_of_the_parameter_file_is_the_default(tmp_path, engine):
    picture, parameters = ct(), Case("", ct, {"label": 5}).write(tmp_path)
    mask, label = picture.regions["border"]
    found = extract(picture.image, {"border": mask}, parameters, names="pyradiomics", engine=engine)["border"]
    theirs = oracle(parameters, picture.image, mask, label)
    assert isinstance(found, dict) and isinstance(theirs, dict)
    assert_close(found, theirs)


def largest(case: Case) -> dict[str, float]:
    """Number of values, and the largest difference by column of the table."""
    found = {"values": 0, "MCC": 0.0, "axes": 0.0, "others": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for ours, theirs in both(case, Path(folder)).values():
            if isinstance(ours, CaseError) or isinstance(theirs, Exception):
                continue
            found["values"] += len(ours)
            for name, value in differences(ours, theirs).items():
                if weighed_nothing(name, ours, theirs):
                    continue
                feature = name.rsplit("_", 1)[1]
                column = "MCC" if feature == "MCC" else "axes" if feature in ROOTS else "others"
                found[column] = max(found[column], value)
    return found


def largest_differences() -> list[dict[str, Any]]:
    """A row a case: how many values, and their largest relative differences; the last row is that of all cases."""
    cases = [case for case in CASES if case.make not in REAL or DATA.is_dir()]
    rows = [{"case": case.name} | largest(case) for case in cases]
    total = {
        column: (sum if column == "values" else max)(row[column] for row in rows)
        for column in rows[0]
        if column != "case"
    }
    return [*rows, {"case": "all"} | total]


def test_zones_are_the_connected_parts_of_each_level():
    """Sizes of zones against scipy's labeling, 26-connected and within slices, on volumes of few levels."""
    rng = np.random.default_rng(7)
    for turn in range(60):
        shape = rng.integers(1, 9, 3)
        shape[2] += 30 * (turn % 3 == 0)  # longer than what is compared at once
        levels = rng.integers(0, 2 + turn % 4, shape).astype(np.uint16)
        if np.count_nonzero(levels) < 2:
            continue
        for flat in (None, 0, 1, 2):
            structure = np.ones((3, 3, 3), bool)
            if flat is not None:
                structure[tuple(slice(None) if axis != flat else [0, 2] for axis in range(3))] = False
            expected = []
            for level in range(1, int(levels.max()) + 1):
                parts, _ = ndimage.label(levels == level, structure)
                expected += [(level, int(size)) for size in np.bincount(parts.ravel())[1:]]
            try:
                walk = _Walk(levels > 0, (1,), flat)
            except CaseError:  # no two voxels within a slice
                continue
            texture = _Texture(walk, levels[levels > 0], np.bincount(levels[levels > 0]), {}, (1, 1, 1))
            texture.glszm()
            assert sorted(map(tuple, walk.zones[: len(expected)].tolist())) == sorted(
                (int(np.searchsorted(texture.present, level)) + 1, size) for level, size in expected
            )
