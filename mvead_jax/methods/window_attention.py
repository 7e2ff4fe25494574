"""Attention of windows to the pixels of the windows chosen for them, with its own derivative.

Letters as in mvas.py: M windows of a sample, P pixels of a window, K chosen windows, h heads, d features of a
head.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Selection(NamedTuple):
    """Name the windows that each window of a sample attends to, the one with the highest score first.

    Attributes:
      window: the numbers of the chosen windows; window w of view v is number v n² + w.
      where: False where a window has fewer than K windows to choose from; such an entry is not attended to.
    """

    window: Int[Array, "M K"]
    where: Bool[Array, "M K"]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_windows(
    query: Float[Array, "M P C"],
    key: Float[Array, "M P C"],
    value: Float[Array, "M P C"] | None,
    selection: Selection,
    heads: int,
) -> Float[Array, "M P C"]:
    """Return for each pixel the softmax-weighted sum of the values in its window's chosen windows.

    Args:
      query: the pixels of each window, already scaled.
      key, value: the pixels of the windows that can be chosen; no value: the keys.
      selection: a window without any choice gives 0.
      heads: h; the channels are cut into h groups in their order.
    """
    return _forward(query, key, value, selection, heads)[0]


def _forward(query, key, value, selection, heads):
    arrays = [None if x is None else _split(x, heads) for x in (query, key, value)]
    # One head after the other keeps logits and gathered keys in the processor's cache.
    output, log_total = jax.lax.map(lambda own: _one_head(*own, selection), arrays)
    output = _join(output)
    return output, (query, key, value, selection, output, log_total)


def _backward(heads, saved, g: Float[Array, "M P C"]):
    """Return the gradients, from the weights p = softmax(q k) computed again.

    dv = pᵀ g and the gradient of the logits is p (g·v - g·output). JAX's own derivative would keep the
    weights of all samples, which are larger than all maps of the teacher, and is slower.
    """
    query, key, value, selection, output, log_total = saved
    arrays = [None if x is None else _split(x, heads) for x in (query, key, value, g * output, g)]
    found = jax.lax.map(lambda own: _gradients(*own, selection), (*arrays, log_total))
    return *(None if x is None else _join(x) for x in found), None


attend_windows.defvjp(_forward, _backward)


def _one_head(q: Float[Array, "M P d"], k: Float[Array, "M P d"], v: Float[Array, "M P d"] | None, selection):
    """Return the output of one head and the logarithms of the softmax's sums [M,P,1]."""
    keys = _gathered(k, selection)
    logits = _logits(q, keys, selection.where)
    # Not -inf, also where nothing is chosen: exp(-inf + inf) is no number.
    highest = jnp.maximum(logits.max(-1, keepdims=True), jnp.finfo(logits.dtype).min)
    weights = jnp.exp(logits - highest)
    total = weights.sum(-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    values = keys if v is None else _gathered(v, selection)
    return _product("mpk,mkd->mpd", weights, values) / total, highest + jnp.log(total)


def _gradients(q, k, v, g_output, g, log_total, selection):
    """Return the gradients of one head's q, k and v."""
    keys = _gathered(k, selection)
    values = keys if v is None else _gathered(v, selection)
    weights = jnp.exp(_logits(q, keys, selection.where) - log_total)
    mean = g_output.sum(-1, keepdims=True)
    d_logits = weights * (_product("mpd,mkd->mpk", g, values) - mean)
    d_keys, d_values = _product("mpk,mpd->mkd", d_logits, q), _product("mpk,mpd->mkd", weights, g)
    if v is None:
        d_keys, d_values = d_keys + d_values, None

    def scattered(update: Float[Array, "M KP d"]) -> Float[Array, "M P d"]:
        update = update.reshape(*selection.window.shape, *k.shape[1:])
        return jnp.zeros_like(k).at[selection.window].add(update, mode="promise_in_bounds")

    d_v = None if d_values is None else scattered(d_values)
    return _product("mpk,mkd->mpd", d_logits, keys), scattered(d_keys), d_v


def _split(x: Float[Array, "M P C"], heads: int) -> Float[Array, "h M P d"]:
    return x.reshape(*x.shape[:2], heads, -1).transpose(2, 0, 1, 3)


def _join(x: Float[Array, "h M P d"]) -> Float[Array, "M P C"]:
    return x.transpose(1, 2, 0, 3).reshape(*x.shape[1:3], -1)


def _product(subscripts: str, x: Array, y: Array) -> Array:
    return jnp.einsum(subscripts, x, y, precision="highest")


def _gathered(table: Float[Array, "M P d"], selection: Selection) -> Float[Array, "M KP d"]:
    rows = table.at[selection.window].get(mode="promise_in_bounds")  # [M,K,P,d]
    return rows.reshape(len(rows), -1, table.shape[-1])


def _logits(q: Float[Array, "M P d"], keys: Float[Array, "M KP d"], where: Bool[Array, "M K"]):
    """Return the products [M,P,KP], and -inf for the keys of a window that is not attended to."""
    bias = jnp.where(jnp.repeat(where, q.shape[1], axis=1), 0, -jnp.inf).astype(q.dtype)
    # A sum, because a selection by the mask would take as long as the product itself on a CPU.
    return _product("mpd,mkd->mpk", q, keys) + bias[:, None]
