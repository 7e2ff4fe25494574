"""Training samples as batches over the mesh, for every method that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from mvead_jax.methods.base import TrainData
from mvead_jax.runtime import sharding


def training_batch(
    data: TrainData,
    present: Bool[np.ndarray, "S V"],
    categories: Int[np.ndarray, " S"],
    chosen: Int[np.ndarray, " n"],
    size: int,
) -> dict[str, Any]:
    """Return some training samples over the mesh, filled up by repeats that weigh nothing.

    Up to `size`, and to a multiple of the devices; each process reads its own rows.

    Args:
      present, categories: of all samples, `index.present()` and `data.category_numbers()`.
      chosen: positions of the samples, at most `size`.

    Returns:
      "features" {tap: [B,V,h,w,D]}, "present" [B,V], "category" [B], "weight" [B] (0 for a repeat), and
      "images" [B,V,H,W,3] where the method requires them, and "foreground" [B,V,h,w] where masks are asked for.
    """
    rows = sharding.padded(size)
    places = np.arange(rows)[sharding.own_rows(rows)]
    filled = chosen[places % len(chosen)]
    batch: dict[str, Any] = {
        "features": read_features(data.features, filled),
        "present": present[filled],
        "category": categories[filled],
        "weight": (places < len(chosen)).astype(np.float32),
    }
    if data.images is not None:
        batch["images"] = data.images(filled)
    if data.foreground is not None:
        batch["foreground"] = data.foreground(filled)
    return sharding.place(batch)


def read_features(features: Mapping[str, Any], rows: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """Return the feature maps [n,V,h,w,D] of some samples by tap, from arrays or FeatureStores."""
    return {tap: np.asarray(store[rows], np.float32) for tap, store in features.items()}
