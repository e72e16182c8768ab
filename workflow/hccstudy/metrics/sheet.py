"""The result sheet of one evaluated set: every estimate with its interval, or the reason why there is
none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hccstudy.metrics.resampling import DEFINED, Floats, percentile_interval

# What a person may compare within centers as well as over all of them.
RANKING = {"auc", "harrell_c", "uno_c", "auc_t", "macro_auc", "hand_till"}
# What two models of the same patients are compared by.
COMPARED = RANKING | {"brier"}

Horizon = float | None


class Drawn(NamedTuple):
    """One metric of one set: (1 + resamples,) values and the patients and events behind them."""

    values: Floats
    n: int
    events: int | None


@dataclass
class Sheet:
    """Collects rows for the tables of one set. `counts` are its resamples (the first row is the set as it
    is).

    `repeated`: some patients have several rows, so that formulas for independent rows give too narrow
    intervals and the bootstrap of patients takes their place.
    """

    counts: Floats
    n: int
    events: int | None
    repeated: bool = False
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    drawn: dict[tuple[str, Horizon], Drawn | None] = field(default_factory=dict)

    def write(self, table: str, rows: Iterable[dict[str, Any]], **common: Any) -> None:
        self.tables.setdefault(table, []).extend(common | row for row in rows)

    def add(
        self,
        metric: str,
        values: Floats,
        method: str,
        *,
        horizon: Horizon = None,
        threshold: float | None = None,
        events: int | None = None,
        analytic: tuple[tuple[float, float], str] | None = None,
        percentiles: tuple[float, float] | None = None,
        undefined: str = "the fit does not exist (complete separation or predictions that do not vary)",
    ) -> None:
        """One metric: `values` (1 + resamples,), the estimate first. `analytic` = an interval and its name,
        which is used instead of percentiles; `percentiles` = those of values[1:], where they are known already (many
        metrics at once are faster); `undefined` = the reason where the estimate is NaN.
        """
        values = np.asarray(values, dtype=float)
        if not np.isfinite(values[0]):
            self.refuse([metric], undefined, horizon=horizon, threshold=threshold, events=events)
            return
        events = self.events if events is None else events
        if metric in COMPARED:
            self.drawn[metric, horizon] = Drawn(values, self.n, events)
        if analytic and not self.repeated:
            (lower, upper), interval = analytic
        else:
            lower, upper = percentiles or percentile_interval(values[1:])
            interval = describe_bootstrap(values[1:])
            if lower == upper:  # nothing is known of what no resample changes
                lower = upper = np.nan
                interval += ", no interval: all alike"
        row = {"metric": metric, "horizon": horizon, "threshold": threshold, "estimate": values[0]}
        row |= {"lower": lower, "upper": upper, "n": self.n, "events": events}
        self.write("metrics", [row], method=f"{method}; {interval}")

    def refuse(
        self,
        metrics: Iterable[str],
        reason: str,
        *,
        horizon: Horizon = None,
        threshold: float | None = None,
        events: int | None = None,
    ) -> None:
        """Rows without an estimate that say why."""
        metrics = list(metrics)
        self.drawn |= {(metric, horizon): None for metric in metrics if metric in COMPARED}
        row = {"horizon": horizon, "threshold": threshold, "n": self.n}
        row["events"] = self.events if events is None else events
        self.write("metrics", [{"metric": m} for m in metrics], **row, method=f"refused: {reason}")


def describe_bootstrap(draws: Floats) -> str:
    """How an interval came about: resamples in which the metric is undefined are counted, never hidden."""
    skipped = int((~np.isfinite(draws)).sum())
    text = f"patient bootstrap, {len(draws)} resamples, percentiles"
    if skipped:
        text += f", {skipped} undefined and left out"
    if not len(draws) or 1 - skipped / len(draws) < DEFINED:
        text += f", no interval: defined in fewer than {100 * DEFINED:g} %"
    return text


def within_centers(sheets: dict[str, Sheet]) -> Sheet:
    """Ranking metrics within each center, averaged with weights n: what is left once centers are not
    compared.

    A model that only tells centers with many events from centers with few has a pooled AUC above 0.5 and one
    of 0.5 here. The interval resamples patients within every center. Centers where the metric was refused are
    left out by name.
    """
    counts = next(iter(sheets.values())).counts
    result = Sheet(counts, sum(sheet.n for sheet in sheets.values()), _sum(s.events for s in sheets.values()))
    ranked = (key for sheet in sheets.values() for key in sheet.drawn if key[0] in RANKING)
    for metric, horizon in dict.fromkeys(ranked):
        found = {name: sheet.drawn.get((metric, horizon)) for name, sheet in sheets.items()}
        used = [part for part in found.values() if part is not None]
        if not used:
            rows = (row for sheet in sheets.values() for row in sheet.tables["metrics"])
            events = _sum(row["events"] for row in rows if (row["metric"], row["horizon"]) == (metric, horizon))
            result.refuse([metric], "it was refused in every center", horizon=horizon, events=events)
            continue
        values = np.average([part.values for part in used], axis=0, weights=[part.n for part in used])
        method = f"mean of {len(used)} centers weighted by n"
        if len(used) < len(sheets):
            method += f" (refused in {', '.join(name for name, part in found.items() if part is None)})"
        combined = Sheet(counts, sum(part.n for part in used), _sum(part.events for part in used))
        combined.add(metric, values, method, horizon=horizon)
        result.write("metrics", combined.tables["metrics"])
    return result


def _sum(events: Iterable[int | None]) -> int | None:
    known = [number for number in events if number is not None]  # none of a multiclass endpoint has events
    return sum(known) if known else None
