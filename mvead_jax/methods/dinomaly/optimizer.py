"""StableAdamW and the learning rate that Dinomaly trains with (released code)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

_B1, _B2, _EPSILON = 0.9, 0.999, 1e-10


class StableAdamWState(NamedTuple):
    """Steps taken, both moments, and the largest second moment so far, for each parameter."""

    count: Int[Array, ""]
    first: Any
    second: Any
    largest: Any


def schedule(
    rate: float, final: float, warmup: int, steps: int
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """Return the learning rate by step, counted from 0.

    It rises from 0 along `warmup` points to `rate`, then falls along half a cosine to `final` after step `steps`.
    """

    def at(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        rising = rate * step / max(warmup - 1, 1)
        falling = final + 0.5 * (rate - final) * (
            1 + jnp.cos(jnp.pi * (step - warmup) / max(steps - warmup, 1))
        )
        return jnp.where(step < warmup, rising, falling)

    return at


def stable_adamw(
    rate: Callable[[Int[Array, ""]], Float[Array, ""]] | float, weight_decay: float
) -> optax.GradientTransformation:
    """Return AdamW (β .9 and .999, ε 1e-10, AMSGrad) whose rate is divided for each array by what g / D exceeds 1.

    D is the bias-corrected root of the largest second moment plus ε, and what is limited is the root mean square over
    an array of the raw gradient g by D (Wortsman et al. 2023, "Stable and low-precision training for large-scale
    vision-language models", in the form of the released code). Decoupled weight decay, on all parameters.
    """

    def init(parameters: Any) -> StableAdamWState:
        first, second, largest = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(3))
        return StableAdamWState(jnp.zeros((), jnp.int32), first, second, largest)

    def update(gradients: Any, state: StableAdamWState, parameters: Any) -> tuple[Any, StableAdamWState]:
        count = state.count + 1
        own_rate = rate(state.count) if callable(rate) else rate
        first = jax.tree.map(lambda m, g: _B1 * m + (1 - _B1) * g, state.first, gradients)
        second = jax.tree.map(lambda v, g: _B2 * v + (1 - _B2) * g * g, state.second, gradients)
        largest = jax.tree.map(jnp.maximum, state.largest, second)

        def change(p: Array, g: Array, m: Array, v: Array) -> Array:
            number = count.astype(p.dtype)
            scale = jnp.sqrt(v) / jnp.sqrt(1 - _B2**number) + _EPSILON
            excess = jnp.maximum(1, jnp.sqrt(jnp.square(g / scale).mean()))
            step = jnp.asarray(own_rate, p.dtype) / (1 - _B1**number) / excess
            decayed = jnp.asarray(own_rate, p.dtype) * weight_decay * p
            return -decayed - step * m / scale

        changes = jax.tree.map(change, parameters, gradients, first, largest)
        return changes, StableAdamWState(count, first, second, largest)

    return optax.GradientTransformation(init, update)
