"""RD4AD's loss and anomaly map, as the released code computes them.

The loss takes one cosine for each image and scale, over all numbers of a map (the paper writes a sum of one for
each position, which is what the map takes). Maps go from fine to coarse; the caller vmaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.distillation import cosine_distance, summed_distance


def image_losses(
    teacher: Sequence[Float[Array, "H W C"]], student: Sequence[Float[Array, "H W C"]]
) -> Float[Array, " scales"]:
    """Return the loss of one image at each scale: 1 - cos of the two maps as one vector each."""
    return jnp.stack(
        [cosine_distance(t.reshape(-1), s.reshape(-1)) for t, s in zip(teacher, student, strict=True)]
    )


def batch_loss(
    teacher: Sequence[Float[Array, "N H W C"]],
    student: Sequence[Float[Array, "N H W C"]],
    counted: Bool[Array, " N"],
) -> Float[Array, ""]:
    """Return the sum over scales of the mean loss of the images that count; 0 if none does."""
    losses = jnp.where(counted, jax.vmap(image_losses)(teacher, student).sum(1), 0)
    return losses.sum() / jnp.maximum(counted.sum(), 1).astype(losses.dtype)


def anomaly_map(
    teacher: Sequence[Float[Array, "H W C"]],
    student: Sequence[Float[Array, "H W C"]],
    size: tuple[int, int],
    variant: Literal["released", "ader"] = "released",
) -> Float[Array, "height width"]:
    """Return one image's map before smoothing: the sum over scales of 1 - cos at each position, enlarged.

    ADer's variant divides it by the square of the number of scales.
    """
    found = summed_distance(teacher, student, size)
    return found / len(teacher) ** 2 if variant == "ader" else found
