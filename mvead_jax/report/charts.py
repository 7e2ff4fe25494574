"""Histograms, ROC and PR curves of a category as paths of SVG, in the units of templates/charts.jinja."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation.metrics import Curve, auroc, average_precision
from mvead_jax.evaluation.ranking import curve
from mvead_jax.report.findings import FoundSample
from mvead_jax.report.outcomes import Cut

WIDTH, HEIGHT = 196, 120  # of the area within the axes
_BINS = 24


def charts_of(samples: Sequence[FoundSample], cut: Cut) -> dict[str, Any]:
    """The charts of one category: "histogram", and where both labels occur "roc" and "pr".

    A curve is drawn of the samples and of the views, each with the metric that belongs to it.
    """
    views = [view for one in samples for view in one.views]
    found: dict[str, Any] = {
        "histogram": histogram(
            np.array([one.score for one in samples]),
            np.array([-1 if one.label is None else one.label for one in samples]),
            cut.threshold,
        ),
        "roc": [],
        "pr": [],
    }
    for name, these in (("samples", samples), ("views", views)):
        known = [one for one in these if one.label is not None]
        if {one.label for one in known} != {0, 1}:
            continue
        ranked = curve(np.array([one.score for one in known]), np.array([one.label for one in known]))
        found["roc"].append({"of": name, "path": _path(*roc(ranked)), "value": float(auroc(ranked).value)})
        found["pr"].append(
            {
                "of": name,
                "path": _path(*precision_recall(ranked)),
                "value": float(average_precision(ranked).value),
                "base": HEIGHT * (1 - ranked.positives / (ranked.positives + ranked.negatives)),
            }
        )
    return found


def roc(ranked: Curve) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(false-alarm rate, share of defects found) from (0, 0) to (1, 1), a point for each threshold."""
    false = np.append(0, np.cumsum(ranked.false)) / ranked.negatives
    true = np.append(0, np.cumsum(ranked.true)) / ranked.positives
    return false, true


def precision_recall(ranked: Curve) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(recall, precision) as steps, under which lies the average precision."""
    true, false = np.cumsum(ranked.true), np.cumsum(ranked.false)
    recall, precision = true / ranked.positives, true / (true + false)
    return np.stack([np.append(0, recall[:-1]), recall], 1).ravel(), np.repeat(precision, 2)


def histogram(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], threshold: float | None
) -> dict[str, Any]:
    """Steps of each label that occurs (1, 0, -1 for unknown), on common bins and a common height."""
    low, high = float(scores.min()), float(scores.max())
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = {
        label: np.histogram(scores[labels == label], _BINS, (low, high))[0]
        for label in (0, 1, -1)
        if (labels == label).any()
    }
    top = max(int(own.max()) for own in counts.values())
    edges = np.linspace(0, WIDTH, _BINS + 1)

    def steps(own):
        heights = HEIGHT * (1 - own / top)
        x, y = np.repeat(edges, 2), np.concatenate([[HEIGHT], np.repeat(heights, 2), [HEIGHT]])
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)) + "Z"

    def place(score):
        return WIDTH * (score - low) / (high - low)

    return {
        "steps": {label: steps(own) for label, own in counts.items()},
        "counts": {label: int(own.sum()) for label, own in counts.items()},
        "top": top,
        "ticks": [(place(tick), f"{tick:.6g}") for tick in round_ticks(low, high)],
        "range": (low, high),
        "threshold": None if threshold is None else place(threshold),
    }


def round_ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers between low and high."""
    step = 10.0 ** np.floor(np.log10(high - low))
    for share in (1.0, 0.5, 0.25, 0.2):
        first, last = np.ceil(low / (step * share)), np.floor(high / (step * share))
        if last - first >= 1:
            every = int(np.ceil((last - first + 1) / 5))
            return [float(f"{n * step * share:.12g}") for n in np.arange(first, last + 1, every)]
    return [low, high]


def _path(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> str:
    """A line through points of the unit square, y up, without those that no one would see."""
    places = _bends(np.stack([x * WIDTH, (1 - y) * HEIGHT], 1))
    places = (2 * places).round() / 2
    changed = np.append(True, (np.diff(places, axis=0) != 0).any(1))
    return "M" + "L".join(f"{a:g} {b:g}" for a, b in _bends(places[changed]))


def _bends(places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """Without the points amid a straight line."""
    before, after = np.diff(places, axis=0)[:-1], np.diff(places, axis=0)[1:]
    bend = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return places[np.concatenate([[True], bend, [True]])] if len(places) > 2 else places
