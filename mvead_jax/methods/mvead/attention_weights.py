"""What a patch attended to, for people: the patches of other views that got most of its attention."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mvead_jax.methods.mvead.attention import EpipolarAttention, MVASAttention


def attended_patches(
    query: Float[Array, "V N H d"],
    key: Float[Array, "V N H d"],
    mask: Bool[Array, "V V N N"],
    present: Bool[Array, " V"] | None = None,
    *,
    top: int,
    combine: Literal["joint", "mean"] = "joint",
) -> tuple[Int[Array, "V N K"], Float[Array, "V N K"]]:
    """The `top` keys of each patch by the softmax weights of eq. 5-6, averaged over heads.

    For one sample; one view's weights [N,V N] are held at a time.

    Args:
      query, key: as of `dense.masked_attention`. mask, present: likewise.
      top: K, at most V N.
      combine: as of `AttentionConfig`; with `mean` the weights of each view add up to 1 / (views with keys).

    Returns:
      Patch k of view b as the number b N + k, and its share of the attention; the most first, the lowest
      number on a tie. A share of 0: no further patch was attended to.
    """
    views, patches, heads, width = query.shape
    if present is not None:
        mask = mask & jnp.asarray(present)[None, :, None, None]
    keys = key.reshape(views * patches, heads, width).transpose(1, 0, 2)
    axis = (1, 2) if combine == "joint" else 2

    def of_view(case):
        queries, allowed = case
        allowed = allowed.transpose(1, 0, 2)  # [N,V,N]

        def of_head(total, qk):
            q, k = qk
            logits = jnp.einsum("qd,kd->qk", q * width**-0.5, k, precision="highest")
            weights = jax.nn.softmax(logits.reshape(patches, views, patches), axis, where=allowed)
            return total + jnp.where(allowed, weights, 0), None

        start = jnp.zeros((patches, views, patches), query.dtype)
        total, _ = jax.lax.scan(of_head, start, (queries.transpose(1, 0, 2), keys))
        if combine == "mean":
            seen = allowed.any(2).sum(1)
            total = total / jnp.maximum(seen, 1).astype(total.dtype)[:, None, None]
        weight, number = jax.lax.top_k(total.reshape(patches, -1) / heads, top)
        return number, weight

    return jax.lax.map(of_view, (query, mask))


@partial(jax.jit, static_argnums=0, static_argnames="top")
def attended_batch(
    graph: nnx.GraphDef,
    parameters: Any,
    z: Float[Array, "B V N D"],
    present: Bool[Array, "B V"],
    mask: Bool[Array, "V V N N"],
    *,
    top: int,
) -> tuple[Int[Array, "B V N K"], Float[Array, "B V N K"]]:
    """`attended_patches` of samples of one category, by the attention of a graph and its parameters."""

    def of_sample(sample):
        attention = nnx.merge(graph, parameters)
        return _of_sample(attention, *sample, mask, top)

    return jax.lax.map(of_sample, (z, present))


def _of_sample(
    attention: EpipolarAttention,
    z: Float[Array, "V N D"],
    present: Bool[Array, " V"],
    mask: Bool[Array, "V V N N"],
    top: int,
) -> tuple[Int[Array, "V N K"], Float[Array, "V N K"]]:
    """What the attention lets each patch of one sample attend to, and how much of what goes to patches.

    Windows that reach beyond the grid attend to its padding too, which is no patch.
    """
    views, patches, width = z.shape
    heads = attention.cfg.heads
    if isinstance(attention, MVASAttention):
        mask = attention.similar(z, present)
    normed = attention.norm(z)
    query, key = (
        linear(normed).reshape(views, patches, heads, width // heads)
        for linear in (attention.query, attention.key)
    )
    return attended_patches(query, key, mask, present, top=top, combine=attention.cfg.combine)
