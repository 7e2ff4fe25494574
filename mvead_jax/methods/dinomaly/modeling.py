"""Dinomaly's trained network in Flax NNX: a noisy bottleneck and a decoder of linear attention.

Guo et al., "Dinomaly: the less is more philosophy in multi-class unsupervised anomaly detection" (CVPR 2025), as the
released code computes it. The names of its modules are kept in the submodules where they say what a module does.

Letters: N images, T tokens, D width, H heads, d = D / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

_LAYER_NORM_EPSILON = 1e-8  # of the decoder; the encoder's is 1e-6
_DEVIATION = 0.01  # of the initial weights, cut off at three of them
_EXPANSION = 4


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network. Attributes: width: D. blocks: of the decoder. dropout: of the bottleneck."""

    width: int
    heads: int
    blocks: int
    dropout: float = 0.4


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    start = jax.nn.initializers.truncated_normal(_DEVIATION, lower=-3.0, upper=3.0)
    return nnx.Linear(inputs, outputs, kernel_init=start, precision="highest", rngs=rngs)


def _layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=_LAYER_NORM_EPSILON, use_fast_variance=False, rngs=rngs)


class MLP(nnx.Module):
    """Two linear layers with the exact GELU between; in training with dropout before, between and after."""

    def __init__(self, width: int, rngs: nnx.Rngs, dropout: float = 0.0):
        self.fc1 = _linear(width, _EXPANSION * width, rngs)
        self.fc2 = _linear(_EXPANSION * width, width, rngs)
        self.dropout = dropout

    def __call__(
        self, x: Float[Array, "N T D"], keys: Key[Array, " N"] | None = None
    ) -> Float[Array, "N T D"]:
        """Return the features. Args: keys: of the dropout of each image; None: nothing is dropped."""
        before, between, after = (partial(self._dropped, keys=keys, place=place) for place in range(3))
        x = nnx.gelu(self.fc1(before(x)), approximate=False)
        return after(self.fc2(between(x)))

    def _dropped(
        self, x: Float[Array, "N T D"], keys: Key[Array, " N"] | None, place: int
    ) -> Float[Array, "N T D"]:
        if keys is None or not self.dropout:
            return x

        def of_image(key: Array, x: Float[Array, "T D"]) -> Float[Array, "T D"]:
            kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.dropout, x.shape)
            return jnp.where(kept, x / (1 - self.dropout), 0)

        return jax.vmap(of_image)(keys, x)


class LinearAttention(nnx.Module):
    """Attention without a softmax: φ(q) (Σ φ(k) vᵀ) / (φ(q) Σ φ(k)) with φ(x) = elu(x) + 1, per head."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        # One matrix, as released: StableAdamW limits the update of each array as a whole.
        self.qkv = _linear(width, 3 * width, rngs)
        self.proj = _linear(width, width, rngs)
        self.heads = heads

    def __call__(self, x: Float[Array, "N T D"]) -> Float[Array, "N T D"]:
        images, tokens, width = x.shape
        qkv = self.qkv(x).reshape(images, tokens, 3, self.heads, width // self.heads)
        query, key, value = (qkv[:, :, part] for part in range(3))  # [N,T,H,d]
        query, key = nnx.elu(query) + 1, nnx.elu(key) + 1
        product = partial(jnp.einsum, precision="highest")
        memory = product("nthd,nthe->nhde", key, value)
        total = product("nthd,nhd->nth", query, key.sum(1))
        mixed = product("nthd,nhde->nthe", query, memory) / total[..., None]
        return self.proj(mixed.reshape(images, tokens, width))


class Block(nnx.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.norm1, self.attn = _layer_norm(width, rngs), LinearAttention(width, heads, rngs)
        self.norm2, self.mlp = _layer_norm(width, rngs), MLP(width, rngs)

    def __call__(self, x: Float[Array, "N T D"]) -> Float[Array, "N T D"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DinomalyNetwork(nnx.Module):
    """The noisy bottleneck and the decoder.

    `step` counts the training steps: how much of a batch counts as easy depends on it (objective.py).
    """

    def __init__(self, config: NetworkConfig, rngs: nnx.Rngs):
        self.bottleneck = MLP(config.width, rngs, config.dropout)
        self.decoder = nnx.List([Block(config.width, config.heads, rngs) for _ in range(config.blocks)])
        self.step = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(
        self, encoded: Sequence[Float[Array, "N T D"]], keys: Key[Array, " N"] | None = None
    ) -> list[Float[Array, "N T D"]]:
        """Return the output of each block of the decoder, the last block's first: it belongs to the first of `encoded`.

        Args:
          encoded: outputs of some blocks of the encoder, from shallow to deep, as many as the decoder has blocks.
          keys: of the dropout of each image, in training.
        """
        x = self.bottleneck(sum(encoded) / len(encoded), keys)
        outputs = []
        for block in self.decoder:
            outputs.append(x := block(x))
        return outputs[::-1]


def grouped(outputs: Sequence[Float[Array, "N T D"]], groups: int) -> list[Float[Array, "N T D"]]:
    """Return the means of so many consecutive parts of equal length: what encoder and decoder are compared by."""
    length = len(outputs) // groups
    return [sum(outputs[start : start + length]) / length for start in range(0, len(outputs), length)]
