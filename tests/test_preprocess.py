"""Preprocessing held against the IBSI manual's example, SimpleITK's interpolators and planted truths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor
from scipy.ndimage import gaussian_filter

from hccstudy import preprocess
from hccstudy.errors import CaseError, StudyError
from hccstudy.features import measure
from hccstudy.tables import file_digest, read_table, write_table

STS = Path(__file__).resolve().parents[2] / "shared" / "data" / "sts" / "nifti" / "STS_001"


def series(modality="CT", spacing=(1, 1, 1), **changes):
    plain = {
        "modality": modality,
        "spacing": list(spacing),
        "interpolator": "bspline",
        "window": None,
        "bias_correction": False,
        "normalization": "none",
        "normalization_region": "body",
        "landmarks": None,
    }
    return plain | changes


def settings(margin_mm=40, mode="ibsi", **changes):
    return {"series": {"art": series(**changes)}, "margin_mm": margin_mm, "mode": mode}


def image_of(array, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.asarray(direction, float).ravel())
    return image


def labels_with(shape, tumor, liver=None):
    labels = np.zeros(shape, np.uint8)
    if liver is not None:
        labels[liver] = 2
    labels[tumor] = 1
    return labels


def cube(*bounds):
    return tuple(slice(a, b) for a, b in bounds)


def whole_grid(shape, old, new):
    return [preprocess.grid_positions(*axis) for axis in zip(shape, old, new, strict=True)]


# --- the study grid -----------------------------------------------------------------------------------------


def test_in_parity_mode_the_whole_image_stays_on_its_acquired_grid():
    rng = np.random.default_rng(3)
    image = image_of(rng.integers(-100, 200, (6, 20, 21)).astype(np.int16), (0.7, 0.8, 5.0), (3.0, 4.0, 5.0))
    labels = labels_with((6, 20, 21), cube((2, 4), (5, 9), (6, 10)))
    found, (label_map,) = preprocess.to_study_grid(image, [labels], settings(mode="parity"), "art")
    assert found.IsSameImageGeometryAs(image) and label_map.IsSameImageGeometryAs(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(image))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label_map), labels)


def test_in_parity_mode_features_are_those_of_pyradiomics_on_the_acquired_files(tmp_path):
    """MR of whole numbers: pyradiomics resamples into the image's own type, so that a cast would change every value."""
    rng = np.random.default_rng(5)
    texture = gaussian_filter(rng.normal(size=(14, 30, 30)), 1.2)
    acquired = (200 + 400 * texture / texture.std()).astype(np.int16)
    place = np.indices(acquired.shape) - np.array([7, 15, 15])[:, None, None, None]
    ball = (np.sqrt((place**2 * np.array([9, 1, 1])[:, None, None, None]).sum(axis=0)) < 9).astype(np.uint8)
    sitk.WriteImage(image_of(acquired, (1.1, 1.1, 3.0), (5.0, -6.0, 7.0)), tmp_path / "mr.nii.gz")
    sitk.WriteImage(image_of(ball, (1.1, 1.1, 3.0), (5.0, -6.0, 7.0)), tmp_path / "mask.nii.gz")
    (tmp_path / "p.yaml").write_text(
        "setting: {binWidth: 100, resampledPixelSpacing: [2, 2, 2], normalize: false, label: 1}\n"
        "imageType: {Original: {}, LoG: {sigma: [3]}, Wavelet: {}}\n"
        "featureClass: {shape: , firstorder: , glcm: , glszm: }\n"
    )
    ours = settings(mode="parity", modality="MR")
    image, (mask,) = preprocess.to_study_grid(sitk.ReadImage(tmp_path / "mr.nii.gz"), [ball], ours, "art")
    way = {"names": "pyradiomics", "mode": "parity", "engine": "fast", "ranges": {"art": None}}
    way["parameters"] = {"art": str(tmp_path / "p.yaml")}
    found = measure(image, {"tumor": mask}, {"tumor": mask}, "art", way)["tumor"]
    truth = RadiomicsFeatureExtractor(str(tmp_path / "p.yaml"))
    expected = truth.execute(str(tmp_path / "mr.nii.gz"), str(tmp_path / "mask.nii.gz"))
    expected = {name: float(value) for name, value in expected.items() if not name.startswith("diagnostics")}
    assert set(found) == set(expected) and len(found) > 100
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    cast = truth.execute(sitk.Cast(image, sitk.sitkFloat32), mask)
    assert abs(float(cast["original_firstorder_Mean"]) - expected["original_firstorder_Mean"]) > 0.1
    assert image.GetPixelID() == sitk.sitkInt16


@pytest.mark.parametrize("knob", [{"window": [0, 9]}, {"bias_correction": True}, {"normalization": "zscore"}])
def test_in_parity_mode_a_series_is_not_prepared(knob):
    asked = settings(mode="parity", modality="CT" if "window" in knob else "MR", **knob)
    with pytest.raises(StudyError, match=f"{next(iter(knob))} is .*off with features.mode parity"):
        preprocess.check_settings(asked)
    preprocess.check_settings(asked | {"mode": "ibsi"})


def test_grid_is_that_of_the_worked_example_in_the_ibsi_manual():
    # "Align grid centers": 4 voxels of 3 mm to 2 mm are 6 voxels; x_bg = (4 - 1 - 2/3 * 5) / 2 = -1/6
    assert preprocess.grid_positions(4, 3.0, 2.0) == pytest.approx(-1 / 6 + 2 / 3 * np.arange(6), abs=1e-12)


def test_grid_of_the_ibsi_ct_phantom_has_the_published_size():
    # configurations C to E, 204 x 201 x 60 voxels of 0.977 x 0.977 x 3 mm to 2 mm
    table = Path(__file__).resolve().parents[2] / "shared/reference/ibsi/reference_values"
    if not table.is_dir():
        pytest.skip(f"{table} is missing: no published IBSI values")
    rows = pd.read_csv(table / "ibsi_1_chest_config_c.csv", sep=";").set_index("tag")["reference value"]
    for axis, old in zip("xyz", (0.9765625, 0.9765625, 3.0), strict=True):
        found = preprocess.grid_positions(int(rows[f"img_dim_{axis}_init_img"]), old, 2.0)
        assert len(found) == int(rows[f"img_dim_{axis}_interp_img"])


def test_grid_is_not_enlarged_by_spacings_stored_as_float32():
    old = float(np.float32(0.3))
    assert len(preprocess.grid_positions(100, old, 0.1)) == 300
    assert np.array_equal(preprocess.grid_positions(512, float(np.float32(0.7)), 0.7), np.arange(512))


@pytest.mark.parametrize(("order", "interpolator"), [(1, sitk.sitkLinear), (3, sitk.sitkBSpline)])
def test_interpolation_equals_simpleitk_inside_the_image(order, interpolator):
    array = np.random.default_rng(1).normal(size=(14, 31, 27)).astype(np.float32)
    image = image_of(array, (0.8, 0.9, 2.5), (3.0, 4.0, 5.0))
    grid = whole_grid(array.shape, (2.5, 0.9, 0.8), (1.0, 1.0, 1.0))
    truth = sitk.ResampleImageFilter()
    truth.SetInterpolator(interpolator)
    truth.SetOutputSpacing((1.0, 1.0, 1.0))
    truth.SetSize([len(where) for where in grid[::-1]])
    truth.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint([w[0] for w in grid[::-1]]))
    truth.SetOutputPixelType(sitk.sitkFloat64)
    expected = sitk.GetArrayFromImage(truth.Execute(image))
    inside = np.ix_(*[(w >= 0) & (w <= n - 1) for w, n in zip(grid, array.shape, strict=True)])
    assert np.abs(preprocess.resample(array, grid, order) - expected)[inside].max() < 1e-9


@pytest.mark.parametrize("order", [1, 3])
def test_linear_ramp_is_resampled_exactly_and_held_beyond_the_border(order):
    ramp = np.broadcast_to(2.0 * np.arange(20.0), (3, 4, 20)).copy()
    where = preprocess.grid_positions(20, 1.5, 1.0)
    found = preprocess.resample(ramp, [np.arange(3.0), np.arange(4.0), where], order)[1, 2]
    # a spline through a ramp with mirrored ends bends near them, by 0.268 per voxel
    inside = (where > 0) & (where < 19) if order == 1 else (where > 8) & (where < 11)
    assert np.abs(found - 2.0 * where)[inside].max() < (1e-12 if order == 1 else 1e-3)
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert where[0] < 0


@pytest.mark.parametrize("order", [1, 3])
def test_part_of_the_grid_has_the_values_of_the_whole_grid(order):
    values = np.random.default_rng(2).normal(0, 500, (60, 150, 140))
    grid = whole_grid(values.shape, (3.0, 0.75, 0.75), (1.0, 1.0, 1.0))
    box = cube((40, 90), (50, 75), (40, 80))
    whole = preprocess.resample(values, grid, order)[box]
    part = preprocess.resample(values, [where[b] for where, b in zip(grid, box, strict=True)], order)
    assert np.abs(part - whole).max() <= 1e-12 * np.abs(whole).max()


def test_box_covers_labels_and_margin_without_moving_the_grid():
    rng = np.random.default_rng(3)
    array = rng.normal(0, 100, (40, 120, 110)).astype(np.float32)
    labels = labels_with(array.shape, cube((18, 22), (50, 60), (40, 55)))
    image = image_of(array, (0.7, 0.7, 3.0), (-10.0, 20.0, 30.0))
    found, (mask,) = preprocess.to_study_grid(image, [labels], settings(10, modality="PT"), "art")
    full, _ = preprocess.to_study_grid(image, [labels], settings(1000, modality="PT"), "art")
    assert found.GetNumberOfPixels() < full.GetNumberOfPixels() / 8
    first = full.TransformPhysicalPointToContinuousIndex(found.GetOrigin())
    assert np.allclose(first, np.round(first), atol=1e-9)
    start = np.round(first).astype(int)
    part = sitk.RegionOfInterest(full, found.GetSize(), start.tolist())
    assert np.array_equal(sitk.GetArrayFromImage(part), sitk.GetArrayFromImage(found))
    # 10 mm on each side of the tumor's own extent, to within a voxel
    filled = np.argwhere(sitk.GetArrayFromImage(mask) == 1)
    room = [filled.min(0), np.array(mask.GetSize()[::-1]) - 1 - filled.max(0)]
    assert np.all(np.abs(np.array(room) - 10) <= 1)


# --- whole images -------------------------------------------------------------------------------------------


def test_image_on_the_study_grid_already_keeps_its_values_to_the_bit():
    array = np.random.default_rng(4).normal(size=(20, 30, 30)).astype(np.float32)
    labels = labels_with(array.shape, cube((8, 12), (10, 20), (10, 20)))
    image = image_of(array, [float(np.float32(side)) for side in (0.7, 0.7, 1.3)])
    found, (mask,) = preprocess.to_study_grid(image, [labels], settings(modality="PT", spacing=(0.7, 0.7, 1.3)), "art")
    assert sitk.GetArrayFromImage(found).tobytes() == array.tobytes()
    assert np.array_equal(sitk.GetArrayFromImage(mask), labels)


def test_ct_is_clipped_to_its_window_and_rounded_to_integers_after_interpolation():
    array = np.random.default_rng(5).integers(-1000, 1500, (20, 40, 40)).astype(np.int16)
    labels = labels_with(array.shape, cube((8, 12), (10, 30), (10, 30)))
    image = image_of(array, (0.8, 0.8, 2.0))
    plain = sitk.GetArrayFromImage(preprocess.to_study_grid(image, [labels], settings(), "art")[0])
    assert plain.dtype == np.int16
    grid = whole_grid(array.shape, (2.0, 0.8, 0.8), (1.0, 1.0, 1.0))
    exact = preprocess.resample(array, grid, 3)
    assert plain.shape == exact.shape
    assert np.abs(plain - exact).max() <= 0.5 + 1e-5
    clipped, _ = preprocess.to_study_grid(image, [labels], settings(window=[-150, 250]), "art")
    values = sitk.GetArrayFromImage(clipped)
    assert (values.min(), values.max()) == (-150, 250)


def test_halves_are_rounded_upwards_whatever_the_numerical_noise():
    values = np.array([-1.5, -0.5, 0.5 - 1e-9, 0.5 + 1e-9, 1.49, 2.5])
    assert preprocess.round_to_integers(values).tolist() == [-1, 0, 1, 1, 1, 3]
    assert preprocess.round_to_integers(np.array([40000.2])).dtype == np.int32


@pytest.mark.parametrize("kind", ["flipped", "oblique"])
def test_direction_and_place_in_physical_space_are_kept(kind):
    angle = np.deg2rad(25)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    direction = np.diag([-1.0, 1.0, -1.0]) if kind == "flipped" else np.array(turn)
    empty = image_of(np.zeros((24, 50, 44), np.float32), (0.9, 0.9, 2.2), (12.0, -30.0, 400.0), direction)
    center = np.array(empty.TransformContinuousIndexToPhysicalPoint([20.0, 27.0, 11.0]))

    def blob(image):
        z, y, x = np.indices(image.GetSize()[::-1]).reshape(3, -1)
        index = np.stack([x, y, z]) * np.array(image.GetSpacing())[:, None]
        points = np.array(image.GetOrigin())[:, None] + np.array(image.GetDirection()).reshape(3, 3) @ index
        squared = ((points - center[:, None]) ** 2).sum(0).reshape(image.GetSize()[::-1])
        return 100 * np.exp(-squared / (2 * 6.0**2)), squared

    values, squared = blob(empty)
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.CopyInformation(empty)
    labels = (squared < 8**2).astype(np.uint8)
    found, (mask,) = preprocess.to_study_grid(image, [labels], settings(5, modality="PT"), "art")
    expected, distance = blob(found)
    assert found.GetDirection() == pytest.approx(empty.GetDirection())
    assert np.abs(sitk.GetArrayFromImage(found) - expected).max() < 0.3  # of 100: cubic splines on 2.2 mm
    tumor = sitk.GetArrayFromImage(mask) == 1
    assert tumor.sum() == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.03)
    assert tumor[distance < 6**2].all() and not tumor[distance > 10**2].any()


def test_label_maps_are_interpolated_linearly_and_the_tumor_wins_ties():
    labels = np.full((2, 2, 8), 2, np.uint8)
    labels[..., 2:3], labels[..., 3:5] = 1, 3  # 2 2 1 3 3 2 2 2, two voxels become one: all ties or clear
    grid = [np.arange(2.0), np.arange(2.0), preprocess.grid_positions(8, 1.0, 2.0)]
    assert preprocess.resample_labels(labels, grid)[0, 0].tolist() == [2, 1, 3, 2]
    alone = np.where(labels == 2, 0, labels).astype(np.uint8)
    assert preprocess.resample_labels(alone, grid)[0, 0].tolist() == [0, 1, 3, 0]


def test_no_hole_opens_in_the_liver_where_three_labels_meet():
    labels = np.full((9, 9, 9), 2, np.uint8)
    labels[:5, :5], labels[5:, :4] = 1, 3
    found = preprocess.resample_labels(labels, whole_grid(labels.shape, (3.0,) * 3, (0.7, 1.1, 1.3)))
    assert set(np.unique(found)) == {1, 2, 3}


def test_tumor_lost_on_the_study_grid_is_said_with_counts():
    labels = labels_with((40, 40, 40), cube((20, 21), (20, 21), (20, 21)))
    image = image_of(np.zeros(labels.shape, np.int16), (0.5, 0.5, 0.5))
    with pytest.raises(CaseError, match=r"lost on the study grid.*1 voxels of 0.5 x 0.5 x 0.5") as caught:
        preprocess.to_study_grid(image, [labels], settings(spacing=(3, 3, 3)), "art")
    assert not caught.value.excluded


# --- intensities --------------------------------------------------------------------------------------------


def test_body_is_found_and_holes_in_it_are_filled():
    y, x = np.ogrid[:80, :100]
    ellipse = ((y - 40) / 30) ** 2 + ((x - 50) / 40) ** 2 < 1
    array = np.where(ellipse, 300.0, 0.0)[None].repeat(5, 0)
    array[:, 35:45, 45:60] = 5  # dark as air
    array[2, 20, 50] = 1e5  # one bright voxel
    array += np.random.default_rng(6).normal(0, 3, array.shape)
    assert np.array_equal(preprocess.body_region(array), np.broadcast_to(ellipse, array.shape))


@pytest.mark.parametrize("region", ["body", "liver"])
def test_zscore_has_mean_0_and_sd_1_in_its_region(region):
    rng = np.random.default_rng(7)
    array = rng.normal(20, 2, (12, 40, 40))
    array[:, 5:35, 5:35] = rng.normal(500, 60, (12, 30, 30))
    labels = labels_with(array.shape, cube((5, 8), (12, 18), (12, 18)), cube((2, 10), (10, 25), (10, 25)))
    chosen = settings(modality="MR", normalization="zscore", normalization_region=region)
    image = image_of(array.astype(np.float32))
    found = sitk.GetArrayFromImage(preprocess.to_study_grid(image, [labels], chosen, "art")[0]).astype(float)
    inside = found[labels > 0] if region == "liver" else found[:, 5:35, 5:35]
    assert inside.mean() == pytest.approx(0, abs=1e-6)
    assert inside.std() == pytest.approx(1, abs=1e-6)


def test_liver_normalization_without_a_liver_is_refused():
    labels = labels_with((10, 20, 20), cube((3, 6), (5, 9), (5, 9)))
    chosen = settings(modality="MR", normalization="zscore", normalization_region="liver")
    with pytest.raises(CaseError, match="no liver mask"):
        preprocess.to_study_grid(image_of(np.ones(labels.shape, np.float32)), [labels], chosen, "art")


def test_nyul_maps_landmarks_onto_the_scale_exactly_and_undoes_a_gain():
    rng = np.random.default_rng(8)
    percentiles = [1, 10, 25, 50, 75, 90, 99]
    training = [gain * rng.gamma(4, 50, 5000) + shift for gain, shift in ((1, 0), (3, 40), (0.4, 10))]
    landmarks = preprocess.learn_landmarks(training, percentiles, made_from="simulated")
    assert landmarks["n"] == 3 and landmarks["scale"][0] == 0 and landmarks["scale"][-1] == 100
    image = rng.gamma(4, 50, (10, 30, 30))
    region = rng.random(image.shape) < 0.5
    mapped = preprocess.normalize_nyul(image, region, landmarks)
    knots = np.percentile(image[region], percentiles)
    expected = preprocess.normalize_nyul(
        np.concatenate([knots, image[region]]), np.arange(7 + region.sum()) > 6, landmarks
    )
    assert expected[:7] == pytest.approx(landmarks["scale"], rel=1e-12, abs=1e-12)
    assert np.array_equal(np.argsort(mapped[region], kind="stable"), np.argsort(image[region], kind="stable"))
    assert preprocess.normalize_nyul(7 * image + 100, region, landmarks) == pytest.approx(mapped, abs=1e-8)
    low = image < knots[0]
    slope = (landmarks["scale"][1] - landmarks["scale"][0]) / (knots[1] - knots[0])
    assert mapped[low] == pytest.approx((image[low] - knots[0]) * slope)


def test_n4_removes_a_planted_bias_field_and_does_so_again():
    rng = np.random.default_rng(9)
    z, y, x = np.ogrid[:20, :64, :64]
    body = np.broadcast_to(((y - 32) / 27) ** 2 + ((x - 32) / 29) ** 2 < 1, (20, 64, 64))
    tissue = np.where(body, 300.0, 5.0)
    tissue[5:15, 25:40, 20:35] = 400.0
    field = np.exp(0.5 * np.sin(x / 22) + 0.3 * y / 64 - 0.01 * z)
    noisy = (np.abs(tissue + rng.normal(0, 6, tissue.shape)) * field).astype(np.float32)
    image = image_of(noisy, (4.0, 4.0, 4.0))
    same = body & (tissue == 300)

    def variation(values):
        return values[same].std() / values[same].mean()

    corrected = preprocess.correct_bias(image, preprocess.body_region(noisy))
    assert variation(noisy) > 0.13
    assert variation(corrected) < 0.25 * variation(noisy)
    assert corrected[tissue == 400].mean() / corrected[same].mean() == pytest.approx(4 / 3, rel=0.05)
    assert np.array_equal(corrected, preprocess.correct_bias(image, preprocess.body_region(noisy)))


# --- settings and batch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "US"}, "art.modality is 'US'; expected one of CT, MR, PT"),
        ({"interpolator": "cubic"}, "expected one of linear, bspline"),
        ({"normalization": "z"}, "expected one of none, zscore, nyul"),
        ({"normalization": "zscore"}, "art.normalization is 'zscore'; expected it to be off for CT"),
        ({"modality": "MR", "window": [0, 1]}, r"art.window is \[0, 1\]; expected it to be off for MR"),
        ({"modality": "PT", "bias_correction": True}, "off for PT"),
        ({"modality": "MR", "normalization": "nyul"}, "art.landmarks is None"),
    ],
)
def test_settings_that_make_no_sense_stop_the_study(changes, message):
    with pytest.raises(StudyError, match=message):
        preprocess.check_settings(settings(**changes))


@pytest.mark.parametrize("content", [None, [1], {"percentiles": [1, 99], "scale": [5, 5]}, {"scale": [1, 2]}])
def test_bad_landmarks_file_stops_the_study(tmp_path, content):
    path = tmp_path / "landmarks.json"
    if content is not None:
        path.write_text(json.dumps(content))
    with pytest.raises(StudyError, match=r"landmarks\.json"):
        preprocess.read_landmarks(path)


def run(folder, rows, chosen):
    write_table(pd.DataFrame(rows, columns=preprocess.COLUMNS), folder / "imports.tsv")
    preprocess.preprocess_batch(
        cases=str(folder / "imports.tsv"),
        settings=chosen,
        folder=str(folder / "out"),
        table=str(folder / "out.tsv"),
        ledger=str(folder / "ledger.tsv"),
    )
    return read_table(folder / "out.tsv", preprocess.COLUMNS), pd.read_csv(
        folder / "ledger.tsv", sep="\t", keep_default_na=False
    )


def a_row(folder, patient, reader, array, labels, spacing=(0.8, 0.8, 2.0)):
    paths = {"image": folder / f"{patient}.nii.gz", "mask": folder / f"{patient}{reader[:1]}_mask.nii.gz"}
    sitk.WriteImage(image_of(array, spacing), paths["image"])
    sitk.WriteImage(image_of(labels, spacing), paths["mask"])
    return {
        "patient": patient,
        "center": "A",
        "series": "art",
        "timepoint": "baseline",
        "modality": "CT",
        "reader": reader,
        **{name: str(path) for name, path in paths.items()},
        **{f"{name}_sha256": file_digest(path) for name, path in paths.items()},
    }


def test_batch_shares_images_between_readers_and_reports_the_lost_patient(tmp_path):
    array = np.random.default_rng(10).integers(-100, 200, (16, 40, 40)).astype(np.int16)
    one = labels_with(array.shape, cube((5, 10), (10, 22), (10, 22)))
    two = labels_with(array.shape, cube((5, 11), (11, 24), (10, 22)))
    speck = labels_with(array.shape, cube((5, 6), (10, 11), (10, 11)))
    rows = [
        a_row(tmp_path, "P2", "anna/1", array, one),
        a_row(tmp_path, "P2", "b", array, two),
        a_row(tmp_path, "P1", "", array, speck),
    ]
    table, ledger = run(tmp_path, rows, settings(10, spacing=(4, 4, 4)))
    assert table["reader"].tolist() == ["anna/1", "b"] and table["patient"].eq("P2").all()
    assert table["image"].nunique() == 1 and table["mask"].nunique() == 2
    for row in table.to_dict("records"):
        assert file_digest(row["image"]) == row["image_sha256"]
        assert file_digest(row["mask"]) == row["mask_sha256"]
        assert sitk.ReadImage(row["image"]).GetSpacing() == (4.0, 4.0, 4.0)
    reasons = ledger.set_index("patient")[["status", "reason"]]
    assert reasons.loc["P1"].tolist() == ["failed", "tumor lost on the study grid"]
    assert reasons.loc["P2"].tolist() == ["included", ""]


def test_batch_writes_the_same_bytes_in_another_folder(tmp_path):
    array = np.random.default_rng(11).integers(-100, 200, (16, 40, 40)).astype(np.int16)
    labels = labels_with(array.shape, cube((5, 10), (10, 22), (10, 22)))
    row = a_row(tmp_path, "P1", "", array, labels)
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        table, _ = run(tmp_path / name, [row], settings())
        digests.append(table[["image_sha256", "mask_sha256"]].iloc[0].tolist())
    assert digests[0] == digests[1]


def test_changed_landmarks_file_is_noticed(tmp_path):
    rng = np.random.default_rng(12)
    array = rng.gamma(4, 50, (16, 40, 40)).astype(np.float32)
    row = a_row(tmp_path, "P1", "", array, labels_with(array.shape, cube((5, 10), (10, 22), (10, 22))))
    path = tmp_path / "scale.json"
    chosen = settings(modality="MR", normalization="nyul", landmarks=str(path))
    means = []
    for top in (100, 200):
        landmarks = {"percentiles": [1, 50, 99], "scale": [0, 40, top], "n": 1, "made_from": "test"}
        path.write_text(json.dumps(landmarks))
        table, _ = run(tmp_path, [row], chosen)
        means.append(sitk.GetArrayFromImage(sitk.ReadImage(table["image"].iloc[0])).max())
    assert means[1] > 1.5 * means[0]


def test_series_that_the_settings_do_not_know_stops_the_study(tmp_path):
    labels = labels_with((10, 20, 20), cube((3, 6), (5, 9), (5, 9)))
    row = a_row(tmp_path, "P1", "", np.zeros(labels.shape, np.int16), labels) | {"series": "portal"}
    with pytest.raises(StudyError, match=r"series 'portal'.*expected one of art"):
        run(tmp_path, [row], settings())


@pytest.mark.skipif(not STS.is_dir(), reason=f"{STS} is missing: no real MR to try")
def test_real_mr_keeps_its_tumor_volume_and_place():
    image = sitk.ReadImage(STS / "MR_T1_image.nii.gz")
    mask = sitk.ReadImage(STS / "MR_T1_mask.nii.gz")
    labels = (sitk.GetArrayFromImage(mask) > 0).astype(np.uint8)
    chosen = settings(15, modality="MR", spacing=(2, 2, 2), normalization="zscore")
    _, (found,) = preprocess.to_study_grid(image, [labels], chosen, "art")

    def volume_and_center(labels, geometry):
        points = np.argwhere(labels == 1)
        center = geometry.TransformContinuousIndexToPhysicalPoint(points.mean(0)[::-1].tolist())
        return len(points) * np.prod(geometry.GetSpacing()), np.array(center)

    before, place = volume_and_center(labels, mask)
    after, new_place = volume_and_center(sitk.GetArrayFromImage(found), found)
    assert after == pytest.approx(before, rel=0.03)
    assert np.linalg.norm(new_place - place) < 0.5
