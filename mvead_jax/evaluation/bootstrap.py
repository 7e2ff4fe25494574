"""How sure a metric is: a bootstrap over samples, and the paired one for the difference of two runs.

A resample draws as many samples as there are, with all their views, with replacement; defective and normal
ones apart, because a test set's share of defects was chosen by its makers and not drawn. A resample is a
number of copies for each sample, so a metric is computed from weighted counts without sorting again.

Copies depend only on the seed, the category and its samples' labels. Two runs scored on the same samples are
therefore resampled alike, and the differences of their resampled metrics are those of a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation.metrics import Curve, metrics_of_level
from mvead_jax.evaluation.ranking import blocks

LEVEL = 0.95  # of the intervals
_ROWS = 64  # resamples at a time

Replicates = Mapping[str, Float[np.ndarray, " B"]]


def copies(labels: Int[np.ndarray, " S"], count: int, seed: int, category: str) -> Int[np.ndarray, "B S"]:
    """Return how often each of `count` resamples holds each sample.

    Args:
      labels: of the samples, 1, 0, or -1 for unknown; each is resampled among its own.
    """
    random = np.random.default_rng([seed, *category.encode()])
    found = np.zeros((count, len(labels)), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        found[:, own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), count)
    return found


def ranking_replicates(
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    sample: Int[np.ndarray, " n"],
    drawn: Int[np.ndarray, "B S"],
    level: str,
) -> dict[str, Float[np.ndarray, " B"]]:
    """Return the metrics of a level, by name, of each resample; NaN where one is not defined.

    Args:
      labels: 1 or 0.
      sample: whose each score is, a column of `drawn`.
    """
    order, last = blocks(scores)
    labels, sample, lowest = labels[order], sample[order], np.asarray(scores, np.float64)[order][last]

    def counted(weight: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b T"]:
        return np.diff(np.cumsum(weight, 1)[:, last], axis=1, prepend=0)

    def curves(part: Int[np.ndarray, "b S"]) -> Curve:
        weight = part[:, sample].astype(np.float64)
        true, false = counted(weight * labels), counted(weight * (1 - labels))
        return Curve(lowest, true, false, np.zeros_like(true), np.zeros(len(lowest), bool))

    return replicates(curves, drawn, level)


def replicates(
    curves: Callable[[Int[np.ndarray, "b S"]], Curve], drawn: Int[np.ndarray, "B S"], level: str
) -> dict[str, Float[np.ndarray, " B"]]:
    """Return the metrics of a level of each resample. Args: curves: of some resamples, an axis before the blocks."""
    starts = range(0, max(1, len(drawn)), _ROWS)
    parts = [metrics_of_level(curves(drawn[start : start + _ROWS]), level) for start in starts]
    return {name: np.concatenate([part[name].value for part in parts]) for name in parts[0]}


def interval(replicates: Float[np.ndarray, " B"]) -> list[float]:
    """Return the percentile interval [low, high]; NaN where no resample has the metric."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return [float("nan"), float("nan")]
    return [float(value) for value in np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


class Difference(NamedTuple):
    """value: a - b. interval: of it. p: two-sided, that of no difference."""

    value: float
    interval: tuple[float, float]
    p: float


def paired(a: float, b: float, a_replicates: np.ndarray, b_replicates: np.ndarray) -> Difference:
    """Return the difference of two runs on the same samples, from resamples that drew the same.

    p = 2 min(P(d <= 0), P(d >= 0)) over the resampled differences d, each counted with one more of B + 1, at
    most 1; so it is never below 2 / (B + 1).
    """
    differences = a_replicates - b_replicates
    differences = differences[~np.isnan(differences)]
    low, high = interval(differences)
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(differences) + 1)) if len(differences) else float("nan")
    return Difference(a - b, (low, high), p)
