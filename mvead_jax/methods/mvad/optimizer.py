"""MVAD's optimiser: AdamW with clipped gradients and one step down of the learning rate (released code)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mvead_jax.training.optimisers import clip_norm

# The released configuration: .005 for 16 images, of which a step has 40.
LEARNING_RATE = 0.005 * 8 * 5 / 16


def optimizer(
    *,
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = 1e-4,
    clip: float = 5.0,
    decay_at: float = 0.8,
    decay: float = 0.1,
) -> optax.GradientTransformation:
    """Return AdamW (β .9 and .999, ε 1e-8, decoupled) after a clip of the whole gradient's norm.

    Args:
      epochs, steps_per_epoch, learning_rate, decay_at, decay: as in `schedule`.
      weight_decay: of parameters with two or more axes; biases and gains have none.
      clip: the largest norm of the gradient.
    """
    return optax.chain(
        clip_norm(clip),
        optax.adamw(
            schedule(learning_rate, epochs, steps_per_epoch, decay_at, decay),
            weight_decay=weight_decay,
            mask=lambda parameters: jax.tree.map(lambda p: p.ndim >= 2, parameters),
        ),
    )


def schedule(
    learning_rate: float, epochs: int, steps_per_epoch: int, decay_at: float = 0.8, decay: float = 0.1
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """Return the learning rate by step, counted from 0.

    Args:
      decay_at: the share of the epochs, rounded down to whole ones, after which the rate falls.
      decay: the factor by which it falls, once.
    """
    boundary = int(decay_at * epochs + 1e-9) * steps_per_epoch  # of .8 times 15 epochs 12
    return lambda step: jnp.where(step < boundary, learning_rate, learning_rate * decay)
