"""Features: IBSI's published values, pyradiomics' own values, and a table in and out."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor
from scipy.ndimage import gaussian_filter

from hccstudy.cli import main
from hccstudy.engine import jit
from hccstudy.engine.extract import extract, left_to_pyradiomics
from hccstudy.errors import CaseError, StudyError
from hccstudy.ibsi import ibsi_tag
from hccstudy.parameters import load_parameters
from ibsi_phantom import LEVELS, REGION, SPACING, within

CLASSES = "featureClass: {shape: , firstorder: , glcm: , glrlm: , glszm: , gldm: , ngtdm: }\n"

# Consensus values and tolerances for it (same manual): tag, value, tolerance.
PUBLISHED = {
    tag: (float(value), float(tolerance))
    for tag, value, tolerance in map(
        str.split,
        """
morph_volume 556 4
morph_vol_approx 592 4
morph_area_mesh 388 3
morph_av 0.698 0.004
morph_sphericity 0.843 0.005
morph_diam 13.1 0.1
morph_pca_maj_axis 11.4 0.1
morph_pca_min_axis 9.31 0.06
morph_pca_least_axis 8.54 0.05
morph_pca_elongation 0.816 0.005
morph_pca_flatness 0.749 0.005
stat_mean 2.15 0
stat_var 3.05 0
stat_skew 1.08 0
stat_kurt -0.355 0
stat_median 1 0
stat_min 1 0
stat_p10 1 0
stat_p90 4 0
stat_max 6 0
stat_iqr 3 0
stat_range 5 0
stat_mad 1.55 0
stat_rmad 1.11 0
stat_energy 567 0
stat_rms 2.77 0
ih_entropy 1.27 0
ih_uniformity 0.512 0
cm_joint_max_3D_avg 0.503 0
cm_joint_avg_3D_avg 2.14 0
cm_joint_var_3D_avg 3.1 0
cm_joint_entr_3D_avg 2.4 0
cm_diff_avg_3D_avg 1.43 0
cm_diff_var_3D_avg 3.06 0
cm_diff_entr_3D_avg 1.56 0
cm_sum_avg_3D_avg 4.29 0
cm_sum_var_3D_avg 7.07 0
cm_sum_entr_3D_avg 1.92 0
cm_energy_3D_avg 0.303 0
cm_contrast_3D_avg 5.32 0
cm_dissimilarity_3D_avg 1.43 0
cm_inv_diff_3D_avg 0.677 0
cm_inv_diff_norm_3D_avg 0.851 0
cm_inv_diff_mom_3D_avg 0.618 0
cm_inv_diff_mom_norm_3D_avg 0.898 0
cm_inv_var_3D_avg 0.0604 0
cm_corr_3D_avg 0.157 0
cm_auto_corr_3D_avg 5.06 0
cm_clust_tend_3D_avg 7.07 0
cm_clust_shade_3D_avg 16.6 0
cm_clust_prom_3D_avg 145 0
cm_info_corr1_3D_avg -0.157 0
cm_info_corr2_3D_avg 0.52 0
rlm_sre_3D_avg 0.705 0
rlm_lre_3D_avg 3.06 0
rlm_lgre_3D_avg 0.603 0
rlm_hgre_3D_avg 9.7 0
rlm_srlge_3D_avg 0.352 0
rlm_srhge_3D_avg 8.54 0
rlm_lrlge_3D_avg 2.39 0
rlm_lrhge_3D_avg 17.6 0
rlm_glnu_3D_avg 21.8 0
rlm_glnu_norm_3D_avg 0.43 0
rlm_rlnu_3D_avg 26.9 0
rlm_rlnu_norm_3D_avg 0.513 0
rlm_r_perc_3D_avg 0.68 0
rlm_gl_var_3D_avg 3.46 0
rlm_rl_var_3D_avg 0.574 0
rlm_rl_entr_3D_avg 2.43 0
szm_sze_3D 0.255 0
szm_lze_3D 550 0
szm_lgze_3D 0.253 0
szm_hgze_3D 15.6 0
szm_szlge_3D 0.0256 0
szm_szhge_3D 2.76 0
szm_lzlge_3D 503 0
szm_lzhge_3D 1490 0
szm_glnu_3D 1.4 0
szm_glnu_norm_3D 0.28 0
szm_zsnu_3D 1 0
szm_zsnu_norm_3D 0.2 0
szm_z_perc_3D 0.0676 0
szm_gl_var_3D 2.64 0
szm_zs_var_3D 331 0
szm_zs_entr_3D 2.32 0
ngt_coarseness_3D 0.0296 0
ngt_contrast_3D 0.584 0
ngt_busyness_3D 6.54 0
ngt_complexity_3D 13.5 0
ngt_strength_3D 0.763 0
ngl_lde_3D 0.045 0
ngl_hde_3D 109 0
ngl_lgce_3D 0.693 0
ngl_hgce_3D 7.66 0
ngl_ldlge_3D 0.00963 0
ngl_ldhge_3D 0.736 0
ngl_hdlge_3D 102 0
ngl_hdhge_3D 235 0
ngl_glnu_3D 37.9 0
ngl_dcnu_3D 4.86 0
ngl_dcnu_norm_3D 0.0657 0
ngl_gl_var_3D 3.05 0
ngl_dc_var_3D 22.1 0
ngl_dc_entr_3D 4.4 0
""".strip().splitlines(),
    )
}


@pytest.fixture
def phantom(tmp_path):
    image = sitk.GetImageFromArray(LEVELS.astype(np.int16))
    mask = sitk.GetImageFromArray(REGION.astype(np.uint8))
    for item in (image, mask):
        item.SetSpacing(SPACING)
    return image, mask


def write_parameters(folder: Path, setting: str, types: str = "{Original: {}}") -> str:
    path = folder / "parameters.yaml"
    path.write_text(f"setting: {setting}\nimageType: {types}\n{CLASSES}")
    return str(path)


def test_published_values_of_the_ibsi_digital_phantom(phantom, tmp_path):
    image, mask = phantom
    values = extract(image, {"roi": mask}, write_parameters(tmp_path, "{binWidth: 1}"))["roi"]
    assert len(PUBLISHED) == 104
    wrong = {
        tag: values[f"original_{tag}"] for tag in PUBLISHED if not within(values[f"original_{tag}"], *PUBLISHED[tag])
    }
    assert not wrong


def test_the_published_values_here_are_those_of_the_reference_table(shared):
    with (shared / "reference/ibsi/reference_values/ibsi_1_dig_phantom.csv").open() as handle:
        table = {row["tag"]: row for row in csv.DictReader(handle, delimiter=";")}
    for tag, (value, tolerance) in PUBLISHED.items():
        assert (float(table[tag]["reference value"]), float(table[tag]["tolerance"])) == (value, tolerance)


def test_the_phantom_here_is_the_published_one(phantom, shared):
    folder = shared / "reference/ibsi/digital_phantom"
    for ours, name in zip(phantom, ("image", "mask"), strict=True):
        published = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), published)


@pytest.fixture(scope="module")
def picture():
    """A textured volume on an oblique, anisotropic grid with two overlapping regions, one at the border."""
    rng = np.random.default_rng(5)
    array = (gaussian_filter(rng.normal(size=(14, 34, 38)), 1) * 400 + 60).round().astype(np.int16)
    z, y, x = np.indices(array.shape)
    tumor = ((z - 6) / 4) ** 2 + ((y - 16) / 9) ** 2 + ((x - 18) / 8) ** 2 < 1
    border = (x > 24) & (z < 9)
    images = [sitk.GetImageFromArray(item) for item in (array, tumor.astype(np.uint8), 3 * border.astype(np.uint8))]
    angle = np.deg2rad(20)
    for image in images:
        image.SetSpacing((1.1, 1.3, 2.5))
        image.SetOrigin((10.0, -20.0, 5.0))
        image.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1))
    return images


FILTERS = "{Original: {}, Wavelet: {}, LoG: {sigma: [2.0, 4.0]}, Gradient: {}, SquareRoot: {}}"


@pytest.mark.parametrize(
    ("setting", "types"),
    [
        ("{binWidth: 25}", FILTERS),
        ("{binWidth: 25, resegmentRange: [-200, 400]}", "{Original: {}}"),
        ("{binCount: 32, force2D: true}", "{Original: {}, Wavelet: {}}"),
        ("{binWidth: 25, resampledPixelSpacing: [2, 2, 2], interpolator: sitkBSpline, padDistance: 8}", FILTERS),
        ("{binWidth: 25, preCrop: true, padDistance: 8}", "{Original: {}, LoG: {sigma: [2.0]}}"),
        ("{binWidth: 5, normalize: true, normalizeScale: 100}", "{Original: {}}"),
    ],
)
def test_values_are_pyradiomics_own(picture, tmp_path, setting, types):
    image, tumor, border = picture
    parameters = write_parameters(tmp_path, setting, types)
    found = extract(image, {"tumor": tumor, "border": border}, parameters, labels={"border": 3}, names="pyradiomics")
    for region, mask, label in (("tumor", tumor, 1), ("border", border, 3)):
        expected = RadiomicsFeatureExtractor(parameters, additionalInfo=False).execute(image, mask, label=label)
        assert list(found[region]) == list(expected)
        assert len(expected) >= 100
        for name, value in expected.items():
            assert found[region][name] == pytest.approx(float(value), rel=1e-9, abs=1e-12), name


def test_ibsi_names_hide_no_feature_and_invent_none(picture, tmp_path):
    image, tumor, _ = picture
    parameters = write_parameters(tmp_path, "{binWidth: 25}", FILTERS)
    ours = extract(image, {"tumor": tumor}, parameters)["tumor"]
    theirs = extract(image, {"tumor": tumor}, parameters, names="pyradiomics")["tumor"]
    image_types = 1 + 8 + 2 + 1 + 1
    # dissimilarity and sum variance under their IBSI tags, and what pyradiomics lacks, of the original image
    assert len(ours) == len(theirs) + 2 * image_types + 62
    assert ours["original_stat_kurt"] == theirs["original_firstorder_Kurtosis"] - 3
    assert ours["wavelet-LLH_cm_contrast_3D_avg"] == theirs["wavelet-LLH_glcm_Contrast"]
    assert ibsi_tag("firstorder", "TotalEnergy") is None


def test_a_region_that_pyradiomics_refuses_says_why_and_spares_the_others(picture, tmp_path):
    image, tumor, border = picture
    found = extract(image, {"none": border, "tumor": tumor}, write_parameters(tmp_path, "{binWidth: 25}"))
    assert isinstance(found["none"], CaseError)
    assert "abel" in found["none"].detail
    assert len(found["tumor"]) > 100


def test_a_wrong_parameter_file_is_refused_by_name(tmp_path):
    for content, message in (("setting: {binWidth: -1}", "does not accept"), ("settings: {}", "expected the sections")):
        path = tmp_path / f"{len(content)}.yaml"
        path.write_text(content)
        with pytest.raises(StudyError, match=message):
            load_parameters(str(path))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_the_command_gives_one_row_per_row_in_order(picture, tmp_path, monkeypatch, capsys, ending):
    monkeypatch.chdir(tmp_path)
    for name, item in zip(("image", "tumor", "border"), picture, strict=True):
        sitk.WriteImage(item, f"{name}.nii.gz")
    rows = [
        ("P2", "border", "image.nii.gz", "border.nii.gz", "3"),
        ("P1", "tumor", "image.nii.gz", "tumor.nii.gz", ""),
        ("P3", "tumor", "absent.nii.gz", "tumor.nii.gz", ""),
        ("P2", "tumor", "image.nii.gz", "tumor.nii.gz", "1"),
        ("P4", "tumor", "image.nii.gz", "tumor.nii.gz", "7"),
    ]
    pd.DataFrame(rows, columns=["patient", "region", "image", "mask", "label"]).to_csv("t.csv", index=False)
    parameters = write_parameters(tmp_path, "{binWidth: 25}")
    jobs = ["--jobs", "2"] if ending == "tsv" else []
    status = main(
        ["features", "t.csv", "--settings", parameters, "--out", f"o.{ending}", "--names", "pyradiomics", *jobs]
    )
    read = {"csv": pd.read_csv, "tsv": lambda p: pd.read_csv(p, sep="\t"), "parquet": pd.read_parquet}[ending]
    found = read(f"o.{ending}")
    assert list(zip(found["patient"], found["region"], strict=True)) == [row[:2] for row in rows]
    assert found["original_firstorder_Mean"].notna().tolist() == [True, True, False, True, False]
    assert found["original_glcm_Contrast"][1] == found["original_glcm_Contrast"][3]
    assert status == 1
    errors = capsys.readouterr().err
    assert "t.csv row 4 (P3, tumor): unreadable image" in errors
    assert "t.csv row 6 (P4, tumor)" in errors


def test_the_command_in_ibsi_mode_meets_the_published_values(phantom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, item in zip(("image", "mask"), phantom, strict=True):
        sitk.WriteImage(item, f"{name}.nii.gz")
    pd.DataFrame([("P", "roi", "image.nii.gz", "mask.nii.gz")], columns=["patient", "region", "image", "mask"]).to_csv(
        "t.csv", index=False
    )
    parameters = write_parameters(tmp_path, "{binWidth: 1}")
    assert main(["features", "t.csv", "--settings", parameters, "--out", "o.csv", "--mode", "ibsi"]) == 0
    found = pd.read_csv("o.csv").iloc[0]
    assert not {tag for tag in PUBLISHED if not within(found[f"original_{tag}"], *PUBLISHED[tag])}


@pytest.mark.parametrize(
    ("mode", "setting", "ours", "message"),
    [
        ("ibsi", "{binWidth: 25, normalize: true}", "{}", "sets normalize"),
        ("ibsi", "{binWidth: 25, resampledPixelSpacing: [1, 1, 1], interpolator: sitkGaussian}", "{}", "sitkGaussian"),
        ("parity", "{binWidth: 25}", "{resegmentSigma: 3}", "--mode ibsi"),
        ("parity", "{binWidth: 25}", "{binStart: 3}", "section ibsi has binStart"),
        ("parity", "{binWidth: 25}", "{binOrigin: true}", "binOrigin: True"),
    ],
)
def test_a_parameter_file_that_a_mode_cannot_follow_is_refused(tmp_path, capsys, mode, setting, ours, message):
    path = Path(write_parameters(tmp_path, setting))
    path.write_text(path.read_text() + f"ibsi: {ours}\n")
    status = main(["features", "t.csv", "--settings", str(path), "--out", str(tmp_path / "o.csv"), "--mode", mode])
    said = capsys.readouterr().err
    assert status == 1 and str(path) in said and message in said


def test_both_engines_give_standardized_regions_the_same_values(picture, tmp_path):
    image, tumor, border = picture
    inside = sitk.And(tumor, sitk.Cast(sitk.Greater(image, -50), tumor.GetPixelID()))
    # what standardization has done is not done again
    parameters = write_parameters(
        tmp_path, "{binWidth: 25, resampledPixelSpacing: [2, 2, 2], normalize: true}", FILTERS
    )
    masks = {"tumor": tumor, "border": sitk.Cast(border > 0, tumor.GetPixelID())}
    intensity = masks | {"tumor": inside}
    fast, reference = (
        extract(image, masks, parameters, intensity_masks=intensity, names="pyradiomics", engine=engine)
        for engine in ("fast", "pyradiomics")
    )
    voxels = np.prod(image.GetSpacing()) * sitk.GetArrayFromImage(tumor).sum()
    assert fast["tumor"]["original_shape_VoxelVolume"] == pytest.approx(voxels, rel=1e-9)
    assert fast["tumor"]["original_firstorder_Minimum"] > -50
    for region in masks:
        assert list(fast[region]) == list(reference[region])
        assert fast[region] == pytest.approx(reference[region], rel=1e-7, abs=1e-12)


def test_bins_start_where_ibsi_lets_them_start(tmp_path):
    """Fixed bin size of IBSI (Q3RU): floor((x - bound) / width) + 1, from the bound of re-segmentation."""
    values = np.array([-1000, -976, -975, 0, 399, 400], np.int16)
    image = sitk.GetImageFromArray(np.tile(values, (2, 2, 1)))
    mask = sitk.GetImageFromArray(np.ones((2, 2, 6), np.uint8))
    for origin, expected in (
        (-1000, [1, 1, 2, 41, 56, 57]),
        (None, [1, 1, 2, 41, 56, 57]),
        (-2000, [41, 41, 42, 81, 96, 97]),
        (-1010, [1, 2, 2, 41, 57, 57]),
    ):
        path = Path(write_parameters(tmp_path, "{binWidth: 25}"))
        path = path.rename(tmp_path / f"{origin}.yaml")
        if origin is not None:
            path.write_text(path.read_text() + f"ibsi: {{binOrigin: {origin}}}\n")
        path.write_text(path.read_text().replace("{Original: {}}", "{Original: {}, Square: {}}"))
        found = extract(image, {"all": mask}, str(path), names="pyradiomics")["all"]
        assert found["square_gldm_HighGrayLevelEmphasis"] < 2000  # filtered intensities have no such bound
        assert found["original_gldm_HighGrayLevelEmphasis"] == pytest.approx(np.mean(np.square(expected)))


def test_what_is_left_to_pyradiomics_is_said_with_its_share_of_the_time(picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, item in zip(("image", "tumor"), picture, strict=False):
        sitk.WriteImage(item, f"{name}.nii.gz")
    Path("t.csv").write_text("patient,region,image,mask\nP,tumor,image.nii.gz,tumor.nii.gz\n")
    for types, said in (("{Original: {}, Wavelet: {}}", False), ("{Original: {}, Gradient: {}}", True)):
        parameters = write_parameters(tmp_path, "{binWidth: 25}", types)
        load_parameters.cache_clear()
        assert main(["features", "t.csv", "--settings", parameters, "--out", "o.csv"]) == 0
        assert ("left to pyradiomics: Gradient" in capsys.readouterr().err) == said


def test_where_no_cache_can_be_written_every_process_compiles_for_itself(monkeypatch):
    def refuse(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(jit.tempfile, "TemporaryFile", refuse)
    assert jit._cache_folder() is None
    monkeypatch.setattr(jit, "FOLDER", None)

    @jit.kernel("int64(int64)")
    def twice(x):
        return 2 * x

    assert twice(21) == 42


def test_an_image_of_two_dimensions_is_left_to_pyradiomics(tmp_path):
    rng = np.random.default_rng(2)
    image = sitk.GetImageFromArray(gaussian_filter(rng.normal(0, 400, (40, 50)), 1).astype(np.float32))
    mask = np.zeros((40, 50), np.uint8)
    mask[8:30, 10:40] = 1
    mask = sitk.GetImageFromArray(mask)
    parameters = write_parameters(tmp_path, "{binWidth: 25}", "{Original: {}, Wavelet: {}}")
    clock = defaultdict(float)
    found = extract(image, {"roi": mask}, parameters, names="pyradiomics", clock=clock)["roi"]
    expected = RadiomicsFeatureExtractor(parameters, additionalInfo=False).execute(image, mask)
    assert found == pytest.approx({name: float(value) for name, value in expected.items()})
    assert "images of two dimensions" in left_to_pyradiomics(clock)
    assert extract(image, {"roi": mask}, parameters)["roi"]["original_cm_contrast_2_5D_avg"] > 0
    colored = sitk.Compose(image, image)
    assert "2 values a voxel" in str(extract(colored, {"roi": mask}, parameters)["roi"])


def test_slices_of_force2d_may_lie_along_any_axis(picture, tmp_path):
    """The same region, turned so that its slices lie along y or x, has the same features."""
    image, tumor, _ = (sitk.GetImageFromArray(sitk.GetArrayFromImage(item)) for item in picture)
    found = []
    for dimension in range(3):
        turned = []
        for item in (image, tumor):
            array = np.moveaxis(sitk.GetArrayFromImage(item), 0, dimension)
            turned.append(sitk.GetImageFromArray(np.ascontiguousarray(array)))
        setting = f"{{binWidth: 25, force2D: true, force2Ddimension: {dimension}}}"
        found.append(extract(turned[0], {"tumor": turned[1]}, write_parameters(tmp_path, setting))["tumor"])
        load_parameters.cache_clear()
    zones = [name for name in found[0] if "_dzm_" in name or "_szm_" in name]
    assert len(zones) == 32
    for other in found[1:]:
        assert [other[name] for name in zones] == pytest.approx([found[0][name] for name in zones])


def test_an_intensity_mask_lies_within_its_region(picture, tmp_path):
    image, tumor, border = picture
    parameters = write_parameters(tmp_path, "{binWidth: 25}")
    for inside in ({"tumor": sitk.Cast(border > 0, sitk.sitkUInt8)}, {}):
        found = extract(image, {"tumor": tumor}, parameters, intensity_masks=inside)["tumor"]
        assert isinstance(found, CaseError) and "intensity mask" in found.detail


def test_intensities_that_no_bins_can_hold_are_refused(tmp_path):
    mask = sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8))
    noise = np.random.default_rng(1).normal(size=(3, 4, 5))
    for values, width, message in (
        (noise, 1e-7, "too many gray levels"),
        (noise * 0 + 1e300, 25, "too large for the bins"),
    ):
        parameters = write_parameters(tmp_path, f"{{binWidth: {width:.10f}}}")
        load_parameters.cache_clear()
        found = extract(sitk.GetImageFromArray(values), {"all": mask}, parameters)["all"]
        assert isinstance(found, CaseError) and message in found.reason
