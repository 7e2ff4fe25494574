"""Epipolar attention computed only near the lines; the same result as `dense`, faster and in less memory.

The epipolar lines of two views form a pencil: patches of view a whose lines lie close together see almost
the same patches of view b. So the queries of a pair of views are ordered by their line's angle in the pencil
and cut into blocks; a block gathers once the keys that any of its queries may see, and attention runs on
dense blocks with the exact mask inside. The order only decides how many keys a block gathers, never which of
them a query sees. A query meets the keys of its V-1 supporting views in V-1 blocks, and their partial
softmaxes are merged (decision D3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mvead_jax.geometry.epipolar import epipolar_lines, patch_centers
from mvead_jax.runtime.plain import mapped, mapped_on_cpu

_CACHE = 2**22  # bytes of a head's attention weights, all of which stay in a CPU's cache while they are used


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BandPlan:
    """Who meets whom: S = V-1 shifts (view a with view (a + s) % V, s = 1 ... S), G blocks of B queries a
    pair, U keys a block. Keys are numbered through all V views: a N + j; queries through the Q views that are asked
    for, which are all but in a plan of `of`.

    queries: of each block. A last block that is not full repeats queries, without keys and never read.
    keys: of each block, the union over its queries, padded with masked ones.
    mask: may the query attend to the key?
    places: where query (a, j) stands among the Q G B rows of a shift.
    readers: of each patch the rows of `keys`, counted through all blocks, in which it is a key, at most R; padded with
      their number. With them a gradient is summed by reading, in an order of its own; None: by scattering, which a GPU
      does by atomic additions, in any order.
    """

    queries: Int[Array, "S Q G B"]
    keys: Int[Array, "S Q G U"]
    mask: Bool[Array, "S Q G B U"]
    places: Int[Array, "S Q N"]
    readers: Int[Array, "VN R"] | None = None

    def of(self, views: Int[Array, " Q"]) -> BandPlan:
        """Return the plan of the queries of some views, no view twice, which are numbered anew: q N + j."""
        shifts, all_views, blocks, block = self.queries.shape
        patches, width = self.places.shape[-1], self.keys.shape[-1]
        moved = (jnp.arange(len(views)) - views)[None, :, None]  # by so many views
        readers = self.readers
        if readers is not None:
            shift, view, row = jnp.unravel_index(readers, (shifts + 1, all_views, blocks * width))
            taken = (view[..., None] == views[None, None]) & (shift < shifts)[..., None]
            row = (shift * len(views) + taken.argmax(-1)) * blocks * width + row
            readers = jnp.where(taken.any(-1), row, shifts * len(views) * blocks * width)
        return BandPlan(
            self.queries[:, views] + moved[..., None] * patches,
            self.keys[:, views],
            self.mask[:, views],
            self.places[:, views] + moved * blocks * block,
            readers,
        )


def pencil_order(F_ab: Float[np.ndarray, "3 3"], centers: Float[np.ndarray, "N 2"]) -> Int[np.ndarray, " N"]:
    """Patches of view a in the order in which their epipolar lines in view b turn about the epipole.

    Lines of a pencil span two dimensions; in a basis of those the turn is an angle modulo π. The order starts
    after the widest gap. Without epipolar geometry (F zero or not finite) any order is as good.
    """
    lines = np.asarray(epipolar_lines(centers, np.nan_to_num(F_ab, posinf=0, neginf=0)), np.float64)
    lines /= np.maximum(np.linalg.norm(lines, axis=1, keepdims=True), 1e-300)
    basis = np.linalg.svd(lines, full_matrices=False)[2][:2]
    angle = np.arctan2(lines @ basis[1], lines @ basis[0]) % np.pi
    order = np.argsort(angle, kind="stable")
    gaps = np.diff(angle[order], append=angle[order[0]] + np.pi)
    return np.roll(order, -(int(gaps.argmax()) + 1))


def plan_bands(
    mask: Bool[np.ndarray, "V V N N"],
    F: Float[np.ndarray, "V V 3 3"],
    grid: tuple[int, int],
    patch_size: float,
    block: int = 64,
    *,
    gather: bool = False,
) -> BandPlan:
    """The plan of a category's mask (host, NumPy). Exact for any mask in which no view attends to itself.

    Args:
      mask, F, grid, patch_size: the result and the arguments of `geometry.epipolar.epipolar_mask`.
      block: queries a block. 32 and 64 are equally fast on a CPU, at 16 x 16 patches and at 37 x 37.
      gather: plan the readers too.
    """
    mask, F = np.asarray(mask), np.asarray(F)
    views, patches = len(mask), mask.shape[2]
    assert views > 1, "one view has no supporting view"
    assert not mask[np.arange(views), np.arange(views)].any(), "bands hold pairs of two views only"
    block = min(block, patches)
    blocks = -(-patches // block)
    centers = patch_centers(grid, patch_size)
    queries = np.zeros((views - 1, views, blocks, block), np.int32)
    places = np.zeros((views - 1, views, patches), np.int32)
    unions = {}
    for shift, a in np.ndindex(views - 1, views):
        b = (a + shift + 1) % views
        order = pencil_order(F[a, b], centers)
        queries[shift, a] = a * patches + np.resize(order, (blocks, block))
        places[shift, a, order] = a * blocks * block + np.arange(patches)
        for g in range(blocks):
            row = order[g * block : (g + 1) * block]
            unions[shift, a, g] = b, row, np.flatnonzero(mask[a, b, row].any(axis=0))
    # A multiple of 16: the sizes that matrix products like.
    width = 16 * max(1, -(-max(len(union) for _, _, union in unions.values()) // 16))
    keys = np.zeros((views - 1, views, blocks, width), np.int32)
    inside = np.zeros((views - 1, views, blocks, block, width), bool)
    for place, (b, row, union) in unions.items():
        keys[place] = b * patches
        keys[place][: len(union)] += union.astype(np.int32)
        inside[place][: len(row), : len(union)] = mask[place[1], b][np.ix_(row, union)]
    readers = (readers_of(queries, keys, inside),) if gather else ()
    return BandPlan(*(jnp.asarray(x) for x in (queries, keys, inside, places, *readers)))


def readers_of(
    queries: Int[np.ndarray, "S V G B"], keys: Int[np.ndarray, "S V G U"], mask: Bool[np.ndarray, "S V G B U"]
) -> Int[np.ndarray, "VN R"]:
    """Return `BandPlan.readers`: those of a patch in the order of the first query that may see it.

    So the order of a sum does not depend on the order of the blocks.
    """
    patches, number = int(queries.max()) + 1, keys.size
    sees = mask.any(-1)  # [S,V,G,B]
    first = np.where(sees, queries, patches).min(
        -1
    )  # of a block; no two blocks share a query that sees anything
    rows = np.flatnonzero(mask.any(-2))
    first = np.broadcast_to(first[..., None], keys.shape).reshape(-1)[rows]
    key = keys.reshape(-1)[rows]
    order = np.lexsort((first, key))
    rows, key = rows[order], key[order]
    count = np.bincount(key, minlength=patches)
    readers = np.full((patches, max(1, count.max())), number, np.int32)
    readers[key, np.arange(len(key)) - (np.cumsum(count) - count)[key]] = rows
    return readers


def banded_attention(
    query: Float[Array, "Q N H d"],
    key: Float[Array, "V N H d"],
    value: Float[Array, "V N H d"],
    plan: BandPlan,
    present: Bool[Array, " V"] | None = None,
) -> Float[Array, "Q N H d"]:
    """`dense.masked_attention` of the mask that was planned: eq. 5-6, one softmax over all supporting views.

    Float32, for one sample; vmap over samples with one plan (on a CPU `jax.lax.map` over them is 1.4 times
    faster). Reverse-mode derivatives only.

    Args:
      query, key, value: of H heads, not yet scaled; finite, also in absent views. Queries are of the views of the plan.
      present: views of this sample that exist; nobody attends to the others. None: all.
    """
    *_, heads, width = query.shape
    mask = _seen(plan, present)

    # One head after the other keeps the blocks in the processor's cache.
    q, k, v = (x.reshape(-1, heads, width).transpose(1, 0, 2) for x in (query * width**-0.5, key, value))
    mixed = mapped(lambda qkv: _one_head(*qkv, mask, plan), (q, k, v))  # [H,QN,d]
    return mixed.transpose(1, 0, 2).reshape(query.shape)


def has_keys(plan: BandPlan, present: Bool[Array, " V"] | None = None) -> Bool[Array, "Q N"]:
    """Return which patches may attend to anything."""
    any_key = jnp.stack(_back(_seen(plan, present).any(axis=-1), plan)).any(axis=0)
    return any_key.reshape(plan.places.shape[1:])


def _seen(plan: BandPlan, present: Bool[Array, " V"] | None) -> Bool[Array, "S Q G B U"]:
    """Return the plan's mask without the keys of absent views."""
    if present is None:
        return plan.mask
    patches = plan.places.shape[-1]
    return plan.mask & jnp.asarray(present)[plan.keys[..., 0] // patches][..., None, None]


def _rows(x: Float[Array, "VN ..."], index: Array) -> Array:
    return x.at[index].get(mode="promise_in_bounds")


def _product(subscripts: str, x: Array, y: Array) -> Array:
    return jnp.einsum(subscripts, x, y, precision="highest")


def _of_pairs(of_pair: Callable[..., Any], arrays: tuple[Array, ...]) -> Any:
    """Return what a function makes of the queries, keys and mask of each pair of views."""
    pairs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arrays)
    small = 4 * arrays[-1].size <= _CACHE
    found = jax.vmap(of_pair)(pairs) if small else mapped_on_cpu(of_pair, pairs)
    return jax.tree.map(lambda x: x.reshape(*arrays[0].shape[:2], *x.shape[1:]), found)


def _back(x: Float[Array, "S Q G B ..."], plan: BandPlan) -> list[Float[Array, "QN ..."]]:
    """Return rows of the blocks in the order of the patches, one array a shift."""
    rows = x.reshape(len(x), -1, *x.shape[4:])
    return [_rows(rows[s], plan.places[s].reshape(-1)) for s in range(len(x))]


@jax.custom_vjp
def _one_head(
    q: Float[Array, "QN d"],
    k: Float[Array, "VN d"],
    v: Float[Array, "VN d"],
    mask: Bool[Array, "S Q G B U"],
    plan: BandPlan,
) -> Float[Array, "QN d"]:
    return _forward(q, k, v, mask, plan)[0]


def _forward(q, k, v, mask, plan):
    def of_pair(pair: tuple[Array, ...]) -> tuple[Array, ...]:
        queries, keys, mask = pair  # [G,B], [G,U], [G,B,U]
        logits = _product("...qd,...kd->...qk", _rows(q, queries), _rows(k, keys))
        logits = jnp.where(mask, logits, -jnp.inf)
        # Not -inf, also for a query that has no key in this block: exp(-inf + inf) is not 0.
        top = jnp.maximum(logits.max(axis=-1), jnp.finfo(logits.dtype).min)
        weights = jnp.exp(logits - top[..., None])
        return _product("...qk,...kd->...qd", weights, _rows(v, keys)), top, weights.sum(axis=-1)

    parts = _of_pairs(of_pair, (plan.queries, plan.keys, mask))
    mixed, tops, totals = (_back(part, plan) for part in parts)

    # The supporting views' partial softmaxes on one scale: that of the largest logit of all.
    highest = jnp.stack(tops).max(axis=0)
    scales = [jnp.exp(top - highest) for top in tops]
    total = sum(total * scale for total, scale in zip(totals, scales, strict=True))
    total = jnp.where(total > 0, total, 1)
    output = sum(part * scale[:, None] for part, scale in zip(mixed, scales, strict=True)) / total[:, None]
    return output, (q, k, v, mask, plan, output, highest + jnp.log(total))


def _backward(saved, g: Float[Array, "QN d"]):
    """Return the gradients of `_one_head`'s arrays.

    Of the weights p_jk = exp(q_j·k_k) / Σ_k exp(q_j·k_k), computed again: dv_k = Σ_j p_jk g_j, and the logits'
    gradient is p_jk (g_j·v_k - g_j·output_j).

    JAX's own gradient of `_forward` also scatters where each row has one reader: 1.2 to 1.4 times slower.
    """
    q, k, v, mask, plan, output, log_total = saved
    means = (g * output).sum(axis=-1)

    def of_pair(pair: tuple[Array, ...]) -> tuple[Array, ...]:
        queries, keys, mask = pair
        q_block, g_block = _rows(q, queries), _rows(g, queries)
        k_block, v_block = _rows(k, keys), _rows(v, keys)
        logits = _product("...qd,...kd->...qk", q_block, k_block) - _rows(log_total, queries)[..., None]
        weights = jnp.exp(jnp.where(mask, logits, -jnp.inf))
        from_values = _product("...qd,...kd->...qk", g_block, v_block)
        d_logits = weights * (from_values - _rows(means, queries)[..., None])
        return (
            _product("...qk,...kd->...qd", d_logits, k_block),
            _product("...qk,...qd->...kd", d_logits, q_block),
            _product("...qk,...qd->...kd", weights, g_block),
        )

    dq, dk, dv = _of_pairs(of_pair, (plan.queries, plan.keys, mask))
    dq, dk, dv = sum(_back(dq, plan)), _to_keys(dk, plan, len(k)), _to_keys(dv, plan, len(v))
    return dq, dk, dv, None, None


def _to_keys(rows: Float[Array, "S Q G U d"], plan: BandPlan, patches: int) -> Float[Array, "VN d"]:
    """Return the sum of the rows of all blocks in which a patch is a key, for every patch."""
    zeros = jnp.zeros((patches, rows.shape[-1]), rows.dtype)
    if plan.readers is None:
        return zeros.at[plan.keys].add(rows, mode="promise_in_bounds")
    rows, readers = rows.reshape(-1, rows.shape[-1]), plan.readers

    def with_next(at: Array, total: Array) -> Array:
        return total + rows.at[readers[:, at]].get(mode="fill", fill_value=0)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(readers.shape[1]), with_next, zeros)


_one_head.defvjp(_forward, _backward)
