"""IDIF's consistency bottleneck: a narrow, sampled code of a view's features, which the views have in common.

A variational bottleneck (Alemi et al. 2017) of each cell, with the same weights for every view; written for one image.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.linear import Linear


class Code(NamedTuple):
    """What the bottleneck makes of a view's features.

    Attributes:
      mean, log_variance: of the normal distribution of the common part.
      common: f_c, a sample of it in training, else its mean.
      reconstruction: of the features, from the common part alone.
    """

    mean: Float[Array, "h w L"]
    log_variance: Float[Array, "h w L"]
    common: Float[Array, "h w L"]
    reconstruction: Float[Array, "h w C"]


class Bottleneck(nnx.Module):
    """Linear maps of each cell: C features to the mean and the variance of L numbers, and these back to C."""

    def __init__(self, width: int, latent: int, *, normal: Normal):
        self.mean, self.log_variance = (Linear(width, latent, normal=normal) for _ in range(2))
        self.decoder = Linear(latent, width, normal=normal)

    def __call__(self, features: Float[Array, "h w C"], key: Key[Array, ""] | None = None) -> Code:
        """Return the code of one view. Args: key: of the sample; None: the mean is taken."""
        mean, log_variance = self.mean(features), self.log_variance(features)
        common = mean
        if key is not None:
            noise = jax.random.normal(key, mean.shape, mean.dtype)
            common = mean + jnp.exp(log_variance / 2) * noise
        return Code(mean, log_variance, common, self.decoder(common))
