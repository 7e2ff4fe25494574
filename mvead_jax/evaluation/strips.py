"""Pixel metrics as some released codes approximate them: from counts in equal strips of score.

MVAD's code counts in 50 strips and Multi-Flow's in 10,000, both by the package ADEval. A figure of their logs
can be compared with ours digit by digit only if it is counted so; `pixels.pixel_metrics` gives the exact one.
The rules are ADEval's, oddities included: the highest score lies in the last strip and in the overflow, so
that it counts twice; no curve is drawn on to (0, 0); AP is the trapezoid of precision over recall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mvead_jax.evaluation.batches import Batches, read
from mvead_jax.evaluation.defects import Region, defect_pixels
from mvead_jax.evaluation.metrics import FPR_LIMIT

_F1_EPSILON = 1e-8  # in the denominators of ADer's F1


def strip_metrics(
    batches: Batches, strips: int, *, f1_steps: int = 0, bounds: Sequence[float] | None = None
) -> dict[str, float]:
    """Return AUROC, AP and AUPRO of a category's pixels, counted in strips between two scores.

    Reads all maps twice, or once where `bounds` are given.

    Args:
      strips: how many of them, of equal width.
      f1_steps: F1-max too, over so many steps of equal width between the bounds, as ADer finds it: a pixel is
        a defect strictly above a threshold. 0: no F1-max.
      bounds: between which the strips lie; None: between the lowest and the highest score.

    Returns:
      NaN where there is no defect, no normal pixel, or one score alone.
    """
    low, high = _range(batches) if bounds is None else bounds
    names = ("auroc", "ap", "aupro", *(("f1_max",) if f1_steps else ()))
    if not low < high:
        return dict.fromkeys(names, float("nan"))
    edges = np.linspace(float(low), float(high), strips + 1)
    true, false, weight = (np.zeros(strips + 2) for _ in range(3))
    taken = np.zeros((2, f1_steps + 1), np.int64)  # defects and normals above each threshold
    regions: list[Region] = []
    for batch in read(batches):
        found, normal = defect_pixels(batch, regions), batch.maps[~batch.masks]
        true += _counted(found.scores, edges)
        false += _counted(normal, edges)
        weight += _counted(found.scores, edges, found.weight(regions))
        if f1_steps:
            taken += np.stack([_above(own, low, high, f1_steps) for own in (found.scores, normal)])
    if not true.sum() or not false.sum():
        return dict.fromkeys(names, float("nan"))
    metrics = dict(zip(names, _areas(true, false, weight), strict=False))
    if f1_steps:
        # Each defect is in one region, which weighs 1 in all.
        positives = sum(region.area for region in regions)
        precision, recall = taken[0] / (taken.sum(0) + _F1_EPSILON), taken[0] / (positives + _F1_EPSILON)
        metrics["f1_max"] = float((2 * precision * recall / (precision + recall + _F1_EPSILON)).max())
    return metrics


def _range(batches: Batches) -> tuple[float, float]:
    """Return the lowest and the highest score; NaN where there is none."""
    ends = [(batch.maps.min(), batch.maps.max()) for batch in read(batches) if batch.maps.size]
    lowest, highest = zip(*ends, strict=True) if ends else ([np.nan], [np.nan])
    return float(min(lowest)), float(max(highest))


def _counted(
    scores: Float[np.ndarray, " n"],
    edges: Float[np.ndarray, " m"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " m+1"]:
    """Return how much lies below the edges, in each strip, and at or above the last edge."""
    amount = np.ones(len(scores)) if weight is None else weight
    scores = scores.astype(np.float64)
    within = np.histogram(scores, edges, weights=amount)[0]
    return np.concatenate([[amount[scores < edges[0]].sum()], within, [amount[scores >= edges[-1]].sum()]])


def _above(scores: Float[np.ndarray, " n"], low: float, high: float, steps: int) -> np.ndarray:
    """Return how many scores, scaled to 0..1, lie strictly above each of steps + 1 thresholds."""
    scaled = np.sort((scores - scores.dtype.type(low)) / scores.dtype.type(high - low))
    return len(scaled) - np.searchsorted(scaled, np.linspace(0, 1, steps + 1), side="right")


def _areas(
    true: Float[np.ndarray, " m"], false: Float[np.ndarray, " m"], weight: Float[np.ndarray, " m"]
) -> tuple[float, float, float]:
    """Return AUROC, AP and AUPRO of counts from the lowest strip to the highest."""
    defects, normals = (own[::-1].cumsum()[:-1] for own in (true, false))
    recall, fpr = defects / true.sum(), normals / false.sum()
    pro = weight[::-1].cumsum()[:-1] / weight.sum()
    called = defects + normals
    precision = np.divide(defects, called, out=np.ones_like(called), where=called > 0)
    return (
        float(np.trapezoid(recall, fpr)),
        float(np.trapezoid(precision, recall)),
        _limited(fpr, pro, FPR_LIMIT) / FPR_LIMIT,
    )


def _limited(fpr: Float[np.ndarray, " m"], pro: Float[np.ndarray, " m"], limit: float) -> float:
    """Return the area under the curve up to a limit; ADEval shares the trapezoid that the limit cuts by a rule
    of its own."""
    below = fpr <= limit
    last = int(below.sum()) - 1
    if last < 0:
        return float("nan")  # even the highest threshold lies beyond the limit
    left = float(np.trapezoid(pro[: last + 1], fpr[: last + 1]))
    if last + 1 == len(fpr):
        return left
    whole, right = float(np.trapezoid(pro, fpr)), float(np.trapezoid(pro[last + 1 :], fpr[last + 1 :]))
    part = (limit - fpr[last]) / (fpr[last + 1] - fpr[last])
    start, end = pro[last], pro[last + 1]
    linear = start / (start + (end - start) / 2) if end > 0 else 1.0
    return left + (whole - left - right) * (linear * part + (1 - linear) * part**2)
