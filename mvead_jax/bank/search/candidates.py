"""The first stage of a search: the rows with the lowest bounds, and the proof that no others matter.

    products of a block of rows with some queries
    -> of each group of 8 rows the lowest bound           one pass over the products
    -> the `kept` groups with the lowest bounds
    -> of their rows the `kept` with the lowest bounds     merged with those of the blocks before
    -> direct differences, from the lowest bound on, until the next bound is out of reach

A row that was not kept has at least the lowest bound of all that was dropped. Where that is out of reach of
the k-th nearest found, the answer is that of all rows; the other queries are left to another stage.

Letters: Q queries, M rows, D width.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.search.bounds import (
    FAR,
    Precision,
    Sizes,
    lower_bounds,
    products,
    reach,
    rounded,
    sizes,
    usable,
)
from mvead_jax.bank.search.differences import block_of, compare_in_order
from mvead_jax.bank.search.found import Found, nothing_found
from mvead_jax.bank.search.lowest import at, lowest

GROUP = 8  # rows of which the lowest bound is kept


class Candidates(NamedTuple):
    """Rows with the lowest bounds, in rising order, and the lowest bound among all others.

    Attributes:
      bounds: [kept,Q], FAR for no row. rows: [kept,Q]. others: [Q].
    """

    bounds: Float32[Array, "kept Q"]
    rows: Int32[Array, "kept Q"]
    others: Float32[Array, " Q"]


def by_candidates(
    queries: Float32[Array, "Q D"],
    bank: Float32[Array, "M D"],
    where: Bool[Array, "1 M"] | Bool[Array, "Q M"] | None,
    earlier: Found,
    *,
    centre: Float32[Array, " D"],
    block_rows: int,
    at_once: int,
    precision: Precision,
    kept: int,
) -> tuple[Found, Bool[Array, " Q"]]:
    """Return the nearest rows, and which queries have too many rows within reach to be sure.

    Args:
      block_rows, at_once: how many rows and how many queries are in one product.
      kept: how many rows with the lowest bounds are kept, at least k.
    """
    k, count = earlier.squared.shape
    parts = -(-count // at_once)
    size = -(-count // parts)

    def split(x):  # queries in equal parts, the last one filled up with its last query
        x = jnp.pad(x, [(0, parts * size - count)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return x.reshape(parts, size, *x.shape[1:])

    def joined(x):  # [parts,...,size]
        return jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], parts * size)[..., :count]

    per_query = where is not None and where.shape[0] > 1
    own = split(queries), split(where) if per_query else None
    candidates = _candidates(*own, bank, where, centre, block_rows, precision, kept)
    limit = split(reach(earlier.squared[-1], bank.shape[1]))

    def compare(part):
        queries, candidates, limit = part
        start = nothing_found(k, size), limit, jnp.int32(0)

        def next_bound(number):
            return jnp.where(number < kept, candidates.bounds[jnp.minimum(number, kept - 1)], FAR)

        def next_row(number):
            return number + 1, candidates.rows[number]

        found = compare_in_order(queries, bank, *start, next_bound, next_row)
        others = jnp.minimum(candidates.others, FAR)
        reached = jnp.minimum(limit, reach(found.squared[-1], bank.shape[1]))
        return found, (others < FAR / 2) & ~(others > reached)

    found, left = jax.tree.map(joined, jax.lax.map(compare, (own[0], candidates, limit)))
    return found._replace(compared=found.compared + earlier.compared), left


def _candidates(queries, masks, bank, where, centre, block_rows, precision, kept) -> Candidates:
    """Of queries [parts,size,D] the candidates, with parts first.

    Args:
      masks: rows that may be found, for each query [parts,size,M], or None. where: the same for all [1,M].
    """
    parts, size, _ = queries.shape
    steps = -(-len(bank) // block_rows)
    centred = jax.vmap(lambda x: rounded(x - centre[None], precision))(queries)
    shared = None if masks is not None else where

    def some_rows(candidates, number):
        block, start, allowed = block_of(bank, shared, number, block_rows)
        block = rounded(block - centre[None], precision)
        rows = sizes(block)
        rows = rows._replace(half=jnp.where(allowed[:, 0], rows.half, FAR))

        def some_queries(part):
            queries, mask, before = part
            inner = products(queries, block)
            if mask is not None:
                mask = jax.lax.dynamic_slice_in_dim(mask, start, block_rows, axis=1).T
                inner = jnp.where(mask, inner, -FAR)
            found = _in_block(inner, sizes(queries).at(None), rows, kept)
            found = found._replace(rows=found.rows + start)
            return found if steps == 1 else _merged(before, found)

        return jax.lax.map(some_queries, (centred, masks, candidates)), None

    bounds = jnp.full((parts, kept, size), FAR)
    start = Candidates(bounds, jnp.zeros(bounds.shape, jnp.int32), bounds[:, 0])
    return jax.lax.scan(some_rows, start, jnp.arange(steps, dtype=jnp.int32))[0]


def _in_block(inner: Float32[Array, "rows Q"], queries: Sizes, rows: Sizes, kept: int) -> Candidates:
    """The candidates among the rows of one block."""
    count = len(inner)
    groups = -(-count // GROUP)
    # Group g holds rows g, g + groups, g + 2 groups, ...: patches that lie beside each other in an image are
    # alike, and lie in different groups this way. The last slices overlap where the rows are no multiple.
    slices = [(number * groups, min(number * groups, count - groups)) for number in range(GROUP)]

    def bounds_of(nominal, start):
        own = rows.at(slice(start, start + groups))
        if nominal > start:
            hidden = jnp.arange(start, start + groups) < nominal
            own = own._replace(half=jnp.where(hidden, FAR, own.half))
        own = own.at((slice(None), None))
        return lower_bounds(inner[start : start + groups], queries, own)

    # Written out: several times as fast as `min` over an axis.
    low = usable(reduce(jnp.minimum, [bounds_of(*one) for one in slices]))
    _, group, other_groups = lowest(low, min(kept, groups))
    starts = jnp.array([start for _, start in slices], jnp.int32)
    nominal = jnp.array([nominal for nominal, _ in slices], jnp.int32)
    row = group[None] + starts[:, None, None]
    again = (row < nominal[:, None, None]).reshape(-1, inner.shape[1])
    row = row.reshape(-1, inner.shape[1])
    own = rows.at(row)
    bounds = usable(lower_bounds(at(inner, row), queries, own))
    bounds = jnp.where(again | (own.half >= FAR), FAR, bounds)
    return _kept(bounds, row, other_groups, kept)


def _merged(a: Candidates, b: Candidates) -> Candidates:
    bounds, rows = jnp.concatenate([a.bounds, b.bounds]), jnp.concatenate([a.rows, b.rows])
    return _kept(bounds, rows, jnp.minimum(a.others, b.others), len(a.bounds))


def _kept(bounds, rows, others, kept: int) -> Candidates:
    """The lowest `kept` of some candidates."""
    lacking = max(kept - len(bounds), 0)
    bounds, place, dropped = lowest(jnp.pad(bounds, ((0, lacking), (0, 0)), constant_values=FAR), kept)
    rows = at(rows, jnp.minimum(place, len(rows) - 1))
    return Candidates(bounds, rows, jnp.minimum(others, dropped))
