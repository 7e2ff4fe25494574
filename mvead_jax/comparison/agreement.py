"""How far the scores of two runs on the same images agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau


def score_differences(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """Differences |a - b|, as they are and relative to the scale of the scores.

    The scale is the median of |a|: a score near zero then counts by what it weighs among the others, where
    |a - b| / |a| would have no bound.

    Returns:
      largest, mean: of |a - b|. scale. relative_largest, relative_mean: divided by it. equal: how many scores
      are the same number. at: the place of the largest.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    differences = np.abs(a - b)
    scale = max(float(np.median(np.abs(a))), 1e-30)
    at = int(np.argmax(differences))
    return {
        "count": len(a),
        "equal": int((a == b).sum()),
        "largest": float(differences[at]),
        "mean": float(differences.mean()),
        "scale": scale,
        "relative_largest": float(differences[at]) / scale,
        "relative_mean": float(differences.mean()) / scale,
        "at": at,
    }


def rank_changes(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> dict[str, Any]:
    """How many places of the ranking by score hold another sample, and Kendall's tau-b (NaN if undefined)."""
    order_a, order_b = np.argsort(-a, kind="stable"), np.argsort(-b, kind="stable")
    tau = float(kendalltau(a, b).statistic) if len(a) > 1 else float("nan")
    return {"count": len(a), "moved": int((order_a != order_b).sum()), "kendall_tau": tau}
