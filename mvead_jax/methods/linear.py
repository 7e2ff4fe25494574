"""A linear layer, and the uniform numbers that it starts from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.random_weights import Normal


def xavier_uniform(normal: Normal, inputs: int, outputs: int) -> Float[Array, "C D"]:
    """Return weights uniform within +-sqrt(6 / (inputs + outputs))."""
    return uniform(normal, (inputs, outputs)) * np.float32(np.sqrt(6 / (inputs + outputs)))


def uniform(normal: Normal, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Return numbers uniform within +-1: normal ones through their distribution function."""
    return jax.lax.erf(jnp.asarray(normal(shape)) * np.float32(np.sqrt(0.5)))


class Linear(nnx.Module):
    """A linear layer; starts by Xavier's rule (uniform), or with the weights given, and a bias of 0."""

    def __init__(self, inputs: int, outputs: int, *, normal: Normal, kernel: Array | None = None):
        self.kernel = nnx.Param(xavier_uniform(normal, inputs, outputs) if kernel is None else kernel)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "*shape C"]) -> Float[Array, "*shape D"]:
        y = jnp.matmul(x, self.kernel[...], precision="highest")
        return y + jnp.expand_dims(self.bias[...], range(y.ndim - 1))
