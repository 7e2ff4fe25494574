"""Exact nearest neighbours: bounds by matrix products first, then only as much more as the queries need.

    products, few candidates -> float32 products, many candidates -> all rows

Each arrow is taken only by the queries that the stage before it could not settle. The first products are of
float32 or of bfloat16 (candidates.py); all rows are compared by direct differences where bounds are within
reach (differences.py). In a bank of tight clusters, where products around one centre would settle few, blocks
of like rows around their own centres stand in for the products (clusters.py). The answer does not depend on
any of this: it is that of direct float32 differences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.search.bounds import Precision
from mvead_jax.bank.search.candidates import by_candidates
from mvead_jax.bank.search.clusters import by_clusters, find_clusters, nearest_seed
from mvead_jax.bank.search.differences import by_differences
from mvead_jax.bank.search.found import NO_ROW, Found, nothing_found
from mvead_jax.runtime.device_memory import device_bytes, power_of_two

MOST_NEIGHBOURS = 64
_QUERIES = 8192  # searched at once; more are searched one part after the other
_AT_ONCE = {"cpu": 256}  # queries in one product: their products with a block of rows fit a CPU's cache
_FEWEST_AT_ONCE = 256  # elsewhere, where launching programs takes time; as many as the memory allows
_PRODUCT_SHARE = 64  # the part of a device's memory, 1 / _PRODUCT_SHARE, that one product may take there
_PRODUCTS = 2**22  # rows x queries in one product with 256 queries: 16 MiB; more with more queries
_BLOCK = 2**23  # numbers in a block of rows: 32 MiB
_FEWEST_BLOCK, _MOST_BLOCK = 256, 16384  # rows in a block
_MOST_ROWS = 2**18  # in a block of any size: places in its products are int32
_AGAIN_QUERIES = 64  # queries searched again by float32 products at a time
_AGAIN_KEPT = 256  # candidates of a query that is searched again, beyond k
_DIRECT_AT_ONCE = 1024  # rows of a bank so small that direct differences come next instead
_CLUSTERED_QUERIES = 256  # queries searched by clusters at a time
_DIRECT_QUERIES, _DIRECT_ROWS = 32, 128  # queries, and rows of a block, compared directly at a time
_PROBED_QUERIES, _PROBED_ROWS = 64, 8192  # that tell which stage to begin with
_MOST_LEFT = 0.25  # of these queries, up to which products in a precision are of use
_LEFT_FOR_CLUSTERS = 64  # queries left by the products for which clusters are looked for
_FEWEST_ROWS, _FEWEST_QUERIES = 8192, 512  # for which clusters are looked for


class Neighbours(NamedTuple):
    """Squared distances [Q,k] from the nearest on, rows [Q,k] (inf and -1 where there is none), and how many
    rows each query was compared with by direct differences [Q]."""

    squared: Float32[Array, "Q k"]
    index: Int32[Array, "Q k"]
    compared: Int32[Array, " Q"]


def in_parts(queries: int, k: int, of_part: Callable[[slice], Neighbours]) -> Neighbours:
    """Return the neighbours of all queries, searched in parts that bound the memory."""
    if not queries:
        nobody = jnp.zeros((0, k), jnp.float32)
        return Neighbours(nobody, nobody.astype(jnp.int32), jnp.zeros(0, jnp.int32))
    found = [of_part(slice(start, start + _QUERIES)) for start in range(0, queries, _QUERIES)]
    return found[0] if len(found) == 1 else Neighbours(*map(jnp.concatenate, zip(*found, strict=True)))


def block_rows(block_size: int | None, queries: int, bank: tuple[int, int]) -> int:
    """Return the rows in one product: by default the bank in as few equal blocks as the memory allows."""
    if block_size is None:
        most = min(_PRODUCTS // min(queries, 256), _BLOCK // bank[1], _MOST_BLOCK)
        blocks = -(-bank[0] // max(most, _FEWEST_BLOCK))
        block_size = -(-bank[0] // (128 * blocks)) * 128
    elif block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1")
    return min(block_size, bank[0], _MOST_ROWS)


def queries_at_once() -> int:
    """Return how many queries are in one product: few on a CPU, elsewhere as many as a device's memory allows."""
    if own := _AT_ONCE.get(jax.default_backend()):
        return own
    return power_of_two(device_bytes() / _PRODUCT_SHARE / (4 * _MOST_BLOCK), _FEWEST_AT_ONCE, _QUERIES)


@partial(jax.jit, static_argnames=("k", "block_size", "precision"))
def search(
    queries: Float32[Array, "Q D"],
    bank: Float32[Array, "M D"],
    where: Bool[Array, "Q M"] | Bool[Array, "1 M"] | None,
    *,
    k: int,
    block_size: int | None,
    precision: Precision,
) -> Neighbours:
    """Return the k nearest rows of every query, by (distance, row).

    Args:
      queries: one that is not finite has distance NaN and row -1.
      bank: finite.
      where: rows that may be found.
      block_size: rows in one product; None: as many as bound the memory.
    """
    count, rows = queries.shape[0], bank.shape[0]
    block = block_rows(block_size, count, bank.shape)
    centre = _centre(bank)
    is_number = jnp.isfinite(queries).all(1)
    queries = jnp.where(is_number[:, None], queries, centre[None])  # anything that is found fast
    candidates = partial(by_candidates, centre=centre, block_rows=block, at_once=queries_at_once())
    differences = partial(by_differences, centre=centre, block_rows=min(block, _DIRECT_ROWS))

    def with_products(precision, found):
        return candidates(queries, bank, where, found, precision=precision, kept=_kept(k, precision))

    def clustered(found, again):
        clusters = find_clusters(bank, where)
        order = jnp.argsort(nearest_seed(queries, clusters.seeds))  # like queries look at the same blocks
        found, again = jax.tree.map(lambda x: x[..., order], (found, again))
        stage = partial(by_clusters, clusters=clusters)
        found, again = _again(stage, _CLUSTERED_QUERIES, queries[order], bank, where, found, again)
        back = jnp.argsort(order)
        return jax.tree.map(lambda x: x[..., back], (found, again))

    wide = partial(candidates, precision="float32", kept=_AGAIN_KEPT + k)
    again_wide = partial(_again, wide, _AGAIN_QUERIES, queries, bank, where)
    start = nothing_found(k, count)
    if rows < _FEWEST_ROWS or count < _FEWEST_QUERIES or (where is not None and where.shape[0] > 1):
        found, again = with_products(precision, start)
        if rows > _DIRECT_AT_ONCE:
            found, again = again_wide(found, again)
    else:
        stages = [lambda found: (found, jnp.ones(count, bool)), partial(with_products, "float32")]
        if precision == "bfloat16":
            stages.append(partial(with_products, "bfloat16"))
        choice = _right_stage(queries, bank, where, k, centre, precision)
        found, again = jax.lax.switch(choice, stages, start)
        found, again = jax.lax.cond(choice > 0, again_wide, lambda *same: same, found, again)
        found, again = jax.lax.cond(
            again.sum() > _LEFT_FOR_CLUSTERS, clustered, lambda *same: same, found, again
        )
    found, _ = _again(differences, _DIRECT_QUERIES, queries, bank, where, found, again)

    index = jnp.where((found.index == NO_ROW) | ~is_number[None], -1, found.index)
    squared = jnp.where(is_number[None], found.squared, jnp.nan)
    return Neighbours(squared.T, index.T, found.compared)


def _kept(k: int, precision: Precision) -> int:
    """How many candidates to keep: as many as nearly all queries of real features need."""
    return k + (4 + k // 2 if precision == "float32" else 32 + k)


def _right_stage(queries, bank, where, k: int, centre, precision: Precision) -> Int32[Array, ""]:
    """Whether to begin with products of bfloat16 (2), of float32 (1), or to leave all to clusters (0).

    Some queries in some rows tell. Of more rows than these a query's neighbours lie closer together, so it is
    a guess; it decides the time only.
    """
    queries = queries[:: -(-len(queries) // _PROBED_QUERIES)]
    every = -(-len(bank) // _PROBED_ROWS)
    some = bank[::every], where if where is None else where[:, ::every]

    def settles(precision):
        options = {"precision": precision, "kept": _kept(k, precision), "at_once": len(queries)}
        start = nothing_found(k, len(queries))
        left = by_candidates(queries, *some, start, centre=centre, block_rows=len(some[0]), **options)[1]
        return left.mean(dtype=jnp.float32) <= _MOST_LEFT

    choice = settles("float32").astype(jnp.int32)
    return jnp.where(settles("bfloat16"), 2, choice) if precision == "bfloat16" else choice


def _again(stage, size: int, queries, bank, where, found: Found, again: Bool[Array, " Q"]):
    """Searches the queries marked in `again` by another stage, `size` at a time."""
    size = min(size, queries.shape[0])

    def some(carry):
        found, again, failed = carry
        (few,) = jnp.nonzero(again, size=size, fill_value=jnp.argmax(again))  # repeats the first to fill up
        own = where if where is None or where.shape[0] == 1 else where[few]
        earlier = Found(found.squared[:, few], found.index[:, few], found.compared[few])
        new, left = stage(queries[few], bank, own, earlier)
        found = Found(
            found.squared.at[:, few].set(new.squared),
            found.index.at[:, few].set(new.index),
            found.compared.at[few].set(new.compared),
        )
        return found, again.at[few].set(False), failed.at[few].set(left)

    start = found, again, jnp.zeros_like(again)
    found, _, failed = jax.lax.while_loop(lambda carry: carry[1].any(), some, start)
    return found, failed


def _centre(bank: Float32[Array, "M D"]) -> Float32[Array, " D"]:
    """A place in the middle of the bank, which one row far away does not move: the median of some rows.

    By `top_k`: `jnp.median` sorts, which took as long as a fifth of a small search.
    """
    some = bank[:: -(-bank.shape[0] // 63)]
    # The barrier keeps `top_k` whole: of one of which a part is used XLA makes a sort.
    return jax.lax.optimization_barrier(jax.lax.top_k(some.T, len(some) // 2 + 1)[0])[:, -1]
