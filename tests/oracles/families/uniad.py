"""Golden numbers of UniAD's released code: its transformer, jitter, map and scores, one step, parameter counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles import given, recipes
from oracles.check import Difference, compare
from oracles.families.backbones import uniad_features

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.methods.uniad import objective
from mvead_jax.methods.uniad.config import UniadTrainConfig
from mvead_jax.methods.uniad.modeling import Network, NetworkConfig
from mvead_jax.methods.uniad.params import from_released, key_table

# Not uniad_backbone_*, which families/backbones.py has.
CASES = ("uniad_[!b]*.npz", "params_uniad.json")


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        return _counts(json.loads(path.read_text()), path)
    case = dict(np.load(path))
    return _step(path, case) if "step64/names" in case else _pass(path, case)


def _config(recipe: Path) -> NetworkConfig:
    """Return the network of a recipe, whose note has its settings."""
    inputs, height, width, *sizes, neighbours, position = given.settings_of(recipe)[:10]
    return NetworkConfig(inputs, (height, width), *sizes, tuple(neighbours), position)


def _features(path: Path, case: dict, shape: tuple[int, ...]) -> np.ndarray:
    """The joined features [B,C,h,w]: given, or of the golden backbone's images."""
    name = path.stem.removeprefix("uniad_")
    if "e2e" not in name:
        return given.features(name, "feature_align", shape, scale=0.7, shift=0.1, relu=False)
    size = 16 * shape[2]
    maps = uniad_features(path, case, f"backbone_s{size}", shape[0], size)
    found = jax.vmap(lambda *own: objective.joined(own))(*(given.last(x) for x in maps))
    return given.first(found)


def _noise(path: Path, features: np.ndarray) -> np.ndarray:
    """The case's jitter, [B,N,C]."""
    images, channels, height, width = features.shape
    name = path.stem.removeprefix("uniad_")
    found = recipes.draw(name, "jitter", (height * width, images, channels)).astype(np.float32)
    return found.swapaxes(0, 1)


def _tokens(features: np.ndarray) -> jax.Array:
    """[B,C,h,w] as [B,N,C]."""
    return given.last(features).reshape(len(features), -1, features.shape[1])


@partial(jax.jit, static_argnums=0)
def _results(graph: nnx.GraphDef, state: nnx.State, tokens: jax.Array) -> dict[str, jax.Array]:
    return jax.vmap(nnx.merge(graph, state).named)(tokens)


def _pass(path: Path, case: dict) -> Iterator[Difference]:
    recipe = given.recipe_of(path, case, "uniad")
    *_, stride, images, train = (int(x) for x in case["config"])
    if "feature_align.shape" in case:  # a case of images says the number of another one in its config
        images = int(case["feature_align.shape"][0])
    config = _config(recipe)
    inputs, *grid = (int(x) for x in case["config"][:3])
    sizes = (inputs, *grid, *case["config"][3:10].tolist())
    assert sizes == (config.inputs, *config.grid, config.width, config.heads, config.encoder_layers,
                     config.decoder_layers, config.feedforward, *config.neighbours), (sizes, config)  # fmt: skip
    features = _features(path, case, (images, inputs, *grid))
    clean = tokens = _tokens(features)
    if train:
        tokens = jax.vmap(objective.jittered)(clean, jnp.asarray(_noise(path, features)))

    def run(weights: dict) -> dict:
        network = from_released(Arrays("recipe", weights), config)
        found = dict(_results(*nnx.split(network), tokens))
        loss = objective.batch_loss(found["reconstruction"], clean, jnp.ones(images, bool))
        return found | {"loss": loss, "pos_embed": network.position(), "mask": network.mask()}

    found = given.fitting(case, recipe, "uniad", run, "loss")
    yield given.near(case, "feature_align", features, 3e-6)
    yield given.near(case, "pos_embed", found["pos_embed"], 1e-6)
    blocked = np.unpackbits(case["mask_blocked_packbits"])[: found["mask"].size].reshape(case["mask_shape"])
    yield compare("mask", ~found["mask"], blocked, 0)
    if "tokens_jittered" in case or "tokens_jittered.val" in case:
        yield given.near(case, "tokens_jittered", jnp.swapaxes(tokens, 0, 1), 1e-6)
    for name, own in found.items():
        if name.startswith(("encoder", "decoder")):
            yield given.near(case, name, jnp.swapaxes(own, 0, 1), 5e-6)
    yield given.near(case, "loss", found["loss"], 1e-6)
    rebuilt = found["reconstruction"].reshape(images, *grid, inputs)
    yield given.near(case, "feature_rec", given.first(rebuilt), 5e-6)
    lengths = objective.difference(found["reconstruction"], clean).reshape(images, *grid)
    maps = jax.vmap(lambda own: objective.anomaly_map(own, (stride * grid[0], stride * grid[1])))(lengths)
    for name, own in (("pred_before_upsampling", lengths), ("pred", maps)):
        shape = tuple(case[f"{name}.shape"]) if f"{name}.shape" in case else case[name].shape
        yield given.near(case, name, np.asarray(own).reshape(shape), 3e-6)
    if (name := "image_score_max_of_mean16") in case:
        yield given.near(case, name, objective.image_scores(maps).reshape(case[name].shape), 3e-6)
    if (name := "image_score_std") in case:
        deviation = np.asarray(maps, np.float64).std((1, 2))
        yield given.near(case, name, deviation.reshape(case[name].shape), 3e-6)


def _step(path: Path, case: dict) -> Iterator[Difference]:
    """One step of AdamW in float64, without dropout."""
    recipe = given.recipe_of(path, case, "uniad")
    config = _config(recipe)
    features = _features(path, case, tuple(int(x) for x in case["config"]))

    def run(weights: dict) -> dict:
        network = from_released(Arrays("recipe", weights), config)
        with jax.enable_x64(True):
            clean = _tokens(features).astype(np.float64)
            noise = jnp.asarray(_noise(path, features), np.float64)
            return _stepped(network, clean, noise)

    case["loss"] = case["step64/loss_before"]
    found = given.fitting(case, recipe, "uniad", run, "loss")
    for name in ("loss_before", "loss_after_train", "loss_after_eval"):
        yield given.near(case, f"step64/{name}", found[name], 1e-7)
    yield from given.compared_step(case, key_table(config), found["gradient"], found["after"], 1e-7)


def _stepped(network: Network, clean: jax.Array, noise: jax.Array) -> dict:
    graph, parameters, rest = given.wide(network)
    counted = jnp.ones(len(clean), bool)

    @partial(jax.jit, static_argnums=1)
    def loss(parameters, train):
        network = nnx.merge(graph, parameters, rest)
        tokens = jax.vmap(objective.jittered)(clean, noise) if train else clean
        return objective.batch_loss(jax.vmap(network)(tokens), clean, counted)

    before, gradient = jax.value_and_grad(loss)(parameters, True)
    rule = objective.optimiser(UniadTrainConfig(), 1000)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = rule.update(gradient, rule.init(parameters), parameters)
        after = optax.apply_updates(parameters, updates)
    return {
        "loss": before,
        "loss_before": before,
        "loss_after_train": loss(after, True),
        "loss_after_eval": loss(after, False),
        "gradient": gradient,
        "after": after,
    }


def _counts(facts: dict, path: Path) -> Iterator[Difference]:
    for name, expected in facts.items():
        table = key_table(_config(path.with_name(f"recipe_uniad_{name}.json")))
        found = sum(int(np.prod(source.shape)) for source in table.values())
        yield compare(name, found, expected, 0)
