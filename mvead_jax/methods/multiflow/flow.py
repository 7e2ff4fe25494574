"""The normalising flow of all views of a sample: exact likelihoods, forward and backward.

For one sample; a batch is `jax.vmap` of it. Features x are turned, step by step, into z that training makes
standard normal; a step is a permutation of each view's channels and a coupling (coupling.py). By the change
of variables

    log p(x) = sum over views, patches and channels of log N(z; 0, 1) + sum over views and patches of log_det

Letters: V views, H x W patches of a view, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mvead_jax.methods.multiflow.coupling import (
    Coupling,
    CouplingConfig,
    inverse_order,
    permutations,
    permuted,
)
from mvead_jax.methods.multiflow.graph import Graph

Present = Bool[Array, " V"] | None
Condition = Float[Array, "H W 1"] | None


@dataclass(frozen=True)
class FlowConfig:
    """The shape of a flow.

    Attributes:
      width: C, channels of a view's features.
      graph: which views send messages to which; it says how many views there are.
      hidden: channels between the two convolutions of a coupling's networks.
      kernels: side of the convolutions in each coupling; as many couplings as numbers.
      clamp: bound of a coupling's scales.
      condition: whether the flow gets a map of noise as its condition (noise.py).
      gain: of the couplings' networks, as it starts; 0: an untrained flow only permutes channels.
      rematerialise: compute the inside of each coupling a second time for the gradient instead of storing it.
        The numbers stay the same.
    """

    width: int
    graph: Graph
    hidden: int = 64
    kernels: tuple[int, ...] = (3, 3, 3, 3, 3, 5)
    clamp: float = 1.9
    condition: bool = True
    gain: float = 0.0
    rematerialise: bool = False


class MultiFlow(nnx.Module):
    """x [V,H,W,C] <-> z [V,H,W,C]."""

    def __init__(self, config: FlowConfig, rngs: nnx.Rngs):
        self.config = config
        self.couplings = nnx.List(
            Coupling(
                CouplingConfig(
                    config.width, config.hidden, kernel, config.clamp, config.condition, config.gain
                ),
                config.graph,
                rngs,
            )
            for kernel in config.kernels
        )

    def forward(
        self, x: Float[Array, "V H W C"], present: Present = None, condition: Condition = None
    ) -> tuple[Float[Array, "V H W C"], Float[Array, "V H W"]]:
        """Return z and the log-determinant of each patch, summed over its channels.

        Args:
          x: features of one sample; of missing views anything finite.
          present: views that the sample has; the others send no messages, and their z means nothing.
            None: all.
          condition: where the config has one: 20 times the noise that was added to x. None: zero.
        """
        condition = self._condition(x, condition)
        views = list(x)
        log_det = [jnp.zeros(x.shape[1:3], x.dtype)] * len(views)
        for number, coupling in enumerate(self.couplings):
            step = _rematerialised(_step) if self.config.rematerialise else _step
            views, added = step(coupling, self._orders(number), views, condition, present)
            log_det = [total + own for total, own in zip(log_det, added, strict=True)]
        return jnp.stack(views), jnp.stack(log_det)

    def inverse(
        self, z: Float[Array, "V H W C"], present: Present = None, condition: Condition = None
    ) -> Float[Array, "V H W C"]:
        """Return the x of which `forward` makes z with the same present views and the same condition."""
        condition = self._condition(z, condition)
        views = list(z)
        for number in reversed(range(len(self.couplings))):
            views = self.couplings[number].inverse(views, condition, present)
            orders = self._orders(number)
            views = [permuted(own, inverse_order(order)) for own, order in zip(views, orders, strict=True)]
        return jnp.stack(views)

    def log_likelihood(
        self, x: Float[Array, "V H W C"], present: Present = None, condition: Condition = None
    ) -> Float[Array, "V H W"]:
        """Return log p(x) patch by patch: its sum over the present views and all patches is exact.

        The share of one patch is no density of its own, because a patch's z depends on its neighbours and on
        the other views. Missing views have 0.
        """
        z, log_det = self.forward(x, present, condition)
        of_patch = log_det - 0.5 * jnp.sum(z * z, -1) - 0.5 * self.config.width * math.log(2 * math.pi)
        return of_patch if present is None else jnp.where(jnp.asarray(present)[:, None, None], of_patch, 0)

    def sample(
        self, key: Array, grid: tuple[int, int], present: Present = None, condition: Condition = None
    ) -> Float[Array, "V H W C"]:
        """Return features of one sample, drawn from the flow's distribution."""
        z = jax.random.normal(key, (self.config.graph.views, *grid, self.config.width), jnp.float32)
        return self.inverse(z, present, condition)

    def _orders(self, number: int) -> tuple[tuple[int, ...], ...]:
        return permutations(number, self.config.graph.views, self.config.width)

    def _condition(self, x: Array, condition: Condition) -> Condition:
        expected = (self.config.graph.views, self.config.width)
        if (x.shape[0], x.shape[-1]) != expected:
            raise ValueError(
                f"features {x.shape} for a flow of {expected[0]} views and {expected[1]} channels"
            )
        if not self.config.condition:
            if condition is not None:
                raise ValueError("a condition for a flow without one")
            return None
        return jnp.zeros((*x.shape[1:3], 1), x.dtype) if condition is None else condition


def _step(coupling: Coupling, orders: Any, views: Any, condition: Condition, present: Present):
    """Return what a permutation and a coupling make of the views, and their log-determinants."""
    moved = [permuted(own, order) for own, order in zip(views, orders, strict=True)]
    return coupling.forward(moved, condition, present)


def _rematerialised(step: Callable) -> Callable:
    """Return `_step` without stored intermediate arrays; the module's own arrays are handed over as such."""

    def run(coupling: Coupling, orders: Any, views: Any, condition: Condition, present: Present):
        graph, state = nnx.split(coupling)

        def pure(state, views, condition, present):
            return step(nnx.merge(graph, state), orders, views, condition, present)

        return jax.checkpoint(pure)(state, views, condition, present)

    return run
