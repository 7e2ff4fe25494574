"""ResNet-18, -34, -50 and Wide ResNet-50-2 in Flax NNX: the frozen network up to the layer that is needed.

He et al., "Deep Residual Learning for Image Recognition" (2015); Zagoruyko and Komodakis, "Wide Residual
Networks" (2016); as torchvision and timm build them: the stride of a bottleneck is in its 3 x 3 convolution.
Maps are taken after the last ReLU of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.random_weights import Normal
from mvead_jax.backbones.resnet.blocks import BasicBlock, Bottleneck, Convolution

STEM_WIDTH = 64
LAYERS = 4


class Architecture(NamedTuple):
    """Blocks of each layer, the channels inside of them, and those after them; alike in a basic block."""

    blocks: tuple[int, ...]
    inner: tuple[int, ...]
    widths: tuple[int, ...]


_NARROW, _BROAD = (64, 128, 256, 512), (256, 512, 1024, 2048)
ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), _NARROW, _NARROW),
    "resnet34": Architecture((3, 4, 6, 3), _NARROW, _NARROW),
    "resnet50": Architecture((3, 4, 6, 3), _NARROW, _BROAD),
    "wide_resnet50_2": Architecture((3, 4, 6, 3), (128, 256, 512, 1024), _BROAD),
}
# The layers whose maps a patch's feature joins, and the one that decides the size of the joined map.
JOINED, JOINED_STRIDE = ("layer2", "layer3"), 8


class ResNet(nnx.Module):
    """A ResNet without its classifier, cut off after `layers` of its four layers.

    Args:
      architecture: one of `ARCHITECTURES`.
      layers: 1 to 4.
      normal: the random numbers that its weights start from.
      dtype: type of the operands of products, float32 or bfloat16; sums and outputs are float32.
    """

    def __init__(
        self,
        architecture: Architecture,
        layers: int = LAYERS,
        *,
        normal: Normal,
        dtype: DTypeLike = jnp.float32,
    ):
        options = {"normal": normal, "dtype": jnp.dtype(dtype)}
        self.layers = layers
        self.conv1 = Convolution(3, STEM_WIDTH, 7, stride=2, **options)
        self.bn1 = BatchNorm(STEM_WIDTH)
        width = STEM_WIDTH
        for number, (blocks, inner, out) in enumerate(zip(*architecture, strict=True), start=1):
            if number > layers:
                break
            layer = nnx.List()
            for block in range(blocks):
                stride = 2 if number > 1 and block == 0 else 1
                if inner == out:
                    layer.append(BasicBlock(width, out, stride=stride, **options))
                else:
                    layer.append(Bottleneck(width, inner, out, stride=stride, **options))
                width = out
            setattr(self, f"layer{number}", layer)

    def __call__(
        self, images: Float[Array, "B H W 3"], taps: Sequence[str]
    ) -> dict[str, Float[Array, "B h w D"]]:
        """Return the feature maps that `taps` names, float32.

        Args:
          images: normalised by the ImageNet mean and deviation; sides are multiples of the coarsest stride.
          taps: of "layer1" ... "layer4" (strides 4, 8, 16, 32), as far as the network goes, and "patches".
        """
        if images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images of shape {images.shape}, expected [batch, height, width, 3]")
        x = jax.nn.relu(self.bn1(self.conv1(images.astype(jnp.float32))))
        x = _pooled(x)
        maps = {}
        for number in range(1, self.layers + 1):
            for block in getattr(self, f"layer{number}"):
                x = block(x)
            maps[f"layer{number}"] = x
        return {tap: joined(maps) if tap == "patches" else maps[tap] for tap in taps}


def joined(maps: dict[str, Float[Array, "B h w D"]]) -> Float[Array, "B h w D2+D3"]:
    """Return the patch features: the maps of layers 2 and 3, side by side at the size of layer 2.

    The coarser map is enlarged bilinearly with half-pixel centres (PyTorch's align_corners=False), as
    PatchCore does (Roth et al. 2022, released code).
    """
    fine, coarse = (maps[name] for name in JOINED)
    shape = (*fine.shape[:3], coarse.shape[3])
    return jnp.concatenate([fine, jax.image.resize(coarse, shape, "bilinear", antialias=False)], axis=-1)


def _pooled(x: Float[Array, "B H W D"]) -> Float[Array, "B H/2 W/2 D"]:
    """Return the largest of each 3 x 3 window with stride 2; the border of padding never wins."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nnx.max_pool(padded, window_shape=(3, 3), strides=(2, 2), padding="VALID")
