"""One step of the flow: a permutation of channels, then an affine coupling whose networks see all views.

For one sample; a batch is `jax.vmap` of it. With the halves x1, x2 of a view's channels and the condition c
(released code):

    (s, t)   = s2(x2 of all views, c)      y1 = exp(L(s)) x1 + t
    (s', t') = s1(y1 of all views, c)      y2 = exp(L(s')) x2 + t'      L(s) = 1.9 * 0.636 atan(s / 1.9)

The log-determinant of a view's patch is the sum of L(s) and L(s') over the channels. The way back starts with
network s1, which needs y1 alone, and then uses s2 with the x2 that this gives.

Letters: V views, H x W patches of a view, C channels, c channels of a half.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.multiflow.graph import Graph
from mvead_jax.methods.multiflow.messages import MessageNetwork

_LARGEST = 1e6  # what comes out of a coupling is cut off there

Views = Sequence[Float[Array, "H W c"]]  # the maps of each view


@dataclass(frozen=True)
class CouplingConfig:
    """The shape of one coupling.

    Attributes:
      width: C, channels of a view.
      hidden: channels between the two convolutions of a network.
      kernel: side of the convolutions.
      clamp: L(s) stays within about this.
      condition: whether a condition of one channel comes in.
      gain: of the networks' outputs, as it starts.
    """

    width: int
    hidden: int = 64
    kernel: int = 3
    clamp: float = 1.9
    condition: bool = True
    gain: float = 0.0

    def __post_init__(self):
        if self.width < 2 or self.kernel % 2 == 0:
            raise ValueError(f"width={self.width} must be at least 2 and kernel={self.kernel} odd")


class Coupling(nnx.Module):
    """x of all views -> y of all views and log-determinants, and back."""

    def __init__(self, config: CouplingConfig, graph: Graph, rngs: nnx.Rngs):
        half, rest = config.width // 2, config.width - config.width // 2
        extra = int(config.condition)
        self.config = config
        hidden, side, gain = config.hidden, config.kernel, config.gain
        self.s2 = MessageNetwork(graph, rest + extra, hidden, 2 * half, side, rngs, gain)
        self.s1 = MessageNetwork(graph, half + extra, hidden, 2 * rest, side, rngs, gain)

    def forward(
        self, x: Views, condition: Float[Array, "H W 1"] | None, present: Bool[Array, " V"] | None = None
    ) -> tuple[list[Float[Array, "H W C"]], list[Float[Array, "H W"]]]:
        """Return y and the log-determinant of each view."""
        x1, x2 = self._halves(x)
        of_s2 = self._predict(self.s2, x2, condition, present)
        y1 = [jnp.exp(scale) * own + shift for own, (scale, shift) in zip(x1, of_s2, strict=True)]
        of_s1 = self._predict(self.s1, y1, condition, present)
        y2 = [jnp.exp(scale) * own + shift for own, (scale, shift) in zip(x2, of_s1, strict=True)]
        y = [jnp.clip(jnp.concatenate(both, -1), -_LARGEST, _LARGEST) for both in zip(y1, y2, strict=True)]
        log_det = [scale.sum(-1) + other.sum(-1) for (scale, _), (other, _) in zip(of_s2, of_s1, strict=True)]
        return y, log_det

    def inverse(
        self, y: Views, condition: Float[Array, "H W 1"] | None, present: Bool[Array, " V"] | None = None
    ) -> list[Float[Array, "H W C"]]:
        """Return the x that `forward` makes y of."""
        y1, y2 = self._halves(y)
        of_s1 = self._predict(self.s1, y1, condition, present)
        x2 = [(own - shift) * jnp.exp(-scale) for own, (scale, shift) in zip(y2, of_s1, strict=True)]
        of_s2 = self._predict(self.s2, x2, condition, present)
        x1 = [(own - shift) * jnp.exp(-scale) for own, (scale, shift) in zip(y1, of_s2, strict=True)]
        return [jnp.concatenate(both, -1) for both in zip(x1, x2, strict=True)]

    def _halves(self, x: Views) -> tuple[Views, Views]:
        half = self.config.width // 2
        return [own[..., :half] for own in x], [own[..., half:] for own in x]

    def _predict(
        self, network: MessageNetwork, half: Views, condition: Array | None, present: Array | None
    ) -> list[tuple[Float[Array, "H W c"], Float[Array, "H W c"]]]:
        """Return (L(s), t) of each view."""
        inputs = half if condition is None else [jnp.concatenate([own, condition], -1) for own in half]
        found = [jnp.split(own, 2, -1) for own in network(inputs, present)]
        return [(soft_clamp(scale, self.config.clamp), shift) for scale, shift in found]


def soft_clamp(scale: Float[Array, "*shape"], clamp: float) -> Float[Array, "*shape"]:
    """Return L(s): about s near 0, and never beyond 0.999 times `clamp`."""
    return clamp * 0.636 * jnp.arctan(scale / clamp)


@functools.lru_cache(maxsize=64)
def permutations(seed: int, views: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Return the permutation of channels of each view: channel j of the result is channel perm[j] before it.

    NumPy's legacy generator, seeded with `seed`, one permutation for each view in order (released code). They
    do not depend on the run's seed, and NumPy keeps that generator's numbers.
    """
    generator = np.random.RandomState(seed)
    return tuple(tuple(map(int, generator.permutation(width))) for _ in range(views))


def permuted(x: Float[Array, "H W C"], order: Sequence[int]) -> Float[Array, "H W C"]:
    """Return the channels of x in another order.

    A product with a matrix of zeros and ones: on a CPU it takes less time than gathering, whose derivative scatters,
    and finite numbers stay the same to the bit.
    """
    matrix = jax.nn.one_hot(np.asarray(order), len(order), axis=0, dtype=x.dtype)
    return jnp.matmul(x, matrix, precision="highest")


def inverse_order(order: Sequence[int]) -> tuple[int, ...]:
    """Return the order that undoes an order."""
    return tuple(np.argsort(np.asarray(order)).tolist())
