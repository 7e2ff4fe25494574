"""PaDiM's score of an image: the largest value of its map at the input's size, smoothed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Float64

from mvead_jax.methods.resizing import interpolation

SMOOTHING = 4.0  # sigma of the gaussian, in pixels of the input; cut off after 16 on either side
# What lies beyond the edge, by SciPy's names: the port repeats the edge's own pixels, anomalib does not.
_BEYOND = {"port": "reflect", "anomalib": "mirror"}


def smoothed(
    maps: Float[np.ndarray, "*batch h w"], size: tuple[int, int], variant: Literal["port", "anomalib"]
) -> Float64[np.ndarray, "*batch H W"]:
    """Return maps at a size, bilinear with half-pixel centres, after a gaussian of sigma 4, in float64."""
    rows, columns = (
        interpolation(old, new, corners=False) for old, new in zip(maps.shape[-2:], size, strict=True)
    )
    found = rows @ np.asarray(maps, np.float64) @ columns.T
    sigma = (*(0,) * (found.ndim - 2), SMOOTHING, SMOOTHING)
    return scipy.ndimage.gaussian_filter(found, sigma, mode=_BEYOND[variant])
