"""Blocks of descending score, and the metrics that follow from them, each between two bounds.

A block is one score with all that tie on it, or a mixed block: a range of scores whose inner order was not
kept. A metric then lies between that of the worst inner order and that of the best; where no block is mixed
both are the same number and the metric is exact.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Curve(NamedTuple):
    """What the blocks hold, from the highest to the lowest; no block is empty.

    Attributes:
      lowest: "score >= lowest" takes this block and all above it.
      true: defects (int64: float32 counts stop growing at 2^24).
      false: normals.
      weight: what the defects weigh in the PRO curve, one in all; zeros where it is not asked.
      mixed: the order within the block is not known.
    """

    lowest: Float[np.ndarray, " T"]
    true: Int[np.ndarray, " T"]
    false: Int[np.ndarray, " T"]
    weight: Float[np.ndarray, " T"]
    mixed: Bool[np.ndarray, " T"]

    @property
    def positives(self) -> int:
        return int(self.true.sum())

    @property
    def negatives(self) -> int:
        return int(self.false.sum())


class Bounds(NamedTuple):
    """The metric lies in [low, high], but for rounding (1e-12)."""

    low: float
    high: float

    @property
    def value(self) -> float:
        return (self.low + self.high) / 2

    @property
    def error(self) -> float:
        """The value is wrong by at most so much: 0 where it is exact."""
        return (self.high - self.low) / 2


_UNDEFINED = Bounds(math.nan, math.nan)


def auroc(curve: Curve) -> Bounds:
    """Area under the ROC curve: P(defect above normal) + P(tie) / 2. NaN unless both labels occur."""
    positives, negatives = curve.positives, curve.negatives
    if not positives or not negatives:
        return _UNDEFINED
    # Twice the area, in whole numbers where int64 holds all pairs: that is so for 4e9 scores.
    kind = np.int64 if positives * negatives < 2**62 else np.float64
    above = (np.cumsum(curve.true) - curve.true).astype(kind)
    false = curve.false.astype(kind)
    pairs = curve.true * false
    low = 2 * (above * false).sum().item() + pairs[~curve.mixed].sum().item()
    high = low + 2 * pairs[curve.mixed].sum().item()
    all_of_it = 2 * positives * negatives
    return Bounds(min(low / all_of_it, 1.0), min(high / all_of_it, 1.0))


def average_precision(curve: Curve) -> Bounds:
    """Σ (R_t - R_{t-1}) P_t over distinct thresholds, scikit-learn's definition. NaN without a defect.

    Within a mixed block the best order has its defects first, and all at once: precision grows from one to
    the next. The worst has its normals first and then one defect after the other; their precisions,
    t / (t + f), are concave in t, so that the mean is at least that of the first and the last.
    """
    positives = curve.positives
    if not positives:
        return _UNDEFINED
    true, false = np.cumsum(curve.true), np.cumsum(curve.false)
    some = curve.true > 0  # elsewhere recall stands still
    own, mixed = curve.true[some], curve.mixed[some]
    before = (false - curve.false)[some]
    true, false = true[some], false[some]
    precision = true / (true + false)
    first = true - own + 1
    low = np.where(mixed, (first / (first + false) + precision) / 2, precision)
    high = np.where(mixed, true / (true + before), precision)
    share = own / positives
    return Bounds(min(float(np.sum(share * low)), 1.0), min(float(np.sum(share * high)), 1.0))


def f1_max(curve: Curve) -> tuple[Bounds, float]:
    """The best F1 over all thresholds "defect if score >= t", and the highest t that reaches the lower bound.

    Both NaN without a defect.
    """
    positives = curve.positives
    if not positives:
        return _UNDEFINED, math.nan
    true, false = np.cumsum(curve.true), np.cumsum(curve.false)
    known = 2 * true / (true + false + positives)
    best = int(known.argmax())
    defects_first = 2 * true / (true + (false - curve.false) + positives)
    high = defects_first.max(where=curve.mixed, initial=known[best])
    return Bounds(float(known[best]), float(high)), float(curve.lowest[best])


def fpr_at_tpr(curve: Curve, tpr: float) -> float:
    """The lowest FPR of the thresholds whose TPR is at least `tpr`, of a curve without mixed blocks.

    No interpolation between thresholds. NaN unless both labels occur.
    """
    positives, negatives = curve.positives, curve.negatives
    if not positives or not negatives:
        return math.nan
    first = int(np.argmax(np.cumsum(curve.true) / positives >= tpr))
    return int(curve.false[: first + 1].sum()) / negatives


def aupro(curve: Curve, fpr_limit: float) -> Bounds:
    """Area under the PRO curve up to an FPR, divided by that FPR: (1/l) ∫_0^l PRO d FPR.

    PRO is the weight at or above a threshold. The curve is linear between thresholds and at the limit, and
    starts at (0, 0). NaN unless both labels occur.
    """
    check_limit(fpr_limit)
    negatives = curve.negatives
    if not curve.positives or not negatives:
        return _UNDEFINED
    limit = fpr_limit * negatives
    end = np.cumsum(curve.false)
    # In units of normals: how much of each block's width lies below the limit, and at which height it starts.
    width = np.maximum(np.minimum(end, limit) - (end - curve.false), 0)
    height = np.cumsum(curve.weight) - curve.weight
    rise = np.where(curve.mixed, 0, width / np.maximum(curve.false, 1) / 2) * curve.weight
    low = float(np.sum(width * (height + rise))) / limit
    high = low + float(np.sum(width * curve.weight, where=curve.mixed)) / limit
    return Bounds(min(low, 1.0), min(high, 1.0))


def check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise ValueError(f"fpr_limit is {fpr_limit}: must be above 0 and at most 1")
