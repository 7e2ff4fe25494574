"""Training samples as batches over the mesh, for every method that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

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
    filled, weight = filled_up(chosen, size)
    batch: dict[str, Any] = {
        "features": read_features(data.features, filled),
        "present": present[filled],
        "category": categories[filled],
        "weight": weight,
    }
    if data.images is not None:
        batch["images"] = data.images(filled)
    if data.foreground is not None:
        batch["foreground"] = data.foreground(filled)
    return sharding.place(batch)


def filled_up(
    chosen: Int[np.ndarray, " n"], size: int
) -> tuple[Int[np.ndarray, " b"], Float32[np.ndarray, " b"]]:
    """Return the positions of this process's rows of a batch, filled up by repeats, and their weights: 0 of a
    repeat. Arguments as of `training_batch`."""
    rows = sharding.padded(size)
    places = np.arange(rows)[sharding.own_rows(rows)]
    return chosen[places % len(chosen)], (places < len(chosen)).astype(np.float32)


def counted_images(batch: Mapping[str, Any]) -> Bool[Array, "B V"]:
    """Return which images of a training batch count: views that are present, of samples that are no repeats."""
    return jnp.asarray(batch["present"]) & (jnp.asarray(batch["weight"]) > 0)[:, None]


def read_features(features: Mapping[str, Any], rows: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """Return the feature maps [n,V,h,w,D] of some samples by tap, from arrays or FeatureStores."""
    return {tap: np.asarray(store[rows], np.float32) for tap, store in features.items()}
