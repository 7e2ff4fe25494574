"""How sure a metric is: a bootstrap over samples, and the paired one for the difference of two runs.

A resample draws as many samples as there are, with all their views, with replacement; defective and normal
ones apart, because a test set's share of defects was chosen by its makers and not drawn. A resample is a
number of copies for each sample, so a metric is computed from weighted counts without sorting again.

Copies depend only on the seed, the category and its samples' labels. Two runs scored on the same samples are
therefore resampled alike, and the differences of their resampled metrics are those of a paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95  # of the intervals
_ROWS = 64  # resamples at a time

Replicates = Mapping[str, Float[np.ndarray, " B"]]


def copies(labels: Int[np.ndarray, " S"], count: int, seed: int, category: str) -> Int[np.ndarray, "B S"]:
    """How often each of `count` resamples holds each sample.

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
) -> dict[str, Float[np.ndarray, " B"]]:
    """AUROC, AP and F1-max (evaluation.ranking) of each resample; NaN where one is not defined.

    Args:
      labels: 1 or 0.
      sample: whose each score is, a column of `drawn`.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    scores, labels, sample = scores[order], labels[order], sample[order]
    last = np.append(scores[1:] != scores[:-1], np.full(min(1, len(scores)), True))
    parts = []
    for start in range(0, max(1, len(drawn)), _ROWS):
        weight = drawn[start : start + _ROWS, sample].astype(np.float64)
        true = np.cumsum(weight * labels, 1)[:, last]
        false = np.cumsum(weight * (1 - labels), 1)[:, last]
        parts.append(_ranking(true, false, middle=False))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("auroc", "ap", "f1_max")}


def curve_replicates(
    true: Float[np.ndarray, "B K"],
    false: Float[np.ndarray, "B K"],
    weight: Float[np.ndarray, "B K"],
    fpr_limit: float,
) -> dict[str, Float[np.ndarray, " B"]]:
    """AUROC, AP, F1-max and AUPRO of counts in bins, from the highest score to the lowest.

    What lies in one bin counts as spread evenly over it: AP takes a bin's defects at the precision of its
    middle, AUROC and AUPRO are straight across it.

    Args:
      true, false: defect and normal pixels in each bin. weight: what the defects weigh in the PRO curve.
    """
    end = np.cumsum(false, 1)
    found = _ranking(np.cumsum(true, 1), end, middle=True)
    limit = fpr_limit * end[:, -1:]
    width = np.maximum(np.minimum(end, limit) - (end - false), 0)
    height = np.cumsum(weight, 1) - weight
    area = (width * (height + width / np.maximum(false, 1) / 2 * weight)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found["aupro"] = area / limit[:, 0] / weight.sum(1)
    return found


def interval(replicates: Float[np.ndarray, " B"]) -> list[float]:
    """The percentile interval [low, high]; NaN where no resample has the metric."""
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
    """The difference of two runs on the same samples, from resamples that drew the same.

    p = 2 min(P(d <= 0), P(d >= 0)) over the resampled differences d, each counted with one more of B + 1, at
    most 1; so it is never below 2 / (B + 1).
    """
    differences = a_replicates - b_replicates
    differences = differences[~np.isnan(differences)]
    low, high = interval(differences)
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(differences) + 1)) if len(differences) else float("nan")
    return Difference(a - b, (low, high), p)


def _ranking(true: np.ndarray, false: np.ndarray, *, middle: bool) -> dict[str, np.ndarray]:
    """From cumulative counts [B,T] at descending thresholds. middle: AP at the middle of each block."""
    if not true.shape[1]:
        nan = np.full(len(true), np.nan)
        return {"auroc": nan, "ap": nan, "f1_max": nan}
    own, normal = np.diff(true, axis=1, prepend=0), np.diff(false, axis=1, prepend=0)
    positives, negatives = true[:, -1], false[:, -1]
    area = (normal * (true - own / 2)).sum(1)
    at = (true - own / 2, false - normal / 2) if middle else (true, false)
    precision = at[0] / np.maximum(at[0] + at[1], 1e-300)  # a block that nobody drew has own = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "auroc": area / (positives * negatives),
            "ap": (own * precision).sum(1) / positives,
            "f1_max": (2 * true / (true + false + positives[:, None])).max(1),
        }
        found["f1_max"][positives == 0] = np.nan
    return found
