"""Bilinear enlarging of maps, with the corner pixels kept or with half-pixel centres, as a product of matrices."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def enlarge(
    values: Float[Array, "h w"], size: tuple[int, int], *, corners: bool = True
) -> Float[Array, "height width"]:
    """Return a map at another size, bilinearly interpolated. Args: corners: as of `interpolation`."""
    rows, columns = _matrices(values, size, corners)
    tall = jnp.matmul(rows, values, precision="highest")
    return jnp.matmul(tall, columns.T, precision="highest")


def enlarge_features(
    values: Float[Array, "h w C"], size: tuple[int, int], *, corners: bool = True
) -> Float[Array, "height width C"]:
    """Return a feature map at another size, each channel as `enlarge` has it."""
    rows, columns = _matrices(values, size, corners)
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, values, precision="highest")


def _matrices(values: Array, size: tuple[int, int], corners: bool) -> tuple[Array, Array]:
    found = (interpolation(old, new, corners=corners) for old, new in zip(values.shape, size, strict=False))
    return tuple(jnp.asarray(own, values.dtype) for own in found)


def interpolation(old: int, new: int, *, corners: bool = True) -> Float[np.ndarray, "new old"]:
    """Return the matrix that resizes one axis by linear interpolation, without averaging.

    Args:
      corners: the end points stay where they are (PyTorch's align_corners=True); a single new pixel is the first
        old one. Otherwise pixels are as wide as their share of the axis and are looked up at their centres, with
        the edge repeated (align_corners=False).
    """
    if corners:
        place = np.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - (place - low)
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += place - low
    return matrix
