"""SGD in two phases: first the student, then the two parts of the segmentation network (released code)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

_MOMENTUM = 0.9


class PhasedState(NamedTuple):
    """Steps taken, and the momentum of each parameter."""

    count: Int[Array, ""]
    momentum: Any


def phased_sgd(
    rates: Mapping[str, tuple[float, int]], boundary: int, weight_decay: float
) -> optax.GradientTransformation:
    """Return SGD with momentum 0.9 whose parts are at work in one of two phases each.

    The weight decay is added to the gradient, as PyTorch does. A part that is not at work neither moves nor gathers
    momentum.

    Args:
      rates: learning rate and phase, 0 or 1, of each part of the parameters by its name.
      boundary: the step, counted from 0, with which phase 1 begins.
    """

    def init(parameters: Any) -> PhasedState:
        return PhasedState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, parameters))

    def update(gradients: Any, state: PhasedState, parameters: Any) -> tuple[Any, PhasedState]:
        phase = (state.count >= boundary).astype(jnp.int32)
        changes, momentum = {}, {}
        for name, (rate, own) in rates.items():
            active = phase == own

            def moved(m: Array, g: Array, p: Array, active: Array = active) -> Array:
                return jnp.where(active, _MOMENTUM * m + g + weight_decay * p, m)

            def change(m: Array, active: Array = active, rate: float = rate) -> Array:
                return jnp.where(active, -rate * m, 0)

            momentum[name] = jax.tree.map(moved, state.momentum[name], gradients[name], parameters[name])
            changes[name] = jax.tree.map(change, momentum[name])
        return changes, PhasedState(state.count + 1, momentum)

    return optax.GradientTransformation(init, update)
