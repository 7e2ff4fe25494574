"""How far a student's feature maps are from a teacher's: by the cosine of their features.

Written for one image; the caller vmaps. Maps go from fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float, Float32

from mvead_jax.methods.resizing import enlarge

SMOOTHING = 4.0  # sigma of the gaussian, in pixels of the map, after which an image is scored
_SMALLEST_NORM = 1e-8


def cosine_distance(t: Float[Array, "*space C"], s: Float[Array, "*space C"]) -> Float[Array, "*space"]:
    """Return 1 - cos of two features at each place, norms being at least 1e-8."""
    # The bound is inside of the root, which has no derivative at 0.
    norms = [jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1), _SMALLEST_NORM**2)) for x in (t, s)]
    return 1 - (t * s).sum(-1) / (norms[0] * norms[1])


def summed_distance(
    teacher: Sequence[Float[Array, "H W C"]], student: Sequence[Float[Array, "H W C"]], size: tuple[int, int]
) -> Float[Array, "height width"]:
    """Return the sum over scales of the maps of 1 - cos, each enlarged with its corner pixels kept."""
    return sum(enlarge(cosine_distance(t, s), size) for t, s in zip(teacher, student, strict=True))


def image_scores(maps: Float32[np.ndarray, "*batch H W"]) -> Float32[np.ndarray, "*batch"]:
    """Return the largest value of each map after a gaussian of sigma 4 (released codes)."""
    sigma = (*(0,) * (maps.ndim - 2), SMOOTHING, SMOOTHING)
    smooth = scipy.ndimage.gaussian_filter(np.asarray(maps, np.float64), sigma)
    return smooth.max((-2, -1)).astype(np.float32)
