"""Lower bounds of distances by matrix products whose rounding is known.

A product of matrices gives |q-b|^2 = |q|^2 + |b|^2 - 2 q.b fast, but with an error that grows with the norms,
not with the distance. So it is used to rule rows out, never to say how far one is.

Letters: Q queries, M rows, D width. Bounds have rows first and queries last, so that minima over rows run in
SIMD.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

Precision = Literal["float32", "bfloat16"]

FAR = 2.0**126  # the bound of a row that may not be found
TINY = 2.0**-100  # below it products and squares may have been lost to underflow


class Rounded(NamedTuple):
    """Vectors [n,D] as a product takes them, and the norms [n] of them and of what rounding took away."""

    values: Array
    norm: Float32[Array, " n"]
    lost: Float32[Array, " n"]


def rounded(centred: Float32[Array, "n D"], precision: Precision) -> Rounded:
    """Return the vectors in the precision of a product.

    What bfloat16 takes away is itself a float32 without error.
    """
    norm = jnp.sqrt(jnp.sum(centred * centred, -1))
    if precision == "float32":
        return Rounded(centred, norm, jnp.zeros_like(norm))
    values = jax.lax.reduce_precision(centred, exponent_bits=8, mantissa_bits=7)
    lost = centred - values
    return Rounded(values.astype(jnp.bfloat16), norm, jnp.sqrt(jnp.sum(lost * lost, -1)))


def slack(width: int) -> float:
    """Return a bound of the relative error of a float32 sum of `width` products.

    It is twice what rounding each sum to nearest makes, for accumulators that cut, with room for the rounding
    of a centring, of norms, and of the last sums.
    """
    return (width + 16) * 2.0**-23


def products(queries: Rounded, rows: Rounded) -> Float32[Array, "M Q"]:
    """Return the inner products of all rows with all queries."""
    return jax.lax.dot_general(
        rows.values,
        queries.values,
        (((1,), (1,)), ((), ())),
        precision="highest" if rows.values.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


class Sizes(NamedTuple):
    """What a bound takes of vectors beside their products, in shapes that broadcast against the products.

    Attributes:
      half: a little less than half the squared norm; FAR for a row that may not be found.
      norm: the norm. lost: the norm of what rounding took away. None with float32 products.
    """

    half: Float32[Array, "*n"]
    norm: Float32[Array, "*n"] | None
    lost: Float32[Array, "*n"] | None

    def at(self, place) -> Sizes:
        """Return the sizes of some vectors."""
        return jax.tree.map(lambda x: x[place], self)


def sizes(vectors: Rounded) -> Sizes:
    """Return the sizes [n] of some vectors."""
    half = (0.5 - slack(vectors.values.shape[1])) * (vectors.norm * vectors.norm)
    if vectors.values.dtype == jnp.float32:
        return Sizes(half, None, None)
    return Sizes(half, vectors.norm, vectors.lost)


def lower_bounds(inner: Float32[Array, "*n"], queries: Sizes, rows: Sizes) -> Float32[Array, "*n"]:
    """Return lower bounds, in exact arithmetic, of |q-b|^2 / 2 from the inner products q.b.

    Accumulating q.b errs by at most slack (|q|^2 + |b|^2), for |q||b| <= (|q|^2 + |b|^2) / 2. Rounding the
    vectors to q', b' first errs by |q.b - q'.b'| = |(q-q').b + q'.(b-b')| <= |q-q'||b| + |q'||b-b'|.
    """
    bounds = (rows.half - inner) + queries.half
    if rows.norm is None:
        return bounds
    room = 1 + 2.0**-6  # |q'| <= (1 + 2^-8) |q|, and the rounding of these norms and sums
    return bounds - room * (rows.norm * queries.lost + rows.lost * queries.norm)


def pair_bounds(queries: Rounded, rows: Rounded) -> Float32[Array, "M Q"]:
    """Return the lower bounds of all queries and all rows."""
    columns, lines = sizes(queries).at(None), sizes(rows).at((slice(None), None))
    return lower_bounds(products(queries, rows), columns, lines)


def usable(bounds: Float32[Array, "*n"]) -> Float32[Array, "*n"]:
    """Return bounds that sort as they should.

    A bound that is no number (norms beyond float32) rules nothing out, nor does one near zero.
    """
    bounds = jnp.where(jnp.abs(bounds) < TINY, -TINY, bounds)
    return jnp.where(jnp.isnan(bounds), -FAR, jnp.clip(bounds, -FAR, FAR))


def reach(squared: Array, width: int) -> Array:
    """Return the bound of |q-b|^2 / 2 up to which a row may be as near as `squared` says of another.

    `squared` is a sum of direct differences, which has its own rounding, and to which underflow may have left
    nothing.
    """
    return jnp.maximum(0.5 * squared * (1 + 4 * slack(width)), TINY)
