"""View dropout: some views of a training sample are taken away, as if their cameras were missing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key


def kept_views(
    key: Key[Array, ""], present: Bool[Array, " V"], rate: float | Float[Array, ""]
) -> Bool[Array, " V"]:
    """Return which views of a sample are left: each present one is dropped at a rate, but never all.

    Where all would be, one of them stays, each as probably as the others.
    """
    drawn = jnp.where(present, jax.random.uniform(key, present.shape), -1)
    return present & ((drawn >= rate) | (jnp.arange(len(present)) == drawn.argmax()))
