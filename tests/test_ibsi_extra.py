"""IBSI features that pyradiomics lacks: published values, brute force, and what must change nothing."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import pdist

from hccstudy.engine.ibsi_extra import PEAK_RADIUS_MM, _mesh, extra_features
from hccstudy.errors import CaseError
from ibsi_phantom import LEVELS, REGION, SPACING, within

CLASSES = {"shape", "firstorder", "glszm"}

# Consensus values and tolerances for the digital phantom (IBSI-1 reference manual): tag, value, tolerance.
PUBLISHED = {
    tag: (float(value), float(tolerance))
    for tag, value, tolerance in map(
        str.split,
        """
morph_comp_1 0.0411 0.0003
morph_comp_2 0.599 0.004
morph_sph_dispr 1.19 0.01
morph_asphericity 0.186 0.001
morph_com 0.672 0.004
morph_vol_dens_aabb 0.869 0.005
morph_area_dens_aabb 0.866 0.005
morph_vol_dens_aee 1.17 0.01
morph_area_dens_aee 1.36 0.01
morph_vol_dens_conv_hull 0.961 0.006
morph_area_dens_conv_hull 1.03 0.01
morph_integ_int 1200 10
morph_moran_i 0.0397 0.0003
morph_geary_c 0.974 0.006
loc_peak_loc 2.6 0
loc_peak_glob 3.1 0
stat_medad 1.15 0
stat_cov 0.812 0
stat_qcod 0.6 0
ih_mean 2.15 0
ih_var 3.05 0
ih_skew 1.08 0
ih_kurt -0.355 0
ih_median 1 0
ih_min 1 0
ih_p10 1 0
ih_p90 4 0
ih_max 6 0
ih_mode 1 0
ih_iqr 3 0
ih_range 5 0
ih_mad 1.55 0
ih_rmad 1.11 0
ih_medad 1.15 0
ih_cov 0.812 0
ih_qcod 0.6 0
ih_max_grad 8 0
ih_max_grad_g 3 0
ih_min_grad -50 0
ih_min_grad_g 1 0
ivh_v10 0.324 0
ivh_v90 0.0946 0
ivh_i10 5 0
ivh_i90 2 0
ivh_diff_v10_v90 0.23 0
ivh_diff_i10_i90 3 0
dzm_sde_2_5D 0.917 0
dzm_lde_2_5D 1.33 0
dzm_lgze_2_5D 0.368 0
dzm_hgze_2_5D 16.2 0
dzm_sdlge_2_5D 0.362 0
dzm_sdhge_2_5D 14.3 0
dzm_ldlge_2_5D 0.391 0
dzm_ldhge_2_5D 23.7 0
dzm_glnu_2_5D 5.44 0
dzm_glnu_norm_2_5D 0.302 0
dzm_zdnu_2_5D 14.4 0
dzm_zdnu_norm_2_5D 0.802 0
dzm_z_perc_2_5D 0.243 0
dzm_gl_var_2_5D 3.92 0
dzm_zd_var_2_5D 0.0988 0
dzm_zd_entr_2_5D 2 0
dzm_sde_3D 1 0
dzm_lde_3D 1 0
dzm_lgze_3D 0.253 0
dzm_hgze_3D 15.6 0
dzm_sdlge_3D 0.253 0
dzm_sdhge_3D 15.6 0
dzm_ldlge_3D 0.253 0
dzm_ldhge_3D 15.6 0
dzm_glnu_3D 1.4 0
dzm_glnu_norm_3D 0.28 0
dzm_zdnu_3D 5 0
dzm_zdnu_norm_3D 1 0
dzm_z_perc_3D 0.0676 0
dzm_gl_var_3D 2.64 0
dzm_zd_var_3D 0 0
dzm_zd_entr_3D 1.92 0
""".strip().splitlines(),
    )
}


def features(*arguments, classes=CLASSES, whole=True, **options):
    return extra_features(*arguments, classes=classes, whole=whole, **options)


def phantom_features():
    gray = np.where(REGION, LEVELS, 0)
    flat = features(LEVELS, REGION, REGION, gray, SPACING, force_2d=True, classes={"glszm"})
    return features(LEVELS, REGION, REGION, gray, SPACING) | flat


@pytest.fixture
def case():
    """A random image with a region at its border, holes by re-segmentation, and anisotropic voxels."""
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.normal(size=(9, 14, 13)), 0.8) * 300
    z, y, x = np.indices(image.shape)
    region = ((z - 3) / 4) ** 2 + ((y - 7) / 6) ** 2 + ((x - 6) / 5) ** 2 < 1.1
    inside = region & (image > -60)
    levels = np.where(inside, np.floor((image + 60) / 15).astype(int) + 1, 0)
    assert (region & ~inside).any()
    assert region[0].any()
    return image, region, inside, levels, (2.5, 1.3, 1.1)


def test_published_values_of_the_ibsi_digital_phantom():
    found = phantom_features()
    assert set(found) == set(PUBLISHED)
    assert len(PUBLISHED) == 78
    assert not {tag: value for tag, value in found.items() if not within(value, *PUBLISHED[tag])}


def test_the_published_values_here_are_those_of_the_reference_table(shared):
    with (shared / "reference/ibsi/reference_values/ibsi_1_dig_phantom.csv").open() as handle:
        table = {row["tag"]: row for row in csv.DictReader(handle, delimiter=";")}
    for tag, (value, tolerance) in PUBLISHED.items():
        assert (float(table[tag]["reference value"]), float(table[tag]["tolerance"])) == (value, tolerance)


def test_mesh_has_the_published_volume_and_area():
    _, volume, area = _mesh(REGION, np.array(SPACING))
    assert within(volume, 556, 4)
    assert within(area, 388, 3)


def test_moran_and_geary_are_those_of_all_pairs(case):
    image, _, inside, _, spacing = case
    values = image[inside]
    weights = 1 / pdist(np.argwhere(inside) * spacing)
    first, second = np.triu_indices(len(values), 1)
    deviation = values - values.mean()
    moran = len(values) / weights.sum() * (weights * deviation[first] * deviation[second]).sum() / (deviation**2).sum()
    squares = (weights * (values[first] - values[second]) ** 2).sum()
    geary = (len(values) - 1) / 2 / weights.sum() * squares / (deviation**2).sum()
    found = features(*case)
    assert found["morph_moran_i"] == pytest.approx(moran, rel=1e-10)
    assert found["morph_geary_c"] == pytest.approx(geary, rel=1e-10)


def test_local_peaks_are_means_of_all_voxels_of_the_image_within_a_sphere(case):
    image, _, inside, _, spacing = case
    places = np.indices(image.shape).reshape(3, -1).T * spacing
    means = {
        tuple(voxel): image.ravel()[np.linalg.norm(places - voxel * np.array(spacing), axis=1) <= PEAK_RADIUS_MM].mean()
        for voxel in np.argwhere(inside)
    }
    assert 4 / 3 * math.pi * PEAK_RADIUS_MM**3 == pytest.approx(1000)
    brightest = np.unravel_index(np.where(inside, image, -np.inf).argmax(), image.shape)
    found = features(*case)
    assert found["loc_peak_loc"] == pytest.approx(means[brightest], rel=1e-10)
    assert found["loc_peak_glob"] == pytest.approx(max(means.values()), rel=1e-10)
    assert found["loc_peak_glob"] > found["loc_peak_loc"]


@pytest.mark.parametrize("force_2d", [False, True])
def test_distance_zones_are_those_found_one_by_one(case, force_2d):
    _, region, inside, levels, _ = case
    neighbors = np.ones((3, 3, 3), bool)
    if force_2d:
        neighbors[[0, 2]] = False
    outside = np.argwhere(~np.pad(region, 1)) - 1
    zones = []
    for level in range(1, levels.max() + 1):
        labeled, count = ndimage.label(levels == level, neighbors)
        for zone in range(1, count + 1):
            voxels = np.argwhere(labeled == zone)
            steps = np.abs(voxels[:, None] - outside[None])
            allowed = (steps[..., 0] == 0) | (not force_2d)
            zones.append((level, steps.sum(axis=2)[allowed].min()))
    gray, distance = np.array(zones, float).T
    assert distance.max() > 1
    suffix = "2_5D" if force_2d else "3D"
    found = features(*case, force_2d=force_2d)
    expected = {"sde": (distance**-2).mean(), "ldhge": (gray**2 * distance**2).mean(), "zd_var": distance.var()}
    expected |= {"gl_var": gray.var(), "z_perc": len(zones) / inside.sum(), "ldlge": (distance**2 / gray**2).mean()}
    for name, value in expected.items():
        assert found[f"dzm_{name}_{suffix}"] == pytest.approx(value, rel=1e-12), name


def test_volume_histogram_by_its_definition():
    # 20 voxels: 1 to 8, 11 of the lowest; a tenth of them (2) have 8 or more, so I10 is 8; 9 tenths (18) have 2 or more: no
    values = np.array([1] * 11 + [2, 2, 3, 4, 5, 6, 7, 8, 8])

    def found(values, **options):
        image = values.reshape(1, 4, 5)
        whole = np.ones(image.shape, bool)
        return features(image, whole, whole, np.ones(image.shape, int), (1, 1, 1), classes={"firstorder"}, **options)

    whole = found(values)
    assert (whole["ivh_i10"], whole["ivh_i90"], whole["ivh_v10"], whole["ivh_v90"]) == (8, 2, 9 / 20, 2 / 20)
    # of a range from 0 to 9 the tenth is 0.9 and nine tenths are 8.1
    ranged = found(values, intensity_range=(0, 9))
    assert (ranged["ivh_i10"], ranged["ivh_i90"], ranged["ivh_v10"], ranged["ivh_v90"]) == (8, 2, 1, 0)
    # not whole by nature: 1000 bins of 0.007; the highest has 1000, 7.0 is in bin floor(1000 * 6 / 7) + 1 = 858, 1.0 in bin 1
    parts = found(values, whole=False)
    assert (parts["ivh_i10"], parts["ivh_i90"], parts["ivh_v10"], parts["ivh_v90"]) == (859, 2, 9 / 20, 2 / 20)


def test_gray_level_histogram_of_a_worked_example():
    # counts of levels 1 to 5: 5, 0, 5, 2, 1; their gradient: -5, 0, 1, -2, -1; the mean is 33 / 13 = 2.54
    levels = np.array([1] * 5 + [3] * 5 + [4] * 2 + [5]).reshape(1, 1, 13)
    whole = np.ones(levels.shape, bool)
    found = features(levels, whole, whole, levels, (1, 1, 1), classes={"firstorder"})
    assert [found[f"ih_{name}"] for name in ("max_grad", "max_grad_g", "min_grad", "min_grad_g")] == [1, 3, -5, 1]
    assert found["ih_mode"] == 3  # 1 and 3 are equally frequent, 3 is closer to the mean


def test_densities_of_bodies_whose_geometry_is_known():
    ball = sum((axis - 20) ** 2 for axis in np.ogrid[:41, :41, :41]) <= 19.5**2
    noise = np.random.default_rng(1).integers(0, 9, ball.shape)
    found = features(noise, ball, ball, np.where(ball, noise + 1, 0), (1, 1, 1), classes={"shape"})
    assert found["morph_vol_dens_aabb"] == pytest.approx(math.pi / 6, rel=0.02)
    angle = np.ones((20, 60, 60), bool)
    angle[:, 30:, 30:] = False  # three quarters of a square, their hull seven eighths
    found_angle = features(angle * 1, angle, angle, angle.astype(int), (1, 1, 1), classes={"shape"})
    assert found_angle["morph_vol_dens_conv_hull"] == pytest.approx(6 / 7, rel=0.01)
    # semi-axes of twice the standard deviation of a ball: 2 r / sqrt(5)
    assert found["morph_vol_dens_aee"] == pytest.approx((math.sqrt(5) / 2) ** 3, rel=0.01)
    half = np.zeros((10, 10, 20), bool)
    half[:, :, :10] = True
    found = features(np.where(half, 3, 0), half, half, half.astype(int), (2, 1, 1), classes={"shape"})
    assert found["morph_com"] == pytest.approx(0, abs=1e-12)
    assert found["morph_integ_int"] == pytest.approx(3 * 2000, rel=0.03)
    shifted = np.where(half, np.arange(20) >= 5, 0).astype(float)  # all intensity in the far half: 2.5 voxels away
    assert features(shifted, half, half, half.astype(int), (2, 1, 1))["morph_com"] == pytest.approx(2.5)


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_rotation_by_90_degrees_and_mirroring_change_nothing(case, axes):
    *arrays, spacing = case
    turned_spacing = list(spacing)
    turned_spacing[axes[0]], turned_spacing[axes[1]] = spacing[axes[1]], spacing[axes[0]]
    before = features(*arrays, spacing)
    for turned in (
        features(*(np.rot90(array, axes=axes) for array in arrays), turned_spacing),
        features(*(np.flip(array, axes[0]) for array in arrays), spacing),
    ):
        for tag, value in before.items():
            assert turned[tag] == pytest.approx(value, rel=1e-9), tag


def test_padding_beyond_the_reach_of_the_peaks_and_a_shift_of_intensity_change_nothing(case):
    image, region, inside, levels, spacing = case
    # only far in x: closer, or beyond the border of the image, padding would rightly enter the local means
    wide = [np.pad(array, ((0, 0), (0, 0), (8, 8)), mode="edge") for array in (image,)]
    wide += [np.pad(array, ((0, 0), (0, 0), (8, 8))) for array in (region, inside, levels)]
    more = [np.pad(array, ((0, 0), (0, 0), (30, 3))) for array in wide]
    before = features(*wide, spacing)
    for tag, value in features(*more, spacing).items():
        assert before[tag] == pytest.approx(value, rel=1e-9), tag
    shifted = features(image + 1000, region, inside, levels, spacing, whole=False)
    unshifted = features(image, region, inside, levels, spacing, whole=False)
    for tag in ("morph_moran_i", "morph_geary_c", "stat_medad", "ivh_v10", "ivh_i90", "ih_mode"):
        assert shifted[tag] == pytest.approx(unshifted[tag], rel=1e-9), tag
    assert shifted["loc_peak_glob"] == pytest.approx(unshifted["loc_peak_glob"] + 1000)


def test_what_is_undefined_for_one_voxel_or_one_intensity_is_nan():
    image = np.zeros((5, 5, 5))
    one = image == 1
    one[2, 2, 2] = True
    found = features(image, one, one, one.astype(int), (1, 1, 1))
    undefined = {tag for tag, value in found.items() if math.isnan(value)}
    assert undefined == {
        *("morph_com", "morph_moran_i", "morph_geary_c", "morph_vol_dens_aee", "morph_area_dens_aee"),
        *("stat_cov", "stat_qcod", "ih_max_grad", "ih_max_grad_g", "ih_min_grad", "ih_min_grad_g"),
        *("ivh_v10", "ivh_v90", "ivh_i10", "ivh_i90", "ivh_diff_v10_v90", "ivh_diff_i10_i90"),
    }
    whole = np.ones(image.shape, bool)
    found = features(image + 7.7, whole, whole, whole.astype(int), (1, 1, 1))  # a mean of many 7.7 is not quite 7.7
    assert math.isnan(found["morph_moran_i"])
    assert math.isnan(found["ivh_v10"])
    assert found["stat_medad"] == pytest.approx(0, abs=1e-12)
    z, y, x = np.indices(image.shape)
    oblique = z == y  # flat, so that its ellipsoid has no volume
    found = features(x, oblique, oblique, oblique.astype(int), (1.3, 0.7, 1.1))
    assert math.isnan(found["morph_vol_dens_aee"])
    assert found["morph_area_dens_aee"] > 0


def test_geometry_is_that_of_the_morphological_mask_alone(case):
    image, region, inside, levels, spacing = case
    with_holes = features(image, region, inside, levels, spacing)
    whole = features(image, region, region, np.where(region, 1, 0), spacing)
    for tag in (
        "comp_1",
        "vol_dens_aabb",
        "vol_dens_aee",
        "area_dens_aee",
        "vol_dens_conv_hull",
        "area_dens_conv_hull",
    ):
        assert with_holes[f"morph_{tag}"] == whole[f"morph_{tag}"], tag
    assert with_holes["morph_moran_i"] != whole["morph_moran_i"]


def test_wrong_masks_and_intensities_are_refused(case):
    image, region, inside, levels, spacing = case
    with pytest.raises(CaseError, match="0 voxels"):
        features(image, region, np.zeros_like(inside), levels, spacing)
    with pytest.raises(CaseError, match="outside the morphological mask"):
        features(image, inside, region, levels, spacing)
    broken = image.copy()
    broken[tuple(np.argwhere(inside)[0])] = np.nan
    with pytest.raises(CaseError, match="1 voxels"):
        features(broken, region, inside, levels, spacing)
