"""MVAD's loss, anomaly map and scores (seed 003 eq. 10; the released code where the paper is silent).

Written for one image or one sample; the caller vmaps. A teacher's and a student's three maps go from fine to
coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.distillation import summed_distance

LOSS_WEIGHT = 5.0  # the released code's; the paper has a plain sum


def image_loss(
    teacher: Sequence[Float[Array, "H W C"]],
    student: Sequence[Float[Array, "H W C"]],
    weight: float = LOSS_WEIGHT,
) -> Float[Array, ""]:
    """Return the loss of one image: weight times the sum over scales of the mean squared difference.

    All images have maps of the same sizes, so the loss of a batch is the mean of this over its images.
    """
    return weight * sum(jnp.square(t - s).mean() for t, s in zip(teacher, student, strict=True))


def batch_loss(
    teacher: Sequence[Float[Array, "*batch H W C"]],
    student: Sequence[Float[Array, "*batch H W C"]],
    counted: Bool[Array, "*batch"],
    weight: float = LOSS_WEIGHT,
) -> Float[Array, ""]:
    """Return the mean of `image_loss` over the images that count; 0 if none does.

    The maps of the other images may hold anything; the derivative by them is 0.
    """
    # Before the loss, because a number that is none has no derivative that a factor of 0 could take away.
    there = counted.reshape(-1, 1, 1, 1)
    maps = [[jnp.where(there, x.reshape(-1, *x.shape[-3:]), 0) for x in own] for own in (teacher, student)]
    total = jax.vmap(partial(image_loss, weight=weight))(*maps).sum()
    return total / jnp.maximum(counted.sum(), 1).astype(total.dtype)


def anomaly_map(
    teacher: Sequence[Float[Array, "H W C"]], student: Sequence[Float[Array, "H W C"]], size: tuple[int, int]
) -> Float[Array, "height width"]:
    """Return one image's anomaly map at the evaluation size, before smoothing; higher is more abnormal.

    The maps of 1 - cosine at each scale are enlarged, added, and divided by the square of their number, as in
    the released code, so that the result is a third of their mean for three scales.
    """
    return summed_distance(teacher, student, size) / len(teacher) ** 2
