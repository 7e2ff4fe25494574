"""Lower bounds of distances by matrix products whose rounding is known, and the lowest of them.

A product of matrices gives |q-b|^2 = |q|^2 + |b|^2 - 2 q.b fast, but with an error that grows with the norms,
not with the distance. So it is used to rule rows out, never to say how far one is.

Letters: Q queries, D width. Bounds have rows first and queries last, so that minima over rows run in SIMD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

Precision = Literal["float32", "bfloat16"]

GROUP = 16  # rows of which the two lowest bounds are kept; a key's last bits tell the row in its group
FAR = 2.0**126  # the bound of a row that may not be found: finite, for its last bits are used
_TINY = 2.0**-100


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
    differences, which has its own rounding."""
    return 0.5 * squared * (1 + 4 * slack(width))


class Lowest(NamedTuple):
    """The lowest bounds over the rows seen so far.

    Attributes:
      keys: [n,Q], ascending, of the lowest row of each group. rows: [n,Q], these rows.
      second: [Q], the lowest bound of a row that is not the lowest of its group.
    """

    keys: Float32[Array, "n Q"]
    rows: Int32[Array, "n Q"]
    second: Float32[Array, " Q"]


def no_rows(count: int, queries: int) -> Lowest:
    """Before any row is seen."""
    keys = jnp.full((count, queries), FAR)
    return Lowest(keys, jnp.zeros((count, queries), jnp.int32), keys[0])


def with_block(
    seen: Lowest,
    bounds: Float32[Array, "rows Q"],
    allowed: Bool[Array, "rows 1"] | Bool[Array, "rows Q"],
    row_of: Callable[[Int32[Array, "groups Q"]], Int32[Array, "groups Q"]],
) -> Lowest:
    """Takes in the bounds of a block of rows, a multiple of GROUP.

    Neighbouring rows go to different groups: in a bank they are neighbouring patches, which are alike.

    Args:
      allowed: rows that may be found. row_of: from the place in the block to the row.
    """
    groups = bounds.shape[0] // GROUP
    keys = _keyed(jnp.where(allowed, bounds, FAR).reshape(GROUP, groups, -1))
    low, high = _two_lowest(keys)
    place = jnp.arange(groups, dtype=jnp.int32)[:, None] + groups * (_bits(low) % GROUP)
    keys, rows = _ascending(
        jnp.concatenate([seen.keys, low]), jnp.concatenate([seen.rows, row_of(place)]), len(seen.keys)
    )
    return Lowest(keys, rows, jnp.minimum(seen.second, high.min(0)))


def _keyed(bounds: Float32[Array, "GROUP groups Q"]) -> Float32[Array, "GROUP groups Q"]:
    """Floats that are no higher than the bounds, with the number in the group in their last four bits.

    A bound that is no number (norms beyond float32) rules nothing out. One near zero is moved away from it:
    its key would be a denormal, whose last bits a device may drop.
    """
    lower = bounds - 2.0**-18 * jnp.abs(bounds)
    lower = jnp.where(jnp.abs(lower) < _TINY, -_TINY, lower)
    lower = jnp.where(jnp.isnan(lower), -FAR, jnp.clip(lower, -FAR, FAR))
    number = jnp.arange(GROUP, dtype=jnp.int32)[:, None, None]
    return jax.lax.bitcast_convert_type((_bits(lower) & ~(GROUP - 1)) | number, jnp.float32)


def _bits(values: Array) -> Array:
    return jax.lax.bitcast_convert_type(values, jnp.int32)


def _two_lowest(keys: Float32[Array, "GROUP groups Q"]) -> tuple[Array, Array]:
    """The lowest and the second lowest along axis 0, in one pass; plain minima run in SIMD, sorts do not."""
    half = GROUP // 2
    low, high = jnp.minimum(keys[:half], keys[half:]), jnp.maximum(keys[:half], keys[half:])
    while half > 1:
        half //= 2
        high = jnp.minimum(jnp.maximum(low[:half], low[half:]), jnp.minimum(high[:half], high[half:]))
        low = jnp.minimum(low[:half], low[half:])
    return low[0], high[0]


def _ascending(keys: Float32[Array, "n Q"], rows: Int32[Array, "n Q"], count: int) -> tuple[Array, Array]:
    """The `count` lowest keys along axis 0, with their rows."""
    places = jnp.arange(keys.shape[0], dtype=jnp.int32)[:, None]

    def take(keys, _):
        low = keys.min(0)
        place = jnp.where(keys == low[None], places, keys.shape[0] - 1).min(0)
        row = jnp.take_along_axis(rows, place[None], 0)[0]
        return jnp.where(places == place[None], FAR, keys), (low, row)

    return jax.lax.scan(take, keys, length=count)[1]
