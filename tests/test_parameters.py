"""Parameter files: what is refused, with its place, and how far beyond a region features look."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from scipy.ndimage import gaussian_filter

from hccstudy.cli import main
from hccstudy.config import BASE, REPOSITORY, STUDIES, load_config, read_yaml
from hccstudy.engine.extract import extract
from hccstudy.errors import StudyError
from hccstudy.parameters import check_engine, check_parameters, filter_reach_mm, load_parameters

SERIES = {"spacing": [1, 1, 1], "resegment_range": None, "outer_mm": 10.0, "margin_mm": 45.0}


@pytest.fixture
def write(tmp_path):
    """A function that writes a parameter file of sections, as YAML, and returns its path."""
    number = count()

    def written(text: str) -> str:
        path = tmp_path / f"p{next(number)}.yaml"
        path.write_text(text)
        return str(path)

    return written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("setting: {resampledPixelSpacing: [1, 1]}", "setting.resampledPixelSpacing is [1, 1]; expected three numbers"),
        ("setting: {resampledPixelSpacing: [1, 1, .nan]}", "line 1: .nan, expected a finite decimal number"),
        ("setting: {resampledPixelSpacing: [1, 1, -1]}", "setting.resampledPixelSpacing"),
        (
            "setting: {resampledPixelSpacing: 2}",
            "does not accept setting.resampledPixelSpacing (Value '2' is not a list)",
        ),
        ("setting: {interpolator: sitkBspline}", "sitkBspline"),
        (
            "setting: {distances: []}",
            "setting.distances is []; expected one or more whole numbers of 1 or more, each once",
        ),
        ("setting: {distances: [1, 2, 1]}", "setting.distances is [1, 2, 1]"),
        ("setting: {distances: [0]}", "setting.distances"),
        ("imageType: {Original: {distances: [2, 2]}}", "imageType.Original.distances is [2, 2]"),
        ("setting: {binCount: 32}\nibsi: {binOrigin: 0}", "ibsi.binOrigin is 0; expected no binOrigin with"),
        ("setting: {binCount: 32, binWidth: 25}", "setting.binCount is 32; expected either binWidth or binCount"),
        ("setting: {binCount: 9}\nimageType: {LoG: {sigma: [1], binWidth: 2}}", "imageType.LoG.binWidth is 2"),
        ("imageType: {LoG: {}}", "imageType.LoG is without sigma; expected sigma: [mm, ...]"),
        ("imageType: {LoG: {sigma: []}}", "imageType.LoG is without sigma"),
        ("featureClass: {shape2D: }", "featureClass.shape2D is without setting.force2D; expected force2D: true"),
        ("setting: {label: 0}", "does not accept setting.label (found '0'"),
        ("setting: {resegmentRange: []}", "setting.resegmentRange is []; expected one or two numbers"),
        ("setting: {resegmentRange: [1, 2, 3]}", "setting.resegmentRange is [1, 2, 3]"),
        ("setting: {binwidth: 25}", "unknown name 'binwidth' in setting; expected binWidth (did you mean it?)"),
        ("imageType: {Log: {}}", "unknown name 'Log' in imageType; expected LoG (did you mean it?)"),
        ("imageType: {LoG: {sigmas: [1]}}", "unknown name 'sigmas' in imageType.LoG; expected sigma"),
        (
            "imageType: {Wavelet: {wavelet: coif99}}",
            "unknown name 'coif99' in imageType.Wavelet.wavelet; expected coif9",
        ),
        ("imageType: {Original: }", "does not accept imageType.Original (Value 'None' is not a dict)"),
        ("featureClass: {glcms: }", "unknown name 'glcms' in featureClass; expected glcm"),
        ("featureClass: {glcm: [Kontrast]}", "unknown name 'Kontrast' in featureClass.glcm; expected Contrast"),
        ("ibsi: [1]", "section ibsi has a value: [1]"),
        ("setting: [", "not readable (while parsing"),
    ],
)
def test_what_pyradiomics_refuses_or_passes_over_is_said_once_with_file_and_key(write, capfd, text, message):
    path = write(text)
    with pytest.raises(StudyError) as error:
        load_parameters(path)
    (line,) = str(error.value).splitlines()[1:]
    assert line.startswith(f"  - {path}: ") and message in line
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text",
    [
        "setting: {resampledPixelSpacing: null, interpolator: 3, resegmentRange: [0], distances: [1, 3]}",
        "setting: {resampledPixelSpacing: [1, 1, 0], interpolator: sitkLinear}",
        "setting: {sigma: [2]}\nimageType: {LoG: {}}",
        "setting: {binWidth: 25}\nimageType: {Original: {}, Wavelet: {binCount: 32}}",  # the nearer one wins, as asked
        "setting: {force2D: true}\nfeatureClass: {shape2D: }",
        "setting: {}",  # all classes, of which shape2D is one
    ],
)
def test_what_pyradiomics_does_as_asked_passes(write, text):
    assert load_parameters(write(text)).settings["label"] == 1


def test_all_problems_of_a_file_are_said_at_once(write):
    with pytest.raises(StudyError, match="3 problems"):
        load_parameters(write("setting: {distances: [], resegmentRange: []}\nimageType: {LoG: {}}"))
    with pytest.raises(StudyError, match="2 problems"):
        load_parameters(write("setting: {binWidth: x, label: 0}"))


# --- reach --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spacing", "mm"),
    [
        ("imageType: {Original: {}}\nfeatureClass: {glcm: }", (1, 1, 1), 0),
        ("imageType: {Original: {}}\nfeatureClass: {firstorder: }", (1, 1, 1), 6.2035),  # sphere of 1 cm3
        ("imageType: {LoG: {sigma: [1, 4, 2]}}", (1, 1, 1), 28),
        ("setting: {sigma: [3]}\nimageType: {LoG: {}}", (1, 1, 1), 21),
        ("imageType: {Wavelet: {}}", (2, 2, 5), 15),  # coif1 has 6 taps
        ("imageType: {Wavelet: {wavelet: db2, start_level: 1, level: 2}}", (2, 2, 5), 30),
        ("imageType: {Gradient: {}}\nfeatureClass: {glcm: }", (1, 1, 4), 4),
        ("imageType: {LBP2D: {lbp2DRadius: 1.5}}\nfeatureClass: {glcm: }", (1, 1, 4), 8),
        ("imageType: {Wavelet: {}, LoG: {sigma: [1]}}", (1, 1, 1), 7),
    ],
)
def test_reach_follows_from_the_filters(write, text, spacing, mm):
    assert filter_reach_mm(write(text), spacing) == pytest.approx(mm, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "largest"),
    [
        ("imageType: {LoG: {sigma: [1.5]}}", 1e-4),
        ("imageType: {Wavelet: {}}", 1e-12),
        ("imageType: {Wavelet: {wavelet: db2, level: 2}}", 1e-12),
        ("imageType: {Gradient: {}}", 1e-12),
        ("setting: {force2D: true}\nimageType: {LBP2D: {lbp2DRadius: 2}}", 1e-12),
        ("imageType: {LBP3D: {}}", 1e-4),
    ],
)
def test_a_cut_at_the_reach_changes_no_feature_and_a_nearer_one_does(write, text, largest):
    """Texture between air and bone, cut at the reach around a ball, against the same in the whole image."""
    n, radius = 54, 4
    rng = np.random.default_rng(2)
    values, far = (gaussian_filter(rng.normal(size=(n, n, n)), width) for width in (1, 5))
    values, far = 60 + 25 * values / values.std(), far / far.std()
    values = np.where(far > 1.2, 400, np.where(far < -1.2, -200, values)).round().astype(np.int16)
    place = np.indices(values.shape) - n // 2
    ball = ((place**2).sum(axis=0) <= radius**2).astype(np.uint8)
    statistics = "[Mean, Median, 10Percentile, 90Percentile, Minimum, Maximum, MeanAbsoluteDeviation]"
    path = write(f"{text}\nfeatureClass: {{firstorder: {statistics}}}")

    def measured(margin: int) -> np.ndarray:
        box = (slice(n // 2 - radius - margin, n // 2 + radius + 1 + margin),) * 3
        image, mask = (sitk.GetImageFromArray(np.ascontiguousarray(part[box])) for part in (values, ball))
        return extract(image, {"t": mask}, path, intensity_masks={"t": mask}, names="pyradiomics")["t"]

    def change(margin: int) -> float:
        """The largest change of a statistic of an image, in its mean absolute deviations."""
        whole, cut = measured(n // 2 - radius - 1), measured(margin)
        spread = {name.split("_")[0]: value for name, value in whole.items() if name.endswith("Deviation")}
        assert all(spread.values())
        return max(abs(cut[name] - value) / spread[name.split("_")[0]] for name, value in whole.items())

    # peaks of local intensity (6.2 mm) are no part of these features: the reach of the filter alone
    reach = int(np.ceil(filter_reach_mm(write(f"{text}\nfeatureClass: {{glcm: }}"), (1, 1, 1))))
    assert change(reach) <= largest
    assert change(reach // 2) > 3 * largest


# --- in a study ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("setting: {label: 2}", "label is 2; expected 1"),
        ("setting: {resegmentShape: true}", "sets resegmentShape; expected none of this in a study"),
        ("setting: {resampledPixelSpacing: [1, 1, 1]}", "sets resampledPixelSpacing"),
        ("ibsi: {resegmentSigma: 3}", "sets resegmentSigma"),
        ("imageType: {LoG: {sigma: [6]}}", "preprocess.margin_mm is 45; expected 52 or more"),
        (
            "imageType: {Wavelet: {level: 12}}",
            "preprocess.margin_mm is 45; expected 46 or more: the widest ring (10 mm)",
        ),
    ],
)
def test_in_a_study_the_file_leaves_preparation_to_the_study(write, text, message):
    (problem,) = check_parameters(write(text), "ibsi", "fast", **SERIES)
    assert message in str(problem)


def test_bins_start_where_the_range_of_the_series_does(write):
    path = write("setting: {binWidth: 25}\nibsi: {binOrigin: -100}")
    ranged = SERIES | {"resegment_range": [-100, 400]}
    assert not len(check_parameters(path, "ibsi", "fast", **ranged))
    assert not len(check_parameters(path, "ibsi", "fast", **SERIES))
    (problem,) = check_parameters(path, "ibsi", "fast", **SERIES | {"resegment_range": [-150, 400]})
    assert "ibsi.binOrigin is -100; expected -150, the lower bound of resegment_range" in str(problem)


def test_in_parity_the_file_prepares_and_nothing_of_ibsi_does(write):
    text = "setting: {resampledPixelSpacing: [1, 1, 1], resegmentRange: [0, 9], resegmentShape: true, label: 2}\n"
    wide = "imageType: {LoG: {sigma: [9]}}\n"  # the whole image is kept: no margin
    assert not len(check_parameters(write(text + wide + "ibsi: {binOrigin: 0}"), "parity", "fast", **SERIES))
    path = write(text + "ibsi: {roundIntensities: true, resegmentSigma: 3}")
    said = [str(problem) for problem in check_parameters(path, "parity", "fast", **SERIES)]
    assert len(said) == 2 and "section ibsi sets resegmentSigma; expected none of it with features.mode" in said[1]


def test_in_parity_a_file_without_anything_to_measure_is_refused(write):
    for text in ("featureClass: {shape2D: }", "imageType: {LoG: {}}"):
        assert len(check_parameters(write(text), "parity", "fast", **SERIES)) == 1


@pytest.mark.parametrize("text", ["imageType: {LBP3D: {}}", "ibsi: {binOrigin: 0}"])
@pytest.mark.parametrize("mode", ["ibsi", "parity"])
def test_what_pyradiomics_itself_cannot_is_said_before_it_runs(write, text, mode):
    path = write(text)
    check_engine(path, "fast")
    with pytest.raises(StudyError, match=r"with engine pyradiomics.*expected engine fast"):
        check_engine(path, "pyradiomics")
    (problem,) = check_parameters(path, mode, "pyradiomics", **SERIES)
    assert "expected engine fast" in str(problem)
    assert not len(check_parameters(path, mode, "fast", **SERIES))


def test_the_demo_and_all_ready_made_studies_keep_the_margin_that_their_filters_need():
    template = REPOSITORY / "resources" / "template" / "config.yaml"
    for file in (BASE, template, *STUDIES.glob("*.yaml")):
        config = load_config(read_yaml(file))
        outer = max(outer for _, outer in config["regions"]["rings"].values())
        for rules in config["series"].values():
            series = {"spacing": rules["spacing"], "resegment_range": rules["resegment_range"], "outer_mm": outer}
            arguments = series | {"margin_mm": config["preprocess"]["margin_mm"]}
            path = str(REPOSITORY / rules["parameters"])
            assert not len(check_parameters(path, "ibsi", config["features"]["engine"], **arguments)), file


def test_check_lists_problems_of_parameter_files_with_all_others(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "study"
    main(["init", str(folder)])
    text = (folder / "patients.tsv").read_text().replace("\t70\t", "\t700\t")
    (folder / "patients.tsv").write_text(text)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["series"]["late"] = config["series"]["portal"] | {"required": False}  # the same file twice: said once
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    file = Path(folder / config["series"]["portal"]["parameters"])
    file.write_text(file.read_text().replace("label: 1", "label: 1\n  distances: [1, 1]\n  resegmentRange: []"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["check", "study"]) == 1
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("  - ")]
    assert "3 problems:" in said and len(lines) == 3
    assert "setting.distances is [1, 1]" in lines[0] and "age is '700'" in lines[2]
