"""MVAD's fusion block: window attention over the views of a sample, then a small network for each pixel.

Released code ("mff_oce"), eq. 9 of seed 003. Post-norm; B samples, V views, otherwise the letters of mvas.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from mvead_jax.methods.mvad.layers import Linear
from mvead_jax.methods.mvad.mvas import mvas


class FusionBlock(nnx.Module):
    """x <- norm1(x + mvas(x + position, teacher)), x <- norm2(x + mlp(x))."""

    def __init__(
        self,
        width: int,
        *,
        windows: int,
        top: int,
        heads: int,
        projections: Literal["none", "linear"],
        dropout: float,
        drop_path: float,
        rngs: nnx.Rngs,
    ):
        self.windows, self.top, self.heads = windows, top, heads
        self.drop_path = drop_path
        self.norm1, self.norm2 = (
            nnx.LayerNorm(width, epsilon=1e-6, use_fast_variance=False, rngs=rngs) for _ in range(2)
        )
        self.mlp = MLP(width, dropout, rngs=rngs)
        self.projections = Projections(width, rngs=rngs) if projections == "linear" else None

    def __call__(
        self,
        x: Float[Array, "B V H W C"],
        teacher: Float[Array, "B V H W C"],
        present: Bool[Array, "B V"],
        keys: Key[Array, " B"] | None = None,
    ) -> dict[str, Float[Array, "B V H W C"]]:
        """Return "mvas", "norm1", "mlp" and "norm2"; the last one is the block's output.

        Args:
          x: the fused features so far; at first the teacher's.
          teacher: the feature maps of the frozen teacher, the attention's keys and values.
          present: the views that each sample has.
          keys: one for each sample, for dropout and drop path; None: both are off.
        """
        path, mlp = (None, None) if keys is None else jax.vmap(jax.random.split, out_axes=1)(keys)
        query = x + position_map(*x.shape[2:]).astype(x.dtype)[None, None]
        projected = (query, teacher, teacher)
        if self.projections is not None:
            projected = self.projections(query, teacher)

        def one_sample(query, key, value, present):
            value = value if self.projections is not None else None
            options = {"windows": self.windows, "top": self.top, "heads": self.heads}
            return mvas(query, key, value, present, **options)

        named = {"mvas": over_samples(one_sample, *projected, present)}
        branch = drop(named["mvas"], self.drop_path, path, axes=1)
        named["norm1"] = self.norm1(x + branch)
        named["mlp"] = self.mlp(named["norm1"], mlp)
        named["norm2"] = self.norm2(named["norm1"] + named["mlp"])
        return named


class MLP(nnx.Module):
    """Linear C -> 4 C, ReLU, dropout, linear 4 C -> C, dropout."""

    def __init__(self, width: int, dropout: float, *, rngs: nnx.Rngs):
        self.dropout = dropout
        self.hidden = Linear(width, 4 * width, rngs=rngs)
        self.output = Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B V H W C"], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B V H W C"]:
        """Return the output; `keys`, one for each sample, turn dropout on."""
        first, second = (None, None) if keys is None else jax.vmap(jax.random.split, out_axes=1)(keys)
        hidden = drop(jax.nn.relu(self.hidden(x)), self.dropout, first)
        return drop(self.output(hidden), self.dropout, second)


class Projections(nnx.Module):
    """The linear maps of seed 003 eq. 2, of the queries and of the keys and values; without bias.

    Three of them in each of the seven blocks make 0.897 M parameters: with the 17.803 M of the released code
    that is the 18.7 M of the paper.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.query, self.key, self.value = (Linear(width, width, bias=False, rngs=rngs) for _ in range(3))

    def __call__(self, query: Float[Array, "*shape C"], teacher: Float[Array, "*shape C"]):
        return self.query(query), self.key(teacher), self.value(teacher)


def position_map(height: int, width: int, channels: int) -> Float[Array, "height width channels"]:
    """Return the sine and cosine position map of the released code, in float32.

    The first half of the channels tells the row, the second half the column: sines of even and cosines of odd
    channels, of (i + 1) / side turns over 10000**(2 floor(k / 2) / F) for channel k of the F = channels / 2.
    """
    if channels % 2:
        raise ValueError(f"a position map has an even number of channels, not {channels}")
    half = channels // 2
    divisor = np.float32(10000) ** (
        np.float32(2) * (np.arange(half) // 2).astype(np.float32) / np.float32(half)
    )

    def along(side: int) -> np.ndarray:
        turns = np.arange(1, side + 1, dtype=np.float32) / np.float32(side + 1e-6)
        angle = (turns * np.float32(2 * np.pi))[:, None] / divisor[None]
        return np.where(np.arange(half) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)

    rows = np.broadcast_to(along(height)[:, None], (height, width, half))
    columns = np.broadcast_to(along(width)[None], (height, width, half))
    return jnp.asarray(np.concatenate([rows, columns], axis=-1))


def drop(x: Float[Array, "B ..."], rate: float, keys: Key[Array, " B"] | None, axes: int | None = None):
    """Return x with entries set to 0 with probability `rate` and the others divided by 1 - rate.

    Args:
      keys: one for each sample, so that no other sample changes what is dropped; None: nothing is.
      axes: how many axes after the first are drawn one by one, the rest being dropped together; None: all.
    """
    if keys is None or rate == 0:
        return x
    each = x.shape[1:] if axes is None else x.shape[1 : 1 + axes]
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, each))(keys)
    kept = kept.reshape(*kept.shape, *(1 for _ in x.shape[kept.ndim :]))
    return jnp.where(kept, x / (1 - rate), 0)


def over_samples(function: Callable, *batches: Any) -> Any:
    """Return `jax.vmap` of a function; on a CPU one sample after the other, which takes less memory."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda batch: function(*batch), batches)
    return jax.vmap(function)(*batches)
