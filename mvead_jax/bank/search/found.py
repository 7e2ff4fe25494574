"""What a search has found so far: the nearest rows of every query in order, and how to add to them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

NO_ROW = jnp.iinfo(jnp.int32).max  # the index of a neighbour that is none; sorts behind every row


class Found(NamedTuple):
    """Neighbours by (squared distance, row), with queries on the last axis.

    Attributes:
      squared: [k,Q] from the nearest on; inf for a neighbour that is none.
      index: [k,Q] rows; NO_ROW for a neighbour that is none.
      compared: [Q] how many rows were compared by direct differences.
    """

    squared: Float32[Array, "k Q"]
    index: Int32[Array, "k Q"]
    compared: Int32[Array, " Q"]

    def with_row(self, squared: Float32[Array, " Q"], index: Int32[Array, " Q"]) -> Found:
        """Return the neighbours after one more row of each query; `compared` stays as it is."""
        stays = (self.squared < squared[None]) | (
            (self.squared == squared[None]) & (self.index < index[None])
        )
        follows = jnp.concatenate([jnp.ones_like(stays[:1]), stays[:-1]])  # the one before it stays

        def moved(old, new):
            before = jnp.concatenate([new[None], old[:-1]])
            return jnp.where(stays, old, jnp.where(follows, new[None], before))

        return Found(moved(self.squared, squared), moved(self.index, index), self.compared)


def nothing_found(k: int, queries: int) -> Found:
    """Return what is known before any search."""
    squared = jnp.full((k, queries), jnp.inf)
    return Found(squared, jnp.full((k, queries), NO_ROW, jnp.int32), jnp.zeros(queries, jnp.int32))


def ranked(
    squared: Float32[Array, "n Q"], index: Int32[Array, "n Q"], k: int
) -> tuple[Float32[Array, "k Q"], Int32[Array, "k Q"]]:
    """Return the k lowest of n by (squared, index); what is there several times is taken once."""

    def take(squared, _):
        low = squared.min(0)
        row = jnp.where((squared == low[None]) & (low < jnp.inf)[None], index, NO_ROW).min(0)
        return jnp.where((squared == low[None]) & (index == row[None]), jnp.inf, squared), (low, row)

    return jax.lax.scan(take, squared, length=k)[1]
