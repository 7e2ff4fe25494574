"""Evidence along epipolar lines: a patch is more suspect if another camera sees something on its line (ours).

Patch scores are standardised by view, so that they can be added; to each patch comes, averaged over the other
views, the highest score among the patches that may show the same point. Works on the maps of any method.

Letters: V views, h x w patches, N = h w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

CALIBRATED = 64  # training samples, at most, whose leave-one-out scores tell what is normal


@dataclass(frozen=True)
class Calibration:
    """What normal patch scores look like in each view: their mean and standard deviation [V]."""

    mean: Float[np.ndarray, " V"]
    deviation: Float[np.ndarray, " V"]


def calibrate_scores(normal: Float[np.ndarray, "n V h w"]) -> Calibration:
    """The calibration by leave-one-out scores of normal samples; NaN counts as missing.

    A view without two scores takes the figures of all views together; no deviation is below 1e-6 of the mean.
    """
    flat = np.asarray(normal, np.float64).swapaxes(0, 1).reshape(normal.shape[1], -1)
    everything = flat[np.isfinite(flat)]
    if not len(everything):
        return Calibration(np.zeros(len(flat)), np.ones(len(flat)))
    rows = [row[np.isfinite(row)] for row in flat]
    rows = [row if len(row) > 1 else everything for row in rows]
    mean = np.array([row.mean() for row in rows])
    deviation = np.array([row.std() for row in rows])
    return Calibration(mean, np.maximum(deviation, np.maximum(1e-6 * np.abs(mean), 1e-12)))


def standardise(maps: Float[Array, "*B V h w"], calibration: Calibration) -> Float[Array, "*B V h w"]:
    """How many standard deviations above the normal mean of its view each score lies."""
    mean = jnp.asarray(calibration.mean, maps.dtype)[:, None, None]
    deviation = jnp.asarray(calibration.deviation, maps.dtype)[:, None, None]
    shape = (1,) * (maps.ndim - 3) + mean.shape
    return (maps - mean.reshape(shape)) / deviation.reshape(shape)


def fuse_evidence(
    maps: Float[Array, "V h w"],
    mask: Bool[Array, "V V N N"],
    present: Bool[Array, " V"],
    weight: float = 1.0,
    pooling: Literal["mean", "max"] = "mean",
) -> Float[Array, "V h w"]:
    """Standardised scores of one sample, with what the other views have to say.

    Args:
      maps: standardised. mask: mask[a, b, j, k]: patch k of b may show what patch j of a shows.
      present: views that the sample has; others say nothing.
      weight: of what the other views add.
      pooling: over the views in which a patch has any place to be. A patch that has none adds nothing.
    """
    views = maps.shape[0]
    flat = maps.reshape(views, -1)
    mask = mask & jnp.asarray(present)[None, :, None, None]
    highest = jnp.where(mask, flat[None, :, None, :], -jnp.inf).max(3)  # [V,V,N]
    seen = mask.any(3)
    if pooling == "mean":
        total = jnp.where(seen, highest, 0).sum(1)
        added = total / jnp.maximum(seen.sum(1), 1).astype(maps.dtype)
    else:
        added = jnp.where(seen.any(1), highest.max(1), 0)
    return maps + weight * added.reshape(maps.shape)
