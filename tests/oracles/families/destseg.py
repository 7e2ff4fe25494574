"""Golden numbers of DeSTSeg's released code: forward passes, losses, maps, and one SGD step of each phase.

Steps run in float64, the teacher's maps too. Tolerances: the noise of the stored float32 maps is below 4e-7
(precision.json, `dest_*`); sums over a batch are of a few times their own size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from oracles import recipes
from oracles.check import Difference, compare, sampled

from mvead_jax.backbones.checkpoint import Arrays, Source, batch_norm, convolution, fill, same
from mvead_jax.backbones.random_weights import no_numbers
from mvead_jax.methods.destseg import objective
from mvead_jax.methods.destseg.method import segmentation_phase, student_phase
from mvead_jax.methods.destseg.modeling import DestsegNetwork, NetworkConfig
from mvead_jax.methods.destseg.optimizer import phased_sgd
from mvead_jax.methods.encoder import Encoder

CASES = ("destseg_*.npz", "params_destseg*.json")
_FOCUS, _RATES, _DECAY, _TOP = 4.0, {"student": 0.4, "res": 0.1, "head": 0.01}, 1e-4, 100


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        return _parameters(path, json.loads(path.read_text()))
    case = dict(np.load(path))
    return _step(path, case) if "step64/names" in case else _forward(path, case)


class Weights:
    """A recipe's weights, as the project's teacher and networks."""

    def __init__(self, path: Path, case: Mapping[str, Any]):
        self.path = path.with_name("recipe_destseg.json")
        self.released = recipes.weights(self.path, str(case.get("tag", "dest-A")))
        self.table = key_table(self.released)

    def network(self, size: int) -> DestsegNetwork:
        config = NetworkConfig(tuple((size // s, size // s, w) for s, w in ((4, 64), (8, 128), (16, 256))))
        arrays = Arrays(self.path.name, {name: self.released[name] for name in self.table})
        return fill(lambda: DestsegNetwork(config, no_numbers), self.table, arrays, what="a DeSTSeg")

    def teacher(self) -> Encoder:
        prefix = "teacher_net.encoder."
        own = {name.removeprefix(prefix): x for name, x in self.released.items() if name.startswith(prefix)}
        own = {name: x for name, x in own.items() if not name.endswith("num_batches_tracked")}
        table = {name: Source(_ours(name), x.shape, _transform(x)) for name, x in own.items()}
        return fill(
            lambda: Encoder((2, 2, 2), 64, no_numbers), table, Arrays(self.path.name, own), what="a teacher"
        )


def key_table(released: Mapping[str, np.ndarray]) -> dict[str, Source]:
    """The places of the student's and the segmentation's weights, by their released names."""
    names = {"student_net.": "student.", "segmentation_net.": ""}
    table = {}
    for name, x in released.items():
        for theirs, ours in names.items():
            if name.startswith(theirs) and not name.endswith("num_batches_tracked"):
                table[name] = Source(ours + _ours(name.removeprefix(theirs)), x.shape, _transform(x))
    return table


def _transform(x: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return convolution if x.ndim == 4 else same


def _ours(name: str) -> str:
    """Our place of a released name below its network."""
    name = re.sub(r"decoder_layer(\d)", lambda match: f"decoder.{4 - int(match[1])}", name)
    name = re.sub(r"\blayer(\d)", lambda match: f"layers.{int(match[1]) - 1}", name)
    name = name.replace("head.0.aspp_feature_extractors.0.1", "head.pooled")
    pattern = r"head\.0\.aspp_feature_extractors\.(\d)"
    name = re.sub(pattern, lambda match: f"head.dilated.{int(match[1]) - 1}", name)
    name = name.replace("head.0.aspp_fusion_layer", "head.fusion")
    name = name.replace("head.1.", "head.last.conv.").replace("head.2.", "head.last.norm.")
    name = name.replace("head.4.", "head.logit.")
    module, _, leaf = name.rpartition(".")
    if re.search(r"(bn\d|norm|downsample\.1)$", module):
        return batch_norm("x", module, 1)[f"x.{leaf}"].target
    return f"{module}.{ {'weight': 'kernel', 'bias': 'bias'}[leaf] }"


def pictures(path: Path, case: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean and changed images, normalised, and masks [B,H,W]."""
    count, size = case["config"][:2].tolist()
    masks = np.unpackbits(case["mask_packbits"])[: count * size * size].reshape(count, size, size)
    if "origin_uint8" in case:
        origin, changed = case["origin_uint8"], case["augmented_uint8"]
    else:
        name = path.stem.removeprefix("destseg_")
        origin = recipes.smooth_images(f"{name}-origin", count, size, 9, 33)
        changed, side = origin.copy(), size // 3
        for i in range(count):
            top, left = (7 * i + 5) % (size - side), (11 * i + 9) % (size - side)
            patch = recipes.smooth_images(f"{name}-patch{i}", 1, side, 9, 9)[0]
            changed[i, top : top + side, left : left + side] = patch
    return recipes.normalised(origin), recipes.normalised(changed), masks.astype(np.float32)


# ---- forward passes


def _forward(path: Path, case: dict[str, np.ndarray]) -> Iterator[Difference]:
    weights, size = Weights(path, case), int(case["config"][1])
    clean, changed, masks = pictures(path, case)
    graph, state = nnx.split((weights.teacher(), weights.network(size)))
    every = jnp.ones(len(clean), bool)

    @jax.jit
    def run(state: Any, clean: jax.Array, changed: jax.Array) -> dict[str, Any]:
        teacher, network = nnx.merge(graph, state)
        ofclean, own = teacher(clean), teacher(changed)
        student = network.student(changed)
        found = {f"teacher_normalised{i}": objective.normalised(x) for i, x in enumerate(own)}
        found |= {f"student_normalised{i}": objective.normalised(x) for i, x in enumerate(student)}
        mixed = objective.distances(ofclean, student)
        found |= {f"distance_map{i}": x[..., None] for i, x in enumerate(mixed)}
        product, alone = (objective.distance_product(x) for x in (mixed, objective.distances(own, student)))
        found |= {"dest_product": product[..., None], "inference_dest_product": alone[..., None]}
        segmentation = network.segment(own, student)[..., None]
        found |= {"segmentation": segmentation, "inference_segmentation": segmentation}
        found["cosine_loss"] = objective.student_loss(ofclean, student, every)
        return found

    found = run(state, clean, changed)
    for name, own in found.items():
        if name == "cosine_loss":
            yield compare(name, own, case[name], 3e-6 * len(clean))
        else:
            yield sampled(case, name, np.asarray(own).transpose(0, 3, 1, 2), 3e-6)
    small = objective.small_mask(jnp.asarray(masks), found["segmentation"].shape[1:3])
    yield sampled(case, "mask_small", small[:, None], 0)
    flat = found["segmentation"][..., 0]
    yield compare("focal_loss", objective.focal_loss(flat, small, every, _FOCUS), case["focal_loss"], 1e-6)
    yield compare("l1_loss", objective.absolute_loss(flat, small, every), case["l1_loss"], 1e-6)
    for kind, key in (("segmentation", "inference_segmentation"), ("dest", "inference_dest_product")):
        large = objective.enlarged(found[key], (size, size))[..., 0]
        yield sampled(case, f"map_{kind}", large[:, None], 3e-6)
        scores = jax.vmap(lambda own: objective.top_mean(own, _TOP))(large)
        yield compare(f"image_score_{kind}", scores, case[f"image_score_{kind}_top100"], 3e-6)


# ---- one step in float64


def _step(path: Path, case: dict[str, np.ndarray]) -> Iterator[Difference]:
    _, size, phase = case["config"].tolist()
    weights = Weights(path, case)
    clean, changed, masks = pictures(path, case)
    graph, parameters, statistics = nnx.split(weights.network(size), nnx.Param, ...)
    with jax.enable_x64(True):
        clean, changed, masks = (jnp.asarray(x, jnp.float64) for x in (clean, changed, masks))
        teacher_graph, teacher = nnx.split(weights.teacher())
        own, statistics, teacher = (_wide(nnx.to_pure_dict(x)) for x in (parameters, statistics, teacher))
        seen = clean if phase == 1 else changed
        maps = jax.jit(lambda state, x: nnx.merge(teacher_graph, state)(x))(teacher, seen)
        every = jnp.ones(len(clean), bool)

        def loss(parameters: Any) -> jax.Array:
            network = nnx.merge(graph, parameters, statistics)
            if phase == 1:
                return student_phase(network, maps, changed, every)
            return segmentation_phase(network, maps, changed, masks, every, _FOCUS)

        derive = jax.jit(jax.value_and_grad(loss))
        before, gradient = derive(own)
        rates = {name: (rate, 0 if name == "student" else 1) for name, rate in _RATES.items()}
        rule = phased_sgd(rates, 1 if phase == 1 else 0, _DECAY)
        changes, _ = rule.update(gradient, rule.init(own), own)
        after = optax.apply_updates(own, changes)
        yield compare("loss_before", before, case["step64/loss_before"], 1e-8)
        # One step only: statistics of the first pass do not show in a second one in training.
        yield compare("loss_after_train", derive(after)[0], case["step64/loss_after_train"], 1e-7)
        norm = float(optax.tree.norm(gradient))
        yield compare("grad_norm_total", norm, case["step64/grad_norm_total"], 1e-7 * norm)
    for at, name in enumerate(map(str, case["step64/names"])):
        released, source = weights.released[name], weights.table[name]
        places = source.transform(np.arange(released.size).reshape(released.shape)).reshape(-1)
        own_gradient, stepped = (np.empty(released.size) for _ in range(2))
        own_gradient[places] = np.asarray(_leaf(gradient, source.target)).reshape(-1)
        stepped[places] = np.asarray(_leaf(after, source.target)).reshape(-1)
        chosen, norm = case["step64/pos"][at], float(case["step64/gradnorm"][at])
        allowed = 1e-7 * norm + 1e-9
        yield compare(f"gradnorm {name}", np.linalg.norm(own_gradient), norm, allowed)
        yield compare(f"grad {name}", own_gradient[chosen], case["step64/grad"][at], allowed)
        yield compare(f"after {name}", stepped[chosen], case["step64/after"][at], 1e-7)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), tree)


def _leaf(tree: Any, target: str) -> Any:
    for part in target.split("."):
        tree = tree[int(part) if part.isdigit() else part]
    return tree


# ---- counts


def _parameters(path: Path, facts: dict[str, int]) -> Iterator[Difference]:
    shapes = ((64, 64, 64), (32, 32, 128), (16, 16, 256))
    network = nnx.eval_shape(lambda: DestsegNetwork(NetworkConfig(shapes), no_numbers))
    teacher = nnx.eval_shape(lambda: Encoder((2, 2, 2), 64, no_numbers))
    parts = {
        "teacher": (teacher,),
        "student": (network.student,),
        "student_encoder": (network.student.encoder,),
        "segmentation": (network.res, network.head),
        "head": (network.head,),
    }
    for name, expected in facts.items():
        found = sum(leaf.size for own in parts[name] for leaf in jax.tree.leaves(nnx.state(own, nnx.Param)))
        yield compare(name, found, expected, 0)
