"""The report's tables: frames in, frames of text out, ready to print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hccstudy.figures.evaluated import (
    DISCRIMINATION,
    EVALUATIONS,
    at,
    at_or_timeless,
    evaluated_sets,
    interval,
    p_value,
    pooled,
    primary,
)

EVENTS_PER_CANDIDATE = 10  # below: a warning (the customary floor; Peduzzi 1996; Riley 2020 asks for more)
NAMES = {
    "harrell_c": "Harrell's C",
    "uno_c": "Uno's C",
    "auc": "AUC",
    "auc_t": "AUC(t)",
    "macro_auc": "macro-averaged AUC",
    "accuracy": "accuracy",
    "kappa": "kappa",
    "brier": "Brier score",
    "ipa": "scaled Brier score (IPA)",
    "oe": "O/E",
    "citl": "calibration in the large",
    "slope": "calibration slope",
    "ici": "ICI",
    "net_benefit": "net benefit",
    "logrank_p": "log-rank",
}
MOST_NAMED = 20
HARMONIZATIONS = {"none": "none (primary)", "center-calibrated": "center-calibrated (secondary)"}
COMPARED = {name: NAMES[name] for name in ("auc", "harrell_c", "macro_auc", "auc_t", "brier")}
COMPARED |= {"nri_events": "NRI of events", "nri_nonevents": "NRI of non-events", "idi": "IDI"}
CALIBRATION = ["oe", "citl", "slope", "ici", "brier", "ipa"]


def outcome_columns(endpoints: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The columns that hold outcomes: they describe no patient at baseline."""
    return {
        definition[key] for definition in endpoints.values() for key in ("time", "event", "column") if key in definition
    }


def _text(value: Any) -> str:
    """A level as the config writes it: 1.0 (a 0/1 column with gaps) is "1"."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(values: pd.Series) -> str:
    values = values.dropna().astype(float)
    if values.empty:
        return "-"
    low, middle, high = np.percentile(values, [25, 50, 75])
    digits = 0 if middle >= 100 else 1 if middle >= 10 or (values % 1 != 0).any() else 0
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.0f} %)" if total else "-"


def characteristics(development: pd.DataFrame, external: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Table 1 by center: median [quartiles], n (%) of those known, and how many are missing.

    Rows are the configured columns but for dates and outcomes (those of external centers stay closed here).
    """
    everyone = pd.concat([development, external], ignore_index=True)
    groups = {name: everyone[everyone["center"] == name] for name in dict.fromkeys(everyone["center"])}
    groups = {"Development": development} | ({"External": external} if len(external) else {}) | groups
    hidden = outcome_columns(settings["endpoints"])
    rows: list[dict[str, str]] = [{"": "Patients"} | {name: str(len(of)) for name, of in groups.items()}]
    for column, definition in settings["cohort"]["columns"].items():
        if column in hidden or definition["type"] == "date" or column not in everyone:
            continue
        label = definition.get("label") or column
        unit = f" ({definition['unit']})" if definition.get("unit") else ""
        if definition["type"] == "number":
            rows.append({"": label + unit} | {name: _number(of[column]) for name, of in groups.items()})
        else:
            rows.append({"": label} | dict.fromkeys(groups, ""))
            known = {name: of[column].dropna().map(_text) for name, of in groups.items()}
            levels = definition.get("levels") or sorted(set().union(*known.values()))
            for level in map(str, levels):
                shares = {name: _share(int((of == level).sum()), len(of)) for name, of in known.items()}
                rows.append({"": f"\u2003{level}"} | shares)
        if everyone[column].isna().any():
            gaps = {name: _share(int(of[column].isna().sum()), len(of)) for name, of in groups.items()}
            rows.append({"": "\u2003missing"} | gaps)
    return pd.DataFrame(rows)


def outcomes(metrics: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Patients and events behind the results, by endpoint and center: the largest n of any metric."""
    centers = [*settings["cohort"]["centers"]["development"], *settings["cohort"]["centers"]["external"]]
    rows = []
    for endpoint, definition in settings["endpoints"].items():
        of = primary(metrics[metrics["endpoint"] == endpoint])
        row = {"Endpoint": definition.get("label", endpoint)}
        for center in centers:
            here = of[of["center"] == center].dropna(subset=["n"])
            events = here["events"].max()
            n = "-" if here.empty else f"{here['n'].max():.0f}"
            row[center] = n if pd.isna(events) else f"{n} ({events:.0f} events)"
        rows.append(row)
    return pd.DataFrame(rows)


def losses(ledger: pd.DataFrame) -> pd.DataFrame:
    """Every patient who does not go on, where and why."""
    lost = ledger[ledger["status"] != "included"].fillna("")
    return lost[["patient", "center", "stage", "status", "reason", "detail"]].rename(columns=str.capitalize)


def acquisition(table: pd.DataFrame, centers: Iterable[str]) -> pd.DataFrame:
    """How images were acquired, by center and series: median [range] of numbers, counts of other values."""
    apart = {"patient", "center", "series", "burned_in_annotation", "image_sha256", "mask_sha256"}
    described = [name for name in table if name not in apart and table[name].notna().any()]
    rows = []
    for center in centers:
        for series, of in table[table["center"] == center].groupby("series"):
            row = {"Center": center, "Series": series, "Images": str(len(of))}
            rows.append(row | {_spaced(name): _described(of[name]) for name in described})
    return pd.DataFrame(rows)


def burned_in(table: pd.DataFrame) -> list[str]:
    """A sentence for those whose headers state text in the picture, and for each kind of image that often holds some."""
    said = table["burned_in_annotation"].dropna() if "burned_in_annotation" in table else pd.Series(dtype=str)
    sentences = []
    for found, of in sorted(said.groupby(said), key=lambda item: item[0] != "yes"):
        who = [f"{row.patient} {row.series}" for row in table.loc[of.index].itertuples()]
        told = ", ".join(who[:MOST_NAMED]) + (f" and {len(who) - MOST_NAMED} more" if len(who) > MOST_NAMED else "")
        what = "state that text is in the picture" if found == "yes" else f"may hold text in the picture ({found[6:]})"
        sentences.append(f"{len(who)} of {len(table)} series {what}: {told}.")
    return sentences


def _spaced(name: str) -> str:
    """SliceThickness -> Slice Thickness, so that a narrow column can break the line; KVP stays."""
    return "".join(
        f" {a}" if a.isupper() and b.islower() else a for a, b in zip(name, " " + name, strict=False)
    ).strip()


def _described(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return "-"
    if pd.api.types.is_numeric_dtype(known):
        low, high = known.min(), known.max()
        return f"{low:g}" if low == high else f"{known.median():g} [{low:g} to {high:g}]"
    counted = known.astype(str).value_counts()
    text = ", ".join(f"{name} {n}" for name, n in counted.head(4).items())
    return text + (f", {len(counted) - 4} others" if len(counted) > 4 else "")


def stability(icc: pd.DataFrame, threshold: float) -> str:
    """One sentence on how many features reach the threshold."""
    if icc.empty:
        return "Stability was not assessed in this study."
    reached, surely = (icc["icc"] >= threshold).sum(), (icc["lower"] >= threshold).sum()
    patients, repeats = int(icc["n"].max()), int(icc["repeats"].max())
    return (
        f"{reached} of {len(icc)} features ({100 * reached / len(icc):.0f} %) have an ICC(2,1) of at least "
        f"{threshold:g}; the lower 95 % limit of {surely} reaches it. {patients} development patients, "
        f"{repeats} measurements of each."
    )


def shifts(table: pd.DataFrame) -> pd.DataFrame:
    """What ComBat takes away per development center: median [5th, 95th percentile], and the feature it moves most."""
    rows = []
    for center, of in table.groupby("center", sort=False):
        largest = of.loc[of["shift"].abs().idxmax()]
        row = {"Center": center, "Features": str(len(of))}
        for column, label in {"shift": "Shift (SD within centers)", "scale": "Scale (ratio of SDs)"}.items():
            low, middle, high = np.percentile(of[column], [5, 50, 95])
            row[label] = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        if (of["scale"] == 1).all():
            row["Scale (ratio of SDs)"] = "left as it is"
        rows.append(row | {"Largest shift": f"{largest['shift']:.2f} ({largest['feature']})"})
    return pd.DataFrame(rows)


def harmonization(table: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """One sentence where features were not harmonized; "" where they were (`table`: shifts and scales)."""
    if settings["harmonize"]["method"] == "none":
        return "Features were not harmonized between centers (harmonize: none): there is no shift and no scale to show."
    if table.empty:
        return "All development patients are of one center: there was nothing to harmonize."
    return ""


def _value(rows: pd.DataFrame, metric: str) -> str:
    """The estimate of one metric with its interval; "-" where there is no such row."""
    of = rows[rows["metric"] == metric]
    if of.empty:
        return "-"
    row = of.iloc[0]
    if metric == "logrank_p" and pd.notna(row["estimate"]):
        return p_value(row["estimate"])
    if pd.isna(row["estimate"]):
        return str(row["method"]) if pd.notna(row["method"]) else "not estimated"
    return interval(row["estimate"], row["lower"], row["upper"])


def _counts(rows: pd.DataFrame) -> tuple[str, str]:
    n, events = rows["n"].max(), rows["events"].max()
    return ("-" if pd.isna(n) else f"{n:.0f}"), ("-" if pd.isna(events) else f"{events:.0f}")


def headline(metrics: pd.DataFrame, endpoint: str, definition: Mapping[str, Any]) -> pd.DataFrame:
    """Main results of one endpoint: each model, cross-validated and in the pooled external centers."""
    metric = next(iter(DISCRIMINATION[definition["type"]]))
    horizon = float(max(definition["horizons"])) if definition["type"] == "survival" else None
    rows = []
    for model in dict.fromkeys(metrics["model"]):
        for evaluation, label in EVALUATIONS.items():
            of = pooled(metrics[(metrics["endpoint"] == endpoint) & (metrics["model"] == model)], evaluation)
            if of.empty:
                continue
            n, events = _counts(of[of["metric"] == metric])
            row = {
                "Model": model,
                "Evaluated in": label,
                "n": n,
                "Events": events,
                NAMES[metric]: _value(of, metric),
            }
            if definition["type"] == "multiclass":
                row |= {NAMES[name].capitalize(): _value(of, name) for name in ("accuracy", "kappa")}
            else:
                when = "" if horizon is None else f" at {horizon:g} {definition['unit']}"
                row |= {NAMES["oe"] + when: _value(at(of, horizon), "oe")}
                row[NAMES["slope"]] = _value(at_or_timeless(of, horizon), "slope")
            rows.append(row)
    return pd.DataFrame(rows)


def side_by_side(metrics: pd.DataFrame, endpoint: str, definition: Mapping[str, Any]) -> pd.DataFrame:
    """External results without and with harmonization of the new centers, by center and pooled.

    Models without a secondary result (they hold no ComBat) are left out; empty where no model has one. Where the
    two results are of different patients the secondary one is withheld and the table says so.
    """
    of = metrics[(metrics["endpoint"] == endpoint) & (metrics["evaluation"] == "external")]
    secondary = of[of["harmonization"] == "center-calibrated"]
    metric = next(iter(DISCRIMINATION[definition["type"]]))
    columns = _compared(definition, metric)
    centers = sorted(dict.fromkeys(of["center"]), key=lambda name: name == "pooled")  # pooled last
    rows = []
    for model in dict.fromkeys(secondary["model"]):
        for center in centers:
            here = of[(of["model"] == model) & (of["center"] == center)]
            parts = dict(tuple(here.groupby("harmonization")))
            sizes = {name: part["n"].max() for name, part in parts.items()}
            for harmonization, label in HARMONIZATIONS.items():
                part = parts.get(harmonization, here.iloc[:0])
                n, events = _counts(part[part["metric"] == metric])
                values = {name: _value(at_or_timeless(part, horizon), key) for name, (key, horizon) in columns.items()}
                if harmonization != "none" and part.empty:
                    values = dict.fromkeys(columns, "too few patients")
                elif harmonization != "none" and sizes["none"] != sizes[harmonization]:
                    values = dict.fromkeys(columns, "other patients")
                named = {"Model": model, "Center": center, "Harmonization of the center": label}
                rows.append(named | {"n": n, "Events": events} | values)
    return pd.DataFrame(rows)


def _compared(definition: Mapping[str, Any], metric: str) -> dict[str, tuple[str, float | None]]:
    """Columns of side_by_side: discrimination, then O/E at every horizon, ICI at the last one, slope."""
    columns: dict[str, tuple[str, float | None]] = {NAMES[metric]: (metric, None)}
    if definition["type"] == "survival":
        times = {f" at {float(value):g} {definition['unit']}": float(value) for value in sorted(definition["horizons"])}
        columns |= {NAMES["oe"] + when: ("oe", horizon) for when, horizon in times.items()}
        last = list(times)[-1]
        columns[NAMES["ici"] + last] = ("ici", times[last])
    elif definition["type"] == "binary":
        columns |= {NAMES[name]: (name, None) for name in ("oe", "ici")}
    if definition["type"] != "multiclass":
        last_horizon = max(map(float, definition["horizons"])) if definition["type"] == "survival" else None
        columns[NAMES["slope"]] = ("slope", last_horizon)
    return columns


def comparisons(table: pd.DataFrame, definition: Mapping[str, Any]) -> pd.DataFrame:
    """Every two models of one endpoint on the same patients: cross-validated, and the frozen models in external centers."""
    rows = []
    for evaluation, label in EVALUATIONS.items():
        of = pooled(table, evaluation)
        for values in of[of["metric"].isin(COMPARED)].to_dict("records"):
            when = "" if pd.isna(values["horizon"]) else f" at {values['horizon']:g} {definition['unit']}"
            difference, lower, upper = (float(values[name]) for name in ("difference", "lower", "upper"))
            found = interval(difference, lower, upper)
            if str(values["method"]).startswith("refused: "):
                found = str(values["method"])
            tested = pd.notna(values["p"])
            rows.append(
                {
                    "Evaluated in": label,
                    "Models": f"{values['model_a']} - {values['model_b']}",
                    "Difference in": COMPARED[values["metric"]] + when,
                    "Difference (95 % interval)": found,
                    "p": p_value(values["p"]) if tested else "-",
                    "p (Holm)": p_value(values["p_holm"]) if tested else "-",
                }
            )
    return pd.DataFrame(rows)


def performance(
    metrics: pd.DataFrame,
    endpoint: str,
    definition: Mapping[str, Any],
    external: list[str],
    names: Iterable[str],
) -> pd.DataFrame:
    """Every evaluated set and model with the metrics `names` that it has; a row per horizon for survival."""
    of = primary(metrics[metrics["endpoint"] == endpoint])
    horizons = [float(value) for value in definition.get("horizons", [])]
    present = [name for name in names if (of["metric"] == name).any()]
    timed = bool(horizons) and of.loc[of["metric"].isin(present), "horizon"].notna().any()
    rows = []
    for evaluation, center, label in evaluated_sets(of, external):
        here = of[(of["evaluation"] == evaluation) & (of["center"] == center) & of["metric"].isin(present)]
        for model in dict.fromkeys(here["model"]):
            for horizon in horizons if timed else [None]:
                chosen = at(here[here["model"] == model], horizon)
                if chosen.empty:
                    continue
                n, events = _counts(chosen)
                when = {} if horizon is None else {f"Horizon ({definition['unit']})": f"{horizon:g}"}
                values = {NAMES.get(name, name): _value(chosen, name) for name in present}
                counted = "Events" if horizon is None else "Events by the horizon"
                rows.append({"Evaluated in": label, "Model": model, **when, "n": n, counted: events, **values})
    return pd.DataFrame(rows)


def models(cards: list[dict[str, Any]]) -> pd.DataFrame:
    """What was fitted: candidates, selected, events per candidate, hyperparameters, cut-off, hash."""
    rows = []
    for card in cards:
        rows.append(
            {
                "Endpoint": card["endpoint"],
                "Model": card["model"],
                "Patients": card["n"],
                "Events": card["events"],
                "Candidates": card["candidates"],
                "Events per candidate": f"{per_candidate(card):.2g}",
                "Selected": card["selected"],
                "Cut-off": "-" if card["cut_off"] is None else _short(card["cut_off"]),
                "Hyperparameters": ", ".join(
                    f"{key} = {_short(value)}" for key, value in card["hyperparameters"].items()
                ),
                "SHA-256": card["sha256"][:12],
            }
        )
    return pd.DataFrame(rows)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def per_candidate(card: Mapping[str, Any]) -> float:
    """Events per candidate predictor, candidates counted before selection; of several classes the rarest."""
    return card["events"] / max(card["candidates"], 1)


def warnings(cards: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing a number."""
    low = [card for card in cards if per_candidate(card) < EVENTS_PER_CANDIDATE]
    if not low:
        return []
    worst = min(low, key=per_candidate)
    return [
        f"{len(low)} of {len(cards)} models have fewer than {EVENTS_PER_CANDIDATE} events per candidate "
        f"predictor (lowest: {worst['model']} for {worst['endpoint']}, {worst['events']} events for "
        f"{worst['candidates']} candidates, {per_candidate(worst):.2g} each). Overfitting is likely; "
        "apparent performance says nothing, cross-validated performance is uncertain, and only the external "
        "results can speak for the model."
    ]
