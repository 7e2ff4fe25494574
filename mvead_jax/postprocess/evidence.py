"""Evidence along epipolar lines: a patch is more suspect if another camera sees something on its line (ours).

Scores are standardised by view, so that they can be added; to each patch comes, over the other views, the highest
score among the patches that may show the same point. Works on the maps of any method.

Letters: V views, h x w cells of a map, r x c patches of the epipolar keys, N = r c.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mvead_jax.config.schema import ScoreConfig
from mvead_jax.postprocess.statistics import ScoreStatistics, standardise

_MOST_PATCHES = 32  # along a side of a map whose cells are many: the mask has (V N)^2 entries


def with_evidence(
    maps: Float[Array, "V h w"],
    present: Bool[Array, " V"],
    mask: Bool[Array, "V V N N"],
    grid: tuple[int, int],
    statistics: ScoreStatistics,
    config: ScoreConfig,
) -> Float[Array, "V h w"]:
    """Return the standardised maps of a sample with what the other views add, as score.evidence says; jit-able.

    Args:
      mask: the epipolar keys of the category. grid: (r, c), on which they are; it divides (h, w).
    """
    mask = _anywhere(mask) if config.evidence == "all" else mask
    standard = standardise(maps, statistics)
    return standard + config.weight * _enlarged(
        evidence_of_others(_highest_in_patches(standard, grid), mask, present, config.pooling), maps.shape
    )


def image_scores(
    maps: Float[Array, "V h w"],
    present: Bool[Array, " V"],
    mask: Bool[Array, "V V N N"],
    grid: tuple[int, int],
    statistics: ScoreStatistics,
    config: ScoreConfig,
) -> Float[Array, " V"]:
    """Return the score of each image of a sample with what the other views add, as score.image_evidence says:

        max_j [z_a(j) + w L_a(j)],   L_a(j) = max_{b != a} max_{k on the line of j} z_b(k)

    with z the standardised scores of patches. Arguments as of `with_evidence`; jit-able.
    """
    mask = _anywhere(mask) if config.image_evidence == "all" else mask
    own = _highest_in_patches(standardise(maps, statistics), grid)
    own = jnp.where(jnp.asarray(present)[:, None, None], own, 0)
    added = evidence_of_others(own, mask, present, "max")
    return (own + config.image_weight * added).max((1, 2))


def evidence_of_others(
    scores: Float[Array, "V r c"],
    mask: Bool[Array, "V V N N"],
    present: Bool[Array, " V"],
    pooling: Literal["mean", "max"] = "mean",
) -> Float[Array, "V r c"]:
    """Return what the other views say of each patch of one sample.

    Args:
      scores: standardised. mask: mask[a, b, j, k]: patch k of b may show what patch j of a shows.
      present: views that the sample has; others say nothing.
      pooling: over the views in which a patch has any place to be. A patch that has none gains nothing.
    """
    flat = scores.reshape(len(scores), -1)
    mask = mask & jnp.asarray(present)[None, :, None, None]
    highest = jnp.where(mask, flat[None, :, None, :], -jnp.inf).max(3)  # [V,V,N]
    seen = mask.any(3)
    if pooling == "mean":
        total = jnp.where(seen, highest, 0).sum(1)
        added = total / jnp.maximum(seen.sum(1), 1).astype(scores.dtype)
    else:
        added = jnp.where(seen.any(1), highest.max(1), 0)
    return added.reshape(scores.shape)


def evidence_grid(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the grid on which evidence is looked for in maps of a shape: their own, or a coarser one."""
    found = []
    for side in shape:
        factor = next(n for n in range(1, side + 1) if side % n == 0 and side // n <= _MOST_PATCHES)
        found.append(side // factor)
    return found[0], found[1]


def _anywhere(mask: Bool[Array, "V V N N"]) -> Bool[Array, "V V N N"]:
    """Every patch of the other views."""
    others = ~np.eye(len(mask), dtype=bool)  # a constant: onnxruntime makes no such matrix of truth values
    return jnp.broadcast_to(others[..., None, None], mask.shape)


def _highest_in_patches(maps: Float[Array, "V h w"], grid: tuple[int, int]) -> Float[Array, "V r c"]:
    if maps.shape[1:] == grid:
        return maps
    views, height, width = maps.shape
    return maps.reshape(views, grid[0], height // grid[0], grid[1], width // grid[1]).max((2, 4))


def _enlarged(patches: Float[Array, "V r c"], shape: tuple[int, ...]) -> Float[Array, "V h w"]:
    if patches.shape == shape:
        return patches
    rows, columns = (own // patch for own, patch in zip(shape[1:], patches.shape[1:], strict=True))
    return patches.repeat(rows, 1).repeat(columns, 2)
