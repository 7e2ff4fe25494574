"""Convolutions and linear layers of MVAD's trained network, with the released code's initial values.

All weights are height, width, input, output; feature maps are [N,H,W,C].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_GROUPS = (2, 3, 5, 1)  # images; the first that divides their number
_FEW = 64  # channels


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
        if kernel.shape[0] == 1:
            y = product(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        elif self.stride == 1:
            y = same_size(x, kernel)
        else:
            y = _convolve(x, kernel, (self.stride, self.stride))
        return y if self.bias is None else y + self.bias[...][None, None, None]


class Upsample(nnx.Module):
    """Double the sides of a map: PyTorch's ConvTranspose2d of size 2 and stride 2, one matrix product."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        # PyTorch counts a transposed convolution's inputs by its outputs; the released code leaves it so.
        self.kernel = nnx.Param(uniform(rngs, (2, 2, inputs, outputs), 4 * outputs))

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N 2H 2W D"]:
        images, height, width, inputs = x.shape
        kernel = self.kernel[...].transpose(2, 0, 1, 3)  # [C,2,2,D]
        y = product(x, kernel.reshape(inputs, -1)).reshape(images, height, width, *kernel.shape[1:])
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(images, 2 * height, 2 * width, kernel.shape[3])


class Linear(nnx.Module):
    """Multiply the last axis by a matrix, initialised as PyTorch's Linear."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs):
        self.kernel = nnx.Param(uniform(rngs, (inputs, outputs), inputs))
        self.bias = nnx.Param(uniform(rngs, (outputs,), inputs)) if bias else None

    def __call__(self, x: Float[Array, "*shape C"]) -> Float[Array, "*shape D"]:
        y = product(x, self.kernel[...])
        return y if self.bias is None else y + jnp.expand_dims(self.bias[...], range(y.ndim - 1))


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], inputs: int) -> Float[Array, "*shape"]:
    """Return values uniform between -1 and 1 over the root of the number of inputs (PyTorch's default)."""
    bound = inputs**-0.5
    return jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)


def product(x: Float[Array, "*shape C"], matrix: Float[Array, "C D"]) -> Float[Array, "*shape D"]:
    """Return x times a matrix; as one product of two axes, which XLA computes faster on a CPU."""
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), matrix, precision="highest")
    return y.reshape(*x.shape[:-1], matrix.shape[1])


def _convolve(
    x: Float[Array, "N H W C"], kernel: Float[Array, "k l C D"], strides: tuple[int, int] = (1, 1)
) -> Array:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


@jax.custom_vjp
def same_size(x: Float[Array, "N H W C"], kernel: Float[Array, "k k C D"]) -> Float[Array, "N H W D"]:
    """Convolve with stride 1 and zeros around the map; on a CPU in forms that XLA computes faster there.

    The derivative by the kernel is then computed in groups of images: the whole batch at once takes twice as
    long (40 images of 32 x 32 x 128: 160 ms against 71; of 64 x 64 x 64: 350 against 107).
    """
    return _convolve_same_size(x, kernel)


def _forward(x, kernel):
    return _convolve_same_size(x, kernel), (x, kernel)


def _convolve_same_size(x: Float[Array, "N H W C"], kernel: Float[Array, "k k C D"]) -> Array:
    """Convolve with stride 1.

    If there are few outputs, a CPU computes two neighbouring pixels of a row at a time, as one pixel with twice
    as many: a quarter of the products is then with zero, and it still takes 0.8 of the time (40 images of
    64 x 64 x 64: 105 ms against 130).
    """
    outputs = kernel.shape[3]
    if jax.default_backend() != "cpu" or outputs > _FEW or x.shape[2] % 2:
        return _convolve(x, kernel)
    left, right = (jnp.pad(kernel, ((0, 0), sides, (0, 0), (0, 0))) for sides in ((0, 1), (1, 0)))
    return _convolve(x, jnp.concatenate([left, right], 3), (1, 2)).reshape(*x.shape[:3], outputs)


def _backward(saved, g: Float[Array, "N H W D"]):
    x, kernel = saved
    d_x = _convolve_same_size(g, kernel[::-1, ::-1].swapaxes(2, 3))
    if jax.default_backend() != "cpu":
        return d_x, _derivative_by_kernel(x, g, kernel.shape)
    by_kernel, sizes = (
        (_derivative_by_products, (1,)) if g.shape[3] <= _FEW else (_derivative_by_kernel, _GROUPS)
    )
    size = next(size for size in sizes if len(x) % size == 0)
    groups = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), (x, g))
    total = jax.lax.scan(
        lambda total, group: (total + by_kernel(*group, kernel.shape), None), jnp.zeros_like(kernel), groups
    )
    return d_x, total[0]


def _derivative_by_kernel(
    x: Float[Array, "n H W C"], g: Float[Array, "n H W D"], shape: tuple[int, ...]
) -> Float[Array, "k k C D"]:
    """Return the derivative of a convolution by its kernel: dK[i,j] = sum over pixels of x[y+i,x+j] g[y,x].

    It is computed as a convolution with the channels as images, the only form that XLA computes fast in a loop.
    """
    pad = shape[0] // 2
    found = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return found.transpose(1, 2, 0, 3)


def _derivative_by_products(
    x: Float[Array, "n H W C"], g: Float[Array, "n H W D"], shape: tuple[int, ...]
) -> Float[Array, "k k C D"]:
    """Return what `_derivative_by_kernel` returns, by a matrix product for each row i of the kernel.

    A product has the kernel's columns j beside each other: [C, pixels] times [pixels, k D].
    """
    size, _, inputs, outputs = shape
    pad, height = size // 2, x.shape[1]
    shifted = [jnp.pad(g, ((0, 0), (0, 0), (j, size - 1 - j), (0, 0))) for j in range(size)]
    columns = jnp.concatenate(shifted, 3).reshape(-1, size * outputs)
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = [
        jnp.matmul(x[:, i : i + height].reshape(-1, inputs).T, columns, precision="highest")
        for i in range(size)
    ]
    return jnp.stack(rows).reshape(size, inputs, size, outputs).swapaxes(1, 2)


same_size.defvjp(_forward, _backward)
