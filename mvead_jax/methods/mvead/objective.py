"""The multi-centre objective: what pre-training pulls together and pushes away (MVEAD eq. 7-10).

Written for one sample and vmapped by the caller. Distances are Euclidean, not squared (decision D12); terms
are means, not sums, so that their balance does not depend on how many patches there are (decision D9). One
centre a view and no negatives is Deep SVDD.

Letters: V views, N patches of a view, K centres of a view, M negatives, D feature width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def safe_norm(x: Float[Array, "*shape D"]) -> Float[Array, "*shape"]:
    """Euclidean norm over the last axis whose gradient at 0 is 0, where the derivative does not exist.

    NaN stays NaN.
    """
    squared = jnp.sum(x * x, axis=-1)
    zero = squared == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squared)))


def nearest_centers(z: Float[Array, "N D"], centers: Float[Array, "K D"]) -> Int[Array, " N"]:
    """The centre nearest to each patch, the lowest index on ties; no gradient flows through the choice."""
    z, centers = jax.lax.stop_gradient((z, centers))
    # |z-c|^2 / 2 - |z|^2 / 2, both sides taken from the centres' mean, where float32 is finest.
    mean = centers.mean(0, keepdims=True)
    own = centers - mean
    products = jnp.matmul(z - mean, own.T, precision="highest")
    return jnp.argmin(0.5 * jnp.sum(own * own, axis=-1)[None] - products, axis=-1)


def multi_center_loss(
    z: Float[Array, "V N D"], centers: Float[Array, "V K D"], present: Bool[Array, " V"] | None = None
) -> Float[Array, ""]:
    """L_pos: mean distance of a patch to the nearest centre of its own view (eq. 7).

    Args:
      z: attended features of one normal sample.
      centers: of each view.
      present: views that the sample has; None: all. Without any it is 0.
    """
    assigned = jax.vmap(nearest_centers)(z, centers)  # [V,N]
    distances = safe_norm(z - jnp.take_along_axis(centers, assigned[:, :, None], axis=1))  # [V,N]
    weight = jnp.ones(z.shape[0], z.dtype) if present is None else jnp.asarray(present).astype(z.dtype)
    return jnp.sum(distances.mean(1) * weight) / jnp.maximum(weight.sum(), 1)


def negative_loss(
    z_neg: Float[Array, "M D"],
    view: Int[Array, " M"],
    centers: Float[Array, "V K D"],
    where: Bool[Array, " M"] | None = None,
) -> Float[Array, ""]:
    """L_neg: mean over negatives of -log of the mean distance to the centres of their view (eq. 9).

    Args:
      z_neg: features of the negatives. view: which view each belongs to.
      where: negatives that count; None: all. Without any it is 0.
    """
    mean_distance = safe_norm(z_neg[:, None] - centers[view]).mean(1)  # [M]
    smallest = jnp.finfo(z_neg.dtype).tiny  # a negative on top of its only centre: large, but finite
    own = -jnp.log(jnp.maximum(mean_distance, smallest))
    weight = jnp.ones(own.shape, own.dtype) if where is None else jnp.asarray(where).astype(own.dtype)
    return jnp.sum(jnp.where(weight > 0, own, 0)) / jnp.maximum(weight.sum(), 1)


def select_negatives(
    clean: Float[Array, "N D"], masked: Float[Array, "N D"], candidates: Bool[Array, " N"], n: int
) -> Int[Array, " n"]:
    """The n candidates that masking changed most, most changed first (eq. 8).

    Args:
      clean, masked: outputs of the reference view without and with masked patches in the support view.
      candidates: patches of the reference view that epipolar geometry links to the masked ones.
      n: how many, at most N.

    Returns:
      Indices; where there are fewer candidates than n, others follow: `candidates[indices]` tells.
    """
    change = jax.lax.stop_gradient(safe_norm(masked - clean))
    return jax.lax.top_k(jnp.where(candidates, change, -1), n)[1]


@jax.custom_vjp
def taken(z: Float[Array, "N D"], index: Int[Array, " n"]) -> Float[Array, "n D"]:
    """Return some rows, which may repeat; their gradient is a matrix product, where JAX's own would scatter.

    A GPU scatters by atomic additions, in any order; a product sums in an order of its own.
    """
    return z[index]


def _taken(z: Float[Array, "N D"], index: Int[Array, " n"]):
    return z[index], (index, len(z))


def _taken_back(saved, g: Float[Array, "n D"]):
    index, rows = saved
    chosen = jax.nn.one_hot(index, rows, dtype=g.dtype)
    return jnp.matmul(chosen.T, g, precision="highest"), None


taken.defvjp(_taken, _taken_back)
