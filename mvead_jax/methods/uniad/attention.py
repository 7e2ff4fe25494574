"""UniAD's attention, its mask of neighbours, and dropout.

Written for one image; N tokens are the positions of a map, row after row. The caller vmaps.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.linear import Linear


def neighbour_mask(height: int, width: int, neighbours: tuple[int, int]) -> Bool[np.ndarray, "N N"]:
    """Return which pairs (query, key) may attend: those not within half a block of each other, rows and columns.

    An even block reaches as far on both sides, and so has one row or column more.
    """
    rows, columns = (own.ravel() for own in np.mgrid[:height, :width])
    near = [
        np.abs(own[:, None] - own[None]) <= block // 2
        for own, block in zip((rows, columns), neighbours, strict=True)
    ]
    return ~(near[0] & near[1])


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """Return the numbers, each of which is 0 at this rate and else larger; unchanged without a key."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


class Attention(nnx.Module):
    """Attention with several heads, as PyTorch's: queries, keys and values from one packed matrix.

    Args:
      packed: [C,3C], with which the projections of queries, keys and values start; the released code copies
        layers before it draws, so that all of a stack have the same.
    """

    def __init__(self, width: int, heads: int, *, packed: Float[Array, "C 3*C"], normal: Normal):
        self.heads = heads
        self.in_proj = Linear(width, 3 * width, normal=normal, kernel=packed)
        self.out_proj = Linear(width, width, normal=normal)

    def __call__(
        self,
        query: Float[Array, "N C"],
        key: Float[Array, "N C"],
        value: Float[Array, "N C"],
        mask: Bool[Array, "N N"],
        drop: Callable[[Array], Array],
    ) -> Float[Array, "N C"]:
        """Return what each query attends to. Args: mask: True = may attend. drop: of the weights."""
        tokens, width = query.shape
        kernels = jnp.split(self.in_proj.kernel[...], 3, axis=1)
        biases = jnp.split(self.in_proj.bias[...], 3)
        q, k, v = (
            (jnp.matmul(x, kernel, precision="highest") + bias[None]).reshape(tokens, self.heads, -1)
            for x, kernel, bias in zip((query, key, value), kernels, biases, strict=True)
        )
        q = q / (width // self.heads) ** 0.5
        logits = jnp.einsum("qhd,khd->hqk", q, k, precision="highest")
        weights = drop(jax.nn.softmax(jnp.where(mask[None], logits, -jnp.inf), axis=-1))
        found = jnp.einsum("hqk,khd->qhd", weights, v, precision="highest")
        return self.out_proj(found.reshape(tokens, width))
