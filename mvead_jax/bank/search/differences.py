"""Direct float32 differences: what every answer of the search is made of, in one order of sums everywhere.

Equal rows are equally far whichever stage, block, device or batch compares them. The order of the sums is a
contract: with another one the answers would differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.search.bounds import FAR, pair_bounds, reach, rounded
from mvead_jax.bank.search.found import NO_ROW, Found, nothing_found, ranked

_LANES = 64  # partial sums of a sum of squares
State = TypeVar("State")


def sum_of_squares(x: Float32[Array, "*n D"]) -> Float32[Array, "*n"]:
    """Return |x|^2, of the same bits for every n and wherever it is compiled."""
    width = x.shape[-1]
    squares = jnp.pad(x * x, [(0, 0)] * (x.ndim - 1) + [(0, _padded(width) - width)])
    return _sum(squares)


def _padded(width: int) -> int:
    """The next multiple of the number of partial sums."""
    return -(-width // _lanes(width)) * _lanes(width)


def _lanes(width: int) -> int:
    return min(_LANES, max(1, (1 << (width - 1).bit_length()) // 2))


def _sum(squares: Float32[Array, "*n padded"]) -> Float32[Array, "*n"]:
    """The sum over the last axis. The squares must be finished before the loop that sums them (of two turns
    at least, or there is no loop), or both would be contracted in some places and not in others."""
    squares = jax.lax.optimization_barrier(squares)
    lanes = _lanes(squares.shape[-1])

    def add(number, total):
        return total + jax.lax.dynamic_slice_in_dim(squares, number * lanes, lanes, axis=-1)

    start = jnp.zeros((*squares.shape[:-1], lanes), squares.dtype)
    total = jax.lax.fori_loop(0, squares.shape[-1] // lanes, add, start)
    while lanes > 1:
        lanes //= 2
        total = total[..., :lanes] + total[..., lanes:]
    return total[..., 0]


def compare_in_order(
    queries: Float32[Array, "Q D"],
    bank: Float32[Array, "M D"],
    found: Found,
    limit: Float32[Array, " Q"],
    state: State,
    next_bound: Callable[[State], Float32[Array, " Q"]],
    next_row: Callable[[State], tuple[State, Int32[Array, " Q"]]],
) -> Found:
    """Compare one row of each query after the other until the next bound of no query is within reach.

    Args:
      limit: bounds up to which rows matter, from an earlier stage.
      state: tells which rows come next, those with lower bounds first. next_bound: FAR for no row.
    """
    width = bank.shape[1]
    # A buffer whose last columns stay zero: to pad each difference instead takes three times as long.
    squares = jnp.zeros((len(queries), _padded(width)))

    def is_near(found: Found, bound):
        return (bound < FAR / 2) & ~(bound > jnp.minimum(limit, reach(found.squared[-1], width)))

    def compare(carry):
        found, state, squares = carry
        is_row = next_bound(state) < FAR / 2
        state, row = next_row(state)
        difference = queries - bank[row]
        squares = jax.lax.dynamic_update_slice(squares, difference * difference, (0, 0))
        squared = _sum(squares)
        found = found._replace(compared=found.compared + is_row.astype(jnp.int32))
        is_row &= squared < jnp.inf
        squared, row = jnp.where(is_row, squared, jnp.inf), jnp.where(is_row, row, NO_ROW)
        return found.with_row(squared, row), state, squares

    def goes_on(carry):
        return is_near(carry[0], next_bound(carry[1])).any()

    return jax.lax.while_loop(goes_on, compare, (found, state, squares))[0]


def by_differences(
    queries, bank, where, earlier: Found, *, centre: Float32[Array, " D"], block_rows: int
) -> tuple[Found, Bool[Array, " Q"]]:
    """Return what direct differences say to all rows of every block with a bound within reach."""
    k = earlier.squared.shape[0]
    centred = rounded(queries - centre[None], "float32")
    limit = reach(earlier.squared[-1], bank.shape[1])

    def compare(found: Found, block, start, allowed):
        differences = queries[:, None] - block[None]
        own = jnp.where(allowed.T, sum_of_squares(differences), jnp.inf)  # [Q,rows]
        low, place = jax.lax.top_k(-own, min(k, own.shape[1]))  # of equals the lower row
        row = jnp.where(jnp.isinf(low), NO_ROW, start + place.astype(jnp.int32))
        squared, index = jnp.concatenate([found.squared, -low.T]), jnp.concatenate([found.index, row.T])
        return Found(*ranked(squared, index, k), found.compared + allowed.sum(0, dtype=jnp.int32))

    def step(found: Found, number):
        block, start, allowed = block_of(bank, where, number, block_rows)
        allowed = jnp.broadcast_to(allowed, (block_rows, queries.shape[0]))
        rows = rounded(block - centre[None], "float32")
        bounds = pair_bounds(centred, rows)
        near = (allowed & ~(bounds > limit[None])).any()
        return jax.lax.cond(near, compare, lambda found, *_: found, found, block, start, allowed), None

    start = nothing_found(k, queries.shape[0])._replace(compared=earlier.compared)
    steps = jnp.arange(-(-bank.shape[0] // block_rows), dtype=jnp.int32)
    found, _ = jax.lax.scan(step, start, steps)
    return found, jnp.zeros(queries.shape[0], bool)


def block_of(
    bank: Float32[Array, "M D"],
    where: Bool[Array, "1 M"] | Bool[Array, "Q M"] | None,
    number,
    block_rows: int,
) -> tuple[Float32[Array, "rows D"], Int32[Array, ""], Bool[Array, "rows 1"] | Bool[Array, "rows Q"]]:
    """Return a block of rows, its first row, and which of its rows may be found.

    The last block overlaps the one before, so that no bank is copied to be padded; rows that the one before
    has shown may not be found again.
    """
    start = jnp.minimum(number * block_rows, bank.shape[0] - block_rows)
    block = jax.lax.dynamic_slice_in_dim(bank, start, block_rows)
    allowed = (start + jnp.arange(block_rows, dtype=jnp.int32) >= number * block_rows)[:, None]
    if where is not None:
        allowed = allowed & jax.lax.dynamic_slice_in_dim(where, start, block_rows, axis=1).T
    return block, start, allowed
