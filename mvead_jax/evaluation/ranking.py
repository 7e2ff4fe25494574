"""Metrics of a ranking: how well scores put defects (1) above normals (0). Exact, ties included.

Everything is sorted at once. Of all pixels of a category, `pixels.pixel_metrics` finds the same in less
memory.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from mvead_jax.evaluation import curve as of_curve
from mvead_jax.evaluation.curve import Curve


def auroc(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: P(defect above normal) + P(tie) / 2. NaN unless both labels occur."""
    return of_curve.auroc(curve(scores, labels)).value


def average_precision(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Σ (R_t - R_{t-1}) P_t over distinct thresholds, scikit-learn's definition. NaN without a defect."""
    return of_curve.average_precision(curve(scores, labels)).value


def f1_max(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The best F1 over all thresholds "defect if score >= t". NaN without a defect."""
    return of_curve.f1_max(curve(scores, labels))[0].value


def f1_max_threshold(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The t of `f1_max`: a score; the highest where several do. NaN without a defect."""
    return of_curve.f1_max(curve(scores, labels))[1]


def fpr_at_tpr(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"], tpr: float = 0.95) -> float:
    """The lowest share of normals called defects by a threshold that finds at least `tpr` of the defects.

    No interpolation between thresholds. NaN unless both labels occur.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr is {tpr}: must be above 0 and at most 1")
    return of_curve.fpr_at_tpr(curve(scores, labels), tpr)


def curve(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Curve:
    """What evaluation/curve.py computes all metrics from: a block for each distinct score, none mixed.

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
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order].astype(np.int64)
    last_of_ties = np.flatnonzero(np.append(scores[1:] != scores[:-1], np.full(min(1, len(scores)), True)))
    true = np.diff(np.cumsum(labels)[last_of_ties], prepend=0)
    count = np.diff(last_of_ties, prepend=-1)
    none = np.zeros(len(count))
    return Curve(scores[last_of_ties], true, count - true, none, none > 0)
