"""Any configs beside the first one, on one data set or several: means, standard errors, paired gains and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mvead_jax.comparison.paper_tables import Outcome, Table
from mvead_jax.evaluation.markdown import difference, figure, format_protocols, markdown

# The measures of the table: (level, metric), by the name of its columns.
MEASURES = {
    "sample_auroc": ("sample", "auroc"),
    "image_auroc": ("image", "auroc"),
    "pixel_ap": ("pixel", "ap"),
    "pixel_aupro": ("pixel", "aupro"),
}
_TITLES = {
    "sample_auroc": "sample AUROC",
    "image_auroc": "image AUROC",
    "pixel_ap": "pixel AP",
    "pixel_aupro": "AUPRO",
}
Cell = tuple[str, str]  # a data set and a category of it


class Estimate(NamedTuple):
    """A mean over cells and its standard error; None where there are too few cells."""

    mean: float | None
    error: float | None

    @property
    def text(self) -> str:
        return figure(self.mean) + self._error()

    @property
    def signed(self) -> str:
        return difference(self.mean) + self._error()

    def _error(self) -> str:
        return "" if self.error is None else f" ± {self.error:.1f}"


def configs_table(outcomes: Mapping[str, Mapping[str, Outcome]], milliseconds: Mapping[str, float]) -> Table:
    """Return the table of configs.

    A cell is a category of one data set. A gain is the mean of the cells' own differences from the first
    config, so that what all configs find hard in a cell is no part of its standard error.

    Args:
      outcomes: {config: {data set: outcome}}.
      milliseconds: from the images of a sample to its scores, by config, where that was measured.
    """
    values = {name: _values(own) for name, own in outcomes.items()}
    first = next(iter(values.values()))
    sets = list(dict.fromkeys(root for own in outcomes.values() for root in own))
    rows, lines, families = [], [], []
    for name, own in outcomes.items():
        means = {measure: estimate(list(values[name][measure].values())) for measure in MEASURES}
        gains = {measure: estimate(_gains(values[name][measure], first[measure])) for measure in MEASURES}
        cost = {
            "training_seconds": _total(one.seconds for one in own.values()),
            "milliseconds_a_sample": milliseconds.get(name),
            "model_megabytes": _total(one.megabytes for one in own.values()),
        }
        rows.append(
            {
                "name": name,
                "cells": len(values[name]["sample_auroc"]),
                "ours": {key: one.mean for key, one in means.items()}
                | {f"{key}_gain": one.mean for key, one in gains.items()},
                "standard_errors": {key: one.error for key, one in means.items()}
                | {f"{key}_gain": one.error for key, one in gains.items()},
                "cost": cost,
            }
            | _facts(own)
        )
        cells = [*(one.text for one in means.values()), *(one.signed for one in gains.values())]
        lines.append([name, *cells, *(figure(one, 0) for one in cost.values())])
        families.append([name, *_by_category(values[name]["sample_auroc"], first["sample_auroc"])])
    header = ["run", *_TITLES.values(), *(f"{title} - first" for title in _TITLES.values())]
    header += ["training s", "ms a sample", "model MB"]
    title = "Configs beside the first; percent, plain mean over the cells, ± standard error"
    note = (
        f"A cell is a category of one data set ({', '.join(sets)}). Training: of all models together, from features in "
        "the cache to what is learned on disk. Milliseconds: images of one sample to its scores, backbone included, "
        "median of five on this device. Model: of all cells, on disk."
    )
    names = sorted({category for _, category in first["sample_auroc"]})
    parts = [f"# {title}", markdown(header, lines, left=1), note]
    if len(names) > 1:
        parts.append(f"Sample AUROC by category:\n\n{markdown(['run', *names], families, left=1)}")
    failed = [
        f"- {name}{f' on {root}' if len(sets) > 1 else ''}: {one.error}"
        for name, own in outcomes.items()
        for root, one in own.items()
        if one.error
    ]
    if failed:
        parts.append("Failed:\n\n" + "\n".join(failed))
    told = {name: next((one for one in own.values() if one.metrics), None) for name, own in outcomes.items()}
    parts.append(format_protocols({name: one.protocol() for name, one in told.items() if one}))
    content = {"title": title, "unit": "percent", "data": sets, "rows": rows}
    return Table("compare", content, "\n\n".join(parts) + "\n")


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of some values and its standard error."""
    count = len(values)
    if not count:
        return Estimate(None, None)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count))


def _values(outcomes: Mapping[str, Outcome]) -> dict[str, dict[Cell, float]]:
    """Return each measure in percent by cell, without the cells in which it is not defined."""
    found: dict[str, dict[Cell, float]] = {measure: {} for measure in MEASURES}
    for root, outcome in outcomes.items():
        categories = outcome.metrics["categories"] if outcome.metrics else {}
        for category, levels in categories.items():
            for measure, (level, metric) in MEASURES.items():
                value = levels[level][metric]
                if value is not None and not math.isnan(value):
                    found[measure][root, category] = 100 * value
    return found


def _gains(own: Mapping[Cell, float], first: Mapping[Cell, float]) -> list[float]:
    return [value - first[cell] for cell, value in own.items() if cell in first]


def _by_category(own: Mapping[Cell, float], first: Mapping[Cell, float]) -> list[str]:
    names = sorted({category for _, category in first})
    return [estimate([v for (_, category), v in own.items() if category == name]).text for name in names]


def _total(values) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _facts(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return what goes with a row's figures: of its only run, or of each."""
    facts = {root: one.facts() for root, one in outcomes.items()}
    return next(iter(facts.values())) if len(facts) == 1 else {"runs": facts}
