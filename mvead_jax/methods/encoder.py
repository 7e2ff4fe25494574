"""A ResNet of basic blocks that is trained on images, for students that do not start from a backbone's weights."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.random_weights import Normal
from mvead_jax.backbones.resnet.blocks import BasicBlock, Convolution


class Encoder(nnx.Module):
    """A ResNet of basic blocks, down to stride 32 with four layers, in both of its modes.

    Args:
      blocks: of each layer. width: channels of the first layer, doubled at each further one.
    """

    def __init__(self, blocks: Sequence[int], width: int, normal: Normal):
        self.conv1 = Convolution(3, width, 7, stride=2, normal=normal)
        self.bn1 = BatchNorm(width)
        inputs = width
        self.layers = nnx.List()
        for number, count in enumerate(blocks):
            outputs = width * 2**number
            layer = nnx.List()
            for block in range(count):
                stride = 2 if number and not block else 1
                layer.append(BasicBlock(inputs, outputs, stride=stride, normal=normal))
                # A block starts as its shortcut (timm's zero_init_last).
                layer[-1].bn2.scale[...] = jnp.zeros(outputs, jnp.float32)
                inputs = outputs
            self.layers.append(layer)

    def __call__(self, images: Float[Array, "N H W 3"], **options) -> tuple[Float[Array, "N h w C"], ...]:
        """Return the map of each layer, from fine to coarse. Args: options: `train` and `weights` of `BatchNorm`."""
        x = jax.nn.relu(self.bn1(self.conv1(images), **options))
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
        maps = []
        for layer in self.layers:
            for block in layer:
                x = block(x, **options)
            maps.append(x)
        return tuple(maps)
