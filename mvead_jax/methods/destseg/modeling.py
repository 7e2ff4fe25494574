"""DeSTSeg's trained networks in Flax NNX: a denoising student and a segmentation network.

Zhang et al., "DeSTSeg: segmentation guided denoising student-teacher for anomaly detection" (CVPR 2023), as the
released code builds it. Submodules are named like the checkpoint's where that helps.

Letters: N images, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.random_weights import Normal
from mvead_jax.backbones.resnet.blocks import BasicBlock
from mvead_jax.methods.destseg.objective import enlarged, normalised
from mvead_jax.methods.encoder import Encoder

_DILATIONS = (6, 12, 18)  # of the pyramid of dilated convolutions


@dataclass(frozen=True)
class NetworkConfig:
    """The shapes of both networks.

    Attributes:
      maps: (h, w, channels) of the teacher's three maps, from fine to coarse; the student gives such maps.
      blocks, width: of the student's encoder, a ResNet of basic blocks.
      decoder_blocks: of each layer of its decoder, and of the segmentation network.
      segmentation: channels of the segmentation network.
    """

    maps: tuple[tuple[int, int, int], ...]
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    decoder_blocks: int = 2
    segmentation: int = 256


class Student(nnx.Module):
    """An encoder and a decoder without connections between them: what an anomaly changes gets lost on the way."""

    def __init__(self, config: NetworkConfig, normal: Normal):
        self.encoder = Encoder(config.blocks, config.width, normal)
        self.sizes = tuple(shape[:2] for shape in config.maps)
        deepest = config.width * 2 ** (len(config.blocks) - 1)
        widths = [deepest, deepest, *(shape[2] for shape in reversed(config.maps))]
        # From coarse to fine: decoder_layer4 to decoder_layer1 of the released code.
        count = config.decoder_blocks
        self.decoder = nnx.List([_blocks(count, i, o, normal) for i, o in pairwise(widths)])

    def __call__(self, images: Float[Array, "N H W 3"], **options) -> tuple[Float[Array, "N h w C"], ...]:
        """Return maps like the teacher's, from fine to coarse. Args: options: as of `Encoder`."""
        x = _through(self.decoder[0], self.encoder(images, **options)[-1], options)
        found = []
        for layer, size in zip(self.decoder[1:], reversed(self.sizes), strict=True):
            x = _through(layer, enlarged(x, size), options)
            found.append(x)
        return tuple(reversed(found))


class HeadConvolution(nnx.Module):
    """A convolution with zero padding that keeps the size.

    Starts uniform within +-1 / sqrt(fan-in) (PyTorch's default).
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, *, dilation: int = 1, bias: bool = False, normal: Normal
    ):
        bound = np.float32(1 / np.sqrt(inputs * size**2))

        def uniform(shape: tuple[int, ...]) -> Array:
            # A normal number through its distribution function is uniform.
            return bound * jax.lax.erf(jnp.asarray(normal(shape)) * np.float32(np.sqrt(0.5)))

        self.kernel = nnx.Param(uniform((size, size, inputs, outputs)))
        self.bias = nnx.Param(uniform((outputs,))) if bias else None
        self.dilation, self.padding = dilation, dilation * (size // 2)

    def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w D"]:
        y = jax.lax.conv_general_dilated(
            *(x, self.kernel[...]),
            window_strides=(1, 1),
            padding=[(self.padding, self.padding)] * 2,
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        return y if self.bias is None else y + self.bias[...][None, None, None]


class NormedConvolution(nnx.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, *, dilation: int = 1, normal: Normal):
        self.conv = HeadConvolution(inputs, outputs, size, dilation=dilation, normal=normal)
        self.norm = BatchNorm(outputs)

    def __call__(self, x: Float[Array, "N h w C"], **options) -> Float[Array, "N h w D"]:
        return jax.nn.relu(self.norm(self.conv(x), **options))


class Head(nnx.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017) and two convolutions: one logit a cell."""

    def __init__(self, width: int, normal: Normal):
        self.pooled = NormedConvolution(width, width, 1, normal=normal)
        self.dilated = nnx.List(
            [NormedConvolution(width, width, 3, dilation=own, normal=normal) for own in _DILATIONS]
        )
        self.fusion = NormedConvolution(width * (1 + len(_DILATIONS)), width, 3, normal=normal)
        self.last = NormedConvolution(width, width, 3, normal=normal)
        self.logit = HeadConvolution(width, 1, 1, bias=True, normal=normal)

    def __call__(self, x: Float[Array, "N h w C"], **options) -> Float[Array, "N h w"]:
        spread = jnp.broadcast_to(self.pooled(x.mean((1, 2), keepdims=True), **options), x.shape)
        parts = [spread, *(one(x, **options) for one in self.dilated)]
        x = self.last(self.fusion(jnp.concatenate(parts, -1), **options), **options)
        return self.logit(x)[..., 0]


class DestsegNetwork(nnx.Module):
    """Student and segmentation."""

    def __init__(self, config: NetworkConfig, normal: Normal):
        self.student = Student(config, normal)
        joined = sum(shape[2] for shape in config.maps)
        self.res = _blocks(config.decoder_blocks, joined, config.segmentation, normal)
        self.head = Head(config.segmentation, normal)

    def segment(
        self,
        teacher: Sequence[Float[Array, "N h w C"]],
        student: Sequence[Float[Array, "N h w C"]],
        **options,
    ) -> Float[Array, "N h w"]:
        """Return how probably each cell of the finest map is abnormal.

        Args:
          teacher, student: maps of the same images, from fine to coarse. options: as of `Encoder`.
        """
        size = teacher[0].shape[1:3]
        products = [-normalised(t) * normalised(s) for t, s in zip(teacher, student, strict=True)]
        x = jnp.concatenate([enlarged(product, size) for product in products], -1)
        return jax.nn.sigmoid(self.head(_through(self.res, x, options), **options))


def _blocks(count: int, inputs: int, outputs: int, normal: Normal) -> nnx.List:
    widths = (inputs, *[outputs] * count)
    return nnx.List([BasicBlock(i, o, normal=normal) for i, o in pairwise(widths)])


def _through(blocks: nnx.List, x: Array, options: dict) -> Array:
    for block in blocks:
        x = block(x, **options)
    return x
