"""The report: one HTML file without outside references, from the tables and figures of a study."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from hccstudy.catalog import absent_figures, figure_names, models_of
from hccstudy.errors import StudyError
from hccstudy.figures.evaluated import DISCRIMINATION, stack
from hccstudy.figures.stages import METRICS
from hccstudy.ledger import COLUMNS as LEDGER_COLUMNS
from hccstudy.metrics.comparison import COMPARISONS
from hccstudy.report import content, internal
from hccstudy.report.methods import methods
from hccstudy.tables import atomic, read_json, read_table

WIDTH = 1400  # pixels of an embedded figure: sharp on a dense screen and in print, a tenth of the 300-dpi file
CARD = ["endpoint", "model", "sha256", "candidates", "selected", "n", "events", "cut_off", "hyperparameters"]


def write_report(
    *,
    development: str,
    external: str,
    ledger: str,
    acquisition: str | None = None,
    icc: str,
    shifts: str,
    centers: str,
    metrics: list[str],
    comparisons: list[str],
    performance: list[str],
    left_out: list[str],
    pooled: list[str],
    cards: list[str],
    figures: list[str],
    captions: list[str],
    provenance: str,
    template: str,
    settings: dict[str, Any],
    html: str,
) -> None:
    """Write the report as one self-contained, offline HTML file; equal inputs give equal bytes.

    `comparisons` holds one path per endpoint, `metrics`, `cards` and the tables of internal validation (`performance`,
    `left_out`, which is its centers.tsv, and `pooled`) one per endpoint and model, `figures` the PNG files of all names of
    `catalog.figure_names`, `captions` the .rst files of workflow/report (named by kind of figure, shared with
    Snakemake's own report), `template` is workflow/report/index.html.j2. `settings` is the config. Outcomes
    of external centers are not read: the report shows validation tables only.
    """
    images = {Path(path).stem: path for path in figures}
    names = figure_names(settings["endpoints"], settings["models"], absent_figures(settings))
    absent = [name for of in names.values() for name in of if name not in images]
    if absent:
        raise StudyError(f"report: no figure {', '.join(absent)}; expected the PNG files of all figure names")
    read_cards = [_read_card(path) for path in cards]
    table = stack(metrics, METRICS)
    differences = stack(comparisons, ["endpoint", "center", "evaluation", "harmonization", *COMPARISONS])
    inside = {
        "performance": stack(performance, [*internal.LEAD, "apparent", "corrected", "estimate_632plus"]),
        "left_out": stack(left_out, [*internal.LEAD, "center", "estimate"]),
        "pooled": stack(pooled, [*internal.LEAD, "estimate", "prediction_lower", "prediction_upper"]),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(template).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "figure": _figures(images, {Path(path).stem: Path(path).read_text(encoding="utf-8") for path in captions}),
        "table": to_html,
    }
    used = read_json(provenance)
    roles = settings["cohort"]["centers"]
    categories = [name for name, rules in settings["cohort"]["columns"].items() if rules["type"] == "category"]
    patients = (
        read_table(development, ["patient", "center"], text=categories),
        read_table(external, ["patient"], text=categories),
    )
    flow = read_table(ledger, LEDGER_COLUMNS)
    acquired = read_table(acquisition) if acquisition else None
    moves = read_table(shifts, ["feature", "center", "shift", "scale"])
    last = flow[flow["status"].eq("included") & flow["stage"].eq("features")]
    text = environment.get_template(Path(template).name).render(
        settings=settings,
        roles=roles,
        analyzed={role: int(last["center"].isin(roles[role]).sum()) for role in ("development", "external")},
        entered=flow["patient"].nunique(),
        warnings=content.warnings(read_cards),
        characteristics=content.characteristics(*patients, settings),
        outcomes=content.outcomes(table, settings),
        losses=content.losses(flow),
        acquisition=None
        if acquired is None
        else content.acquisition(acquired, [*roles["development"], *roles["external"]]),
        burned_in=[] if acquired is None else content.burned_in(acquired),
        feature_tables=[(Path(path).name, sha256) for path, sha256 in used.get("feature_tables", {}).items()],
        drawn=names["study"],
        stability=content.stability(read_table(icc), float(settings["stability"]["threshold"])),
        shifts=content.shifts(moves),
        unharmonized=content.harmonization(moves, settings),
        centers=_centers(read_table(centers)),
        endpoints={
            name: _endpoint(name, table, differences, settings)
            | _internal(name, table, inside, read_cards, patients[0], settings)
            for name in settings["endpoints"]
        },
        models=content.models(read_cards),
        methods=methods(settings, used),
        provenance=used,
    )
    with atomic(html) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_card(path: str) -> dict[str, Any]:
    card = read_json(path)
    absent = [key for key in CARD if key not in card]
    if absent:
        raise StudyError(f"{path}: no {', '.join(absent)}; found {', '.join(sorted(card))}")
    return card


def _endpoint(
    name: str, metrics: pd.DataFrame, differences: pd.DataFrame, settings: Mapping[str, Any]
) -> dict[str, Any]:
    definition = settings["endpoints"][name]
    external = settings["cohort"]["centers"]["external"]
    kind = definition["type"]
    first = [*DISCRIMINATION[kind], "accuracy", "kappa", "logrank_p"]
    groups = {"discrimination": first, "horizons": ["auc_t"], "calibration": content.CALIBRATION}
    tables = {key: content.performance(metrics, name, definition, external, value) for key, value in groups.items()}
    return tables | {
        "name": name,
        "models": models_of(name, settings["models"]),
        "label": definition.get("label") or name,
        "type": kind,
        "headline": content.headline(metrics, name, definition),
        "comparisons": content.comparisons(differences[differences["endpoint"] == name], definition),
        "side_by_side": content.side_by_side(metrics, name, definition),
    }


def _internal(
    name: str,
    metrics: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    cards: list[dict[str, Any]],
    patients: pd.DataFrame,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    definition = settings["endpoints"][name]
    sizes, shortages = internal.sample_size(cards, metrics, patients, name, definition)
    optimism = internal.optimism(tables["performance"], metrics, name, definition)
    left_out = internal.left_out(tables["left_out"], tables["pooled"], name, definition)
    return {
        "optimism": optimism,
        "optimism_first": internal.first_of(optimism, definition["type"]),
        "left_out": left_out,
        "left_out_first": internal.first_of(left_out, definition["type"]),
        "sample_size": sizes,
        "shortages": shortages,
    }


def _centers(table: pd.DataFrame) -> pd.DataFrame:
    values = [content.interval(*row) for row in table[["balanced_accuracy", "lower", "upper"]].to_numpy(dtype=float)]
    shown = table[["features", "n"]].assign(accuracy=values, chance=[f"{value:.2f}" for value in table["chance"]])
    return shown.set_axis(["Features", "n", "Balanced accuracy of telling the center", "Chance"], axis=1)


def to_html(frame: pd.DataFrame) -> Markup:
    """A frame as an HTML table that scrolls in its own container; cells are escaped."""
    if frame.empty:
        return Markup('<p class="none">None.</p>')
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in frame.columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>\n").format(Markup("").join(_cell(cell) for cell in row))
        for row in frame.itertuples(index=False)
    )
    shell = '<div class="scroll"><table><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>'
    return Markup(shell).format(head, body)


def _cell(value: object) -> Markup:
    return Markup('<td class="short">{}</td>' if len(str(value)) <= 22 else "<td>{}</td>").format(value)


def _figures(images: Mapping[str, str], captions: Mapping[str, str]):  # type: ignore[no-untyped-def]
    """The template's `figure(name, kind, label)`: the image as a data URI with its caption."""

    def embed(name: str, kind: str, label: str = "") -> Markup:
        if kind not in captions:
            raise StudyError(f"report: no caption {kind}.rst; found {', '.join(sorted(captions))}")
        said = f"{label}: " if label else ""
        shell = Markup(
            '<figure id="{name}"><img alt="{said}{name}" src="data:image/png;base64,{data}">'
            "<figcaption>{said}{caption} <code>{name}</code></figcaption></figure>"
        )
        data = base64.b64encode(_screen(images[name])).decode()
        return shell.format(name=name, said=said, data=data, caption=captions[kind].strip())

    return embed


def _screen(path: str) -> bytes:
    """A figure at screen resolution, 256 colors: a few tens of kilobytes."""
    with Image.open(path) as image:
        shown = image.convert("RGB")
        if shown.width > WIDTH:
            size = (WIDTH, round(shown.height * WIDTH / shown.width))
            shown = shown.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        shown.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
