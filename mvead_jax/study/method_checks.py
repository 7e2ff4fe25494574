"""The scores of every registered method on golden samples, beside the same scores in float64.

The samples and the weights are drawn by NumPy, so that they are the same on all machines: what a method starts from by
chance becomes normal noise of the same mean and deviation, matrices of zeros a little noise, and the rest stays as
it starts. Nothing is trained: a training would enlarge the rounding, and the study trains elsewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvead_jax.backbones.base import load_backbone
from mvead_jax.bank.fill import Bank
from mvead_jax.config.schema import Config
from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.base import PATCHES, Batch, Method, PlansGeometry, Spec, foreground_tap
from mvead_jax.methods.checks import Check, ChecksParts, Workload
from mvead_jax.methods.registry import METHODS
from mvead_jax.rig.cameras import VIEWS, five_cameras
from mvead_jax.study.float64 import in_float64

_SAMPLES, _ROWS = 2, 96
_TOLERANCE = 1e-5  # twenty times the most that was seen on a CPU
_SMALL = 0.05  # of what starts at zero and would hide what follows it
_SECONDS = 8.0
Recipe = Mapping[str, tuple[str, np.ndarray]]  # of a state, by the path of each array


def method_checks(recipes: Mapping[str, Recipe]) -> list[Check]:
    """Return a check of the maps of each registered method, and those of its parts.

    Args: recipes: of the states, by method; the check of one without a recipe cannot be made.
    """
    found = []
    for name, method in methods().items():
        given = method, recipes.get(name)
        found.append(
            Check(f"scores {name}", partial(_maps, *given), partial(_expected, *given), _TOLERANCE, _SECONDS)
        )
        found += method.checks() if isinstance(method, ChecksParts) else []
    return found


def method_workloads() -> list[Workload]:
    """Return what the registered methods want timed."""
    return [one for own in methods().values() if isinstance(own, ChecksParts) for one in own.workloads()]


@cache
def methods() -> dict[str, Method]:
    """Return every registered method as its smallest config builds it."""
    return {name: _method(METHODS.load(name).debug()) for name in METHODS.names()}


def _method(config: Config) -> Method:
    given = config.backbone, config.data.image_size, config.requires().taps, config.seed
    return config.build(Spec.of(VIEWS, ("part",), load_backbone(*given)))


def _maps(method: Method, recipe: Recipe) -> dict[str, Any]:
    return {"maps": jax.jit(method.score)(golden_state(method, recipe), golden_batch(method))}


def _expected(method: Method, recipe: Recipe) -> dict[str, np.ndarray]:
    return {"maps": in_float64(method.score, golden_state(method, recipe), golden_batch(method))}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal noise that depends on its name and shape alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)


def golden_batch(method: Method) -> Batch:
    """Return samples of five views, one of which the last sample lacks."""
    spec, views = method.spec, len(VIEWS)
    features = {tap: _draw(tap, (_SAMPLES, views, *shape)) for tap, shape in spec.maps.items()}
    images = _draw("images", (_SAMPLES, views, spec.image_size, spec.image_size, 3))
    grid = spec.maps[foreground_tap(spec.maps)][:2]
    foreground = np.ones((_SAMPLES, views, *grid), bool) if method.requires.foreground else None
    geometry = None
    if isinstance(method, PlansGeometry):
        geometry = method.plan(_keys(spec.maps[PATCHES][:2], spec.image_size))
    present = np.ones((_SAMPLES, views), bool)
    present[-1, -1] = method.requires.min_views > views - 1
    batch = features, present, np.zeros(_SAMPLES, np.int32), geometry
    return Batch(
        *jax.tree.map(jnp.asarray, batch), images if method.requires.images else None, None, foreground
    )


def _keys(grid: tuple[int, int], size: int) -> EpipolarKeys:
    rig = five_cameras(size)
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    return EpipolarKeys(np.asarray(epipolar_mask(F, grid, size / grid[1])), F, size / grid[1], grid)


def golden_state(method: Method, recipe: Recipe) -> Mapping[str, Any]:
    """Return a state with the shapes of the method's own, of numbers that no device decides."""

    def leaf(path: Any, shape: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if isinstance(shape, Bank):
            rows = _draw(name, (_ROWS, shape.rows.shape[1]))
            return Bank(jnp.asarray(rows), jnp.zeros(_ROWS, jnp.int32))
        kind, own = recipe[name]
        if kind == "noise":
            return jnp.asarray(own[0] + own[1] * _draw(name, shape.shape))
        return jnp.asarray(np.broadcast_to(own, shape.shape))

    shapes = jax.eval_shape(method.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(leaf, shapes, is_leaf=lambda one: isinstance(one, Bank))


def recipe_of(method: Method) -> Recipe:
    """Return by what each array of a state is made: mean and deviation of "noise", or what it is from the "start"."""
    one, other = (jax.tree_util.tree_leaves_with_path(method.init(jax.random.key(seed))) for seed in (0, 1))
    recipe = {}
    for (path, start), (_, again) in zip(one, other, strict=True):
        start, again = np.asarray(start), np.asarray(again)
        if start.dtype == np.float32 and not np.array_equal(start, again):
            # Three digits: the last bits of what was drawn are the device's.
            mean, deviation = (float(f"{value:.2e}") for value in (start.mean(), start.std()))
            own = "noise", np.float32([mean if abs(mean) > deviation else 0, deviation])
        elif start.dtype == np.float32 and start.ndim > 1 and not start.any():
            own = "noise", np.float32([0, _SMALL])
        else:
            constant = start.size > 0 and (start == start.reshape(-1)[0]).all()
            own = "start", start.reshape(-1)[0] if constant else start
        recipe[jax.tree_util.keystr(path)] = own
    return recipe
