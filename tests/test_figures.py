"""The figures: complete, legible, deterministic, and true to their tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import report_tables as made
from hccstudy import catalog, figures
from hccstudy.errors import StudyError
from hccstudy.figures import cohort, evaluated, features, models, performance, stages, style
from hccstudy.tables import read_table, write_table


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study") / "results"
    made.write_study(root)
    return root


@pytest.fixture(scope="module")
def drawn(results) -> dict[str, Figure]:
    """Every figure of the study by name, laid out but not written."""
    shown: dict[str, Figure] = {}

    def keep(figure: Figure, folder: str, name: str) -> None:
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        shown[name] = figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "save", keep)
        figures.draw_study(**made.study_inputs(results), settings=made.SETTINGS, folder="")
        for endpoint in made.SETTINGS["endpoints"]:
            inputs = made.endpoint_inputs(results, endpoint)
            figures.draw_endpoint(endpoint=endpoint, **inputs, settings=made.SETTINGS, folder="")
    return shown


def texts(figure: Figure) -> list:
    """Every text that is really drawn: not those of hidden axes, nor the ticks outside the view."""
    found = figure.findobj(Text)
    hidden = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-6 * (high - low)
        if not axis.axes.axison:
            hidden |= set(axis.findobj())
        for tick in axis.get_major_ticks():
            if not low - slack <= tick.get_loc() <= high + slack:
                hidden |= set(tick.findobj())
    shown = dict.fromkeys(text for text in found if text not in hidden and text.get_visible())
    return [text for text in shown if text.get_text().strip()]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def metric(results: Path, endpoint: str, model: str, **chosen) -> pd.Series:
    table = read_table(results / f"validation/{endpoint}/{model}/metrics.tsv")
    for column, value in chosen.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_exactly_the_declared_figures_are_drawn(drawn):
    names = catalog.figure_names(made.SETTINGS["endpoints"], made.SETTINGS["models"])
    assert sorted(drawn) == sorted(name for of in names.values() for name in of)
    assert set(names) == {"study", "os", "mvi", "mrecist"}
    assert "os_kaplan_meier_forest" in names["os"]
    assert "forest" not in words(drawn["mrecist_discrimination"])  # not fitted for this endpoint
    assert not any("kaplan_meier" in name for name in names["mvi"] + names["mrecist"])


def test_an_unknown_endpoint_type_is_refused_with_the_valid_ones():
    with pytest.raises(StudyError, match=r"'count'.*survival, binary, multiclass"):
        catalog.figure_names({"x": {"type": "count"}}, {"clinical": {"endpoints": ["x"]}})


def test_figures_are_one_or_two_columns_wide_and_at_most_a_page_high(drawn):
    for name, figure in drawn.items():
        width, height = figure.get_size_inches() * 25.4
        assert round(width) in {85, 175}, name
        assert height <= 260, f"{name} is {height:.0f} mm high"


def test_no_text_overlaps_another_or_leaves_the_figure(drawn):
    for name, figure in drawn.items():
        renderer = figure.canvas.get_renderer()
        frame = figure.bbox
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts(figure)]
        for place, (said, box) in enumerate(boxes):
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1
            assert inside, f"{name}: {said!r} leaves the figure"
            for other, at in boxes[place + 1 :]:
                across = min(box.x1, at.x1) - max(box.x0, at.x0)
                down = min(box.y1, at.y1) - max(box.y0, at.y0)
                assert across <= 1.5 or down <= 1.5, f"{name}: {said!r} overlaps {other!r}"


def test_files_are_deterministic_dateless_and_with_embedded_fonts(results, tmp_path):
    figures.draw_study(**made.study_inputs(results), settings=made.SETTINGS, folder=str(tmp_path / "a"))
    with style.styled():
        stages._draw_stability(read_table(made.study_inputs(results)["icc"]), 0.75, str(tmp_path / "b"))
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert written == sorted(f"{name}.{ending}" for name in catalog.STUDY for ending in ("pdf", "png", "svg"))
    for name in ("stability.pdf", "stability.png", "stability.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    pdf = (tmp_path / "a/stability.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert "<dc:date>" not in (tmp_path / "a/stability.svg").read_text()
    with Image.open(tmp_path / "a/stability.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(175 / 25.4 * 300, abs=1)


def test_a_model_has_one_color_wherever_it_appears(drawn):
    known = style.looks(made.SETTINGS["models"])
    assert len({look.color for look in known.values()}) == len(known)
    for name in (
        "os_discrimination",
        "os_decision",
        "os_calibration_forest",
        "mvi_roc",
        "os_time_dependent_auc",
    ):
        used = {line.get_color() for line in drawn[name].findobj(lambda artist: hasattr(artist, "get_drawstyle"))}
        assert known["forest"].color in used, name
    bars = [ax for ax in drawn["os_coefficients"].axes if ax.get_title(loc="left").startswith("combined")]
    assert {style.mpl.colors.to_hex(bar.get_facecolor()).upper() for bar in bars[0].patches} == {
        known["combined"].color
    }


def test_looks_stay_distinct_beyond_the_palette():
    many = style.looks([f"m{k}" for k in range(16)])
    assert len({(look.color, look.marker) for look in many.values()}) == 16


def test_flow_boxes_state_the_ledger_and_do_not_overlap(results, drawn):
    said = words(drawn["flow"])
    assert "n = 120" in said and "Features extracted: n = 114" in said
    for _, _, reason, _, _ in made.LOST:
        assert f"{reason}: 1" in said
    assert "Development: n = 68" in said and "External: n = 46" in said
    many = pd.DataFrame(
        [("cohort", "in", "", 5000), ("cohort", "included", "", 4000)]
        + [("cohort", "excluded", f"a rather long reason with the number {k} that has to wrap", 125) for k in range(8)]
        + [(stage, status, "", 4000) for stage in cohort.STAGES[1:] for status in ("in", "included")],
        columns=["stage", "status", "reason", "patients"],
    )
    plan = cohort.layout_flow(many, {"Development": {f"Center {k}": 100 for k in range(20)}, "External": {}})
    assert plan.height >= max(box.bottom for box in plan.boxes)
    for place, box in enumerate(plan.boxes):
        for other in plan.boxes[place + 1 :]:
            apart = box.right <= other.left or other.right <= box.left
            assert apart or box.bottom <= other.top or other.bottom <= box.top


def test_discrimination_states_estimates_intervals_and_numbers_of_every_set(results, drawn):
    said = words(drawn["os_discrimination"])
    for center, evaluation in (
        ("pooled", "cross-validated"),
        ("pooled", "external"),
        ("Dunmoor", "external"),
    ):
        row = metric(
            results,
            "os",
            "combined",
            metric="uno_c",
            center=center,
            evaluation=evaluation,
            harmonization="none",
        )
        assert f"{row['estimate']:.2f} ({row['lower']:.2f} to {row['upper']:.2f})" in said
        assert f"n = {row['n']}, {row['events']:.0f} events" in said
    assert "not estimated" in said  # boosting in Eastlyn was refused


def test_harmonized_external_results_do_not_enter_the_primary_figures(results):
    table = evaluated.stack(made.endpoint_inputs(results, "os")["metrics"], stages.METRICS)
    assert (table["harmonization"] == "center-calibrated").any()
    assert not (evaluated.primary(table)["harmonization"] == "center-calibrated").any()
    assert evaluated.counts(evaluated.pooled(table[table["metric"] == "harrell_c"], "external")) == "n = 46, 28 events"


def test_numbers_at_risk_are_the_patients_whose_time_reaches_the_tick():
    rng = np.random.default_rng(4)
    time, event = rng.integers(1, 40, 60).astype(float), rng.integers(0, 2, 60)
    curves = made.kaplan_meier(time, event).assign(group="low")
    ax = Figure().subplots()
    ticks = [0, 6, 12, 24, 39, 41]
    models.numbers_at_risk(ax, curves, ticks, "Time")
    assert [int(text.get_text()) for text in ax.texts] == [(time >= tick).sum() for tick in ticks]


def test_kaplan_meier_curve_is_the_table_and_starts_at_one():
    table = pd.DataFrame({"group": "high", "time": [2.0, 5.0], "survival": [0.8, 0.4], "lower": 0.1, "upper": 0.9})
    ax = Figure().subplots()
    models.kaplan_meier(ax, table, [0, 5])
    (line,) = ax.lines
    assert line.get_drawstyle() == "steps-post"
    assert line.get_xydata().tolist() == [[0, 1], [2, 0.8], [5, 0.4]]


@pytest.mark.parametrize(
    ("longest", "unit", "expected"),
    [
        (66, "months", [0, 12, 24, 36, 48, 60]),
        (20, "months", [0, 3, 6, 9, 12, 15, 18]),
        (9, "years", [0, 2, 4, 6, 8]),
    ],
)
def test_time_ticks_are_round(longest, unit, expected):
    assert models.time_ticks(longest, unit).tolist() == expected
    assert len(models.time_ticks(4321, "days")) <= 8


def test_decision_curves_stay_within_the_thresholds_of_the_table(results, drawn):
    thresholds = made.SETTINGS["validation"]["thresholds"]
    for ax in drawn["mvi_decision"].axes:
        assert ax.get_xlim() == pytest.approx((100 * thresholds[0], 100 * thresholds[-1]))
        none = [line for line in ax.lines if line.get_color() == "black"]
        assert np.all(none[0].get_ydata() == 0)


def test_only_single_models_show_bands_and_groups(drawn):
    together, alone = drawn["mvi_calibration"].axes[0], drawn["mvi_calibration_radiomics"].axes[0]
    assert not together.collections and not together.containers
    assert alone.collections and len(alone.containers[0].lines[0].get_xdata()) == 5
    assert re.search(r"O/E \d\.\d\d \(", words(drawn["mvi_calibration_radiomics"]))


def test_confusion_counts_and_shares_add_up():
    cells = pd.DataFrame({"observed": ["A", "A", "B"], "predicted": ["A", "B", "B"], "n": [3, 1, 5]})
    ax = Figure().subplots()
    performance.confusion_matrix(ax, cells, ["A", "B", "C"], "model")
    said = [text.get_text() for text in ax.texts]
    assert said[:6] == ["3\n75 %", "1\n25 %", "0\n0 %", "0\n0 %", "5\n100 %", "0\n0 %"]
    assert ax.get_title(loc="left") == "model (n = 9)" or ax.get_title() == "model (n = 9)"


def test_coefficients_show_the_largest_and_say_how_many_there_are():
    table = pd.DataFrame({"feature": [f"f{k}" for k in range(40)], "coefficient": np.linspace(-1, 2, 40)})
    table = table.assign(level=np.nan, kind="coefficient")
    table.loc[0, "coefficient"] = np.nan  # unknown; and place 13 is zero
    ax = Figure().subplots()
    models.coefficients(ax, table, style.looks(["lasso"])["lasso"])
    assert len(ax.patches) == models.SHOWN and ax.get_yticklabels()[0].get_text() == "f39"
    assert "largest 20 of 38 terms" in ax.get_title() + ax.get_title(loc="left")


def test_feature_names_are_taken_apart():
    name = "portal.ring_0_10.log-sigma-3-0-mm-3D_glszm_ZoneEntropy"
    assert evaluated.feature_parts(name) == ("portal", "ring_0_10", "log-sigma-3-0-mm-3D", "glszm")
    assert evaluated.feature_parts("afp") == ("", "", "", "")


def test_nothing_to_show_is_said_instead_of_drawn(results, tmp_path, monkeypatch):
    shown: dict[str, Figure] = {}
    monkeypatch.setattr(stages, "save", lambda figure, folder, name: shown.update({name: figure}))
    inputs = made.study_inputs(results)
    for key in ("icc", "shifts", "embedding", "centers"):
        write_table(read_table(inputs[key]).iloc[:0], tmp_path / f"{key}.tsv")
        inputs[key] = str(tmp_path / f"{key}.tsv")
    images = read_table(inputs["acquisition"]).drop(columns=["SliceThickness", "ConvolutionKernel"])
    write_table(images, tmp_path / "acquisition.tsv")
    inputs["acquisition"] = str(tmp_path / "acquisition.tsv")
    figures.draw_study(**inputs, settings=made.SETTINGS, folder="")
    assert "not assessed" in words(shown["stability"])
    assert "not recorded" in words(shown["acquisition"])
    assert "No harmonization" in words(shown["harmonization"])
    assert "nothing to harmonize" in words(shown["shifts"])


def test_a_study_without_harmonization_draws_no_empty_panel(results, tmp_path, monkeypatch):
    shown: dict[str, Figure] = {}
    monkeypatch.setattr(stages, "save", lambda figure, folder, name: shown.update({name: figure}))
    inputs = made.study_inputs(results)
    for key in ("embedding", "centers"):
        table = read_table(inputs[key])
        write_table(table[table["features"] == "raw"], tmp_path / f"{key}.tsv")
        inputs[key] = str(tmp_path / f"{key}.tsv")
    del inputs["shifts"]
    figures.draw_study(**inputs, settings=made.SETTINGS, folder="")
    assert "shifts" not in shown
    assert len(shown["harmonization"].axes) == 2 and "No harmonization" not in words(shown["harmonization"])


@pytest.mark.parametrize("count", [1, 50, 2000])
def test_every_shift_and_scale_is_drawn_in_the_color_of_its_center(count):
    rng = np.random.default_rng(count)
    known = style.looks(["A", "B"], style.CENTER_COLORS)
    table = pd.DataFrame({"center": np.repeat(["A", "B"], count), "shift": rng.normal(size=2 * count)})
    ax = Figure().subplots()
    features.center_effects(ax, table, "shift", 0, known)
    for row, name in enumerate(known):
        points = ax.collections[row].get_offsets()
        assert sorted(points[:, 0]) == sorted(table.loc[table["center"] == name, "shift"])
        assert np.abs(points[:, 1] - row).max() < 0.5, "a center stays in its row"
        assert same_color(ax.collections[row].get_facecolor()[0][:3], known[name].color)
    low, high = ax.get_xlim()
    assert low <= table["shift"].min() and high >= table["shift"].max()


def test_a_center_with_a_shift_alone_says_that_its_scale_stays():
    table = pd.DataFrame({"center": ["A", "A", "B", "B"], "scale": [0.8, 1.3, 1.0, 1.0]})
    ax = Figure().subplots()
    features.center_effects(ax, table, "scale", 1, style.looks(["A", "B"]))
    assert [text.get_text() for text in ax.texts] == ["scale left as it is"]
    assert len(ax.collections) == 1


def test_a_study_without_external_centers_says_so_in_every_panel(results, tmp_path, monkeypatch):
    shown: dict[str, Figure] = {}
    monkeypatch.setattr(stages, "save", lambda figure, folder, name: shown.update({name: figure}))
    settings = made.SETTINGS | {
        "models": {"clinical": made.SETTINGS["models"]["clinical"]},
        "cohort": made.SETTINGS["cohort"] | {"centers": {"development": made.DEVELOPMENT, "external": []}},
    }
    for endpoint in made.SETTINGS["endpoints"]:
        inputs = {key: paths[:1] for key, paths in made.endpoint_inputs(results, endpoint).items()}
        for paths in inputs.values():
            for place, path in enumerate(paths):
                table = read_table(path)
                if "evaluation" in table:
                    table = table[table["evaluation"] != "external"]
                if "harmonization" in table and "evaluation" not in table:
                    table = table.iloc[:0]
                paths[place] = str(tmp_path / Path(path).relative_to(results))
                write_table(table, paths[place])
        figures.draw_endpoint(endpoint=endpoint, **inputs, settings=settings, folder="")
    assert "External" not in words(shown["os_discrimination"])
    for name in (
        "os_kaplan_meier_clinical",
        "os_calibration",
        "os_decision",
        "os_time_dependent_auc",
        "mvi_roc",
    ):
        said = words(shown[name]).replace(", 12 months", "")
        assert f"External, pooled\n{style.NOTHING}" in said, name


def test_a_missing_risk_column_is_refused(results, tmp_path):
    inputs = made.endpoint_inputs(results, "os")
    path = tmp_path / "clinical" / "oof.tsv"
    write_table(read_table(inputs["oof"][0]).drop(columns="risk@24"), path)
    with pytest.raises(StudyError, match=r"no column risk@24; found risk@12"):
        stages._read_risks([str(path)], [], [24.0])
