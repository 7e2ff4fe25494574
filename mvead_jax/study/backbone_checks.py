"""Feature maps of backbones with weights drawn by NumPy, beside the same in float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.backbones.base import as_function, load_network
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.methods.checks import Check
from mvead_jax.study.float64 import in_float64

CONFIGS = {
    "dinov2-small": (BackboneConfig(name="dinov2-small", weights="random"), 56),
    "efficientnet-lite0": (BackboneConfig(name="efficientnet-lite0", weights="random"), 64),
}
_TAPS = ("patches",)
_TOLERANCE = 2e-5


def backbone_checks(precision: str = "float32") -> list[Check]:
    """Return a check of each backbone. Args: precision: of backbone.precision; the tolerance is float32's."""
    return [
        Check(f"backbone {name}", partial(_maps, name, precision), partial(_expected, name), _TOLERANCE, 8)
        for name in CONFIGS
    ]


def _images(size: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32))


def _maps(name: str, precision: str) -> dict[str, Any]:
    config, size = CONFIGS[name]
    config = BackboneConfig(name=config.name, weights=config.weights, precision=precision)
    forward, state = as_function(load_network(config, _TAPS).network, _TAPS)
    return dict(jax.jit(forward)(state, _images(size)))


def _expected(name: str) -> dict[str, np.ndarray]:
    config, size = CONFIGS[name]
    forward, state = as_function(load_network(config, _TAPS).network, _TAPS)
    return in_float64(forward, state, _images(size))
