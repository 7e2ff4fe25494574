"""How long a step of a method's training takes on this device, measured before any training; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mvead_jax.backbones.base import Backbone
from mvead_jax.config.io import override
from mvead_jax.config.schema import Config
from mvead_jax.data.records import DatasetIndex, spread_evenly
from mvead_jax.geometry.masks import all_keys
from mvead_jax.jobs.inputs import inputs_of
from mvead_jax.methods.base import RunContext, Spec, TrainData, Trains
from mvead_jax.runtime.errors import Stopped
from mvead_jax.scoring.scorer import keys_grid
from mvead_jax.training.loop import NotFinite

_BATCHES = 2  # of samples: so some steps do not end an epoch, after which a state is copied
_STEPS = 6  # of a training in one part
_STEPS_OF_PARTS = 12  # of one in two parts, which is timed to its end


@dataclass
class StepClock:
    """Stands where a training has its `Checkpoints`: keeps no state, and stops it after a few steps.

    Attributes:
      ends: when each step was done. parts: in which part of the training each was (`Problem.then`).
    """

    steps: int = _STEPS
    ends: list[float] = field(default_factory=list)
    parts: list[int | None] = field(default_factory=list)

    def restore(self, like: Any) -> None:
        """Return None: the training starts from the beginning."""

    def save(self, state: Any) -> None:
        """Keep nothing."""

    def record(self, event: Mapping[str, Any]) -> None:
        """Note that a step is done."""
        self.ends.append(time.perf_counter())
        self.parts.append(event.get("part"))

    def stopping(self) -> bool:
        """Return whether there were enough steps; a training of several parts goes on to its end."""
        return len(self.ends) >= self.steps and self.parts[-1] is None

    def seconds(self) -> float | None:
        """Return the seconds of a step: of each part the least, weighted by its steps; None if there were too few.

        A later part's first step does not count, for it compiles; the first part's has no time anyway. A part that has
        no other step is taken to be as fast as the rest.
        """
        took = np.diff(self.ends)
        if len(took) < 2:
            return None
        of_parts: dict[int | None, list[float]] = {}
        for part, seconds in zip(self.parts[1:], took, strict=True):
            of_parts.setdefault(part, []).append(float(seconds))
        first = self.parts[0]
        timed = {part: own if part == first else own[1:] for part, own in of_parts.items()}
        least = {part: min(own) for part, own in timed.items() if own}
        steps = {part: self.parts.count(part) for part in least}
        return sum(steps[part] * seconds for part, seconds in least.items()) / sum(steps.values())


def seconds_a_step(config: Config, index: DatasetIndex, backbone: Backbone) -> float | None:
    """Return the seconds of one step of training a model; None if nothing is trained.

    The method's own `fit` runs on two batches of samples for twelve steps, and is stopped after six of them where its
    loss stays the same. Features are random numbers, so that none need be computed; images and masks are read
    where the method takes them. A patch may attend to every patch of the other views, since no geometry is known yet.

    Args:
      index: the training samples of the model.

    Raises:
      UserError: as `Method.fit`.
    """
    method = config.build(Spec.of(index.views, index.categories, backbone))
    if not isinstance(method, Trains) or method.training is None:
        return None
    chosen = spread_evenly(len(index), _BATCHES * method.training.batch_size)
    part = index.with_samples(index.samples[at] for at in chosen)
    batches = max(1, len(part) // method.training.batch_size)
    config = override(config, {"train.epochs": str(_STEPS_OF_PARTS // batches)})
    method = config.build(Spec.of(part.views, part.categories, backbone, "to time a step"))
    random = np.random.default_rng(0)
    shape = len(part), len(part.views)
    features = {
        tap: random.standard_normal((*shape, *own), np.float32) for tap, own in backbone.shapes.items()
    }
    inputs = inputs_of(config, method, part, features)
    keys = all_keys(len(part.views), keys_grid(method))
    geometry = dict.fromkeys(part.categories, keys)
    data = TrainData(part, features, geometry, backbone, inputs.images, inputs.foreground)
    clock = StepClock()
    with suppress(
        Stopped, NotFinite
    ):  # random features may end in a loss that is no number, as fast as any other
        method.fit(data, RunContext(config.seed, clock))
    return clock.seconds()
