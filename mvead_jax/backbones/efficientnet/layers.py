"""What an EfficientNet is made of: convolutions with their batch norms, and squeeze-and-excitation.

The parameters are those of the checkpoints, one to one; the batch norm after each convolution is folded into
its kernel when the network runs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mvead_jax.backbones.random_weights import Normal

BATCH_NORM_EPSILON = 1e-3
Padding = tuple[int, int]  # pixels before and after, along a side


def drawn(shape: tuple[int, ...], variance: float, normal: Normal) -> Array:
    """Return normal random numbers of a variance."""
    return jnp.asarray(normal(shape) * np.float32(np.sqrt(variance)))


class ConvNorm(nnx.Module):
    """Parameters of a convolution (output channel last) and of the batch norm after it."""

    def __init__(self, shape: tuple[int, ...], *, dtype, normal: Normal):
        width = shape[-1]
        fan_in = np.prod(shape[:-1])  # of a depthwise kernel [k,k,C] too: it has one filter per channel
        self.dtype = dtype
        self.kernel = nnx.Param(drawn(shape, 2 / fan_in, normal))
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.mean = nnx.Param(jnp.zeros(width, jnp.float32))
        self.variance = nnx.Param(jnp.ones(width, jnp.float32))

    def folded(self) -> tuple[Array, Float[Array, "1 1 1 D"]]:
        """Return kernel (in the compute type) and bias (float32) of the one convolution that does both."""
        scale = self.scale[...] / jnp.sqrt(self.variance[...] + BATCH_NORM_EPSILON)
        kernel = self.kernel[...]
        kernel = kernel * jnp.expand_dims(scale, range(kernel.ndim - 1))
        bias = self.bias[...] - self.mean[...] * scale
        return kernel.astype(self.dtype), bias[None, None, None]


class Dense(nnx.Module):
    """x kernel + bias, of a vector for each image."""

    def __init__(self, inputs: int, outputs: int, *, dtype, normal: Normal):
        self.dtype = dtype
        self.kernel = nnx.Param(drawn((inputs, outputs), 1 / inputs, normal))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "B C"]) -> Float[Array, "B D"]:
        operands = (one.astype(self.dtype) for one in (x, self.kernel[...]))
        y = jnp.matmul(*operands, precision="highest", preferred_element_type=jnp.float32)
        return y + self.bias[...][None]


class SqueezeExcitation(nnx.Module):
    """Every channel times a number between 0 and 1 that the means of all channels decide (Hu et al. 2018)."""

    def __init__(self, width: int, inner: int, *, dtype, normal: Normal):
        self.reduce = Dense(width, inner, dtype=dtype, normal=normal)
        self.expand = Dense(inner, width, dtype=dtype, normal=normal)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        gate = jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(x.mean((1, 2))))))
        return x * gate[:, None, None]


class MBConv(nnx.Module):
    """Inverted residual block: expand by 1 x 1, filter each channel, [weigh the channels,] project by 1 x 1.

    Args:
      width, out: channels before and after.
      size, stride: of the depthwise filter.
      expansion: of the channels between; 1 = there is no 1 x 1 convolution before the filter.
      squeeze: inner width of the squeeze-and-excitation; 0 = there is none.
      padding: of the filter, along both sides; None = TensorFlow's SAME, by the size of the map.
      activation: after the expansion and after the filter.
    """

    def __init__(
        self,
        width: int,
        out: int,
        size: int,
        stride: int,
        expansion: int,
        *,
        squeeze: int,
        padding: Padding | None,
        activation: Callable[[Array], Array],
        dtype,
        normal: Normal,
    ):
        inner, options = width * expansion, {"dtype": dtype, "normal": normal}
        self.stride, self.padding, self.activation = stride, padding, activation
        self.residual = stride == 1 and width == out
        self.expand = ConvNorm((width, inner), **options) if expansion > 1 else None
        self.depthwise = ConvNorm((size, size, inner), **options)
        self.squeeze = SqueezeExcitation(inner, squeeze, **options) if squeeze else None
        self.project = ConvNorm((inner, out), **options)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H/s W/s D"]:
        y = x if self.expand is None else self.activation(pointwise(x, self.expand))
        y = self.activation(depthwise(y, self.depthwise, self.stride, self.padding))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = pointwise(y, self.project)
        return x + y if self.residual else y


def relu6(x: Array) -> Array:
    """Return x within 0 and 6."""
    return jnp.clip(x, 0, 6)


def stem_convolution(
    x: Float[Array, "B H W 3"], conv: ConvNorm, padding: Padding | None = None
) -> Float[Array, "B H/2 W/2 D"]:
    """Return the first convolution, with stride 2; `padding` as of `MBConv`."""
    kernel, bias = conv.folded()
    out = jax.lax.conv_general_dilated(
        x.astype(conv.dtype),
        kernel,
        window_strides=(2, 2),
        padding="SAME" if padding is None else [padding, padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
    return out + bias


def pointwise(x: Float[Array, "B H W C"], conv: ConvNorm) -> Float[Array, "B H W D"]:
    """Return a 1 x 1 convolution."""
    kernel, bias = conv.folded()
    x = x.astype(conv.dtype)
    out = jnp.einsum("bhwc,cd->bhwd", x, kernel, precision="highest", preferred_element_type=jnp.float32)
    return out + bias


def same_padding(size: int, kernel: int, stride: int) -> Padding:
    """Return TensorFlow's SAME: output ceil(size / stride), the odd pixel at the end."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def depthwise(
    x: Float[Array, "B H W C"], conv: ConvNorm, stride: int, padding: Padding | None = None
) -> Float[Array, "B H/s W/s C"]:
    """Return one filter per channel, as a sum of shifted products: XLA's grouped convolution is slow on CPUs.

    Args:
      padding: as of `MBConv`.
    """
    kernel, bias = conv.folded()
    size = kernel.shape[0]
    pads = [padding or same_padding(side, size, stride) for side in x.shape[1:3]]
    spans = [side + sum(pad) - size + 1 for side, pad in zip(x.shape[1:3], pads, strict=True)]
    x = jnp.pad(x.astype(conv.dtype), ((0, 0), *pads, (0, 0)))
    out = bias
    for i in range(size):
        for j in range(size):
            shifted = x[:, i : i + spans[0] : stride, j : j + spans[1] : stride].astype(jnp.float32)
            out = out + shifted * kernel[None, None, None, i, j].astype(jnp.float32)
    return out
