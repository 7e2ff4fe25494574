"""The network of a coupling: a small convolutional network for each view, with messages between the views.

For one sample; a batch is `jax.vmap` of it. Of the inputs x_v of the views (released code; * is a convolution
with bias, the border repeated):

    y_v = relu(A_v * x_v)
    o_v = g_v ( D_v * y_v + mean over the edges u>v of M_uv * y_u )

Every view has its own A, D and gain g, every directed edge of the graph its own M. The gains start at zero
unless something else is asked for, so that an untrained flow is nothing but its permutations.

Letters: V views, E edges, H x W patches of a view, k side of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.multiflow.graph import Graph, message_weights


class Convolutions(nnx.Module):
    """The kernels [n,k,k,in,out] and biases [n,out] of n convolutions of one shape.

    Initialised as PyTorch does: kernels and biases uniform within 1 / sqrt(in k k) of zero.
    """

    def __init__(self, count: int, kernel: int, inputs: int, outputs: int, rngs: nnx.Rngs):
        bound = 1 / math.sqrt(inputs * kernel * kernel)

        def uniform(*shape: int) -> nnx.Param:
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))

        self.kernel = uniform(count, kernel, kernel, inputs, outputs)
        self.bias = uniform(count, outputs)

    def __call__(self, padded: Sequence[Float[Array, "h w inputs"]]) -> list[Float[Array, "H W outputs"]]:
        """Return the n convolutions of n inputs that `repeat_border` has padded."""
        count = self.kernel.shape[0]
        layout = ("NHWC", "HWIO", "NHWC")
        # Split once: the gradient of a split is one concatenation, that of n indices a sum of n whole arrays.
        kernels, biases = (jnp.split(own[...], count) for own in (self.kernel, self.bias))
        return [
            jax.lax.conv_general_dilated(
                x[None], kernel[0], (1, 1), "VALID", dimension_numbers=layout, precision="highest"
            )[0]
            + bias[None]
            for x, kernel, bias in zip(padded, kernels, biases, strict=True)
        ]


class MessageNetwork(nnx.Module):
    """Inputs of all views -> outputs of all views, as the module says."""

    def __init__(
        self,
        graph: Graph,
        inputs: int,
        hidden: int,
        outputs: int,
        kernel: int,
        rngs: nnx.Rngs,
        gain: float = 0.0,
    ):
        self.graph = graph
        self.border = kernel // 2
        self.inner = Convolutions(graph.views, kernel, inputs, hidden, rngs)  # A
        self.own = Convolutions(graph.views, kernel, hidden, outputs, rngs)  # D
        # M, in the order of the graph's edges.
        self.message = Convolutions(len(graph.edges), kernel, hidden, outputs, rngs) if graph.edges else None
        self.gain = nnx.Param(jnp.full(graph.views, gain, jnp.float32))

    def __call__(
        self, x: Sequence[Float[Array, "H W inputs"]], present: Bool[Array, " V"] | None = None
    ) -> list[Float[Array, "H W outputs"]]:
        """Return the output of each view.

        Args:
          x: of each view.
          present: views that the sample has; the others send no messages. None: all.
        """
        inner = self.inner([repeat_border(own, self.border) for own in x])
        y = [repeat_border(jax.nn.relu(own), self.border) for own in inner]
        found = self.own(y)
        if self.message is not None:
            weights = message_weights(self.graph, present, x[0].dtype)
            messages = self.message([y[source] for source, _ in self.graph.edges])
            for (_, target), weight, message in zip(self.graph.edges, weights, messages, strict=True):
                found[target] += weight * message
        return [gain * own for gain, own in zip(self.gain[...], found, strict=True)]


def repeat_border(x: Float[Array, "H W c"], width: int) -> Float[Array, "h w c"]:
    """Return x with its outermost rows and columns repeated `width` times on each side."""
    return jnp.pad(x, ((width, width), (width, width), (0, 0)), mode="edge")
