"""PatchCore's patch features: neighbourhoods of several feature maps, averaged to one width (released code).

Letters: h x w cells, C channels of a map, n cells along a side of a neighbourhood, K a width.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def neighbourhoods(x: Float[Array, "h w C"], size: int) -> Float[Array, "h w C*n*n"]:
    """Return the values around each cell in the order channel, row, column; zeros lie outside."""
    rows, columns, channels = x.shape
    reach = size // 2
    padded = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    shifted = [padded[i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
    return jnp.stack(shifted, -1).reshape(rows, columns, channels * size**2)


def pooled(x: Float[Array, "*cells L"], width: int) -> Float[Array, "*cells K"]:
    """Return L values averaged to K: the k-th is the mean of those from floor(k L / K) to ceil((k + 1) L / K) - 1.

    The values of different channels are averaged where the widths do not divide (PyTorch's adaptive_avg_pool1d).
    """
    length = x.shape[-1]
    if length == width:
        return x
    if length % width == 0:
        return x.reshape(*x.shape[:-1], width, length // width).mean(-1)
    at = np.arange(width)
    first, last = at * length // width, -(-(at + 1) * length // width)
    places = first[:, None] + np.arange((last - first).max())
    inside = places < last[:, None]
    values = jnp.where(jnp.asarray(inside), x[..., np.minimum(places, length - 1)], 0)
    return values.sum(-1) / jnp.asarray(last - first, x.dtype)[(None,) * (x.ndim - 1)]


def embedded(maps: Sequence[Float[Array, "h w C"]], neighbourhood: int, width: int) -> Float[Array, "h w K"]:
    """Return the patch features of one image, at the size of its first map.

    The released code enlarges every value of a neighbourhood before it averages them; both are linear, and the other
    order needs less memory.

    Args:
      width: K of each map and of all together; 0: each keeps its channels, and they stand side by side.
    """
    size, parts = maps[0].shape[:2], []
    for x in maps:
        part = pooled(neighbourhoods(x, neighbourhood), width or x.shape[2])
        parts.append(jax.image.resize(part, (*size, part.shape[2]), "bilinear", antialias=False))
    joined = jnp.concatenate(parts, -1)
    return pooled(joined, width) if width else joined
