"""Standardization outside a study: SimpleITK's interpolators, planted values, and the study's own grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from radiomics.featureextractor import RadiomicsFeatureExtractor
from scipy.ndimage import gaussian_filter

from hccstudy.errors import CaseError, StudyError
from hccstudy.preprocess import to_study_grid
from hccstudy.standardize import check_standardization, standardize

SPACING = (0.9, 0.8, 2.5)
OLD_SHAPE = (14, 41, 37)
CONFIGURATIONS = {
    "c": {"interpolator": "sitkLinear", "resegmentRange": [-1000, 400], "binWidth": 25, "binOrigin": -1000},
    "d": {"interpolator": "sitkLinear", "binCount": 32, "resegmentSigma": 3},
    "e": {"interpolator": "sitkBSpline", "resegmentRange": [-1000, 400], "binCount": 32, "resegmentSigma": 3},
}


def image_of(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin((10.0, -20.0, 5.0))
    angle = np.deg2rad(20)
    image.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1))
    return image


def array_of(image):
    return sitk.GetArrayFromImage(image)


def settings(**changes):
    plain = {"resampledPixelSpacing": [1.1, 1.3, 1.7], "interpolator": "sitkLinear", "roundIntensities": False}
    return plain | changes


@pytest.fixture
def picture():
    rng = np.random.default_rng(2)
    values = (gaussian_filter(rng.normal(size=OLD_SHAPE), 1) * 600).astype(np.float32)
    z, y, x = np.indices(OLD_SHAPE)
    ball = ((z - 7) * 2.5) ** 2 + ((y - 20) * 0.8) ** 2 + ((x - 18) * 0.9) ** 2 < 9**2
    corner = (z < 4) & (y < 9) & (x < 8)
    return image_of(values), {"ball": image_of(5 * ball.astype(np.uint8)), "corner": image_of(corner.astype(np.uint8))}


@pytest.mark.parametrize("interpolator", ["sitkLinear", "sitkBSpline"])
def test_intensities_and_masks_are_those_that_simpleitk_finds_at_the_same_places(picture, interpolator):
    image, masks = picture
    found = standardize(image, masks, settings(interpolator=interpolator), margin_mm=4)
    assert found.image.GetSpacing() == (1.1, 1.3, 1.7)
    assert not found.lost
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(found.image)
    resampler.SetOutputPixelType(sitk.sitkFloat64)
    resampler.SetInterpolator(getattr(sitk, interpolator))
    resampler.SetDefaultPixelValue(np.inf)
    expected = resampler.Execute(image)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(0)
    # SimpleITK goes half a voxel beyond the outermost centers; both hold the boundary there, a spline only nearly
    inside = (
        array_of(resampler.Execute(sitk.Cast(sitk.BinaryDilate(masks["ball"] > 0, (1, 1, 1)), sitk.sitkFloat64))) > 0
    )
    assert inside.sum() > 1000
    assert np.abs(array_of(found.image) - array_of(expected))[inside].max() < 1e-3  # float32, intensities to 300
    for region, mask in masks.items():
        part = array_of(resampler.Execute(sitk.Cast(mask > 0, sitk.sitkFloat64)))
        clear = np.abs(part - 0.5) > 1e-6
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(array_of(found.masks[region])[clear] == 1, (part >= 0.5)[clear])


def test_grid_has_the_center_of_the_image_and_covers_it(picture):
    image, _ = picture
    everything = image_of(np.ones(OLD_SHAPE, np.uint8))
    found = standardize(image, {"all": everything}, settings(), margin_mm=50).image

    def center(item):
        return item.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in item.GetSize()])

    sides = zip(image.GetSize(), SPACING, (1.1, 1.3, 1.7), strict=True)
    assert list(found.GetSize()) == [int(np.ceil(n * old / new)) for n, old, new in sides]
    assert center(found) == pytest.approx(center(image), abs=1e-9)
    assert found.GetDirection() == image.GetDirection()


def test_cut_and_other_regions_change_no_value(picture):
    image, masks = picture
    small = standardize(image, {"ball": masks["ball"]}, settings(interpolator="sitkBSpline"), margin_mm=3)
    large = standardize(image, masks, settings(interpolator="sitkBSpline"), margin_mm=30)
    assert small.image.GetSize() != large.image.GetSize()
    start = large.image.TransformPhysicalPointToIndex(small.image.GetOrigin())
    for ours, theirs in (
        (small.image, large.image),
        (small.masks["ball"], large.masks["ball"]),
        (small.intensity_masks["ball"], large.intensity_masks["ball"]),
    ):
        part = sitk.RegionOfInterest(theirs, ours.GetSize(), start)
        assert part.GetOrigin() == pytest.approx(ours.GetOrigin())
        np.testing.assert_array_equal(array_of(part), array_of(ours))


def test_values_are_those_of_a_study(picture):
    image, masks = picture
    study = {
        "modality": "CT",
        "spacing": [1.1, 1.3, 1.7],
        "interpolator": "bspline",
        "window": None,
        "bias_correction": False,
        "normalization": "none",
    }
    label_map = (array_of(masks["ball"]) > 0).astype(np.uint8)
    theirs, (label_map,) = to_study_grid(
        image, [label_map], {"series": {"a": study}, "margin_mm": 7, "mode": "ibsi"}, "a"
    )
    chosen = settings(interpolator="sitkBSpline", roundIntensities=True)
    ours = standardize(image, {"ball": masks["ball"]}, chosen, margin_mm=7)
    for found, expected in ((ours.image, theirs), (ours.masks["ball"], label_map)):
        assert found.GetOrigin() == expected.GetOrigin()
        assert found.GetPixelID() == expected.GetPixelID()
        np.testing.assert_array_equal(array_of(found), array_of(expected))


@pytest.mark.parametrize("spacing", [None, [0, 0, 0], [0.9, 0, 2.5]])
def test_what_needs_no_interpolation_keeps_its_intensities_to_the_bit(picture, spacing):
    image, masks = picture
    found = standardize(image, masks, settings(resampledPixelSpacing=spacing), margin_mm=100)
    assert found.image.GetPixelID() == image.GetPixelID()
    np.testing.assert_array_equal(array_of(found.image), array_of(image))
    np.testing.assert_array_equal(array_of(found.masks["ball"]) == 1, array_of(masks["ball"]) == 5)


def test_zero_keeps_one_axis(picture):
    image, masks = picture
    found = standardize(image, masks, settings(resampledPixelSpacing=[2, 2, 0]), margin_mm=100)
    assert found.image.GetSpacing() == (2, 2, 2.5)
    assert found.image.GetSize()[2] == OLD_SHAPE[0]


def test_rounding_comes_before_re_segmentation_and_both_bounds_are_included():
    # 9.6 rounds to 10 and 20.4 to 20: within [10, 20] only because they are rounded first
    values = np.array([9.4, 9.6, 10, 20, 20.4, 20.6], np.float32).reshape(1, 1, 6)
    image, mask = image_of(values), image_of(np.ones(values.shape, np.uint8))
    chosen = settings(resampledPixelSpacing=None, resegmentRange=[10, 20])
    rounded = standardize(image, {"a": mask}, chosen | {"roundIntensities": True}, margin_mm=0)
    assert array_of(rounded.image).ravel().tolist() == [9, 10, 10, 20, 20, 21]
    assert array_of(rounded.intensity_masks["a"]).ravel().tolist() == [0, 1, 1, 1, 1, 0]
    assert array_of(rounded.masks["a"]).all()
    kept = standardize(image, {"a": mask}, chosen, margin_mm=0)
    assert array_of(kept.intensity_masks["a"]).ravel().tolist() == [0, 0, 1, 1, 0, 0]


def test_outliers_are_more_than_so_many_standard_deviations_away():
    # mean 0, standard deviation 9.4 of all: 21 is more than 2 of them away
    values = np.array([21, -21] + [7.69, -7.69] * 12, np.float32).reshape(1, 2, 13)
    image, mask = image_of(values), image_of(np.ones(values.shape, np.uint8))
    assert values.std() == pytest.approx(9.41, abs=0.05)
    found = standardize(image, {"a": mask}, settings(resampledPixelSpacing=None, resegmentSigma=2), margin_mm=0)
    np.testing.assert_array_equal(array_of(found.intensity_masks["a"]) == 1, np.abs(values) < 20)


def test_a_lost_region_says_why_and_spares_the_others(picture):
    image, masks = picture
    thin = np.zeros(OLD_SHAPE, np.uint8)
    thin[7, 23, 20] = 1  # between the planes of the new grid
    dark = image_of((array_of(image) < -150).astype(np.uint8) * (array_of(masks["ball"]) > 0))
    moved = sitk.Image(masks["ball"])
    moved.SetOrigin((10.0, -19.0, 5.0))
    given = {
        "empty": image_of(np.zeros(OLD_SHAPE, np.uint8)),
        "moved": moved,
        "short": sitk.RegionOfInterest(masks["ball"], (37, 41, 13), (0, 0, 0)),
        "thin": image_of(thin),
        "dark": dark,
        "ball": masks["ball"],
    }
    chosen = settings(resampledPixelSpacing=[4, 4, 4], resegmentRange=[0, 500])
    found = standardize(image, given, chosen, margin_mm=5)
    assert {region: error.reason for region, error in found.lost.items()} == {
        "empty": "empty mask",
        "moved": "mask on another grid",
        "short": "mask on another grid",
        "thin": "region lost on the standard grid",
        "dark": "region lost by re-segmentation",
    }
    assert "1 voxels become 0 of 4 x 4 x 4 mm" in found.lost["thin"].detail
    assert "origin (10.00, -19.00, 5.00); the image" in found.lost["moved"].detail
    assert "voxels are up to 1 mm apart" in found.lost["moved"].detail
    assert all(region in error.detail for region, error in found.lost.items())
    assert list(found.masks) == list(found.intensity_masks) == ["ball"]
    alone = standardize(image, {"ball": masks["ball"]}, chosen, margin_mm=5)
    for ours, theirs in ((found.masks, alone.masks), (found.intensity_masks, alone.intensity_masks)):
        assert array_of(ours["ball"]).sum() == array_of(theirs["ball"]).sum() > 0


def test_nothing_is_left_where_no_region_has_a_voxel(picture):
    image, _ = picture
    found = standardize(image, {"empty": image_of(np.zeros(OLD_SHAPE, np.uint8))}, settings(), margin_mm=5)
    assert (found.masks, found.intensity_masks, list(found.lost)) == ({}, {}, ["empty"])


def test_images_that_cannot_be_standardized_are_refused(picture):
    image, masks = picture
    values = array_of(image)
    values[3, 2, 1] = np.nan
    with pytest.raises(CaseError, match="1 voxels of the image"):
        standardize(image_of(values), masks, settings(), margin_mm=5)
    for wrong in (sitk.Compose(image, image), image[:, :, 3]):
        with pytest.raises(CaseError, match="not a 3-D image"):
            standardize(wrong, masks, settings(), margin_mm=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolator": "sitkNearestNeighbor"}, "sitkNearestNeighbor.*sitkLinear, sitkBSpline"),
        ({"interpolator": None}, "interpolator is None"),
        ({"resampledPixelSpacing": [1, 1]}, "three numbers"),
        ({"resampledPixelSpacing": 2}, "three numbers"),
        ({"resampledPixelSpacing": [1, 1, -1]}, "three numbers"),
        ({"resampledPixelSpacing": [1, 1, "1"]}, "three numbers"),
        ({"resegmentRange": [-1000]}, "two rising"),
        ({"resegmentRange": [400, -1000]}, "two rising"),
        ({"resegmentRange": [0, 1], "resegmentMode": "relative"}, "resegmentMode is 'relative'"),
        ({"resegmentSigma": 0}, "above 0"),
        ({"resegmentSigma": True}, "above 0"),
        ({"roundIntensities": "yes"}, "true or false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(picture, changes, message):
    with pytest.raises(StudyError, match=message):
        standardize(*picture, settings(**changes), margin_mm=5)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_parameter_files_are_the_ibsi_configurations(repository, configuration):
    content = yaml.safe_load((repository / f"config/pyradiomics/ibsi-1-config-{configuration}.yaml").read_text())
    ours = content.pop("ibsi")
    both = content["setting"] | ours
    check_standardization(both)
    expected = CONFIGURATIONS[configuration] | {
        "resampledPixelSpacing": [2, 2, 2],
        "roundIntensities": True,
        "label": 1,
    }
    assert both == expected
    assert RadiomicsFeatureExtractor(content).enabledFeatures.keys() == content["featureClass"].keys()
