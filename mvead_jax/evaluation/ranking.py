"""Metrics of a ranking: how well scores put defects (1) above normals (0). Exact, ties included."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class _Curve(NamedTuple):
    """True and false positives at or above every distinct score, from the highest."""

    true: Int[np.ndarray, " T"]
    false: Int[np.ndarray, " T"]


def auroc(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: P(defect above normal) + P(tie) / 2. NaN unless both labels occur."""
    curve = _curve(scores, labels)
    positives, negatives = _totals(curve)
    if not positives or not negatives:
        return math.nan
    # Twice the area, in whole numbers: at most n^2 / 2, which int64 holds for 4e9 scores.
    width, height = np.diff(curve.false, prepend=0), curve.true + np.concatenate([[0], curve.true[:-1]])
    return int(np.sum(width * height)) / (2 * positives * negatives)


def average_precision(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Σ (R_t - R_{t-1}) P_t over distinct thresholds, scikit-learn's definition. NaN without a defect."""
    curve = _curve(scores, labels)
    positives, _ = _totals(curve)
    if not positives:
        return math.nan
    precision = curve.true / (curve.true + curve.false)
    return float(np.sum(np.diff(curve.true, prepend=0) / positives * precision))


def f1_max(scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """The best F1 over all thresholds "defect if score >= t". NaN without a defect."""
    curve = _curve(scores, labels)
    positives, _ = _totals(curve)
    if not positives:
        return math.nan
    return float((2 * curve.true / (curve.true + curve.false + positives)).max())


def _totals(curve: _Curve) -> tuple[int, int]:
    return (int(curve.true[-1]), int(curve.false[-1])) if len(curve.true) else (0, 0)


def _curve(scores, labels) -> _Curve:
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
    true = np.cumsum(labels)[last_of_ties]
    return _Curve(true, last_of_ties + 1 - true)
