"""Regions held against brute force and analytic volumes, perturbations against their distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from hccstudy import regions
from hccstudy.errors import CaseError, StudyError
from hccstudy.tables import file_digest, read_table, write_table

RINGS = {"ring_0_3": (0, 3), "ring_0_10": (0, 10), "ring_10_20": (10, 20)}
GRIDS = [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8)]


def ball(radius, spacing, room, center=(0.0, 0.0, 0.0)):
    """Label map of a spherical tumor in the middle of a cube with `room` mm around it."""
    axes = [np.arange(-np.ceil((radius + room) / s), np.ceil((radius + room) / s) + 1) * s for s in spacing]
    squared = sum((axis - c) ** 2 for axis, c in zip(np.meshgrid(*axes, indexing="ij"), center, strict=True))
    return (squared <= radius**2).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# --- rings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [*GRIDS, (float(np.float32(0.3)), 0.7, 2.5)])
def test_rings_equal_brute_force_distances(spacing):
    rng = np.random.default_rng(1)
    labels = np.zeros((9, 14, 15), np.uint8)
    labels[3:5, 5:8, 6:9] = rng.random((2, 3, 3)) < 0.6
    labels[4, 6, 7] = 1
    points = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), -1) * np.array(spacing)
    tumor = points[labels == 1]
    distance = np.sqrt(((points[..., None, :] - tumor) ** 2).sum(-1)).min(-1)
    rings = {"a": (0, 3), "b": (3, 6), "c": (1.5, 4.5)}
    found = regions.make_regions(labels, spacing, rings)
    for name, (inner, outer) in rings.items():
        expected = (distance > inner + 1e-5) & (distance <= outer + 1e-5)
        assert np.array_equal(found[name][0], expected), name
        assert expected.any()
    assert np.array_equal(found["tumor"][0], labels == 1)


def test_distance_that_equals_the_outer_radius_belongs_to_the_ring_despite_float32_spacing():
    labels = np.zeros((1, 1, 30), np.uint8)
    labels[..., 0] = 1
    ring, _ = regions.make_regions(labels, (1, 1, float(np.float32(0.3))), {"a": (0, 3), "b": (3, 6)})["a"]
    assert np.flatnonzero(ring).tolist() == list(range(1, 11))


@pytest.mark.parametrize(
    ("spacing", "name", "tolerance"),
    [
        # center-to-center distances start up to a voxel inside the surface, so rings come out a little thin
        ((1.0, 1.0, 1.0), "ring_0_10", 0.03),
        ((1.0, 1.0, 1.0), "ring_10_20", 0.02),
        ((5.0, 0.8, 0.8), "ring_10_20", 0.02),
    ],
)
def test_ring_of_a_sphere_has_the_volume_of_a_spherical_shell(spacing, name, tolerance):
    inner, outer = RINGS[name]
    mask, clipped = regions.make_regions(ball(25, spacing, 22), spacing, RINGS)[name]
    shell = 4 / 3 * np.pi * ((25 + outer) ** 3 - (25 + inner) ** 3)
    assert mask.sum() * np.prod(spacing) == pytest.approx(shell, rel=tolerance)
    assert clipped == 0


def test_rings_are_disjoint_from_the_tumor_and_from_each_other():
    found = regions.make_regions(ball(8, GRIDS[1], 25), GRIDS[1], {"a": (0, 10), "b": (10, 20)})
    total = sum(mask.astype(int) for mask, _ in found.values())
    assert total.max() == 1


@pytest.mark.parametrize("spacing", GRIDS)
def test_half_of_a_ring_is_clipped_at_a_liver_that_ends_in_the_tumor(spacing):
    labels = ball(15, spacing, 15)
    middle = labels.shape[2] // 2
    liver = np.zeros(labels.shape, bool)
    liver[:, :, :middle] = True
    labels[liver & (labels == 0)] = 2
    ring, clipped = regions.make_regions(labels, spacing, {"r": (0, 10)})["r"]
    plane = (regions.make_regions(ball(15, spacing, 15), spacing, {"r": (0, 10)})["r"][0])[:, :, middle].sum()
    whole = ring.sum() / (1 - clipped)
    assert clipped == pytest.approx((whole + plane) / 2 / whole)
    assert not ring[~liver].any()


def test_other_lesions_are_left_out_and_counted_as_clipped():
    labels = ball(5, (1, 1, 1), 12)
    free, _ = regions.make_regions(labels, (1, 1, 1), {"r": (0, 6)})["r"]
    lesion = np.zeros(labels.shape, bool)
    lesion[:, :, -14:-9] = True
    labels[lesion & (labels == 0)] = 3
    ring, clipped = regions.make_regions(labels, (1, 1, 1), {"r": (0, 6)})["r"]
    assert np.array_equal(ring, free & ~lesion)
    assert clipped == pytest.approx((free & lesion).sum() / free.sum())
    assert clipped > 0


def test_ring_beyond_the_edge_of_the_image_counts_as_clipped():
    labels = ball(6, (2, 1, 1), 12)
    free, _ = regions.make_regions(labels, (2, 1, 1), {"r": (0, 9)})["r"]
    cut = labels[:, 12:]
    ring, clipped = regions.make_regions(cut, (2, 1, 1), {"r": (0, 9)})["r"]
    assert np.array_equal(ring, free[:, 12:])
    assert clipped == pytest.approx(free[:, :12].sum() / free.sum())
    assert clipped > 0.05


def test_label_map_without_tumor_is_refused():
    with pytest.raises(CaseError, match="empty mask"):
        regions.make_regions(np.full((3, 3, 3), 2, np.uint8), (1, 1, 1), RINGS)


# --- re-segmentation ----------------------------------------------------------------------------------------


def test_range_is_closed_and_sigma_uses_the_population_sd_of_the_whole_region():
    image = np.array([0.0, 0.0, 0.0, 0.0, 10.0, 500.0])
    mask = np.array([1, 1, 1, 1, 1, 0], bool)
    assert regions.resegment(image, mask, (0, 10), None).tolist() == mask.tolist()
    assert regions.resegment(image, mask, (0.5, 10), None).tolist() == [False] * 4 + [True, False]
    # mean 2 and population SD 4: 10 lies exactly 2 SD away (1.79 by the sample SD)
    assert regions.resegment(image, mask, None, 2.0)[4]
    assert not regions.resegment(image, mask, None, 1.9)[4]
    assert regions.resegment(image, mask, None, None).tolist() == mask.tolist()
    # the range does not change what counts as an outlier: both look at the whole region, where 400 hides 10
    image = np.array([0.0, 0.0, 0.0, 0.0, 10.0, 400.0])
    both = regions.resegment(image, np.ones(6, bool), (-1, 100), 1.9)
    assert both.tolist() == [True] * 5 + [False]


# --- perturbations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", regions.PERTURBATIONS)
@pytest.mark.parametrize("spacing", GRIDS)
def test_perturbed_masks_resemble_the_mask_as_two_readers_do(spacing, kind):
    mask = ball(15, spacing, 8) == 1
    drawn = [regions.perturb_mask(mask, spacing, np.random.default_rng(seed), kind) for seed in range(40)]
    overlap = np.array([dice(mask, other) for other in drawn])
    change = np.array([other.sum() / mask.sum() - 1 for other in drawn])
    # inter-reader Dice of HCC is about 0.8 to 0.95
    assert overlap.min() > 0.75
    assert 0.85 < overlap.mean() < 0.99
    # centered near 0: within a tenth of the volume; a wavering convex surface gains by 3 (SD / radius) ** 2
    assert abs(change.mean()) < 0.05
    expected = {"translation": 0.0, "growth": 3 / 15 / np.sqrt(3)}
    if kind in expected:
        assert change.std() == pytest.approx(expected[kind], abs=0.035)
    else:
        assert 0.02 < change.std() < 0.2


def test_small_tumor_is_perturbed_less_and_never_lost():
    mask = np.zeros((12, 12, 12), bool)
    mask[5:8, 5:8, 5:8] = True
    drawn = [regions.perturb_mask(mask, (1, 1, 1), np.random.default_rng(seed), "combined") for seed in range(80)]
    overlap = np.array([dice(mask, other) for other in drawn])
    assert all(other.any() for other in drawn)
    assert 0.7 < overlap.mean() < 0.98
    single = np.zeros((5, 5, 5), bool)
    single[0, 4, 2] = True
    for seed, kind in itertools.product(range(40), regions.PERTURBATIONS):
        assert regions.perturb_mask(single, (5, 0.7, 0.7), np.random.default_rng(seed), kind).any()


def test_translation_moves_the_centroid_by_up_to_a_voxel_of_the_finest_axis():
    mask = ball(12, (1, 1, 1), 6) == 1
    moves = []
    for seed in range(40):
        other = regions.perturb_mask(mask, (1, 1, 1), np.random.default_rng(seed), "translation")
        moves.append(np.argwhere(other).mean(0) - np.argwhere(mask).mean(0))
        # the first draw of the generator is the shift
        assert moves[-1] == pytest.approx(np.random.default_rng(seed).uniform(-1, 1, 3), abs=0.15)
    assert np.abs(moves).max() > 0.8


def test_random_contour_field_has_the_stated_sd_and_correlation():
    spacing = np.array([2.0, 1.0, 1.0])
    fields = np.stack([regions._smooth_field((32, 64, 64), spacing, np.random.default_rng(s)) for s in range(20)])
    assert fields.mean() == pytest.approx(0, abs=0.05)
    assert fields.std() == pytest.approx(1, abs=0.05)
    # 5 mm: exp(-1/2), along x and, by interpolation between 4 and 6 mm, along the thick axis
    x = (fields[..., 5:] * fields[..., :-5]).mean()
    z = np.mean([(fields[:, k:] * fields[:, :-k]).mean() for k in (2, 3)])
    assert x == pytest.approx(np.exp(-0.5), abs=0.05)
    assert z == pytest.approx(np.mean(np.exp([-16 / 50, -36 / 50])), abs=0.05)


def test_unknown_perturbation_is_refused_with_the_valid_names():
    with pytest.raises(StudyError, match="translation, growth, contour, combined"):
        regions.perturb_mask(np.ones((2, 2, 2), bool), (1, 1, 1), np.random.default_rng(0), "rotate")


def test_perturbed_labels_follow_the_seed_and_leave_no_hole_in_the_liver():
    labels = np.full((30, 40, 40), 2, np.uint8)
    labels[:, :, :4] = 0
    labels[ball(8, (1, 1, 1), 0).nonzero()[0] + 5, 20, 20] = 1
    labels[7:22, 12:28, 12:28] = 1
    labels[10:18, 30:35, 12:20] = 3
    first = regions.perturb_labels(labels, (1, 1, 1), 7)
    assert first.tobytes() == regions.perturb_labels(labels, (1, 1, 1), 7).tobytes()
    assert first.tobytes() != regions.perturb_labels(labels, (1, 1, 1), 8).tobytes()
    for seed in range(10):
        other = regions.perturb_labels(labels, (1, 1, 1), [3, seed])
        assert np.array_equal(other > 0, labels > 0)  # the organ stays
        assert np.array_equal(other == 3, labels == 3)
        assert 0.7 < dice(other == 1, labels == 1) < 1


def test_withdrawing_tumor_leaves_background_where_it_did_not_touch_the_liver():
    labels = ball(8, (1, 1, 1), 4)
    middle = labels.shape[2] // 2
    half = np.broadcast_to(np.arange(labels.shape[2]) < middle, labels.shape)
    labels[(labels == 0) & half] = 2
    both = np.zeros(2, int)
    for seed in range(20):
        other = regions.perturb_labels(labels, (1, 1, 1), seed)
        left = (labels == 1) & (other != 1)
        deep = np.abs(np.arange(labels.shape[2]) - middle) > 5
        inside, outside = left & half & deep, left & ~half & deep
        assert (other[inside] == 2).all() and (other[outside] == 0).all()
        both += inside.sum(), outside.sum()
    assert (both > 0).all()
    unknown = np.where(labels == 2, 0, labels).astype(np.uint8)
    assert set(np.unique(regions.perturb_labels(unknown, (1, 1, 1), 1))) == {0, 1}


# --- batch --------------------------------------------------------------------------------------------------


def a_row(folder, patient, labels, image, reader=""):
    row = {"patient": patient, "center": "A", "series": "art", "timepoint": "baseline", "modality": "CT"}
    row["reader"] = reader
    for name, array in (("image", image), ("mask", labels)):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((0.9, 0.8, 2.0))
        path = folder / f"{patient}{reader}_{name}.nii.gz"
        sitk.WriteImage(written, path)
        row |= {name: str(path), f"{name}_sha256": file_digest(path)}
    return row


def run(folder, rows, resegment=None, minimum=27):
    write_table(pd.DataFrame(rows), folder / "preprocess.tsv")
    regions.make_regions_batch(
        cases=str(folder / "preprocess.tsv"),
        settings={
            "rings": {"ring_0_5": [0, 5]},
            "minimum_voxels": minimum,
            "resegment": {"art": resegment or {"range": None, "sigma": None}},
        },
        folder=str(folder / "out"),
        table=str(folder / "out.tsv"),
        ledger=str(folder / "ledger.tsv"),
    )
    ledger = pd.read_csv(folder / "ledger.tsv", sep="\t", keep_default_na=False).set_index("patient")
    return read_table(folder / "out.tsv", regions.COLUMNS), ledger


def block(*bounds, shape=(14, 30, 30)):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in bounds)] = 1
    return labels


def test_batch_writes_a_row_per_reader_and_region_with_re_segmented_masks(tmp_path):
    image = np.random.default_rng(2).integers(0, 100, (14, 30, 30)).astype(np.int16)
    rows = [
        a_row(tmp_path, "P1", block((4, 9), (10, 18), (10, 18)), image, "a"),
        a_row(tmp_path, "P1", block((4, 9), (11, 18), (10, 19)), image, "b"),
    ]
    table, ledger = run(tmp_path, rows, {"range": [0, 60], "sigma": 3})
    assert ledger.loc["P1", "status"] == "included"
    assert list(zip(table["reader"], table["region"], strict=True)) == list(
        itertools.product("ab", ["tumor", "ring_0_5"])
    )
    for row in table.to_dict("records"):
        arrays = []
        for kind in ("mask", "intensity_mask"):
            mask = sitk.ReadImage(row[kind])
            arrays.append(sitk.GetArrayFromImage(mask) == 1)
            assert file_digest(row[kind]) == row[f"{kind}_sha256"]
            assert mask.GetSpacing() == pytest.approx((0.9, 0.8, 2.0))
        morphological, intensity = arrays
        assert intensity.sum() == row["voxels"]
        assert row["volume_mm3"] == pytest.approx(morphological.sum() * 0.9 * 0.8 * 2.0)
        assert np.array_equal(intensity, morphological & (image <= 60))
        assert intensity.sum() < morphological.sum()
        assert row["image"] == rows["ab".index(row["reader"])]["image"]
    tumor = sitk.GetArrayFromImage(sitk.ReadImage(table["mask"].iloc[0])) == 1
    assert np.array_equal(tumor, block((4, 9), (10, 18), (10, 18)) == 1)


def test_batch_says_why_patients_do_not_go_on(tmp_path):
    image = np.zeros((14, 30, 30), np.int16)
    image[:, :, 15:] = 500
    enclosed = block((4, 9), (10, 18), (2, 10))
    enclosed[(enclosed == 0)] = 3
    rows = [
        a_row(tmp_path, "small", block((4, 6), (10, 13), (2, 5)), image),
        a_row(tmp_path, "enclosed", enclosed, image),
        a_row(tmp_path, "dense", block((4, 9), (10, 18), (20, 28)), image),
        a_row(tmp_path, "good", block((4, 9), (10, 18), (2, 9)), image),
    ]
    table, ledger = run(tmp_path, rows, {"range": [-100, 200], "sigma": None})
    assert table["patient"].unique().tolist() == ["good"]
    assert ledger["status"].to_dict() == {
        "small": "excluded",
        "enclosed": "failed",
        "dense": "failed",
        "good": "included",
    }
    assert ledger.loc["small", "reason"] == "tumor smaller than the minimum"
    assert "18 voxels; expected at least 27" in ledger.loc["small", "detail"]
    assert ledger.loc["enclosed", "reason"] == "ring empty after clipping"
    assert "100% clipped" in ledger.loc["enclosed", "detail"]
    assert ledger.loc["dense", "reason"] == "region lost by re-segmentation"
    assert "0 of 320 voxels" in ledger.loc["dense", "detail"]


def test_batch_writes_the_same_bytes_in_another_folder(tmp_path):
    image = np.random.default_rng(3).integers(0, 100, (14, 30, 30)).astype(np.int16)
    row = a_row(tmp_path, "P1", block((4, 9), (10, 18), (10, 18)), image)
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        digests.append(run(tmp_path / name, [row])[0]["mask_sha256"].tolist())
    assert digests[0] == digests[1]
