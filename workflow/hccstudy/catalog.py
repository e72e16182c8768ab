"""The catalog of figures: which ones a study has, without drawing any (a workflow starts without matplotlib)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hccstudy.errors import StudyError

STUDY = ["flow", "acquisition", "stability", "harmonization", "shifts"]
KINDS = {
    "survival": ["discrimination", "time_dependent_auc", "calibration", "decision", "coefficients"],
    "binary": ["discrimination", "roc", "calibration", "decision", "coefficients"],
    "multiclass": ["discrimination", "confusion", "coefficients"],
}
KINDS_BY_MODEL = {"survival": ["kaplan_meier", "calibration"], "binary": ["calibration"], "multiclass": []}


def models_of(endpoint: str, models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The configured models that are fitted for an endpoint."""
    return [name for name, definition in models.items() if endpoint in definition["endpoints"]]


def absent_figures(settings: Mapping[str, Any]) -> list[str]:
    """Figures of STUDY that a study has nothing for: no harmonization, no images, with a feature table perhaps no repeats."""
    unharmonized = ["shifts"] if settings["harmonize"]["method"] == "none" else []
    if not settings["features"].get("table"):
        return unharmonized
    return ["acquisition", *(["stability"] if settings["stability"]["method"] == "none" else []), *unharmonized]


def figure_names(
    endpoints: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
    absent: Collection[str] = (),
) -> dict[str, list[str]]:
    """Every figure that is written: {"study": [...], endpoint: [...]}.

    `endpoints` is the config's (each has a "type"), `models` too (each lists its "endpoints"); `absent` are names of
    STUDY to leave out (see `absent_figures`). A figure NAME is the files NAME.pdf, NAME.svg and NAME.png. Per endpoint:
    `<endpoint>_<kind>` for KINDS of its type and `<endpoint>_<kind>_<model>` for KINDS_BY_MODEL.
    """
    names = {"study": [name for name in STUDY if name not in absent]}
    for endpoint, definition in endpoints.items():
        kind = definition["type"]
        if kind not in KINDS:
            raise StudyError(f"config: endpoint {endpoint} has type {kind!r}; expected one of {', '.join(KINDS)}")
        fitted = models_of(endpoint, models)
        names[endpoint] = [f"{endpoint}_{subject}" for subject in KINDS[kind]]
        names[endpoint] += [f"{endpoint}_{subject}_{model}" for subject in KINDS_BY_MODEL[kind] for model in fitted]
    return names


def figure_kind(name: str) -> str:
    """The kind of a figure, which is the name of its caption: "os_kaplan_meier_forest" -> "kaplan_meier"."""
    kinds = {kind for group in (*KINDS.values(), *KINDS_BY_MODEL.values()) for kind in group}
    return name if name in STUDY else next(kind for kind in sorted(kinds) if f"_{kind}_" in f"{name}_")
