"""The nearest rows without loops and branches, for formats that have none (runtime/plain.py).

Products rank all rows, and the first of these are compared by direct differences. Unlike the exact search
(exact.py) nothing proves that no other row is nearer: one could be only where more than `_MORE` rows lie within
the rounding of the products, and its distance would then differ by as little.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

_MORE = 8  # rows beyond k that are compared directly


def plain_k_nearest(
    queries: Float32[Array, "Q D"],
    bank: Float32[Array, "M D"],
    where: Bool[Array, "Q M"] | Bool[Array, "1 M"] | None,
    k: int,
) -> tuple[Float32[Array, "Q k"], Int32[Array, "Q k"]]:
    """Return distances and rows as `nearest.k_nearest` does; k is at most the number of rows."""
    centre = bank.mean(0)
    q, b = queries - centre[None], bank - centre[None]
    products = jnp.matmul(q, b.T, precision="highest")
    squared = (q * q).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * products
    if where is not None:
        squared = jnp.where(where, squared, jnp.inf)
    ranked, rows = jax.lax.top_k(-squared, min(k + _MORE, bank.shape[0]))
    direct = ((queries[:, None] - bank[rows]) ** 2).sum(-1)
    nearest, places = jax.lax.top_k(-jnp.where(jnp.isinf(ranked), jnp.inf, direct), k)
    found = jnp.take_along_axis(rows, places, 1)
    return jnp.sqrt(-nearest), jnp.where(jnp.isinf(nearest), -1, found)
