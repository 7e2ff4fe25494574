"""Dinomaly's loose loss: one cosine an image, with small gradients where a batch is already given back well.

The value of the loss is that of the plain cosine; only its gradient knows of easy positions (released code).

Letters: N images, P positions of an image, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_SMALLEST_NORM = 1e-8


def cosine_distance(a: Float[Array, "*batch D"], b: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """Return 1 - cos of the vectors along the last axis, norms being at least 1e-8."""
    squares = (jnp.maximum(jnp.square(x).sum(-1), _SMALLEST_NORM**2) for x in (a, b))
    first, second = map(jnp.sqrt, squares)
    return 1 - (a * b).sum(-1) / (first * second)


def hard_positions(step: int, positions: int, easy: float, easy_steps: int) -> int:
    """Return how many of the positions of a batch keep their whole gradient at a step, counted from 0.

    Computed in Python's numbers, as released: of 1000 positions and a share of 0.9 easy ones 99 are left.
    """
    return int(positions * (1 - min(easy * step / easy_steps, easy)))


def hard_table(images: int, positions: int, easy: float, easy_steps: int) -> Int[np.ndarray, "steps images"]:
    """Return `hard_positions` of each step up to the one from which it stays, and each number of images.

    Args:
      images: the most of a batch; the second axis goes from 0 to it. positions: of an image.
    """
    return np.array(
        [
            [hard_positions(step, count * positions, easy, easy_steps) for count in range(images + 1)]
            for step in range(easy_steps + 1)
        ],
        np.int32,
    )


def hard_threshold(
    distances: Float[Array, "N P"], counted: Bool[Array, " N"], hard: Int[Array, ""]
) -> Float[Array, ""]:
    """Return the distance at and above which positions are hard: the `hard`-th largest of the images that count."""
    ranked = jnp.sort(jnp.where(counted[:, None], distances, -jnp.inf).reshape(-1), descending=True)
    return ranked[jnp.maximum(hard - 1, 0)]


def loose_loss(
    encoded: Sequence[Float[Array, "N P D"]],
    decoded: Sequence[Float[Array, "N P D"]],
    counted: Bool[Array, " N"],
    hard: Int[Array, ""],
    easy_gradient: float,
) -> Float[Array, ""]:
    """Return the mean over groups and over the images that count of 1 - cos of whole feature maps.

    Args:
      encoded, decoded: of each group; the encoder gets no gradient.
      hard: how many positions of all images that count have the whole gradient, in each group.
      easy_gradient: the factor of the gradient at all others.
    """
    losses = [_group_loss(e, d, counted, hard, easy_gradient) for e, d in zip(encoded, decoded, strict=True)]
    return sum(losses) / len(losses)


def _group_loss(
    encoded: Float[Array, "N P D"],
    decoded: Float[Array, "N P D"],
    counted: Bool[Array, " N"],
    hard: Int[Array, ""],
    easy_gradient: float,
) -> Float[Array, ""]:
    # Before any norm: its derivative at zero is no number, which no factor of 0 could take away afterwards.
    there = counted[:, None, None]
    encoded, decoded = jnp.where(there, jax.lax.stop_gradient(encoded), 1), jnp.where(there, decoded, 1)
    fixed = jax.lax.stop_gradient(decoded)
    distances = cosine_distance(encoded, fixed)
    easy = distances < hard_threshold(distances, counted, hard)
    decoded = jnp.where(easy[..., None], fixed + easy_gradient * (decoded - fixed), decoded)
    images = len(counted)
    each = cosine_distance(encoded.reshape(images, -1), decoded.reshape(images, -1))
    share = counted.astype(each.dtype) / jnp.maximum(counted.sum(), 1).astype(each.dtype)
    return (each * share).sum()
