"""The lowest few of many numbers, for many queries at once: in SIMD over the queries, without a sort.

The numbers lie in bundles of 16, of each of which the lowest is known. Taking the lowest of all looks at the
bundles' lowest numbers and then at the one bundle that it came from: for n numbers some n / 16 + 16 steps,
each for all queries together. `jax.lax.top_k` works query by query and was 4 to 10 times slower on CPUs.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

_BUNDLE = 16


class Bundles(NamedTuple):
    """Numbers of each query, some of which are taken already.

    Attributes:
      values: [n,Q], n a multiple of 16; of bundle b the numbers b, b + n/16, b + 2 n/16, ...
      low: [n/16,Q], of each bundle the lowest that is not taken; inf if all are.
      member: [n/16,Q], which of the bundle's 16 numbers that is.
    """

    values: Float32[Array, "n Q"]
    low: Float32[Array, "bundles Q"]
    member: Int32[Array, "bundles Q"]

    def take(self) -> tuple[Bundles, Float32[Array, " Q"], Int32[Array, " Q"]]:
        """Return the rest, and the lowest number of each query with its place; inf if none is left."""
        count = len(self.low)
        numbers = jnp.arange(count, dtype=jnp.int32)[:, None]
        lowest = self.low.min(0)
        bundle = jnp.where(self.low == lowest[None], numbers, count - 1).min(0)
        taken = at(self.member, bundle[None])
        members = jnp.arange(_BUNDLE, dtype=jnp.int32)[:, None]
        own = at(self.values, bundle[None] + count * members)
        # A bundle's numbers are taken in the order of (number, member).
        is_left = (own > lowest[None]) | ((own == lowest[None]) & (members > taken))
        own = jnp.where(is_left, own, jnp.inf)
        low = own.min(0)
        member = jnp.where(own == low[None], members, _BUNDLE - 1).min(0)
        here = numbers == bundle[None]
        low, member = jnp.where(here, low[None], self.low), jnp.where(here, member[None], self.member)
        return Bundles(self.values, low, member), lowest, taken[0] * count + bundle


def bundled(values: Float32[Array, "n Q"]) -> Bundles:
    """Return numbers in bundles. They must be finite."""
    count = -(-len(values) // _BUNDLE)
    if lacking := count * _BUNDLE - len(values):
        values = jnp.pad(values, ((0, lacking), (0, 0)), constant_values=jnp.inf)

    # A loop, not one expression: what enters a loop is finished before it. Otherwise a compiler may compute
    # the numbers twice with different rounding, and a number that was taken would not be found again.
    def add(number, carry):
        low, member = carry
        own = jax.lax.dynamic_slice_in_dim(values, number * count, count)
        return jnp.minimum(low, own), jnp.where(own < low, number, member)

    start = jnp.full((count, values.shape[1]), jnp.inf), jnp.zeros((count, values.shape[1]), jnp.int32)
    return Bundles(values, *jax.lax.fori_loop(jnp.int32(0), jnp.int32(_BUNDLE), add, start))


def lowest(
    values: Float32[Array, "n Q"], count: int
) -> tuple[Float32[Array, "count Q"], Int32[Array, "count Q"], Float32[Array, " Q"]]:
    """Return the `count` lowest numbers of each query in rising order, their places, and the next one.

    Places of numbers beyond the n-th, which are inf, mean nothing but lie inside.
    """
    n = len(values)

    def take(bundles, _):
        bundles, value, place = bundles.take()
        return bundles, (value, jnp.minimum(place, n - 1))

    bundles, (found, places) = jax.lax.scan(take, bundled(values), length=count)
    return found, places, bundles.low.min(0)


def at(values: Array, places: Int32[Array, "m Q"]) -> Array:
    """Return of each query's column of `values` [n,Q] the entries at `places` [m,Q], which must be inside."""
    queries = values.shape[1]
    flat = places * queries + jnp.arange(queries, dtype=jnp.int32)[None]
    return values.reshape(-1).at[flat].get(mode="promise_in_bounds")
