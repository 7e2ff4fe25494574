"""EfficientNet-Lite0, -B4 and -B5 in Flax NNX, on one implementation, up to the block that is needed.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019). The Lite
variant drops squeeze-and-excitation and uses ReLU6 for swish. Block numbers count from 0 through all stages.
A block's map is its projection after the batch norm, plus the shortcut, with no activation. Drop-connect is
off.

Padding is TensorFlow's SAME, by the actual size of each map: the odd pixel goes below and to the right
(timm's tf_ networks). The package efficientnet_pytorch, which UniAD and Multi-Flow use, instead pads every
image as one of the network's nominal size, 380 or 456 pixels: `static` does so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mvead_jax.backbones.efficientnet.layers import (
    ConvNorm,
    Dense,
    MBConv,
    pointwise,
    relu6,
    same_padding,
    stem_convolution,
)
from mvead_jax.backbones.efficientnet.variants import STEM_KERNEL, Variant, block_of, block_shapes
from mvead_jax.backbones.random_weights import Normal
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.plain import is_plain

CLASSES = 1000

# Images come normalised by ImageNet's mean and deviation; Lite0 was trained on (level - 127) / 128.
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
INPUT_SCALE = np.float32(255 * _STD / 128)[None, None, None]
INPUT_OFFSET = np.float32((255 * _MEAN - 127) / 128)[None, None, None]


class EfficientNet(nnx.Module):
    """An EfficientNet; `__call__` gives maps, and where no block is cut off `classify` the classes.

    Args:
      blocks: how many blocks there are; None = all, and the classifier.
      static: the padding of the nominal size instead of SAME.
      dtype: type of the operands of products, float32 or bfloat16; sums and outputs are float32.
      normal: the random numbers that its weights start from.
    """

    def __init__(
        self,
        variant: Variant,
        blocks: int | None = None,
        *,
        static: bool = False,
        dtype: DTypeLike = jnp.float32,
        normal: Normal,
    ):
        dtype = jnp.dtype(dtype)
        if dtype not in (jnp.float32, jnp.bfloat16):
            raise UserError(f"dtype={dtype}: the backbone computes in float32 or bfloat16")
        options = {"dtype": dtype, "normal": normal}
        self.variant = variant
        self.activation = relu6 if variant.lite else jax.nn.silu
        self.padding = same_padding(variant.nominal, STEM_KERNEL, 2) if static else None
        self.stem = ConvNorm((STEM_KERNEL, STEM_KERNEL, 3, variant.stem), **options)
        self.blocks = nnx.List()
        for shape in block_shapes(variant, static)[:blocks]:
            own = {"squeeze": shape.squeeze, "padding": shape.padding, "activation": self.activation}
            self.blocks.append(MBConv(*shape[:5], **own, **options))
        if blocks is None:
            self.head = ConvNorm((variant.stages[-1].width, variant.head), **options)
            self.classifier = Dense(variant.head, CLASSES, **options)

    def __call__(
        self, images: Float[Array, "B H W 3"], taps: Sequence[str]
    ) -> dict[str, Float[Array, "B h w D"]]:
        """Return the feature maps that `taps` names, float32.

        Args:
          images: normalised by ImageNet's mean and deviation.
          taps: of "block0" ..., as far as the network goes, "stride2" ... "stride32", and "patches".

        Raises:
          UserError: other than three channels, or H or W no multiple of the strides that are asked for.
        """
        wanted = {tap: self._parts(tap) for tap in taps}
        numbers = tuple(sorted({number for parts in wanted.values() for number in parts}))
        self._check(images, max(self._stride(number) for number in numbers))
        maps = self._per_platform(lambda images: self._maps(images, numbers), images)
        return {tap: joined([maps[number] for number in parts]) for tap, parts in wanted.items()}

    def classify(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B 1000"]:
        """Return the ImageNet logits of the same images as `__call__` takes; nothing may be cut off."""
        self._check(images, self._stride(self.variant.at(16)))
        return self._per_platform(self._logits, images)

    def _parts(self, tap: str) -> tuple[int, ...]:
        """Return the blocks whose maps make a tap."""
        if tap == "patches":
            return tuple(self.variant.at(stride) for stride in self.variant.joined)
        return (block_of(self.variant, tap),)

    def _stride(self, number: int) -> int:
        return block_shapes(self.variant, False)[number].map_stride

    def _check(self, images: Array, stride: int) -> None:
        if images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"EfficientNet: images of shape {images.shape}, expected [batch,height,width,3]")
        height, width = images.shape[1:3]
        if height % stride or width % stride or not (height and width):
            raise UserError(
                f"image size {height} x {width} (height x width): EfficientNet needs multiples of "
                f"{stride} here, for example 256 x 256"
            )

    def _stem(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B H/2 W/2 D"]:
        if self.variant.lite:
            images = images * INPUT_SCALE + INPUT_OFFSET
        return self.activation(stem_convolution(images, self.stem, self.padding))

    def _maps(self, images, numbers: Sequence[int]) -> dict[int, Float[Array, "B h w D"]]:
        """Return the maps of some blocks; what comes after the last of them is not computed."""
        x, maps = self._stem(images), {}
        for number, block in enumerate(self.blocks[: numbers[-1] + 1]):
            x = block(x)
            if number in numbers:
                maps[number] = x
        return maps

    def _logits(self, images):
        x = self._stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.activation(pointwise(x, self.head)).mean((1, 2)))

    def _per_platform(self, network: Callable, images):
        """Return the batch at once; on CPUs image by image, because one image's activations fit caches."""

        def one_by_one(images):
            return jax.lax.map(lambda image: jax.tree.map(lambda out: out[0], network(image[None])), images)

        if is_plain():
            return network(images.astype(jnp.float32))
        return jax.lax.platform_dependent(images.astype(jnp.float32), cpu=one_by_one, default=network)


def joined(maps: Sequence[Float[Array, "B h w C"]]) -> Float[Array, "B h w D"]:
    """Return maps of falling size side by side, at the size of the last.

    The vector of a cell has, of each finer map, the mean of the features that lie in the cell.
    """
    batch, rows, columns, _ = maps[-1].shape
    sides = [(x.shape[1] // rows, x.shape[2] // columns, x.shape[3]) for x in maps[:-1]]
    means = [
        x.reshape(batch, rows, down, columns, across, width).mean((2, 4))
        for x, (down, across, width) in zip(maps[:-1], sides, strict=True)
    ]
    return jnp.concatenate([*means, maps[-1]], axis=-1) if means else maps[-1]
