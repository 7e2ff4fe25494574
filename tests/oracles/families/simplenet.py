"""Golden numbers of SimpleNet's released code: embedding, scores, one step of both optimisers, parameter counts."""

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
from scipy.ndimage import gaussian_filter

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.resnet import params as resnet
from mvead_jax.methods.resizing import enlarge
from mvead_jax.methods.simplenet.config import SimpleNetSection, SimpleNetTrainConfig
from mvead_jax.methods.simplenet.embedding import embed
from mvead_jax.methods.simplenet.modeling import Network
from mvead_jax.methods.simplenet.objective import losses, optimiser
from mvead_jax.methods.simplenet.params import from_released, key_table

CASES = ("simplenet_*.npz", "params_simplenet.json")


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        return _counts(json.loads(path.read_text()))
    case = dict(np.load(path))
    return _step(path, case) if "step64/names" in case else _scores(path, case)


def _maps(path: Path, case: dict) -> list[np.ndarray]:
    """The two maps [B,C,h,w]: given, or a ResNet's of images."""
    images, fine, coarse, _, _, _, *sides = (int(x) for x in case["config"])
    name = path.stem.removeprefix("simplenet_")
    if "e2e" not in name:
        shapes = (images, fine, *sides[:2]), (images, coarse, *sides[2:4])
        return [given.features(name, f"layer{k}", shape) for k, shape in zip((2, 3), shapes, strict=True)]
    size = 8 * sides[0]
    pictures = recipes.normalised(recipes.smooth_images(f"sn-e2e-{size}", images, size))
    backbone, tag = "wide_resnet50_2", str(case.get("backbone_tag", "bb-A"))
    weights = recipes.weights(path.with_name(f"recipe_bb_{backbone}.json"), tag)
    held = max(int(key[5]) for key in weights if key.startswith("layer"))
    graph, state = nnx.split(resnet.from_tensors(backbone, Arrays(backbone, weights), 3, held=held))
    taps = ("layer2", "layer3")
    maps = jax.jit(lambda state, x: nnx.merge(graph, state)(x, taps))(state, pictures)
    return [given.first(maps[tap]) for tap in taps]


@partial(jax.jit, static_argnums=(1, 2))
def _embedding(maps: list[jax.Array], first_width: int, width: int) -> jax.Array:
    found = jax.vmap(lambda fine, coarse: embed(fine, coarse, first_width, width))(*maps)
    return found.reshape(len(found), -1, width)


def _scores(path: Path, case: dict) -> Iterator[Difference]:
    *_, first_width, width, hidden, height, columns, _, _, map_height, map_width = (
        int(x) for x in case["config"]
    )
    maps = _maps(path, case)
    embedding = _embedding([given.last(x) for x in maps], first_width, width)

    def run(weights: dict) -> dict:
        network = from_released(Arrays("recipe", weights), width, hidden)
        found = network(embedding).reshape(-1, height, columns)
        return {"projected": network.adaptor(embedding), "patch_score": found}

    found = given.fitting(case, given.recipe_of(path, case, "simplenet"), "sn", run, "patch_score")
    for k, x in zip((2, 3), maps, strict=True):
        yield given.near(case, f"layer{k}", x, 3e-6)
    yield given.near(case, "embedding", embedding.reshape(-1, width), 3e-6)
    yield given.near(case, "projected", found["projected"].reshape(-1, width), 5e-6)
    scores = np.asarray(found["patch_score"])
    # A score is a difference of many numbers, and as exact as the largest of them.
    yield compare("patch_score", scores, case["patch_score"], 2e-5)
    yield compare("image_score", scores.max((1, 2)), case["image_score"].reshape(-1), 2e-5)
    large = [enlarge(own, (map_height, map_width), corners=False) for own in jnp.asarray(scores)]
    smooth = np.stack([gaussian_filter(np.asarray(own), 4.0) for own in large])
    for key in ("map", "map_s"):
        if key in case or f"{key}.val" in case:
            yield given.near(case, key, smooth, 3e-5)


def _step(path: Path, case: dict) -> Iterator[Difference]:
    images, _, _, first_width, width, hidden, height, columns, *_ = (int(x) for x in case["config"])
    name, section = path.stem.removeprefix("simplenet_"), SimpleNetSection()
    rows = images * height * columns
    noise = (np.float32(section.noise) * recipes.draw(name, "noise", (rows, width))).astype(np.float32)

    def run(weights: dict) -> dict:
        network = from_released(Arrays("recipe", weights), width, hidden)
        with jax.enable_x64(True):
            maps = [given.last(x).astype(np.float64) for x in _maps(path, case)]
            embedding = _embedding(maps, first_width, width)
            return _stepped(
                network, embedding, jnp.asarray(noise, np.float64).reshape(embedding.shape), section
            )

    case["loss"] = case["step64/loss_before"]
    found = given.fitting(case, given.recipe_of(path, case, "simplenet"), "sn", run, "loss")
    for key in ("true_loss", "fake_loss", "loss_before", "loss_after_train"):
        yield given.near(case, f"step64/{key}", found[key], 2e-7)
    for key in ("p_true_p_fake", "running_mean_after", "running_var_after"):
        yield given.near(case, f"step64/{key}", found[key], 1e-7)
    scores = found["scores"].reshape(tuple(case["step64/scores.shape"]))
    yield given.near(case, "step64/scores", scores, 1e-6)
    yield from given.compared_step(case, key_table(width, hidden), found["gradient"], found["after"], 1e-7)


def _stepped(network: Network, embedding: jax.Array, noise: jax.Array, section: SimpleNetSection) -> dict:
    graph, parameters, statistics = given.wide(network)
    parameters = nnx.to_pure_dict(parameters)  # as the training loop has them
    weights = jnp.ones(len(embedding))

    @jax.jit
    def loss(parameters, statistics):
        network = nnx.merge(graph, parameters, statistics)
        scores = network.told_apart(embedding, noise, weights)
        parts = losses(*scores, weights, section.margin)
        return sum(parts), (parts, jnp.stack(scores), nnx.state(network, nnx.BatchStat))

    (before, (parts, scores, after)), gradient = jax.value_and_grad(loss, has_aux=True)(
        parameters, statistics
    )
    rule = optimiser(SimpleNetTrainConfig(), 1)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = rule.update(gradient, rule.init(parameters), parameters)
        changed = optax.apply_updates(parameters, updates)
    told = scores[0] >= section.margin, scores[1] < -section.margin
    norm = after["discriminator"]["norm"]
    return {
        "loss": before,
        "loss_before": before,
        "loss_after_train": loss(changed, after)[0],
        "true_loss": parts[0],
        "fake_loss": parts[1],
        "scores": scores,
        "p_true_p_fake": jnp.stack([own.mean() for own in told]),
        "running_mean_after": norm["mean"][...],
        "running_var_after": norm["variance"][...],
        "gradient": gradient,
        "after": changed,
    }


def _counts(facts: dict) -> Iterator[Difference]:
    for name, own in facts.items():
        # (w + 1) w of the adaptor; (w + 1) h + 2 h + h of the discriminator
        width = round((-1 + (1 + 4 * own["pre_projection"]) ** 0.5) / 2)
        hidden = own["discriminator"] // (width + 4)
        sizes = {
            key: int(np.prod(source.shape))
            for key, source in key_table(width, hidden).items()
            if "running_" not in key
        }
        for part in own:
            found = sum(size for key, size in sizes.items() if key.startswith(f"{part}."))
            yield compare(f"{name} {part}", found, own[part], 0)
