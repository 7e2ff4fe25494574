"""SimpleNet's trained network: an adaptor of one linear layer, and a discriminator of two.

Submodules are named like the released code's; `params.py` has its names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.random_weights import Normal

_SLOPE = 0.2  # of the leaky ReLU, below 0


class Linear(nnx.Module):
    """A linear layer: weights normal with deviation sqrt(2 / (in + out)) (Xavier), bias uniform as PyTorch's."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, normal: Normal):
        deviation = np.float32(np.sqrt(2 / (inputs + outputs)))
        self.kernel = nnx.Param(jnp.asarray(normal((inputs, outputs)) * deviation))
        self.bias = nnx.Param(_uniform(normal, outputs, inputs)) if bias else None

    def __call__(self, x: Float[Array, "*rows C"]) -> Float[Array, "*rows D"]:
        y = jnp.matmul(x, self.kernel[...], precision="highest")
        return y if self.bias is None else y + jnp.expand_dims(self.bias[...], range(y.ndim - 1))


def _uniform(normal: Normal, count: int, inputs: int) -> Float[Array, " count"]:
    """Numbers within +-1 / sqrt(inputs): a normal number through its distribution function is uniform."""
    drawn = jax.lax.erf(jnp.asarray(normal((count,))) * np.float32(np.sqrt(0.5)))
    return drawn * np.float32(inputs**-0.5)


class Discriminator(nnx.Module):
    """Linear layer, batch norm, leaky ReLU, and a linear layer to one number: high for normal features."""

    def __init__(self, width: int, hidden: int, *, normal: Normal):
        self.hidden, self.norm = Linear(width, hidden, normal=normal), BatchNorm(hidden)
        self.tail = Linear(hidden, 1, bias=False, normal=normal)

    def __call__(self, x: Float[Array, "N P D"], **norm) -> Float[Array, "N P"]:
        """Return the number of each position of each image; `norm` goes to the `BatchNorm`."""
        y = jax.nn.leaky_relu(self.norm(self.hidden(x), **norm), _SLOPE)
        return self.tail(y)[..., 0]


class Network(nnx.Module):
    """Adaptor and discriminator."""

    def __init__(self, width: int, hidden: int, *, normal: Normal):
        self.adaptor = Linear(width, width, normal=normal)
        self.discriminator = Discriminator(width, hidden, normal=normal)

    def __call__(self, embedding: Float[Array, "N P D"]) -> Float[Array, "N P"]:
        """Return the score of each position, higher is more abnormal, by running statistics."""
        return -self.discriminator(self.adaptor(embedding))

    def told_apart(
        self,
        embedding: Float[Array, "N P D"],
        noise: Float[Array, "N P D"],
        weights: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "N P"], Float[Array, "N P"]]:
        """Return the discriminator's numbers for adapted features and for the same with noise, in training.

        Both go through it together, so that its batch norm has one statistic of both.

        Args:
          weights: as of `BatchNorm`, of the images.
        """
        normal = self.adaptor(embedding)
        both = jnp.concatenate([normal, normal + noise])
        weights = None if weights is None else jnp.concatenate([weights, weights])
        found = self.discriminator(both, train=True, weights=weights)
        return tuple(jnp.split(found, 2))
