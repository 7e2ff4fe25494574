"""Multi-Flow: couplings, whole flows, gradients, one step of AdamW, foreground masks, parameter counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles.check import Difference, compare, sampled
from oracles.recipes import draw, normalised, weights
from PIL import Image

from mvead_jax.data.foreground import filled_and_grown, resize_fixed_point, resize_nearest
from mvead_jax.evaluation.enlarging import enlarge
from mvead_jax.methods.multiflow.coupling import permutations, permuted
from mvead_jax.methods.multiflow.flow import FlowConfig, MultiFlow
from mvead_jax.methods.multiflow.graph import top_ring
from mvead_jax.methods.multiflow.noise import CONDITION_SCALE, DEVIATION
from mvead_jax.methods.multiflow.objective import anomaly_map, flow_loss, image_scores, sample_score
from mvead_jax.methods.multiflow.params import key_table, load_released, released_tensors

CASES = (
    *("flow_block_*.npz", "flow_tiny_*.npz", "flow_full_*.npz"),
    *("misc_preprocess.npz", "params_flow.json"),
)
# Float32 noise of the released code against its float64 run (precision.json), times about four, because our
# sums run in another order. A log-determinant sums over 304 channels.
_Z, _LOG_DET, _MAP, _INVERSE = 1e-5, 2.5e-5, 4e-6, 1e-5
_LARGE_MAP = 2e-5  # of the training case, whose z goes up to 16
_GRADIENT = 2e-6  # of the tensor's norm over the root of its size, or of the value
_AFTER = 3e-7


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        return _parameter_counts(json.loads(path.read_text()))
    with np.load(path) as file:
        case = dict(file)
    if path.stem == "misc_preprocess":
        return _preprocessing(case)
    return _block(path, case) if path.stem.startswith("flow_block") else _flow(path, case)


# ---- one coupling


def _block(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    width, _, _, hidden, kernel, condition, seed = map(int, case["config"][1:])
    x, views = _by_sample(case, "x")
    config = FlowConfig(width, top_ring(views), hidden, (kernel,), condition=bool(condition))
    recipe = path.with_name(f"recipe_{path.stem}.json")
    node = views + condition + 1
    named = {f"net.module_list.{node}.{key}": own for key, own in weights(recipe, "flow-A").items()}
    flow = load_released(config, named, str(recipe))
    coupling, orders = flow.couplings[0], permutations(seed, views, width)
    given = _channels_last(case["cond"]) if condition else None

    @jax.jit
    @jax.vmap
    def found(x, given):
        moved = [permuted(own, order) for own, order in zip(x, orders, strict=True)]
        y, log_det = coupling.forward(moved, given)
        back = coupling.inverse(y, given)
        half = width // 2
        extra = [] if given is None else [given]
        of_s2 = coupling.s2([jnp.concatenate([own[..., half:], *extra], -1) for own in moved])
        of_s1 = coupling.s1([jnp.concatenate([own[..., :half], *extra], -1) for own in y])
        return y, log_det, of_s2, of_s1, [jnp.abs(a - b).max() for a, b in zip(moved, back, strict=True)]

    y, log_det, of_s2, of_s1, errors = found(x, given)
    for view in range(views):
        yield compare(f"perm{view}", orders[view], case[f"perm{view}"], 0)
        yield compare(f"s2_out{view}", _channels_first(of_s2[view]), case[f"s2_out{view}"], 4e-6)
        yield compare(f"s1_out{view}", _channels_first(of_s1[view]), case[f"s1_out{view}"], 4e-6)
        yield compare(f"y{view}", _channels_first(y[view]), case[f"y{view}"], 4e-6)
        yield compare(f"logdet{view}", log_det[view], case[f"logdet{view}"], 4e-6)
        yield compare(f"inverse {view}", errors[view].max(), 0, _INVERSE)


# ---- the whole flow


def _flow(path: Path, case: Mapping[str, np.ndarray]) -> Iterator[Difference]:
    batch, width, side, hidden, _, condition, training = map(int, case["config"])
    x, views = _inputs(path, case, (batch, width, side, side))
    config = FlowConfig(
        width, top_ring(views), hidden, tuple(case["kernels"].tolist()), condition=bool(condition)
    )
    recipe = path.with_name(f"recipe_flow_C{width}_H{side}_h{hidden}_n{condition}.json")
    flow = load_released(config, weights(recipe, "flow-A"), str(recipe))
    noise = None
    if condition:
        noise = _channels_last(_noise(path, case, (batch, 1, side, side)) * (DEVIATION if training else 0.0))
    foreground = case["mask"].reshape(batch, views, side, side) > 0
    yield from _permutations(case, len(config.kernels), views, width, condition)
    graph, state = nnx.split(flow)

    @jax.jit
    def forward(state, x, noise):
        z, log_det = _forward(nnx.merge(graph, state), x, noise)
        return z, log_det, jax.vmap(anomaly_map)(z, log_det), jax.vmap(anomaly_map)(z, log_det, foreground)

    z, log_det, plain, maps = forward(state, x, noise)
    for view in range(views):
        yield sampled(case, f"z{view}", _channels_first(z[:, view]), _Z)
    rows = np.asarray(log_det).transpose(1, 0, 2, 3).reshape(-1, side, side)
    yield compare("logdet_viewmajor", rows, case["logdet_viewmajor"], _LOG_DET)
    yield from _results(case, np.asarray(plain), np.asarray(maps))
    if side <= 8:
        back = jax.jit(jax.vmap(lambda z, noise: flow.inverse(z, None, _condition(noise))))(z, noise)
        clean = back if noise is None else back - noise[:, None]
        yield compare("inverse", clean, x, _INVERSE)
    if any(name.startswith("grad/") for name in case):
        yield from _training_step(case, config, graph, state, x, noise, foreground)


def _permutations(case, blocks: int, views: int, width: int, condition: int) -> Iterator[Difference]:
    for number in range(blocks):
        node = views + condition + 2 * number
        yield compare(f"perm_node{node}", permutations(number, views, width), case[f"perm_node{node}"], 0)


def _results(case: Mapping[str, np.ndarray], plain: np.ndarray, maps: np.ndarray) -> Iterator[Difference]:
    """Maps, loss and scores of maps [B,V,H,W] without and with the foreground."""
    scores = np.asarray(jax.vmap(image_scores)(maps))
    allowed = _MAP if scores.max() < 5 else _LARGE_MAP
    yield compare("nll", maps.reshape(-1, *maps.shape[2:]), case["nll"], allowed)
    yield compare("nll_nomask", plain.reshape(-1, *maps.shape[2:]), case["nll_nomask"], allowed)
    yield compare("loss", flow_loss(maps), case["loss"], 1e-6)
    yield compare("loss_nomask", flow_loss(plain), case["loss_nomask"], 1e-6)
    yield compare("per_image_mean", maps.mean((2, 3)).reshape(-1), case["per_image_mean"], 2e-6)
    yield compare("image_score_max", scores.reshape(-1), case["image_score_max"], allowed)
    of_sample = jax.vmap(sample_score)(scores)
    yield compare("sample_score_mean_of_max", of_sample, case["sample_score_mean_of_max"], allowed)
    yield compare("sample_score_max_of_max", scores.max(1), case["sample_score_max_of_max"], allowed)
    means = maps.mean((2, 3)).mean(1)
    yield compare("sample_score_mean_of_mean", means, case["sample_score_mean_of_mean"], 2e-6)
    large = enlarge(maps.reshape(-1, *maps.shape[2:]), *map(int, case["map256.shape"][1:]))
    yield sampled(case, "map256", large, allowed)


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
        total = optax.global_norm(gradients)
        gradients, after = (released_tensors(config, own) for own in (gradients, after))
    yield compare("grad_norm_total", total, case["grad_norm_total"], 1e-6 * float(case["grad_norm_total"]))
    yield compare("loss_after", loss_after, case["loss_after"], 1e-6)
    without = sum(not own.any() for own in gradients.values())
    yield compare("params_without_gradient", without, case["params_without_gradient"], 0)
    for name in (key.removeprefix("gradnorm/") for key in case if key.startswith("gradnorm/")):
        norm = float(case[f"gradnorm/{name}"])
        yield compare(f"gradnorm/{name}", np.linalg.norm(gradients[name]), norm, _GRADIENT * norm)
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
    for side in (64, 256):
        image = Image.fromarray(case["image_in"]).resize((side, side), Image.Resampling.BILINEAR)
        every = 1 if side == 64 else 5
        yield compare(f"image_{side}", np.asarray(image)[::every, ::every], case[f"image_{side}_uint8"], 0)
        chw = normalised(np.asarray(image)[None])[0].transpose(2, 0, 1)
        yield sampled(case, f"image_{side}_normalised", chw, 1e-6)
        mask = Image.fromarray(np.where(case["mask_in"] > 0, 255, 0).astype(np.uint8))
        soft = np.asarray(mask.resize((side, side), Image.Resampling.BILINEAR))
        yield compare(f"mask_mvad_{side}", soft / 255 > 0.5, case[f"mask_mvad_{side}"] > 0, 0)
        near = np.asarray(Image.fromarray(case["mask_in"]).resize((side, side), Image.Resampling.NEAREST))
        yield compare(f"mask_flow_{side}", near == 255, case[f"mask_flow_{side}"] > 0, 0)
    for side in (256, 1024):
        grown = filled_and_grown(_bits(case[f"foreground_binary_{side}"], side))
        yield compare(f"filled {side}", grown, _bits(case[f"foreground_filled_dilated_{side}"], side), 0)
        stored = resize_nearest(grown, (256, 256))
        yield compare(f"256 from {side}", stored, case[f"foreground_256_from_{side}"], 0)
        small, true_nearest = resize_fixed_point(stored, (24, 24)), resize_nearest(stored, (24, 24))
        yield compare(f"24 from {side}", small, case[f"foreground_24_from_{side}"], 0)
        yield compare(f"nearest {side}", true_nearest, case[f"foreground_24_true_nearest_{side}"], 0)
    noise = resize_fixed_point(_bits(case["mask256_noise"], 256), (24, 24))
    yield compare("noise", noise, case["mask24_noise"], 0)


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
