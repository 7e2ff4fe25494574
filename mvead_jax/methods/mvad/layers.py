"""Convolutions of MVAD's trained network, with the released code's initial values.

All weights are height, width, input, output; feature maps are [N,H,W,C].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Conv(nnx.Module):
    """Convolve k x k pixels with zeros around the map, as PyTorch's Conv2d of an odd size k."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, bias: bool = False, rngs: nnx.Rngs
    ):
        self.stride = stride
        deviation = (2 / (outputs * size * size)) ** 0.5  # He's rule by the outputs
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(deviation * jax.random.normal(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(uniform(rngs, (outputs,), inputs * size * size)) if bias else None

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H' W' D"]:
        kernel = self.kernel[...]
        pad = kernel.shape[0] // 2
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        return x if self.bias is None else x + self.bias[...][None, None, None]


class Upsample(nnx.Module):
    """Double the sides of a map: PyTorch's ConvTranspose2d of size 2 and stride 2, one matrix product."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        # PyTorch counts a transposed convolution's inputs by its outputs; the released code leaves it so.
        self.kernel = nnx.Param(uniform(rngs, (2, 2, inputs, outputs), 4 * outputs))

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N 2H 2W D"]:
        images, height, width, _ = x.shape
        x = jnp.einsum("nhwc,ijcd->nhiwjd", x, self.kernel[...], precision="highest")
        return x.reshape(images, 2 * height, 2 * width, x.shape[-1])


class Linear(nnx.Module):
    """Multiply the last axis by a matrix, initialised as PyTorch's Linear."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs):
        self.kernel = nnx.Param(uniform(rngs, (inputs, outputs), inputs))
        self.bias = nnx.Param(uniform(rngs, (outputs,), inputs)) if bias else None

    def __call__(self, x: Float[Array, "*shape C"]) -> Float[Array, "*shape D"]:
        y = jnp.matmul(x, self.kernel[...], precision="highest")
        return y if self.bias is None else y + jnp.expand_dims(self.bias[...], range(y.ndim - 1))


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], inputs: int) -> Float[Array, "*shape"]:
    """Return values uniform between -1 and 1 over the root of the number of inputs (PyTorch's default)."""
    bound = inputs**-0.5
    return jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
