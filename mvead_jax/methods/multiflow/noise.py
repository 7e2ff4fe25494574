"""Noise on the features while training, and the condition that tells the flow of it.

One map of noise per sample is added to every channel of every view; the flow gets 20 times that map as one
more channel of every sub-network (released code). At evaluation the noise and the condition are zero.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# In the order of the released code's `use_noise`: 0, 1 (its default), 2, 3.
Noise = Literal["none", "gaussian", "softflow", "uniform"]
DEVIATION = 0.15
CONDITION_SCALE = 20.0


def draw_noise(kind: Noise, key: Array, grid: tuple[int, int]) -> Float[Array, "H W 1"] | None:
    """Return the noise of one training sample, or None where the flow has no condition.

    Args:
      kind: `gaussian`: normal noise of standard deviation 0.15; `softflow`: normal noise of standard
        deviation c², with c drawn uniformly from [0, 1) for the sample; `uniform`: uniform noise in [0, 1).
      key: of the sample and the step.
      grid: (H, W) of the feature maps.
    """
    shape = (*grid, 1)
    if kind == "none":
        return None
    if kind == "uniform":
        return jax.random.uniform(key, shape, jnp.float32)
    if kind == "gaussian":
        return DEVIATION * jax.random.normal(key, shape, jnp.float32)
    if kind == "softflow":
        for_deviation, for_map = jax.random.split(key)
        deviation = jax.random.uniform(for_deviation, (1, 1, 1), jnp.float32) ** 2
        return deviation * jax.random.normal(for_map, shape, jnp.float32)
    raise ValueError(f"noise {kind!r}")


def no_noise(kind: Noise, grid: tuple[int, int]) -> Float[Array, "H W 1"] | None:
    """Return the noise at evaluation: zeros, or None where the flow has no condition."""
    return None if kind == "none" else jnp.zeros((*grid, 1), jnp.float32)


def with_noise(
    features: Float[Array, "V H W C"], noise: Float[Array, "H W 1"] | None
) -> tuple[Float[Array, "V H W C"], Float[Array, "H W 1"] | None]:
    """Return the features of one sample with noise added, and the condition of the flow."""
    if noise is None:
        return features, None
    return features + noise[None], CONDITION_SCALE * noise
