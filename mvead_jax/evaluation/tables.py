"""Metrics of categories and their mean, as JSON and as tables for people."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mvead_jax.evaluation.bootstrap import interval
from mvead_jax.evaluation.markdown import markdown
from mvead_jax.evaluation.metrics import LEVELS, TITLES, f1_max_threshold, fpr_at_tpr, metrics_of_level
from mvead_jax.evaluation.ranking import curve
from mvead_jax.evaluation.vanished import vanished_warning

# Of one category: {"<level>_<metric>": its resampled values [B]}.
Replicates = Mapping[str, Float[np.ndarray, " B"]]


def level_metrics(
    level: str, scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """Return the metrics of samples or images with what they are of. NaN where the labels allow none.

    Beside those of `LEVELS`: the threshold of f1_max, and the lowest share of normals called defects by a
    threshold that finds 95 % of the defects.
    """
    ranked = curve(scores, labels)
    count, defective = len(labels), int(labels.sum())
    return {
        **{name: float(own.value) for name, own in metrics_of_level(ranked, level).items()},
        "f1_max_threshold": f1_max_threshold(ranked),
        "fpr_at_tpr95": fpr_at_tpr(ranked, 0.95),
        "count": count,
        "defective": defective,
        "base_rate": defective / count if count else math.nan,
    }


def metrics_of(
    categories: Mapping[str, Mapping[str, Mapping[str, Any]]],
    protocol: Mapping[str, Any],
    replicates: Sequence[Replicates] = (),
) -> dict[str, Any]:
    """Return the content of metrics.json.

    Args:
      categories: {name: {level: metrics}}.
      protocol: how the numbers came about; goes with them wherever they go.
      replicates: of each category, in the same order; none = no intervals.

    Returns:
      {"protocol", "categories": {name: {level: metrics}}, "mean": {level: metrics}}. Metrics are in [0,1],
      NaN where a category has only one label. A mean is the plain mean over the categories that have a
      value, and counts them. "interval" holds [low, high] of each metric, 95 %.
    """
    found = {
        name: {level: own | _intervals(level, replicates[at : at + 1]) for level, own in levels.items()}
        for at, (name, levels) in enumerate(categories.items())
    }
    mean = {
        level: _mean(level, [own[level] for own in categories.values()]) | _intervals(level, replicates)
        for level in LEVELS
    }
    return {"protocol": dict(protocol), "categories": found, "mean": mean}


def mean_replicates(values: Sequence[Float[np.ndarray, " B"]]) -> Float[np.ndarray, " B"]:
    """Return the mean over the categories that have the metric: those without it are NaN in every resample."""
    known = [own for own in values if not np.isnan(own).all()]
    return np.mean(known, 0) if known else np.array([np.nan])


def _intervals(level: str, replicates: Sequence[Replicates]) -> dict[str, Any]:
    if not replicates:
        return {}
    names = {metric: f"{level}_{metric}" for metric in LEVELS[level]}
    values = {metric: mean_replicates([own[name] for own in replicates]) for metric, name in names.items()}
    return {"interval": {metric: interval(own) for metric, own in values.items()}}


def _mean(level: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*LEVELS[level], "base_rate"):
        found[name] = _plain_mean([row[name] for row in rows])
    if level == "pixel":
        found["error"] = {name: _plain_mean([row["error"][name] for row in rows]) for name in LEVELS[level]}
    found["categories"] = sum(not math.isnan(row["auroc"]) for row in rows)
    return found


def _plain_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


# What people ask for first, of all in metrics.json.
_SUMMARY = (
    *(("sample", name) for name in ("auroc", "ap", "f1_max")),
    *(("image", "auroc"), ("pixel", "auroc"), ("pixel", "aupro")),
)


def format_summary(metrics: Mapping[str, Any]) -> str:
    """Return the main metrics in percent as one Markdown table: a line for each category, and the mean of several."""
    rows = list(metrics["categories"].items())
    if len(rows) > 1:
        rows.append((f"mean of {len(rows)}", metrics["mean"]))
    lines = [
        [name, *(_percent(levels[level][metric]) for level, metric in _SUMMARY)] for name, levels in rows
    ]
    table = markdown(["percent", *(f"{level} {TITLES[metric]}" for level, metric in _SUMMARY)], lines, left=1)
    lost = vanished_warning(metrics["protocol"])
    return f"WARNING: {lost}\n{table}" if lost else table


def format_table(metrics: Mapping[str, Any]) -> str:
    """Return the metrics in percent with their intervals, and the protocol, as Markdown in plain ASCII.

    A table for each level; a line for each category, and the mean.
    """
    rows = [*metrics["categories"].items(), (f"mean of {len(metrics['categories'])}", metrics["mean"])]
    text = io.StringIO()
    console = Console(file=text, width=160, color_system=None)
    for level, names in LEVELS.items():
        table = Table(box=box.MARKDOWN)
        table.add_column(level)
        for name in (*names, "base_rate"):
            table.add_column(TITLES[name], justify="right")
        for category, levels in rows:
            own = levels[level]
            cells = [_cell(own, name) for name in names]
            table.add_row(escape(category), *cells, _percent(own["base_rate"]))
        console.print(table)
    note = "percent; base rate = share of defective"
    if any("interval" in own for own in metrics["mean"].values()):
        note += "; in brackets 95 % of the bootstrap over samples"
    if lost := vanished_warning(metrics["protocol"]):
        console.print(f"WARNING: {lost}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"{note}. Protocol:", highlight=False)
    for key, value in metrics["protocol"].items():
        console.print(f"  {key}: {value}", highlight=False, markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def _cell(own: Mapping[str, Any], name: str) -> str:
    """`84.6 [79.1, 89.9]`."""
    value = _percent(own[name])
    if value == "-" or "interval" not in own:
        return value
    low, high = map(_percent, own["interval"][name])
    return f"{value} [{low}, {high}]"


def _percent(value: float | None) -> str:
    """metrics.json says null where there is no figure, `metrics_of` says NaN."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
