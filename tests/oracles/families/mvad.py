"""Golden numbers of MVAD's released code: attention, network, gradients, one step, maps, rates, parameters.

Everything is read from a case's own arrays; the tag of a case's weights is its `tag` where it has one, else
the first of mvad-A, mvad-B, ... with which the case's loss comes out. Tolerances are relative to the largest
expected number: a few times what separates the authors' code in float32 from itself in float64.
"""

from __future__ import annotations

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
from oracles.check import Difference, compare, sampled
from scipy.ndimage import gaussian_filter

from mvead_jax.methods.mvad import objective
from mvead_jax.methods.mvad.fusion import position_map
from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig
from mvead_jax.methods.mvad.mvas import mvas, partition, routing_scores, select_windows
from mvead_jax.methods.mvad.optimizer import LEARNING_RATE, optimizer, schedule
from mvead_jax.methods.mvad.params import from_released, key_table
from mvead_jax.methods.mvad.window_attention import Selection

CASES = ("mvad_*.npz", "misc_anomaly_map*.npz", "lr_mvad*.json", "params_mvad*.json")
AMBIGUOUS = 1e-4  # of a routing score: two windows closer than that may be chosen either way


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        case = json.loads(path.read_text())
        return _rates(case) if "steps_per_epoch" in case else _parameters(case)
    case = dict(np.load(path))
    if "lr" in case:
        return _step(path, case)
    if "features" in case:
        return _mvas(case)
    if "images_uint8" in case:
        return _full(path, case)
    return _maps(case) if "fpn0" not in case else _small(path, case)


def _channels_last(x: np.ndarray, samples: int) -> jax.Array:
    """Return [B,V,H,W,C] of [N,C,H,W]."""
    x = np.asarray(x).transpose(0, 2, 3, 1)
    return jnp.asarray(x.reshape(samples, -1, *x.shape[1:]))


def _near(name: str, found: Any, expected: Any, relative: float) -> Difference:
    return compare(name, found, expected, relative * float(np.abs(expected).max()))


def _near_sampled(case: dict, name: str, found: Any, relative: float) -> Difference:
    expected = case[name] if name in case else case[f"{name}.val"]
    return sampled(case, name, found, relative * float(np.abs(expected).max()))


# ---- attention alone


def _mvas(case: dict) -> Iterator[Difference]:
    heads, (windows, top) = int(case["config"][-1]), case["config"][4:6].tolist()
    features, position = jnp.asarray(case["features"]), jnp.asarray(case["position"])
    views = features.shape[1]
    query = features + position[None, None]
    yield _near("position", position_map(*position.shape), position, 2e-6)
    means = jax.vmap(lambda x: partition(x, windows).mean(2))(query)
    yield _near("query_window_mean", means, case["query_window_mean"], 1e-6)
    own = jax.vmap(lambda q, k: select_windows(q, k, windows=windows, top=top))(query, features)
    stored = _numbered(case["selected"], windows**2)
    clear = case["gap_k"] > AMBIGUOUS
    found = np.asarray(own.window).reshape(stored.shape)
    yield compare("selected", np.sort(found)[clear], np.sort(stored)[clear], 0)
    scores = jax.vmap(lambda q, k: routing_scores(q, k, windows))(query, features)
    scores = np.asarray(scores) * features.shape[-1] ** -0.5
    for view in range(views):
        others = np.delete(scores[:, view], view, axis=2).reshape(case["routing_logits"][:, view].shape)
        yield _near("routing_logits", others, case["routing_logits"][:, view], 2e-6)

    selection = Selection(jnp.asarray(stored.reshape(own.window.shape), jnp.int32), own.where)

    @jax.jit
    def attend(query, keys, selection):
        options = {"windows": windows, "top": top, "heads": heads}
        return jax.vmap(lambda q, k, s: mvas(q, k, selection=s, **options))(query, keys, selection)

    cut = [
        jax.vmap(lambda x: partition(x, windows))(x) for x in (attend(query, features, own), case["output"])
    ]
    yield _near("output of the own choice", *(np.asarray(x)[clear] for x in cut), 1e-6)
    output, pull = jax.vjp(lambda q, k: attend(q, k, selection), query, features)
    yield _near("output", output, case["output"], 1e-6)
    for key in case:
        if match := re.fullmatch(r"cotangent_v(\d+)", key):
            view = int(match[1])
            cotangent = jnp.zeros_like(output).at[:, view].set(case[key])
            d_query, d_keys = pull(cotangent)
            yield _near(f"grad_query_v{view}", d_query[:, view], case[f"grad_query_v{view}"], 2e-6)
            others = np.delete(d_keys, view, axis=1)
            yield _near(f"grad_keys_v{view}", others, case[f"grad_keys_v{view}"], 2e-6)


def _numbered(selected: np.ndarray, windows: int) -> np.ndarray:
    """Numbers of windows of all views, from those of the other views alone [B,V,n²,K]."""
    other, window = np.divmod(np.asarray(selected, np.int64), windows)
    view = np.arange(selected.shape[1])[None, :, None, None]
    return (other + (other >= view)) * windows + window


# ---- the network


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
    recipe = path.parent / "recipe_mvad.json"
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
            yield _near(key, found[match[1]][:, int(match[2])], expected, 3e-6)
        elif key.startswith("selected_mvas"):
            own = np.asarray(found[key]).reshape(expected.shape)
            scores = np.array(found[key.replace("selected_mvas", "scores")])  # [B,V,n²,V,n²]
            scores[:, np.arange(scores.shape[1]), :, np.arange(scores.shape[1])] = -np.inf
            scores = -np.sort(-scores.reshape(*own.shape[:3], -1) * scores.shape[-1] ** -0.5)
            clear = scores[..., own.shape[-1] - 1] - scores[..., own.shape[-1]] > AMBIGUOUS
            stored = _numbered(expected, own.shape[2])
            yield compare(key, np.sort(own)[clear], np.sort(stored)[clear], 0)


def _compared(case: dict, found: dict[str, Any], relative: float) -> Iterator[Difference]:
    """Compare the neck's and the student's results, losses, maps and scores."""
    for name, x in found.items():
        if name in case or f"{name}.val" in case:
            x = np.asarray(x)
            yield _near_sampled(case, name, x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, relative)


def _small(path: Path, case: dict) -> Iterator[Difference]:
    samples, _, *windows, top, heads = case["config"].tolist()
    teacher = [_channels_last(case[f"teacher{scale}"], samples) for scale in range(3)]
    train = any(".running_mean" in key for key in case)

    def run(weights: Weights) -> dict:
        network = weights.network(windows, (top,) * 3, heads)
        graph, state = nnx.split(network)
        return _results(graph, state, teacher, train) | {
            "blocks": (graph, state),
            "table": key_table(network),
        }

    found = _fitting(path, case, run, "loss")
    yield from _compared(case, found, 2e-5 if train else 3e-6)
    if train:
        running = dict(nnx.to_flat_state(found["state"]))
        for key in [key for key in case if ".running_" in key]:
            yield _near(key, running[found["table"][key].path][...], case[key], 2e-6)
    else:
        yield from _compared_blocks(case, _blocks(*found["blocks"], teacher))
        yield from _compared_maps(case, teacher, found)


def _full(path: Path, case: dict) -> Iterator[Difference]:
    images = recipes.normalised(case["images_uint8"])
    yield _near_sampled(case, "input", images.transpose(0, 3, 1, 2), 1e-6)
    choices = [case[f"selected_mvas{scale}"].shape for scale in range(3)]  # [B,V,n²,K]
    samples = choices[0][0]
    windows, top = [round(own[2] ** 0.5) for own in choices], [own[3] for own in choices]

    def run(weights: Weights) -> dict:
        maps = _teacher(weights.released, jnp.asarray(images))
        teacher = [x.reshape(samples, -1, *x.shape[1:]) for x in maps]
        graph, state = nnx.split(weights.network(windows, top, 8))
        found = _results(graph, state, teacher, False) | {"teacher": teacher, "blocks": (graph, state)}
        return found | {f"teacher{scale}": x for scale, x in enumerate(maps)}

    found = _fitting(path, case, run, "loss")
    yield from _compared(case, found, 3e-6)
    yield from _compared_blocks(case, _blocks(*found["blocks"], found["teacher"]))
    yield from _compared_maps(case, found["teacher"], found)


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
    yield _near("loss_before", found["loss_before"], before, 1e-6)
    yield _near("loss_after_train", found["loss_after"], after, 1e-6)
    # The sign of a convolution's bias before a batch norm is noise in the first step, and shows here.
    yield _near("loss_after_eval", found["loss_evaluated"], evaluated, 1e-3)
    yield _near("grad_norm_total", found["norm"], case["float64/grad_norm_total"], 1e-6)
    for key in [key for key in case if key.startswith("float64/grad/")]:
        name = key.removeprefix("float64/grad/")
        released, source = found["released"][name], found["table"][name]
        places = source.transform(np.arange(released.size).reshape(released.shape)).reshape(-1)
        gradient, stepped = (np.empty(released.size) for _ in range(2))
        gradient[places] = np.asarray(found["gradient"][source.path]).reshape(-1)
        stepped[places] = np.asarray(found["after"][source.path]).reshape(-1)
        at = case[f"grad/{name}.pos"]
        yield _near(key, gradient[at], case[key], 3e-6)
        norm = case[f"float64/gradnorm/{name}"]
        yield _near(f"gradnorm/{name}", np.linalg.norm(gradient), norm, 1e-6)
        at = case[f"after/{name}.pos"]
        yield _near(f"after/{name}", stepped[at], case[f"float64/after/{name}"], 1e-6)


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


# ---- maps, learning rates, parameters


def _maps(case: dict) -> Iterator[Difference]:
    teacher, student = (
        [
            _channels_last(case[f"{who}{scale}"], 1)
            for scale in range(sum(key.startswith(who) for key in case))
        ]
        for who in ("teacher", "student")
    )
    size = case["map_sigma0"].shape[1:]
    maps = np.asarray(_anomaly_maps(teacher, student, size))
    for key in [key for key in case if key.startswith("map_sigma")]:
        yield _near(key, _smoothed(maps, float(key.removeprefix("map_sigma"))), case[key], 3e-6)


def _compared_maps(case: dict, teacher: Sequence[jax.Array], found: dict) -> Iterator[Difference]:
    student = [found[f"student{scale}"].reshape(x.shape) for scale, x in enumerate(teacher)]
    maps = np.asarray(_anomaly_maps(teacher, student, case["map_raw"].shape[1:]))
    smooth = _smoothed(maps, 4)
    for name, own in (("map_raw", maps), ("map_smooth", smooth)):
        yield _near(name, own, case[name], 1e-3 if case[name].dtype == np.float16 else 3e-6)
        if f"{name}32.val" in case:
            yield _near_sampled(case, f"{name}32", own, 3e-6)
    scores = objective.image_scores(jnp.asarray(smooth)).reshape(teacher[0].shape[:2])
    yield _near("image_score", scores.reshape(-1), case["image_score"], 3e-6)
    samples = objective.sample_score(scores, jnp.ones(scores.shape, bool))
    yield _near("sample_score", samples, case["sample_score"].reshape(-1), 3e-6)


def _anomaly_maps(
    teacher: Sequence[jax.Array], student: Sequence[jax.Array], size: tuple[int, int]
) -> jax.Array:
    """Return the maps [N,height,width] before smoothing."""
    own = jax.vmap(jax.vmap(lambda t, s: objective.anomaly_map(t, s, size)))(teacher, student)
    return own.reshape(-1, *size)


def _smoothed(maps: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([gaussian_filter(x.astype(np.float64), sigma) for x in maps]) if sigma else maps


def _rates(case: dict) -> Iterator[Difference]:
    steps = case["steps_per_epoch"]
    epochs = -(-(1 + max(at for at, _ in case["iteration_and_lr"])) // steps)
    rate = schedule(LEARNING_RATE, epochs, steps)
    for at, expected in case["iteration_and_lr"]:
        yield compare(f"learning rate at {at}", rate(jnp.int32(at)), expected, 1e-7 * expected)


def _parameters(case: dict) -> Iterator[Difference]:
    network = nnx.eval_shape(lambda: MVADNetwork(NetworkConfig(), nnx.Rngs(0)))
    leaves = dict(nnx.to_flat_state(nnx.state(network, nnx.Param)))
    sizes = {
        key: leaves[source.path].size for key, source in key_table(network).items() if source.path in leaves
    }
    yield compare("neck and student", sum(sizes.values()), case["mff_oce"] + case["net_s"], 0)
    for name, expected in case.items():
        if not name.startswith("net_t") and name != "total":
            found = sum(size for key, size in sizes.items() if key.startswith(f"{name}."))
            yield compare(name, found, expected, 0)
