"""What of MVEAD is checked and timed by itself on a device: the attention, dense and banded, and the objective.

The references are the paper's equations written out in float64; they share no code with what is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.methods.checks import Check, Job, Workload
from mvead_jax.methods.mvead.banded import banded_attention, plan_bands
from mvead_jax.methods.mvead.dense import masked_attention
from mvead_jax.methods.mvead.objective import multi_center_loss, negative_loss
from mvead_jax.rig.cameras import five_cameras

_PATCH = 14
_GRID, _HEADS, _WIDTH = (8, 8), 2, 8  # of the checks
_TOLERANCE = 2e-5  # four times the most that was seen on a CPU
_NEGATIVE_WEIGHT = 0.1


def checks() -> list[Check]:
    """Return the checks: values and gradients against float64."""
    return [
        Check("attention dense", partial(_attention, "dense"), _expected_attention, _TOLERANCE, 6),
        Check("attention banded", partial(_attention, "banded"), _expected_attention, _TOLERANCE, 8),
        Check("attention banded, gather", partial(_attention, "gather"), _expected_attention, _TOLERANCE, 8),
        Check("objective", _objective, _expected_objective, _TOLERANCE, 4),
    ]


def workloads() -> list[Workload]:
    """Return what is timed: the banded attention of one sample of five views of 16 x 16 patches."""
    return [
        Workload(f"attention banded, {kind}", "samples", partial(_prepared, kind), 15)
        for kind in ("forward", "gradient")
    ]


@cache
def _keys(grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask and the fundamental matrices of the rendered rig's cameras."""
    rig = five_cameras(grid[0] * _PATCH)
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    return np.asarray(epipolar_mask(F, grid, _PATCH)), F


def _attend(kind: str, grid: tuple[int, int], block: int) -> Callable[..., jax.Array]:
    """Return (query, key, value) -> attended values, dense or in bands."""
    mask, F = _keys(grid)
    if kind == "dense":
        return partial(masked_attention, mask=jnp.asarray(mask))
    return partial(banded_attention, plan=plan_bands(mask, F, grid, _PATCH, block, gather=kind == "gather"))


def _qkv(grid: tuple[int, int], heads: int, width: int) -> np.ndarray:
    shape = 3, 5, grid[0] * grid[1], heads, width
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _with_gradient(attend: Callable[..., jax.Array], qkv: Any) -> dict[str, Any]:
    """Return what is attended to, and the gradients of the sum of its squares."""

    def loss(qkv: tuple[jax.Array, ...]):
        output = attend(*qkv)
        return jnp.sum(output * output), output

    gradient, output = jax.jit(jax.grad(loss, has_aux=True))(tuple(qkv))
    return {"output": output} | {f"d {name}": own for name, own in zip("qkv", gradient, strict=True)}


def _attention(kind: str) -> dict[str, Any]:
    return _with_gradient(_attend(kind, _GRID, 16), jnp.asarray(_qkv(_GRID, _HEADS, _WIDTH)))


def _expected_attention() -> dict[str, np.ndarray]:
    mask, _ = _keys(_GRID)
    views, patches = mask.shape[1:3]
    allowed = mask.transpose(0, 2, 1, 3).reshape(views * patches, views * patches)

    def attend(query, key, value):
        q, k, v = (x.reshape(views * patches, _HEADS, _WIDTH).swapaxes(0, 1) for x in (query, key, value))
        logits = jnp.where(allowed, q @ k.swapaxes(1, 2) / np.sqrt(_WIDTH), -1e300)
        weights = jnp.where(allowed.any(1, keepdims=True), jax.nn.softmax(logits, axis=-1), 0)
        return (weights @ v).swapaxes(0, 1).reshape(query.shape)

    with jax.enable_x64(True):
        found = _with_gradient(attend, jnp.asarray(_qkv(_GRID, _HEADS, _WIDTH), jnp.float64))
        return {name: np.asarray(own) for name, own in found.items()}


def _features_and_centers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.standard_normal((5, 64, 32), np.float32), random.standard_normal((5, 6, 32), np.float32)


_VIEW = np.arange(40, dtype=np.int32) % 5  # of the negatives, which are the first 8 patches of each view


def _objective() -> dict[str, Any]:
    z, centers = map(jnp.asarray, _features_and_centers())

    def loss(z):
        negatives = z[_VIEW, jnp.arange(40, dtype=jnp.int32) // 5]
        return multi_center_loss(z, centers) + _NEGATIVE_WEIGHT * negative_loss(negatives, _VIEW, centers)

    value, gradient = jax.jit(jax.value_and_grad(loss))(z)
    return {"loss": value, "gradient": gradient}


def _expected_objective() -> dict[str, np.ndarray]:
    """Equations 7 to 10 and their derivative, written out."""
    z, centers = (x.astype(np.float64) for x in _features_and_centers())
    loss, gradient = 0.0, np.zeros_like(z)
    for view, own in enumerate(z):
        nearest = np.linalg.norm(own[:, None] - centers[view], axis=2).argmin(1)
        away = own - centers[view][nearest]
        length = np.linalg.norm(away, axis=1, keepdims=True)
        loss += length.mean() / len(z)
        gradient[view] += away / length / (len(own) * len(z))
    for number, view in enumerate(_VIEW):
        away = z[view, number // 5] - centers[view]
        length = np.linalg.norm(away, axis=1, keepdims=True)
        weight = _NEGATIVE_WEIGHT / len(_VIEW)
        loss -= weight * np.log(length.mean())
        gradient[view, number // 5] -= weight * (away / length).mean(0) / length.mean()
    return {"loss": np.float64(loss), "gradient": gradient}


def _prepared(kind: str, grid: tuple[int, int] = (16, 16), heads: int = 6, width: int = 64) -> Job:
    """Return the banded attention of one sample, whose products are those of its blocks."""
    mask, F = _keys(grid)
    plan = plan_bands(mask, F, grid, _PATCH)
    qkv = jnp.asarray(_qkv(grid, heads, width))

    def loss(qkv):
        return jnp.sum(jnp.square(banded_attention(*qkv, plan)))

    function = (
        jax.jit(lambda qkv: banded_attention(*qkv, plan)) if kind == "forward" else jax.jit(jax.grad(loss))
    )
    # Two products forward; the gradient computes these and five more.
    products = 2 if kind == "forward" else 7
    return Job(
        lambda: jax.block_until_ready(function(qkv)), 1, products * 2.0 * plan.mask.size * heads * width
    )
