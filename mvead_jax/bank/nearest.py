"""Exact Euclidean nearest neighbours in a memory bank, by blocked matrix products.

A product of matrices gives |q-b|^2 = |q|^2 + |b|^2 - 2 q.b fast but with an error that grows with the norms,
not with the distance. So the product only rules rows out: of every group of neighbouring bank rows it gives a
lower bound of the distance, the rows of the best groups are compared by direct differences, and a query whose
next best group can't be ruled out is searched again, by direct differences wherever its bound asks for it.

The second search costs about what a brute-force one does. Features of pictures hardly need it; banks full of
copies of the same row, or of clusters much tighter than they are far apart, need it for most queries.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

_GROUP = 16  # neighbouring bank rows that share one bound
_COMPARED = 2  # groups a query compares by direct differences before it is searched again
_AGAIN = 8  # queries searched again at a time
_BLOCK_ELEMENTS = 2**22  # bank rows x queries in one product: 16 MiB, for up to 16,384 queries
_FEWEST_ROWS, _MOST_ROWS = 256, 8192  # of the bank in one product
_NOWHERE = jnp.iinfo(jnp.int32).max


def nearest(
    queries: Float[Array, "Q D"],
    bank: Float[Array, "M D"],
    *,
    block_size: int | None = None,
    where: Bool[Array, " M"] | Bool[Array, "Q M"] | None = None,
) -> tuple[Float32[Array, " Q"], Int32[Array, " Q"]]:
    """Distance to, and index of, the nearest bank row of every query (eq. 1 of seed 001).

    Args:
      queries: finite features.
      bank: finite features, at least one row.
      block_size: bank rows in one matrix product, rounded up to whole groups; by default as many as fit
        16 MiB of products, and at least 256. The answer does not depend on it.
      where: rows that may be found, the same for all queries [M] or for each query [Q,M].

    Returns:
      Euclidean (not squared) distances, and indices, the lowest on ties. Distances are those of direct
      float32 differences, so that a query that is itself a bank row has distance 0. A query that may find
      no row has distance inf and index -1.

    Raises:
      ValueError: shapes that don't fit, or an empty bank.
    """
    queries, bank = jnp.asarray(queries, jnp.float32), jnp.asarray(bank, jnp.float32)
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries {queries.shape} and bank {bank.shape} must be [Q,D] and [M,D]")
    if bank.shape[0] == 0:
        raise ValueError("the bank is empty")
    if where is not None:
        where = jnp.asarray(where, bool)
        if where.shape not in ((bank.shape[0],), (queries.shape[0], bank.shape[0])):
            raise ValueError(
                f"where {where.shape} must be [M] or [Q,M] for {queries.shape[0]} x {bank.shape[0]}"
            )
        where = jnp.atleast_2d(where)
    if queries.shape[0] == 0:
        return jnp.zeros(0, jnp.float32), jnp.zeros(0, jnp.int32)
    if block_size is None:
        block_size = min(max(_BLOCK_ELEMENTS // queries.shape[0], _FEWEST_ROWS), _MOST_ROWS)
    elif block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1")
    return _nearest(queries, bank, where, -(-block_size // _GROUP) * _GROUP)


@partial(jax.jit, static_argnames="block_size")
def _nearest(queries, bank, where, block_size):
    rows = bank.shape[0]
    if rows < block_size:
        block_size = -(-rows // _GROUP) * _GROUP
        allowed = jnp.ones((1, rows), bool) if where is None else where
        where = jnp.pad(allowed, ((0, 0), (0, block_size - rows)))
        bank = jnp.pad(bank, ((0, block_size - rows), (0, 0)))
    centre = bank.mean(0)
    centred = queries - centre[None]
    slack = _slack(queries.shape[1])

    bounds, groups = _best_groups(centred, bank, centre, where, block_size, slack)
    squared, index = _compare_groups(queries, bank, where, groups[:_COMPARED])
    # The bound of |q-b|^2 leaves out |q|^2; both sides are halved.
    norm = jnp.sum(centred * centred, -1)
    limit = 0.5 * squared * (1 + 2 * slack) - (0.5 - slack) * norm
    again = (bounds[_COMPARED] <= limit) & (bounds[_COMPARED] < jnp.inf)

    def search_again(carry):
        squared, index, again = carry
        (few,) = jnp.nonzero(again, size=_AGAIN, fill_value=0)
        own = where if where is None or where.shape[0] == 1 else where[few]
        found = _direct(queries[few], centred[few], bank, centre, own, limit[few], block_size, slack)
        return squared.at[few].set(found[0]), index.at[few].set(found[1]), again.at[few].set(False)

    squared, index, _ = jax.lax.while_loop(
        lambda carry: carry[2].any(), search_again, (squared, index, again)
    )
    missed = index == _NOWHERE
    return jnp.where(missed, jnp.inf, jnp.sqrt(squared)), jnp.where(missed, -1, index)


def _slack(width: int) -> float:
    """Relative error bound of a float32 sum of `width` products, with room for the centring's rounding."""
    return (width + 16) * 2.0**-24


def _bounds(centred, block, centre, slack):
    """Lower bounds [rows,Q] of |q-b|^2 / 2 - (1/2 - slack) |q|^2 in exact arithmetic, for a block of rows.

    The product's error is at most slack (|q|^2 + |b|^2) by |q||b| <= (|q|^2 + |b|^2) / 2.
    """
    block = block - centre[None]
    products = jax.lax.dot_general(block, centred, (((1,), (1,)), ((), ())), precision="highest")
    return (0.5 - slack) * jnp.sum(block * block, -1)[:, None] - products


def _block(bank, where, step, block_size):
    """The step-th block of rows, its first row, and where they may be found [1 or Q, rows]. The last block
    overlaps the one before, so that no bank is copied to be padded."""
    start = jnp.minimum(step * block_size, bank.shape[0] - block_size)
    block = jax.lax.dynamic_slice_in_dim(bank, start, block_size)
    allowed = None if where is None else jax.lax.dynamic_slice_in_dim(where, start, block_size, axis=1)
    return block, start, allowed


def _best_groups(centred, bank, centre, where, block_size, slack):
    """The lowest bounds [_COMPARED+1,Q] over groups of rows, and the first rows of these groups."""

    def step(carry, number):
        block, start, allowed = _block(bank, where, number, block_size)
        bounds = _bounds(centred, block, centre, slack)
        if allowed is not None:
            bounds = jnp.where(allowed.T, bounds, jnp.inf)
        grouped = bounds.reshape(block_size // _GROUP, _GROUP, -1).min(1)
        first_rows = start + _GROUP * jnp.arange(len(grouped), dtype=jnp.int32)
        first_rows = jnp.broadcast_to(first_rows[:, None], grouped.shape)
        values = jnp.concatenate([carry[0], grouped])
        rows = jnp.concatenate([carry[1], first_rows])
        return _lowest(values, rows, _COMPARED + 1), None

    shape = (_COMPARED + 1, centred.shape[0])
    start = jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32)
    steps = jnp.arange(-(-bank.shape[0] // block_size), dtype=jnp.int32)
    return jax.lax.scan(step, start, steps)[0]


def _lowest(values, rows, count):
    """The `count` lowest values along axis 0, with their rows. Plain minima run in SIMD, sorts do not."""
    places = jnp.arange(values.shape[0], dtype=jnp.int32)[:, None]
    found = []
    for _ in range(count):
        low = values.min(0)
        place = jnp.where(values == low[None], places, values.shape[0] - 1).min(0)
        found.append((low, jnp.take_along_axis(rows, place[None], 0)[0]))
        values = jnp.where(places == place[None], jnp.inf, values)
    return jnp.stack([low for low, _ in found]), jnp.stack([row for _, row in found])


def _compare_groups(queries, bank, where, groups):
    """Squared distance and index of the nearest row of some groups [n,Q], by direct differences."""

    def compare(number, carry):
        squared, index = carry
        row = groups[number // _GROUP] + number % _GROUP
        difference = queries - bank[row]
        own = jnp.sum(difference * difference, -1)
        if where is not None:
            allowed = where[0, row] if where.shape[0] == 1 else where[jnp.arange(len(row)), row]
            own = jnp.where(allowed, own, jnp.inf)
        better = (own < squared) | ((own == squared) & (row < index) & (own < jnp.inf))
        return jnp.where(better, own, squared), jnp.where(better, row, index)

    start = jnp.full(queries.shape[0], jnp.inf), jnp.full(queries.shape[0], _NOWHERE, jnp.int32)
    return jax.lax.fori_loop(0, groups.shape[0] * _GROUP, compare, start)


def _direct(queries, centred, bank, centre, where, limit, block_size, slack):
    """As `nearest` for few queries: direct differences in every block in which a bound is within `limit`."""

    def compare(carry, block, start, allowed):
        differences = queries[:, None] - block[None]
        own = jnp.sum(differences * differences, -1)
        if allowed is not None:
            own = jnp.where(allowed, own, jnp.inf)
        low = own.min(1)
        row = start + own.argmin(1).astype(jnp.int32)
        better = low < carry[0]  # blocks come in the order of rows, so a tie keeps the lower index
        return jnp.where(better, low, carry[0]), jnp.where(better, row, carry[1])

    def step(carry, number):
        block, start, allowed = _block(bank, where, number, block_size)
        near = (_bounds(centred, block, centre, slack) <= limit[None]).any()
        return jax.lax.cond(near, compare, lambda carry, *_: carry, carry, block, start, allowed), None

    start = jnp.full(queries.shape[0], jnp.inf), jnp.full(queries.shape[0], _NOWHERE, jnp.int32)
    steps = jnp.arange(-(-bank.shape[0] // block_size), dtype=jnp.int32)
    return jax.lax.scan(step, start, steps)[0]
