"""Multi-Flow: couplings, whole flows, gradients, one step of AdamW, foreground masks, parameter counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles.check import Difference, compare, sampled
from oracles.recipes import draw, normalised, weights
from PIL import Image

from mvead_jax.data.foreground import filled_and_grown, resize_fixed_point, resize_nearest
from mvead_jax.data.records import natural_key
from mvead_jax.evaluation.enlarging import enlarge
from mvead_jax.methods.multiflow.coupling import permutations, permuted
from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import top_ring
from mvead_jax.methods.multiflow.noise import CONDITION_SCALE, DEVIATION
from mvead_jax.methods.multiflow.objective import anomaly_map, flow_loss
from mvead_jax.methods.multiflow.params import (
    key_table,
    load_released,
    released_graph,
    released_tensors,
)
from mvead_jax.postprocess.pooling import pooled

CASES = (
    *("flow_block_*.npz", "flow_tiny_*.npz", "flow_full_*.npz"),
    *("misc_preprocess*.npz", "params_flow.json"),
)
# The released code in float32 differs from its float64 run by 2e-7 to 5e-7 of an array's largest value
# (precision.json); of that about four times is allowed, because our sums run in another order.
_Z, _LOG_DET, _MAP = 1.2e-6, 2e-6, 1.5e-6  # of the largest value, or of 1 where all values are smaller
_LOSS, _INVERSE = 1e-6, 1e-5
_GRADIENT = 2e-6  # of the tensor's largest value
_NORM = 1e-5  # of a norm: PyTorch summed up to 5 million squares in float32
_AFTER = 3e-7
_TAGS = tuple(f"flow-{letter}" for letter in "ABCDEFGH")  # tried in turn where a case does not tell its own


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        return _parameter_counts(json.loads(path.read_text()))
    with np.load(path) as file:
        case = dict(file)
    if path.stem.startswith("misc_"):
        return _preprocessing(case)
    return _block(path, case) if path.stem.startswith("flow_block") else _flow(path, case)


# ---- one coupling


def _block(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    width, _, _, hidden, kernel, condition, seed = map(int, case["config"][1:])
    x, views = _by_sample(case, "x")
    recipe = path.with_name(f"recipe_{path.stem}.json")
    orders = permutations(seed, views, width)
    given = _channels_last(case["cond"]) if condition else None

    def found(coupling, x, given):
        moved = [permuted(own, order) for own, order in zip(x, orders, strict=True)]
        y, log_det = coupling.forward(moved, given)
        back = coupling.inverse(y, given)
        half = width // 2
        extra = [] if given is None else [given]
        of_s2 = coupling.s2([jnp.concatenate([own[..., half:], *extra], -1) for own in moved])
        of_s1 = coupling.s1([jnp.concatenate([own[..., :half], *extra], -1) for own in y])
        return y, log_det, of_s2, of_s1, [jnp.abs(a - b).max() for a, b in zip(moved, back, strict=True)]

    def run(state, graph):
        coupling = nnx.merge(graph, state).couplings[0]
        return jax.vmap(lambda x, given: found(coupling, x, given))(x, given)

    shape = _FlowShape(width, hidden, (kernel,), bool(condition))
    (y, log_det, of_s2, of_s1, errors), _, _, _ = _with_weights(
        case, recipe, shape, run, lambda own: _channels_first(own[0][0]), "y0"
    )
    for view in range(views):
        yield compare(f"perm{view}", orders[view], case[f"perm{view}"], 0)
        yield _near(case, f"s2_out{view}", _channels_first(of_s2[view]), _Z)
        yield _near(case, f"s1_out{view}", _channels_first(of_s1[view]), _Z)
        yield _near(case, f"y{view}", _channels_first(y[view]), _Z)
        yield _near(case, f"logdet{view}", log_det[view], _Z)
        yield compare(f"inverse {view}", errors[view].max(), 0, _INVERSE)


# ---- the whole flow


def _flow(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    batch, width, side, hidden, _, condition, training = map(int, case["config"])
    x, views = _inputs(path, case, (batch, width, side, side))
    recipe = path.with_name(f"recipe_flow_C{width}_H{side}_h{hidden}_n{condition}.json")
    noise = None
    if condition:
        noise = _channels_last(_noise(path, case, (batch, 1, side, side)) * (DEVIATION if training else 0.0))
    foreground = case["mask"].reshape(batch, views, side, side) > 0
    yield from _permutations(case, views, width)

    def run(state, graph):
        z, log_det = _forward(nnx.merge(graph, state), x, noise)
        return z, log_det, jax.vmap(anomaly_map)(z, log_det), jax.vmap(anomaly_map)(z, log_det, foreground)

    shape = _FlowShape(width, hidden, tuple(case["kernels"].tolist()), bool(condition))
    (z, log_det, plain, maps), config, graph, state = _with_weights(
        case, recipe, shape, run, lambda own: _channels_first(own[0][:, 0]), "z0"
    )
    for view in range(views):
        yield _near(case, f"z{view}", _channels_first(z[:, view]), _Z)
    rows = np.asarray(log_det).transpose(1, 0, 2, 3).reshape(-1, side, side)
    yield _near(case, "logdet_viewmajor", rows, _LOG_DET)
    yield from _results(case, np.asarray(plain), np.asarray(maps))
    if side <= 8:
        flow = nnx.merge(graph, state)
        back = jax.jit(jax.vmap(lambda z, noise: flow.inverse(z, None, _condition(noise))))(z, noise)
        clean = back if noise is None else back - noise[:, None]
        yield compare("inverse", clean, x, _INVERSE)
    if any(name.startswith("grad/") for name in case):
        yield from _training_step(case, config, graph, state, x, noise, foreground)


def _permutations(case: Mapping[str, np.ndarray], views: int, width: int) -> Iterator[Difference]:
    names = sorted((name for name in case if name.startswith("perm_node")), key=natural_key)
    for number, name in enumerate(names):
        yield compare(name, permutations(number, views, width), case[name], 0)


def _results(case: Mapping[str, np.ndarray], plain: np.ndarray, maps: np.ndarray) -> Iterator[Difference]:
    """Maps, loss and scores of maps [B,V,H,W] without and with the foreground."""
    scores = np.asarray(maps).max((2, 3))
    means = maps.mean((2, 3))
    yield _near(case, "nll", maps.reshape(-1, *maps.shape[2:]), _MAP)
    yield _near(case, "nll_nomask", plain.reshape(-1, *maps.shape[2:]), _MAP)
    yield compare("loss", flow_loss(maps), case["loss"], _LOSS)
    yield compare("loss_nomask", flow_loss(plain), case["loss_nomask"], _LOSS)
    yield _near(case, "per_image_mean", means.reshape(-1), _MAP)
    yield _near(case, "image_score_max", scores.reshape(-1), _MAP)
    yield _near(case, "sample_score_mean_of_max", pooled(scores, "mean"), _MAP)
    yield _near(case, "sample_score_max_of_max", scores.max(1), _MAP)
    yield _near(case, "sample_score_mean_of_mean", means.mean(1), _MAP)
    large = enlarge(maps.reshape(-1, *maps.shape[2:]), *map(int, case["map256.shape"][1:]))
    yield _near(case, "map256", large, _MAP)


def _training_step(case, config, graph, state, x, noise, foreground) -> Iterator[Difference]:
    """Gradients and one step of AdamW; in float64, so that only the released code's rounding is left."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda own: np.asarray(own, np.float64), (state, x, noise))
        state, x, noise = jax.tree.map(jnp.asarray, wide)
        optimiser = optax.adamw(2e-4, b1=0.9, b2=0.95, eps=1e-8, weight_decay=1e-5)

        def loss(state):
            z, log_det = _forward(nnx.merge(graph, state), x, noise)
            return flow_loss(jax.vmap(anomaly_map)(z, log_det, foreground))

        @jax.jit
        def step(state):
            gradients = jax.grad(loss)(state)
            updates, _ = optimiser.update(gradients, optimiser.init(state), state)
            after = optax.apply_updates(state, updates)
            return gradients, after, loss(after)

        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            gradients, after, loss_after = step(state)
        total = optax.tree.norm(gradients)
        gradients, after = (released_tensors(config, own) for own in (gradients, after))
    yield compare("grad_norm_total", total, case["grad_norm_total"], 1e-6 * float(case["grad_norm_total"]))
    yield compare("loss_after", loss_after, case["loss_after"], 1e-6)
    without = sum(not own.any() for own in gradients.values())
    yield compare("params_without_gradient", without, case["params_without_gradient"], 0)
    for name in (key.removeprefix("gradnorm/") for key in case if key.startswith("gradnorm/")):
        norm = float(case[f"gradnorm/{name}"])
        yield compare(f"gradnorm/{name}", np.linalg.norm(gradients[name]), norm, _NORM * norm)
        largest = np.abs(gradients[name]).max()
        yield sampled(case, f"grad/{name}", gradients[name], _GRADIENT * largest)
        yield sampled(case, f"after/{name}", after[name], _AFTER)


def _forward(flow: MultiFlow, x, noise):
    """z [B,V,H,W,C] and log-determinants [B,V,H,W]."""

    def one(x, noise):
        return flow.forward(x if noise is None else x + noise[None], None, _condition(noise))

    return jax.vmap(one)(x, noise)


def _condition(noise):
    return None if noise is None else CONDITION_SCALE * noise


# ---- what a case holds, and what its name draws


class _FlowShape(NamedTuple):
    """What a case says of its flow; the recipe's names tell the graph."""

    width: int
    hidden: int
    kernels: tuple[int, ...]
    condition: bool


def _with_weights(case, recipe: Path, shape: _FlowShape, run, first, name: str):
    """What `run(state, graph)` gives with the weights that the case was made with, and their flow.

    Of the tag that the case tells, else of the first one with which `first` of the results is about `name`.
    """
    compiled = jax.jit(run, static_argnums=1)
    tags = (str(case["tag"]),) if "tag" in case else _TAGS
    kept = None
    for tag in tags:
        named = {
            key if key.startswith("net.") else f"net.module_list.0.{key}": own
            for key, own in weights(recipe, tag).items()
        }
        config = FlowConfig(
            shape.width, released_graph(named), shape.hidden, shape.kernels, condition=shape.condition
        )
        graph, state = nnx.split(load_released(config, _renumbered(config, named), str(recipe)))
        found = compiled(state, graph), config, graph, state
        kept = found if kept is None else kept
        if sampled(case, name, first(found[0]), 1e-2).ratio <= 1:
            return found
    return kept


def _renumbered(config: FlowConfig, named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with our numbers of nodes; those of a case of another rig may be others."""
    nodes = sorted({int(key.split(".")[2]) for key in named})
    first = config.graph.views + int(config.condition) + 1
    parts = {key: key.split(".", 3) for key in named}
    return {
        f"{a}.{b}.{first + 2 * nodes.index(int(node))}.{rest}": named[key]
        for key, (a, b, node, rest) in parts.items()
    }


def _near(case: Mapping[str, np.ndarray], name: str, found, allowed: float) -> Difference:
    """`sampled`, with a tolerance that is a share of the array's largest value."""
    low, high = case[f"{name}.stat"][2:] if f"{name}.stat" in case else (case[name].min(), case[name].max())
    return sampled(case, name, found, allowed * max(1.0, -float(low), float(high)))


def _inputs(path: Path, case: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[jax.Array, int]:
    if "x0" in case:
        return _by_sample(case, "x")
    views = sum(f"x{view}.pos" in case for view in range(100))
    names = [f"x{view}" for view in range(views)]
    drawn = {name: draw(_tag(path), name, shape).astype(np.float32) * np.float32(0.8) for name in names}
    for name, own in drawn.items():
        if sampled(case, name, own, 1e-6).ratio > 1:
            raise ValueError(f"{path}: the inputs are not the ones that {_tag(path)} draws")
    return _by_sample(drawn, "x")


def _noise(path: Path, case: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    stored = case.get("noise_standard_normal")
    return np.asarray(draw(_tag(path), "noise", shape) if stored is None else stored, np.float32)


def _tag(path: Path) -> str:
    return path.stem.replace("flow_", "flow-", 1)


def _by_sample(case: Mapping[str, np.ndarray], letter: str) -> tuple[jax.Array, int]:
    """Maps of all views [B,V,H,W,C], and V."""
    views = sum(f"{letter}{view}" in case for view in range(100))
    return jnp.stack([_channels_last(case[f"{letter}{view}"]) for view in range(views)], 1), views


def _channels_last(array) -> jax.Array:
    return jnp.asarray(np.asarray(array, np.float32).transpose(0, 2, 3, 1))


def _channels_first(array) -> np.ndarray:
    return np.asarray(array).transpose(0, 3, 1, 2)


# ---- images, masks, counts


def _preprocessing(case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    for side in _sides(case, r"image_(\d+)_uint8"):
        image = np.asarray(Image.fromarray(case["image_in"]).resize((side, side), Image.Resampling.BILINEAR))
        stored = case[f"image_{side}_uint8"]
        every = -(-side // len(stored))  # of a large image only some pixels are stored
        yield compare(f"image_{side}", image[::every, ::every], stored, 0)
        yield sampled(case, f"image_{side}_normalised", normalised(image[None])[0].transpose(2, 0, 1), 1e-6)
    for side in _sides(case, r"mask_mvad_(\d+)"):
        mask = Image.fromarray(np.where(case["mask_in"] > 0, 255, 0).astype(np.uint8))
        soft = np.asarray(mask.resize((side, side), Image.Resampling.BILINEAR))
        yield compare(f"mask_mvad_{side}", soft / 255 > 0.5, case[f"mask_mvad_{side}"] > 0, 0)
        near = np.asarray(Image.fromarray(case["mask_in"]).resize((side, side), Image.Resampling.NEAREST))
        yield compare(f"mask_flow_{side}", near == 255, case[f"mask_flow_{side}"] > 0, 0)
    for side in _sides(case, r"foreground_binary_(\d+)"):
        grown = filled_and_grown(_bits(case[f"foreground_binary_{side}"], side))
        yield compare(f"filled {side}", grown, _bits(case[f"foreground_filled_dilated_{side}"], side), 0)
        stored = resize_nearest(grown, case[f"foreground_256_from_{side}"].shape)
        yield compare(f"256 from {side}", stored, case[f"foreground_256_from_{side}"], 0)
        released, nearest = case[f"foreground_24_from_{side}"], case[f"foreground_24_true_nearest_{side}"]
        yield compare(f"24 from {side}", resize_fixed_point(stored, released.shape), released, 0)
        yield compare(f"nearest {side}", resize_nearest(stored, nearest.shape), nearest, 0)
    small = case["mask24_noise"]
    noise = resize_fixed_point(_bits(case["mask256_noise"], 256), small.shape)
    yield compare("noise", noise, small, 0)


def _sides(case: Mapping[str, np.ndarray], pattern: str) -> list[int]:
    """The sizes for which a case has arrays of a name."""
    return sorted(int(found[1]) for name in case if (found := re.fullmatch(pattern, name)))


def _bits(packed: np.ndarray, side: int) -> np.ndarray:
    return np.unpackbits(packed)[: side * side].reshape(side, side).astype(bool)


def _parameter_counts(expected: Mapping[str, int]) -> Iterator[Difference]:
    config = FlowConfig(304, top_ring(5))
    counts = {key: int(np.prod(own.shape)) for key, own in key_table(config).items()}
    own = nnx.eval_shape(lambda: nnx.state(MultiFlow(config, nnx.Rngs(0))))
    yield compare("our leaves", sum(leaf.size for leaf in jax.tree.leaves(own)), expected["total"], 0)
    for name, number in expected.items():
        if name.startswith("node"):
            prefix = f"net.module_list.{name.removeprefix('node')}."
            found = sum(size for key, size in counts.items() if key.startswith(prefix))
            yield compare(name, found, number, 0)
    yield compare("total", sum(counts.values()), expected["total"], 0)
    without = key_table(FlowConfig(304, top_ring(5), condition=False))
    found = sum(int(np.prod(own.shape)) for own in without.values())
    yield compare("total without condition", found, expected["total_without_noise_condition"], 0)
