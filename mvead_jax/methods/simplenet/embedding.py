"""SimpleNet's embedding: the 3 x 3 patches of two feature maps, averaged down to one vector for each position.

Liu et al., "SimpleNet: a simple network for image anomaly detection and localization", CVPR 2023, as the released
code computes it: it averages neighbours in the order of memory, over elements of a patch and over channels alike,
which the paper does not say.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mvead_jax.methods.resizing import enlarge_features

_SIDE = 3  # of a patch


def embed(
    fine: Float[Array, "h w C"], coarse: Float[Array, "h2 w2 C2"], first_width: int, width: int
) -> Float[Array, "h w D"]:
    """Return the embedding of one image.

    The coarser map's averages are enlarged, and not its patches, which is the same because both are linear and
    takes a sixth of the memory.

    Args:
      first_width: to which the patch of each map is averaged. width: D, to which both together are.
    """
    fine, coarse = (pooled(patches(x), first_width) for x in (fine, coarse))
    return pooled(
        jnp.concatenate([fine, enlarge_features(coarse, fine.shape[:2], corners=False)], axis=-1), width
    )


def patches(x: Float[Array, "h w C"]) -> Float[Array, "h w 9*C"]:
    """Return the 3 x 3 patch around each position, zeros beyond the border: channel slowest, then row, column."""
    height, width, _ = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[i : i + height, j : j + width] for i in range(_SIDE) for j in range(_SIDE)]
    return jnp.stack(shifts, axis=-1).reshape(height, width, -1)


def pooled(x: Float[Array, "*space L"], width: int) -> Float[Array, "*space K"]:
    """Return adaptive averages: output k is the mean of the values from floor(k L/K) to below ceil((k+1) L/K)."""
    length = x.shape[-1]
    if length % width == 0:
        return x.reshape(*x.shape[:-1], width, length // width).mean(-1)
    places, weights = _windows(length, width)
    shares = jnp.expand_dims(jnp.asarray(weights, x.dtype), range(x.ndim - 1))
    return (jnp.take(x, places, axis=-1) * shares).sum(-1)


def _windows(length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The values that each output averages, [K,most], and their shares, 0 where one has fewer than the most."""
    starts = np.arange(width) * length // width
    counts = -(-(np.arange(width) + 1) * length // width) - starts
    steps = np.arange(counts.max())
    there = steps[None] < counts[:, None]
    places = np.minimum(starts[:, None] + steps[None], length - 1)
    return places, np.where(there, 1 / counts[:, None], 0)
