"""Batch normalisation that trains: over all devices, and over the images that count."""

from __future__ import annotations

from functools import partial

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
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            gain = scale / jnp.sqrt(self.variance[...] + self.epsilon)
            return (x - _channels(self.mean[...])) * _channels(gain) + _channels(bias)
        weights = jnp.ones(len(x), x.dtype) if weights is None else weights.astype(x.dtype)
        y, mean, variance, count = _normalise(x, scale, bias, weights, self.epsilon, axis_name)
        unbiased = variance * (count / jnp.maximum(count - 1, 1))
        # New variables, because a merged module shares the old ones with the state it was merged from, which
        # may belong to the function outside of the one that is differentiated.
        self.mean = self.mean.replace(self._moved(self.mean[...], mean))
        self.variance = self.variance.replace(self._moved(self.variance[...], unbiased))
        return y

    def _moved(self, running: Float[Array, " C"], found: Float[Array, " C"]) -> Float[Array, " C"]:
        return running + self.momentum * (jax.lax.stop_gradient(found) - running)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _normalise(x, scale, bias, weights, epsilon, axis_name):
    """Return the normalised maps, and mean, biased variance and number of pixels of the images that count.

    Only the maps have a derivative. It is written out because JAX's own takes half as long again and keeps
    more than x.
    """
    return _forward(x, scale, bias, weights, epsilon, axis_name)[0]


def _forward(x, scale, bias, weights, epsilon, axis_name):
    count = jnp.maximum(_whole(weights.sum(), axis_name), 1) * (x.shape[1] * x.shape[2])
    mean = _whole((x.sum((1, 2)) * weights[:, None]).sum(0), axis_name) / count
    squares = jnp.square(x - _channels(mean)).sum((1, 2))
    variance = _whole((squares * weights[:, None]).sum(0), axis_name) / count
    inverse = 1 / jnp.sqrt(variance + epsilon)
    y = (x - _channels(mean)) * _channels(scale * inverse) + _channels(bias)
    return (y, mean, variance, count), (x, scale, weights, mean, inverse, count)


def _backward(epsilon, axis_name, saved, cotangents):
    """Return the gradients: every image's g moves the statistics, which all images that count make."""
    x, scale, weights, mean, inverse, count = saved
    g = cotangents[0]
    d_bias = g.sum((1, 2)).sum(0)
    d_scale = (g * (x - _channels(mean))).sum((1, 2)).sum(0) * inverse
    all_bias, all_scale = _whole(d_bias, axis_name), _whole(d_scale, axis_name)
    shared = _channels(all_bias) + (x - _channels(mean)) * _channels(inverse * all_scale)
    d_x = _channels(scale * inverse) * (g - (weights / count)[:, None, None, None] * shared)
    return d_x, d_scale, d_bias, None


_normalise.defvjp(_forward, _backward)


def _whole(total: Array, axis_name: str | None) -> Array:
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def _channels(values: Float[Array, " C"]) -> Float[Array, "1 1 1 C"]:
    return values[None, None, None]
