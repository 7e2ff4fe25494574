"""Golden numbers of PaDiM: anomalib's in float32 and float64, and those of the common port."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from oracles import given, recipes
from oracles.check import Difference, compare

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.resnet import params as resnet
from mvead_jax.methods.padim.embedding import chosen_channels, embed
from mvead_jax.methods.padim.gaussian import covariances, distances, fit, inverse_covariance, whitened
from mvead_jax.methods.padim.scores import smoothed

CASES = ("padim_*.npz",)
_RIDGE, _MORE = 0.01, 1e-5
_NETS = {"resnet18": ("resnet18", "padim-r18"), "wrn": ("wide_resnet50_2", "padim-wrn")}


def check(path: Path) -> Iterator[Difference]:
    case = dict(np.load(path))
    train, test, *_, height, width, _ = (int(x) for x in case["config"])
    channels = case["idx"].astype(np.int32)
    yield from _choice(path, channels)
    maps = _pictures(path, case) if _net(path) else _given(path, case)
    embedding = embed([given.last(x) for x in maps], channels)  # [N,h,w,d]
    grid = embedding.shape[1:3]
    flat = np.asarray(embedding).reshape(len(embedding), -1, len(channels))
    for name, own in (("train", embedding[:train]), ("test", embedding[train:])):
        yield given.near(case, f"embedding_{name}", given.first(own), 3e-6)

    anomalib, port = (fit(flat[:train], _RIDGE + more) for more in (_MORE, 0))
    yield given.near(case, "mean", anomalib.mean.T, 3e-6)
    inverse = _wide_inverse(flat[:train], _RIDGE + _MORE)
    # Stored in float32; the features, too, are float32 of another order of sums.
    yield given.near(case, "float64/inv_covariance", inverse, 1e-6 if not _net(path) else 1e-3)
    yield given.near(case, "inv_covariance", inverse_covariance(anomalib.whitening), 1e-3)
    found = {
        name: np.asarray(distances(flat[train:], *own))
        for name, own in (("anomalib", anomalib), ("port", port))
    }
    found = {name: own.reshape(test, *grid) for name, own in found.items()}
    # Nearly singular covariances: features that differ by 1e-6 move a distance by up to 4e-5 of it.
    relative = 1e-4 if _net(path) else 3e-6
    for key, name in (("float64/distance", "anomalib"), ("port/distance", "port")):
        yield given.near(case, key, found[name].reshape(case[key].shape), relative)
    yield given.near(case, "distance", found["anomalib"][:, None], 1e-4)

    maps = {name: smoothed(own, (height, width), name) for name, own in found.items()}
    yield given.near(case, "map", maps["anomalib"][:, None], 1e-4)
    yield given.near(case, "port/map_s", maps["port"], 1e-4)
    yield given.near(case, "image_score", maps["anomalib"].max((1, 2))[:, None], 1e-4)
    lowest, highest = maps["port"].min(), maps["port"].max()
    scores = (maps["port"].max((1, 2)) - lowest) / (highest - lowest)
    yield given.near(case, "port/image_score_after_minmax", scores, 1e-4)


def _choice(path: Path, channels: np.ndarray) -> Iterator[Difference]:
    """The port's choice of channels, as listed, and as the case of a network has it."""
    listed = path.with_name("padim_port_indices.json")
    facts = json.loads(listed.read_text()) if listed.exists() else {}
    for name, total in (("resnet18", 448), ("wide_resnet50_2", 1792)):
        if name in facts:
            own = chosen_channels(total, len(facts[name]), "port", jax.random.key(0))
            yield compare(f"port's channels of {name}", own, facts[name], 0)
    if net := _net(path):
        total, whole = {"resnet18": (448, 100), "wrn": (1792, 550)}[net]
        own = chosen_channels(total, whole, "port", jax.random.key(0))[: len(channels)]
        yield compare("port's channels", own, channels, 0)


def _net(path: Path) -> str | None:
    return found[1] if (found := re.match(r"padim_(resnet18|wrn)", path.stem)) else None


def _given(path: Path, case: dict) -> list[np.ndarray]:
    """The maps of the training images, then those of the test images, at each scale."""
    train, test, *widths, height, width, _, _, _ = (int(x) for x in case["config"])
    name = path.stem.removeprefix("padim_")
    return [
        np.concatenate(
            [
                given.features(name, f"{kind}{scale}", (count, channels, height >> scale, width >> scale))
                for kind, count in (("train", train), ("test", test))
            ]
        )
        for scale, channels in enumerate(widths)
    ]


def _pictures(path: Path, case: dict) -> Sequence[np.ndarray]:
    train, test, *_, height, _, _ = (int(x) for x in case["config"])
    backbone, tag = _NETS[_net(path)]
    tag = str(case.get("picture_tag", tag))
    pictures = recipes.normalised(recipes.smooth_images(tag, train + test, height))
    weights = recipes.weights(path.with_name(f"recipe_bb_{backbone}.json"), str(case.get("tag", "bb-A")))
    held = max(int(key[5]) for key in weights if key.startswith("layer"))
    graph, state = nnx.split(resnet.from_tensors(backbone, Arrays(backbone, weights), 3, held=held))
    taps = ("layer1", "layer2", "layer3")
    maps = jax.jit(lambda state, x: nnx.merge(graph, state)(x, taps))(state, pictures)
    return [given.first(maps[tap]) for tap in taps]


def _wide_inverse(features: np.ndarray, ridge: float) -> np.ndarray:
    """The inverse covariances [P,d,d] before anything is rounded to float32."""
    x = features.swapaxes(0, 1).astype(np.float64)
    factors = [whitened(own) for own in covariances(x - x.mean(1, keepdims=True), ridge)]
    return np.stack([factor.T @ factor for factor in factors])
