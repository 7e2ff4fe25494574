"""Golden numbers of RD4AD's released code: its network in evaluation and training, one step, parameter counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
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
from mvead_jax.methods.distillation import SMOOTHING, image_scores
from mvead_jax.methods.rd4ad import objective
from mvead_jax.methods.rd4ad.config import Rd4adTrainConfig
from mvead_jax.methods.rd4ad.method import optimiser
from mvead_jax.methods.rd4ad.modeling import Network, NetworkConfig
from mvead_jax.methods.rd4ad.params import from_released, key_table, unused

CASES = ("rd_*.npz", "params_rd.json")
_STRIDES = (4, 8, 16)


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        return _counts(json.loads(path.read_text()), path)
    case = dict(np.load(path))
    return _step(path, case) if "lr" in case else _pass(path, case)


def _config(shapes: Mapping[str, tuple[int, ...]]) -> NetworkConfig:
    """Return the network whose weights have these shapes."""

    def blocks(prefix: str) -> int:
        return len({match[1] for name in shapes if (match := re.match(rf"{prefix}\.(\d+)\.conv1\.", name))})

    widths = *(shapes[f"neck.conv{k}.weight"][1] for k in (1, 2)), shapes["neck.conv2.weight"][0]
    return NetworkConfig(
        widths=widths,
        block="bottleneck" if "neck.bn_layer.0.conv3.weight" in shapes else "basic",
        neck_inner=shapes["neck.bn_layer.0.conv1.weight"][0],
        neck_blocks=blocks("neck.bn_layer"),
        decoder_blocks=tuple(blocks(f"decoder.layer{k}") for k in (1, 2, 3)),
    )


def _network(weights: Mapping[str, np.ndarray]) -> Network:
    config = _config({name: value.shape for name, value in weights.items()})
    return from_released(Arrays("recipe", weights), config)


def _teacher(path: Path, case: dict, widths: tuple[int, ...]) -> list[np.ndarray]:
    """Return the teacher's maps, [N,C,H,W]: given, or a ResNet's of images."""
    images, size = case["config"][:2].tolist()
    name = path.stem.removeprefix("rd_")
    if "e2e" not in name:
        shapes = [
            (images, width, size // stride, size // stride)
            for width, stride in zip(widths, _STRIDES, strict=True)
        ]
        return [given.features(name, f"teacher{k}", shape) for k, shape in enumerate(shapes)]
    pictures = recipes.normalised(recipes.smooth_images(f"rd-e2e-{size}", images, size))
    backbone = {64: "resnet18", 256: "wide_resnet50_2"}[widths[0]]
    weights = recipes.weights(
        path.with_name(f"recipe_bb_{backbone}.json"), str(case.get("backbone_tag", "bb-A"))
    )
    held = max(int(key[5]) for key in weights if key.startswith("layer"))
    graph, state = nnx.split(resnet.from_tensors(backbone, Arrays(backbone, weights), 3, held=held))
    taps = ("layer1", "layer2", "layer3")
    maps = jax.jit(lambda state, x: nnx.merge(graph, state)(x, taps))(state, pictures)
    return [given.first(maps[tap]) for tap in taps]


@partial(jax.jit, static_argnums=(0, 3))
def _results(graph, state, teacher, train):
    network = nnx.merge(graph, state)
    code = network.neck(*teacher, train=train)
    student = network.decoder(code, train=train)
    found = {"neck_out": code} | {f"student{k}": x for k, x in enumerate(student)}
    losses = jax.vmap(objective.image_losses)(teacher, student)
    size = (4 * teacher[0].shape[1], 4 * teacher[0].shape[2])
    found["map_raw"] = jax.vmap(lambda t, s: objective.anomaly_map(t, s, size))(teacher, student)
    found["loss"] = objective.batch_loss(teacher, student, jnp.ones(len(code), bool))
    return found | {"loss_per_scale": losses.mean(0), "state": nnx.state(network)}


def _pass(path: Path, case: dict) -> Iterator[Difference]:
    train = bool(case["config"][2])

    def run(weights: dict) -> dict:
        network = _network(weights)
        config = _config({name: value.shape for name, value in weights.items()})
        teacher = _teacher(path, case, config.widths)
        found = _results(*nnx.split(network), [given.last(x) for x in teacher], train)
        return found | {"teacher": teacher, "table": key_table(config)}

    found = given.fitting(case, given.recipe_of(path, case, "rd"), "rd", run, "loss")
    for k, teacher in enumerate(found["teacher"]):
        yield given.near(case, f"teacher{k}", teacher, 3e-6)
    # Four times the float32 noise of the stored numbers is 3e-5 to 4e-4 of the standard deviation.
    relative = 3e-5 if train else 1e-5
    for name in ("neck_out", "student0", "student1", "student2"):
        yield given.near(case, name, given.first(found[name]), relative)
        if f"{name}.full" in case and f"{name}.val" in case:
            yield compare(
                f"{name}.full",
                given.first(found[name]),
                case[f"{name}.full"],
                relative * np.abs(case[f"{name}.full"]).max(),
            )
    for name in ("loss", "loss_per_scale"):  # float32 and float64 of the released code differ by 8e-6 of it
        yield given.near(case, name, found[name], 3e-5)
    raw = np.asarray(found["map_raw"])
    smooth = np.stack([gaussian_filter(own.astype(np.float64), SMOOTHING) for own in raw])
    for name, own in (("map_raw", raw), ("map_smooth", smooth)):
        for key in (name, f"{name}_s"):
            if key in case or f"{key}.val" in case:
                yield given.near(case, key, own, 3e-6)
    yield given.near(case, "image_score", image_scores(raw), 3e-6)
    running = dict(nnx.to_flat_state(found["state"]))
    running = {".".join(map(str, place)): leaf for place, leaf in running.items()}
    for key in [key for key in case if ".running_" in key]:
        target = found["table"][key if key.startswith(("neck.", "decoder.")) else f"neck.{key}"].target
        yield given.near(case, key, running[target][...], 1e-5)


def _step(path: Path, case: dict) -> Iterator[Difference]:
    """One step of Adam in float64."""

    def run(weights: dict) -> dict:
        network = _network(weights)
        config = _config({name: value.shape for name, value in weights.items()})
        with jax.enable_x64(True):
            teacher = [given.last(x).astype(np.float64) for x in _teacher(path, case, config.widths)]
            found = _stepped(network, teacher, float(case["lr"]))
        return found | {"table": key_table(config), "unused": sorted(unused(Arrays("recipe", weights)))}

    case["loss"] = case["step64/loss_before"]
    found = given.fitting(case, given.recipe_of(path, case, "rd"), "rd", run, "loss")
    for name in ("loss_before", "loss_after_train", "loss_after_eval"):
        yield given.near(case, f"step64/{name}", found[name], 1e-7)
    idle = sorted(case.get("step64/params_without_gradient", np.array([], str)).tolist())
    yield compare(f"without gradient: {found['unused']}", found["unused"] != idle, 0, 0)
    yield from given.compared_step(case, found["table"], found["gradient"], found["after"], 1e-7)


def _stepped(network: Network, teacher: list, rate: float) -> dict:
    graph, parameters, statistics = given.wide(network)
    counted = jnp.ones(len(teacher[0]), bool)

    @partial(jax.jit, static_argnums=2)
    def loss(parameters, statistics, train):
        network = nnx.merge(graph, parameters, statistics)
        value = objective.batch_loss(teacher, network(teacher, train=train), counted)
        return value, nnx.state(network, nnx.BatchStat)

    (before, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, statistics, True)
    rule = optimiser(Rd4adTrainConfig(learning_rate=rate), 1)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = rule.update(gradient, rule.init(parameters), parameters)
        after = optax.apply_updates(parameters, updates)
    trained, statistics = loss(after, statistics, True)
    evaluated, _ = loss(after, statistics, False)
    losses = {"loss_before": before, "loss_after_train": trained, "loss_after_eval": evaluated}
    return losses | {"loss": before, "gradient": gradient, "after": after}


def _counts(facts: dict, path: Path) -> Iterator[Difference]:
    for name, own in facts.items():
        entries = json.loads(path.with_name(f"recipe_rd_{name}.json").read_text())["entries"]
        shapes = {entry["name"]: tuple(entry["shape"]) for entry in entries}
        sizes = {
            key: int(np.prod(source.shape))
            for key, source in key_table(_config(shapes)).items()
            if "running_" not in key
        }
        dead = sum(
            int(np.prod(shapes[key])) for key in shapes if re.match(r"neck\.(conv4|bn4)\.(weight|bias)", key)
        )
        for part, more in (("neck", dead), ("decoder", 0)):
            found = more + sum(size for key, size in sizes.items() if key.startswith(f"{part}."))
            yield compare(f"{name} {part}", found, own[part], 0)
        yield compare(f"{name} unused", dead, own["neck_unused_conv4_bn4"], 0)
