"""Attention of a voxel's cells to each other and to those tokens of the views that are there.

Written for one sample. Letters: T cells of the voxel, M tokens of all views, W width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.linear import Linear

_EXPANSION = 4  # of the hidden layer of a feed-forward network


class Attention(nnx.Module):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, *, normal: Normal):
        self.heads = heads
        self.query, self.key, self.value, self.output = (
            Linear(width, width, normal=normal) for _ in range(4)
        )

    def __call__(
        self,
        x: Float[Array, "T W"],
        memory: Float[Array, "M W"],
        allowed: Bool[Array, " M"] | None = None,
    ) -> Float[Array, "T W"]:
        """Return what each query attends to.

        Args:
          x: queries. memory: keys and values.
          allowed: which of the memory may be attended to; None: all. What the others hold changes nothing, whatever
            it is. Where none may be, the values sum to 0.
        """
        if allowed is not None:
            memory = jnp.where(allowed[:, None], memory, 0)
        query, key, value = (
            self._heads(own) for own in (self.query(x), self.key(memory), self.value(memory))
        )
        logits = jnp.einsum("qhd,khd->hqk", query, key, precision="highest") / query.shape[-1] ** 0.5
        if allowed is not None:
            logits = jnp.where(allowed[None, None], logits, -jnp.inf)
        # Not -inf where nothing is allowed: exp(-inf + inf) is no number.
        highest = jnp.maximum(logits.max(-1, keepdims=True), jnp.finfo(logits.dtype).min)
        weights = jnp.exp(logits - jax.lax.stop_gradient(highest))
        total = weights.sum(-1, keepdims=True)
        weights = weights / jnp.where(total > 0, total, 1)
        found = jnp.einsum("hqk,khd->qhd", weights, value, precision="highest")
        return self.output(found.reshape(x.shape))

    def _heads(self, x: Float[Array, "N W"]) -> Float[Array, "N H d"]:
        return x.reshape(len(x), self.heads, -1)


class FeedForward(nnx.Module):
    """A linear layer, the exact GELU, a linear layer."""

    def __init__(self, width: int, *, normal: Normal):
        self.hidden = Linear(width, _EXPANSION * width, normal=normal)
        self.output = Linear(_EXPANSION * width, width, normal=normal)

    def __call__(self, x: Float[Array, "T W"]) -> Float[Array, "T W"]:
        return self.output(nnx.gelu(self.hidden(x), approximate=False))


class FusionBlock(nnx.Module):
    """Self-attention and a feed-forward network, then cross-attention to the views and another; norms come first."""

    def __init__(self, width: int, heads: int, *, normal: Normal):
        self.own, self.cross = (Attention(width, heads, normal=normal) for _ in range(2))
        self.feed1, self.feed2 = (FeedForward(width, normal=normal) for _ in range(2))
        self.norms = nnx.List([layer_norm(width) for _ in range(4)])

    def __call__(
        self, x: Float[Array, "T W"], tokens: Float[Array, "M W"], allowed: Bool[Array, " M"]
    ) -> Float[Array, "T W"]:
        """Return the voxel's cells after the block. Args: tokens: of all views, normalised. allowed: those of
        views that are there."""
        first, second, third, fourth = self.norms
        seen = first(x)
        x = x + self.own(seen, seen)
        x = x + self.feed1(second(x))
        x = x + self.cross(third(x), tokens, allowed)
        return x + self.feed2(fourth(x))


def layer_norm(width: int) -> nnx.LayerNorm:
    """Return a layer norm as it starts."""
    return nnx.LayerNorm(width, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0))
