"""Optimisers by the section `train` of a config."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mvead_jax.config.schema import TrainConfig


def learning_rate(config: TrainConfig, steps: int) -> optax.ScalarOrSchedule:
    """Return the learning rate at each of `steps` steps: a number if it is constant."""
    rate, warmup = config.learning_rate, round(config.warmup * steps)
    if config.schedule == "constant" and not warmup:
        return rate
    after: optax.Schedule = optax.constant_schedule(rate)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(1, steps - warmup))
    elif config.schedule == "step":
        after = optax.piecewise_constant_schedule(rate, {round(config.step_at * steps) - warmup: 0.1})
    rising = optax.linear_schedule(0.0, rate, warmup) if warmup else None
    return optax.join_schedules([rising, after], [warmup]) if rising else after


def adamw(config: TrainConfig, steps: int, b2: float = 0.999) -> optax.GradientTransformation:
    """Return AdamW by the config: its learning rate, weight decay and clipping of the global gradient norm.

    Args:
      steps: of the whole training.
      b2: decay of the mean of squared gradients.
    """
    optimiser = optax.adamw(learning_rate(config, steps), b2=b2, weight_decay=config.weight_decay)
    if config.clip:
        return optax.chain(optax.clip_by_global_norm(config.clip), optimiser)
    return optimiser


def clip_norm(largest: float) -> optax.GradientTransformation:
    """Return the clip min(1, largest / (norm + 1e-6)) of PyTorch; optax's own has no 1e-6."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None):
        factor = jnp.minimum(1, largest / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
