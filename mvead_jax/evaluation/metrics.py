"""Every metric, once: a function of blocks of descending score, for all samples and for resamples of them alike.

A block is one score with all that tie on it, or a mixed block: a range of scores whose inner order was not
kept. A metric then lies between that of the worst inner order and that of the best; where no block is mixed
both are the same number and the metric is exact. A resample is the same blocks with other counts: it is a row
of an axis before that of the blocks.

To add a metric: a function here and its line in `METRICS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num

FPR_LIMIT = 0.3  # of AUPRO, unless something else is asked for


class Curve(NamedTuple):
    """What the blocks hold, from the highest to the lowest.

    Attributes:
      lowest: "score >= lowest" takes this block and all above it.
      true: defects (int64: float32 counts stop growing at 2^24). false: normals. Of resamples [B,T].
      weight: what the defects weigh in the PRO curve; zeros where it is not asked.
      mixed: the order within the block is not known.
      fpr_limit: up to which the PRO curve is integrated.
      spread: what lies in a mixed block counts as spread evenly over it, and a metric is one number: AP takes
        a block's defects at the precision of its middle, AUROC and AUPRO are straight across it.
    """

    lowest: Float[np.ndarray, " T"]
    true: Num[np.ndarray, "*B T"]
    false: Num[np.ndarray, "*B T"]
    weight: Float[np.ndarray, "*B T"]
    mixed: Bool[np.ndarray, " T"]
    fpr_limit: float = FPR_LIMIT
    spread: bool = False

    @property
    def positives(self) -> Num[np.ndarray, "*B"]:
        return self.true.sum(-1)

    @property
    def negatives(self) -> Num[np.ndarray, "*B"]:
        return self.false.sum(-1)


class Bounds(NamedTuple):
    """The metric lies in [low, high], but for rounding (1e-12)."""

    low: Float[np.ndarray, "*B"]
    high: Float[np.ndarray, "*B"]

    @property
    def value(self) -> Float[np.ndarray, "*B"]:
        return (self.low + self.high) / 2

    @property
    def error(self) -> Float[np.ndarray, "*B"]:
        """The value is wrong by at most so much: 0 where it is exact."""
        return (self.high - self.low) / 2


def auroc(curve: Curve) -> Bounds:
    """Return the area under the ROC curve: P(defect above normal) + P(tie) / 2. NaN unless both labels occur."""
    positives, negatives = curve.positives, curve.negatives
    # Twice the area, in whole numbers where int64 holds all pairs: that is so for 4e9 scores.
    pairs = np.asarray(positives, np.float64) * negatives
    kind = np.int64 if curve.true.dtype.kind == "i" and pairs < 2.0**62 else np.float64
    above = (np.cumsum(curve.true, -1) - curve.true).astype(kind)
    false = curve.false.astype(kind)
    within = curve.true * false
    low = 2 * (above * false).sum(-1) + np.where(curve.mixed, 0, within).sum(-1)
    high = low + 2 * np.where(curve.mixed, within, 0).sum(-1)
    return _bounds(curve, low, high, 2 * (positives * negatives if kind is np.int64 else pairs))


def average_precision(curve: Curve) -> Bounds:
    """Return Σ (R_t - R_{t-1}) P_t over distinct thresholds, scikit-learn's definition. NaN without a defect.

    Within a mixed block the best order has its defects first, and all at once: precision grows from one to
    the next. The worst has its normals first and then one defect after the other; their precisions,
    t / (t + f), are concave in t, so that the mean is at least that of the first and the last.
    """
    true, false = np.cumsum(curve.true, -1), np.cumsum(curve.false, -1)
    own, before = curve.true, false - curve.false
    first = true - own + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = true / (true + false)
        if curve.spread:
            half = true - own / 2
            low = high = np.where(curve.mixed, half / (half + (false + before) / 2), precision)
        else:
            low = np.where(curve.mixed, (first / (first + false) + precision) / 2, precision)
            high = np.where(curve.mixed, true / (true + before), precision)
        share = own / curve.positives[..., None]
    some = own > 0  # elsewhere recall stands still
    low, high = (np.where(some, share * one, 0).sum(-1) for one in (low, high))
    return _bounds(curve, low, high, np.where(curve.positives > 0, 1.0, 0.0))


def f1_max(curve: Curve) -> Bounds:
    """Return the best F1 over all thresholds "defect if score >= t". NaN without a defect."""
    known, defects_first = _f1(curve)
    low = known.max(-1, initial=0)
    mixed = curve.mixed & ~np.bool_(curve.spread)
    high = np.maximum(defects_first.max(-1, where=mixed, initial=0), low)
    return _bounds(curve, low, high, np.where(curve.positives > 0, 1.0, 0.0))


def f1_max_threshold(curve: Curve) -> float:
    """Return the highest threshold that reaches the lower bound of `f1_max`. NaN without a defect."""
    return float(curve.lowest[_f1(curve)[0].argmax()]) if curve.positives else math.nan


def fpr_at_tpr(curve: Curve, tpr: float) -> float:
    """Return the lowest FPR of the thresholds whose TPR is at least `tpr`, of a curve without mixed blocks.

    No interpolation between thresholds. NaN unless both labels occur.
    """
    positives, negatives = curve.positives, curve.negatives
    if not positives or not negatives:
        return math.nan
    first = int(np.argmax(np.cumsum(curve.true) / positives >= tpr))
    return int(curve.false[: first + 1].sum()) / int(negatives)


def aupro(curve: Curve) -> Bounds:
    """Return the area under the PRO curve up to an FPR, divided by that FPR: (1/l) ∫_0^l PRO d FPR.

    PRO is the share of the weight at or above a threshold. The curve is linear between thresholds and at the
    limit, and starts at (0, 0). NaN unless both labels occur.
    """
    check_limit(curve.fpr_limit)
    limit = (curve.fpr_limit * curve.negatives)[..., None]
    end = np.cumsum(curve.false, -1)
    # In units of normals: how much of each block's width lies below the limit, and at which height it starts.
    width = np.maximum(np.minimum(end, limit) - (end - curve.false), 0)
    height = np.cumsum(curve.weight, -1) - curve.weight
    mixed = curve.mixed & ~np.bool_(curve.spread)
    rise = np.where(mixed, 0, width / np.maximum(curve.false, 1) / 2) * curve.weight
    low = np.sum(width * (height + rise), -1)
    high = low + np.sum(np.where(mixed, width * curve.weight, 0), -1)
    return _bounds(curve, low, high, limit[..., 0] * curve.weight.sum(-1))


def check_limit(fpr_limit: float) -> None:
    """Raise ValueError for an FPR up to which no curve can be integrated."""
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit is {fpr_limit}: must be above 0 and at most 1")


def _bounds(curve: Curve, low: np.ndarray, high: np.ndarray, all_of_it: np.ndarray) -> Bounds:
    """Shares of all of it, at most 1; NaN where there is nothing."""
    if curve.spread:
        low = high = (low + high) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (
            np.where(all_of_it > 0, np.minimum(one / all_of_it, 1.0), np.nan)[()] for one in (low, high)
        )
        return Bounds(*shares)


def _f1(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """F1 after each block, and after its defects if these come before its normals."""
    positives = curve.positives[..., None]
    true, false = np.cumsum(curve.true, -1), np.cumsum(curve.false, -1)
    with np.errstate(invalid="ignore"):
        return 2 * true / (true + false + positives), 2 * true / (true + (false - curve.false) + positives)


class Metric(NamedTuple):
    """A metric of tables and intervals. levels: of which it is a figure: samples, images, pixels."""

    title: str
    levels: tuple[str, ...]
    of: Callable[[Curve], Bounds]


_ALL = ("sample", "image", "pixel")
METRICS: dict[str, Metric] = {
    "auroc": Metric("AUROC", _ALL, auroc),
    "ap": Metric("AP", _ALL, average_precision),
    "f1_max": Metric("F1-max", _ALL, f1_max),
    "aupro": Metric("AUPRO", ("pixel",), aupro),
}
# The names of each level's metrics, in the order of the tables; and the titles of all.
LEVELS = {level: tuple(name for name, own in METRICS.items() if level in own.levels) for level in _ALL}
TITLES = {name: own.title for name, own in METRICS.items()} | {"base_rate": "base rate"}


def metrics_of_level(curve: Curve, level: str) -> dict[str, Bounds]:
    """Return all metrics of a level, by name."""
    return {name: METRICS[name].of(curve) for name in LEVELS[level]}
