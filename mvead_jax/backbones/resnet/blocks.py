"""The residual blocks of ResNets and of the decoders that mirror them, for evaluation and for training.

He et al., "Deep Residual Learning for Image Recognition" (2015), as torchvision and timm build it; the
enlarging form is that of reverse distillation (Deng and Li 2022, released code). Submodules are named like
the checkpoints'.

All take `train` and `weights` and hand them to their `BatchNorm`s.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mvead_jax.backbones.batch_norm import BatchNorm
from mvead_jax.backbones.random_weights import Normal


class Convolution(nnx.Module):
    """A convolution with odd kernel and zero padding of half a kernel on all sides, as PyTorch pads.

    Starts normal with variance 2 / (outputs x kernel area) (He et al. 2015, fan-out).

    Args:
      size: side of the kernel.
      bias: whether there is one; a batch norm that follows would take it out again.
      normal: the random numbers.
      dtype: type of the operands of products; None = that of the input. Sums and results have the input's.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        stride: int = 1,
        bias: bool = False,
        normal: Normal,
        dtype: DTypeLike | None = None,
    ):
        deviation = np.float32(np.sqrt(2 / (outputs * size**2)))
        self.kernel = nnx.Param(jnp.asarray(normal((size, size, inputs, outputs)) * deviation))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.stride, self.padding, self.dtype = stride, size // 2, dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H/s W/s D"]:
        y = jax.lax.conv_general_dilated(
            *_operands(x, self.kernel[...], self.dtype),
            window_strides=(self.stride, self.stride),
            padding=[(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
            preferred_element_type=x.dtype,
        )
        return y if self.bias is None else y + self.bias[...][None, None, None]


class Enlargement(nnx.Module):
    """A transposed convolution, 2 x 2 with stride 2: every cell becomes four, which no other cell reaches.

    Starts uniform within +-1 / sqrt(4 x outputs) (PyTorch's default). Has no bias.
    """

    def __init__(self, inputs: int, outputs: int, *, normal: Normal, dtype: DTypeLike | None = None):
        bound = np.float32(1 / np.sqrt(4 * outputs))
        drawn = normal((2, 2, inputs, outputs))  # through its distribution function it is uniform
        self.kernel = nnx.Param(bound * jax.lax.erf(drawn * np.float32(np.sqrt(0.5))))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2H 2W D"]:
        batch, height, width, _ = x.shape
        operands = _operands(x, self.kernel[...], self.dtype)
        y = jnp.einsum("bhwc,ijcd->bhiwjd", *operands, precision="highest", preferred_element_type=x.dtype)
        return y.reshape(batch, 2 * height, 2 * width, y.shape[-1])


def _operands(x: Array, kernel: Array, dtype: DTypeLike | None) -> tuple[Array, Array]:
    return (x, kernel) if dtype is None else (x.astype(dtype), kernel.astype(dtype))


class BasicBlock(nnx.Module):
    """conv1 3 x 3, norm, ReLU, conv2 3 x 3, norm, plus the shortcut, ReLU.

    Args:
      inputs, outputs: channels.
      stride: 2 halves the map in conv1.
      enlarge: conv1 is an `Enlargement`, which doubles the map: the first block of a decoder's layer.
      normal, dtype: as of `Convolution`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        enlarge: bool = False,
        normal: Normal,
        dtype: DTypeLike | None = None,
    ):
        options = {"normal": normal, "dtype": dtype}
        if enlarge:
            self.conv1 = Enlargement(inputs, outputs, **options)
        else:
            self.conv1 = Convolution(inputs, outputs, 3, stride=stride, **options)
        self.bn1 = BatchNorm(outputs)
        self.conv2 = Convolution(outputs, outputs, 3, **options)
        self.bn2 = BatchNorm(outputs)
        self.downsample, self.upsample = _shortcut(inputs, outputs, stride, enlarge, options)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        *,
        train: bool = False,
        weights: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B h w D"]:
        options = {"train": train, "weights": weights}
        y = jax.nn.relu(self.bn1(self.conv1(x), **options))
        y = self.bn2(self.conv2(y), **options)
        return jax.nn.relu(y + _through((self.downsample, self.upsample), x, options))


class Bottleneck(nnx.Module):
    """conv1 1 x 1, norm, ReLU, conv2 3 x 3, norm, ReLU, conv3 1 x 1, norm, plus the shortcut, ReLU.

    Args:
      inputs, inner, outputs: channels before, between and after the three convolutions.
      stride: 2 halves the map in conv2.
      enlarge: conv2 is an `Enlargement`, which doubles the map: the first block of a decoder's layer.
      normal, dtype: as of `Convolution`.
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        *,
        stride: int = 1,
        enlarge: bool = False,
        normal: Normal,
        dtype: DTypeLike | None = None,
    ):
        options = {"normal": normal, "dtype": dtype}
        self.conv1 = Convolution(inputs, inner, 1, **options)
        self.bn1 = BatchNorm(inner)
        if enlarge:
            self.conv2 = Enlargement(inner, inner, **options)
        else:
            self.conv2 = Convolution(inner, inner, 3, stride=stride, **options)
        self.bn2 = BatchNorm(inner)
        self.conv3 = Convolution(inner, outputs, 1, **options)
        self.bn3 = BatchNorm(outputs)
        self.downsample, self.upsample = _shortcut(inputs, outputs, stride, enlarge, options)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        *,
        train: bool = False,
        weights: Float[Array, " B"] | None = None,
    ) -> Float[Array, "B h w D"]:
        options = {"train": train, "weights": weights}
        y = jax.nn.relu(self.bn1(self.conv1(x), **options))
        y = jax.nn.relu(self.bn2(self.conv2(y), **options))
        y = self.bn3(self.conv3(y), **options)
        return jax.nn.relu(y + _through((self.downsample, self.upsample), x, options))


def _shortcut(inputs: int, outputs: int, stride: int, enlarge: bool, options: dict):
    """Return a block's `downsample` and `upsample`: at most one is there, a convolution and a batch norm."""
    if enlarge:
        return None, nnx.List([Enlargement(inputs, outputs, **options), BatchNorm(outputs)])
    if stride == 1 and inputs == outputs:
        return None, None
    convolution = Convolution(inputs, outputs, 1, stride=stride, **options)
    return nnx.List([convolution, BatchNorm(outputs)]), None


def _through(shortcuts: tuple[nnx.List | None, ...], x: Array, options: dict) -> Array:
    """Return what a block adds to its result: its input, by the shortcut that it has, if any."""
    for shortcut in shortcuts:
        if shortcut is not None:
            convolution, norm = shortcut
            return norm(convolution(x), **options)
    return x
