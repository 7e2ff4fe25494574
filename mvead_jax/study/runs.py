"""One short training and scoring on the samples that the study brings along, as the jobs do it, stage by stage.

The method is that of configs/study_device.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mvead_jax.backbones.base import Backbone
from mvead_jax.bank.fill import Bank
from mvead_jax.config.io import load_config
from mvead_jax.config.schema import Config
from mvead_jax.data.records import DatasetIndex
from mvead_jax.decision.conformal import threshold
from mvead_jax.geometry.fundamental import estimate_fundamental
from mvead_jax.jobs.estimate_geometry import given_geometry, keys_of
from mvead_jax.jobs.inputs import inputs_of, load_method_backbone, open_index, split_features
from mvead_jax.methods.base import Method, RunContext, Spec, TrainData
from mvead_jax.rig.cameras import five_cameras, project
from mvead_jax.runtime import sharding
from mvead_jax.runtime.errors import UserError
from mvead_jax.scoring.model_store import named_leaves, read_state, write_state
from mvead_jax.scoring.scorer import Inputs, Model, Scored, Scorer, keys_grid
from mvead_jax.study.correctness import digest
from mvead_jax.training.checkpoints import Checkpoints, newest_state

RIG = Path(__file__).parent / "rig"
# In the order in which one follows from the other. The extras of a training are what it keeps beside parameters:
# centres, running statistics.
STAGES = ("features", "fundamental matrices", "extras", "parameters", "bank", "maps", "scores", "thresholds")
STAGES += ("decisions",)


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
      digests: of each of STAGES.
      scores: of the images of the test samples, [S,V] in a row. decisions: whether each sample fails.
      score_again: does the scoring of the test samples once more, from their files, into a new folder; returns how
        many images that were.
    """

    digests: dict[str, str]
    scores: list[float]
    decisions: list[bool]
    score_again: Callable[[Path], int]


@cache
def study_config(precision: str = "float32", seed: int = 0) -> Config:
    """Return the config of the runs, with random weights where the package of the trained ones is missing."""
    found = load_config("study_device", {"data.root": str(RIG), "seed": str(seed)})
    found = dataclasses.replace(found, backbone=dataclasses.replace(found.backbone, precision=precision))
    try:
        load_method_backbone(found)
    except UserError:
        return dataclasses.replace(found, backbone=dataclasses.replace(found.backbone, weights="random"))
    return found


def one_run(config: Config, backbone: Backbone, folder: Path) -> Outcome:
    """Train and score once. All processes must call, with a folder that they share and that is not there yet."""
    config = dataclasses.replace(
        config, features=dataclasses.replace(config.features, cache=str(folder / "features"))
    )
    index = open_index(config)
    parts = {split: index.select(split=split) for split in ("train", "held_out", "test")}
    (category,) = index.categories
    geometry = given_geometry(config, category, parts["train"])
    method = config.build(Spec.of(index.views, (category,), backbone, "study"))
    place = method.spec.views, method.spec.image_size, keys_grid(method)
    keys = keys_of(config, {category: geometry}, (category,), *place)

    def inputs(part: DatasetIndex, config: Config = config) -> Inputs:
        return inputs_of(config, method, part, split_features(config, part, backbone, folder))

    read = {split: inputs(part) for split, part in parts.items()}
    train = read["train"]
    data = TrainData(parts["train"], train.features, keys, backbone, train.images, train.foreground)
    state, extras = _fitted(method, data, config.seed, folder)
    scorer = Scorer(Model(method, state["placed"], None), category, keys[category], config.score)
    found = {split: _all_of(scorer, read[split]) for split in ("held_out", "test")}
    samples = {split: np.nanmax(own.views, 1) for split, own in found.items()}
    limit = threshold(samples["held_out"], config.decision.false_alarms)
    decisions = samples["test"] > limit
    F = [geometry.fundamental(config.data.image_size), *_estimated(config.data.image_size)]
    values = {
        "features": [own.features[tap][:] for own in read.values() for tap in sorted(own.features)],
        "fundamental matrices": F,
        "extras": extras,
        "parameters": state["parameters"],
        "bank": state["rows"],
        "maps": [own.maps for own in found.values()],
        "scores": [own.images for own in found.values()],
        "thresholds": [np.float64(limit)],
        "decisions": [decisions],
    }

    def score_again(elsewhere: Path) -> int:
        cache = dataclasses.replace(config.features, cache=str(elsewhere))
        _all_of(scorer, inputs(parts["test"], dataclasses.replace(config, features=cache)))
        return int(parts["test"].present().sum())

    return Outcome(
        {stage: digest(*values[stage]) for stage in STAGES},
        [float(score) for score in found["test"].images.reshape(-1)],
        [bool(one) for one in decisions],
        score_again,
    )


def _fitted(method: Method, data: TrainData, seed: int, folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Train; return the state on the devices and what it is of, and the extras of the training."""
    place = folder / "checkpoints"
    state = method.fit(data, RunContext(seed, Checkpoints(place, folder / "metrics.jsonl", "study", {})))
    parameters, rows, extras = [], [], []
    if sharding.is_first():
        write_state(folder / "model", state, {})
        leaves = named_leaves(state)
        rows = [own.rows for own in leaves.values() if isinstance(own, Bank)]
        parameters = [own for own in leaves.values() if not isinstance(own, Bank)]
        extras = jax.tree.leaves((newest_state(place) or {}).get("extras"))
    sharding.barrier()
    placed = read_state(folder / "model", jax.eval_shape(method.init, jax.random.key(0)))
    return {"placed": placed, "parameters": parameters, "rows": rows}, extras


def _all_of(scorer: Scorer, inputs: Inputs) -> Scored:
    """Return the scores of all samples."""
    parts = list(scorer.score(inputs, np.arange(len(inputs.present))))
    return Scored(*(np.concatenate(own) for own in zip(*parts, strict=True)))


def _estimated(size: int) -> list[np.ndarray]:
    """Return fundamental matrices estimated from noisy points of the rig's cameras, of each pair of views."""
    rig, random = five_cameras(size), np.random.default_rng(0)
    points = random.uniform((-20, -20, 0), (20, 20, 15), (300, 3))
    seen = [
        project(points, *own) + random.normal(0, 0.3, (300, 2))
        for own in zip(rig.K, rig.R, rig.t, strict=True)
    ]
    return [estimate_fundamental(seen[a], seen[b]).F for a in range(len(seen)) for b in range(a)]
