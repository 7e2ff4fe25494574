"""RD4AD's trained network: a neck that joins a teacher's three maps, and a decoder that gives them back.

Deng and Li, "Anomaly detection via reverse distillation from one-class embedding", CVPR 2022, as the released
code builds it. Submodules are named like its two checkpoints' parts: `neck` ("bn") and `decoder`. Maps go from
fine to coarse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.random_weights import Normal
from mvead_jax.backbones.resnet.blocks import BasicBlock, Bottleneck, Convolution
from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class NetworkConfig:
    """Describe the network; the defaults are those for a Wide ResNet-50-2.

    Attributes:
      widths: of the teacher's three maps, from fine to coarse; the neck's output has twice the last one.
      block: residual block of neck and decoder.
      neck_inner: width inside of the neck's bottlenecks; a basic block has none.
      neck_blocks: residual blocks of the neck.
      decoder_blocks: in the decoder's layers, from coarse to fine.
    """

    widths: tuple[int, int, int] = (256, 512, 1024)
    block: Literal["bottleneck", "basic"] = "bottleneck"
    neck_inner: int = 1024
    neck_blocks: int = 3
    decoder_blocks: tuple[int, int, int] = (3, 4, 6)


class Network(nnx.Module):
    """The neck, then the decoder: three maps of a teacher become three that should equal them."""

    def __init__(self, config: NetworkConfig, *, normal: Normal):
        self.neck = Neck(config, normal=normal)
        self.decoder = Decoder(config, normal=normal)

    def __call__(
        self,
        teacher: Sequence[Float[Array, "N H W C"]],
        *,
        train: bool = False,
        weights: Float[Array, " N"] | None = None,
    ) -> tuple[Float[Array, "N H W C"], ...]:
        """Return the student's maps. Args: train, weights: as of `BatchNorm`, where each image may count or not."""
        options = {"train": train, "weights": weights}
        return self.decoder(self.neck(*teacher, **options), **options)


class Neck(nnx.Module):
    """Join three maps at the size of the coarsest, then halve its sides (the paper's MFF and OCE).

    The released module also has a convolution `conv4` and a batch norm `bn4` that nothing computes with.
    """

    def __init__(self, config: NetworkConfig, *, normal: Normal):
        fine, middle, coarse = config.widths
        self.conv1, self.bn1 = Convolution(fine, middle, 3, stride=2, normal=normal), BatchNorm(middle)
        self.conv2, self.bn2 = Convolution(middle, coarse, 3, stride=2, normal=normal), BatchNorm(coarse)
        self.conv3, self.bn3 = Convolution(middle, coarse, 3, stride=2, normal=normal), BatchNorm(coarse)
        self.bn_layer = nnx.List()
        for number in range(config.neck_blocks):
            inputs, stride = (3 * coarse, 2) if number == 0 else (2 * coarse, 1)
            if config.block == "basic":
                self.bn_layer.append(BasicBlock(inputs, 2 * coarse, stride=stride, normal=normal))
            else:
                inner = config.neck_inner
                self.bn_layer.append(Bottleneck(inputs, inner, 2 * coarse, stride=stride, normal=normal))

    def __call__(
        self,
        fine: Float[Array, "N H W C"],
        middle: Float[Array, "N H/2 W/2 C'"],
        coarse: Float[Array, "N H/4 W/4 C''"],
        **norm,
    ) -> Float[Array, "N H/8 W/8 D"]:
        """Return the code of each image; `norm` goes to every `BatchNorm`."""
        fine = jax.nn.relu(self.bn1(self.conv1(fine), **norm))
        fine = jax.nn.relu(self.bn2(self.conv2(fine), **norm))
        middle = jax.nn.relu(self.bn3(self.conv3(middle), **norm))
        x = jnp.concatenate([fine, middle, coarse], axis=-1)
        for block in self.bn_layer:
            x = block(x, **norm)
        return x


class Decoder(nnx.Module):
    """Give the teacher's maps back: a ResNet backwards, each layer of which doubles the sides."""

    def __init__(self, config: NetworkConfig, *, normal: Normal):
        fine, middle, coarse = config.widths
        widths = (2 * coarse, coarse, middle, fine)
        for layer, count in enumerate(config.decoder_blocks):
            blocks = nnx.List()
            for number in range(count):
                inputs, outputs = widths[layer + (number > 0)], widths[layer + 1]
                options = {"enlarge": number == 0, "normal": normal}
                if config.block == "basic":
                    blocks.append(BasicBlock(inputs, outputs, **options))
                else:
                    blocks.append(Bottleneck(inputs, outputs // 2, outputs, **options))
            setattr(self, f"layer{layer + 1}", blocks)

    def __call__(self, x: Float[Array, "N h w C"], **norm) -> tuple[Float[Array, "N H W D"], ...]:
        """Return the three maps; `norm` goes to every `BatchNorm`."""
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3):
            for block in layer:
                x = block(x, **norm)
            maps.append(x)
        return tuple(reversed(maps))


def check_maps(shapes: Sequence[tuple[int, int, int]]) -> None:
    """Raise a UserError unless the network takes teacher maps of these shapes (H, W, C), from fine to coarse.

    Each map has half the sides of the one before, and the coarsest has even sides: the neck halves it, and the
    decoder doubles three times.
    """
    sides = [shape[:2] for shape in shapes]
    halved = [(2 * coarse[0], 2 * coarse[1]) for coarse in sides[1:]]
    if len(sides) != 3 or halved != sides[:2] or sides[2][0] % 2 or sides[2][1] % 2:
        raise UserError(
            f"RD4AD: feature maps of {', '.join(f'{h} x {w}' for h, w in sides)} pixels; it takes three, each half "
            "the one before, the last with even sides: data.image_size must be a multiple of 8 times the first "
            "map's stride, as 256 is"
        )
