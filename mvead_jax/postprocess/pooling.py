"""From the scores of a sample's views to the score of the sample."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32

Pooling = Literal["max", "mean"]


def pooled(scores: Float32[np.ndarray, "n V"], pooling: Pooling) -> Float32[np.ndarray, " n"]:
    """Return the highest score of each sample's views (MVEAD, eq. 11), or their mean. All views are present."""
    return scores.max(1) if pooling == "max" else scores.mean(1, dtype=np.float64).astype(np.float32)
