"""AUPRO, in which a small defect weighs what a large one does, of maps that are in memory.

By the definition of MVTec AD: regions are 8-connected; the overlap of a region is the share of its pixels at
or above a threshold, PRO the mean over all regions of the category, FPR the share of all its normal pixels,
those of defective images too; the area up to an FPR of 0.3 is interpolated there and divided by 0.3.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from mvead_jax.evaluation.pixels import pixel_metrics

_BATCH = 64  # images whose normal pixels are copied at a time


def aupro(
    maps: Float[np.ndarray, "n H W"], masks: Bool[np.ndarray, "n H W"], fpr_limit: float = 0.3
) -> float:
    """Return the exact AUPRO of all maps of a category. NaN without a defect, or without a normal pixel.

    Besides the arrays it needs about 80 bytes a defect pixel.

    Args:
      masks: boolean, or 0 and 1.

    Raises:
      ValueError: see `pixel_metrics`; a limit outside (0, 1].
    """
    maps, masks = np.asarray(maps), np.asarray(masks)
    if maps.shape != masks.shape or maps.ndim != 3:
        raise ValueError(f"maps {maps.shape} and masks {masks.shape} must both be [n,H,W]")
    starts = range(0, len(maps), _BATCH)

    def batches():
        return ((maps[start : start + _BATCH], masks[start : start + _BATCH]) for start in starts)

    found = pixel_metrics(batches, fpr_limit=fpr_limit, exact_pixels=maps.size)
    return float(found.bounds["aupro"].value)
