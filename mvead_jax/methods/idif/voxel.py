"""IDIF's implicit voxel: a learned 3-D prototype that gathers what all views of a sample show.

Written for one sample. Letters: V views, h x w cells of a map, T = depth x rows x columns cells of the voxel, W width.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mvead_jax.backbones.random_weights import Normal
from mvead_jax.methods.idif.attention import FusionBlock, layer_norm
from mvead_jax.methods.linear import Linear
from mvead_jax.methods.positions import position_map

Shape = tuple[int, int, int]  # depth, rows, columns
_DEVIATION = np.float32(0.02)  # with which the prototype starts


class VoxelFusion(nnx.Module):
    """Cut the views' maps into tokens, and let the cells of a learned prototype attend to them.

    Args:
      inputs: channels of the maps.
      patch: side of the squares that they are cut into.
      view_embedding: whether each view has a learned vector, 0 at the start, that is added to its tokens. Without
        it the voxel does not depend on the order of the views.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        width: int,
        *,
        views: int,
        patch: int,
        blocks: int,
        heads: int,
        view_embedding: bool,
        normal: Normal,
    ):
        self.shape, self.patch = shape, patch
        self.prototype = nnx.Param(jnp.asarray(normal((int(np.prod(shape)), width)) * _DEVIATION))
        self.embed = Linear(inputs * patch**2, width, normal=normal)
        self.norm = layer_norm(width)
        self.view = nnx.Param(jnp.zeros((views, width), jnp.float32)) if view_embedding else None
        self.blocks = nnx.List([FusionBlock(width, heads, normal=normal) for _ in range(blocks)])

    def __call__(
        self, maps: Float[Array, "V h w C"], present: Bool[Array, " V"]
    ) -> Float[Array, "depth rows columns W"]:
        """Return the voxel after the fusion blocks. Args: present: the views that may be attended to."""
        tokens = self.tokens(maps)
        views, count, width = tokens.shape
        allowed = jnp.repeat(present, count)
        x = self.prototype[...] + voxel_positions(self.shape, width)
        for block in self.blocks:
            x = block(x, tokens.reshape(views * count, width), allowed)
        return x.reshape(*self.shape, width)

    def tokens(self, maps: Float[Array, "V h w C"]) -> Float[Array, "V N W"]:
        """Return the tokens of each view: squares of its map with their place, normalised."""
        found = self.embed(patches(maps, self.patch))
        _, rows, columns, width = found.shape
        found = found + position_map(rows, columns, width)[None]
        if self.view is not None:
            found = found + self.view[...][:, None, None]
        return self.norm(found.reshape(len(maps), rows * columns, width))


def patches(maps: Float[Array, "V h w C"], side: int) -> Float[Array, "V h/side w/side D"]:
    """Return the squares of maps, the features of each side by side."""
    views, height, width, channels = maps.shape
    cut = maps.reshape(views, height // side, side, width // side, side, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(views, height // side, width // side, -1)


def voxel_positions(shape: Shape, width: int) -> Float[Array, "T W"]:
    """Return where each cell is, as sines and cosines: half of the channels tell the depth, a quarter the row."""
    depth, rows, columns = shape
    half = width // 2
    deep = jnp.broadcast_to(position_map(depth, 1, width)[:, :, None, :half], (*shape, half))
    flat = jnp.broadcast_to(position_map(rows, columns, half)[None], (*shape, half))
    return jnp.concatenate([deep, flat], -1).reshape(depth * rows * columns, width)
