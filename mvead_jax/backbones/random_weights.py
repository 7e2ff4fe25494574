"""What untrained networks start from: one function that gives standard normal numbers of a shape."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Gives standard normal float32 numbers of a shape.
Normal = Callable[[tuple[int, ...]], jax.Array | np.ndarray]


def from_seed(seed: int) -> Normal:
    """Return a function of the seed and of the order of calls; it compiles nothing."""
    rng = np.random.default_rng(seed)
    return lambda shape: rng.standard_normal(shape, np.float32)


def from_key(key: jax.Array) -> Normal:
    """Return a function of the key and of the order of calls, for inside of a trace; it compiles once a shape."""
    rngs = nnx.Rngs(key)
    return lambda shape: jax.random.normal(rngs(), shape, jnp.float32)


def no_numbers(shape: tuple[int, ...]) -> jax.Array:
    """Return zeros: for a network whose shapes alone matter, or whose weights come afterwards."""
    return jnp.zeros(shape, jnp.float32)
