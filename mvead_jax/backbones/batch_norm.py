"""Batch normalisation in both of its forms: by running statistics, and by those of the batch in training."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class BatchNorm(nnx.Module):
    """Normalisation of every channel over all axes but the last (Ioffe and Szegedy 2015, PyTorch's rules).

    In evaluation the running statistics normalise. In training those of the batch do, with the biased
    variance, and the running ones move towards them, with the unbiased variance.

    The running statistics are `nnx.BatchStat`, the gain and bias `nnx.Param`, so that
    `nnx.split(network, nnx.Param, nnx.BatchStat)` takes them apart. A training step merges the network inside
    of the function that it differentiates, and returns the new statistics as an auxiliary value.

    The statistics are those of the whole array. Under `jax.jit` an array that is divided over devices is
    still one array, so several devices compute what one device would. (Inside `jax.shard_map` it would be
    the part of one device: train outside of it.)

    Args:
      width: number of channels D.
      momentum: share of the batch's statistics in the new running ones.
      epsilon: added to the variance; 1e-5 in ResNets, 1e-3 in EfficientNets.
    """

    def __init__(self, width: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(width, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(width, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "B *space D"],
        *,
        train: bool = False,
        weights: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B *space D"]:
        """Return the normalised array.

        Args:
          x: features, channels last.
          train: whether the statistics of the batch are used, and remembered.
          weights: how much each image counts in the statistics, 0 for a missing view; None = all alike. An
            image that does not count is normalised like the others. Where at most one value counts, there is
            no unbiased variance, and the running statistics stay as they are. Where none does, the features are
            taken as normalised.
        """
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            gain = scale * jax.lax.rsqrt(self.variance[...] + self.epsilon)
            mean, gain, bias = (_channels(values, x.ndim) for values in (self.mean[...], gain, bias))
            return (x - mean) * gain + bias
        weights = jnp.ones(len(x), x.dtype) if weights is None else weights.astype(x.dtype)
        y, mean, variance, count = _normalised(x, scale, bias, weights, self.epsilon)
        self._remember(mean, variance, count)
        return y

    def _remember(self, mean: Float[Array, " D"], variance: Float[Array, " D"], count: Float[Array, ""]):
        unbiased = variance * (count / jnp.maximum(count - 1, 1))
        # New variables, not new values of the old ones: a merged network shares those with the state that it
        # was merged from, which may belong to an outer trace.
        self.mean = self.mean.replace(self._moved(self.mean[...], mean, count))
        self.variance = self.variance.replace(self._moved(self.variance[...], unbiased, count))

    def _moved(self, running: Float[Array, " D"], value: Float[Array, " D"], count: Float[Array, ""]):
        moved = (1 - self.momentum) * running + self.momentum * jax.lax.stop_gradient(value)
        return jnp.where(count > 1, moved, running)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalised(x, scale, bias, weights, epsilon):
    """Return the normalised array, mean and biased variance of every channel, and how many values they count.

    Only the array has a derivative. It is written out because JAX's own takes half as long again and keeps
    more than x. The variance is the mean of squared differences from the mean: a difference of two means of
    squares would lose it where a channel's mean is large. With weights of sum zero the mean is 0 and the variance 1:
    a variance of 0 would enlarge each value by 1 / sqrt(epsilon), norm after norm, until none of them is finite.
    """
    return _forward(x, scale, bias, weights, epsilon)[0]


def _forward(x, scale, bias, weights, epsilon):
    count = weights.sum() * math.prod(x.shape[1:-1])
    share = weights / jnp.maximum(count, jnp.finfo(x.dtype).tiny)
    space = tuple(range(1, x.ndim - 1))
    mean = (x.sum(space) * share[:, None]).sum(0)
    centred = x - _channels(mean, x.ndim)
    variance = (jnp.square(centred).sum(space) * share[:, None]).sum(0)
    variance = jnp.where(count > 0, variance, 1)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = centred * _channels(scale * inverse, x.ndim) + _channels(bias, x.ndim)
    return (y, mean, variance, count), (x, scale, share, mean, inverse)


def _backward(epsilon, saved, cotangents):
    """Return the gradients: that of every image moves the statistics, which all images that count make."""
    x, scale, share, mean, inverse = saved
    g, axes = cotangents[0], tuple(range(x.ndim - 1))
    centred = x - _channels(mean, x.ndim)
    d_bias = g.sum(axes)
    d_scale = (g * centred).sum(axes) * inverse
    shared = _channels(d_bias, x.ndim) + centred * _channels(inverse * d_scale, x.ndim)
    each = jnp.expand_dims(share, range(1, x.ndim))
    return _channels(scale * inverse, x.ndim) * (g - each * shared), d_scale, d_bias, None


_normalised.defvjp(_forward, _backward)


def _channels(values: Float[Array, " D"], ndim: int) -> Array:
    """Return one value a channel in the shape that arrays of `ndim` axes take it."""
    return jnp.expand_dims(values, range(ndim - 1))
