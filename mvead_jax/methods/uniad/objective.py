"""UniAD's joined features, jitter, loss, map and image score, as the released code computes them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32

from mvead_jax.methods.resizing import enlarge, enlarge_features
from mvead_jax.methods.uniad.config import UniadTrainConfig
from mvead_jax.training.optimisers import learning_rate

POOL = 16  # side, in pixels, of the squares whose highest mean is an image's score


def joined(maps: Sequence[Float[Array, "h w C"]]) -> Float[Array, "H W D"]:
    """Return the feature maps of one image side by side, at the size of the last.

    Corner pixels stay corner pixels, and nothing is averaged: a finer map is looked up at single points.
    """
    size = maps[-1].shape[:2]
    own = [x if x.shape[:2] == size else enlarge_features(x, size) for x in maps]
    return jnp.concatenate(own, axis=-1)


def jittered(
    tokens: Float[Array, "N D"], noise: Float[Array, "N D"], scale: float = 20.0
) -> Float[Array, "N D"]:
    """Return features with noise, whose deviation is each feature's norm by its width, times a scale.

    Args:
      noise: standard normal.
    """
    norms = jnp.sqrt(jnp.square(tokens).sum(-1, keepdims=True))
    return tokens + noise * (norms / tokens.shape[-1] * scale)


def batch_loss(
    found: Float[Array, "n N D"], expected: Float[Array, "n N D"], counted: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Return the mean squared difference over the images that count; 0 if none does."""
    each = jnp.where(counted, jnp.square(found - expected).mean((1, 2)), 0)
    return each.sum() / jnp.maximum(counted.sum(), 1).astype(each.dtype)


def difference(found: Float[Array, "N D"], expected: Float[Array, "N D"]) -> Float[Array, " N"]:
    """Return the length of the difference at each position."""
    return jnp.sqrt(jnp.square(found - expected).sum(-1))


def anomaly_map(lengths: Float[Array, "h w"], size: tuple[int, int]) -> Float[Array, "H W"]:
    """Return the lengths at the size of the input, corner pixels kept; the released code smooths nothing."""
    return enlarge(lengths, size)


def image_scores(maps: Float32[np.ndarray, "*batch H W"]) -> Float32[np.ndarray, "*batch"]:
    """Return the highest mean of a square of 16 x 16 pixels, whole squares only; smaller maps are one square."""
    found = np.asarray(maps, np.float64)
    for axis in (-2, -1):
        side = min(POOL, found.shape[axis])
        windows = np.lib.stride_tricks.sliding_window_view(found, side, axis=axis)
        found = windows.mean(-1)
    return found.max((-2, -1)).astype(np.float32)


def optimiser(training: UniadTrainConfig, steps: int) -> optax.GradientTransformation:
    """Return AdamW after a clip of the global gradient norm; it decays all parameters, or matrices only (ADer)."""

    def mask(parameters):
        return jax.tree.map(lambda p: training.decayed == "all" or p.ndim >= 2, parameters)

    rule = optax.adamw(learning_rate(training, steps), weight_decay=training.weight_decay, mask=mask)
    return optax.chain(optax.clip_by_global_norm(training.clip), rule) if training.clip else rule
