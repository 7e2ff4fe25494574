"""The weight of an image's score: less where the nearest row of its worst patch stands close to others (eq. 7).

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022. The authors' released code leaves it
out; anomalib has it, with nine rows.

Letters: B images, D width, b rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from mvead_jax.bank.nearest import ShardedRows, k_nearest, sharded_k_nearest


def weight(
    worst: Float[Array, " D"],
    nearest: Float[Array, " D"],
    others: Float[Array, "b D"],
    there: Bool[Array, " b"],
) -> Float[Array, ""]:
    """Return 1 - exp|q - m*| / Σ exp|q - m| over the rows m near m*, m* among them.

    Args:
      worst: q, the patch of an image that is farthest from the bank. nearest: m*, its nearest row.
      others: m. there: which of them are rows: a small bank has fewer.
    """

    def distance(m: Float[Array, " D"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.square(worst - m).sum())

    logits = jnp.where(there, jax.vmap(distance)(others), -jnp.inf)
    return 1 - jnp.exp(distance(nearest) - jax.nn.logsumexp(logits))


def weights(
    worst: Float32[Array, "B D"], bank: Float32[Array, "M D"] | ShardedRows, count: int
) -> Float32[Array, " B"]:
    """Return the weight of each image by the `count` rows nearest to the nearest row of its worst patch."""
    rows = bank.values if isinstance(bank, ShardedRows) else bank
    nearest = _taken(rows, _search(worst, bank, 1))[:, 0]
    near = _search(nearest, bank, count)
    return jax.vmap(weight)(worst, nearest, _taken(rows, near), near >= 0)


def _search(queries: Array, bank: Array | ShardedRows, k: int) -> Array:
    """The k nearest rows [B,k]; -1 where there are fewer."""
    if isinstance(bank, ShardedRows):
        return sharded_k_nearest(queries, bank, k, mesh=bank.mesh)[1]
    return k_nearest(queries, bank, k)[1]


@jax.jit
def _taken(rows: Array, index: Array) -> Array:
    return rows[jnp.maximum(index, 0)]
