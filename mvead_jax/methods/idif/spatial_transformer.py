"""IDIF's spatial transformers: one a view, which turns the voxel by learned angles and lays its depth flat.

A spatial transformer (Jaderberg et al. 2015) in three dimensions, whose only freedom is a rotation. Coordinates are
(depth, row, column), -1 to 1 from the middle of the first cell to that of the last (PyTorch's align_corners=True).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.idif.voxel import Shape
from mvead_jax.methods.linear import Linear

# The axis that a rotation leaves alone: a view's own, an image's from top to bottom, and from left to right.
AXES = {"viewing": 0, "vertical": 1, "horizontal": 2}


class SpatialTransformers(nnx.Module):
    """For each view: turn the voxel by its angles, put the cells behind each other side by side, map them linearly.

    Args:
      axes: of `AXES`, about which is turned, the last one first. The angles start at 0.
      outputs: channels of the flat maps.
    """

    def __init__(
        self, views: int, shape: Shape, width: int, axes: Sequence[str], outputs: int, *, normal: Normal
    ):
        self.shape, self.axes = shape, tuple(axes)
        self.angles = nnx.Param(jnp.zeros((views, len(axes)), jnp.float32))
        self.flatten = Linear(shape[0] * width, outputs, normal=normal)

    def __call__(self, voxel: Float[Array, "depth rows columns W"]) -> Float[Array, "V rows columns outputs"]:
        """Return the flat map of each view."""
        turned = jax.vmap(lambda angles: turn(voxel, angles, self.axes))(self.angles[...])
        views, depth, rows, columns, width = turned.shape
        side_by_side = turned.transpose(0, 2, 3, 1, 4).reshape(views, rows, columns, depth * width)
        return self.flatten(side_by_side)


def turn(
    voxel: Float[Array, "depth rows columns W"], angles: Float[Array, " A"], axes: Sequence[str]
) -> Float[Array, "depth rows columns W"]:
    """Return a voxel turned by angles in radians about axes; what comes from outside is 0."""
    *shape, width = voxel.shape
    weights = sampling_weights(angles, axes, tuple(shape))
    found = jnp.einsum("ts,sw->tw", weights, voxel.reshape(-1, width), precision="highest")
    return found.reshape(voxel.shape)


def sampling_weights(angles: Float[Array, " A"], axes: Sequence[str], shape: Shape) -> Float[Array, "T T"]:
    """Return how much each cell of the turned voxel takes of each cell of the voxel, by trilinear interpolation.

    At a cell's own place the derivative by the angle is the central difference of its neighbours.
    """
    places = jnp.asarray(np.stack(np.indices(shape), -1).reshape(-1, 3), jnp.float32)
    last = np.array(shape) - 1
    middle = jnp.asarray(last / 2, jnp.float32)
    # In cells on both sides: with the angle 0 the matrix is exactly the identity.
    scale = jnp.asarray(last[:, None] / np.maximum(last, 1)[None], jnp.float32)
    matrix = rotation(angles, axes) * scale
    sources = jnp.matmul(places - middle[None], matrix.T, precision="highest") + middle[None]
    deep, down, right = (
        _hat(sources[:, axis, None] - jnp.arange(size, dtype=jnp.float32)[None])
        for axis, size in enumerate(shape)
    )
    return (deep[:, :, None, None] * down[:, None, :, None] * right[:, None, None]).reshape(len(places), -1)


def _hat(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 - |x| within 1 and 0 outside; its derivative at a kink is the mean of both sides, which that of |x| is not."""
    return jnp.maximum(0, jnp.minimum(1 + x, 1 - x))


def rotation(angles: Float[Array, " A"], axes: Sequence[str]) -> Float[Array, "3 3"]:
    """Return the product of the right-handed rotations about each axis, in the order of the axes."""
    found = jnp.eye(3, dtype=jnp.float32)
    for number, name in enumerate(axes):
        axis = AXES[name]
        a, b = (axis + 1) % 3, (axis + 2) % 3
        cosine, sine = jnp.cos(angles[number]), jnp.sin(angles[number])
        one = jnp.eye(3, dtype=jnp.float32).at[a, a].set(cosine).at[b, b].set(cosine)
        one = one.at[a, b].set(-sine).at[b, a].set(sine)
        found = jnp.matmul(found, one, precision="highest")
    return found
