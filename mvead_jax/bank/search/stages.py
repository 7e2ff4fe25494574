"""The stages of an exact search: each finds what it can, and names the queries that it could not settle.

A stage takes queries [Q,D], the bank [M,D], `where` (rows that may be found, [1,M] or [Q,M], or None) and
what an earlier stage found, and returns what it found and which queries another stage has to search again
[Q].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.search.bounds import FAR, GROUP, Precision, coarse, group_bounds, lower_bounds, reach

NOWHERE = jnp.iinfo(jnp.int32).max  # the row of a neighbour that is none
_LANES = 64  # partial sums of a sum of squares
_BLOCKS = 32  # of products whose bounds are kept at a time: 4 times the memory of a block's products
_COMPARED_QUERIES, _COMPARED_GROUPS = 512, 2  # queries, and groups of each, compared directly at a time
_MOST_TURNS = 32  # of comparing, in the bounds kept at a time, before a query is left to another stage


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
    """Bounds of all rows; of those within reach of what was found so far the direct differences."""
    k, count = earlier.squared.shape
    centred = coarse(queries - centre[None], precision)
    steps = -(-bank.shape[0] // block_rows)
    kept = min(steps, _BLOCKS)
    limit = reach(earlier.squared[-1], bank.shape[1])

    def some_blocks(turn, carry):
        found, left = carry
        first = turn * kept

        def bound(number, near: Near):
            block, _, allowed = _block(bank, where, number, block_rows)
            bounds = lower_bounds(centred, coarse(block - centre[None], precision))
            return near.with_block(number - first, group_bounds(bounds, allowed))

        def rows_of(few, block, group):
            number = first + block
            row = rows_of_group(_start(bank, number, block_rows), group)
            allowed = row >= number[..., None] * block_rows
            if where is not None:
                allowed &= where[0, row] if where.shape[0] == 1 else where[few[:, None, None], row]
            return row, allowed

        near = Near.of_nothing(kept, count, block_rows)
        near = jax.lax.fori_loop(first, jnp.minimum(first + kept, steps), bound, near)
        return compare_near(queries, bank, near, rows_of, limit, found, left)

    start = nothing(k, count)._replace(compared=earlier.compared), jnp.zeros(count, bool)
    return jax.lax.fori_loop(0, -(-steps // kept), some_blocks, start)


def rows_of_group(start, group: Int32[Array, "n m"]) -> Int32[Array, "n m GROUP"]:
    """Places of the rows of a group in a block that starts at `start`."""
    return (start + group * GROUP)[..., None] + jnp.arange(GROUP, dtype=jnp.int32)[None, None]


class Near(NamedTuple):
    """Lower bounds of groups of rows in some blocks: of the groups that are still to be compared.

    Attributes:
      groups: [blocks,Q,groups], FAR for one that holds no row or was compared. lowest: [blocks,Q], of each
        block.
    """

    groups: Float32[Array, "blocks Q groups"]
    lowest: Float32[Array, "blocks Q"]

    @classmethod
    def of_nothing(cls, blocks: int, queries: int, block_rows: int) -> Near:
        """Before any block."""
        groups = jnp.full((blocks, queries, block_rows // GROUP), FAR)
        return cls(groups, groups[..., 0])

    def with_block(self, at, bounds: Float32[Array, "groups Q"]) -> Near:
        """The bounds of one block put in."""
        return Near(self.groups.at[at].set(bounds.T), self.lowest.at[at].set(bounds.min(0)))


def compare_near(
    queries,
    bank,
    near: Near,
    rows_of: Callable[[Array, Array, Array], tuple[Array, Array]],
    limit: Float32[Array, " Q"],
    found: Found,
    left: Bool[Array, " Q"],
) -> tuple[Found, Bool[Array, " Q"]]:
    """Direct differences to the groups within reach, each query's from the lowest bound on.

    Args:
      rows_of: of some queries [n], blocks [n,m] and groups in them [n,m] the rows and which of them may be
        found [n,m,GROUP].
      limit: bounds up to which rows matter, from an earlier stage. left: queries that are left to another
        stage; here those are added that have too many rows within reach.
    """
    k, width = found.squared.shape[0], bank.shape[1]
    some_queries, some_groups = min(_COMPARED_QUERIES, len(queries)), min(_COMPARED_GROUPS, len(near.lowest))

    def within_reach(found: Found, lowest):
        low = lowest.min(0)
        return (low < FAR / 2) & ~(low > jnp.minimum(limit, reach(found.squared[-1], width)))

    def compare(carry):
        found, near, turns, active = carry
        (few,) = jnp.nonzero(active, size=some_queries, fill_value=jnp.argmax(active))
        low, block = jax.lax.top_k(-near.lowest[:, few].T, some_groups)  # [few,some]
        block = block.astype(jnp.int32)
        own = near.groups[block, few[:, None]]  # [few,some,groups]
        places = jnp.arange(own.shape[-1], dtype=jnp.int32)[None, None]
        group = jnp.where(own == -low[..., None], places, own.shape[-1]).min(-1)
        others = jnp.where(places == group[..., None], FAR, own).min(-1)
        near = Near(
            near.groups.at[block, few[:, None], group].set(FAR),
            near.lowest.at[block, few[:, None]].set(others),
        )

        row, allowed = rows_of(few, block, group)
        allowed &= (-low < FAR / 2)[..., None]
        row, allowed = row.reshape(len(few), -1).T, allowed.reshape(len(few), -1).T
        squared = squared_distances(queries[few], bank, row)
        squared, index = jnp.where(allowed, squared, jnp.inf), jnp.where(allowed, row, NOWHERE)
        squared = jnp.concatenate([found.squared[:, few], squared])
        index = jnp.concatenate([found.index[:, few], index])
        squared, index = ranked(squared, index, k)
        compared = found.compared[few] + allowed.sum(0, dtype=jnp.int32)
        found = Found(
            found.squared.at[:, few].set(squared),
            found.index.at[:, few].set(index),
            found.compared.at[few].set(compared),
        )
        turns = turns.at[few].set(turns[few] + 1)
        return found, near, turns, within_reach(found, near.lowest) & (turns < _MOST_TURNS) & ~left

    turns = jnp.zeros(len(queries), jnp.int32)
    start = found, near, turns, within_reach(found, near.lowest) & ~left
    found, near, _, _ = jax.lax.while_loop(lambda carry: carry[-1].any(), compare, start)
    return found, left | within_reach(found, near.lowest)


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
    start = _start(bank, number, block_rows)
    block = jax.lax.dynamic_slice_in_dim(bank, start, block_rows)
    allowed = (start + jnp.arange(block_rows, dtype=jnp.int32) >= number * block_rows)[:, None]
    if where is not None:
        allowed = allowed & jax.lax.dynamic_slice_in_dim(where, start, block_rows, axis=1).T
    return block, start, allowed


def _start(bank, number, block_rows):
    return jnp.minimum(number * block_rows, bank.shape[0] - block_rows)
