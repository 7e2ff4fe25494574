"""Lower bounds of distances by matrix products whose rounding is known.

A product of matrices gives |q-b|^2 = |q|^2 + |b|^2 - 2 q.b fast, but with an error that grows with the norms,
not with the distance. So it is used to rule rows out, never to say how far one is.

Letters: Q queries, D width. Bounds have rows first and queries last, so that minima over rows run in SIMD.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

Precision = Literal["float32", "bfloat16"]

GROUP = 8  # neighbouring rows of which the lowest bound is kept
FAR = 2.0**126  # the bound of a row that may not be found
TINY = 2.0**-100  # below it products and squares may have been lost to underflow


class Coarse(NamedTuple):
    """Vectors [n,D] as a product takes them, their norms [n], and those of what rounding took away [n]."""

    values: Array
    norm: Float32[Array, " n"]
    lost: Float32[Array, " n"]


def coarse(centred: Float32[Array, "n D"], precision: Precision) -> Coarse:
    """The vectors in the precision of a product. What bfloat16 takes away is itself a float32 without
    error."""
    norm = jnp.sqrt(jnp.sum(centred * centred, -1))
    if precision == "float32":
        return Coarse(centred, norm, jnp.zeros_like(norm))
    rounded = jax.lax.reduce_precision(centred, exponent_bits=8, mantissa_bits=7)
    lost = centred - rounded
    return Coarse(rounded.astype(jnp.bfloat16), norm, jnp.sqrt(jnp.sum(lost * lost, -1)))


def slack(width: int) -> float:
    """Relative error bound of a float32 sum of `width` products: twice what rounding each sum to nearest
    makes, for accumulators that cut, with room for the rounding of a centring, of norms, and of the last
    sums."""
    return (width + 16) * 2.0**-23


def lower_bounds(queries: Coarse, block: Coarse) -> Float32[Array, "rows Q"]:
    """Lower bounds, in exact arithmetic, of |q-b|^2 / 2.

    Accumulating q.b errs by at most slack (|q|^2 + |b|^2), for |q||b| <= (|q|^2 + |b|^2) / 2. Rounding the
    vectors to q', b' first errs by |q.b - q'.b'| = |(q-q').b + q'.(b-b')| <= |q-q'||b| + |q'||b-b'|.
    """
    rounded = block.values.dtype != jnp.float32
    products = jax.lax.dot_general(
        block.values,
        queries.values,
        (((1,), (1,)), ((), ())),
        precision=None if rounded else "highest",
        preferred_element_type=jnp.float32,
    )
    share = 0.5 - slack(block.values.shape[1])
    norms = share * (block.norm * block.norm)[:, None] + share * (queries.norm * queries.norm)[None]
    bounds = norms - products
    if not rounded:
        return bounds
    room = 1 + 2.0**-6  # |q'| <= (1 + 2^-8) |q|, and the rounding of these norms and sums
    lost = block.norm[:, None] * queries.lost[None] + block.lost[:, None] * queries.norm[None]
    return bounds - room * lost


def reach(squared: Array, width: int) -> Array:
    """The bound of |q-b|^2 / 2 up to which a row may be as near as `squared` says of another: a sum of direct
    differences, which has its own rounding, and to which underflow may have left nothing."""
    return jnp.maximum(0.5 * squared * (1 + 4 * slack(width)), TINY)


def group_bounds(
    bounds: Float32[Array, "rows Q"], allowed: Bool[Array, "rows 1"] | Bool[Array, "rows Q"]
) -> Float32[Array, "groups Q"]:
    """The lowest bound of each group of neighbours, of the rows that may be found.

    A bound that is no number (norms beyond float32) rules nothing out, nor does one near zero.
    """
    lowest = jnp.where(allowed, bounds, FAR).reshape(-1, GROUP, bounds.shape[1]).min(1)
    lowest = jnp.where(jnp.abs(lowest) < TINY, -TINY, lowest)
    return jnp.where(jnp.isnan(lowest), -FAR, jnp.clip(lowest, -FAR, FAR))
