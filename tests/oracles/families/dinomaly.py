"""Golden numbers of Dinomaly's released code: forward passes, loss and its gradient, optimiser, steps, rates.

Sizes are read from a case's own `config`; the recipe is the one beside the case whose note has the same shape. The
encoder is the project's DINOv2 with the released code's rule for position embeddings (`positions`), which is not the
backbone's own. Steps run in float64 behind an encoder written in NumPy (`encoder_float64`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles import recipes
from oracles.check import Difference, compare, sampled
from scipy.special import erf

from mvead_jax.backbones.checkpoint import Arrays, Source, fill, linear, same
from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.backbones.dinov2.modeling import DinoV2
from mvead_jax.backbones.dinov2.tables import hub_table
from mvead_jax.methods.dinomaly import maps, objective
from mvead_jax.methods.dinomaly.modeling import DinomalyNetwork, NetworkConfig, grouped
from mvead_jax.methods.dinomaly.optimizer import schedule, stable_adamw
from mvead_jax.training.optimisers import clip_norm

CASES = ("dinomaly_*.npz", "lr_dinomaly*.json", "params_dinomaly*.json")
_CLIP, _DECAY, _FACTOR = 0.1, 1e-4, 0.1


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        facts = json.loads(path.read_text())
        return _rates(facts) if path.name.startswith("lr") else _parameters(path, facts)
    case = dict(np.load(path))
    if any(key.startswith("grad_de0") for key in case):
        return _loss(case)
    if "step64/names" in case:
        return _steps(path, case)
    return _forward(path, case) if "loss_global_cosine" in case else _optimiser(case)


class Recipe(NamedTuple):
    """What a recipe's note says of the shape, from the outside in."""

    path: Path
    width: int
    depth: int
    heads: int
    patch: int
    trained: int
    registers: int
    targets: list[int]
    blocks: int
    groups: list[list[int]]

    @classmethod
    def read(cls, path: Path) -> Recipe:
        return cls(path, *ast.literal_eval(json.loads(path.read_text())["note"].rpartition("= ")[2]))

    def encoder(self, size: int) -> DinoV2Config:
        return DinoV2Config(
            hidden_size=self.width,
            num_hidden_layers=self.depth,
            num_attention_heads=self.heads,
            patch_size=self.patch,
            image_size=size,
            with_registers=self.registers > 0,
            num_register_tokens=self.registers,
        )

    def network(self, weights: Mapping[str, np.ndarray]) -> DinomalyNetwork:
        shape = NetworkConfig(self.width, self.heads, self.blocks, 0.0)
        own = {name: x for name, x in weights.items() if not name.startswith("encoder.")}
        # The counter of steps is in no checkpoint.
        own["step"] = np.zeros((), np.float32)
        table = key_table(self) | {"step": Source("step", (), same)}
        arrays = Arrays(self.path.name, own)
        return fill(lambda: DinomalyNetwork(shape, nnx.Rngs(0)), table, arrays, what="a Dinomaly decoder")


def key_table(recipe: Recipe) -> dict[str, Source]:
    """Every key of the released bottleneck and decoder."""
    width, table = recipe.width, {}

    def add(theirs: str, ours: str, inputs: int, outputs: int) -> None:
        table[f"{theirs}.weight"] = Source(f"{ours}.kernel", (outputs, inputs), linear)
        table[f"{theirs}.bias"] = Source(f"{ours}.bias", (outputs,), same)

    def add_mlp(theirs: str, ours: str) -> None:
        add(f"{theirs}.fc1", f"{ours}.fc1", width, 4 * width)
        add(f"{theirs}.fc2", f"{ours}.fc2", 4 * width, width)

    add_mlp("bottleneck.0", "bottleneck")
    for number in range(recipe.blocks):
        own = f"decoder.{number}"
        for norm in ("norm1", "norm2"):
            table[f"{own}.{norm}.weight"] = Source(f"{own}.{norm}.scale", (width,), same)
            table[f"{own}.{norm}.bias"] = Source(f"{own}.{norm}.bias", (width,), same)
        add(f"{own}.attn.qkv", f"{own}.attn.qkv", width, 3 * width)
        add(f"{own}.attn.proj", f"{own}.attn.proj", width, width)
        add_mlp(f"{own}.mlp", f"{own}.mlp")
    return table


def recipe_of(path: Path, fits: Any) -> Recipe:
    """The recipe beside a case that fits it; of several the one whose name the case's begins with."""
    found = [own for own in map(Recipe.read, sorted(path.parent.glob("recipe_dinomaly_*.json"))) if fits(own)]
    name = path.stem.removeprefix("dinomaly_")
    found.sort(
        key=lambda own: name.startswith(own.path.stem.removeprefix("recipe_dinomaly_") + "_"), reverse=True
    )
    if not found:
        raise FileNotFoundError(f"{path}: no recipe_dinomaly_*.json beside it has its shape")
    return found[0]


def _near(case: Mapping[str, np.ndarray], name: str, found: Any, relative: float) -> Difference:
    largest = np.abs(case[f"{name}.val"] if f"{name}.val" in case else case[name]).max()
    return sampled(case, name, found, relative * float(largest))


# ---- forward passes


def positions(embedding: np.ndarray, grid: int) -> np.ndarray:
    """The released code's bicubic resize of [1,1+n²,D] to a grid: its scale is (grid + 0.1) / n, not grid / n."""
    side = round((embedding.shape[1] - 1) ** 0.5)
    if side == grid:
        return embedding
    place = (np.arange(grid) + 0.5) * side / (grid + 0.1) - 0.5
    low, a = np.floor(place).astype(int), -0.75
    weights = np.zeros((grid, side))
    for offset in range(-1, 3):
        distance = np.abs(place - (low + offset))
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        at = np.clip(low + offset, 0, side - 1)
        np.add.at(weights, (np.arange(grid), at), np.where(distance <= 1, near, far))
    cells = embedding[0, 1:].reshape(side, side, -1)
    cells = np.einsum("ri,cj,ijd->rcd", weights, weights, cells, optimize=True)
    found = np.concatenate([embedding[:, :1], cells.reshape(1, grid * grid, -1)], axis=1)
    return found.astype(embedding.dtype)


def encoder_of(recipe: Recipe, weights: Mapping[str, np.ndarray], size: int) -> DinoV2:
    own = {name.removeprefix("encoder."): x for name, x in weights.items() if name.startswith("encoder.")}
    own["pos_embed"] = positions(own["pos_embed"], size // recipe.patch)
    shape = recipe.encoder(size)
    return fill(
        lambda: DinoV2(shape, 1 + max(recipe.targets), rngs=nnx.Rngs(0)),
        hub_table(shape),
        Arrays(recipe.path.name, own),
        left_out=("mask_token",),
        what="a DINOv2",
    )


def _images(path: Path, case: Mapping[str, np.ndarray], count: int, size: int) -> np.ndarray:
    tag = f"dino-{path.stem.removeprefix('dinomaly_')}"
    levels = case["image_uint8"] if "image_uint8" in case else recipes.smooth_images(tag, count, size, 9, 33)
    return recipes.normalised(levels)


def _forward(path: Path, case: dict[str, np.ndarray]) -> Iterator[Difference]:
    count, size, resize, *shape = case["config"].tolist()
    recipe = recipe_of(path, lambda own: [*own[1:7], own.blocks] == shape)
    weights = recipes.weights(recipe.path, str(case.get("tag", "dino-A")))
    images, prefix = _images(path, case, count, size), 1 + recipe.registers
    graph, state = nnx.split(encoder_of(recipe, weights, size))
    tokens = jax.jit(lambda state, x: nnx.merge(graph, state).tokens(x))(state, images)
    yield _near(case, "tokens0", tokens["embeddings"], 3e-6)
    for number in range(1 + max(recipe.targets)):
        if f"encoder_block{number}" in case or f"encoder_block{number}.pos" in case:
            yield _near(case, f"encoder_block{number}", tokens[f"block{number + 1}"], 5e-6)
    encoded = [tokens[f"block{number + 1}"] for number in recipe.targets]
    network = recipe.network(weights)
    graph, state = nnx.split(network)
    bottleneck = jax.jit(lambda state, x: nnx.merge(graph, state).bottleneck(x))
    mean = sum(encoded) / len(encoded)
    yield _near(case, "bottleneck_in", mean, 5e-6)
    yield _near(case, "bottleneck_out", bottleneck(state, mean), 5e-6)
    decoded = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, encoded)
    for number, found in enumerate(decoded[::-1]):
        yield _near(case, f"decoder_block{number}", found, 5e-6)
    side, groups = size // recipe.patch, len(recipe.groups)
    parts = [
        [x[:, prefix:].reshape(count, side, side, -1) for x in grouped(outputs, groups)]
        for outputs in (encoded, decoded)
    ]
    for number in range(groups):
        for name, own in zip(("en", "de"), parts, strict=True):
            yield _near(case, f"{name}{number}", own[number].transpose(0, 3, 1, 2), 5e-6)
    flat = ([x.reshape(count, side * side, -1) for x in own] for own in parts)
    loss = objective.loose_loss(*flat, jnp.ones(count, bool), jnp.int32(1), 1.0)
    yield compare("loss_global_cosine", loss, case["loss_global_cosine"], 2e-6)
    yield from _maps(case, parts, size, resize)


def _maps(case: dict, parts: Sequence[Sequence[jax.Array]], size: int, resize: int) -> Iterator[Difference]:
    found = jax.vmap(lambda e, d: maps.anomaly_map(e, d, size))(*parts)
    for name in ("map_at_input_size", "map_at_input_size_s"):
        if name in case or f"{name}.pos" in case:
            yield sampled(case, name, found[:, None], 3e-6)
    if resize:
        found = jax.vmap(lambda own: maps.resized(own, resize))(found)
    found = jax.vmap(maps.smoothed)(found)
    for name in ("map_smooth", "map_smooth_s"):
        if name in case or f"{name}.pos" in case:
            yield sampled(case, name, found[:, None], 3e-6)
    scores = jax.vmap(lambda own: maps.image_score(own, 0.01))(found)
    yield compare("image_score_top1pct", scores, case["image_score_top1pct"], 3e-6)
    yield compare("image_score_max", found.max((1, 2)), case["image_score_max"], 3e-6)


# ---- loss and optimiser


def _loss(case: dict[str, np.ndarray]) -> Iterator[Difference]:
    count = len(case["en0"])
    groups = sum(bool(re.fullmatch(r"en\d+", key)) for key in case)
    encoded, decoded = (
        [
            jnp.asarray(case[f"{name}{g}"].transpose(0, 2, 3, 1).reshape(count, -1, case["en0"].shape[1]))
            for g in range(groups)
        ]
        for name in ("en", "de")
    )
    counted, places = jnp.ones(count, bool), count * encoded[0].shape[1]
    for key in [key for key in case if key.startswith("loss_p")]:
        tag = key.removeprefix("loss_p")
        hard = objective.hard_positions(1, places, float(tag), 1)

        def loss(decoded: list[jax.Array], hard: int = hard) -> jax.Array:
            return objective.loose_loss(encoded, decoded, counted, jnp.int32(hard), float(case["factor"]))

        value, gradient = jax.jit(jax.value_and_grad(loss))(decoded)
        yield compare(key, value, case[key], 1e-6)
        for g in range(groups):
            distances = objective.cosine_distance(encoded[g], decoded[g])
            threshold = objective.hard_threshold(distances, counted, jnp.int32(hard))
            yield compare(f"k_{g}_p{tag}", hard, case[f"k_{g}_p{tag}"], 0)
            yield compare(f"threshold_{g}_p{tag}", threshold, case[f"threshold_{g}_p{tag}"], 1e-6)
            yield compare(f"kept_{g}_p{tag}", (distances >= threshold).sum(), case[f"kept_{g}_p{tag}"], 0)
            expected = case[f"grad_de{g}_p{tag}"]
            found = np.asarray(gradient[g]).reshape(count, *expected.shape[2:], -1).transpose(0, 3, 1, 2)
            yield compare(f"grad_de{g}_p{tag}", found, expected, 3e-6 * float(np.abs(expected).max()))


def _optimiser(case: dict[str, np.ndarray]) -> Iterator[Difference]:
    names = sorted(match[1] for key in case if (match := re.fullmatch(r"param_(\w+)_start", key)))
    steps = 1 + max(int(match[1]) for key in case if (match := re.fullmatch(r"grad_\w+_(\d+)", key)))
    rule = stable_adamw(float(case["lr"]), _DECAY)
    for prefix, dtype, allowed in (("", np.float32, 1e-6), ("f64/", np.float64, 3e-7)):
        with jax.enable_x64(dtype == np.float64):
            own = {name: jnp.asarray(case[f"param_{name}_start"], dtype) for name in names}
            state, update = rule.init(own), jax.jit(rule.update)
            for step in range(steps):
                gradient = {name: jnp.asarray(case[f"grad_{name}_{step}"], dtype) for name in names}
                changes, state = update(gradient, state, own)
                own = optax.apply_updates(own, changes)
                for name in names:
                    key = f"{prefix}param_{name}_after{step + 1}"
                    yield compare(key, own[name], case[key], allowed)


# ---- steps in float64


def encoder_float64(
    recipe: Recipe, weights: Mapping[str, np.ndarray], images: np.ndarray
) -> list[np.ndarray]:
    """Tokens [B,T,D] after each target block, by NumPy in float64."""
    own = {name.removeprefix("encoder."): x.astype(np.float64) for name, x in weights.items()}
    count, side, patch = len(images), images.shape[1] // recipe.patch, recipe.patch
    pixels = images.astype(np.float64).reshape(count, side, patch, side, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    kernel = own["patch_embed.proj.weight"].reshape(recipe.width, -1)
    x = pixels.reshape(count, side * side, -1) @ kernel.T + own["patch_embed.proj.bias"]
    x = np.concatenate([np.repeat(own["cls_token"], count, 0), x], 1) + positions(own["pos_embed"], side)
    if recipe.registers:
        x = np.concatenate([x[:, :1], np.repeat(own["register_tokens"], count, 0), x[:, 1:]], 1)

    def norm(x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * own[f"{name}.weight"] + own[f"{name}.bias"]

    def project(x, name):
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    found = []
    for number in range(1 + max(recipe.targets)):
        block = f"blocks.{number}"
        qkv = project(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, recipe.heads, -1).transpose(2, 0, 3, 1, 4)
        logits = q @ k.transpose(0, 1, 3, 2) * q.shape[-1] ** -0.5
        share = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True)) @ v
        mixed = project(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{block}.attn.proj")
        x = x + own[f"{block}.ls1.gamma"] * mixed
        hidden = project(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        x = x + own[f"{block}.ls2.gamma"] * project(hidden, f"{block}.mlp.fc2")
        found.append(x)
    return [found[number] for number in recipe.targets]


def _steps(path: Path, case: dict[str, np.ndarray]) -> Iterator[Difference]:
    count, size, steps = case["config"].tolist()
    names = [str(name) for name in case["step64/names"]]
    recipe = recipe_of(path, lambda own: set(key_table(own)) == set(names))
    weights, table = recipes.weights(recipe.path, str(case.get("tag", "dino-A"))), key_table(recipe)
    encoded = encoder_float64(recipe, weights, _images(path, case, count, size))
    prefix, groups = 1 + recipe.registers, len(recipe.groups)
    hard = objective.hard_positions(1, count * (size // recipe.patch) ** 2, float(case["p"]), 1)
    graph, parameters, rest = nnx.split(recipe.network(weights), nnx.Param, ...)
    with jax.enable_x64(True):
        own = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), nnx.to_pure_dict(parameters))
        rule = optax.chain(clip_norm(_CLIP), stable_adamw(float(case.get("lr", 2e-3)), _DECAY))

        def loss(parameters: Any) -> jax.Array:
            decoded = nnx.merge(graph, parameters, rest)([jnp.asarray(x) for x in encoded])
            parts = ([x[:, prefix:] for x in grouped(own, groups)] for own in (encoded, decoded))
            return objective.loose_loss(*parts, jnp.ones(count, bool), jnp.int32(hard), _FACTOR)

        @jax.jit
        def step(parameters: Any, state: Any) -> tuple:
            value, gradient = jax.value_and_grad(loss)(parameters)
            changes, state = rule.update(gradient, state, parameters)
            return value, gradient, optax.apply_updates(parameters, changes), state

        def theirs(tree: Any, name: str) -> np.ndarray:
            for part in table[name].target.split("."):
                tree = tree[int(part) if part.isdigit() else part]
            return np.asarray(tree).T if np.ndim(tree) == 2 else np.asarray(tree)

        state, losses = rule.init(own), case["step64/losses_then_final"]
        for number in range(steps + 1):
            value, gradient, after, state = step(own, state)
            yield compare(f"loss {number}", value, losses[number], 1e-7)
            if number == steps:
                break
            for at, name in enumerate(names):
                place, found = case["step64/pos"][at], theirs(gradient, name)
                norm = case["step64/gradnorm"][number, at]
                # The second implementation of these cases was 8e-8 off after three steps.
                allowed = 1e-6 * norm + (1e-7 if number else 1e-12)
                yield compare(f"gradnorm {number} {name}", np.linalg.norm(found), norm, allowed)
                if number == 0:
                    expected = case["step64/grad"][at]
                    yield compare(f"grad {name}", found.reshape(-1)[place], expected, 1e-6 * norm + 1e-12)
                found = theirs(after, name).reshape(-1)[place]
                yield compare(f"after {number} {name}", found, case[f"step64/after{number + 1}"][at], 5e-7)
            own = after


# ---- rates and counts


def _rates(facts: dict[str, dict[str, float]]) -> Iterator[Difference]:
    for name, own in facts.items():
        steps, warmup = map(int, re.fullmatch(r"total(\d+)_warm(\d+)", name).groups())
        rate = schedule(2e-3, 2e-4, warmup, steps)
        for step, expected in own.items():
            found = rate(0 if step == "lr_set_at_first_step" else int(step))
            yield compare(f"{name} at {step}", found, expected, 2e-9)


def _parameters(path: Path, facts: dict[str, dict[str, int]]) -> Iterator[Difference]:
    for name, own in facts.items():
        recipe = Recipe.read(path.with_name(f"recipe_dinomaly_{name}.json"))
        shape = recipe.encoder(recipe.trained)
        table = hub_table(shape)
        sizes = {key: int(np.prod(source.shape)) for key, source in table.items()} | {
            "mask_token": recipe.width
        }
        used = sum(
            size
            for key, size in sizes.items()
            if (match := re.match(r"blocks\.(\d+)\.", key)) and int(match[1]) <= max(recipe.targets)
        )
        yield compare(f"{name} encoder", sum(sizes.values()), own["encoder"], 0)
        yield compare(f"{name} blocks used", used, own["encoder_used_blocks_0_to_last_target"], 0)
        network = nnx.eval_shape(
            lambda r=recipe: DinomalyNetwork(NetworkConfig(r.width, r.heads, r.blocks), nnx.Rngs(0))
        )
        for part in ("bottleneck", "decoder"):
            leaves = jax.tree.leaves(nnx.state(getattr(network, part), nnx.Param))
            yield compare(f"{name} {part}", sum(leaf.size for leaf in leaves), own[part], 0)
