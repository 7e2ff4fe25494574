"""Any configs beside the first one, on one data set or several: means, standard errors, paired gains and cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mvead_jax.comparison.defect_kinds import BY_VIEWS
from mvead_jax.comparison.document import Block, Grid, Heading, Points, Table, protocol_block
from mvead_jax.comparison.paper_tables import Outcome
from mvead_jax.evaluation.markdown import difference, figure

# The measures of the first table, by the name of the columns: (level, metric).
MEASURES = {
    "sample AUROC": ("sample", "auroc"),
    "image AUROC": ("image", "auroc"),
    "pixel AP": ("pixel", "ap"),
    "AUPRO": ("pixel", "aupro"),
}
Cell = tuple[str, str]  # a data set and a category of it
Values = dict[str, dict[Cell, float]]  # of each measure, in percent


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
        return "" if self.error is None else f" +/- {self.error:.1f}"


def configs_table(
    outcomes: Mapping[str, Mapping[str, Outcome]], times: Mapping[str, Mapping[str, float]]
) -> Table:
    """Return the table of configs.

    A cell is a category of one data set. A gain is the mean of the cells' own differences from the first
    config, so that what all configs find hard in a cell is no part of its standard error.

    Args:
      outcomes: {config: {data set: outcome}}.
      times: of a sample, by config, where that was measured: "milliseconds", and how many times as long as
        with the first config ("of_first").
    """
    values = {name: _values(own) for name, own in outcomes.items()}
    first = next(iter(values.values()))
    rows = [
        {"name": name, "cells": len(values[name]["sample AUROC"])}
        | _estimates(values[name], first)
        | {
            "cost": {
                "training_seconds": _total(one.seconds for one in own.values()),
                "milliseconds_a_sample": times.get(name, {}).get("milliseconds"),
                "times_as_long_as_first": times.get(name, {}).get("of_first"),
                "model_megabytes": _total(one.megabytes for one in own.values()),
            }
        }
        | _facts(own)
        for name, own in outcomes.items()
    ]
    sets = list(dict.fromkeys(root for own in outcomes.values() for root in own))
    title = "Configs beside the first; percent, plain mean over the cells, +/- standard error"
    note = (
        f"A cell is a category of one data set ({', '.join(sets)}). Training: of all models together, from features in "
        "the cache to what is learned on disk. Milliseconds: images of one sample to its scores, backbone included, on "
        "this device, in turns with the first config; / first: how many times as long. Model: of all cells, on disk."
    )
    told = {name: next((one for one in own.values() if one.metrics), None) for name, own in outcomes.items()}
    blocks = [
        *(Heading(title), _main_grid(rows, values, first), note),
        "Image AUROC by how many views see the defect (one, two, three or more), against all normal images:",
        _by_views_grid(values, first),
        *_by_category_blocks(values),
        Points.flat("Failed:", _failures(outcomes)),
        protocol_block({name: one.protocol() for name, one in told.items() if one}),
    ]
    content = {"title": title, "unit": "percent", "data": sets, "rows": rows}
    return Table("compare", content, blocks)


def _main_grid(rows: Sequence[Mapping[str, Any]], values: Mapping[str, Values], first: Values) -> Grid:
    header = ["run", *MEASURES, *(f"{measure} - first" for measure in MEASURES)]
    header += ["training s", "ms a sample", "/ first", "model MB"]
    lines = []
    for row, own in zip(rows, values.values(), strict=True):
        means = [estimate(list(own[measure].values())).text for measure in MEASURES]
        gains = [estimate(_gains(own[measure], first[measure])).signed for measure in MEASURES]
        lines.append([row["name"], *means, *gains, *_cost(row["cost"])])
    return Grid(header, lines)


def _cost(cost: Mapping[str, float | None]) -> list[str]:
    return [figure(one, 2 if key == "times_as_long_as_first" else 0) for key, one in cost.items()]


def _by_views_grid(values: Mapping[str, Values], first: Values) -> Grid:
    lines = [
        [name]
        + [estimate(list(own[measure].values())).text for measure in BY_VIEWS]
        + [estimate(_gains(own[measure], first[measure])).signed for measure in BY_VIEWS]
        for name, own in values.items()
    ]
    header = ["run", *BY_VIEWS, *(f"{measure} - first" for measure in BY_VIEWS)]
    return Grid(header, lines)


def _by_category_blocks(values: Mapping[str, Values]) -> list[Block]:
    names = sorted({category for own in values.values() for _, category in own["sample AUROC"]})
    if len(names) < 2:
        return []
    lines = [
        [run]
        + [
            estimate([value for (_, own), value in measured["sample AUROC"].items() if own == name]).text
            for name in names
        ]
        for run, measured in values.items()
    ]
    return ["Sample AUROC by category:", Grid(["run", *names], lines)]


def _failures(outcomes: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
    return [
        f"{name}{f' on {root}' if len(own) > 1 else ''}: {one.error}"
        for name, own in outcomes.items()
        for root, one in own.items()
        if one.error
    ]


def _estimates(own: Values, first: Values) -> dict[str, Any]:
    """Return means, gains and their standard errors of every measure."""
    means = {measure: estimate(list(found.values())) for measure, found in own.items()}
    gains = {measure: estimate(_gains(found, first[measure])) for measure, found in own.items()}
    return {
        "ours": {measure: one.mean for measure, one in means.items()},
        "gains": {measure: one.mean for measure, one in gains.items()},
        "standard_errors": {measure: one.error for measure, one in means.items()},
        "standard_errors_of_gains": {measure: one.error for measure, one in gains.items()},
    }


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


def _values(outcomes: Mapping[str, Outcome]) -> Values:
    """Return each measure by cell, without the cells in which it is not defined."""
    found: Values = {measure: {} for measure in (*MEASURES, *BY_VIEWS)}
    for root, outcome in outcomes.items():
        categories = outcome.metrics["categories"] if outcome.metrics else {}
        for category, levels in categories.items():
            own = {measure: levels[level][metric] for measure, (level, metric) in MEASURES.items()}
            for measure, value in {**own, **outcome.by_views.get(category, {})}.items():
                if value is not None and not math.isnan(value):
                    found[measure][root, category] = 100 * value
    return found


def _gains(own: Mapping[Cell, float], first: Mapping[Cell, float]) -> list[float]:
    return [value - first[cell] for cell, value in own.items() if cell in first]


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _facts(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return what goes with a row's figures: of its only run, or of each."""
    facts = {root: one.facts() for root, one in outcomes.items()}
    return next(iter(facts.values())) if len(facts) == 1 else {"runs": facts}
