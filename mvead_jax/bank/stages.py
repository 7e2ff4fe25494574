"""The stages of an exact search: each finds what it can, and names the queries that it could not settle.

A stage takes queries [Q,D], the bank [M,D], `where` (rows that may be found, [1,M] or [Q,M], or None) and
what an earlier stage found, and returns what it found and which queries another stage has to search again
[Q].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.bounds import (
    FAR,
    Lowest,
    Precision,
    coarse,
    lower_bounds,
    no_rows,
    reach,
    with_block,
)

NOWHERE = jnp.iinfo(jnp.int32).max  # the row of a neighbour that is none
_LANES = 64  # partial sums of a sum of squares
_SPARE = {"float32": 3, "bfloat16": 15}  # rows beyond k that are compared before a query is searched again


class Found(NamedTuple):
    """Neighbours with queries on the last axis: squared distances [k,Q] from the nearest on, rows [k,Q] (inf
    and NOWHERE for one that is none), and how many rows were compared by direct differences [Q]."""

    squared: Float32[Array, "k Q"]
    index: Int32[Array, "k Q"]
    compared: Int32[Array, " Q"]


def nothing(k: int, queries: int) -> Found:
    """Before any stage."""
    squared = jnp.full((k, queries), jnp.inf)
    return Found(squared, jnp.full((k, queries), NOWHERE, jnp.int32), jnp.zeros(queries, jnp.int32))


def by_products(
    queries,
    bank,
    where,
    earlier: Found,
    *,
    centre: Float32[Array, " D"],
    block_rows: int,
    precision: Precision,
) -> tuple[Found, Bool[Array, " Q"]]:
    """Bounds of all rows; of the lowest few the direct differences."""
    k = earlier.squared.shape[0]
    centred = coarse(queries - centre[None], precision)

    def step(seen: Lowest, number):
        block, start, allowed = _block(bank, where, number, block_rows)
        bounds = lower_bounds(centred, coarse(block - centre[None], precision))
        return with_block(seen, bounds, allowed, lambda place: start + place), None

    count = k + _SPARE[precision]
    steps = jnp.arange(-(-bank.shape[0] // block_rows), dtype=jnp.int32)
    seen, _ = jax.lax.scan(step, no_rows(count + 1, queries.shape[0]), steps)
    found = compare_lowest(queries, bank, seen, earlier)
    return found, unsettled(found, seen, bank.shape[1])


def by_differences(
    queries, bank, where, earlier: Found, *, centre: Float32[Array, " D"], block_rows: int
) -> tuple[Found, Bool[Array, " Q"]]:
    """Direct differences to all rows of every block in which a bound is within reach of what was found."""
    k = earlier.squared.shape[0]
    centred = coarse(queries - centre[None], "float32")
    limit = reach(earlier.squared[-1], bank.shape[1])

    def compare(found: Found, block, start, allowed):
        differences = queries[:, None] - block[None]
        own = jnp.where(allowed.T, sum_of_squares(differences), jnp.inf)  # [Q,rows]
        low, place = jax.lax.top_k(-own, min(k, own.shape[1]))  # of equals the lower row
        row = jnp.where(jnp.isinf(low), NOWHERE, start + place.astype(jnp.int32))
        squared, index = jnp.concatenate([found.squared, -low.T]), jnp.concatenate([found.index, row.T])
        return Found(*ranked(squared, index, k), found.compared + allowed.sum(0, dtype=jnp.int32))

    def step(found: Found, number):
        block, start, allowed = _block(bank, where, number, block_rows)
        allowed = jnp.broadcast_to(allowed, (block_rows, queries.shape[0]))
        bounds = lower_bounds(centred, coarse(block - centre[None], "float32"))
        near = (allowed & ~(bounds > limit[None])).any()
        return jax.lax.cond(near, compare, lambda found, *_: found, found, block, start, allowed), None

    start = nothing(k, queries.shape[0])._replace(compared=earlier.compared)
    steps = jnp.arange(-(-bank.shape[0] // block_rows), dtype=jnp.int32)
    found, _ = jax.lax.scan(step, start, steps)
    return found, jnp.zeros(queries.shape[0], bool)


def compare_lowest(queries, bank, seen: Lowest, earlier: Found) -> Found:
    """The direct differences to the rows of the lowest bounds but the last, which bounds the others."""
    k = earlier.squared.shape[0]
    rows = seen.rows[:-1]
    none = seen.keys[:-1] >= FAR / 2
    squared = squared_distances(queries, bank, rows)
    squared, index = jnp.where(none, jnp.inf, squared), jnp.where(none, NOWHERE, rows)
    compared = earlier.compared + (~none).sum(0, dtype=jnp.int32)
    return Found(*ranked(squared, index, k), compared)


def unsettled(found: Found, seen: Lowest, width: int) -> Bool[Array, " Q"]:
    """Queries for which a row that was not compared may be as near as the last that was found."""
    others = jnp.minimum(seen.keys[-1], seen.second)
    return (others < FAR / 2) & ~(others > reach(found.squared[-1], width))


def squared_distances(
    queries: Float32[Array, "Q D"], bank: Float32[Array, "M D"], rows: Int32[Array, "n Q"]
) -> Float32[Array, "n Q"]:
    """Of each query to n rows of its own, by direct differences."""

    return jax.lax.map(lambda own: sum_of_squares(queries - bank[own]), rows)


def sum_of_squares(x: Float32[Array, "*n D"]) -> Float32[Array, "*n"]:
    """|x|^2 in an order of sums that is the same for every n and wherever it is compiled.

    So equal rows are equally far whichever stage, block or device compares them. The squares are finished
    before the loop that sums them (of two turns at least, or there is no loop), or both would be contracted
    in some places and not in others.
    """
    width = x.shape[-1]
    lanes = min(_LANES, max(1, (1 << (width - 1).bit_length()) // 2))
    squares = jax.lax.optimization_barrier(x * x)
    squares = jnp.pad(squares, [(0, 0)] * (x.ndim - 1) + [(0, -width % lanes)])

    def add(number, total):
        return total + jax.lax.dynamic_slice_in_dim(squares, number * lanes, lanes, axis=-1)

    total = jax.lax.fori_loop(0, squares.shape[-1] // lanes, add, jnp.zeros((*x.shape[:-1], lanes), x.dtype))
    while lanes > 1:
        lanes //= 2
        total = total[..., :lanes] + total[..., lanes:]
    return total[..., 0]


def ranked(squared: Float32[Array, "n Q"], index: Int32[Array, "n Q"], count: int) -> tuple[Array, Array]:
    """The `count` lowest by (squared, index) along axis 0."""

    def take(squared, _):
        low = squared.min(0)
        row = jnp.where((squared == low[None]) & (low < jnp.inf)[None], index, NOWHERE).min(0)
        return jnp.where((squared == low[None]) & (index == row[None]), jnp.inf, squared), (low, row)

    return jax.lax.scan(take, squared, length=count)[1]


def _block(bank, where, number, block_rows):
    """A block of rows, its first row, and which of its rows may be found [rows, 1 or Q].

    The last block overlaps the one before, so that no bank is copied to be padded; rows that the one before
    has shown are not shown again.
    """
    start = jnp.minimum(number * block_rows, bank.shape[0] - block_rows)
    block = jax.lax.dynamic_slice_in_dim(bank, start, block_rows)
    allowed = (start + jnp.arange(block_rows, dtype=jnp.int32) >= number * block_rows)[:, None]
    if where is not None:
        allowed = allowed & jax.lax.dynamic_slice_in_dim(where, start, block_rows, axis=1).T
    return block, start, allowed
