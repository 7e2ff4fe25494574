"""Scores and labels -> metrics per category and their mean, as JSON and as a table for people."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mvead_jax.evaluation.ranking import auroc, average_precision, f1_max
from mvead_jax.evaluation.scored import ScoredSample

LEVELS = ("sample", "image")
METRICS = {"auroc": auroc, "ap": average_precision, "f1_max": f1_max}


def metrics_of(found: Sequence[ScoredSample], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
      found: all scored samples. Samples and images without a label are left out.
      protocol: how the numbers came about; goes with them wherever they go.

    Returns:
      {"protocol", "categories": {name: {level: metrics}}, "mean": {level: metrics}}. Metrics are in [0,1],
      NaN where a category has only one label. A mean is the plain mean over the categories that have a
      value, and counts them.
    """
    per_category = {}
    for category in sorted({one.sample.category for one in found}):
        own = [one for one in found if one.sample.category == category]
        per_category[category] = {
            "sample": _level_metrics([(one.sample.label, one.score) for one in own]),
            "image": _level_metrics(
                [(view.label, one.image_score(view.name)) for one in own for view in one.sample.views]
            ),
        }
    mean = {level: _mean([metrics[level] for metrics in per_category.values()]) for level in LEVELS}
    return {"protocol": dict(protocol), "categories": per_category, "mean": mean}


def _level_metrics(lines: Sequence[tuple[int | None, np.float32]]) -> dict[str, Any]:
    labels = np.array([label for label, _ in lines if label is not None], np.int64)
    scores = np.array([score for label, score in lines if label is not None], np.float32)
    values: dict[str, Any] = {name: metric(scores, labels) for name, metric in METRICS.items()}
    count = len(labels)
    return {
        **values,
        "count": count,
        "defective": int(labels.sum()),
        "base_rate": int(labels.sum()) / count if count else math.nan,
    }


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*METRICS, "base_rate"):
        values = [row[name] for row in rows if not math.isnan(row[name])]
        found[name] = math.fsum(values) / len(values) if values else math.nan
    found["categories"] = sum(not math.isnan(row["auroc"]) for row in rows)
    return found


def format_table(metrics: Mapping[str, Any]) -> str:
    """The metrics in percent, one line for each category, the mean, the base rates and the protocol.

    The table is Markdown in plain ASCII.
    """
    table = Table(box=box.MARKDOWN)
    table.add_column("category")
    for level in LEVELS:
        for name in ("AUROC", "AP", "F1-max", "base rate"):
            table.add_column(f"{level} {name}", justify="right")
    rows = [*metrics["categories"].items(), (f"mean of {len(metrics['categories'])}", metrics["mean"])]
    for name, levels in rows:
        cells = [_percent(levels[level][key]) for level in LEVELS for key in (*METRICS, "base_rate")]
        table.add_row(name, *cells)
    text = io.StringIO()
    console = Console(file=text, width=160, color_system=None)
    console.print(table)
    protocol = metrics["protocol"]
    console.print("percent; base rate = share of defective. Protocol:", highlight=False)
    for key, value in protocol.items():
        console.print(f"  {key}: {value}", highlight=False, markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
