"""Exact nearest neighbours: bounds by matrix products first, then only as much more as the queries need.

    bfloat16 products -> float32 products -> direct differences         (precision="bfloat16")
                         float32 products -> direct differences         (precision="float32")

Each arrow is taken only by the queries that the stage before it could not settle. In a bank of tight
clusters, where products around one centre would settle few, blocks of like rows around their own centres
stand in for the products (clusters.py). The answer does not depend on any of this: it is that of direct
float32 differences.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.search.bounds import GROUP, Precision
from mvead_jax.bank.search.clusters import by_clusters, find_clusters, nearest_seed
from mvead_jax.bank.search.stages import NOWHERE, Found, by_differences, by_products, nothing

_AGAIN_QUERIES = 128  # queries searched again by float32 products at a time
_CLUSTERED_QUERIES = 256  # queries searched by clusters at a time
_DIRECT_QUERIES, _DIRECT_ROWS = 32, 128  # queries, and rows of a block, compared directly at a time
_PROBED_QUERIES, _PROBED_ROWS = 64, 8192  # that tell which stage to begin with
_MOST_COMPARED = 64  # of these rows, beyond k groups, up to which products in a precision are of use
_LEFT_FOR_CLUSTERS = 64  # queries left by the products for which clusters are looked for
_FEWEST_ROWS, _FEWEST_QUERIES = 8192, 512  # for which clusters are looked for


class Neighbours(NamedTuple):
    """Squared distances [Q,k] from the nearest on, rows [Q,k] (inf and -1 where there is none), and how many
    rows each query was compared with by direct differences [Q]."""

    squared: Float32[Array, "Q k"]
    index: Int32[Array, "Q k"]
    compared: Int32[Array, " Q"]


@partial(jax.jit, static_argnames=("k", "block_rows", "precision"))
def search(
    queries: Float32[Array, "Q D"],
    bank: Float32[Array, "M D"],
    where: Bool[Array, "Q M"] | Bool[Array, "1 M"] | None,
    *,
    k: int,
    block_rows: int,
    precision: Precision,
) -> Neighbours:
    """The k nearest rows of every query, by (distance, row).

    Args:
      where: rows that may be found.
      block_rows: of the bank in one product, a multiple of GROUP.
    """
    count, rows = queries.shape[0], bank.shape[0]
    centre = _centre(bank)
    if rows < block_rows:
        block_rows = -(-rows // GROUP) * GROUP
        allowed = jnp.ones((1, rows), bool) if where is None else where
        where = jnp.pad(allowed, ((0, 0), (0, block_rows - rows)))
        bank = jnp.pad(bank, ((0, block_rows - rows), (0, 0)))

    products = partial(by_products, centre=centre, block_rows=block_rows)
    differences = partial(by_differences, centre=centre, block_rows=min(block_rows, _DIRECT_ROWS))

    def through_products(precision, found, again):
        found, again = products(queries, bank, where, found, precision=precision)
        if precision == "bfloat16":
            stage = partial(products, precision="float32")
            found, again = _again(stage, _AGAIN_QUERIES, queries, bank, where, found, again)
        return found, again

    def clustered(found, again):
        clusters = find_clusters(bank, where)
        order = jnp.argsort(nearest_seed(queries, clusters.seeds))  # like queries look at the same blocks
        found, again = jax.tree.map(lambda x: x[..., order], (found, again))
        stage = partial(by_clusters, clusters=clusters)
        found, again = _again(stage, _CLUSTERED_QUERIES, queries[order], bank, where, found, again)
        back = jnp.argsort(order)
        return jax.tree.map(lambda x: x[..., back], (found, again))

    found, again = nothing(k, count), jnp.ones(count, bool)
    if rows < _FEWEST_ROWS or count < _FEWEST_QUERIES or (where is not None and where.shape[0] > 1):
        found, again = through_products(precision, found, again)
    else:
        found, again = _from_the_right_stage(
            through_products, products, queries, bank, where, found, again, block_rows, precision
        )
        found, again = jax.lax.cond(
            again.sum() > _LEFT_FOR_CLUSTERS, clustered, lambda *same: same, found, again
        )
    found, _ = _again(differences, _DIRECT_QUERIES, queries, bank, where, found, again)

    index = jnp.where(found.index == NOWHERE, -1, found.index)
    return Neighbours(found.squared.T, index.T, found.compared)


def _from_the_right_stage(
    through_products,
    products,
    queries,
    bank,
    where,
    found: Found,
    again,
    block_rows: int,
    precision: Precision,
):
    """Searches by products of `precision` or of float32, or leaves all to clusters: as some queries in some
    rows tell."""
    queries = queries[:: -(-len(queries) // _PROBED_QUERIES)]
    every = -(-len(bank) // _PROBED_ROWS)
    some = bank[::every], where if where is None else where[:, ::every]
    k = found.squared.shape[0]
    start = nothing(k, len(queries))

    def settles(precision):
        rows = min(block_rows, len(some[0]) // GROUP * GROUP)
        compared = products(queries, *some, start, block_rows=rows, precision=precision)[0].compared
        return compared.mean() <= _MOST_COMPARED + k * GROUP

    stages = [lambda *same: same, partial(through_products, "float32")]
    choice = settles("float32").astype(jnp.int32)
    if precision == "bfloat16":
        stages.append(partial(through_products, "bfloat16"))
        choice = jnp.where(settles("bfloat16"), 2, choice)
    return jax.lax.switch(choice, stages, found, again)


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
    """A place in the middle of the bank, which one row far away does not move: the median of some rows."""
    return jnp.median(bank[:: -(-bank.shape[0] // 63)], axis=0)
