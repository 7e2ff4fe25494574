"""Patches that never count, in maps of scores: what is ignored of each camera's images (data.ignore)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Uncounted = Bool[np.ndarray, "V h w"]


def without_uncounted(maps: Float[Array, "B V h w"], uncounted: Uncounted) -> Float[Array, "B V h w"]:
    """Return maps in which patches that never count have the lowest score of their view's other patches.

    So none of them is the highest of anything, and maps stay finite. jit-able.
    """
    where = jnp.asarray(uncounted)[None]
    lowest = jnp.where(where, jnp.inf, maps).min((2, 3), keepdims=True)
    return jnp.where(where, lowest, maps)


def evidence_without(
    mask: Bool[Array, "V V N N"], uncounted: Uncounted, grid: tuple[int, int]
) -> Bool[Array, "V V N N"]:
    """Return epipolar keys by which patches that never count neither give evidence to others nor get any.

    Args:
      mask: the keys: mask[a, b, j, k]: patch k of b may show what patch j of a shows.
      uncounted: cells of the maps. grid: (r, c) of the keys, which divides (h, w): a patch counts if any of its
        cells does.
    """
    views, height, width = uncounted.shape
    cells = uncounted.reshape(views, grid[0], height // grid[0], grid[1], width // grid[1])
    counted = jnp.asarray(~cells.all((2, 4)).reshape(views, -1))
    return mask & counted[:, None, :, None] & counted[None, :, None, :]
