"""Samples per second of MVEAD's pre-training on cached features, beside the same with the backbone inside
the loop. Needs no extra; about five minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import alternate, limit_threads, report

NEEDS = ()
QUICK = ("--backbone=dinov2-small", "--steps=1", "--rounds=3")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="dinov2-base")
    parser.add_argument("--size", type=int, default=224, help="side of the images, pixels")
    parser.add_argument("--steps", type=int, default=2, help="of eight samples in an epoch")
    parser.set_defaults(rounds=5)


def measure(args: argparse.Namespace) -> list[dict]:
    """An epoch of pre-training on cached features against one that computes them."""
    limit_threads(args.threads)
    import jax
    import numpy as np

    from mvead_jax.backbones.base import load_backbone
    from mvead_jax.config.schema import BackboneConfig
    from mvead_jax.methods.base import PATCHES
    from mvead_jax.methods.mvead.config import PretrainConfig

    config = PretrainConfig()
    backbone = load_backbone(BackboneConfig(name=args.backbone, weights="random"), args.size, (PATCHES,))
    parts = np.arange(args.steps * config.batch_size).reshape(-1, config.batch_size)
    looked = _Looked(backbone, parts.size)
    cached = np.concatenate([looked[part] for part in parts])
    contestants = {
        name: _epoch_of(features, cached, parts, backbone, config)
        for name, features in (("cached", cached), ("backbone inside", looked))
    }
    losses = [float(run_epoch()["loss"]) for run_epoch in contestants.values()]
    if not abs(losses[0] - losses[1]) <= 1e-4 * abs(losses[0]):
        raise RuntimeError(f"the contestants' losses are {losses}: their times mean nothing")
    seconds = alternate(contestants, args.rounds)
    facts = {
        "backbone": f"{args.backbone}, random weights, {args.size} x {args.size}",
        "samples": f"{parts.size} of 5 views, {config.batch_size} a step",
        "objective": config.objective,
        "precision": "float32",
        "device": jax.devices()[0].platform,
        "threads": args.threads,
    }
    return [report("epoch", "samples", parts.size, seconds, facts)]


class _Looked:
    """Features [S,V,h,w,D] of random images that are computed whenever they are asked for."""

    def __init__(self, backbone: Any, count: int, views: int = 5):
        import numpy as np

        side = backbone.image_size
        random = np.random.default_rng(0)
        self._backbone = backbone
        self._images = random.standard_normal((count, views, side, side, 3), dtype=np.float32)
        self.shape = (count, views, *backbone.shapes["patches"])

    def __getitem__(self, samples: Any) -> Any:
        import numpy as np

        images = self._images[samples]
        maps = self._backbone(images.reshape(-1, *images.shape[2:]))["patches"]
        return np.asarray(maps).reshape(len(samples), *self.shape[1:])


def _epoch_of(features: Any, cached: Any, parts: Any, backbone: Any, config: Any) -> Callable[[], Any]:
    """A function that trains on `features` for an epoch of the steps `parts`, along the rig's true lines."""
    import jax
    import numpy as np
    import optax
    from flax import nnx

    from mvead_jax.data.records import DatasetIndex, Sample, View
    from mvead_jax.geometry.cameras import fundamental_from_cameras
    from mvead_jax.geometry.epipolar import epipolar_mask
    from mvead_jax.geometry.masks import EpipolarKeys
    from mvead_jax.methods.base import PATCHES, TrainData
    from mvead_jax.methods.batches import training_batch
    from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention
    from mvead_jax.methods.mvead.banded import plan_bands
    from mvead_jax.methods.mvead.pretraining import NormalSamples, batch_loss
    from mvead_jax.rig.cameras import VIEWS, five_cameras
    from mvead_jax.training.loop import make_step

    rig = five_cameras(backbone.image_size)
    F = fundamental_from_cameras(rig.K, rig.R, rig.t)
    *grid, width = backbone.shapes[PATCHES]
    patch = backbone.image_size / grid[1]
    mask = np.asarray(epipolar_mask(F, tuple(grid), patch))
    views = tuple(View(name, name) for name in VIEWS)
    listed = tuple(Sample(str(at), "part", "train", views) for at in range(features.shape[0]))
    index = DatasetIndex(Path(), listed, VIEWS)
    data = TrainData(
        index, {PATCHES: features}, {"part": EpipolarKeys(mask, F, patch, tuple(grid))}, backbone
    )
    samples = NormalSamples(data, (plan_bands(mask, F, tuple(grid), patch),))
    attention = EpipolarAttention(AttentionConfig(width, backbone.info.heads), nnx.Rngs(0))
    graph, parameters = nnx.split(attention)
    parameters = nnx.to_pure_dict(parameters)
    optimizer = optax.adamw(config.learning_rate)
    step = make_step(batch_loss(graph, samples, config), optimizer, jax.random.key(0))
    first = cached[:1].reshape(1, len(VIEWS), -1, width)
    state = {
        "parameters": parameters,
        "optimizer": optimizer.init(parameters),
        "extras": first[:, :, : config.centers].mean(0),
        "step": np.int32(0),
    }
    state = jax.device_put(state)

    def one_epoch() -> Any:
        nonlocal state
        for part in parts:
            batch = training_batch(data, samples.present, samples.category, part, config.batch_size)
            state, figures = step(state, batch)
        return jax.block_until_ready(figures)

    return one_epoch
