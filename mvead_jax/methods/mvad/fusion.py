"""MVAD's fusion block: window attention over the views of a sample, then a small network for each pixel.

Released code ("mff_oce"), eq. 9 of seed 003. Post-norm; B samples, V views, N = B V images, otherwise the
letters of mvas.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, UInt32

from mvead_jax.methods.mvad.dropout import drop
from mvead_jax.methods.mvad.layers import Linear
from mvead_jax.methods.mvas import mvas
from mvead_jax.methods.positions import position_map
from mvead_jax.runtime.plain import mapped_on_cpu

_PIXELS = 4096  # that the MLP takes at a time on a CPU, so that its hidden layer stays in the cache


class FusionBlock(nnx.Module):
    """Compute x <- norm1(x + mvas(x + position, teacher)), then x <- norm2(x + mlp(x))."""

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
        keys: Literal["others", "own"] = "others",
        rngs: nnx.Rngs,
    ):
        self.windows, self.top, self.heads, self.own_view = windows, top, heads, keys == "own"
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
        attended = self.attended(x, teacher, present)
        seeds = None
        if keys is not None:  # [N,3,2]: of drop path and the two dropouts of each image
            seeds = jax.vmap(lambda key: jax.random.bits(key, (x.shape[1], 3, 2), "uint32"))(keys)
            seeds = seeds.reshape(-1, 3, 2)
        images = [a.reshape(-1, *a.shape[2:]) for a in (x, attended)]
        named = in_groups(self.pixels, _PIXELS // (x.shape[2] * x.shape[3]), *images, seeds)
        return {name: a.reshape(x.shape) for name, a in named.items()} | {"mvas": attended}

    def attended(
        self, x: Float[Array, "B V H W C"], teacher: Float[Array, "B V H W C"], present: Bool[Array, "B V"]
    ) -> Float[Array, "B V H W C"]:
        """Return what each pixel attends to in the other views."""
        query, key, value = x + position_map(*x.shape[2:]).astype(x.dtype)[None, None], teacher, None
        if self.projections is not None:
            query, key, value = self.projections(query, teacher)
        options = {"windows": self.windows, "top": self.top, "heads": self.heads, "own_view": self.own_view}

        return mapped_on_cpu(lambda sample: mvas(*sample, **options), (query, key, value, present))

    def pixels(
        self,
        x: Float[Array, "n H W C"],
        attended: Float[Array, "n H W C"],
        seeds: UInt32[Array, "n 3 2"] | None,
    ) -> dict[str, Float[Array, "n H W C"]]:
        """Return "norm1", "mlp" and "norm2" of some images."""
        path, *dropout = (None, None, None) if seeds is None else seeds.swapaxes(0, 1)
        named = {"norm1": self.norm1(x + drop(attended, self.drop_path, path, whole=True))}
        named["mlp"] = self.mlp(named["norm1"], dropout)
        return named | {"norm2": self.norm2(named["norm1"] + named["mlp"])}


class MLP(nnx.Module):
    """Apply a linear layer C -> 4 C, ReLU, dropout, a linear layer 4 C -> C, and dropout."""

    def __init__(self, width: int, dropout: float, *, rngs: nnx.Rngs):
        self.dropout = dropout
        self.hidden = Linear(width, 4 * width, rngs=rngs)
        self.output = Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "n H W C"], seeds=(None, None)) -> Float[Array, "n H W C"]:
        """Return the output; two seeds [n,2], as of `drop`, turn dropout on."""
        hidden = drop(jax.nn.relu(self.hidden(x)), self.dropout, seeds[0])
        return drop(self.output(hidden), self.dropout, seeds[1])


class Projections(nnx.Module):
    """Apply the linear maps of seed 003 eq. 2 to queries, keys and values; they have no bias.

    Three of them in each of the seven blocks make 0.897 M parameters: with the 17.803 M of the released code
    that is the 18.7 M of the paper.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.query, self.key, self.value = (Linear(width, width, bias=False, rngs=rngs) for _ in range(3))

    def __call__(self, query: Float[Array, "*shape C"], teacher: Float[Array, "*shape C"]):
        return self.query(query), self.key(teacher), self.value(teacher)


def in_groups(function: Callable, most: int, *images: Any) -> Any:
    """Return function of arrays [N,...], which treats each image by itself.

    On a CPU it is called with at most `most` images at a time, and the derivative computes it again instead
    of keeping what is inside. For an MLP whose hidden layer does not fit the cache that is faster (20,480
    pixels of width 64: 58 against 86 ms) and takes half the memory.
    """
    if jax.default_backend() != "cpu":
        return function(*images)
    count = len(jax.tree.leaves(images)[0])
    size = next(size for size in range(max(1, min(most, count)), 0, -1) if count % size == 0)
    groups = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), images)
    found = jax.lax.map(jax.checkpoint(lambda group: function(*group)), groups)
    return jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), found)
