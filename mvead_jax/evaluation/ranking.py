"""Metrics of a ranking: how well scores put defects (1) above normals (0). Exact, ties included.

Everything is sorted at once. Of all pixels of a category, `pixels.pixel_metrics` finds the same in less
memory.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from mvead_jax.evaluation import metrics
from mvead_jax.evaluation.metrics import Curve


def auroc(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve: P(defect above normal) + P(tie) / 2. NaN unless both labels occur."""
    return float(metrics.auroc(curve(scores, labels)).value)


def average_precision(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Return Σ (R_t - R_{t-1}) P_t over distinct thresholds, scikit-learn's definition. NaN without a defect."""
    return float(metrics.average_precision(curve(scores, labels)).value)


def f1_max(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the best F1 over all thresholds "defect if score >= t". NaN without a defect."""
    return float(metrics.f1_max(curve(scores, labels)).value)


def f1_max_threshold(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the t of `f1_max`: a score; the highest where several do. NaN without a defect."""
    return metrics.f1_max_threshold(curve(scores, labels))


def fpr_at_tpr(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], tpr: float = 0.95) -> float:
    """Return the lowest share of normals called defects by a threshold that finds at least `tpr` of the defects.

    No interpolation between thresholds. NaN unless both labels occur.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr}: must be above 0 and at most 1")
    return metrics.fpr_at_tpr(curve(scores, labels), tpr)


def curve(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Curve:
    """Return what metrics.py computes all metrics from: a block for each distinct score, none mixed.

    Raises:
      ValueError: a score is NaN, a label neither 0 nor 1, or there are not as many of them.
    """
    # float64 holds every float32 and every small integer, and has a minus for all of them.
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be two lists of one length")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: it has no place in a ranking")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    order, last = blocks(scores)
    true = np.diff(np.cumsum(labels[order].astype(np.int64))[last], prepend=0)
    count = np.diff(np.flatnonzero(last), prepend=-1)
    none = np.zeros(len(count))
    return Curve(scores[order][last], true, count - true, none, none > 0)


def blocks(scores: Float[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return the order of descending scores, and which places of it are the last of those that tie."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ordered = np.asarray(scores)[order]
    return order, np.append(ordered[1:] != ordered[:-1], np.full(min(1, len(ordered)), True))
