"""Batch normalisation that trains: over all devices, and over the images that count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class BatchNorm(nnx.Module):
    """Normalise each channel over images and pixels, with PyTorch's running statistics (Ioffe, Szegedy 2015).

    The running mean and variance are variables of the type `nnx.BatchStat`; the running variance is the
    unbiased one, and each training pass moves both by `momentum` towards the batch's.
    """

    def __init__(self, width: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(width, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(width, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "N H W C"],
        *,
        train: bool,
        weights: Float[Array, " N"] | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "N H W C"]:
        """Return the normalised feature maps.

        Args:
          train: normalise by the statistics of this batch and update the running ones; else by the latter.
          weights: how much each image counts in the statistics, 0 or 1; None: all count. All images are
            normalised. At least one image counts.
          axis_name: the mesh axis over which the batch is divided inside `jax.shard_map`; the statistics are
            those of the whole batch. Arrays that `jax.jit` divides by itself need none.
        """
        if train:
            mean, variance, count = _statistics(x, weights, axis_name)
            unbiased = variance * (count / jnp.maximum(count - 1, 1))
            # New variables, because a merged module shares the old ones with the state it was merged from,
            # which may belong to the function outside of the one that is differentiated.
            self.mean = self.mean.replace(self._moved(self.mean[...], mean))
            self.variance = self.variance.replace(self._moved(self.variance[...], unbiased))
        else:
            mean, variance = self.mean[...], self.variance[...]
        gain = self.scale[...] / jnp.sqrt(variance + self.epsilon)
        return (x - mean[None, None, None]) * gain[None, None, None] + self.bias[...][None, None, None]

    def _moved(self, running: Float[Array, " C"], found: Float[Array, " C"]) -> Float[Array, " C"]:
        return running + self.momentum * (jax.lax.stop_gradient(found) - running)


def _statistics(
    x: Float[Array, "N H W C"], weights: Float[Array, " N"] | None, axis_name: str | None
) -> tuple[Float[Array, " C"], Float[Array, " C"], Float[Array, ""]]:
    """Return mean, biased variance and the number of pixels, of all images that count."""
    images, height, width, _ = x.shape
    weights = jnp.ones(images, x.dtype) if weights is None else weights.astype(x.dtype)

    def whole(total):
        return total if axis_name is None else jax.lax.psum(total, axis_name)

    count = jnp.maximum(whole(weights.sum()), 1) * (height * width)
    mean = whole(jnp.einsum("nhwc,n->c", x, weights, precision="highest")) / count
    squares = jnp.square(x - mean[None, None, None])
    variance = whole(jnp.einsum("nhwc,n->c", squares, weights, precision="highest")) / count
    return mean, variance, count
