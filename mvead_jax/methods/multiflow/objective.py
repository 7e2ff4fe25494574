"""Multi-Flow's anomaly map, its loss and its scores.

For one sample, vmapped by the caller. The map is the negative log-likelihood per channel without the Gaussian
constant (released code):

    map = ( 1/2 sum_c (m z_c)^2 - m log_det ) / C

with the foreground m, so that a patch of the background has the value 0 in the loss and in the scores.

Letters: V views, H x W patches of a view, C channels.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def anomaly_map(
    z: Float[Array, "V H W C"],
    log_det: Float[Array, "V H W"],
    foreground: Bool[Array, "V H W"] | None = None,
) -> Float[Array, "V H W"]:
    """Return the map of one sample from what the flow makes of it.

    Args:
      z, log_det: of the flow.
      foreground: patches that show the part; the others get 0. None: all.
    """
    value = (0.5 * jnp.sum(z * z, axis=-1) - log_det) / z.shape[-1]
    # A product, as in the released code: what is not finite in the background still shows in the loss.
    return value if foreground is None else value * foreground.astype(value.dtype)


def flow_loss(maps: Float[Array, "B V H W"], present: Bool[Array, "B V"] | None = None) -> Float[Array, ""]:
    """Return the mean of a batch's maps over all patches of all images, the background's zeros included.

    Args:
      maps: of the samples.
      present: views that each sample has; the others do not count. None: all. Without any view it is 0.
    """
    of_image = maps.mean((2, 3))
    if present is None:
        return of_image.mean()
    count = jnp.maximum(jnp.asarray(present).sum(), 1).astype(maps.dtype)
    return jnp.sum(jnp.where(present, of_image, 0)) / count
