"""Patch maps at the size at which they are compared with masks: enlarged, cropped and smoothed in one step.

All three are linear and work on rows and on columns: a map m [h,w] becomes A m Bᵀ, a matrix for each axis.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, Float32
from scipy.ndimage import gaussian_filter1d

from mvead_jax.evaluation.protocols import sigma


def enlarge(
    maps: Float[np.ndarray, "n h w"], height: int, width: int, *, crop: float = 1.0, smoothing: str = "none"
) -> Float32[np.ndarray, "n H W"]:
    """Bilinear with half-pixel centres, edges repeated, to the middle `crop` of either side; then smoothed.

    Summed in float64 and rounded once, so that no order of summation shows in the float32 result.

    Args:
      smoothing: as `EvalConfig.smoothing`.
    """
    rows = _operator(maps.shape[1], height, crop, smoothing)
    columns = _operator(maps.shape[2], width, crop, smoothing)
    tall = (rows @ maps.astype(np.float64)).reshape(-1, maps.shape[2])
    return (tall @ columns.T).astype(np.float32).reshape(-1, height, width)


@functools.lru_cache(maxsize=32)
def _operator(patches: int, size: int, crop: float, smoothing: str) -> Float[np.ndarray, "size patches"]:
    """What one axis of patches becomes on `size` pixels."""
    centres = ((1 - crop) / 2 + crop * (np.arange(size) + 0.5) / size) * patches - 0.5
    centres = np.clip(centres, 0, patches - 1)
    low = np.minimum(np.floor(centres).astype(int), max(patches - 2, 0))
    share = centres - low
    found = np.zeros((size, patches))
    at = np.arange(size)
    found[at, low] += 1 - share
    found[at, np.minimum(low + 1, patches - 1)] += share
    if smoothing == "gaussian5":
        taps = np.exp(-(np.arange(-2.0, 3.0) ** 2) / (2 * 4.0**2))
        taps /= taps.sum()
        band = sum(tap * np.eye(size, k=offset) for offset, tap in zip(range(-2, 3), taps, strict=True))
        return band @ found
    width = sigma(smoothing)
    # scipy's: cut off at 4 sigma, mirrored at the edges, as ADer's evaluator calls it.
    return found if width is None else gaussian_filter1d(found, width, axis=0)
