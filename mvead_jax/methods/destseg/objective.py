"""DeSTSeg's losses and distances (released code).

Letters: N images, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_SMALL = 1e-12
_LOWEST_LOGARITHM = -100.0  # PyTorch's binary cross-entropy clamps there


def normalised(x: Float[Array, "*cells C"]) -> Float[Array, "*cells C"]:
    """Return each vector over its Euclidean norm, to which 1e-12 is added."""
    squares = jnp.square(x).sum(-1, keepdims=True)
    # The root has no derivative at 0, where ReLU puts whole vectors.
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return x / (norm + _SMALL)


def enlarged(x: Float[Array, "N h w C"], size: tuple[int, int]) -> Float[Array, "N H W C"]:
    """Return maps at another size: bilinear with half-pixel centres, edges repeated, not antialiased."""
    if x.shape[1:3] == tuple(size):
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)


def distances(
    teacher: Sequence[Float[Array, "N h w C"]], student: Sequence[Float[Array, "N h w C"]]
) -> list[Float[Array, "N h w"]]:
    """Return 1 - cosine of the two features of each cell, at each level."""
    return [1 - (normalised(t) * normalised(s)).sum(-1) for t, s in zip(teacher, student, strict=True)]


def distance_product(levels: Sequence[Float[Array, "N h w"]]) -> Float[Array, "N h w"]:
    """Return the product over levels of the distances, all enlarged to the first one's size."""
    found = levels[0]
    for level in levels[1:]:
        found = found * enlarged(level[..., None], found.shape[1:])[..., 0]
    return found


def student_loss(
    teacher: Sequence[Float[Array, "N h w C"]],
    student: Sequence[Float[Array, "N h w C"]],
    counted: Bool[Array, " N"],
) -> Float[Array, ""]:
    """Return the sum over levels and over the images that count, not their mean, of the mean distance of a map.

    Args:
      teacher: maps of the images as they are. student: of the changed ones.
    """
    there = counted[:, None, None, None]
    maps = ([jnp.where(there, x, 1) for x in own] for own in (teacher, student))
    means = sum(level.mean((1, 2)) for level in distances(*maps))
    return jnp.where(counted, means, 0).sum()


def small_mask(mask: Float[Array, "N H W"], size: tuple[int, int]) -> Float[Array, "N h w"]:
    """Return masks of 0 and 1 at another size: 1 where the bilinear value is at least 0.5."""
    found = enlarged(mask[..., None], size)[..., 0]
    return (found >= 0.5).astype(mask.dtype)


def focal_loss(
    found: Float[Array, "N h w"], mask: Float[Array, "N h w"], counted: Bool[Array, " N"], focus: float = 4.0
) -> Float[Array, ""]:
    """Return the mean of the cross-entropy times (1 - p_t)^focus, p_t being the probability of what is true.

    Lin et al., "Focal loss for dense object detection" (2017), without its weights of classes.
    """
    true = jnp.where(mask > 0, found, 1 - found)
    logarithm = jnp.where(true > 0, jnp.log(jnp.where(true > 0, true, 1)), _LOWEST_LOGARITHM)
    each = -jnp.maximum(logarithm, _LOWEST_LOGARITHM) * (1 - true) ** focus
    return _mean(each, counted)


def absolute_loss(
    found: Float[Array, "N h w"], mask: Float[Array, "N h w"], counted: Bool[Array, " N"]
) -> Float[Array, ""]:
    """Return the mean absolute difference."""
    return _mean(jnp.abs(found - mask), counted)


def top_mean(values: Float[Array, "H W"], count: int) -> Float[Array, ""]:
    """Return the mean of so many highest values of a map, of all if it has fewer."""
    return jnp.sort(values.reshape(-1), descending=True)[:count].mean()


def _mean(values: Float[Array, "N h w"], counted: Bool[Array, " N"]) -> Float[Array, ""]:
    """The mean over the images that count; 0 if none does."""
    images = jnp.maximum(counted.sum(), 1).astype(values.dtype)
    return jnp.where(counted, values.mean((1, 2)), 0).sum() / images
