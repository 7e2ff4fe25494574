"""Dinomaly's anomaly maps and image scores, as released. For one image; the caller vmaps."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mvead_jax.methods.dinomaly.objective import cosine_distance

_TAPS, _SIGMA = 5, 4.0  # the released kernel cuts a gaussian of sigma 4 down to 5 x 5: nearly a box


def anomaly_map(
    encoded: Sequence[Float[Array, "h w D"]], decoded: Sequence[Float[Array, "h w D"]], size: int
) -> Float[Array, "size size"]:
    """Return the mean over groups of 1 - cos at each position, enlarged with corner pixels on corner pixels.

    Args:
      size: of the input in pixels, to which the released code enlarges first.
    """
    total = sum(cosine_distance(e, d) for e, d in zip(encoded, decoded, strict=True)) / len(encoded)
    return _along_both(total, *(corner_weights(old, size) for old in total.shape))


def resized(values: Float[Array, "H W"], size: int) -> Float[Array, "size size"]:
    """Return a map at another size: bilinear with half-pixel centres, edges repeated, not antialiased."""
    return _along_both(values, *(centre_weights(old, size) for old in values.shape))


def smoothed(values: Float[Array, "H W"]) -> Float[Array, "H W"]:
    """Return a map after a normalised gaussian of 5 x 5 taps; zeros lie outside, so it falls at the border."""
    return _along_both(values, *map(gaussian_band, values.shape))


def image_score(values: Float[Array, "H W"], top: float) -> Float[Array, ""]:
    """Return the mean of the share `top` of a smoothed map's highest values, at least of one."""
    count = max(1, int(values.size * top))
    return jnp.sort(values.reshape(-1), descending=True)[:count].mean()


def _along_both(
    values: Float[Array, "h w"], rows: Float[np.ndarray, "H h"], columns: Float[np.ndarray, "W w"]
) -> Float[Array, "H W"]:
    tall = jnp.matmul(jnp.asarray(rows, values.dtype), values, precision="highest")
    return jnp.matmul(tall, jnp.asarray(columns, values.dtype).T, precision="highest")


def corner_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Return the matrix of linear interpolation that keeps the end points (PyTorch's align_corners=True)."""
    return _weights(np.arange(new) * ((old - 1) / max(new - 1, 1)), old)


def centre_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Return the matrix of linear interpolation by pixel centres (PyTorch's align_corners=False)."""
    return _weights(np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1), old)


def _weights(places: Float[np.ndarray, " new"], old: int) -> Float[np.ndarray, "new old"]:
    low = np.minimum(places.astype(int), max(old - 2, 0))
    found, at = np.zeros((len(places), old)), np.arange(len(places))
    found[at, low] += 1 - (places - low)
    found[at, np.minimum(low + 1, old - 1)] += places - low
    return found


def gaussian_band(size: int) -> Float[np.ndarray, "size size"]:
    """Return the matrix of the smoothing along one axis."""
    offsets = np.arange(_TAPS) - _TAPS // 2
    taps = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    return sum(tap * np.eye(size, k=offset) for tap, offset in zip(taps, offsets, strict=True))
