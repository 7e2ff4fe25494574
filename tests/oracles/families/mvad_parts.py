"""Golden numbers of MVAD's released code: attention alone, anomaly maps, learning rates, parameter counts.

Everything is read from a case's own arrays. Tolerances are relative to the largest expected number: a few
times what separates the authors' code in float32 from itself in float64.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from oracles.check import Difference, compare, sampled
from scipy.ndimage import gaussian_filter

from mvead_jax.evaluation.pooling import largest_of_views
from mvead_jax.evaluation.ranking import auroc, average_precision, f1_max
from mvead_jax.evaluation.strips import strip_metrics
from mvead_jax.methods.distillation import image_scores
from mvead_jax.methods.mvad import objective
from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig
from mvead_jax.methods.mvad.optimizer import LEARNING_RATE, schedule
from mvead_jax.methods.mvad.params import key_table
from mvead_jax.methods.mvas import mvas, partition, routing_scores, select_windows
from mvead_jax.methods.positions import position_map
from mvead_jax.methods.window_attention import Selection
from mvead_jax.postprocess.pooling import pooled

CASES = ("mvad_mvas*.npz", "misc_anomaly_map*.npz", "misc_metrics*.npz", "lr_mvad*.json", "params_mvad*.json")
AMBIGUOUS = 1e-4  # of a routing score: two windows closer than that may be chosen either way


def check(path: Path) -> Iterator[Difference]:
    if path.suffix == ".json":
        case = json.loads(path.read_text())
        return _rates(case) if "steps_per_epoch" in case else _parameters(case)
    case = dict(np.load(path))
    if "masks" in case:
        return _metrics(case)
    return _mvas(case) if "features" in case else _maps(case)


def channels_last(x: np.ndarray, samples: int) -> jax.Array:
    """Return [B,V,H,W,C] of [N,C,H,W]."""
    x = np.asarray(x).transpose(0, 2, 3, 1)
    return jnp.asarray(x.reshape(samples, -1, *x.shape[1:]))


def near(name: str, found: Any, expected: Any, relative: float) -> Difference:
    return compare(name, found, expected, relative * float(np.abs(expected).max()))


def near_sampled(case: dict, name: str, found: Any, relative: float, least: float = 0) -> Difference:
    expected = case[name] if name in case else case[f"{name}.val"]
    return sampled(case, name, found, max(least, relative * float(np.abs(expected).max())))


# ---- attention alone


def _mvas(case: dict) -> Iterator[Difference]:
    heads, (windows, top) = int(case["config"][-1]), case["config"][4:6].tolist()
    features, position = jnp.asarray(case["features"]), jnp.asarray(case["position"])
    views = features.shape[1]
    query = features + position[None, None]
    yield near("position", position_map(*position.shape), position, 2e-6)
    means = jax.vmap(lambda x: partition(x, windows).mean(2))(query)
    yield near("query_window_mean", means, case["query_window_mean"], 1e-6)
    own = jax.vmap(lambda q, k: select_windows(q, k, windows=windows, top=top))(query, features)
    stored = numbered(case["selected"], windows**2)
    clear = case["gap_k"] > AMBIGUOUS
    found = np.asarray(own.window).reshape(stored.shape)
    yield compare("selected", np.sort(found)[clear], np.sort(stored)[clear], 0)
    scores = jax.vmap(lambda q, k: routing_scores(q, k, windows))(query, features)
    scores = np.asarray(scores) * features.shape[-1] ** -0.5
    for view in range(views):
        others = np.delete(scores[:, view], view, axis=2).reshape(case["routing_logits"][:, view].shape)
        yield near("routing_logits", others, case["routing_logits"][:, view], 2e-6)

    selection = Selection(jnp.asarray(stored.reshape(own.window.shape), jnp.int32), own.where)

    @jax.jit
    def attend(query, keys, selection):
        options = {"windows": windows, "top": top, "heads": heads}
        return jax.vmap(lambda q, k, s: mvas(q, k, selection=s, **options))(query, keys, selection)

    cut = [
        jax.vmap(lambda x: partition(x, windows))(x) for x in (attend(query, features, own), case["output"])
    ]
    yield near("output of the own choice", *(np.asarray(x)[clear] for x in cut), 1e-6)
    output, pull = jax.vjp(lambda q, k: attend(q, k, selection), query, features)
    yield near("output", output, case["output"], 1e-6)
    for key in case:
        if match := re.fullmatch(r"cotangent_v(\d+)", key):
            view = int(match[1])
            cotangent = jnp.zeros_like(output).at[:, view].set(case[key])
            d_query, d_keys = pull(cotangent)
            yield near(f"grad_query_v{view}", d_query[:, view], case[f"grad_query_v{view}"], 2e-6)
            others = np.delete(d_keys, view, axis=1)
            yield near(f"grad_keys_v{view}", others, case[f"grad_keys_v{view}"], 2e-6)


def numbered(selected: np.ndarray, windows: int) -> np.ndarray:
    """Numbers of windows of all views, from those of the other views alone [B,V,n²,K]."""
    other, window = np.divmod(np.asarray(selected, np.int64), windows)
    view = np.arange(selected.shape[1])[None, :, None, None]
    return (other + (other >= view)) * windows + window


# ---- maps, learning rates, parameters


def _maps(case: dict) -> Iterator[Difference]:
    teacher, student = (
        [channels_last(case[f"{who}{scale}"], 1) for scale in range(sum(key.startswith(who) for key in case))]
        for who in ("teacher", "student")
    )
    size = case["map_sigma0"].shape[1:]
    maps = np.asarray(_anomaly_maps(teacher, student, size))
    for key in [key for key in case if key.startswith("map_sigma")]:
        yield near(key, _smoothed(maps, float(key.removeprefix("map_sigma"))), case[key], 3e-6)


def compared_maps(case: dict, teacher: Sequence[jax.Array], found: dict) -> Iterator[Difference]:
    student = [found[f"student{scale}"].reshape(x.shape) for scale, x in enumerate(teacher)]
    maps = np.asarray(_anomaly_maps(teacher, student, case["map_raw"].shape[1:]))
    smooth = _smoothed(maps, 4)
    for name, own in (("map_raw", maps), ("map_smooth", smooth)):
        yield near(name, own, case[name], 1e-3 if case[name].dtype == np.float16 else 3e-6)
        if f"{name}32.val" in case:
            yield near_sampled(case, f"{name}32", own, 3e-6)
    scores = image_scores(maps).reshape(teacher[0].shape[:2])
    yield near("image_score", scores.reshape(-1), case["image_score"], 3e-6)
    yield near("sample_score", pooled(scores, "max"), case["sample_score"].reshape(-1), 3e-6)


def _anomaly_maps(
    teacher: Sequence[jax.Array], student: Sequence[jax.Array], size: tuple[int, int]
) -> jax.Array:
    """Return the maps [N,height,width] before smoothing."""
    own = jax.vmap(jax.vmap(lambda t, s: objective.anomaly_map(t, s, size)))(teacher, student)
    return own.reshape(-1, *size)


def _smoothed(maps: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([gaussian_filter(x.astype(np.float64), sigma) for x in maps]) if sigma else maps


# ---- metrics as MVAD's and Multi-Flow's released codes count them; those of images are scikit-learn's


def _metrics(case: dict) -> Iterator[Difference]:
    maps, labels = case["maps"], case["image_label"]
    masks = np.unpackbits(case["masks"], count=maps.size).reshape(maps.shape).astype(bool)
    sample = np.repeat(np.arange(len(case["sample_label"])), len(maps) // len(case["sample_label"]))
    images = maps.max((1, 2))
    samples = largest_of_views(images, sample)
    for level, scores, own in (("sa", samples, case["sample_label"]), ("sp", images, labels)):
        for name, metric in (("AUROC", auroc), ("AP", average_precision), ("F1_max", f1_max)):
            yield compare(f"{level} {name}", metric(scores, own), case[f"mvad/m{name}_{level}_max"], 1e-9)
    found = strip_metrics(lambda: [(maps, masks)], 50, f1_steps=20)
    for name, metric in (("AUROC", "auroc"), ("AP", "ap"), ("F1_max", "f1_max"), ("AUPRO", "aupro")):
        yield compare(f"px {name}", found[metric], case[f"mvad/m{name}_px"], 1e-8)

    bounds = case["flow_clamp"]
    clipped = np.clip(maps, *bounds.astype(maps.dtype))
    found = strip_metrics(lambda: [(clipped, masks)], 10_000, bounds=bounds)
    for name, metric in (("auroc", "auroc"), ("aupr", "ap"), ("aupro", "aupro")):
        yield compare(f"flow px {name}", found[metric], case[f"flow_adeval/p_{name}"], 1e-8)
    mean = np.bincount(sample, images) / np.bincount(sample)
    yield compare("flow image", auroc(images, labels), case["flow/image_auroc_max"], 1e-9)
    yield compare(
        "flow sample", auroc(mean, case["sample_label"]), case["flow/sample_auroc_mean_of_max"], 1e-9
    )


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
    if resnet := own_resnet():
        teacher = {
            key: np.prod(source.shape, dtype=int) for key, source in resnet.key_table("resnet34", 3).items()
        }
        sizes |= {f"net_t.{key}": size for key, size in teacher.items() if "running_" not in key}
        yield compare("total", sum(sizes.values()), case["total"], 0)
    for name, expected in case.items():
        if name != "total" and (resnet or not name.startswith("net_t")):
            found = sum(size for key, size in sizes.items() if key.startswith(f"{name}."))
            yield compare(name, found, expected, 0)


def own_resnet() -> ModuleType | None:
    """Return the module of the project's ResNets; None, and a line about it, where there is none yet."""
    if importlib.util.find_spec("mvead_jax.backbones.resnet") is None:
        print("mvead_jax.backbones.resnet is not there: its part of MVAD's cases is not compared")
        return None
    return importlib.import_module("mvead_jax.backbones.resnet.params")
