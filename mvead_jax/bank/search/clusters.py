"""A stage for banks of tight clusters: bounds around the middle of each small block of like rows.

A product's error grows with the norms of its vectors. Where clusters are much tighter than they are far
apart, no centre of the whole bank makes the norms small; the centre of a block of rows of one cluster does,
and whole blocks are ruled out by the distance to it. Costs an assignment of all rows to a few hundred of
them, so it pays only where products around one centre fail.

Letters: Q queries, M rows, D width, K clusters, B blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from mvead_jax.bank.search.bounds import (
    FAR,
    TINY,
    pair_bounds,
    reach,
    rounded,
    slack,
    usable,
)
from mvead_jax.bank.search.differences import compare_in_order
from mvead_jax.bank.search.found import Found, nothing_found
from mvead_jax.bank.search.lowest import bundled

_ROWS = 128  # of a block
_CLUSTERS = 256
_SAMPLE = 1024  # rows among which the clusters' first rows are chosen


class Clusters(NamedTuple):
    """The bank's rows in blocks of like ones.

    Attributes:
      rows: [B,_ROWS], -1 where a block is not full. centre: [B,D], of each block. radius: [B], of the
        farthest row from it. seeds: [K,D], what rows were assigned to.
    """

    rows: Int32[Array, "B rows"]
    centre: Float32[Array, "B D"]
    radius: Float32[Array, " B"]
    seeds: Float32[Array, "K D"]


def find_clusters(bank: Float32[Array, "M D"], where: Bool[Array, "1 M"] | None) -> Clusters:
    """Any assignment would do for an exact answer; this one is quick and finds clusters that lie apart."""
    count = bank.shape[0]
    sample = bank[:: -(-count // _SAMPLE)]
    seeds = sample[_far_apart(sample, min(_CLUSTERS, len(sample)))]
    label = nearest_seed(bank, seeds)
    if where is not None:
        label = jnp.where(where[0], label, len(seeds))
    sizes = jnp.zeros(len(seeds) + 1, jnp.int32).at[label].add(1)
    padded = -(-sizes // _ROWS) * _ROWS
    order = jnp.argsort(label, stable=True).astype(jnp.int32)
    sorted_label = label[order]
    rank = jnp.arange(count, dtype=jnp.int32) - (jnp.cumsum(sizes) - sizes)[sorted_label]
    slot = (jnp.cumsum(padded) - padded)[sorted_label] + rank
    slot = jnp.where(sorted_label < len(seeds), slot, -1)  # what may not be found goes nowhere
    blocks = -(-count // _ROWS) + len(seeds)
    rows = (
        jnp.full(blocks * _ROWS, -1, jnp.int32).at[slot].set(order, mode="drop", wrap_negative_indices=False)
    )
    rows = rows.reshape(blocks, _ROWS)

    def middle(rows):
        has = (rows >= 0)[:, None]
        block = bank[jnp.maximum(rows, 0)]
        centre = jnp.where(has, block, 0).sum(0) / jnp.maximum(has.sum(), 1).astype(jnp.float32)
        difference = jnp.where(has, block - centre[None], 0)
        squared = jnp.sum(difference * difference, -1).max()
        return centre, jnp.sqrt(jnp.maximum(squared, TINY))  # less may have been lost to underflow

    centre, radius = jax.lax.map(middle, rows)
    return Clusters(rows, centre, radius, seeds)


def nearest_seed(vectors: Float32[Array, "n D"], seeds: Float32[Array, "K D"]) -> Int32[Array, " n"]:
    """Near enough: by products around the middle of the seeds."""
    middle = seeds.mean(0)
    seeds = seeds - middle[None]
    norm = 0.5 * jnp.sum(seeds * seeds, -1)

    def label(part):
        return jnp.argmin(norm[None] - (part - middle[None]) @ seeds.T, axis=1).astype(jnp.int32)

    size = min(4096, len(vectors))
    starts = jnp.minimum(jnp.arange(-(-len(vectors) // size), dtype=jnp.int32) * size, len(vectors) - size)

    def step(labels, start):
        own = label(jax.lax.dynamic_slice_in_dim(vectors, start, size))
        return jax.lax.dynamic_update_slice_in_dim(labels, own, start, 0), None

    return jax.lax.scan(step, jnp.zeros(len(vectors), jnp.int32), starts)[0]


def by_clusters(
    queries, bank, where, earlier: Found, *, clusters: Clusters
) -> tuple[Found, Bool[Array, " Q"]]:
    """Return the nearest rows, from block to block; those out of reach of every query are passed over."""
    del where  # is in the clusters
    k, width = earlier.squared.shape[0], bank.shape[1]
    to_centre = _distances(queries, clusters.centre)  # [B,Q]
    empty = (clusters.rows < 0).all(1)
    gap = jnp.maximum(to_centre * (1 - slack(width)) - clusters.radius[:, None] * (1 + slack(width)), 0)
    gap = 0.5 * (1 - 4 * slack(width)) * gap * gap  # a lower bound of |q-b|^2 / 2 for all rows of the block
    gap = jnp.where(empty[:, None], jnp.inf, gap)
    order = jnp.argsort(gap.min(1))

    limit = reach(earlier.squared[-1], width)

    def look(found, number):
        rows, centre = clusters.rows[number], clusters.centre[number]
        centred = rounded(queries - centre[None], "float32")
        block = rounded(bank[jnp.maximum(rows, 0)] - centre[None], "float32")
        bounds = pair_bounds(centred, block)
        bounds = jnp.where((rows >= 0)[:, None], usable(bounds), FAR)

        def next_row(bundles):
            bundles, _, place = bundles.take()
            return bundles, rows[place]

        def next_bound(bundles):
            return bundles.low.min(0)

        return compare_in_order(queries, bank, found, limit, bundled(bounds), next_bound, next_row)

    def step(found, number):
        near = (gap[number] <= jnp.minimum(limit, reach(found.squared[-1], width))).any()
        return jax.lax.cond(near, look, lambda found, _: found, found, number), None

    start = nothing_found(k, queries.shape[0])._replace(compared=earlier.compared)
    return jax.lax.scan(step, start, order)[0], jnp.zeros(queries.shape[0], bool)


def _distances(queries: Float32[Array, "Q D"], centres: Float32[Array, "B D"]) -> Float32[Array, "B Q"]:
    def to_one(centre):
        difference = queries - centre[None]
        return jnp.sqrt(jnp.sum(difference * difference, -1))

    return jax.lax.map(to_one, centres)


def _far_apart(sample: Float32[Array, "n D"], count: int) -> Int32[Array, " count"]:
    """Each next one the farthest from those before, by products: exact enough to choose by."""
    centred = sample - sample.mean(0)[None]
    norm = jnp.sum(centred * centred, -1)
    squared = norm[:, None] + norm[None] - 2 * centred @ centred.T

    def choose(number, carry):
        chosen, distance = carry
        farthest = distance.argmax().astype(jnp.int32)
        return chosen.at[number].set(farthest), jnp.minimum(distance, squared[farthest])

    start = jnp.zeros(count, jnp.int32), squared[0]
    return jax.lax.fori_loop(1, count, choose, start)[0]
