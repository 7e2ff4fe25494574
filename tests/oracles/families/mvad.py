"""Golden numbers of MVAD's released code: its network in evaluation and training, gradients, and one step.

Everything is read from a case's own arrays; the tag of a case's weights is its `tag` where it has one, else
the first of mvad-A, mvad-B, ... with which the case's loss comes out. Tolerances: see mvad_parts.py.
"""

from __future__ import annotations

import importlib
import json
import re
import string
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles import recipes
from oracles.check import Difference, compare
from oracles.families.mvad_parts import (
    AMBIGUOUS,
    channels_last,
    compared_maps,
    near,
    near_sampled,
    numbered,
    own_resnet,
)

from mvead_jax.methods.mvad import objective
from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig
from mvead_jax.methods.mvad.optimizer import optimizer
from mvead_jax.methods.mvad.params import from_released, key_table
from mvead_jax.methods.mvas import routing_scores, select_windows
from mvead_jax.methods.positions import position_map

CASES = ("mvad_small*.npz", "mvad_full*.npz", "mvad_step*.npz")


def check(path: Path) -> Iterator[Difference]:
    case = dict(np.load(path))
    if "lr" in case:
        return _step(path, case)
    return _full(path, case) if "images_uint8" in case else _small(path, case)


class Weights:
    """A recipe's weights under one tag, as the released state dictionary and as the project's network."""

    def __init__(self, recipe: Path, tag: str):
        self.released = recipes.weights(recipe, tag)
        self.name = f"{recipe.name} of {tag}"

    def network(self, windows: Sequence[int], top: Sequence[int], heads: int) -> MVADNetwork:
        """Return the network, whose widths and numbers of blocks are those of the recipe."""
        names, scales = "\n".join(self.released), range(3)
        config = NetworkConfig(
            widths=tuple(len(self.released[f"mff_oce.norm{scale}1.weight"]) for scale in scales),
            windows=tuple(windows),
            top=tuple(top),
            heads=heads,
            blocks=tuple(len(re.findall(rf"mlp{scale}\d*\.0\.weight", names)) for scale in scales),
            decoder_blocks=tuple(
                len(re.findall(rf"net_s\.layer{1 + layer}\.\d+\.conv1\.weight", names)) for layer in scales
            ),
        )
        return from_released(self.released, config, self.name)


def _fitting(path: Path, case: dict, run: Callable[[Weights], dict], key: str) -> dict:
    """Return the results of the weights of a case: by its tag, or else the first ones that give its `key`."""
    recipe = path.parent / str(case.get("recipe", "recipe_mvad.json"))
    if "tag" in case:
        return run(Weights(recipe, str(case["tag"])))
    first = None
    for letter in string.ascii_uppercase:
        found = run(Weights(recipe, f"mvad-{letter}"))
        if np.allclose(found[key], case[key], rtol=1e-3, atol=1e-3):
            return found
        first = found if first is None else first
    return first


@partial(jax.jit, static_argnums=(0, 3))
def _results(graph: Any, state: Any, teacher: Sequence[jax.Array], train: bool) -> dict[str, Any]:
    """Return all that the cases hold of a pass, channels last, and the network's state after it."""
    network = nnx.merge(graph, state)
    named = network.named(teacher, train=train)
    found = {name: x for name, x in named.items() if name not in ("fused", "student", "neck")}
    found["neck_out"] = named["neck"]
    student = named["student"]
    found |= {f"student{scale}": x.reshape(-1, *x.shape[2:]) for scale, x in enumerate(student)}
    counted = jnp.ones(teacher[0].shape[:2], bool)
    found["loss"] = objective.batch_loss(teacher, student, counted)
    found["loss_per_scale_unweighted"] = jnp.stack(
        [objective.batch_loss([t], [s], counted, 1.0) for t, s in zip(teacher, student, strict=True)]
    )
    return found | {"state": nnx.state(network)}


@partial(jax.jit, static_argnums=0)
def _blocks(graph: Any, state: Any, teacher: Sequence[jax.Array]) -> dict[str, jax.Array]:
    """Return what each fusion block gives, by the released names, and its windows' scores and choices."""
    network, found = nnx.merge(graph, state), {}
    for scale, (blocks, keys) in enumerate(zip(network.fusion, teacher, strict=True)):
        x, present = keys, jnp.ones(keys.shape[:2], bool)
        for number, block in enumerate(blocks):
            name = f"{scale}{number or ''}"
            query = x + position_map(*x.shape[2:])[None, None]
            options = {"windows": block.windows}
            found[f"scores{name}"] = jax.vmap(lambda q, k, o=options: routing_scores(q, k, **o))(query, keys)
            options |= {"top": block.top}
            found[f"selected_mvas{name}"] = jax.vmap(
                lambda q, k, o=options: select_windows(q, k, **o).window
            )(query, keys)
            own = block(x, keys, present)
            found |= {f"mvas{name}": own["mvas"], f"mlp{name}": own["mlp"]}
            for norm in (1, 2):
                found[f"norm{scale}{norm}{number or ''}"] = own[f"norm{norm}"]
            x = own["norm2"]
    return found


def _compared_blocks(case: dict, found: dict[str, jax.Array]) -> Iterator[Difference]:
    for key, expected in case.items():
        if match := re.fullmatch(r"((?:mvas|norm|mlp)\d+)_v(\d+)", key):
            yield near(key, found[match[1]][:, int(match[2])], expected, 3e-6)
        elif key.startswith("selected_mvas"):
            own = np.asarray(found[key]).reshape(expected.shape)
            scores = np.array(found[key.replace("selected_mvas", "scores")])  # [B,V,n²,V,n²]
            scores[:, np.arange(scores.shape[1]), :, np.arange(scores.shape[1])] = -np.inf
            scores = -np.sort(-scores.reshape(*own.shape[:3], -1) * scores.shape[-1] ** -0.5)
            clear = scores[..., own.shape[-1] - 1] - scores[..., own.shape[-1]] > AMBIGUOUS
            stored = numbered(expected, own.shape[2])
            yield compare(key, np.sort(own)[clear], np.sort(stored)[clear], 0)


def _compared(path: Path, case: dict, found: dict[str, Any], relative: float) -> Iterator[Difference]:
    """Compare the neck's and the student's results and the losses.

    A case that precision.json knows may differ by four times the noise that stands there.
    """
    noise = path.with_name("precision.json")
    noise = json.loads(noise.read_text()).get(path.stem.removeprefix("mvad_"), {}) if noise.exists() else {}
    least = 4 * max(noise.get("student", [0]))
    for name, x in found.items():
        if name in case or f"{name}.val" in case:
            x = np.asarray(x)
            yield near_sampled(case, name, x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, relative, least)


def _small(path: Path, case: dict) -> Iterator[Difference]:
    samples, _, *windows, top, heads = case["config"].tolist()
    teacher = [channels_last(case[f"teacher{scale}"], samples) for scale in range(3)]
    train = any(".running_mean" in key for key in case)

    def run(weights: Weights) -> dict:
        network = weights.network(windows, (top,) * 3, heads)
        graph, state = nnx.split(network)
        return _results(graph, state, teacher, train) | {
            "blocks": (graph, state),
            "table": key_table(network),
        }

    found = _fitting(path, case, run, "loss")
    yield from _compared(path, case, found, 2e-5 if train else 3e-6)
    if train:
        running = dict(nnx.to_flat_state(found["state"]))
        for key in [key for key in case if ".running_" in key]:
            yield near(key, running[found["table"][key].path][...], case[key], 2e-6)
    else:
        yield from _compared_blocks(case, _blocks(*found["blocks"], teacher))
        yield from compared_maps(case, teacher, found)


def _full(path: Path, case: dict) -> Iterator[Difference]:
    images = recipes.normalised(case["images_uint8"])
    yield near_sampled(case, "input", images.transpose(0, 3, 1, 2), 1e-6)
    choices = [case[f"selected_mvas{scale}"].shape for scale in range(3)]  # [B,V,n²,K]
    samples = choices[0][0]
    windows, top = [round(own[2] ** 0.5) for own in choices], [own[3] for own in choices]

    def run(weights: Weights) -> dict:
        maps = _teacher(weights.released, jnp.asarray(images))
        teacher = [x.reshape(samples, -1, *x.shape[1:]) for x in maps]
        graph, state = nnx.split(weights.network(windows, top, 8))
        found = _results(graph, state, teacher, False) | {"teacher": teacher, "blocks": (graph, state)}
        found |= {f"teacher{scale}": x for scale, x in enumerate(maps)}
        return found | {"released": weights.released}

    found = _fitting(path, case, run, "loss")
    yield from _own_teacher(case, found["released"], images)
    yield from _compared(path, case, found, 3e-6)
    yield from _compared_blocks(case, _blocks(*found["blocks"], found["teacher"]))
    yield from compared_maps(case, found["teacher"], found)


def _own_teacher(case: dict, weights: dict[str, np.ndarray], images: np.ndarray) -> Iterator[Difference]:
    """Compare the project's ResNet-34 with the teacher's maps."""
    resnet = own_resnet()
    if resnet is None:
        return
    checkpoint = importlib.import_module("mvead_jax.backbones.checkpoint")
    own = {key[6:]: value for key, value in weights.items() if key.startswith("net_t.")}
    network = resnet.from_tensors("resnet34", checkpoint.Arrays("net_t", own), 3, held=3)
    graph, state = nnx.split(network)
    taps = ("layer1", "layer2", "layer3")
    maps = jax.jit(lambda state, x: nnx.merge(graph, state)(x, taps))(state, jnp.asarray(images))
    for scale, tap in enumerate(taps):
        named = {f"teacher{scale}.{key}": case[f"teacher{scale}.{key}"] for key in ("pos", "val", "shape")}
        yield near_sampled(named, f"teacher{scale}", maps[tap].transpose(0, 3, 1, 2), 3e-6)


def _teacher(weights: dict[str, np.ndarray], x: jax.Array) -> list[jax.Array]:
    """Return the maps of a ResNet of basic blocks after layer1 to layer3, in the precision of the images.

    The project's own ResNet computes in float32; the step's golden numbers are in float64.
    """
    own = {key[6:]: jnp.asarray(value, x.dtype) for key, value in weights.items() if key.startswith("net_t.")}

    def conv_norm(x: jax.Array, conv: str, norm: str, stride: int) -> jax.Array:
        kernel = own[f"{conv}.weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=layout, precision="highest"
        )
        mean, variance, gain, bias = (
            own[f"{norm}.{key}"][None, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / jnp.sqrt(variance + 1e-5) * gain + bias

    x = jax.nn.relu(conv_norm(x, "conv1", "bn1", 2))
    x = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )
    maps = []
    for layer in (1, 2, 3):
        for number in range(len([k for k in own if re.fullmatch(rf"layer{layer}\.\d+\.conv1\.weight", k)])):
            name, stride = f"layer{layer}.{number}", 2 if layer > 1 and number == 0 else 1
            y = jax.nn.relu(conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride))
            y = conv_norm(y, f"{name}.conv2", f"{name}.bn2", 1)
            if f"{name}.downsample.0.weight" in own:
                x = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = jax.nn.relu(x + y)
        maps.append(x)
    return maps


# ---- one step of the optimiser, in float64


def _step(path: Path, case: dict) -> Iterator[Difference]:
    samples, _, *windows, top, heads = case["config"].tolist()
    images = recipes.normalised(case["images_uint8"])

    def run(weights: Weights) -> dict:
        network = weights.network(windows, (top,) * 3, heads)
        with jax.enable_x64(True):
            maps = _teacher(weights.released, jnp.asarray(images, np.float64))
            teacher = [x.reshape(samples, -1, *x.shape[1:]) for x in maps]
            wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), np.float64), nnx.split(network)[1])
            found = _stepped(nnx.split(network)[0], wide, teacher, float(case["lr"]))
        return found | {"released": weights.released, "table": key_table(network)}

    found = _fitting(path, case, run, "loss_before")
    before, after, evaluated = case["loss_float64"]
    yield near("loss_before", found["loss_before"], before, 1e-6)
    yield near("loss_after_train", found["loss_after"], after, 1e-6)
    # The sign of a convolution's bias before a batch norm is noise in the first step, and shows here.
    yield near("loss_after_eval", found["loss_evaluated"], evaluated, 1e-3)
    yield near("grad_norm_total", found["norm"], case["float64/grad_norm_total"], 1e-6)
    for key in [key for key in case if key.startswith("float64/grad/")]:
        name = key.removeprefix("float64/grad/")
        released, source = found["released"][name], found["table"][name]
        places = source.transform(np.arange(released.size).reshape(released.shape)).reshape(-1)
        gradient, stepped = (np.empty(released.size) for _ in range(2))
        gradient[places] = np.asarray(found["gradient"][source.path]).reshape(-1)
        stepped[places] = np.asarray(found["after"][source.path]).reshape(-1)
        at = case[f"grad/{name}.pos"]
        yield near(key, gradient[at], case[key], 3e-6)
        norm = case[f"float64/gradnorm/{name}"]
        yield near(f"gradnorm/{name}", np.linalg.norm(gradient), norm, 1e-6)
        at = case[f"after/{name}.pos"]
        yield near(f"after/{name}", stepped[at], case[f"float64/after/{name}"], 1e-6)


def _stepped(graph: Any, state: Any, teacher: Sequence[jax.Array], rate: float) -> dict[str, Any]:
    """Return losses before and after one step, its gradient, and the parameters after it, by path."""
    parameters, statistics = nnx.split_state(state, nnx.Param, nnx.BatchStat)
    counted = jnp.ones(teacher[0].shape[:2], bool)

    @partial(jax.jit, static_argnums=2)
    def loss(parameters, statistics, train):
        network = nnx.merge(graph, parameters, statistics)
        value = objective.batch_loss(teacher, network(teacher, train=train), counted)
        return value, nnx.state(network, nnx.BatchStat)

    (before, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, statistics, True)
    rule = optimizer(epochs=1, steps_per_epoch=1, learning_rate=rate, decay_at=1)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = rule.update(gradient, rule.init(parameters), parameters)
    after = optax.apply_updates(parameters, updates)
    trained, statistics = loss(after, statistics, True)
    flat = [dict(nnx.to_flat_state(tree)) for tree in (gradient, after)]
    return {
        "loss_before": before,
        "loss_after": trained,
        "loss_evaluated": loss(after, statistics, False)[0],
        "norm": optax.tree.norm(gradient),
        "gradient": {path: np.asarray(leaf[...]) for path, leaf in flat[0].items()},
        "after": {path: np.asarray(leaf[...]) for path, leaf in flat[1].items()},
    }
